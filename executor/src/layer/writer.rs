//! Writes canonical layer tars: headers, content, digests and the index in one pass.
//!
//! It takes entries as they are given; finding them, and deciding what a layer holds, is the caller's.

use super::hash::{Chunk, StreamHasher, digest_of};
use super::header::{BLOCK, HeaderEncoder, padding};
use super::index::{Index, IndexBuilder, Node, What, entry_error};
use super::order::{OPAQUE_MARKER, WHITEOUT_PREFIX, compare, join, name_problem, split};
use super::xattr::{encode_xattrs, kept_xattrs};
use crate::Error;
use crate::tree::{Entry, FileDigest, Kind};
use oci_spec::image::Digest;
use std::cmp::Ordering;
use std::io::{self, Read, Sink, Write};
use std::path::Path;

/// How errors call a layer that has no digest yet.
const UNFINISHED: &str = "being written";

/// What a finished layer is.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct Written {
    /// Digest of the tar.
    pub diff_id: Digest,
    /// Bytes of the tar.
    pub size: u64,
    /// Identity of the content (sorted entries, mtimes left out), hex.
    pub identity: String,
}

/// Writes one canonical layer tar and its index in one pass. Entries must come in canonical order
/// (component-wise bytewise, parents first; whiteouts by the path they hide), or be given to [`super::sort`] first.
#[derive(Debug)]
pub struct LayerWriter<W: Write> {
    out: W,
    /// Tar bytes not written yet.
    chunk: Chunk,
    hasher: StreamHasher,
    /// Tar bytes so far, those in `chunk` included.
    size: u64,
    encoder: HeaderEncoder,
    header: Vec<u8>,
    index: IndexBuilder,
}

impl LayerWriter<Sink> {
    /// Starts a tar that a thread of its own writes once it is long. What `out` cannot take is told later than it happens,
    /// at the end at the latest.
    pub(crate) fn behind(out: impl Write + Send + 'static) -> Self {
        Self::start(io::sink(), StreamHasher::writing(Box::new(out)))
    }
}

impl<W: Write> LayerWriter<W> {
    /// Starts a tar on `out`; the index is kept in memory until [`LayerWriter::finish`].
    pub fn new(out: W) -> Self {
        Self::start(out, StreamHasher::new())
    }

    fn start(out: W, hasher: StreamHasher) -> Self {
        Self {
            out,
            chunk: Chunk::new(),
            hasher,
            size: 0,
            encoder: HeaderEncoder::default(),
            header: Vec::new(),
            index: IndexBuilder::default(),
        }
    }

    /// Writes the index while entries come, so that it is never in memory: to where [`LayerWriter::finish`] will want it.
    /// Hard links cannot be checked so, and are refused.
    pub(crate) fn with_index(mut self, index: &Path) -> Result<Self, Error> {
        self.index = IndexBuilder::streaming(index)?;
        Ok(self)
    }

    /// Makes room for this many entries with this many bytes of paths.
    pub(crate) fn expect(&mut self, entries: usize, paths: usize) {
        self.index.expect(entries, paths);
    }

    /// Entries and whiteouts so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether nothing was added yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds an entry; `data` is read to the end for regular files and must give exactly `size` bytes.
    /// Returns an error for names that OCI cannot hold (`.wh.` prefix), sockets, sizes that do not match.
    /// A content digest that the entry has is checked against what was read.
    ///
    /// # Errors
    /// As above, and I/O.
    pub fn entry(&mut self, entry: &Entry, data: Option<&mut dyn Read>) -> Result<(), Error> {
        self.add(entry, data, None)
    }

    /// Adds a file whose content has this digest, which the caller has made sure of.
    pub(crate) fn file(
        &mut self,
        entry: &Entry,
        mut content: &[u8],
        digest: FileDigest,
    ) -> Result<(), Error> {
        self.add(entry, Some(&mut content), Some(digest))
    }

    fn add(
        &mut self,
        entry: &Entry,
        data: Option<&mut dyn Read>,
        known: Option<FileDigest>,
    ) -> Result<(), Error> {
        self.check_place(&entry.path)?;
        check_kind(entry)?;
        if self.index.is_streaming() && matches!(entry.kind, Kind::Hardlink { .. }) {
            let reason = "a hard link in a layer whose index is not in memory";
            return Err(entry_error(UNFINISHED, &entry.path, reason));
        }
        let mut header = std::mem::take(&mut self.header);
        header.clear();
        self.encoder.entry(&mut header, entry);
        let put = self.put(&header);
        self.header = header;
        put?;
        let what = match &entry.kind {
            Kind::File { size, digest } => {
                let offset = self.size;
                let found = self.content(&entry.path, *size, data, known)?;
                if digest.is_some_and(|expected| expected != found) {
                    return Err(entry_error(
                        UNFINISHED,
                        &entry.path,
                        "the file changed while it was read",
                    ));
                }
                What::File {
                    size: *size,
                    offset,
                    digest: found,
                }
            }
            Kind::Directory => What::Directory { opaque: false },
            Kind::Symlink { target } => What::Symlink(target),
            Kind::Hardlink { target } => What::Hardlink(target),
            Kind::Char { major, minor } => What::Char(*major, *minor),
            Kind::Block { major, minor } => What::Block(*major, *minor),
            Kind::Fifo | Kind::Socket => What::Fifo,
        };
        // A hard link's xattrs are its target's.
        let linked = matches!(what, What::Hardlink(_));
        let xattrs = if linked {
            Vec::new()
        } else {
            encode_xattrs(&kept_xattrs(&entry.xattrs))
        };
        self.index.push(&Node {
            path: &entry.path,
            what,
            implied: false,
            mode: entry.mode & 0o7777,
            uid: entry.uid,
            gid: entry.gid,
            mtime: entry.mtime,
            xattrs: &xattrs,
        });
        Ok(())
    }

    /// Adds a whiteout of `path` (an empty file `.wh.NAME`, mtime 0).
    ///
    /// # Errors
    /// I/O.
    pub fn whiteout(&mut self, path: &[u8]) -> Result<(), Error> {
        self.check_place(path)?;
        if path.is_empty() {
            return Err(entry_error(UNFINISHED, path, "the root cannot be removed"));
        }
        let (dir, name) = split(path);
        self.marker(&join(dir, &[WHITEOUT_PREFIX, name].concat()))?;
        self.index.push(&Node::whiteout(path));
        Ok(())
    }

    /// Adds a directory that hides what the layers below hold in it: the entry, then its opaque marker.
    pub(crate) fn opaque_directory(&mut self, entry: &Entry) -> Result<(), Error> {
        self.check_place(&entry.path)?;
        let mut header = Vec::new();
        self.encoder.entry(&mut header, entry);
        self.put(&header)?;
        self.marker(&join(&entry.path, OPAQUE_MARKER))?;
        self.index.push(&Node {
            path: &entry.path,
            what: What::Directory { opaque: true },
            implied: false,
            mode: entry.mode & 0o7777,
            uid: entry.uid,
            gid: entry.gid,
            mtime: entry.mtime,
            xattrs: &encode_xattrs(&kept_xattrs(&entry.xattrs)),
        });
        Ok(())
    }

    fn marker(&mut self, name: &[u8]) -> Result<(), Error> {
        let mut header = std::mem::take(&mut self.header);
        header.clear();
        self.encoder.marker(&mut header, name);
        let put = self.put(&header);
        self.header = header;
        put
    }

    fn check_place(&self, path: &[u8]) -> Result<(), Error> {
        if let Some(problem) = name_problem(path) {
            return Err(entry_error(UNFINISHED, path, problem));
        }
        if self
            .index
            .last_path()
            .is_some_and(|last| compare(last, path) != Ordering::Less)
        {
            return Err(entry_error(
                UNFINISHED,
                path,
                "entries are not in canonical order",
            ));
        }
        if self.index.is_below_no_directory(path) {
            return Err(entry_error(UNFINISHED, path, "its parent is no directory"));
        }
        if self.index.is_full() {
            return Err(entry_error(
                UNFINISHED,
                path,
                "the layer has too many entries",
            ));
        }
        Ok(())
    }

    /// Copies one file's content through the buffer, hashing it if its digest is not known.
    fn content(
        &mut self,
        path: &[u8],
        size: u64,
        data: Option<&mut dyn Read>,
        known: Option<FileDigest>,
    ) -> Result<FileDigest, Error> {
        let Some(data) = data else {
            if size > 0 {
                return Err(entry_error(UNFINISHED, path, "content is missing"));
            }
            return Ok(*blake3::hash(b"").as_bytes());
        };
        let mut hasher = blake3::Hasher::new();
        let mut left = size;
        while left > 0 {
            if self.chunk.len == self.chunk.data.len() {
                self.flush()?;
            }
            let start = self.chunk.len;
            let room = usize::try_from(left)
                .unwrap_or(usize::MAX)
                .min(self.chunk.data.len() - start);
            let got = read_some(path, data, &mut self.chunk.data[start..start + room])?;
            if got == 0 {
                return Err(entry_error(
                    UNFINISHED,
                    path,
                    "the file became shorter while it was read",
                ));
            }
            if known.is_none() {
                hasher.update(&self.chunk.data[start..start + got]);
            }
            self.chunk.len += got;
            self.size += got as u64;
            left -= got as u64;
        }
        if read_some(path, data, &mut [0])? != 0 {
            return Err(entry_error(
                UNFINISHED,
                path,
                "the file became longer while it was read",
            ));
        }
        self.put(&[0; BLOCK][..padding(size)])?;
        Ok(known.unwrap_or_else(|| *hasher.finalize().as_bytes()))
    }

    /// Adds bytes to the tar.
    fn put(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        self.size += bytes.len() as u64;
        while !bytes.is_empty() {
            let start = self.chunk.len;
            let room = bytes.len().min(self.chunk.data.len() - start);
            self.chunk.data[start..start + room].copy_from_slice(&bytes[..room]);
            self.chunk.len += room;
            bytes = &bytes[room..];
            if self.chunk.len == self.chunk.data.len() {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Error> {
        write_out(&mut self.out, self.chunk.filled())?;
        let full = std::mem::replace(
            &mut self.chunk,
            Chunk {
                data: Box::default(),
                len: 0,
            },
        );
        self.chunk = self.hasher.feed(full).map_err(write_error)?;
        Ok(())
    }

    /// Ends the tar, writes the index file to `index`.
    ///
    /// # Errors
    /// A hard link to a path that the layer does not hold, or holds later; I/O.
    pub fn finish(mut self, index: &Path) -> Result<Written, Error> {
        if self.index.is_streaming() {
            self.end_tar()?;
            let last = self.chunk.filled();
            let diff_id = self.hasher.finish(last).map_err(write_error)?;
            let identity = self.index.finish_file(diff_id, self.size)?;
            return Ok(Written {
                diff_id: digest_of(&diff_id),
                size: self.size,
                identity,
            });
        }
        let (written, built) = self.end()?;
        built.save(index)?;
        Ok(written)
    }

    /// Ends the tar and gives the index.
    pub(crate) fn end(mut self) -> Result<(Written, Index), Error> {
        self.end_tar()?;
        let diff_id = self
            .hasher
            .finish(self.chunk.filled())
            .map_err(write_error)?;
        let index = self.index.finish(diff_id, self.size);
        check_links(&index)?;
        let written = Written {
            diff_id: digest_of(&diff_id),
            size: self.size,
            identity: index.identity(),
        };
        Ok((written, index))
    }
}

impl<W: Write> LayerWriter<W> {
    fn end_tar(&mut self) -> Result<(), Error> {
        self.put(&[0; 2 * BLOCK])?;
        write_out(&mut self.out, self.chunk.filled())?;
        self.out.flush().map_err(write_error)
    }
}

fn check_kind(entry: &Entry) -> Result<(), Error> {
    let problem = match &entry.kind {
        Kind::Socket => "sockets cannot be stored in a layer",
        Kind::Char { major: 0, minor: 0 } => "a character device 0:0 stands for a removed file",
        Kind::Symlink { target } if target.is_empty() || target.contains(&0) => {
            "the link target is no path"
        }
        Kind::Hardlink { target } if target.is_empty() || name_problem(target).is_some() => {
            "the link target is no path of the layer"
        }
        _ if entry.path.is_empty() && entry.kind != Kind::Directory => "the root is no directory",
        _ => return Ok(()),
    };
    Err(entry_error(UNFINISHED, &entry.path, problem))
}

/// Hard links must lead to an earlier entry that is not a directory or a link itself.
fn check_links(index: &Index) -> Result<(), Error> {
    for (at, node) in index.nodes().enumerate() {
        let What::Hardlink(target) = node.what else {
            continue;
        };
        let fine = index.find(target).is_some_and(|found| {
            found < at
                && !matches!(
                    index.node(found).what,
                    What::Directory { .. } | What::Hardlink(_) | What::Whiteout
                )
        });
        if !fine {
            return Err(entry_error(
                UNFINISHED,
                node.path,
                "the hard link leads to no earlier file of the layer",
            ));
        }
    }
    Ok(())
}

fn read_some(path: &[u8], data: &mut dyn Read, buffer: &mut [u8]) -> Result<usize, Error> {
    loop {
        match data.read(buffer) {
            Ok(got) => return Ok(got),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(source) => {
                use std::os::unix::ffi::OsStrExt as _;
                let path = Path::new(std::ffi::OsStr::from_bytes(path)).to_path_buf();
                return Err(Error::Io {
                    op: "read",
                    path,
                    source,
                });
            }
        }
    }
}

fn write_out(out: &mut impl Write, bytes: &[u8]) -> Result<(), Error> {
    out.write_all(bytes).map_err(write_error)
}

fn write_error(source: std::io::Error) -> Error {
    Error::Io {
        op: "write",
        path: "layer tar".into(),
        source,
    }
}
