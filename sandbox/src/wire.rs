//! What the caller and its helper say to each other.
//!
//! Control socket (SEQPACKET, one per helper): each message is one request, `[kind][flags]` and a payload, with descriptors
//! beside it; a payload too long for a packet comes as a memfd, the last descriptor. The first descriptor of a request is the
//! socket for its answers, so that requests of several threads never wait for one another. Answers to a run are small packets
//! of JSON; the answer of a task is `[status][length, 8 bytes little-endian][bytes]` on a stream.

use crate::fail::Failure;
use crate::{Exit, IdMapping};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::{Errno, IoSlice, IoSliceMut};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::mem::MaybeUninit;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// Most descriptors of one message (the kernel's `SCM_MAX_FD`).
pub(crate) const MAX_FDS: usize = 253;
/// Longest payload inside a packet, in bytes; well below the default socket buffer.
const INLINE: usize = 32 << 10;
/// Payload is in the last descriptor.
const IN_MEMFD: u8 = 1;
/// The command gets its own network namespace.
pub(crate) const NEW_NETWORK: u8 = 2;
/// The command joins the network namespace that its last descriptor is.
pub(crate) const JOIN_NETWORK: u8 = 4;

/// Messages of the caller on a run's socket: end it at once, or ask its processes to end.
pub(crate) const KILL: u8 = b'K';
pub(crate) const STOP: u8 = b'T';

/// Kind of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Kind {
    Hello = 1,
    Run = 2,
    Task = 3,
    /// Emulators to register; answered by the failure, if there is one.
    Emulate = 4,
    /// Settings that commands will come with; not answered.
    Security = 5,
    /// Instead of [`Kind::Hello`]: what this place allows, one [`crate::Fact`] a packet.
    Probe = 6,
    /// The build's network, made and answered by its keeper.
    Network = 7,
    /// A file system for the keeper of fuse-overlayfs.
    Serve = 8,
}

/// First request: how to enter the namespace. Answered on the control socket by [`Entered`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub(crate) stores: Vec<PathBuf>,
    /// Map the own id only, whatever the host offers.
    pub(crate) single: Option<String>,
    /// Enter no namespace: why none is to be had.
    pub(crate) none: Option<Failure>,
    pub(crate) volumes: Vec<crate::Volume>,
    pub(crate) isolation: crate::Isolation,
    pub(crate) root: Option<crate::RootKind>,
}

/// Answer to [`Hello`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Entered {
    Ready {
        mapping: IdMapping,
        /// Where there is a single id: the owners that commands ask for are recorded.
        owners: bool,
        mode: crate::Mode,
        /// How roots are put together.
        root: crate::RootKind,
        /// What kept the mode from being a better one.
        lost: Option<Failure>,
        notes: Vec<String>,
    },
    /// Start over with the own id only, for this reason.
    NeedsSingle(String),
    /// Start over without namespaces, for this reason.
    NeedsChroot(Failure),
    Failed(Failure),
}

/// Answers to a run, in order: `Started` or `Failed`; `Ended`; `Gone` when all its processes are.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum RunReply {
    Failed(Failure),
    Started,
    Ended(Exit),
    Gone,
}

/// A request as the helper got it.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) kind: Kind,
    pub(crate) flags: u8,
    pub(crate) fds: Vec<OwnedFd>,
    pub(crate) payload: Payload,
}

/// A payload, inline or in a memfd.
#[derive(Debug)]
pub(crate) enum Payload {
    Inline(Vec<u8>),
    Memory(OwnedFd),
}

impl Request {
    /// All its descriptors.
    pub(crate) fn descriptors(&self) -> Vec<&OwnedFd> {
        let memory = match &self.payload {
            Payload::Memory(fd) => Some(fd),
            Payload::Inline(_) => None,
        };
        self.fds.iter().chain(memory).collect()
    }
}

impl Drop for Request {
    /// Requests hold secrets, and the next children get a copy of this memory.
    fn drop(&mut self) {
        if let Payload::Inline(bytes) = &mut self.payload {
            bytes.fill(0);
            std::hint::black_box(bytes);
        }
    }
}

impl Payload {
    /// Takes the bytes out.
    pub(crate) fn take(&mut self) -> std::io::Result<Vec<u8>> {
        let file = match std::mem::replace(self, Self::Inline(Vec::new())) {
            Self::Inline(bytes) => return Ok(bytes),
            Self::Memory(fd) => File::from(fd),
        };
        let len = usize::try_from(file.metadata()?.len()).map_err(|_| Errno::FBIG)?;
        let mut bytes = vec![0; len];
        file.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    }
}

/// A pair of connected sockets, close-on-exec.
pub(crate) fn socket_pair(kind: SocketType) -> Result<(OwnedFd, OwnedFd), Errno> {
    rustix::net::socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)
}

/// Sends a request with its descriptors.
pub(crate) fn send_request(
    socket: BorrowedFd<'_>,
    kind: Kind,
    flags: u8,
    fds: &[BorrowedFd<'_>],
    payload: &[u8],
) -> Result<(), Errno> {
    if payload.len() <= INLINE {
        let head = [kind as u8, flags];
        return send_packet(socket, &[IoSlice::new(&head), IoSlice::new(payload)], fds);
    }
    let memory = rustix::fs::memfd_create("request", rustix::fs::MemfdFlags::CLOEXEC)?;
    let file = File::from(memory);
    file.write_all_at(payload, 0)
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    let head = [kind as u8, flags | IN_MEMFD];
    let mut fds = fds.to_vec();
    fds.push(file.as_fd());
    send_packet(socket, &[IoSlice::new(&head)], &fds)
}

fn send_packet(
    socket: BorrowedFd<'_>,
    parts: &[IoSlice<'_>],
    fds: &[BorrowedFd<'_>],
) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty()
        && (fds.len() > MAX_FDS || !ancillary.push(SendAncillaryMessage::ScmRights(fds)))
    {
        return Err(Errno::TOOBIG);
    }
    let sent = rustix::io::retry_on_intr(|| {
        rustix::net::sendmsg(socket, parts, &mut ancillary, SendFlags::NOSIGNAL)
    })?;
    let expected: usize = parts.iter().map(|part| part.len()).sum();
    if sent == expected {
        Ok(())
    } else {
        Err(Errno::MSGSIZE)
    }
}

/// Receives one request; `None` when the other side is gone. Malformed packets are `EBADMSG`.
pub(crate) fn receive_request(
    socket: BorrowedFd<'_>,
    buffer: &mut Vec<u8>,
) -> Result<Option<Request>, Errno> {
    buffer.resize(INLINE + 2, 0);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::io::retry_on_intr(|| {
        rustix::net::recvmsg(
            socket,
            &mut [IoSliceMut::new(buffer)],
            &mut ancillary,
            RecvFlags::CMSG_CLOEXEC,
        )
    })?;
    if received.bytes == 0 {
        return Ok(None);
    }
    let mut fds = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    let [kind, flags, inline @ ..] = &buffer[..received.bytes] else {
        return Err(Errno::BADMSG);
    };
    let kind = match kind {
        1 => Kind::Hello,
        2 => Kind::Run,
        3 => Kind::Task,
        4 => Kind::Emulate,
        5 => Kind::Security,
        6 => Kind::Probe,
        7 => Kind::Network,
        8 => Kind::Serve,
        _ => return Err(Errno::BADMSG),
    };
    let payload = if flags & IN_MEMFD == 0 {
        Payload::Inline(inline.to_vec())
    } else {
        Payload::Memory(fds.pop().ok_or(Errno::BADMSG)?)
    };
    let request = Request {
        kind,
        flags: *flags,
        fds,
        payload,
    };
    buffer[..received.bytes].fill(0);
    Ok(Some(request))
}

/// Sends a small JSON answer as one packet.
pub(crate) fn send_answer<T: Serialize>(socket: BorrowedFd<'_>, answer: &T) -> Result<(), Errno> {
    let bytes = serde_json::to_vec(answer).map_err(|_| Errno::INVAL)?;
    rustix::io::retry_on_intr(|| rustix::net::send(socket, &bytes, SendFlags::NOSIGNAL)).map(|_| ())
}

/// Receives a JSON answer; `None` when the other side is gone.
pub(crate) fn receive_answer<T: for<'a> Deserialize<'a>>(
    socket: BorrowedFd<'_>,
) -> Result<Option<T>, Errno> {
    let mut buffer = vec![0; INLINE];
    let (len, _) = rustix::io::retry_on_intr(|| {
        rustix::net::recv(socket, &mut buffer[..], RecvFlags::empty())
    })?;
    if len == 0 {
        return Ok(None);
    }
    serde_json::from_slice(&buffer[..len])
        .map(Some)
        .map_err(|_| Errno::BADMSG)
}

/// Request bytes of a task: its name's length in two bytes, its name, the caller's bytes.
pub(crate) fn task_payload(name: &str, request: &[u8]) -> Vec<u8> {
    let name_len = u16::try_from(name.len()).expect("BUG: task names are short literals");
    let mut payload = Vec::with_capacity(2 + name.len() + request.len());
    payload.extend_from_slice(&name_len.to_le_bytes());
    payload.extend_from_slice(name.as_bytes());
    payload.extend_from_slice(request);
    payload
}

/// Splits what [`task_payload`] joined.
pub(crate) fn split_task_payload(payload: &[u8]) -> Option<(&str, &[u8])> {
    let (len, rest) = payload.split_first_chunk::<2>()?;
    let (name, request) = rest.split_at_checked(u16::from_le_bytes(*len).into())?;
    Some((std::str::from_utf8(name).ok()?, request))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_payload_splits_again() {
        for (name, request) in [("", &b""[..]), ("copy", b"x"), ("a-b", &[0; 70_000])] {
            assert_eq!(
                split_task_payload(&task_payload(name, request)),
                Some((name, request))
            );
        }
        for bad in [&b""[..], b"\x01", b"\x05\x00abc", b"\x01\x00\xff"] {
            assert_eq!(split_task_payload(bad), None);
        }
    }

    #[test]
    fn requests_cross_the_socket_whole() {
        let (near, far) = socket_pair(SocketType::SEQPACKET).unwrap();
        let null = File::open("/dev/null").unwrap();
        let mut buffer = Vec::new();
        for len in [0, 1, INLINE, INLINE + 1, 3 << 20] {
            let payload: Vec<u8> = (0..len).map(|index| (index % 251) as u8).collect();
            send_request(
                near.as_fd(),
                Kind::Task,
                NEW_NETWORK,
                &[null.as_fd(); 3],
                &payload,
            )
            .unwrap();
            let mut request = receive_request(far.as_fd(), &mut buffer).unwrap().unwrap();
            assert_eq!(
                (request.kind, request.flags & NEW_NETWORK, request.fds.len()),
                (Kind::Task, NEW_NETWORK, 3)
            );
            assert!(
                request.payload.take().unwrap() == payload,
                "{len} bytes differ"
            );
        }
        let too_many = vec![null.as_fd(); MAX_FDS + 1];
        assert_eq!(
            send_request(near.as_fd(), Kind::Run, 0, &too_many, b""),
            Err(Errno::TOOBIG)
        );
        rustix::net::send(near.as_fd(), b"\x09\x00", SendFlags::NOSIGNAL).unwrap();
        assert_eq!(
            receive_request(far.as_fd(), &mut buffer).unwrap_err(),
            Errno::BADMSG
        );
        drop(near);
        assert!(receive_request(far.as_fd(), &mut buffer).unwrap().is_none());
    }
}
