//! Roots by fuse-overlayfs, where the kernel's overlay cannot be mounted.
//!
//! The process that needs a root mounts it itself, as it does with the kernel's overlay, and hands the open device to a
//! keeper, which has fuse-overlayfs serve it. The keeper is process 1 of namespaces of its own beside those of the run:
//! commands neither see nor reach what serves their files, and it ends with the run, however that ends.

mod device;
mod keeper;
mod program;
mod upper;

pub(crate) use device::PATH as DEVICE;
pub(crate) use keeper::{Keeper, start};
pub(crate) use program::find;
pub(crate) use upper::Upper;

use crate::fail::{Failure, Stage};
use crate::overlay::{Layer, Layers};
use keeper::Served;
use rustix::fd::{AsRawFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
use std::path::PathBuf;

/// `default_permissions`: the kernel checks modes and owners, as everywhere. `allow_other`: all users of the namespace may
/// enter.
const FLAGS: [&str; 2] = ["default_permissions", "allow_other"];

/// Mounts layers that lie in the store, `nodev`. Not attached anywhere yet.
pub(crate) fn mount(layers: &Layers<'_>, keeper: &Keeper) -> Result<OwnedFd, Failure> {
    let stage = "mount the root by fuse-overlayfs";
    let served = Served {
        lowers: layers
            .lowers
            .iter()
            .map(path_of)
            .collect::<Result<_, _>>()
            .stage(stage)?,
        upper: match layers.upper {
            Some((upper, work)) => {
                let paths = path_of_open(upper).and_then(|upper| Ok((upper, path_of_open(work)?)));
                Some(paths.stage(stage)?)
            }
            None => None,
        },
    };
    let device = device::open()?;
    let context = rustix::mount::fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC)
        .stage(stage)
        .map_err(|failure| match failure.errno() {
            Errno::NODEV => failure.detail("modprobe fuse"),
            _ => failure,
        })?;
    let set = |key, value: &str| rustix::mount::fsconfig_set_string(&context, key, value);
    set("source", "fuse-overlayfs").stage(stage)?;
    set("fd", &device.as_raw_fd().to_string()).stage(stage)?;
    set("rootmode", "40000").stage(stage)?;
    set("user_id", "0").stage(stage)?;
    set("group_id", "0").stage(stage)?;
    for flag in FLAGS {
        rustix::mount::fsconfig_set_flag(&context, flag).stage(stage)?;
    }
    rustix::mount::fsconfig_create(&context).stage(stage)?;
    let mut attributes = MountAttrFlags::MOUNT_ATTR_NODEV;
    if layers.upper.is_none() {
        attributes |= MountAttrFlags::MOUNT_ATTR_RDONLY;
    }
    let flags = FsMountFlags::FSMOUNT_CLOEXEC;
    let mounted = rustix::mount::fsmount(&context, flags, attributes).stage(stage)?;
    keeper.serve(&served, &device)?;
    // When the program alone holds it, its end is the end of all waiting.
    drop(device);
    // Answered by the program, or by the end of it.
    match rustix::fs::fstat(&mounted) {
        Ok(_) => Ok(mounted),
        Err(errno) => {
            drop((mounted, context));
            Err(keeper
                .end()
                .err()
                .unwrap_or_else(|| Failure::new(stage, errno)))
        }
    }
}

fn path_of(layer: &Layer<'_>) -> Result<PathBuf, Errno> {
    match layer {
        Layer::Path(path) => Ok(path.to_path_buf()),
        Layer::Open(fd) => path_of_open(*fd),
    }
}

fn path_of_open(fd: BorrowedFd<'_>) -> Result<PathBuf, Errno> {
    use std::os::unix::ffi::OsStringExt;
    let name = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let path = rustix::fs::readlink(name, Vec::new())?;
    Ok(std::ffi::OsString::from_vec(path.into_bytes()).into())
}
