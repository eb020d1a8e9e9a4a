//! The content addressed store.

use crate::{Client, Digest, Error};
use bytes::Bytes;
use std::fmt;
use std::io::{self, Read, Write};
use std::sync::Arc;

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

impl Client {
    /// Which of these the server lacks, each once.
    ///
    /// # Errors
    /// No connection, or a refusal.
    pub async fn find_missing(&self, digests: &[Digest]) -> Result<Vec<Digest>, Error> {
        let _ = digests;
        Err(self.not_yet())
    }

    /// Sends blobs that the server lacks.
    ///
    /// # Errors
    /// No connection, a refusal, content that cannot be read or is not what its digest says.
    pub async fn upload(
        &self,
        blobs: Vec<Blob>,
        sent: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<Uploaded, Error> {
        let _ = (blobs, sent);
        Err(self.not_yet())
    }

    /// A blob of at most `limit` bytes.
    ///
    /// # Errors
    /// It is larger, or not there, or the server sends something else.
    pub async fn read(&self, digest: Digest, limit: u64) -> Result<Bytes, Error> {
        let _ = (digest, limit);
        Err(self.not_yet())
    }

    /// Several blobs at once.
    ///
    /// # Errors
    /// No connection, or a refusal of all; each blob has its own result.
    pub async fn read_many(
        &self,
        digests: &[Digest],
    ) -> Result<Vec<(Digest, Result<Bytes, Error>)>, Error> {
        let _ = digests;
        Err(self.not_yet())
    }

    /// Writes a blob's content to `sink`. An error after some was written means that it is worthless.
    ///
    /// # Errors
    /// It is not there, the server sends something else, or it cannot be written.
    pub async fn read_to(
        &self,
        digest: Digest,
        sink: &mut (dyn Write + Send),
        received: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<(), Error> {
        let _ = (digest, sink, received);
        Err(self.not_yet())
    }

    pub(crate) fn not_yet(&self) -> Error {
        Error::Unsupported {
            endpoint: self.endpoint().name(),
            lacks: "cannot be asked for this yet",
        }
    }
}
