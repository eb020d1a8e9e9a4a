//! Caches of steps that machines share (`--remote-cache`): what anyone built is found by everyone, step by step.
//!
//! A record is kept under each of a step's keys (by definition, by content, of a linked layer), the layers as blobs beside
//! it. A build asks for steps one by one, when neither its store nor a cache of `--cache-from` has them; what it made
//! goes out while later steps run. What comes is checked like any cache that travels: records are only taken for keys that a step of
//! the build has, layers are verified when they are read, and what is said of their content is nobody's word until then.
//!
//! `shared` is one such cache as a build knows it, `sending` what goes out; `registry` and `cas` are the two kinds of places.
//! Nothing here decides what a step's keys are, or brings layers into the store.

mod cas;
mod name;
mod registry;
mod sending;
mod shared;

pub(crate) use sending::{Made, Sending};
pub(crate) use shared::Shared;

use crate::Error;
use crate::build::fetch::Origin;
use crate::build::manifest::Desc;
use crate::cache::{CachedLayer, Found, Records, Site};
use crate::layer::Compression;
use crate::push::{DEFAULT_ZSTD, Packing};
use crate::remote::Remote;
use crate::request::{BuildRequest, SharedCachePlace};
use oci_spec::image::Digest;
use planner::key::CacheKey;
use planner::scheduler::Cancel;
use std::fmt::Debug;
use std::sync::{Mutex, OnceLock, PoisonError};

/// Most bytes of one record: a step over thousands of layers.
const RECORD_LIMIT: u64 = 2 << 20;

/// How layers go out, whatever the place: equal layers are equal blobs.
const PACKING: Packing = Packing {
    compression: Compression::Zstd(DEFAULT_ZSTD),
    force: false,
};

/// Keys asked for at the same time.
const PARALLEL: usize = 6;

/// Takes bytes as they come.
pub(crate) type Sink<'s> = &'s mut (dyn FnMut(&[u8]) -> std::io::Result<()> + Send);

/// Which of a step's keys is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum KeyKind {
    /// By definition.
    Definition,
    /// By the content of its inputs.
    Content,
    /// Of the layer of a `COPY --link`.
    Link,
}

/// What a place says of a key.
#[derive(Debug)]
pub(crate) enum Answer {
    /// It has nothing.
    Missing,
    /// What it has is no record, in a phrase.
    Damaged(String),
    /// A record, which may be any.
    Found(Box<Records>),
}

/// What became of a record that was to be kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Recorded {
    /// It is there now.
    Done,
    /// The place takes nothing from here, which is normal.
    ReadOnly,
}

/// A place that keeps records of steps and their layers. Keys are named as they are there; every call blocks, and ends
/// with [`Error::Cancelled`] when the build is to stop.
pub(crate) trait StepCache: Send + Sync + Debug {
    /// As messages call it; without credentials.
    fn name(&self) -> String;

    /// Where its blobs are.
    fn origin(&self) -> Origin;

    /// What it can tell of many keys at once, before any is asked for; `None` when it cannot.
    ///
    /// # Errors
    /// It cannot be asked.
    fn overview(&self) -> Result<Option<Records>, Error> {
        Ok(None)
    }

    /// What it has for each of these keys.
    ///
    /// # Errors
    /// It cannot be asked.
    fn lookup(&self, keys: &[CacheKey]) -> Result<Vec<Answer>, Error>;

    /// Whether it says that it takes anything from here. Asked before anything is sent.
    ///
    /// # Errors
    /// It cannot be asked.
    fn takes_writes(&self, _stop: &Cancel) -> Result<bool, Error> {
        Ok(true)
    }

    /// Brings a layer there, unless it is there.
    ///
    /// # Errors
    /// It cannot be made or sent.
    fn send(&self, site: Site<'_>, layer: &Digest, stop: &Cancel) -> Result<CachedLayer, Error>;

    /// Keeps a record under keys, in the place of what is there. Its layers have been sent.
    ///
    /// # Errors
    /// It cannot be written.
    fn record(&self, keys: &[CacheKey], record: &Records, stop: &Cancel)
    -> Result<Recorded, Error>;

    /// The blob of a layer; what comes is not verified here.
    ///
    /// # Errors
    /// It is not there, or breaks off.
    fn fetch(&self, blob: &Desc, sink: Sink<'_>) -> Result<(), Error>;

    /// The build is over: these are the records that it used and made.
    ///
    /// # Errors
    /// They cannot be noted.
    fn finish(&self, _used: &Records, _today: u32, _stop: &Cancel) -> Result<(), Error> {
        Ok(())
    }
}

/// Does something for each key, for several at the same time.
fn in_parallel<T: Send>(
    keys: &[CacheKey],
    one: &(dyn Fn(&CacheKey) -> Result<T, Error> + Sync),
) -> Result<Vec<T>, Error> {
    if let [only] = keys {
        return Ok(vec![one(only)?]);
    }
    let queue = Mutex::new(keys.iter().enumerate());
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || -> Result<Vec<(usize, T)>, Error> {
        let mut done = Vec::new();
        while let Some((at, key)) = next() {
            done.push((at, one(key)?));
        }
        Ok(done)
    };
    let mut done = std::thread::scope(|scope| {
        let workers = (0..PARALLEL.min(keys.len())).map(|_| scope.spawn(work));
        let workers: Vec<_> = workers.collect();
        let ended = workers
            .into_iter()
            .map(|worker| worker.join().expect("BUG: a lookup does not panic"));
        let ended: Result<Vec<_>, Error> = ended.collect();
        ended.map(|done| done.into_iter().flatten().collect::<Vec<_>>())
    })?;
    done.sort_by_key(|(at, _)| *at);
    Ok(done.into_iter().map(|(_, one)| one).collect())
}

/// All that a build was given.
#[derive(Debug, Default)]
pub(crate) struct StepCaches {
    all: Vec<Shared>,
    /// Keys by definition that a build may look up, in that order.
    ahead: OnceLock<Vec<CacheKey>>,
}

impl StepCaches {
    /// Asks nobody.
    pub(crate) fn new(request: &BuildRequest, remote: &Remote) -> Self {
        let mut all = Vec::new();
        for settings in &request.remote.caches {
            let backend: Box<dyn StepCache> = match &settings.place {
                SharedCachePlace::Registry { repository, branch } => Box::new(
                    registry::RegistryCache::new(repository, branch.as_deref(), remote),
                ),
                SharedCachePlace::Reapi(endpoint) => Box::new(cas::CasCache::new(endpoint, remote)),
            };
            let shared = Shared::new(backend, &settings.salt, settings.writes);
            all.push(shared.needed(!settings.ignore_error));
        }
        Self {
            all,
            ahead: OnceLock::new(),
        }
    }

    /// Asks those that the build is not to do without.
    ///
    /// # Errors
    /// One cannot be asked; the build is to stop.
    pub(crate) fn check(&self) -> Result<(), Error> {
        self.all.iter().try_for_each(Shared::check)
    }

    /// In the order in which they are asked.
    pub(crate) fn all(&self) -> &[Shared] {
        &self.all
    }

    /// Says which keys may be asked for, so that several are asked for at once.
    pub(crate) fn expect(&self, keys: Vec<CacheKey>) {
        // A plan that is gone over again has the same keys.
        let _ = self.ahead.set(keys);
    }

    /// The keys that are likely to be asked for after this one.
    fn after(&self, key: &CacheKey) -> &[CacheKey] {
        let ahead = self.ahead.get().map_or(&[][..], Vec::as_slice);
        let at = ahead.iter().position(|other| other == key);
        at.map_or(&[], |at| &ahead[at + 1..])
    }

    /// What is known for a definition key without asking.
    pub(crate) fn remembered(&self, key: &CacheKey) -> Vec<Found> {
        let found = self.all.iter();
        found
            .filter_map(|cache| cache.remembered(key, KeyKind::Definition))
            .collect()
    }

    /// Brings a blob from the place of this name.
    pub(crate) fn fetch(&self, name: &str, blob: &Desc, sink: Sink<'_>) -> Result<(), Error> {
        let cache = self.all.iter().find(|cache| cache.known().name == name);
        match cache {
            Some(cache) => cache.backend().fetch(blob, sink),
            None => Err(Error::Layer {
                layer: blob.digest.clone(),
                reason: format!("nothing is known of {name}"),
            }),
        }
    }
}
