//! Commands without namespaces, in a container that allows none: as root in a changed root, fenced by Landlock and seccomp.
//!
//! A command works on a merged copy of its layers, which what it needs besides is moved into for the time; the builder's own
//! root is never touched. A supervisor stands in place of the first process of a pid namespace. What is not isolated here:
//! the network, System V and POSIX message queues, the host name, the process numbers, control groups.

mod calls;
mod command;
mod covers;
mod fence;
mod landlock;
mod mounts;
mod processes;

use crate::fail::{Failure, Stage};
use crate::helper::close_all_but;
use crate::init::{self, Start};
use crate::root::{self, Prepared};
use crate::seccomp::Filter;
use crate::sys;
use crate::wire::{self, Request, RunReply};
use crate::{Exit, Isolation, Mount, RunSpec, cgroup, resolve};
use covers::Covers;
use mounts::Giver;
use processes::Leash;
use rustix::event::{PollFd, PollFlags};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Pid, Signal, WaitOptions};
use rustix::thread::CapabilitySet;
use std::path::PathBuf;

/// By which a supervisor is told to kill all at once and to clean up; SIGKILL would keep it from the latter.
pub(crate) const END: Signal = Signal::INT;

const WITHOUT_LANDLOCK: &str = "NOT FENCED IN: this kernel has no Landlock, so that a command that is root reaches \
    what it should not if it finds a way out of its root; signals reach every process of the container";
const WITHOUT_SCOPES: &str = "commands can signal every process of the container, and reach its abstract sockets: Landlock \
    keeps those inside from Linux 6.12 on";
const WITHOUT_DEVICES: &str = "/dev/null is a plain file and other devices are missing, since device nodes cannot be made \
    or opened where the store is";
const SURROUNDINGS: &str = "commands have empty /proc and /sys, no new privileges (sudo and set-uid programs gain nothing), \
    and the container's network, host name and queues";

/// What is to be told of this mode here; an error when it is not possible.
pub(crate) fn probe(isolation: Isolation, stores: &[PathBuf]) -> Result<Vec<String>, Failure> {
    let mut notes = vec![SURROUNDINGS.to_owned()];
    let version = landlock::version();
    if version == 0 && isolation != Isolation::Chroot {
        return Err(
            Failure::new("fence commands in with Landlock", Errno::OPNOTSUPP).detail(
                "the kernel has none (Linux 5.13) or it is off (boot with `lsm=landlock,...`); \
             `--isolation=chroot` does without",
            ),
        );
    }
    if version == 0 {
        notes.push(WITHOUT_LANDLOCK.to_owned());
    } else if !landlock::scopes_signals(version) {
        notes.push(WITHOUT_SCOPES.to_owned());
    }
    if let Some(store) = stores.first() {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let store = rustix::fs::open(store, flags, Mode::empty())
            .stage_with(|| format!("open the folder {}", store.display()))?;
        if mounts::devices_work(&store).is_err() {
            notes.push(WITHOUT_DEVICES.to_owned());
        }
    }
    Ok(notes)
}

/// Makes this process, the helper, inherit what a killed supervisor leaves.
pub(crate) fn inherit_orphans() {
    let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
}

/// Kills what a killed supervisor left, which are this process's children now, but not those it knows.
pub(crate) fn end_orphans(known: &[Pid]) {
    processes::end_children(None, known);
}

/// Body of a command's supervisor. Ends when nothing of the command is left.
pub(crate) fn main(start: &Start<'_>, request: Request, reply: &OwnedFd) -> ! {
    let answer = match run(start, request, reply) {
        Ok(exit) => RunReply::Ended(exit),
        Err(failure) => RunReply::Failed(failure),
    };
    let _ = wire::send_answer(reply.as_fd(), &answer);
    sys::exit_now(0)
}

fn run(start: &Start<'_>, mut request: Request, reply: &OwnedFd) -> Result<Exit, Failure> {
    let mut kept = request.descriptors();
    kept.extend([reply, start.life]);
    close_all_but(&kept).stage("close inherited descriptors")?;
    // Until something has to be cleaned up, dying is enough.
    init::die_with_parent(start.life)?;
    let _ = rustix::thread::set_name(c"kiln-run");
    if request.fds.len() < 2 {
        return Err(Failure::new("read the request", Errno::BADMSG));
    }
    let bytes = request.payload.take().stage("read the request")?;
    let spec: RunSpec = serde_json::from_slice(&bytes)
        .map_err(|_| Failure::new("read the request", Errno::BADMSG))?;
    refuse(&spec, start.new_network)?;
    let profile = start.filters.of(&spec).stage("find the seccomp filter")?;
    let capabilities = command::capabilities(&spec.security)?;
    let (_, work) =
        spec.root.upper.as_ref().ok_or_else(|| {
            Failure::new("run a command in a root that is read-only", Errno::ROFS)
        })?;
    let work = rustix::fs::open(
        work,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .stage_with(|| format!("open the folder {}", work.display()))?;
    let own = work.try_clone().stage("open the work folder")?;
    let merged = root::copy(&spec.root, own, spec.keep.copy.as_ref(), start.root)?;
    let devices = merged.devices().to_vec();
    let mut prepared = merged.snapshot()?;
    let mut covers = Covers::new(prepared.root().as_fd(), work.as_fd())?;
    // From here on a signal waits until all is in order again.
    let signals = calls::signals(&[Signal::CHILD, Signal::TERM, END]).stage("block signals")?;
    rustix::process::set_parent_process_death_signal(None).stage("outlive the helper")?;
    let mut supervisor = Supervisor {
        start,
        request,
        reply,
        spec: &spec,
        profile,
        capabilities,
        root: prepared.root(),
        signals,
        stopping: false,
        ended_early: false,
    };
    let mut written = Vec::new();
    let ran = supervisor.run(&devices, &mut covers, &mut written);
    let ended_early = supervisor.ended_early;
    drop(supervisor);
    covers.take_back()?;
    prepared.take_note(covers.returned());
    let exit = ran?;
    if !ended_early {
        for copy in written {
            copy.collect()?;
        }
        let upper = prepared.collect()?;
        if is_lent_to(&spec.mounts)
            && let Some(upper) = upper
        {
            root::part_links(&upper, work.as_fd())?;
        }
    }
    Ok(exit)
}

/// Whether files of a store that stay there can have been given second names in the root.
fn is_lent_to(mounts: &[Mount]) -> bool {
    mounts.iter().any(|mount| match mount {
        Mount::Bind { readonly, .. } => !readonly,
        Mount::Overlay { overlay, .. } => overlay.upper.is_some(),
        Mount::Tmpfs { .. } | Mount::File { .. } => false,
    })
}

/// What cannot be given without namespaces is refused, not left out.
fn refuse(spec: &RunSpec, new_network: bool) -> Result<(), Failure> {
    let refused = |stage: &str, fix: &str| {
        Err(Failure::new(stage, Errno::OPNOTSUPP).detail(format!("in chroot isolation {fix}")))
    };
    if spec.insecure {
        return refused(
            "run a command with all privileges (`--security=insecure`)",
            "it would not be fenced in; that needs `--isolation=full` or `nested`",
        );
    }
    if new_network {
        return refused(
            "give a command no network (`--network=none`)",
            "the network is the container's: start the container itself with `--network=none`, or build where network \
             namespaces can be made",
        );
    }
    if let Some(device) = spec.devices.first() {
        let stage = format!("give a command the device {}", device.source.display());
        return refused(&stage, "device nodes cannot be bound into a root");
    }
    Ok(())
}

/// A command under supervision.
struct Supervisor<'a> {
    start: &'a Start<'a>,
    request: Request,
    reply: &'a OwnedFd,
    spec: &'a RunSpec,
    profile: Option<&'a Filter>,
    capabilities: CapabilitySet,
    root: &'a OwnedFd,
    signals: OwnedFd,
    /// All were asked to end.
    stopping: bool,
    /// All were killed, or the build is gone.
    ended_early: bool,
}

impl Supervisor<'_> {
    fn run(
        &mut self,
        devices: &[PathBuf],
        covers: &mut Covers,
        written: &mut Vec<Prepared>,
    ) -> Result<Exit, Failure> {
        let giver = Giver {
            stores: self.start.stores,
            volumes: self.start.volumes,
            kind: self.start.root,
        };
        for device in devices {
            covers.hide(device)?;
        }
        *written = mounts::give(&giver, self.spec, self.root, covers)?;
        let cwd = resolve::clean(&self.spec.cwd);
        if !cwd.as_os_str().is_empty() {
            let owner = (self.spec.uid, self.spec.gid);
            resolve::make_folders(self.root, &cwd, Some(owner))?;
        }
        self.supervise()
    }

    fn supervise(&mut self) -> Result<Exit, Failure> {
        // The memory of this process is the helper's; nobody inside may read it (ptrace(2), access mode checking).
        rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
            .stage("protect the supervisor")?;
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
            .stage("become the parent of orphans")?;
        let (mut leash, told, collar) = processes::leash().stage("make a pipe")?;
        let Some(command) = sys::fork(self.start.one).stage("start the command")? else {
            drop((leash, told));
            self.become_command(collar)
        };
        drop(collar);
        leash.hold(&told);
        drop(told);
        let ended = self.wait_for(command, &mut leash);
        leash.end();
        ended
    }

    fn become_command(&self, collar: processes::Collar) -> ! {
        let [stdout, stderr, entrances @ ..] = self.request.fds.as_slice() else {
            sys::exit_now(1)
        };
        if let Err(failure) = cgroup::enter(self.start.one, entrances) {
            let _ = wire::send_answer(self.reply.as_fd(), &RunReply::Failed(failure));
            sys::exit_now(1);
        }
        let inside = command::Inside {
            one: self.start.one,
            spec: self.spec,
            profile: self.profile,
            capabilities: self.capabilities,
            root: self.root,
            output: [stdout.as_fd(), stderr.as_fd()],
            landlock: landlock::version(),
        };
        command::main(&inside, collar, self.reply)
    }

    /// Reaps until the command ends, or its end is wanted.
    fn wait_for(&mut self, command: Pid, leash: &mut Leash) -> Result<Exit, Failure> {
        let mut exit = None;
        loop {
            reap(command, leash, &mut exit);
            if let Some(exit) = exit
                && !(self.stopping && leash.holds_any())
            {
                return Ok(exit);
            }
            let mut polled = [
                PollFd::new(&self.signals, PollFlags::IN),
                PollFd::new(self.start.life, PollFlags::IN),
            ];
            rustix::io::retry_on_intr(|| rustix::event::poll(&mut polled, None))
                .stage("wait for the command")?;
            let helper_gone = !polled[1].revents().is_empty();
            let mut end = helper_gone;
            while let Some(signal) = calls::next_signal(&self.signals) {
                end |= signal == END.as_raw();
                if signal == Signal::TERM.as_raw() {
                    self.stopping = true;
                    leash.terminate();
                }
            }
            if end {
                self.ended_early = true;
                return Ok(exit.unwrap_or(Exit::Signal(libc::SIGKILL)));
            }
        }
    }
}

fn reap(command: Pid, leash: &mut Leash, exit: &mut Option<Exit>) {
    while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
        leash.forget(pid);
        if pid == command {
            let signal = status.terminating_signal().map(Exit::Signal);
            *exit = Some(
                signal
                    .or_else(|| status.exit_status().map(Exit::Code))
                    .unwrap_or(Exit::Code(-1)),
            );
        }
    }
}
