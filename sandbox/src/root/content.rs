//! The content of files, copied: blocks are shared where the file system can do that, else it is copied in the kernel.

use rustix::fd::OwnedFd;
use rustix::fs::{self as rfs, SeekFrom, Statx};
use rustix::io::Errno;

/// Files up to this size are copied through memory, which is one call less than asking the kernel.
const SMALL: u64 = 64 << 10;

/// Copies a file's content: by sharing blocks, unless that is known not to work here, and with its holes.
pub(super) fn copy(
    from: &OwnedFd,
    to: &OwnedFd,
    stat: &Statx,
    reflink: &mut bool,
) -> Result<(), Errno> {
    if *reflink {
        match rfs::ioctl_ficlone(to, from) {
            Ok(()) => return Ok(()),
            Err(Errno::OPNOTSUPP | Errno::NOTTY | Errno::NOSYS) => *reflink = false,
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

/// Copies a file's content, without its holes.
pub(super) fn whole(from: &OwnedFd, to: &OwnedFd, stat: &Statx) -> Result<(), Errno> {
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
