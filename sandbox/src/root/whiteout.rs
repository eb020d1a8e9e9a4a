//! Whiteouts: what says in an upper folder, or in a layer's tree, that something below it is gone.
//!
//! A character device 0:0, which anybody may make (Linux 5.8) except on an overlay; there an empty file of mode 0 with the
//! attribute `user.overlay.whiteout` stands for it, as overlays know it themselves (Linux 6.7).

use super::attributes;
use rustix::fd::{AsFd, BorrowedFd};
use rustix::fs::{self as rfs, FileType, Mode, OFlags, Statx, XattrFlags};
use rustix::io::Errno;
use std::ffi::OsStr;

/// Attribute of such a file.
pub const MARK: &str = "user.overlay.whiteout";

/// Makes a whiteout; nothing has this name.
///
/// # Errors
/// Whatever creating a file fails with; `EEXIST` when there is one.
pub fn make(folder: BorrowedFd<'_>, name: &OsStr) -> Result<(), Errno> {
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
    if !may_be_marked(stat.stx_mode.into(), stat.stx_size) {
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

/// Whether the mark would make a whiteout of what has a mode (with the kind) and a size in bytes.
#[must_use]
pub fn may_be_marked(mode: u32, size: u64) -> bool {
    let kind = FileType::from_raw_mode(mode);
    kind == FileType::RegularFile && size == 0 && mode & 0o7777 == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn a_marked_file_stands_for_a_device() {
        let folder = tempfile::tempdir().unwrap();
        let open = std::fs::File::open(folder.path()).unwrap();
        make(open.as_fd(), OsStr::new("device")).unwrap();
        assert_eq!(make(open.as_fd(), OsStr::new("device")), Err(Errno::EXIST));
        make_marked(open.as_fd(), OsStr::new("file")).unwrap();
        std::fs::write(folder.path().join("other"), "x").unwrap();
        let stat = |name: &str| attributes::stat(open.as_fd(), OsStr::new(name)).unwrap();
        let marked = |stat: &Statx| may_be_marked(stat.stx_mode.into(), stat.stx_size);
        for (name, expected) in [("file", true), ("device", false), ("other", false)] {
            assert_eq!(marked(&stat(name)), expected, "{name}");
        }
        for (name, expected) in [("file", true), ("device", true), ("other", false)] {
            let found = is(open.as_fd(), OsStr::new(name), &stat(name)).unwrap();
            assert_eq!(found, expected, "{name}");
        }
        let device = std::fs::symlink_metadata(folder.path().join("device")).unwrap();
        assert_eq!(device.rdev(), 0);
    }
}
