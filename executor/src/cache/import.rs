//! The caches of `--cache-from`: read when a lookup first finds nothing in the store, asked then, and asked where layers are.
//!
//! A cache that cannot be read is told and left out; one whose layers turn out to be others than it says is not asked
//! again. Which layers are fetched, and when, is the fetcher's.

use super::known::Known;
use super::memories::Memories;
use super::read::{Cached, Content, Source};
use super::records::Found;
use super::registry;
use crate::Error;
use crate::build::Ui;
use crate::build::fetch::Origin;
use crate::build::manifest::{Desc, Document};
use crate::build::record::{self, Link};
use crate::remote::Remote;
use crate::request::{BuildRequest, CacheImport};
use crate::space::Space;
use crate::steps::{KeyKind, Shared, StepCaches};
use oci_spec::image::Digest;
use planner::key::CacheKey;
use planner::plan::{Plan, Step};
use planner::platform::Platform;
use registry_client::Reference;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

mod past;

pub use past::ComparedWith;
pub(crate) use past::Elsewhere;

/// All of them.
///
/// What machines share beside them, step by step (`crate::steps`), is asked after them and known here in the same way:
/// its caches have the first numbers.
pub(crate) struct Imports<'a> {
    space: &'a Space,
    request: &'a BuildRequest,
    remote: &'a Remote,
    ui: &'a dyn Ui,
    steps: StepCaches,
    loaded: OnceLock<Vec<Known>>,
    /// Whether something was refused since somebody asked.
    is_refused: AtomicBool,
    /// Whether anything was.
    was_refused: AtomicBool,
}

impl std::fmt::Debug for Imports<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Imports").finish_non_exhaustive()
    }
}

/// Where a layer can be had.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// The blob.
    pub(crate) desc: Desc,
    /// Where it is.
    pub(crate) origin: Origin,
    /// The number of the cache that says so.
    pub(crate) cache: usize,
}

impl<'a> Imports<'a> {
    pub(crate) fn new(
        space: &'a Space,
        request: &'a BuildRequest,
        remote: &'a Remote,
        ui: &'a dyn Ui,
    ) -> Self {
        Self {
            space,
            request,
            remote,
            ui,
            steps: StepCaches::new(request, remote),
            loaded: OnceLock::new(),
            is_refused: AtomicBool::new(false),
            was_refused: AtomicBool::new(false),
        }
    }

    fn imported(&self) -> &[Known] {
        self.loaded.get_or_init(|| self.load())
    }

    /// The caches that machines share step by step.
    pub(crate) fn steps(&self) -> &StepCaches {
        &self.steps
    }

    /// All caches that something is known of, by number; reads none.
    fn known(&self) -> impl Iterator<Item = (usize, &Known)> {
        let imported = self.loaded.get().map_or(&[][..], Vec::as_slice);
        let all = self.steps.all().iter().map(Shared::known).chain(imported);
        all.enumerate().filter(|(_, cache)| cache.is_in_use())
    }

    /// What the caches have for a key of a step, in the order in which they were named.
    pub(crate) fn lookup(
        &self,
        key: &CacheKey,
        is_content: bool,
        (plan, step): (Option<&Plan>, &Step),
    ) -> Vec<Found> {
        let found = self.imported().iter().filter(|cache| cache.is_in_use());
        let found = found.filter_map(|cache| {
            if is_content {
                return cache.read().by_content(key);
            }
            let found = cache.read().by_definition(key)?;
            is_result(plan, step, cache, &found).then_some(found)
        });
        found.collect()
    }

    /// What the shared caches have for a key of a step. They are asked.
    ///
    /// # Errors
    /// The build is to stop. Caches that cannot be asked are told and left out.
    pub(crate) fn ask(
        &self,
        key: &CacheKey,
        kind: KeyKind,
        (plan, step): (Option<&Plan>, &Step),
    ) -> Result<Option<Found>, Error> {
        for cache in self.steps.all() {
            let Some(found) = cache.lookup(key, kind, &self.steps, self.ui)? else {
                continue;
            };
            if kind != KeyKind::Definition || is_result(plan, step, cache.known(), &found) {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// What the caches have for a definition key, if they have been read.
    pub(crate) fn lookup_loaded(&self, key: &CacheKey) -> Vec<Found> {
        let imported = self.loaded.get().map_or(&[][..], Vec::as_slice);
        let found = imported.iter().filter(|cache| cache.is_in_use());
        found
            .filter_map(|cache| cache.read().by_definition(key))
            .chain(self.steps.remembered(key))
            .collect()
    }

    /// The layers that the caches have for the key of a `COPY --link`.
    pub(crate) fn links(&self, key: &CacheKey) -> Vec<Link> {
        let found = self.imported().iter().filter(|cache| cache.is_in_use());
        found
            .filter_map(|cache| cache.read().by_link(key))
            .collect()
    }

    /// Where a layer can be had, as far as the caches have been read.
    pub(crate) fn place_loaded(&self, diff_id: &Digest) -> Option<Place> {
        self.known().find_map(|(number, cache)| {
            let layer = cache.layer(diff_id)?;
            Some(Place {
                desc: layer.blob,
                origin: cache.origin.clone(),
                cache: number,
            })
        })
    }

    /// The cache of those that machines share which has said that it has a layer.
    pub(crate) fn shared_with(&self, diff_id: &Digest) -> Option<&str> {
        let shared = self.steps.all().iter().map(Shared::known);
        let mut having = shared.filter(|cache| cache.is_in_use() && cache.layer(diff_id).is_some());
        having.next().map(|cache| cache.name.as_str())
    }

    /// Where a layer can be had.
    pub(crate) fn place(&self, diff_id: &Digest) -> Option<Place> {
        self.imported();
        self.place_loaded(diff_id)
    }

    /// What a cache says of a layer's content. Nobody has looked.
    pub(crate) fn claimed_identity(&self, diff_id: &Digest) -> Option<String> {
        self.known()
            .find_map(|(_, cache)| cache.read().layer(diff_id)?.identity.clone())
    }

    /// When a root file system was first made elsewhere.
    pub(crate) fn created(&self, base: &[Digest], chain: &[&Digest]) -> Option<i64> {
        self.known()
            .find_map(|(_, cache)| cache.read().created(base, chain))
    }

    /// A layer could not be had from where a cache said. One that is gone is missed alone; one that is not what it should be
    /// costs the cache all trust.
    pub(crate) fn refuse(&self, cache: usize, diff_id: &Digest, error: &Error) {
        let shared = self.steps.all();
        let cache = match shared.get(cache) {
            Some(shared) => shared.known(),
            None => &self.imported()[cache - shared.len()],
        };
        let is_gone = match error {
            Error::Registry { source, .. } => source.is_not_found(),
            Error::Io { source, .. } => source.kind() == std::io::ErrorKind::NotFound,
            Error::StepCache { source, .. } => source.is_not_found(),
            _ => false,
        };
        if is_gone {
            cache.refuse_layer(diff_id);
        } else if !cache.refuse() {
            return;
        }
        self.is_refused.store(true, Ordering::SeqCst);
        self.was_refused.store(true, Ordering::SeqCst);
        let name = &cache.name;
        let error = crate::error::chain(error);
        let what = if is_gone {
            format!("layer {diff_id} of it")
        } else {
            "it".to_owned()
        };
        self.ui
            .warning(&format!("cache {name}: {what} is not used: {error}"));
    }

    /// What a cache says of a layer's content has turned out to be wrong.
    pub(crate) fn refuse_claims(&self, diff_id: &Digest) {
        for (_, cache) in self.known() {
            let claims = cache.read().layer(diff_id).cloned();
            if claims.is_some_and(|layer| layer.identity.is_some()) && cache.refuse() {
                self.was_refused.store(true, Ordering::SeqCst);
                let name = &cache.name;
                self.ui.warning(&format!(
                    "cache {name}: it is not used any more: layer {diff_id} does not hold what it says"
                ));
            }
        }
    }

    /// Whether something was refused since the last call: what was found may be of no use then.
    pub(crate) fn take_refusal(&self) -> bool {
        self.is_refused.swap(false, Ordering::SeqCst)
    }

    /// Whether a cache turned out to be damaged: what it goes to again is to be made anew.
    pub(crate) fn was_refused(&self) -> bool {
        self.was_refused.load(Ordering::SeqCst)
    }

    fn load(&self) -> Vec<Known> {
        let wanted = &self.request.cache_from;
        if let [only] = wanted.as_slice() {
            return self.one(only).into_iter().collect();
        }
        std::thread::scope(|scope| {
            let threads: Vec<_> = wanted
                .iter()
                .map(|import| scope.spawn(|| self.one(import)))
                .collect();
            let loaded = threads
                .into_iter()
                .filter_map(|thread| thread.join().expect("BUG: reading a cache does not panic"));
            loaded.collect()
        })
    }

    fn one(&self, import: &CacheImport) -> Option<Known> {
        let name = match import {
            CacheImport::Registry { reference } => reference.clone(),
            CacheImport::Local { src, .. } => format!("local:{}", src.display()),
        };
        let task = self
            .ui
            .task_started(&format!("importing cache manifest from {name}"));
        let read = match import {
            CacheImport::Registry { reference } => self.registry(reference),
            CacheImport::Local { src, tag, digest } => {
                self.local(src, tag.as_deref(), digest.as_deref())
            }
        };
        match read {
            Ok((Content::Cache(cached), origin)) => {
                self.ui.task_finished(task, None);
                Some(Known::new(name, origin, *cached))
            }
            Ok((Content::BuildKit, _)) => {
                self.ui.task_finished(task, None);
                self.ui.warning(&format!(
                    "{name} is a cache of BuildKit and is not used: its keys are digests of BuildKit's own build graph, which Kiln does not have; one made with --cache-to is used"
                ));
                None
            }
            Ok((Content::Nothing, _)) => {
                let note = "it is an image without an inline cache (--cache-to type=inline)";
                self.ui.task_progress(task, note, 0, 0);
                self.ui.task_finished(task, None);
                None
            }
            Err(error) => {
                self.ui
                    .task_finished(task, Some(&failure(import, &name, &error)));
                None
            }
        }
    }

    fn platforms(&self) -> Vec<Platform> {
        if self.request.platforms.is_empty() {
            return vec![Platform::host()];
        }
        self.request.platforms.clone()
    }

    fn registry(&self, name: &str) -> Result<(Content, Origin), Error> {
        let reference = Reference::parse(name).map_err(|source| Error::Registry {
            reference: name.to_owned(),
            source,
        })?;
        let store = self.space.store();
        let origin = Origin::Repository(reference.to_string());
        if let Some(memory) = registry::recall(store, &reference)? {
            let there = self.remote.resolve(&reference)?;
            if there.digest().to_string() == memory.manifest
                && let Some(cached) = memory.cached(store)
            {
                return Ok((Content::Cache(Box::new(cached)), origin));
            }
        }
        let found = self.remote.manifest(&reference, None)?;
        let document = Document::parse(name, &found.bytes)?;
        let source = Source::Registry(self.remote, reference.clone());
        let Some(desc) = Source::records_of(&document) else {
            let content = source.content(&document, &self.platforms())?;
            return Ok((content, origin));
        };
        let cached = Cached {
            records: source.records(desc)?,
            memories: Memories::of(&document),
        };
        let manifest = found.descriptor.digest().to_string();
        registry::remember(store, &reference, manifest, &cached)?;
        Ok((Content::Cache(Box::new(cached)), origin))
    }

    fn local(
        &self,
        dir: &Path,
        tag: Option<&str>,
        digest: Option<&str>,
    ) -> Result<(Content, Origin), Error> {
        let (source, document) = super::folder::read(dir, tag, digest, self.remote.cancel())?;
        let content = source.content(&document, &self.platforms())?;
        Ok((content, source.origin()))
    }
}

fn is_result(plan: Option<&Plan>, step: &Step, cache: &Known, found: &Found) -> bool {
    let fits = plan.is_none_or(|plan| record::fits(plan, step, &found.output));
    if !fits {
        let (name, step) = (&cache.name, step.id.0);
        tracing::warn!("cache {name}: what it has for step {step} is no result of it");
    }
    fits
}

/// Why a cache could not be read, as BuildKit says it.
fn failure(import: &CacheImport, name: &str, error: &Error) -> String {
    let kind = match import {
        CacheImport::Registry { .. } => "registry",
        CacheImport::Local { .. } => "local",
    };
    let reason = match error {
        Error::Registry { source, .. } if source.is_not_found() => format!("{name}: not found"),
        error => crate::error::chain(error),
    };
    format!("failed to configure {kind} cache importer: {reason}")
}
