//! `/dev/fuse`, by which a program serves a file system.

use crate::fail::{Failure, Stage};
use rustix::fd::OwnedFd;
use rustix::fs::{self as rfs, Mode, OFlags};
use rustix::io::Errno;

pub(crate) const PATH: &str = "/dev/fuse";

/// Opens it in the namespace that the mount will belong to, as the kernel demands.
pub(super) fn open() -> Result<OwnedFd, Failure> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let opened = rfs::open(PATH, flags, Mode::empty()).stage("open /dev/fuse");
    opened.map_err(|failure| {
        let fix = match failure.errno() {
            Errno::ACCESS => "chmod 0666 /dev/fuse",
            Errno::NODEV | Errno::NXIO => "modprobe fuse",
            _ => "a container gets it by `--device /dev/fuse`",
        };
        failure.detail(fix)
    })
}
