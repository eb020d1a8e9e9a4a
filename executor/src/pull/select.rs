//! What of an index is wanted, and whether a manifest is an image at all. Documents come through a function of the
//! caller's, so nothing is fetched here.

use crate::Error;
use crate::build::manifest::{
    self, Config, DOCKER_CONFIG, Desc, Document, Index, Manifest, OCI_CONFIG,
};
use oci_spec::image::Digest;
use planner::platform::Platform;

/// Indexes inside indexes that are followed.
pub(crate) const MAX_NESTING: usize = 4;
/// Most layers that an image may have. An overlay takes about 500.
const MAX_LAYERS: usize = 2000;

/// Reads a manifest or index by its descriptor.
pub(crate) type ReadManifest<'r> = &'r dyn Fn(&Desc) -> Result<Vec<u8>, Error>;

/// An image picked for a platform.
#[derive(Clone, Debug)]
pub(crate) struct Picked {
    pub desc: Desc,
    pub bytes: Vec<u8>,
    pub manifest: Manifest,
}

/// Follows indexes down to the manifest for a platform. A manifest that is not in an index is taken as it is.
pub(crate) fn pick(
    name: &str,
    root: Desc,
    bytes: Vec<u8>,
    platform: &Platform,
    read: ReadManifest<'_>,
) -> Result<Picked, Error> {
    let (mut desc, mut bytes) = (root, bytes);
    for _ in 0..MAX_NESTING {
        let document = Document::parse(name, &bytes)?;
        document.media_type().clone_into(&mut desc.media_type);
        match document {
            Document::Manifest(manifest) => {
                if let Some(reason) = not_an_image(&manifest) {
                    return Err(Error::Image {
                        subject: name.to_owned(),
                        reason,
                    });
                }
                return Ok(Picked {
                    desc,
                    bytes,
                    manifest,
                });
            }
            Document::Index(index) => {
                desc = choose(name, &index, platform, read)?;
                bytes = read(&desc)?;
            }
        }
    }
    Err(Error::Image {
        subject: name.to_owned(),
        reason: format!("indexes nested more than {MAX_NESTING} deep"),
    })
}

/// The entry of an index for a platform.
pub(crate) fn choose(
    name: &str,
    index: &Index,
    platform: &Platform,
    read: ReadManifest<'_>,
) -> Result<Desc, Error> {
    let mut entries = Vec::new();
    for entry in &index.manifests {
        match &entry.platform {
            Some(given) if given.is_unknown() => {}
            Some(given) => entries.push((given.to_platform(), entry)),
            None => {
                let nested = matches!(Document::parse(name, &read(entry)?), Ok(Document::Index(_)));
                if nested || index.manifests.len() == 1 {
                    return Ok(entry.clone());
                }
            }
        }
    }
    let platforms: Vec<Platform> = entries
        .iter()
        .map(|(platform, _)| platform.clone())
        .collect();
    if let Some(best) = platform.best_match(&platforms) {
        return Ok(entries[best].1.clone());
    }
    let mut have: Vec<String> = platforms.iter().map(ToString::to_string).collect();
    have.sort();
    have.dedup();
    let have = if have.is_empty() {
        "none".to_owned()
    } else {
        have.join(", ")
    };
    let reason = format!(
        "no match for platform in manifest: it has no image for {platform}; platforms there are: {have}"
    );
    Err(Error::Image {
        subject: name.to_owned(),
        reason,
    })
}

/// Why a manifest is none of an image, if it is not: registries hold charts, signatures and much else.
pub(crate) fn not_an_image(manifest: &Manifest) -> Option<String> {
    let kind = manifest.config.media_type.as_str();
    if !["", OCI_CONFIG, DOCKER_CONFIG, "application/octet-stream"].contains(&kind) {
        return Some(format!(
            "it is no container image but an artifact: its config has the media type {kind}"
        ));
    }
    let encrypted = |layer: &&Desc| layer.media_type.ends_with("+encrypted");
    let layer = manifest.layers.iter().find(encrypted)?;
    Some(format!("its layer {} is encrypted", layer.digest))
}

/// The diff_ids of an image's config, which must go with the layers of its manifest.
pub(crate) fn diff_ids_of(
    name: &str,
    layers: &[Desc],
    config: &Config,
) -> Result<Vec<Digest>, Error> {
    let bad = |reason: String| Error::Image {
        subject: name.to_owned(),
        reason,
    };
    if layers.len() != config.diff_ids.len() {
        return Err(bad(format!(
            "its manifest has {} layers, its config {} diff_ids",
            layers.len(),
            config.diff_ids.len()
        )));
    }
    if layers.len() > MAX_LAYERS {
        return Err(bad(format!(
            "it has {} layers, more than the {MAX_LAYERS} that are taken",
            layers.len()
        )));
    }
    let mut size = 0_i64;
    for layer in layers {
        layer.digest()?;
        let more = i64::try_from(layer.size).ok();
        size = more
            .and_then(|more| size.checked_add(more))
            .ok_or_else(|| bad("its layers have an impossible size".to_owned()))?;
    }
    config
        .diff_ids
        .iter()
        .map(|text| manifest::digest(text))
        .collect()
}
