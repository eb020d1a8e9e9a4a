//! Images as things: listing, removing, loading, saving, inspecting; and the writers of build outputs.

pub(crate) mod archive;
pub mod daemon;
pub(crate) mod dest;
pub(crate) mod files;
pub(crate) mod folder;
mod images;
mod load;
pub(crate) mod platforms;
mod save;
pub(crate) mod tarball;

use crate::Error;
use crate::space::Space;
use std::io::{Read, Write};

/// One row of `kiln images`.
#[derive(Clone, Debug, serde::Serialize)]
pub struct ImageSummary {
    /// Normalised name with tag; empty when untagged.
    pub name: String,
    /// Manifest or index digest.
    pub digest: String,
    /// Config digest (image ID); of the machine's platform for an index.
    pub id: String,
    /// `created` of the config, RFC 3339.
    pub created: Option<String>,
    /// Uncompressed bytes of its layers, where known.
    pub size: u64,
    /// Platforms it holds.
    pub platforms: Vec<String>,
}

/// Lists images.
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

/// Loads an OCI or docker archive (plain, gzip or zstd; from a stream) into the store; returns the names or digests set.
///
/// # Errors
/// Bad archives; nothing is tagged then.
pub fn load(space: &Space, archive: &mut dyn Read) -> Result<Vec<String>, Error> {
    load::load(space, archive)
}

/// Loads an OCI layout in a folder, as [`load`] does an archive.
///
/// # Errors
/// A bad layout; nothing is tagged then.
pub fn load_folder(space: &Space, dir: &std::path::Path) -> Result<Vec<String>, Error> {
    load::load_folder(space, dir)
}

/// Archive formats of [`save`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ArchiveFormat {
    /// `docker load` reads it (it is an OCI layout too).
    Docker,
    /// OCI image layout.
    Oci,
}

/// Writes images as one archive.
///
/// # Errors
/// Not found; I/O.
pub fn save(
    space: &Space,
    names: &[String],
    format: ArchiveFormat,
    out: &mut dyn Write,
) -> Result<(), Error> {
    save::save(space, names, format, out)
}

/// Manifest and config as JSON for `inspect` and `history`: `{"name","digest","manifest","config"}` of the machine's platform (or the one asked for).
///
/// # Errors
/// Not found.
pub fn inspect(
    space: &Space,
    name: &str,
    platform: Option<&planner::platform::Platform>,
) -> Result<serde_json::Value, Error> {
    images::inspect(space, name, platform)
}
