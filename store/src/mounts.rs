//! Folders for cache mounts, by id, with their sharing modes. It does not fill them and does not mount.

use crate::Store;
use crate::error::Error;
use crate::file;
use rustix::fs::FlockOperation;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// How often a busy mount is asked for again.
const INTERVAL: std::time::Duration = std::time::Duration::from_millis(10);

/// Sharing of a cache mount.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MountSharing {
    /// With others at once.
    Shared,
    /// Alone; a fresh folder when taken.
    Private,
    /// Alone; waits.
    Locked,
}

/// A held cache mount. Dropping it lets others have it; its content stays.
#[derive(Debug)]
pub struct CacheMount {
    slot: PathBuf,
    data: PathBuf,
    new: bool,
    _lock: File,
    // The shared lock on the store must outlive the mount's use.
    _store: Store,
}

impl CacheMount {
    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.data
    }

    /// Whether nobody has filled it yet (to fill it and set owner and mode). After a crash it may hold parts of an
    /// earlier filling; fill over them.
    #[must_use]
    pub fn is_new(&self) -> bool {
        self.new
    }

    /// Says that the folder is filled. Dropping says so too, only a killed process does not.
    ///
    /// # Errors
    /// The mark cannot be written.
    pub fn mark_ready(&mut self) -> Result<(), Error> {
        if !self.new {
            return Ok(());
        }
        let mark = self.slot.join("ready");
        File::create(&mark).map_err(|e| Error::io("create", &mark, e))?;
        self.new = false;
        Ok(())
    }
}

impl CacheMount {
    /// Lets others have it as one that nobody has filled.
    pub fn leave_new(mut self) {
        // Its drop says that it is filled unless it was.
        self.new = false;
    }
}

/// A cache mount that is read while others may use it.
#[derive(Debug)]
pub struct MountReader {
    slot: PathBuf,
    lock: Option<File>,
    _store: Store,
}

impl MountReader {
    /// The folder.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.slot.join("data")
    }

    /// A file beside the folder for what its reader remembers of it.
    #[must_use]
    pub fn notes(&self) -> PathBuf {
        self.slot.join("notes")
    }

    /// Whether those that want it alone wait for this reader.
    #[must_use]
    pub fn is_locked(&self) -> bool {
        self.lock.is_some()
    }

    /// Lets others have it alone.
    pub fn release(&mut self) {
        self.lock = None;
    }
}

impl Drop for CacheMount {
    fn drop(&mut self) {
        if let Err(error) = self.mark_ready() {
            tracing::warn!(%error, "a cache mount will be filled again");
        }
    }
}

impl Store {
    /// A cache mount's folder by id. `Locked` waits, blocking the thread, for other users; `Shared` waits only for a
    /// `Locked` or `Private` one; `Private` takes a fresh one when busy. One who wants several must ask in one
    /// order (of ids) and only once for each id, or may wait for itself.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn cache_mount(&self, id: &str, sharing: MountSharing) -> Result<CacheMount, Error> {
        let mount = self.cache_mount_unless(id, sharing, &|| false)?;
        Ok(mount.expect("BUG: nothing stops the waiting"))
    }

    /// As [`Store::cache_mount`], but gives up waiting when `stop` says so.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn cache_mount_unless(
        &self,
        id: &str,
        sharing: MountSharing,
        stop: &dyn Fn() -> bool,
    ) -> Result<Option<CacheMount>, Error> {
        let folder = self.inner.layout.mount(id);
        let (slot, lock) = loop {
            let name = folder.join("id");
            if !name.is_file() {
                self.inner.replace(&name, id.as_bytes(), false)?;
            }
            self.uses(&folder);
            let Some(taken) = take(&folder, sharing, stop)? else {
                return Ok(None);
            };
            // Somebody may have removed it all before it was locked.
            if file::still_named(&taken.1, &taken.0) && name.is_file() {
                break taken;
            }
        };
        self.held(slot, lock).map(Some)
    }

    /// The first folder of a cache mount, alone, if nobody has filled it and nobody uses it now. It does not wait.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn cache_mount_to_fill(&self, id: &str) -> Result<Option<CacheMount>, Error> {
        if self.inner.layout.mount(id).join("0/ready").exists() {
            return Ok(None);
        }
        let mount = self.cache_mount_unless(id, MountSharing::Locked, &|| true)?;
        Ok(mount.filter(CacheMount::is_new))
    }

    /// The first folder of a cache mount for reading, if somebody has filled it. Who has it alone is waited for until
    /// `stop` says so; then it is read all the same, unlocked.
    ///
    /// # Errors
    /// The folder cannot be locked.
    pub fn cache_mount_to_read(
        &self,
        id: &str,
        stop: &dyn Fn() -> bool,
    ) -> Result<Option<MountReader>, Error> {
        let folder = self.inner.layout.mount(id);
        let slot = folder.join("0");
        if !slot.join("ready").exists() {
            return Ok(None);
        }
        self.uses(&folder);
        let lock = wait_for(slot.clone(), FlockOperation::NonBlockingLockShared, stop)?;
        Ok(Some(MountReader {
            slot,
            lock: lock.map(|(_, lock)| lock),
            _store: self.clone(),
        }))
    }

    fn held(&self, slot: PathBuf, lock: File) -> Result<CacheMount, Error> {
        let data = slot.join("data");
        make_dir(&data)?;
        let new = !slot.join("ready").exists();
        Ok(CacheMount {
            slot,
            data,
            new,
            _lock: lock,
            _store: self.clone(),
        })
    }
}

impl Store {
    /// Locks all of a cache mount's folders, so that it can be removed; `None` when one is in use.
    pub(crate) fn hold_mount(&self, folder: &Path) -> Result<Option<Vec<File>>, Error> {
        let mut held = Vec::new();
        for entry in file::list(folder)? {
            let path = entry.path();
            if !path.is_dir() {
                continue;
            }
            let lock = File::open(&path).map_err(|e| Error::io("open", &path, e))?;
            if !file::try_lock(&lock, FlockOperation::NonBlockingLockExclusive, &path)? {
                return Ok(None);
            }
            held.push(lock);
        }
        Ok(Some(held))
    }
}

fn take(
    folder: &Path,
    sharing: MountSharing,
    stop: &dyn Fn() -> bool,
) -> Result<Option<(PathBuf, File)>, Error> {
    let first = folder.join("0");
    match sharing {
        MountSharing::Shared => wait_for(first, FlockOperation::NonBlockingLockShared, stop),
        MountSharing::Locked => wait_for(first, FlockOperation::NonBlockingLockExclusive, stop),
        MountSharing::Private => first_free(folder).map(Some),
    }
}

/// Asks again and again, since a thread that waits in flock(2) cannot be told to stop.
fn wait_for(
    slot: PathBuf,
    operation: FlockOperation,
    stop: &dyn Fn() -> bool,
) -> Result<Option<(PathBuf, File)>, Error> {
    let lock = open_slot(&slot)?;
    while !file::try_lock(&lock, operation, &slot)? {
        if stop() {
            return Ok(None);
        }
        std::thread::sleep(INTERVAL);
    }
    Ok(Some((slot, lock)))
}

fn first_free(folder: &Path) -> Result<(PathBuf, File), Error> {
    let mut number = 0u64;
    loop {
        let slot = folder.join(number.to_string());
        let lock = open_slot(&slot)?;
        if file::try_lock(&lock, FlockOperation::NonBlockingLockExclusive, &slot)? {
            return Ok((slot, lock));
        }
        number += 1;
    }
}

fn open_slot(slot: &Path) -> Result<File, Error> {
    if let Some(folder) = slot.parent() {
        make_dir(folder)?;
    }
    make_dir(slot)?;
    File::open(slot).map_err(|e| Error::io("open", slot, e))
}

fn make_dir(path: &Path) -> Result<(), Error> {
    match fs::create_dir(path) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(Error::io("create", path, e)),
        _ => Ok(()),
    }
}
