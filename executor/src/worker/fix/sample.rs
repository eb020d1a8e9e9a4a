//! Which entries are looked at where an engine says that it carries everything: so many of each sort, spread over the whole
//! tree. Engines that do not carry something do not carry it for all entries of a sort.

use crate::tree::{Entry, Kind};
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

/// Entries of a sort that are looked at.
const EACH: usize = 12;

/// A sort of entries that engines may treat alike.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Sort {
    EmptyFolder,
    Folder,
    EmptyFile,
    File,
    Program,
}

impl Sort {
    /// Of what is no directory.
    pub(super) fn of_file(entry: &Entry) -> Self {
        match &entry.kind {
            Kind::File { size: 0, .. } => Self::EmptyFile,
            _ if entry.mode & 0o111 == 0 => Self::File,
            _ => Self::Program,
        }
    }

    pub(super) fn of_folder(is_empty: bool) -> Self {
        if is_empty {
            Self::EmptyFolder
        } else {
            Self::Folder
        }
    }
}

/// Entries to look at.
#[derive(Debug)]
pub(super) struct Samples {
    /// Other steps look at others.
    seed: u64,
    /// The lowest hashes of each sort.
    chosen: BTreeMap<Sort, BTreeMap<u64, Entry>>,
}

impl Samples {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            seed,
            chosen: BTreeMap::new(),
        }
    }

    /// One more that could be looked at.
    pub(super) fn offer(&mut self, sort: Sort, entry: &Entry) {
        let mut hasher = DefaultHasher::new();
        (self.seed, &entry.path).hash(&mut hasher);
        let hash = hasher.finish();
        let chosen = self.chosen.entry(sort).or_default();
        let is_low = |highest: (&u64, &Entry)| hash < *highest.0;
        if chosen.len() < EACH || chosen.last_key_value().is_some_and(is_low) {
            chosen.insert(hash, entry.clone());
        }
        if chosen.len() > EACH {
            chosen.pop_last();
        }
    }

    /// All of them, neighbours together.
    pub(super) fn take(&mut self) -> Vec<Entry> {
        let chosen = std::mem::take(&mut self.chosen).into_values();
        let mut chosen: Vec<Entry> = chosen.flat_map(BTreeMap::into_values).collect();
        chosen.sort_by(|one, other| one.path.cmp(&other.path));
        chosen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(seed: u64) -> Vec<Vec<u8>> {
        let mut samples = Samples::new(seed);
        for number in 0..1000 {
            let entry = Entry {
                path: format!("usr/{number}").into_bytes(),
                kind: Kind::Fifo,
                mode: 0o644,
                uid: 0,
                gid: 0,
                mtime: 0,
                xattrs: Vec::new(),
            };
            samples.offer(Sort::File, &entry);
            if number < 3 {
                samples.offer(Sort::EmptyFile, &entry);
            }
        }
        samples.take().into_iter().map(|entry| entry.path).collect()
    }

    #[test]
    fn each_sort_has_its_share_and_each_step_its_own() {
        let one = chosen(1);
        assert_eq!(one.len(), EACH + 3);
        assert_eq!(one, chosen(1));
        assert_ne!(one, chosen(2));
    }
}
