//! Tasks: registered functions inside the namespace.

use crate::world::World;
use sandbox::{Error, TaskFn};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

pub(crate) const TASKS: &[(&str, TaskFn)] = &[
    ("abort", |_, _| std::process::abort()),
    ("echo", |request, _| Ok(request.to_vec())),
    ("fail", |request, _| {
        Err(format!("no: {}", String::from_utf8_lossy(request)))
    }),
    ("fds", fds),
    ("helper-pid", |_, _| Ok(helper().to_string().into_bytes())),
    ("ids", ids),
    ("list", list),
    ("panic", |_, _| panic!("on purpose")),
    ("remove", remove),
    ("sleep", sleep),
    ("thread", |request, _| {
        let request = request.to_vec();
        std::thread::spawn(move || request.iter().rev().copied().collect())
            .join()
            .map_err(|_| "panicked".to_owned())
    }),
];

pub(crate) const CASES: &[crate::Case] = &[
    ("tasks::payloads_of_all_sizes_come_back", payloads),
    ("tasks::errors_and_panics_come_back", errors),
    ("tasks::descriptors_are_passed", descriptors),
    ("tasks::run_at_the_same_time", parallel),
    ("tasks::are_root_of_the_store", root_of_the_store),
];

fn fds(request: &[u8], fds: Vec<OwnedFd>) -> Result<Vec<u8>, String> {
    let mut texts = String::new();
    for fd in fds {
        let mut file = File::from(fd);
        file.read_to_string(&mut texts)
            .map_err(|error| error.to_string())?;
        let _ = file.write_all(request);
    }
    Ok(texts.into_bytes())
}

fn helper() -> i32 {
    rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get())
}

/// Owner and group of what a path names, and the ids of this process.
fn ids(request: &[u8], _: Vec<OwnedFd>) -> Result<Vec<u8>, String> {
    let path = String::from_utf8_lossy(request).into_owned();
    std::os::unix::fs::chown(&path, Some(0), Some(0)).map_err(|error| error.to_string())?;
    let stat = std::fs::metadata(path).map_err(|error| error.to_string())?;
    let uid = rustix::process::geteuid().as_raw();
    Ok(format!("{} {} {uid}", stat.uid(), stat.gid()).into_bytes())
}

/// Paths below a folder, one a line, whiteouts marked: devices, or empty files of mode 0 where those cannot be made.
fn list(request: &[u8], _: Vec<OwnedFd>) -> Result<Vec<u8>, String> {
    fn walk(folder: &Path, prefix: &str, lines: &mut Vec<String>) -> std::io::Result<()> {
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            let path = format!("{prefix}{}", entry.file_name().to_string_lossy());
            let stat = entry.metadata()?;
            let is_mark = stat.is_file() && stat.len() == 0 && stat.mode() & 0o7777 == 0;
            let mark = if is_mark || stat.file_type().is_char_device() && stat.rdev() == 0 {
                " removed"
            } else {
                ""
            };
            lines.push(format!("{path}{mark}"));
            if stat.is_dir() {
                walk(&entry.path(), &format!("{path}/"), lines)?;
            }
        }
        Ok(())
    }
    let mut lines = Vec::new();
    walk(
        Path::new(&*String::from_utf8_lossy(request)),
        "",
        &mut lines,
    )
    .map_err(|error| error.to_string())?;
    lines.sort();
    Ok(lines.join("\n").into_bytes())
}

fn remove(request: &[u8], _: Vec<OwnedFd>) -> Result<Vec<u8>, String> {
    let path = String::from_utf8_lossy(request).into_owned();
    for entry in std::fs::read_dir(&path).map_err(|error| error.to_string())? {
        let entry = entry.map_err(|error| error.to_string())?;
        let removed = if entry.path().is_dir() {
            std::fs::remove_dir_all(entry.path())
        } else {
            std::fs::remove_file(entry.path())
        };
        removed.map_err(|error| format!("{}: {error}", entry.path().display()))?;
    }
    Ok(Vec::new())
}

fn sleep(request: &[u8], _: Vec<OwnedFd>) -> Result<Vec<u8>, String> {
    let millis = String::from_utf8_lossy(request)
        .parse()
        .map_err(|_| "not a number")?;
    std::thread::sleep(std::time::Duration::from_millis(millis));
    Ok(rustix::process::getpid()
        .as_raw_nonzero()
        .to_string()
        .into_bytes())
}

fn payloads(world: &World) {
    for len in [0, 1, 32 << 10, (32 << 10) + 1, 5 << 20] {
        let request: Vec<u8> = (0..len).map(|index| (index % 253) as u8).collect();
        assert!(
            world.sandbox().task("echo", &request, &[]).unwrap() == request,
            "{len} bytes"
        );
    }
    assert_eq!(world.sandbox().task("thread", b"abc", &[]).unwrap(), b"cba");
}

fn errors(world: &World) {
    let error = |name: &str| world.sandbox().task(name, b"x", &[]).unwrap_err();
    assert!(matches!(error("fail"), Error::Task(text) if text == "no: x"));
    assert!(
        matches!(error("panic"), Error::Task(text) if text.contains("on purpose") && text.contains("tasks.rs"))
    );
    assert!(matches!(error("nothing"), Error::Task(text) if text.contains("nothing")));
    assert!(matches!(error("abort"), Error::Helper(text) if text.contains("abort")));
    assert_eq!(
        world.sandbox().task("echo", b"still there", &[]).unwrap(),
        b"still there"
    );
}

fn descriptors(world: &World) {
    let files: Vec<File> = (0..100)
        .map(|index| {
            let path = world.folder().join("file");
            std::fs::write(&path, format!("{index},")).unwrap();
            File::options().read(true).append(true).open(path).unwrap()
        })
        .collect();
    let fds: Vec<_> = files.iter().map(AsFd::as_fd).collect();
    let expected: String = (0..100).map(|index| format!("{index},")).collect();
    assert_eq!(
        world.sandbox().task("fds", b"written", &fds).unwrap(),
        expected.as_bytes()
    );
    let grown = files[7].metadata().unwrap().len();
    assert_eq!(grown, "7,written".len() as u64);
    let too_many = vec![files[0].as_fd(); 300];
    assert!(matches!(
        world.sandbox().task("fds", b"", &too_many),
        Err(Error::Setup { .. })
    ));
}

fn parallel(world: &World) {
    let started = std::time::Instant::now();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..16)
            .map(|_| scope.spawn(|| world.sandbox().task("sleep", b"300", &[]).unwrap()))
            .collect();
        let mut pids: Vec<_> = threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect();
        pids.sort();
        pids.dedup();
        assert_eq!(pids.len(), 16, "each task has a process of its own");
    });
    assert!(
        started.elapsed().as_millis() < 16 * 300 / 2,
        "{:?}: one after the other",
        started.elapsed()
    );
}

fn root_of_the_store(world: &World) {
    let path = world.folder();
    assert_eq!(
        world
            .sandbox()
            .task("ids", path.to_str().unwrap().as_bytes(), &[])
            .unwrap(),
        b"0 0 0"
    );
    let stat = std::fs::metadata(&path).unwrap();
    let own = rustix::process::geteuid().as_raw();
    assert_eq!(stat.uid(), own, "on disk container root is the caller");
}
