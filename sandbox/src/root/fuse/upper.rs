//! Gives an upper folder that fuse-overlayfs has written the form that an overlay gives it.
//!
//! fuse-overlayfs has further ways to say what is gone (files `.wh.NAME` where it may make no whiteout device, files and
//! attributes of its own in folders that hide what is below) and lets commands set what would speak to an overlay. Folders
//! that it copies up get a new time from what it copies up into them; they get back the one they had.
//!
//! What it is known to get wrong, and leaves a trace of, is refused: no layer is better than a wrong one. Not all does.

use crate::Overlay;
use crate::fail::{Failure, Stage};
use crate::root::attributes::{self, OPAQUE};
use crate::root::copy::{ManyDescriptors, open_folder, open_layer};
use crate::root::state::{is_folder, names};
use crate::root::whiteout;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{self as rfs, AtFlags, FileType, Mode, OFlags, Statx, Timespec, XattrFlags};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

const WHITEOUT: &[u8] = b".wh.";
/// Both say that a folder hides what is below it.
const OPAQUE_FILES: [&[u8]; 2] = [b".wh..wh..opq", b".wh..opq"];
const OWN_OPAQUE: &[u8] = b"user.fuseoverlayfs.opaque";
/// Path that a file was copied up from, with a zero byte.
const ORIGIN: &str = "user.fuseoverlayfs.origin";
/// The set-user-id and set-group-id bits.
const SET_ID: u16 = 0o6000;

/// An upper folder while it is served.
#[derive(Debug)]
pub(crate) struct Upper {
    folder: OwnedFd,
    /// Topmost first.
    lowers: Vec<OwnedFd>,
    /// When nothing had been changed in it.
    start: Timespec,
}

impl Upper {
    /// `None` of a root that is only read.
    pub(crate) fn of(overlay: &Overlay) -> Result<Option<Self>, Failure> {
        let Some((upper, _)) = &overlay.upper else {
            return Ok(None);
        };
        let _limit = ManyDescriptors::allow();
        let lowers: Result<_, Failure> = overlay.lowers.iter().map(|at| open_layer(at)).collect();
        Ok(Some(Self {
            folder: open_layer(upper)?,
            lowers: lowers?,
            start: rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse),
        }))
    }

    /// Rewrites the folder and all in it. Nothing may be mounted with it any longer.
    pub(crate) fn translate(self) -> Result<(), Failure> {
        let lowers: Vec<BorrowedFd<'_>> = self.lowers.iter().map(AsFd::as_fd).collect();
        let run = Run {
            roots: &lowers,
            lowers: &lowers,
            start: self.start,
        };
        folder(&self.folder, &run, Path::new("")).map(drop)
    }
}

/// What is below a name: the topmost entry, and the folders that are merged when it is one.
struct Below {
    stat: Option<Statx>,
    folders: Vec<OwnedFd>,
}

impl Below {
    fn find(lowers: &[BorrowedFd<'_>], name: &OsStr) -> Result<Self, Errno> {
        let mut below = Self {
            stat: None,
            folders: Vec::new(),
        };
        for lower in lowers {
            let stat = match attributes::stat(lower, name) {
                Ok(stat) => stat,
                Err(Errno::NOENT) => continue,
                Err(errno) => return Err(errno),
            };
            if whiteout::is(lower, name, &stat)? {
                break;
            }
            let is_folder = is_folder(&stat);
            if below.stat.is_none() {
                below.stat = Some(stat);
            }
            if !is_folder {
                break;
            }
            let folder = open_folder(lower, name)?;
            let opaque = attributes::is_opaque(folder.as_fd())?;
            below.folders.push(folder);
            if opaque {
                break;
            }
        }
        Ok(below)
    }
}

/// What lies below a folder, and when the run began.
struct Run<'a> {
    /// Topmost first, as all.
    roots: &'a [BorrowedFd<'a>],
    lowers: &'a [BorrowedFd<'a>],
    start: Timespec,
}

impl Run<'_> {
    /// Whether it got its time in the run.
    fn is_young(&self, stat: &Statx) -> bool {
        let time = (stat.stx_mtime.tv_sec, i64::from(stat.stx_mtime.tv_nsec));
        time >= (self.start.tv_sec, self.start.tv_nsec)
    }

    /// Refuses what became of something below that cannot be copied up. A file with several names is one file to the
    /// program: what is done by one name shows in all, and can end in the layer under another.
    fn refuse_copied(&self, origin: &Path, path: &Path) -> Result<(), Failure> {
        let stage = || format!("see what /{} was", path.display());
        let Some(below) = self.below(origin).stage_with(stage)? else {
            return Ok(());
        };
        let was = match FileType::from_raw_mode(below.stx_mode.into()) {
            FileType::RegularFile if below.stx_nlink < 2 => return Ok(()),
            FileType::RegularFile => "a file with several names in the layers below",
            _ => "no regular file in the layers below",
        };
        Err(refusal(&format!(
            "/{} is a changed copy of /{}, which is {was}",
            path.display(),
            origin.display()
        )))
    }

    /// Refuses a folder without the set-user-id or set-group-id bit that it has below: copied up, it loses them.
    fn refuse_mode(&self, stat: &Statx, path: &Path) -> Result<(), Failure> {
        let Some(lower) = self.lowers.first() else {
            return Ok(());
        };
        let stage = || format!("look below the folder /{}", path.display());
        let before = attributes::stat_of(lower).stage_with(stage)?.stx_mode;
        if before & SET_ID != 0 && stat.stx_mode == before & !SET_ID {
            return Err(refusal(&format!(
                "the folder /{} has lost its set-user-id or set-group-id bit",
                path.display()
            )));
        }
        Ok(())
    }

    /// What the layers below show at a path.
    fn below(&self, path: &Path) -> Result<Option<Statx>, Errno> {
        let mut found: Option<Below> = None;
        for name in path.iter() {
            let here = match &found {
                None => Below::find(self.roots, name)?,
                Some(below) => {
                    let lowers: Vec<_> = below.folders.iter().map(AsFd::as_fd).collect();
                    Below::find(&lowers, name)?
                }
            };
            found = Some(here);
        }
        Ok(found.and_then(|below| below.stat))
    }
}

fn refusal(what: &str) -> Failure {
    Failure::new("trust what fuse-overlayfs wrote", Errno::NOTSUP)
        .detail(format!("{what}; `--sandbox-root copy` can do it"))
}

/// The path below that fuse-overlayfs says it copied a file from.
fn origin(folder: &OwnedFd, name: &OsStr, stat: &Statx) -> Result<Option<PathBuf>, Errno> {
    if FileType::from_raw_mode(stat.stx_mode.into()) != FileType::RegularFile {
        return Ok(None);
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rfs::openat(folder, name, flags, Mode::empty())?;
    let origin = attributes::value(file.as_fd(), OsStr::new(ORIGIN))?;
    Ok(origin.map(|path| {
        let path = path.strip_suffix(b"\0").unwrap_or(&path);
        PathBuf::from(OsStr::from_bytes(path))
    }))
}

/// Whether the folder hides what is below.
fn folder(open: &OwnedFd, run: &Run<'_>, path: &Path) -> Result<bool, Failure> {
    let stage = || format!("read the changes in /{}", path.display());
    let mut stat = attributes::stat_of(open).stage_with(stage)?;
    // Whether something was made, removed or renamed in it, as far as that left something.
    let mut changed = false;
    let mut holds = false;
    let mut rewritten = false;
    let mut opaque = drop_own(open.as_fd()).stage_with(stage)?;
    for name in names(open).stage_with(stage)? {
        let name = OsStr::from_bytes(&name);
        if let Some(hidden) = name.as_bytes().strip_prefix(WHITEOUT) {
            rewritten = true;
            crate::root::compare::remove(open.as_fd(), name).stage_with(stage)?;
            if OPAQUE_FILES.contains(&name.as_bytes()) {
                opaque = true;
                continue;
            }
            changed = true;
            match whiteout::make(open.as_fd(), OsStr::from_bytes(hidden)) {
                // There is something new of this name.
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(Failure::new(stage(), errno)),
            }
            continue;
        }
        holds = true;
        let entry = attributes::stat(open, name).stage_with(stage)?;
        let below = Below::find(run.lowers, name).stage_with(stage)?;
        if is_folder(&entry) {
            let inner = open_folder(open, name).stage_with(stage)?;
            let lowers: Vec<_> = below.folders.iter().map(AsFd::as_fd).collect();
            let run = Run {
                roots: run.roots,
                lowers: &lowers,
                start: run.start,
            };
            let opaque = folder(&inner, &run, &path.join(name))?;
            changed |= opaque || below.folders.is_empty();
        } else {
            let path = path.join(name);
            let origin = origin(open, name, &entry).stage_with(stage)?;
            if let Some(origin) = &origin {
                run.refuse_copied(origin, &path)?;
            }
            changed |= is_new(open, &entry, run, &below, (&path, origin)).stage_with(stage)?;
        }
    }
    if !opaque {
        run.refuse_mode(&stat, path)?;
    }
    if opaque {
        rfs::fsetxattr(open, OPAQUE, b"y", XattrFlags::empty()).stage_with(stage)?;
    }
    if let Some(lower) = run.lowers.first()
        && holds
        && !(changed || opaque || path.as_os_str().is_empty())
        && run.is_young(&stat)
    {
        stat.stx_mtime = attributes::stat_of(lower).stage_with(stage)?.stx_mtime;
        rewritten = true;
    }
    if rewritten {
        rfs::futimens(open, &attributes::times(&stat)).stage_with(stage)?;
    }
    Ok(opaque)
}

/// Whether what is no folder was put there, and not copied up from below. Cleans it of what would speak to an overlay.
fn is_new(
    folder: &OwnedFd,
    stat: &Statx,
    run: &Run<'_>,
    below: &Below,
    (path, origin): (&Path, Option<PathBuf>),
) -> Result<bool, Errno> {
    let name = path.file_name().ok_or(Errno::INVAL)?;
    let kind = |stat: &Statx| FileType::from_raw_mode(stat.stx_mode.into());
    let same_kind = below
        .stat
        .as_ref()
        .is_some_and(|old| kind(old) == kind(stat));
    match kind(stat) {
        FileType::RegularFile => {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let file = rfs::openat(folder, name, flags, Mode::empty())?;
            drop_own(file.as_fd())?;
            Ok(!same_kind || origin.as_deref() != Some(path))
        }
        FileType::Symlink if same_kind => link(folder, name, stat, run, below),
        _ => Ok(!same_kind),
    }
}

/// [`is_new`] of a link, which can carry no mark. One that was copied up for its owner gets back its time.
fn link(
    folder: &OwnedFd,
    name: &OsStr,
    stat: &Statx,
    run: &Run<'_>,
    below: &Below,
) -> Result<bool, Errno> {
    let Some(old) = &below.stat else {
        return Ok(true);
    };
    let target = rfs::readlinkat(folder, name, Vec::new())?;
    for lower in run.lowers {
        match rfs::readlinkat(lower, name, Vec::new()) {
            Ok(old) if old == target => break,
            Err(Errno::NOENT) => {}
            Ok(_) => return Ok(true),
            Err(errno) => return Err(errno),
        }
    }
    if !run.is_young(stat) {
        return Ok(false);
    }
    if (old.stx_uid, old.stx_gid) == (stat.stx_uid, stat.stx_gid) {
        return Ok(true);
    }
    let times = attributes::times(old);
    rfs::utimensat(folder, name, &times, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(false)
}

/// Removes the program's own attributes and those of overlays; whether one of the program's said that a folder hides what is
/// below it.
fn drop_own(fd: BorrowedFd<'_>) -> Result<bool, Errno> {
    let mut opaque = false;
    for name in attributes::names(fd)? {
        if !attributes::is_overlays_own(&name) {
            continue;
        }
        opaque |= *name == *OWN_OPAQUE;
        match rfs::fremovexattr(fd, OsStr::from_bytes(&name)) {
            Ok(()) | Err(Errno::PERM | Errno::NODATA) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(opaque)
}
