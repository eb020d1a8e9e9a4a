//! Device nodes made by commands: recorded for root, as Docker does it, refused for all others, and never opened.

use crate::world::{World, chain};
use sandbox::{IdMapping, Mount, Overlay, Security};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::PathBuf;

pub(crate) const CASES: &[crate::Case] = &[
    ("nodes::are_recorded", recorded),
    ("nodes::are_files_like_others", like_others),
    ("nodes::keep_the_order_of_a_folder", listed),
    ("nodes::names_that_are_taken", taken),
    ("nodes::paths_are_the_callers", paths),
    ("nodes::need_the_capability", capability),
    ("nodes::only_in_the_root_and_in_memory", elsewhere),
    ("nodes::never_open", never_open),
    ("nodes::insecure_commands_make_them_too", insecure),
    ("nodes::many_at_the_same_time", many),
];

const NODE: u32 = 0o020_000;

fn upper(root: &Overlay) -> PathBuf {
    root.upper.as_ref().unwrap().0.clone()
}

/// Only here the host's root may help.
fn possible(world: &World) -> bool {
    world.is(IdMapping::Idmapped) && world.sandbox().root_kind() != sandbox::RootKind::Fuse
}

fn recorded(world: &World) {
    let spec = world.sh("mknod /null c 1 3; mknod -m 640 /usr/bin/disk b 259 300; umask 077; mknod /tmp/masked c 5 0; \
         chown 33:44 /null; stat -c '%n %F %t:%T %a %u:%g' /null /usr/bin/disk /tmp/masked");
    let outcome = world.run(&spec);
    if !possible(world) {
        assert!(outcome.stderr.contains("not permitted"), "{outcome:?}");
        return;
    }
    assert_eq!(
        outcome.ok(),
        "/null character special file 1:3 644 33:44\n/usr/bin/disk block special file 103:12c 640 0:0\n\
         /tmp/masked character special file 5:0 600 0:0\n"
    );
    let upper = upper(&spec.root);
    for (path, kind, device, ids, mode) in [
        ("null", NODE, (1, 3), (33, 44), 0o644),
        ("usr/bin/disk", 0o060_000, (259, 300), (0, 0), 0o640),
        ("tmp/masked", NODE, (5, 0), (0, 0), 0o600),
    ] {
        let found = std::fs::symlink_metadata(upper.join(path)).unwrap();
        assert_eq!(found.mode(), kind | mode, "{path}");
        assert_eq!((found.uid(), found.gid()), ids, "{path}");
        let number = found.rdev();
        assert_eq!(
            (rustix::fs::major(number), rustix::fs::minor(number)),
            device,
            "{path}"
        );
    }
    assert_eq!(
        world.changes(&spec),
        [
            "null",
            "tmp/",
            "tmp/masked",
            "usr/",
            "usr/bin/",
            "usr/bin/disk"
        ]
        .map(|path| path.trim_end_matches('/'))
    );
}

fn like_others(world: &World) {
    if !possible(world) {
        return;
    }
    let spec = world.sh("mkdir /d; mknod /d/a c 1 3; chmod 4711 /d/a; mv /d/a /d/b; ln /d/b /d/c; touch -d @1000 /d/c; stat -c '%a %h %Y' /d/b; \
         rm /d/b; mknod /d/b p; ls /d; mv /d /e; rm /e/c; mknod /e/c b 1 2; stat -c %F /e/c; rm -r /e; ls -d /e; mknod /e c 7 7; stat -c %t /e");
    let outcome = world.run(&spec);
    assert_eq!(
        outcome.stdout, "4711 2 1000\nb\nc\nblock special file\n7\n",
        "{}",
        outcome.stderr
    );
    assert_eq!(world.changes(&spec), ["e"]);
}

/// What the kernel remembers of a folder is right again at once: names that were missing, and lists.
fn listed(world: &World) {
    if !possible(world) {
        return;
    }
    let layer = world.layer(&["d/below", "d/hidden"]);
    let mut spec = world.sh("cd /d; ls; for n in 1 2 3; do test -e n$n; ls n$n 2>/dev/null; mknod n$n c 1 $n; stat -c %T n$n; ls; done; \
         rm hidden; ls; mknod hidden c 1 9; ls; rm n1 n2 n3 below; ls; ls -a | wc -l");
    spec.root.lowers.insert(0, layer);
    assert_eq!(
        world.run(&spec).ok().replace('\n', " "),
        "below hidden 1 below hidden n1 2 below hidden n1 n2 3 below hidden n1 n2 n3 below n1 n2 n3 below hidden n1 n2 n3 hidden 3 "
    );
    let upper = upper(&spec.root);
    let below = std::fs::symlink_metadata(upper.join("d/below")).unwrap();
    assert!(
        below.file_type().is_char_device() && below.rdev() == 0,
        "a whiteout"
    );
    let hidden = std::fs::symlink_metadata(upper.join("d/hidden")).unwrap();
    assert_eq!(rustix::fs::minor(hidden.rdev()), 9);
}

fn taken(world: &World) {
    if !possible(world) {
        return;
    }
    let spec = world.sh("ln -s nowhere /dangling; mkdir /d; touch /f; for p in /dangling /d /f /etc/passwd / /d/.. /d/. /bin/sh; do mknod $p c 1 3; done; \
         mknod /none/x c 1 3; mknod /f/x c 1 3; mknod /d/ c 1 3; mknod /d/x/ c 1 3; mknod '' c 1 3; mknod /white c 0 0; mknod /white b 0 0; \
         n=$(seq 300 | tr -d '\\n'); mknod /$n c 1 3; ls / /d");
    let outcome = world.run(&spec);
    let errors = |text: &str| outcome.stderr.matches(text).count();
    assert_eq!(errors("File exists"), 8, "{}", outcome.stderr);
    assert_eq!(errors("No such file"), 4, "{}", outcome.stderr);
    assert_eq!(errors("Not a directory"), 1, "{}", outcome.stderr);
    assert_eq!(errors("name too long"), 1, "{}", outcome.stderr);
    // A character device 0:0 would hide a file; a block device is only a node.
    assert_eq!(errors("not permitted"), 1, "{}", outcome.stderr);
    assert_eq!(world.changes(&spec), ["d", "dangling", "f", "white"]);
}

fn paths(world: &World) {
    if !possible(world) {
        return;
    }
    let host = world.outside().join("nodes");
    std::fs::create_dir_all(&host).unwrap();
    let up = format!("up -> ../../../../../..{}", host.display());
    let absolute = format!("absolute -> {}", host.display());
    let layer = world.layer(&[&up, &absolute, "proc-root -> /proc/1/root", "in -> tmp"]);
    let mut spec = world.sh(&format!(
        "mknod /up/x c 1 3; mknod /absolute/x c 1 3; mknod /proc-root/y c 1 3; mknod /proc/self/cwd/z c 1 3; mknod /../../../top c 1 3; mknod /in/link c 1 3; \
         cd /tmp; mknod here c 1 3; mknod ../there c 1 3; mkdir -p /jail/bin /jail/d; cp /bin/busybox /jail/bin/; chroot /jail /bin/busybox mknod /d/jailed c 1 3; \
         chroot /jail /bin/busybox sh -c 'cd /d; busybox mknod ../../../inside c 1 3'; mkdir -p {}; mknod /absolute/x c 1 3",
        host.display()
    ));
    spec.root.lowers.insert(0, layer);
    let _ = world.run(&spec);
    assert_eq!(
        std::fs::read_dir(&host).unwrap().count(),
        0,
        "nothing on the host"
    );
    let upper = upper(&spec.root);
    let is_node = |path: &str| {
        std::fs::symlink_metadata(upper.join(path))
            .is_ok_and(|found| found.file_type().is_char_device())
    };
    for path in [
        "top",
        "tmp/link",
        "tmp/here",
        "there",
        "jail/d/jailed",
        "jail/inside",
    ] {
        assert!(is_node(path), "{path}");
    }
    let below = host.strip_prefix("/").unwrap().join("x");
    assert!(is_node(below.to_str().unwrap()));
}

fn capability(world: &World) {
    if !possible(world) {
        return;
    }
    let script = "mknod /tmp/x c 1 3; mknod /tmp/p p; ls /tmp";
    let mut user = world.sh(script);
    (user.uid, user.gid) = (1000, 1000);
    let mut dropped = world.sh(script);
    dropped.security = Security {
        cap_drop: vec!["MKNOD".to_owned()],
        ..Security::default()
    };
    for spec in [user, dropped] {
        let outcome = world.run(&spec);
        assert_eq!(outcome.stdout, "p\n");
        assert!(outcome.stderr.contains("not permitted"), "{outcome:?}");
    }
    // With the capability, but without that to write where others may not.
    let mut spec = world.sh("mkdir /theirs; chown 7 /theirs; mkdir /ours; mknod /theirs/x c 1 3; mknod /ours/x c 1 3; ls /theirs /ours");
    spec.security.cap_drop = vec!["DAC_OVERRIDE".to_owned()];
    let outcome = world.run(&spec);
    assert_eq!(
        outcome.stdout, "/ours:\nx\n\n/theirs:\n",
        "{}",
        outcome.stderr
    );
    // In a user namespace of its own a command has all capabilities, and none that count.
    let mut spec = world.sh("unshare -r mknod /tmp/x c 1 3; ls /tmp");
    spec.security.cap_add = vec!["SYS_ADMIN".to_owned()];
    assert_eq!(world.run(&spec).stdout, "");
}

fn elsewhere(world: &World) {
    let cache = world.folder();
    let mut spec = world.sh("for d in /cache /tmpfs /dev /dev/shm; do mknod $d/node c 1 3 && stat -c '%n %t:%T' $d/node; done");
    spec.mounts = vec![
        Mount::Bind {
            source: cache.clone(),
            subpath: String::new(),
            target: "/cache".into(),
            readonly: false,
            nosuid: false,
            noexec: false,
            owner: None,
        },
        Mount::Tmpfs {
            target: "/tmpfs".into(),
            size: None,
            mode: 0o755,
        },
    ];
    let outcome = world.run(&spec);
    if !possible(world) {
        assert_eq!(outcome.stdout, "");
        return;
    }
    assert_eq!(
        outcome.stdout, "/tmpfs/node 1:3\n/dev/node 1:3\n/dev/shm/node 1:3\n",
        "{}",
        outcome.stderr
    );
    assert!(outcome.stderr.contains("/cache/node"), "{}", outcome.stderr);
    assert_eq!(std::fs::read_dir(&cache).unwrap().count(), 0);
}

/// HS12.
fn never_open(world: &World) {
    let mut spec = world.sh("for d in / /tmpfs /dev /dev/shm /tmp; do mknod $d/zeroes c 1 5; mknod $d/loop b 7 0; \
         for n in zeroes loop; do if [ -e $d/$n ]; then cat $d/$n 2>&1 | head -c 100; echo x 2>&1 > $d/$n; fi; done; done; mv /zeroes /dev/moved; head -c 1 /dev/moved | wc -c");
    spec.mounts = vec![Mount::Tmpfs {
        target: "/tmpfs".into(),
        size: None,
        mode: 0o755,
    }];
    let outcome = world.run(&spec);
    let text = format!("{}{}", outcome.stdout, outcome.stderr);
    if possible(world) {
        assert_eq!(text.matches("ermission denied").count(), 21, "{text}");
    } else {
        assert_eq!(text.matches("not permitted").count(), 10, "{text}");
    }
    assert!(outcome.stdout.ends_with("0\n"), "{text}");
    // In the next command, where the node is in a layer below.
    if possible(world) {
        let mut next = world.sh("cat /tmp/zeroes; cp -a /tmp/zeroes /copy; stat -c %T /copy");
        next.root.lowers.insert(0, upper(&spec.root));
        let outcome = world.run(&next);
        assert_eq!(outcome.stdout, "5\n", "{}", outcome.stderr);
        assert!(outcome.stderr.contains("ermission denied"));
    }
}

fn insecure(world: &World) {
    if !possible(world) {
        return;
    }
    for unconfined in [false, true] {
        let mut spec = world.sh("mknod /x c 1 9 && stat -c %T /x; cat /x");
        spec.insecure = !unconfined;
        if unconfined {
            spec.security.seccomp = sandbox::Seccomp::Unconfined;
        }
        let outcome = world.run(&spec);
        assert_eq!(outcome.stdout, "9\n", "{}", outcome.stderr);
        assert!(
            outcome.stderr.contains("ermission denied"),
            "{}",
            outcome.stderr
        );
    }
}

/// Commands of one build, each with processes that race for the same names and move the folders that they are made in.
fn many(world: &World) {
    if !possible(world) {
        return;
    }
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let spec = world.sh("mkdir /a /b; (for n in $(seq 40); do mv /a /c; mv /b /a; mv /c /b; done) & \
                     for p in 1 2; do (for n in $(seq 30); do mknod /a/$n c 1 3 2>/dev/null; done) & done; wait; mknod /last c 1 3");
                if let Err(error) = world.try_run(&spec) {
                    panic!("{}", chain(&error));
                }
                let changes = world.changes(&spec);
                assert!(changes.contains(&"last".to_owned()));
                let known = |path: &String| {
                    let name = path.rsplit('/').next().unwrap();
                    ["a", "b", "last"].contains(&name) || name.parse::<u8>().is_ok()
                };
                assert!(changes.iter().all(known), "{changes:?}");
            });
        }
    });
}
