//! Manifests and indexes into a registry, and out of it.
//!
//! Sends the bytes as they are; that blobs and children are there before is the caller's.

use super::referrers;
use crate::manifest::content_digest;
use crate::registry::{Call, Endpoint, Registries};
use crate::transport::Body;
use crate::transport::retry::Backoff;
use crate::verify::{Hasher, digest_like};
use crate::{Client, Error, Reference};
use bytes::Bytes;
use oci_spec::image::Digest;
use reqwest::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use reqwest::{Method, StatusCode};

/// By this header a registry says that it keeps the list of referrers itself.
const SUBJECT: HeaderName = HeaderName::from_static("oci-subject");

impl Client {
    /// Stores a manifest or index under the reference's tag, or by digest when it has none. A digest in the
    /// reference must be that of the bytes. Where the manifest has a `subject` and the registry keeps no list of
    /// referrers, the list in the fallback tag is brought up to date.
    ///
    /// # Errors
    /// Refused (for instance as a blob is missing), unreachable, another digest than the reference's or than
    /// the registry's.
    pub async fn put_manifest(
        &self,
        reference: &Reference,
        media_type: &str,
        bytes: &[u8],
    ) -> Result<Digest, Error> {
        let endpoint = self.inner.home(reference).await?;
        let digest = digest_for(reference, bytes)?;
        let selector = reference.tag.as_deref().unwrap_or(digest.as_ref());
        let registries = &self.inner.registries;
        let bytes = Bytes::copy_from_slice(bytes);
        let listed = registries
            .put_manifest_at(&endpoint, selector, media_type, &bytes, &digest)
            .await?;
        if !listed && let Some((subject, entry)) = referrers::entry(media_type, &bytes, &digest) {
            // The list is read and written again, so one at a time.
            let _alone = self.inner.listing.lock().await;
            registries
                .note_referrer(&endpoint, &subject, &entry)
                .await?;
        }
        Ok(digest)
    }

    /// Whether a tag (or digest) is this manifest already (one HEAD). `false` too where a registry does not tell.
    ///
    /// # Errors
    /// Refused, unreachable.
    pub async fn has_manifest(
        &self,
        reference: &Reference,
        digest: &Digest,
    ) -> Result<bool, Error> {
        let endpoint = self.inner.home(reference).await?;
        let registries = &self.inner.registries;
        let selector = match &reference.tag {
            Some(tag) => tag.as_str(),
            None => digest.as_ref(),
        };
        let call = Call {
            headers: vec![crate::manifest::accept()],
            ..Call::new(
                Method::HEAD,
                endpoint.path("manifests", selector),
                endpoint.scope("pull,push"),
            )
        };
        let mut backoff = Backoff::new(registries.retry(), false);
        loop {
            let error = match registries.call(&endpoint, &call).await {
                Ok(response) if response.status().is_success() => {
                    return Ok(content_digest(&response).as_ref() == Some(digest));
                }
                Ok(response)
                    if matches!(
                        response.status(),
                        StatusCode::NOT_FOUND
                            | StatusCode::METHOD_NOT_ALLOWED
                            | StatusCode::NOT_IMPLEMENTED
                    ) =>
                {
                    return Ok(false);
                }
                Ok(response) => response.into_error().await,
                Err(error) => error,
            };
            backoff.after(error).await?;
        }
    }

    /// Deletes a manifest by the reference's digest, or its tag alone when it has no digest (which many
    /// registries do not allow).
    ///
    /// # Errors
    /// Not there, not allowed, unreachable.
    pub async fn delete_manifest(&self, reference: &Reference) -> Result<(), Error> {
        let endpoint = self.inner.home(reference).await?;
        let registries = &self.inner.registries;
        let call = Call::new(
            Method::DELETE,
            endpoint.path("manifests", reference.selector()),
            endpoint.scope("delete,pull,push"),
        );
        let mut backoff = Backoff::new(registries.retry(), false);
        loop {
            let error = match registries.call(&endpoint, &call).await {
                Ok(response) if response.status().is_success() => return Ok(()),
                Ok(response) => response.into_error().await,
                Err(error) => error,
            };
            backoff.after(error).await?;
        }
    }
}

impl Registries {
    /// Stores a manifest; `true` when the registry has put it on its list of referrers.
    pub(super) async fn put_manifest_at(
        &self,
        endpoint: &Endpoint,
        selector: &str,
        media_type: &str,
        bytes: &Bytes,
        digest: &Digest,
    ) -> Result<bool, Error> {
        let name = endpoint.name(selector);
        let kind = HeaderValue::from_str(media_type).map_err(|_| Error::ManifestInvalid {
            name: name.clone(),
            reason: format!("{media_type:?} is not a media type"),
        })?;
        let call = Call {
            headers: vec![(CONTENT_TYPE, kind)],
            body: Body::Bytes(bytes.clone()),
            ..Call::new(
                Method::PUT,
                endpoint.path("manifests", selector),
                endpoint.scope("pull,push"),
            )
        };
        let mut backoff = Backoff::new(self.retry(), false);
        loop {
            let error = match self.call(endpoint, &call).await {
                Ok(response) if response.status().is_success() => {
                    if let Some(stored) = content_digest(&response)
                        && stored.algorithm() == digest.algorithm()
                        && stored != *digest
                    {
                        return Err(Error::DigestMismatch {
                            name,
                            expected: digest.to_string(),
                            actual: stored.to_string(),
                        });
                    }
                    return Ok(response.header(&SUBJECT).is_some());
                }
                Ok(response) => response.into_error().await,
                Err(error) => error,
            };
            backoff.after(error).await?;
        }
    }
}

/// The digest of a manifest's bytes, which the reference's digest must be if it has one.
fn digest_for(reference: &Reference, bytes: &[u8]) -> Result<Digest, Error> {
    let Some(expected) = crate::client::pinned(reference)? else {
        let mut hasher = Hasher::sha256();
        hasher.update(bytes);
        return Ok(hasher.finish());
    };
    let actual = digest_like(&expected, bytes)?;
    if actual == expected {
        return Ok(actual);
    }
    Err(Error::DigestMismatch {
        name: reference.to_string(),
        expected: expected.to_string(),
        actual: actual.to_string(),
    })
}
