//! The list of what a COPY reads, as people and `explain` want it: one text for all entries, since there may be a million.

use super::select::Selection;
use serde::{Serialize, Serializer};

/// One file read by a COPY, for the key and for `explain`: path, mode, digest or link.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct ReadEntry<'a> {
    /// Path in the source.
    pub path: &'a str,
    /// Mode with the type bits.
    pub mode: u32,
    /// Hex digest of the content, link target or empty.
    pub content: &'a str,
}

/// All that was read, in order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Reads {
    /// Paths and contents by turns.
    text: String,
    entries: Vec<Place>,
}

/// Mode, and how much of the text is the path and the content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Place {
    mode: u32,
    path: u32,
    content: u32,
}

impl Reads {
    /// An empty list with room for what is selected.
    pub(super) fn for_all_of(selection: &Selection) -> Self {
        let items = || selection.groups.iter().flat_map(|group| group.items.iter());
        let text = items().map(|item| item.entry.path.len() + 64).sum();
        Self {
            text: String::with_capacity(text),
            entries: Vec::with_capacity(items().count()),
        }
    }

    /// Adds an entry; `content` is appended to the text.
    pub(super) fn push(&mut self, path: &str, mode: u32, content: impl FnOnce(&mut String)) {
        let start = self.text.len();
        self.text.push_str(path);
        let middle = self.text.len();
        content(&mut self.text);
        let length = |length| u32::try_from(length).expect("BUG: paths are shorter than 4 GiB");
        self.entries.push(Place {
            mode,
            path: length(middle - start),
            content: length(self.text.len() - middle),
        });
    }

    /// The entries in order.
    pub fn iter(&self) -> impl Iterator<Item = ReadEntry<'_>> {
        let mut rest = self.text.as_str();
        let mut take = move |length: u32| {
            let (text, after) = rest.split_at(length as usize);
            rest = after;
            text
        };
        self.entries.iter().map(move |place| ReadEntry {
            path: take(place.path),
            mode: place.mode,
            content: take(place.content),
        })
    }
}

/// As a list of entries.
impl Serialize for Reads {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}
