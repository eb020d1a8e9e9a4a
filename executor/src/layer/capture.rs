//! Turns the upper directory of an overlay (mounted with `userxattr`) into layer entries.
//!
//! The tar is hashed, not kept: the directory itself becomes the layer's tree. Equal tars can be made over different layers, and
//! the first one's tree is the tree of all of them, so that it holds what the tar holds and nothing else: what is left out is removed
//! from it, and its overlay xattrs are: `origin`, `impure` and the like only speak to the mount that made them, opaque directories get
//! the whiteouts that the tar has, and what a container set itself (the kernel stores it as `user.overlay.overlay.*`) is in no layer.
//!
//! What is as the layers below have it is left out, as BuildKit's differ does: a directory that only had visitors, a file
//! that was given the mode or owner that it had. Times of directories do not count, those of files do.
//!
//! A whiteout is recorded only for what the layers below hold, an opaque directory as whiteouts of what they hold in it and
//! the upper lacks. In a namespace with a single id everything belongs to it; see [`super::owners`].

use super::index::io_error;
use super::order::{join, show};
use super::owners::{Found, Owners, OwnersFrom};
use super::writer::{LayerWriter, Written};
use super::xattr::keeps_xattr;
use crate::Error;
use crate::snapshot::{LayerFiles, View};
use crate::tree::{Entry, FileDigest, FileTree as _, Kind};
use rustix::fd::{AsFd as _, BorrowedFd, OwnedFd};
use rustix::fs::{
    self as rfs, AtFlags, FileType, Mode, OFlags, SeekFrom, Stat, Timespec, Timestamps,
};
use rustix::io::Errno;
use sandbox::whiteout;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek as _, Sink};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

/// Request of the task.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct CaptureRequest {
    /// The upper directory.
    pub(crate) upper: PathBuf,
    /// What it lay over, base first.
    pub(crate) below: Vec<LayerFiles>,
    /// Where owners are told.
    pub(crate) owners: OwnersFrom,
    /// Index file to be made.
    pub(crate) index: PathBuf,
    /// Where the upper directory is moved to in the end.
    pub(crate) dest: PathBuf,
}

/// Answer of the task.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Captured {
    /// The layer.
    pub(crate) written: Written,
    /// What was left out and should have been in it.
    pub(crate) notes: Vec<String>,
    /// The upper had something as the layers below have it, which is not in the tree.
    pub(crate) left_out: bool,
}

/// The task.
pub(crate) fn capture(request: CaptureRequest) -> Result<Captured, Error> {
    let CaptureRequest {
        upper,
        below,
        owners,
        index,
        dest,
    } = request;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root =
        rfs::open(&upper, flags, Mode::empty()).map_err(|e| io_error("open", &upper, e.into()))?;
    let mut walk = Walk {
        writer: LayerWriter::new(io::sink()),
        below: View::load(&below)?,
        links: HashMap::new(),
        owners: Owners::open(owners, root.as_fd())?,
        notes: Vec::new(),
        upper: upper.clone(),
        unchanged: Vec::new(),
        touched: false,
        left_out: false,
    };
    walk.root(&root)?;
    let written = walk.writer.finish(&index)?;
    std::fs::rename(&upper, &dest).map_err(|e| io_error("move", &upper, e))?;
    Ok(Captured {
        written,
        notes: walk.notes,
        left_out: walk.left_out,
    })
}

struct Walk {
    writer: LayerWriter<Sink>,
    below: View,
    /// First path of each file with several.
    links: HashMap<(u64, u64), Vec<u8>>,
    owners: Owners,
    notes: Vec<String>,
    upper: PathBuf,
    /// Directories on the way that are written only if something in them is.
    unchanged: Vec<Entry>,
    /// Whether the directory at hand was changed, and with it its time.
    touched: bool,
    /// Something was left out that is below.
    left_out: bool,
}

/// A name in an open directory of the upper.
type Place<'a> = (BorrowedFd<'a>, &'a OsStr);

/// How a directory of the upper stands to the layers below.
#[derive(Clone, Copy)]
struct Over {
    /// They have it as a directory.
    directory: bool,
    /// What they hold in it is hidden.
    hidden: bool,
}

/// The xattrs of a file or directory that matter.
#[derive(Default)]
struct Xattrs {
    kept: Vec<(Vec<u8>, Vec<u8>)>,
    opaque: bool,
    whiteout: bool,
    /// The recorded owner.
    owner: Option<(u32, u32)>,
}

impl Walk {
    fn error(&self, op: &'static str, path: &[u8], errno: Errno) -> Error {
        io_error(op, &self.upper.join(OsStr::from_bytes(path)), errno.into())
    }

    fn write(&mut self, entry: &Entry, content: Option<&mut dyn Read>) -> Result<(), Error> {
        self.write_parents()?;
        self.writer.entry(entry, content)
    }

    fn whiteout(&mut self, path: &[u8]) -> Result<(), Error> {
        self.write_parents()?;
        self.writer.whiteout(path)
    }

    /// What is below at a path is hidden by a whiteout, if there is something.
    fn gone(&mut self, (dir, name): Place<'_>, path: &[u8], over: Over) -> Result<(), Error> {
        if over.directory && self.below.entry(path)?.is_some() {
            return self.whiteout(path);
        }
        self.drop_from_tree((dir, name), path, AtFlags::empty())
    }

    /// Leaves something out of the tree that is not in the tar.
    fn drop_from_tree(
        &mut self,
        (dir, name): Place<'_>,
        path: &[u8],
        flags: AtFlags,
    ) -> Result<(), Error> {
        rfs::unlinkat(dir, name, flags).map_err(|e| self.error("remove", path, e))?;
        self.touched = true;
        Ok(())
    }

    /// Puts a whiteout into the tree.
    fn hide(&mut self, (dir, name): Place<'_>, path: &[u8]) -> Result<(), Error> {
        whiteout::make(dir, name).map_err(|e| self.error("create the whiteout", path, e))?;
        self.touched = true;
        Ok(())
    }

    fn write_parents(&mut self) -> Result<(), Error> {
        for parent in self.unchanged.drain(..) {
            self.writer.entry(&parent, None)?;
        }
        Ok(())
    }

    /// What is below at a path that the upper does not hide.
    fn known(&self, path: &[u8], over: Over) -> Result<Option<Entry>, Error> {
        if over.directory && !over.hidden {
            self.below.entry(path)
        } else {
            Ok(None)
        }
    }

    fn root(&mut self, root: &OwnedFd) -> Result<(), Error> {
        let stat = rfs::fstat(root).map_err(|e| self.error("inspect", b"", e))?;
        let xattrs = self.xattrs(root.as_fd(), b"", true)?;
        let found = Found::open(root.as_fd(), &stat, xattrs.owner);
        let entry = self.described(&found, b"", Kind::Directory, xattrs.kept, true)?;
        let known = self.below.entry(b"")?;
        // The folder was made with usual attributes; only a change that the command made says something.
        let usual = (entry.mode, entry.uid, entry.gid) == (0o755, 0, 0) && entry.xattrs.is_empty();
        let same = known.is_some_and(|known| {
            (known.mode, known.uid, known.gid, known.xattrs)
                == (entry.mode, entry.uid, entry.gid, entry.xattrs.clone())
        });
        if !usual && !same {
            self.writer.entry(&entry, None)?;
        }
        self.directory(
            root,
            b"",
            Over {
                directory: true,
                hidden: xattrs.opaque,
            },
        )
    }

    fn directory(&mut self, dir: &OwnedFd, path: &[u8], over: Over) -> Result<(), Error> {
        // Names here, and, where they are hidden, names below.
        let mut names: BTreeMap<Vec<u8>, Option<FileType>> = BTreeMap::new();
        if over.hidden && over.directory {
            names.extend(self.below.list(path)?.into_iter().map(|name| (name, None)));
        }
        let items = rfs::Dir::read_from(dir).map_err(|e| self.error("list", path, e))?;
        for item in items {
            let item = item.map_err(|e| self.error("list", path, e))?;
            let name = item.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.insert(name.to_vec(), Some(item.file_type()));
            }
        }
        let stat = rfs::fstat(dir).map_err(|e| self.error("inspect", path, e))?;
        let around = std::mem::take(&mut self.touched);
        for (name, kind) in names {
            let path = join(path, &name);
            match kind {
                None => {
                    self.whiteout(&path)?;
                    self.hide((dir.as_fd(), OsStr::from_bytes(&name)), &path)?;
                }
                Some(kind) => self.item(dir.as_fd(), &name, &path, kind, over)?,
            }
        }
        if std::mem::replace(&mut self.touched, around) {
            set_mtime(dir.as_fd(), &stat).map_err(|e| self.error("set the time of", path, e))?;
        }
        Ok(())
    }

    fn item(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &[u8],
        path: &[u8],
        kind: FileType,
        over: Over,
    ) -> Result<(), Error> {
        let os_name = OsStr::from_bytes(name);
        if matches!(kind, FileType::RegularFile | FileType::Directory) {
            return self.opened(dir, os_name, path, kind, over);
        }
        let stat = rfs::statat(dir, os_name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| self.error("inspect", path, e))?;
        let device = (rfs::major(stat.st_rdev), rfs::minor(stat.st_rdev));
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::CharacterDevice if device == (0, 0) => {
                return self.gone((dir, os_name), path, over);
            }
            FileType::CharacterDevice => Kind::Char {
                major: device.0,
                minor: device.1,
            },
            FileType::BlockDevice => Kind::Block {
                major: device.0,
                minor: device.1,
            },
            FileType::Fifo => Kind::Fifo,
            FileType::Symlink => {
                let target = rfs::readlinkat(dir, os_name, Vec::new())
                    .map_err(|e| self.error("read", path, e))?;
                Kind::Symlink {
                    target: target.into_bytes(),
                }
            }
            FileType::Socket => {
                self.notes
                    .push(format!("socket {} is not kept in the layer", show(path)));
                self.drop_from_tree((dir, os_name), path, AtFlags::empty())?;
                if over.directory && self.below.entry(path)?.is_some() {
                    self.whiteout(path)?;
                    self.hide((dir, os_name), path)?;
                }
                return Ok(());
            }
            // The directory listing did not tell.
            kind => return self.opened(dir, os_name, path, kind, over),
        };
        let kind = self.first_or_link(&stat, path, kind);
        let found = Found::named(dir, os_name, &stat);
        let entry = self.described(&found, path, kind, Vec::new(), over.directory)?;
        let known = self.known(path, over)?;
        if is_old(&stat) && known.is_some_and(|known| known == entry) && !self.below.has_links(path)
        {
            self.left_out = true;
            return self.drop_from_tree((dir, os_name), path, AtFlags::empty());
        }
        self.write(&entry, None)
    }

    /// Regular files and directories.
    fn opened(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &OsStr,
        path: &[u8],
        kind: FileType,
        over: Over,
    ) -> Result<(), Error> {
        let is_dir = kind == FileType::Directory;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let flags = if is_dir {
            flags | OFlags::DIRECTORY
        } else {
            flags
        };
        let fd = rfs::openat(dir, name, flags, Mode::empty())
            .map_err(|e| self.error("open", path, e))?;
        let stat = rfs::fstat(&fd).map_err(|e| self.error("inspect", path, e))?;
        let xattrs = self.xattrs(fd.as_fd(), path, is_dir)?;
        let found = Found::open(fd.as_fd(), &stat, xattrs.owner);
        if is_dir {
            let entry =
                self.described(&found, path, Kind::Directory, xattrs.kept, over.directory)?;
            let visible = self.known(path, over)?;
            let waiting = self.unchanged.len();
            if visible.is_some_and(|known| !xattrs.opaque && same_attributes(&known, &entry)) {
                self.unchanged.push(entry);
            } else {
                self.write(&entry, None)?;
            }
            let known = if over.directory {
                self.below.entry(path)?
            } else {
                None
            };
            let directory = known.is_some_and(|known| known.kind == Kind::Directory);
            let over = Over {
                directory,
                hidden: over.hidden || xattrs.opaque,
            };
            self.directory(&fd, path, over)?;
            if self.unchanged.len() > waiting {
                self.unchanged.truncate(waiting);
                self.left_out = true;
                return self.drop_from_tree((dir, name), path, AtFlags::REMOVEDIR);
            }
            return Ok(());
        }
        let size = u64::try_from(stat.st_size).unwrap_or_default();
        if xattrs.whiteout {
            if whiteout::may_be_marked(stat.st_mode, size) {
                return self.gone((dir, name), path, over);
            }
            let removed = rfs::fremovexattr(&fd, whiteout::MARK);
            removed.map_err(|e| self.error("remove an extended attribute of", path, e))?;
        }
        let kind = self.first_or_link(&stat, path, Kind::File { size, digest: None });
        let is_file = matches!(kind, Kind::File { .. });
        let entry = self.described(&found, path, kind, xattrs.kept, over.directory)?;
        if !is_file {
            return self.write(&entry, None);
        }
        let mut file = File::from(fd);
        if is_old(&stat)
            && let Some(known) = self.known(path, over)?
            && same_attributes(&known, &entry)
            && known.mtime == entry.mtime
            && matches!(known.kind, Kind::File { size: before, .. } if before == size)
            && !self.below.has_links(path)
            && self.below.digest(path)? == self.digest(&mut file, path)?
        {
            self.left_out = true;
            return self.drop_from_tree((dir, name), path, AtFlags::empty());
        }
        // Fewer blocks than bytes: there are holes, which need no reading.
        if u64::try_from(stat.st_blocks).unwrap_or_default() * 512 < size {
            return self.write(
                &entry,
                Some(&mut Sparse {
                    file,
                    at: 0,
                    size,
                    data: 0..0,
                }),
            );
        }
        self.write(&entry, Some(&mut file))
    }

    /// Digest of a file, which is at its start again.
    fn digest(&self, file: &mut File, path: &[u8]) -> Result<FileDigest, Error> {
        let failed = |e| io_error("read", &self.upper.join(OsStr::from_bytes(path)), e);
        let mut hasher = blake3::Hasher::new();
        io::copy(file, &mut hasher).map_err(failed)?;
        file.rewind().map_err(failed)?;
        Ok(*hasher.finalize().as_bytes())
    }

    /// The kind itself for the first path of a file, a hard link for its further ones.
    fn first_or_link(&mut self, stat: &Stat, path: &[u8], kind: Kind) -> Kind {
        if stat.st_nlink < 2 {
            return kind;
        }
        match self.links.get(&(stat.st_dev, stat.st_ino)) {
            Some(first) => Kind::Hardlink {
                target: first.clone(),
            },
            None => {
                self.links.insert((stat.st_dev, stat.st_ino), path.to_vec());
                kind
            }
        }
    }

    fn described(
        &self,
        found: &Found<'_>,
        path: &[u8],
        kind: Kind,
        xattrs: Vec<(Vec<u8>, Vec<u8>)>,
        below: bool,
    ) -> Result<Entry, Error> {
        let stat = found.stat;
        let (uid, gid) = self.owners.of(found, path, &kind, (&self.below, below))?;
        Ok(Entry {
            path: path.to_vec(),
            kind,
            mode: stat.st_mode & 0o7777,
            uid,
            gid,
            mtime: stat.st_mtime,
            xattrs,
        })
    }

    /// Reads xattrs; removes those of overlayfs that have no meaning in a lower.
    fn xattrs(&self, fd: BorrowedFd<'_>, path: &[u8], is_dir: bool) -> Result<Xattrs, Error> {
        let mut found = Xattrs::default();
        for name in
            list_xattrs(fd).map_err(|e| self.error("read the extended attributes of", path, e))?
        {
            let os_name = OsStr::from_bytes(&name);
            if !is_dir && name == whiteout::MARK.as_bytes() {
                found.whiteout = true;
            } else if name.starts_with(b"user.overlay.") {
                let opaque = is_dir
                    && name == b"user.overlay.opaque"
                    && read_xattr(fd, os_name).as_deref() == Ok(b"y");
                found.opaque |= opaque;
                let removed = rfs::fremovexattr(fd, os_name);
                removed.map_err(|e| self.error("remove an extended attribute of", path, e))?;
            } else if name == b"trusted.overlay.opaque" {
                // An overlay mounted without `userxattr`.
                found.opaque |= is_dir && read_xattr(fd, os_name).as_deref() == Ok(b"y");
                let removed = rfs::fremovexattr(fd, os_name);
                removed.map_err(|e| self.error("remove an extended attribute of", path, e))?;
            } else if name == sandbox::OWNER_ATTRIBUTE.as_bytes() {
                let value = read_xattr(fd, os_name).unwrap_or_default();
                found.owner = sandbox::parse_owner(&value);
            } else if keeps_xattr(&name) {
                let value = read_xattr(fd, os_name);
                let value =
                    value.map_err(|e| self.error("read the extended attributes of", path, e))?;
                found.kept.push((name, value));
            }
        }
        Ok(found)
    }
}

/// Whether a file with one name can be one that the command did not write. What is written now has a fraction of a second,
/// layers from archives have none, and indexes keep none: without it two writes in one second would look like none.
fn is_old(stat: &Stat) -> bool {
    stat.st_nlink < 2 && stat.st_mtime_nsec == 0
}

/// Sets the time of the last change back.
fn set_mtime(fd: BorrowedFd<'_>, stat: &Stat) -> rustix::io::Result<()> {
    let time = |tv_sec, tv_nsec| Timespec { tv_sec, tv_nsec };
    let times = Timestamps {
        last_access: time(0, rfs::UTIME_OMIT),
        last_modification: time(
            stat.st_mtime,
            i64::try_from(stat.st_mtime_nsec).unwrap_or(0),
        ),
    };
    rfs::futimens(fd, &times)
}

fn same_attributes(one: &Entry, other: &Entry) -> bool {
    let is_dir = |entry: &Entry| entry.kind == Kind::Directory;
    let attributes = |entry: &Entry| (entry.mode, entry.uid, entry.gid);
    attributes(one) == attributes(other)
        && one.xattrs == other.xattrs
        && is_dir(one) == is_dir(other)
}

pub(crate) fn list_xattrs(fd: BorrowedFd<'_>) -> rustix::io::Result<Vec<Vec<u8>>> {
    let mut buffer = [0u8; 1024];
    let mut large;
    let list: &[u8] = match rfs::flistxattr(fd, &mut buffer) {
        Ok(length) => &buffer[..length],
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Err(Errno::RANGE) => {
            // The kernel's bound on the whole list.
            large = vec![0u8; 65536];
            let length = rfs::flistxattr(fd, large.as_mut_slice())?;
            large.truncate(length);
            &large
        }
        Err(error) => return Err(error),
    };
    Ok(list
        .split(|&b| b == 0)
        .filter(|name| !name.is_empty())
        .map(<[u8]>::to_vec)
        .collect())
}

pub(crate) fn read_xattr(fd: BorrowedFd<'_>, name: &OsStr) -> rustix::io::Result<Vec<u8>> {
    let mut buffer = [0u8; 256];
    match rfs::fgetxattr(fd, name, &mut buffer) {
        Ok(length) => Ok(buffer[..length].to_vec()),
        Err(Errno::RANGE) => {
            let mut large = vec![0u8; 65536];
            let length = rfs::fgetxattr(fd, name, large.as_mut_slice())?;
            large.truncate(length);
            Ok(large)
        }
        Err(error) => Err(error),
    }
}

/// Reads a file with holes; zeros come without asking the file system.
struct Sparse {
    file: File,
    at: u64,
    size: u64,
    /// The stretch of data at or after `at`.
    data: std::ops::Range<u64>,
}

impl Sparse {
    /// Finds the next stretch of data.
    fn seek(&mut self) -> io::Result<()> {
        let start = match rfs::seek(&self.file, SeekFrom::Data(self.at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => self.size,
            // Without the means everything is data.
            Err(Errno::INVAL) => self.at,
            Err(error) => return Err(error.into()),
        };
        let end = if start >= self.size {
            self.size
        } else {
            rfs::seek(&self.file, SeekFrom::Hole(start)).unwrap_or(self.size)
        };
        self.data = start..end.max(start);
        Ok(())
    }
}

impl Read for Sparse {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.at >= self.size {
            // Whether it has grown is the writer's question.
            return self.file.read_at(out, self.at);
        }
        if self.at >= self.data.end {
            self.seek()?;
        }
        let room = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX).min(out.len());
        let got = if self.at < self.data.start {
            let zeros = room(self.data.start.min(self.size) - self.at);
            out[..zeros].fill(0);
            zeros
        } else {
            let wanted = room(self.data.end.min(self.size) - self.at);
            self.file.read_at(&mut out[..wanted], self.at)?
        };
        self.at += got as u64;
        Ok(got)
    }
}
