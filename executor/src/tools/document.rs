//! A manifest or index with its descriptor, and platforms as descriptors and configs tell them.

use crate::Error;
use crate::build::manifest::{self, Desc, DescPlatform, Document, Index};
use planner::platform::Platform;
use serde_json::Value;

/// Indexes inside indexes that are followed.
pub(super) const MAX_NESTING: usize = 4;

/// Annotation of an attestation's descriptor with the digest of the manifest that it is about.
pub(super) const ATTESTATION_OF: &str = "vnd.docker.reference.digest";

/// Bytes of a manifest or index, and what they are.
#[derive(Clone, Debug)]
pub(super) struct Doc {
    /// Media type, digest and size are those of the bytes.
    pub desc: Desc,
    pub bytes: Vec<u8>,
}

impl Doc {
    /// From bytes whose digest was checked where it had to be.
    pub(super) fn of(bytes: Vec<u8>) -> Result<Self, Error> {
        let digest = manifest::digest_of(&bytes);
        let media_type = Document::parse(digest.as_ref(), &bytes)?
            .media_type()
            .to_owned();
        let desc = Desc::new(&media_type, &digest, bytes.len() as u64);
        Ok(Self { desc, bytes })
    }

    /// An index in canonical JSON.
    pub(super) fn of_index(index: &Index) -> Self {
        let bytes = manifest::bytes_of(index);
        let digest = manifest::digest_of(&bytes);
        Self {
            desc: Desc::new(&index.media_type, &digest, bytes.len() as u64),
            bytes,
        }
    }

    pub(super) fn parse(&self) -> Result<Document, Error> {
        Document::parse(&self.desc.digest, &self.bytes)
    }
}

/// The platform of an image by its config, as it is written there (a variant that goes without saying stays).
pub(super) fn platform_of(config: &[u8]) -> Option<DescPlatform> {
    let config: Value = serde_json::from_slice(config).ok()?;
    let text = |key: &str| {
        let value = config.get(key).and_then(Value::as_str);
        value.filter(|text| !text.is_empty()).map(str::to_owned)
    };
    let mut platform = DescPlatform {
        architecture: text("architecture").unwrap_or_default(),
        os: text("os").unwrap_or_default(),
        variant: text("variant"),
        os_version: text("os.version"),
        other: std::collections::BTreeMap::default(),
    };
    if let Some(features) = config.get("os.features").filter(|value| !value.is_null()) {
        platform
            .other
            .insert("os.features".to_owned(), features.clone());
    }
    Some(platform)
}

/// Where a descriptor belongs in an index: by platform, attestations last.
pub(super) fn sort_key(desc: &Desc) -> (bool, String, String, String, String, String) {
    let platform = desc.platform.clone();
    let is_unknown = platform.as_ref().is_none_or(DescPlatform::is_unknown);
    let part = |get: fn(&DescPlatform) -> Option<String>| {
        platform.as_ref().and_then(get).unwrap_or_default()
    };
    (
        is_unknown,
        part(|platform| Some(platform.os.clone())),
        part(|platform| Some(platform.architecture.clone())),
        part(|platform| platform.variant.clone()),
        part(|platform| platform.os_version.clone()),
        desc.digest.clone(),
    )
}

/// Whether two descriptors stand for the same platform, its OS version included.
pub(super) fn is_same_platform(a: &Desc, b: &Desc) -> bool {
    let normal = |desc: &Desc| -> Option<(Platform, Option<Value>)> {
        let platform = desc.platform.as_ref()?;
        let features = platform.other.get("os.features").cloned();
        (!platform.is_unknown()).then(|| (platform.to_platform().normalise(), features))
    };
    match (normal(a), normal(b)) {
        (Some(a), Some(b)) => a == b,
        _ => false,
    }
}

/// Whether only media types of Docker's are in it, so that the list over them is to be one of Docker's too.
pub(super) fn is_dockers(entries: &[Desc]) -> bool {
    !entries.is_empty()
        && entries
            .iter()
            .all(|entry| entry.media_type.starts_with("application/vnd.docker."))
}
