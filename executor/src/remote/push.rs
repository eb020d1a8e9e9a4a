//! Writing to registries, where another event than the end of all can stop it.

use super::{Remote, cancelled};
use crate::Error;
use oci_spec::image::Digest;
use planner::scheduler::Cancel;
use registry_client::{BlobSource, Client, PushedBlob, Reference};
use std::future::Future;
use std::sync::Arc;

impl Remote {
    fn write_until<T, F>(
        &self,
        reference: &Reference,
        stop: &Cancel,
        call: impl FnOnce(Client) -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<T, registry_client::Error>>,
    {
        let written = self.write(reference, |client| {
            let call = call(client);
            async {
                tokio::select! {
                    ended = call => ended.map(Some),
                    () = cancelled(stop) => Ok(None),
                }
            }
        });
        written?.ok_or(Error::Cancelled)
    }

    /// Whether a repository has a blob.
    pub(crate) fn has_blob(&self, reference: &Reference, digest: &Digest) -> Result<bool, Error> {
        self.run(reference, |client| async move {
            client.has_blob(reference, digest).await
        })
    }

    /// Brings a blob into a repository.
    pub(crate) fn push_blob_until(
        &self,
        reference: &Reference,
        source: &Arc<dyn BlobSource>,
        mount_from: &[Reference],
        stop: &Cancel,
    ) -> Result<PushedBlob, Error> {
        self.write_until(reference, stop, |client| async move {
            client.push_blob(reference, source, mount_from).await
        })
    }

    /// Stores a manifest or index under a tag, or by its digest.
    pub(crate) fn put_manifest_until(
        &self,
        reference: &Reference,
        media_type: &str,
        bytes: &[u8],
        stop: &Cancel,
    ) -> Result<Digest, Error> {
        self.write_until(reference, stop, |client| async move {
            client.put_manifest(reference, media_type, bytes).await
        })
    }

    /// Whether a tag, or without one the repository, has this manifest.
    pub(crate) fn has_manifest_until(
        &self,
        reference: &Reference,
        digest: &Digest,
        stop: &Cancel,
    ) -> Result<bool, Error> {
        self.write_until(reference, stop, |client| async move {
            client.has_manifest(reference, digest).await
        })
    }
}
