//! What running processes use, so that others can free the rest at the same time. It removes nothing itself.
//!
//! Whoever opens a store holds a *lease*: a locked file `leases/SECONDS-RANDOM` with the time in its name. What a
//! process looks at it touches (mtime), once. So whatever was used since the oldest lease may be in use, and all else is
//! not. A clock that goes back makes nothing look unused: who holds a lease from later than now touches as of its lease, and
//! meanwhile all counts as in use. Both sides meet at the file `gc`: it is locked shared for a touch and exclusively for the decision to take something away,
//! so that nothing goes between the look and the touch.

use crate::Store;
use crate::error::Error;
use crate::file;
use oci_spec::image::Digest;
use rustix::fs::{AtFlags, CWD, FlockOperation, Timespec, Timestamps, UTIME_NOW};
use rustix::io::Errno;
use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

/// The kernel stamps files with the time of its last tick, which is a little behind; some file systems know whole seconds only.
const TICK: Duration = Duration::from_millis(20);
/// How exact the time of last use of something that is not protected by it has to be.
const PRECISION: Duration = Duration::from_secs(3600);
/// So many seconds two looks at one clock may seem to go back.
const SKEW: u64 = 2;

/// A process's lease; ends with the process, however that ends.
#[derive(Debug)]
pub(crate) struct Lease {
    path: PathBuf,
    /// Seconds since the epoch.
    begun: u64,
    _lock: File,
}

impl Lease {
    /// `None` where the disk is full: then the store can at least be pruned.
    pub(crate) fn take(leases: &Path) -> Result<Option<Self>, Error> {
        loop {
            let begun = now();
            let name = format!("{begun}-{}", file::random_name()?);
            let path = leases.join(name);
            let lock = match File::create_new(&path) {
                Ok(lock) => lock,
                // Another process may make the folder at this moment.
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                    fs::create_dir_all(leases).map_err(|e| Error::io("create", leases, e))?;
                    continue;
                }
                Err(e) => {
                    let error = Error::io("create", &path, e);
                    return if error.is_disk_full() {
                        Ok(None)
                    } else {
                        Err(error)
                    };
                }
            };
            let locked = file::try_lock(&lock, FlockOperation::NonBlockingLockExclusive, &path)?;
            // A sweeper may have taken it for dead before it was locked.
            if locked && file::still_named(&lock, &path) {
                return Ok(Some(Self {
                    path,
                    begun,
                    _lock: lock,
                }));
            }
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Seconds since the epoch, as a file touched now may say.
fn now() -> u64 {
    let now = SystemTime::now() - TICK;
    now.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// What was used since then may be in use: the beginning of the oldest process that has the store open, or now; the epoch
/// when one began later than now, by a clock that went back since. Removes leases of the dead.
pub(crate) fn oldest(leases: &Path) -> Result<SystemTime, Error> {
    let now = now();
    let mut oldest = now;
    for entry in file::list(leases)? {
        let path = entry.path();
        let Ok(lock) = File::open(&path) else {
            continue;
        };
        if file::try_lock(&lock, FlockOperation::NonBlockingLockExclusive, &path)? {
            // Its owner is dead, or has not locked it yet and will make another, when it sees this one gone.
            let _ = fs::remove_file(&path);
            continue;
        }
        let name = entry.file_name().to_string_lossy().into_owned();
        let begun = name.split('-').next().and_then(|begun| begun.parse().ok());
        let begun = begun.filter(|begun| *begun <= now.saturating_add(SKEW));
        oldest = oldest.min(begun.unwrap_or(0));
    }
    Ok(SystemTime::UNIX_EPOCH + Duration::from_secs(oldest))
}

/// What a process has touched, and the file that its touches are guarded by.
#[derive(Debug, Default)]
pub(crate) struct Uses {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    guard: Option<File>,
    touched: HashSet<PathBuf>,
}

impl Store {
    /// The same store for one who only looks around: what it looks at does not count as used.
    #[must_use]
    pub fn quiet(&self) -> Self {
        Self {
            inner: std::sync::Arc::clone(&self.inner),
            is_quiet: true,
        }
    }

    /// Counts a file or folder of the store as used by this process, if it is there.
    pub(crate) fn uses(&self, path: &Path) {
        if self.is_quiet {
            return;
        }
        let mut state = self
            .inner
            .uses
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if state.touched.contains(path) {
            return;
        }
        if state.guard.is_none() {
            state.guard = self.inner.open_guard().ok();
        }
        let guard_path = self.inner.layout.guard();
        let guarded = state.guard.as_ref().is_some_and(|guard| {
            file::lock(guard, FlockOperation::LockShared, &guard_path).is_ok()
        });
        let touched = touch(path, self.inner.behind());
        if let (true, Some(guard)) = (guarded, &state.guard) {
            let _ = file::lock(guard, FlockOperation::Unlock, &guard_path);
        }
        if touched {
            state.touched.insert(path.to_owned());
        }
    }

    /// Counts a blob as used by this process. A layer's goes with the layer.
    pub(crate) fn uses_blob(&self, digest: &Digest, path: &Path) {
        if self.is_quiet {
            return;
        }
        let layer = self.inner.layout.layer(digest);
        let has_layer = {
            let state = self.inner.uses.state.lock();
            let state = state.unwrap_or_else(PoisonError::into_inner);
            state.touched.contains(&layer)
        };
        if !has_layer {
            self.uses(path);
        }
    }

    /// Counts a layer as used by this process.
    pub(crate) fn uses_layer(&self, diff_id: &Digest) {
        if !self.is_quiet {
            self.uses(&self.inner.layout.layer(diff_id));
        }
    }

    /// Keeps the time of last use of something that may go at any time, more or less.
    pub(crate) fn note_use(&self, path: &Path) {
        if self.is_quiet {
            return;
        }
        let used = fs::metadata(path).and_then(|meta| meta.modified());
        let is_old = used.is_ok_and(|used| {
            let age = SystemTime::now().duration_since(used);
            age.unwrap_or_else(|ahead| ahead.duration()) > PRECISION
        });
        if is_old {
            touch(path, self.inner.behind());
        }
    }
}

impl crate::Inner {
    /// When our lease began, if that is later than the clock says.
    fn behind(&self) -> Option<u64> {
        let begun = self.lease.as_ref()?.begun;
        (now() < begun).then_some(begun)
    }

    /// Something new has the clock's time, which may be earlier than our lease.
    pub(crate) fn date(&self, path: &Path) {
        if let Some(begun) = self.behind() {
            touch(path, Some(begun));
        }
    }

    /// The file at which those who use something and those who remove it meet.
    pub(crate) fn open_guard(&self) -> Result<File, Error> {
        let path = self.layout.guard();
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|e| Error::io("open", &path, e))
    }
}

/// Sets the time of last use to now, or to so many seconds since the epoch; `false` when it is not there.
fn touch(path: &Path, seconds: Option<u64>) -> bool {
    let time = match seconds.and_then(|seconds| i64::try_from(seconds).ok()) {
        Some(tv_sec) => Timespec { tv_sec, tv_nsec: 0 },
        None => Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_NOW,
        },
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    loop {
        match rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(()) => return true,
            Err(Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}
