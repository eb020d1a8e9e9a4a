//! Layers: canonical tar writing, indexes, capture of a RUN's upper directory, extraction, compression.

use crate::Error;
use crate::snapshot::{LayerFiles, Snapshot};
use crate::space::Space;
use crate::tree::Entry;
use oci_spec::image::{Descriptor, Digest};
use std::io::{Read, Write};
use std::path::Path;

/// What a finished layer is.
#[derive(Clone, Debug)]
pub struct Written {
    /// Digest of the tar.
    pub diff_id: Digest,
    /// Bytes of the tar.
    pub size: u64,
    /// Identity of the content (sorted entries, mtimes left out), hex.
    pub identity: String,
}

/// Writes one canonical layer tar and its index in one pass. Entries must come in canonical order
/// (component-wise bytewise, parents first), or be given to [`sort`] first.
#[derive(Debug)]
pub struct LayerWriter<W: Write> {
    _out: W,
}

impl<W: Write> LayerWriter<W> {
    /// Starts a tar on `out`; the index is kept in memory until [`LayerWriter::finish`].
    pub fn new(_out: W) -> Self {
        todo!()
    }
    /// Adds an entry; `data` is read to the end for regular files and must give exactly `size` bytes.
    /// Returns an error for names that OCI cannot hold (`.wh.` prefix), sockets, sizes that do not match.
    ///
    /// # Errors
    /// As above, and I/O.
    pub fn entry(&mut self, _entry: &Entry, _data: Option<&mut dyn Read>) -> Result<(), Error> {
        todo!()
    }
    /// Adds a whiteout of `path` (an empty file `.wh.NAME`, mtime 0).
    ///
    /// # Errors
    /// I/O.
    pub fn whiteout(&mut self, _path: &[u8]) -> Result<(), Error> {
        todo!()
    }
    /// Ends the tar, writes the index file to `index`.
    ///
    /// # Errors
    /// I/O.
    pub fn finish(self, _index: &Path) -> Result<Written, Error> {
        todo!()
    }
}

/// Compression of an exported layer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Compression {
    /// Plain tar.
    Uncompressed,
    /// gzip with a level (default 6).
    Gzip(u32),
    /// zstd with a level (default 3).
    Zstd(i32),
}

/// Turns a captured upper directory into a layer of the store: the tree is renamed in place, the tar only hashed.
/// `below` is the root file system it lay over (opaque directories become explicit whiteouts of what it holds).
///
/// # Errors
/// Names that no layer can hold; I/O.
pub fn capture(_space: &Space, _upper: &Path, _below: &Snapshot) -> Result<Written, Error> {
    todo!()
}

/// Registers a compressed or plain layer blob that is already in the store (pulled or copied in): links diff_id to it without unpacking.
///
/// # Errors
/// The store.
pub fn register_blob(_space: &Space, _diff_id: &Digest, _blob: &Descriptor) -> Result<(), Error> {
    todo!()
}

/// Makes sure that the layer's index exists (streams its blob once, verifying the diff_id) and that content can be read; returns its files.
///
/// # Errors
/// Corrupt or hostile layers.
pub fn readable(_space: &Space, _diff_id: &Digest) -> Result<LayerFiles, Error> {
    todo!()
}

/// Makes sure that the layer is unpacked as an overlay lower; returns the folder.
///
/// # Errors
/// Corrupt or hostile layers; I/O.
pub fn tree(_space: &Space, _diff_id: &Digest) -> Result<std::path::PathBuf, Error> {
    todo!()
}

/// Makes sure that a blob of the layer in this compression exists; reuses what was made or pulled
/// (`force`: only the same encoder; else a pulled blob of the same media type family is fine).
///
/// # Errors
/// I/O, corrupt blobs.
pub fn blob(_space: &Space, _diff_id: &Digest, _compression: Compression, _force: bool) -> Result<Descriptor, Error> {
    todo!()
}

/// The layer with every mtime above `epoch` (seconds) set to it, as another layer of the store (remembered). The same diff_id when nothing changes.
///
/// # Errors
/// I/O.
pub fn clamp_times(_space: &Space, _diff_id: &Digest, _epoch: i64) -> Result<Digest, Error> {
    todo!()
}
