//! Images as things: listing, removing, loading, saving, inspecting; and the writers of build outputs.

pub(crate) mod archive;
pub(crate) mod dest;
pub(crate) mod files;
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
pub fn images(_space: &Space) -> Result<Vec<ImageSummary>, Error> {
    todo!()
}

/// Finds an image by name, familiar name, digest or id prefix.
///
/// # Errors
/// Not found, ambiguous.
pub fn find(_space: &Space, _name: &str) -> Result<store::ImageRef, Error> {
    todo!()
}

/// Loads an OCI or docker archive (plain, gzip or zstd; from a stream) into the store; returns the names or digests set.
///
/// # Errors
/// Bad archives; nothing is tagged then.
pub fn load(_space: &Space, _archive: &mut dyn Read) -> Result<Vec<String>, Error> {
    todo!()
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
pub fn save(_space: &Space, _names: &[String], _format: ArchiveFormat, _out: &mut dyn Write) -> Result<(), Error> {
    todo!()
}

/// Manifest and config as JSON for `inspect` and `history`: `{"name","digest","manifest","config"}` of the machine's platform (or the one asked for).
///
/// # Errors
/// Not found.
pub fn inspect(_space: &Space, _name: &str, _platform: Option<&planner::platform::Platform>) -> Result<serde_json::Value, Error> {
    todo!()
}
