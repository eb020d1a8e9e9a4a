//! Attributes of files and folders: owner, mode, times, extended attributes.

use rustix::fd::{AsFd, BorrowedFd};
use rustix::fs::{
    self as rfs, AtFlags, Gid, Mode, Statx, StatxFlags, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// The kernel's bound on the names of all attributes, and on the value of one.
const MOST: usize = 65536;
/// Says of a folder in overlay form that it hides what lies below it.
pub(super) const OPAQUE: &str = "user.overlay.opaque";

/// Extended attributes by name, without those that speak to an overlay mount.
pub(super) type Xattrs = Vec<(Box<[u8]>, Box<[u8]>)>;

/// What is looked at of every entry.
pub(crate) fn stat(folder: impl AsFd, name: &OsStr) -> Result<Statx, Errno> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
    rfs::statx(folder, name, flags, wanted)
}

/// [`stat`] of what is open.
pub(super) fn stat_of(fd: impl AsFd) -> Result<Statx, Errno> {
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
    rfs::statx(fd, "", AtFlags::EMPTY_PATH, wanted)
}

/// Whether an attribute means something to an overlay mount and nothing to anybody else.
pub(super) fn is_overlays_own(name: &[u8]) -> bool {
    name.starts_with(b"user.overlay.")
        || name.starts_with(b"trusted.overlay.")
        || name.starts_with(b"user.fuseoverlayfs.")
}

pub(super) fn names(fd: BorrowedFd<'_>) -> Result<Vec<Box<[u8]>>, Errno> {
    let mut buffer = [0_u8; 1024];
    let mut large;
    let list: &[u8] = match rfs::flistxattr(fd, &mut buffer) {
        Ok(len) => &buffer[..len],
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Err(Errno::RANGE) => {
            large = vec![0_u8; MOST];
            let len = rfs::flistxattr(fd, large.as_mut_slice())?;
            &large[..len]
        }
        Err(errno) => return Err(errno),
    };
    let names = list
        .split(|&byte| byte == 0)
        .filter(|name| !name.is_empty());
    Ok(names.map(Box::from).collect())
}

/// The value of an attribute; `None` when it is not there.
pub(super) fn value(fd: BorrowedFd<'_>, name: &OsStr) -> Result<Option<Box<[u8]>>, Errno> {
    let mut buffer = [0_u8; 256];
    let found = match rfs::fgetxattr(fd, name, &mut buffer) {
        Ok(len) => Ok(Box::from(&buffer[..len])),
        Err(Errno::RANGE) => {
            let mut large = vec![0_u8; MOST];
            rfs::fgetxattr(fd, name, large.as_mut_slice()).map(|len| Box::from(&large[..len]))
        }
        Err(errno) => Err(errno),
    };
    match found {
        Ok(value) => Ok(Some(value)),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
        Err(errno) => Err(errno),
    }
}

pub(super) fn xattrs(fd: BorrowedFd<'_>) -> Result<Xattrs, Errno> {
    let mut found = Vec::new();
    for name in names(fd)? {
        if is_overlays_own(&name) {
            continue;
        }
        if let Some(value) = value(fd, OsStr::from_bytes(&name))? {
            found.push((name, value));
        }
    }
    found.sort();
    Ok(found)
}

/// Whether a folder of a layer hides what lies below it.
pub(super) fn is_opaque(folder: BorrowedFd<'_>) -> Result<bool, Errno> {
    for name in [
        OPAQUE,
        "trusted.overlay.opaque",
        "user.fuseoverlayfs.opaque",
    ] {
        let found = match value(folder, OsStr::new(name)) {
            // Only the host's root sees trusted attributes.
            Err(Errno::PERM | Errno::ACCESS) => None,
            found => found?,
        };
        if found.as_deref() == Some(b"y") {
            return Ok(true);
        }
    }
    Ok(false)
}

pub(super) fn times(stat: &Statx) -> Timestamps {
    let time = |time: rfs::StatxTimestamp| Timespec {
        tv_sec: time.tv_sec,
        tv_nsec: time.tv_nsec.into(),
    };
    Timestamps {
        last_access: time(stat.stx_atime),
        last_modification: time(stat.stx_mtime),
    }
}

/// Gives an open file or folder the attributes of another. The owner comes first, since changing it takes capabilities and
/// set-uid bits away; the times last.
pub(super) fn apply(fd: BorrowedFd<'_>, stat: &Statx, xattrs: &Xattrs) -> Result<(), Errno> {
    let now = rfs::fstat(fd)?;
    if (now.st_uid, now.st_gid) != (stat.stx_uid, stat.stx_gid) {
        let (uid, gid) = (Uid::from_raw(stat.stx_uid), Gid::from_raw(stat.stx_gid));
        rfs::fchown(fd, Some(uid), Some(gid))?;
    }
    for (name, value) in xattrs {
        match rfs::fsetxattr(fd, OsStr::from_bytes(name), value, XattrFlags::empty()) {
            // What this namespace or file system cannot set; labels of security modules come by themselves.
            Ok(()) | Err(Errno::PERM | Errno::OPNOTSUPP | Errno::INVAL) => {}
            Err(errno) => return Err(errno),
        }
    }
    rfs::fchmod(fd, Mode::from_raw_mode(u32::from(stat.stx_mode) & 0o7777))?;
    rfs::futimens(fd, &times(stat))
}

/// The same for what cannot be opened: links, FIFOs, devices, sockets.
pub(super) fn apply_at(folder: impl AsFd, name: &OsStr, stat: &Statx) -> Result<(), Errno> {
    let folder = folder.as_fd();
    let (uid, gid) = (Uid::from_raw(stat.stx_uid), Gid::from_raw(stat.stx_gid));
    let now = rfs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if (now.st_uid, now.st_gid) != (stat.stx_uid, stat.stx_gid) {
        rfs::chownat(
            folder,
            name,
            Some(uid),
            Some(gid),
            AtFlags::SYMLINK_NOFOLLOW,
        )?;
    }
    let mode = u32::from(stat.stx_mode);
    if rfs::FileType::from_raw_mode(mode) != rfs::FileType::Symlink {
        rfs::chmodat(
            folder,
            name,
            Mode::from_raw_mode(mode & 0o7777),
            AtFlags::empty(),
        )?;
    }
    rfs::utimensat(folder, name, &times(stat), AtFlags::SYMLINK_NOFOLLOW)
}

/// Removes the attributes of a folder that are not among those to keep; labels of security modules stay.
pub(super) fn drop_others(folder: BorrowedFd<'_>, kept: &Xattrs) -> Result<(), Errno> {
    for name in names(folder)? {
        let known = kept.iter().any(|(known, _)| *known == name);
        if !known && !is_overlays_own(&name) && !name.starts_with(b"security.") {
            rfs::fremovexattr(folder, OsStr::from_bytes(&name))?;
        }
    }
    Ok(())
}

/// Sets the time of modification alone, in seconds and nanoseconds.
pub(super) fn set_modified(
    fd: BorrowedFd<'_>,
    (seconds, nanoseconds): (i64, u32),
) -> Result<(), Errno> {
    let time = |tv_sec, tv_nsec| Timespec { tv_sec, tv_nsec };
    let times = Timestamps {
        last_access: time(0, rfs::UTIME_OMIT),
        last_modification: time(seconds, nanoseconds.into()),
    };
    rfs::futimens(fd, &times)
}
