//! What tools say while they work, one line each.

use crate::push::{LayerEvent, Watcher};
use registry_client::{PushedHow, Reference};
use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

/// Says what is done, one line each; may be called from several threads.
pub type Say<'a> = &'a (dyn Fn(&str) + Sync);

/// Says what a push does.
pub(super) struct Teller<'a> {
    say: Say<'a>,
    /// References that got a manifest.
    set: Mutex<HashSet<String>>,
}

impl<'a> Teller<'a> {
    pub(super) fn new(say: Say<'a>) -> Self {
        Self {
            say,
            set: Mutex::default(),
        }
    }

    /// Whether a reference got a manifest; else it had it.
    pub(super) fn has_set(&self, reference: &Reference) -> bool {
        let set = self.set.lock().unwrap_or_else(PoisonError::into_inner);
        set.contains(&reference.to_string())
    }
}

impl Watcher for Teller<'_> {
    fn layer(&self, layer: &str, event: LayerEvent) {
        match event {
            LayerEvent::Done(PushedHow::Mounted) => (self.say)(&format!("mounted {layer}")),
            LayerEvent::Done(PushedHow::Uploaded) => (self.say)(&format!("pushed {layer}")),
            LayerEvent::Done(PushedHow::Existed) | LayerEvent::Sent(..) => {}
        }
    }

    fn manifest(&self, reference: &Reference, _: &str) {
        let mut set = self.set.lock().unwrap_or_else(PoisonError::into_inner);
        set.insert(reference.to_string());
    }

    fn part(&self, repository: &Reference, digest: &str) {
        (self.say)(&pushed_ref(repository, digest));
    }

    fn note(&self, text: &str) {
        (self.say)(&format!("note: {text}"));
    }
}

/// Docker's words for a manifest of a list that has come into a repository.
pub(super) fn pushed_ref(repository: &Reference, digest: &str) -> String {
    let name = repository.name();
    format!("Pushed ref {name}@{digest} with digest: {digest}")
}
