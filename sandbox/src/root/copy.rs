//! Makes a merged copy of layers: what an overlay of them would show.
//!
//! Blocks are shared with the layers where the file system can do that, else content is copied in the kernel; holes stay
//! holes. Two names of one file in a layer become two files, unless they are the upper's: an overlay copies a file up by the
//! name that it was changed by, and the other names keep what they had. Device nodes are made where the process may.

use super::attributes::{self, stat_of};
use super::compare::Prepared;
use super::whiteout;
use crate::fail::{Failure, Stage};
use crate::resolve;
use crate::{Overlay, RootKind};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{
    self as rfs, AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, SeekFrom, Statx,
};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// Name of the copy in the work folder.
const MERGED: &str = "merged";
/// Longest path that is opened at once, in bytes: the kernel takes 4095.
const LONGEST: usize = 4000;
/// Files up to this size are copied through memory, which is one call less than asking the kernel.
const SMALL: u64 = 64 << 10;

/// A merged copy.
#[derive(Debug)]
pub(crate) struct Merged {
    pub(super) root: OwnedFd,
    /// The folder that the changes go to, when they are wanted.
    pub(super) upper: Option<OwnedFd>,
    /// The folder that the copy lies in.
    pub(super) work: OwnedFd,
    devices: Vec<PathBuf>,
}

impl Merged {
    /// The root of the copy, open for reading.
    pub(crate) fn root(&self) -> &OwnedFd {
        &self.root
    }

    /// Device nodes in the copy, which open where its file system lets them.
    pub(crate) fn devices(&self) -> &[PathBuf] {
        &self.devices
    }

    /// Remembers everything as it is now. What was changed since the merge belongs to the surroundings (mount points, files
    /// of the runtime): it is in no layer unless the command changes it further.
    pub(crate) fn snapshot(self) -> Result<Prepared, Failure> {
        Prepared::of(self)
    }
}

/// Merges an overlay's layers, and what its upper holds already, in the overlay's work folder. The upper's own folder gives
/// the root its attributes.
pub(crate) fn merge(overlay: &Overlay, kind: RootKind) -> Result<Merged, Failure> {
    let (_, work) = overlay.upper.as_ref().ok_or_else(|| {
        Failure::new("copy layers without a folder to copy them to", Errno::INVAL)
    })?;
    merge_in(overlay, open_layer(work)?, kind)
}

/// [`merge`] in an open work folder, of an overlay with or without an upper.
pub(crate) fn merge_in(
    overlay: &Overlay,
    work: OwnedFd,
    kind: RootKind,
) -> Result<Merged, Failure> {
    let _limit = ManyDescriptors::allow();
    let mut layers = Vec::new();
    if let Some((upper, _)) = &overlay.upper {
        layers.push(open_layer(upper)?);
    }
    for lower in &overlay.lowers {
        layers.push(open_layer(lower)?);
    }
    let root = new_folder(&work)?;
    let mut merger = Merger {
        reflink: kind != RootKind::Copy,
        hard_links: false,
        has_upper: overlay.upper.is_some(),
        layers,
        links: HashMap::new(),
        devices: Vec::new(),
        root: root.as_fd(),
    };
    let all: Vec<usize> = (0..merger.layers.len()).collect();
    merger
        .folder(&all, &PathBuf::new(), &root)
        .map_err(|failure| match failure.errno() {
            Errno::NOSPC | Errno::DQUOT => failure
                .detail("without an overlay every command needs room for a copy of its whole root"),
            _ => failure,
        })?;
    let devices = std::mem::take(&mut merger.devices);
    let upper = overlay
        .upper
        .is_some()
        .then(|| merger.layers.swap_remove(0));
    Ok(Merged {
        root,
        upper,
        work,
        devices,
    })
}

/// Joins the lowest layers of an overlay into one folder, to be read only: files are the layers' own by further names where
/// the file system allows it. Two names of a file stay one file.
pub(crate) fn join(layers: &[&Path], work: &OwnedFd) -> Result<OwnedFd, Failure> {
    let _limit = ManyDescriptors::allow();
    let opened: Result<Vec<OwnedFd>, Failure> =
        layers.iter().map(|path| open_layer(path)).collect();
    let work = open_folder(work, OsStr::new(".")).stage("open the folder for joined layers")?;
    let root = new_folder(&work)?;
    let mut merger = Merger {
        reflink: true,
        hard_links: true,
        has_upper: false,
        layers: opened?,
        links: HashMap::new(),
        devices: Vec::new(),
        root: root.as_fd(),
    };
    let all: Vec<usize> = (0..layers.len()).collect();
    merger.folder(&all, &PathBuf::new(), &root)?;
    Ok(root)
}

/// As many open descriptors as this process may have, until it is dropped: a command gets the usual limit.
pub(super) struct ManyDescriptors(Option<Rlimit>);

impl ManyDescriptors {
    pub(super) fn allow() -> Self {
        let usual = getrlimit(Resource::Nofile);
        let most = Rlimit {
            current: usual.maximum,
            maximum: usual.maximum,
        };
        Self(setrlimit(Resource::Nofile, most).is_ok().then_some(usual))
    }
}

impl Drop for ManyDescriptors {
    fn drop(&mut self) {
        if let Some(usual) = self.0.take() {
            // It was the limit a moment ago.
            let _ = setrlimit(Resource::Nofile, usual);
        }
    }
}

pub(super) fn open_layer(path: &Path) -> Result<OwnedFd, Failure> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rfs::open(path, flags, Mode::empty())
        .stage_with(|| format!("open the layer {}", path.display()))
}

/// A new folder for a copy. The work folder may have been used before.
fn new_folder(work: &OwnedFd) -> Result<OwnedFd, Failure> {
    let stage = "create a folder for the copy of the layers";
    for number in 0.. {
        let name = OsString::from(format!("{MERGED}{number}"));
        match resolve::make_folder(work, &name, None) {
            Ok(_) => return open_folder(work, &name).stage(stage),
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(Failure::new(stage, errno)),
        }
    }
    unreachable!("BUG: there is always a free number")
}

pub(super) fn open_folder(parent: impl AsFd, name: &OsStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rfs::openat(parent, name, flags, Mode::empty())
}

/// Opens a folder below a root, following no link, however long its path is.
fn open_below(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let open = |from: BorrowedFd<'_>, path: &OsStr| loop {
        match rfs::openat2(from, path, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            result => return result,
        }
    };
    let mut bytes = path.as_os_str().as_bytes();
    let mut here = None;
    while bytes.len() > LONGEST {
        let end = bytes[..LONGEST].iter().rposition(|&byte| byte == b'/');
        let end = end.ok_or(Errno::NAMETOOLONG)?;
        let from = here.as_ref().map_or(root, OwnedFd::as_fd);
        here = Some(open(from, OsStr::from_bytes(&bytes[..end]))?);
        bytes = &bytes[end + 1..];
    }
    let from = here.as_ref().map_or(root, OwnedFd::as_fd);
    let rest = if bytes.is_empty() { b"." } else { bytes };
    open(from, OsStr::from_bytes(rest))
}

/// What is known of a name while the layers are looked through, topmost first.
struct Found {
    /// Layers that have it as a folder, topmost first; empty for anything else.
    folders: Vec<usize>,
    /// Lower layers add nothing.
    closed: bool,
}

struct Merger<'a> {
    reflink: bool,
    /// Files are linked, not copied.
    hard_links: bool,
    /// The first layer is the upper.
    has_upper: bool,
    /// Topmost first.
    layers: Vec<OwnedFd>,
    /// Files of the upper with several names, by their first name in the copy.
    links: HashMap<(u32, u32, u64), PathBuf>,
    devices: Vec<PathBuf>,
    root: BorrowedFd<'a>,
}

impl Merger<'_> {
    /// Fills a folder of the copy from the layers that have it.
    fn folder(&mut self, from: &[usize], path: &Path, to: &OwnedFd) -> Result<(), Failure> {
        let stage = || format!("copy the folder /{}", path.display());
        let mut found = BTreeMap::new();
        let mut topmost = None;
        for &layer in from {
            let folder = open_below(self.layers[layer].as_fd(), path).stage_with(stage)?;
            if topmost.is_none() {
                let stat = stat_of(&folder).stage_with(stage)?;
                topmost = Some((stat, attributes::xattrs(folder.as_fd()).stage_with(stage)?));
            }
            self.entries(layer, &folder, path, to, &mut found)?;
            if attributes::is_opaque(folder.as_fd()).stage_with(stage)? {
                break;
            }
        }
        for (name, Found { folders, .. }) in found {
            if folders.is_empty() {
                continue;
            }
            let name = OsString::from_vec(name);
            let path = path.join(&name);
            rfs::mkdirat(to, &name, Mode::RWXU)
                .and_then(|()| open_folder(to, &name))
                .stage_with(|| format!("create the folder /{}", path.display()))
                .and_then(|folder| self.folder(&folders, &path, &folder))?;
        }
        match topmost {
            Some((stat, xattrs)) => attributes::apply(to.as_fd(), &stat, &xattrs)
                .stage_with(|| format!("set the attributes of the folder /{}", path.display())),
            None => Ok(()),
        }
    }

    /// Looks at what one layer has in a folder: copies what no higher one has, and notes folders.
    fn entries(
        &mut self,
        layer: usize,
        folder: &OwnedFd,
        path: &Path,
        to: &OwnedFd,
        found: &mut BTreeMap<Vec<u8>, Found>,
    ) -> Result<(), Failure> {
        let stage = || format!("list the folder /{}", path.display());
        for item in Dir::read_from(folder).stage_with(stage)? {
            let item = item.stage_with(stage)?;
            let name = item.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let known = found.get_mut(name);
            if known.as_ref().is_some_and(|known| known.closed) {
                continue;
            }
            let os_name = OsStr::from_bytes(name);
            let stage = || format!("copy /{}", path.join(os_name).display());
            let stat = attributes::stat(folder, os_name).stage_with(stage)?;
            let is_folder = FileType::from_raw_mode(stat.stx_mode.into()) == FileType::Directory;
            match known {
                Some(known) if is_folder => known.folders.push(layer),
                // A file or a whiteout under a folder ends it.
                Some(known) => known.closed = true,
                None => {
                    let folders = if is_folder { vec![layer] } else { Vec::new() };
                    let new = Found {
                        folders,
                        closed: !is_folder,
                    };
                    found.insert(name.to_vec(), new);
                    if !is_folder {
                        self.entry(
                            self.has_upper && layer == 0,
                            folder,
                            os_name,
                            &stat,
                            path,
                            to,
                        )
                        .stage_with(stage)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Copies what is not a folder.
    #[allow(clippy::too_many_arguments)]
    fn entry(
        &mut self,
        of_upper: bool,
        from: &OwnedFd,
        name: &OsStr,
        stat: &Statx,
        folder: &Path,
        to: &OwnedFd,
    ) -> Result<(), Errno> {
        if whiteout::is(from, name, stat)? {
            return Ok(());
        }
        if self.hard_links {
            match rfs::linkat(from, name, to, name, AtFlags::empty()) {
                // Another file system, or too many links: this one is copied.
                Err(Errno::XDEV | Errno::MLINK | Errno::PERM) => {}
                result => return result,
            }
        }
        if of_upper && stat.stx_nlink > 1 {
            let key = (stat.stx_dev_major, stat.stx_dev_minor, stat.stx_ino);
            if let Some(first) = self.links.get(&key) {
                let parent = first.parent().unwrap_or(Path::new(""));
                let parent = open_below(self.root, parent)?;
                let first = first.file_name().ok_or(Errno::INVAL)?;
                return rfs::linkat(&parent, first, to, name, AtFlags::empty());
            }
            self.links.insert(key, folder.join(name));
        }
        let mode = Mode::from_raw_mode(u32::from(stat.stx_mode) & 0o7777);
        match FileType::from_raw_mode(stat.stx_mode.into()) {
            FileType::RegularFile => return self.file(from, name, stat, to),
            FileType::Symlink => {
                let target = rfs::readlinkat(from, name, Vec::new())?;
                rfs::symlinkat(target, to, name)?;
            }
            kind @ (FileType::Fifo | FileType::Socket) => rfs::mknodat(to, name, kind, mode, 0)?,
            kind @ (FileType::CharacterDevice | FileType::BlockDevice) => {
                let device = rfs::makedev(stat.stx_rdev_major, stat.stx_rdev_minor);
                match rfs::mknodat(to, name, kind, mode, device) {
                    // Nobody may in a user namespace, and it could not be opened in a command's root anyway.
                    Err(Errno::PERM) => return Ok(()),
                    result => result?,
                }
                self.devices.push(folder.join(name));
            }
            FileType::Directory | FileType::Unknown => return Err(Errno::INVAL),
        }
        attributes::apply_at(to, name, stat)
    }

    fn file(
        &mut self,
        from: &OwnedFd,
        name: &OsStr,
        stat: &Statx,
        to: &OwnedFd,
    ) -> Result<(), Errno> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let source = rfs::openat(from, name, flags, Mode::empty())?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let copy = rfs::openat(to, name, flags, Mode::RUSR | Mode::WUSR)?;
        if stat.stx_size > 0 {
            self.content(&source, &copy, stat)?;
        }
        let xattrs = attributes::xattrs(source.as_fd())?;
        attributes::apply(copy.as_fd(), stat, &xattrs)
    }

    fn content(&mut self, from: &OwnedFd, to: &OwnedFd, stat: &Statx) -> Result<(), Errno> {
        if self.reflink {
            match rfs::ioctl_ficlone(to, from) {
                Ok(()) => return Ok(()),
                Err(Errno::OPNOTSUPP | Errno::NOTTY | Errno::NOSYS) => self.reflink = false,
                // Another file system, or one that is set up otherwise.
                Err(Errno::XDEV | Errno::INVAL | Errno::PERM) => {}
                Err(errno) => return Err(errno),
            }
        }
        let size = stat.stx_size;
        if stat.stx_blocks * 512 >= size {
            return copy_range(from, to, 0, size);
        }
        rfs::ftruncate(to, size)?;
        let mut at = 0;
        while at < size {
            let start = match rfs::seek(from, SeekFrom::Data(at)) {
                Ok(start) => start,
                Err(Errno::NXIO) => break,
                // Without the means everything is data.
                Err(Errno::INVAL) => at,
                Err(errno) => return Err(errno),
            };
            let end = rfs::seek(from, SeekFrom::Hole(start)).unwrap_or(size);
            copy_range(from, to, start, end)?;
            at = end.max(start + 1);
        }
        Ok(())
    }
}

/// Copies a file's content, without its holes.
pub(super) fn content_of(from: &OwnedFd, to: &OwnedFd, stat: &Statx) -> Result<(), Errno> {
    match rfs::ioctl_ficlone(to, from) {
        Ok(()) => Ok(()),
        Err(_) => copy_range(from, to, 0, stat.stx_size),
    }
}

/// Copies a stretch of a file to the same place of another.
fn copy_range(from: &OwnedFd, to: &OwnedFd, start: u64, end: u64) -> Result<(), Errno> {
    let (mut at, mut out) = (start, start);
    while end - start > SMALL && at < end {
        let len = usize::try_from(end - at).unwrap_or(usize::MAX).min(1 << 30);
        match rfs::copy_file_range(from, Some(&mut at), to, Some(&mut out), len) {
            // It became shorter, which files of a store do not, or the file system says so for what it cannot do.
            Ok(0) => break,
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::NOSYS | Errno::INVAL | Errno::OPNOTSUPP | Errno::PERM) => {
                break;
            }
            Err(errno) => return Err(errno),
        }
    }
    let mut buffer = vec![
        0;
        usize::try_from(end - at)
            .unwrap_or(usize::MAX)
            .min(256 << 10)
    ];
    while at < end {
        let len = buffer
            .len()
            .min(usize::try_from(end - at).unwrap_or(usize::MAX));
        let read = rustix::io::retry_on_intr(|| rustix::io::pread(from, &mut buffer[..len], at))?;
        if read == 0 {
            break;
        }
        let mut done = 0;
        while done < read {
            let place = at + done as u64;
            done +=
                rustix::io::retry_on_intr(|| rustix::io::pwrite(to, &buffer[done..read], place))?;
        }
        at += read as u64;
    }
    Ok(())
}
