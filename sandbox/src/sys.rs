//! System calls that rustix lacks, and those that are sound only in a single-threaded process.
//!
//! Each function is one call; no policy here.

#![allow(unsafe_code)]

use rustix::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;
use rustix::process::Pid;
use std::ffi::{CString, c_char, c_int, c_long};
use std::sync::atomic::{AtomicBool, Ordering};

type Result<T> = std::result::Result<T, Errno>;

/// Proof that this process has one thread, so that a forked child may do anything.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SingleThreaded(());

impl SingleThreaded {
    /// # Safety
    /// The process has no other thread and starts none while the value is used to fork.
    pub(crate) unsafe fn assume() -> Self {
        Self(())
    }
}

/// Which side of a fork this is.
#[derive(Debug)]
pub(crate) enum Forked {
    Parent { pid: Pid, pidfd: OwnedFd },
    Child,
}

/// Starts a child in new namespaces (`CLONE_NEW*` of `flags`), with a pidfd. clone3 (Linux 5.3), else clone where a seccomp filter hides it.
pub(crate) fn clone_process(_one: SingleThreaded, flags: c_int) -> Result<Forked> {
    let mut pidfd: RawFd = -1;
    let flags = flags | libc::CLONE_PIDFD;
    let mut args = CloneArgs {
        flags: u64::from(flags.cast_unsigned()),
        pidfd: std::ptr::from_mut(&mut pidfd) as u64,
        exit_signal: u64::from(libc::SIGCHLD.cast_unsigned()),
        ..CloneArgs::default()
    };
    // SAFETY: the argument block is initialised, lives through the call and says its size; without CLONE_VM the child
    // gets a copy of the address space, and as there is one thread no lock is held in it.
    let mut pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<CloneArgs>()) };
    if pid < 0 && last_errno() == Errno::NOSYS {
        let flags = c_long::from(flags | libc::SIGCHLD);
        let zero: c_long = 0;
        // SAFETY: as above; the third argument is where the kernel stores the pidfd, the stack is the copied one.
        pid = unsafe { libc::syscall(libc::SYS_clone, flags, zero, &raw mut pidfd, zero, zero) };
    }
    if pid < 0 {
        return Err(last_errno());
    }
    let Some(pid) = Pid::from_raw(pid as i32) else {
        return Ok(Forked::Child);
    };
    // SAFETY: the kernel has stored a new descriptor that nothing else owns.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Forked::Parent { pid, pidfd })
}

/// `struct clone_args` up to Linux 5.3's first version.
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
}

/// fork by the C library, which keeps its own state right in the child. `None` in the child.
pub(crate) fn fork(_one: SingleThreaded) -> Result<Option<Pid>> {
    // SAFETY: there is one thread, so the child's copy of all locks and the heap is consistent.
    let pid = unsafe { libc::fork() };
    if pid < 0 {
        return Err(last_errno());
    }
    Ok(Pid::from_raw(pid))
}

/// `PER_LINUX32` of <linux/personality.h>.
const PER_LINUX32: libc::c_ulong = 8;

/// Whether an arm64 processor runs 32-bit programs: only then can a thread take on their personality.
pub(crate) fn has_32_bit_programs() -> bool {
    // SAFETY: personality takes any number and changes this thread only, which gets its own back.
    unsafe {
        let own = libc::personality(0xffff_ffff);
        let able = own != -1 && libc::personality(PER_LINUX32) != -1;
        if able {
            libc::personality(own as libc::c_ulong);
        }
        able
    }
}

/// Kills every process that this one may, but itself: as process 1, all of its pid namespace.
pub(crate) fn kill_all() -> Result<()> {
    // SAFETY: sends a signal, which touches no memory here.
    check(c_long::from(unsafe { libc::kill(-1, libc::SIGKILL) }))
}

/// The mount that something open lies in (Linux 5.8).
pub(crate) fn mount_id(fd: impl AsFd) -> Result<u64> {
    use rustix::fs::{AtFlags, StatxFlags};
    let stat = rustix::fs::statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?;
    Ok(stat.stx_mnt_id)
}

/// Ends the process at once, without destructors or exit handlers.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: _exit takes any code and does not return.
    unsafe { libc::_exit(code) }
}

/// unshare of namespaces in a single-threaded process.
pub(crate) fn unshare(_one: SingleThreaded, flags: rustix::thread::UnshareFlags) -> Result<()> {
    // SAFETY: there is one thread, so that no other thread can observe a changed descriptor table.
    unsafe { rustix::thread::unshare_unsafe(flags) }
}

#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns: u64,
}

/// mount_setattr (Linux 5.12) on the mount a descriptor refers to.
pub(crate) fn mount_setattr(mount: impl AsFd, set: MountAttrFlags, recursive: bool) -> Result<()> {
    let attr = MountAttr {
        set: set.bits().into(),
        clear: 0,
        propagation: 0,
        userns: 0,
    };
    raw_mount_setattr(mount.as_fd().as_raw_fd(), &attr, recursive)
}

/// Maps the ids of a detached mount by a user namespace (Linux 5.12).
pub(crate) fn idmap_mount(mount: impl AsFd, userns: impl AsFd, recursive: bool) -> Result<()> {
    let set = MountAttrFlags::MOUNT_ATTR_IDMAP.bits().into();
    let userns = userns.as_fd().as_raw_fd().cast_unsigned().into();
    let attr = MountAttr {
        set,
        clear: 0,
        propagation: 0,
        userns,
    };
    raw_mount_setattr(mount.as_fd().as_raw_fd(), &attr, recursive)
}

fn raw_mount_setattr(mount: RawFd, attr: &MountAttr, recursive: bool) -> Result<()> {
    let mut flags = libc::AT_EMPTY_PATH;
    if recursive {
        flags |= libc::AT_RECURSIVE;
    }
    // SAFETY: the path is an empty C string, the attributes are initialised and of the size given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount,
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attr),
            size_of::<MountAttr>(),
        )
    };
    check(result)
}

/// Loads a seccomp filter without setting `no_new_privs`; needs CAP_SYS_ADMIN in the user namespace.
pub(crate) fn load_seccomp(filter: &[libc::sock_filter]) -> Result<()> {
    let len = u16::try_from(filter.len()).map_err(|_| Errno::INVAL)?;
    let program = libc::sock_fprog {
        len,
        filter: filter.as_ptr().cast_mut(),
    };
    // SAFETY: the program points at `len` initialised instructions, which the kernel copies and does not write.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            0,
            &raw const program,
        )
    };
    check(result)
}

/// The version of Landlock's interface (Linux 5.13).
pub(crate) fn landlock_version() -> Result<u32> {
    const VERSION: u32 = 1;
    let attributes: *const c_char = std::ptr::null();
    let size: usize = 0;
    // SAFETY: with this flag the attributes are not looked at, which must be null and of no size.
    let version =
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, attributes, size, VERSION) };
    check(version)?;
    u32::try_from(version).map_err(|_| Errno::INVAL)
}

/// Puts this process and what it starts into a Landlock domain that keeps nothing from them but the processes of other
/// domains: no signals (Linux 6.12), and none of what ptrace(2)'s access check guards in `/proc`.
pub(crate) fn keep_apart() -> Result<()> {
    const SCOPE_SIGNAL: u64 = 1 << 1;
    /// File system, network, scope.
    const RULES: [u64; 3] = [0, 0, SCOPE_SIGNAL];
    // SAFETY: the rules are as long as said, and only read.
    let ruleset = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            RULES.as_ptr(),
            size_of_val(&RULES),
            0,
        )
    };
    check(ruleset)?;
    let ruleset = RawFd::try_from(ruleset).map_err(|_| Errno::BADF)?;
    // SAFETY: the kernel has made a new descriptor, which nothing else owns.
    let ruleset = unsafe { OwnedFd::from_raw_fd(ruleset) };
    // SAFETY: takes a descriptor and flags.
    check(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0) })
}

/// Sets every signal to its default action and unblocks all: what a command expects to start with. By the system call,
/// because C libraries keep two signals to themselves, which a caller may have left ignored.
pub(crate) fn reset_signals() {
    /// `struct sigaction` of the kernel: action, flags, restorer, mask.
    const DEFAULT: [u64; 4] = [0; 4];
    let none: u64 = 0;
    let null = std::ptr::null_mut::<u64>();
    for signal in 1..=64_i32 {
        // SAFETY: SIG_DFL runs no code of ours; the block is as long as the kernel's structure, whose mask is 8 bytes.
        // SIGKILL and SIGSTOP are refused without effect.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                DEFAULT.as_ptr(),
                null,
                size_of_val(&none),
            )
        };
    }
    // SAFETY: the set is as long as said.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const none,
            null,
            size_of_val(&none),
        )
    };
}

/// Whether the helper has asked this process to have all others ended.
static STOPPING: AtomicBool = AtomicBool::new(false);

/// In process 1 of a pid namespace: SIGTERM from outside of it is passed on to all processes in it.
pub(crate) fn pass_on_stop() {
    // SAFETY: all zeroes is a valid sigaction; the handler makes system calls and sets an atomic flag, nothing else.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_stop as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO;
        libc::sigaction(libc::SIGTERM, &raw const action, std::ptr::null_mut());
    }
}

extern "C" fn on_stop(_signal: c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo to a handler with SA_SIGINFO.
    let sender = unsafe { (*info).si_pid() };
    // Processes inside have numbers here, and may signal each other by themselves.
    if sender == 0 {
        STOPPING.store(true, Ordering::SeqCst);
        stop_all();
    }
}

/// Whether process 1 was asked to stop.
pub(crate) fn was_asked_to_stop() -> bool {
    STOPPING.load(Ordering::SeqCst)
}

/// Stops what was started after the request to stop had come.
pub(crate) fn stop_if_asked() {
    if was_asked_to_stop() {
        stop_all();
    }
}

/// SIGTERM to every other process of this pid namespace; those that are stopped go on, so that they take it.
fn stop_all() {
    // SAFETY: system calls without memory. As process 1 this one is alone with those that it has started; outside of a
    // pid namespace of its own it signals nobody.
    unsafe {
        if libc::getpid() == 1 {
            let errno = *libc::__errno_location();
            libc::kill(-1, libc::SIGTERM);
            libc::kill(-1, libc::SIGCONT);
            *libc::__errno_location() = errno;
        }
    }
}

/// A new session keyring, so that the caller's keys are out of reach.
pub(crate) fn join_new_session_keyring() {
    const KEYCTL_JOIN_SESSION_KEYRING: c_long = 1;
    let anonymous: *const c_char = std::ptr::null();
    // SAFETY: a null name asks for an anonymous keyring. Kernels without keyrings refuse, which is as good.
    unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, anonymous) };
}

/// Sets the ids that this thread's accesses to files are made with. The kernel leaves them when it may not.
pub(crate) fn set_file_ids(uid: u32, gid: u32) {
    // SAFETY: both take any id and touch no memory.
    unsafe {
        libc::setfsgid(gid);
        libc::setfsuid(uid);
    }
}

/// Marks or closes a range of descriptors, by close_range (Linux 5.9).
pub(crate) fn close_range(first: u32, last: u32, cloexec: bool) -> Result<()> {
    if first > last {
        return Ok(());
    }
    let flags = if cloexec {
        libc::CLOSE_RANGE_CLOEXEC
    } else {
        0
    };
    // SAFETY: callers pass ranges whose descriptors nothing in this process uses or owns any longer, or only mark them.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) })
}

/// Brings the loopback interface of this network namespace up.
pub(crate) fn loopback_up() -> Result<()> {
    let socket = rustix::net::socket_with(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )?;
    // SAFETY: all zeroes is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as i16;
    // SAFETY: SIOCSIFFLAGS reads an ifreq, which lives through the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    check(c_long::from(result))
}

/// execve; returns only on failure.
pub(crate) fn execve(program: &CString, args: &[CString], env: &[CString]) -> Errno {
    let pointers = |strings: &[CString]| -> Vec<*const c_char> {
        strings
            .iter()
            .map(|text| text.as_ptr())
            .chain([std::ptr::null()])
            .collect()
    };
    let (args, env) = (pointers(args), pointers(env));
    // SAFETY: both arrays end with a null pointer and their strings outlive the call.
    unsafe { libc::execve(program.as_ptr(), args.as_ptr(), env.as_ptr()) };
    last_errno()
}

/// Makes `target` refer to what `source` refers to, replacing what it was.
pub(crate) fn dup_onto(source: impl AsFd, target: RawFd) -> Result<()> {
    // SAFETY: targets are the standard descriptors 0 to 2, which no Rust object owns.
    check(c_long::from(unsafe {
        libc::dup2(source.as_fd().as_raw_fd(), target)
    }))
}

/// Takes standard input as an owned descriptor: a helper's only inherited one.
pub(crate) fn take_stdin() -> Result<OwnedFd> {
    // SAFETY: descriptor 0 is open or refused with EBADF; the duplicate is new and owned by nobody else.
    let fd = unsafe { libc::fcntl(0, libc::F_DUPFD_CLOEXEC, 3) };
    if fd < 0 {
        return Err(last_errno());
    }
    // SAFETY: as above.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The errno of a call that returned a negative number.
pub(crate) fn check(result: c_long) -> Result<()> {
    if result < 0 {
        Err(last_errno())
    } else {
        Ok(())
    }
}

pub(crate) fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}
