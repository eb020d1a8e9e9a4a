//! Where the content of cache mounts lies: beside a cache, in the same registry or folder, under its tag with `-mounts`.
//!
//! It is an OCI image manifest. Its layers are, for each mount, the document and then the packs that it names. What it
//! names is checked when it is read.

use crate::Error;
use crate::build::layout::{self, Layout};
use crate::build::manifest::{self, Desc, Document, Manifest};
use crate::cache::folder::{self, FolderPlace};
use crate::cache::read::Source;
use crate::cache::registry::{RegistryPlace, await_others};
use crate::remote::Remote;
use crate::request::{CacheImport, CacheTarget};
use oci_spec::image::Digest;
use planner::scheduler::Cancel;
use registry_client::{BlobSource, MemoryBlob, Reference};
use rustix::fs::FlockOperation;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

/// Media types of the config, of documents and of packs.
const CONFIG_TYPE: &str = "application/vnd.kiln.cache.mounts.config.v1+json";
const DOC_TYPE: &str = "application/vnd.kiln.cache.mount.v1+zstd";
const PACK_TYPE: &str = "application/vnd.kiln.cache.chunks.v1+zstd";
/// Annotations of a document: the mount's identity, and the day of its last export.
const MOUNT: &str = "vnd.kiln.cache.mount.id";
const SEEN: &str = "vnd.kiln.cache.mount.seen";
/// What the tag ends with.
const SUFFIX: &str = "-mounts";
/// Longest tag of a registry.
const LONGEST_TAG: usize = 128;
/// How often others may come between before an export gives up.
const ATTEMPTS: usize = 40;
/// Days after which a mount goes that nobody has exported.
const MOST_DAYS: u32 = 90;
/// Most mounts at one place.
const MOST_MOUNTS: usize = 500;

/// One mount at a place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Listed {
    pub(super) id: String,
    pub(super) seen: u32,
    pub(super) doc: Desc,
    pub(super) packs: Vec<Desc>,
}

impl Listed {
    pub(super) fn new(id: &str, seen: u32, doc: &[u8]) -> Self {
        Self {
            id: id.to_owned(),
            seen,
            doc: Desc::new(DOC_TYPE, &manifest::digest_of(doc), doc.len() as u64),
            packs: Vec::new(),
        }
    }

    pub(super) fn add_pack(&mut self, digest: &str, size: u64) -> Result<(), Error> {
        self.packs.push(Self::pack(digest, size)?);
        Ok(())
    }

    /// The blob of a pack.
    pub(super) fn pack(digest: &str, size: u64) -> Result<Desc, Error> {
        Ok(Desc::new(PACK_TYPE, &manifest::digest(digest)?, size))
    }
}

/// What is at a place.
#[derive(Clone, Default, Debug)]
pub(super) struct Catalog {
    manifest: Option<Digest>,
    pub(super) mounts: Vec<Listed>,
}

impl Catalog {
    pub(super) fn find(&self, id: &str) -> Option<&Listed> {
        self.mounts.iter().find(|listed| listed.id == id)
    }

    fn of(document: &Document) -> Option<Vec<Listed>> {
        let Document::Manifest(found) = document else {
            return None;
        };
        if found.config.media_type != CONFIG_TYPE {
            return None;
        }
        let mut mounts: Vec<Listed> = Vec::new();
        for part in &found.layers {
            match part.media_type.as_str() {
                DOC_TYPE => mounts.push(Listed {
                    id: part.annotations.get(MOUNT)?.clone(),
                    seen: part.annotations.get(SEEN)?.parse().ok()?,
                    doc: part.clone(),
                    packs: Vec::new(),
                }),
                PACK_TYPE => mounts.last_mut()?.packs.push(part.clone()),
                _ => return None,
            }
        }
        Some(mounts)
    }

    /// With these in place of those of their names.
    fn with(&self, new: &[Listed], today: u32) -> Self {
        let mut mounts: Vec<Listed> = self.mounts.clone();
        mounts.retain(|old| {
            old.seen.saturating_add(MOST_DAYS) >= today && new.iter().all(|new| new.id != old.id)
        });
        mounts.sort_by_key(|old| std::cmp::Reverse(old.seen));
        mounts.truncate(MOST_MOUNTS.saturating_sub(new.len()));
        mounts.extend(new.iter().cloned());
        mounts.sort_by(|one, other| one.id.cmp(&other.id));
        Self {
            manifest: None,
            mounts,
        }
    }

    fn document(&self) -> (Desc, Vec<u8>, Vec<u8>) {
        let config = manifest::bytes_of(&serde_json::json!({ "version": 1 }));
        let mut layers = Vec::new();
        for listed in &self.mounts {
            let mut doc = listed.doc.clone();
            doc.annotations.insert(MOUNT.to_owned(), listed.id.clone());
            doc.annotations
                .insert(SEEN.to_owned(), listed.seen.to_string());
            layers.push(doc);
            layers.extend(listed.packs.iter().cloned());
        }
        let document = Manifest {
            schema_version: 2,
            media_type: manifest::OCI_MANIFEST.to_owned(),
            config: Desc::new(
                CONFIG_TYPE,
                &manifest::digest_of(&config),
                config.len() as u64,
            ),
            layers,
            annotations: BTreeMap::new(),
        };
        let bytes = manifest::bytes_of(&document);
        let digest = manifest::digest_of(&bytes);
        let desc = Desc::new(manifest::OCI_MANIFEST, &digest, bytes.len() as u64);
        (desc, bytes, config)
    }
}

/// A place.
pub(super) enum Shelf<'a> {
    Registry(&'a Remote, Reference),
    Folder { dir: PathBuf, tag: String },
}

fn tag_of(tag: &str) -> String {
    let room = LONGEST_TAG - SUFFIX.len();
    let tag: String = tag.chars().take(room).collect();
    format!("{tag}{SUFFIX}")
}

impl<'a> Shelf<'a> {
    fn registry(remote: &'a Remote, name: &str) -> Result<Option<Self>, Error> {
        let mut reference = RegistryPlace::parse(name)?;
        let Some(tag) = &reference.tag else {
            return Ok(None);
        };
        reference.tag = Some(tag_of(tag));
        reference.digest = None;
        Ok(Some(Self::Registry(remote, reference)))
    }

    fn folder(dir: &Path, tag: &str) -> Self {
        Self::Folder {
            dir: dir.to_owned(),
            tag: tag_of(tag),
        }
    }

    /// The one beside a cache that is read, if that is known by a tag.
    pub(super) fn beside(import: &CacheImport, remote: &'a Remote) -> Result<Option<Self>, Error> {
        match import {
            CacheImport::Registry { reference } => Self::registry(remote, reference),
            CacheImport::Local {
                digest: Some(_),
                tag: None,
                ..
            } => Ok(None),
            CacheImport::Local { src, tag, .. } => {
                let tag = tag.as_deref().unwrap_or("latest");
                Ok(Some(Self::folder(src, tag)))
            }
        }
    }

    /// The one beside a cache that is written, if that has a place of its own and a tag.
    pub(super) fn for_export(
        target: &CacheTarget,
        remote: &'a Remote,
    ) -> Result<Option<Self>, Error> {
        match target {
            CacheTarget::Registry { reference } => Self::registry(remote, reference),
            CacheTarget::Local { dest, tag } => Ok(Some(Self::folder(dest, tag))),
            CacheTarget::Inline => Ok(None),
        }
    }

    pub(super) fn name(&self) -> String {
        match self {
            Self::Registry(_, reference) => reference.to_string(),
            Self::Folder { dir, tag } => format!("local:{}:{tag}", dir.display()),
        }
    }

    /// What is there; nothing where there is nothing, or something else.
    pub(super) fn read(&self, stop: &Cancel) -> Result<Catalog, Error> {
        match self {
            Self::Registry(remote, reference) => {
                let Some(found) = remote.resolve_at_home(reference)? else {
                    return Ok(Catalog::default());
                };
                let digest = found.digest().clone();
                let found = remote.manifest(reference, Some(&digest))?;
                let document = Document::parse(&reference.to_string(), &found.bytes)?;
                Ok(Catalog {
                    mounts: Catalog::of(&document).unwrap_or_default(),
                    manifest: Some(digest),
                })
            }
            Self::Folder { dir, tag } => {
                if !dir.join("index.json").exists() {
                    return Ok(Catalog::default());
                }
                let _lock = folder::lock(dir, FlockOperation::LockShared, stop)?;
                let layout = Layout::known(dir);
                let index = layout.index()?;
                let entry = index
                    .manifests
                    .iter()
                    .find(|entry| layout::has_tag(entry, tag));
                let Some(entry) = entry else {
                    return Ok(Catalog::default());
                };
                let bytes = layout.blob(entry, manifest::MANIFEST_LIMIT)?;
                let document = Document::parse(&entry.digest, &bytes)?;
                Ok(Catalog {
                    mounts: Catalog::of(&document).unwrap_or_default(),
                    manifest: Some(entry.digest()?),
                })
            }
        }
    }

    /// A whole blob, verified.
    pub(super) fn blob(&self, desc: &Desc, limit: u64) -> Result<Vec<u8>, Error> {
        match self {
            Self::Registry(remote, reference) => {
                Source::Registry(remote, reference.clone()).small(desc, limit)
            }
            Self::Folder { dir, .. } => Layout::known(dir).blob(desc, limit),
        }
    }

    /// Brings a blob there, if it is not there.
    pub(super) fn put(&self, desc: &Desc, bytes: Vec<u8>, stop: &Cancel) -> Result<(), Error> {
        match self {
            Self::Registry(remote, reference) => {
                let blob: Arc<dyn BlobSource> = Arc::new(MemoryBlob::new(bytes));
                remote.push_blob_until(reference, &blob, &[], stop)?;
                Ok(())
            }
            Self::Folder { dir, tag } => FolderPlace::new(dir, tag).put(desc, &bytes),
        }
    }

    /// Lists these mounts, whose blobs are there, in place of those of their names. Who lists other mounts at the same
    /// time is not overwritten as far as it can be seen; of the same mount the last one stays. Not if blobs that it uses
    /// are not there any more.
    pub(super) fn list(&self, new: &[Listed], today: u32, stop: &Cancel) -> Result<bool, Error> {
        match self {
            Self::Registry(remote, reference) => {
                self.list_in_registry((remote, reference), new, today, stop)
            }
            Self::Folder { dir, tag } => list_in_folder(self, (dir, tag), (new, today), stop),
        }
    }

    /// As with records: put, and looked at again once another's put that was under way must have come; see
    /// `cache::registry`.
    fn list_in_registry(
        &self,
        (remote, reference): (&Remote, &Reference),
        new: &[Listed],
        today: u32,
        stop: &Cancel,
    ) -> Result<bool, Error> {
        let mut missing = new.to_vec();
        for _ in 0..ATTEMPTS {
            let current = self.read(stop)?;
            let (desc, bytes, config) = current.with(&missing, today).document();
            let config: Arc<dyn BlobSource> = Arc::new(MemoryBlob::new(config));
            remote.push_blob_until(reference, &config, &[], stop)?;
            let begun = Instant::now();
            let now = remote.resolve_at_home(reference)?;
            if now.map(|now| now.digest().clone()) != current.manifest {
                continue;
            }
            remote.put_manifest_until(reference, &desc.media_type, &bytes, stop)?;
            await_others(begun, stop)?;
            let after = self.read(stop)?;
            if after.manifest == Some(desc.digest()?) {
                return Ok(true);
            }
            // Who wrote the same mount later wins; who did not know of it does not.
            let old = |id: &str| current.find(id).map(|old| &old.doc.digest);
            missing.retain(|new| {
                let there = after.find(&new.id).map(|there| &there.doc.digest);
                there != Some(&new.doc.digest) && there == old(&new.id)
            });
            if missing.is_empty() {
                return Ok(true);
            }
        }
        Err(Error::Image {
            subject: reference.to_string(),
            reason: "others write to it all the time".to_owned(),
        })
    }
}

fn list_in_folder(
    shelf: &Shelf<'_>,
    (dir, tag): (&Path, &str),
    (new, today): (&[Listed], u32),
    stop: &Cancel,
) -> Result<bool, Error> {
    let current = shelf.read(stop)?;
    let place = FolderPlace::new(dir, tag);
    let _lock = folder::lock(dir, FlockOperation::LockExclusive, stop)?;
    let needed = new
        .iter()
        .flat_map(|listed| listed.packs.iter().chain([&listed.doc]));
    for desc in needed {
        if !place.blob_path(&desc.digest).exists() {
            return Ok(false);
        }
    }
    let mut index = place.index()?;
    let is_old = |entry: &Desc| layout::has_tag(entry, tag);
    let old = index.manifests.iter().find(|entry| is_old(entry)).cloned();
    // Read before the lock was there: another may have written.
    let current = match &old {
        Some(old)
            if current.manifest.as_ref().map(ToString::to_string) != Some(old.digest.clone()) =>
        {
            let bytes = Layout::known(dir).blob(old, manifest::MANIFEST_LIMIT)?;
            let document = Document::parse(&old.digest, &bytes)?;
            Catalog {
                mounts: Catalog::of(&document).unwrap_or_default(),
                manifest: None,
            }
        }
        _ => current,
    };
    let (desc, bytes, config) = current.with(new, today).document();
    let config_desc = Desc::new(
        CONFIG_TYPE,
        &manifest::digest_of(&config),
        config.len() as u64,
    );
    place.put(&config_desc, &config)?;
    place.put(&desc, &bytes)?;
    let mut entry = desc;
    entry
        .annotations
        .insert(layout::REF_NAME.to_owned(), tag.to_owned());
    index.manifests.retain(|entry| !is_old(entry));
    index.manifests.push(entry);
    place.write_index(&index)?;
    let mut unused = Vec::new();
    if let Some(old) = old {
        let parts = current.mounts.iter().flat_map(|listed| {
            let packs = listed.packs.iter().map(|pack| pack.digest.clone());
            packs.chain([listed.doc.digest.clone()])
        });
        unused.extend(parts);
        unused.push(old.digest);
    }
    place.remove_unused(&index, unused);
    Ok(true)
}
