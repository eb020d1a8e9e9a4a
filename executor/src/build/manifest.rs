//! Manifests, indexes and configs as they are found in the wild: OCI and Docker media types, missing
//! fields and nulls tolerated. Reading only takes what a build needs; writing is canonical.

use crate::Error;
use crate::build::canonical;
use oci_spec::image::{Descriptor, Digest, MediaType};
use planner::config::{HistoryEntry, ImageConfig};
use planner::platform::Platform;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::str::FromStr;

/// Largest manifest or index that is read, in bytes (the distribution spec asks registries to take 4 MiB).
pub(crate) const MANIFEST_LIMIT: u64 = 4 << 20;
/// Largest config that is read, in bytes.
pub(crate) const CONFIG_LIMIT: u64 = 8 << 20;
/// Most values that a document may have. An image of a thousand layers has about ten thousand; each takes some ten
/// times the memory that it takes in the text.
const MAX_VALUES: usize = 200_000;

pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
pub(crate) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(crate) const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

/// A descriptor.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Desc {
    #[serde(default)]
    pub media_type: String,
    pub digest: String,
    pub size: u64,
    /// Where else the content can be had (descriptor.md).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<DescPlatform>,
    /// What else it says (`data`, `artifactType`): handed on as it is.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

/// The `platform` of a descriptor in an index.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct DescPlatform {
    #[serde(default)]
    pub architecture: String,
    #[serde(default)]
    pub os: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    #[serde(
        rename = "os.version",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub os_version: Option<String>,
    /// `os.features`, `features`: handed on as they are.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

impl DescPlatform {
    pub(crate) fn of(platform: &Platform) -> Self {
        Self {
            architecture: platform.architecture.clone(),
            os: platform.os.clone(),
            variant: platform.variant.clone(),
            os_version: platform.os_version.clone(),
            other: BTreeMap::new(),
        }
    }

    pub(crate) fn to_platform(&self) -> Platform {
        let mut platform = Platform::new(
            &self.os,
            &self.architecture,
            self.variant.as_deref().unwrap_or(""),
        );
        platform.os_version = self
            .os_version
            .clone()
            .filter(|version| !version.is_empty());
        platform
    }

    /// Attestations and the like carry `unknown/unknown`.
    pub(crate) fn is_unknown(&self) -> bool {
        self.os == "unknown" || self.architecture == "unknown"
    }
}

impl Desc {
    pub(crate) fn new(media_type: &str, digest: &Digest, size: u64) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest: digest.to_string(),
            size,
            urls: Vec::new(),
            annotations: BTreeMap::new(),
            platform: None,
            other: BTreeMap::new(),
        }
    }

    pub(crate) fn of(descriptor: &Descriptor) -> Self {
        Self::new(
            descriptor.media_type().as_ref(),
            descriptor.digest(),
            descriptor.size(),
        )
    }

    pub(crate) fn digest(&self) -> Result<Digest, Error> {
        digest(&self.digest)
    }

    pub(crate) fn to_oci(&self) -> Result<Descriptor, Error> {
        let media_type = MediaType::from(self.media_type.as_str());
        let mut descriptor = Descriptor::new(media_type, self.size, self.digest()?);
        if !self.urls.is_empty() {
            descriptor.set_urls(Some(self.urls.clone()));
        }
        Ok(descriptor)
    }
}

/// Parses a digest; only SHA-256 is taken, which is what the store addresses content by.
pub(crate) fn digest(text: &str) -> Result<Digest, Error> {
    let bad = || Error::Image {
        subject: text.to_owned(),
        reason: "not a sha256 digest".to_owned(),
    };
    let hex = text.strip_prefix("sha256:").ok_or_else(bad)?;
    if hex.len() != 64
        || !hex
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    {
        return Err(bad());
    }
    Digest::from_str(text).map_err(|_| bad())
}

/// A manifest or an index; which one is told by its content, because descriptors lie.
#[derive(Clone, Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "one is looked at at a time, and few are kept"
)]
pub(crate) enum Document {
    Index(Index),
    Manifest(Manifest),
}

/// An index or Docker manifest list.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Index {
    #[serde(default)]
    pub schema_version: u32,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub media_type: String,
    pub manifests: Vec<Desc>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl Index {
    /// An OCI index over these manifests.
    pub(crate) fn of(manifests: Vec<Desc>) -> Self {
        Self {
            schema_version: 2,
            media_type: OCI_INDEX.to_owned(),
            manifests,
            annotations: BTreeMap::new(),
        }
    }
}

/// An image manifest.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    #[serde(default)]
    pub schema_version: u32,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub media_type: String,
    pub config: Desc,
    pub layers: Vec<Desc>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl Document {
    pub(crate) fn parse(subject: &str, bytes: &[u8]) -> Result<Self, Error> {
        let bad = |reason: String| Error::Image {
            subject: subject.to_owned(),
            reason,
        };
        let value = parse_json(bytes).map_err(|e| bad(format!("not a manifest: {e}")))?;
        let has = |key: &str| value.get(key).is_some();
        let parsed = if has("manifests") && has("layers") {
            return Err(bad("a manifest and an index at once".to_owned()));
        } else if has("manifests") {
            serde_json::from_value(value).map(Self::Index)
        } else if has("fsLayers") {
            return Err(bad(
                "a schema 1 manifest, which is no longer supported".to_owned()
            ));
        } else {
            serde_json::from_value(value).map(Self::Manifest)
        };
        parsed.map_err(|e| bad(format!("not a manifest: {e}")))
    }

    /// The media type that fits the content.
    pub(crate) fn media_type(&self) -> &str {
        let (own, fallback) = match self {
            Self::Index(index) => (&index.media_type, OCI_INDEX),
            Self::Manifest(manifest) => (&manifest.media_type, OCI_MANIFEST),
        };
        if own.is_empty() { fallback } else { own }
    }
}

/// An image's config, taken apart.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub config: ImageConfig,
    pub diff_ids: Vec<String>,
    pub history: Vec<HistoryEntry>,
    pub created: Option<String>,
}

impl Config {
    pub(crate) fn parse(subject: &str, bytes: &[u8]) -> Result<Self, Error> {
        let bad = |reason: String| Error::Image {
            subject: subject.to_owned(),
            reason,
        };
        let value = parse_json(bytes).map_err(|e| bad(format!("not an image config: {e}")))?;
        let part = |key: &str| value.get(key).cloned().unwrap_or(Value::Null);
        let diff_ids = match value.pointer("/rootfs/diff_ids") {
            None => Vec::new(),
            Some(ids) => serde_json::from_value(ids.clone())
                .map_err(|e| bad(format!("bad diff_ids: {e}")))?,
        };
        let history = match part("history") {
            Value::Null => Vec::new(),
            entries => {
                serde_json::from_value(entries).map_err(|e| bad(format!("bad history: {e}")))?
            }
        };
        let created = part("created").as_str().map(str::to_owned);
        let config =
            serde_json::from_value(value).map_err(|e| bad(format!("not an image config: {e}")))?;
        Ok(Self {
            config,
            diff_ids,
            history,
            created,
        })
    }

    pub(crate) fn platform(&self) -> Platform {
        let mut platform = Platform::new(
            &self.config.os,
            &self.config.architecture,
            self.config.variant.as_deref().unwrap_or(""),
        );
        platform.os_version = self
            .config
            .os_version
            .clone()
            .filter(|version| !version.is_empty());
        platform
    }
}

/// JSON without the nulls that Go programs write for empty values.
fn parse_json(bytes: &[u8]) -> Result<Value, serde_json::Error> {
    if values(bytes) > MAX_VALUES {
        let reason = format!("it has more than {MAX_VALUES} values");
        return Err(serde::de::Error::custom(reason));
    }
    let mut value: Value = serde_json::from_slice(bytes)?;
    drop_nulls(&mut value);
    Ok(value)
}

/// About how many values a text has: what separates and opens them, outside of strings.
pub(crate) fn values(bytes: &[u8]) -> usize {
    let (mut count, mut in_string, mut escaped) = (0, false, false);
    for byte in bytes {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b',' | b'[' | b'{' if !in_string => count += 1,
            _ => {}
        }
    }
    count
}

fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

/// A document as canonical bytes.
pub(crate) fn bytes_of<T: Serialize>(document: &T) -> Vec<u8> {
    canonical::to_vec(document)
}

/// The SHA-256 digest of some bytes.
pub(crate) fn digest_of(bytes: &[u8]) -> Digest {
    use sha2::{Digest as _, Sha256};
    digest_of_hash(&Sha256::digest(bytes))
}

/// A finished SHA-256 as a digest.
pub(crate) fn digest_of_hash(hash: &[u8]) -> Digest {
    let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    digest(&format!("sha256:{hex}")).expect("BUG: a hash in hex is a digest")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_nulls_and_docker_fields_are_tolerated() {
        let text = br#"{"architecture":"amd64","os":"linux","created":null,"config":{"User":null,"Cmd":null,"Env":["A=b"],"Tty":false},
            "container_config":{},"docker_version":"20","rootfs":{"type":"layers","diff_ids":null},"history":null}"#;
        let config = Config::parse("x", text).unwrap();
        assert_eq!(config.config.config.env, Some(vec!["A=b".to_owned()]));
        assert_eq!(config.platform().to_string(), "linux/amd64");
        assert!(
            config.diff_ids.is_empty() && config.history.is_empty() && config.created.is_none()
        );
    }

    #[test]
    fn digests_other_than_sha256_are_refused() {
        for text in [
            "",
            "sha256:",
            "sha256:ABC",
            "md5:00",
            "sha256:../../../../etc/passwd",
            &format!("sha256:{}", "A".repeat(64)),
        ] {
            assert!(digest(text).is_err(), "{text}");
        }
        assert!(digest(&format!("sha256:{}", "a".repeat(64))).is_ok());
    }

    #[test]
    fn a_document_is_told_by_its_content() {
        assert!(matches!(
            Document::parse("x", br#"{"manifests":[]}"#).unwrap(),
            Document::Index(_)
        ));
        let manifest = br#"{"config":{"digest":"sha256:00","size":1},"layers":[]}"#;
        assert!(matches!(
            Document::parse("x", manifest).unwrap(),
            Document::Manifest(_)
        ));
        for bad in [
            &b"{}"[..],
            b"[]",
            b"",
            br#"{"manifests":[],"layers":[]}"#,
            br#"{"fsLayers":[]}"#,
        ] {
            assert!(Document::parse("x", bad).is_err());
        }
    }
}
