//! A terminal for a command in a sandbox: a pty made there, or one of this side where none can be, between which and the
//! real terminal bytes go both ways.

use crate::error::Failure;
use planner::scheduler::Cancel;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize};
use sandbox::TerminalOffer;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread::JoinHandle;

/// How often the size of the real terminal is looked at.
const RESIZE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 200_000_000,
};

/// Bytes going both ways. Dropping it ends that and gives the real terminal its settings back.
#[derive(Debug)]
pub struct Relay {
    before: Termios,
    thread: Option<JoinHandle<()>>,
    stop: Option<OwnedFd>,
}

impl Relay {
    /// Gives what is to be passed to the command. As soon as that has its terminal, the real one passes on every key.
    pub fn start() -> Result<(Self, OwnedFd), Failure> {
        let failed =
            |error: std::io::Error| Failure::Other(format!("could not make a terminal: {error}"));
        let errno = |errno: Errno| failed(errno.into());
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let near = openpt(flags).map_err(errno)?;
        grantpt(&near).map_err(errno)?;
        unlockpt(&near).map_err(errno)?;
        let name = ptsname(&near, Vec::new()).map_err(errno)?;
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let far = rustix::fs::open(name, flags, Mode::empty()).map_err(errno)?;
        follow_size(near.as_fd());
        let (offer, passed) = TerminalOffer::new(&far).map_err(failed)?;
        let (stopped, stop) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(errno)?;
        let before = tcgetattr(rustix::stdio::stdin()).map_err(errno)?;
        let mut raw = before.clone();
        raw.make_raw();
        let thread = std::thread::spawn(move || {
            // A command that did not start has no use for one.
            let Ok(own) = offer.taken() else { return };
            let near = own.unwrap_or(near);
            let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &raw);
            std::thread::scope(|scope| {
                scope.spawn(|| copy_in(&near, &stopped));
                copy_out(&near);
            });
        });
        let relay = Self {
            before,
            thread: Some(thread),
            stop: Some(stop),
        };
        Ok((relay, passed))
    }
}

impl Drop for Relay {
    /// What was to be passed on must be closed by now: what the command has written is shown to the end.
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &self.before);
    }
}

fn follow_size(near: BorrowedFd<'_>) {
    let Ok(size) = tcgetwinsize(rustix::stdio::stdin()) else {
        return;
    };
    let is_same = tcgetwinsize(near)
        .is_ok_and(|known| (known.ws_row, known.ws_col) == (size.ws_row, size.ws_col));
    if !is_same {
        let _ = tcsetwinsize(near, size);
    }
}

/// From the command to the screen, until nobody has the other side open any longer (EIO).
fn copy_out(near: &OwnedFd) {
    let mut buffer = [0; 8192];
    loop {
        match rustix::io::read(near, &mut buffer) {
            Ok(0) => return,
            Ok(read) => {
                if write_all(rustix::stdio::stdout(), &buffer[..read]).is_err() {
                    return;
                }
            }
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(_) => return,
        }
    }
}

/// From the keys to the command, until it is told to stop.
fn copy_in(near: &OwnedFd, stopped: &OwnedFd) {
    let stdin = rustix::stdio::stdin();
    let mut buffer = [0; 4096];
    loop {
        let mut polled = [
            PollFd::new(stopped, PollFlags::IN),
            PollFd::from_borrowed_fd(stdin, PollFlags::IN),
        ];
        match rustix::event::poll(&mut polled, Some(&RESIZE)) {
            Ok(0) => {
                follow_size(near.as_fd());
                continue;
            }
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(_) => return,
        }
        if !polled[0].revents().is_empty() {
            return;
        }
        match rustix::io::read(stdin, &mut buffer) {
            Ok(read @ 1..) => {
                if write_all(near.as_fd(), &buffer[..read]).is_err() {
                    return;
                }
            }
            Err(Errno::INTR | Errno::AGAIN) => {}
            Ok(0) | Err(_) => return,
        }
    }
}

fn write_all(to: BorrowedFd<'_>, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        let written = rustix::io::retry_on_intr(|| rustix::io::write(to, bytes))?;
        bytes = &bytes[written..];
    }
    Ok(())
}

/// Asks for a yes on the real terminal. No answer, or a signal that ends the program, is a no.
pub fn ask(question: &str, cancel: &Cancel) -> bool {
    let stdin = rustix::stdio::stdin();
    if write_all(rustix::stdio::stderr(), question.as_bytes()).is_err() {
        return false;
    }
    let mut buffer = [0; 256];
    while !cancel.is_cancelled() {
        let mut polled = [PollFd::from_borrowed_fd(stdin, PollFlags::IN)];
        match rustix::event::poll(&mut polled, Some(&RESIZE)) {
            Ok(0) | Err(Errno::INTR) => continue,
            Ok(_) => {}
            Err(_) => return false,
        }
        // The terminal gives whole lines.
        let read = rustix::io::read(stdin, &mut buffer).unwrap_or(0);
        let answer = String::from_utf8_lossy(&buffer[..read]);
        return matches!(answer.trim(), "y" | "Y" | "yes" | "Yes" | "YES");
    }
    let _ = write_all(rustix::stdio::stderr(), b"\n");
    false
}
