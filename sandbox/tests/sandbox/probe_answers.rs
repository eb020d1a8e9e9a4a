//! Probes of calls about owners: every way in which a call can name a file.

#![allow(unsafe_code)]

use libc::{AT_EMPTY_PATH, AT_FDCWD, AT_SYMLINK_NOFOLLOW, c_int};
use std::ffi::CString;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

/// What a call returned, as an errno.
fn errno(result: c_int) -> c_int {
    if result >= 0 {
        return 0;
    }
    std::io::Error::last_os_error().raw_os_error().unwrap_or(-1)
}

pub(crate) fn chown_at(folder: c_int, path: &str, (uid, gid): (u32, u32), flags: c_int) -> c_int {
    let path = CString::new(path).unwrap();
    // SAFETY: the path is a C string.
    errno(unsafe { libc::fchownat(folder, path.as_ptr(), uid, gid, flags) })
}

fn chown(path: &str, id: u32) -> c_int {
    chown_at(AT_FDCWD, path, (id, id), 0)
}

/// Opens a file as a path only.
fn found(path: &str, flags: c_int) -> OwnedFd {
    let path = CString::new(path).unwrap();
    // SAFETY: the path is a C string; the descriptor is new.
    unsafe {
        let fd = libc::open(path.as_ptr(), libc::O_PATH | flags);
        assert!(fd >= 0, "{path:?}");
        OwnedFd::from_raw_fd(fd)
    }
}

pub(crate) fn owner(path: impl AsRef<Path>) -> String {
    match fs::symlink_metadata(path) {
        Ok(meta) => format!("{}:{}", meta.uid(), meta.gid()),
        Err(error) => error.raw_os_error().unwrap_or(-1).to_string(),
    }
}

fn go(path: &str) {
    std::env::set_current_dir(path).unwrap();
}

pub(crate) fn paths() {
    let file = "/tmp/p/d/f";
    fs::create_dir_all("/tmp/p/d").unwrap();
    fs::write(file, "").unwrap();
    symlink("d/f", "/tmp/p/l").unwrap();
    let told = |what: &str, result: c_int| println!("{what} {result} {}", owner(file));
    told("absolute", chown(file, 1));
    go("/tmp/p/d");
    told("relative", chown("f", 2));
    let (folder, open) = (
        found("/tmp/p", libc::O_DIRECTORY),
        File::open(file).unwrap(),
    );
    let folder = folder.as_raw_fd();
    told("folder's descriptor", chown_at(folder, "d/f", (3, 3), 0));
    // SAFETY: numbers.
    told(
        "descriptor",
        errno(unsafe { libc::fchown(open.as_raw_fd(), 4, 4) }),
    );
    told(
        "empty path",
        chown_at(open.as_raw_fd(), "", (5, 5), AT_EMPTY_PATH),
    );
    let only = found(file, 0);
    told(
        "found only",
        chown_at(only.as_raw_fd(), "", (6, 6), AT_EMPTY_PATH),
    );
    told("link", chown_at(folder, "l", (7, 7), 0));
    told(
        "link itself",
        chown_at(folder, "l", (8, 8), AT_SYMLINK_NOFOLLOW),
    );
    assert_eq!(owner("/tmp/p/l"), "8:8");
    let link = found("/tmp/p/l", libc::O_NOFOLLOW);
    told(
        "found link",
        chown_at(link.as_raw_fd(), "", (9, 9), AT_EMPTY_PATH),
    );
    assert_eq!(owner("/tmp/p/l"), "9:9");
    told("dots", chown("../../p/./d/../d//f", 9));
    by_proc(&told, open.as_raw_fd());
    told("slashes", chown("//tmp///p/d/f", 17));
    of_another(&told, file);
    lengths(&told, file);
    failures(&told, file);
    modes(file);
    deleted();
}

fn by_proc(told: &dyn Fn(&str, c_int), open: c_int) {
    told("/proc/self/fd", chown(&format!("/proc/self/fd/{open}"), 10));
    told(
        "/proc/thread-self/fd",
        chown(&format!("/proc/thread-self/fd/{open}"), 11),
    );
    // What is in /dev is made by whoever runs this.
    told("/dev/fd", chown(&format!("/dev/fd/{open}"), 12));
    symlink(format!("/proc/self/fd/{open}"), "/tmp/p/to-self").unwrap();
    told("by a link to /proc/self", chown("/tmp/p/to-self", 13));
    let before = std::env::current_dir().unwrap();
    go("/proc");
    told("below /proc", chown(&format!("self/fd/{open}"), 14));
    go("/tmp/p");
    told("by the working folder", chown("/proc/self/cwd/d/f", 15));
    told("by the root", chown("/proc/self/root/tmp/../tmp/p/l", 16));
    std::env::set_current_dir(before).unwrap();
}

/// A file that another process has open.
fn of_another(told: &dyn Fn(&str, c_int), file: &str) {
    // Its number as /proc has it, which may be another than it has in this namespace.
    let script = "read number rest < /proc/self/stat; echo $number; exec sleep 300";
    let mut other = Command::new("sh")
        .args(["-c", script])
        .stdin(File::open(file).unwrap())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut number = String::new();
    let mut output = BufReader::new(other.stdout.take().unwrap());
    output.read_line(&mut number).unwrap();
    let path = format!("/proc/{}/fd/0", number.trim());
    told("of another process", chown(&path, 18));
    other.kill().unwrap();
    other.wait().unwrap();
}

fn lengths(told: &dyn Fn(&str, c_int), file: &str) {
    let name = format!("/tmp/p/{}", "n".repeat(255));
    fs::write(&name, "").unwrap();
    let result = chown(&name, 19);
    println!("longest name {result} {}", owner(&name));
    // PATH_MAX counts the byte at the end.
    let path = |length: usize| format!("{}{file}", "/".repeat(length - file.len()));
    told("longest path", chown(&path(4095), 20));
    told("too long", chown(&path(4096), 99));
}

fn failures(told: &dyn Fn(&str, c_int), file: &str) {
    told("no file", chown("/tmp/p/none", 99));
    told("not a folder", chown(&format!("{file}/x"), 99));
    symlink("loop", "/tmp/p/loop").unwrap();
    told("a link to itself", chown("/tmp/p/loop", 99));
    // SAFETY: the kernel looks whether the address is one.
    let result = errno(unsafe { libc::syscall(libc::SYS_chown, 1_usize, 9, 9) } as c_int);
    told("bad address", result);
    // SAFETY: a number that is no descriptor.
    told("bad descriptor", errno(unsafe { libc::fchown(999, 9, 9) }));
    told(
        "name too long",
        chown(&format!("/tmp/p/{}", "n".repeat(256)), 99),
    );
}

/// What changes modes changes no owners, and what tells both tells the same.
fn modes(file: &str) {
    let path = CString::new(file).unwrap();
    // SAFETY: the path is a C string.
    let result = unsafe { libc::syscall(libc::SYS_fchmodat2, AT_FDCWD, path.as_ptr(), 0o600, 0) };
    let mode = fs::metadata(file).unwrap().mode() & 0o7777;
    println!("mode {} {} {mode:04o}", errno(result as c_int), owner(file));
    let one = File::open(file).unwrap();
    // SAFETY: numbers.
    let result = errno(unsafe { libc::fchown(one.as_raw_fd(), 21, 21) });
    let (one, other) = (
        one.metadata().unwrap(),
        File::open(file).unwrap().metadata().unwrap(),
    );
    assert_eq!((one.uid(), one.ino()), (other.uid(), other.ino()));
    println!("by two openings {result} {}:{}", other.uid(), other.gid());
}

fn deleted() {
    fs::create_dir_all("/tmp/gone/below").unwrap();
    go("/tmp/gone/below");
    fs::remove_dir("/tmp/gone/below").unwrap();
    println!("deleted folder {} {}", chown(".", 22), owner("."));
    println!("in a deleted folder {}", chown("x", 99));
    let new = File::create("x").unwrap_err();
    println!("new in a deleted folder {}", new.raw_os_error().unwrap());
    println!(
        "above a deleted folder {} {}",
        chown("..", 23),
        owner("/tmp/gone")
    );
    go("/");
}

/// In a root that this process changes to: `..`, links and descriptors from before.
pub(crate) fn roots() {
    for folder in ["/tmp/r/d", "/tmp/out/d"] {
        fs::create_dir_all(folder).unwrap();
    }
    for file in ["/tmp/r/f", "/tmp/r/d/f", "/tmp/out/f", "/f"] {
        fs::write(file, "").unwrap();
    }
    symlink("/d/f", "/tmp/r/l").unwrap();
    let outside = found("/tmp/out/d", libc::O_DIRECTORY);
    let root = CString::new("/tmp/r").unwrap();
    // SAFETY: the path is a C string.
    assert_eq!(unsafe { libc::chroot(root.as_ptr()) }, 0);
    go("/");
    println!("absolute {} {}", chown("/f", 1), owner("/f"));
    println!("above {} {}", chown("../../f", 2), owner("f"));
    println!("link {} {}", chown("/l", 3), owner("/d/f"));
    go("/d");
    println!("relative {} {}", chown("f", 4), owner("/d/f"));
    let result = chown_at(outside.as_raw_fd(), "../f", (5, 5), 0);
    let mut there: libc::stat = unsafe_zeroed();
    // SAFETY: the path is a C string, the structure writable.
    unsafe { libc::fstatat(outside.as_raw_fd(), c"../f".as_ptr(), &raw mut there, 0) };
    println!("folder outside {result} {}:{}", there.st_uid, there.st_gid);
    println!("no /proc {}", chown("/proc/self/fd/0", 9));
    // Out again, as a root may.
    // SAFETY: the descriptor is open; the path is a C string.
    unsafe {
        libc::fchdir(outside.as_raw_fd());
        libc::chdir(c"../../..".as_ptr());
        libc::chroot(c".".as_ptr());
    }
    println!(
        "outside: in {} out {} same name {}",
        owner("/tmp/r/d/f"),
        owner("/tmp/out/f"),
        owner("/f")
    );
}

fn unsafe_zeroed<T>() -> T {
    // SAFETY: used for structures of integers only.
    unsafe { std::mem::zeroed() }
}

/// openat2(2) for a new file.
fn open_how(folder: c_int, path: &str, flags: c_int, resolve: u64) -> c_int {
    let path = CString::new(path).unwrap();
    let how = [u64::try_from(flags).unwrap(), 0o644, resolve];
    // SAFETY: the path is a C string, the structure as long as said.
    let fd = unsafe { libc::syscall(libc::SYS_openat2, folder, path.as_ptr(), how.as_ptr(), 24) };
    let result = errno(fd as c_int);
    if result == 0 {
        // SAFETY: it is open and nobody else's.
        unsafe { libc::close(fd as c_int) };
    }
    result
}

/// What a user makes belongs to it.
pub(crate) fn makers() {
    let base = "/tmp/m";
    fs::create_dir_all("/tmp/m/d").unwrap();
    for path in [base, "/tmp/m/d"] {
        chown(path, 1000);
    }
    // SAFETY: numbers.
    unsafe {
        libc::setgroups(0, std::ptr::null());
        libc::setgid(1000);
        libc::setuid(1000);
    }
    let new = libc::O_CREAT | libc::O_WRONLY;
    let told = |what: &str, result: c_int, path: &str| match result {
        0 => println!("{what} {}", owner(path)),
        errno => println!("{what} {errno}"),
    };
    let at = found(base, libc::O_DIRECTORY);
    let at = at.as_raw_fd();
    told("openat2", open_how(at, "a", new, 0), "/tmp/m/a");
    told(
        "beneath",
        open_how(at, "../b", new, libc::RESOLVE_BENEATH),
        "/tmp/m/b",
    );
    told(
        "in its root",
        open_how(at, "/../c", new, libc::RESOLVE_IN_ROOT),
        "/tmp/m/c",
    );
    symlink("d", "/tmp/m/l").unwrap();
    told(
        "no links",
        open_how(at, "l/e", new, libc::RESOLVE_NO_SYMLINKS),
        "/tmp/m/d/e",
    );
    for (what, folder, name) in [
        ("unnamed", "/tmp/m/d", "u"),
        ("unnamed by a link", "/tmp/m/l", "v"),
    ] {
        let mut options = fs::OpenOptions::new();
        let file = options
            .write(true)
            .custom_flags(libc::O_TMPFILE)
            .open(folder)
            .unwrap();
        let (from, to) = (
            format!("/proc/self/fd/{}", file.as_raw_fd()),
            format!("{base}/{name}"),
        );
        let (from, named) = (
            CString::new(from).unwrap(),
            CString::new(to.as_str()).unwrap(),
        );
        let flags = libc::AT_SYMLINK_FOLLOW;
        // SAFETY: both paths are C strings.
        let result =
            unsafe { libc::linkat(AT_FDCWD, from.as_ptr(), AT_FDCWD, named.as_ptr(), flags) };
        told(what, errno(result), &to);
    }
    made_by_names(&told, at);
}

fn made_by_names(told: &dyn Fn(&str, c_int, &str), at: c_int) {
    let base = "/tmp/m";
    let new = libc::O_CREAT | libc::O_WRONLY;
    fs::create_dir("/tmp/m/l/sub").unwrap();
    told("folder", 0, "/tmp/m/d/sub");
    // SAFETY: the path is a C string.
    told(
        "pipe",
        errno(unsafe { libc::mkfifo(c"/tmp/m/d/pipe".as_ptr(), 0o600) }),
        "/tmp/m/d/pipe",
    );
    told("link", 0, "/tmp/m/l");
    let there = symlink("x", "/tmp/m/l").unwrap_err();
    println!("there already {}", there.raw_os_error().unwrap());
    File::create(format!("/proc/self/fd/{at}/w")).unwrap();
    told("by /proc/self/fd", 0, "/tmp/m/w");
    go(base);
    File::create("/proc/self/cwd/d/x").unwrap();
    told("by /proc/self/cwd", 0, "/tmp/m/d/x");
    told("folder as a file", open_how(at, "y/", new, 0), "/tmp/m/y");
    let name = "n".repeat(255);
    told(
        "longest name",
        open_how(at, &name, new, 0),
        &format!("{base}/{name}"),
    );
    told(
        "name too long",
        open_how(at, &format!("{name}n"), new, 0),
        base,
    );
}
