//! The readers of what caches hold, each by itself: for tests that feed them bytes of any kind.
//!
//! Nothing here is for those who build.

use super::read::Source;
use super::records::Records;
use super::{memories, mounts};
use crate::build::manifest::{Desc, Document};

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
    /// What is remembered of a build, compressed.
    Memory,
    /// The same before it is compressed.
    PlainMemory,
}

impl Part {
    /// All parts.
    pub const ALL: [Self; 6] = [
        Self::Records,
        Self::PlainRecords,
        Self::PlainMount,
        Self::Manifest,
        Self::Memory,
        Self::PlainMemory,
    ];

    /// What is read of these bytes, written again; `None` when they are refused.
    #[must_use]
    pub fn read(self, bytes: &[u8]) -> Option<Vec<u8>> {
        let packed = || zstd::bulk::compress(bytes, 1).ok();
        match self {
            Self::Records => Some(Records::decode(bytes).ok()?.encode()),
            Self::PlainRecords => Some(Records::decode(&packed()?).ok()?.encode()),
            Self::PlainMount => mounts::rewritten(&packed()?),
            Self::Memory => memories::rewritten(bytes),
            Self::PlainMemory => memories::rewritten(&packed()?),
            Self::Manifest => {
                let document = Document::parse("a cache", bytes).ok()?;
                let mut parts = vec![Source::records_of(&document)?.clone()];
                parts.extend(memories::Memories::of(&document).descriptors());
                let digests: Result<Vec<_>, _> = parts.iter().map(Desc::digest).collect();
                let digests = digests.ok()?.into_iter().map(|digest| digest.to_string());
                Some(digests.collect::<Vec<_>>().join(" ").into_bytes())
            }
        }
    }
}
