//! What a command sees at `/sys/fs/cgroup`: its own groups and nothing above them, read-only; nothing where it has none of
//! its own.
//!
//! With the host's network `/sys` is the host's, whose groups are covered. A build makes no group unless a limit is asked
//! for, so that most commands have none to be shown.

use crate::fail::Failure;
use crate::mounts::new_mount;
use crate::resolve;
use crate::rootfs;
use rustix::fd::{AsFd as _, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
use std::ffi::OsStr;
use std::path::Path;

/// Where groups are looked for.
const PLACE: &str = "sys/fs/cgroup";

const ATTRIBUTES: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_RDONLY
    .union(MountAttrFlags::MOUNT_ATTR_NOSUID)
    .union(MountAttrFlags::MOUNT_ATTR_NODEV)
    .union(MountAttrFlags::MOUNT_ATTR_NOEXEC);

/// A hierarchy in which this process is in a group of its own: its controllers in version 1, none in version 2.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Own(Vec<String>);

/// Hides the host's groups in the `/sys` of a root. Without the folder there are none.
pub(crate) fn cover(root: &OwnedFd) -> Result<(), Failure> {
    let stage = |errno| Failure::new("hide the host's control groups", errno);
    let place = match resolve::place(root, Path::new(PLACE)) {
        Ok(place) => place,
        Err(Errno::NOENT) => return Ok(()),
        Err(errno) => return Err(stage(errno)),
    };
    let empty = new_mount("tmpfs", &[("mode", "755"), ("size", "4k")], ATTRIBUTES)?;
    rootfs::attach(&empty, &place).map_err(stage)
}

/// The hierarchies in which this process has left the group that its namespace of control groups begins at.
pub(crate) fn entered() -> Vec<Own> {
    parse(&std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default())
}

fn parse(text: &str) -> Vec<Own> {
    let hierarchies = text.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        let is_named = controllers.starts_with("name=");
        (path != "/" && !is_named).then(|| {
            let names = controllers.split(',').filter(|name| !name.is_empty());
            Own(names.map(str::to_owned).collect())
        })
    });
    hierarchies.collect()
}

/// Shows them to the command, from a process that is in its root and in a namespace of control groups that begins at them.
/// What the kernel does not let be mounted is not shown.
pub(crate) fn show(own: &[Own]) {
    let _ = mount(own);
}

fn mount(own: &[Own]) -> Result<(), Errno> {
    let Some(first) = own.first() else {
        return Ok(());
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let place = rustix::fs::openat(CWD, Path::new("/").join(PLACE), flags, Mode::empty())?;
    if let ([only], true) = (own, first.0.is_empty()) {
        return rootfs::attach(&hierarchy(only)?, &place);
    }
    let writable = ATTRIBUTES.difference(MountAttrFlags::MOUNT_ATTR_RDONLY);
    let folder = new_mount("tmpfs", &[("mode", "755"), ("size", "64k")], writable)
        .map_err(|failure| failure.errno())?;
    for own in own.iter().filter(|own| !own.0.is_empty()) {
        let Ok(tree) = hierarchy(own) else { continue };
        let inside = resolve::make_folder(&folder, OsStr::new(&own.0.join(",")), None)?;
        rootfs::attach(&tree, &inside)?;
    }
    crate::sys::mount_setattr(&folder, MountAttrFlags::MOUNT_ATTR_RDONLY, false)?;
    rootfs::attach(&folder, &place)
}

/// A mount of a hierarchy as this process's namespace has it.
fn hierarchy(own: &Own) -> Result<OwnedFd, Errno> {
    let kind = if own.0.is_empty() {
        "cgroup2"
    } else {
        "cgroup"
    };
    let context = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_set_string(&context, "source", "cgroup")?;
    for controller in &own.0 {
        rustix::mount::fsconfig_set_flag(context.as_fd(), controller.as_str())?;
    }
    rustix::mount::fsconfig_create(&context)?;
    rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, ATTRIBUTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_with_a_group_of_their_own() {
        let own = |names: &[&str]| Own(names.iter().map(|name| (*name).to_owned()).collect());
        for (text, expected) in [
            ("", vec![]),
            ("0::/\n", vec![]),
            ("0::/kiln-1-0\n", vec![own(&[])]),
            (
                "9:name=systemd:/x\n8:pids:/\n4:memory:/../kiln-1-0\n1:cpu,cpuacct:/a:b\n0::/\n",
                vec![own(&["memory"]), own(&["cpu", "cpuacct"])],
            ),
        ] {
            assert_eq!(parse(text), expected, "{text}");
        }
    }
}
