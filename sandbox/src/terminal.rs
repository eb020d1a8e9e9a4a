//! A terminal for a command: made in the command's own instance of devpts, where there is one, so that it has a name there;
//! the side for the keys is passed to the caller. Knows nothing of what goes through it.
//!
//! The socket for this stands in for the command's output. Over it the caller offers a terminal of its own, for commands
//! that cannot make one, and the command answers with what it took.

use crate::fail::{Failure, Stage};
use rustix::cmsg_space;
use rustix::fd::{AsFd as _, BorrowedFd, OwnedFd};
use rustix::fs::{CWD, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};
use rustix::termios::{Winsize, tcgetwinsize, tcsetwinsize};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;

/// The caller's end of the socket of a command with [`crate::RunSpec::terminal`].
#[derive(Debug)]
pub struct TerminalOffer(OwnedFd);

impl TerminalOffer {
    /// Offers a terminal, whose size the command's own will have. Gives what to pass as the command's output.
    ///
    /// # Errors
    /// No socket can be made.
    pub fn new(terminal: &OwnedFd) -> std::io::Result<(Self, OwnedFd)> {
        let (near, far) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        send(near.as_fd(), Some(terminal.as_fd()))?;
        Ok((Self(near), far))
    }

    /// Waits until the command has a terminal: the near side of its own, or `None` when it took the one that was offered.
    ///
    /// # Errors
    /// There is no command: the other end of the socket was closed.
    pub fn taken(self) -> std::io::Result<Option<OwnedFd>> {
        Ok(receive(self.0.as_fd())?)
    }
}

/// In the command's process: its terminal. In a root with a devpts of its own, the terminal is made there, for this user.
pub(crate) fn take(
    socket: BorrowedFd<'_>,
    own_for: Option<(u32, u32)>,
) -> Result<OwnedFd, Failure> {
    let stage = "get a terminal for the command";
    let offered = receive(socket)
        .and_then(|offered| offered.ok_or(Errno::PIPE))
        .stage(stage)?;
    let size = tcgetwinsize(&offered).ok();
    let own = own_for.and_then(|owner| make(owner, size).ok());
    let (near, far) = match own {
        Some((near, far)) => (Some(near), far),
        None => (None, offered),
    };
    send(socket, near.as_ref().map(OwnedFd::as_fd)).stage(stage)?;
    Ok(far)
}

/// A terminal, near side first. Where its owner cannot be set it stays with whom the command began as.
fn make((uid, gid): (u32, u32), size: Option<Winsize>) -> Result<(OwnedFd, OwnedFd), Errno> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let near = rustix::fs::openat(CWD, "/dev/pts/ptmx", flags, Mode::empty())?;
    unlockpt(&near)?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let far = ioctl_tiocgptpeer(&near, flags)?;
    if let Some(size) = size {
        tcsetwinsize(&near, size)?;
    }
    let _ = rustix::fs::fchown(&far, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    Ok((near, far))
}

fn send(socket: BorrowedFd<'_>, terminal: Option<BorrowedFd<'_>>) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if let Some(terminal) = &terminal {
        ancillary.push(SendAncillaryMessage::ScmRights(std::slice::from_ref(
            terminal,
        )));
    }
    let text = [IoSlice::new(b"T")];
    rustix::io::retry_on_intr(|| {
        rustix::net::sendmsg(socket, &text, &mut ancillary, SendFlags::NOSIGNAL)
    })
    .map(drop)
}

fn receive(socket: BorrowedFd<'_>) -> Result<Option<OwnedFd>, Errno> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let received = rustix::io::retry_on_intr(|| {
        rustix::net::recvmsg(
            socket,
            &mut [IoSliceMut::new(&mut byte)],
            &mut ancillary,
            RecvFlags::CMSG_CLOEXEC,
        )
    })?;
    if received.bytes == 0 {
        return Err(Errno::PIPE);
    }
    let mut terminals = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut rights) => rights.next(),
        _ => None,
    });
    Ok(terminals.next())
}
