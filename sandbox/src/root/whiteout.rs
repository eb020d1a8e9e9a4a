//! Whiteouts: what says in an upper folder that something below it is gone.
//!
//! A character device 0:0, which anybody may make (Linux 5.8) except on an overlay; there an empty file of mode 0 with the
//! attribute `user.overlay.whiteout` stands for it, as overlays know it themselves (Linux 6.7).

use super::attributes;
use rustix::fd::{AsFd, BorrowedFd};
use rustix::fs::{self as rfs, FileType, Mode, OFlags, Statx, XattrFlags};
use rustix::io::Errno;
use std::ffi::OsStr;

const MARK: &str = "user.overlay.whiteout";

/// Makes a whiteout; nothing has this name.
pub(super) fn make(folder: BorrowedFd<'_>, name: &OsStr) -> Result<(), Errno> {
    match rfs::mknodat(folder, name, FileType::CharacterDevice, Mode::empty(), 0) {
        Err(Errno::PERM) => make_marked(folder, name),
        result => result,
    }
}

fn make_marked(folder: BorrowedFd<'_>, name: &OsStr) -> Result<(), Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rfs::openat(folder, name, flags, Mode::empty())?;
    rfs::fsetxattr(&file, MARK, b"y", XattrFlags::empty())
}

/// Whether an entry of a layer is a whiteout.
pub(super) fn is(folder: impl AsFd, name: &OsStr, stat: &Statx) -> Result<bool, Errno> {
    if is_device(stat) {
        return Ok(true);
    }
    if !may_be_marked(stat) {
        return Ok(false);
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rfs::openat(folder, name, flags, Mode::empty())?;
    Ok(attributes::value(file.as_fd(), OsStr::new(MARK))?.is_some())
}

pub(super) fn is_device(stat: &Statx) -> bool {
    let kind = FileType::from_raw_mode(stat.stx_mode.into());
    kind == FileType::CharacterDevice && (stat.stx_rdev_major, stat.stx_rdev_minor) == (0, 0)
}

/// Whether the mark would make a whiteout of it.
pub(super) fn may_be_marked(stat: &Statx) -> bool {
    let kind = FileType::from_raw_mode(stat.stx_mode.into());
    kind == FileType::RegularFile && stat.stx_size == 0 && stat.stx_mode & 0o7777 == 0
}
