//! Writing to registries, and what only a registry itself can tell: blobs, manifests, lists.

use super::Remote;
use crate::Error;
use oci_spec::image::{Descriptor, Digest};
use registry_client::{BlobSource, Client, PushedBlob, Reference};
use std::future::Future;
use std::sync::Arc;

impl Remote {
    pub(super) fn write<T, F>(
        &self,
        reference: &Reference,
        call: impl FnOnce(Client) -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<T, registry_client::Error>>,
    {
        self.attempt(call)?.map_err(|source| Error::Push {
            reference: reference.to_string(),
            source,
        })
    }

    /// Whether a tag, or without one a digest, is this manifest already: one HEAD.
    pub(crate) fn has_manifest(
        &self,
        reference: &Reference,
        digest: &Digest,
    ) -> Result<bool, Error> {
        self.write(reference, |client| async move {
            client.has_manifest(reference, digest).await
        })
    }

    /// What a name stands for at the registry itself, whatever its mirrors have; `None` when it has nothing.
    pub(crate) fn resolve_at_home(
        &self,
        reference: &Reference,
    ) -> Result<Option<Descriptor>, Error> {
        let found = self.run(reference, |client| async move {
            client.resolve_at_home(reference).await
        });
        match found {
            Err(Error::Registry { source, .. }) if source.is_not_found() => Ok(None),
            found => found.map(Some),
        }
    }

    /// Stores a manifest under the reference's tag, or by digest when it has none.
    pub(crate) fn put_manifest(
        &self,
        reference: &Reference,
        media_type: &str,
        bytes: &[u8],
    ) -> Result<Digest, Error> {
        self.write(reference, |client| async move {
            client.put_manifest(reference, media_type, bytes).await
        })
    }

    /// Brings a blob into a repository: it is there, is mounted, or is uploaded.
    pub(crate) fn push_blob(
        &self,
        reference: &Reference,
        source: &Arc<dyn BlobSource>,
        mount_from: &[Reference],
    ) -> Result<PushedBlob, Error> {
        self.write(reference, |client| async move {
            client.push_blob(reference, source, mount_from).await
        })
    }

    /// The descriptors of what refers to a manifest.
    pub(crate) fn referrers(
        &self,
        reference: &Reference,
        digest: &Digest,
    ) -> Result<Vec<Descriptor>, Error> {
        self.run(reference, |client| async move {
            client.referrers(reference, digest).await
        })
    }
}
