//! Writes eStargz layers (stargz-snapshotter, docs/estargz.md): gzip that readers can enter at every chunk of every file.
//!
//! ```text
//! member: header of the landmark | member: its content, headers ... | one member from each chunk's start to the next ...
//! member: tar entry stargz.index.json (the table of contents), end of archive | member: footer with the table's offset
//! ```
//! The layer's own tar is passed on whole, its end of archive included, so that what unpacks it as a tar finds its files and
//! the landmark, and not the table. Where files lie in the tar comes from the layer's index. It compresses nothing itself.

use super::BlockCompressor;
use super::hash::digest_of;
use super::header::{HeaderEncoder, padding};
use super::index::{Index, Node, What};
use super::xattr::decode_xattrs;
use crate::tree::{Entry, Kind};
use base64::Engine as _;
use libdeflater::{CompressionLvl, Compressor};
use oci_spec::image::Digest;
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::io::{self, Write};

/// Most bytes of a file that one gzip member holds.
pub(crate) const CHUNK: usize = 4 << 20;
/// Annotation with the digest of the table of contents.
pub(crate) const TOC_DIGEST: &str = "containerd.io/snapshot/stargz/toc.digest";
/// Annotation with the bytes of the decompressed blob.
pub(crate) const UNCOMPRESSED_SIZE: &str = "io.containers.estargz.uncompressed-size";

/// Both.
pub(crate) const ANNOTATIONS: [&str; 2] = [TOC_DIGEST, UNCOMPRESSED_SIZE];

const TOC_NAME: &[u8] = b"stargz.index.json";
/// Says that no file is wanted before others.
const LANDMARK: &[u8] = b".no.prefetch.landmark";
const LANDMARK_CONTENT: [u8; 1] = [0x0f];
const END_OF_ARCHIVE: usize = 1024;

/// A finished layer.
#[derive(Debug)]
pub(crate) struct Finished {
    /// Digest of what the blob decompresses to.
    pub(crate) diff_id: Digest,
    /// Bytes of it.
    pub(crate) size: u64,
    /// Digest of the table of contents.
    pub(crate) toc: Digest,
}

/// A part of a file.
struct Piece {
    node: usize,
    /// Where it begins in the tar.
    start: u64,
    size: u64,
    /// Where it begins in the file.
    offset: u64,
    /// The block of the compressor that begins with it.
    block: u64,
    digest: Option<Digest>,
}

/// Takes a layer's tar and writes it as eStargz.
pub(crate) struct EstargzWriter<'a, W: Write> {
    out: BlockCompressor<W>,
    index: &'a Index,
    level: u32,
    pieces: Vec<Piece>,
    /// The piece that comes next, or that we are in.
    next: usize,
    /// Bytes of the tar so far.
    position: u64,
    chunk: Option<Sha256>,
    /// Of a file with several pieces, and those digests by node.
    file: Option<Sha256>,
    files: BTreeMap<usize, Digest>,
    all: Sha256,
    written: u64,
    landmark: Option<u64>,
}

impl<'a, W: Write> EstargzWriter<'a, W> {
    /// Starts with the landmark, unless the layer has it.
    ///
    /// # Errors
    /// A layer that has a file with the name of the table; writing.
    pub(crate) fn new(out: BlockCompressor<W>, index: &'a Index, level: u32) -> io::Result<Self> {
        if index.find(TOC_NAME).is_some() {
            return Err(io::Error::other(
                "it has a file stargz.index.json, which an estargz layer cannot have",
            ));
        }
        let mut writer = Self {
            out,
            index,
            level,
            pieces: pieces(index),
            next: 0,
            position: 0,
            chunk: None,
            file: None,
            files: BTreeMap::new(),
            all: Sha256::new(),
            written: 0,
            landmark: None,
        };
        if index.find(LANDMARK).is_none() {
            writer.pass(&header(LANDMARK, LANDMARK_CONTENT.len() as u64))?;
            writer.landmark = Some(writer.out.cut()?);
            writer.pass(&LANDMARK_CONTENT)?;
            writer.pass(&vec![0; padding(LANDMARK_CONTENT.len() as u64)])?;
        }
        Ok(writer)
    }

    /// Writes the table and the footer.
    ///
    /// # Errors
    /// A tar that is shorter than its index says; writing.
    pub(crate) fn finish(mut self) -> io::Result<(W, Finished)> {
        if self.next < self.pieces.len() {
            return Err(io::Error::other("its tar is shorter than its index says"));
        }
        let (mut out, starts) = self.out.finish_with_starts()?;
        let toc_offset = starts.last().copied().unwrap_or_default();
        let toc = serde_json::to_vec(&Toc {
            version: 1,
            entries: entries(
                self.index,
                &self.pieces,
                &self.files,
                &starts,
                self.landmark,
            ),
        })?;
        let mut tail = header(TOC_NAME, toc.len() as u64);
        tail.extend_from_slice(&toc);
        tail.resize(tail.len() + padding(toc.len() as u64) + END_OF_ARCHIVE, 0);
        self.all.update(&tail);
        self.written += tail.len() as u64;
        out.write_all(&member(&tail, self.level)?)?;
        out.write_all(&footer(toc_offset))?;
        out.flush()?;
        let finished = Finished {
            diff_id: digest_of(&self.all.finalize().into()),
            size: self.written,
            toc: sha256(&toc),
        };
        Ok((out, finished))
    }

    fn pass(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.all.update(bytes);
        self.written += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    /// Bytes until something begins or ends.
    fn ahead(&self) -> u64 {
        match self.pieces.get(self.next) {
            None => u64::MAX,
            Some(piece) if self.chunk.is_none() => piece.start - self.position,
            Some(piece) => piece.start + piece.size - self.position,
        }
    }

    fn begin_piece(&mut self) -> io::Result<()> {
        let block = self.out.cut()?;
        let piece = &mut self.pieces[self.next];
        piece.block = block;
        self.chunk = Some(Sha256::new());
        let is_first = piece.offset == 0;
        let node = piece.node;
        let is_split = self
            .pieces
            .get(self.next + 1)
            .is_some_and(|after| after.node == node);
        if is_first && is_split {
            self.file = Some(Sha256::new());
        }
        Ok(())
    }

    fn end_piece(&mut self) {
        let digest = self
            .chunk
            .take()
            .map(|hash| digest_of(&hash.finalize().into()));
        let piece = &mut self.pieces[self.next];
        piece.digest = digest;
        let node = piece.node;
        self.next += 1;
        let goes_on = self
            .pieces
            .get(self.next)
            .is_some_and(|after| after.node == node);
        if !goes_on && let Some(file) = self.file.take() {
            self.files.insert(node, digest_of(&file.finalize().into()));
        }
    }
}

impl<W: Write> Write for EstargzWriter<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.chunk.is_none() && self.ahead() == 0 {
            self.begin_piece()?;
        }
        let room = usize::try_from(self.ahead()).unwrap_or(usize::MAX);
        let part = &bytes[..bytes.len().min(room)];
        if let Some(chunk) = &mut self.chunk {
            chunk.update(part);
            if let Some(file) = &mut self.file {
                file.update(part);
            }
        }
        self.pass(part)?;
        self.position += part.len() as u64;
        if self.chunk.is_some() && self.ahead() == 0 {
            self.end_piece();
        }
        Ok(part.len())
    }
    /// Members end where pieces begin, and nowhere else.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The pieces of all files, in the order of the tar.
fn pieces(index: &Index) -> Vec<Piece> {
    let mut files: Vec<(u64, u64, usize)> = index
        .nodes()
        .enumerate()
        .filter_map(|(at, node)| match node.what {
            What::File { size, offset, .. } if size > 0 => Some((offset, size, at)),
            _ => None,
        })
        .collect();
    files.sort_unstable();
    let mut pieces = Vec::with_capacity(files.len());
    let mut end = 0;
    for (start, size, node) in files {
        // No tar has content twice at one place; a damaged index is not to lead astray.
        if start < end {
            continue;
        }
        end = start.saturating_add(size);
        let mut offset = 0;
        while offset < size {
            let part = (size - offset).min(CHUNK as u64);
            pieces.push(Piece {
                node,
                start: start + offset,
                size: part,
                offset,
                block: 0,
                digest: None,
            });
            offset += part;
        }
    }
    pieces
}

fn header(name: &[u8], size: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    let entry = Entry {
        path: name.to_vec(),
        kind: Kind::File { size, digest: None },
        mode: 0o444,
        uid: 0,
        gid: 0,
        mtime: 0,
        xattrs: Vec::new(),
    };
    HeaderEncoder::default().entry(&mut bytes, &entry);
    bytes
}

fn member(bytes: &[u8], level: u32) -> io::Result<Vec<u8>> {
    let level = CompressionLvl::new(i32::try_from(level).unwrap_or(i32::MAX))
        .map_err(|_| io::Error::other("gzip has the levels 0 to 12"))?;
    let mut compressor = Compressor::new(level);
    let mut out = vec![0; compressor.gzip_compress_bound(bytes.len())];
    let size = compressor
        .gzip_compress(bytes, &mut out)
        .expect("BUG: the buffer has the size that the encoder asks for");
    out.truncate(size);
    Ok(out)
}

/// An empty gzip member whose extra field tells where the table's member begins (51 bytes).
fn footer(toc_offset: u64) -> Vec<u8> {
    let field = format!("{toc_offset:016x}STARGZ");
    let length = u16::try_from(field.len()).expect("BUG: the field has 22 bytes");
    let mut out = vec![0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 0xff];
    out.extend_from_slice(&(length + 4).to_le_bytes());
    out.extend_from_slice(b"SG");
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(field.as_bytes());
    // A final stored block without content, its CRC and its size.
    out.extend_from_slice(&[1, 0, 0, 0xff, 0xff]);
    out.extend_from_slice(&[0; 8]);
    out
}

#[derive(Serialize)]
struct Toc {
    version: u32,
    entries: Vec<TocEntry>,
}

#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct TocEntry {
    name: String,
    r#type: &'static str,
    #[serde(skip_serializing_if = "is_zero")]
    size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    modtime: Option<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    link_name: String,
    #[serde(skip_serializing_if = "is_zero_u32")]
    mode: u32,
    #[serde(skip_serializing_if = "is_zero_u32")]
    uid: u32,
    #[serde(skip_serializing_if = "is_zero_u32")]
    gid: u32,
    #[serde(skip_serializing_if = "is_zero")]
    offset: u64,
    #[serde(skip_serializing_if = "is_zero_u32")]
    dev_major: u32,
    #[serde(skip_serializing_if = "is_zero_u32")]
    dev_minor: u32,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    xattrs: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
    #[serde(skip_serializing_if = "is_zero")]
    chunk_offset: u64,
    #[serde(skip_serializing_if = "is_zero")]
    chunk_size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    chunk_digest: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's form")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's form")]
fn is_zero_u32(number: &u32) -> bool {
    *number == 0
}

fn entries(
    index: &Index,
    pieces: &[Piece],
    files: &BTreeMap<usize, Digest>,
    starts: &[u64],
    landmark: Option<u64>,
) -> Vec<TocEntry> {
    let start_of = |block: u64| {
        let block = usize::try_from(block).unwrap_or(usize::MAX);
        starts.get(block).copied().unwrap_or_default()
    };
    let mut by_node: BTreeMap<usize, &[Piece]> = BTreeMap::new();
    for parts in pieces.chunk_by(|a, b| a.node == b.node) {
        by_node.insert(parts[0].node, parts);
    }
    let mut out = Vec::new();
    if let Some(block) = landmark {
        let digest = sha256(&LANDMARK_CONTENT).to_string();
        out.push(TocEntry {
            name: text(LANDMARK),
            r#type: "reg",
            size: 1,
            modtime: time(0),
            mode: 0o444,
            offset: start_of(block),
            digest: Some(digest.clone()),
            chunk_digest: Some(digest),
            ..TocEntry::default()
        });
    }
    for (at, node) in index.nodes().enumerate() {
        // The root is everybody's, and a parent that no entry made is not in the tar.
        if node.path.is_empty() || node.implied && node.what == (What::Directory { opaque: false })
        {
            continue;
        }
        if node.what == (What::Directory { opaque: true }) {
            out.push(marker(&super::order::join(node.path, b".wh..wh..opq")));
        }
        let parts = by_node.get(&at).copied().unwrap_or_default();
        let mut entry = entry_of(&node);
        if let Some(first) = parts.first() {
            let whole = files.get(&at).or(first.digest.as_ref());
            entry.digest = whole.map(ToString::to_string);
        } else if entry.r#type == "reg" && node.what != What::Whiteout {
            entry.digest = Some(sha256(b"").to_string());
        }
        let size = entry.size;
        for (number, part) in parts.iter().enumerate() {
            if number > 0 {
                let name = entry.name.clone();
                out.push(std::mem::replace(
                    &mut entry,
                    TocEntry {
                        name,
                        r#type: "chunk",
                        ..TocEntry::default()
                    },
                ));
            }
            entry.offset = start_of(part.block);
            entry.chunk_offset = part.offset;
            // The last chunk goes to the end of the file.
            if size - part.offset >= CHUNK as u64 {
                entry.chunk_size = part.size;
            }
            entry.chunk_digest = part.digest.as_ref().map(ToString::to_string);
        }
        out.push(entry);
    }
    out
}

fn entry_of(node: &Node<'_>) -> TocEntry {
    if node.what == What::Whiteout {
        let (parent, name) = super::order::split(node.path);
        let hidden = [b".wh.".as_slice(), name].concat();
        return marker(&super::order::join(parent, &hidden));
    }
    let xattrs = decode_xattrs(node.xattrs)
        .into_iter()
        .map(|(name, value)| {
            let value = base64::engine::general_purpose::STANDARD.encode(value);
            (text(&name), value)
        })
        .collect();
    let mut entry = TocEntry {
        name: text(node.path),
        modtime: time(node.mtime),
        mode: node.mode,
        uid: node.uid,
        gid: node.gid,
        xattrs,
        ..TocEntry::default()
    };
    match node.what {
        What::Directory { .. } => {
            entry.r#type = "dir";
            entry.name.push('/');
        }
        What::File { size, .. } => {
            entry.r#type = "reg";
            entry.size = size;
        }
        What::Symlink(target) => {
            entry.r#type = "symlink";
            entry.link_name = text(target);
        }
        What::Hardlink(target) => {
            entry.r#type = "hardlink";
            entry.link_name = text(target);
        }
        What::Char(major, minor) => {
            entry.r#type = "char";
            (entry.dev_major, entry.dev_minor) = (major, minor);
        }
        What::Block(major, minor) => {
            entry.r#type = "block";
            (entry.dev_major, entry.dev_minor) = (major, minor);
        }
        What::Fifo => entry.r#type = "fifo",
        What::Whiteout => unreachable!("BUG: whiteouts are markers"),
    }
    entry
}

/// A whiteout file.
fn marker(path: &[u8]) -> TocEntry {
    TocEntry {
        name: text(path),
        r#type: "reg",
        modtime: time(0),
        ..TocEntry::default()
    }
}

fn time(seconds: i64) -> Option<String> {
    jiff::Timestamp::from_second(seconds)
        .ok()
        .map(|time| time.to_string())
}

fn sha256(bytes: &[u8]) -> Digest {
    digest_of(&Sha256::digest(bytes).into())
}

/// JSON holds no other bytes.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
