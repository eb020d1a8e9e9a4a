//! The loop of a run's first process when it answers calls, and whether that works here at all.

use super::{Notification, Notifications, Owners, Response, Supervisor, calls, sys};
use crate::Exit;
use crate::fail::{Failure, Stage};
use crate::seccomp::{Filter, Watch, When};
use crate::sys::{self as processes, SingleThreaded};
use crate::wire;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::net::SocketType;
use rustix::process::{DumpableBehavior, Pid, Signal, WaitOptions};

/// The calls that the supervisor of a run with a single id is asked about.
pub(crate) fn watch() -> Watch {
    calls::watch()
}

/// Answers calls and reaps, until `reap` gives an exit. `socket` brings the listener; a command that ends before it has
/// one has told why itself.
pub(crate) fn serve_until(
    socket: BorrowedFd<'_>,
    owners: Owners,
    ids: (u32, u32, &[u32]),
    mut reap: impl FnMut() -> Option<Exit>,
) -> Result<Exit, Failure> {
    let ended = sys::ended_children().stage("wait for signals")?;
    let listener = super::receive_listener(socket).stage("receive the seccomp listener")?;
    let mut supervisor = match listener {
        Some(listener) => {
            Some(Supervisor::new(listener, owners, ids).stage("listen to system calls")?)
        }
        None => None,
    };
    loop {
        // Signals that came before the descriptor was there are not told by it.
        if let Some(exit) = reap() {
            if let Some(supervisor) = supervisor {
                supervisor
                    .finish()
                    .stage("write the owners of files down")?;
            }
            return Ok(exit);
        }
        let Some(serving) = &mut supervisor else {
            wait_for(&ended, None)?;
            continue;
        };
        round(&ended, serving)?;
    }
}

/// Answers until a child has ended.
fn round(ended: &OwnedFd, supervisor: &mut Supervisor) -> Result<(), Failure> {
    loop {
        let (child, call) = wait_for(ended, Some(supervisor.notifications()))?;
        if child {
            supervisor.ended();
            return Ok(());
        }
        if call.contains(PollFlags::IN) {
            supervisor.serve().stage("answer a system call")?;
        } else if call.intersects(PollFlags::HUP | PollFlags::ERR) {
            // Nobody is left who could ask.
            wait_for(ended, None)?;
            return Ok(());
        }
    }
}

/// Waits for children that ended and for calls.
fn wait_for(ended: &OwnedFd, calls: Option<&Notifications>) -> Result<(bool, PollFlags), Failure> {
    let mut polled = vec![PollFd::new(ended, PollFlags::IN)];
    polled.extend(calls.map(|calls| PollFd::new(calls, PollFlags::IN)));
    rustix::io::retry_on_intr(|| rustix::event::poll(&mut polled, None))
        .stage("wait for system calls")?;
    let child = !polled[0].revents().is_empty();
    let call = polled.get(1).map_or(PollFlags::empty(), PollFd::revents);
    if child {
        // Which child it was is found by waiting for all.
        let _ = rustix::io::read(ended, &mut [0; 128]);
    }
    Ok((child, call))
}

/// Whether calls can be answered here and identities kept: a process is started that asks.
pub(crate) fn probe(one: SingleThreaded) -> Result<(), Failure> {
    let stage = "answer system calls of commands (seccomp user notification)";
    let (near, far) = wire::socket_pair(SocketType::SEQPACKET).stage(stage)?;
    let Some(pid) = processes::fork(one).stage(stage)? else {
        drop(near);
        let code = asking(&far).map_or_else(Errno::raw_os_error, |()| 0);
        processes::exit_now(code)
    };
    drop(far);
    let answered = answering(&near, pid).stage(stage);
    drop(near);
    if answered.is_err() {
        let _ = rustix::process::kill_process(pid, Signal::KILL);
    }
    let ended = rustix::process::waitpid(Some(pid), WaitOptions::empty()).stage(stage)?;
    match ended.and_then(|(_, status)| status.exit_status()) {
        Some(0) => answered,
        Some(errno) => Err(Failure::new(stage, Errno::from_raw_os_error(errno))),
        None => answered.and(Err(Failure::new(stage, Errno::CHILD))),
    }
}

/// Number that the probe's call is answered with, and the words that it asks about and is told.
const ANSWER: i64 = 4711;
const QUESTION: u64 = 0x6b69_6c6e_3f3f_3f3f;
const TOLD: u64 = 0x6b69_6c6e_2121_2121;

fn asking(socket: &OwnedFd) -> Result<(), Errno> {
    rustix::process::set_dumpable_behavior(DumpableBehavior::Dumpable)?;
    super::begin_identity()?;
    let number = u32::try_from(libc::SYS_getpgid).map_err(|_| Errno::NOSYS)?;
    let filter = Filter::nothing_but(&Watch {
        native: vec![(number, When::Always)],
        compat: Vec::new(),
    });
    let filter = filter.expect("BUG: a call is watched");
    let listener = super::load(filter.instructions())?;
    super::send_listener(socket.as_fd(), &listener)?;
    drop(listener);
    let mut word = QUESTION;
    let answer = sys::ask_about(&mut word)?;
    if answer == ANSWER && std::hint::black_box(word) == TOLD {
        Ok(())
    } else {
        Err(Errno::NOSYS)
    }
}

fn answering(socket: &OwnedFd, pid: Pid) -> Result<(), Errno> {
    // Without a listener the process has ended with the reason.
    let Some(listener) = super::receive_listener(socket.as_fd())? else {
        return Ok(());
    };
    let mut notifications = Notifications::new(listener)?;
    let limit = Timespec {
        tv_sec: 5,
        tv_nsec: 0,
    };
    let mut polled = [PollFd::new(&notifications, PollFlags::IN)];
    if rustix::io::retry_on_intr(|| rustix::event::poll(&mut polled, Some(&limit)))? == 0 {
        return Err(Errno::TIMEDOUT);
    }
    let call = notifications.receive()?.ok_or(Errno::SRCH)?;
    let tried = try_all(&notifications, &call, pid);
    notifications.respond(&call, Response::Value(ANSWER))?;
    tried
}

/// All that answering calls of commands takes. Where one of it is missing, owners would be lost without a word.
fn try_all(notifications: &Notifications, call: &Notification, pid: Pid) -> Result<(), Errno> {
    let mut word = [0; 8];
    notifications.read(call, call.args[0], &mut word)?;
    if word != QUESTION.to_ne_bytes() {
        return Err(Errno::NOSYS);
    }
    notifications.write(call, call.args[0], &TOLD.to_ne_bytes())?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let strictly = ResolveFlags::NO_MAGICLINKS;
    let root = rustix::fs::openat2(CWD, "/", flags, Mode::empty(), strictly)?;
    notifications.add_fd(call, root.as_fd(), true)?;
    let slack = format!("/proc/{}/timerslack_ns", pid.as_raw_nonzero());
    std::fs::read(&slack)
        .and_then(|value| std::fs::write(&slack, value))
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
}
