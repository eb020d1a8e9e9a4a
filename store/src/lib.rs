//! The local store: content-addressed blobs, layers, references, cache records, stat caches, cache mounts, locks and
//! garbage collection.
//!
//! It knows digests and files, not tar, images' meaning or the network. The layout on disk is described in `layout.rs`.
//! Contract of every writer: what becomes visible is complete and verified; everything else lives in a
//! locked scratch folder that the next [`Store::open`] sweeps when its owner is gone. What can be made again is not
//! fsynced (damage after a power cut is found by digest or checksum and counts as absent); references are.
#![forbid(unsafe_code)]

mod blob;
mod collect;
mod error;
mod file;
mod growth;
mod inventory;
mod kept;
mod layer;
mod layout;
mod lease;
mod mounts;
mod pieces;
mod prune;
mod record;
mod refs;
mod scratch;
mod sha256;
mod stat_cache;

pub use blob::{BlobReader, BlobWriter};
pub use collect::{Collection, Select, SpaceLimits};
pub use error::Error;
pub use file::remove_tree;
pub use growth::Disk;
pub use inventory::Piece;
pub use kept::{HeldKept, Kept};
pub use layer::{LayerBlob, LayerMeta, StagedLayer};
pub use mounts::{CacheMount, MountReader, MountSharing};
pub use prune::{Counts, PruneOptions, PruneReport, PrunedKind, Usage};
pub use refs::{ImageRef, ReferenceEdit};
pub use scratch::Scratch;
pub use sha256::Sha256;
pub use stat_cache::{StatCache, StatKey};

use growth::Growth;
use layout::Layout;
use lease::{Lease, Uses};
use rustix::fs::FlockOperation;
use scratch::LockedDir;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// The store. Clones share it. Several processes may use one store at once.
///
/// While a `Store`, or anything it handed out, lives, nothing that it used is removed by other processes; see `lease`.
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<Inner>,
    /// What is looked at does not count as used.
    is_quiet: bool,
}

#[derive(Debug)]
struct Inner {
    layout: Layout,
    lock: File,
    /// Where this process writes temporary files; made at the first one.
    session: Mutex<Option<LockedDir>>,
    counter: AtomicU64,
    /// Says that this process is there; see `lease`.
    lease: Option<Lease>,
    uses: Uses,
    growth: Growth,
}

impl Store {
    /// Opens or creates a store, sweeps scratch folders of dead processes. Waits while another process prunes.
    ///
    /// # Errors
    /// An unusable folder, a folder that holds something else, a store of a newer version.
    pub fn open(root: &Path) -> Result<Self, Error> {
        let layout = Layout::open(root)?;
        let path = layout.lock();
        let lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|e| Error::io("open", &path, e))?;
        file::lock(&lock, FlockOperation::LockShared, &path)?;
        scratch::sweep(&layout.scratch())?;
        lease::oldest(&layout.leases())?;
        let lease = Lease::take(&layout.leases())?;
        Ok(Self {
            inner: Arc::new(Inner {
                layout,
                lock,
                session: Mutex::new(None),
                counter: AtomicU64::new(0),
                lease,
                uses: Uses::default(),
                growth: Growth::default(),
            }),
            is_quiet: false,
        })
    }

    /// Its folder, absolute.
    #[must_use]
    pub fn root(&self) -> &Path {
        self.inner.layout.root()
    }

    /// A private folder on the store's file system, locked while held, removed on drop, swept after a crash.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn scratch(&self) -> Result<Scratch, Error> {
        Scratch::new(self)
    }

    /// Folders of dead or finished work that this process could not remove, because files in them belong to other
    /// user ids. A process inside the user namespace that made them can.
    #[must_use]
    pub fn leftovers(&self) -> Vec<PathBuf> {
        scratch::leftovers(&self.inner.layout.scratch())
    }

    /// The folder of build logs. Pruning removes logs older than a week.
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.inner.layout.folder("logs")
    }
}

impl Inner {
    /// A fresh path for a temporary file on the store's file system.
    fn temporary(&self) -> Result<PathBuf, Error> {
        let mut session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        let dir = match &mut *session {
            Some(dir) => dir,
            none => none.insert(LockedDir::create(&self.layout.scratch())?),
        };
        let number = self.counter.fetch_add(1, Ordering::Relaxed);
        Ok(dir.path().join(number.to_string()))
    }

    /// Writes a file so that readers see the old content or the new one, whole. `durable` also survives a power cut.
    fn replace(&self, target: &Path, bytes: &[u8], durable: bool) -> Result<(), Error> {
        let temporary = self.write_temporary(bytes, durable)?;
        self.place(&temporary, target, Ok(bytes.len() as u64))?;
        match target.parent() {
            Some(folder) if durable => file::sync_dir(folder),
            _ => Ok(()),
        }
    }

    /// Makes a temporary file visible under its name, or removes it when it could not be written. `written` is how many
    /// bytes it has.
    fn place(
        &self,
        temporary: &Path,
        target: &Path,
        written: Result<u64, Error>,
    ) -> Result<(), Error> {
        let placed = written.and_then(|bytes| {
            self.growth.add(bytes);
            self.rename_into(temporary, target)
        });
        placed.inspect_err(|_| {
            let _ = fs::remove_file(temporary);
        })
    }

    fn write_temporary(&self, bytes: &[u8], durable: bool) -> Result<PathBuf, Error> {
        let path = self.temporary()?;
        let write = || -> io::Result<()> {
            let mut out = File::create_new(&path)?;
            out.write_all(bytes)?;
            if durable { out.sync_all() } else { Ok(()) }
        };
        write().map_err(|e| {
            let _ = fs::remove_file(&path);
            Error::io("write", &path, e)
        })?;
        Ok(path)
    }

    /// Renames a file, making the folder it goes to when that is missing.
    fn rename_into(&self, from: &Path, to: &Path) -> Result<(), Error> {
        let first = fs::rename(from, to);
        let result = match (first, to.parent()) {
            // Another process may have made the folder since; only a second failure counts.
            (Err(e), Some(folder)) if e.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(folder).and_then(|()| fs::rename(from, to))
            }
            (first, _) => first,
        };
        result.map_err(|e| Error::io("create", to, e))?;
        self.date(to);
        Ok(())
    }
}
