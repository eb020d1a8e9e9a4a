//! Shared steps in a registry: one artifact for each key, and on request an index for each branch.
//!
//! ```text
//! REPOSITORY:k-<key in hex>   manifest { artifactType, config: the record (JSON, in `data` too), layers: the whole chain, base first }
//! REPOSITORY:branch-<name>    manifest { artifactType, config: {}, layers: [the records of the last builds (zstd), their layers] }
//! ```
//! Artifacts are only added. Several tags of one step are one manifest. A manifest names every layer that the step's root file system has
//! above its base image, so that it keeps alone alive all that its record speaks of: a collector that goes by tags, and
//! rules that delete tags by age, take whole steps and never a part of one. The record lies in the manifest itself, so that
//! a lookup is one request.
//!
//! The index is one document that everybody rewrites who builds the branch: of two that write at once one is lost, with
//! what it would have added to the index; the artifacts of its steps are there all the same, and are asked for one by one.

use super::{Answer, PACKING, RECORD_LIMIT, Recorded, Sink, StepCache, in_parallel};
use crate::Error;
use crate::build::fetch::Origin;
use crate::build::manifest::{self, Desc, Document, Manifest};
use crate::cache::{CachedLayer, PACKED_LIMIT, Records, Site, described, send_layer};
use crate::layer::hex;
use crate::remote::Remote;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use oci_spec::image::Digest;
use planner::key::CacheKey;
use planner::scheduler::Cancel;
use registry_client::{BlobSource, MemoryBlob, Reference};
use sha2::{Digest as _, Sha256};
use std::collections::HashSet;
use std::sync::Arc;

/// `artifactType` of a step.
const STEP_TYPE: &str = "application/vnd.kiln.step.v1";
/// Media type of its record.
const RECORD_TYPE: &str = "application/vnd.kiln.step.record.v1+json";
/// `artifactType` of an index, and media type of its config.
const INDEX_TYPE: &str = "application/vnd.kiln.steps.v1";
const INDEX_CONFIG_TYPE: &str = "application/vnd.kiln.steps.config.v1+json";
/// Media type of the records of an index.
const INDEX_RECORDS_TYPE: &str = "application/vnd.kiln.steps.records.v1+zstd";
/// Most bytes that a manifest holds in `data`: registries take 4 MiB, some less.
const DATA_LIMIT: usize = 256 << 10;
/// Longest tag.
const TAG_LIMIT: usize = 128;

/// A repository.
pub(super) struct RegistryCache {
    repository: String,
    /// Tag of the index.
    branch: Option<String>,
    remote: Remote,
}

impl std::fmt::Debug for RegistryCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RegistryCache")
            .field("repository", &self.repository)
            .field("branch", &self.branch)
            .finish_non_exhaustive()
    }
}

impl RegistryCache {
    /// Asks nobody.
    pub(super) fn new(repository: &str, branch: Option<&str>, remote: &Remote) -> Self {
        Self {
            repository: repository.to_owned(),
            branch: branch.map(branch_tag),
            remote: remote.hasty(),
        }
    }

    fn reference(&self, tag: &str) -> Result<Reference, Error> {
        let name = format!("{}:{tag}", self.repository);
        Reference::parse(&name).map_err(|source| Error::Name { name, source })
    }

    fn of_key(&self, key: &CacheKey) -> Result<Reference, Error> {
        self.reference(&format!("k-{key}"))
    }

    /// The manifest of a tag.
    fn manifest(&self, reference: &Reference) -> Result<Option<Result<Manifest, String>>, Error> {
        let found = match self.remote.manifest(reference, None) {
            Ok(found) => found,
            Err(Error::Registry { source, .. }) if source.is_not_found() => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok(Some(match Document::parse("it", &found.bytes) {
            Ok(Document::Manifest(manifest)) => Ok(manifest),
            Ok(Document::Index(_)) => Err("it is an index of images".to_owned()),
            Err(error) => Err(crate::error::chain(&error)),
        }))
    }

    /// What a descriptor stands for: what lies in it, else the blob.
    fn content(&self, reference: &Reference, desc: &Desc, limit: u64) -> Result<Vec<u8>, Error> {
        let data = desc.other.get("data").and_then(|data| data.as_str());
        let data = data.and_then(|data| STANDARD.decode(data).ok());
        if let Some(data) = data
            && data.len() as u64 == desc.size
            && manifest::digest_of(&data).to_string() == desc.digest
        {
            return Ok(data);
        }
        self.remote.small_blob(reference, desc, limit)
    }

    fn one(&self, key: &CacheKey) -> Result<Answer, Error> {
        let reference = self.of_key(key)?;
        let manifest = match self.manifest(&reference)? {
            None => return Ok(Answer::Missing),
            Some(Err(reason)) => return Ok(Answer::Damaged(reason)),
            Some(Ok(manifest)) => manifest,
        };
        if manifest.config.media_type != RECORD_TYPE {
            return Ok(Answer::Damaged("it is no record of a step".to_owned()));
        }
        let read = self.content(&reference, &manifest.config, RECORD_LIMIT);
        damaged_or(read.map(|bytes| Records::decode_plain(&bytes)))
    }

    fn index(&self) -> Result<Answer, Error> {
        let Some(tag) = &self.branch else {
            return Ok(Answer::Missing);
        };
        let reference = self.reference(tag)?;
        let manifest = match self.manifest(&reference)? {
            None => return Ok(Answer::Missing),
            Some(Err(reason)) => return Ok(Answer::Damaged(reason)),
            Some(Ok(manifest)) => manifest,
        };
        let mut layers = manifest.layers.iter();
        let Some(desc) = layers.find(|desc| desc.media_type == INDEX_RECORDS_TYPE) else {
            return Ok(Answer::Damaged("it is no index of steps".to_owned()));
        };
        let read = self.content(&reference, desc, PACKED_LIMIT);
        damaged_or(read.map(|bytes| Records::decode(&bytes)))
    }

    fn put_blob(&self, reference: &Reference, bytes: Vec<u8>, stop: &Cancel) -> Result<(), Error> {
        let blob: Arc<dyn BlobSource> = Arc::new(MemoryBlob::new(bytes));
        let remote = &self.remote;
        remote
            .push_blob_until(reference, &blob, &[], stop)
            .map(drop)
    }

    fn put(&self, tag: &str, document: &serde_json::Value, stop: &Cancel) -> Result<(), Error> {
        let (reference, bytes) = (self.reference(tag)?, manifest::bytes_of(document));
        let remote = &self.remote;
        remote
            .put_manifest_until(&reference, manifest::OCI_MANIFEST, &bytes, stop)
            .map(drop)
    }
}

impl StepCache for RegistryCache {
    fn name(&self) -> String {
        self.repository.clone()
    }

    fn origin(&self) -> Origin {
        Origin::Repository(self.repository.clone())
    }

    fn overview(&self) -> Result<Option<Records>, Error> {
        match self.index()? {
            Answer::Found(records) => Ok(Some(*records)),
            Answer::Missing => Ok(None),
            Answer::Damaged(reason) => {
                let (name, tag) = (&self.repository, self.branch.as_deref().unwrap_or(""));
                tracing::warn!("remote cache {name}: {tag} is not used: {reason}");
                Ok(None)
            }
        }
    }

    fn lookup(&self, keys: &[CacheKey]) -> Result<Vec<Answer>, Error> {
        in_parallel(keys, &|key| self.one(key))
    }

    fn send(&self, site: Site<'_>, layer: &Digest, stop: &Cancel) -> Result<CachedLayer, Error> {
        let reference = self.reference("layers")?;
        let packed = send_layer(site, &reference, (layer, PACKING), stop)?;
        described(site, layer, &packed)
    }

    fn record(
        &self,
        keys: &[CacheKey],
        record: &Records,
        stop: &Cancel,
    ) -> Result<Recorded, Error> {
        let bytes = record.encode_plain();
        let config = described_with_data(RECORD_TYPE, &bytes);
        if let Some(first) = keys.first() {
            self.put_blob(&self.of_key(first)?, bytes, stop)?;
        }
        let document = artifact(STEP_TYPE, &config, Vec::new(), record);
        for key in keys {
            self.put(&format!("k-{key}"), &document, stop)?;
        }
        Ok(Recorded::Done)
    }

    fn fetch(&self, blob: &Desc, sink: Sink<'_>) -> Result<(), Error> {
        self.remote.blob(&self.reference("layers")?, blob, sink)
    }

    fn finish(&self, used: &Records, today: u32, stop: &Cancel) -> Result<(), Error> {
        let Some(tag) = &self.branch else {
            return Ok(());
        };
        let mut merged = match self.index()? {
            Answer::Found(records) => *records,
            Answer::Missing | Answer::Damaged(_) => Records::default(),
        };
        if used.keys().all(|key| merged.is_fresh(key, today)) {
            return Ok(());
        }
        merged.renew(used, today);
        let merged = merged.bounded(today);
        let (bytes, config) = (merged.encode(), b"{}".to_vec());
        let reference = self.reference(tag)?;
        let own = described_with_data(INDEX_RECORDS_TYPE, &bytes);
        let config_desc = described_with_data(INDEX_CONFIG_TYPE, &config);
        self.put_blob(&reference, bytes, stop)?;
        self.put_blob(&reference, config, stop)?;
        let document = artifact(INDEX_TYPE, &config_desc, vec![own], &merged);
        self.put(tag, &document, stop)
    }
}

/// What is read, unless it is damaged; a document that lacks its blob is.
fn damaged_or(read: Result<Result<Records, String>, Error>) -> Result<Answer, Error> {
    match read {
        Ok(Ok(records)) => Ok(Answer::Found(Box::new(records))),
        Ok(Err(reason)) => Ok(Answer::Damaged(reason)),
        Err(Error::Image { reason, .. }) => Ok(Answer::Damaged(reason)),
        Err(Error::Registry { source, .. }) if source.is_not_found() => {
            Ok(Answer::Damaged(source.to_string()))
        }
        Err(error) => Err(error),
    }
}

fn described_with_data(media_type: &str, bytes: &[u8]) -> Desc {
    let digest = manifest::digest_of(bytes);
    let mut desc = Desc::new(media_type, &digest, bytes.len() as u64);
    if bytes.len() <= DATA_LIMIT {
        let data = STANDARD.encode(bytes);
        desc.other.insert("data".to_owned(), data.into());
    }
    desc
}

/// A manifest over some blobs and the layers of records, each once.
fn artifact(
    artifact_type: &str,
    config: &Desc,
    mut layers: Vec<Desc>,
    records: &Records,
) -> serde_json::Value {
    let mut seen = HashSet::new();
    let blobs = records.layers().iter().map(|layer| &layer.blob);
    layers.extend(blobs.filter(|blob| seen.insert(&blob.digest)).cloned());
    serde_json::json!({
        "schemaVersion": 2,
        "mediaType": manifest::OCI_MANIFEST,
        "artifactType": artifact_type,
        "config": config,
        "layers": layers,
    })
}

/// The tag of a branch's index: what no tag can hold is replaced, and a hash keeps such names apart.
fn branch_tag(branch: &str) -> String {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    let tag = format!("branch-{branch}");
    if tag.chars().all(fits) && tag.len() <= TAG_LIMIT {
        return tag;
    }
    let hash = hex(&Sha256::digest(branch)[..6]);
    let clean = tag.chars().map(|c| if fits(c) { c } else { '-' });
    let clean: String = clean.take(TAG_LIMIT - hash.len() - 1).collect();
    format!("{clean}-{hash}")
}

#[cfg(test)]
mod tests {
    use super::branch_tag;
    use registry_client::Reference;

    #[test]
    fn branches_have_tags_of_their_own() {
        assert_eq!(branch_tag("main"), "branch-main");
        let long = "x".repeat(300);
        let names = [
            "a/b",
            "a-b",
            "a.b",
            "ä",
            long.as_str(),
            &long[1..],
            "release/1.0",
        ];
        let tags: Vec<String> = names.iter().map(|name| branch_tag(name)).collect();
        for (at, tag) in tags.iter().enumerate() {
            assert!(!tags[at + 1..].contains(tag), "{tag}");
            let name = format!("example.org/steps:{tag}");
            let parsed = Reference::parse(&name).unwrap();
            assert_eq!(parsed.tag.as_deref(), Some(tag.as_str()));
        }
    }
}
