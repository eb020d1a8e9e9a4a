//! Everything mounted into a command's root: `/proc`, `/dev`, `/sys`, what is hidden in them, and the mounts asked for.

use crate::cgroup;
use crate::fail::{Failure, Stage};
use crate::init::Start;
use crate::notify::Owners;
use crate::probe::fixes;
use crate::resolve;
use crate::rootfs::{self, Point, Root, Scratch, Way};
use crate::sys;
use crate::{Device, Mode as IsolationMode, Mount, RunSpec};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{CWD, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// What a command must not see (containerd's list): folders become empty, files read as nothing.
const MASKED: [&str; 12] = [
    "proc/acpi",
    "proc/asound",
    "proc/interrupts",
    "proc/kcore",
    "proc/keys",
    "proc/latency_stats",
    "proc/sched_debug",
    "proc/scsi",
    "proc/timer_list",
    "proc/timer_stats",
    "sys/devices/virtual/powercap",
    "sys/firmware",
];
/// What a command must not change.
const READ_ONLY: [&str; 5] = [
    "proc/bus",
    "proc/fs",
    "proc/irq",
    "proc/sys",
    "proc/sysrq-trigger",
];
/// Device nodes of `/dev`, bound from the host's.
pub(crate) const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];
/// Device nodes that a command with all privileges gets besides, where the host has them.
const PRIVILEGED_DEVICES: [&str; 11] = [
    "fuse",
    "kmsg",
    "loop-control",
    "loop0",
    "loop1",
    "loop2",
    "loop3",
    "loop4",
    "loop5",
    "loop6",
    "loop7",
];
/// Links in `/dev`.
pub(crate) const LINKS: [(&str, &str); 6] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("core", "/proc/kcore"),
    ("ptmx", "pts/ptmx"),
];
/// Size of `/dev/shm` when none is asked for, in bytes.
const SHM_SIZE: u64 = 64 << 20;

const NOSUID: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID;
const NODEV: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NODEV;
const NOEXEC: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOEXEC;
const RDONLY: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_RDONLY;
const RECURSIVE_CLONE: OpenTreeFlags = OpenTreeFlags::OPEN_TREE_CLONE
    .union(OpenTreeFlags::OPEN_TREE_CLOEXEC)
    .union(OpenTreeFlags::AT_RECURSIVE);

/// A mount that is asked for, ready to be attached.
#[derive(Debug)]
struct Prepared {
    tree: OwnedFd,
    point: Point,
    /// Recorded, where there is a single id.
    owner: Option<(u32, u32)>,
}

/// Builds the whole root of a command and returns it, attached but not entered. Owners of mounts go into the records, where
/// there are any.
pub(crate) fn build_root(
    spec: &RunSpec,
    start: &Start<'_>,
    mut owners: Option<&mut Owners>,
) -> Result<Root, Failure> {
    let scratch = Scratch::new()?;
    let way = Way {
        kind: start.root,
        keeper: start.keeper,
        scratch: &scratch,
        work: spec.root.upper.as_ref().map(|(_, work)| work.as_path()),
        keep: &spec.keep,
    };
    let mut prepared = Vec::new();
    for mount in &spec.mounts {
        prepared.push(prepare(mount, &way, owners.is_some())?);
    }
    for device in &spec.devices {
        prepared.push(prepare_device(device)?);
    }
    let mut points: Vec<Point> = ["proc", "dev", "sys"]
        .map(|path| Point {
            path: path.into(),
            folder: true,
        })
        .into();
    for Prepared { point, .. } in &prepared {
        // What lies inside an earlier mount is made there, when it is mounted.
        if points
            .iter()
            .any(|outer| outer.folder && point.path.starts_with(&outer.path))
        {
            continue;
        }
        points.push(Point {
            path: point.path.clone(),
            folder: point.folder,
        });
    }
    let whole = rootfs::mount_root(&spec.root, &points, &way)?;
    let root = &whole.mount;
    scratch.attach(root)?;
    mount_proc(root, start.mode)?;
    mount_dev(root, spec)?;
    let own_network = start.new_network || start.joins_network;
    mount_sys(root, own_network, spec.insecure)?;
    if !spec.insecure {
        hide(root, &scratch)?;
    }
    for Prepared { tree, point, owner } in prepared {
        attach_inside(root, &tree, &point)?;
        if let (Some(owners), Some(owner)) = (owners.as_deref_mut(), owner) {
            owners
                .set(tree.as_fd(), owner)
                .stage_with(|| format!("record the owner of /{}", point.path.display()))?;
        }
    }
    Ok(whole)
}

/// A new instance of a file system, not attached yet.
pub(crate) fn new_mount(
    kind: &str,
    options: &[(&str, &str)],
    attributes: MountAttrFlags,
) -> Result<OwnedFd, Failure> {
    let stage = || format!("mount {kind}");
    let context = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).stage_with(stage)?;
    rustix::mount::fsconfig_set_string(&context, "source", kind).stage_with(stage)?;
    for (key, value) in options {
        rustix::mount::fsconfig_set_string(&context, *key, *value).stage_with(stage)?;
    }
    rustix::mount::fsconfig_create(&context).stage_with(stage)?;
    rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes).stage_with(stage)
}

/// A detached clone of a mount, or of the part below an open file or folder.
pub(crate) fn clone_of(place: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    rustix::mount::open_tree(place, "", flags)
}

/// Attaches one of the system's own mounts. An image in which `/proc` is a link would have it, and all that is hidden in
/// it, somewhere else: it is refused, as runc does.
fn attach_at(root: &OwnedFd, tree: &OwnedFd, path: &str) -> Result<(), Failure> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::DIRECTORY;
    let place = resolve::open_in(root, Path::new(path), flags).map_err(|errno| {
        let failure = Failure::new(format!("mount /{path}"), errno);
        if errno == Errno::NOTDIR {
            failure.detail("it is not a folder in the image")
        } else {
            failure
        }
    })?;
    rootfs::attach(tree, &place).stage_with(|| format!("mount /{path}"))
}

/// In a nested sandbox it is the surrounding container's, with all that hides parts of it: a new one would show them.
fn mount_proc(root: &OwnedFd, mode: IsolationMode) -> Result<(), Failure> {
    if mode == IsolationMode::Nested {
        let proc = rustix::mount::open_tree(CWD, "/proc", RECURSIVE_CLONE)
            .stage("open the surrounding /proc")?;
        sys::mount_setattr(&proc, NOSUID | NODEV | NOEXEC, true)
            .stage("set the attributes of /proc")?;
        return attach_at(root, &proc, "proc");
    }
    attach_at(root, &new_proc()?, "proc")
}

/// A new `/proc` of this process's pid namespace, not attached yet.
pub(crate) fn new_proc() -> Result<OwnedFd, Failure> {
    new_mount("proc", &[], NOSUID | NODEV | NOEXEC).map_err(|failure| no_proc(failure.errno()))
}

/// Why a new `/proc` cannot be mounted.
pub(crate) fn no_proc(errno: Errno) -> Failure {
    let failure = Failure::new("mount a new /proc", errno);
    if errno == Errno::PERM {
        return failure.detail(fixes::here().whole_proc());
    }
    failure
}

fn mount_dev(root: &OwnedFd, spec: &RunSpec) -> Result<(), Failure> {
    let dev = new_mount(
        "tmpfs",
        &[("mode", "755"), ("size", "65536k")],
        NOSUID | NODEV,
    )?;
    attach_at(root, &dev, "dev")?;
    let privileged: &[&str] = if spec.insecure {
        &PRIVILEGED_DEVICES
    } else {
        &[]
    };
    for name in DEVICES.iter().chain(privileged).copied() {
        let stage = || format!("make /dev/{name}");
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let tree = match rustix::mount::open_tree(CWD, format!("/dev/{name}"), flags) {
            // A surrounding container may have fewer.
            Err(Errno::NOENT) => continue,
            result => result.stage_with(stage)?,
        };
        let place = resolve::make_file(&dev, OsStr::new(name)).stage_with(stage)?;
        rootfs::attach(&tree, &place).stage_with(stage)?;
    }
    for (name, target) in LINKS {
        rustix::fs::symlinkat(target, &dev, name).stage_with(|| format!("make /dev/{name}"))?;
    }
    let attach_new = |name: &str, tree: OwnedFd| {
        let stage = || format!("mount /dev/{name}");
        let place = resolve::make_folder(&dev, OsStr::new(name), None).stage_with(stage)?;
        rootfs::attach(&tree, &place).stage_with(stage)
    };
    // A devpts is always an instance of its own (Linux 4.7).
    attach_new(
        "pts",
        new_mount(
            "devpts",
            &[("ptmxmode", "0666"), ("mode", "0620")],
            NOSUID | NOEXEC,
        )?,
    )?;
    let shm_size = spec.shm_size.unwrap_or(SHM_SIZE).to_string();
    // As BuildKit's, without nodev: no device opens on what a user namespace mounted, whatever the flag.
    attach_new(
        "shm",
        new_mount("tmpfs", &[("mode", "1777"), ("size", &shm_size)], NOSUID)?,
    )?;
    attach_new("mqueue", new_mount("mqueue", &[], NOSUID | NODEV | NOEXEC)?)
}

/// A new sysfs shows the network namespace it is mounted in, which must belong to this user namespace; with the host's
/// network it can only be the host's. Read-only with all that is mounted in it, unless the command has all privileges: what
/// it may change then, the kernel knows.
fn mount_sys(root: &OwnedFd, own_network: bool, writable: bool) -> Result<(), Failure> {
    let mut attributes = NOSUID | NODEV | NOEXEC;
    if !writable {
        attributes |= RDONLY;
    }
    if own_network && let Ok(sys) = new_mount("sysfs", &[], attributes) {
        return attach_at(root, &sys, "sys");
    }
    let sys = match rustix::mount::open_tree(CWD, "/sys", RECURSIVE_CLONE) {
        // The root around a step that was sent here may hold nothing but what was sent with it.
        Err(Errno::NOENT) => {
            let nothing = new_mount("tmpfs", &[("mode", "555"), ("size", "4k")], attributes)?;
            return attach_at(root, &nothing, "sys");
        }
        result => result.stage("mount /sys")?,
    };
    sys::mount_setattr(&sys, attributes, true).stage("set the attributes of /sys")?;
    attach_at(root, &sys, "sys")?;
    cgroup::view::cover(root)
}

fn hide(root: &OwnedFd, scratch: &Scratch) -> Result<(), Failure> {
    let empty = scratch.folder()?;
    let null = resolve::place(root, Path::new("dev/null")).stage("open /dev/null")?;
    for path in MASKED {
        let stage = || format!("hide /{path}");
        let Some(place) = place_if_there(root, path).stage_with(stage)? else {
            continue;
        };
        let tree = if resolve::is_folder(&place).stage_with(stage)? {
            let tree = clone_of(empty.as_fd()).stage_with(stage)?;
            sys::mount_setattr(&tree, RDONLY | NOSUID | NODEV | NOEXEC, false).stage_with(stage)?;
            tree
        } else {
            clone_of(null.as_fd()).stage_with(stage)?
        };
        rootfs::attach(&tree, &place).stage_with(stage)?;
    }
    for path in READ_ONLY {
        let stage = || format!("make /{path} read-only");
        let Some(place) = place_if_there(root, path).stage_with(stage)? else {
            continue;
        };
        // With what a surrounding container mounted in it, which cannot be left out.
        let flags = RECURSIVE_CLONE | OpenTreeFlags::AT_EMPTY_PATH;
        let tree = rustix::mount::open_tree(&place, "", flags).stage_with(stage)?;
        sys::mount_setattr(&tree, RDONLY, true).stage_with(stage)?;
        rootfs::attach(&tree, &place).stage_with(stage)?;
    }
    Ok(())
}

fn place_if_there(root: &OwnedFd, path: &str) -> Result<Option<OwnedFd>, Errno> {
    match resolve::place(root, Path::new(path)) {
        Ok(place) => Ok(Some(place)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

fn prepare(mount: &Mount, way: &Way<'_>, records: bool) -> Result<Prepared, Failure> {
    let scratch = way.scratch;
    let mut owner = None;
    let (tree, target) = match mount {
        Mount::Overlay {
            overlay,
            source,
            target,
            readonly,
        } => {
            let mounted = rootfs::mount_plain(overlay, way)?;
            scratch.attach(&mounted)?;
            (
                part_of(&mounted, &resolve::clean(source), *readonly)?,
                target,
            )
        }
        Mount::Bind {
            source,
            subpath,
            target,
            readonly,
            nosuid,
            noexec,
            owner: asked,
        } => {
            owner = *asked;
            let stage = || format!("open {}", source.display());
            let folder = rustix::fs::open(source, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
                .stage_with(stage)?;
            let tree = whole_part_of(&folder, &resolve::clean(subpath))?;
            let mut attributes = NODEV;
            attributes.set(RDONLY, *readonly);
            attributes.set(NOSUID, *nosuid);
            attributes.set(NOEXEC, *noexec);
            sys::mount_setattr(&tree, attributes, true)
                .stage_with(|| format!("set the attributes of the mount for {target}"))?;
            (tree, target)
        }
        Mount::Tmpfs { target, size, mode } => {
            let size = size.map(|bytes| bytes.to_string());
            let mode = format!("{mode:o}");
            let mut options = vec![("mode", mode.as_str())];
            options.extend(size.as_deref().map(|size| ("size", size)));
            (new_mount("tmpfs", &options, NOSUID | NODEV)?, target)
        }
        Mount::File {
            target,
            data,
            mode,
            uid,
            gid,
        } => {
            let stage = || format!("make the file {target} in memory");
            let mut on_disk = (*uid, *gid);
            if records && on_disk != (0, 0) {
                owner = Some(on_disk);
                on_disk = (0, 0);
            }
            (
                file_in_memory(scratch, data, *mode, on_disk).stage_with(stage)?,
                target,
            )
        }
    };
    let folder =
        resolve::is_folder(&tree).stage_with(|| format!("look at the mount for {target}"))?;
    Ok(Prepared {
        tree,
        point: Point {
            path: resolve::clean(target),
            folder,
        },
        owner,
    })
}

/// A detached mount of what a path inside a folder or file leads to.
fn part_of(whole: &OwnedFd, path: &Path, readonly: bool) -> Result<OwnedFd, Failure> {
    let stage = || format!("find /{} in the mount's source", path.display());
    let tree = if path.as_os_str().is_empty() {
        clone_of(whole.as_fd()).stage_with(stage)?
    } else {
        clone_of(resolve::place(whole, path).stage_with(stage)?.as_fd()).stage_with(stage)?
    };
    let attributes = if readonly { NODEV | RDONLY } else { NODEV };
    sys::mount_setattr(&tree, attributes, false)
        .stage_with(|| format!("set the attributes of the mount of /{}", path.display()))?;
    Ok(tree)
}

/// A detached mount of what a path inside a folder or file of the host leads to, with all that is mounted in it: only so
/// may a user namespace clone mounts that it did not make.
fn whole_part_of(whole: &OwnedFd, path: &Path) -> Result<OwnedFd, Failure> {
    let stage = || format!("find /{} in the mount's source", path.display());
    let place = if path.as_os_str().is_empty() {
        None
    } else {
        Some(resolve::place(whole, path).stage_with(stage)?)
    };
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE
        | OpenTreeFlags::AT_EMPTY_PATH;
    rustix::mount::open_tree(place.as_ref().unwrap_or(whole), "", flags).stage_with(stage)
}

/// A device node of the host, for [`Device`].
fn prepare_device(device: &Device) -> Result<Prepared, Failure> {
    let stage = || format!("find the device {}", device.source.display());
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = rustix::mount::open_tree(CWD, &device.source, flags).stage_with(stage)?;
    if resolve::is_folder(&tree).stage_with(stage)? {
        return Err(Failure::new(stage(), Errno::ISDIR));
    }
    Ok(Prepared {
        tree,
        point: Point {
            path: resolve::clean(&device.target),
            folder: false,
        },
        owner: None,
    })
}

fn file_in_memory(
    scratch: &Scratch,
    data: &[u8],
    mode: u32,
    (uid, gid): (u32, u32),
) -> Result<OwnedFd, Errno> {
    let file = scratch.file().map_err(|failure| failure.errno())?;
    let mut left = data;
    while !left.is_empty() {
        let written = rustix::io::retry_on_intr(|| rustix::io::write(&file, left))?;
        left = &left[written..];
    }
    if (uid, gid) != (0, 0) {
        rustix::fs::fchown(&file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
    }
    rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?;
    let tree = clone_of(file.as_fd())?;
    sys::mount_setattr(&tree, RDONLY | NOSUID | NODEV, false)?;
    Ok(tree)
}

fn attach_inside(root: &OwnedFd, tree: &OwnedFd, point: &Point) -> Result<(), Failure> {
    let stage = || format!("mount /{}", point.path.display());
    let place = match resolve::place(root, &point.path) {
        Ok(place) => place,
        Err(Errno::NOENT) => make_inside_a_mount(root, point)?,
        Err(errno) => return Err(Failure::new(stage(), errno)),
    };
    rootfs::check_type(&place, point)?;
    rootfs::attach(tree, &place).stage_with(stage)
}

/// A mount point inside an earlier mount. In the root itself it would end up in the image.
fn make_inside_a_mount(root: &OwnedFd, point: &Point) -> Result<OwnedFd, Failure> {
    let stage = || format!("make the mount point /{}", point.path.display());
    let walk = resolve::walk(root.as_fd(), &point.path).stage_with(stage)?;
    let parent = walk.folders.last().map_or(root, |(_, fd)| fd);
    if sys::mount_id(parent).stage_with(stage)? == sys::mount_id(root).stage_with(stage)? {
        return Err(Failure::new(stage(), Errno::NOENT));
    }
    let missing: PathBuf = walk.missing.iter().collect();
    if point.folder {
        return resolve::make_folders(parent, &missing, None);
    }
    let name = missing
        .file_name()
        .ok_or_else(|| Failure::new(stage(), Errno::NOENT))?;
    let parent = resolve::make_folders(parent, missing.parent().unwrap_or(Path::new("")), None)?;
    resolve::make_file(&parent, name).stage_with(stage)
}
