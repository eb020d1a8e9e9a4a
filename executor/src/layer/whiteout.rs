//! Whiteouts in trees of layers: a character device 0:0. An overlay lets nobody make one, as where the store lies on a
//! container's own root; there an empty file of mode 0 with an attribute of overlays stands for it (Linux 6.7).

use rustix::fd::BorrowedFd;
use rustix::fs::{self as rfs, FileType, Mode, OFlags, Stat, XattrFlags};
use rustix::io::Errno;
use std::ffi::OsStr;

/// Attribute of such a file.
pub(super) const MARK: &str = "user.overlay.whiteout";

/// Makes a whiteout; nothing has this name.
pub(super) fn make(folder: BorrowedFd<'_>, name: &OsStr) -> Result<(), Errno> {
    match rfs::mknodat(folder, name, FileType::CharacterDevice, Mode::empty(), 0) {
        Err(Errno::PERM) => make_marked(folder, name),
        made => made,
    }
}

fn make_marked(folder: BorrowedFd<'_>, name: &OsStr) -> Result<(), Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rfs::openat(folder, name, flags, Mode::empty())?;
    rfs::fsetxattr(&file, MARK, b"y", XattrFlags::empty())
}

/// Whether the mark makes a whiteout of a file.
pub(super) fn may_be_marked(stat: &Stat) -> bool {
    let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    is_file && stat.st_size == 0 && stat.st_mode & 0o7777 == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn a_marked_file_stands_for_a_device() {
        let folder = tempfile::tempdir().unwrap();
        let open = std::fs::File::open(folder.path()).unwrap();
        make(open.as_fd(), OsStr::new("device")).unwrap();
        assert_eq!(make(open.as_fd(), OsStr::new("device")), Err(Errno::EXIST));
        make_marked(open.as_fd(), OsStr::new("file")).unwrap();
        let stat = |name: &str| rfs::statat(&open, name, rfs::AtFlags::empty()).unwrap();
        assert!(may_be_marked(&stat("file")));
        assert!(!may_be_marked(&stat("device")));
        std::fs::write(folder.path().join("other"), "x").unwrap();
        assert!(!may_be_marked(&stat("other")));
        let device = std::fs::symlink_metadata(folder.path().join("device")).unwrap();
        assert_eq!(device.rdev(), 0);
    }
}
