//! Finds what changed in a copy, and moves it into the upper folder in overlay form.
//!
//! What an overlay would have copied up is moved by rename, so that its content is not touched again; what is gone becomes a
//! whiteout; a folder that took the place of another is opaque, as an overlay has it. Folders on the way get the attributes
//! that they have in the copy.

use super::attributes::{self, OPAQUE, stat_of};
use super::copy::{Merged, open_folder};
use super::kept;
use super::state::{Folder, Node, Seen, Time, is_folder, names, time};
use super::whiteout;
use crate::fail::{Failure, Stage};
use crate::resolve;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{self as rfs, AtFlags, Mode, Statx, XattrFlags};
use rustix::io::Errno;
use std::cell::OnceCell;
use std::cmp::Ordering;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A merged copy as it was before the command.
#[derive(Debug)]
pub(crate) struct Prepared {
    merged: Merged,
    before: Folder,
    /// The file system's clock: what is changed from now on has no earlier time.
    clock: Time,
    /// Entries that were out of the copy for the time of the command, untouched, and are back.
    returned: HashMap<u64, Seen>,
}

impl Prepared {
    pub(super) fn of(mut merged: Merged) -> Result<Self, Failure> {
        let before = match merged.known.take() {
            Some(known) => known,
            None => Folder::read(&merged.root, Path::new(""))?,
        };
        let clock = wait_for_clock(&merged.work).stage("wait for the file system's clock")?;
        Ok(Self {
            merged,
            before,
            clock,
            returned: HashMap::new(),
        })
    }

    /// The root of the copy, open for reading.
    pub(crate) fn root(&self) -> &OwnedFd {
        self.merged.root()
    }

    /// Entries, as they are now, that only the surroundings moved: out of the copy and back.
    pub(crate) fn take_note(&mut self, returned: &[Statx]) {
        let seen = returned.iter().map(Seen::of);
        self.returned.extend(seen.map(|seen| (seen.inode, seen)));
    }

    /// Moves what changed into the upper folder. Nothing may run in the copy any longer. The upper folder is returned. What
    /// is left of a copy that stays is what its layers make of it but for what is in the upper now.
    pub(crate) fn collect(mut self) -> Result<Option<OwnedFd>, Failure> {
        let Some(upper) = self.merged.upper.take() else {
            return Ok(None);
        };
        let place = Place {
            above: None,
            name: OsStr::new(""),
            open: OnceCell::from(upper),
        };
        let comparison = Comparison {
            clock: self.clock,
            returned: &self.returned,
        };
        comparison.folder(&mut self.before, &self.merged.root, &place, &PathBuf::new())?;
        kept::leave(&self.merged, &mut self.before)?;
        Ok(place.open.into_inner())
    }
}

/// Waits until what is changed from now on has a later time than all that is there: the clock of file systems has steps of
/// some milliseconds.
fn wait_for_clock(work: &OwnedFd) -> Result<Time, Errno> {
    let name = OsStr::new("clock");
    match resolve::make_file(work, name) {
        Ok(_) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno),
    }
    let now = || -> Result<Time, Errno> {
        rfs::chmodat(work, name, Mode::RUSR | Mode::WUSR, AtFlags::empty())?;
        Ok(time(attributes::stat(work, name)?.stx_ctime))
    };
    let first = now()?;
    let mut last = first;
    // A clock that stands still for two seconds is that of a file system without fractions of one, at worst.
    for _ in 0..4000 {
        last = now()?;
        if last > first {
            break;
        }
        std::thread::sleep(Duration::from_micros(500));
    }
    rfs::unlinkat(work, name, AtFlags::empty())?;
    Ok(last)
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

/// What a comparison goes by.
#[derive(Clone, Copy)]
struct Comparison<'c> {
    clock: Time,
    returned: &'c HashMap<u64, Seen>,
}

/// A name in a folder of the copy.
struct Name<'n> {
    name: &'n OsStr,
    path: &'n Path,
    now: &'n OwnedFd,
    place: &'n Place<'n>,
}

impl Comparison<'_> {
    /// Compares one folder that is still the same one. What was known of it becomes what is left of it.
    fn folder(
        self,
        before: &mut Folder,
        now: &OwnedFd,
        place: &Place<'_>,
        path: &Path,
    ) -> Result<(), Failure> {
        let stage = || format!("compare the folder /{}", path.display());
        // What is moved away changes the folder's time.
        let stat = stat_of(now).stage_with(stage)?;
        let seen = Seen::of(&stat);
        // Looked at before the clock moved on, it cannot have changed and kept its time.
        let is_untouched = seen == before.seen && seen.changed < self.clock;
        let old = std::mem::take(&mut before.entries);
        let (xattrs, names) = if is_untouched {
            let names = old.iter().map(|(name, _)| name.clone()).collect();
            (before.xattrs.clone(), names)
        } else {
            let xattrs = attributes::xattrs(now.as_fd()).stage_with(stage)?;
            (xattrs, names(now).stage_with(stage)?)
        };
        before.entries.reserve(old.len());
        let (mut old, mut new) = (old.into_iter().peekable(), names.into_iter().peekable());
        loop {
            let order = match (old.peek(), new.peek()) {
                (Some((one, _)), Some(other)) => one.cmp(other),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => break,
            };
            let known = old.next_if(|_| order != Ordering::Greater);
            let there = new.next_if(|_| order != Ordering::Less);
            let is_there = there.is_some();
            let (name, known) = match (known, there) {
                (Some((name, node)), _) => (name, Some(node)),
                (None, Some(name)) => (name, None),
                (None, None) => break,
            };
            let name_here = OsStr::from_bytes(&name);
            let here = Name {
                name: name_here,
                path: &path.join(name_here),
                now,
                place,
            };
            let left = self.entry(known, is_there, &here)?;
            before.entries.extend(left.map(|node| (name, node)));
        }
        // The upper's own folder is there already, and its time is its own.
        let is_root = path.as_os_str().is_empty();
        let is_same = before.has_attributes(&stat, &xattrs)
            && (is_root || before.modified == time(stat.stx_mtime));
        if !is_same || (place.is_made() && !is_root) {
            let made = place.get().stage_with(stage)?;
            attributes::drop_others(made.as_fd(), &xattrs).stage_with(stage)?;
            attributes::apply(made.as_fd(), &stat, &xattrs).stage_with(stage)?;
        }
        if is_untouched && !place.is_made() {
            return Ok(());
        }
        if !is_root {
            // The layer tells, when it is laid over the copy, what time it is for those who come after.
            attributes::set_modified(now.as_fd(), before.modified).stage_with(stage)?;
        }
        before.look(now).stage_with(stage)
    }

    /// Compares what has one name. What is left of it in the copy is returned.
    fn entry(
        self,
        known: Option<Node>,
        is_there: bool,
        here: &Name<'_>,
    ) -> Result<Option<Node>, Failure> {
        let &Name {
            name, now, place, ..
        } = here;
        let stage = || format!("compare /{}", here.path.display());
        let mut stat = None;
        if is_there {
            let found = attributes::stat(now, name).stage_with(stage)?;
            if whiteout::is_device(&found) {
                // One of the command's own making means nothing.
                rfs::unlinkat(now, name, AtFlags::empty()).stage_with(stage)?;
            } else {
                stat = Some(found);
            }
        }
        match (known, stat) {
            (None, None) => return Ok(None),
            (Some(_), None) => {
                place.hide(name).stage_with(stage)?;
                return Ok(None);
            }
            (Some(Node::Folder(mut before)), Some(stat))
                if before.seen.is_same(&Seen::of(&stat)) =>
            {
                self.inside(&mut before, here)?;
                return Ok(Some(Node::Folder(before)));
            }
            (Some(Node::Other(before)), Some(stat)) if self.is_unchanged(&before, &stat) => {
                return Ok(Some(Node::Other(Seen::of(&stat))));
            }
            (known, Some(stat)) => {
                cleanse(now, name, &stat).stage_with(stage)?;
                let was_folder = matches!(known, Some(Node::Folder(_)));
                if is_folder(&stat) && (was_folder || place.has(name).stage_with(stage)?) {
                    match (make_opaque(now, name), known) {
                        (Ok(()), _) => {}
                        // Everything in it is new: each old name is hidden on its own.
                        (Err(Errno::OPNOTSUPP), Some(Node::Folder(mut before))) => {
                            self.inside(&mut before, here)?;
                            return Ok(Some(Node::Folder(before)));
                        }
                        (failed, _) => failed.stage_with(stage)?,
                    }
                }
                place.take(now, name).stage_with(stage)?;
            }
        }
        Ok(None)
    }

    fn is_unchanged(self, before: &Seen, stat: &Statx) -> bool {
        let now = Seen::of(stat);
        *before == now || (before.is_same(&now) && self.returned.get(&now.inode) == Some(&now))
    }

    fn inside(self, before: &mut Folder, here: &Name<'_>) -> Result<(), Failure> {
        let inner = open_folder(here.now, here.name)
            .stage_with(|| format!("open the folder /{}", here.path.display()))?;
        let place = Place {
            above: Some(here.place),
            name: here.name,
            open: OnceCell::new(),
        };
        self.folder(before, &inner, &place, here.path)
    }
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
