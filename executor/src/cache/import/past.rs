//! What imported caches remember of builds: the one to compare a build with whose steps are not cached.

use super::Imports;
use crate::Error;
use crate::build::fetch::Origin;
use crate::build::layout::Layout;
use crate::cache::known::Known;
use crate::cache::memories::{Entry, Label, Opened};
use crate::cache::read::Source;
use crate::remote::Remote;
use planner::explain::{self, Memo};
use planner::key::CacheKey;
use registry_client::Reference;
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};

/// The build that another one is compared with, when it was made elsewhere.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ComparedWith {
    /// The cache that remembers it.
    pub cache: String,
    /// When it was last made, in seconds since 1970, as the cache says.
    pub time: i64,
}

impl ComparedWith {
    /// `the build that wrote registry.example/app:cache, 2026-11-20`.
    #[must_use]
    pub fn phrase(&self) -> String {
        let cache = explain::printable(&self.cache, false);
        let time = jiff::Timestamp::from_second(self.time);
        let day = time.map_or_else(|_| String::new(), |time| time.strftime(", %F").to_string());
        format!("the build that wrote {cache}{day}")
    }
}

/// A build that was made elsewhere.
#[derive(Clone, Debug)]
pub(crate) struct Elsewhere {
    /// Its steps.
    pub(crate) steps: Vec<Memo>,
    /// What they read of contexts, by what they call it.
    pub(crate) files: HashMap<CacheKey, Vec<u8>>,
    /// Where it comes from.
    pub(crate) from: ComparedWith,
}

impl Imports<'_> {
    /// The build to compare with: of the first cache, if they have been read, that knows one of this place or text, the
    /// one that has most in common with this build.
    pub(crate) fn past(&self, label: &Label, now: &[Memo]) -> Option<Elsewhere> {
        let mut in_use = self.loaded.get()?.iter().filter(|cache| cache.is_in_use());
        let found = in_use.find_map(|cache| self.past_of(cache, label, now))?;
        let name = format!("comparing with {}", found.from.phrase());
        let task = self.ui.task_started(&name);
        self.ui.task_finished(task, None);
        Some(found)
    }

    fn past_of(&self, cache: &Known, label: &Label, now: &[Memo]) -> Option<Elsewhere> {
        let candidates = cache.memories.candidates(label);
        let read = |entry: &Entry| read(&cache.origin, self.remote, entry, now);
        let read: Vec<Result<Opened, Error>> = match candidates.as_slice() {
            [only] => vec![read(only)],
            several => std::thread::scope(|scope| {
                let threads: Vec<_> = several
                    .iter()
                    .map(|entry| scope.spawn(|| read(entry)))
                    .collect();
                let read = threads
                    .into_iter()
                    .map(|thread| thread.join().expect("BUG: reading a memory does not panic"));
                read.collect()
            }),
        };
        let mut found = Vec::new();
        for (entry, read) in candidates.into_iter().zip(read) {
            match read {
                Ok(opened) => found.push((entry.label.time, opened)),
                Err(Error::Cancelled) => return None,
                Err(error) => {
                    let (name, error) = (&cache.name, crate::error::chain(&error));
                    self.ui.warning(&format!(
                        "cache {name}: what it remembers of a build is not used: {error}"
                    ));
                }
            }
        }
        found.sort_by_key(|(time, (steps, _))| Reverse((in_common(steps, now), *time)));
        let (time, (steps, files)) = found.into_iter().next()?;
        let cache = cache.name.clone();
        Some(Elsewhere {
            steps,
            files,
            from: ComparedWith { cache, time },
        })
    }
}

fn read(origin: &Origin, remote: &Remote, entry: &Entry, now: &[Memo]) -> Result<Opened, Error> {
    let source = match origin {
        // What is shared step by step has no builds.
        Origin::Cas(_) => {
            return Err(Error::Image {
                subject: entry.blob.digest.clone(),
                reason: "no build is remembered there".to_owned(),
            });
        }
        Origin::Layout(dir) => Source::Folder(Layout::known(dir), dir.clone()),
        Origin::Repository(name) => {
            let reference = Reference::parse(name).map_err(|source| Error::Name {
                name: name.clone(),
                source,
            })?;
            Source::Registry(remote, reference)
        }
    };
    let doc = source.memory(entry)?;
    doc.open(now).ok_or_else(|| Error::Image {
        subject: entry.blob.digest.clone(),
        reason: "it is damaged".to_owned(),
    })
}

/// Steps that are the same; less for those that are over something else, and for those that only say the same.
fn in_common(past: &[Memo], now: &[Memo]) -> usize {
    let keys: HashSet<&CacheKey> = past.iter().map(|memo| &memo.key).collect();
    let mut by_text: HashMap<&str, Vec<&Memo>> = HashMap::new();
    for memo in past {
        by_text.entry(&memo.text).or_default().push(memo);
    }
    let weight = |memo: &Memo| {
        let alike = by_text.get(memo.text.as_str());
        match alike {
            _ if keys.contains(&memo.key) => 4,
            Some(alike) if alike.iter().any(|other| other.fields == memo.fields) => 2,
            Some(_) => 1,
            None => 0,
        }
    };
    now.iter().map(weight).sum()
}
