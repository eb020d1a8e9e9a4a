//! What can be tried only in the build's own namespace: the other namespaces, and what may be mounted there.

use super::outside::open_device;
use super::{Fact, Place, fixes, in_child};
use crate::fail::Failure;
use crate::ladder::{self, Lost};
use crate::namespace::{self, Refusal};
use crate::overlay::{self, Layer, Layers, Spare};
use crate::sys::{self, SingleThreaded};
use crate::wire::Hello;
use crate::{Isolation, mounts};
use rustix::fd::AsFd;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{FsOpenFlags, MountAttrFlags};
use rustix::thread::UnshareFlags;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The namespaces of a command beside the user namespace.
const NAMESPACES: [(&str, &str, &str, UnshareFlags); 6] = [
    (
        "mount-namespace",
        "mount namespaces",
        "CLONE_NEWNS",
        UnshareFlags::NEWNS,
    ),
    (
        "pid-namespace",
        "pid namespaces",
        "CLONE_NEWPID",
        UnshareFlags::NEWPID,
    ),
    (
        "ipc-namespace",
        "ipc namespaces",
        "CLONE_NEWIPC",
        UnshareFlags::NEWIPC,
    ),
    (
        "uts-namespace",
        "uts namespaces",
        "CLONE_NEWUTS",
        UnshareFlags::NEWUTS,
    ),
    (
        "cgroup-namespace",
        "cgroup namespaces",
        "CLONE_NEWCGROUP",
        UnshareFlags::NEWCGROUP,
    ),
    (
        "net-namespace",
        "network namespaces",
        "CLONE_NEWNET",
        UnshareFlags::NEWNET,
    ),
];

/// What a child that was to enter the namespace came to.
#[derive(Serialize, Deserialize)]
enum Outcome {
    Facts(Vec<Fact>),
    NeedsSingle(String),
    Refused(Failure),
}

pub(super) fn facts(one: SingleThreaded, place: &Place) -> Vec<Fact> {
    let fact = Fact::new(
        "build-namespace",
        "the build's namespace",
        "its ids and its mounts",
    );
    let refused = |failure: Failure| {
        let mut fix = fixes::here().namespaces(failure.errno());
        if fix.is_empty() {
            fix = failure.detail.unwrap_or_default();
        }
        vec![Fact {
            errno: Some(failure.errno),
            found: format!("could not {}", failure.stage),
            fix,
            ..fact.clone()
        }]
    };
    let mut single = None;
    loop {
        match enter_and_try(one, place, single.clone()) {
            Ok(Outcome::Facts(facts)) => return facts,
            Ok(Outcome::NeedsSingle(reason)) if single.is_none() => single = Some(reason),
            Ok(Outcome::NeedsSingle(reason)) => return vec![fact.missing(reason, "")],
            Ok(Outcome::Refused(failure)) => return refused(failure),
            Err(errno) => return refused(Failure::new("enter it", errno)),
        }
    }
}

fn enter_and_try(
    one: SingleThreaded,
    place: &Place,
    single: Option<String>,
) -> Result<Outcome, Errno> {
    let text = in_child(one, || {
        let hello = Hello {
            stores: vec![place.store.clone()],
            single,
            none: None,
            volumes: Vec::new(),
            isolation: Isolation::Auto,
            root: None,
        };
        let outcome = match namespace::enter(one, &hello) {
            Ok(entered) => {
                let mut facts = vec![
                    Fact::new(
                        "build-namespace",
                        "the build's namespace",
                        "its ids and its mounts",
                    )
                    .works(format!("{} ids", entered.mapping)),
                ];
                facts.extend(try_all(one, place));
                Outcome::Facts(facts)
            }
            Err(Refusal::NeedsSingle(reason)) => Outcome::NeedsSingle(reason),
            Err(Refusal::NoNamespace(failure) | Refusal::Failed(failure)) => {
                Outcome::Refused(failure)
            }
        };
        serde_json::to_string(&outcome).map_err(|_| Errno::BADMSG)
    })?;
    serde_json::from_str(&text).map_err(|_| Errno::BADMSG)
}

fn try_all(one: SingleThreaded, place: &Place) -> Vec<Fact> {
    let mut facts: Vec<Fact> = NAMESPACES
        .iter()
        .map(|(id, name, flag, flags)| {
            let outcome = in_child(one, || sys::unshare(one, *flags).map(|()| String::new()));
            Fact::new(id, name, &format!("unshare({flag})"))
                .of(outcome, |errno| fixes::here().namespaces(errno))
        })
        .collect();
    facts.push(proc(one));
    facts.push(sysfs(one));
    for kind in ["tmpfs", "devpts", "mqueue"] {
        let outcome = in_child(one, || {
            sys::unshare(one, UnshareFlags::NEWIPC)?;
            new_mount(kind)
        });
        let fact = Fact::new(kind, &format!("a new {kind}"), &format!("fsmount({kind})"));
        facts.push(fact.of(outcome, |errno| fixes::here().namespaces(errno)));
    }
    facts.push(overlay(one, &place.scratch));
    facts.push(added_layers(one, &place.scratch));
    facts.push(device(one, "fuse-device", "/dev/fuse"));
    facts.push(device(one, "tun-device", "/dev/net/tun"));
    facts.push(binfmt(one));
    facts
}

fn new_mount(kind: &str) -> Result<String, Errno> {
    mounts::new_mount(kind, &[], MountAttrFlags::empty())
        .map(|_| String::new())
        .map_err(|failure| failure.errno())
}

fn proc(one: SingleThreaded) -> Fact {
    let fact = Fact::new("proc", "a new /proc", "fsmount(proc)");
    match ladder::probe_run(one) {
        Ok(Lost { proc: None, .. }) => fact.works(""),
        Ok(Lost {
            proc: Some(failure),
            ..
        }) => Fact {
            errno: Some(failure.errno),
            fix: failure.detail.unwrap_or_default(),
            ..fact
        },
        Err(failure) => Fact {
            errno: Some(failure.errno),
            found: format!("could not {}", failure.stage),
            fix: fixes::here().namespaces(failure.errno()),
            ..fact
        },
    }
}

fn sysfs(one: SingleThreaded) -> Fact {
    let outcome = in_child(one, || {
        sys::unshare(one, UnshareFlags::NEWNET)?;
        new_mount("sysfs")
    });
    Fact::new("sysfs", "a new /sys", "fsmount(sysfs)").of(outcome, |_| {
        "the surrounding container hides parts of its own; what it shows is bound".to_owned()
    })
}

/// An overlay as a command gets it, in the store: its file system decides.
fn overlay(one: SingleThreaded, scratch: &Path) -> Fact {
    let outcome = in_child(one, || {
        let folders = ["lower", "upper", "work", "spare"].map(|name| scratch.join(name));
        for folder in &folders {
            std::fs::create_dir_all(folder)
                .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        }
        let open = |path: &Path| {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::open(path, flags, Mode::empty())
        };
        let (upper, work, parent) = (open(&folders[1])?, open(&folders[2])?, open(scratch)?);
        let layers = Layers {
            lowers: vec![Layer::Path(&folders[0])],
            upper: Some((upper.as_fd(), work.as_fd())),
        };
        let spare = Spare {
            parent: parent.as_fd(),
            name: "spare".to_owned(),
        };
        let mounted = overlay::mount(&layers, &spare).map_err(|failure| failure.errno())?;
        let file = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
        rustix::fs::openat(&mounted, "file", file, Mode::RWXU).map(|_| String::new())
    });
    Fact::new(
        "overlay",
        "overlay file systems in the store",
        "fsmount(overlay) with an upper folder in the store",
    )
    .of(outcome, |errno| match errno {
        Errno::INVAL => "the store lies on an overlay, as in a container: give it a volume (ext4, xfs, btrfs and tmpfs can hold one)".to_owned(),
        Errno::PERM => "Linux 5.11 or newer mounts overlays for users".to_owned(),
        Errno::NODEV => "load the kernel's module overlay".to_owned(),
        Errno::ROFS => "put the store on ext4, xfs, btrfs or tmpfs".to_owned(),
        _ => String::new(),
    })
}

fn added_layers(one: SingleThreaded, scratch: &Path) -> Fact {
    let outcome = in_child(one, || {
        let lower = scratch.join("lower");
        std::fs::create_dir_all(&lower)
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        let context = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        rustix::mount::fsconfig_set_string(&context, "lowerdir+", lower.as_path())
            .map(|()| String::new())
    });
    Fact::new(
        "overlay-many",
        "overlays of very many layers",
        "fsconfig(lowerdir+)",
    )
    .of(outcome, |_| "Linux 6.8 or newer".to_owned())
}

fn device(one: SingleThreaded, id: &str, path: &str) -> Fact {
    let outcome = in_child(one, || open_device(path));
    Fact::new(id, path, "open for reading and writing").of(outcome, |errno| match errno {
        Errno::NOENT => {
            let module = path.rsplit('/').next().unwrap_or(path);
            format!("`modprobe {module}` on the machine; a container gets it by `--device {path}`")
        }
        Errno::ACCESS | Errno::PERM => {
            format!("`chmod 666 {path}` as root; a container gets it by `--device {path}`")
        }
        _ => String::new(),
    })
}

fn binfmt(one: SingleThreaded) -> Fact {
    let outcome = in_child(one, || new_mount("binfmt_misc"));
    Fact::new(
        "binfmt-namespace",
        "emulators of a build's own",
        "fsmount(binfmt_misc) in the user namespace",
    )
    .of(outcome, |_| {
        "Linux 6.7 or newer with binfmt_misc (`modprobe binfmt_misc`)".to_owned()
    })
}
