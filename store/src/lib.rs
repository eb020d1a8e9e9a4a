//! The local store: content-addressed blobs, layers, references, cache records, stat caches, cache mounts, locks and garbage collection.
//!
//! It knows digests and files, not tar, images' meaning or the network. Layout on disk: see [`layout`] once filled in.
//! Contract of every writer: what becomes visible is complete and verified; everything else lives in a
//! locked scratch folder that the next [`Store::open`] sweeps when its owner is gone.
#![forbid(unsafe_code)]

use oci_spec::image::{Descriptor, Digest};
use serde::{Deserialize, Serialize};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// Errors.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An I/O operation failed.
    #[error("could not {op} {}", path.display())]
    Io {
        /// What was attempted.
        op: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Content does not have the digest or size it was asked for by.
    #[error("blob {expected} is corrupt: its content has digest {actual}")]
    Corrupt {
        /// Wanted.
        expected: String,
        /// Found.
        actual: String,
    },
    /// Not there.
    #[error("{what} {name} is not in the store")]
    NotFound {
        /// Kind.
        what: &'static str,
        /// Name.
        name: String,
    },
    /// A store file cannot be understood.
    #[error("{} is damaged: {reason}", path.display())]
    Damaged {
        /// File.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// The store. Clones share it. Several processes may use one store at once.
#[derive(Clone, Debug)]
pub struct Store {
    _root: PathBuf,
}

/// Facts about a layer, kept beside its materialisations as JSON.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LayerMeta {
    /// Digest of the uncompressed tar.
    pub diff_id: Digest,
    /// Identity of the content (BLAKE3 or SHA-256 over sorted entries without mtimes), hex. `None` until an index was made.
    pub identity: Option<String>,
    /// Size of the uncompressed tar in bytes, when known.
    pub size: Option<u64>,
    /// Compressed forms that were made or pulled.
    pub blobs: Vec<LayerBlob>,
}

/// One serialised form of a layer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LayerBlob {
    /// Media type, digest, size.
    pub descriptor: Descriptor,
    /// Encoder that made it (`pulled`, `gzip:6:libdeflate-1.26`), so that equal requests find it.
    pub encoder: String,
}

/// A layer about to be put: files in a [`Scratch`], moved in place atomically.
#[derive(Debug, Default)]
pub struct StagedLayer {
    /// Uncompressed tar, when it was written out. Becomes blob `diff_id`.
    pub tar: Option<PathBuf>,
    /// Unpacked tree (a directory), when there is one.
    pub tree: Option<PathBuf>,
    /// Index file (opaque to the store).
    pub index: Option<PathBuf>,
}

/// An image reference in the store: what `kiln images` lists.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ImageRef {
    /// Normalised name with tag (`docker.io/library/x:latest`), or empty for an untagged image kept by digest.
    pub name: String,
    /// Manifest or index.
    pub descriptor: Descriptor,
    /// RFC 3339 time of tagging.
    pub tagged: String,
}

/// How much may go, for [`Store::prune`].
#[derive(Clone, Debug, Default)]
pub struct PruneOptions {
    /// Also drop cache records and layers no reference uses (`--all`); otherwise only what nothing can reach.
    pub all: bool,
    /// Report only.
    pub dry_run: bool,
}

/// What pruning did.
#[derive(Clone, Debug, Default)]
pub struct PruneReport {
    /// Bytes freed.
    pub bytes: u64,
    /// Names of what went, for people (`layer sha256:...`, `record ...`).
    pub removed: Vec<String>,
}

impl Store {
    /// Opens or creates a store, sweeps scratch folders of dead processes.
    ///
    /// # Errors
    /// An unusable folder, a store of a newer version.
    pub fn open(_root: &Path) -> Result<Self, Error> {
        todo!()
    }
    /// Its folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        todo!()
    }

    /// Starts a blob; nothing is visible before [`BlobWriter::commit`].
    pub fn blob_writer(&self) -> Result<BlobWriter, Error> {
        todo!()
    }
    /// Puts bytes as a blob (idempotent).
    pub fn put_blob(&self, _bytes: &[u8]) -> Result<Digest, Error> {
        todo!()
    }
    /// Size of a blob when it is there.
    #[must_use]
    pub fn blob_size(&self, _digest: &Digest) -> Option<u64> {
        todo!()
    }
    /// Where a blob's file is or would be.
    #[must_use]
    pub fn blob_path(&self, _digest: &Digest) -> PathBuf {
        todo!()
    }
    /// A reader that fails with [`Error::Corrupt`] (as `io::Error`) at the end when content and digest differ.
    pub fn open_blob(&self, _digest: &Digest) -> Result<BlobReader, Error> {
        todo!()
    }
    /// A whole small blob (manifest, config), verified; refuses more than `limit` bytes.
    pub fn read_blob(&self, _digest: &Digest, _limit: u64) -> Result<Vec<u8>, Error> {
        todo!()
    }

    /// A layer's facts.
    pub fn layer(&self, _diff_id: &Digest) -> Result<Option<LayerMeta>, Error> {
        todo!()
    }
    /// Its tree, when materialised.
    #[must_use]
    pub fn layer_tree(&self, _diff_id: &Digest) -> Option<PathBuf> {
        todo!()
    }
    /// Its index file, when made.
    #[must_use]
    pub fn layer_index(&self, _diff_id: &Digest) -> Option<PathBuf> {
        todo!()
    }
    /// Adds a layer or more materialisations of one (merging `blobs`); files are renamed into place; idempotent and
    /// safe against other processes doing the same. Records `identity -> diff_id` when identity is known and new.
    pub fn put_layer(&self, _meta: &LayerMeta, _staged: StagedLayer) -> Result<(), Error> {
        todo!()
    }
    /// The first layer seen with this content identity.
    pub fn layer_by_identity(&self, _identity: &str) -> Result<Option<Digest>, Error> {
        todo!()
    }

    /// A cache record's payload (opaque JSON), or `None`. A truncated or damaged one counts as absent.
    pub fn record(&self, _key: &[u8; 32]) -> Result<Option<Vec<u8>>, Error> {
        todo!()
    }
    /// Writes a record atomically. `layers` are the diff_ids it points at, for garbage collection.
    pub fn put_record(&self, _key: &[u8; 32], _payload: &[u8], _layers: &[Digest]) -> Result<(), Error> {
        todo!()
    }

    /// Sets a reference (fsynced: it was promised). Replaces an older one of the same name.
    pub fn tag(&self, _image: &ImageRef) -> Result<(), Error> {
        todo!()
    }
    /// A reference by exact normalised name.
    pub fn reference(&self, _name: &str) -> Result<Option<ImageRef>, Error> {
        todo!()
    }
    /// All references, by name.
    pub fn references(&self) -> Result<Vec<ImageRef>, Error> {
        todo!()
    }
    /// Removes a reference; `false` when it was not there.
    pub fn untag(&self, _name: &str) -> Result<bool, Error> {
        todo!()
    }

    /// A private folder on the store's file system, locked while held, removed on drop, swept after a crash.
    pub fn scratch(&self) -> Result<Scratch, Error> {
        todo!()
    }
    /// A cache mount's folder by id. `exclusive` waits for other users (`sharing=locked`); `private` takes a fresh one when busy.
    pub fn cache_mount(&self, _id: &str, _sharing: MountSharing) -> Result<CacheMount, Error> {
        todo!()
    }
    /// Drops what is not needed. `remove_tree` deletes a folder (in a user namespace when rootless).
    pub fn prune(
        &self,
        _options: &PruneOptions,
        _remove_tree: &dyn Fn(&Path) -> io::Result<()>,
    ) -> Result<PruneReport, Error> {
        todo!()
    }
    /// The stat cache of a context folder.
    pub fn stat_cache(&self, _context: &Path) -> Result<StatCache, Error> {
        todo!()
    }
    /// The folder of build logs.
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        todo!()
    }
}

/// Sharing of a cache mount.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MountSharing {
    /// With others at once.
    Shared,
    /// Alone; a fresh folder when taken.
    Private,
    /// Alone; waits.
    Locked,
}

/// A held cache mount.
#[derive(Debug)]
pub struct CacheMount {}

impl CacheMount {
    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        todo!()
    }
    /// Whether it was made just now (to fill it and set owner and mode).
    #[must_use]
    pub fn is_new(&self) -> bool {
        todo!()
    }
}

/// A locked scratch folder.
#[derive(Debug)]
pub struct Scratch {}

impl Scratch {
    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        todo!()
    }
}

/// Writes a blob: hashes what passes.
#[derive(Debug)]
pub struct BlobWriter {}

impl BlobWriter {
    /// Makes the blob visible. With `expected`, fails and drops it when digest or size differ. Returns digest and size.
    pub fn commit(self, _expected: Option<(&Digest, Option<u64>)>) -> Result<(Digest, u64), Error> {
        todo!()
    }
}

impl Write for BlobWriter {
    fn write(&mut self, _buf: &[u8]) -> io::Result<usize> {
        todo!()
    }
    fn flush(&mut self) -> io::Result<()> {
        todo!()
    }
}

/// Reads a blob and verifies it.
#[derive(Debug)]
pub struct BlobReader {}

impl Read for BlobReader {
    fn read(&mut self, _buf: &mut [u8]) -> io::Result<usize> {
        todo!()
    }
}

/// What identifies a file's state without reading it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct StatKey {
    /// Device.
    pub dev: u64,
    /// Inode.
    pub ino: u64,
    /// Bytes.
    pub size: u64,
    /// mtime in nanoseconds since the epoch.
    pub mtime_ns: i128,
    /// ctime in nanoseconds since the epoch.
    pub ctime_ns: i128,
}

/// Digests of files by their stat: one file per context, rewritten atomically. Not trusted for files
/// changed at or after the time of the last write ("racy git").
#[derive(Debug)]
pub struct StatCache {}

impl StatCache {
    /// The remembered digest of a file in this state.
    #[must_use]
    pub fn get(&self, _key: &StatKey) -> Option<[u8; 32]> {
        todo!()
    }
    /// Remembers one (thread-safe callers hold it mutably).
    pub fn insert(&mut self, _key: StatKey, _digest: [u8; 32]) {
        todo!()
    }
    /// Writes it back when it changed; keeps only entries used or added since it was opened.
    pub fn save(self) -> Result<(), Error> {
        todo!()
    }
}
