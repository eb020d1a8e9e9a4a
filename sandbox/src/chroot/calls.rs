//! System calls of this mode that rustix lacks. Each function is one call; no policy here.

#![allow(unsafe_code)]

use crate::sys::SingleThreaded;
use rustix::fd::{FromRawFd, OwnedFd};
use rustix::io::Errno;
use rustix::process::{Pid, Signal};

/// Blocks these signals and gives a descriptor that tells of them.
pub(crate) fn signals(signals: &[Signal]) -> Result<OwnedFd, Errno> {
    // SAFETY: the set is made empty before it is read, and lives through the calls.
    let fd = unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in signals {
            libc::sigaddset(&raw mut set, signal.as_raw());
        }
        if libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) < 0 {
            return Err(last_errno());
        }
        libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
    };
    if fd < 0 {
        return Err(last_errno());
    }
    // SAFETY: a new descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Takes one signal off such a descriptor.
pub(crate) fn next_signal(fd: &OwnedFd) -> Option<i32> {
    let mut info = [0_u8; size_of::<libc::signalfd_siginfo>()];
    let read = rustix::io::read(fd, &mut info[..]).ok()?;
    if read < size_of::<u32>() {
        return None;
    }
    Some(i32::from_ne_bytes([info[0], info[1], info[2], info[3]]))
}

/// Blocks every signal that can be blocked.
pub(crate) fn block_all_signals() {
    // SAFETY: the set is filled before it is read, and lives through the call.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut());
    }
}

/// A fork whose child is a sibling of this process. `None` in the child.
pub(crate) fn fork_sibling(_one: SingleThreaded) -> Result<Option<Pid>, Errno> {
    let zero: libc::c_long = 0;
    let flags = libc::c_long::from(libc::CLONE_PARENT | libc::SIGCHLD);
    // SAFETY: without CLONE_VM the child has a copy of the address space and the stack; there is one thread, so that no lock
    // is held in it. The C library's notion of its own pid is not cached.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, zero, zero, zero, zero) };
    if pid < 0 {
        return Err(last_errno());
    }
    Ok(Pid::from_raw(pid as i32))
}

/// Sends a signal to everybody who may be sent one, but to this process: the kernel does so at once, between forks.
pub(crate) fn kill_everybody(signal: Signal) {
    // SAFETY: no memory is involved. Callers are fenced, so that everybody is who shares their fence.
    unsafe { libc::kill(-1, signal.as_raw()) };
}

fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}
