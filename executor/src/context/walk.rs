//! Reading a context folder from disk, always below its descriptor: directory listings, file contents, attributes.
//!
//! Every path is opened from the folder's own descriptor with `openat2` (`RESOLVE_BENEATH`, no symlinks, Linux 5.6), so a
//! directory that is renamed or replaced by a link at any moment cannot lead outside. It knows no ignore rules' text, only
//! what it is told to leave out.

use super::ignore::IgnoreRules;
use super::pattern::ParentMatch;
use crate::Error;
use crate::request::ContextMode;
use crate::tree::{Entry, FileDigest, Kind};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, ResolveFlags, Stat};
use rustix::io::Errno;
use std::ffi::{CStr, OsStr};
use std::fs::File;
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use store::StatKey;

/// Read at once from a file that is hashed.
const READ_BUFFER: usize = 128 * 1024;
/// Bytes of directory records fetched at once.
const DIR_BUFFER: usize = 32 * 1024;

/// One directory as it was when it was read. Many stay until the build ends: a node is as small as it can be.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// Path of the directory.
    pub(super) path: Vec<u8>,
    /// Names of all nodes.
    names: Vec<u8>,
    /// Sorted by name.
    pub(super) nodes: Vec<Node>,
}

/// A node of a listing.
#[derive(Clone, Debug)]
pub(crate) struct Listed {
    listing: Arc<Listing>,
    at: usize,
}

impl Listed {
    pub(super) fn new(listing: &Arc<Listing>, at: usize) -> Self {
        Self {
            listing: listing.clone(),
            at,
        }
    }

    pub(super) fn node(&self) -> &Node {
        &self.listing.nodes[self.at]
    }
}

/// One entry of a directory.
#[derive(Debug)]
pub(crate) struct Node {
    /// Start of its name in the listing's names.
    name_at: u32,
    name_len: u16,
    pub(super) hard_links: bool,
    /// Ignored itself: a directory that is only there for what is re-included below it.
    pub(super) ignored: bool,
    /// `st_mode`, with the type.
    mode: u32,
    pub(super) stamp: Stamp,
    special: Option<Box<Special>>,
    pub(super) details: OnceLock<Details>,
}

/// What few nodes have.
#[derive(Debug)]
enum Special {
    Directory(Directory),
    /// Target of a symbolic link.
    Symlink(Vec<u8>),
    /// Major and minor number.
    Device(u32, u32),
}

/// What directories have.
#[derive(Debug, Default)]
pub(super) struct Directory {
    pub(super) below: ParentMatch,
    /// For ignored directories: whether anything below is not.
    pub(super) holds_visible: OnceLock<bool>,
}

/// Extended attributes by name.
type Xattrs = Box<[(Vec<u8>, Vec<u8>)]>;

/// What takes opening a file.
#[derive(Clone, Debug)]
pub(super) struct Details {
    pub(super) digest: FileDigest,
    pub(super) xattrs: Xattrs,
    /// Read now, and not known from before.
    pub(super) fresh: bool,
}

/// A [`StatKey`] in less room: times as `stat` gives them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Stamp {
    dev: u64,
    ino: u64,
    pub(super) size: u64,
    mtime: i64,
    ctime: i64,
    mtime_ns: u32,
    ctime_ns: u32,
}

impl Stamp {
    #[allow(
        clippy::unnecessary_cast,
        reason = "the types of these fields differ between architectures"
    )]
    fn of(stat: &Stat) -> Self {
        Self {
            dev: stat.st_dev as u64,
            ino: stat.st_ino as u64,
            size: stat.st_size as u64,
            mtime: stat.st_mtime as i64,
            ctime: stat.st_ctime as i64,
            mtime_ns: stat.st_mtime_nsec as u32,
            ctime_ns: stat.st_ctime_nsec as u32,
        }
    }

    /// The key in the stat cache.
    pub(super) fn key(&self) -> StatKey {
        let ns = |seconds, ns| i128::from(seconds) * 1_000_000_000 + i128::from(ns);
        StatKey {
            dev: self.dev,
            ino: self.ino,
            size: self.size,
            mtime_ns: ns(self.mtime, self.mtime_ns),
            ctime_ns: ns(self.ctime, self.ctime_ns),
        }
    }

    /// Device and inode.
    pub(super) fn file(&self) -> (u64, u64) {
        (self.dev, self.ino)
    }
}

impl Node {
    fn file_type(&self) -> u32 {
        self.mode & libc_mode::TYPE
    }

    pub(super) fn is_directory(&self) -> bool {
        self.file_type() == libc_mode::DIRECTORY
    }

    pub(super) fn is_file(&self) -> bool {
        self.file_type() == libc_mode::REGULAR
    }

    pub(super) fn directory(&self) -> Option<&Directory> {
        match self.special.as_deref() {
            Some(Special::Directory(directory)) => Some(directory),
            _ => None,
        }
    }

    fn kind(&self) -> Kind {
        match (self.special.as_deref(), self.file_type()) {
            (Some(Special::Directory(_)), _) => Kind::Directory,
            (Some(Special::Symlink(target)), _) => Kind::Symlink {
                target: target.clone(),
            },
            (Some(&Special::Device(major, minor)), libc_mode::CHARACTER) => {
                Kind::Char { major, minor }
            }
            (Some(&Special::Device(major, minor)), _) => Kind::Block { major, minor },
            (None, libc_mode::FIFO) => Kind::Fifo,
            (None, _) => Kind::File {
                size: self.stamp.size,
                digest: self.details.get().map(|details| details.digest),
            },
        }
    }
}

impl Listing {
    pub(super) fn find(&self, name: &[u8]) -> Option<&Node> {
        self.nodes
            .binary_search_by(|node| self.name(node).cmp(name))
            .ok()
            .map(|at| &self.nodes[at])
    }

    pub(super) fn name(&self, node: &Node) -> &[u8] {
        let start = node.name_at as usize;
        &self.names[start..start + usize::from(node.name_len)]
    }

    pub(super) fn path(&self, node: &Node) -> Vec<u8> {
        join(&self.path, self.name(node))
    }

    /// The entry of a node, with what is known of its content.
    pub(super) fn entry(&self, node: &Node, modes: ContextMode) -> Entry {
        let details = node.details.get().filter(|_| modes.keeps_all());
        let xattrs = details.map(|details| details.xattrs.to_vec());
        Entry {
            path: self.path(node),
            kind: node.kind(),
            mode: modes.mode(node.mode),
            uid: 0,
            gid: 0,
            mtime: modes.time(node.stamp.mtime),
            xattrs: xattrs.unwrap_or_default(),
        }
    }

    /// Adds a node; `None` when names take more room than there is.
    fn push(&mut self, name: &[u8], mut node: Node) -> Option<()> {
        node.name_at = u32::try_from(self.names.len()).ok()?;
        node.name_len = u16::try_from(name.len()).ok()?;
        self.names.extend_from_slice(name);
        self.nodes.push(node);
        Some(())
    }
}

/// Reads a directory: everything but sockets, what the rules hide, and `.` and `..`.
pub(super) fn read_listing(
    root: &Root,
    path: &[u8],
    parent: &ParentMatch,
    rules: &IgnoreRules,
) -> Result<Listing, Error> {
    let dir = root
        .open(path, OFlags::RDONLY | OFlags::DIRECTORY)
        .map_err(|error| root.error("read", path, error))?;
    let mut listing = Listing {
        path: path.to_vec(),
        ..Listing::default()
    };
    let mut buffer = [const { MaybeUninit::uninit() }; DIR_BUFFER];
    let mut records = RawDir::new(dir.as_fd(), &mut buffer);
    while let Some(record) = records.next() {
        let record = record.map_err(|error| root.error("read", path, error))?;
        let name = record.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let full = join(path, name.to_bytes());
        // Only directories need to know what they matched. A file system that does not tell types makes all of them one.
        let may_be_directory =
            matches!(record.file_type(), FileType::Directory | FileType::Unknown);
        let (ignored, below) = if may_be_directory {
            rules.ignored_in(&full, parent)
        } else {
            (rules.ignored_leaf_in(&full, parent), ParentMatch::default())
        };
        if ignored && !(may_be_directory && rules.may_reinclude_below(&full)) {
            continue;
        }
        let Some(mut node) = node(root, dir.as_fd(), name, &full)? else {
            continue;
        };
        if ignored && !node.is_directory() {
            continue;
        }
        if let Some(Special::Directory(directory)) = node.special.as_deref_mut() {
            // A directory that was something else a moment ago.
            directory.below = if may_be_directory {
                below
            } else {
                rules.ignored_in(&full, parent).1
            };
        }
        node.ignored = ignored;
        listing
            .push(name.to_bytes(), node)
            .ok_or_else(|| root.error("read", path, Errno::OVERFLOW))?;
    }
    let Listing { names, nodes, .. } = &mut listing;
    let name = |node: &Node| {
        let start = node.name_at as usize;
        &names[start..start + usize::from(node.name_len)]
    };
    nodes.sort_unstable_by(|a, b| name(a).cmp(name(b)));
    names.shrink_to_fit();
    nodes.shrink_to_fit();
    Ok(listing)
}

/// `None` for sockets and for what vanished meanwhile.
fn node(root: &Root, dir: BorrowedFd<'_>, name: &CStr, path: &[u8]) -> Result<Option<Node>, Error> {
    let stat = match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(root.error("read", path, error)),
    };
    let file_type = stat.st_mode & libc_mode::TYPE;
    let special = match file_type {
        libc_mode::DIRECTORY => Some(Special::Directory(Directory::default())),
        libc_mode::REGULAR | libc_mode::FIFO => None,
        libc_mode::SYMLINK => match rustix::fs::readlinkat(dir, name, Vec::new()) {
            Ok(target) => Some(Special::Symlink(target.into_bytes())),
            Err(Errno::NOENT | Errno::INVAL) => return Ok(None),
            Err(error) => return Err(root.error("read", path, error)),
        },
        libc_mode::CHARACTER | libc_mode::BLOCK => Some(Special::Device(
            rustix::fs::major(stat.st_rdev),
            rustix::fs::minor(stat.st_rdev),
        )),
        _ => return Ok(None),
    };
    Ok(Some(Node {
        name_at: 0,
        name_len: 0,
        hard_links: stat.st_nlink > 1 && file_type == libc_mode::REGULAR,
        ignored: false,
        mode: stat.st_mode,
        stamp: Stamp::of(&stat),
        special: special.map(Box::new),
        details: OnceLock::new(),
    }))
}

/// `st_mode`'s type bits (inode(7)).
pub(crate) mod libc_mode {
    pub(crate) const TYPE: u32 = 0o170_000;
    pub(crate) const SOCKET: u32 = 0o140_000;
    pub(crate) const SYMLINK: u32 = 0o120_000;
    pub(crate) const REGULAR: u32 = 0o100_000;
    pub(crate) const BLOCK: u32 = 0o060_000;
    pub(crate) const DIRECTORY: u32 = 0o040_000;
    pub(crate) const CHARACTER: u32 = 0o020_000;
    pub(crate) const FIFO: u32 = 0o010_000;
}

/// The context folder itself.
#[derive(Debug)]
pub(super) struct Root {
    fd: OwnedFd,
    dir: PathBuf,
    /// How modes are taken.
    pub(super) modes: ContextMode,
}

impl Root {
    pub(super) fn open_folder(dir: &Path) -> Result<Self, Error> {
        rustix::fs::open(
            dir,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map(|fd| Self {
            fd,
            dir: dir.to_path_buf(),
            modes: ContextMode::Exact,
        })
        .map_err(|error| Error::Io {
            op: "open the context",
            path: dir.to_path_buf(),
            source: error.into(),
        })
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn error(
        &self,
        op: &'static str,
        path: &[u8],
        error: impl Into<io::Error>,
    ) -> Error {
        Error::Io {
            op,
            path: self.dir.join(OsStr::from_bytes(path)),
            source: error.into(),
        }
    }

    /// Opens below the folder; no link is followed anywhere on the way.
    pub(super) fn open(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        let path = if path.is_empty() {
            b".".as_slice()
        } else {
            path
        };
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // A file may turn out to be a terminal or a FIFO; `openat2` takes neither flag together with `PATH`.
        let flags = if flags.contains(OFlags::PATH) {
            flags
        } else {
            flags | OFlags::NOCTTY | OFlags::NONBLOCK
        };
        let resolve =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        match rustix::fs::openat2(&self.fd, path, flags, Mode::empty(), resolve) {
            Err(Errno::NOSYS) => self.open_stepwise(path, flags),
            opened => opened,
        }
    }

    /// For kernels and filters without `openat2`: one component at a time.
    fn open_stepwise(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        let step = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut components = path.split(|&byte| byte == b'/').peekable();
        let mut at = self.fd.try_clone().map_err(|_| Errno::MFILE)?;
        while let Some(component) = components.next() {
            let last = components.peek().is_none();
            at = rustix::fs::openat(
                &at,
                component,
                if last { flags } else { step },
                Mode::empty(),
            )?;
        }
        Ok(at)
    }

    /// Opens a regular file that must still be the one that was listed.
    pub(super) fn open_file(&self, path: &[u8], node: &Node) -> Result<File, Error> {
        let fd = self
            .open(path, OFlags::RDONLY)
            .map_err(|error| match error {
                Errno::LOOP | Errno::NOENT | Errno::NOTDIR => self.changed(path),
                error => self.error("read", path, error),
            })?;
        let file = File::from(fd);
        if !unchanged(&file, &node.stamp).map_err(|error| self.error("read", path, error))? {
            return Err(self.changed(path));
        }
        Ok(file)
    }

    pub(super) fn changed(&self, path: &[u8]) -> Error {
        self.error("read", path, changed_error())
    }

    /// Digest and extended attributes. `known` is the digest when only the attributes are wanted.
    pub(super) fn read_details(
        &self,
        path: &[u8],
        node: &Node,
        known: Option<FileDigest>,
        buffer: &mut Vec<u8>,
    ) -> Result<Details, Error> {
        let mut file = self.open_file(path, node)?;
        let xattrs = kept_xattrs(&file)
            .map_err(|error| self.error("read the attributes of", path, error))?;
        if let Some(digest) = known {
            return Ok(Details {
                digest,
                xattrs,
                fresh: false,
            });
        }
        let digest = if node.stamp.size >= super::hash::PARALLEL_FROM {
            super::hash::hash_parallel(&file, node.stamp.size)
        } else {
            hash(&mut file, buffer)
        };
        let digest = digest.map_err(|error| self.error("read", path, error))?;
        if !unchanged(&file, &node.stamp).map_err(|error| self.error("read", path, error))? {
            return Err(self.changed(path));
        }
        Ok(Details {
            digest,
            xattrs,
            fresh: true,
        })
    }
}

fn hash(file: &mut File, buffer: &mut Vec<u8>) -> io::Result<FileDigest> {
    buffer.resize(READ_BUFFER, 0);
    let mut hasher = blake3::Hasher::new();
    loop {
        match file.read(buffer) {
            Ok(0) => return Ok(*hasher.finalize().as_bytes()),
            Ok(got) => {
                hasher.update(&buffer[..got]);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn unchanged(file: &File, stamp: &Stamp) -> io::Result<bool> {
    Ok(Stamp::of(&rustix::fs::fstat(file)?) == *stamp)
}

fn changed_error() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "the file changed while it was being read",
    )
}

/// Attributes that layers keep: `security.capability` and `user.*`.
fn kept_xattrs(file: &File) -> Result<Xattrs, Errno> {
    let mut names = [MaybeUninit::<u8>::uninit(); 4096];
    let names: Vec<u8> = match rustix::fs::flistxattr(file, &mut names) {
        Ok((names, _)) => names.to_vec(),
        Err(Errno::NOTSUP) => return Ok(Xattrs::default()),
        Err(Errno::RANGE) => {
            let mut names = Vec::with_capacity(65536);
            rustix::fs::flistxattr(file, rustix::buffer::spare_capacity(&mut names))?;
            names
        }
        Err(error) => return Err(error),
    };
    let mut kept = Vec::new();
    for name in names.split(|&byte| byte == 0) {
        if name != b"security.capability" && !name.starts_with(b"user.") {
            continue;
        }
        let mut value = Vec::with_capacity(65536);
        match rustix::fs::fgetxattr(file, name, rustix::buffer::spare_capacity(&mut value)) {
            Ok(_) => kept.push((name.to_vec(), value)),
            Err(Errno::NODATA | Errno::PERM | Errno::ACCESS) => {}
            Err(error) => return Err(error),
        }
    }
    kept.sort();
    Ok(kept.into_boxed_slice())
}

/// A file's content; fails at the end when the file changed meanwhile.
#[derive(Debug)]
pub(super) struct Content {
    file: File,
    stamp: Stamp,
}

impl Content {
    pub(super) fn new(file: File, stamp: Stamp) -> Self {
        Self { file, stamp }
    }
}

impl Read for Content {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.file.read(buffer)?;
        if got == 0 && !buffer.is_empty() && !unchanged(&self.file, &self.stamp)? {
            return Err(changed_error());
        }
        Ok(got)
    }
}

pub(super) fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(dir.len() + name.len() + 1);
    if !dir.is_empty() {
        path.extend_from_slice(dir);
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}
