//! Garbage collection: marks what references (and cache records) reach, removes the rest, and sums up what is there.
//! It reads manifests and configs only as far as to find the digests in them.

use crate::Store;
use crate::error::Error;
use crate::file;
use crate::layer;
use crate::record;
use crate::refs;
use crate::scratch;
use crate::stat_cache;
use oci_spec::image::Digest;
use rustix::fs::FlockOperation;
use serde_json::Value;
use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// Manifests, indexes and configs are smaller; anything larger holds no references.
const DOCUMENT_LIMIT: u64 = 16 << 20;
const LOG_AGE: Duration = Duration::from_secs(7 * 24 * 3600);
/// How long another process may keep us from being alone, and how often that is looked at.
const PATIENCE: Duration = Duration::from_millis(300);
const POLL: Duration = Duration::from_millis(10);

/// How much may go, for [`Store::prune`].
#[derive(Clone, Debug, Default)]
pub struct PruneOptions {
    /// Also drop cache records, cache mounts, stat caches, logs, kept sandboxes and layers no reference uses (`--all`); otherwise only
    /// what nothing can reach, and old logs.
    pub all: bool,
    /// Report only.
    pub dry_run: bool,
    /// References that go too: names, or digests of untagged images.
    pub references: Vec<String>,
    /// Keeps cache records, cache mounts, stat caches and logs that changed after this time.
    pub older_than: Option<SystemTime>,
}

/// What pruning removes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum PrunedKind {
    /// A name, or the record of an untagged image.
    Reference,
    /// A manifest, config or serialised layer.
    Blob,
    /// A layer's tree and index.
    Layer,
    /// A cache record, or which layer first had some content.
    Record,
    /// The stat cache of a context.
    StatCache,
    /// A cache mount.
    Mount,
    /// A build log.
    Log,
    /// What a failed step left, kept to be looked at.
    Kept,
    /// What a dead process left.
    Leftover,
}

/// What pruning did.
#[derive(Clone, Debug, Default)]
pub struct PruneReport {
    /// Bytes freed (disk blocks).
    pub bytes: u64,
    /// Names of what went, for people (`layer sha256:...`, `record ...`).
    pub removed: Vec<String>,
    /// Pieces and bytes (disk blocks) by kind.
    pub kinds: BTreeMap<PrunedKind, (u64, u64)>,
    /// What could not be removed, with the reason. It is invisible to builds and stays in [`Store::leftovers`].
    pub failed: Vec<String>,
}

/// Bytes on disk, by kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Usage {
    /// Blobs: manifests, configs, serialised layers.
    pub blobs: u64,
    /// Layers: trees and indexes.
    pub layers: u64,
    /// Cache records and identities.
    pub records: u64,
    /// Stat caches of contexts.
    pub stat_caches: u64,
    /// Cache mounts.
    pub mounts: u64,
    /// Build logs.
    pub logs: u64,
    /// Kept sandboxes of failed steps.
    pub kept: u64,
    /// Scratch folders of running builds and leftovers.
    pub scratch: u64,
}

impl Usage {
    /// All of it.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.blobs
            + self.layers
            + self.records
            + self.stat_caches
            + self.mounts
            + self.logs
            + self.kept
            + self.scratch
    }
}

/// Pieces that a store holds, by kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Names and untagged images.
    pub references: u64,
    /// Blobs.
    pub blobs: u64,
    /// Layers.
    pub layers: u64,
    /// Cache records and identities.
    pub records: u64,
    /// Stat caches.
    pub stat_caches: u64,
    /// Cache mounts.
    pub mounts: u64,
    /// Build logs.
    pub logs: u64,
    /// Kept sandboxes of failed steps.
    pub kept: u64,
    /// Scratch folders.
    pub scratch: u64,
}

impl Store {
    /// Drops what is not needed. `remove_tree` deletes a folder (in a user namespace when rootless;
    /// [`crate::remove_tree`] where all files are ours).
    ///
    /// Each removal is a rename out of sight first, so killing it leaves a sound store.
    ///
    /// # Errors
    /// [`Error::Busy`] while another process has the store open (not for a dry run); unreadable folders.
    pub fn prune(
        &self,
        options: &PruneOptions,
        remove_tree: &dyn Fn(&Path) -> io::Result<()>,
    ) -> Result<PruneReport, Error> {
        if options.dry_run {
            return Pruning::new(self, options, remove_tree).run();
        }
        self.alone(|| Pruning::new(self, options, remove_tree).run())
    }

    /// Does what only a process may do that has the store to itself, such as removing what others might be about to use.
    ///
    /// # Errors
    /// [`Error::Busy`] while another process has the store open; those of the work.
    pub fn alone<T, E: From<Error>>(&self, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let path = self.inner.layout.lock();
        let lock = &self.inner.lock;
        // A program that another thread is just starting holds a copy of the lock until its exec.
        let patience = Instant::now() + PATIENCE;
        while !file::try_lock(lock, FlockOperation::NonBlockingLockExclusive, &path)? {
            // The attempt has cost us the shared lock (flock(2), "Converting a lock").
            file::lock(lock, FlockOperation::LockShared, &path)?;
            if Instant::now() >= patience {
                return Err(E::from(Error::Busy {
                    path: self.root().to_owned(),
                }));
            }
            std::thread::sleep(POLL);
        }
        let done = work();
        file::lock(lock, FlockOperation::LockShared, &path)?;
        done
    }

    /// Bytes on disk by kind. Walks everything, trees included.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let of = |name| file::disk_bytes(&self.inner.layout.folder(name));
        Usage {
            blobs: of("blobs"),
            layers: of("layers"),
            records: of("records") + of("identities"),
            stat_caches: of("stat"),
            mounts: of("mounts"),
            logs: of("logs"),
            kept: of("kept"),
            scratch: file::disk_bytes(&self.inner.layout.scratch()),
        }
    }
}

impl Store {
    /// Pieces by kind.
    ///
    /// # Errors
    /// A folder that cannot be read.
    pub fn count(&self) -> Result<Counts, Error> {
        let layout = &self.inner.layout;
        let flat =
            |name| -> Result<u64, Error> { Ok(sorted_entries(&layout.folder(name))?.len() as u64) };
        let fanned = |name| -> Result<u64, Error> {
            let mut count = 0;
            for part in sorted_entries(&layout.folder(name))? {
                count += sorted_entries(&part)?.len() as u64;
            }
            Ok(count)
        };
        Ok(Counts {
            references: self.references()?.len() as u64,
            blobs: fanned("blobs")?,
            layers: fanned("layers")?,
            records: fanned("records")? + fanned("identities")?,
            stat_caches: flat("stat")?,
            mounts: flat("mounts")?,
            logs: flat("logs")?,
            kept: flat("kept")?,
            scratch: sorted_entries(&layout.scratch())?.len() as u64,
        })
    }
}

struct Pruning<'a> {
    store: &'a Store,
    options: &'a PruneOptions,
    remove_tree: &'a dyn Fn(&Path) -> io::Result<()>,
    live: HashSet<Digest>,
    report: PruneReport,
}

impl<'a> Pruning<'a> {
    fn new(
        store: &'a Store,
        options: &'a PruneOptions,
        remove_tree: &'a dyn Fn(&Path) -> io::Result<()>,
    ) -> Self {
        Self {
            store,
            options,
            remove_tree,
            live: HashSet::new(),
            report: PruneReport::default(),
        }
    }

    /// Users go before what they use, so that a kill in between leaves no dangling record.
    fn run(mut self) -> Result<PruneReport, Error> {
        self.leftovers();
        self.kept()?;
        self.references()?;
        self.records()?;
        self.layers()?;
        self.identities()?;
        self.blobs()?;
        self.stat_caches()?;
        self.logs()?;
        self.mounts()?;
        Ok(self.report)
    }

    /// Kept sandboxes go with `all`; those that stay keep their layers.
    fn kept(&mut self) -> Result<(), Error> {
        for kept in self.store.kept()? {
            if self.options.all && !self.is_recent(kept.path()) {
                let name = format!("kept sandbox {}", kept.id());
                self.remove(PrunedKind::Kept, kept.path(), name);
                continue;
            }
            for layer in kept.layers()? {
                self.mark(layer)?;
            }
        }
        Ok(())
    }

    fn references(&mut self) -> Result<(), Error> {
        for image in self.store.references()? {
            let key = if image.name.is_empty() {
                image.descriptor.digest().as_ref()
            } else {
                &image.name
            };
            if !self.options.references.iter().any(|name| name == key) {
                self.mark(image.descriptor.digest().clone())?;
                continue;
            }
            if !self.options.dry_run {
                self.store.untag(key)?;
            }
            self.count(PrunedKind::Reference, 0, format!("reference {key}"));
        }
        for path in self.store.reference_files()? {
            if !refs::is_sound(&path) {
                let name = format!("damaged reference {}", display_name(&path));
                self.remove(PrunedKind::Reference, &path, name);
            }
        }
        Ok(())
    }

    fn count(&mut self, kind: PrunedKind, bytes: u64, name: String) {
        self.report.bytes += bytes;
        self.report.removed.push(name);
        let counted = self.report.kinds.entry(kind).or_default();
        *counted = (counted.0 + 1, counted.1 + bytes);
    }

    /// Whether something is too new to go.
    fn is_recent(&self, path: &Path) -> bool {
        let Some(limit) = self.options.older_than else {
            return false;
        };
        let modified = fs::symlink_metadata(path).and_then(|meta| meta.modified());
        modified.is_ok_and(|time| time > limit)
    }

    /// Marks a digest and all it reaches, be it a layer's diff_id or a blob's digest.
    fn mark(&mut self, digest: Digest) -> Result<(), Error> {
        let mut pending = vec![digest];
        while let Some(digest) = pending.pop() {
            if !self.live.insert(digest.clone()) {
                continue;
            }
            if let Some(meta) = self.store.layer(&digest)? {
                let blobs = meta.blobs.iter();
                pending.extend(blobs.map(|blob| blob.descriptor.digest().clone()));
                continue;
            }
            if let Some(document) = document(&self.store.blob_path(&digest)) {
                pending.extend(digests_in(&document));
            }
        }
        Ok(())
    }

    fn records(&mut self) -> Result<(), Error> {
        for path in self.fanned_out("records")? {
            let record = record::read(&path)?;
            let name = format!("record {}", fanned_name(&path));
            match record {
                Some(record) if !self.options.all || self.is_recent(&path) => {
                    for layer in record.layers {
                        self.mark(layer)?;
                    }
                }
                _ => self.remove(PrunedKind::Record, &path, name),
            }
        }
        Ok(())
    }

    fn layers(&mut self) -> Result<(), Error> {
        for (digest, path) in self.by_digest("layers")? {
            if !self.live.contains(&digest) {
                self.remove(PrunedKind::Layer, &path, format!("layer {digest}"));
            }
        }
        Ok(())
    }

    fn identities(&mut self) -> Result<(), Error> {
        for path in self.fanned_out("identities")? {
            let known =
                layer::read_identity(&path)?.is_some_and(|layer| self.live.contains(&layer));
            if !known {
                let name = format!("identity {}", fanned_name(&path));
                self.remove(PrunedKind::Record, &path, name);
            }
        }
        Ok(())
    }

    fn blobs(&mut self) -> Result<(), Error> {
        for (digest, path) in self.by_digest("blobs")? {
            if !self.live.contains(&digest) {
                self.remove(PrunedKind::Blob, &path, format!("blob {digest}"));
            }
        }
        Ok(())
    }

    fn stat_caches(&mut self) -> Result<(), Error> {
        for path in self.entries("stat")? {
            let is_wanted = !self.options.all || self.is_recent(&path);
            if !is_wanted || stat_cache::live_context(&path).is_none() {
                let name = format!("stat cache {}", display_name(&path));
                self.remove(PrunedKind::StatCache, &path, name);
            }
        }
        Ok(())
    }

    fn logs(&mut self) -> Result<(), Error> {
        let now = SystemTime::now();
        for path in self.entries("logs")? {
            let modified = fs::symlink_metadata(&path).and_then(|meta| meta.modified());
            let age = modified.map(|time| now.duration_since(time).unwrap_or_default());
            let is_wanted = !self.options.all || self.is_recent(&path);
            if !is_wanted || age.is_ok_and(|age| age > LOG_AGE) {
                let name = format!("log {}", display_name(&path));
                self.remove(PrunedKind::Log, &path, name);
            }
        }
        Ok(())
    }

    fn mounts(&mut self) -> Result<(), Error> {
        if !self.options.all {
            return Ok(());
        }
        for path in self.entries("mounts")? {
            if self.is_recent(&path) {
                continue;
            }
            let id = fs::read(path.join("id")).unwrap_or_default();
            let id = String::from_utf8_lossy(&id).into_owned();
            self.remove(PrunedKind::Mount, &path, format!("cache mount {id}"));
        }
        Ok(())
    }

    fn leftovers(&mut self) {
        for path in self.store.leftovers() {
            let bytes = file::disk_bytes(&path);
            let name = format!("leftover {}", display_name(&path));
            if self.options.dry_run {
                self.count(PrunedKind::Leftover, bytes, name);
                continue;
            }
            self.delete(PrunedKind::Leftover, &path, (name, bytes));
        }
    }

    fn remove(&mut self, kind: PrunedKind, path: &Path, name: String) {
        let bytes = file::disk_bytes(path);
        if self.options.dry_run {
            self.count(kind, bytes, name);
            return;
        }
        let is_dir = fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir());
        if !is_dir {
            self.delete(kind, path, (name, bytes));
            return;
        }
        // Out of sight at once, and swept if we are killed.
        let grave = self.store.inner.temporary().and_then(|grave| {
            fs::rename(path, &grave).map_err(|e| Error::io("move", path, e))?;
            Ok(grave)
        });
        match grave {
            Ok(grave) => self.delete(kind, &grave, (name, bytes)),
            Err(error) => self.report.failed.push(format!("{name}: {error}")),
        }
    }

    fn delete(&mut self, kind: PrunedKind, path: &Path, (name, bytes): (String, u64)) {
        let is_dir = fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir());
        let result = if is_dir {
            (self.remove_tree)(path)
        } else {
            fs::remove_file(path)
        };
        let Err(error) = result else {
            self.count(kind, bytes, name);
            return;
        };
        self.report.failed.push(format!("{name}: {error}"));
        let scratch = self.store.inner.layout.scratch();
        let leftover = path.parent() == Some(scratch.as_path());
        if is_dir
            && !leftover
            && let Err(error) = scratch::set_aside(&scratch, path)
        {
            tracing::warn!(%error, "could not set a folder aside");
        }
    }

    fn entries(&self, folder: &'static str) -> Result<Vec<PathBuf>, Error> {
        sorted_entries(&self.store.inner.layout.folder(folder))
    }

    /// What is in a folder's folders.
    fn fanned_out(&self, folder: &'static str) -> Result<Vec<PathBuf>, Error> {
        let mut paths = Vec::new();
        for part in self.entries(folder)? {
            paths.extend(sorted_entries(&part)?);
        }
        Ok(paths)
    }

    fn by_digest(&self, folder: &'static str) -> Result<Vec<(Digest, PathBuf)>, Error> {
        let mut found = Vec::new();
        for path in self.fanned_out(folder)? {
            let algorithm = path.parent().map(display_name).unwrap_or_default();
            let text = format!("{algorithm}:{}", display_name(&path));
            if let Ok(digest) = Digest::try_from(text) {
                found.push((digest, path));
            }
        }
        Ok(found)
    }
}

fn sorted_entries(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut paths: Vec<_> = file::list(folder)?.iter().map(fs::DirEntry::path).collect();
    paths.sort();
    Ok(paths)
}

fn display_name(path: &Path) -> String {
    path.file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

fn fanned_name(path: &Path) -> String {
    let parent = path.parent().map(display_name).unwrap_or_default();
    format!("{parent}{}", display_name(path))
}

/// A blob as JSON, if it is a JSON object; layers are told apart by their first byte.
fn document(path: &Path) -> Option<Value> {
    let mut file = fs::File::open(path).ok()?;
    if file.metadata().ok()?.len() > DOCUMENT_LIMIT {
        return None;
    }
    let mut bytes = vec![0];
    file.read_exact(&mut bytes).ok()?;
    if !matches!(bytes[0], b'{' | b' ' | b'\t' | b'\r' | b'\n') {
        return None;
    }
    file.take(DOCUMENT_LIMIT).read_to_end(&mut bytes).ok()?;
    serde_json::from_slice(&bytes).ok()
}

/// Digests that an index, a manifest, an artifact or a config refers to.
fn digests_in(document: &Value) -> Vec<Digest> {
    let lists = ["manifests", "layers", "blobs"];
    let listed = lists
        .iter()
        .filter_map(|name| document.get(name)?.as_array())
        .flatten();
    let single = ["config", "subject"]
        .iter()
        .filter_map(|name| document.get(name));
    let descriptors = listed.chain(single).filter_map(|entry| entry.get("digest"));
    let diff_ids = document
        .pointer("/rootfs/diff_ids")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    descriptors
        .chain(diff_ids)
        .filter_map(Value::as_str)
        .filter_map(|text| Digest::try_from(text).ok())
        .collect()
}
