//! Device nodes for commands of a root build, as Docker gives them: a process outside of the user namespace answers mknod.
//!
//! Inside the namespace the kernel makes no nodes, and through an overlay not even the host's root may, as an overlay works
//! with the rights of whoever mounted it. So the node is made beside the overlay's upper folder, moved into it under a name
//! that no one knows, and then renamed by the overlay itself, which keeps what it remembers of the folder right. All mounts
//! of a command are `nodev`: a node can be recorded, moved and removed, never opened.
//!
//! What is outside of a run's root and its own memory file systems gets no nodes: cache mounts and volumes are the host's.

use super::{Notification, Notifications, Response};
use crate::fail::{Failure, Stage};
use crate::seccomp::{self, Filter, Watch, When};
use crate::spec::RunSpec;
use crate::sys::{self, SingleThreaded};
use crate::wire;
use rustix::event::{PollFd, PollFlags};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, IoSlice, IoSliceMut};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketType,
};
use rustix::process::PidfdFlags;
use serde::{Deserialize, Serialize};
use std::mem::MaybeUninit;
use std::path::PathBuf;

mod make;

use make::Maker;

/// Bits of a mode that say what kind of file it is, and the kinds that are answered here.
const KIND: u32 = 0o170_000;
const CHARACTER: u32 = 0o020_000;
const BLOCK: u32 = 0o060_000;
/// Longest path that the kernel takes, in bytes.
const PATH_MAX: usize = 4095;
/// Longest registration, in bytes.
const MESSAGE: usize = 16 << 10;

/// The build's way to the process that makes nodes.
#[derive(Debug)]
pub(crate) struct Nodes {
    socket: OwnedFd,
    filter: Filter,
}

/// What a run tells before its command starts.
#[derive(Debug, Serialize, Deserialize)]
struct Run {
    /// Upper and work folder of the root.
    upper: Option<(PathBuf, PathBuf)>,
}

/// Starts the process, in the helper before it enters any namespace. `None` where it could make no nodes.
pub(crate) fn start(one: SingleThreaded) -> Option<Nodes> {
    use rustix::thread::CapabilitySet;
    let needed = CapabilitySet::MKNOD
        | CapabilitySet::SYS_ADMIN
        | CapabilitySet::SYS_CHROOT
        | CapabilitySet::SYS_PTRACE
        | CapabilitySet::CHOWN
        | CapabilitySet::DAC_OVERRIDE
        | CapabilitySet::SETUID
        | CapabilitySet::SETGID;
    if !crate::namespace::is_root_with(needed) {
        return None;
    }
    let (near, far) = wire::socket_pair(SocketType::SEQPACKET).ok()?;
    let helper = rustix::process::getpid();
    let Some(_) = sys::fork(one).ok()? else {
        // Numbers are not given out again while the pidfd is held, and the check is after it was opened.
        let helper_fd = rustix::process::pidfd_open(helper, PidfdFlags::empty());
        let started = rustix::process::getppid() == Some(helper);
        if let (Ok(helper), true) = (helper_fd, started) {
            let _ = crate::helper::close_all_but(&[&far, &helper]);
            serve(&far, &helper);
        }
        sys::exit_now(0)
    };
    Some(Nodes {
        socket: near,
        filter: Filter::nothing_but(&watch())?,
    })
}

/// mknod and mknodat of devices, by native and 32-bit programs.
fn watch() -> Watch {
    let of = |compat| {
        let calls = [("mknod", 1), ("mknodat", 2)];
        let number = |(name, argument)| {
            let when = When::Masked {
                argument,
                mask: KIND,
                values: &[CHARACTER, BLOCK],
            };
            Some((seccomp::call_number(name, compat)?, when))
        };
        calls.into_iter().filter_map(number).collect()
    };
    Watch {
        native: of(false),
        compat: of(true),
    }
}

impl Nodes {
    pub(crate) fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    /// Tells of a run, in its first process, which stands in the run's root. What the command gets is good for one listener
    /// of this run only; the way to all others is closed here. `None` when the process that makes nodes was killed: commands
    /// do without then.
    pub(crate) fn register(&self, spec: &RunSpec) -> Result<Option<OwnedFd>, Failure> {
        let stage = "prepare the making of device nodes";
        let (near, far) = wire::socket_pair(SocketType::SEQPACKET).stage(stage)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open("/", flags, Mode::empty()).stage(stage)?;
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let userns = rustix::fs::open("/proc/self/ns/user", flags, Mode::empty()).stage(stage)?;
        let run = Run {
            upper: spec.root.upper.clone(),
        };
        let message = serde_json::to_vec(&run)
            .map_err(|_| Failure::new(stage, Errno::INVAL).detail("a path is not UTF-8"))?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let rights = [far.as_fd(), root.as_fd(), userns.as_fd()];
        ancillary.push(SendAncillaryMessage::ScmRights(&rights));
        let sent = rustix::io::retry_on_intr(|| {
            let text = [IoSlice::new(&message)];
            rustix::net::sendmsg(&self.socket, &text, &mut ancillary, SendFlags::NOSIGNAL)
        });
        let own = self.socket.as_raw_fd().cast_unsigned();
        // This process ends without using or dropping it again.
        sys::close_range(own, own, false).stage(stage)?;
        match sent {
            Err(Errno::PIPE | Errno::CONNRESET) => Ok(None),
            sent => sent.stage(stage).map(|_| Some(near)),
        }
    }

    /// Has the calls of this process, and of what it starts, answered. Comes before the command's own filter, which may
    /// forbid more, and before CAP_SYS_ADMIN goes.
    pub(crate) fn watch(&self, run: &OwnedFd) -> Result<(), Failure> {
        let stage = "watch the making of device nodes";
        let listener = super::load(self.filter.instructions()).stage(stage)?;
        match super::send_listener(run.as_fd(), &listener) {
            // It was killed meanwhile: such calls are missing then.
            Err(Errno::PIPE | Errno::CONNRESET) => Ok(()),
            sent => sent.stage(stage),
        }
    }
}

/// A run whose command has not started yet.
struct Waiting {
    socket: OwnedFd,
    maker: Maker,
}

/// A command under way.
struct Watched {
    calls: Notifications,
    maker: Maker,
}

/// Answers until the helper ends.
fn serve(socket: &OwnedFd, helper: &OwnedFd) {
    let _ = rustix::thread::set_name(c"kiln-mknod");
    let mut waiting: Vec<Waiting> = Vec::new();
    let mut watched: Vec<Watched> = Vec::new();
    loop {
        let fds = [socket.as_fd(), helper.as_fd()]
            .into_iter()
            .chain(waiting.iter().map(|run| run.socket.as_fd()))
            .chain(watched.iter().map(|run| run.calls.as_fd()));
        let mut polled: Vec<PollFd<'_>> = fds
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
            .collect();
        if rustix::io::retry_on_intr(|| rustix::event::poll(&mut polled, None)).is_err() {
            return;
        }
        let events: Vec<PollFlags> = polled.iter().map(PollFd::revents).collect();
        let [registration, end, events @ ..] = events.as_slice() else {
            return;
        };
        if !end.is_empty() {
            return;
        }
        let (starting, calling) = events.split_at(waiting.len());
        let mut keep = calling.iter();
        watched.retain_mut(|run| keep.next().is_none_or(|events| run.go_on(*events)));
        let mut starting = starting.iter();
        let (ready, still): (Vec<_>, Vec<_>) = waiting
            .into_iter()
            .partition(|_| starting.next().is_some_and(|events| !events.is_empty()));
        waiting = still;
        watched.extend(ready.into_iter().filter_map(Waiting::start));
        if registration.contains(PollFlags::IN) {
            match receive(socket.as_fd()) {
                Ok(Some(run)) => waiting.extend(run),
                Ok(None) => return,
                Err(_) => {}
            }
        } else if !registration.is_empty() {
            return;
        }
    }
}

impl Waiting {
    fn start(self) -> Option<Watched> {
        let listener = super::receive_listener(self.socket.as_fd()).ok()??;
        Some(Watched {
            calls: Notifications::new(listener).ok()?,
            maker: self.maker,
        })
    }
}

impl Watched {
    /// Answers one call; false when no process of the command is left.
    fn go_on(&mut self, events: PollFlags) -> bool {
        if !events.contains(PollFlags::IN) {
            return events.is_empty();
        }
        let call = match self.calls.receive() {
            Ok(Some(call)) => call,
            Ok(None) => return true,
            Err(_) => return false,
        };
        let response = match self.make(&call) {
            Ok(()) => Response::Value(0),
            Err(errno) => Response::Fail(errno),
        };
        self.calls.respond(&call, response).is_ok()
    }

    fn make(&self, call: &Notification) -> Result<(), Errno> {
        let compat = matches!(call.arch, super::ARCH_I386 | super::ARCH_ARM);
        let at = seccomp::call_number("mknodat", compat) == Some(call.number);
        let (folder, first) = if at {
            (call.int(0), 1)
        } else {
            (libc::AT_FDCWD, 0)
        };
        let node = make::Node {
            mode: call.word(first + 1) & 0xffff,
            device: call.word(first + 2),
        };
        let path = self.calls.read_text(call, call.args[first], PATH_MAX)?;
        let caller = make::Caller::of(call.pid)?;
        let places = make::Places::of(call.pid, folder)?;
        // All of it was of this caller, if it still is there.
        if !self.calls.is_still_valid(call) {
            return Err(Errno::SRCH);
        }
        self.maker.make(&caller, &places, &path, node)
    }
}

/// Takes a run's registration; nothing of one that is not understood, `None` at the end.
fn receive(socket: BorrowedFd<'_>) -> Result<Option<Option<Waiting>>, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut message = vec![0; MESSAGE];
    let received = rustix::io::retry_on_intr(|| {
        rustix::net::recvmsg(
            socket,
            &mut [IoSliceMut::new(&mut message)],
            &mut ancillary,
            RecvFlags::CMSG_CLOEXEC,
        )
    })?;
    let mut fds = Vec::new();
    for control in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = control {
            fds.extend(rights);
        }
    }
    if received.bytes == 0 {
        return Ok(None);
    }
    let run = serde_json::from_slice::<Run>(&message[..received.bytes]);
    let (Ok(run), Ok([socket, root, userns])) = (run, <[OwnedFd; 3]>::try_from(fds)) else {
        return Ok(Some(None));
    };
    let maker = Maker::new(&root, &userns, run.upper);
    Ok(Some(maker.ok().map(|maker| Waiting { socket, maker })))
}
