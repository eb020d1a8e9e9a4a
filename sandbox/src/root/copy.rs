//! Makes a merged copy of layers: what an overlay of them would show.
//!
//! Blocks are shared with the layers where the file system can do that, else content is copied in the kernel; holes stay
//! holes. Two names of one file in a layer become two files, unless they are the upper's: an overlay copies a file up by the
//! name that it was changed by, and the other names keep what they had. Device nodes are made where the process may.

use super::attributes::{self, stat_of};
use super::compare::{Prepared, remove};
use super::content;
use super::state::{Folder, Node, Seen, is_folder};
use super::whiteout;
use crate::fail::{Failure, Stage};
use crate::resolve;
use crate::{Overlay, RootKind};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{self as rfs, AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Statx};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Name of the copy in the work folder.
const MERGED: &str = "merged";
/// Longest path that is opened at once, in bytes: the kernel takes 4095.
const LONGEST: usize = 4000;

/// A merged copy.
#[derive(Debug)]
pub(crate) struct Merged {
    pub(super) root: OwnedFd,
    /// The folder that the changes go to, when they are wanted.
    pub(super) upper: Option<OwnedFd>,
    /// A folder of ours on the same file system.
    pub(super) work: OwnedFd,
    pub(super) devices: Vec<PathBuf>,
    /// What the copy holds, where that is known.
    pub(super) known: Option<Folder>,
    /// What was made in the copy for the time of the command.
    pub(super) stubs: Vec<PathBuf>,
    /// The folder in which the copy stays for the commands that come after.
    pub(super) stays: Option<OwnedFd>,
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

    /// Takes note of something that was made at a path, which no link is on, for the time of the command: a mount point.
    pub(crate) fn note_stub(&mut self, path: PathBuf) -> Result<(), Failure> {
        if let Some(known) = &mut self.known {
            let stage = || format!("look at the mount point /{}", path.display());
            let above = path.parent().unwrap_or(Path::new(""));
            let folder = open_below(self.root.as_fd(), above).stage_with(stage)?;
            let node = Node::read(&folder, path.file_name().unwrap_or_default(), &path)?;
            known
                .put(&path, Some(node))
                .ok_or_else(|| Failure::new(stage(), Errno::NOENT))?;
        }
        self.stubs.push(path);
        Ok(())
    }

    /// Remembers everything as it is now. What was changed since the merge belongs to the surroundings (mount points, files
    /// of the runtime): it is in no layer unless the command changes it further.
    pub(crate) fn snapshot(self) -> Result<Prepared, Failure> {
        Prepared::of(self)
    }
}

/// Merges an overlay's layers, and what its upper holds already, in the overlay's work folder. The upper's own folder gives
/// the root its attributes.
#[cfg(test)]
pub(crate) fn merge(overlay: &Overlay, kind: RootKind) -> Result<Merged, Failure> {
    merge_in(overlay, open_work(overlay)?, kind)
}

/// The work folder of an overlay with an upper.
#[cfg(test)]
pub(super) fn open_work(overlay: &Overlay) -> Result<OwnedFd, Failure> {
    let (_, work) = overlay.upper.as_ref().ok_or_else(|| {
        Failure::new("copy layers without a folder to copy them to", Errno::INVAL)
    })?;
    open_layer(work)
}

/// Merges layers in an open work folder, of an overlay with or without an upper.
pub(crate) fn merge_in(
    overlay: &Overlay,
    work: OwnedFd,
    kind: RootKind,
) -> Result<Merged, Failure> {
    let root = new_folder(&work)?;
    let has_upper = overlay.upper.is_some();
    let known = has_upper.then(Folder::default);
    let upper = overlay.upper.as_ref().map(|(upper, _)| upper.as_path());
    let lowers = overlay.lowers.iter().map(PathBuf::as_path);
    let merged = Merged {
        root,
        upper: None,
        work,
        devices: Vec::new(),
        known,
        stubs: Vec::new(),
        stays: None,
    };
    merge_onto(merged, upper, lowers, kind)
}

/// Brings a copy to what layers that lie upon it, topmost first, and an upper make of it.
pub(super) fn merge_onto<'p>(
    mut merged: Merged,
    upper: Option<&Path>,
    layers: impl Iterator<Item = &'p Path>,
    kind: RootKind,
) -> Result<Merged, Failure> {
    let _limit = ManyDescriptors::allow();
    let mut opened = Vec::new();
    if let Some(upper) = upper {
        opened.push(open_layer(upper)?);
    }
    for layer in layers {
        opened.push(open_layer(layer)?);
    }
    let mut merger = Merger {
        reflink: kind != RootKind::Copy,
        hard_links: false,
        has_upper: upper.is_some(),
        notes: merged.known.is_some(),
        layers: opened,
        links: HashMap::new(),
        devices: std::mem::take(&mut merged.devices),
        root: merged.root.as_fd(),
    };
    let mut known = merged.known.take().unwrap_or_default();
    merger
        .all(&mut known)
        .map_err(|failure| match failure.errno() {
            Errno::NOSPC | Errno::DQUOT => failure
                .detail("without an overlay every command needs room for a copy of its whole root"),
            _ => failure,
        })?;
    merged.devices = std::mem::take(&mut merger.devices);
    // The first name of a file that got more was looked at before it had them.
    if merger.notes && merger.links.is_empty() {
        merged.known = Some(known);
    }
    if merger.has_upper {
        merged.upper = Some(merger.layers.swap_remove(0));
    }
    Ok(merged)
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
        notes: false,
        layers: opened?,
        links: HashMap::new(),
        devices: Vec::new(),
        root: root.as_fd(),
    };
    merger.all(&mut Folder::default())?;
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
pub(super) fn open_below(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Errno> {
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
    /// What was made of it, when it is not a folder.
    made: Option<Seen>,
}

/// A folder of the copy that is being brought to what the layers make of it.
#[derive(Clone, Copy)]
struct Here<'h> {
    path: &'h Path,
    to: &'h OwnedFd,
}

struct Merger<'a> {
    reflink: bool,
    /// Files are linked, not copied.
    hard_links: bool,
    /// The first layer is the upper.
    has_upper: bool,
    /// What is made is taken note of.
    notes: bool,
    /// Topmost first.
    layers: Vec<OwnedFd>,
    /// Files of the upper with several names, by their first name in the copy.
    links: HashMap<(u32, u32, u64), PathBuf>,
    devices: Vec<PathBuf>,
    root: BorrowedFd<'a>,
}

impl Merger<'_> {
    /// Fills the copy, in which there is what is known.
    fn all(&mut self, known: &mut Folder) -> Result<(), Failure> {
        let all: Vec<usize> = (0..self.layers.len()).collect();
        let root = open_folder(self.root, OsStr::new(".")).stage("open the copy of the layers")?;
        let here = Here {
            path: Path::new(""),
            to: &root,
        };
        self.folder(&all, here, known, false)
    }

    /// Brings a folder of the copy to what the layers that have it make of it. What is known is in it already, under all of
    /// them, and hidden or not.
    fn folder(
        &mut self,
        from: &[usize],
        here: Here<'_>,
        known: &mut Folder,
        mut hidden: bool,
    ) -> Result<(), Failure> {
        let Here { path, to } = here;
        let stage = || format!("copy the folder /{}", path.display());
        let mut found = BTreeMap::new();
        let mut topmost = None;
        for &layer in from {
            let folder = open_below(self.layers[layer].as_fd(), path).stage_with(stage)?;
            if topmost.is_none() {
                let stat = stat_of(&folder).stage_with(stage)?;
                topmost = Some((stat, attributes::xattrs(folder.as_fd()).stage_with(stage)?));
            }
            self.entries(layer, &folder, here, known, &mut found)?;
            if attributes::is_opaque(folder.as_fd()).stage_with(stage)? {
                hidden = true;
                break;
            }
        }
        let mut entries = Vec::with_capacity(known.entries.len() + found.len());
        let mut old = std::mem::take(&mut known.entries).into_iter().peekable();
        let mut stay = |name: Box<[u8]>, node| {
            if hidden {
                return remove(to.as_fd(), OsStr::from_bytes(&name)).stage_with(stage);
            }
            entries.push((name, node));
            Ok(())
        };
        let mut new = Vec::new();
        for (name, found) in found {
            while let Some((name, node)) = old.next_if(|(other, _)| **other < *name) {
                stay(name, node)?;
            }
            let before = old
                .next_if(|(other, _)| **other == *name)
                .map(|(_, node)| node);
            let node = if found.folders.is_empty() {
                found.made.map(Node::Other)
            } else {
                let hidden = hidden || found.closed;
                let inner = self.inner(
                    &found.folders,
                    OsStr::from_bytes(&name),
                    here,
                    before,
                    hidden,
                )?;
                self.notes.then_some(Node::Folder(inner))
            };
            new.extend(node.map(|node| (name.into_boxed_slice(), node)));
        }
        for (name, node) in old {
            stay(name, node)?;
        }
        entries.extend(new);
        entries.sort_by(|(one, _), (other, _)| one.cmp(other));
        known.entries = entries;
        if let Some((stat, xattrs)) = topmost {
            if !known.xattrs.is_empty() {
                attributes::drop_others(to.as_fd(), &xattrs).stage_with(stage)?;
            }
            attributes::apply(to.as_fd(), &stat, &xattrs)
                .stage_with(|| format!("set the attributes of the folder /{}", path.display()))?;
        }
        if self.notes {
            known.look(to).stage_with(stage)?;
        }
        Ok(())
    }

    /// A folder in a folder of the copy, where there may be something before.
    fn inner(
        &mut self,
        from: &[usize],
        name: &OsStr,
        here: Here<'_>,
        before: Option<Node>,
        hidden: bool,
    ) -> Result<Box<Folder>, Failure> {
        let path = here.path.join(name);
        let stage = || format!("create the folder /{}", path.display());
        let mut known = match before {
            Some(Node::Folder(folder)) => folder,
            other => {
                if other.is_some() {
                    remove(here.to.as_fd(), name).stage_with(stage)?;
                }
                rfs::mkdirat(here.to, name, Mode::RWXU).stage_with(stage)?;
                Box::default()
            }
        };
        let folder = open_folder(here.to, name).stage_with(stage)?;
        let here = Here {
            path: &path,
            to: &folder,
        };
        self.folder(from, here, &mut known, hidden)?;
        Ok(known)
    }

    /// Looks at what one layer has in a folder: copies what no higher one has, and notes folders.
    fn entries(
        &mut self,
        layer: usize,
        folder: &OwnedFd,
        here: Here<'_>,
        before: &Folder,
        found: &mut BTreeMap<Vec<u8>, Found>,
    ) -> Result<(), Failure> {
        let stage = || format!("list the folder /{}", here.path.display());
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
            let stage = || format!("copy /{}", here.path.join(os_name).display());
            let stat = attributes::stat(folder, os_name).stage_with(stage)?;
            let is_folder = is_folder(&stat);
            match known {
                Some(known) if is_folder => known.folders.push(layer),
                // A file or a whiteout under a folder ends it.
                Some(known) => known.closed = true,
                None => {
                    let mut new = Found {
                        folders: if is_folder { vec![layer] } else { Vec::new() },
                        closed: !is_folder,
                        made: None,
                    };
                    if !is_folder {
                        if before.has(name) {
                            remove(here.to.as_fd(), os_name).stage_with(stage)?;
                        }
                        let made = self
                            .entry(layer, folder, os_name, &stat, here)
                            .stage_with(stage)?;
                        if made && self.notes {
                            let stat = attributes::stat(here.to, os_name).stage_with(stage)?;
                            new.made = Some(Seen::of(&stat));
                        }
                    }
                    found.insert(name.to_vec(), new);
                }
            }
        }
        Ok(())
    }

    /// Copies what is not a folder; false when there is nothing of it in the copy.
    fn entry(
        &mut self,
        layer: usize,
        from: &OwnedFd,
        name: &OsStr,
        stat: &Statx,
        here: Here<'_>,
    ) -> Result<bool, Errno> {
        let Here { path: folder, to } = here;
        if whiteout::is(from, name, stat)? {
            return Ok(false);
        }
        if self.hard_links {
            match rfs::linkat(from, name, to, name, AtFlags::empty()) {
                // Another file system, or too many links: this one is copied.
                Err(Errno::XDEV | Errno::MLINK | Errno::PERM) => {}
                result => return result.map(|()| true),
            }
        }
        if self.has_upper && layer == 0 && stat.stx_nlink > 1 {
            let key = (stat.stx_dev_major, stat.stx_dev_minor, stat.stx_ino);
            if let Some(first) = self.links.get(&key) {
                let parent = first.parent().unwrap_or(Path::new(""));
                let parent = open_below(self.root, parent)?;
                let first = first.file_name().ok_or(Errno::INVAL)?;
                return rfs::linkat(&parent, first, to, name, AtFlags::empty()).map(|()| true);
            }
            self.links.insert(key, folder.join(name));
        }
        let mode = Mode::from_raw_mode(u32::from(stat.stx_mode) & 0o7777);
        match FileType::from_raw_mode(stat.stx_mode.into()) {
            FileType::RegularFile => return self.file(from, name, stat, to).map(|()| true),
            FileType::Symlink => {
                let target = rfs::readlinkat(from, name, Vec::new())?;
                rfs::symlinkat(target, to, name)?;
            }
            kind @ (FileType::Fifo | FileType::Socket) => rfs::mknodat(to, name, kind, mode, 0)?,
            kind @ (FileType::CharacterDevice | FileType::BlockDevice) => {
                let device = rfs::makedev(stat.stx_rdev_major, stat.stx_rdev_minor);
                match rfs::mknodat(to, name, kind, mode, device) {
                    // Nobody may in a user namespace, and it could not be opened in a command's root anyway.
                    Err(Errno::PERM) => return Ok(false),
                    result => result?,
                }
                self.devices.push(folder.join(name));
            }
            FileType::Directory | FileType::Unknown => return Err(Errno::INVAL),
        }
        attributes::apply_at(to, name, stat)?;
        Ok(true)
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
            content::copy(&source, &copy, stat, &mut self.reflink)?;
        }
        let xattrs = attributes::xattrs(source.as_fd())?;
        attributes::apply(copy.as_fd(), stat, &xattrs)
    }
}
