//! The manifests that point to another one: asked of the registry, or kept in a tag where it keeps no list
//! (distribution specification, "Listing Referrers" and "Referrers Tag Schema").
//!
//! Reads of a manifest only what goes into its entry of the list.

use crate::lists::next_page;
use crate::manifest::OCI_INDEX;
use crate::registry::{Call, Endpoint, Registries};
use crate::transport::retry::Backoff;
use crate::verify::Hasher;
use crate::{Client, Error, Reference};
use bytes::Bytes;
use oci_spec::image::{Descriptor, Digest};
use reqwest::Method;
use reqwest::header::{ACCEPT, HeaderValue};
use serde::Deserialize;
use serde_json::{Value, json};

/// Most pages of a list of referrers, and most bytes of a page.
const PAGES: usize = 200;
const PAGE_LIMIT: u64 = 4 * 1024 * 1024;
/// How often a tag that another client changes at the same time is written.
const RACES: usize = 4;

#[derive(Deserialize)]
struct List {
    #[serde(default)]
    manifests: Vec<Descriptor>,
}

impl Client {
    /// The descriptors of all manifests in the reference's repository whose `subject` is a digest.
    ///
    /// # Errors
    /// Refused, unreachable, an answer that is no index.
    pub async fn referrers(
        &self,
        reference: &Reference,
        digest: &Digest,
    ) -> Result<Vec<Descriptor>, Error> {
        let endpoint = self.inner.home(reference).await?;
        let registries = &self.inner.registries;
        if let Some(listed) = registries.listed_referrers(&endpoint, digest).await? {
            return Ok(listed);
        }
        let tag = fallback_tag(digest);
        match registries.manifest_at(&endpoint, &tag, None).await {
            Ok(fetched) => {
                let list: List = serde_json::from_slice(&fetched.bytes).map_err(|error| {
                    Error::ManifestInvalid {
                        name: endpoint.name(&tag),
                        reason: format!("bad JSON: {error}"),
                    }
                })?;
                Ok(list.manifests)
            }
            Err(error) if error.is_not_found() => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }
}

impl Registries {
    /// What the registry itself lists; `None` when it keeps no lists.
    async fn listed_referrers(
        &self,
        endpoint: &Endpoint,
        digest: &Digest,
    ) -> Result<Option<Vec<Descriptor>>, Error> {
        let path = endpoint.path("referrers", digest.as_ref());
        let mut call = Call {
            headers: vec![(ACCEPT, HeaderValue::from_static(OCI_INDEX))],
            ..Call::new(Method::GET, path, endpoint.scope("pull"))
        };
        let mut backoff = Backoff::new(self.retry(), false);
        let mut found = Vec::new();
        let mut page = 0;
        while page < PAGES {
            let answered = async {
                let mut response = self.call(endpoint, &call).await?;
                let status = response.status();
                if matches!(status.as_u16(), 400 | 404 | 405 | 501) && page == 0 {
                    return Ok(None);
                }
                if !status.is_success() {
                    return Err(response.into_error().await);
                }
                let Some(body) = response.read_within(PAGE_LIMIT).await? else {
                    return Err(response.protocol_error("its list of referrers is too long"));
                };
                // A page for people, which some servers give for any path, is no list.
                let list: List = match serde_json::from_slice(&body) {
                    Ok(list) => list,
                    Err(_) if page == 0 => return Ok(None),
                    Err(_) => return Err(response.protocol_error("it is no list of referrers")),
                };
                Ok(Some((list, next_page(&self.transport, &response)?)))
            };
            match answered.await {
                Ok(None) => return Ok(None),
                Ok(Some((list, next))) => {
                    found.extend(list.manifests);
                    let Some(next) = next else {
                        return Ok(Some(found));
                    };
                    call.target = next;
                    page += 1;
                }
                Err(error) => backoff.after(error).await?,
            }
        }
        Err(Error::Protocol {
            url: endpoint.name(digest.as_ref()),
            reason: format!("its list of referrers has more than {PAGES} pages"),
        })
    }

    /// Puts a manifest on the list that is kept in its subject's fallback tag.
    pub(super) async fn note_referrer(
        &self,
        endpoint: &Endpoint,
        subject: &Digest,
        entry: &Value,
    ) -> Result<(), Error> {
        let tag = fallback_tag(subject);
        for _ in 0..RACES {
            let mut manifests = match self.manifest_at(endpoint, &tag, None).await {
                Ok(fetched) => entries(&fetched.bytes),
                Err(error) if error.is_not_found() => Vec::new(),
                Err(error) => return Err(error),
            };
            let known = |listed: &Value| listed.get("digest") == entry.get("digest");
            if manifests.iter().any(known) {
                return Ok(());
            }
            manifests.push(entry.clone());
            let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests});
            let bytes = Bytes::from(index.to_string());
            let mut hasher = Hasher::sha256();
            hasher.update(&bytes);
            let digest = hasher.finish();
            self.put_manifest_at(endpoint, &tag, OCI_INDEX, &bytes, &digest)
                .await?;
            // Read again in the next round: another client may have written over it meanwhile.
        }
        Ok(())
    }
}

fn entries(index: &[u8]) -> Vec<Value> {
    let index: Value = serde_json::from_slice(index).unwrap_or_default();
    match index.get("manifests") {
        Some(Value::Array(manifests)) => manifests.clone(),
        _ => Vec::new(),
    }
}

/// `sha256-...`: the tag with the list of those that refer to a digest.
fn fallback_tag(digest: &Digest) -> String {
    let text = digest.to_string();
    let (algorithm, encoded) = text.split_once(':').unwrap_or((&text, ""));
    let cut = |text: &str, length| -> String {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let cleaned = text.chars().map(|c| if fits(c) { c } else { '-' });
        cleaned.take(length).collect()
    };
    format!("{}-{}", cut(algorithm, 32), cut(encoded, 64))
}

/// The subject of a manifest, and the manifest's entry of the list of referrers. `None` without a subject.
pub(super) fn entry(media_type: &str, bytes: &[u8], digest: &Digest) -> Option<(Digest, Value)> {
    let manifest: Value = serde_json::from_slice(bytes).ok()?;
    let subject = manifest.get("subject")?.get("digest")?.as_str()?;
    let subject = Digest::try_from(subject).ok()?;
    let mut entry = json!({
        "mediaType": media_type,
        "digest": digest.to_string(),
        "size": bytes.len(),
    });
    let config_type = || manifest.get("config")?.get("mediaType");
    let stated = manifest.get("artifactType");
    let artifact_type = stated.filter(|kind| kind.as_str().is_some_and(|kind| !kind.is_empty()));
    if let Some(kind) = artifact_type.or_else(config_type) {
        entry["artifactType"] = kind.clone();
    }
    if let Some(annotations) = manifest.get("annotations").filter(|map| map.is_object()) {
        entry["annotations"] = annotations.clone();
    }
    Some((subject, entry))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fallback_tags() {
        let hex = "0123456789abcdef".repeat(8);
        let cases = [
            (
                format!("sha256:{}", &hex[..64]),
                format!("sha256-{}", &hex[..64]),
            ),
            (format!("sha512:{hex}"), format!("sha512-{}", &hex[..64])),
            ("test+alg:aB=c".to_owned(), "test-alg-aB-c".to_owned()),
        ];
        for (digest, tag) in cases {
            let digest = Digest::try_from(digest.as_str()).unwrap();
            assert_eq!(fallback_tag(&digest), tag);
        }
    }
}
