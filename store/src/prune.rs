//! Garbage collection: marks what references (and cache records) reach, removes the rest, and sums up what is there.
//! What goes by its age or to make room is `collect`'s.

use crate::Store;
use crate::collect::Removal;
use crate::error::Error;
use crate::file;
use crate::inventory::{
    Marks, Piece, by_digest, display_name, fanned_name, fanned_out, last_used, sorted_entries,
};
use crate::layer;
use crate::lease;
use crate::record;
use crate::refs;
use crate::stat_cache;
use rustix::fs::FlockOperation;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

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
    /// What a collection took away.
    pub pieces: Vec<Piece>,
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
    /// While other processes have the store open, what they may use stays too. Each removal is a rename out of sight
    /// first, so killing it leaves a sound store.
    ///
    /// # Errors
    /// Unreadable folders.
    pub fn prune(
        &self,
        options: &PruneOptions,
        remove_tree: &dyn Fn(&Path) -> io::Result<()>,
    ) -> Result<PruneReport, Error> {
        let quiet = self.quiet();
        let removal = Removal::new(&quiet, remove_tree, options.dry_run);
        let mut pruning = Pruning {
            store: &quiet,
            options,
            live: Marks::new(&quiet),
            since: None,
            removal,
        };
        if options.dry_run {
            pruning.run()?;
            return Ok(pruning.removal.finish());
        }
        match self.alone(|| pruning.run()) {
            Err(Error::Busy { .. }) => {
                pruning.since = Some(lease::oldest(&self.inner.layout.leases())?);
                pruning.run()?;
            }
            done => done?,
        }
        let report = pruning.removal.finish();
        self.shrink_estimate(report.bytes)?;
        Ok(report)
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
    live: Marks<'a>,
    /// What was used since then may be in use.
    since: Option<SystemTime>,
    removal: Removal<'a>,
}

impl Pruning<'_> {
    /// Users go before what they use, so that a kill in between leaves no dangling record.
    fn run(&mut self) -> Result<(), Error> {
        self.leftovers();
        self.kept()?;
        self.references()?;
        self.running()?;
        self.records()?;
        self.layers()?;
        self.identities()?;
        self.blobs()?;
        self.stat_caches()?;
        self.logs()?;
        self.mounts()
    }

    /// Marks what running processes may use, with all that it names.
    fn running(&mut self) -> Result<(), Error> {
        if self.since.is_none() {
            return Ok(());
        }
        let layout = &self.store.inner.layout;
        for folder in ["layers", "blobs"] {
            for (digest, path) in by_digest(&layout.folder(folder))? {
                if self.is_in_use(&path) {
                    self.live.mark(digest)?;
                }
            }
        }
        Ok(())
    }

    fn is_in_use(&self, path: &Path) -> bool {
        self.since.is_some_and(|since| last_used(path) >= since)
    }

    /// Kept sandboxes go with `all`; those that stay keep their layers.
    fn kept(&mut self) -> Result<(), Error> {
        for kept in self.store.kept()? {
            if self.options.all
                && !self.is_recent(kept.path())
                && let Some(_held) = kept.hold()?
            {
                let name = format!("kept sandbox {}", kept.id());
                self.remove(PrunedKind::Kept, kept.path(), name)?;
                continue;
            }
            for layer in kept.layers()? {
                self.live.mark(layer)?;
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
                self.live.mark(image.descriptor.digest().clone())?;
                continue;
            }
            if !self.options.dry_run {
                self.store.untag(key)?;
            }
            self.removal
                .count(PrunedKind::Reference, 0, format!("reference {key}"));
        }
        for path in self.store.reference_files()? {
            if !refs::is_sound(&path) {
                let name = format!("damaged reference {}", display_name(&path));
                self.remove(PrunedKind::Reference, &path, name)?;
            }
        }
        Ok(())
    }

    /// Whether something is too new to go.
    fn is_recent(&self, path: &Path) -> bool {
        let Some(limit) = self.options.older_than else {
            return false;
        };
        let modified = fs::symlink_metadata(path).and_then(|meta| meta.modified());
        modified.is_ok_and(|time| time > limit)
    }

    fn records(&mut self) -> Result<(), Error> {
        for path in fanned_out(&self.store.inner.layout.folder("records"))? {
            let record = record::read(&path)?;
            let name = format!("record {}", fanned_name(&path));
            match record {
                Some(record) if !self.options.all || self.is_recent(&path) => {
                    for layer in record.layers {
                        self.live.mark(layer)?;
                    }
                }
                _ => self.remove(PrunedKind::Record, &path, name)?,
            }
        }
        Ok(())
    }

    fn layers(&mut self) -> Result<(), Error> {
        for (digest, path) in by_digest(&self.store.inner.layout.folder("layers"))? {
            if !self.live.has(&digest) {
                self.remove(PrunedKind::Layer, &path, format!("layer {digest}"))?;
            }
        }
        Ok(())
    }

    fn identities(&mut self) -> Result<(), Error> {
        for path in fanned_out(&self.store.inner.layout.folder("identities"))? {
            let known = layer::read_identity(&path)?.is_some_and(|layer| self.live.has(&layer));
            if !known {
                let name = format!("identity {}", fanned_name(&path));
                self.remove(PrunedKind::Record, &path, name)?;
            }
        }
        Ok(())
    }

    fn blobs(&mut self) -> Result<(), Error> {
        for (digest, path) in by_digest(&self.store.inner.layout.folder("blobs"))? {
            if !self.live.has(&digest) {
                self.remove(PrunedKind::Blob, &path, format!("blob {digest}"))?;
            }
        }
        Ok(())
    }

    fn stat_caches(&mut self) -> Result<(), Error> {
        for path in sorted_entries(&self.store.inner.layout.folder("stat"))? {
            let is_wanted = !self.options.all || self.is_recent(&path);
            if !is_wanted || stat_cache::live_context(&path).is_none() {
                let name = format!("stat cache {}", display_name(&path));
                self.remove(PrunedKind::StatCache, &path, name)?;
            }
        }
        Ok(())
    }

    fn logs(&mut self) -> Result<(), Error> {
        let now = SystemTime::now();
        for path in sorted_entries(&self.store.inner.layout.folder("logs"))? {
            let modified = fs::symlink_metadata(&path).and_then(|meta| meta.modified());
            let age = modified.map(|time| now.duration_since(time).unwrap_or_default());
            let is_wanted = !self.options.all || self.is_recent(&path);
            if !is_wanted || age.is_ok_and(|age| age > LOG_AGE) {
                let name = format!("log {}", display_name(&path));
                self.remove(PrunedKind::Log, &path, name)?;
            }
        }
        Ok(())
    }

    fn mounts(&mut self) -> Result<(), Error> {
        if !self.options.all {
            return Ok(());
        }
        for path in sorted_entries(&self.store.inner.layout.folder("mounts"))? {
            if self.is_recent(&path) {
                continue;
            }
            let id = fs::read(path.join("id")).unwrap_or_default();
            let id = String::from_utf8_lossy(&id).into_owned();
            self.remove(PrunedKind::Mount, &path, format!("cache mount {id}"))?;
        }
        Ok(())
    }

    fn leftovers(&mut self) {
        for path in self.store.leftovers() {
            let bytes = file::disk_bytes(&path);
            let name = format!("leftover {}", display_name(&path));
            if self.options.dry_run {
                self.removal.count(PrunedKind::Leftover, bytes, name);
                continue;
            }
            self.removal
                .delete(PrunedKind::Leftover, &path, (name, bytes));
        }
    }

    /// Takes something away, unless somebody has begun to use it.
    fn remove(&mut self, kind: PrunedKind, path: &Path, name: String) -> Result<(), Error> {
        let bytes = file::disk_bytes(path);
        if self.options.dry_run {
            self.removal.count(kind, bytes, name);
            return Ok(());
        }
        let held = match kind {
            PrunedKind::Mount => self.store.hold_mount(path)?,
            _ => Some(Vec::new()),
        };
        let _guard = self.removal.hold_guard()?;
        // A blob of a layer is in use with it.
        let layer = path
            .strip_prefix(self.store.inner.layout.folder("blobs"))
            .map(|blob| self.store.inner.layout.folder("layers").join(blob));
        let is_in_use = self.is_in_use(path) || layer.is_ok_and(|layer| self.is_in_use(&layer));
        if held.is_some() && !is_in_use {
            self.removal.take_path(kind, path, (name, bytes));
        }
        Ok(())
    }
}
