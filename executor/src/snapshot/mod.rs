//! Snapshots: stacks of layers, and the merged read-only view of one, without unpacking (by the layers' indexes).

mod content;
mod view;

pub(crate) use content::LayerContent;
pub use view::View;

use oci_spec::image::Digest;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// A root file system as a stack of layers, base first.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Snapshot {
    /// diff_ids.
    pub layers: Vec<Digest>,
}

/// Where one layer's files are; enough to read it from any process.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LayerFiles {
    /// diff_id.
    pub diff_id: Digest,
    /// Index file.
    pub index: PathBuf,
    /// Unpacked tree.
    pub tree: Option<PathBuf>,
    /// Uncompressed tar blob.
    pub tar: Option<PathBuf>,
}
