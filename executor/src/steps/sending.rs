//! What a build adds to the caches that are shared: steps go out while later ones run, and the build waits for them at its end.
//!
//! A step that was made goes out even if a later one fails. What cannot be written is told once, and fails nothing.

use super::shared::{Shared, Standing};
use super::{Recorded, StepCaches};
use crate::Error;
use crate::build::record::StepOutput;
use crate::cache::{CachedLayer, Found, Records, Site};
use oci_spec::image::Digest;
use planner::key::CacheKey;
use planner::scheduler::Cancel;
use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Steps sent at once.
const WORKERS: usize = 4;

/// A step's result, to be kept.
#[derive(Clone, Debug)]
pub(crate) struct Made {
    /// By definition.
    pub(crate) definition: CacheKey,
    /// By content, if that is proven.
    pub(crate) content: Option<CacheKey>,
    /// Of the layer of a `COPY --link`.
    pub(crate) link: Option<CacheKey>,
    /// Its root file system.
    pub(crate) output: StepOutput,
    /// It takes the place of what is there: nobody was asked.
    pub(crate) replaces: bool,
}

/// What goes out.
pub(crate) struct Sending<'a> {
    site: Site<'a>,
    stop: Cancel,
    queue: Mutex<Option<Sender<Made>>>,
    waiting: Mutex<Option<Receiver<Made>>>,
    /// Steps that are not out yet.
    pending: AtomicUsize,
    /// By the number of the cache: layers that are there, and records that were put there.
    sent: Mutex<HashMap<(usize, Digest), CachedLayer>>,
    put: Mutex<HashMap<usize, Records>>,
}

impl std::fmt::Debug for Sending<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sending").finish_non_exhaustive()
    }
}

impl<'a> Sending<'a> {
    pub(crate) fn new(site: Site<'a>, cancel: &Cancel) -> Self {
        let (queue, waiting) = channel();
        Self {
            site,
            stop: cancel.child(),
            queue: Mutex::new(Some(queue)),
            waiting: Mutex::new(Some(waiting)),
            pending: AtomicUsize::new(0),
            sent: Mutex::default(),
            put: Mutex::default(),
        }
    }

    fn caches(&self) -> &'a StepCaches {
        self.site.imports.steps()
    }

    /// Whether anything goes anywhere.
    pub(crate) fn is_wanted(&self) -> bool {
        self.caches().all().iter().any(Shared::writes)
    }

    /// A step has this result, which is recorded here.
    pub(crate) fn made(&self, made: Made) {
        if made.output.chain.is_empty() || !self.is_wanted() {
            return;
        }
        if let Some(queue) = &*lock(&self.queue) {
            self.pending.fetch_add(1, Ordering::SeqCst);
            // Nobody listens after the end.
            drop(queue.send(made));
        }
    }

    /// Sends steps while `work` is done, and what is still waiting then.
    pub(crate) fn meanwhile<T>(&self, work: impl FnOnce() -> T) -> T {
        let waiting = lock(&self.waiting).take();
        let Some(waiting) = waiting.filter(|_| self.is_wanted()) else {
            return work();
        };
        let waiting = &Mutex::new(waiting);
        let (done, task) = std::thread::scope(|scope| {
            // A build that makes nothing needs no more than this one.
            scope.spawn(move || {
                let Some(first) = next(waiting) else { return };
                for _ in 1..WORKERS {
                    scope.spawn(move || self.send_waiting(waiting));
                }
                self.send_one(&first);
                self.send_waiting(waiting);
            });
            let done = work();
            lock(&self.queue).take();
            let pending = self.pending.load(Ordering::SeqCst);
            let names = self.caches().all().iter().filter(|cache| cache.writes());
            let names: Vec<&str> = names.map(|cache| cache.known().name.as_str()).collect();
            let task = (pending > 0).then(|| {
                let text = format!("sending steps to {}", names.join(", "));
                self.site.ui.task_started(&text)
            });
            (done, task)
        });
        self.note_used();
        if let Some(task) = task {
            self.site.ui.task_finished(task, None);
        }
        done
    }

    fn send_waiting(&self, waiting: &Mutex<Receiver<Made>>) {
        while let Some(made) = next(waiting) {
            self.send_one(&made);
        }
    }

    fn send_one(&self, made: &Made) {
        for (number, cache) in self.caches().all().iter().enumerate() {
            if !cache.writes() || self.stop.is_cancelled() {
                continue;
            }
            let sent = match self.send(number, cache, made) {
                Err(error) if is_read_only(&error) => Ok(Recorded::ReadOnly),
                sent => sent,
            };
            let told = match sent {
                Ok(Recorded::Done) | Err(Error::Cancelled) => continue,
                Ok(Recorded::ReadOnly) => {
                    "it takes nothing from here, and is only read (mode=ro says so)".to_owned()
                }
                Err(error) => format!("nothing is sent to it: {}", crate::error::chain(&error)),
            };
            if cache.stop_writing() {
                let name = &cache.known().name;
                self.site
                    .ui
                    .warning(&format!("remote cache {name}: {told}"));
            }
        }
        self.pending.fetch_sub(1, Ordering::SeqCst);
    }

    fn send(&self, number: usize, cache: &Shared, made: &Made) -> Result<Recorded, Error> {
        let keys = [Some(made.definition), made.content, made.link];
        let mut names = BTreeSet::new();
        for name in keys.iter().flatten().map(|key| cache.name_of(key)) {
            if made.replaces || !self.is_there(cache, &name, &made.output)? {
                names.insert(name);
            }
        }
        if names.is_empty() {
            return Ok(Recorded::Done);
        }
        if !cache.backend().takes_writes(&self.stop)? {
            return Ok(Recorded::ReadOnly);
        }
        let mut record = Records::default();
        let mut output = made.output.clone();
        for link in &mut output.chain {
            let layer = self.bring(number, cache, &link.layer)?;
            link.layer = layer.diff_id.clone();
            record.put_layer(layer);
        }
        let found = Found {
            output,
            content: made.content.map(|key| cache.name_of(&key)),
            link: made.link.map(|key| cache.name_of(&key)),
        };
        let definition = cache.name_of(&made.definition);
        record.put(definition, &found, self.today());
        let names: Vec<CacheKey> = names.into_iter().collect();
        let ended = cache.backend().record(&names, &record, &self.stop)?;
        if ended == Recorded::Done {
            cache.has_got(&names);
            for layer in record.layers() {
                cache.known().trust_layer(&layer.diff_id);
            }
            let today = self.today();
            cache.known().learn(|known| known.renew(&record, today));
            lock(&self.put)
                .entry(number)
                .or_default()
                .renew(&record, today);
        }
        Ok(ended)
    }

    /// Whether a record is there that is of use: it is left alone. One that names what is gone, or that is none, is not.
    fn is_there(
        &self,
        cache: &Shared,
        name: &CacheKey,
        output: &StepOutput,
    ) -> Result<bool, Error> {
        if !cache.known().is_in_use() {
            return Ok(false);
        }
        let lacks = |link: &crate::build::record::Link| cache.known().lacks(&link.layer);
        Ok(match cache.standing_or_ask(name)? {
            Standing::Missing | Standing::Damaged => false,
            Standing::There => {
                let found = cache.by_name(name);
                let links = found.map_or_else(Vec::new, |found| found.output.chain);
                !links.is_empty() && !links.iter().any(lacks) && links.len() == output.chain.len()
            }
        })
    }

    /// Brings a layer there, once.
    fn bring(&self, number: usize, cache: &Shared, layer: &Digest) -> Result<CachedLayer, Error> {
        let turn = format!("step cache {number} {layer}");
        self.site.space.in_turn(turn, || {
            let key = (number, layer.clone());
            if let Some(sent) = lock(&self.sent).get(&key) {
                return Ok(sent.clone());
            }
            let there = cache.known().layer(layer);
            let there = there.filter(|_| cache.known().is_in_use());
            let sent = match there {
                Some(there) => there,
                None => cache.backend().send(self.site, layer, &self.stop)?,
            };
            lock(&self.sent).insert(key, sent.clone());
            Ok(sent)
        })
    }

    /// Tells the caches what the build used and made, for their indexes.
    fn note_used(&self) {
        for (number, cache) in self.caches().all().iter().enumerate() {
            if !cache.writes() || self.stop.is_cancelled() {
                continue;
            }
            let mut used = lock(&self.put).remove(&number).unwrap_or_default();
            let hits = cache.hits();
            cache.known().learn(|known| {
                for name in &hits {
                    let Some(found) = known.by_definition(name) else {
                        continue;
                    };
                    for link in &found.output.chain {
                        if let Some(layer) = known.layer(&link.layer) {
                            used.put_layer(layer.clone());
                        }
                    }
                    used.put(*name, &found, self.today());
                }
            });
            if used.len() == 0 {
                continue;
            }
            let ended = cache.backend().finish(&used, self.today(), &self.stop);
            if let Err(error) = ended
                && !matches!(error, Error::Cancelled)
            {
                let (name, error) = (&cache.known().name, crate::error::chain(&error));
                self.site.ui.warning(&format!(
                    "remote cache {name}: its index could not be written: {error}"
                ));
            }
        }
    }

    fn today(&self) -> u32 {
        crate::cache::day(self.site.request.now)
    }
}

/// Whether a place says that nothing may be written.
fn is_read_only(error: &Error) -> bool {
    if let Error::StepCache { source, .. } = error {
        return source.is_refused();
    }
    let (Error::Push { source, .. } | Error::Registry { source, .. }) = error else {
        return false;
    };
    let is_unsupported = matches!(source, registry_client::Error::Status { status: 405, .. });
    source.is_denied() || is_unsupported
}

fn next(waiting: &Mutex<Receiver<Made>>) -> Option<Made> {
    lock(waiting).recv().ok()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
