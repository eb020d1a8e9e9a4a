//! Listing, finding and inspecting the store's images. Reads documents only, never layers.

use crate::Error;
use crate::build::manifest::{
    self, CONFIG_LIMIT, Config, Desc, Document, MANIFEST_LIMIT, Manifest,
};
use crate::build::normalised;
use crate::output::ImageSummary;
use crate::space::Space;
use oci_spec::image::Digest;
use planner::platform::Platform;
use serde_json::{Value, json};
use std::collections::HashMap;
use store::{ImageRef, Store};

/// Indexes inside indexes that are followed.
const MAX_NESTING: usize = 4;

/// One platform's image of a reference.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub desc: Desc,
    pub bytes: Vec<u8>,
    pub manifest: Manifest,
    pub config_bytes: Vec<u8>,
    pub config: Config,
}

impl Member {
    pub(crate) fn platform(&self) -> Platform {
        self.config.platform()
    }
}

pub(crate) fn images(space: &Space) -> Result<Vec<ImageSummary>, Error> {
    let store = space.store();
    store
        .references()?
        .iter()
        .map(|reference| summary(store, reference))
        .collect()
}

fn summary(store: &Store, reference: &ImageRef) -> Result<ImageSummary, Error> {
    let members = members(store, reference.descriptor.digest())?;
    let platforms: Vec<Platform> = members.iter().map(Member::platform).collect();
    let shown = Platform::host()
        .best_match(&platforms)
        .or(if members.is_empty() { None } else { Some(0) });
    let shown = shown.map(|position| &members[position]);
    let size = match shown {
        None => 0,
        Some(member) => size(store, member)?,
    };
    Ok(ImageSummary {
        name: reference.name.clone(),
        digest: reference.descriptor.digest().to_string(),
        id: shown
            .map(|member| member.manifest.config.digest.clone())
            .unwrap_or_default(),
        created: shown.and_then(|member| member.config.created.clone()),
        size,
        platforms: platforms.iter().map(ToString::to_string).collect(),
    })
}

/// Uncompressed bytes of an image's layers; the compressed ones of those that were never unpacked.
fn size(store: &Store, member: &Member) -> Result<u64, Error> {
    let mut bytes = 0;
    for (diff_id, layer) in member.config.diff_ids.iter().zip(&member.manifest.layers) {
        let known = store
            .layer(&manifest::digest(diff_id)?)?
            .and_then(|meta| meta.size);
        bytes += known.unwrap_or(layer.size);
    }
    Ok(bytes)
}

/// The images that a manifest or index leads to and that the store holds.
pub(crate) fn members(store: &Store, root: &Digest) -> Result<Vec<Member>, Error> {
    let mut members = Vec::new();
    let mut waiting = vec![(root.clone(), 0)];
    let mut annotations = HashMap::new();
    while let Some((digest, depth)) = waiting.pop() {
        let Some(bytes) = present(store.read_blob(&digest, MANIFEST_LIMIT))? else {
            continue;
        };
        match Document::parse(digest.as_ref(), &bytes)? {
            Document::Index(index) if depth < MAX_NESTING => {
                for entry in index.manifests.iter().rev() {
                    if !entry
                        .platform
                        .as_ref()
                        .is_some_and(manifest::DescPlatform::is_unknown)
                    {
                        annotations.insert(entry.digest()?, entry.annotations.clone());
                        waiting.push((entry.digest()?, depth + 1));
                    }
                }
            }
            Document::Index(_) => {}
            Document::Manifest(manifest) => {
                let config = manifest.config.digest()?;
                let Some(config_bytes) = present(store.read_blob(&config, CONFIG_LIMIT))? else {
                    continue;
                };
                let config = Config::parse(config.as_ref(), &config_bytes)?;
                let mut desc = Desc::new(manifest_type(&manifest), &digest, bytes.len() as u64);
                if let Some(known) = annotations.remove(&digest) {
                    desc.annotations = known;
                }
                members.push(Member {
                    desc,
                    bytes,
                    manifest,
                    config_bytes,
                    config,
                });
            }
        }
    }
    Ok(members)
}

/// The index that an image is; `None` for a single manifest.
pub(crate) fn index(store: &Store, root: &Digest) -> Result<Option<manifest::Index>, Error> {
    let Some(bytes) = present(store.read_blob(root, MANIFEST_LIMIT))? else {
        return Ok(None);
    };
    match Document::parse(root.as_ref(), &bytes)? {
        Document::Index(index) => Ok(Some(index)),
        Document::Manifest(_) => Ok(None),
    }
}

fn manifest_type(manifest: &Manifest) -> &str {
    if manifest.media_type.is_empty() {
        manifest::OCI_MANIFEST
    } else {
        &manifest.media_type
    }
}

fn present(read: Result<Vec<u8>, store::Error>) -> Result<Option<Vec<u8>>, Error> {
    match read {
        Ok(bytes) => Ok(Some(bytes)),
        Err(store::Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

pub(crate) fn find(space: &Space, name: &str) -> Result<ImageRef, Error> {
    let store = space.store();
    if let Ok(full) = normalised(name)
        && let Some(found) = store.reference(&full)?
    {
        return Ok(found);
    }
    let mut found: Vec<ImageRef> = Vec::new();
    if let Some(prefix) = id_prefix(name) {
        for reference in store.references()? {
            if has_id(store, &reference, &prefix)? {
                found.push(reference);
            }
        }
    }
    let Some(first) = found.first() else {
        return Err(Error::Image {
            subject: name.to_owned(),
            reason: "no such image".to_owned(),
        });
    };
    // Several names of one image are one image.
    if found
        .iter()
        .any(|other| other.descriptor.digest() != first.descriptor.digest())
    {
        let reason = format!(
            "ambiguous: {} images have an id that begins so",
            found.len()
        );
        return Err(Error::Image {
            subject: name.to_owned(),
            reason,
        });
    }
    Ok(found.swap_remove(0))
}

/// `sha256:HEX`, `name@sha256:HEX`, or the first digits of an id.
fn id_prefix(name: &str) -> Option<String> {
    let text = name.rsplit_once('@').map_or(name, |(_, digest)| digest);
    let hex = text.strip_prefix("sha256:").unwrap_or(text);
    let is_hex = !hex.is_empty()
        && hex.len() <= 64
        && hex
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    is_hex.then(|| format!("sha256:{hex}"))
}

fn has_id(store: &Store, reference: &ImageRef, prefix: &str) -> Result<bool, Error> {
    let root = reference.descriptor.digest();
    if root.to_string().starts_with(prefix) {
        return Ok(true);
    }
    let members = members(store, root)?;
    Ok(members.iter().any(|member| {
        member.desc.digest.starts_with(prefix) || member.manifest.config.digest.starts_with(prefix)
    }))
}

pub(crate) fn inspect(
    space: &Space,
    name: &str,
    platform: Option<&Platform>,
) -> Result<Value, Error> {
    let image = find(space, name)?;
    let store = space.store();
    let wanted = platform.cloned().unwrap_or_else(Platform::host);
    let members = members(store, image.descriptor.digest())?;
    let position = match (members.len(), platform) {
        // Whatever it is for, it is the one there is.
        (1, None) => Some(0),
        _ => wanted.best_match(&members.iter().map(Member::platform).collect::<Vec<_>>()),
    };
    let Some(position) = position else {
        let have: Vec<String> = members
            .iter()
            .map(|member| member.platform().to_string())
            .collect();
        let reason = format!(
            "the store does not hold its image for {wanted}; platforms there are: {}",
            have.join(", ")
        );
        return Err(Error::Image {
            subject: name.to_owned(),
            reason,
        });
    };
    let member = &members[position];
    let parse = |bytes: &[u8]| -> Value { serde_json::from_slice(bytes).unwrap_or(Value::Null) };
    Ok(json!({
        "name": image.name,
        "digest": image.descriptor.digest().to_string(),
        "tagged": image.tagged,
        "manifest_digest": member.desc.digest,
        "id": member.manifest.config.digest,
        "manifest": parse(&member.bytes),
        "config": parse(&member.config_bytes),
    }))
}
