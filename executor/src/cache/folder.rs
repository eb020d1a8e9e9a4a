//! Caches in folders: OCI layouts, in whose index a cache has a tag. Writers take turns by a lock on the folder, and the
//! index is replaced when all it names is there.

use super::export::{Exports, Outgoing, Place, Site, foreign};
use super::memories::Memories;
use super::read::{Cached, Source};
use crate::Error;
use crate::build::layout::{self, Layout};
use crate::build::manifest::{self, Desc, Document, Index};
use crate::layer::packed::{self, Packed};
use crate::output::dest::Destination;
use crate::push::Packing;
use oci_spec::image::Digest;
use planner::scheduler::Cancel;
use rustix::fs::{Access, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often it is looked whether it is one's turn.
const TICK: Duration = Duration::from_millis(20);
/// What no index names goes after this time: no build that may still name it takes as long.
const ABANDONED: Duration = Duration::from_secs(3 * 24 * 60 * 60);
const MARKER: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// A folder and a tag that a cache is exported to.
#[derive(Debug)]
pub(super) struct FolderPlace {
    dir: PathBuf,
    tag: String,
}

/// What a folder has by a tag or a digest, not while somebody writes it.
pub(super) fn read(
    dir: &Path,
    tag: Option<&str>,
    digest: Option<&str>,
    stop: &Cancel,
) -> Result<(Source<'static>, Document), Error> {
    let _lock = lock(dir, FlockOperation::LockShared, stop)?;
    let source = Source::folder(dir)?;
    let layout = Layout::known(dir);
    let entries = layout.select(tag, digest)?;
    let [only] = entries.as_slice() else {
        return Ok((source, Document::Index(Index::of(entries))));
    };
    let bytes = layout.blob(only, manifest::MANIFEST_LIMIT)?;
    let document = Document::parse(&only.digest, &bytes)?;
    Ok((source, document))
}

/// Waits for the folder until it is this process's turn, or until it is told to stop.
pub(super) fn lock(dir: &Path, operation: FlockOperation, stop: &Cancel) -> Result<File, Error> {
    // Something else in its place would be waited for.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = rustix::fs::open(dir, flags, Mode::empty())
        .map(File::from)
        .map_err(|errno| failed("open", dir, io::Error::from(errno)))?;
    let at_once = match operation {
        FlockOperation::LockShared => FlockOperation::NonBlockingLockShared,
        _ => FlockOperation::NonBlockingLockExclusive,
    };
    loop {
        match rustix::fs::flock(&folder, at_once) {
            Ok(()) => return Ok(folder),
            Err(Errno::WOULDBLOCK | Errno::INTR) if stop.is_cancelled() => {
                return Err(Error::Cancelled);
            }
            Err(Errno::WOULDBLOCK | Errno::INTR) => std::thread::sleep(TICK),
            Err(errno) => return Err(failed("lock", dir, io::Error::from(errno))),
        }
    }
}

pub(super) fn failed(op: &'static str, path: &Path, source: io::Error) -> Error {
    Error::Io {
        op,
        path: path.to_owned(),
        source,
    }
}

impl FolderPlace {
    pub(super) fn new(dir: &Path, tag: &str) -> Self {
        Self {
            dir: dir.to_owned(),
            tag: tag.to_owned(),
        }
    }

    /// Makes the folder, and sees whether files can be put there.
    pub(super) fn ask(&self) -> Result<(), Error> {
        fs::create_dir_all(&self.dir).map_err(|source| failed("create", &self.dir, source))?;
        rustix::fs::access(&self.dir, Access::WRITE_OK | Access::EXEC_OK)
            .map_err(|errno| failed("write to", &self.dir, io::Error::from(errno)))
    }

    pub(super) fn blob_path(&self, digest: &str) -> PathBuf {
        Layout::known(&self.dir).path_of(digest)
    }

    /// Copies a layer's blob into the folder.
    pub(super) fn copy(
        &self,
        site: Site<'_>,
        layer: &Digest,
        packing: Packing,
        stop: &Cancel,
    ) -> Result<Packed, Error> {
        let packed = match foreign(site, layer, packing)? {
            Some(desc) => {
                let mut descriptor = desc.to_oci()?;
                if !desc.annotations.is_empty() {
                    descriptor.set_annotations(Some(desc.annotations.into_iter().collect()));
                }
                let packed = Packed {
                    diff_id: layer.clone(),
                    descriptor,
                };
                if !self.has(&packed) || site.imports.was_refused() {
                    let blob = Desc::of(&packed.descriptor);
                    site.fetcher.ensure_blob(layer, &blob, stop)?;
                }
                packed
            }
            None => {
                let layers = std::slice::from_ref(layer);
                site.fetcher.ensure(layers, &|_, _, _| {}, stop)?;
                packed::packed(site.space, layer, packing.compression, packing.force)?
            }
        };
        if self.has(&packed) && !site.imports.was_refused() {
            return Ok(packed);
        }
        let digest = packed.descriptor.digest();
        let mut from = site.space.store().open_blob(digest)?;
        self.place(&self.blob_path(digest.as_ref()), &mut from)?;
        Ok(packed)
    }

    fn has(&self, packed: &Packed) -> bool {
        let path = self.blob_path(packed.descriptor.digest().as_ref());
        fs::metadata(path).is_ok_and(|found| found.len() == packed.descriptor.size())
    }

    /// Writes a file that is visible when it is whole.
    pub(super) fn place(&self, path: &Path, from: &mut dyn Read) -> Result<(), Error> {
        let mut to = Destination::file(path)?;
        io::copy(from, &mut to).map_err(|source| failed("write", path, source))?;
        to.commit()
    }

    pub(super) fn put(&self, desc: &Desc, bytes: &[u8]) -> Result<(), Error> {
        let path = self.blob_path(&desc.digest);
        if fs::metadata(&path).is_ok_and(|found| found.len() == desc.size) {
            return Ok(());
        }
        self.place(&path, &mut &*bytes)
    }

    /// Writes records, manifest and index.
    pub(super) fn export(
        &self,
        exports: &Exports<'_>,
        place: &Place<'_>,
        records: &[Outgoing],
        task: u64,
    ) -> Result<(), Error> {
        let site = exports.site();
        fs::create_dir_all(&self.dir).map_err(|source| failed("create", &self.dir, source))?;
        let _lock = lock(&self.dir, FlockOperation::LockExclusive, exports.stop())?;
        let mut index = self.index()?;
        let old = index
            .manifests
            .iter()
            .find(|entry| layout::has_tag(entry, &self.tag))
            .cloned();
        let (before, parts) = match &old {
            Some(old) => self.before(site, old)?,
            None => (Cached::default(), Vec::new()),
        };
        // Whoever wrote last may have removed what had been brought here.
        for record in records {
            for link in &record.found.output.chain {
                place.forget_unless(&link.layer, &|blob| {
                    fs::metadata(self.blob_path(&blob.digest)).is_ok()
                });
            }
        }
        let known = if place.export.reset {
            Cached::default()
        } else {
            before
        };
        let Some(merged) = exports.merged(place, &known, records, true)? else {
            return Ok(());
        };
        for layer in merged.records.layers() {
            let (size, digest) = (layer.blob.size, &layer.blob.digest);
            let text = format!("writing layer {digest}");
            site.ui.task_progress(task, &text, size, size);
        }
        let documents = Exports::documents(place, &merged);
        self.put(&documents.records.0, &documents.records.1)?;
        self.put(&documents.config.0, &documents.config.1)?;
        for (desc, bytes) in merged.memories.fresh() {
            self.put(desc, bytes)?;
        }
        let (desc, bytes) = documents.manifest;
        let text = format!("writing cache image manifest {}", desc.digest);
        site.ui.task_progress(task, &text, desc.size, desc.size);
        self.put(&desc, &bytes)?;
        let mut entry = desc;
        entry
            .annotations
            .insert(layout::REF_NAME.to_owned(), self.tag.clone());
        index
            .manifests
            .retain(|entry| !layout::has_tag(entry, &self.tag));
        index.manifests.push(entry);
        self.write_index(&index)?;
        self.remove_unused(&index, parts);
        Ok(())
    }

    /// Makes it a layout with this index.
    pub(super) fn write_index(&self, index: &Index) -> Result<(), Error> {
        let bytes = manifest::bytes_of(index);
        self.place(&self.dir.join("oci-layout"), &mut &*MARKER)?;
        self.place(&self.dir.join("index.json"), &mut bytes.as_slice())
    }

    pub(super) fn index(&self) -> Result<Index, Error> {
        let path = self.dir.join("index.json");
        if !path.exists() {
            return Ok(Index::of(Vec::new()));
        }
        Layout::known(&self.dir).index()
    }

    /// The cache that is there, and all blobs that its manifest names.
    fn before(&self, site: Site<'_>, old: &Desc) -> Result<(Cached, Vec<String>), Error> {
        let read = || -> Result<(Cached, Vec<String>), Error> {
            let source = Source::folder(&self.dir)?;
            let bytes = Layout::known(&self.dir).blob(old, manifest::MANIFEST_LIMIT)?;
            let document = Document::parse(&old.digest, &bytes)?;
            let Some(desc) = Source::records_of(&document) else {
                // Somebody else's: it stays, without its tag.
                return Ok((Cached::default(), Vec::new()));
            };
            let records = source.records(desc)?;
            let is_there = |blob: &Desc| {
                fs::metadata(self.blob_path(&blob.digest))
                    .is_ok_and(|found| found.len() == blob.size)
            };
            let there = records.with_blobs(&|diff_id| {
                let layer = records.layer(diff_id)?;
                is_there(&layer.blob).then(|| layer.blob.clone())
            });
            let mut parts = blobs_of(&document);
            parts.push(old.digest.clone());
            let there = Cached {
                records: there,
                memories: Memories::of(&document).only(is_there),
            };
            Ok((there, parts))
        };
        match read() {
            Err(error @ (Error::Image { .. } | Error::Io { .. })) => {
                let dir = self.dir.display();
                let error = crate::error::chain(&error);
                site.ui.warning(&format!(
                    "the cache in {dir} is damaged and begins anew: {error}"
                ));
                Ok((Cached::default(), Vec::new()))
            }
            read => read,
        }
    }

    /// Removes what only the replaced cache needed, and what builds left that were killed.
    pub(super) fn remove_unused(&self, index: &Index, mut parts: Vec<String>) {
        let layout = Layout::known(&self.dir);
        let (mut used, mut is_ours) = (HashSet::new(), true);
        for entry in &index.manifests {
            used.insert(entry.digest.clone());
            let bytes = layout.blob(entry, manifest::MANIFEST_LIMIT);
            match bytes.and_then(|bytes| Document::parse(&entry.digest, &bytes)) {
                Ok(document) => {
                    is_ours &= matches!(document, Document::Manifest(_))
                        || Source::records_of(&document).is_some();
                    used.extend(blobs_of(&document));
                }
                // What cannot be read may need anything.
                Err(_) => return,
            }
        }
        // What an index of somebody else's names may name others.
        if is_ours {
            parts.extend(self.abandoned());
        }
        // They are what somebody wrote into a manifest: a path is no digest, and leads elsewhere.
        parts.retain(|digest| !used.contains(digest) && manifest::digest(digest).is_ok());
        for digest in parts {
            // What stays is only in the way.
            let _ = fs::remove_file(self.blob_path(&digest));
        }
    }

    /// Blobs that have been there for long.
    fn abandoned(&self) -> Vec<String> {
        let is_old = |entry: &fs::DirEntry| {
            let age = entry.metadata().ok()?.modified().ok()?.elapsed().ok()?;
            (age > ABANDONED).then_some(())
        };
        let entries = fs::read_dir(self.dir.join("blobs/sha256"))
            .into_iter()
            .flatten();
        entries
            .flatten()
            .filter(|entry| is_old(entry).is_some())
            .filter_map(|entry| {
                let digest = format!("sha256:{}", entry.file_name().to_str()?);
                manifest::digest(&digest).ok().map(|_| digest)
            })
            .collect()
    }
}

pub(super) fn blobs_of(document: &Document) -> Vec<String> {
    let (config, parts) = match document {
        Document::Manifest(found) => (Some(&found.config), &found.layers),
        Document::Index(found) => (None, &found.manifests),
    };
    let all = config.into_iter().chain(parts);
    all.map(|desc| desc.digest.clone()).collect()
}
