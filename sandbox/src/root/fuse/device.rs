//! `/dev/fuse`, by which a program serves a file system.

use crate::fail::{Failure, Stage};
use rustix::fd::OwnedFd;
use rustix::fs::{self as rfs, AtFlags, CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags};

const PATH: &str = "/dev/fuse";
/// Anybody may open the device, as udev has it: it gives a process nothing that its namespaces do not.
const MODE: Mode = Mode::from_raw_mode(0o666);

/// Root's part, in its own mount namespace and before it enters the build's user namespace: where the device is for the
/// host's root only, a node of ours lies over it. Failure shows later, when the device is opened.
pub(crate) fn open_to_the_build() {
    let Ok(stat) = rfs::stat(PATH) else {
        return;
    };
    if stat.st_mode & 0o006 != 0o006 {
        let _ = cover(stat.st_rdev);
    }
}

fn cover(device: u64) -> Result<(), Errno> {
    let context = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_create(&context)?;
    let flags = FsMountFlags::FSMOUNT_CLOEXEC;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let tree = rustix::mount::fsmount(&context, flags, attributes)?;
    rfs::mknodat(&tree, "fuse", FileType::CharacterDevice, MODE, device)?;
    rfs::chmodat(&tree, "fuse", MODE, AtFlags::empty())?;
    // Of the tree itself no part can be moved, and it can be cloned only where it is attached.
    let beneath = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    rustix::mount::move_mount(&tree, "", CWD, "/tmp", beneath)?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let node = rustix::mount::open_tree(&tree, "fuse", flags);
    rustix::mount::unmount("/tmp", rustix::mount::UnmountFlags::DETACH)?;
    rustix::mount::move_mount(node?, "", CWD, PATH, beneath)
}

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
