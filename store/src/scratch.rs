//! Locked folders for what is not finished, and the sweep that removes those whose owner died. It never touches
//! what is visible in the store.
//!
//! The lock is a `flock` on the folder itself, so it ends with its owner, however that ends.

use crate::Store;
use crate::error::Error;
use crate::file;
use rustix::fs::FlockOperation;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

const STUCK: &str = "stuck";

/// A folder below `scratch/` with its lock.
#[derive(Debug)]
pub(crate) struct LockedDir {
    path: PathBuf,
    _lock: File,
}

impl LockedDir {
    pub(crate) fn create(scratch: &Path) -> Result<Self, Error> {
        loop {
            let path = scratch.join(file::random_name()?);
            match fs::create_dir(&path) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
                // Another process may make the folder at this moment.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    fs::create_dir_all(scratch).map_err(|e| Error::io("create", scratch, e))?;
                    continue;
                }
                Err(e) => return Err(Error::io("create", &path, e)),
            }
            let lock = match File::open(&path) {
                Ok(lock) => lock,
                // A sweeper took it for dead before we could lock it.
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(Error::io("open", &path, e)),
            };
            let locked = file::try_lock(&lock, FlockOperation::NonBlockingLockExclusive, &path)?;
            if locked && file::still_named(&lock, &path) {
                return Ok(Self { path, _lock: lock });
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for LockedDir {
    fn drop(&mut self) {
        remove_or_set_aside(&self.path);
    }
}

/// What we may not remove is renamed, so that later sweeps do not walk it again and again.
fn remove_or_set_aside(path: &Path) {
    let Err(error) = file::remove_tree(path) else {
        return;
    };
    tracing::debug!(path = %path.display(), %error, "scratch folder cannot be removed from here");
    let aside = path.with_extension(STUCK);
    if let Err(error) = fs::rename(path, &aside) {
        tracing::warn!(path = %path.display(), %error, "could not set a scratch folder aside");
    }
}

/// Removes the folders nobody holds.
pub(crate) fn sweep(scratch: &Path) -> Result<(), Error> {
    for entry in file::list(scratch)? {
        let path = entry.path();
        if path.extension().is_some_and(|e| e == STUCK) {
            continue;
        }
        let Ok(lock) = File::open(&path) else {
            continue;
        };
        if !file::try_lock(&lock, FlockOperation::NonBlockingLockExclusive, &path)? {
            continue;
        }
        if file::still_named(&lock, &path) {
            remove_or_set_aside(&path);
        }
    }
    Ok(())
}

/// Dead folders that could not be removed.
pub(crate) fn leftovers(scratch: &Path) -> Vec<PathBuf> {
    let entries = file::list(scratch).unwrap_or_default();
    let mut paths: Vec<_> = entries
        .iter()
        .map(fs::DirEntry::path)
        .filter(|path| path.extension().is_some_and(|e| e == STUCK))
        .collect();
    paths.sort();
    paths
}

/// Makes what cannot be removed a leftover.
pub(crate) fn set_aside(scratch: &Path, path: &Path) -> Result<(), Error> {
    let aside = scratch.join(format!("{}.{STUCK}", file::random_name()?));
    fs::rename(path, &aside).map_err(|e| Error::io("move", path, e))
}

/// A locked scratch folder. It vanishes when dropped; after a crash the next [`Store::open`] removes it.
#[derive(Debug)]
pub struct Scratch {
    dir: LockedDir,
    // The shared lock on the store must outlive the folder's use.
    _store: Store,
}

impl Scratch {
    pub(crate) fn new(store: &Store) -> Result<Self, Error> {
        Ok(Self {
            dir: LockedDir::create(&store.inner.layout.scratch())?,
            _store: store.clone(),
        })
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}
