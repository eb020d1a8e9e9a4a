//! Ends a program of the host, with all it has started, when the process that started it ends.
//!
//! A second process watches both, since a parent death signal reaches the program alone and not its helpers. It does not
//! isolate anything: the program sees what its caller sees.

#![allow(unsafe_code)]

use rustix::fd::{AsRawFd, OwnedFd};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// The program becomes the leader of a process group. pidfds: Linux 5.3; close_range: Linux 5.9.
pub(crate) fn end_with_caller(command: &mut Command) {
    let caller = rustix::process::getpid();
    // SAFETY: between fork and exec the closure makes system calls only; it neither allocates nor takes a lock.
    unsafe {
        command.pre_exec(move || Ok(start_watcher(caller)?));
    }
}

/// In the forked child that is to become the program.
fn start_watcher(caller: Pid) -> Result<(), Errno> {
    // The program does not take a signal of the terminal before its caller has.
    rustix::process::setpgid(None, None)?;
    let caller_fd = rustix::process::pidfd_open(caller, PidfdFlags::empty())?;
    // It may have ended, and its number be another's, before it was opened.
    if rustix::process::getppid() != Some(caller) {
        return Err(Errno::SRCH);
    }
    let own = rustix::process::getpid();
    let own_fd = rustix::process::pidfd_open(own, PidfdFlags::empty())?;
    // SAFETY: a plain fork without the C library's handlers. The child makes system calls only and never returns.
    // Its exit signal is 0, so that no wait of the program finds it.
    let forked = unsafe { libc::syscall(libc::SYS_clone, 0, 0, 0, 0, 0) };
    match forked {
        0 => watch(&caller_fd, &own_fd),
        1.. => Ok(()),
        _ => Err(errno()),
    }
}

/// Waits for the end of either process, then kills the group it is in itself.
fn watch(caller: &OwnedFd, program: &OwnedFd) -> ! {
    let (caller, program) = (caller.as_raw_fd(), program.as_raw_fd());
    keep_only(caller.min(program), caller.max(program));
    let mut ends = [caller, program].map(|fd| libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    });
    // SAFETY: system calls on values of this frame. A group that holds the caller of kill is never another's.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const all, std::ptr::null_mut());
        libc::prctl(libc::PR_SET_NAME, c"kiln-watch".as_ptr());
        while libc::poll(ends.as_mut_ptr(), 2, -1) < 0 && errno() == Errno::INTR {}
        libc::kill(0, libc::SIGKILL);
        libc::_exit(0)
    }
}

/// Closes all other descriptors: pipes of the caller and the program end with them, not with the watcher.
fn keep_only(first: i32, second: i32) {
    let close = |from: i32, to: i32| {
        if from <= to {
            // SAFETY: nothing of this process is used afterwards but the two descriptors that are kept.
            unsafe {
                libc::syscall(libc::SYS_close_range, from, to, 0);
            }
        }
    };
    close(0, first - 1);
    close(first + 1, second - 1);
    close(second + 1, i32::MAX);
}

fn errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}
