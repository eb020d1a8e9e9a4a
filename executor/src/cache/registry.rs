//! Caches in registries: what is remembered of one between builds, and how several that write to one reference at once
//! keep each other's records.
//!
//! Registries have no compare-and-swap. Who writes reads the manifest, adds to it, looks whether it is still the same,
//! puts its own, waits for several times as long as it took from the look to the end of the put, and looks again. When
//! another's manifest is there that has not all of one's records, all is done again. So records are lost only when a
//! writer's put takes several times as long as that of another who had put his meanwhile: they are missed then, and
//! exported again by the next build that has them.

use super::export::{Exports, Outgoing as Record, Place, Site, foreign};
use super::memories::Memories;
use super::read::{Cached, Source};
use super::records::{PACKED_LIMIT, Records};
use crate::Error;
use crate::build::fetch::Origin;
use crate::build::manifest::{self, Desc, Document};
use crate::layer::outgoing::Outgoing;
use crate::layer::packed::{self, Packed};
use crate::places;
use crate::push::Packing;
use crate::push::source::{LayerSource, Order};
use oci_spec::image::Digest;
use planner::scheduler::Cancel;
use registry_client::{BlobSource, ErrorCode, MemoryBlob, Reference};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};
use store::Store;

/// How often an export begins anew because of others before it is given up.
const ATTEMPTS: u32 = 40;
/// How much longer another's put may take than ours and still be noticed.
const FACTOR: u32 = 8;
/// Shortest and longest time to wait for others.
const WAIT: [Duration; 2] = [Duration::from_millis(250), Duration::from_secs(10)];
/// How often a manifest may be refused because of blobs.
const MOST_REFUSALS: u32 = 3;
/// How often a wait looks whether it is to end.
const TICK: Duration = Duration::from_millis(50);

/// What the cache at a reference was when it was last seen.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Memory {
    /// Digest of its manifest.
    pub(super) manifest: String,
    /// Digest of its records, which may be a blob of the store still.
    records: String,
    /// What it remembers of builds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    memories: Vec<Desc>,
}

impl Memory {
    pub(super) fn cached(&self, store: &Store) -> Option<Cached> {
        let digest = manifest::digest(&self.records).ok()?;
        let bytes = store.read_blob(&digest, PACKED_LIMIT).ok()?;
        Some(Cached {
            records: Records::decode(&bytes).ok()?,
            memories: Memories::named(&self.memories),
        })
    }
}

fn key(reference: &Reference) -> [u8; 32] {
    Sha256::digest(format!("kiln cache at 1\n{reference}\n")).into()
}

pub(super) fn recall(store: &Store, reference: &Reference) -> Result<Option<Memory>, Error> {
    let record = store.record(&key(reference))?;
    Ok(record.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
}

pub(super) fn remember(
    store: &Store,
    reference: &Reference,
    manifest: String,
    cached: &Cached,
) -> Result<(), Error> {
    let digest = store.put_blob(&cached.records.encode())?;
    let memory = Memory {
        manifest,
        records: digest.to_string(),
        memories: cached.memories.descriptors(),
    };
    let payload = serde_json::to_vec(&memory).expect("BUG: strings always serialise");
    Ok(store.put_record(&key(reference), &payload, &[digest])?)
}

/// A reference that a cache is exported to.
#[derive(Debug)]
pub(super) struct RegistryPlace {
    reference: Reference,
}

/// What is at a reference now.
struct Current {
    manifest: Option<Digest>,
    cached: Cached,
}

impl RegistryPlace {
    pub(super) fn new(name: &str) -> Result<Self, Error> {
        let reference = Self::parse(name)?;
        Ok(Self { reference })
    }

    pub(super) fn parse(name: &str) -> Result<Reference, Error> {
        Reference::parse(name).map_err(|source| Error::Name {
            name: name.to_owned(),
            source,
        })
    }

    /// Its name without the tag.
    pub(super) fn repository(&self) -> String {
        self.reference.name()
    }

    /// Asks whether it can be reached and knows us: one request, with the rights that an export will need.
    pub(super) fn ask(&self, site: Site<'_>, stop: &Cancel) -> Result<(), Error> {
        let repository = Reference {
            tag: None,
            digest: None,
            ..self.reference.clone()
        };
        let nothing = manifest::digest_of(b"");
        let remote = site.remote;
        remote
            .has_manifest_until(&repository, &nothing, stop)
            .map(drop)
    }

    /// Brings a layer into the repository: it is there, is mounted, or is sent while it is compressed.
    pub(super) fn send(
        &self,
        site: Site<'_>,
        layer: &Digest,
        packing: Packing,
        stop: &Cancel,
    ) -> Result<Packed, Error> {
        send_layer(site, &self.reference, (layer, packing), stop)
    }

    /// Writes records and manifest; see the top of this file.
    pub(super) fn export(
        &self,
        exports: &Exports<'_>,
        place: &Place<'_>,
        records: &[Record],
        task: u64,
    ) -> Result<(), Error> {
        let site = exports.site();
        let (mut is_first, mut refused) = (true, 0);
        for _ in 0..ATTEMPTS {
            let mut current = self.current(site)?;
            // What the registry has lost is lost.
            if is_first && place.export.reset || refused == MOST_REFUSALS {
                current.cached = Cached::default();
            }
            let Some(merged) = exports.merged(place, &current.cached, records, is_first)? else {
                return Ok(());
            };
            let begun = match self.write(exports, place, (&current, &merged), task) {
                Ok(Some(begun)) => begun,
                Ok(None) => {
                    pause(exports.stop(), jitter(WAIT[0]))?;
                    continue;
                }
                Err(error) if misses_blobs(&error) && refused < MOST_REFUSALS => {
                    refused += 1;
                    pause(exports.stop(), jitter(WAIT[0]))?;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let window = begun.elapsed();
            is_first = false;
            let put = Exports::documents(place, &merged).manifest.0.digest;
            remember(site.space.store(), &self.reference, put.clone(), &merged)?;
            if self.reference.tag.is_none() {
                return Ok(());
            }
            wait_for_others(window, exports.stop())?;
            if self.now(site)? == Some(manifest::digest(&put)?) {
                return Ok(());
            }
        }
        Err(Error::Image {
            subject: self.reference.to_string(),
            reason: "others write to it all the time".to_owned(),
        })
    }

    /// Puts the documents, unless another's are there meanwhile; gives the time of the last look.
    fn write(
        &self,
        exports: &Exports<'_>,
        place: &Place<'_>,
        (current, merged): (&Current, &Cached),
        task: u64,
    ) -> Result<Option<Instant>, Error> {
        let site = exports.site();
        for layer in merged.records.layers() {
            if current.cached.records.layer(&layer.diff_id).is_none() {
                let text = format!("writing layer {}", layer.blob.digest);
                let size = layer.blob.size;
                site.ui.task_progress(task, &text, size, size);
            }
        }
        let documents = Exports::documents(place, merged);
        let say = |what: &str, desc: &Desc| {
            let text = format!("writing {what} {}", desc.digest);
            site.ui.task_progress(task, &text, desc.size, desc.size);
        };
        say("config", &documents.records.0);
        self.put_blob(exports, documents.records.1)?;
        self.put_blob(exports, documents.config.1)?;
        for (_, bytes) in merged.memories.fresh() {
            self.put_blob(exports, bytes.to_vec())?;
        }
        let begun = Instant::now();
        if self.now(site)? != current.manifest {
            return Ok(None);
        }
        let (desc, bytes) = documents.manifest;
        let kind = if place.export.image_manifest {
            "cache image manifest"
        } else {
            "cache manifest"
        };
        say(kind, &desc);
        let (name, stop) = (&self.reference, exports.stop());
        site.remote
            .put_manifest_until(name, &desc.media_type, &bytes, stop)?;
        Ok(Some(begun))
    }

    fn now(&self, site: Site<'_>) -> Result<Option<Digest>, Error> {
        let found = site.remote.resolve_at_home(&self.reference)?;
        Ok(found.map(|found| found.digest().clone()))
    }

    /// What is there: by one question, if it is what was there last.
    fn current(&self, site: Site<'_>) -> Result<Current, Error> {
        let store = site.space.store();
        let Some(digest) = self.now(site)? else {
            return Ok(Current {
                manifest: None,
                cached: Cached::default(),
            });
        };
        let known = recall(store, &self.reference)?
            .filter(|memory| memory.manifest == digest.to_string())
            .and_then(|memory| memory.cached(store));
        let cached = match known {
            Some(cached) => cached,
            None => self.read(site, &digest)?,
        };
        Ok(Current {
            manifest: Some(digest),
            cached,
        })
    }

    /// What is in a cache, by its manifest. What is no cache of ours, or a damaged one, is replaced by one.
    fn read(&self, site: Site<'_>, digest: &Digest) -> Result<Cached, Error> {
        let found = site.remote.manifest(&self.reference, Some(digest))?;
        let source = Source::Registry(site.remote, self.reference.clone());
        let document = Document::parse(digest.as_ref(), &found.bytes);
        let cached = document.and_then(|document| {
            let Some(desc) = Source::records_of(&document) else {
                return Ok(Cached::default());
            };
            Ok(Cached {
                records: source.records(desc)?,
                memories: Memories::of(&document),
            })
        });
        match cached {
            Ok(cached) => {
                remember(
                    site.space.store(),
                    &self.reference,
                    digest.to_string(),
                    &cached,
                )?;
                Ok(cached)
            }
            Err(Error::Image { subject, reason }) => {
                let name = &self.reference;
                site.ui.warning(&format!(
                    "the cache at {name} is damaged and begins anew: {subject}: {reason}"
                ));
                Ok(Cached::default())
            }
            Err(error) => Err(error),
        }
    }

    fn put_blob(&self, exports: &Exports<'_>, bytes: Vec<u8>) -> Result<(), Error> {
        let blob: Arc<dyn BlobSource> = Arc::new(MemoryBlob::new(bytes));
        let remote = exports.site().remote;
        remote.push_blob_until(&self.reference, &blob, &[], exports.stop())?;
        Ok(())
    }
}

/// Brings a layer into a repository: it is there, is mounted, or is sent while it is compressed.
pub(crate) fn send_layer(
    site: Site<'_>,
    reference: &Reference,
    (layer, packing): (&Digest, Packing),
    stop: &Cancel,
) -> Result<Packed, Error> {
    let store = site.space.store();
    let as_it_is = foreign(site, layer, packing)?;
    let ahead = packed_ahead(site, layer, packing)?;
    let mut mounts = Vec::new();
    if let Some(Origin::Repository(name)) = site.fetcher.origin(layer) {
        mounts.extend(Reference::parse(&name).ok());
    }
    if let Some(ahead) = &ahead {
        mounts.extend(places::of(store, ahead.descriptor.digest())?);
    }
    let (orders, ordered) = channel();
    let outgoing = Arc::new(Outgoing::default());
    let source: Arc<dyn BlobSource> = Arc::new(LayerSource {
        number: 0,
        ahead: ahead
            .as_ref()
            .map(|packed| (packed.descriptor.digest().clone(), packed.descriptor.size())),
        outgoing: Arc::clone(&outgoing),
        asked: AtomicBool::new(false),
        orders: orders.clone(),
        read: Arc::new(AtomicU64::new(0)),
    });
    let make = |ordered: Receiver<Order>| match ordered.recv() {
        Ok(Some(_)) => {
            let made = match &as_it_is {
                Some(desc) => fetched(site, layer, desc, &outgoing, stop),
                None => made(site, layer, packing, &outgoing, stop),
            };
            made.inspect_err(|error| outgoing.abandon(&crate::error::chain(error)))
        }
        _ => Ok(()),
    };
    let (pushed, made) = std::thread::scope(|scope| {
        let maker = scope.spawn(|| make(ordered));
        let pushed = site
            .remote
            .push_blob_until(reference, &source, &mounts, stop);
        outgoing.abandon("the export has ended");
        // A maker that is gone needs no word.
        let _ = orders.send(None);
        let made = maker.join().expect("BUG: making a layer does not panic");
        (pushed, made)
    });
    made?;
    let pushed = pushed?;
    places::remember(store, &pushed.digest, reference)?;
    let packed = ahead.or_else(|| outgoing.finished());
    packed.ok_or_else(|| Error::Layer {
        layer: layer.to_string(),
        reason: "it was sent before it was whole".to_owned(),
    })
}

/// Whether a registry did not take a manifest as it has not all blobs that it names: some do not see at once what others
/// have just sent, and some have lost what they had.
fn misses_blobs(error: &Error) -> bool {
    let Error::Push { source, .. } = error else {
        return false;
    };
    source.messages().iter().any(|message| {
        matches!(
            message.code,
            Some(
                ErrorCode::ManifestBlobUnknown | ErrorCode::BlobUnknown | ErrorCode::DigestInvalid
            )
        )
    })
}

/// A layer as another cache has it.
fn as_found(layer: &Digest, desc: &Desc) -> Result<Packed, Error> {
    let mut descriptor = desc.to_oci()?;
    if !desc.annotations.is_empty() {
        descriptor.set_annotations(Some(desc.annotations.clone().into_iter().collect()));
    }
    Ok(Packed {
        diff_id: layer.clone(),
        descriptor,
    })
}

/// What is known of the form in which a layer goes out, before it is made.
pub(crate) fn packed_ahead(
    site: Site<'_>,
    layer: &Digest,
    packing: Packing,
) -> Result<Option<Packed>, Error> {
    match foreign(site, layer, packing)? {
        Some(desc) => as_found(layer, &desc).map(Some),
        None => packed::known(site.space, layer, packing.compression, packing.force),
    }
}

/// The form in which a layer goes out, its blob in the store.
pub(crate) fn packed_here(
    site: Site<'_>,
    layer: &Digest,
    packing: Packing,
    stop: &Cancel,
) -> Result<Packed, Error> {
    if let Some(desc) = foreign(site, layer, packing)? {
        site.fetcher.ensure_blob(layer, &desc, stop)?;
        return as_found(layer, &desc);
    }
    let layers = std::slice::from_ref(layer);
    site.fetcher.ensure(layers, &|_, _, _| {}, stop)?;
    packed::packed(site.space, layer, packing.compression, packing.force)
}

fn present(site: Site<'_>, packed: &Packed, outgoing: &Outgoing) -> Result<(), Error> {
    let path = site.space.store().blob_path(packed.descriptor.digest());
    let file = std::fs::File::open(&path).map_err(|source| Error::Io {
        op: "open",
        path,
        source,
    })?;
    outgoing.begin(file);
    outgoing.complete(packed);
    Ok(())
}

fn fetched(
    site: Site<'_>,
    layer: &Digest,
    desc: &Desc,
    outgoing: &Outgoing,
    stop: &Cancel,
) -> Result<(), Error> {
    site.fetcher.ensure_blob(layer, desc, stop)?;
    present(site, &as_found(layer, desc)?, outgoing)
}

fn made(
    site: Site<'_>,
    layer: &Digest,
    packing: Packing,
    outgoing: &Outgoing,
    stop: &Cancel,
) -> Result<(), Error> {
    let layers = std::slice::from_ref(layer);
    site.fetcher.ensure(layers, &|_, _, _| {}, stop)?;
    let known = packed::known(site.space, layer, packing.compression, packing.force)?;
    let is_here = |packed: &Packed| {
        let digest = packed.descriptor.digest();
        site.space.store().blob_size(digest).is_some()
    };
    match known.filter(is_here) {
        Some(found) => present(site, &found, outgoing),
        None => packed::make(site.space, layer, packing.compression, outgoing, &|| {
            stop.is_cancelled()
        })
        .map(drop),
    }
}

/// Up to this long, another time for everybody.
fn jitter(most: Duration) -> Duration {
    let random = RandomState::new().hash_one(std::process::id());
    most.mul_f64((random % 1000) as f64 / 1000.0)
}

/// Waits after a put until another's, if one was under way since the time, must have come.
pub(super) fn await_others(begun: Instant, stop: &Cancel) -> Result<(), Error> {
    wait_for_others(begun.elapsed(), stop)
}

fn wait_for_others(window: Duration, stop: &Cancel) -> Result<(), Error> {
    let wait = (window * FACTOR).clamp(WAIT[0], WAIT[1]);
    pause(stop, wait + jitter(TICK))
}

fn pause(stop: &Cancel, time: Duration) -> Result<(), Error> {
    let begun = Instant::now();
    while begun.elapsed() < time {
        if stop.is_cancelled() {
            return Err(Error::Cancelled);
        }
        std::thread::sleep(TICK.min(time));
    }
    Ok(())
}
