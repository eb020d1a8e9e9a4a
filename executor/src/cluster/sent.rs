//! What the server is known to have, so that many steps over one base neither ask nor send it many times.
//!
//! A server may drop blobs at any time: what is known is forgotten after some minutes, and at once when it turns out
//! to be wrong.

use crate::Error;
use planner::scheduler::Cancel;
use reapi::Digest;
use std::collections::HashSet;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long it is believed.
const BELIEVED: Duration = Duration::from_secs(5 * 60);
/// How often somebody who waits looks whether the build was cancelled.
const INTERVAL: Duration = Duration::from_millis(50);

/// Blobs that are there, and blobs that are on their way.
#[derive(Debug, Default)]
pub(crate) struct Sent {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    known: HashSet<Digest>,
    moving: HashSet<Digest>,
    since: Option<Instant>,
    /// How often all was forgotten.
    generation: u64,
}

/// Blobs that one step brings there.
#[derive(Debug)]
pub(crate) struct Claim<'a> {
    sent: &'a Sent,
    generation: u64,
    /// Not known to be there, and brought by nobody else.
    pub mine: Vec<Digest>,
    /// On their way by others.
    others: Vec<Digest>,
}

impl Sent {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this blob is known to be there.
    pub(crate) fn has(&self, digest: &Digest) -> bool {
        let mut state = self.lock();
        state.expire();
        state.known.contains(digest)
    }

    /// Nothing is known any longer.
    pub(crate) fn forget(&self) {
        self.lock().forget();
    }

    /// Takes over all of these that are neither there nor on their way.
    pub(crate) fn claim(&self, wanted: impl IntoIterator<Item = Digest>) -> Claim<'_> {
        let mut state = self.lock();
        state.expire();
        let (mut mine, mut others) = (Vec::new(), Vec::new());
        for digest in wanted {
            if state.known.contains(&digest) {
                continue;
            }
            if state.moving.insert(digest) {
                mine.push(digest);
            } else {
                others.push(digest);
            }
        }
        Claim {
            sent: self,
            generation: state.generation,
            mine,
            others,
        }
    }
}

impl State {
    fn expire(&mut self) {
        match self.since {
            Some(since) if since.elapsed() > BELIEVED => self.forget(),
            Some(_) => {}
            None => self.since = Some(Instant::now()),
        }
    }

    fn forget(&mut self) {
        self.known.clear();
        self.since = None;
        self.generation += 1;
    }
}

impl Claim<'_> {
    /// What was taken over is there now.
    pub(crate) fn done(&mut self) {
        let mut state = self.sent.lock();
        let is_current = state.generation == self.generation;
        for digest in self.mine.drain(..) {
            state.moving.remove(&digest);
            if is_current {
                state.known.insert(digest);
            }
        }
        self.sent.changed.notify_all();
    }

    /// Waits for what others bring. Gives what they did not.
    ///
    /// # Errors
    /// The build was cancelled.
    pub(crate) fn rest(mut self, cancel: &Cancel) -> Result<Vec<Digest>, Error> {
        let others = std::mem::take(&mut self.others);
        let mut state = self.sent.lock();
        while others.iter().any(|digest| state.moving.contains(digest)) {
            if cancel.is_cancelled() {
                return Err(Error::Cancelled);
            }
            let waited = self.sent.changed.wait_timeout(state, INTERVAL);
            (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
        let missing = others.into_iter();
        Ok(missing
            .filter(|digest| !state.known.contains(digest))
            .collect())
    }
}

/// What was not brought is left to others.
impl Drop for Claim<'_> {
    fn drop(&mut self) {
        if self.mine.is_empty() {
            return;
        }
        let mut state = self.sent.lock();
        for digest in self.mine.drain(..) {
            state.moving.remove(&digest);
        }
        self.sent.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digests(names: &[&str]) -> Vec<Digest> {
        let each = names.iter();
        each.map(|name| Digest::of(name.as_bytes())).collect()
    }

    #[test]
    fn a_blob_is_brought_once() {
        let (sent, cancel) = (Sent::default(), Cancel::default());
        let mut first = sent.claim(digests(&["a", "b"]));
        let second = sent.claim(digests(&["b", "c"]));
        assert_eq!(first.mine, digests(&["a", "b"]));
        assert_eq!(second.mine, digests(&["c"]));
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                let mut second = second;
                second.done();
                second.rest(&cancel).unwrap()
            });
            first.done();
            assert!(first.rest(&cancel).unwrap().is_empty());
            assert!(waiting.join().unwrap().is_empty());
        });
        let all = digests(&["a", "b", "c"]);
        assert!(all.iter().all(|digest| sent.has(digest)));
        sent.forget();
        assert!(!all.iter().any(|digest| sent.has(digest)));
    }

    #[test]
    fn what_failed_is_left_to_others() {
        let (sent, cancel) = (Sent::default(), Cancel::default());
        let first = sent.claim(digests(&["a"]));
        let second = sent.claim(digests(&["a"]));
        drop(first);
        assert_eq!(second.rest(&cancel).unwrap(), digests(&["a"]));
        let first = sent.claim(digests(&["a"]));
        assert_eq!(first.mine, digests(&["a"]));
        let third = sent.claim(digests(&["a"]));
        cancel.cancel();
        assert!(matches!(third.rest(&cancel), Err(Error::Cancelled)));
    }

    #[test]
    fn what_was_forgotten_meanwhile_is_not_known() {
        let sent = Sent::default();
        let mut claim = sent.claim(digests(&["a"]));
        sent.forget();
        claim.done();
        assert!(!sent.has(&digests(&["a"])[0]));
    }
}
