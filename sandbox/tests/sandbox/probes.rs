//! What a hostile program would try, as this program inside a root: `--probe NAME` prints what came of it.

#![allow(unsafe_code)]

use libc::{c_long, c_uint};
use std::process::ExitCode;

pub(crate) fn main(args: &[String]) -> ExitCode {
    match args.first().map(String::as_str) {
        Some("syscalls") => syscalls(),
        Some("namespaces") => namespaces(),
        Some("sockets") => sockets(),
        #[cfg(target_arch = "x86_64")]
        Some("compat") => compat(),
        Some("keyring") => keyring(),
        Some("processes") => processes(),
        Some("chroot") => chroot_twice(),
        Some("privileges") => {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            print!(
                "{}",
                status
                    .lines()
                    .filter(|line| line.starts_with("CapEff"))
                    .collect::<String>()
            );
        }
        Some("ids") => println!(
            "{} {}",
            rustix::process::getuid().as_raw(),
            rustix::process::geteuid().as_raw()
        ),
        Some("as") => return crate::probe_ids::run_as(&args[1..]),
        Some("four-ids") => crate::probe_ids::four_ids(),
        Some("answer-paths") => crate::probe_answers::paths(),
        Some("answer-roots") => crate::probe_answers::roots(),
        Some("answer-makers") => crate::probe_answers::makers(),
        Some("answer-exchanged") => crate::probe_threads::exchanged(),
        Some("answer-recorded") => crate::probe_threads::recorded(),
        Some("answer-storm") => crate::probe_threads::storm(),
        Some("answer-gone") => crate::probe_threads::gone(),
        Some("identities") => crate::probe_ids::identities(),
        Some("thread-identities") => crate::probe_ids::threads(),
        #[cfg(target_arch = "x86_64")]
        Some("old-calls") => crate::probe_ids::old_calls(),
        Some("zombies") => zombies(),
        Some("capability") => give_capability(),
        Some("abstract") => connect(&args[1]),
        Some("tcp") => hear(&args[1]),
        Some("terminal") => terminal(),
        Some("reach") => reach(&args[1]),
        Some("fence-relay") => crate::fence::relay(),
        Some("fence-socket") => crate::fence::socket(&args[1]),
        Some("fence") => crate::fence::probe(&args[1..]),
        name => {
            println!("no probe {name:?}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// Makes a system call and prints the errno, 0 when it went through.
fn call(name: &str, number: c_long, args: [usize; 4]) -> c_long {
    // SAFETY: the numbers used here take at most four arguments, and all pointers passed are null, which the kernel checks.
    let result = unsafe { libc::syscall(number, args[0], args[1], args[2], args[3]) };
    let errno = if result < 0 {
        std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
    } else {
        0
    };
    println!("{name} {errno}");
    result
}

fn syscalls() {
    for (name, number) in [
        ("keyctl", libc::SYS_keyctl),
        ("add_key", libc::SYS_add_key),
        ("request_key", libc::SYS_request_key),
        ("io_uring_setup", libc::SYS_io_uring_setup),
        ("bpf", libc::SYS_bpf),
        ("userfaultfd", libc::SYS_userfaultfd),
        ("perf_event_open", libc::SYS_perf_event_open),
        ("open_by_handle_at", libc::SYS_open_by_handle_at),
        ("kexec_load", libc::SYS_kexec_load),
        ("init_module", libc::SYS_init_module),
        ("swapoff", libc::SYS_swapoff),
        ("reboot", libc::SYS_reboot),
        ("syslog", libc::SYS_syslog),
        ("fsopen", libc::SYS_fsopen),
        ("open_tree", libc::SYS_open_tree),
        ("pivot_root", libc::SYS_pivot_root),
        ("settimeofday", libc::SYS_settimeofday),
    ] {
        call(name, number, [0; 4]);
    }
    call("newer", 5000, [0; 4]);
    #[cfg(target_arch = "x86_64")]
    call("x32", 0x4000_0000 + libc::SYS_getpid, [0; 4]);
}

fn namespaces() {
    const NAMESPACES: [(&str, i32); 7] = [
        ("user", libc::CLONE_NEWUSER),
        ("mount", libc::CLONE_NEWNS),
        ("pid", libc::CLONE_NEWPID),
        ("net", libc::CLONE_NEWNET),
        ("ipc", libc::CLONE_NEWIPC),
        ("uts", libc::CLONE_NEWUTS),
        ("cgroup", libc::CLONE_NEWCGROUP),
    ];
    for (name, flag) in NAMESPACES {
        call(
            &format!("unshare-{name}"),
            libc::SYS_unshare,
            [flag as usize, 0, 0, 0],
        );
        if call(
            &format!("clone-{name}"),
            libc::SYS_clone,
            [(flag | libc::SIGCHLD) as usize, 0, 0, 0],
        ) == 0
        {
            std::process::exit(0);
        }
    }
    call("clone3", libc::SYS_clone3, [0, 88, 0, 0]);
    call("setns", libc::SYS_setns, [0, 0, 0, 0]);
}

/// By the call gate of 32-bit programs, which counts calls differently and is open to 64-bit ones too.
#[cfg(target_arch = "x86_64")]
fn compat() {
    for (name, number, first) in [
        ("getpid", 20, 0),
        ("mount", 21, 0),
        ("umount", 22, 0),
        ("umount2", 52, 0),
        ("reboot", 88, 0),
        ("init_module", 128, 0),
        ("pivot_root", 217, 0),
        ("add_key", 286, 0),
        ("request_key", 287, 0),
        ("keyctl", 288, 0),
        ("unshare", 310, libc::CLONE_NEWUSER),
        ("perf_event_open", 336, 0),
        ("open_by_handle_at", 342, 0),
        ("setns", 346, 0),
        ("bpf", 357, 0),
        ("AF_ALG", 359, libc::AF_ALG),
        ("AF_VSOCK", 359, libc::AF_VSOCK),
        ("userfaultfd", 374, 0),
        ("clone-user", 120, libc::CLONE_NEWUSER),
        ("io_uring_setup", 425, 0),
        ("clone3", 435, 0),
        ("newer", 5000, 0),
    ] {
        let result: i32;
        // SAFETY: calls of the kernel's 32-bit interface with zeroes for pointers; the kernel clobbers r8 to r11 only.
        unsafe {
            std::arch::asm!(
                "xchg {first:r}, rbx",
                "int 0x80",
                "xchg {first:r}, rbx",
                first = inout(reg) i64::from(first) => _,
                inlateout("eax") number => result,
                in("ecx") 0,
                in("edx") 0,
                in("esi") 0,
                in("edi") 0,
                out("r8") _,
                out("r9") _,
                out("r10") _,
                out("r11") _,
            );
        }
        println!("{name} {}", result.min(0).unsigned_abs());
    }
}

/// Name of the key that [`remember_key`] puts where a command must not find it.
const KEY: &[u8] = b"kiln-test-key\0";

/// Puts a key into this process's session keyring; false where there are no keyrings.
pub(crate) fn remember_key() -> bool {
    const JOIN_SESSION_KEYRING: c_long = 1;
    let null = std::ptr::null::<u8>();
    // SAFETY: all strings end with a zero byte, and the payload is as long as said.
    unsafe {
        libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, null);
        let (kind, secret) = (c"user".as_ptr(), KEY.as_ptr());
        libc::syscall(libc::SYS_add_key, kind, secret, secret, KEY.len(), SESSION) >= 0
            && find_key() == 0
    }
}

/// `KEY_SPEC_SESSION_KEYRING`.
const SESSION: c_long = -3;

/// errno of looking for that key.
fn find_key() -> i32 {
    const SEARCH: c_long = 10;
    let (kind, name) = (c"user".as_ptr(), KEY.as_ptr());
    let none: c_long = 0;
    // SAFETY: both strings end with a zero byte.
    let found = unsafe { libc::syscall(libc::SYS_keyctl, SEARCH, SESSION, kind, name, none) };
    if found >= 0 {
        return 0;
    }
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

fn keyring() {
    println!("search {}", find_key());
}

fn sockets() {
    for (name, family) in [
        ("AF_ALG", libc::AF_ALG),
        ("AF_VSOCK", libc::AF_VSOCK),
        ("AF_UNIX", libc::AF_UNIX),
        ("AF_INET", libc::AF_INET),
    ] {
        call(
            name,
            libc::SYS_socket,
            [family as usize, libc::SOCK_STREAM as usize, 0, 0],
        );
    }
}

/// Attacks on process 1, which is the sandbox's own.
fn processes() {
    call(
        "ptrace-1",
        libc::SYS_ptrace,
        [libc::PTRACE_ATTACH as c_uint as usize, 1, 0, 0],
    );
    for signal in [libc::SIGTERM, libc::SIGKILL, libc::SIGSTOP, libc::SIGSEGV] {
        call(
            &format!("kill-1-{signal}"),
            libc::SYS_kill,
            [1, signal as usize, 0, 0],
        );
    }
    files_of("1");
    let environ: Vec<String> = std::env::vars().map(|(key, _)| key).collect();
    println!("environ {}", environ.join(" "));
    let fds = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    println!("fds {fds}");
}

/// Tries to open what tells of another process.
fn files_of(pid: &str) {
    for file in [
        "environ",
        "mem",
        "maps",
        "root/etc/passwd",
        "cwd",
        "exe",
        "fd/0",
        "auxv",
        "ns/mnt",
        "map_files",
    ] {
        let path = format!("/proc/{pid}/{file}");
        // Some folders are guarded when they are read.
        let opened = std::fs::File::open(&path).and_then(|opened| {
            if !opened.metadata()?.is_dir() {
                return Ok(());
            }
            std::fs::read_dir(&path)?.next().transpose().map(drop)
        });
        let errno = match opened {
            Ok(()) => 0,
            Err(error) => error.raw_os_error().unwrap_or(-1),
        };
        println!("/proc/{pid}/{file} {errno}");
    }
}

/// Attacks on a process that is in sight.
fn reach(pid: &str) {
    files_of(pid);
    let number: usize = pid.parse().unwrap();
    call(
        "ptrace-attach",
        libc::SYS_ptrace,
        [libc::PTRACE_ATTACH as c_uint as usize, number, 0, 0],
    );
    call(
        "ptrace-seize",
        libc::SYS_ptrace,
        [libc::PTRACE_SEIZE as c_uint as usize, number, 0, 0],
    );
    call("signal", libc::SYS_kill, [number, 0, 0, 0]);
    call("pidfd", libc::SYS_pidfd_open, [number, 0, 0, 0]);
}

/// The classic way out of a chroot: needs only CAP_SYS_CHROOT, which commands have.
fn chroot_twice() {
    std::fs::create_dir("/jail").unwrap();
    let outside = std::fs::File::open("/").unwrap();
    std::os::unix::fs::chroot("/jail").unwrap();
    rustix::process::fchdir(&outside).unwrap();
    for _ in 0..64 {
        std::env::set_current_dir("..").unwrap();
    }
    std::os::unix::fs::chroot(".").unwrap();
    let mut names: Vec<String> = std::fs::read_dir("/")
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    println!("{}", names.join(" "));
}

/// Grandchildren that end after their parents.
fn zombies() {
    for _ in 0..300 {
        // SAFETY: this program has one thread.
        match unsafe { libc::fork() } {
            0 => {
                // SAFETY: as above.
                if unsafe { libc::fork() } != 0 {
                    std::process::exit(0);
                }
                std::thread::sleep(std::time::Duration::from_millis(5));
                std::process::exit(0);
            }
            pid => {
                // SAFETY: waits for the child just made; no status is stored.
                unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
            }
        }
    }
    std::thread::sleep(std::time::Duration::from_millis(300));
    let zombies = std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| std::fs::read_to_string(entry.unwrap().path().join("stat")).ok())
        .filter(|stat| stat.contains(") Z "))
        .count();
    println!("{zombies} zombies");
}

/// Gives a program CAP_NET_RAW, as package managers do for ping (`struct vfs_cap_data`, version 2).
fn give_capability() {
    const NET_RAW: u32 = 1 << 13;
    let words: [u32; 5] = [0x0200_0001, NET_RAW, 0, 0, 0];
    let value: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let set = rustix::fs::setxattr(
        "/tmp/probe",
        "security.capability",
        &value,
        rustix::fs::XattrFlags::empty(),
    );
    println!("{set:?}");
}

fn terminal() {
    let opened = std::fs::File::open("/dev/tty")
        .err()
        .and_then(|error| error.raw_os_error());
    println!("{opened:?}");
}

/// What a socket without a file says.
fn connect(name: &str) {
    use std::io::Read;
    use std::os::linux::net::SocketAddrExt;
    let address = std::os::unix::net::SocketAddr::from_abstract_name(name).unwrap();
    match std::os::unix::net::UnixStream::connect_addr(&address) {
        Ok(mut stream) => {
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            print!("{text}");
        }
        Err(_) => println!("no"),
    }
}

/// What a server says to someone who says nothing, not even that nothing will come.
fn hear(address: &str) {
    use std::io::Read;
    let limit = std::time::Duration::from_secs(2);
    match std::net::TcpStream::connect_timeout(&address.parse().unwrap(), limit) {
        Ok(mut stream) => {
            let mut text = String::new();
            stream.set_read_timeout(Some(limit)).unwrap();
            match stream.read_to_string(&mut text) {
                Ok(_) => print!("{text}"),
                Err(error) => println!("no answer: {error}"),
            }
        }
        Err(_) => println!("no"),
    }
}
