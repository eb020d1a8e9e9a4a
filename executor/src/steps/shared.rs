//! One shared cache as a build knows it: what was asked, what it said, and whether it is of use still.

use super::name::Salt;
use super::{Answer, KeyKind, StepCache, StepCaches};
use crate::Error;
use crate::build::Ui;
use crate::cache::{Found, Known, Records};
use planner::key::CacheKey;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// Most keys asked for at once.
const MOST_AT_ONCE: usize = 16;

/// What is known of a key there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Standing {
    Missing,
    There,
    /// What is there is no record of it.
    Damaged,
}

/// One of them.
#[derive(Debug)]
pub(crate) struct Shared {
    backend: Box<dyn StepCache>,
    salt: Salt,
    /// What was asked for, by its name there.
    asked: Mutex<HashMap<CacheKey, Standing>>,
    known: Known,
    /// Keys to ask for at once next time: more and more, while nothing is found.
    at_once: AtomicUsize,
    opened: OnceLock<()>,
    /// The build is not to do without it.
    is_needed: bool,
    /// It cannot be asked.
    is_off: AtomicBool,
    /// What is made here goes there.
    writes: AtomicBool,
    /// Keys by definition, as they are named there, of what was found.
    hits: Mutex<Vec<CacheKey>>,
}

impl Shared {
    pub(super) fn new(backend: Box<dyn StepCache>, salt: &str, writes: bool) -> Self {
        let known = Known::new(backend.name(), backend.origin(), Records::default());
        Self {
            backend,
            salt: Salt::new(salt),
            asked: Mutex::default(),
            known,
            at_once: AtomicUsize::new(1),
            opened: OnceLock::new(),
            is_needed: false,
            is_off: AtomicBool::new(false),
            writes: AtomicBool::new(writes),
            hits: Mutex::default(),
        }
    }

    pub(super) fn needed(self, is_needed: bool) -> Self {
        Self { is_needed, ..self }
    }

    /// Asks for something that nobody has, if the build is not to do without it.
    pub(super) fn check(&self) -> Result<(), Error> {
        if !self.is_needed {
            return Ok(());
        }
        let nothing = self.salt.name(&CacheKey([0; 32]));
        let asked = self.open();
        let asked = asked.and_then(|()| self.backend.lookup(&[nothing]).map(drop));
        asked.map_err(|error| self.failed(error))
    }

    fn failed(&self, error: Error) -> Error {
        if matches!(error, Error::Cancelled) {
            return error;
        }
        Error::SharedCache {
            name: self.known.name.clone(),
            source: Box::new(error),
        }
    }

    /// What it has said so far.
    pub(crate) fn known(&self) -> &Known {
        &self.known
    }

    pub(super) fn backend(&self) -> &dyn StepCache {
        &*self.backend
    }

    /// The name of a key there.
    pub(super) fn name_of(&self, key: &CacheKey) -> CacheKey {
        self.salt.name(key)
    }

    /// Whether what is made here goes there.
    pub(super) fn writes(&self) -> bool {
        self.writes.load(Ordering::SeqCst) && !self.is_off.load(Ordering::SeqCst)
    }

    /// It takes nothing any more; whether it did.
    pub(super) fn stop_writing(&self) -> bool {
        self.writes.swap(false, Ordering::SeqCst)
    }

    /// The keys that were found, as they are named there.
    pub(super) fn hits(&self) -> Vec<CacheKey> {
        lock(&self.hits).clone()
    }

    /// What is known of a key, by its name there.
    pub(super) fn standing(&self, name: &CacheKey) -> Option<Standing> {
        lock(&self.asked).get(name).copied()
    }

    /// The same; it is asked for if that is not known.
    pub(super) fn standing_or_ask(&self, name: &CacheKey) -> Result<Standing, Error> {
        if let Some(standing) = self.standing(name) {
            return Ok(standing);
        }
        let answers = self.backend.lookup(std::slice::from_ref(name))?;
        let answer = answers.into_iter().next().unwrap_or(Answer::Missing);
        let standing = self.take(name, answer);
        lock(&self.asked).insert(*name, standing);
        Ok(standing)
    }

    /// What is known of a name there.
    pub(super) fn by_name(&self, name: &CacheKey) -> Option<Found> {
        let kinds = [KeyKind::Definition, KeyKind::Content, KeyKind::Link];
        let known = self.known.read();
        kinds.iter().find_map(|kind| by_name(&known, name, *kind))
    }

    /// A record is there now.
    pub(super) fn has_got(&self, names: &[CacheKey]) {
        let mut asked = lock(&self.asked);
        asked.extend(names.iter().map(|name| (*name, Standing::There)));
    }

    /// What it said of a key, if it was asked.
    pub(super) fn remembered(&self, key: &CacheKey, kind: KeyKind) -> Option<Found> {
        if !self.known.is_in_use() {
            return None;
        }
        let found = by_name(&self.known.read(), &self.salt.name(key), kind)?;
        let lacks = |found: &Found| {
            let mut links = found.output.chain.iter();
            links.any(|link| self.known.lacks(&link.layer))
        };
        (!lacks(&found)).then_some(Found {
            // Their names are of no use elsewhere.
            content: found.content.filter(|key| self.salt.name(key) == *key),
            link: found.link.filter(|key| self.salt.name(key) == *key),
            ..found
        })
    }

    /// What it has for a key; `ahead` are those that may be asked for next.
    ///
    /// # Errors
    /// The build is to stop.
    pub(crate) fn lookup(
        &self,
        key: &CacheKey,
        kind: KeyKind,
        caches: &StepCaches,
        ui: &dyn Ui,
    ) -> Result<Option<Found>, Error> {
        if self.is_off.load(Ordering::SeqCst) || !self.known.is_in_use() {
            return Ok(None);
        }
        let asked = self.open().and_then(|()| self.ask(key, kind, caches));
        match asked {
            Err(Error::Cancelled) => return Err(Error::Cancelled),
            Err(error) if self.is_needed => return Err(self.failed(error)),
            Err(error) => self.turn_off(&error, ui),
            Ok(()) => {}
        }
        let found = self.remembered(key, kind);
        if found.is_some() && kind == KeyKind::Definition {
            lock(&self.hits).push(self.salt.name(key));
        }
        Ok(found)
    }

    fn turn_off(&self, error: &Error, ui: &dyn Ui) {
        if !self.is_off.swap(true, Ordering::SeqCst) {
            let (name, error) = (&self.known.name, crate::error::chain(error));
            ui.warning(&format!("remote cache {name}: it is not used: {error}"));
        }
    }

    fn open(&self) -> Result<(), Error> {
        let mut failed = Ok(());
        self.opened.get_or_init(|| match self.backend.overview() {
            Ok(Some(records)) => self.known.learn(|known| known.absorb(&records)),
            Ok(None) => {}
            Err(error) => failed = Err(error),
        });
        failed
    }

    fn ask(&self, key: &CacheKey, kind: KeyKind, caches: &StepCaches) -> Result<(), Error> {
        let name = self.salt.name(key);
        if self.standing(&name).is_some() || self.remembered(key, kind).is_some() {
            return Ok(());
        }
        let mut names = vec![name];
        if kind == KeyKind::Definition {
            let at_once = self.at_once.load(Ordering::SeqCst);
            let doubled = (2 * at_once).min(MOST_AT_ONCE);
            self.at_once.store(doubled, Ordering::SeqCst);
            let after = caches.after(key).iter();
            let after = after.filter(|key| self.remembered(key, kind).is_none());
            let after = after.map(|key| self.salt.name(key));
            names.extend(after.filter(|name| self.standing(name).is_none()));
            names.truncate(at_once);
        }
        let answers = self.backend.lookup(&names)?;
        for (name, answer) in names.iter().zip(answers) {
            let standing = self.take(name, answer);
            lock(&self.asked).insert(*name, standing);
        }
        Ok(())
    }

    fn take(&self, name: &CacheKey, answer: Answer) -> Standing {
        let reason = match answer {
            Answer::Missing => return Standing::Missing,
            Answer::Damaged(reason) => reason,
            Answer::Found(records) => {
                let kinds = [KeyKind::Definition, KeyKind::Content, KeyKind::Link];
                let mut found = kinds.iter().map(|kind| by_name(&records, name, *kind));
                if records.len() == 1
                    && let Some(found) = found.find_map(|found| found)
                {
                    self.known.learn(|known| {
                        known.absorb(&records);
                        // It may have been known by fewer keys.
                        for definition in records.keys() {
                            known.touch(definition, &found, 0);
                        }
                    });
                    return Standing::There;
                }
                "it is one of another step".to_owned()
            }
        };
        let cache = &self.known.name;
        tracing::warn!("remote cache {cache}: the record of {name} is not used: {reason}");
        Standing::Damaged
    }
}

/// By a key as it is named in the records.
fn by_name(records: &Records, name: &CacheKey, kind: KeyKind) -> Option<Found> {
    match kind {
        KeyKind::Definition => records.by_definition(name),
        KeyKind::Content => records.by_content(name),
        KeyKind::Link => records.by_link_found(name),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
