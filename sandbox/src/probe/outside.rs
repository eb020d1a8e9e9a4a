//! What can be tried without being in the build's namespace: ids, programs, file systems, the kernel itself.

use super::{Fact, Place, fixes, in_child};
use crate::cgroup::Group;
use crate::namespace;
use crate::subid::{self, Mapper};
use crate::sys::{self, SingleThreaded};
use crate::{Resources, ladder};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::thread::{CapabilitySet, UnshareFlags};
use std::path::Path;

/// Where the host's emulators are registered.
const BINFMT: &str = "/proc/sys/fs/binfmt_misc";

pub(super) fn facts(one: SingleThreaded, place: &Place) -> Vec<Fact> {
    let mut facts = vec![kernel(), user_namespace(one)];
    facts.extend(subordinate_ids());
    facts.push(id_mapped_mounts(one, place));
    facts.push(change_of_root());
    facts.push(device_nodes());
    facts.extend([reflink(place), fuse_overlayfs(place)]);
    facts.extend([filter(one), notification(one), landlock()]);
    facts.push(control_groups());
    facts.extend(limits());
    for (id, package) in [("pasta", "passt"), ("slirp4netns", "slirp4netns")] {
        facts.push(program(place, id, package));
    }
    facts.push(emulators_of_the_host());
    facts.push(emulators(place));
    facts
}

fn kernel() -> Fact {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let modules = std::fs::read_to_string("/sys/kernel/security/lsm").unwrap_or_default();
    let mut found = format!("Linux {}", release.trim());
    if !modules.is_empty() {
        found.push_str(&format!(" with {}", modules.trim().replace(',', ", ")));
    }
    if fixes::here().is_container() {
        found.push_str(", in a container");
    }
    Fact::new("kernel", "kernel", "/proc/sys/kernel/osrelease").works(found)
}

fn user_namespace(one: SingleThreaded) -> Fact {
    let outcome = in_child(one, || {
        sys::unshare(one, UnshareFlags::NEWUSER).map(|()| String::new())
    });
    Fact::new(
        "user-namespace",
        "user namespaces",
        "unshare(CLONE_NEWUSER)",
    )
    .of(outcome, |errno| fixes::here().namespaces(errno))
}

/// Ranges of ids in both files, and the programs that map them.
fn subordinate_ids() -> Vec<Fact> {
    let (uid, gid) = (
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
    );
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = subid::login_name(&passwd, uid);
    let who = name.map_or_else(|| uid.to_string(), str::to_owned);
    let mut facts = Vec::new();
    for (file, mapper, own, option) in [
        ("/etc/subuid", "newuidmap", uid, "--add-subuids"),
        ("/etc/subgid", "newgidmap", gid, "--add-subgids"),
    ] {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let ranges = subid::ranges(&text, name, uid);
        let id = file.rsplit('/').next().unwrap_or(file);
        let fact = Fact::new(id, &format!("ids of {who} in {file}"), file);
        facts.push(if ranges.is_empty() {
            let fix = format!("`usermod {option} 100000-165535 {who}`");
            fact.missing("no line", fix)
        } else {
            let count: u64 = ranges.iter().map(|range| u64::from(range.count)).sum();
            fact.works(format!("{count} from {}", ranges[0].start))
        });
        facts.push(id_mapper(mapper, own));
    }
    facts
}

fn id_mapper(name: &str, own: u32) -> Fact {
    let fact = Fact::new(name, name, "the system's folders of programs");
    let Some(mapper) = Mapper::find(name, own, &[]) else {
        return fact.missing(
            "not installed",
            "install the package uidmap (Debian, Ubuntu) or shadow-utils (Fedora)",
        );
    };
    let program = mapper.program();
    let shown = program.display().to_string();
    match fixes::here().mapper(program) {
        fix if fix.is_empty() => fact.works(shown),
        fix => fact.missing(shown, fix),
    }
}

/// Of root only: a user's own mounts cannot be mapped.
fn id_mapped_mounts(one: SingleThreaded, place: &Place) -> Fact {
    let fact = Fact::new(
        "id-mapped-mounts",
        "id-mapped mounts",
        "mount_setattr(MOUNT_ATTR_IDMAP) of the store",
    );
    if !rustix::process::geteuid().is_root() {
        return fact.missing("only root may map the ids of a mount", "");
    }
    let outcome = in_child(one, || {
        namespace::try_idmapped(one, vec![place.store.clone()])
            .map(|()| String::new())
            .map_err(|failure| failure.errno())
    });
    fact.of(outcome, |errno| match errno {
        Errno::PERM => "root needs CAP_SYS_ADMIN: a container has it with `--privileged`".to_owned(),
        Errno::INVAL => "the store's file system cannot (ext4, xfs, btrfs and tmpfs can on newer kernels): put the store on another, as a volume".to_owned(),
        Errno::NOSYS => "Linux 5.12 or newer".to_owned(),
        _ => fixes::here().namespaces(errno),
    })
}

fn change_of_root() -> Fact {
    let fact = Fact::new(
        "chroot",
        "change of root without namespaces",
        "effective capabilities",
    );
    if ladder::may_chroot() {
        return fact.works("");
    }
    let fix = format!("run as root with {}", ladder::CHROOT_NEEDS);
    fact.missing("capabilities are missing", fix)
}

fn device_nodes() -> Fact {
    let fact = Fact::new("mknod", "device nodes", "effective capabilities");
    let everything = std::fs::read_to_string("/proc/self/uid_map")
        .is_ok_and(|map| map.split_whitespace().eq(["0", "0", "4294967295"]));
    if namespace::is_root_with(CapabilitySet::MKNOD) && everything {
        return fact.works("");
    }
    fact.missing(
        "device nodes are left out of layers that are unpacked",
        "run as root with CAP_MKNOD",
    )
}

fn reflink(place: &Place) -> Fact {
    let (from, to) = (place.scratch.join("from"), place.scratch.join("to"));
    let attempt = || {
        std::fs::write(&from, [1; 4096]).map_err(|error| errno_of(&error))?;
        let source = std::fs::File::open(&from).map_err(|error| errno_of(&error))?;
        let target = std::fs::File::create(&to).map_err(|error| errno_of(&error))?;
        rustix::fs::ioctl_ficlone(&target, &source).map(|()| String::new())
    };
    let outcome = attempt();
    let _ = std::fs::remove_file(&from);
    let _ = std::fs::remove_file(&to);
    Fact::new(
        "reflink",
        "copies that share their blocks",
        "ioctl(FICLONE) in the store",
    )
    .of(outcome, |_| "put the store on xfs or btrfs".to_owned())
}

fn errno_of(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

fn fuse_overlayfs(place: &Place) -> Fact {
    let fact = program(place, "fuse-overlayfs", "fuse-overlayfs");
    let only = "taken only by `--sandbox-root fuse-overlayfs`, as its layers can be wrong";
    Fact {
        found: format!("{}; {only}", fact.found),
        ..fact
    }
}

fn program(place: &Place, name: &str, package: &str) -> Fact {
    let fact = Fact::new(name, name, "PATH");
    match place.program(name) {
        Some(path) => fact.works(path.display().to_string()),
        None => fact.missing("not installed", format!("install the package {package}")),
    }
}

/// A filter that lets everything pass.
fn open_filter() -> [libc::sock_filter; 1] {
    const RETURN: u16 = 0x06;
    [libc::sock_filter {
        code: RETURN,
        jt: 0,
        jf: 0,
        k: libc::SECCOMP_RET_ALLOW,
    }]
}

/// Tried with no_new_privs, so that it needs no capability: what a namespace gives is another question.
fn filter(one: SingleThreaded) -> Fact {
    let outcome = in_child(one, || {
        rustix::thread::set_no_new_privs(true)?;
        sys::load_seccomp(&open_filter()).map(|()| String::new())
    });
    Fact::new(
        "seccomp",
        "seccomp filters",
        "seccomp(SECCOMP_SET_MODE_FILTER)",
    )
    .of(outcome, no_seccomp)
}

fn notification(one: SingleThreaded) -> Fact {
    let outcome = in_child(one, || {
        rustix::thread::set_no_new_privs(true)?;
        crate::notify::load(&open_filter()).map(|_| String::new())
    });
    Fact::new(
        "seccomp-notify",
        "notifications of system calls",
        "seccomp(SECCOMP_FILTER_FLAG_NEW_LISTENER)",
    )
    .of(outcome, |errno| match errno {
        Errno::BUSY => {
            "a filter around this process has a listener already, and there can be one only"
                .to_owned()
        }
        errno => no_seccomp(errno),
    })
}

fn no_seccomp(errno: Errno) -> String {
    match errno {
        Errno::NOSYS | Errno::INVAL => {
            "a kernel with CONFIG_SECCOMP_FILTER, Linux 5.0 or newer".to_owned()
        }
        _ => String::new(),
    }
}

fn landlock() -> Fact {
    let outcome = sys::landlock_version().map(|version| format!("ABI {version}"));
    Fact::new(
        "landlock",
        "Landlock",
        "landlock_create_ruleset(LANDLOCK_CREATE_RULESET_VERSION)",
    )
    .of(outcome, |errno| match errno {
        Errno::OPNOTSUPP => {
            "it is turned off: add landlock to the kernel's boot parameter lsm=".to_owned()
        }
        Errno::NOSYS => "Linux 5.13 or newer with CONFIG_SECURITY_LANDLOCK".to_owned(),
        errno => fixes::here().namespaces(errno),
    })
}

fn control_groups() -> Fact {
    let fact = Fact::new("cgroup", "control groups", "/proc/self/cgroup");
    let text = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let unified = Path::new("/sys/fs/cgroup/cgroup.controllers");
    let is_old = text.lines().any(|line| {
        line.split(':')
            .nth(1)
            .is_some_and(|names| !names.is_empty())
    });
    match (std::fs::read_to_string(unified), is_old) {
        (Ok(controllers), _) => fact.works(format!("version 2: {}", controllers.trim())),
        (Err(_), true) => {
            let mut names: Vec<&str> = text
                .lines()
                .filter_map(|line| line.split(':').nth(1))
                .filter(|names| !names.is_empty() && !names.starts_with("name="))
                .collect();
            names.sort_unstable();
            fact.works(format!("version 1: {}", names.join(" ")))
        }
        (Err(_), false) => fact.missing("not mounted", "mount cgroup2 on /sys/fs/cgroup"),
    }
}

/// Each limit is really set on a group of its own, which is removed again.
fn limits() -> Vec<Fact> {
    let memory = Resources {
        memory: Some(1 << 30),
        ..Resources::default()
    };
    let pids = Resources {
        pids: Some(1000),
        ..Resources::default()
    };
    let cpu = Resources {
        cpu_quota: Some(100_000),
        cpu_period: Some(100_000),
        ..Resources::default()
    };
    [
        ("memory-limit", "limits of memory", memory),
        ("pids-limit", "limits of processes", pids),
        ("cpu-limit", "limits of processors", cpu),
    ]
    .into_iter()
    .map(|(id, name, resources)| {
        let fact = Fact::new(id, name, "a control group of its own");
        match Group::new(&resources) {
            Ok(_) => fact.works(""),
            Err(failure) => Fact {
                errno: Some(failure.errno),
                fix: failure.detail.unwrap_or_default(),
                ..fact
            },
        }
    })
    .collect()
}

fn emulators_of_the_host() -> Fact {
    let fact = Fact::new("binfmt", "emulators that the host registered", BINFMT);
    let mut names: Vec<String> = std::fs::read_dir(BINFMT)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.starts_with("qemu-"))
        .filter(|name| {
            std::fs::read_to_string(Path::new(BINFMT).join(name)).is_ok_and(|text| {
                let flags = text.lines().find_map(|line| line.strip_prefix("flags: "));
                text.starts_with("enabled") && flags.is_some_and(|flags| flags.contains('F'))
            })
        })
        .collect();
    names.sort_unstable();
    if names.is_empty() {
        return fact.missing(
            "none with the flag F",
            "as root of the machine: install qemu-user-static with binfmt-support, or `docker run --privileged tonistiigi/binfmt --install all`",
        );
    }
    fact.works(names.join(" "))
}

fn emulators(place: &Place) -> Fact {
    let fact = Fact::new("qemu", "emulators", "qemu-*-static, qemu-* in PATH");
    let mut names: Vec<String> = std::env::split_paths(&place.search_path)
        .flat_map(|folder| std::fs::read_dir(folder).into_iter().flatten())
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.starts_with("qemu-") && name.ends_with("-static"))
        .collect();
    names.sort_unstable();
    names.dedup();
    match names.as_slice() {
        [] => fact.missing("none", "install the package qemu-user-static"),
        [one] => fact.works(one.clone()),
        [first, .., last] => fact.works(format!("{} from {first} to {last}", names.len())),
    }
}

/// Opens a device as a program would that needs it.
pub(super) fn open_device(path: &str) -> Result<String, Errno> {
    rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map(|_| String::new())
}
