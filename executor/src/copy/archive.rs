//! ADD of local archives: telling them by content, and unpacking them into a [`Target`].
//!
//! Compression is told by the first bytes (gzip, bzip2, xz, zstd or none); a file is an archive when a tar header can be
//! read from it. Names cannot leave the destination: `..` and absolute names stay inside it, links on the way are
//! followed as if it were the root, and hard links only lead to what the destination has. What the archive says of owners and modes is kept.

use super::owner::Owner;
use super::paths::{clean, join, refuse, show, split};
use super::target::{Change, Data, Found, Target};
use crate::Error;
use crate::layer::tar_reader::{self, Problem, RawEntry, TarReader};
use crate::tree::{Entry, Kind};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;

/// Read from a compressed stream at once.
const BUFFER: usize = 128 * 1024;
const XZ_MAGIC: &[u8] = &[0xfd, b'7', b'z', b'X', b'Z', 0];

/// Content of unpacked files, one after the other, in a file of its own.
#[derive(Debug)]
pub(super) struct Spool {
    path: PathBuf,
    file: Option<File>,
    size: u64,
}

impl Spool {
    /// At a path where it may be made when it is needed.
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            file: None,
            size: 0,
        }
    }

    fn error(&self, op: &'static str, source: io::Error) -> Error {
        Error::Io {
            op,
            path: self.path.clone(),
            source,
        }
    }

    fn file(&mut self) -> Result<&mut File, Error> {
        if self.file.is_none() {
            let file = File::options()
                .read(true)
                .write(true)
                .create(true)
                .truncate(true)
                .open(&self.path);
            self.file = Some(file.map_err(|source| self.error("create", source))?);
        }
        Ok(self.file.as_mut().expect("BUG: it was made just now"))
    }

    /// Removes the file, and what decompressing left beside it. Nothing reads it any more.
    pub(super) fn remove(self) {
        for path in [self.path.with_extension("xz"), self.path] {
            // What stays goes with the scratch folder.
            drop(std::fs::remove_file(path));
        }
    }

    /// Where content starts; reads it from there.
    pub(super) fn read_at(&self, offset: u64, size: u64) -> Result<impl Read + use<>, Error> {
        let Some(file) = &self.file else {
            return Err(self.error("read", io::ErrorKind::NotFound.into()));
        };
        let mut file = file
            .try_clone()
            .map_err(|source| self.error("read", source))?;
        file.seek(SeekFrom::Start(offset))
            .map_err(|source| self.error("read", source))?;
        Ok(file.take(size))
    }
}

/// An archive whose first entry was read.
pub(super) struct Opened<'r> {
    reader: TarReader<BufReader<Box<dyn Read + 'r>>>,
    first: RawEntry,
}

/// Tells whether content is a tar archive, compressed or not.
pub(super) fn open<'r>(
    content: impl Read + 'r,
    spool: &Spool,
) -> Result<Option<Opened<'r>>, Error> {
    let Some(stream) = decompress(content, spool)? else {
        return Ok(None);
    };
    let mut reader = TarReader::new(BufReader::with_capacity(BUFFER, stream)).with_unnamed();
    Ok(match reader.next_entry() {
        Ok(Some(first)) => Some(Opened { reader, first }),
        Ok(None) | Err(_) => None,
    })
}

/// Whether content that begins so is a tar archive or a compressed stream that can hold one. Half a kilobyte is enough.
pub(super) fn is_archive(start: &[u8]) -> bool {
    let magics: [&[u8]; 4] = [
        &[0x1f, 0x8b, 8],
        b"BZh",
        &[0x28, 0xb5, 0x2f, 0xfd],
        XZ_MAGIC,
    ];
    magics.iter().any(|magic| start.starts_with(magic)) || tar_reader::is_header(start)
}

/// The newest time of the regular files of an archive; `None` when content is none, or holds no file. `scratch` is
/// where a file may be made.
pub(crate) fn newest_file(content: impl Read, scratch: PathBuf) -> Result<Option<i64>, Error> {
    let spool = Spool::new(scratch);
    let Some(Opened { mut reader, first }) = open(content, &spool)? else {
        return Ok(None);
    };
    let mut newest = None;
    let mut next = Some(first);
    while let Some(raw) = next {
        if matches!(raw.flag, 0 | b'0' | b'7') && !raw.name.ends_with(b"/") {
            newest = newest.max(Some(raw.mtime));
        }
        next = match reader.next_entry() {
            Ok(next) => next,
            Err(_) => return Ok(None),
        };
    }
    Ok(newest)
}

/// The stream without its compression (gzip, bzip2, zstd, xz); `None` when it begins like a compressed one and is not.
/// `scratch` is where a file may be made.
pub(crate) fn plain<'r>(
    content: impl Read + 'r,
    scratch: PathBuf,
) -> Result<Option<Box<dyn Read + 'r>>, Error> {
    decompress(content, &Spool::new(scratch))
}

/// The stream without its compression; `None` when it begins like a compressed one and is not.
fn decompress<'r>(
    content: impl Read + 'r,
    spool: &Spool,
) -> Result<Option<Box<dyn Read + 'r>>, Error> {
    let mut content = BufReader::with_capacity(BUFFER, content);
    let Ok(start) = content.fill_buf() else {
        return Ok(None);
    };
    if start.starts_with(&[0x1f, 0x8b, 8]) {
        return Ok(Some(Box::new(flate2::bufread::MultiGzDecoder::new(
            content,
        ))));
    }
    if start.starts_with(b"BZh") {
        return Ok(Some(Box::new(bzip2::bufread::MultiBzDecoder::new(content))));
    }
    if start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        let decoder = zstd::stream::read::Decoder::with_buffer(content).ok();
        return Ok(decoder.map(|decoder| Box::new(decoder) as Box<dyn Read>));
    }
    if start.starts_with(XZ_MAGIC) {
        return Ok(unxz(content, spool)?.map(|plain| Box::new(plain) as Box<dyn Read>));
    }
    Ok(Some(Box::new(content)))
}

/// The xz decoder writes where the others are read: its result goes into a file beside the spool.
fn unxz(mut content: impl BufRead, spool: &Spool) -> Result<Option<File>, Error> {
    let path = spool.path.with_extension("xz");
    let error = |op, source| Error::Io {
        op,
        path: path.clone(),
        source,
    };
    let mut plain = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(&path);
    let plain = plain.as_mut().map_err(|source| {
        error(
            "create",
            std::mem::replace(source, io::ErrorKind::Other.into()),
        )
    })?;
    let mut out = Checked {
        out: plain,
        failed: None,
    };
    let decoded = lzma_rs::xz_decompress(&mut content, &mut out);
    if let Some(source) = out.failed.take() {
        return Err(error("write", source));
    }
    if decoded.is_err() {
        return Ok(None);
    }
    let mut plain = plain.try_clone().map_err(|source| error("read", source))?;
    plain
        .seek(SeekFrom::Start(0))
        .map_err(|source| error("read", source))?;
    Ok(Some(plain))
}

/// Tells errors of writing from those of the stream.
struct Checked<'f> {
    out: &'f mut File,
    failed: Option<io::Error>,
}

impl Write for Checked<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write(bytes).map_err(|error| {
            let kind = error.kind();
            self.failed = Some(error);
            kind.into()
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// One archive being unpacked.
#[derive(Debug)]
pub(super) struct Unpacking<'a, 't> {
    pub(super) target: &'t mut Target<'a>,
    /// `--chown`.
    pub(super) owner: Option<Owner>,
    /// Where to, resolved.
    pub(super) directory: Vec<u8>,
    /// Number of the source, for hard links.
    pub(super) number: usize,
}

impl Unpacking<'_, '_> {
    /// Unpacks; `name` is the archive for messages.
    pub(super) fn run(
        mut self,
        name: &str,
        archive: Opened<'_>,
        spool: &mut Spool,
    ) -> Result<(), Error> {
        let Opened { mut reader, first } = archive;
        let mut next = Some(first);
        let mut inode = 0;
        while let Some(raw) = next {
            if let Some(path) = self.place(&raw)? {
                inode += 1;
                let place = Place {
                    path,
                    kind: kind(name, &raw)?,
                    inode,
                    archive: name,
                };
                self.put(&mut reader, &raw, place, spool)?;
            }
            next = reader
                .next_entry()
                .map_err(|problem| failed(name, problem))?;
        }
        Ok(())
    }

    /// Where an entry goes: below the directory, links of its parents followed as if it were the root.
    fn place(&mut self, raw: &RawEntry) -> Result<Option<Vec<u8>>, Error> {
        let inside = clean(&raw.name);
        if inside.is_empty() {
            return Ok(None);
        }
        let (parents, last) = split(&inside);
        let parent = self.target.resolve_in(&self.directory, parents)?;
        // Parents that the archive does not list are root's, whoever owns the rest.
        self.target.make_directories_of(&parent, 0o755, None)?;
        Ok(Some(join(&parent, last)))
    }

    fn put(
        &mut self,
        reader: &mut TarReader<impl BufRead>,
        raw: &RawEntry,
        place: Place<'_>,
        spool: &mut Spool,
    ) -> Result<(), Error> {
        let Place {
            path,
            kind,
            inode,
            archive,
        } = place;
        let (number, start) = (self.number, spool.size);
        let Owner { uid, gid } = self.owner.unwrap_or(Owner {
            uid: raw.uid,
            gid: raw.gid,
        });
        let kept = |name: &[u8]| {
            name == b"security.capability"
                || name.starts_with(b"user.") && !name.starts_with(b"user.overlay.")
        };
        let mut xattrs: Vec<_> = raw
            .xattrs
            .iter()
            .filter(|(name, _)| kept(name))
            .cloned()
            .collect();
        xattrs.sort();
        let mode = if matches!(kind, Kind::Symlink { .. }) {
            0o777
        } else {
            raw.mode
        };
        let mut change = Change {
            entry: Entry {
                path,
                kind,
                mode,
                uid,
                gid,
                mtime: raw.mtime,
                xattrs,
            },
            data: Data::None,
            link: None,
        };
        match &mut change.entry.kind {
            Kind::File { digest, .. } => {
                *digest = Some(store_content(reader, archive, spool)?);
                change.data = Data::Spool { offset: start };
                change.link = Some(Box::new((number, u64::MAX, inode)));
            }
            Kind::Hardlink { target } => {
                let target = std::mem::take(target);
                return self.hard_link(archive, &change.entry.path, &target);
            }
            Kind::Directory if self.target.found(&change.entry.path)? == Found::Directory => {
                let entry = change.entry;
                return self
                    .target
                    .update(&entry.path.clone(), |known| *known = entry);
            }
            _ => {}
        }
        self.target.put(change)
    }

    /// A hard link to what an earlier entry brought, or to a file that the destination has.
    fn hard_link(&mut self, archive: &str, path: &[u8], target: &[u8]) -> Result<(), Error> {
        let (parents, last) = split(target);
        let found = join(&self.target.resolve_in(&self.directory, parents)?, last);
        let Some(linked) = self.target.linked(&found, path)? else {
            let (path, target) = (show(path), show(target));
            return Err(refuse(format!(
                "{archive}: {path} is a hard link to {target}, which is not there"
            )));
        };
        self.target.put(linked)
    }
}

fn kind(archive: &str, raw: &RawEntry) -> Result<Kind, Error> {
    let (major, minor) = raw.device;
    Ok(match raw.flag {
        0 | b'0' | b'7' => Kind::File {
            size: raw.size,
            digest: None,
        },
        b'1' => Kind::Hardlink {
            target: clean(&raw.link),
        },
        b'2' => Kind::Symlink {
            target: raw.link.clone(),
        },
        b'3' => Kind::Char { major, minor },
        b'4' => Kind::Block { major, minor },
        b'5' => Kind::Directory,
        b'6' => Kind::Fifo,
        flag => {
            let entry = String::from_utf8_lossy(&raw.name);
            return Err(refuse(format!(
                "{archive}: {entry}: unknown tar entry type {:?}",
                char::from(flag)
            )));
        }
    })
}

struct Place<'a> {
    path: Vec<u8>,
    kind: Kind,
    inode: u64,
    archive: &'a str,
}

fn store_content(
    reader: &mut TarReader<impl BufRead>,
    name: &str,
    spool: &mut Spool,
) -> Result<[u8; 32], Error> {
    let mut hasher = blake3::Hasher::new();
    loop {
        let content = reader.content().map_err(|problem| failed(name, problem))?;
        let length = content.len();
        if length == 0 {
            return Ok(*hasher.finalize().as_bytes());
        }
        hasher.update(content);
        if let Err(source) = spool.file()?.write_all(content) {
            return Err(spool.error("write", source));
        }
        spool.size += length as u64;
        reader.consume(length);
    }
}

fn failed(name: &str, problem: Problem) -> Error {
    match problem {
        Problem::Io(error) => damaged(name, &error),
        Problem::Tar(reason) => refuse(format!("{name}: {reason}")),
    }
}

fn damaged(name: &str, error: &io::Error) -> Error {
    refuse(format!("{name}: the archive cannot be read: {error}"))
}
