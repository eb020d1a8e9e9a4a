//! What a command is given besides its root, where nothing can be mounted: things are made outside of the root's copy, moved
//! into it for the time of the command, and moved out again.
//!
//! What lies at the same place is out of the copy meanwhile and comes back untouched. A folder that something was put into
//! keeps its times. Nothing is looked up by a path once the command has run: it may have moved anything anywhere.

use crate::fail::{Failure, Stage};
use crate::resolve;
use crate::root;
use crate::rootfs::{self, Point};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{
    self as rfs, AtFlags, FileType, Gid, Mode, OFlags, RenameFlags, Statx, Timespec, Timestamps,
    Uid,
};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

/// Something that is lent to the copy, where it is at home.
#[derive(Debug)]
pub(crate) struct Thing {
    home: OwnedFd,
    name: OsString,
    /// Its content is given up with it, whatever other names it has.
    secret: bool,
}

impl Thing {
    /// A name in an open folder.
    pub(crate) fn at(home: OwnedFd, name: impl Into<OsString>) -> Self {
        Self {
            home,
            name: name.into(),
            secret: false,
        }
    }

    fn place(&self) -> Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rfs::openat(&self.home, &self.name, flags, Mode::empty())
    }
}

/// One change of the copy, to be taken back.
#[derive(Debug)]
struct Change {
    /// The folder, open for reading.
    parent: OwnedFd,
    name: OsString,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// A folder was made on the way; it stays when something of the command's is in it.
    Way,
    /// Something was lent; what was there lies in the work folder by this name.
    Lent {
        thing: Thing,
        place: OwnedFd,
        aside: Option<OsString>,
    },
    /// What was there is hidden.
    Hidden { aside: OsString },
}

/// All that is lent to one copy.
#[derive(Debug)]
pub(crate) struct Covers {
    root: OwnedFd,
    work: OwnedFd,
    next: u32,
    changes: Vec<Change>,
    returned: Vec<Statx>,
}

impl Covers {
    /// For the copy with this root, with a folder on the same file system that the command does not reach.
    pub(crate) fn new(root: BorrowedFd<'_>, work: BorrowedFd<'_>) -> Result<Self, Failure> {
        let stage = "open the copy of the root";
        Ok(Self {
            root: root.try_clone_to_owned().stage(stage)?,
            work: work.try_clone_to_owned().stage(stage)?,
            next: 0,
            changes: Vec::new(),
            returned: Vec::new(),
        })
    }

    fn name(&mut self) -> OsString {
        self.next += 1;
        format!("lent{}", self.next).into()
    }

    fn home(&self) -> Result<OwnedFd, Failure> {
        self.work.try_clone().stage("open the work folder")
    }

    /// A new folder of nobody else's, outside of the copy.
    pub(crate) fn folder(&mut self, mode: u32) -> Result<(Thing, OwnedFd), Failure> {
        let stage = "create a folder beside the copy of the root";
        loop {
            let name = self.name();
            match rfs::mkdirat(&self.work, &name, Mode::RWXU) {
                Err(Errno::EXIST) => continue,
                made => made.stage(stage)?,
            }
            let folder = open_folder(self.work.as_fd(), &name).stage(stage)?;
            rfs::fchmod(&folder, Mode::from_raw_mode(mode)).stage(stage)?;
            return Ok((Thing::at(self.home()?, name), folder));
        }
    }

    /// A new file with a content, which is emptied in the end.
    pub(crate) fn file(
        &mut self,
        data: &[u8],
        mode: u32,
        (uid, gid): (u32, u32),
    ) -> Result<Thing, Failure> {
        let stage = "create a file beside the copy of the root";
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let (name, file) = loop {
            let name = self.name();
            match rfs::openat(&self.work, &name, flags, Mode::RUSR | Mode::WUSR) {
                Err(Errno::EXIST) => {}
                file => break (name, file.stage(stage)?),
            }
        };
        write_all(&file, data).stage(stage)?;
        rfs::fchown(&file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))).stage(stage)?;
        rfs::fchmod(&file, Mode::from_raw_mode(mode)).stage(stage)?;
        let mut thing = Thing::at(self.home()?, name);
        thing.secret = true;
        Ok(thing)
    }

    /// A second name of a socket.
    pub(crate) fn link(&mut self, source: &Path) -> Result<Thing, Failure> {
        let stage = || format!("link {}", source.display());
        loop {
            let name = self.name();
            match rfs::linkat(rfs::CWD, source, &self.work, &name, AtFlags::empty()) {
                Err(Errno::EXIST) => {}
                linked => {
                    linked.stage_with(stage)?;
                    return Ok(Thing::at(self.home()?, name));
                }
            }
        }
    }

    /// Moves a thing to a path in the copy, for the time of the command.
    pub(crate) fn lend(&mut self, thing: Thing, target: &Path) -> Result<(), Failure> {
        let stage = || format!("put something at /{}", target.display());
        let place = thing.place().stage_with(stage)?;
        let folder = resolve::is_folder(&place).stage_with(stage)?;
        let (parent, name, there) = self.find(target, folder)?;
        let times = times(parent.as_fd()).stage_with(stage)?;
        let aside = if there {
            Some(self.move_aside(parent.as_fd(), &name).stage_with(stage)?)
        } else {
            None
        };
        let moved = rfs::renameat_with(
            &thing.home,
            &thing.name,
            &parent,
            &name,
            RenameFlags::NOREPLACE,
        );
        let change = Change {
            parent,
            name,
            kind: Kind::Lent {
                thing,
                place,
                aside,
            },
        };
        if let Err(errno) = moved {
            if let Kind::Lent {
                aside: Some(aside), ..
            } = &change.kind
            {
                let _ = rfs::renameat(&self.work, aside, &change.parent, &change.name);
            }
            return Err(Failure::new(stage(), errno));
        }
        let kept = set_times(change.parent.as_fd(), &times);
        self.changes.push(change);
        kept.stage_with(stage)
    }

    /// Takes something out of the copy for the time of the command.
    pub(crate) fn hide(&mut self, path: &Path) -> Result<(), Failure> {
        let stage = || format!("hide /{}", path.display());
        let name = path
            .file_name()
            .ok_or_else(|| Failure::new(stage(), Errno::INVAL))?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let parent = resolve::open_in(&self.root, folder, OFlags::RDONLY | OFlags::DIRECTORY)
            .stage_with(stage)?;
        let times = times(parent.as_fd()).stage_with(stage)?;
        let aside = self.move_aside(parent.as_fd(), name).stage_with(stage)?;
        let kept = set_times(parent.as_fd(), &times);
        self.changes.push(Change {
            parent,
            name: name.to_owned(),
            kind: Kind::Hidden { aside },
        });
        kept.stage_with(stage)
    }

    fn move_aside(&mut self, parent: BorrowedFd<'_>, name: &OsStr) -> Result<OsString, Errno> {
        loop {
            let aside = self.name();
            match rfs::renameat_with(parent, name, &self.work, &aside, RenameFlags::NOREPLACE) {
                Err(Errno::EXIST) => {}
                moved => return moved.map(|()| aside),
            }
        }
    }

    /// The folder, the name in it, and whether something is there, for a path of which links are followed inside the root.
    /// Folders that are missing on the way are made.
    fn find(&mut self, target: &Path, folder: bool) -> Result<(OwnedFd, OsString, bool), Failure> {
        let stage = || format!("make the mount point /{}", target.display());
        let walk = resolve::walk_to(self.root.as_fd(), target).stage_with(stage)?;
        let resolve::Walk {
            mut folders,
            mut missing,
            leaf,
        } = walk;
        let point = Point {
            path: target.to_owned(),
            folder,
        };
        let (name, there) = match (leaf, missing.pop()) {
            (Some(leaf), _) => {
                let above = folders.last().map_or(&self.root, |(_, fd)| fd);
                let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let place = rfs::openat(above, &leaf, flags, Mode::empty()).stage_with(stage)?;
                rootfs::check_type(&place, &point)?;
                (leaf, true)
            }
            (None, Some(name)) => (name, false),
            (None, None) => {
                let Some((name, place)) = folders.pop() else {
                    return Err(Failure::new(stage(), Errno::BUSY).detail("it is the root itself"));
                };
                rootfs::check_type(&place, &point)?;
                (name, true)
            }
        };
        let above = folders.last().map_or(&self.root, |(_, fd)| fd);
        let mut parent = open_folder(above.as_fd(), OsStr::new(".")).stage_with(stage)?;
        for name in missing {
            let times = times(parent.as_fd()).stage_with(stage)?;
            resolve::make_folder(&parent, &name, None).stage_with(stage)?;
            set_times(parent.as_fd(), &times).stage_with(stage)?;
            let made = open_folder(parent.as_fd(), &name).stage_with(stage)?;
            self.changes.push(Change {
                parent,
                name,
                kind: Kind::Way,
            });
            parent = made;
        }
        Ok((parent, name, there))
    }

    /// What was out of the copy, untouched, and is back in it, as it was then.
    pub(crate) fn returned(&self) -> &[Statx] {
        &self.returned
    }

    fn note(&mut self, parent: &OwnedFd, name: &OsStr) -> Result<(), Errno> {
        let stat = root::stat(parent, name)?;
        // What has other names may have been changed by one of them.
        if stat.stx_nlink == 1 {
            self.returned.push(stat);
        }
        Ok(())
    }

    /// Takes everything back, last first. Nothing may run in the copy any longer. What goes wrong with one does not keep the
    /// others; the first failure is told.
    pub(crate) fn take_back(&mut self) -> Result<(), Failure> {
        let mut result = Ok(());
        while let Some(change) = self.changes.pop() {
            let taken = self
                .undo(&change)
                .stage_with(|| format!("take back what was put at {}", change.name.display()));
            if result.is_ok() {
                result = taken;
            }
        }
        result
    }

    fn undo(&mut self, change: &Change) -> Result<(), Errno> {
        let Change { parent, name, kind } = change;
        let times = times(parent.as_fd())?;
        match kind {
            Kind::Way => match rfs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
                Ok(()) => {}
                Err(_) => return Ok(()),
            },
            Kind::Hidden { aside } => {
                let flags = RenameFlags::NOREPLACE;
                match rfs::renameat_with(&self.work, aside, parent, name, flags) {
                    Ok(()) => self.note(parent, name)?,
                    // The command put something else there, or its folder is gone.
                    Err(Errno::EXIST | Errno::NOENT) => {}
                    Err(errno) => return Err(errno),
                }
            }
            Kind::Lent {
                thing,
                place,
                aside,
            } => {
                let returned = take_home(thing, place, parent, name);
                // Whatever is there now lay over the mount point.
                match self.move_aside(parent.as_fd(), name) {
                    Ok(_) | Err(Errno::NOENT) => {}
                    Err(errno) => return Err(errno),
                }
                if let Some(aside) = aside {
                    match rfs::renameat(&self.work, aside, parent, name) {
                        Ok(()) => self.note(parent, name)?,
                        Err(Errno::NOENT) => {}
                        Err(errno) => return Err(errno),
                    }
                }
                returned?;
            }
        }
        set_times(parent.as_fd(), &times)
    }
}

impl Drop for Covers {
    /// Only what failed before the command ran comes to this.
    fn drop(&mut self) {
        let _ = self.take_back();
    }
}

/// Moves a thing home from wherever it is now. One that the command removed is gone.
fn take_home(thing: &Thing, place: &OwnedFd, parent: &OwnedFd, name: &OsStr) -> Result<(), Errno> {
    let link = format!("/proc/self/fd/{}", place.as_raw_fd());
    if thing.secret {
        // Other names that the command gave it have nothing of it then. It was not open for writing before, so that it could
        // be executed. Nothing is written over it: a pipe may hold its very pages.
        let file = rfs::open(&link, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
        rfs::ftruncate(&file, 0)?;
    }
    let own = identity(&rfs::fstat(place)?);
    let is_there = rfs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|stat| identity(&stat) == own);
    if is_there {
        return rfs::renameat(parent, name, &thing.home, &thing.name);
    }
    // Nothing moves any longer, so that its path is where it is.
    let path = OsString::from_vec(rfs::readlink(link, Vec::new())?.into_bytes());
    let is_there = rfs::lstat(&path).is_ok_and(|stat| identity(&stat) == own);
    if is_there {
        rfs::renameat(rfs::CWD, &path, &thing.home, &thing.name)?;
    }
    Ok(())
}

fn identity(stat: &rfs::Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

fn write_all(file: &OwnedFd, mut data: &[u8]) -> Result<(), Errno> {
    while !data.is_empty() {
        let written = rustix::io::retry_on_intr(|| rustix::io::write(file, data))?;
        data = &data[written..];
    }
    Ok(())
}

pub(super) fn open_folder(parent: BorrowedFd<'_>, name: &OsStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rfs::openat(parent, name, flags, Mode::empty())
}

fn times(folder: BorrowedFd<'_>) -> Result<Timestamps, Errno> {
    let stat = rfs::fstat(folder)?;
    let time = |seconds, nanoseconds: u64| Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds.cast_signed(),
    };
    Ok(Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    })
}

fn set_times(folder: BorrowedFd<'_>, times: &Timestamps) -> Result<(), Errno> {
    match rfs::futimens(folder, times) {
        // The command removed it.
        Err(Errno::NOENT) => Ok(()),
        result => result,
    }
}

/// Whether something is a socket.
pub(crate) fn is_socket(place: &OwnedFd) -> Result<bool, Errno> {
    Ok(FileType::from_raw_mode(rfs::fstat(place)?.st_mode) == FileType::Socket)
}
