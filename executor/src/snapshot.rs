//! Snapshots: stacks of layers, and the merged read-only view of one, without unpacking (by the layers' indexes).

use crate::Error;
use crate::tree::{Entry, FileDigest, FileTree};
use oci_spec::image::Digest;
use serde::{Deserialize, Serialize};
use std::io::Read;
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

/// A merged view over layers, whiteouts applied.
#[derive(Debug)]
pub struct View {}

impl View {
    /// Loads the indexes; reads no content.
    ///
    /// # Errors
    /// A missing or damaged index.
    pub fn load(_layers: &[LayerFiles]) -> Result<Self, Error> {
        todo!()
    }
    /// Resolves symlinks inside the root as chroot would (at most 255 links); the last component only when `follow_last`.
    /// The result need not exist; missing components stay as they are.
    ///
    /// # Errors
    /// Too many links.
    pub fn resolve(&self, _path: &[u8], _follow_last: bool) -> Result<Vec<u8>, Error> {
        todo!()
    }
    /// Reads a small file, links followed (`/etc/passwd`); `None` when it is missing.
    ///
    /// # Errors
    /// Unreadable, larger than `limit` bytes.
    pub fn read(&self, _path: &[u8], _limit: u64) -> Result<Option<Vec<u8>>, Error> {
        todo!()
    }
}

impl FileTree for View {
    fn entry(&self, _path: &[u8]) -> Result<Option<Entry>, Error> {
        todo!()
    }
    fn list(&self, _path: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
        todo!()
    }
    fn open(&self, _path: &[u8]) -> Result<Box<dyn Read + Send + '_>, Error> {
        todo!()
    }
    fn digest(&self, _path: &[u8]) -> Result<FileDigest, Error> {
        todo!()
    }
}
