//! The content addressed store: which blobs it lacks, and blobs to and from it. Keeps no more than some MiB of them in memory,
//! whatever their number and size, but for those that the caller asks for in memory.

mod batch;
mod missing;
mod plan;
mod read;
mod stream;
mod upload;
mod write;

use crate::Digest;
use bytes::Bytes;
use std::fmt;
use std::io::{self, Read};
use std::sync::Arc;

/// The largest message that is taken from a server: a batch of the largest size, or one piece of a stream.
const LARGEST_ANSWER: usize = 16 << 20;

/// Something to upload.
#[derive(Debug, Clone)]
pub struct Blob {
    /// Its name: content that is something else is not sent, or sent in vain.
    pub digest: Digest,
    /// Its bytes.
    pub content: Content,
}

/// The bytes of a blob, or where to read them.
#[derive(Clone)]
pub enum Content {
    /// In memory.
    Bytes(Bytes),
    /// Opened when it is sent, and again when it is sent again.
    Source(Arc<dyn Source>),
}

/// Content that is read when it is needed.
pub trait Source: Send + Sync {
    /// From the first byte. Called on a thread that may block.
    ///
    /// # Errors
    /// Whatever keeps it from being read.
    fn open(&self) -> io::Result<Box<dyn Read + Send>>;
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "Bytes({})", bytes.len()),
            Self::Source(_) => f.write_str("Source"),
        }
    }
}

impl Blob {
    /// Of bytes in memory.
    pub fn of(bytes: Bytes) -> Self {
        Self {
            digest: Digest::of(&bytes),
            content: Content::Bytes(bytes),
        }
    }
}

/// What an upload did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Uploaded {
    /// Blobs that the server has now.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes that went over the line for them: fewer by compression, or because the server had some already.
    pub sent: u64,
}
