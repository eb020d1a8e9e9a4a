//! What a cache remembers of the builds that wrote it, so that a build that reads it can say why its steps are not
//! cached. Nothing is decided by it, no lookup reads it, and it is read only when a step has to run.
//!
//! Each memory is a blob of its own among those that the cache's manifest names, of a media type that readers pass over
//! who do not know it; an annotation says of which place it is, so that nothing else need be read to find it, and those
//! of others stay as they are. What is in the blob is in `doc`.

mod doc;

pub(crate) use doc::{DOC_LIMIT, Doc, Opened, rewritten};

use super::day;
use crate::build::journal::Subject;
use crate::build::manifest::{self, Desc, Document};
use crate::copy::Reads;
use crate::layer::hex;
use crate::request::{BuildRequest, ContextSource};
use planner::explain::Memo;
use planner::key::CacheKey;
use planner::plan::Plan;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::cmp::Reverse;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

/// Media type of a memory.
pub(crate) const MEMORY_TYPE: &str = "application/vnd.kiln.cache.memory.v1+zstd";
/// The annotation with its label.
const ANNOTATION: &str = "kiln.cache.memory";
/// Version of labels; others are passed over.
const VERSION: &str = "1";
/// Most memories of a cache, and of one place.
const MOST: usize = 64;
const MOST_OF_PLACE: usize = 8;
/// Most of them that are read to find the one to compare with.
pub(crate) const MOST_READ: usize = 4;
/// Most bytes of all memories of a cache together.
const MOST_BYTES: u64 = 4 << 20;
/// Days after which one goes.
const MOST_DAYS: u32 = 90;
/// Days after which one is marked again as used.
const FRESH_DAYS: u32 = 7;

/// What a memory is of. Digests, the first 16 bytes in hex.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Label {
    /// The Dockerfile's name in its context, target and platforms: whatever the machine.
    pub(crate) place: String,
    /// The Dockerfile's text, target and platforms.
    pub(crate) text: String,
    /// The steps' keys, and which of them are shown.
    pub(crate) head: String,
    /// When it was last built, in seconds since 1970.
    pub(crate) time: i64,
}

impl Label {
    /// The label of a build without its steps.
    pub(crate) fn of(request: &BuildRequest, plan: &Plan) -> Self {
        let subject = Subject::of(request, plan);
        let rest = (&subject.target, &subject.platforms);
        let rest = serde_json::to_string(&rest).expect("BUG: strings always serialise");
        Self {
            place: digest("place", &[&name_in_context(request), &rest]),
            text: digest("text", &[&request.dockerfile, &rest]),
            head: String::new(),
            time: request.now,
        }
    }

    /// The same with steps: their keys, and which are shown.
    pub(crate) fn with_steps<'s>(&self, steps: impl Iterator<Item = (&'s CacheKey, bool)>) -> Self {
        let steps: String = steps
            .map(|(key, is_shown)| format!("{key} {is_shown}\n"))
            .collect();
        Self {
            head: digest("head", &[&self.place, &self.text, &steps]),
            ..self.clone()
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let parts: Vec<&str> = text.split(' ').collect();
        let [VERSION, place, text, head, time] = parts.as_slice() else {
            return None;
        };
        let is_digest =
            |part: &&str| part.len() == 32 && part.bytes().all(|b| b.is_ascii_hexdigit());
        if ![place, text, head].into_iter().all(is_digest) {
            return None;
        }
        Some(Self {
            place: (*place).to_owned(),
            text: (*text).to_owned(),
            head: (*head).to_owned(),
            time: time.parse().ok()?,
        })
    }

    fn to_text(&self) -> String {
        let Self {
            place,
            text,
            head,
            time,
        } = self;
        format!("{VERSION} {place} {text} {head} {time}")
    }
}

/// How the Dockerfile is called from where its context is.
fn name_in_context(request: &BuildRequest) -> String {
    let named = &request.place.dockerfile;
    if named.is_empty() {
        return request.dockerfile_name.clone();
    }
    if let ContextSource::Directory(dir) = &request.context
        && let (Ok(dir), Ok(file)) = (dir.canonicalize(), Path::new(named).canonicalize())
        && let Ok(inside) = file.strip_prefix(dir)
    {
        return inside.display().to_string();
    }
    let is_absolute = Path::new(named).is_absolute();
    match Path::new(named).file_name().filter(|_| is_absolute) {
        Some(name) => name.to_string_lossy().into_owned(),
        None => named.clone(),
    }
}

fn digest(purpose: &str, parts: &[&str]) -> String {
    let mut hasher = Sha256::new();
    for part in [&["kiln cache memory 1", purpose], parts].concat() {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    hex(&hasher.finalize()[..16])
}

/// A memory of a cache.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) label: Label,
    /// The blob, without its label.
    pub(crate) blob: Desc,
    /// What is in it, when it is new.
    pub(crate) bytes: Option<Arc<Vec<u8>>>,
}

/// All of them, the latest first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Memories(Vec<Entry>);

impl Memories {
    /// Those that a cache's manifest names.
    pub(crate) fn of(document: &Document) -> Self {
        match document {
            Document::Manifest(found) => Self::named(&found.layers),
            Document::Index(found) => Self::named(&found.manifests),
        }
    }

    /// Those among descriptors. What is no sound one is passed over.
    pub(crate) fn named(parts: &[Desc]) -> Self {
        let entry = |desc: &Desc| {
            let is_sound = desc.media_type == MEMORY_TYPE && desc.size <= DOC_LIMIT;
            let label = Label::parse(desc.annotations.get(ANNOTATION).filter(|_| is_sound)?)?;
            let digest = manifest::digest(&desc.digest).ok()?;
            let blob = Desc::new(MEMORY_TYPE, &digest, desc.size);
            Some(Entry {
                label,
                blob,
                bytes: None,
            })
        };
        let mut entries: Vec<Entry> = parts.iter().filter_map(entry).collect();
        entries.truncate(MOST);
        Self(entries)
    }

    /// Their descriptors, for a manifest.
    pub(crate) fn descriptors(&self) -> Vec<Desc> {
        let desc = |entry: &Entry| {
            let mut desc = entry.blob.clone();
            let label = entry.label.to_text();
            desc.annotations.insert(ANNOTATION.to_owned(), label);
            desc
        };
        self.0.iter().map(desc).collect()
    }

    /// Blobs that have to be written.
    pub(crate) fn fresh(&self) -> impl Iterator<Item = (&Desc, &Arc<Vec<u8>>)> {
        let entries = self.0.iter();
        entries.filter_map(|entry| Some((&entry.blob, entry.bytes.as_ref()?)))
    }

    /// Those whose blobs are there.
    pub(crate) fn only(&self, is_there: impl Fn(&Desc) -> bool) -> Self {
        let there = self.0.iter().filter(|entry| is_there(&entry.blob));
        Self(there.cloned().collect())
    }

    /// Whether this very build is remembered, and was marked as used not long ago.
    pub(crate) fn has_fresh(&self, label: &Label) -> bool {
        let today = day(label.time);
        self.0.iter().any(|entry| {
            entry.label.head == label.head
                && day(entry.label.time).saturating_add(FRESH_DAYS) > today
        })
    }

    /// With a build that was just made, and without those that are too old or too many; `None` when it is too large.
    pub(crate) fn with(
        &self,
        label: &Label,
        make: impl FnOnce() -> Option<Vec<u8>>,
    ) -> Option<Self> {
        let is_same = |entry: &&Entry| entry.label.head == label.head;
        let own = match self.0.iter().find(is_same) {
            Some(same) => Entry {
                label: label.clone(),
                ..same.clone()
            },
            None => {
                let bytes = make()?;
                let digest = manifest::digest_of(&bytes);
                Entry {
                    label: label.clone(),
                    blob: Desc::new(MEMORY_TYPE, &digest, bytes.len() as u64),
                    bytes: Some(Arc::new(bytes)),
                }
            }
        };
        let others = self.0.iter().filter(|entry| !is_same(entry)).cloned();
        let all = Self(std::iter::once(own).chain(others).collect());
        Some(all.bounded(label.time))
    }

    /// A time that has not come yet counts as now.
    fn bounded(mut self, now: i64) -> Self {
        for entry in &mut self.0 {
            entry.label.time = entry.label.time.min(now);
        }
        // Of the same time the first stays first: the build that was just made.
        self.0.sort_by_key(|entry| Reverse(entry.label.time));
        let (mut bytes, mut of_place) = (0, HashMap::<String, usize>::new());
        self.0.retain(|entry| {
            let count = of_place.entry(entry.label.place.clone()).or_default();
            let is_kept = *count < MOST_OF_PLACE
                && bytes + entry.blob.size <= MOST_BYTES
                && day(entry.label.time).saturating_add(MOST_DAYS) >= day(now);
            if is_kept {
                *count += 1;
                bytes += entry.blob.size;
            }
            is_kept
        });
        self.0.truncate(MOST);
        self
    }

    /// Those that a build may be compared with: of the same text first, then the latest.
    pub(crate) fn candidates(&self, label: &Label) -> Vec<&Entry> {
        let is_same =
            |entry: &&Entry| entry.label.place == label.place || entry.label.text == label.text;
        let mut found: Vec<&Entry> = self.0.iter().filter(is_same).collect();
        found.sort_by_key(|entry| (entry.label.text != label.text, Reverse(entry.label.time)));
        found.truncate(MOST_READ);
        found
    }
}

/// A build to be remembered: its steps, what each says in the Dockerfile, and what it read of contexts.
#[derive(Debug)]
pub(crate) struct Remembered {
    pub(crate) label: Label,
    pub(crate) steps: Vec<RememberedStep>,
}

/// One step of it.
#[derive(Debug)]
pub(crate) struct RememberedStep {
    pub(crate) memo: Memo,
    pub(crate) instruction: String,
    pub(crate) reads: Option<Arc<Reads>>,
}

impl Remembered {
    /// Its label where some of its steps are shown.
    pub(crate) fn label(&self, is_shown: &dyn Fn(usize) -> bool) -> Label {
        let steps = self.steps.iter().enumerate();
        self.label
            .with_steps(steps.map(|(at, step)| (&step.memo.key, is_shown(at))))
    }
}

#[cfg(test)]
mod tests;
