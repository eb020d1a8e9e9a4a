//! Devices of the host that the build itself opens: what programs need to serve files and networks.

use rustix::fs::{self as rfs, AtFlags, CWD, FileType, Mode};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags};

/// Anybody may open them, as udev has it: they give a process nothing that its namespaces do not.
const MODE: Mode = Mode::from_raw_mode(0o666);
const NODE: &str = "node";

/// Root's part, in its own mount namespace and before it enters the build's user namespace: where a device is for the
/// host's root only, a node of ours lies over it. Failure shows later, when the device is opened.
pub(crate) fn open_to_the_build(path: &str) {
    let Ok(stat) = rfs::stat(path) else {
        return;
    };
    if stat.st_mode & 0o006 != 0o006 {
        let _ = cover(path, stat.st_rdev);
    }
}

fn cover(path: &str, device: u64) -> Result<(), Errno> {
    let context = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_create(&context)?;
    let flags = FsMountFlags::FSMOUNT_CLOEXEC;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let tree = rustix::mount::fsmount(&context, flags, attributes)?;
    rfs::mknodat(&tree, NODE, FileType::CharacterDevice, MODE, device)?;
    rfs::chmodat(&tree, NODE, MODE, AtFlags::empty())?;
    // Of the tree itself no part can be moved, and it can be cloned only where it is attached.
    let beneath = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    rustix::mount::move_mount(&tree, "", CWD, "/tmp", beneath)?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let node = rustix::mount::open_tree(&tree, NODE, flags);
    rustix::mount::unmount("/tmp", rustix::mount::UnmountFlags::DETACH)?;
    rustix::mount::move_mount(node?, "", CWD, path, beneath)
}
