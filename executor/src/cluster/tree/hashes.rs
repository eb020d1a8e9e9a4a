//! What is computed once for each layer: the SHA-256 of its files (indexes have BLAKE3) and of its index, and which files
//! need to be told apart. Both are remembered by the layer and the checksum of its index file, since they go by the numbers
//! of its entries.

use crate::Error;
use crate::layer;
use crate::layer::index::{Index, Node, What, entry_error, io_error};
use crate::layer::order::is_within;
use crate::snapshot::{LayerContent, LayerFiles};
use crate::space::Space;
use crate::tree::FileDigest;
use oci_spec::image::Digest as DiffId;
use reapi::Digest;
use serde::{Deserialize, Serialize};
use sha2::Digest as _;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

const HASH: usize = 32;
/// Files that a thread takes at once.
const BATCH: usize = 32;
/// Bytes and files up to which more threads cost more than they save.
const FEW_BYTES: u64 = 1 << 20;
const FEW_FILES: usize = 2 * BATCH;
/// Bytes read at once.
const BUFFER: usize = 128 << 10;

/// A readable layer of the store.
#[derive(Clone, Debug)]
pub(super) struct Known {
    files: LayerFiles,
    /// The checksum at the end of its index file.
    sum: [u8; HASH],
}

/// What is known about a layer, small.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Facts {
    /// Of the index file.
    pub(super) index: Digest,
    /// Not every file can be read by an ordinary user where it is unpacked.
    pub(super) closed: bool,
    /// Content of files of which a name is not UTF-8, by its BLAKE3 in hex.
    pub(super) extras: BTreeMap<String, Digest>,
}

/// SHA-256 of each regular file of a layer.
#[derive(Debug)]
pub(super) struct Hashes {
    /// One after the other, in the index's order.
    bytes: Vec<u8>,
    /// By an entry's number: regular files before it.
    ranks: Vec<u32>,
}

impl Hashes {
    fn new(index: &Index, bytes: Vec<u8>) -> Option<Self> {
        let mut count = 0;
        let mut ranks = Vec::with_capacity(index.nodes().size_hint().0);
        for node in index.nodes() {
            ranks.push(count);
            count += u32::from(matches!(node.what, What::File { .. }));
        }
        (bytes.len() == count as usize * HASH).then_some(Self { bytes, ranks })
    }

    /// Of the regular file that entry `at` is.
    pub(super) fn of(&self, at: usize, size: u64) -> Digest {
        let start = self.ranks[at] as usize * HASH;
        let hash = &self.bytes[start..start + HASH];
        Digest::new(hash.try_into().expect("BUG: thirty-two bytes"), size)
    }

    /// Entries that are regular files, with their digests.
    pub(super) fn files<'a>(
        &'a self,
        index: &'a Index,
    ) -> impl Iterator<Item = (usize, Digest)> + 'a {
        index.nodes().enumerate().filter_map(|(at, node)| {
            let What::File { size, .. } = node.what else {
                return None;
            };
            Some((at, self.of(at, size)))
        })
    }
}

impl Known {
    /// Makes the layer readable.
    pub(super) fn of(space: &Space, diff_id: &DiffId) -> Result<Self, Error> {
        let files = layer::readable(space, diff_id)?;
        let read = || {
            let file = File::open(&files.index)?;
            let end = file.metadata()?.len().saturating_sub(HASH as u64);
            let mut sum = [0; HASH];
            file.read_exact_at(&mut sum, end)?;
            Ok(sum)
        };
        let sum = read().map_err(|e| io_error("read the layer index", &files.index, e))?;
        Ok(Self { files, sum })
    }

    pub(super) fn files(&self) -> &LayerFiles {
        &self.files
    }

    /// What it is remembered by.
    pub(super) fn name(&self) -> [u8; HASH] {
        let mut hasher = sha2::Sha256::new();
        hasher.update(self.files.diff_id.as_ref());
        hasher.update(self.sum);
        hasher.finalize().into()
    }

    fn key(&self, what: &str) -> [u8; HASH] {
        let mut hasher = sha2::Sha256::new();
        hasher.update(format!("kiln layer {what} 1\n"));
        hasher.update(self.name());
        hasher.finalize().into()
    }

    pub(super) fn facts(&self, space: &Space) -> Result<Facts, Error> {
        let store = space.store();
        let key = self.key("facts");
        let record = store.record(&key)?;
        if let Some(facts) = record.and_then(|bytes| serde_json::from_slice(&bytes).ok()) {
            return Ok(facts);
        }
        let content = LayerContent::load(&self.files)?;
        let closed = is_closed(&content.index);
        let (content, hashes) = self.hashed_from(space, closed, content)?;
        let bytes = std::fs::read(&self.files.index)
            .map_err(|e| io_error("read the layer index", &self.files.index, e))?;
        let extras = extras(&content.index).into_iter();
        let facts = Facts {
            index: Digest::of(&bytes),
            closed,
            extras: extras
                .map(|(at, size, blake3)| (layer::hex(&blake3), hashes.of(at, size)))
                .collect(),
        };
        let text = serde_json::to_vec(&facts).expect("BUG: plain fields always serialise");
        store.put_record(&key, &text, &[])?;
        Ok(facts)
    }

    /// The layer's content, which this process can read, with its files' hashes.
    pub(super) fn hashed(
        &self,
        space: &Space,
        closed: bool,
    ) -> Result<(LayerContent, Hashes), Error> {
        self.hashed_from(space, closed, LayerContent::load(&self.files)?)
    }

    fn hashed_from(
        &self,
        space: &Space,
        closed: bool,
        content: LayerContent,
    ) -> Result<(LayerContent, Hashes), Error> {
        let content = if closed && !space.is_root() && self.files.tar.is_none() {
            // Its index may be written anew with it: entries are as before.
            let files = layer::content(space, &self.files.diff_id)?;
            LayerContent::load(&LayerFiles {
                index: self.files.index.clone(),
                ..files
            })?
        } else {
            content
        };
        let key = self.key("hashes");
        if let Some(mut record) = space.store().large_record(&key)? {
            let mut bytes = Vec::new();
            let read = record.read_to_end(&mut bytes);
            read.map_err(|e| io_error("read the hashes of", &self.files.index, e))?;
            if let Some(hashes) = Hashes::new(&content.index, bytes) {
                return Ok((content, hashes));
            }
        }
        let bytes = hash_all(&content, self.files.diff_id.as_ref())?;
        let length = bytes.len() as u64;
        space
            .store()
            .put_large_record(&key, length, &mut &bytes[..])?;
        let hashes = Hashes::new(&content.index, bytes);
        Ok((content, hashes.expect("BUG: every file was hashed")))
    }
}

/// Whether an unpacked layer surely holds something with content that an ordinary user cannot read there. What belongs to
/// root in it belongs to the user, what belongs to others may be the user's or not.
fn is_closed(index: &Index) -> bool {
    let lacks = |node: &Node<'_>, bit: u32| {
        let bits = if node.uid == 0 {
            bit
        } else {
            bit * 0o111 / 0o100
        };
        node.mode & bits != bits
    };
    let mut closed_dir: Option<&[u8]> = None;
    index.nodes().any(|node| match node.what {
        What::Directory { .. } => {
            let within = closed_dir.is_some_and(|dir| is_within(node.path, dir));
            if !within && !node.implied {
                closed_dir = lacks(&node, 0o100).then_some(node.path);
            }
            false
        }
        What::File { size: 1.., .. } => {
            lacks(&node, 0o400) || closed_dir.is_some_and(|dir| is_within(node.path, dir))
        }
        _ => false,
    })
}

/// Files with a name that is not UTF-8: their entries, sizes and BLAKE3.
fn extras(index: &Index) -> Vec<(usize, u64, FileDigest)> {
    let nodes = index.nodes().enumerate();
    let named = nodes.filter(|(_, node)| std::str::from_utf8(node.path).is_err());
    let targets = named.filter_map(|(at, _)| {
        let target = index.target(at)?;
        match index.node(target).what {
            What::File { size, digest, .. } => Some((target, size, digest)),
            _ => None,
        }
    });
    targets.collect()
}

/// Hashes every regular file, on all processors.
fn hash_all(content: &LayerContent, layer: &str) -> Result<Vec<u8>, Error> {
    let nodes = content.index.nodes().enumerate();
    let files: Vec<(usize, u64)> = nodes
        .filter_map(|(at, node)| match node.what {
            What::File { size, .. } => Some((at, size)),
            _ => None,
        })
        .collect();
    let total: u64 = files.iter().map(|(_, size)| size).sum();
    let threads = if total < FEW_BYTES && files.len() < FEW_FILES {
        1
    } else {
        std::thread::available_parallelism().map_or(1, usize::from)
    };
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let work = || -> Result<Vec<(usize, [u8; HASH])>, Error> {
        let mut buffer = vec![0; BUFFER];
        let mut done = Vec::new();
        while !failed.load(Ordering::Relaxed) {
            let start = next.fetch_add(BATCH, Ordering::Relaxed);
            let Some(rest) = files.get(start..).filter(|rest| !rest.is_empty()) else {
                break;
            };
            for (rank, (at, size)) in (start..).zip(rest.iter().take(BATCH)) {
                let hash = hash_file(content, layer, (*at, *size), &mut buffer);
                done.push((
                    rank,
                    hash.inspect_err(|_| failed.store(true, Ordering::Relaxed))?,
                ));
            }
        }
        Ok(done)
    };
    let parts = std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let mut parts = vec![work()];
        parts.extend(
            others
                .into_iter()
                .map(|other| other.join().expect("BUG: hashing cannot panic")),
        );
        parts.into_iter().collect::<Result<Vec<_>, Error>>()
    })?;
    let mut bytes = vec![0; files.len() * HASH];
    for (rank, hash) in parts.into_iter().flatten() {
        bytes[rank * HASH..(rank + 1) * HASH].copy_from_slice(&hash);
    }
    Ok(bytes)
}

fn hash_file(
    content: &LayerContent,
    layer: &str,
    (at, size): (usize, u64),
    buffer: &mut [u8],
) -> Result<[u8; HASH], Error> {
    let mut hasher = store::Sha256::new();
    let mut left = size;
    if size > 0 {
        let mut file = content.open(at)?;
        let path = content.index.path(at);
        loop {
            let got = match file.read(buffer) {
                Ok(got) => got,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(entry_error(layer, path, &format!("cannot be read: {e}"))),
            };
            if got == 0 && left == 0 {
                break;
            }
            if got == 0 || got as u64 > left {
                return Err(entry_error(
                    layer,
                    path,
                    "its size has changed in the store",
                ));
            }
            hasher.update(&buffer[..got]);
            left -= got as u64;
        }
    }
    Ok(hasher.finish())
}
