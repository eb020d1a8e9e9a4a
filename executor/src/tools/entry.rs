//! What becomes an entry of a manifest list, and what the list says of it.

use super::document::{self, Doc, MAX_NESTING};
use super::list::{NAME, ORIGIN, unknown};
use super::place::Place;
use super::source::{Access, Source};
use crate::Error;
use crate::build::manifest::{self, Desc, DescPlatform, Document, Index};
use planner::platform::Platform;
use registry_client::Reference;
use serde_json::json;
use std::collections::BTreeMap;

/// What `add` and `annotate` say of an entry; what is empty is left as it is.
#[derive(Clone, Debug, Default)]
pub struct EntryOptions {
    /// `--os`.
    pub os: Option<String>,
    /// `--arch`.
    pub arch: Option<String>,
    /// `--variant`.
    pub variant: Option<String>,
    /// `--os-version`.
    pub os_version: Option<String>,
    /// `--os-features`.
    pub os_features: Vec<String>,
    /// `--features`.
    pub features: Vec<String>,
    /// `--annotation`.
    pub annotations: BTreeMap<String, String>,
}

/// Which images of a list that is to be added are meant.
pub(super) enum Wanted<'p> {
    /// It must be a single image.
    Single,
    All,
    Best(&'p Platform),
}

/// An image that becomes an entry.
pub(super) struct Instance {
    pub desc: Desc,
    pub documents: Vec<Vec<u8>>,
    /// Where it comes from, and which of the annotations says so.
    pub origin: Option<(&'static str, Reference)>,
}

pub(super) fn instances(
    access: Access<'_>,
    image: &str,
    wanted: &Wanted<'_>,
) -> Result<Vec<Instance>, Error> {
    let place = Place::parse(image)?;
    let source = Source::open(access, &place, true).map_err(|e| unknown(&place, e))?;
    let root = source.root().map_err(|e| unknown(&place, e))?;
    let mut found = Vec::new();
    match (root.parse()?, wanted) {
        (Document::Manifest(_), _) => found.push(instance(&source, &root, None)?),
        (Document::Index(_), Wanted::Single) => {
            return Err(Error::Request(format!("{place} is a manifest list")));
        }
        (Document::Index(index), Wanted::All) => all(&source, &index, 0, &mut found)?,
        (Document::Index(index), Wanted::Best(platform)) => {
            let entry = best(&index, platform).ok_or_else(|| Error::Image {
                subject: place.to_string(),
                reason: format!("no image found in manifest list for {platform}"),
            })?;
            found.push(instance(&source, &source.document(entry)?, Some(entry))?);
        }
    }
    Ok(found)
}

/// All images that an index leads to.
fn all(
    source: &Source<'_>,
    index: &Index,
    depth: usize,
    found: &mut Vec<Instance>,
) -> Result<(), Error> {
    for entry in &index.manifests {
        let document = source.document(entry)?;
        match document.parse()? {
            Document::Index(inner) if depth < MAX_NESTING => all(source, &inner, depth + 1, found)?,
            Document::Index(_) => {
                return Err(Error::Image {
                    subject: document.desc.digest,
                    reason: "its indexes are nested too deep".to_owned(),
                });
            }
            Document::Manifest(_) => found.push(instance(source, &document, Some(entry))?),
        }
    }
    Ok(())
}

fn instance(source: &Source<'_>, document: &Doc, entry: Option<&Desc>) -> Result<Instance, Error> {
    let mut documents = vec![document.bytes.clone()];
    let mut desc = document.desc.clone();
    if let Document::Manifest(manifest) = document.parse()? {
        let config = source.config(&desc.digest, &manifest.config)?;
        desc.platform = document::platform_of(&config);
        documents.push(config);
    }
    if let Some(entry) = entry {
        desc.annotations.clone_from(&entry.annotations);
        desc.other.clone_from(&entry.other);
        desc.urls.clone_from(&entry.urls);
        if entry.platform.is_some() {
            desc.platform.clone_from(&entry.platform);
        }
    }
    let kind = match source {
        Source::Store(stored) if !stored.origins.contains_key(&desc.digest) => NAME,
        _ => ORIGIN,
    };
    let origin = source.origin(&desc.digest).map(|origin| {
        let digest = manifest::digest(&desc.digest);
        let origin = digest.map_or_else(|_| origin.clone(), |digest| origin.with_digest(&digest));
        (kind, origin)
    });
    Ok(Instance {
        desc,
        documents,
        origin,
    })
}

pub(super) fn best<'i>(index: &'i Index, platform: &Platform) -> Option<&'i Desc> {
    let candidates: Vec<(&Desc, Platform)> = index
        .manifests
        .iter()
        .filter_map(|entry| {
            let platform = entry.platform.as_ref()?;
            (!platform.is_unknown()).then(|| (entry, platform.to_platform()))
        })
        .collect();
    let platforms: Vec<Platform> = candidates.iter().map(|(_, own)| own.clone()).collect();
    platform
        .best_match(&platforms)
        .map(|position| candidates[position].0)
}

pub(super) fn change(entry: &mut Desc, options: &EntryOptions) {
    let platform = entry.platform.get_or_insert_with(|| DescPlatform {
        architecture: String::new(),
        os: String::new(),
        variant: None,
        os_version: None,
        other: BTreeMap::new(),
    });
    if let Some(os) = &options.os {
        platform.os.clone_from(os);
    }
    if let Some(arch) = &options.arch {
        platform.architecture.clone_from(arch);
    }
    if let Some(variant) = &options.variant {
        platform.variant = Some(variant.clone()).filter(|variant| !variant.is_empty());
    }
    if let Some(version) = &options.os_version {
        platform.os_version = Some(version.clone()).filter(|version| !version.is_empty());
    }
    for (key, features) in [
        ("os.features", &options.os_features),
        ("features", &options.features),
    ] {
        if !features.is_empty() {
            platform.other.insert(key.to_owned(), json!(features));
        }
    }
    entry.annotations.extend(options.annotations.clone());
}

pub(super) fn check_platform(entry: &Desc) -> Result<(), Error> {
    let platform = entry.platform.as_ref();
    let (os, arch) = platform.map_or(("", ""), |p| (p.os.as_str(), p.architecture.as_str()));
    if os.is_empty() || arch.is_empty() {
        return Err(Error::Request(format!(
            "manifest entry for image has unsupported os/arch combination: {os}/{arch}"
        )));
    }
    Ok(())
}
