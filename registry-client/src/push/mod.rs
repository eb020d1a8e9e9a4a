//! Pushing: what a blob is read from, and the client's methods that write to a registry.
//!
//! How a blob gets there is in `upload`, manifests are in `manifest`.

mod manifest;
mod referrers;
mod upload;

use crate::registry::{Call, Endpoint, Registries};
use crate::transport::retry::Backoff;
use crate::verify::Hasher;
use crate::{Client, Error, Reference};
use bytes::Bytes;
use oci_spec::image::Digest;
use reqwest::{Method, StatusCode};
use std::io;
use std::sync::Arc;
use upload::Upload;
pub(crate) use upload::received;

/// Most repositories that a blob is tried to be mounted from.
const MOUNTS: usize = 3;

/// What a blob is uploaded from. It may still be growing while it is uploaded, but what was read once must
/// read the same again: broken uploads go on from where the registry says, or from the start.
///
/// Both methods are called on threads that may block.
pub trait BlobSource: Send + Sync {
    /// Digest and size in bytes. `None` while the blob grows; always known after a read at its end gave 0.
    fn known(&self) -> Option<(Digest, u64)>;

    /// Reads some bytes from an offset, waiting until there is one at least. 0 only at the blob's end.
    ///
    /// # Errors
    /// The blob cannot be read, or its making failed.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;
}

/// A blob in memory: a config, or a small layer.
#[derive(Clone, Debug)]
pub struct MemoryBlob {
    bytes: Bytes,
    digest: Digest,
}

impl MemoryBlob {
    /// A blob that is named by its SHA-256.
    #[must_use]
    pub fn new(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        let mut hasher = Hasher::sha256();
        hasher.update(&bytes);
        Self {
            digest: hasher.finish(),
            bytes,
        }
    }
}

impl BlobSource for MemoryBlob {
    fn known(&self) -> Option<(Digest, u64)> {
        Some((self.digest.clone(), self.bytes.len() as u64))
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let start = usize::try_from(offset).map_or(self.bytes.len(), |at| at.min(self.bytes.len()));
        let rest = &self.bytes[start..];
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        Ok(length)
    }
}

/// How a blob came to be in a repository.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PushedHow {
    /// It was there.
    Existed,
    /// The registry took it from another of its repositories.
    Mounted,
    /// Its bytes were sent.
    Uploaded,
}

/// A blob that is in a repository now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PushedBlob {
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// How it came there.
    pub how: PushedHow,
    /// Bytes sent for it, with those that had to be sent again.
    pub sent: u64,
}

impl Client {
    /// Whether a repository has a blob (one HEAD).
    ///
    /// # Errors
    /// Refused, unreachable.
    pub async fn has_blob(&self, reference: &Reference, digest: &Digest) -> Result<bool, Error> {
        let endpoint = self.inner.home(reference).await?;
        let registries = &self.inner.registries;
        registries.has_blob_at(&endpoint, digest).await
    }

    /// Brings a blob into a repository: nothing is sent where it is there, or where the registry can take it
    /// from one of the repositories in `mount_from` (those at other registries are passed over). Else it is
    /// uploaded; what breaks off goes on from where the registry got to.
    ///
    /// # Errors
    /// Refused, unreachable, the source cannot be read.
    pub async fn push_blob(
        &self,
        reference: &Reference,
        source: &Arc<dyn BlobSource>,
        mount_from: &[Reference],
    ) -> Result<PushedBlob, Error> {
        let endpoint = self.inner.home(reference).await?;
        let registries = &self.inner.registries;
        let mut upload = Upload::new(registries, &endpoint, source);
        if let Some((digest, size)) = upload.known().await? {
            let pushed = |how| PushedBlob {
                digest: digest.clone(),
                size,
                how,
                sent: 0,
            };
            if registries.has_blob_at(&endpoint, &digest).await? {
                return Ok(pushed(PushedHow::Existed));
            }
            let mut tried = Vec::new();
            for from in mount_from {
                let from = self.inner.home(from).await?;
                let fits = from.host == endpoint.host && from.repository != endpoint.repository;
                if !fits || tried.contains(&from.repository) || tried.len() == MOUNTS {
                    continue;
                }
                if upload.mount(&digest, &from).await? {
                    return Ok(pushed(PushedHow::Mounted));
                }
                tried.push(from.repository);
            }
        }
        upload.run().await
    }
}

impl Registries {
    async fn has_blob_at(&self, endpoint: &Endpoint, digest: &Digest) -> Result<bool, Error> {
        let path = endpoint.path("blobs", digest.as_ref());
        // The scope of the push that follows, so that one token serves both.
        let call = Call::new(Method::HEAD, path, endpoint.scope("pull,push"));
        let mut backoff = Backoff::new(self.retry(), false);
        loop {
            let error = match self.call(endpoint, &call).await {
                Ok(response) => match response.status() {
                    status if status.is_success() => return Ok(true),
                    // Whether uploads are allowed shows when one is tried.
                    StatusCode::NOT_FOUND
                    | StatusCode::METHOD_NOT_ALLOWED
                    | StatusCode::NOT_IMPLEMENTED => return Ok(false),
                    _ => response.into_error().await,
                },
                Err(error) => error,
            };
            backoff.after(error).await?;
        }
    }
}
