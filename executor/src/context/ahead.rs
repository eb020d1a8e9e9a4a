//! Which directories of a context are in memory: those that were read first stay, of more only the latest do; and who
//! walks the whole context has some read ahead by several threads. What is in a directory is `walk`'s to find out.

use super::pattern::ParentMatch;
use super::walk::{Listing, Node};
use super::{Context, threads};
use crate::Error;
use crate::layer::order::is_within;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Entries of directories that stay in memory.
const KEPT: usize = 1 << 16;
/// Directories that are remembered when no more of them stay.
const LATEST: usize = 4;
/// Entries that are read ahead of a walk.
const AHEAD: usize = 1 << 14;
/// Directories waiting before another thread helps to read them.
const HELP_FROM: usize = 8;

/// Directories in memory.
#[derive(Debug, Default)]
pub(super) struct Kept {
    by_path: HashMap<Vec<u8>, Arc<Listing>>,
    nodes: usize,
    latest: VecDeque<Arc<Listing>>,
}

impl Kept {
    fn get(&self, path: &[u8]) -> Option<Arc<Listing>> {
        let latest = || self.latest.iter().find(|listing| listing.path == path);
        self.by_path.get(path).or_else(latest).cloned()
    }

    /// The one that is known of this directory already, or this.
    pub(super) fn keep(&mut self, listing: Listing) -> Arc<Listing> {
        if let Some(known) = self.get(&listing.path) {
            return known;
        }
        let listing = Arc::new(listing);
        if self.nodes + listing.nodes.len() <= KEPT {
            self.nodes += listing.nodes.len() + 1;
            self.by_path.insert(listing.path.clone(), listing.clone());
        } else {
            self.latest.truncate(LATEST - 1);
            self.latest.push_front(listing.clone());
        }
        listing
    }
}

/// A directory that is known by name only, and what it matched of the ignore rules.
type Unread = (Vec<u8>, ParentMatch);

/// What was read ahead of a walk.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    /// Where the walk began.
    root: Vec<u8>,
    listings: HashMap<Vec<u8>, Arc<Listing>>,
    nodes: usize,
    /// What comes after that, the next one last.
    unread: Vec<Unread>,
}

impl Ahead {
    /// Takes the directory off what is unread. What comes before it the walk passed by, and does not want.
    fn reach(&mut self, path: &[u8]) -> Option<Unread> {
        let at = self.unread.iter().rposition(|(other, _)| other == path);
        if let Some(at) = at {
            self.unread.truncate(at + 1);
            return self.unread.pop();
        }
        // Threads mix directories up a little, so some are passed by too early; but this is another walk.
        if path == self.root || !is_within(path, &self.root) {
            *self = Self {
                root: path.to_vec(),
                ..Self::default()
            };
        }
        None
    }
}

impl Context {
    pub(super) fn loaded(&self, path: &[u8]) -> Option<Arc<Listing>> {
        let kept = self.listings.read();
        kept.unwrap_or_else(PoisonError::into_inner).get(path)
    }

    fn ahead(&self) -> MutexGuard<'_, Ahead> {
        self.ahead.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As [`Context::listing`], for who goes through directories in order: those that follow are read too, by several
    /// threads when there are many. What cannot be read is left for the reader who needs it.
    pub(super) fn listing_ahead(&self, path: &[u8]) -> Result<Option<Arc<Listing>>, Error> {
        let mut ahead = self.ahead();
        if let Some(listing) = ahead.listings.remove(path) {
            ahead.nodes -= listing.nodes.len();
            return Ok(Some(listing));
        }
        let loaded = self.loaded(path);
        let next = ahead.reach(path);
        if let (Some(listing), true) = (&loaded, next.is_some() || !ahead.unread.is_empty()) {
            return Ok(Some(listing.clone()));
        }
        if ahead.nodes > AHEAD {
            ahead.listings.clear();
            ahead.nodes = 0;
        }
        let mut queue = std::mem::take(&mut ahead.unread);
        drop(ahead);
        let listing = match (loaded, next) {
            (Some(listing), _) => Some(listing),
            (None, Some((path, below))) => Some(self.load(&path, &below)?),
            (None, None) => self.listing(path)?,
        };
        let Some(listing) = listing else {
            return Ok(None);
        };
        queue.extend(self.unread_below(&listing));
        if !queue.is_empty() {
            self.read_ahead(queue);
        }
        Ok(Some(listing))
    }

    fn read_ahead(&self, queue: Vec<Unread>) {
        let crew = Crew {
            state: Mutex::new(CrewState {
                queue,
                ..CrewState::default()
            }),
            wake: Condvar::new(),
        };
        std::thread::scope(|scope| {
            self.work(
                &crew,
                Some(&|crew| drop(scope.spawn(move || self.work(crew, None)))),
            );
        });
        let state = crew.state.into_inner();
        let state = state.unwrap_or_else(PoisonError::into_inner);
        let mut ahead = self.ahead();
        ahead.unread = state.queue;
        for listing in state.read {
            ahead.nodes += listing.nodes.len();
            if let Some(before) = ahead.listings.insert(listing.path.clone(), listing) {
                ahead.nodes -= before.nodes.len();
            }
        }
    }

    /// Directories in this one that are not in memory, the first last.
    fn unread_below(&self, listing: &Listing) -> Vec<Unread> {
        let unread = |node: &Node| {
            let below = node.directory()?.below.clone();
            let path = listing.path(node);
            self.loaded(&path).is_none().then_some((path, below))
        };
        listing.nodes.iter().rev().filter_map(unread).collect()
    }

    fn work<'c>(&self, crew: &'c Crew, hire: Option<&dyn Fn(&'c Crew)>) {
        let mut hired = 1;
        let most = threads();
        let mut state = crew.lock();
        loop {
            let enough = state.nodes >= AHEAD;
            let next = if enough { None } else { state.queue.pop() };
            let Some((path, parent)) = next else {
                if enough || state.busy == 0 {
                    crew.wake.notify_all();
                    return;
                }
                state = crew
                    .wake
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            state.busy += 1;
            let crowded = state.queue.len() >= HELP_FROM;
            drop(state);
            if let (Some(hire), true) = (hire, crowded && hired < most) {
                hire(crew);
                hired += 1;
            }
            let read = self.load(&path, &parent).ok();
            let found = read.as_ref().map(|listing| self.unread_below(listing));
            state = crew.lock();
            state.busy -= 1;
            state.queue.extend(found.unwrap_or_default());
            if let Some(listing) = read {
                state.nodes += listing.nodes.len() + 1;
                state.read.push(listing);
            }
            crew.wake.notify_all();
        }
    }
}

struct Crew {
    state: Mutex<CrewState>,
    wake: Condvar,
}

#[derive(Default)]
struct CrewState {
    queue: Vec<Unread>,
    busy: usize,
    read: Vec<Arc<Listing>>,
    nodes: usize,
}

impl Crew {
    fn lock(&self) -> MutexGuard<'_, CrewState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
