//! Makes an index of entries as they come, in memory or in its file. What an index looks like is said in [`super`].

use super::streaming::Streaming;
use super::{CHECKSUM, HEADER, IMPLIED, Index, MAGIC, Node, OPAQUE, RECORD, VERSION, What, length};
use crate::Error;
use crate::layer::order::{is_within, split};
use std::path::Path;

/// Collects entries in canonical order, in memory or straight into the index's file.
#[derive(Debug, Default)]
pub(crate) struct IndexBuilder {
    records: Vec<u8>,
    heap: Vec<u8>,
    /// The last path and what is there.
    last: Option<(Vec<u8>, u8)>,
    stream: Option<Streaming>,
    /// The directory that the last entry is or lies in; it and its parents have entries.
    current: Vec<u8>,
}

impl IndexBuilder {
    /// Collects into a file, which [`IndexBuilder::finish_file`] ends.
    pub(crate) fn streaming(path: &Path) -> Result<Self, Error> {
        Ok(Self {
            stream: Some(Streaming::create(path)?),
            ..Self::default()
        })
    }

    /// Whether it does.
    pub(crate) fn is_streaming(&self) -> bool {
        self.stream.is_some()
    }

    /// Makes room for entries at once, with this many bytes of paths: growing by doubling leaves holes in memory.
    pub(crate) fn expect(&mut self, entries: usize, paths: usize) {
        self.records
            .reserve(HEADER + entries * RECORD + paths + CHECKSUM);
        self.heap.reserve(paths);
    }

    /// Entries so far, implied ones included.
    pub(crate) fn len(&self) -> usize {
        let written = self.stream.as_ref().map_or(0, |stream| stream.records);
        (written + self.records.len()) / RECORD
    }

    /// Whether names and attributes take as much room as an index can hold (3 GiB).
    pub(crate) fn is_full(&self) -> bool {
        self.heap_len() > 3 << 30
    }

    fn heap_len(&self) -> usize {
        self.stream.as_ref().map_or(0, |stream| stream.heap) + self.heap.len()
    }

    /// The last path, to check the order.
    pub(crate) fn last_path(&self) -> Option<&[u8]> {
        self.last.as_ref().map(|(path, _)| path.as_slice())
    }

    /// Whether the last entry is something that can hold nothing, and `path` lies below it.
    pub(crate) fn is_below_no_directory(&self, path: &[u8]) -> bool {
        let last = self.last.as_ref();
        last.is_some_and(|(last, kind)| *kind != b'd' && is_within(path, last))
    }

    /// Adds the next entry, and implied entries for parents that have none.
    pub(crate) fn push(&mut self, node: &Node<'_>) {
        let (parent, _) = split(node.path);
        if !is_within(&self.current, parent) {
            let ends = parent
                .iter()
                .enumerate()
                .filter(|(_, b)| **b == b'/')
                .map(|(at, _)| at)
                .chain([parent.len()]);
            for end in ends {
                if !is_within(&self.current, &parent[..end]) {
                    self.append(&Node::implied(&parent[..end]));
                }
            }
        }
        self.append(node);
        let dir = if matches!(node.what, What::Directory { .. }) {
            node.path
        } else {
            parent
        };
        self.current.clear();
        self.current.extend_from_slice(dir);
    }

    fn append(&mut self, node: &Node<'_>) {
        let mut record = [0u8; RECORD];
        let path = self.store(node.path);
        record[0..8].copy_from_slice(&path);
        let mut flags = if node.implied { IMPLIED } else { 0 };
        let mut number = 0u64;
        let kind = match node.what {
            What::Directory { opaque } => {
                flags |= if opaque { OPAQUE } else { 0 };
                b'd'
            }
            What::File {
                size,
                offset,
                digest,
            } => {
                number = size;
                record[40..48].copy_from_slice(&offset.to_le_bytes());
                record[48..80].copy_from_slice(&digest);
                b'f'
            }
            What::Symlink(target) => {
                let link = self.store(target);
                record[80..88].copy_from_slice(&link);
                b'l'
            }
            What::Hardlink(target) => {
                let link = self.store(target);
                record[80..88].copy_from_slice(&link);
                b'h'
            }
            What::Char(major, minor) => {
                number = u64::from(major) << 32 | u64::from(minor);
                b'c'
            }
            What::Block(major, minor) => {
                number = u64::from(major) << 32 | u64::from(minor);
                b'b'
            }
            What::Fifo => b'p',
            What::Whiteout => b'w',
        };
        let xattrs = self.store(node.xattrs);
        record[8] = kind;
        record[9] = flags;
        record[10..12].copy_from_slice(&((node.mode & 0o7777) as u16).to_le_bytes());
        record[12..16].copy_from_slice(&node.uid.to_le_bytes());
        record[16..20].copy_from_slice(&node.gid.to_le_bytes());
        record[24..32].copy_from_slice(&node.mtime.to_le_bytes());
        record[32..40].copy_from_slice(&number.to_le_bytes());
        record[88..96].copy_from_slice(&xattrs);
        self.records.extend_from_slice(&record);
        let (last, last_kind) = self.last.get_or_insert_default();
        last.clear();
        last.extend_from_slice(node.path);
        *last_kind = kind;
        if let Some(stream) = &mut self.stream {
            node.identify(&mut stream.identity);
            stream.drain(&mut self.records, &mut self.heap);
        }
    }

    fn store(&mut self, bytes: &[u8]) -> [u8; 8] {
        let mut place = [0; 8];
        place[..4].copy_from_slice(&length(self.heap_len()).to_le_bytes());
        place[4..].copy_from_slice(&length(bytes.len()).to_le_bytes());
        self.heap.extend_from_slice(bytes);
        place
    }

    /// Ends the list: computes the identity and gives the whole index.
    pub(crate) fn finish(self, diff_id: [u8; 32], tar_size: u64) -> Index {
        let count = self.len();
        let Self {
            records: mut bytes,
            heap,
            ..
        } = self;
        // The records become the index where they are: of a large layer there are many.
        let records = bytes.len();
        bytes.reserve(HEADER + heap.len() + CHECKSUM);
        bytes.resize(HEADER + records, 0);
        bytes.copy_within(..records, HEADER);
        bytes.extend_from_slice(&heap);
        drop(heap);
        bytes[..HEADER].copy_from_slice(&header(count, tar_size, &diff_id));
        let mut index = Index { bytes, count };
        let mut hasher = identity_hasher();
        for at in 0..index.count {
            index.node(at).identify(&mut hasher);
        }
        index.bytes[64..96].copy_from_slice(hasher.finalize().as_bytes());
        let sum = blake3::hash(&index.bytes);
        index.bytes.extend_from_slice(sum.as_bytes());
        index
    }

    /// Ends the list in the file that it was collected into; gives the identity.
    pub(crate) fn finish_file(self, diff_id: [u8; 32], tar_size: u64) -> Result<String, Error> {
        let count = self.len();
        let stream = self.stream.expect("BUG: only a file is finished");
        stream.finish(&self.records, &self.heap, header(count, tar_size, &diff_id))
    }
}

/// The fixed part, the identity left open.
fn header(count: usize, tar_size: u64, diff_id: &[u8; 32]) -> [u8; HEADER] {
    let mut bytes = [0; HEADER];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
    bytes[16..24].copy_from_slice(&(count as u64).to_le_bytes());
    bytes[24..32].copy_from_slice(&tar_size.to_le_bytes());
    bytes[32..64].copy_from_slice(diff_id);
    bytes
}

pub(super) fn identity_hasher() -> blake3::Hasher {
    blake3::Hasher::new_derive_key("kiln layer identity v1")
}
