//! Removing what was not used for longest, while others work: which pieces go, and how each goes.
//!
//! What an image or a kept sandbox needs, and what a running process may use, stays (see `lease`). Of the rest go, in this order:
//! what nothing leads to, then what was last used longest ago; a layer that took long to make counts as used later.
//! Each removal is a rename or an unlinking that is decided with the guard held; trees are deleted afterwards.

use crate::Store;
use crate::error::Error;
use crate::file;
use crate::growth::Disk;
use crate::inventory::{Piece, is_foreign_identity, last_used};
use crate::lease;
use crate::prune::{PruneReport, PrunedKind};
use crate::scratch;
use rustix::fs::FlockOperation;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// A second of work counts as so many seconds of being used later.
const WORTH: u32 = 60;
/// No work counts as more than this.
const MOST_WORTH: Duration = Duration::from_secs(7 * 24 * 3600);

/// How much room a cache may have, in bytes. Nothing set: none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SpaceLimits {
    /// So much is never taken away.
    pub reserved: u64,
    /// No more than this.
    pub max_used: Option<u64>,
    /// So much is left free on the file system, as far as the cache can give it.
    pub min_free: Option<u64>,
}

impl SpaceLimits {
    /// How much of a cache of `used` bytes may stay.
    #[must_use]
    pub fn keeps(&self, used: u64, disk: Disk) -> u64 {
        if self.max_used.is_none() && self.min_free.is_none() {
            return self.reserved;
        }
        let most = self.max_used.unwrap_or(u64::MAX);
        let lacking = self.min_free.unwrap_or(0).saturating_sub(disk.free);
        let left = used.saturating_sub(lacking);
        let keeps = if lacking > 0 { most.min(left) } else { most };
        keeps.max(self.reserved)
    }
}

/// Chooses pieces, for [`Collection::select`].
pub type Select<'a> = &'a dyn Fn(&Piece) -> bool;

/// What [`Store::collect`] is to do.
#[derive(Clone, Copy, Default)]
pub struct Collection<'a> {
    /// How much may stay.
    pub limits: SpaceLimits,
    /// Of these pieces only; of all when `None`.
    pub select: Option<Select<'a>>,
    /// Report only.
    pub dry_run: bool,
    /// Gives up at once when another process collects at this time.
    pub no_wait: bool,
    /// The caller does not work with the store itself: when no other process does either, all may go.
    pub may_be_alone: bool,
}

impl std::fmt::Debug for Collection<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Collection")
            .field("limits", &self.limits)
            .field("dry_run", &self.dry_run)
            .finish_non_exhaustive()
    }
}

impl Store {
    /// Removes pieces, those not used for longest first, until the cache fits into its limits.
    ///
    /// # Errors
    /// Unreadable folders.
    pub fn collect(
        &self,
        collection: &Collection<'_>,
        remove_tree: &dyn Fn(&Path) -> io::Result<()>,
    ) -> Result<PruneReport, Error> {
        let folder = self.inner.layout.folder("records");
        let turn = File::open(&folder).map_err(|e| Error::io("open", &folder, e))?;
        if collection.no_wait {
            if !file::try_lock(&turn, FlockOperation::NonBlockingLockExclusive, &folder)? {
                return Ok(PruneReport::default());
            }
        } else {
            file::lock(&turn, FlockOperation::LockExclusive, &folder)?;
        }
        let mut removal = Removal::new(self, remove_tree, collection.dry_run);
        let alone = if collection.may_be_alone {
            self.alone(|| removal.choose(collection, None))
        } else {
            Err(Error::Busy {
                path: self.root().to_owned(),
            })
        };
        match alone {
            Err(Error::Busy { .. }) => {
                let since = lease::oldest(&self.inner.layout.leases())?;
                removal.choose(collection, Some(since))?;
            }
            done => done?,
        }
        Ok(removal.finish())
    }
}

/// Takes things out of sight, and deletes them at its end.
pub(crate) struct Removal<'a> {
    store: &'a Store,
    remove_tree: &'a dyn Fn(&Path) -> io::Result<()>,
    dry_run: bool,
    guard: Option<File>,
    graves: Vec<(PrunedKind, PathBuf, String, u64)>,
    pub(crate) report: PruneReport,
}

impl<'a> Removal<'a> {
    pub(crate) fn new(
        store: &'a Store,
        remove_tree: &'a dyn Fn(&Path) -> io::Result<()>,
        dry_run: bool,
    ) -> Self {
        Self {
            store,
            remove_tree,
            dry_run,
            guard: None,
            graves: Vec::new(),
            report: PruneReport::default(),
        }
    }

    fn choose(
        &mut self,
        collection: &Collection<'_>,
        since: Option<SystemTime>,
    ) -> Result<(), Error> {
        let pieces = self.store.inventory(since)?;
        let used: u64 = pieces
            .iter()
            .filter(|piece| !piece.is_needed)
            .map(|piece| piece.bytes)
            .sum();
        let keeps = collection.limits.keeps(used, self.store.disk()?);
        let mut left = used;
        let mut gone = vec![false; pieces.len()];
        for position in order(&pieces, collection.select) {
            if keeps > 0 && left <= keeps {
                break;
            }
            if gone[position] {
                continue;
            }
            // Users go before what they use, so that a kill in between leaves no dangling record.
            let piece = &pieces[position];
            for user in piece.users.iter().copied() {
                let user_piece = &pieces[user];
                if !gone[user] && self.take(user_piece, since)? {
                    gone[user] = true;
                    left = left.saturating_sub(user_piece.bytes);
                }
            }
            if self.take(piece, since)? {
                gone[position] = true;
                left = left.saturating_sub(piece.bytes);
            }
        }
        if !self.dry_run {
            self.store.set_estimate(left)?;
        }
        Ok(())
    }

    /// Removes a piece unless it is in use by now; says whether it did.
    fn take(&mut self, piece: &Piece, since: Option<SystemTime>) -> Result<bool, Error> {
        let name = name_of(piece);
        if self.dry_run {
            self.report.pieces.push(piece.clone());
            self.count(piece.kind, piece.bytes, name);
            return Ok(true);
        }
        let Some((main, others)) = piece.paths.split_first() else {
            return Ok(false);
        };
        let guard = self.hold_guard()?;
        let is_used = |path: &PathBuf| since.is_some_and(|since| last_used(path) >= since);
        let is_used = if piece.kind == PrunedKind::Layer {
            // Identities are not touched.
            piece.paths.iter().any(is_used)
        } else {
            is_used(main)
        };
        let held = match piece.kind {
            PrunedKind::Mount => self.store.hold_mount(main)?,
            _ => Some(Vec::new()),
        };
        if is_used || held.is_none() {
            drop(guard);
            return Ok(false);
        }
        for path in others {
            let is_identity = path.starts_with(self.store.inner.layout.folder("identities"));
            if !(is_identity && is_foreign_identity(path, &piece.id)) {
                let _ = fs::remove_file(path);
            }
        }
        self.take_path(piece.kind, main, (name, piece.bytes));
        self.report.pieces.push(piece.clone());
        drop(guard);
        Ok(true)
    }

    /// Keeps others from beginning to use something until the guard is dropped.
    pub(crate) fn hold_guard(&mut self) -> Result<HeldGuard, Error> {
        let path = self.store.inner.layout.guard();
        if self.guard.is_none() {
            self.guard = Some(self.store.inner.open_guard()?);
        }
        let guard = self.guard.as_ref().expect("BUG: it was opened just now");
        let guard = guard.try_clone().map_err(|e| Error::io("open", &path, e))?;
        file::lock(&guard, FlockOperation::LockExclusive, &path)?;
        Ok(HeldGuard(guard, path))
    }

    /// Takes a file or folder out of sight, whoever uses it.
    pub(crate) fn take_path(
        &mut self,
        kind: PrunedKind,
        path: &Path,
        (name, bytes): (String, u64),
    ) {
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
            Ok(grave) => {
                self.count(kind, bytes, name.clone());
                self.graves.push((kind, grave, name, bytes));
            }
            Err(error) => self.report.failed.push(format!("{name}: {error}")),
        }
    }

    /// Deletes a file or folder that nobody looks for.
    pub(crate) fn delete(&mut self, kind: PrunedKind, path: &Path, (name, bytes): (String, u64)) {
        if self.try_delete(path, &name) {
            self.count(kind, bytes, name);
        }
    }

    fn try_delete(&mut self, path: &Path, name: &str) -> bool {
        let is_dir = fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir());
        let result = if is_dir {
            (self.remove_tree)(path)
        } else {
            fs::remove_file(path)
        };
        let error = match result {
            Err(error) if error.kind() != io::ErrorKind::NotFound => error,
            _ => return true,
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
        false
    }

    pub(crate) fn count(&mut self, kind: PrunedKind, bytes: u64, name: String) {
        self.report.bytes += bytes;
        self.report.removed.push(name);
        let counted = self.report.kinds.entry(kind).or_default();
        *counted = (counted.0 + 1, counted.1 + bytes);
    }

    /// Deletes what is out of sight.
    pub(crate) fn finish(mut self) -> PruneReport {
        for (kind, grave, name, bytes) in std::mem::take(&mut self.graves) {
            if self.try_delete(&grave, &name) {
                continue;
            }
            self.report.bytes -= bytes;
            self.report.removed.retain(|removed| *removed != name);
            let counted = self.report.kinds.entry(kind).or_default();
            *counted = (counted.0 - 1, counted.1 - bytes);
        }
        self.report
    }
}

/// While it lives nobody begins to use something.
pub(crate) struct HeldGuard(File, PathBuf);

impl Drop for HeldGuard {
    fn drop(&mut self) {
        // The descriptor is a copy: closing it would not unlock.
        if let Err(error) = file::lock(&self.0, FlockOperation::Unlock, &self.1) {
            tracing::warn!(%error, "the guard of the store stays locked until this process ends");
        }
    }
}

/// Positions of pieces that may go, the first to go first.
fn order(pieces: &[Piece], select: Option<Select<'_>>) -> Vec<usize> {
    let mut order: Vec<usize> = (0..pieces.len())
        .filter(|position| {
            let piece = &pieces[*position];
            !piece.is_needed && !piece.is_in_use && select.is_none_or(|select| select(piece))
        })
        .collect();
    // What a wrong clock dated into the future was used now at the latest.
    let now = SystemTime::now();
    order.sort_by_cached_key(|position| {
        let piece = &pieces[*position];
        let worth = (piece.cost.saturating_mul(WORTH)).min(MOST_WORTH);
        (piece.is_recorded, piece.used.min(now) + worth, *position)
    });
    order
}

fn name_of(piece: &Piece) -> String {
    let kind = match piece.kind {
        PrunedKind::Reference => "reference",
        PrunedKind::Blob => "blob",
        PrunedKind::Layer => "layer",
        PrunedKind::Record => "record",
        PrunedKind::StatCache => "stat cache",
        PrunedKind::Mount => "cache mount",
        PrunedKind::Log => "log",
        PrunedKind::Kept => "kept sandbox",
        PrunedKind::Leftover => "leftover",
    };
    format!("{kind} {}", piece.id)
}
