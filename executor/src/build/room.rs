//! Keeps the cache within its bounds while a build runs: after each step that made something, a look at the estimate and at
//! the free space, and a collection when one is out of bounds. A build that makes nothing never looks.

use crate::Error;
use crate::space::Space;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use store::{Collection, Disk, SpaceLimits};

/// After so many more bytes it is looked at again.
const STEP: u64 = 1 << 20;
/// What is left is this part less than what is allowed, so that the next layer does not ask for a collection again.
const SLACK: u64 = 16;
/// When a collection could not free enough, the next is tried after so many more bytes.
const PAUSE: u64 = 64 << 20;

/// How large the cache may grow.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum CacheMax {
    /// By the size of the file system: see [`CacheMax::limits`].
    #[default]
    Auto,
    /// So many bytes.
    Bytes(u64),
    /// Without bounds.
    Unlimited,
}

impl CacheMax {
    /// The bounds, in bytes. Without a number: at most 60% of the file system and 100 GB; and, as long as the cache has more than
    /// 10% of it or 10 GB, 20% stay free. With one only that counts.
    #[must_use]
    pub fn limits(self, disk: Disk) -> Option<SpaceLimits> {
        const GB: u64 = 1_000_000_000;
        let percent = |part: u64| disk.total / 100 * part;
        match self {
            Self::Auto => Some(SpaceLimits {
                reserved: percent(10).min(10 * GB),
                max_used: Some(percent(60).min(100 * GB)),
                min_free: Some(percent(20)),
            }),
            Self::Bytes(bytes) => Some(SpaceLimits {
                reserved: 0,
                max_used: Some(bytes),
                min_free: None,
            }),
            Self::Unlimited => None,
        }
    }
}

/// Keeps one build's additions in bounds.
#[derive(Debug)]
pub(crate) struct Room {
    max: CacheMax,
    /// When the bytes that this process added reach this, it is looked at again.
    next: AtomicU64,
    turn: Mutex<()>,
}

impl Room {
    pub(crate) fn new(max: CacheMax) -> Self {
        Self {
            max,
            next: AtomicU64::new(1),
            turn: Mutex::new(()),
        }
    }

    /// Collects when it is time. What goes wrong is no failure of the build.
    pub(crate) fn check(&self, space: &Space) {
        let added = space.store().added();
        if self.max == CacheMax::Unlimited || added < self.next.load(Ordering::Relaxed) {
            return;
        }
        // Other steps go on meanwhile.
        let Ok(_turn) = self.turn.try_lock() else {
            return;
        };
        let pause = self.collect(space).unwrap_or_else(|error| {
            tracing::warn!(
                error = crate::error::chain(&error),
                "the cache could not be kept within its bounds"
            );
            PAUSE
        });
        self.next
            .store(space.store().added().max(added) + pause, Ordering::Relaxed);
    }

    /// Gives how many more bytes there may be until it is looked at again.
    fn collect(&self, space: &Space) -> Result<u64, Error> {
        let store = space.store();
        let disk = store.disk()?;
        let Some(limits) = self.max.limits(disk) else {
            return Ok(u64::MAX / 2);
        };
        if let Some(used) = store.cache_estimate()? {
            let keeps = limits.keeps(used, disk);
            if used <= keeps {
                let left = keeps - used;
                return Ok((left / 4).clamp(STEP.min(left + 1), PAUSE));
            }
        }
        let lower = |bytes: u64| bytes - bytes / SLACK;
        let collection = Collection {
            limits: SpaceLimits {
                max_used: limits.max_used.map(lower),
                ..limits
            },
            no_wait: true,
            ..Collection::default()
        };
        let report = crate::output::collect(space, &collection)?;
        tracing::debug!(
            bytes = report.bytes,
            pieces = report.removed.len(),
            failed = report.failed.len(),
            "the cache was brought within its bounds"
        );
        let fits = store
            .cache_estimate()?
            .is_some_and(|used| used <= limits.keeps(used, disk));
        Ok(if fits {
            STEP
        } else {
            PAUSE.min(limits.max_used.unwrap_or(PAUSE) / 8 + STEP)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_by_the_size_of_the_disk() {
        let gb = 1_000_000_000;
        for (total, reserved, most, free) in [
            (50 * gb, 5 * gb, 30 * gb, 10 * gb),
            (1000 * gb, 10 * gb, 100 * gb, 200 * gb),
        ] {
            let disk = Disk { total, free: total };
            let limits = CacheMax::Auto.limits(disk).unwrap();
            assert_eq!(
                (limits.reserved, limits.max_used, limits.min_free),
                (reserved, Some(most), Some(free))
            );
            assert_eq!(limits.keeps(most + 1, disk), most);
            // With little left on the disk it gives back what is lacking, down to what is reserved.
            let full = Disk {
                total,
                free: free - gb,
            };
            assert_eq!(limits.keeps(most, full), most - gb);
            assert_eq!(limits.keeps(reserved, full), reserved);
        }
        let disk = Disk { total: gb, free: 0 };
        assert_eq!(CacheMax::Unlimited.limits(disk), None);
        let limits = CacheMax::Bytes(7).limits(disk).unwrap();
        assert_eq!(limits.keeps(100, disk), 7);
    }
}
