//! Layers: canonical tar writing, indexes, capture of a RUN's upper directory, extraction, compression.

pub(crate) mod capture;
pub(crate) mod collect;
mod compress;
mod decode;
mod deflate;
mod difference;
mod estargz;
pub(crate) mod extract;
mod growing;
mod hash;
mod header;
mod here;
mod holes;
pub(crate) mod incoming;
pub(crate) mod index;
pub(crate) mod materialise;
pub(crate) mod order;
pub(crate) mod outgoing;
pub(crate) mod owners;
pub(crate) mod packed;
mod rewrite;
pub(crate) mod tar_reader;
pub(crate) mod tasks;
mod unpack;
mod writer;
pub(crate) mod xattr;

pub use collect::Limits;
pub use compress::BlockCompressor;
pub use decode::Source;
pub(crate) use difference::first_difference;
pub use difference::{ContentDifference, LayerDifference};
pub(crate) use estargz::ANNOTATIONS as ESTARGZ_ANNOTATIONS;
pub use extract::ExtractOptions;
pub(crate) use extract::open_beneath;
pub(crate) use growing::{Announcer, announcer};
pub(crate) use hash::{digest_of, hex};
pub(crate) use here::{is_here, is_readable};
pub(crate) use holes::Holes;
pub(crate) use incoming::{Form, Incoming, adopt};
pub(crate) use materialise::{capture_over, files as at_hand};
pub use order::{compare, sort};
pub use unpack::{extract_blob, index_blob};
pub use writer::{LayerWriter, Written};

use crate::Error;
use crate::snapshot::{LayerFiles, Snapshot};
use crate::space::Space;
use oci_spec::image::{Descriptor, Digest};
use std::path::Path;

/// Compression of an exported layer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Compression {
    /// Plain tar.
    Uncompressed,
    /// gzip, each part by the encoder and level that suit it: about as small as level 6, and faster where it can be.
    AutoGzip,
    /// gzip with a level.
    Gzip(u32),
    /// zstd with a level (default 3).
    Zstd(i32),
    /// gzip that can be read in any order, with a level: the layer gets a table of contents, and with it another
    /// diff_id.
    Estargz(u32),
}

/// Turns a captured upper directory into a layer of the store: the tree is renamed in place, the tar only hashed.
/// `below` is the root file system it lay over (opaque directories become explicit whiteouts of what it holds).
/// When the store knows a layer of the same identity, that one is the result and the directory is removed.
///
/// # Errors
/// Names that no layer can hold; I/O.
pub fn capture(space: &Space, upper: &Path, below: &Snapshot) -> Result<Written, Error> {
    Ok(materialise::capture(space, upper, None, below)?.written)
}

/// [`capture`] of what a command did to an upper directory; in the work directory beside it the sandbox has left what it
/// could not record with the files themselves. Also whether the upper had something as the layers below have it, which is not
/// in the layer's tree.
///
/// # Errors
/// As [`capture`].
pub fn capture_run(
    space: &Space,
    (upper, work): (&Path, &Path),
    below: &Snapshot,
) -> Result<(Written, bool), Error> {
    let captured = materialise::capture(space, upper, Some(work), below)?;
    Ok((captured.written, captured.left_out))
}

/// Registers a compressed or plain layer blob that is already in the store (pulled or copied in): links diff_id to it without unpacking.
///
/// # Errors
/// The store.
pub fn register_blob(space: &Space, diff_id: &Digest, blob: &Descriptor) -> Result<(), Error> {
    materialise::register_blob(space, diff_id, blob)
}

/// Makes sure that the layer's index exists (streams its blob once, verifying the diff_id) and that content can be read; returns its files.
///
/// # Errors
/// Corrupt or hostile layers.
pub fn readable(space: &Space, diff_id: &Digest) -> Result<LayerFiles, Error> {
    materialise::readable(space, diff_id)
}

/// As [`readable`], and every file's content can be read by this very process: where an unpacked tree holds files of
/// other ids, the layer's tar is written out.
///
/// # Errors
/// Corrupt or hostile layers.
pub fn content(space: &Space, diff_id: &Digest) -> Result<LayerFiles, Error> {
    materialise::content(space, diff_id)
}

/// Makes sure that the layer is unpacked as an overlay lower; returns the folder.
///
/// # Errors
/// Corrupt or hostile layers; I/O.
pub fn tree(space: &Space, diff_id: &Digest) -> Result<std::path::PathBuf, Error> {
    materialise::tree(space, diff_id)
}

/// Makes sure that a blob of the layer in this compression exists; reuses what was made or pulled
/// (`force`: only the same encoder; else a pulled blob of the same media type family is fine).
///
/// # Errors
/// I/O, corrupt blobs.
pub fn blob(
    space: &Space,
    diff_id: &Digest,
    compression: Compression,
    force: bool,
) -> Result<Descriptor, Error> {
    packed::blob(space, diff_id, compression, force)
}

/// Writes a layer's plain tar, from whatever form of it the store has.
///
/// # Errors
/// I/O, corrupt blobs, a tree that changed in the store.
pub(crate) fn write_plain(
    space: &Space,
    diff_id: &Digest,
    out: &mut dyn std::io::Write,
) -> Result<(), Error> {
    materialise::write_plain(space, diff_id, out)
}

/// The layer with every mtime above `epoch` (seconds) set to it, as another layer of the store (remembered). The same diff_id when nothing changes.
///
/// # Errors
/// I/O.
pub fn clamp_times(space: &Space, diff_id: &Digest, epoch: i64) -> Result<Digest, Error> {
    materialise::clamp_times(space, diff_id, epoch)
}
