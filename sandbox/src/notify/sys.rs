//! The kernel's side of notifications: loading a filter with a listener, the listener's ioctls, other processes' memory.

#![allow(unsafe_code)]

use crate::sys::{check, last_errno};
use rustix::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use rustix::io::Errno;
use std::ffi::{c_long, c_ulong};

/// Length of the kernel's `struct statx`.
pub(super) const STATX_LEN: usize = 256;

type Result<T> = std::result::Result<T, Errno>;

/// `SECCOMP_IOCTL_NOTIF_SET_FLAGS` and its only flag: both sides take turns on one processor (Linux 6.6).
const SYNC_WAKE_UP: c_ulong = 1;

/// Loads a filter without setting `no_new_privs` and returns its listener, close-on-exec. Where the kernel can (Linux
/// 5.19), a notified call that the supervisor has taken is interrupted by deadly signals only.
pub(super) fn load_with_listener(filter: &[libc::sock_filter]) -> Result<OwnedFd> {
    let flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
    match load(filter, flags | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV) {
        Err(Errno::INVAL) => load(filter, flags),
        loaded => loaded,
    }
}

fn load(filter: &[libc::sock_filter], flags: c_ulong) -> Result<OwnedFd> {
    let len = u16::try_from(filter.len()).map_err(|_| Errno::INVAL)?;
    let program = libc::sock_fprog {
        len,
        filter: filter.as_ptr().cast_mut(),
    };
    // SAFETY: the program points at `len` initialised instructions, which the kernel copies and does not write.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const program,
        )
    };
    check(fd)?;
    // SAFETY: the kernel has made a new descriptor that nothing else owns; descriptors are below 2^31.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Sizes of the kernel's `seccomp_notif` and `seccomp_notif_resp`.
pub(super) fn sizes() -> Result<(usize, usize)> {
    let mut sizes = libc::seccomp_notif_sizes {
        seccomp_notif: 0,
        seccomp_notif_resp: 0,
        seccomp_data: 0,
    };
    // SAFETY: the structure is writable and of the layout the operation fills.
    check(unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_GET_NOTIF_SIZES,
            0,
            &raw mut sizes,
        )
    })?;
    Ok((sizes.seccomp_notif.into(), sizes.seccomp_notif_resp.into()))
}

/// Lets both sides take turns on one processor, where the kernel can.
pub(super) fn wake_in_turn(listener: BorrowedFd<'_>) {
    // SAFETY: the request takes its flags by value.
    unsafe {
        libc::ioctl(
            listener.as_raw_fd(),
            libc::SECCOMP_IOCTL_NOTIF_SET_FLAGS,
            SYNC_WAKE_UP,
        )
    };
}

/// Takes one notification into a zeroed buffer at least as long as the kernel's structure.
pub(super) fn receive(listener: BorrowedFd<'_>, buffer: &mut [u64]) -> Result<libc::seccomp_notif> {
    assert!(size_of_val(buffer) >= size_of::<libc::seccomp_notif>());
    // SAFETY: the caller sized the buffer by `sizes`; u64 has the alignment of the structure.
    let result = unsafe {
        libc::ioctl(
            listener.as_raw_fd(),
            libc::SECCOMP_IOCTL_NOTIF_RECV,
            buffer.as_mut_ptr(),
        )
    };
    check(result.into())?;
    // SAFETY: the buffer is long enough (asserted) and aligned, and any bytes are a valid structure of integers.
    Ok(unsafe { std::ptr::read(buffer.as_ptr().cast()) })
}

/// Sends a response in a zeroed buffer at least as long as the kernel's structure.
pub(super) fn respond(
    listener: BorrowedFd<'_>,
    response: libc::seccomp_notif_resp,
    buffer: &mut [u64],
) -> Result<()> {
    assert!(size_of_val(buffer) >= size_of::<libc::seccomp_notif_resp>());
    // SAFETY: the buffer is long enough (asserted) and aligned.
    unsafe { std::ptr::write(buffer.as_mut_ptr().cast(), response) };
    // SAFETY: the caller sized the buffer by `sizes`.
    let result = unsafe {
        libc::ioctl(
            listener.as_raw_fd(),
            libc::SECCOMP_IOCTL_NOTIF_SEND,
            buffer.as_mut_ptr(),
        )
    };
    check(result.into())
}

/// Whether the notified process still waits in the call.
pub(super) fn is_valid(listener: BorrowedFd<'_>, id: u64) -> bool {
    // SAFETY: the request reads eight bytes.
    let result = unsafe {
        libc::ioctl(
            listener.as_raw_fd(),
            libc::SECCOMP_IOCTL_NOTIF_ID_VALID,
            &raw const id,
        )
    };
    result == 0
}

/// Installs a descriptor in the notified process; its number there. With `answer` it is the call's result too (Linux 5.14).
pub(super) fn add_fd(
    listener: BorrowedFd<'_>,
    id: u64,
    fd: BorrowedFd<'_>,
    cloexec: bool,
    answer: bool,
) -> Result<i32> {
    let request = libc::seccomp_notif_addfd {
        id,
        flags: if answer {
            libc::SECCOMP_ADDFD_FLAG_SEND as u32
        } else {
            0
        },
        srcfd: fd.as_raw_fd().cast_unsigned(),
        newfd: 0,
        newfd_flags: if cloexec {
            libc::O_CLOEXEC.cast_unsigned()
        } else {
            0
        },
    };
    // SAFETY: the structure is initialised and lives through the call.
    let result = unsafe {
        libc::ioctl(
            listener.as_raw_fd(),
            libc::SECCOMP_IOCTL_NOTIF_ADDFD,
            &raw const request,
        )
    };
    check(result.into())?;
    Ok(result)
}

/// Reads another process's memory, up to the first page that is not there.
pub(super) fn read_memory(pid: i32, address: u64, buffer: &mut [u8]) -> Result<usize> {
    let local = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    let remote = remote(address, buffer.len())?;
    // SAFETY: the local range is this buffer; the remote one is checked by the kernel.
    let read = unsafe { libc::process_vm_readv(pid, &raw const local, 1, &raw const remote, 1, 0) };
    usize::try_from(read).map_err(|_| last_errno())
}

/// Writes another process's memory, all or an error.
pub(super) fn write_memory(pid: i32, address: u64, bytes: &[u8]) -> Result<()> {
    let local = libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    };
    let remote = remote(address, bytes.len())?;
    // SAFETY: the local range is only read; the remote one is checked by the kernel.
    let written =
        unsafe { libc::process_vm_writev(pid, &raw const local, 1, &raw const remote, 1, 0) };
    match usize::try_from(written) {
        Ok(written) if written == bytes.len() => Ok(()),
        Ok(_) => Err(Errno::FAULT),
        Err(_) => Err(last_errno()),
    }
}

fn remote(address: u64, len: usize) -> Result<libc::iovec> {
    let address = usize::try_from(address).map_err(|_| Errno::FAULT)?;
    Ok(libc::iovec {
        iov_base: std::ptr::without_provenance_mut(address),
        iov_len: len,
    })
}

/// statx of an open file: the kernel's structure as bytes (`struct statx`, the same on every machine).
pub(super) fn statx(file: BorrowedFd<'_>, flags: u32, mask: u32) -> Result<[u8; STATX_LEN]> {
    let mut buffer = [0_u64; STATX_LEN / 8];
    /// The file itself is meant.
    const AT_EMPTY_PATH: u32 = 0x1000;
    // SAFETY: the path is a C string, the buffer as long and aligned as the structure, which the kernel fills.
    check(unsafe {
        libc::syscall(
            libc::SYS_statx,
            file.as_raw_fd(),
            c"".as_ptr(),
            flags | AT_EMPTY_PATH,
            mask,
            buffer.as_mut_ptr(),
        )
    })?;
    let mut bytes = [0; STATX_LEN];
    for (to, from) in bytes.chunks_exact_mut(8).zip(buffer) {
        to.copy_from_slice(&from.to_ne_bytes());
    }
    Ok(bytes)
}

/// Sets this thread's timer slack, in nanoseconds.
pub(super) fn set_timer_slack(nanoseconds: u64) -> Result<()> {
    // SAFETY: plain numbers.
    check(c_long::from(unsafe {
        libc::prctl(libc::PR_SET_TIMERSLACK, nanoseconds, 0, 0, 0)
    }))
}

/// getpgid with the address of a word as its number, for a supervisor that works on the word.
pub(super) fn ask_about(word: &mut u64) -> Result<i64> {
    // SAFETY: the kernel takes a plain number; a supervisor that is told of it changes this word at most.
    let answer = unsafe { libc::syscall(libc::SYS_getpgid, std::ptr::from_mut(word)) };
    check(answer)?;
    Ok(answer)
}

/// Blocks SIGCHLD in this thread and returns a descriptor that is readable when one waits.
pub(super) fn ended_children() -> Result<OwnedFd> {
    // SAFETY: all zeroes is a valid set of signals; the calls read and write sets of this frame only.
    let fd = unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
        libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
        libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
    };
    check(fd.into())?;
    // SAFETY: the kernel has made a new descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
