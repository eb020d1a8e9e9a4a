//! Finds what changed in a copy, and moves it into the upper folder in overlay form.
//!
//! An entry is as it was when inode, birth, ctime, size and mode are: no program can set a ctime. What an overlay would have
//! copied up is moved by rename, so that its content is not touched again; what is gone becomes a whiteout; a folder that
//! took the place of another is opaque, as an overlay has it. Folders on the way get the attributes that they have in the copy.

use super::attributes::{self, OPAQUE, Xattrs, stat_of};
use super::copy::{Merged, open_folder};
use super::whiteout;
use crate::fail::{Failure, Stage};
use crate::resolve;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{self as rfs, AtFlags, Dir, FileType, Mode, Statx, StatxTimestamp, XattrFlags};
use rustix::io::Errno;
use std::cell::OnceCell;
use std::cmp::Ordering;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A merged copy as it was before the command.
#[derive(Debug)]
pub(crate) struct Prepared {
    merged: Merged,
    before: Folder,
}

/// What tells whether an entry is what it was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Seen {
    inode: u64,
    born: (i64, u32),
    changed: (i64, u32),
    size: u64,
    mode: u16,
}

impl Seen {
    fn of(stat: &Statx) -> Self {
        let time = |time: StatxTimestamp| (time.tv_sec, time.tv_nsec);
        Self {
            inode: stat.stx_ino,
            born: time(stat.stx_btime),
            changed: time(stat.stx_ctime),
            size: stat.stx_size,
            mode: stat.stx_mode,
        }
    }

    /// Whether it is the same file or folder, whatever has become of it.
    fn is_same(&self, other: &Self) -> bool {
        let kind = |seen: &Self| FileType::from_raw_mode(seen.mode.into());
        (self.inode, self.born, kind(self)) == (other.inode, other.born, kind(other))
    }
}

#[derive(Debug)]
struct Folder {
    seen: Seen,
    owner: (u32, u32),
    xattrs: Xattrs,
    /// Sorted by name.
    entries: Vec<(Box<[u8]>, Node)>,
}

#[derive(Debug)]
enum Node {
    Folder(Box<Folder>),
    Other(Seen),
}

impl Folder {
    fn read(folder: &OwnedFd, path: &Path) -> Result<Self, Failure> {
        let stage = || format!("look at the folder /{}", path.display());
        let stat = stat_of(folder).stage_with(stage)?;
        let mut this = Self {
            seen: Seen::of(&stat),
            owner: (stat.stx_uid, stat.stx_gid),
            xattrs: attributes::xattrs(folder.as_fd()).stage_with(stage)?,
            entries: Vec::new(),
        };
        for name in names(folder).stage_with(stage)? {
            let os_name = OsStr::from_bytes(&name);
            let stat = attributes::stat(folder, os_name).stage_with(stage)?;
            let node = if is_folder(&stat) {
                let path = path.join(os_name);
                let folder = open_folder(folder, os_name)
                    .stage_with(|| format!("open the folder /{}", path.display()))?;
                Node::Folder(Box::new(Self::read(&folder, &path)?))
            } else {
                Node::Other(Seen::of(&stat))
            };
            this.entries.push((name, node));
        }
        Ok(this)
    }

    /// Whether its attributes are what they were. What was made or removed in it is another question.
    fn has_attributes(&self, stat: &Statx, xattrs: &Xattrs) -> bool {
        (self.seen.mode, self.owner) == (stat.stx_mode, (stat.stx_uid, stat.stx_gid))
            && self.xattrs == *xattrs
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

impl Prepared {
    pub(super) fn of(merged: Merged) -> Result<Self, Failure> {
        let before = Folder::read(&merged.root, Path::new(""))?;
        wait_for_clock(&merged.work).stage("wait for the file system's clock")?;
        Ok(Self { merged, before })
    }

    /// The root of the copy, open for reading.
    pub(crate) fn root(&self) -> &OwnedFd {
        self.merged.root()
    }

    /// Moves what changed into the upper folder. Nothing may run in the copy any longer, and nothing may run in what is left
    /// of it afterwards. The upper folder is returned.
    pub(crate) fn collect(self) -> Result<Option<OwnedFd>, Failure> {
        let Some(upper) = self.merged.upper else {
            return Ok(None);
        };
        let place = Place {
            above: None,
            name: OsStr::new(""),
            open: OnceCell::from(upper),
        };
        folder(&self.before, &self.merged.root, &place, &PathBuf::new())?;
        Ok(place.open.into_inner())
    }
}

/// Waits until what is changed from now on has a later time than all that is there: the clock of file systems has steps of
/// some milliseconds.
fn wait_for_clock(work: &OwnedFd) -> Result<(), Errno> {
    let name = OsStr::new("clock");
    match resolve::make_file(work, name) {
        Ok(_) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno),
    }
    let now = || -> Result<(i64, u32), Errno> {
        rfs::chmodat(work, name, Mode::RUSR | Mode::WUSR, AtFlags::empty())?;
        let stat = attributes::stat(work, name)?;
        Ok((stat.stx_ctime.tv_sec, stat.stx_ctime.tv_nsec))
    };
    let first = now()?;
    // A clock that stands still for two seconds is that of a file system without fractions of one, at worst.
    for _ in 0..4000 {
        if now()? > first {
            break;
        }
        std::thread::sleep(Duration::from_micros(500));
    }
    rfs::unlinkat(work, name, AtFlags::empty())
}

/// A folder of the upper, made when something has to lie in it.
struct Place<'a> {
    above: Option<&'a Place<'a>>,
    name: &'a OsStr,
    open: OnceCell<OwnedFd>,
}

impl Place<'_> {
    fn is_made(&self) -> bool {
        self.open.get().is_some()
    }

    fn get(&self) -> Result<&OwnedFd, Errno> {
        if let Some(open) = self.open.get() {
            return Ok(open);
        }
        let above = self.above.expect("BUG: the upper itself is open").get()?;
        match rfs::mkdirat(above, self.name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
        let open = open_folder(above, self.name)?;
        Ok(self.open.get_or_init(|| open))
    }

    /// Removes what the upper has of a name: an earlier command's.
    fn clear(&self, name: &OsStr) -> Result<(), Errno> {
        remove(self.get()?.as_fd(), name)
    }

    /// Whether the upper has something of this name.
    fn has(&self, name: &OsStr) -> Result<bool, Errno> {
        match rfs::statat(self.get()?, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(errno),
        }
    }

    fn hide(&self, name: &OsStr) -> Result<(), Errno> {
        let folder = self.get()?;
        match whiteout::make(folder.as_fd(), name) {
            Err(Errno::EXIST) => {
                self.clear(name)?;
                whiteout::make(folder.as_fd(), name)
            }
            result => result,
        }
    }

    fn take(&self, from: &OwnedFd, name: &OsStr) -> Result<(), Errno> {
        let folder = self.get()?;
        match rfs::renameat(from, name, folder, name) {
            Err(Errno::EXIST | Errno::NOTEMPTY | Errno::ISDIR | Errno::NOTDIR) => {
                self.clear(name)?;
                rfs::renameat(from, name, folder, name)
            }
            result => result,
        }
    }
}

/// Removes a file, or a folder with all that is in it. An absent one is fine.
pub(super) fn remove(folder: BorrowedFd<'_>, name: &OsStr) -> Result<(), Errno> {
    match rfs::unlinkat(folder, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR) => {}
        Err(errno) => return Err(errno),
    }
    let inner = open_folder(folder, name)?;
    for name in names(&inner)? {
        remove(inner.as_fd(), OsStr::from_bytes(&name))?;
    }
    rfs::unlinkat(folder, name, AtFlags::REMOVEDIR)
}

/// Compares one folder that is still the same one.
fn folder(before: &Folder, now: &OwnedFd, place: &Place<'_>, path: &Path) -> Result<(), Failure> {
    let stage = || format!("compare the folder /{}", path.display());
    // What is moved away changes the folder's time.
    let stat = stat_of(now).stage_with(stage)?;
    let xattrs = if Seen::of(&stat) == before.seen {
        before.xattrs.clone()
    } else {
        attributes::xattrs(now.as_fd()).stage_with(stage)?
    };
    let mut old = before.entries.iter().peekable();
    let names = names(now).stage_with(stage)?;
    let mut new = names.iter().peekable();
    loop {
        let order = match (old.peek(), new.peek()) {
            (Some((one, _)), Some(other)) => one.cmp(other),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => break,
        };
        let known = if order == Ordering::Greater {
            None
        } else {
            old.next()
        };
        let there = if order == Ordering::Less {
            None
        } else {
            new.next()
        };
        let Some(name) = known.map(|(name, _)| name).or(there) else {
            break;
        };
        let name = OsStr::from_bytes(name);
        let path = path.join(name);
        let stage = || format!("compare /{}", path.display());
        let stat = match there {
            Some(_) => Some(attributes::stat(now, name).stage_with(stage)?),
            None => None,
        };
        // A whiteout of the command's own making means nothing.
        let stat = stat.filter(|stat| !whiteout::is_device(stat));
        match (known.map(|(_, node)| node), stat) {
            (None, None) => {}
            (Some(_), None) => place.hide(name).stage_with(stage)?,
            (Some(Node::Folder(before)), Some(stat)) if before.seen.is_same(&Seen::of(&stat)) => {
                inside(before, now, name, place, &path)?;
            }
            (Some(Node::Other(before)), Some(stat)) if *before == Seen::of(&stat) => {}
            (known, Some(stat)) => {
                cleanse(now, name, &stat).stage_with(stage)?;
                if is_folder(&stat)
                    && (matches!(known, Some(Node::Folder(_)))
                        || place.has(name).stage_with(stage)?)
                {
                    match (make_opaque(now, name), known) {
                        (Ok(()), _) => {}
                        // Everything in it is new: each old name is hidden on its own.
                        (Err(Errno::OPNOTSUPP), Some(Node::Folder(before))) => {
                            inside(before, now, name, place, &path)?;
                            continue;
                        }
                        (failed, _) => failed.stage_with(stage)?,
                    }
                }
                place.take(now, name).stage_with(stage)?;
            }
        }
    }
    let same = before.has_attributes(&stat, &xattrs);
    if same && (path.as_os_str().is_empty() || !place.is_made()) {
        return Ok(());
    }
    let made = place.get().stage_with(stage)?;
    drop_others(made.as_fd(), &xattrs).stage_with(stage)?;
    attributes::apply(made.as_fd(), &stat, &xattrs).stage_with(stage)
}

fn inside(
    before: &Folder,
    now: &OwnedFd,
    name: &OsStr,
    above: &Place<'_>,
    path: &Path,
) -> Result<(), Failure> {
    let inner =
        open_folder(now, name).stage_with(|| format!("open the folder /{}", path.display()))?;
    let place = Place {
        above: Some(above),
        name,
        open: OnceCell::new(),
    };
    folder(before, &inner, &place, path)
}

/// Removes the attributes that a folder of the upper has from an earlier command and has no longer.
fn drop_others(folder: BorrowedFd<'_>, kept: &Xattrs) -> Result<(), Errno> {
    for name in attributes::names(folder)? {
        let known = kept.iter().any(|(known, _)| *known == name);
        if !known && !attributes::is_overlays_own(&name) && !name.starts_with(b"security.") {
            rfs::fremovexattr(folder, OsStr::from_bytes(&name))?;
        }
    }
    Ok(())
}

/// Says of a folder that took the place of something that it hides what is below, as an overlay does.
fn make_opaque(folder: &OwnedFd, name: &OsStr) -> Result<(), Errno> {
    let folder = open_folder(folder, name)?;
    rfs::fsetxattr(&folder, OPAQUE, b"y", XattrFlags::empty())
}

/// Takes away what a command made that would speak to an overlay, in something new and all that is in it.
fn cleanse(folder: &OwnedFd, name: &OsStr, stat: &Statx) -> Result<(), Errno> {
    if whiteout::is_device(stat) {
        return rfs::unlinkat(folder, name, AtFlags::empty());
    }
    if is_folder(stat) {
        let inner = open_folder(folder, name)?;
        cleanse_attributes(inner.as_fd())?;
        let names = names(&inner)?;
        let mut changed = false;
        for name in names {
            let name = OsStr::from_bytes(&name);
            let stat = attributes::stat(&inner, name)?;
            changed |= whiteout::is_device(&stat);
            cleanse(&inner, name, &stat)?;
        }
        if changed {
            rfs::futimens(&inner, &attributes::times(stat))?;
        }
        return Ok(());
    }
    if whiteout::may_be_marked(stat.stx_mode.into(), stat.stx_size) {
        let flags = rfs::OFlags::RDONLY | rfs::OFlags::NOFOLLOW | rfs::OFlags::CLOEXEC;
        let file = rfs::openat(folder, name, flags, Mode::empty())?;
        cleanse_attributes(file.as_fd())?;
    }
    Ok(())
}

fn cleanse_attributes(fd: BorrowedFd<'_>) -> Result<(), Errno> {
    for name in attributes::names(fd)? {
        if !attributes::is_overlays_own(&name) {
            continue;
        }
        match rfs::fremovexattr(fd, OsStr::from_bytes(&name)) {
            // A trusted one, which no command in a user namespace can have made.
            Ok(()) | Err(Errno::PERM | Errno::NODATA) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}
