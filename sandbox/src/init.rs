//! Process 1 of a run: sets up the namespaces it was started in, starts the command, reaps, and ends with it.
//!
//! When it ends, the kernel kills all that is left in its pid namespace; when the helper ends, it is killed itself.

use crate::cgroup;
use crate::command::{self, Load};
use crate::fail::{Failure, Stage};
use crate::helper::close_all_but;
use crate::mounts;
use crate::network;
use crate::notify::{self, Owners, mknod::Nodes};
use crate::probe::fixes;
use crate::root::{Changes, fuse};
use crate::rootfs::Scratch;
use crate::seccomp::Filters;
use crate::sys::{self, SingleThreaded};
use crate::wire::{self, Request, RunReply};
use crate::{Exit, Mode, RootKind, RunSpec, Volume};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, UnmountFlags};
use rustix::process::{DumpableBehavior, Pid, Signal, WaitOptions};
use std::path::PathBuf;

/// What a run's init needs of the helper.
#[derive(Debug)]
pub(crate) struct Start<'a> {
    pub(crate) one: SingleThreaded,
    pub(crate) filters: &'a Filters,
    /// Makes device nodes where the command's root cannot.
    pub(crate) nodes: Option<&'a Nodes>,
    pub(crate) life: &'a OwnedFd,
    pub(crate) new_network: bool,
    /// It joins the build's network, of which the last descriptor is.
    pub(crate) joins_network: bool,
    pub(crate) mode: Mode,
    pub(crate) root: RootKind,
    /// Serves the roots of fuse-overlayfs.
    pub(crate) keeper: Option<&'a fuse::Keeper>,
    pub(crate) stores: &'a [PathBuf],
    pub(crate) volumes: &'a [Volume],
    /// This process answers calls of the command, which has a single id.
    pub(crate) owners: bool,
}

/// Namespaces of a run. Its user namespace is the build's.
pub(crate) fn clone_flags(new_network: bool) -> i32 {
    let flags = libc::CLONE_NEWNS
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWCGROUP;
    if new_network {
        flags | libc::CLONE_NEWNET
    } else {
        flags
    }
}

/// Dies when the helper does, and at once when it has died already.
pub(crate) fn die_with_parent(life: &OwnedFd) -> Result<(), Failure> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .stage("tie the process to its parent")?;
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let mut polled = [PollFd::new(life, PollFlags::IN)];
    match rustix::event::poll(&mut polled, Some(&now)) {
        Ok(0) => Ok(()),
        _ => sys::exit_now(1),
    }
}

/// Body of process 1. Ends the process with the command.
pub(crate) fn main(start: &Start<'_>, request: Request, reply: &OwnedFd) -> ! {
    let answer = match run(start, request, reply) {
        Ok(exit) => RunReply::Ended(exit),
        Err(failure) => RunReply::Failed(failure),
    };
    let _ = wire::send_answer(reply.as_fd(), &answer);
    outlast_asked();
    sys::exit_now(0)
}

fn run(start: &Start<'_>, mut request: Request, reply: &OwnedFd) -> Result<Exit, Failure> {
    let mut kept = request.descriptors();
    kept.extend([reply, start.life]);
    kept.extend(start.nodes.map(Nodes::socket));
    kept.extend(start.keeper.map(fuse::Keeper::socket));
    close_all_but(&kept).stage("close inherited descriptors")?;
    die_with_parent(start.life)?;
    let _ = rustix::thread::set_name(c"init");
    if start.joins_network
        && let Some(namespace) = request.fds.pop()
    {
        network::join(start.one, &namespace)?;
    }
    let [stdout, stderr, entrances @ ..] = request.fds.as_slice() else {
        return Err(Failure::new("read the request", Errno::BADMSG));
    };
    let bytes = request.payload.take().stage("read the request")?;
    let spec: RunSpec = serde_json::from_slice(&bytes)
        .map_err(|_| Failure::new("read the request", Errno::BADMSG))?;
    let filter = start.filters.of(&spec).stage("find the seccomp filter")?;
    let mut owners = start
        .owners
        .then(|| Owners::beside(spec.root.upper.as_ref()));
    let changes = set_up(&spec, start, owners.as_mut())?;
    if let Some(owners) = &mut owners {
        owners.entered();
    }
    let nodes = match start.nodes {
        Some(nodes) => nodes.register(&spec)?.map(|run| (nodes, run)),
        None => None,
    };
    // The memory of this process is the helper's; nobody inside may read it (ptrace(2), access mode checking).
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .stage("protect the first process")?;
    sys::pass_on_stop();
    let (listener, far) =
        wire::socket_pair(rustix::net::SocketType::SEQPACKET).stage("make a socket")?;
    let Some(pid) = sys::fork(start.one).stage("start the command")? else {
        match cgroup::enter(start.one, entrances) {
            Ok(groups) => cgroup::view::show(&groups),
            Err(failure) => {
                let _ = wire::send_answer(reply.as_fd(), &RunReply::Failed(failure));
                sys::exit_now(1);
            }
        }
        if start.mode == Mode::Nested {
            // In the surrounding /proc commands see each other; where this is not possible, the build says so.
            let _ = sys::keep_apart();
        }
        let output = [stdout.as_fd(), stderr.as_fd()];
        let filters = Load {
            filter,
            nodes,
            supervisor: start.owners.then(|| far.as_fd()),
        };
        command::main(&spec, &filters, output, reply)
    };
    drop(far);
    sys::stop_if_asked();
    drop((request, nodes));
    let exit = match owners {
        Some(owners) => {
            let ids = (spec.uid, spec.gid, spec.groups.as_slice());
            notify::serve_until(listener.as_fd(), owners, ids, || reap_ended(pid))?
        }
        None => reap_until(pid),
    };
    if let Some(changes) = changes {
        outlast_asked();
        end_others();
        leave_root()?;
        if let Some(keeper) = start.keeper {
            keeper.end()?;
        }
        changes.collect()?;
    }
    Ok(exit)
}

/// What must be collected in the end is returned.
fn set_up(
    spec: &RunSpec,
    start: &Start<'_>,
    owners: Option<&mut Owners>,
) -> Result<Option<Changes>, Failure> {
    if !spec.hostname.is_empty() {
        match rustix::system::sethostname(spec.hostname.as_bytes()) {
            // Found out when the helper started, and told.
            Err(Errno::PERM) => {}
            result => result.stage_with(|| format!("set the host name {}", spec.hostname))?,
        }
    }
    if start.new_network {
        sys::loopback_up().stage("bring the loopback interface up")?;
    }
    let root = mounts::build_root(spec, start, owners)?;
    enter_root(root.mount.as_fd(), spec.insecure)?;
    drop(root.mount);
    command::make_working_folder(spec)?;
    Ok(root.changes)
}

/// Makes a mounted root the root of this mount namespace; of the old one nothing is left. The old root comes to lie over the
/// new one, with the scratch memory on top of it: both are unmounted, topmost first.
fn enter_root(root: BorrowedFd<'_>, insecure: bool) -> Result<(), Failure> {
    let stage = "enter the root";
    rustix::process::fchdir(root).stage(stage)?;
    match rustix::process::pivot_root(".", ".") {
        Ok(()) => {
            for _ in ["scratch", "old root"] {
                rustix::mount::unmount(".", UnmountFlags::DETACH).stage("leave the old root")?;
            }
        }
        Err(Errno::PERM) if !insecure => cover_old_root(root)?,
        result => result
            .stage(stage)
            .map_err(|failure| match failure.errno() {
                Errno::INVAL => failure.detail(
                    "the host's root is its initial ramfs, which pivot_root(2) cannot leave",
                ),
                Errno::PERM => failure.detail(fixes::here().namespaces(Errno::PERM)),
                _ => failure,
            })?,
    }
    rustix::process::chdir("/").stage(stage)?;
    // `..` of a root on which something is still mounted leads there.
    let (root, above) = (
        rustix::fs::stat("/").stage(stage)?,
        rustix::fs::stat("/..").stage(stage)?,
    );
    if (root.st_dev, root.st_ino) != (above.st_dev, above.st_ino) {
        return Err(Failure::new("leave the old root", Errno::BUSY));
    }
    Ok(())
}

/// Docker's seccomp profile lets a container with CAP_SYS_ADMIN mount, but not call pivot_root(2). Mounted over the old root,
/// the new one is where all paths begin and end; only who may unmount could get below it, and the command may not.
fn cover_old_root(root: BorrowedFd<'_>) -> Result<(), Failure> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    rustix::mount::move_mount(root, "", CWD, "/", flags).stage("cover the old root")?;
    rustix::process::chroot(".").stage("enter the root")
}

/// Leaves the command's root with all that is mounted in it: the kernel moves no folder that is a mount point in this mount
/// namespace. What is open stays open.
fn leave_root() -> Result<(), Failure> {
    let stage = "leave the command's root";
    let empty = Scratch::new()?;
    rustix::process::fchdir(empty.root()).stage(stage)?;
    match rustix::process::pivot_root(".", ".") {
        // As it was entered.
        Err(Errno::PERM) => {
            rustix::process::chdir("/").stage(stage)?;
        }
        result => result.stage(stage)?,
    }
    rustix::mount::unmount(".", UnmountFlags::DETACH).stage(stage)
}

/// When all were asked to stop, what takes longer to end than the command is waited for; the caller kills it when its
/// patience is over.
fn outlast_asked() {
    if !sys::was_asked_to_stop() {
        return;
    }
    while !matches!(
        rustix::process::wait(WaitOptions::empty()),
        Err(Errno::CHILD)
    ) {}
}

/// Kills and reaps everything else in the pid namespace.
fn end_others() {
    loop {
        // Nobody left is an error too.
        let _ = sys::kill_all();
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => return,
        }
    }
}

/// Reaps every process that ends here, until the command does.
fn reap_until(command: Pid) -> Exit {
    loop {
        if let Some(exit) = reap(command, WaitOptions::empty()) {
            return exit;
        }
    }
}

/// Reaps what has ended; the command's end, when it has.
fn reap_ended(command: Pid) -> Option<Exit> {
    reap(command, WaitOptions::NOHANG)
}

fn reap(command: Pid, options: WaitOptions) -> Option<Exit> {
    loop {
        match rustix::process::wait(options) {
            Ok(Some((pid, status))) if pid == command => {
                let signal = status.terminating_signal().map(Exit::Signal);
                return signal
                    .or_else(|| status.exit_status().map(Exit::Code))
                    .or(Some(Exit::Code(-1)));
            }
            // None has ended by now.
            Ok(None) => return None,
            Ok(Some(_)) | Err(Errno::INTR) => {}
            // No child left: the command's end was missed, which the kernel does not let happen.
            Err(_) => return Some(Exit::Signal(libc::SIGKILL)),
        }
    }
}
