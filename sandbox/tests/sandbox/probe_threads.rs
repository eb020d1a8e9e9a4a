//! Probes of calls about owners by many at once, by who ends meanwhile, and by who changes what they name meanwhile.

#![allow(unsafe_code)]

use crate::probe_answers::{chown_at, owner};
use libc::AT_FDCWD;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;

/// Puts each of two files in the other's place until told to stop.
fn exchange(one: &std::ffi::CStr, other: &std::ffi::CStr, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        // SAFETY: both paths are C strings.
        unsafe {
            libc::renameat2(
                AT_FDCWD,
                one.as_ptr(),
                AT_FDCWD,
                other.as_ptr(),
                libc::RENAME_EXCHANGE,
            )
        };
    }
}

/// Only this thread becomes a user.
fn become_user(id: i64) {
    // SAFETY: numbers.
    unsafe {
        libc::syscall(libc::SYS_setresgid, id, id, id);
        libc::syscall(libc::SYS_setresuid, id, id, id);
    }
}

/// A user makes files in a folder that is exchanged with links to what process 1 has open.
pub(crate) fn exchanged() {
    fs::create_dir_all("/tmp/x").unwrap();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for number in 0..12 {
            let folder = format!("/tmp/x/d{number}");
            fs::create_dir(&folder).unwrap();
            symlink(
                format!("/proc/self/fd/{number}/.."),
                format!("/tmp/x/l{number}"),
            )
            .unwrap();
        }
        let stop = &stop;
        scope.spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                for number in 0..12 {
                    let path =
                        |kind| std::ffi::CString::new(format!("/tmp/x/{kind}{number}")).unwrap();
                    let (one, other) = (path('d'), path('l'));
                    // SAFETY: both paths are C strings.
                    unsafe {
                        libc::renameat2(
                            AT_FDCWD,
                            one.as_ptr(),
                            AT_FDCWD,
                            other.as_ptr(),
                            libc::RENAME_EXCHANGE,
                        )
                    };
                }
            }
        });
        let user = scope.spawn(|| {
            become_user(1000);
            for round in 0..200 {
                for number in 0..12 {
                    let _ = fs::File::create(format!("/tmp/x/d{number}/stray{round}"));
                    let _ = fs::create_dir(format!("/tmp/x/d{number}/strays{round}"));
                }
            }
        });
        user.join().unwrap();
        stop.store(true, Ordering::Relaxed);
    });
    println!("all inside");
}

/// A user gives its file another group while that name is another's file by turns, and while the name itself changes: root's
/// file stays root's.
pub(crate) fn recorded() {
    fs::create_dir_all("/tmp/y").unwrap();
    fs::write("/tmp/y/a", "").unwrap();
    fs::write("/tmp/y/b", "").unwrap();
    let root = fs::metadata("/tmp/y/b").unwrap().ino();
    chown_at(AT_FDCWD, "/tmp/y/a", (1000, 7), 0);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| exchange(c"/tmp/y/a", c"/tmp/y/b", &stop));
        let user = scope.spawn(|| {
            become_user(1000);
            for _ in 0..1000 {
                chown_at(AT_FDCWD, "/tmp/y/a", (1000, 1000), 0);
            }
        });
        user.join().unwrap();
        stop.store(true, Ordering::Relaxed);
    });
    let paths = ["/tmp/y/a", "/tmp/y/b"];
    let of_root = paths
        .into_iter()
        .find(|path| fs::metadata(path).unwrap().ino() == root);
    println!("{}", owner(of_root.unwrap()));
    names();
}

/// The caller's memory changes between two names while it waits.
fn names() {
    for name in ["/tmp/y/m", "/tmp/y/n", "/tmp/y/o"] {
        fs::write(name, "").unwrap();
    }
    let path = [
        AtomicU32::new(u32::from_ne_bytes(*b"/tmp")),
        AtomicU32::new(u32::from_ne_bytes(*b"/y/m")),
        AtomicU32::new(0),
    ];
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                for end in [*b"/y/n", *b"/y/m"] {
                    path[1].store(u32::from_ne_bytes(end), Ordering::Relaxed);
                }
            }
        });
        for _ in 0..2000 {
            // SAFETY: whichever of the two names there is, it ends with a zero byte.
            unsafe { libc::syscall(libc::SYS_chown, path.as_ptr(), 1, 1) };
        }
        stop.store(true, Ordering::Relaxed);
    });
    let owners = ["/tmp/y/m", "/tmp/y/n"].map(owner);
    let right = owners.iter().all(|owner| owner == "1:1" || owner == "0:0");
    if right && owner("/tmp/y/o") == "0:0" && owners.iter().any(|owner| owner == "1:1") {
        println!("1:1 or 0:0");
    } else {
        println!("{owners:?}");
    }
}

pub(crate) fn storm() {
    fs::create_dir_all("/tmp/z").unwrap();
    let wrong = AtomicU32::new(0);
    let right = AtomicU32::new(0);
    thread::scope(|scope| {
        for number in 1..=64_u32 {
            let (right, wrong) = (&right, &wrong);
            scope.spawn(move || {
                let path = format!("/tmp/z/{number}");
                fs::write(&path, "").unwrap();
                for round in 1..=100 {
                    let result = chown_at(AT_FDCWD, &path, (number, round), 0);
                    let is_right = result == 0 && owner(&path) == format!("{number}:{round}");
                    (if is_right { right } else { wrong }).fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    println!("{} right, {} wrong", right.into_inner(), wrong.into_inner());
}

/// Processes that are killed in the midst of their calls.
pub(crate) fn gone() {
    fs::create_dir_all("/tmp/g").unwrap();
    for round in 0..40 {
        let file = format!("/tmp/g/{round}");
        let script = format!("while :; do touch {file}; chown 7:8 {file}; rm -f {file}; done");
        let mut children: Vec<_> = (0..4)
            .map(|_| {
                Command::new("sh")
                    .args(["-c", &script])
                    .stderr(Stdio::null())
                    .spawn()
                    .unwrap()
            })
            .collect();
        // Until they are at it.
        while !fs::metadata(&file).is_ok_and(|meta| meta.uid() == 7) {
            thread::yield_now();
        }
        for child in &mut children {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
    println!("all gone");
    fs::write("/tmp/g/f", "").unwrap();
    chown_at(AT_FDCWD, "/tmp/g/f", (5, 6), 0);
    println!("{}", owner("/tmp/g/f"));
}
