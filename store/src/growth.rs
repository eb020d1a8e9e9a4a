//! A running estimate of the cache's size, so that nobody walks the store to know whether it is time to collect.
//!
//! Each process counts what it adds and tells the file `gc` now and then and at its end; a collection, which measures, sets
//! the number right. What a killed process did not tell is missing until then. Whoever adds nothing reads and writes nothing.

use crate::error::Error;
use crate::file;
use crate::{Inner, Store};
use rustix::fs::{FlockOperation, StatVfs};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};

/// A file takes at least a block.
const BLOCK: u64 = 4096;
/// Digits of the number in the file.
const DIGITS: usize = 20;

/// What this process added, in bytes.
#[derive(Debug, Default)]
pub(crate) struct Growth {
    added: AtomicU64,
    told: AtomicU64,
}

impl Growth {
    pub(crate) fn add(&self, bytes: u64) {
        self.added
            .fetch_add(bytes.next_multiple_of(BLOCK), Ordering::Relaxed);
    }
}

/// Room on the store's file system, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Disk {
    /// All of it.
    pub total: u64,
    /// What may still be written.
    pub free: u64,
}

impl Store {
    /// About how many bytes this process has added to the store so far.
    #[must_use]
    pub fn added(&self) -> u64 {
        self.inner.growth.added.load(Ordering::Relaxed)
    }

    /// About how many bytes the cache has, all processes' additions included; `None` until it was measured.
    ///
    /// # Errors
    /// A file that cannot be read or written.
    pub fn cache_estimate(&self) -> Result<Option<u64>, Error> {
        self.inner.tell_growth()
    }

    /// Room on the store's file system.
    ///
    /// # Errors
    /// It cannot be asked.
    pub fn disk(&self) -> Result<Disk, Error> {
        let of = |stat: &StatVfs| Disk {
            total: stat.f_blocks.saturating_mul(stat.f_frsize),
            free: stat.f_bavail.saturating_mul(stat.f_frsize),
        };
        match rustix::fs::statvfs(self.root()) {
            Ok(stat) => Ok(of(&stat)),
            Err(e) => Err(Error::io("inspect", self.root(), e.into())),
        }
    }

    /// Something of this size was removed.
    pub(crate) fn shrink_estimate(&self, bytes: u64) -> Result<(), Error> {
        let change = |known: Option<u64>| known.map(|known| known.saturating_sub(bytes));
        self.inner.with_estimate(change).map(drop)
    }

    /// What was an image's is the cache's now: it has to be measured.
    pub(crate) fn forget_estimate(&self) -> Result<(), Error> {
        self.inner.with_estimate(|_| None).map(drop)
    }

    /// Says what the cache's size is, measured.
    pub(crate) fn set_estimate(&self, bytes: u64) -> Result<(), Error> {
        let growth = &self.inner.growth;
        growth
            .told
            .store(growth.added.load(Ordering::Relaxed), Ordering::Relaxed);
        self.inner.with_estimate(|_| Some(bytes)).map(drop)
    }
}

impl Inner {
    /// Adds to the file what it does not know yet; gives what it says then.
    fn tell_growth(&self) -> Result<Option<u64>, Error> {
        let added = self.growth.added.load(Ordering::Relaxed);
        let told = self.growth.told.swap(added, Ordering::Relaxed);
        let more = added.saturating_sub(told);
        self.with_estimate(|known| known.map(|known| known.saturating_add(more)))
    }

    fn with_estimate(
        &self,
        change: impl FnOnce(Option<u64>) -> Option<u64>,
    ) -> Result<Option<u64>, Error> {
        let path = self.layout.guard();
        let guard = self.open_guard()?;
        file::lock(&guard, FlockOperation::LockExclusive, &path)?;
        let known = read(&guard);
        let new = change(known);
        if new != known {
            let text = new.map_or_else(
                || format!("{:DIGITS$}\n", "unknown"),
                |bytes| format!("{bytes:0DIGITS$}\n"),
            );
            guard
                .write_all_at(text.as_bytes(), 0)
                .map_err(|e| Error::io("write", &path, e))?;
        }
        Ok(new)
    }
}

fn read(file: &File) -> Option<u64> {
    let mut bytes = [0; DIGITS + 1];
    let read: io::Result<()> = file.read_exact_at(&mut bytes, 0);
    read.ok()?;
    let text = std::str::from_utf8(&bytes).ok()?;
    text.strip_suffix('\n')?.parse().ok()
}

impl Drop for Inner {
    fn drop(&mut self) {
        let added = self.growth.added.load(Ordering::Relaxed);
        if added == self.growth.told.load(Ordering::Relaxed) {
            return;
        }
        if let Err(error) = self.tell_growth() {
            tracing::debug!(%error, "the estimate of the cache's size is a little behind");
        }
    }
}
