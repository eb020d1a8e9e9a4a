//! Manifests and indexes: what a tag means, and the verified bytes.
//!
//! Looks into a manifest only as far as its media type; choosing a platform is the caller's.

use crate::registry::{Ask, Endpoint, Registries};
use crate::transport::Response;
use crate::transport::retry::Backoff;
use crate::verify::{Hasher, digest_like};
use crate::{Error, FetchedManifest};
use oci_spec::image::{Descriptor, Digest, MediaType};
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderName, HeaderValue};
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde::de::IgnoredAny;

/// Largest manifest taken, in bytes (distribution specification, "Pushing manifests": at least 4 megabytes).
const SIZE_LIMIT: u64 = 4 * 1024 * 1024;
/// The header in which a registry says what digest it serves.
const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// What is asked for, most wanted first.
const ACCEPTED: [&str; 4] = [OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST];

impl Registries {
    /// Digest, size and media type at one endpoint.
    pub(crate) async fn resolve_at(
        &self,
        endpoint: &Endpoint,
        selector: &str,
        expected: Option<&Digest>,
    ) -> Result<Descriptor, Error> {
        let mut backoff = Backoff::new(self.retry(), endpoint.mirror);
        loop {
            match self.head(endpoint, selector, expected).await {
                Ok(Some(descriptor)) => return Ok(descriptor),
                Ok(None) => {
                    let fetched = self.manifest_at(endpoint, selector, expected).await?;
                    return Ok(fetched.descriptor);
                }
                Err(error) => backoff.after(error).await?,
            }
        }
    }

    /// Digest and bytes at one endpoint.
    pub(crate) async fn manifest_at(
        &self,
        endpoint: &Endpoint,
        selector: &str,
        expected: Option<&Digest>,
    ) -> Result<FetchedManifest, Error> {
        let mut backoff = Backoff::new(self.retry(), endpoint.mirror);
        loop {
            match self.get(endpoint, selector, expected).await {
                Ok(fetched) => return Ok(fetched),
                Err(error) => backoff.after(error).await?,
            }
        }
    }

    /// `None` when HEAD is not enough: headers are missing, or it failed in a way that only the body of
    /// a GET explains.
    async fn head(
        &self,
        endpoint: &Endpoint,
        selector: &str,
        expected: Option<&Digest>,
    ) -> Result<Option<Descriptor>, Error> {
        let response = self.ask(endpoint, ask(Method::HEAD, selector)).await?;
        let status = response.status();
        if status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED
            || status == StatusCode::TOO_MANY_REQUESTS
        {
            return Err(response.into_error().await);
        }
        if !status.is_success() {
            return Ok(None);
        }
        let digest = content_digest(&response);
        if let (Some(expected), Some(digest)) = (expected, &digest)
            && expected.algorithm() == digest.algorithm()
            && expected != digest
        {
            return Err(mismatch(endpoint.name(selector), expected, digest));
        }
        let digest = expected.cloned().or(digest);
        let media_type = content_type(&response).filter(|kind| ACCEPTED.contains(kind));
        Ok(match (digest, media_type, response.content_length()) {
            (Some(digest), Some(media_type), Some(size)) if size > 0 => {
                Some(Descriptor::new(MediaType::from(media_type), size, digest))
            }
            _ => None,
        })
    }

    async fn get(
        &self,
        endpoint: &Endpoint,
        selector: &str,
        expected: Option<&Digest>,
    ) -> Result<FetchedManifest, Error> {
        let name = endpoint.name(selector);
        let mut response = self.ask(endpoint, ask(Method::GET, selector)).await?;
        if !response.status().is_success() {
            return Err(response.into_error().await);
        }
        let Some(bytes) = response.read_within(SIZE_LIMIT).await? else {
            return Err(Error::ManifestTooLarge {
                name,
                limit: SIZE_LIMIT,
            });
        };
        let digest = verify(&name, &bytes, expected, content_digest(&response))?;
        let media_type = media_type(&name, &bytes, content_type(&response))?;
        let size = bytes.len() as u64;
        Ok(FetchedManifest {
            descriptor: Descriptor::new(media_type, size, digest),
            bytes,
        })
    }
}

fn ask(method: Method, selector: &str) -> Ask<'_> {
    Ask {
        method,
        kind: "manifests",
        selector,
        headers: vec![accept()],
    }
}

/// The header that says what kinds of manifests are understood.
pub(crate) fn accept() -> (HeaderName, HeaderValue) {
    let accepted = HeaderValue::from_str(&ACCEPTED.join(", "));
    (
        ACCEPT,
        accepted.expect("BUG: media types are valid in a header"),
    )
}

/// The digest of the bytes, which both the one asked for and the one the registry names must agree with.
fn verify(
    name: &str,
    bytes: &[u8],
    expected: Option<&Digest>,
    stated: Option<Digest>,
) -> Result<Digest, Error> {
    let stated = stated.filter(|digest| Hasher::for_digest(digest).is_ok());
    for wanted in [expected, stated.as_ref()].into_iter().flatten() {
        let actual = digest_like(wanted, bytes)?;
        if actual != *wanted {
            return Err(mismatch(name.to_owned(), wanted, &actual));
        }
    }
    if let Some(known) = expected.cloned().or(stated) {
        return Ok(known);
    }
    let mut hasher = Hasher::sha256();
    hasher.update(bytes);
    Ok(hasher.finish())
}

/// Digest and media type of bytes that nothing is known of.
pub(crate) fn read_any(bytes: &[u8]) -> Option<(Digest, MediaType)> {
    let digest = verify("any", bytes, None, None).ok()?;
    Some((digest, media_type("any", bytes, None).ok()?))
}

fn mismatch(name: String, expected: &Digest, actual: &Digest) -> Error {
    Error::DigestMismatch {
        name,
        expected: expected.to_string(),
        actual: actual.to_string(),
    }
}

pub(crate) fn content_digest(response: &Response) -> Option<Digest> {
    let digest = Digest::try_from(response.header(&CONTENT_DIGEST)?.trim()).ok()?;
    Hasher::for_digest(&digest).is_ok().then_some(digest)
}

/// The media type without parameters such as `charset`.
fn content_type(response: &Response) -> Option<&str> {
    let value = response.header(&CONTENT_TYPE)?;
    Some(value.split(';').next().unwrap_or_default().trim())
}

/// The fields that tell manifests and indexes apart.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    schema_version: Option<u64>,
    media_type: Option<String>,
    manifests: Option<IgnoredAny>,
    config: Option<IgnoredAny>,
    layers: Option<IgnoredAny>,
}

/// What a body is. Header and body must agree, and a body must not be readable both ways: otherwise two
/// clients could take the same digest for different images.
fn media_type(name: &str, bytes: &[u8], header: Option<&str>) -> Result<MediaType, Error> {
    let invalid = |reason: String| Error::ManifestInvalid {
        name: name.to_owned(),
        reason,
    };
    let shape: Shape =
        serde_json::from_slice(bytes).map_err(|error| invalid(format!("bad JSON: {error}")))?;
    match shape.schema_version {
        Some(2) => {}
        Some(1) => {
            return Err(invalid(
                "schema version 1 is not supported; push the image again with a current tool"
                    .to_owned(),
            ));
        }
        _ => return Err(invalid("it has no schemaVersion 2".to_owned())),
    }
    let is_index = shape.manifests.is_some();
    if is_index && (shape.layers.is_some() || shape.config.is_some()) {
        return Err(invalid("it is both an index and a manifest".to_owned()));
    }
    let header = header.filter(|header| ACCEPTED.contains(header));
    let stated = shape.media_type.as_deref().filter(|kind| !kind.is_empty());
    if let (Some(header), Some(stated)) = (header, stated)
        && header != stated
    {
        return Err(invalid(format!(
            "the registry calls it {header}, itself {stated}"
        )));
    }
    let kind = stated
        .or(header)
        .unwrap_or(if is_index { OCI_INDEX } else { OCI_MANIFEST });
    let fits = match kind {
        OCI_INDEX | DOCKER_LIST => is_index,
        OCI_MANIFEST | DOCKER_MANIFEST => shape.config.is_some() && shape.layers.is_some(),
        _ => return Err(invalid(format!("media type {kind} is not supported"))),
    };
    if fits {
        Ok(MediaType::from(kind))
    } else {
        Err(invalid(format!("it has not the fields of {kind}")))
    }
}
