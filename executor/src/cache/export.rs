//! The caches of `--cache-to`: layers go out while later steps still run, records and manifest when all is done.
//!
//! What is there already stays and is neither made nor sent again. How a cache lies at its place is for `registry` and
//! `folder`; inline caches are in `inline`.

use super::folder::FolderPlace;
use super::memories::Remembered;
use super::read::Cached;
use super::records::{CachedLayer, Found, Records};
use super::registry::RegistryPlace;
use super::{CONFIG_TYPE, Imports, RECORDS_TYPE, day};
use crate::Error;
use crate::build::Ui;
use crate::build::fetch::Fetcher;
use crate::build::image::{Flavour, index};
use crate::build::manifest::{self, Desc, Manifest};
use crate::build::record::{self, base_of};
use crate::layer::is_readable;
use crate::layer::packed::Packed;
use crate::push::Packing;
use crate::remote::Remote;
use crate::request::{BuildRequest, CacheExport, CacheMode, CacheTarget};
use crate::space::Space;
use oci_spec::image::Digest;
use planner::key::CacheKey;
use planner::plan::{Op, Plan, StepId};
use planner::scheduler::Cancel;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

mod remember;

/// Layers made and sent at once while steps run.
const WORKERS: usize = 2;

/// What exports are made from.
#[derive(Clone, Copy)]
pub(crate) struct Site<'a> {
    pub(crate) space: &'a Space,
    pub(crate) request: &'a BuildRequest,
    pub(crate) remote: &'a Remote,
    pub(crate) fetcher: &'a Fetcher<'a>,
    pub(crate) imports: &'a Imports<'a>,
    pub(crate) ui: &'a dyn Ui,
    pub(crate) plan: &'a Plan,
}

/// All of them.
pub(crate) struct Exports<'a> {
    site: Site<'a>,
    stop: Cancel,
    places: Vec<Place<'a>>,
    /// Steps whose layers are in the result.
    of_result: HashSet<StepId>,
    /// Steps that ran.
    executed: Mutex<HashSet<StepId>>,
    /// What is to be remembered of the build.
    build: Mutex<Option<Arc<Remembered>>>,
    queue: Mutex<Option<Sender<(StepId, Digest)>>>,
    waiting: Mutex<Option<Receiver<(StepId, Digest)>>>,
}

impl std::fmt::Debug for Exports<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exports").finish_non_exhaustive()
    }
}

/// One place that a cache goes to.
pub(super) struct Place<'a> {
    pub(super) export: &'a CacheExport,
    pub(super) packing: Packing,
    kind: Kind,
    /// Layers that are there, by the layer that steps made.
    sent: Mutex<HashMap<Digest, CachedLayer>>,
    /// It does not take anything, which was told and is to be ignored.
    is_given_up: AtomicBool,
}

enum Kind {
    Registry(RegistryPlace),
    Folder(FolderPlace),
}

/// One record that goes out.
pub(super) struct Outgoing {
    pub(super) key: CacheKey,
    pub(super) found: Found,
    /// The step ran: what it gave is newer than what the cache may have for it.
    pub(super) is_new: bool,
}

/// The documents of a cache.
pub(super) struct Documents {
    pub(super) records: (Desc, Vec<u8>),
    pub(super) config: (Desc, Vec<u8>),
    pub(super) manifest: (Desc, Vec<u8>),
}

impl<'a> Exports<'a> {
    pub(crate) fn new(site: Site<'a>, cancel: &Cancel) -> Result<Self, Error> {
        let mut places = Vec::new();
        for export in &site.request.cache_to {
            let packing = Packing::parse(
                export.compression.as_deref(),
                export.compression_level,
                export.force_compression,
            );
            let kind = match &export.target {
                CacheTarget::Registry { reference } => {
                    Kind::Registry(RegistryPlace::new(reference)?)
                }
                CacheTarget::Local { dest, tag } => Kind::Folder(FolderPlace::new(dest, tag)),
                CacheTarget::Inline => continue,
            };
            places.push(Place {
                export,
                packing: packing.map_err(Error::Request)?,
                kind,
                sent: Mutex::default(),
                is_given_up: AtomicBool::new(false),
            });
        }
        let (queue, waiting) = channel();
        Ok(Self {
            of_result: of_result(site.plan),
            site,
            stop: cancel.child(),
            places,
            executed: Mutex::default(),
            build: Mutex::default(),
            queue: Mutex::new(Some(queue)),
            waiting: Mutex::new(Some(waiting)),
        })
    }

    /// Asks before commands run whether the places can be written, all at once.
    pub(crate) fn ask(&self) -> Result<(), Error> {
        std::thread::scope(|scope| {
            let threads: Vec<_> = self
                .places
                .iter()
                .map(|place| scope.spawn(|| self.ask_one(place)))
                .collect();
            // All are waited for.
            let ended: Vec<Result<(), Error>> = threads
                .into_iter()
                .map(|thread| thread.join().expect("BUG: asking a place does not panic"))
                .collect();
            ended.into_iter().collect()
        })
    }

    fn ask_one(&self, place: &Place<'_>) -> Result<(), Error> {
        let ui = self.site.ui;
        let ended = match &place.kind {
            Kind::Registry(registry) => {
                let name = registry.repository();
                let task = ui.task_started(&format!("checking access to {name}"));
                let ended = registry.ask(self.site, &self.stop);
                let text = ended.as_ref().err().map(crate::error::chain);
                ui.task_finished(task, text.as_deref());
                ended
            }
            Kind::Folder(folder) => folder.ask(),
        };
        match ended {
            Err(Error::Cancelled) => Err(Error::Cancelled),
            Err(error) if place.export.ignore_error => {
                place.is_given_up.store(true, Ordering::SeqCst);
                let name = place.name();
                let error = crate::error::chain(&error);
                ui.warning(&format!("the cache is not exported to {name}: {error}"));
                Ok(())
            }
            ended => ended.map_err(|source| Error::CacheExport {
                place: place.name(),
                source: Box::new(source),
            }),
        }
    }

    /// A step ran and made this layer, which can go out now.
    pub(crate) fn made(&self, step: StepId, layer: &Digest) {
        if self.places.is_empty() {
            return;
        }
        lock(&self.executed).insert(step);
        if let Some(queue) = &*lock(&self.queue) {
            // Nobody listens when the build has failed.
            drop(queue.send((step, layer.clone())));
        }
    }

    /// Sends layers while `work` is done; what is still waiting when it is done goes out too, unless it failed.
    pub(crate) fn meanwhile<T, E>(&self, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let waiting = lock(&self.waiting).take();
        let Some(waiting) = waiting.filter(|_| !self.places.is_empty()) else {
            return work();
        };
        let waiting = Mutex::new(waiting);
        std::thread::scope(|scope| {
            for _ in 0..WORKERS {
                scope.spawn(|| self.send_waiting(&waiting));
            }
            let done = work();
            if done.is_err() {
                self.stop.cancel();
            }
            lock(&self.queue).take();
            done
        })
    }

    fn send_waiting(&self, waiting: &Mutex<Receiver<(StepId, Digest)>>) {
        loop {
            let next = lock(waiting).recv();
            let Ok((step, layer)) = next else { return };
            for place in &self.places {
                if self.stop.is_cancelled() {
                    return;
                }
                // What fails here fails again at the end, and is told then.
                if self.is_wanted(place, step)
                    && let Err(error) = self.bring(place, &layer)
                {
                    tracing::debug!(%layer, error = crate::error::chain(&error), "a layer of a cache could not be sent yet");
                }
            }
        }
    }

    fn is_wanted(&self, place: &Place<'_>, step: StepId) -> bool {
        !place.is_given_up.load(Ordering::SeqCst)
            && (place.export.mode == CacheMode::Max || self.of_result.contains(&step))
    }

    /// Brings a layer to a place, once.
    pub(super) fn bring(&self, place: &Place<'_>, layer: &Digest) -> Result<CachedLayer, Error> {
        let turn = format!("cache {} {layer}", place.name());
        self.site.space.in_turn(turn, || {
            if let Some(sent) = lock(&place.sent).get(layer) {
                return Ok(sent.clone());
            }
            let packed = match &place.kind {
                Kind::Registry(registry) => {
                    registry.send(self.site, layer, place.packing, &self.stop)?
                }
                Kind::Folder(folder) => folder.copy(self.site, layer, place.packing, &self.stop)?,
            };
            let sent = described(self.site, layer, &packed)?;
            lock(&place.sent).insert(layer.clone(), sent.clone());
            Ok(sent)
        })
    }

    /// Completes all exports; `keys` are the steps' definition keys.
    pub(crate) fn finish(&self, keys: &[CacheKey]) -> Result<(), Error> {
        let ended: Vec<Result<(), Error>> = match self.places.as_slice() {
            [] => return Ok(()),
            [only] => vec![self.export(only, keys)],
            several => std::thread::scope(|scope| {
                let threads: Vec<_> = several
                    .iter()
                    .map(|place| scope.spawn(|| self.export(place, keys)))
                    .collect();
                let ended = threads
                    .into_iter()
                    .map(|thread| thread.join().expect("BUG: an export does not panic"));
                ended.collect()
            }),
        };
        ended.into_iter().collect()
    }

    fn export(&self, place: &Place<'_>, keys: &[CacheKey]) -> Result<(), Error> {
        if self.stop.is_cancelled() {
            return Err(Error::Cancelled);
        }
        if place.is_given_up.load(Ordering::SeqCst) {
            return Ok(());
        }
        let ui = self.site.ui;
        let task = ui.task_started(match place.kind {
            Kind::Registry(_) => "exporting cache to registry",
            Kind::Folder(_) => "exporting cache to client directory",
        });
        ui.task_progress(task, "preparing build cache for export", 0, 0);
        let ended = loop {
            let ended = self
                .outgoing(place, keys)
                .and_then(|outgoing| match &place.kind {
                    Kind::Registry(registry) => registry.export(self, place, &outgoing, task),
                    Kind::Folder(folder) => folder.export(self, place, &outgoing, task),
                });
            // What another cache turns out not to have is left out.
            if ended.is_ok() || !self.site.imports.take_refusal() {
                break ended;
            }
        };
        let text = ended.as_ref().err().map(crate::error::chain);
        ui.task_finished(task, text.as_deref());
        match ended {
            Err(_) if self.stop.is_cancelled() => Err(Error::Cancelled),
            Err(_) if place.export.ignore_error => Ok(()),
            Err(source) => Err(Error::CacheExport {
                place: place.name(),
                source: Box::new(source),
            }),
            Ok(()) => Ok(()),
        }
    }

    /// The records that go to a place: of steps that ran, that were found, and that were not looked at as what uses them
    /// was found.
    fn outgoing(&self, place: &Place<'_>, keys: &[CacheKey]) -> Result<Vec<Outgoing>, Error> {
        let executed = lock(&self.executed).clone();
        let mut outgoing = Vec::new();
        for (step, key) in self.site.plan.steps.iter().zip(keys) {
            if matches!(step.op, Op::Image(_)) || !self.is_wanted(place, step.id) {
                continue;
            }
            let Some(found) = recorded(self.site, key)? else {
                continue;
            };
            outgoing.push(Outgoing {
                key: *key,
                found,
                is_new: executed.contains(&step.id),
            });
        }
        Ok(outgoing)
    }

    /// A cache with these records added and the build remembered, their layers brought to its place; `None` when it has all of them.
    /// `is_first`: what steps gave that ran takes the place of what the cache has.
    pub(super) fn merged(
        &self,
        place: &Place<'_>,
        cached: &Cached,
        outgoing: &[Outgoing],
        is_first: bool,
    ) -> Result<Option<Cached>, Error> {
        let today = day(self.site.request.now);
        let before = &cached.records;
        let is_doubtful = self.site.imports.was_refused();
        let mut merged = before.clone();
        let mut is_changed = false;
        for record in outgoing {
            let known = before.by_definition(&record.key);
            let is_replaced = is_first
                && record.is_new
                && known
                    .as_ref()
                    .is_some_and(|known| self.differs(before, known, &record.found));
            let lacks_keys = known.as_ref().is_some_and(|known| {
                known.content.is_none() && record.found.content.is_some()
                    || known.link.is_none() && record.found.link.is_some()
            });
            if known.is_some() && !is_replaced && !place.export.force_compression {
                if lacks_keys || !before.is_fresh(&record.key, today) {
                    merged.touch(&record.key, &record.found, today);
                    is_changed = true;
                }
                continue;
            }
            if known.is_some() && !is_replaced && self.is_packed(place, before, &record.found)? {
                continue;
            }
            let mut found = record.found.clone();
            for link in &mut found.output.chain {
                let layer = match before.layer(&link.layer) {
                    Some(there) if !place.export.force_compression && !is_doubtful => there.clone(),
                    _ => self.bring(place, &link.layer)?,
                };
                link.layer = layer.diff_id.clone();
                merged.put_layer(layer);
            }
            merged.put(record.key, &found, today);
            is_changed = true;
        }
        Ok(self.remembered(place, cached, is_changed.then(|| merged.bounded(today))))
    }

    /// Whether all layers are in the form that was asked for with force.
    fn is_packed(&self, place: &Place<'_>, before: &Records, found: &Found) -> Result<bool, Error> {
        for link in &found.output.chain {
            let wanted = self.bring(place, &link.layer)?;
            let there = before.layer(&wanted.diff_id);
            if there.is_none_or(|there| there.blob.digest != wanted.blob.digest) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether a step gave other content than the cache has for it; other times make no difference.
    fn differs(&self, before: &Records, known: &Found, found: &Found) -> bool {
        let (Some(old), Some(new)) = (known.output.chain.last(), found.output.chain.last()) else {
            return true;
        };
        if self.site.imports.was_refused() {
            return true;
        }
        if old.layer == new.layer {
            return false;
        }
        let old = before
            .layer(&old.layer)
            .and_then(|layer| layer.identity.clone());
        let new = self.site.space.store().layer(&new.layer);
        let new = new.ok().flatten().and_then(|meta| meta.identity);
        old.is_none() || old != new
    }

    /// The documents of a cache.
    pub(super) fn documents(place: &Place<'_>, cached: &Cached) -> Documents {
        let records = &cached.records;
        let bytes = records.encode();
        let records_desc = Desc::new(
            RECORDS_TYPE,
            &manifest::digest_of(&bytes),
            bytes.len() as u64,
        );
        let config = manifest::bytes_of(&serde_json::json!({ "version": 1 }));
        let config_desc = Desc::new(
            CONFIG_TYPE,
            &manifest::digest_of(&config),
            config.len() as u64,
        );
        let mut parts = vec![records_desc.clone()];
        let mut seen = HashSet::new();
        for layer in records.layers() {
            if seen.insert(&layer.blob.digest) {
                let mut blob = layer.blob.clone();
                if !place.export.oci_mediatypes {
                    blob.media_type = docker_type(&blob.media_type);
                }
                parts.push(blob);
            }
        }
        parts.extend(cached.memories.descriptors());
        let manifest = if place.export.image_manifest {
            let document = Manifest {
                schema_version: 2,
                media_type: manifest::OCI_MANIFEST.to_owned(),
                config: config_desc.clone(),
                layers: parts,
                annotations: BTreeMap::new(),
            };
            let bytes = manifest::bytes_of(&document);
            let digest = manifest::digest_of(&bytes);
            let desc = Desc::new(manifest::OCI_MANIFEST, &digest, bytes.len() as u64);
            (desc, bytes)
        } else {
            parts.push(config_desc.clone());
            let flavour = if place.export.oci_mediatypes {
                Flavour::Oci
            } else {
                Flavour::Docker
            };
            index(parts, BTreeMap::new(), flavour)
        };
        Documents {
            records: (records_desc, bytes),
            config: (config_desc, config),
            manifest,
        }
    }

    pub(super) fn site(&self) -> Site<'a> {
        self.site
    }

    pub(super) fn stop(&self) -> &Cancel {
        &self.stop
    }
}

impl Place<'_> {
    pub(super) fn name(&self) -> String {
        match &self.export.target {
            CacheTarget::Registry { reference } => reference.clone(),
            CacheTarget::Local { dest, .. } => dest.display().to_string(),
            CacheTarget::Inline => "the image".to_owned(),
        }
    }

    /// Forgets that a layer was brought here, unless its blob is here.
    pub(super) fn forget_unless(&self, layer: &Digest, is_here: &dyn Fn(&Desc) -> bool) {
        lock(&self.sent).retain(|sent, form| sent != layer || is_here(&form.blob));
    }
}

/// A layer as a cache has it.
pub(crate) fn described(
    site: Site<'_>,
    layer: &Digest,
    packed: &Packed,
) -> Result<CachedLayer, Error> {
    let meta = site.space.store().layer(layer)?;
    let identity = meta
        .and_then(|meta| meta.identity)
        .or_else(|| site.imports.claimed_identity(layer));
    let annotations = packed.descriptor.annotations().clone().unwrap_or_default();
    let blob = Desc {
        annotations: annotations.into_iter().collect(),
        ..Desc::of(&packed.descriptor)
    };
    Ok(CachedLayer {
        // A table of contents in the layer is content too.
        identity: identity.filter(|_| packed.diff_id == *layer),
        diff_id: packed.diff_id.clone(),
        blob,
    })
}

/// The record of a step, from the store or from an imported cache, if its layers can be had.
pub(super) fn recorded(site: Site<'_>, key: &CacheKey) -> Result<Option<Found>, Error> {
    let own = site.space.store().record(&key.0)?;
    let own = own.and_then(|payload| record::decode_with_keys(&payload));
    let found = own.map(|(output, keys)| Found {
        output,
        content: keys.content,
        link: keys.link,
    });
    let candidates = found.into_iter().chain(site.imports.lookup_loaded(key));
    for found in candidates {
        let mut can_have = !found.output.chain.is_empty();
        for link in &found.output.chain {
            can_have = can_have && site.fetcher.can_have(&link.layer)?;
        }
        if can_have {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// In which form a layer goes out that is to be had only from elsewhere: as it is there.
pub(super) fn foreign(
    site: Site<'_>,
    layer: &Digest,
    packing: Packing,
) -> Result<Option<Desc>, Error> {
    if packing.force || is_readable(site.space.store(), layer)? {
        return Ok(None);
    }
    Ok(site.fetcher.descriptor(layer))
}

fn docker_type(media_type: &str) -> String {
    const DOCKER: &str = "application/vnd.docker.image.rootfs.diff.tar";
    match media_type.strip_prefix(manifest::OCI_LAYER) {
        Some("") => DOCKER.to_owned(),
        Some("+gzip") => format!("{DOCKER}.gzip"),
        _ => media_type.to_owned(),
    }
}

/// Steps whose layers are in the targets.
pub(super) fn of_result(plan: &Plan) -> HashSet<StepId> {
    let mut steps = HashSet::new();
    for target in &plan.targets {
        let mut next = target.rootfs;
        while let Some(id) = next {
            steps.insert(id);
            let step = &plan.steps[id.0 as usize];
            next = base_of(&step.op).map(|input| step.inputs[input]);
        }
    }
    steps
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
