//! Images as things: listing, removing, loading, saving, inspecting; and the writers of build outputs.

pub(crate) mod archive;
pub mod daemon;
pub(crate) mod dest;
mod details;
mod diff;
mod export;
pub(crate) mod files;
mod filter;
mod first;
pub(crate) mod folder;
mod images;
mod import;
pub(crate) mod load;
pub(crate) mod missing;
mod pieces;
pub(crate) mod platforms;
mod prune;
mod remove;
mod save;
pub(crate) mod tarball;

pub use crate::layer::{ContentDifference, LayerDifference};
pub use details::{ImageUsage, LayerUsage, UsageDetails, details};
pub use diff::{Change, ConfigChange, DiffOptions, FileChange, diff, diff_configs};
pub use export::export;
pub use filter::{ImageFilters, LIST_FILTERS, PRUNE_FILTERS};
pub use first::{ImageDifference, first_difference};
pub use import::{ImportOptions, import, import_url};
pub use pieces::{PIECE_FILTERS, PieceFilters, collect, is_mutable, pieces, type_of};
pub use prune::{PruneRequest, UsageRow, prune, usage};
pub use remove::{RemoveOptions, Removed, remove, tag};

use crate::Error;
use crate::layer::Compression;
use crate::remote::Remote;
use crate::space::Space;
use planner::platform::Platform;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::Path;

/// One row of `kiln images`.
#[derive(Clone, Debug, Default)]
pub struct ImageSummary {
    /// Normalised name with tag; empty when untagged.
    pub name: String,
    /// Manifest or index digest in the store.
    pub digest: String,
    /// Digest by which the repository of its name knows it, where one is known to.
    pub repo_digest: Option<String>,
    /// Config digest (image ID); of the machine's platform for an index.
    pub id: String,
    /// `created` of the config, RFC 3339.
    pub created: Option<String>,
    /// Uncompressed bytes of its layers, where known.
    pub size: u64,
    /// Platforms it holds.
    pub platforms: Vec<String>,
    /// Labels of the image that `id` names.
    pub labels: BTreeMap<String, String>,
    /// Its images, by platform.
    pub members: Vec<MemberSummary>,
}

/// One platform's image.
#[derive(Clone, Debug, Default)]
pub struct MemberSummary {
    /// `linux/arm64`.
    pub platform: String,
    /// Manifest digest.
    pub digest: String,
    /// Config digest.
    pub id: String,
    /// Uncompressed bytes of its layers, where known.
    pub size: u64,
    /// Bytes of its manifest, config and layers as they are transferred.
    pub content: u64,
}

/// What `inspect` and `history` tell of one platform's image.
#[derive(Clone, Debug)]
pub struct Inspected {
    /// Normalised name that was found; empty when untagged.
    pub name: String,
    /// All normalised names.
    pub names: Vec<String>,
    /// `repository@digest`, with familiar names, where registries know the digest.
    pub repo_digests: Vec<String>,
    /// Manifest or index digest.
    pub digest: String,
    /// Media type of what has that digest.
    pub media_type: String,
    /// Its bytes.
    pub document_size: u64,
    /// RFC 3339 time of tagging.
    pub tagged: String,
    /// Digest of the platform's manifest.
    pub manifest_digest: String,
    /// Config digest (image ID).
    pub id: String,
    /// The manifest.
    pub manifest: serde_json::Value,
    /// The config.
    pub config: serde_json::Value,
    /// Uncompressed bytes of each layer, where known.
    pub layer_sizes: Vec<u64>,
    /// Platforms that the image holds.
    pub platforms: Vec<String>,
}

/// A name's repository and tag; the tag is empty when it has none.
#[must_use]
pub fn split_tag(name: &str) -> (&str, &str) {
    match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, tag),
        _ => (name, ""),
    }
}

/// Lists images, newest first.
///
/// # Errors
/// A damaged store.
pub fn images(space: &Space) -> Result<Vec<ImageSummary>, Error> {
    images::images(space)
}

/// Finds an image by name, familiar name, digest or id prefix.
///
/// # Errors
/// Not found, ambiguous.
pub fn find(space: &Space, name: &str) -> Result<store::ImageRef, Error> {
    images::find(space, name)
}

/// An image that was loaded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Loaded {
    /// Normalised name; empty when it has none.
    pub name: String,
    /// Config digest (image ID).
    pub id: String,
}

impl Loaded {
    /// Its name, or its ID without one.
    #[must_use]
    pub fn shown(&self) -> &str {
        if self.name.is_empty() {
            &self.id
        } else {
            &self.name
        }
    }
}

/// Loads an OCI or docker archive (plain, gzip, bzip2, xz or zstd; from a stream) into the store; of one platform only
/// when one is given.
///
/// # Errors
/// Bad archives; nothing is tagged then.
pub fn load(
    space: &Space,
    archive: &mut dyn Read,
    platform: Option<&Platform>,
) -> Result<Vec<Loaded>, Error> {
    load::load(space, archive, platform)
}

/// Loads an OCI layout in a folder, as [`load`] does an archive.
///
/// # Errors
/// A bad layout; nothing is tagged then.
pub fn load_folder(
    space: &Space,
    dir: &Path,
    platform: Option<&Platform>,
) -> Result<Vec<Loaded>, Error> {
    load::load_folder(space, dir, platform)
}

/// Archive formats of [`save`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ArchiveFormat {
    /// `docker load` reads it (it is an OCI layout too).
    Docker,
    /// OCI image layout.
    Oci,
}

/// How to save images.
#[derive(Clone, Debug)]
pub struct SaveOptions {
    /// Form of the archive.
    pub format: ArchiveFormat,
    /// The images of these platforms only.
    pub platforms: Vec<Platform>,
    /// Compression of all layers; without it what is compressed stays as it is, and the rest becomes gzip.
    pub compression: Option<Compression>,
}

/// Where images are saved.
pub enum SaveTarget<'a> {
    /// A tar.
    Archive(&'a mut dyn Write),
    /// A folder, which may hold images already.
    Folder(&'a Path),
}

impl std::fmt::Debug for SaveTarget<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Archive(_) => f.write_str("Archive"),
            Self::Folder(dir) => f.debug_tuple("Folder").field(dir).finish(),
        }
    }
}

/// Writes images as one archive or layout. Layers that never came into the store are fetched.
///
/// # Errors
/// Not found; I/O.
pub fn save(
    (space, remote): (&Space, &Remote),
    names: &[String],
    options: &SaveOptions,
    target: SaveTarget<'_>,
) -> Result<(), Error> {
    save::save((space, remote), names, options, target)
}

/// What there is to tell of an image: of the platform asked for, else of the only one, else of the machine's.
///
/// # Errors
/// Not found.
pub fn inspect(space: &Space, name: &str, platform: Option<&Platform>) -> Result<Inspected, Error> {
    images::inspect(space, name, platform)
}
