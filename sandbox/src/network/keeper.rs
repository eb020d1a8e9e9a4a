//! The keeper: process 1 of a pid namespace, which makes the build's network namespace and holds what serves it.
//!
//! It and all its children end with the helper. What it starts finds the namespace as a file: processes of different rights
//! may not look into each other's `/proc`, and nobody is to look into this one, whose memory is the helper's.

use super::launch::{self, Waiting};
use super::{Answer, NetworkKind, PrivateNetwork, Wanted, host_note, make_namespace, routes, tun};
use crate::fail::{Failure, Stage};
use crate::helper::close_all_but;
use crate::init::die_with_parent;
use crate::sys::{self, SingleThreaded};
use crate::wire::{self, Kind, Request};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::MountFlags;
use rustix::process::{DumpableBehavior, WaitOptions};
use std::path::Path;

const OWN_NAMESPACE: &str = "/proc/thread-self/ns/net";

/// Namespaces that the process is started in.
pub(crate) const CLONE_FLAGS: i32 = libc::CLONE_NEWPID | libc::CLONE_NEWNS;

/// Body of the process.
pub(crate) fn main(one: SingleThreaded, request: Request, reply: OwnedFd, life: &OwnedFd) -> ! {
    let (answer, namespace) = match serve(one, request, &reply, life) {
        Ok((network, note, namespace)) => (Answer::Made { network, note }, namespace),
        Err(failure) => (Answer::Failed(failure), None),
    };
    let bytes = serde_json::to_vec(&answer).unwrap_or_default();
    let fds: Vec<_> = namespace.iter().map(AsFd::as_fd).collect();
    let _ = wire::send_request(reply.as_fd(), Kind::Network, 0, &fds, &bytes);
    drop(reply);
    // As long as the program runs: its end is the last child's.
    while matches!(
        rustix::process::wait(WaitOptions::empty()),
        Ok(_) | Err(Errno::INTR)
    ) {}
    sys::exit_now(0)
}

type Made = (PrivateNetwork, Option<String>, Option<OwnedFd>);

fn serve(
    one: SingleThreaded,
    mut request: Request,
    reply: &OwnedFd,
    life: &OwnedFd,
) -> Result<Made, Failure> {
    let mut kept = request.descriptors();
    kept.extend([reply, life]);
    close_all_but(&kept).stage("close inherited descriptors")?;
    die_with_parent(life)?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .stage("protect the keeper of the network")?;
    let _ = rustix::thread::set_name(c"kiln-network");
    let bytes = request.payload.take().stage("read the request")?;
    let wanted: Wanted = serde_json::from_slice(&bytes)
        .map_err(|_| Failure::new("read the request", Errno::BADMSG))?;
    make_network(one, &wanted)
}

fn make_network(one: SingleThreaded, wanted: &Wanted) -> Result<Made, Failure> {
    if !routes::read().lead_out {
        make_namespace(one)?;
        let note = "this machine has no network, so commands have the loopback interface only";
        return Ok((LOOPBACK, Some(note.to_owned()), Some(own_namespace()?)));
    }
    let host = |why: &str, fix: &str| {
        let note = Some(host_note(why, fix));
        Ok((PrivateNetwork::HOST, note, None))
    };
    if wanted.programs.is_empty() {
        return host(&wanted.missing, "");
    }
    if let Some((why, fix)) = tun::obstacle() {
        if wanted.forced {
            return Err(Failure::new(why, Errno::ACCESS).detail(fix));
        }
        return host(&why, fix);
    }
    let file = place().stage("make a place for the network namespace")?;
    let mut waiting: Vec<Waiting> = Vec::new();
    for (program, path) in &wanted.programs {
        let forked = launch::fork(one, *program, path, file, wanted.host_access);
        waiting.push(forked.stage("fork")?);
    }
    let made = make_namespace(one).and_then(|()| {
        rustix::mount::mount_bind(OWN_NAMESPACE, file).stage("mount the network namespace")
    });
    if let Err(failure) = made {
        if wanted.forced {
            return Err(failure);
        }
        let why = format!("could not {}: {}", failure.stage, failure.errno());
        return host(&why, "sysctl user.max_net_namespaces");
    }
    let mut words = Vec::new();
    for program in waiting {
        match program.start() {
            Ok((network, note)) => {
                words.extend(note);
                let host = network.host.filter(|_| wanted.host_access);
                let network = PrivateNetwork { host, ..network };
                let note = (!words.is_empty()).then(|| words.join("; "));
                return Ok((network, note, Some(own_namespace()?)));
            }
            Err(said) => words.push(said),
        }
    }
    let words = words.join("; ");
    if wanted.forced {
        return Err(Failure::new("give the build a network", Errno::NETUNREACH).detail(words));
    }
    host(&words, "")
}

const LOOPBACK: PrivateNetwork = PrivateNetwork {
    kind: NetworkKind::Loopback,
    name_server: None,
    host: None,
};

/// An empty file in memory, for this mount namespace alone, to find the network namespace at. In a folder in which
/// AppArmor's profile of pasta allows it, and in which neither program looks for anything.
fn place() -> Result<&'static str, Errno> {
    let (over, folder, file) = if Path::new("/run/user").is_dir() {
        ("/run/user", Some("/run/user/0"), "/run/user/0/network")
    } else {
        ("/tmp", None, "/tmp/network")
    };
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount("tmpfs", over, "tmpfs", flags, c"mode=755")?;
    if let Some(folder) = folder {
        rustix::fs::mkdir(folder, Mode::from_raw_mode(0o755))?;
    }
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
    rustix::fs::open(file, flags, Mode::from_raw_mode(0o644))?;
    Ok(file)
}

fn own_namespace() -> Result<OwnedFd, Failure> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, OWN_NAMESPACE, flags, Mode::empty()).stage("open the network namespace")
}
