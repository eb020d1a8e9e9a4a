//! `/dev/net/tun`, without which no program can give a namespace a network.

use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags};
use std::path::Path;

const PATH: &str = "/dev/net/tun";
/// Anybody may open the device, as udev has it: it gives a process nothing that its namespaces do not.
const MODE: Mode = Mode::from_raw_mode(0o666);

/// Root's part, in its own mount namespace and before it enters the build's user namespace: where the device is for the
/// host's root only, a node of ours lies over it. Failure shows later, when the device is tried.
pub(crate) fn open_to_the_build() {
    let Ok(stat) = rustix::fs::stat(PATH) else {
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
    rustix::fs::mknodat(&tree, "tun", FileType::CharacterDevice, MODE, device)?;
    rustix::fs::chmodat(&tree, "tun", MODE, rustix::fs::AtFlags::empty())?;
    let folder = Path::new(PATH).parent().unwrap_or(Path::new("/"));
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    rustix::mount::move_mount(&tree, "", CWD, folder, flags)
}

/// Why the device cannot be used here, and what would help.
pub(super) fn obstacle() -> Option<(String, &'static str)> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let errno = rustix::fs::open(PATH, flags, Mode::empty()).err()?;
    let fix = match errno {
        Errno::ACCESS | Errno::PERM => "chmod 0666 /dev/net/tun",
        Errno::NOENT => "modprobe tun; in a container, start it with `--device /dev/net/tun`",
        _ => "modprobe tun",
    };
    Some((format!("{PATH} cannot be opened: {errno}"), fix))
}
