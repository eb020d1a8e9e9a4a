//! System calls that a supervisor answers (seccomp_unotify(2)): a process loads a filter with a listener, passes the listener
//! on, and whoever holds it is told of every watched call, while the caller waits.
//!
//! The supervisor may be any process that can reach the callers' memory; process ids are those of its own pid namespace. It
//! must see a call through: a caller sleeps until it is answered, and gets ENOSYS when the last holder of the listener ends.

mod calls;
mod create;
mod fake;
mod identity;
mod ids;
pub(crate) mod mknod;
mod owners;
mod place;
mod serve;
mod stat;
mod sys;
mod walk;

pub(crate) use fake::Supervisor;
pub(crate) use identity::begin as begin_identity;
pub use owners::{OWNER_ATTRIBUTE, OwnerRecord, owner_table, owner_value, parse_owner};
pub(crate) use owners::{Owners, record};
pub(crate) use serve::{probe, serve_until, watch};

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::{Errno, IoSlice, IoSliceMut};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use std::mem::MaybeUninit;

/// Machine of a caller (`AUDIT_ARCH_*`).
pub(crate) const ARCH_X86_64: u32 = 0xc000_003e;
pub(crate) const ARCH_AARCH64: u32 = 0xc000_00b7;
pub(crate) const ARCH_I386: u32 = 0x4000_0003;
pub(crate) const ARCH_ARM: u32 = 0x4000_0028;
/// What the old calls show of ids that have no room in 16 bits.
const OVERFLOW_ID: u16 = 65_534;
/// Smallest page of any kernel: what begins on one can be read up to its end.
const PAGE: u64 = 4096;

/// Loads a filter for this process and what it starts, and returns the listener. Needs CAP_SYS_ADMIN.
pub(crate) fn load(filter: &[libc::sock_filter]) -> Result<OwnedFd, Errno> {
    sys::load_with_listener(filter)
}

/// Passes a listener to the supervisor.
pub(crate) fn send_listener(socket: BorrowedFd<'_>, listener: &OwnedFd) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let rights = [listener.as_fd()];
    ancillary.push(SendAncillaryMessage::ScmRights(&rights));
    let sent = rustix::io::retry_on_intr(|| {
        rustix::net::sendmsg(
            socket,
            &[IoSlice::new(b"L")],
            &mut ancillary,
            SendFlags::NOSIGNAL,
        )
    });
    sent.map(|_| ())
}

/// Waits for a listener; `None` when its sender has ended without.
pub(crate) fn receive_listener(socket: BorrowedFd<'_>) -> Result<Option<OwnedFd>, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    rustix::io::retry_on_intr(|| {
        rustix::net::recvmsg(
            socket,
            &mut [IoSliceMut::new(&mut byte)],
            &mut ancillary,
            RecvFlags::CMSG_CLOEXEC,
        )
    })?;
    let mut fds = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(rights) => Some(rights),
        _ => None,
    });
    Ok(fds.next().and_then(|mut rights| rights.next()))
}

/// A call that waits for an answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Notification {
    /// Names the call to the kernel.
    pub(crate) id: u64,
    /// The calling thread, by its number in the supervisor's pid namespace; 0 when it is in none of its.
    pub(crate) pid: i32,
    /// `AUDIT_ARCH_*`.
    pub(crate) arch: u32,
    /// The call, as the caller's machine numbers it.
    pub(crate) number: u32,
    /// Its arguments; those of 32-bit programs are zero-extended.
    pub(crate) args: [u64; 6],
}

impl Notification {
    /// An argument that is an int.
    pub(crate) fn int(&self, index: usize) -> i32 {
        self.word(index).cast_signed()
    }

    /// An argument that is an unsigned int, such as an id, a mode or flags.
    pub(crate) fn word(&self, index: usize) -> u32 {
        (self.args[index] & 0xffff_ffff) as u32
    }
}

/// How a call ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Response {
    /// It returns this.
    Value(i64),
    /// It fails.
    Fail(Errno),
    /// The kernel carries it out as it is. No decision about what is allowed may rest on arguments behind pointers then:
    /// they may have changed.
    Continue,
    /// It has its answer already.
    Answered,
}

/// The supervisor's end.
#[derive(Debug)]
pub(crate) struct Notifications {
    listener: OwnedFd,
    incoming: Vec<u64>,
    outgoing: Vec<u64>,
}

impl Notifications {
    /// Over a listener.
    pub(crate) fn new(listener: OwnedFd) -> Result<Self, Errno> {
        let (notification, response) = sys::sizes()?;
        let buffer = |kernel: usize, own: usize| vec![0; kernel.max(own).div_ceil(8)];
        sys::wake_in_turn(listener.as_fd());
        Ok(Self {
            incoming: buffer(notification, size_of::<libc::seccomp_notif>()),
            outgoing: buffer(response, size_of::<libc::seccomp_notif_resp>()),
            listener,
        })
    }

    /// Waits for the next call; `None` when its caller was interrupted before it could be taken. To be polled before where
    /// the supervisor must not block.
    pub(crate) fn receive(&mut self) -> Result<Option<Notification>, Errno> {
        self.incoming.fill(0);
        match sys::receive(self.listener.as_fd(), &mut self.incoming) {
            Ok(taken) => Ok(Some(Notification {
                id: taken.id,
                pid: taken.pid.cast_signed(),
                arch: taken.data.arch,
                number: taken.data.nr.cast_unsigned(),
                args: taken.data.args,
            })),
            Err(Errno::NOENT | Errno::INTR) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// Whether the caller still waits. What was found out by its number before means nothing when it does not: the number
    /// may be another's.
    pub(crate) fn is_still_valid(&self, call: &Notification) -> bool {
        sys::is_valid(self.listener.as_fd(), call.id)
    }

    /// Answers a call. A caller that has ended meanwhile is no error.
    pub(crate) fn respond(&mut self, call: &Notification, response: Response) -> Result<(), Errno> {
        let (val, error, flags) = match response {
            Response::Value(value) => (value, 0, 0),
            Response::Fail(errno) => (0, -errno.raw_os_error(), 0),
            Response::Continue => (0, 0, libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32),
            Response::Answered => return Ok(()),
        };
        let response = libc::seccomp_notif_resp {
            id: call.id,
            val,
            error,
            flags,
        };
        self.outgoing.fill(0);
        match sys::respond(self.listener.as_fd(), response, &mut self.outgoing) {
            Err(Errno::NOENT) => Ok(()),
            sent => sent,
        }
    }

    /// Gives the caller a descriptor and answers the call with its number.
    pub(crate) fn respond_with_fd(
        &self,
        call: &Notification,
        fd: BorrowedFd<'_>,
        cloexec: bool,
    ) -> Result<Response, Errno> {
        match sys::add_fd(self.listener.as_fd(), call.id, fd, cloexec, true) {
            Ok(_) => Ok(Response::Answered),
            // Before Linux 5.14 the answer is a message of its own.
            Err(Errno::INVAL) => self
                .add_fd(call, fd, cloexec)
                .map(|number| Response::Value(number.into())),
            Err(errno) => Err(errno),
        }
    }

    /// Gives the caller a descriptor; its number there.
    pub(crate) fn add_fd(
        &self,
        call: &Notification,
        fd: BorrowedFd<'_>,
        cloexec: bool,
    ) -> Result<i32, Errno> {
        sys::add_fd(self.listener.as_fd(), call.id, fd, cloexec, false)
    }

    /// Reads the caller's memory: all of the buffer or an error. What was read was the caller's if the call
    /// [is still valid](Self::is_still_valid) afterwards, which is to be asked before anything is done by it.
    pub(crate) fn read(
        &self,
        call: &Notification,
        address: u64,
        buffer: &mut [u8],
    ) -> Result<(), Errno> {
        let read = sys::read_memory(call.pid, address, buffer)?;
        if read != buffer.len() {
            return Err(Errno::FAULT);
        }
        Ok(())
    }

    /// Reads a text of the caller that ends with a zero byte, which is not part of the result; as [`Self::read`] does.
    pub(crate) fn read_text(
        &self,
        call: &Notification,
        address: u64,
        longest: usize,
    ) -> Result<Vec<u8>, Errno> {
        let mut text = Vec::new();
        let mut chunk = [0; PAGE as usize];
        while text.len() <= longest {
            let at = address.checked_add(text.len() as u64).ok_or(Errno::FAULT)?;
            // Most are short: no more than the rest of a page is there for sure.
            let room = usize::try_from(PAGE - at % PAGE).unwrap_or(1);
            let room = room.min(if text.is_empty() { 256 } else { room });
            let read = sys::read_memory(call.pid, at, &mut chunk[..room])?;
            if read == 0 {
                return Err(Errno::FAULT);
            }
            if let Some(end) = chunk[..read].iter().position(|byte| *byte == 0) {
                text.extend_from_slice(&chunk[..end]);
                return if text.len() <= longest {
                    Ok(text)
                } else {
                    Err(Errno::NAMETOOLONG)
                };
            }
            text.extend_from_slice(&chunk[..read]);
        }
        Err(Errno::NAMETOOLONG)
    }

    /// Writes the caller's memory.
    pub(crate) fn write(
        &self,
        call: &Notification,
        address: u64,
        bytes: &[u8],
    ) -> Result<(), Errno> {
        // Before, since writing into another process cannot be undone.
        if !self.is_still_valid(call) {
            return Err(Errno::SRCH);
        }
        sys::write_memory(call.pid, address, bytes)
    }
}

impl AsFd for Notifications {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}
