//! Listing, finding and inspecting the store's images. Reads documents only, never layers.

use crate::Error;
use crate::build::manifest::{
    self, CONFIG_LIMIT, Config, Desc, Document, MANIFEST_LIMIT, Manifest,
};
use crate::build::normalised;
use crate::output::archive::familiar;
use crate::output::{ImageSummary, Inspected, MemberSummary, split_tag};
use crate::repo_digests;
use crate::space::Space;
use oci_spec::image::Digest;
use planner::platform::Platform;
use registry_client::Reference;
use serde_json::Value;
use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
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

/// Newest first, then by name.
pub(crate) fn images(space: &Space) -> Result<Vec<ImageSummary>, Error> {
    let store = space.store();
    let mut images: Vec<ImageSummary> = store
        .references()?
        .iter()
        .map(|reference| summary(store, reference))
        .collect::<Result<_, _>>()?;
    let time = |image: &ImageSummary| {
        let time = image.created.as_deref().and_then(|time| time.parse().ok());
        Reverse(time.unwrap_or(jiff::Timestamp::MIN))
    };
    images.sort_by(|a, b| time(a).cmp(&time(b)).then_with(|| a.name.cmp(&b.name)));
    Ok(images)
}

pub(crate) fn summary(store: &Store, reference: &ImageRef) -> Result<ImageSummary, Error> {
    let members = members(store, reference.descriptor.digest())?;
    let platforms: Vec<Platform> = members.iter().map(Member::platform).collect();
    let shown = Platform::host()
        .best_match(&platforms)
        .or(if members.is_empty() { None } else { Some(0) });
    let parts = members
        .iter()
        .map(|member| {
            Ok(MemberSummary {
                platform: member.platform().to_string(),
                digest: member.desc.digest.clone(),
                id: member.manifest.config.digest.clone(),
                size: layer_sizes(store, member)?.iter().sum(),
                content: content_size(member),
            })
        })
        .collect::<Result<Vec<_>, Error>>()?;
    let member = shown.map(|position| &members[position]);
    let labels = member.and_then(|member| member.config.config.config.labels.clone());
    Ok(ImageSummary {
        name: reference.name.clone(),
        digest: reference.descriptor.digest().to_string(),
        repo_digest: repo_digest(store, reference)?,
        id: shown.map(|at| parts[at].id.clone()).unwrap_or_default(),
        created: member.and_then(|member| member.config.created.clone()),
        size: shown.map_or(0, |at| parts[at].size),
        platforms: platforms.iter().map(ToString::to_string).collect(),
        labels: labels.unwrap_or_default(),
        members: parts,
    })
}

/// The digest by which the repository of its name knows an image; of an image without a name, any repository.
fn repo_digest(store: &Store, reference: &ImageRef) -> Result<Option<String>, Error> {
    let known = repo_digests::of(store, reference.descriptor.digest())?;
    let repository = repository_of(&reference.name);
    let mut fitting = known.iter().filter_map(|text| {
        let (name, digest) = text.split_once('@')?;
        (repository.is_empty() || name == repository).then(|| digest.to_owned())
    });
    Ok(fitting.next())
}

/// A full name without tag and digest.
pub(crate) fn repository_of(name: &str) -> &str {
    let name = name.split_once('@').map_or(name, |(name, _)| name);
    split_tag(name).0
}

/// Bytes of a manifest and all that it names, as they are transferred.
fn content_size(member: &Member) -> u64 {
    let layers = member.manifest.layers.iter().map(|layer| layer.size);
    layers
        .fold(member.desc.size, u64::saturating_add)
        .saturating_add(member.manifest.config.size)
}

/// Uncompressed bytes of each layer; the compressed ones of those that were never unpacked.
pub(crate) fn layer_sizes(store: &Store, member: &Member) -> Result<Vec<u64>, Error> {
    let mut sizes = Vec::new();
    for (diff_id, layer) in member.config.diff_ids.iter().zip(&member.manifest.layers) {
        let known = store
            .layer(&manifest::digest(diff_id)?)?
            .and_then(|meta| meta.size);
        sizes.push(known.unwrap_or(layer.size));
    }
    Ok(sizes)
}

/// The images that a manifest or index leads to and that the store holds, each once. Whoever made an index chose what
/// it points to, so what is none of its entries' business (a layer, a document that nobody understands) is passed over.
pub(crate) fn members(store: &Store, root: &Digest) -> Result<Vec<Member>, Error> {
    let mut members = Vec::new();
    let mut waiting = vec![(root.clone(), 0)];
    let mut annotations = HashMap::new();
    let mut seen = HashSet::from([root.clone()]);
    while let Some((digest, depth)) = waiting.pop() {
        let document = match document(store, &digest) {
            Ok(found) => found,
            Err(Error::Image { .. } | Error::Store(store::Error::TooLarge { .. })) if depth > 0 => {
                continue;
            }
            Err(error) => return Err(error),
        };
        let Some((bytes, document, config)) = document else {
            continue;
        };
        match (document, config) {
            (Document::Index(index), _) if depth < MAX_NESTING => {
                for entry in index.manifests.iter().rev() {
                    let platform = entry.platform.as_ref();
                    let Ok(child) = entry.digest() else { continue };
                    if platform.is_some_and(manifest::DescPlatform::is_unknown)
                        || !seen.insert(child.clone())
                    {
                        continue;
                    }
                    annotations.insert(child.clone(), entry.annotations.clone());
                    waiting.push((child, depth + 1));
                }
            }
            (Document::Index(_), _) | (Document::Manifest(_), None) => {}
            (Document::Manifest(manifest), Some((config_bytes, config))) => {
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

/// A document with the bytes it is made of, and a manifest's config; `None` when the store does not hold it.
type Read = Option<(Vec<u8>, Document, Option<(Vec<u8>, Config)>)>;

fn document(store: &Store, digest: &Digest) -> Result<Read, Error> {
    let Some(bytes) = present(store.read_blob(digest, MANIFEST_LIMIT))? else {
        return Ok(None);
    };
    let document = Document::parse(digest.as_ref(), &bytes)?;
    let Document::Manifest(manifest) = &document else {
        return Ok(Some((bytes, document, None)));
    };
    let digest = manifest.config.digest()?;
    let config = match present(store.read_blob(&digest, CONFIG_LIMIT))? {
        None => None,
        Some(bytes) => {
            let config = Config::parse(digest.as_ref(), &bytes)?;
            Some((bytes, config))
        }
    };
    Ok(Some((bytes, document, config)))
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
    let mut found = all_with_id(space, name)?;
    // The image itself before an index that has it.
    let prefix = id_prefix(name).unwrap_or_default();
    let is_it = |image: &ImageRef| image.descriptor.digest().as_ref() == prefix;
    let position = found.iter().position(is_it).unwrap_or(0);
    Ok(found.swap_remove(position))
}

/// All references of the one image that has this ID or digest.
pub(crate) fn all_with_id(space: &Space, name: &str) -> Result<Vec<ImageRef>, Error> {
    let store = space.store();
    let mut found: Vec<ImageRef> = Vec::new();
    let mut ids = Vec::new();
    if let Some(prefix) = id_prefix(name) {
        let parsed = Reference::parse(name).ok();
        let full = parsed.filter(|parsed| parsed.digest.is_some());
        let full = full.map(|parsed| format!("{}@{prefix}", parsed.name()));
        for reference in store.references()? {
            let is_known = match &full {
                Some(full) => {
                    repo_digests::of(store, reference.descriptor.digest())?.contains(full)
                }
                None => false,
            };
            if is_known || has_id(store, &reference, &prefix)? {
                ids.push(summary(store, &reference)?.id);
                found.push(reference);
            }
        }
    }
    if found.is_empty() {
        return Err(Error::NoSuchImage(name.to_owned()));
    }
    // Several names of one image are one image.
    if ids.iter().any(|id| *id != ids[0]) {
        return Err(Error::AmbiguousId(name.to_owned()));
    }
    Ok(found)
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

/// The image for a platform: the one asked for, else the only one, else the machine's.
pub(crate) fn select<'m>(
    name: &str,
    members: &'m [Member],
    platform: Option<&Platform>,
) -> Result<&'m Member, Error> {
    let wanted = platform.cloned().unwrap_or_else(Platform::host);
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
    Ok(&members[position])
}

pub(crate) fn inspect(
    space: &Space,
    name: &str,
    platform: Option<&Platform>,
) -> Result<Inspected, Error> {
    let image = find(space, name)?;
    let store = space.store();
    let digest = image.descriptor.digest();
    let members = members(store, digest)?;
    let member = select(name, &members, platform)?;
    let parse = |bytes: &[u8]| -> Value { serde_json::from_slice(bytes).unwrap_or(Value::Null) };
    let names: Vec<String> = store
        .references()?
        .into_iter()
        .filter(|other| other.descriptor.digest() == digest && !other.name.is_empty())
        .map(|other| other.name)
        .collect();
    let known = repo_digests::of(store, digest)?;
    Ok(Inspected {
        name: image.name.clone(),
        repo_digests: known.iter().map(|text| familiar(text).to_owned()).collect(),
        names,
        digest: digest.to_string(),
        media_type: image.descriptor.media_type().to_string(),
        document_size: image.descriptor.size(),
        tagged: image.tagged,
        manifest_digest: member.desc.digest.clone(),
        id: member.manifest.config.digest.clone(),
        manifest: parse(&member.bytes),
        config: parse(&member.config_bytes),
        layer_sizes: layer_sizes(store, member)?,
        platforms: members
            .iter()
            .map(|member| member.platform().to_string())
            .collect(),
    })
}
