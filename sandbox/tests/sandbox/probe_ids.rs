//! Probes of identities: what this program is told it is, and what it may become.

#![allow(unsafe_code)]

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

/// `as UID GID PROGRAM ARGS...`, without groups.
pub(crate) fn run_as(args: &[String]) -> ExitCode {
    let [uid, gid, program, args @ ..] = args else {
        return ExitCode::FAILURE;
    };
    let error = Command::new(program)
        .args(args)
        .groups_of_nobody()
        .gid(gid.parse().unwrap())
        .uid(uid.parse().unwrap())
        .exec();
    eprintln!("{error}");
    ExitCode::FAILURE
}

trait WithoutGroups {
    fn groups_of_nobody(&mut self) -> &mut Self;
}

impl WithoutGroups for Command {
    fn groups_of_nobody(&mut self) -> &mut Self {
        // SAFETY: one system call without memory.
        unsafe {
            self.pre_exec(|| {
                libc::setgroups(0, std::ptr::null());
                Ok(())
            })
        }
    }
}

pub(crate) fn four_ids() {
    // SAFETY: calls without arguments.
    let ids = unsafe {
        [
            libc::getuid(),
            libc::geteuid(),
            libc::getgid(),
            libc::getegid(),
        ]
    };
    println!("{}", ids.map(|id| id.to_string()).join(" "));
}

fn all() -> String {
    let (mut user, mut group, mut groups) = ([0; 3], [0; 3], [0; 64]);
    // SAFETY: all pointers are of this frame, and the list is as long as said.
    let count = unsafe {
        let [real, effective, saved] = &mut user;
        libc::getresuid(real, effective, saved);
        let [real, effective, saved] = &mut group;
        libc::getresgid(real, effective, saved);
        libc::getgroups(64, groups.as_mut_ptr())
    };
    let count = usize::try_from(count).unwrap();
    let text = |ids: &[u32]| ids.iter().map(u32::to_string).collect::<Vec<_>>().join(" ");
    format!(
        "{} | {} | {}",
        text(&user),
        text(&group),
        text(&groups[..count])
    )
}

fn result(value: i32) -> String {
    if value == 0 {
        return all();
    }
    match std::io::Error::last_os_error().raw_os_error() {
        Some(libc::EPERM) => "EPERM".to_owned(),
        errno => format!("{errno:?}"),
    }
}

/// Gives up user 0 as servers do, for a while and for good.
pub(crate) fn identities() {
    println!("{}", all());
    let groups = [4, 5];
    // SAFETY: the list is as long as said; all else are numbers.
    unsafe {
        libc::setgroups(2, groups.as_ptr());
        let mut now = [0; 8];
        let count = libc::getgroups(8, now.as_mut_ptr());
        println!("groups: {} {}", now[0], if count == 2 { now[1] } else { 0 });
        libc::setresgid(7, 7, 7);
        println!("seteuid 42: {}", result(libc::seteuid(42)));
        println!(
            "setgroups as 42: {}",
            result(libc::setgroups(0, std::ptr::null()))
        );
        println!("back: {}", result(libc::seteuid(0)));
        println!("setuid 42: {}", result(libc::setuid(42)));
        println!("seteuid 0: {}", result(libc::seteuid(0)));
        println!("setresgid 0: {}", result(libc::setresgid(0, 0, 0)));
        println!(
            "setfsuid 0: {} {}",
            libc::setfsuid(0),
            libc::setfsuid(u32::MAX)
        );
    }
}

/// Each thread has its own, until the C library tells all of them.
pub(crate) fn threads() {
    // SAFETY: numbers only.
    let set_own = |uid: i64| unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, 0_i64) };
    // SAFETY: no arguments.
    let get = || unsafe { libc::geteuid() };
    let before = get();
    let other = std::thread::spawn(move || {
        set_own(1000);
        let own = get();
        std::thread::spawn(get).join().unwrap().min(own)
    });
    let other = other.join().unwrap();
    println!("{before} {other} {}", get());
    // SAFETY: a number only.
    unsafe { libc::setuid(1000) };
    println!("{}", std::thread::spawn(get).join().unwrap());
}

/// Calls of 32-bit programs.
#[cfg(target_arch = "x86_64")]
pub(crate) fn old_calls() {
    let memory = Low::new();
    let path = memory.text("/tmp/old");
    std::fs::write("/tmp/old", "x").unwrap();
    let stat = |name: &str, number| {
        let buffer = memory.at(1024);
        call(number, [path, buffer, 0]);
        let (uid, gid) = if name == "stat" {
            (memory.short(1024 + 12), memory.short(1024 + 14))
        } else {
            (memory.word(1024 + 24), memory.word(1024 + 28))
        };
        println!("{name} {uid}:{gid}");
    };
    println!("chown16 {}", call(182, [path, 33, 42]));
    stat("stat", 106);
    stat("stat64", 195);
    println!("chown32 {}", call(212, [path, u32::MAX, 60_000]));
    stat("stat", 106);
    stat("stat64", 195);
    println!("setuid32 {}", call(213, [1000, 0, 0]));
    println!("getuid16 {}", call(24, [0; 3]));
    println!("geteuid32 {}", call(201, [0; 3]));
    println!("chown32 {}", call(212, [path, 0, 0]));
}

/// Memory that 32-bit calls reach.
#[cfg(target_arch = "x86_64")]
struct Low(*mut u8);

#[cfg(target_arch = "x86_64")]
impl Low {
    fn new() -> Self {
        // SAFETY: a new mapping at an address of the kernel's choice.
        let memory = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                4096,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_32BIT,
                -1,
                0,
            )
        };
        assert_ne!(memory, libc::MAP_FAILED);
        Self(memory.cast())
    }

    fn at(&self, offset: usize) -> u32 {
        u32::try_from(self.0.addr() + offset).unwrap()
    }

    fn text(&self, text: &str) -> u32 {
        // SAFETY: short texts fit in the page, whose other bytes are zero.
        unsafe { std::ptr::copy_nonoverlapping(text.as_ptr(), self.0, text.len()) };
        self.at(0)
    }

    fn word(&self, offset: usize) -> u32 {
        // SAFETY: offsets are inside the page and aligned.
        unsafe { self.0.add(offset).cast::<u32>().read_volatile() }
    }

    fn short(&self, offset: usize) -> u32 {
        // SAFETY: as above.
        unsafe { self.0.add(offset).cast::<u16>().read_volatile().into() }
    }
}

/// A 32-bit system call; its result, with errors as -1.
#[cfg(target_arch = "x86_64")]
fn call(number: u32, [first, second, third]: [u32; 3]) -> i32 {
    let result: i32;
    // SAFETY: int 0x80 takes its arguments in these registers; rbx, which LLVM keeps, is put back.
    unsafe {
        std::arch::asm!(
            "xchg rbx, {first:r}",
            "int 0x80",
            "xchg rbx, {first:r}",
            first = inout(reg) u64::from(first) => _,
            inlateout("eax") number.cast_signed() => result,
            in("ecx") second,
            in("edx") third,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
        );
    }
    if result < 0 { -1 } else { result }
}
