//! `/dev/net/tun`, without which no program can give a namespace a network.

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

pub(crate) const PATH: &str = "/dev/net/tun";

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
