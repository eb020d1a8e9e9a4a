//! What a command without namespaces would try to get out of its root, as this program inside it: `--probe fence PATH PID...`
//! gets a folder outside as it was before, and processes outside; it prints what came of each attempt.

#![allow(unsafe_code)]

use libc::c_long;
use std::ffi::CString;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixStream};

pub(crate) fn probe(args: &[String]) {
    let [folder, socket, pids @ ..] = args else {
        panic!("a folder, a socket and processes are needed");
    };
    calls();
    descriptors();
    paths(folder);
    devices();
    sockets(folder, socket);
    for pid in pids {
        processes(pid.parse().unwrap());
    }
}

/// fcntl(2): which signal tells that a descriptor is ready.
const F_SETSIG: i32 = 10;

fn say(name: &str, result: c_long) {
    let errno = std::io::Error::last_os_error().raw_os_error();
    println!("{name} {}", if result < 0 { errno.unwrap_or(0) } else { 0 });
}

fn call(name: &str, number: c_long, args: [usize; 5]) -> c_long {
    // SAFETY: pointers passed are null or to C strings that live through the call.
    let result = unsafe { libc::syscall(number, args[0], args[1], args[2], args[3], args[4]) };
    say(name, result);
    result
}

fn text(path: &str) -> CString {
    CString::new(path).unwrap()
}

/// Each of these must fail with EPERM.
fn calls() {
    let here = text("/tmp");
    let here = here.as_ptr() as usize;
    for (name, number, args) in [
        ("chroot", libc::SYS_chroot, [here, 0, 0, 0, 0]),
        ("mount", libc::SYS_mount, [here, here, here, 0, 0]),
        ("mount-move", libc::SYS_mount, [here, here, 0, 0x2000, 0]),
        ("umount", libc::SYS_umount2, [here, 2, 0, 0, 0]),
        ("pivot_root", libc::SYS_pivot_root, [here, here, 0, 0, 0]),
        ("open_tree", libc::SYS_open_tree, [0, here, 1, 0, 0]),
        ("fsopen", libc::SYS_fsopen, [here, 0, 0, 0, 0]),
        ("unshare-user", libc::SYS_unshare, [0x1000_0000, 0, 0, 0, 0]),
        ("unshare-files", libc::SYS_unshare, [0x200, 0, 0, 0, 0]),
        ("setns", libc::SYS_setns, [0, 0, 0, 0, 0]),
        ("traceme", libc::SYS_ptrace, [0, 0, 0, 0, 0]),
        ("kcmp", libc::SYS_kcmp, [1, 1, 0, 0, 0]),
        ("pidfd_getfd", libc::SYS_pidfd_getfd, [0, 0, 0, 0, 0]),
        ("bpf", libc::SYS_bpf, [0, 0, 0, 0, 0]),
        ("keyctl", libc::SYS_keyctl, [0, 0, 0, 0, 0]),
        ("io_uring", libc::SYS_io_uring_setup, [1, 0, 0, 0, 0]),
        ("handle", libc::SYS_open_by_handle_at, [0, here, 0, 0, 0]),
        (
            "type-into-terminal",
            libc::SYS_ioctl,
            [1, 0x5412, here, 0, 0],
        ),
        ("priority-of-user", libc::SYS_setpriority, [2, 0, 19, 0, 0]),
        ("whiteout", libc::SYS_renameat2, [0, here, 0, here, 4]),
    ] {
        call(name, number, args);
    }
    let status = call("capset-all", libc::SYS_capset, [0, 0, 0, 0, 0]);
    assert!(status < 0);
}

/// What is open must be the three standard ones, and no folder.
fn descriptors() {
    let open: Vec<i32> = (0..1024)
        // SAFETY: asks for flags only.
        .filter(|fd| unsafe { libc::fcntl(*fd, libc::F_GETFD) } >= 0)
        .collect();
    println!("descriptors {open:?}");
    // SAFETY: a number; the root's parent is the root.
    say("fchdir-0", unsafe { libc::fchdir(0) }.into());
    std::env::set_current_dir("/../../../../..").unwrap();
    let mut names: Vec<String> = std::fs::read_dir("..")
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    println!("above {}", names.join(" "));
}

fn paths(folder: &str) {
    let outside = format!("{folder}/outside");
    let up = format!("/../../../../../../..{outside}");
    std::os::unix::fs::symlink(&outside, "/tmp/out").unwrap();
    for (name, path) in [
        ("path", &outside),
        ("up", &up),
        ("link", &"/tmp/out".to_owned()),
    ] {
        let errno = |result: std::io::Result<()>| match result {
            Ok(()) => 0,
            Err(error) => error.raw_os_error().unwrap_or(-1),
        };
        println!("read-{name} {}", errno(File::open(path).map(drop)));
        println!(
            "chmod-{name} {}",
            errno(std::fs::set_permissions(
                path,
                std::os::unix::fs::PermissionsExt::from_mode(0o777)
            ))
        );
        println!(
            "chown-{name} {}",
            errno(std::os::unix::fs::chown(path, Some(7), Some(7)))
        );
        println!(
            "hard-link-{name} {}",
            errno(std::fs::hard_link(path, "/tmp/hard"))
        );
        println!(
            "rename-{name} {}",
            errno(std::fs::rename(path, "/tmp/renamed"))
        );
        println!("remove-{name} {}", errno(std::fs::remove_file(path)));
        // The link itself is the command's own.
        if name == "link" {
            continue;
        }
        println!("write-{name} {}", errno(std::fs::write(path, "x")));
        println!(
            "times-{name} {}",
            errno(
                rustix::fs::utimensat(
                    rustix::fs::CWD,
                    path.as_str(),
                    &rustix::fs::Timestamps {
                        last_access: rustix::fs::Timespec {
                            tv_sec: 1,
                            tv_nsec: 1
                        },
                        last_modification: rustix::fs::Timespec {
                            tv_sec: 1,
                            tv_nsec: 1
                        },
                    },
                    rustix::fs::AtFlags::empty(),
                )
                .map_err(Into::into)
            )
        );
    }
}

fn devices() {
    let make = |name: &str, path: &str, mode: u32, device: usize| {
        let c_path = text(path);
        call(
            name,
            libc::SYS_mknodat,
            [
                libc::AT_FDCWD as usize,
                c_path.as_ptr() as usize,
                mode as usize,
                device,
                0,
            ],
        );
        if let Ok(file) = File::open(path) {
            println!("opened {path} {}", file.as_raw_fd());
        }
    };
    make("mknod-memory", "/tmp/mem", libc::S_IFCHR | 0o666, 0x101);
    make("mknod-disk", "/dev/disk", libc::S_IFBLK | 0o666, 0x700);
    make("mknod-whiteout", "/tmp/wh", libc::S_IFCHR | 0o666, 0);
    for (name, to) in [
        ("rename-device", "/tmp/null"),
        ("link-device", "/tmp/null2"),
    ] {
        let result = if name == "rename-device" {
            std::fs::rename("/dev/null", to)
        } else {
            std::fs::hard_link("/dev/null", to)
        };
        println!(
            "{name} {}",
            result.map_or_else(|error| error.raw_os_error().unwrap_or(-1), |()| 0)
        );
    }
}

fn sockets(folder: &str, name: &str) {
    let address = SocketAddr::from_abstract_name(name).unwrap();
    let errno = |error: std::io::Error| error.raw_os_error().unwrap_or(-1);
    println!(
        "abstract {}",
        UnixStream::connect_addr(&address).map_or_else(errno, |_| 0)
    );
    let datagram = UnixDatagram::unbound().unwrap();
    let datagrams = SocketAddr::from_abstract_name(format!("{name}-d")).unwrap();
    println!(
        "abstract-datagram {}",
        datagram
            .send_to_addr(b"x", &datagrams)
            .map_or_else(errno, |_| 0)
    );
    println!(
        "by-path {}",
        UnixStream::connect(format!("{folder}/socket")).map_or_else(errno, |_| 0)
    );
}

fn processes(pid: i32) {
    let number = pid as usize;
    for signal in [0, libc::SIGTERM, libc::SIGKILL, libc::SIGSTOP, libc::SIGURG] {
        call(
            &format!("kill-{signal}"),
            libc::SYS_kill,
            [number, signal as usize, 0, 0, 0],
        );
    }
    call("tgkill", libc::SYS_tgkill, [number, number, 9, 0, 0]);
    // SAFETY: all zeroes is a valid siginfo.
    let info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    call(
        "sigqueue",
        libc::SYS_rt_sigqueueinfo,
        [number, 9, (&raw const info) as usize, 0, 0],
    );
    // SAFETY: asks for a descriptor of a process.
    let pidfd = unsafe { libc::syscall(libc::SYS_pidfd_open, number, 0) };
    if pidfd >= 0 {
        call(
            "pidfd-signal",
            libc::SYS_pidfd_send_signal,
            [pidfd as usize, 9, 0, 0, 0],
        );
        call(
            "pidfd-getfd",
            libc::SYS_pidfd_getfd,
            [pidfd as usize, 0, 0, 0, 0],
        );
    }
    let limit = [0_u64; 2];
    call(
        "limit",
        libc::SYS_prlimit64,
        [number, 0, limit.as_ptr() as usize, 0, 0],
    );
    call("ptrace-attach", libc::SYS_ptrace, [16, number, 0, 0, 0]);
    call("ptrace-seize", libc::SYS_ptrace, [0x4206, number, 0, 0, 0]);
    let mut bytes = [0_u8; 8];
    let (local, remote) = ([bytes.as_mut_ptr() as usize, 8], [0x40_0000_usize, 8]);
    call(
        "read-memory",
        libc::SYS_process_vm_readv,
        [
            number,
            local.as_ptr() as usize,
            1,
            remote.as_ptr() as usize,
            1,
        ],
    );
    call(
        "affinity",
        libc::SYS_sched_setaffinity,
        [number, 8, local.as_ptr() as usize, 0, 0],
    );
    call(
        "policy",
        libc::SYS_sched_setscheduler,
        [number, 5, local.as_ptr() as usize, 0, 0],
    );
    call("priority", libc::SYS_setpriority, [0, number, 19, 0, 0]);
    call(
        "io-priority",
        libc::SYS_ioprio_set,
        [1, number, 0x6000, 0, 0],
    );
    for file in ["mem", "root/etc/passwd", "environ", "fd/0", "cwd"] {
        let opened = File::open(format!("/proc/{pid}/{file}")).is_ok();
        println!("/proc/{file} {}", if opened { 0 } else { 1 });
    }
    // A descriptor whose signals go to a process outside.
    let (one, other) = UnixStream::pair().unwrap();
    // SAFETY: fcntl and ioctl on a descriptor of our own.
    unsafe {
        libc::fcntl(one.as_raw_fd(), libc::F_SETOWN, pid);
        libc::fcntl(one.as_raw_fd(), F_SETSIG, libc::SIGKILL);
        libc::fcntl(one.as_raw_fd(), libc::F_SETFL, libc::O_ASYNC);
    }
    std::io::Write::write_all(&mut &other, b"x").unwrap();
}

/// A process that is another all the time.
pub(crate) fn relay() {
    loop {
        // SAFETY: this program has one thread.
        if unsafe { libc::fork() } > 0 {
            std::process::exit(0);
        }
        // SAFETY: a system call without memory.
        unsafe { libc::setsid() };
    }
}

/// What a socket says.
pub(crate) fn socket(path: &str) {
    let mut text = String::new();
    std::io::Read::read_to_string(&mut UnixStream::connect(path).unwrap(), &mut text).unwrap();
    print!("{text}");
}
