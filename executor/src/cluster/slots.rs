//! How many steps use this machine at once, while more of them wait for workers.

use crate::Error;
use planner::scheduler::Cancel;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// How often somebody who waits looks whether the build was cancelled.
const INTERVAL: Duration = Duration::from_millis(50);

/// Slots for work here.
#[derive(Debug)]
pub(crate) struct Slots {
    free: Mutex<usize>,
    changed: Condvar,
}

/// One of them; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Slot<'a>(&'a Slots);

impl Slots {
    /// So many, and one at least.
    pub(crate) fn new(slots: usize) -> Self {
        Self {
            free: Mutex::new(slots.max(1)),
            changed: Condvar::new(),
        }
    }

    /// Waits for one.
    ///
    /// # Errors
    /// The build was cancelled.
    pub(crate) fn take(&self, cancel: &Cancel) -> Result<Slot<'_>, Error> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        while *free == 0 {
            if cancel.is_cancelled() {
                return Err(Error::Cancelled);
            }
            let waited = self.changed.wait_timeout(free, INTERVAL);
            (free, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
        *free -= 1;
        Ok(Slot(self))
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        let slots = self.0;
        *slots.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        slots.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn no_more_than_there_are() {
        let slots = Slots::new(2);
        let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let slot = slots.take(&Cancel::default()).unwrap();
                        most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        std::thread::yield_now();
                        now.fetch_sub(1, Ordering::SeqCst);
                        drop(slot);
                    }
                });
            }
        });
        assert!((1..=2).contains(&most.into_inner()));
        let held = (
            slots.take(&Cancel::default()).unwrap(),
            slots.take(&Cancel::default()).unwrap(),
        );
        let cancel = Cancel::default();
        cancel.cancel();
        assert!(matches!(slots.take(&cancel), Err(Error::Cancelled)));
        drop(held);
        assert!(slots.take(&cancel).is_ok());
    }
}
