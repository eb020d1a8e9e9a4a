//! A layer's index: its entries with attributes, content digests and where content lies in the uncompressed tar.
//!
//! On disk, all numbers little-endian:
//! ```text
//! magic "kiln-idx" | version u32 | 0 u32 | entries u64 | tar bytes u64 | diff_id 32 | identity 32
//! entries x 96-byte records, in canonical order of their paths
//! heap: paths, link targets, xattrs
//! BLAKE3 of everything before, 32
//! ```
//! A record: path (offset u32, length u32) | kind u8 | flags u8 | mode u16 | uid u32 | gid u32 | mtime i64 |
//! size, or major << 32 + minor, u64 | data offset u64 | BLAKE3 32 | link (u32, u32) | xattrs (u32, u32).
//! An xattr list: see [`super::xattr`].
//!
//! It knows nothing of tar's format or of trees.

mod builder;
mod streaming;

use super::order::{compare, join, show};
use super::xattr::decode_xattrs;
use crate::Error;
use crate::tree::{Entry, FileDigest, Kind};
use std::cmp::Ordering;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::ops::Range;
use std::path::Path;

pub(crate) use builder::IndexBuilder;

const MAGIC: &[u8; 8] = b"kiln-idx";
const VERSION: u32 = 1;
const HEADER: usize = 96;
const RECORD: usize = 96;
const CHECKSUM: usize = 32;

/// Record flag: the directory has no entry of its own in the tar, something below it has.
const IMPLIED: u8 = 1;
/// Record flag: the directory hides what the layers below hold in it.
const OPAQUE: u8 = 2;

/// What an index entry is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum What<'a> {
    /// Directory.
    Directory {
        /// Hides what the layers below hold in it.
        opaque: bool,
    },
    /// Regular file.
    File {
        /// Bytes.
        size: u64,
        /// Where its content begins in the tar.
        offset: u64,
        /// BLAKE3 of its content.
        digest: FileDigest,
    },
    /// Symbolic link.
    Symlink(&'a [u8]),
    /// Hard link to a path of the same layer, which is no hard link itself.
    Hardlink(&'a [u8]),
    /// Character device.
    Char(u32, u32),
    /// Block device.
    Block(u32, u32),
    /// FIFO.
    Fifo,
    /// Hides the path in the layers below.
    Whiteout,
}

/// One entry of an index.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Node<'a> {
    /// Path as in [`Entry`].
    pub(crate) path: &'a [u8],
    /// What it is.
    pub(crate) what: What<'a>,
    /// Only a parent of something: its attributes are made up.
    pub(crate) implied: bool,
    /// Permission bits.
    pub(crate) mode: u32,
    /// Owner.
    pub(crate) uid: u32,
    /// Group.
    pub(crate) gid: u32,
    /// Seconds since the epoch.
    pub(crate) mtime: i64,
    /// Encoded list.
    pub(crate) xattrs: &'a [u8],
}

impl<'a> Node<'a> {
    /// A path that is not there any more.
    pub(crate) fn whiteout(path: &'a [u8]) -> Self {
        Self {
            path,
            what: What::Whiteout,
            implied: false,
            mode: 0,
            uid: 0,
            gid: 0,
            mtime: 0,
            xattrs: &[],
        }
    }

    /// A parent that no entry made.
    fn implied(path: &'a [u8]) -> Self {
        let what = What::Directory { opaque: false };
        Self {
            path,
            what,
            implied: true,
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime: 0,
            xattrs: &[],
        }
    }

    /// As the shared entry type; `None` for whiteouts.
    pub(crate) fn to_entry(self) -> Option<Entry> {
        let kind = match self.what {
            What::Directory { .. } => Kind::Directory,
            What::File { size, digest, .. } => Kind::File {
                size,
                digest: Some(digest),
            },
            What::Symlink(target) => Kind::Symlink {
                target: target.to_vec(),
            },
            What::Hardlink(target) => Kind::Hardlink {
                target: target.to_vec(),
            },
            What::Char(major, minor) => Kind::Char { major, minor },
            What::Block(major, minor) => Kind::Block { major, minor },
            What::Fifo => Kind::Fifo,
            What::Whiteout => return None,
        };
        Some(Entry {
            path: self.path.to_vec(),
            kind,
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
            mtime: self.mtime,
            xattrs: decode_xattrs(self.xattrs),
        })
    }

    /// The content identity's encoding: every field by its length or at a fixed width; neither mtime nor place.
    fn identify(&self, hasher: &mut blake3::Hasher) {
        let (tag, text, numbers): (u8, &[u8], [u64; 2]) = match self.what {
            What::Directory { opaque } => (b'd', b"", [u64::from(opaque), u64::from(self.implied)]),
            What::File {
                size, ref digest, ..
            } => (b'f', digest, [size, 0]),
            What::Symlink(target) => (b'l', target, [0, 0]),
            What::Hardlink(target) => (b'h', target, [0, 0]),
            What::Char(major, minor) => (b'c', b"", [major.into(), minor.into()]),
            What::Block(major, minor) => (b'b', b"", [major.into(), minor.into()]),
            What::Fifo => (b'p', b"", [0, 0]),
            What::Whiteout => (b'w', b"", [0, 0]),
        };
        let mut fixed = [0u8; 48];
        fixed[0] = tag;
        fixed[4..8].copy_from_slice(&self.mode.to_le_bytes());
        fixed[8..12].copy_from_slice(&self.uid.to_le_bytes());
        fixed[12..16].copy_from_slice(&self.gid.to_le_bytes());
        fixed[16..24].copy_from_slice(&numbers[0].to_le_bytes());
        fixed[24..32].copy_from_slice(&numbers[1].to_le_bytes());
        fixed[32..36].copy_from_slice(&length(self.path.len()).to_le_bytes());
        fixed[36..40].copy_from_slice(&length(text.len()).to_le_bytes());
        fixed[40..44].copy_from_slice(&length(self.xattrs.len()).to_le_bytes());
        hasher.update(&fixed);
        hasher.update(self.path);
        hasher.update(text);
        hasher.update(self.xattrs);
    }
}

fn length(len: usize) -> u32 {
    u32::try_from(len).expect("BUG: paths, links and xattr lists are bounded well below 4 GiB")
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("BUG: four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("BUG: eight bytes"))
}

fn hash_at(bytes: &[u8], at: usize) -> [u8; 32] {
    bytes[at..at + 32]
        .try_into()
        .expect("BUG: thirty-two bytes")
}

fn span(record: &[u8], at: usize) -> Range<usize> {
    let start = u32_at(record, at) as usize;
    start..start + u32_at(record, at + 4) as usize
}

/// An index in memory.
#[derive(Debug)]
pub(crate) struct Index {
    bytes: Vec<u8>,
    count: usize,
}

impl Index {
    /// Reads and checks a file.
    pub(crate) fn load(path: &Path) -> Result<Self, Error> {
        let bytes =
            std::fs::read(path).map_err(|source| io_error("read the layer index", path, source))?;
        Self::parse(bytes).map_err(|reason| Error::Layer {
            layer: path.display().to_string(),
            reason: reason.into(),
        })
    }

    /// The layer that a file says it is of. Nothing else of it is read, and nothing checked.
    pub(crate) fn diff_id_of(path: &Path) -> Result<[u8; 32], Error> {
        let mut header = [0; HEADER];
        let read = File::open(path).and_then(|mut file| file.read_exact(&mut header));
        read.map_err(|source| io_error("read the layer index", path, source))?;
        Ok(hash_at(&header, 32))
    }

    /// Checks an index: no place in it can lead outside afterwards.
    pub(crate) fn parse(bytes: Vec<u8>) -> Result<Self, &'static str> {
        if bytes.len() < HEADER + CHECKSUM || &bytes[..8] != MAGIC {
            return Err("the index is not one, or cut off");
        }
        if u32_at(&bytes, 8) != VERSION {
            return Err("the index is of another version");
        }
        let end = bytes.len() - CHECKSUM;
        if blake3::hash(&bytes[..end]).as_bytes() != &bytes[end..] {
            return Err("the index is damaged");
        }
        let space = (end - HEADER) / RECORD;
        let count = usize::try_from(u64_at(&bytes, 16))
            .ok()
            .filter(|&count| count <= space);
        let Some(count) = count else {
            return Err("the index is cut off");
        };
        let heap = end - HEADER - count * RECORD;
        let index = Self { bytes, count };
        for at in 0..count {
            let record = index.record(at);
            if [0, 80, 88]
                .iter()
                .any(|&place| span(record, place).end > heap)
            {
                return Err("the index leads outside itself");
            }
            if !b"dflhcbpw".contains(&record[8]) {
                return Err("the index has an unknown kind of entry");
            }
        }
        Ok(index)
    }

    /// Writes it out.
    pub(crate) fn save(&self, path: &Path) -> Result<(), Error> {
        std::fs::File::create(path)
            .and_then(|mut file| file.write_all(&self.bytes))
            .map_err(|source| io_error("write the layer index", path, source))
    }

    /// SHA-256 of the tar.
    pub(crate) fn diff_id(&self) -> [u8; 32] {
        hash_at(&self.bytes, 32)
    }

    /// Content identity, hex.
    pub(crate) fn identity(&self) -> String {
        super::hash::hex(&self.bytes[64..96])
    }

    fn record(&self, at: usize) -> &[u8] {
        &self.bytes[HEADER + at * RECORD..HEADER + (at + 1) * RECORD]
    }

    fn heap(&self, place: Range<usize>) -> &[u8] {
        let base = HEADER + self.count * RECORD;
        &self.bytes[base + place.start..base + place.end]
    }

    /// Path of entry `at`.
    pub(crate) fn path(&self, at: usize) -> &[u8] {
        self.heap(span(self.record(at), 0))
    }

    /// Entry `at`.
    pub(crate) fn node(&self, at: usize) -> Node<'_> {
        let record = self.record(at);
        let number = u64_at(record, 32);
        let device = ((number >> 32) as u32, number as u32);
        let flags = record[9];
        let what = match record[8] {
            b'd' => What::Directory {
                opaque: flags & OPAQUE != 0,
            },
            b'f' => What::File {
                size: number,
                offset: u64_at(record, 40),
                digest: hash_at(record, 48),
            },
            b'l' => What::Symlink(self.heap(span(record, 80))),
            b'h' => What::Hardlink(self.heap(span(record, 80))),
            b'c' => What::Char(device.0, device.1),
            b'b' => What::Block(device.0, device.1),
            b'p' => What::Fifo,
            _ => What::Whiteout,
        };
        Node {
            path: self.heap(span(record, 0)),
            what,
            implied: flags & IMPLIED != 0,
            mode: u32::from(u16::from_le_bytes([record[10], record[11]])),
            uid: u32_at(record, 12),
            gid: u32_at(record, 16),
            mtime: u64_at(record, 24).cast_signed(),
            xattrs: self.heap(span(record, 88)),
        }
    }

    /// All entries, in order.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = Node<'_>> {
        (0..self.count).map(|at| self.node(at))
    }

    /// First entry not before `path`, searching from `from`.
    fn lower_bound(&self, path: &[u8], from: usize) -> usize {
        let (mut low, mut high) = (from, self.count);
        while low < high {
            let middle = low + (high - low) / 2;
            if compare(self.path(middle), path) == Ordering::Less {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    /// Number of the entry with this path.
    pub(crate) fn find(&self, path: &[u8]) -> Option<usize> {
        let at = self.lower_bound(path, 0);
        (at < self.count && self.path(at) == path).then_some(at)
    }

    /// The file (or link, device) that entry `at` stands for: itself, or the target of a hard link.
    pub(crate) fn target(&self, at: usize) -> Option<usize> {
        match self.node(at).what {
            What::Hardlink(target) => self
                .find(target)
                .filter(|&found| !matches!(self.node(found).what, What::Hardlink(_))),
            _ => Some(at),
        }
    }

    /// Calls `visit` with the number and name of every child of a directory, whiteouts included.
    pub(crate) fn children(&self, dir: &[u8], visit: &mut dyn FnMut(usize, &[u8])) {
        let mut at = self.lower_bound(&join(dir, b""), 0);
        if dir.is_empty() && at < self.count && self.path(at).is_empty() {
            at += 1;
        }
        let skip = if dir.is_empty() { 0 } else { dir.len() + 1 };
        while at < self.count {
            let path = self.path(at);
            let inside =
                dir.is_empty() || (path.starts_with(dir) && path.get(dir.len()) == Some(&b'/'));
            if !inside {
                return;
            }
            let name = path[skip..]
                .split(|&b| b == b'/')
                .next()
                .unwrap_or_default();
            let child = join(dir, name);
            if path.len() == child.len() {
                visit(at, name);
            }
            at = self.after_subtree(&child, at + 1);
        }
    }

    /// First entry from `at` on that is not below `dir`: looks a little ahead, then by halves.
    fn after_subtree(&self, dir: &[u8], at: usize) -> usize {
        let below = |i: usize| {
            let path = self.path(i);
            path.starts_with(dir) && path.get(dir.len()) == Some(&b'/')
        };
        let (mut low, mut step) = (at, 1);
        while low + step <= self.count && below(low + step - 1) {
            low += step;
            step *= 2;
        }
        let mut high = (low + step - 1).min(self.count);
        while low < high {
            let middle = low + (high - low) / 2;
            if below(middle) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }
}

/// An I/O error on a path.
pub(crate) fn io_error(op: &'static str, path: &Path, source: std::io::Error) -> Error {
    Error::Io {
        op,
        path: path.to_path_buf(),
        source,
    }
}

/// A layer error on an entry.
pub(crate) fn entry_error(layer: &str, path: &[u8], reason: &str) -> Error {
    Error::Layer {
        layer: layer.to_owned(),
        reason: format!("{}: {reason}", show(path)),
    }
}

#[cfg(test)]
mod tests;
