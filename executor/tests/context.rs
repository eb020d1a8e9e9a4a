//! Contexts: what they show, that they never read outside, and what they say of files that cannot be read or change.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use executor::context::Context;
use executor::copy::source_digest;
use executor::tree::{FileTree, Kind};
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, Ordering};
use support::{Bench, expected, message, op};

fn everything(context: &Context) -> Vec<String> {
    let mut found = Vec::new();
    let mut todo = vec![Vec::new()];
    while let Some(directory) = todo.pop() {
        for (_, entry) in context.children(&directory).unwrap() {
            found.push(String::from_utf8_lossy(&entry.path).into_owned());
            if entry.kind == Kind::Directory {
                todo.push(entry.path);
            }
        }
    }
    found.sort();
    found
}

#[test]
fn ignored_files_are_not_there() {
    let tree = "f a.txt 644 a\nf b.md 644 b\nf d/c.md 644 c\nf d/keep/d.txt 644 d\nf d/keep/e.md 644 e\nf empty/x.log 644 x\nf n/m/o/p 644 p";
    let cases = [
        (
            "",
            "a.txt b.md d d/c.md d/keep d/keep/d.txt d/keep/e.md empty empty/x.log n n/m n/m/o n/m/o/p",
        ),
        (
            "*.md",
            "a.txt d d/c.md d/keep d/keep/d.txt d/keep/e.md empty empty/x.log n n/m n/m/o n/m/o/p",
        ),
        (
            "**/*.md\nn",
            "a.txt d d/keep d/keep/d.txt empty empty/x.log",
        ),
        ("*\n!d/keep", "d d/keep d/keep/d.txt d/keep/e.md"),
        ("*\n!**/*.md", "b.md d d/c.md d/keep d/keep/e.md"),
        ("**\n!n/m/o", "n n/m n/m/o n/m/o/p"),
        (
            "d\n!d/keep/d.txt\nempty/*",
            "a.txt b.md d d/keep d/keep/d.txt empty n n/m n/m/o n/m/o/p",
        ),
        ("*\n!d\nd/keep", "d d/c.md"),
        ("\u{feff}# all\n  *  \n!/a.txt", "a.txt"),
    ];
    for (rules, names) in cases {
        let bench = Bench::new();
        let context = bench.context("c", tree, rules);
        assert_eq!(everything(&context).join(" "), names, "{rules:?}");
        for path in ["d", "d/keep", "n/m", "empty", "b.md"] {
            assert_eq!(
                context.entry(path.as_bytes()).unwrap().is_some(),
                names.split(' ').any(|name| name == path),
                "{rules:?} {path}"
            );
        }
    }
}

#[test]
fn owners_are_root_and_modes_stay() {
    let bench = Bench::new();
    let context = bench.context("c", "f s 4750 x\nd t 1777\nl l nowhere", "");
    let entry = |path: &[u8]| context.entry(path).unwrap().unwrap();
    assert_eq!(
        (entry(b"s").mode, entry(b"s").uid, entry(b"s").gid),
        (0o4750, 0, 0)
    );
    assert_eq!(entry(b"t").mode, 0o1777);
    assert_eq!(
        entry(b"l").kind,
        Kind::Symlink {
            target: b"nowhere".to_vec()
        }
    );
    assert!(context.entry(b"none").unwrap().is_none());
    assert!(context.entry(b"s/below").unwrap().is_none());
}

#[test]
fn a_hidden_source_names_its_rule() {
    let bench = Bench::new();
    let context = bench.context("c", "f a/b.log 644 x\nf c 644 c", "# logs\n\n**/*.log\n");
    let error = source_digest(&op("a/b.log", "/"), &context).unwrap_err();
    let expected = r#""/a/b.log": not found (/a/b.log is excluded from the build context by line 3 of .dockerignore)"#;
    assert_eq!(message(&error), expected);
    let error = source_digest(&op("a/d.log", "/"), &context).unwrap_err();
    assert_eq!(message(&error), r#""/a/d.log": not found"#);
}

#[test]
fn the_digest_is_of_what_is_read() {
    let bench = Bench::new();
    let dir = bench.folder("c", "f a/x 644 1\nf a/y 644 2\nf b 644 3\nl a/l x");
    let digest = |source: &str| source_digest(&op(source, "/"), &bench.open(&dir, "")).unwrap();
    let (first, read) = digest("a");
    let names: Vec<String> = read
        .iter()
        .map(Result::unwrap)
        .map(|entry| format!("{} {:o} {:.8}", entry.path, entry.mode, entry.content))
        .collect();
    let hash = |text: &str| blake3::hash(text.as_bytes()).to_hex()[..8].to_owned();
    assert_eq!(
        names,
        [
            "a/l 120777 x".to_owned(),
            format!("a/x 100644 {}", hash("1")),
            format!("a/y 100644 {}", hash("2"))
        ]
    );
    std::fs::write(dir.join("b"), "other").unwrap();
    support::set_time(&dir.join("a/x"), 5);
    assert_eq!(digest("a").0, first, "neither other files nor times matter");
    std::fs::set_permissions(dir.join("a/x"), PermissionsExt::from_mode(0o755)).unwrap();
    let second = digest("a").0;
    assert_ne!(second, first, "modes matter");
    std::fs::write(dir.join("a/y"), "3").unwrap();
    assert_ne!(digest("a").0, second, "contents matter");
    assert_ne!(digest("a/x").0, digest("a/y").0, "names matter");
}

#[test]
fn the_stat_cache_is_used_and_never_wrong() {
    let bench = Bench::new();
    let dir = bench.folder("c", "f x 644 one\nf y 644 two");
    let wait = || std::thread::sleep(std::time::Duration::from_millis(150));
    let digest = || {
        let context = bench.open(&dir, "");
        let digest = source_digest(&op(".", "/"), &context).unwrap().0;
        context.save().unwrap();
        digest
    };
    wait();
    let first = digest();
    assert_eq!(digest(), first);
    assert_eq!(
        bench
            .space
            .store()
            .stat_cache(&dir.canonicalize().unwrap())
            .unwrap()
            .loaded(),
        2
    );
    for round in 0..20 {
        // Same size, same mtime: only the ctime tells.
        std::fs::write(dir.join("x"), format!("{round:03}")).unwrap();
        support::set_time(&dir.join("x"), 1_000_000_000);
        assert_eq!(
            source_digest(&op("x", "/"), &bench.open(&dir, ""))
                .unwrap()
                .1
                .iter()
                .next()
                .unwrap()
                .unwrap()
                .content,
            blake3::hash(format!("{round:03}").as_bytes()).to_string()
        );
    }
}

#[test]
fn extended_attributes_are_kept_with_the_cache() {
    let bench = Bench::new();
    let dir = bench.folder("c", "f x 644 one");
    if rustix::fs::setxattr(
        dir.join("x"),
        "user.note",
        b"hello",
        rustix::fs::XattrFlags::empty(),
    )
    .is_err()
    {
        eprintln!("SKIPPED: no user attributes on this file system");
        return;
    }
    std::thread::sleep(std::time::Duration::from_millis(150));
    for _ in 0..3 {
        let context = bench.open(&dir, "");
        source_digest(&op("x", "/"), &context).unwrap();
        let entry = context.entry(b"x").unwrap().unwrap();
        assert_eq!(entry.xattrs, [(b"user.note".to_vec(), b"hello".to_vec())]);
        context.save().unwrap();
    }
}

#[test]
fn many_files_are_read_by_several_threads_in_order() {
    let bench = Bench::new();
    let mut lines = String::new();
    for directory in 0..60 {
        for file in 0..20 {
            lines.push_str(&format!(
                "f d{directory:02}/e/f{file:02} 644 {directory}-{file}\n"
            ));
        }
    }
    let context = bench.context("c", &lines, "d07\n**/f13\n!d09/e/f13");
    let (_, read) = source_digest(&op(".", "/"), &context).unwrap();
    let files: Vec<_> = read
        .iter()
        .map(Result::unwrap)
        .filter(|entry| !entry.content.is_empty())
        .collect();
    assert_eq!(files.len(), 59 * 19 + 1);
    for entry in files {
        let (directory, file) = (
            entry.path[1..3].parse::<u32>().unwrap(),
            entry.path[7..].parse::<u32>().unwrap(),
        );
        assert_eq!(
            entry.content,
            blake3::hash(format!("{directory}-{file}").as_bytes()).to_string(),
            "{}",
            entry.path
        );
    }
}

#[test]
fn sockets_are_left_out() {
    let bench = Bench::new();
    let dir = bench.folder("c", "f x 644 one");
    let _socket = std::os::unix::net::UnixListener::bind(dir.join("s")).unwrap();
    assert_eq!(everything(&bench.open(&dir, "")), ["x"]);
}

#[test]
fn unreadable_files_matter_only_when_they_are_needed() {
    if rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: root reads everything");
        return;
    }
    let bench = Bench::new();
    let context = bench.context("c", "f secret 000 x\nf open 644 y", "");
    source_digest(&op("open", "/"), &context).unwrap();
    let error = message(&source_digest(&op(".", "/"), &context).unwrap_err());
    assert!(
        error.contains("could not read")
            && error.contains("/secret")
            && error.contains("ermission denied"),
        "{error}"
    );
}

#[test]
fn a_file_that_changes_is_an_error() {
    let bench = Bench::new();
    let dir = bench.folder("c", "f x 644 one\nf y 644 two");
    let context = bench.open(&dir, "");
    source_digest(&op(".", "/"), &context).unwrap();
    std::fs::write(dir.join("x"), "longer than before").unwrap();
    let error = message(
        &bench
            .run(&op(".", "/"), &bench.base(""), &context)
            .unwrap_err(),
    );
    assert!(
        error.contains("/x") && error.contains("changed while it was being read"),
        "{error}"
    );
    std::fs::remove_file(dir.join("y")).unwrap();
    let error = message(
        &bench
            .run(&op("y", "/"), &bench.base(""), &context)
            .unwrap_err(),
    );
    assert!(
        error.contains("/y") && error.contains("changed while it was being read"),
        "{error}"
    );
}

/// HS03.
#[test]
fn a_replaced_directory_never_leads_outside() {
    let bench = Bench::new();
    let outside = bench.folder("outside", "f f 644 secret\nf sub/f 644 secret");
    let dir = bench.folder("c", "f d/f 644 inside\nf d/sub/f 644 inside");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                std::fs::rename(dir.join("d"), dir.join("aside")).unwrap();
                std::os::unix::fs::symlink(&outside, dir.join("d")).unwrap();
                std::fs::remove_file(dir.join("d")).unwrap();
                std::fs::rename(dir.join("aside"), dir.join("d")).unwrap();
            }
        });
        let (mut copied, mut refused) = (0, 0);
        for _ in 0..300 {
            let context = bench.open(&dir, "");
            for source in ["d/f", "d/sub", "."] {
                match bench.run(&op(source, "/x/"), &bench.base(""), &context) {
                    Ok(written) => {
                        let entries = bench.entries(&written).join("\n");
                        assert!(!entries.contains("secret"), "{source}: {entries}");
                        copied += 1;
                    }
                    Err(error) => {
                        let error = message(&error);
                        assert!(
                            error.contains("not found") || error.contains("could not"),
                            "{error}"
                        );
                        refused += 1;
                    }
                }
            }
        }
        stop.store(true, Ordering::Relaxed);
        assert!(copied > 0, "{copied} copied, {refused} refused");
    });
}

#[test]
fn links_to_outside_stay_inside() {
    let bench = Bench::new();
    bench.folder("outside", "f f 644 secret");
    let dir = bench.folder(
        "c",
        "l abs /etc\nl up ../outside\nl file ../outside/f\nf x 644 x",
    );
    let context = bench.open(&dir, "");
    for source in ["abs/passwd", "up/f", "file", "up", "abs"] {
        let error = message(&source_digest(&op(source, "/"), &context).unwrap_err());
        assert!(error.contains("not found"), "{source}: {error}");
    }
    let written = bench
        .run(&op(".", "/y/"), &bench.base(""), &context)
        .unwrap();
    let layer = "d y 755 0:0\nl y/abs 0:0 -> /etc\nl y/file 0:0 -> ../outside/f\nl y/up 0:0 -> ../outside\nf y/x 644 0:0 x";
    assert_eq!(bench.entries(&written), expected(layer));
}

#[test]
fn what_is_no_folder_is_refused() {
    let bench = Bench::new();
    let dir = bench.folder("c", "f x 644 x");
    for path in [dir.join("x"), dir.join("none")] {
        let opened = Context::open(
            &path,
            executor::context::IgnoreRules::default(),
            None,
            bench.space.store(),
        );
        assert!(message(&opened.unwrap_err()).starts_with("could not open the context"));
    }
}
