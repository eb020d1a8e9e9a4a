//! The command's own process without namespaces, from its fork to its exec: inside its fence before anything else.

use super::{landlock, processes};
use crate::capability;
use crate::command;
use crate::fail::{Failure, Stage};
use crate::seccomp::Filter;
use crate::sys::{self, SingleThreaded};
use crate::terminal;
use crate::wire::{self, RunReply};
use crate::{RunSpec, Security, limits, resolve};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::Signal;
use rustix::thread::{CapabilitySet, CapabilitySets};
use std::path::Path;

/// Docker's capabilities but those by which root leaves a changed root, makes devices, or speaks for the container's network.
pub(super) const KEPT: CapabilitySet = capability::DEFAULT
    .difference(CapabilitySet::SYS_CHROOT)
    .difference(CapabilitySet::MKNOD)
    .difference(CapabilitySet::NET_RAW);
/// What can be given besides when it is asked for.
pub(super) const POSSIBLE: CapabilitySet = KEPT.union(CapabilitySet::NET_RAW);

/// What a command has by these settings, if it is root. What would break its fence is refused.
pub(super) fn capabilities(security: &Security) -> Result<CapabilitySet, Failure> {
    let stage = "choose capabilities";
    let wanted = capability::of(security)
        .map_err(|reason| Failure::new(stage, Errno::INVAL).detail(reason))?;
    let breaks = |name: &&String| {
        capability::by_name(name).is_none_or(|capability| !POSSIBLE.contains(capability))
    };
    if let Some(name) = security.cap_add.iter().find(breaks) {
        let stage = format!("give a command the capability {name}");
        return Err(Failure::new(stage, Errno::OPNOTSUPP)
            .detail("in chroot isolation root could leave its fence by it"));
    }
    Ok(wanted & (KEPT | named(&security.cap_add)))
}

fn named(names: &[String]) -> CapabilitySet {
    names
        .iter()
        .filter_map(|name| capability::by_name(name))
        .fold(CapabilitySet::empty(), CapabilitySet::union)
}

/// What the command's process needs.
#[derive(Debug)]
pub(crate) struct Inside<'a> {
    pub(crate) one: SingleThreaded,
    pub(crate) spec: &'a RunSpec,
    pub(crate) profile: Option<&'a Filter>,
    pub(crate) root: &'a OwnedFd,
    pub(crate) output: [BorrowedFd<'a>; 2],
    pub(crate) capabilities: CapabilitySet,
    /// Version of Landlock.
    pub(crate) landlock: u32,
}

/// Body of the command's process.
pub(crate) fn main(inside: &Inside<'_>, collar: processes::Collar, reply: &OwnedFd) -> ! {
    if let Err(failure) = prepare(inside, collar) {
        let _ = wire::send_answer(reply.as_fd(), &RunReply::Failed(failure));
        sys::exit_now(command::NOT_EXECUTABLE);
    }
    let _ = wire::send_answer(reply.as_fd(), &RunReply::Started);
    let (code, message) = command::execute(inside.spec);
    let _ = rustix::io::write(rustix::stdio::stderr(), message.as_bytes());
    sys::exit_now(code)
}

fn prepare(inside: &Inside<'_>, collar: processes::Collar) -> Result<(), Failure> {
    let Inside { spec, root, .. } = inside;
    rustix::process::setsid().stage("start a session")?;
    rustix::thread::set_no_new_privs(true).stage("give up new privileges")?;
    let devices = resolve::open_in(root, Path::new("dev"), OFlags::PATH).stage("open /dev")?;
    landlock::restrict(inside.landlock, root.as_fd(), devices.as_fd())
        .stage("fence the command in with Landlock")?;
    drop(devices);
    let scoped = landlock::scopes_signals(inside.landlock);
    if scoped {
        collar
            .start_guard(inside.one)
            .stage("start the guard of the command")?;
    } else {
        drop(collar);
    }
    standard_streams(inside)?;
    sys::close_range(3, u32::MAX, true).stage("mark inherited descriptors")?;
    sys::join_new_session_keyring();
    rustix::process::fchdir(root).stage("enter the root")?;
    rustix::process::chroot(".").stage("change the root")?;
    let cwd = Path::new("/").join(resolve::clean(&spec.cwd));
    rustix::process::chdir(&cwd).stage_with(|| format!("enter the folder {}", cwd.display()))?;
    sys::load_seccomp(&super::fence::filter(scoped)).stage("load the filter of the fence")?;
    if let Some(profile) = inside.profile {
        sys::load_seccomp(profile.instructions()).stage("load the seccomp filter")?;
    }
    // A program that may be given what is not in this set cannot be executed, though no_new_privs keeps it from being given.
    drop_bounding_set(inside.capabilities | CapabilitySet::NET_RAW)?;
    command::become_user(spec)?;
    if spec.uid == 0 {
        reduce_capabilities(inside.capabilities)?;
    }
    limits::set(&spec.limits)?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    // Lost by the change of ids; a supervisor that is killed takes at least the command along, whatever becomes of the guard.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .stage("tie the command to its supervisor")?;
    sys::reset_signals();
    Ok(())
}

/// The copy's own `/dev/null` is the input: by a descriptor of the container's its owner and mode could be changed.
fn standard_streams(inside: &Inside<'_>) -> Result<(), Failure> {
    let [stdout, stderr] = inside.output;
    if inside.spec.terminal {
        // There is no devpts of its own.
        let terminal = terminal::take(stdout, None)?;
        command::set_streams([terminal.as_fd(); 3])?;
        return rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())
            .stage("take the terminal as the controlling one");
    }
    let null = resolve::open_in(inside.root, Path::new("dev/null"), OFlags::RDONLY)
        .stage("open /dev/null")?;
    command::set_streams([null.as_fd(), stdout, stderr])
}

fn drop_bounding_set(kept: CapabilitySet) -> Result<(), Failure> {
    for bit in 0..64 {
        let capability = CapabilitySet::from_bits_retain(1 << bit);
        if kept.contains(capability) {
            continue;
        }
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            // Beyond the last one this kernel knows, or without CAP_SETPCAP: no_new_privs keeps what is dropped from coming back.
            Err(Errno::INVAL | Errno::PERM) => return Ok(()),
            result => result.stage("drop capabilities")?,
        }
    }
    Ok(())
}

/// Of what the container has, what is kept.
fn reduce_capabilities(wanted: CapabilitySet) -> Result<(), Failure> {
    let stage = "drop capabilities";
    let had = rustix::thread::capabilities(None).stage(stage)?;
    let kept = had.permitted & wanted;
    let sets = CapabilitySets {
        effective: kept,
        permitted: kept,
        inheritable: CapabilitySet::empty(),
    };
    rustix::thread::set_capabilities(None, sets).stage(stage)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_that_break_the_fence_are_refused() {
        let of = |add: &[&str], drop: &[&str]| {
            let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
            capabilities(&Security {
                cap_add: names(add),
                cap_drop: names(drop),
                ..Security::default()
            })
            .map_err(|failure| failure.stage)
        };
        assert_eq!(of(&[], &[]), Ok(KEPT));
        assert_eq!(
            of(&["NET_RAW"], &["CHOWN"]),
            Ok(POSSIBLE - CapabilitySet::CHOWN)
        );
        assert_eq!(of(&["KILL"], &["ALL"]), Ok(CapabilitySet::KILL));
        assert_eq!(of(&[], &["ALL"]), Ok(CapabilitySet::empty()));
        for name in [
            "SYS_CHROOT",
            "MKNOD",
            "SYS_PTRACE",
            "SYS_ADMIN",
            "DAC_READ_SEARCH",
            "ALL",
        ] {
            let refused = of(&[name], &[]).unwrap_err();
            assert!(refused.ends_with(name), "{refused}");
        }
    }
}
