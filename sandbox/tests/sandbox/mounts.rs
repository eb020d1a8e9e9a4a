//! Roots and mounts: where they land, what they hide, what is left of them.

use crate::world::{World, chain, file};
use sandbox::{Exit, IdMapping, Mount, Overlay};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

pub(crate) const CASES: &[crate::Case] = &[
    ("mounts::files_live_in_memory", files),
    ("mounts::mount_points_never_reach_the_upper", stubs),
    ("mounts::mount_points_behind_links", links),
    ("mounts::mount_points_that_layers_remove", whiteouts),
    ("mounts::parents_keep_their_attributes", parents),
    ("mounts::wrong_types_are_refused", types),
    ("mounts::tmpfs", tmpfs),
    ("mounts::binds", binds),
    ("mounts::parts_of_other_roots", overlays),
    ("mounts::inside_other_mounts", nested),
    ("mounts::empty_root", empty_root),
    ("mounts::many_layers", many_layers),
    ("mounts::repeated_layers", repeated_layers),
    ("mounts::odd_store_paths", odd_paths),
    ("mounts::inode_numbers_are_of_one_file_system", inodes),
    ("mounts::upper_is_used_again", again),
];

fn files(world: &World) {
    const SECRET: &str = "tell-nobody-7361";
    let mut spec = world.sh("cat /run/secrets/key; stat -c '%a %u %g' /run/secrets/key; echo x > /run/secrets/key; rm -f /run/secrets/key; /run/script");
    let owner = if world.is(IdMapping::Single) {
        (0, 0)
    } else {
        (1000, 7)
    };
    spec.mounts = vec![
        Mount::File {
            target: "/run/secrets/key".into(),
            data: format!("{SECRET}\n").into(),
            mode: 0o400,
            uid: owner.0,
            gid: owner.1,
        },
        Mount::File {
            target: "/run/script".into(),
            data: b"#!/bin/sh\necho script\n".into(),
            mode: 0o755,
            uid: 0,
            gid: 0,
        },
    ];
    let outcome = world.run(&spec);
    let expected = format!("{SECRET}\n400 {} {}\nscript\n", owner.0, owner.1);
    assert_eq!(
        (outcome.stdout.as_str(), outcome.exit),
        (expected.as_str(), Exit::Code(0))
    );
    assert!(
        outcome.stderr.contains("Read-only") || outcome.stderr.contains("denied"),
        "{}",
        outcome.stderr
    );
    assert_eq!(world.changes(&spec), [""; 0]);
    assert!(
        !holds(&world.store(), SECRET.as_bytes()),
        "the secret is on the disk"
    );
    let mut after = world.sh("ls /run 2>&1");
    after.root.lowers.insert(0, spec.root.upper.unwrap().0);
    assert_eq!(
        world.run(&after).exit,
        Exit::Code(1),
        "nothing is left of it"
    );
}

/// Whether any readable file below a folder holds these bytes.
fn holds(folder: &Path, bytes: &[u8]) -> bool {
    std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .any(|entry| {
            let path = entry.path();
            if path.is_symlink() || path.ends_with("probe") {
                return false;
            }
            if path.is_dir() {
                holds(&path, bytes)
            } else {
                std::fs::read(&path)
                    .is_ok_and(|text| text.windows(bytes.len()).any(|part| part == bytes))
            }
        })
}

fn stubs(world: &World) {
    let mut spec =
        world.sh("cat /etc/hosts /etc/resolv.conf /a/b/c; ls /cache /deep/er; touch /etc/mine");
    let cache = world.folder();
    spec.mounts = vec![
        file("/etc/hosts", "hosts\n"),
        file("/etc/resolv.conf", "resolv\n"),
        file("/a/b/c", "abc\n"),
        Mount::Bind {
            source: cache,
            subpath: String::new(),
            target: "/cache".into(),
            readonly: false,
            nosuid: false,
            noexec: false,
            owner: None,
        },
        Mount::Tmpfs {
            target: "/deep/er".into(),
            size: None,
            mode: 0o755,
        },
    ];
    assert_eq!(
        world.run(&spec).ok(),
        "hosts\nresolv\nabc\n/cache:\n\n/deep/er:\n"
    );
    assert_eq!(world.changes(&spec), ["etc", "etc/mine"]);
}

fn links(world: &World) {
    let outside = world.outside().join("host-file");
    std::fs::write(&outside, "untouched\n").unwrap();
    let to_outside = format!("etc/hosts -> {}", outside.display());
    let up = format!(
        "etc/group -> ../../../../../../../../..{}-2",
        outside.display()
    );
    let layer = world.layer(&[
        "etc/resolv.conf -> ../run/systemd/resolve/stub-resolv.conf",
        &to_outside,
        &up,
        "evil -> /host",
        "loop -> loop",
        "var/run -> /run",
        "run/",
    ]);
    let mut spec = world.sh("cat /etc/resolv.conf /etc/hosts /etc/group /host/x /run/lock");
    spec.root.lowers.insert(0, layer.clone());
    spec.mounts = vec![
        file("/etc/resolv.conf", "resolv\n"),
        file("/etc/hosts", "hosts\n"),
        file("/etc/group", "group\n"),
        file("/evil/x", "evil\n"),
        file("/var/run/lock", "lock\n"),
    ];
    assert_eq!(world.run(&spec).ok(), "resolv\nhosts\ngroup\nevil\nlock\n");
    assert_eq!(world.changes(&spec), [""; 0]);
    assert_eq!(std::fs::read_to_string(&outside).unwrap(), "untouched\n");
    assert!(
        !Path::new("/host").exists()
            && !Path::new("/run/systemd/resolve/stub-resolv.conf.kiln").exists()
    );
    let mut spec = world.sh("true");
    spec.root.lowers.insert(0, layer);
    spec.mounts = vec![file("/loop/x", "")];
    assert!(chain(&world.try_run(&spec).unwrap_err()).contains("/loop/x"));
}

fn whiteouts(world: &World) {
    let first = world.layer(&["etc/hosts", "etc/resolv.conf", "gone/hosts"]);
    let mut removal =
        world.sh("rm /etc/hosts /etc/resolv.conf; rm -r /gone; mkdir /gone; rm /etc/passwd");
    removal.root.lowers.insert(0, first.clone());
    world.run(&removal).ok();
    let second = removal.root.upper.unwrap().0;
    let mut spec = world.sh("cat /etc/hosts /gone/hosts; ls -A /etc /gone");
    spec.root.lowers.splice(0..0, [second, first]);
    spec.mounts = vec![
        file("/etc/hosts", "new\n"),
        file("/gone/hosts", "new too\n"),
    ];
    assert_eq!(
        world.run(&spec).ok(),
        "new\nnew too\n/etc:\nhosts\n\n/gone:\nhosts\n"
    );
    assert_eq!(world.changes(&spec), [""; 0]);
}

fn parents(world: &World) {
    // Both ways of making mount points: below all layers, and, where a link is dangling, above them.
    for entries in [&["etc/", "srv/"][..], &["etc/hosts -> /srv/hosts", "srv/"]] {
        let layer = world.layer(entries);
        for (folder, mode) in [("etc", 0o2751), ("srv", 0o1700)] {
            std::fs::set_permissions(layer.join(folder), PermissionsExt::from_mode(mode)).unwrap();
            let time = std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000_007, 123_456_789);
            std::fs::File::open(layer.join(folder))
                .unwrap()
                .set_modified(time)
                .unwrap();
        }
        let mut spec = world.sh("stat -c '%a %u %Y' /etc /srv; cat /etc/hosts");
        spec.root.lowers.insert(0, layer);
        spec.mounts = vec![file("/etc/hosts", "hosts\n")];
        assert_eq!(
            world.run(&spec).ok(),
            "2751 0 1000000007\n1700 0 1000000007\nhosts\n",
            "{entries:?}"
        );
        assert_eq!(world.changes(&spec), [""; 0]);
    }
}

fn types(world: &World) {
    for (mount, said) in [
        (file("/etc", ""), "mount a file on /etc"),
        (
            Mount::Tmpfs {
                target: "/etc/passwd".into(),
                size: None,
                mode: 0o755,
            },
            "mount a folder on /etc/passwd",
        ),
        (file("/etc/passwd/x", ""), "/etc/passwd/x"),
        (
            Mount::Bind {
                source: world.base(),
                subpath: "none".into(),
                target: "/x".into(),
                readonly: true,
                nosuid: false,
                noexec: false,
                owner: None,
            },
            "find /none",
        ),
        (
            Mount::Bind {
                source: "/no/such".into(),
                subpath: String::new(),
                target: "/x".into(),
                readonly: true,
                nosuid: false,
                noexec: false,
                owner: None,
            },
            "open /no/such",
        ),
    ] {
        let mut spec = world.sh("true");
        spec.mounts = vec![mount];
        let text = chain(&world.try_run(&spec).unwrap_err());
        assert!(text.contains(said), "{text}");
    }
}

fn tmpfs(world: &World) {
    let mut spec = world.sh("stat -c %a /t; df -k /t; echo x > /t/x; dd if=/dev/zero of=/t/big bs=1M count=3 2>&1 || echo full");
    spec.mounts = vec![Mount::Tmpfs {
        target: "/t".into(),
        size: Some(2 << 20),
        mode: 0o1770,
    }];
    let text = world.run(&spec).ok();
    assert!(
        text.starts_with("1770\n") && text.contains(" 2048 ") && text.contains("full"),
        "{text}"
    );
    assert_eq!(world.changes(&spec), [""; 0]);
}

fn binds(world: &World) {
    let cache = world.layer(&["sub/kept", "up -> ../../../../../../etc", "abs -> /sub"]);
    let bind = |subpath: &str, readonly| Mount::Bind {
        source: cache.clone(),
        subpath: subpath.into(),
        target: "/cache".into(),
        readonly,
        nosuid: false,
        noexec: false,
        owner: None,
    };
    let run = |script: &str, mount: Mount| {
        let mut spec = world.sh(script);
        spec.mounts = vec![mount];
        world.try_run(&spec)
    };
    assert_eq!(
        run("ls /cache; echo new > /cache/new", bind("sub", false))
            .unwrap()
            .ok(),
        "kept\n"
    );
    assert_eq!(
        std::fs::read_to_string(cache.join("sub/new")).unwrap(),
        "new\n"
    );
    assert_eq!(
        run("ls /cache", bind("abs", false)).unwrap().ok(),
        "kept\nnew\n",
        "links stay inside the source"
    );
    assert!(chain(&run("ls /cache", bind("up", false)).unwrap_err()).contains("find /up"));
    assert_eq!(
        run("ls /cache", bind("../../sub", false)).unwrap().ok(),
        "kept\nnew\n"
    );
    let outcome = run("cat /cache; echo x > /cache", bind("sub/new", true)).unwrap();
    assert_eq!(outcome.stdout, "new\n");
    assert!(outcome.stderr.contains("Read-only"), "{}", outcome.stderr);
    let outcome = run(
        "rm /cache/sub/kept; mount -o remount,rw /cache; rm /cache/sub/kept",
        bind("", true),
    )
    .unwrap();
    assert_ne!(outcome.exit, Exit::Code(0));
    assert!(cache.join("sub/kept").exists());
}

fn overlays(world: &World) {
    let low = world.layer(&[
        "app/old",
        "app/both",
        "file",
        "link -> /app",
        "out -> ../../../../etc",
    ]);
    let high = world.layer(&["app/both", "app/new"]);
    std::fs::write(high.join("app/both"), "from above\n").unwrap();
    let overlay = Overlay {
        lowers: vec![high, low.clone()],
        upper: None,
    };
    let mount = |overlay: &Overlay, source: &str, readonly| Mount::Overlay {
        overlay: overlay.clone(),
        source: source.into(),
        target: "/from".into(),
        readonly,
    };
    for (source, script, expected) in [
        (
            "/app",
            "ls /from; cat /from/both",
            "both\nnew\nold\nfrom above\n",
        ),
        ("link", "ls /from", "both\nnew\nold\n"),
        ("/file", "cat /from", "from the layer\n"),
        ("/", "ls /from", "app\nfile\nlink\nout\n"),
        ("", "touch /from/app/x || echo refused", "refused\n"),
    ] {
        let mut spec = world.sh(script);
        spec.mounts = vec![mount(&overlay, source, true)];
        assert_eq!(world.run(&spec).ok(), expected, "{source}");
    }
    let mut spec = world.sh("true");
    spec.mounts = vec![mount(&overlay, "/out", true)];
    assert!(chain(&world.try_run(&spec).unwrap_err()).contains("find /out"));
    let single = Overlay {
        lowers: vec![low],
        upper: None,
    };
    let mut spec = world.sh("ls /from");
    spec.mounts = vec![mount(&single, "/app", true)];
    assert_eq!(world.run(&spec).ok(), "both\nold\n");
    let writable = Overlay {
        lowers: overlay.lowers,
        upper: Some((world.folder(), world.folder())),
    };
    let mut spec = world.sh("echo mine > /from/both; rm /from/old; ls /from; cat /from/both");
    spec.mounts = vec![mount(&writable, "/app", false)];
    assert_eq!(world.run(&spec).ok(), "both\nnew\nmine\n");
    assert_eq!(
        world.changes(&spec),
        [""; 0],
        "writes go to the mount's own upper"
    );
}

fn nested(world: &World) {
    let cache = world.folder();
    let mut spec = world.sh("cat /t/a/secret /dev/pipes/script /c/in/x; ls /c /c/in");
    spec.mounts = vec![
        Mount::Tmpfs {
            target: "/t".into(),
            size: None,
            mode: 0o755,
        },
        file("/t/a/secret", "secret\n"),
        file("/dev/pipes/script", "script\n"),
        Mount::Bind {
            source: cache,
            subpath: String::new(),
            target: "/c".into(),
            readonly: false,
            nosuid: false,
            noexec: false,
            owner: None,
        },
        Mount::Tmpfs {
            target: "/c/in".into(),
            size: None,
            mode: 0o755,
        },
        file("/c/in/x", "x\n"),
    ];
    assert_eq!(
        world.run(&spec).ok(),
        "secret\nscript\nx\n/c:\nin\n\n/c/in:\nx\n"
    );
    assert_eq!(world.changes(&spec), [""; 0]);
}

fn empty_root(world: &World) {
    let mut spec = world.spec(&["/busybox", "ls", "/"]);
    spec.root.lowers.clear();
    let data = std::fs::read(world.base().join("bin/busybox")).unwrap();
    spec.mounts = vec![Mount::File {
        target: "/busybox".into(),
        data,
        mode: 0o755,
        uid: 0,
        gid: 0,
    }];
    assert_eq!(world.run(&spec).ok(), "busybox\ndev\nproc\nsys\n");
    assert_eq!(world.changes(&spec), [""; 0]);
    let mut spec = world.sh("touch /x || echo refused");
    spec.root.upper = None;
    assert_eq!(
        world.run(&spec).ok(),
        "refused\n",
        "a root without an upper is read-only"
    );
}

/// HS08.
fn many_layers(world: &World) {
    let layers: Vec<PathBuf> = (0..1200)
        .map(|index| {
            let layer = world.folder();
            std::fs::write(layer.join(format!("file{index}")), "").unwrap();
            std::fs::write(layer.join("top"), format!("{index}\n")).unwrap();
            layer
        })
        .collect();
    for count in [2, 200, 498, 501, 600, 1200] {
        let mut spec = world.sh("ls -d /file* | wc -l; cat /top");
        spec.root = world.root(&layers[..count]);
        assert_eq!(world.run(&spec).ok(), format!("{count}\n0\n"));
    }
    // What is joined is read as an overlay reads it, and not written.
    let mut lowest = world.layer(&["gone/x", "kept/y", "opaque/hidden"]);
    let mut stack = layers[..600].to_vec();
    stack.push(world.whiteouts("gone", "opaque"));
    stack.push(std::mem::take(&mut lowest));
    let mut spec =
        world.sh("ls -d /gone /opaque/* /kept/*; echo changed > /kept/y; chmod 600 /file599");
    spec.root = world.root(&stack);
    let outcome = world.run(&spec);
    assert_eq!(outcome.stdout, "/kept/y\n", "{}", outcome.stderr);
    let kept = stack.last().unwrap().join("kept/y");
    assert_eq!(std::fs::read_to_string(kept).unwrap(), "from the layer\n");
}

/// Images do have the same layer twice.
fn repeated_layers(world: &World) {
    let again = world.layer(&["file", "folder/inner"]);
    let between = world.layer(&["file", "other"]);
    std::fs::write(between.join("file"), "between\n").unwrap();
    let mut spec = world.sh("cat /file; ls /folder /other");
    spec.root = world.root(&[again.clone(), between, again]);
    assert_eq!(
        world.run(&spec).ok(),
        "from the layer\n/other\n\n/folder:\ninner\n"
    );
}

/// HS09.
fn odd_paths(world: &World) {
    let long: PathBuf = (0..12)
        .map(|index| format!("{index}-{}", "x".repeat(90)))
        .collect();
    let names = [
        long.to_str().unwrap(),
        "a:b",
        "a,b",
        r"a\b",
        "a b\tc",
        "quo\"te'",
        "new\nline",
        "%s$HOME",
        "umlaut-ä",
    ];
    for name in names {
        let base = world.folder().join(name);
        let [layer, upper, work] = ["layer", "upper:,\\", "work=:,"].map(|part| base.join(part));
        for path in [&layer, &upper, &work] {
            std::fs::create_dir_all(path).unwrap();
        }
        std::fs::write(layer.join("hello"), "hello\n").unwrap();
        let mut spec = world.sh("cat /hello /etc/hosts; echo x > /written");
        spec.root = Overlay {
            lowers: vec![layer, world.base()],
            upper: Some((upper.clone(), work)),
        };
        spec.mounts = vec![file("/etc/hosts", "hosts\n")];
        assert_eq!(world.run(&spec).ok(), "hello\nhosts\n", "{name}");
        assert!(upper.join("written").exists(), "{name}");
    }
}

fn inodes(world: &World) {
    let mut spec = world.sh("stat -c %d / /bin/busybox /etc /etc/passwd /new | sort -u | wc -l; find / -xdev -name passwd");
    spec.args[2] = format!("touch /new; {}", spec.args[2]);
    spec.mounts = vec![file("/somewhere/new", "")];
    assert_eq!(world.run(&spec).ok(), "1\n/etc/passwd\n");
}

fn again(world: &World) {
    let spec = world.sh("echo x >> /file; wc -l /file");
    assert_eq!(world.run(&spec).ok(), "1 /file\n");
    assert_eq!(world.run(&spec).ok(), "2 /file\n");
}
