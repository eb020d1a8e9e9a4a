//! The readers of what caches hold, each by itself: for tests that feed them bytes of any kind.
//!
//! Nothing here is for those who build.

use super::mounts;
use super::read::Source;
use super::records::Records;
use crate::build::manifest::Document;

/// A document of a cache that has a reader of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// The records of steps, compressed.
    Records,
    /// The same before they are compressed.
    PlainRecords,
    /// What is in a cache mount, before it is compressed.
    PlainMount,
    /// The manifest or index of a cache.
    Manifest,
}

impl Part {
    /// All parts.
    pub const ALL: [Self; 4] = [
        Self::Records,
        Self::PlainRecords,
        Self::PlainMount,
        Self::Manifest,
    ];

    /// What is read of these bytes, written again; `None` when they are refused.
    #[must_use]
    pub fn read(self, bytes: &[u8]) -> Option<Vec<u8>> {
        let packed = || zstd::bulk::compress(bytes, 1).ok();
        match self {
            Self::Records => Some(Records::decode(bytes).ok()?.encode()),
            Self::PlainRecords => Some(Records::decode(&packed()?).ok()?.encode()),
            Self::PlainMount => mounts::rewritten(&packed()?),
            Self::Manifest => {
                let document = Document::parse("a cache", bytes).ok()?;
                let records = Source::records_of(&document)?;
                Some(records.digest().ok()?.to_string().into_bytes())
            }
        }
    }
}
