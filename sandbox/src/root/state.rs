//! What a copy of the layers holds, entry by entry, as it was when it was last looked at; and how that is kept in a file
//! beside a copy that stays for the commands that come after.
//!
//! An entry is as it was when inode, birth, ctime, size and mode are: no program can set a ctime.

use super::attributes::{self, Xattrs, stat_of};
use super::copy::open_folder;
use crate::fail::{Failure, Stage};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Dir, FileType, Statx, StatxTimestamp};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// First bytes of a file that a state is kept in.
const MAGIC: &[u8; 8] = b"kilncpy1";

/// A point in time: seconds and nanoseconds.
pub(super) type Time = (i64, u32);

pub(super) fn time(time: StatxTimestamp) -> Time {
    (time.tv_sec, time.tv_nsec)
}

/// What tells whether an entry is what it was.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Seen {
    pub(super) inode: u64,
    born: Time,
    pub(super) changed: Time,
    size: u64,
    mode: u16,
}

impl Seen {
    pub(super) fn of(stat: &Statx) -> Self {
        Self {
            inode: stat.stx_ino,
            born: time(stat.stx_btime),
            changed: time(stat.stx_ctime),
            size: stat.stx_size,
            mode: stat.stx_mode,
        }
    }

    /// Whether it is the same file or folder, whatever has become of it.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let kind = |seen: &Self| FileType::from_raw_mode(seen.mode.into());
        (self.inode, self.born, kind(self)) == (other.inode, other.born, kind(other))
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Folder {
    pub(super) seen: Seen,
    owner: (u32, u32),
    pub(super) modified: Time,
    pub(super) xattrs: Xattrs,
    /// Sorted by name.
    pub(super) entries: Vec<(Box<[u8]>, Node)>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Node {
    Folder(Box<Folder>),
    Other(Seen),
}

impl Folder {
    /// Looks at a folder and at all that is in it.
    pub(super) fn read(folder: &OwnedFd, path: &Path) -> Result<Self, Failure> {
        let stage = || format!("look at the folder /{}", path.display());
        let mut this = Self::default();
        this.look(folder).stage_with(stage)?;
        for name in names(folder).stage_with(stage)? {
            let os_name = OsStr::from_bytes(&name);
            let node = Node::read(folder, os_name, &path.join(os_name))?;
            this.entries.push((name, node));
        }
        Ok(this)
    }

    /// Looks at the folder itself.
    pub(super) fn look(&mut self, folder: &OwnedFd) -> Result<(), Errno> {
        let stat = stat_of(folder)?;
        self.seen = Seen::of(&stat);
        self.owner = (stat.stx_uid, stat.stx_gid);
        self.modified = time(stat.stx_mtime);
        self.xattrs = attributes::xattrs(folder.as_fd())?;
        Ok(())
    }

    /// Whether its attributes are what they were. What was made or removed in it is another question.
    pub(super) fn has_attributes(&self, stat: &Statx, xattrs: &Xattrs) -> bool {
        (self.seen.mode, self.owner) == (stat.stx_mode, (stat.stx_uid, stat.stx_gid))
            && self.xattrs == *xattrs
    }

    pub(super) fn has(&self, name: &[u8]) -> bool {
        self.position(name).is_ok()
    }

    fn position(&self, name: &[u8]) -> Result<usize, usize> {
        self.entries
            .binary_search_by(|(other, _)| (**other).cmp(name))
    }

    /// Puts what is at a path in place of what was known there; `None` when its folder is not known.
    pub(super) fn put(&mut self, path: &Path, node: Option<Node>) -> Option<()> {
        let mut names = path.iter().map(OsStr::as_bytes);
        let mut here = self;
        let last = names.next_back()?;
        for name in names {
            let index = here.position(name).ok()?;
            here = match &mut here.entries[index].1 {
                Node::Folder(folder) => folder,
                Node::Other(_) => return None,
            };
        }
        match (here.position(last), node) {
            (Ok(index), Some(node)) => here.entries[index].1 = node,
            (Ok(index), None) => drop(here.entries.remove(index)),
            (Err(index), Some(node)) => here.entries.insert(index, (Box::from(last), node)),
            (Err(_), None) => {}
        }
        Some(())
    }
}

impl Node {
    pub(super) fn read(folder: &OwnedFd, name: &OsStr, path: &Path) -> Result<Self, Failure> {
        let stat =
            attributes::stat(folder, name).stage_with(|| format!("look at /{}", path.display()))?;
        if !is_folder(&stat) {
            return Ok(Self::Other(Seen::of(&stat)));
        }
        let folder = open_folder(folder, name)
            .stage_with(|| format!("open the folder /{}", path.display()))?;
        Ok(Self::Folder(Box::new(Folder::read(&folder, path)?)))
    }
}

pub(super) fn is_folder(stat: &Statx) -> bool {
    FileType::from_raw_mode(stat.stx_mode.into()) == FileType::Directory
}

/// Names in a folder, sorted.
pub(super) fn names(folder: &OwnedFd) -> Result<Vec<Box<[u8]>>, Errno> {
    let mut names = Vec::new();
    for item in Dir::read_from(folder)? {
        let item = item?;
        let name = item.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(Box::from(name));
        }
    }
    names.sort();
    Ok(names)
}

/// A state and the device nodes of a copy, as bytes of this machine.
pub(super) fn encode(root: &Folder, devices: &[PathBuf]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    put_number(&mut bytes, devices.len() as u64);
    for device in devices {
        put_bytes(&mut bytes, device.as_os_str().as_bytes());
    }
    put_folder(&mut bytes, root);
    bytes
}

/// What [`encode`] made; `None` for anything else.
pub(super) fn decode(bytes: &[u8]) -> Option<(Folder, Vec<PathBuf>)> {
    let mut left = Bytes(bytes.strip_prefix(MAGIC)?);
    let mut devices = Vec::new();
    for _ in 0..left.number()? {
        devices.push(PathBuf::from(OsStr::from_bytes(left.bytes()?)));
    }
    let root = left.folder()?;
    left.0.is_empty().then_some((root, devices))
}

fn put_number(bytes: &mut Vec<u8>, number: u64) {
    bytes.extend(number.to_ne_bytes());
}

fn put_bytes(bytes: &mut Vec<u8>, text: &[u8]) {
    put_number(bytes, text.len() as u64);
    bytes.extend_from_slice(text);
}

fn put_time(bytes: &mut Vec<u8>, (seconds, nanoseconds): Time) {
    bytes.extend(seconds.to_ne_bytes());
    bytes.extend(nanoseconds.to_ne_bytes());
}

fn put_seen(bytes: &mut Vec<u8>, seen: &Seen) {
    put_number(bytes, seen.inode);
    put_time(bytes, seen.born);
    put_time(bytes, seen.changed);
    put_number(bytes, seen.size);
    bytes.extend(seen.mode.to_ne_bytes());
}

fn put_folder(bytes: &mut Vec<u8>, folder: &Folder) {
    put_seen(bytes, &folder.seen);
    bytes.extend(folder.owner.0.to_ne_bytes());
    bytes.extend(folder.owner.1.to_ne_bytes());
    put_time(bytes, folder.modified);
    put_number(bytes, folder.xattrs.len() as u64);
    for (name, value) in &folder.xattrs {
        put_bytes(bytes, name);
        put_bytes(bytes, value);
    }
    put_number(bytes, folder.entries.len() as u64);
    for (name, node) in &folder.entries {
        put_bytes(bytes, name);
        match node {
            Node::Folder(folder) => {
                bytes.push(1);
                put_folder(bytes, folder);
            }
            Node::Other(seen) => {
                bytes.push(0);
                put_seen(bytes, seen);
            }
        }
    }
}

/// What is left to decode.
struct Bytes<'b>(&'b [u8]);

impl<'b> Bytes<'b> {
    fn fixed<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*head)
    }

    fn number(&mut self) -> Option<u64> {
        self.fixed().map(u64::from_ne_bytes)
    }

    fn bytes(&mut self) -> Option<&'b [u8]> {
        let len = usize::try_from(self.number()?).ok()?;
        let (head, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(head)
    }

    fn time(&mut self) -> Option<Time> {
        Some((
            i64::from_ne_bytes(self.fixed()?),
            u32::from_ne_bytes(self.fixed()?),
        ))
    }

    fn seen(&mut self) -> Option<Seen> {
        Some(Seen {
            inode: self.number()?,
            born: self.time()?,
            changed: self.time()?,
            size: self.number()?,
            mode: u16::from_ne_bytes(self.fixed()?),
        })
    }

    fn folder(&mut self) -> Option<Folder> {
        let mut folder = Folder {
            seen: self.seen()?,
            owner: (
                u32::from_ne_bytes(self.fixed()?),
                u32::from_ne_bytes(self.fixed()?),
            ),
            modified: self.time()?,
            ..Folder::default()
        };
        for _ in 0..self.number()? {
            let name = Box::from(self.bytes()?);
            folder.xattrs.push((name, Box::from(self.bytes()?)));
        }
        for _ in 0..self.number()? {
            let name = Box::from(self.bytes()?);
            let node = match self.fixed()? {
                [1] => Node::Folder(Box::new(self.folder()?)),
                [0] => Node::Other(self.seen()?),
                _ => return None,
            };
            folder.entries.push((name, node));
        }
        Some(folder)
    }
}
