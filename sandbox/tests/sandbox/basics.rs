//! What a command sees of itself and how it ends.

use crate::world::{World, chain};
use rustix::process::{Resource, getrlimit};
use sandbox::{Error, Exit, IdMapping, Network, NetworkKind};
use std::os::unix::fs::{MetadataExt, PermissionsExt};

pub(crate) const CASES: &[crate::Case] = &[
    ("basics::exit_codes", exit_codes),
    ("basics::what_cannot_be_executed", not_executable),
    ("basics::programs_are_found_in_path", lookup),
    ("basics::environment_is_exact", environment),
    ("basics::privileges", privileges),
    ("basics::insecure_privileges", insecure),
    ("basics::users_and_groups", users),
    ("basics::setuid_programs_work", setuid),
    ("basics::files_keep_their_owners", owners),
    ("basics::working_folder", working_folder),
    ("basics::signals_session_and_limits", surroundings),
    ("basics::standard_streams", streams),
    ("basics::networks", networks),
    ("basics::devices_and_proc", devices),
    ("basics::upper_holds_only_changes", changes),
    ("basics::errors_name_the_stage", errors),
];

fn exit_codes(world: &World) {
    for (script, expected) in [
        ("true", Exit::Code(0)),
        ("false", Exit::Code(1)),
        ("exit 42", Exit::Code(42)),
        ("exit 126", Exit::Code(126)),
        ("exit 137", Exit::Code(137)),
        ("kill -9 $$", Exit::Signal(9)),
        ("kill -15 $$", Exit::Signal(15)),
        ("kill -11 $$", Exit::Signal(11)),
        ("kill -13 $$", Exit::Signal(13)),
    ] {
        assert_eq!(world.run(&world.sh(script)).exit, expected, "{script}");
    }
}

fn not_executable(world: &World) {
    let layer = world.layer(&[
        "bin/plain",
        "bin/noformat",
        "bin/nointerpreter",
        "bin/folder/",
    ]);
    for (name, content, mode) in [
        ("plain", "x", 0o644),
        ("noformat", "echo hi\n", 0o755),
        ("nointerpreter", "#!/no/such\n", 0o755),
    ] {
        let path = layer.join("bin").join(name);
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    }
    for (program, code, said) in [
        (
            "nosuch",
            127,
            r#"exec: "nosuch": executable file not found in $PATH"#,
        ),
        (
            "/no/such",
            127,
            r#"exec: "/no/such": no such file or directory"#,
        ),
        ("/bin/true/x", 127, "not a directory"),
        (
            "/bin/plain",
            126,
            r#"exec: "/bin/plain": permission denied"#,
        ),
        ("plain", 126, "permission denied"),
        ("/bin/folder", 126, "is a directory"),
        ("/bin/noformat", 126, "exec format error"),
        (
            "/bin/nointerpreter",
            127,
            "no such file or directory (its interpreter",
        ),
        ("/dev/null", 126, "permission denied"),
    ] {
        let mut spec = world.spec(&[program]);
        spec.root.lowers.insert(0, layer.clone());
        let outcome = world.run(&spec);
        assert_eq!(outcome.exit, Exit::Code(code), "{program}");
        assert!(
            outcome.stderr.contains(said) && outcome.stderr.ends_with('\n'),
            "{program}: {}",
            outcome.stderr
        );
    }
}

fn lookup(world: &World) {
    let layer = world.layer(&["one/tool", "two/tool", "work/tool"]);
    for folder in ["one", "two", "work"] {
        let path = layer.join(folder).join("tool");
        std::fs::write(&path, format!("#!/bin/sh\necho {folder} $0\n")).unwrap();
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
    }
    for (path, name, expected) in [
        (Some("/two:/one"), "tool", "two /two/tool\n"),
        (Some("/none:/bin/sh:/one"), "tool", "one /one/tool\n"),
        (Some("/none:"), "tool", "work ./tool\n"),
        (Some("/two"), "./tool", "work ./tool\n"),
        (None, "sh", ""),
    ] {
        let mut spec = world.spec(&[name]);
        spec.root.lowers.insert(0, layer.clone());
        spec.cwd = "/work".to_owned();
        spec.env = path
            .map(|path| ("PATH".to_owned(), path.to_owned()))
            .into_iter()
            .collect();
        assert_eq!(world.run(&spec).ok(), expected, "{path:?} {name}");
    }
}

fn environment(world: &World) {
    let mut spec = world.spec(&["env"]);
    spec.env = [("PATH", "/bin"), ("A", "1 2"), ("EMPTY", ""), ("EQ", "a=b")]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into();
    assert_eq!(world.run(&spec).ok(), "PATH=/bin\nA=1 2\nEMPTY=\nEQ=a=b\n");
}

fn privileges(world: &World) {
    let status = world.run(&world.spec(&["cat", "/proc/self/status"])).ok();
    for expected in [
        "CapInh:\t0000000000000000",
        "CapPrm:\t00000000a80425fb",
        "CapEff:\t00000000a80425fb",
        "CapBnd:\t00000000a80425fb",
        "CapAmb:\t0000000000000000",
        "NoNewPrivs:\t0",
        "Seccomp:\t2",
        "SigIgn:\t0000000000000000",
        "SigBlk:\t0000000000000000",
        "Umask:\t0022",
        "Groups:\t",
    ] {
        assert!(
            status.contains(&format!("\n{expected}")),
            "{expected} is not in {status}"
        );
    }
    let pids = world
        .run(&world.sh("echo $$; ls -d /proc/[0-9]*; true"))
        .ok();
    assert_eq!(pids, "2\n/proc/1\n/proc/2\n");
}

fn insecure(world: &World) {
    let mut spec = world.sh("grep -E 'Seccomp:|CapEff|NoNew' /proc/self/status; mkdir /m && mount -t tmpfs x /m && echo mounted");
    spec.insecure = true;
    let text = world.run(&spec).ok();
    // For the host's root its device nodes are made by someone else, and for who has a single id calls about ids are
    // answered: both take a filter that forbids nothing.
    // Around it all there may be a container's.
    let outside = std::fs::read_to_string("/proc/self/status").unwrap();
    let is_filtered = outside.contains("\nSeccomp:\t2");
    let has_nodes =
        world.is(IdMapping::Idmapped) && world.sandbox().root_kind() != sandbox::RootKind::Fuse;
    let seccomp = if has_nodes || world.is(IdMapping::Single) || is_filtered {
        "Seccomp:\t2"
    } else {
        "Seccomp:\t0"
    };
    assert!(
        text.contains(seccomp) && text.contains("NoNewPrivs:\t0") && text.contains("mounted"),
        "{text}"
    );
    assert!(text.contains("CapEff:\t000001ffffffffff"), "{text}");
}

fn users(world: &World) {
    let mut spec = world.sh("id -u; id -g; id -G; grep CapEff /proc/self/status; touch /tmp/x && stat -c '%u %g' /tmp/x; touch /etc/x || echo denied");
    (spec.uid, spec.gid, spec.groups) = (1000, 1001, vec![1001, 7, 2000]);
    if world.is(IdMapping::Single) {
        // What the kernel keeps from other users is theirs here: it knows one only.
        spec.args[2] = "id -u; id -g; id -G; touch /tmp/x && stat -c '%u %g' /tmp/x".to_owned();
        assert_eq!(
            world.run(&spec).ok(),
            "1000\n1001\n1001 7 2000\n1000 1001\n"
        );
        return;
    }
    assert_eq!(
        world.run(&spec).ok(),
        "1000\n1001\n1001 7 2000\nCapEff:\t0000000000000000\n1000 1001\ndenied\n"
    );
}

/// HS21.
fn setuid(world: &World) {
    let mut spec = world.spec(&[
        "sh",
        "-c",
        "cp /probe /tmp/probe; chown 0 /tmp/probe; chmod 4755 /tmp/probe",
    ]);
    let upper = spec.root.upper.as_ref().unwrap().0.clone();
    world.run(&spec).ok();
    spec = world.spec(&["/tmp/probe", "--probe", "ids"]);
    spec.root.lowers.insert(0, upper);
    (spec.uid, spec.gid) = (1000, 1000);
    assert_eq!(world.run(&spec).ok(), "1000 0\n");
}

fn owners(world: &World) {
    let script = "touch /a && chown 33:42 /a && stat -c '%u %g' /a /bin/busybox /etc";
    let spec = world.sh(script);
    assert_eq!(world.run(&spec).ok(), "33 42\n0 0\n0 0\n");
    if world.is(IdMapping::Single) {
        return;
    }
    let (upper, _) = spec.root.upper.as_ref().unwrap();
    let on_disk = std::fs::metadata(upper.join("a")).unwrap();
    if world.is(IdMapping::Host) {
        assert_eq!((on_disk.uid(), on_disk.gid()), (33, 42));
    } else if world.is(IdMapping::Idmapped) {
        assert_eq!(
            (on_disk.uid(), on_disk.gid()),
            (33, 42),
            "files on disk keep container ids"
        );
        let mut spec = world.sh("touch /b; chown 3000000:2000000000 /b; stat -c '%u %g' /b");
        spec.uid = 0;
        assert_eq!(world.run(&spec).ok(), "3000000 2000000000\n");
    } else {
        assert!(
            on_disk.uid() > 1000 && on_disk.uid() != 33,
            "a subordinate id, {}",
            on_disk.uid()
        );
    }
}

fn working_folder(world: &World) {
    let layer = world.layer(&[
        "real/",
        "link -> /real",
        "out -> ../../../../../tmp",
        "file",
    ]);
    for (cwd, expected) in [
        ("/", "/"),
        ("", "/"),
        ("/link", "/real"),
        ("/new/a/b", "/new/a/b"),
        ("/link/deep", "/real/deep"),
        ("/out/x", "/tmp/x"),
    ] {
        let mut spec = world.sh("/bin/busybox pwd; /bin/busybox pwd -P");
        spec.root.lowers.insert(0, layer.clone());
        spec.cwd = cwd.to_owned();
        let text = world.run(&spec).ok();
        assert_eq!(text.lines().last(), Some(expected), "{cwd}: {text}");
    }
    let mut spec = world.sh("true");
    spec.root.lowers.insert(0, layer);
    spec.cwd = "/file/x".to_owned();
    assert!(
        chain(&world.try_run(&spec).unwrap_err())
            .starts_with("could not create the folder /file/x")
    );
    let mut spec = world.sh("stat -c '%n %u %g %a' /home /home/ann");
    (spec.uid, spec.gid, spec.cwd) = (1000, 1001, "/home/ann".to_owned());
    assert_eq!(
        world.run(&spec).ok(),
        "/home 1000 1001 755\n/home/ann 1000 1001 755\n"
    );
}

fn surroundings(world: &World) {
    let stat = world.run(&world.sh("cat /proc/self/stat")).ok();
    let fields: Vec<&str> = stat.split(' ').collect();
    assert_eq!(
        (fields[5], fields[6]),
        ("2", "0"),
        "session of its own, no terminal: {stat}"
    );
    let files = getrlimit(Resource::Nofile)
        .current
        .map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string());
    assert_eq!(world.run(&world.sh("ulimit -n")).ok().trim(), files);
    assert_eq!(world.run(&world.spec(&["hostname"])).ok(), "sandbox\n");
    assert_eq!(
        world
            .run(&world.sh("ls /proc/self/fd | wc -l; ls -l /proc/self/fd | grep -c -v pipe"))
            .ok()
            .lines()
            .next(),
        Some("4")
    );
    // A writer whose reader is gone dies of SIGPIPE instead of filling a disk with complaints.
    assert_eq!(
        world
            .run(&world.sh("seq 1 100000 | head -n 1; echo end"))
            .ok(),
        "1\nend\n"
    );
}

fn streams(world: &World) {
    assert_eq!(world.run(&world.spec(&["cat"])).ok(), "", "stdin is empty");
    let outcome = world.run(
        &world.sh("echo one; echo two >&2; echo three > /dev/stdout; echo four > /dev/stderr"),
    );
    assert_eq!(
        (outcome.stdout.as_str(), outcome.stderr.as_str()),
        ("one\nthree\n", "two\nfour\n")
    );
    let mut spec = world.sh("echo one > /dev/stdout");
    (spec.uid, spec.gid) = (1000, 1000);
    assert_eq!(
        world.run(&spec).ok(),
        "one\n",
        "another user can open them too"
    );
    let big = world.run(&world.sh("seq 1 2000000")).ok();
    assert_eq!(big.len(), 14_888_896);
}

fn networks(world: &World) {
    let script = "ip -o link | wc -l; ip addr show lo | grep -c -E '127.0.0.1|LOOPBACK,UP'";
    assert_eq!(world.run(&world.sh(script)).ok(), "1\n2\n");
    let own = std::fs::read_link("/proc/self/ns/net").unwrap();
    let of = |network| {
        let mut spec = world.spec(&["ls", "-l", "/proc/self/ns/net"]);
        spec.network = network;
        world.run(&spec).ok().contains(own.to_str().unwrap())
    };
    assert!(!of(Network::None));
    assert!(of(Network::Host));
    let notes = |world: &World| {
        world
            .sandbox()
            .notes()
            .iter()
            .filter(|note| note.contains("network"))
            .count()
    };
    let shares = [of(Network::Private), of(Network::Private)];
    let kind = world.sandbox().network().unwrap().kind;
    let is_host = kind == NetworkKind::Host;
    assert_eq!(shares, [is_host; 2], "{kind:?}");
    let expected = usize::from(!matches!(kind, NetworkKind::Program(_)));
    assert_eq!(
        notes(world),
        expected,
        "told once: {:?}",
        world.sandbox().notes()
    );
}

/// HS23.
fn devices(world: &World) {
    let script = "echo x > /dev/null; head -c 4 /dev/zero | wc -c; head -c 9 /dev/urandom | wc -c; echo x > /dev/full || echo full; \
                  ls -l /dev/ptmx /dev/fd | wc -l; echo shm > /dev/shm/x && df -k /dev/shm | tail -n 1";
    let outcome = world.run(&world.sh(&script.replace("| tail -n 1", "")));
    let text = outcome.stdout;
    assert!(
        text.starts_with("4\n9\nfull\n2\n") && text.contains("65536"),
        "{text} {}",
        outcome.stderr
    );
    let mut spec = world.sh("df -k /dev/shm");
    spec.shm_size = Some(8 << 20);
    assert!(world.run(&spec).ok().contains(" 8192 "));
    let mounts = world
        .run(&world.spec(&["cat", "/proc/self/mountinfo"]))
        .ok();
    assert!(
        !mounts.contains("master:") && !mounts.contains("shared:"),
        "{mounts}"
    );
    let root = |line: &&str| line.split(' ').nth(4) == Some("/");
    assert_eq!(
        mounts.lines().filter(root).count(),
        1,
        "no mount of the host is left: {mounts}"
    );
    assert_eq!(
        world
            .run(&world.sh("stat -c %i / /.. | sort -u | wc -l"))
            .ok(),
        "1\n"
    );
}

fn changes(world: &World) {
    let spec = world.sh("true");
    world.run(&spec).ok();
    assert_eq!(world.changes(&spec), [""; 0]);
    let spec = world.sh("touch /new; rm /etc/passwd; echo x > /dev/shm/y; echo x > /tmp/t");
    world.run(&spec).ok();
    assert_eq!(
        world.changes(&spec),
        ["etc", "etc/passwd removed", "new", "tmp", "tmp/t"]
    );
}

fn errors(world: &World) {
    let mut spec = world.sh("true");
    spec.root.lowers.insert(0, "/no/such/layer".into());
    let error = world.try_run(&spec).unwrap_err();
    assert!(matches!(&error, Error::Setup { source, .. } if source.raw_os_error() == Some(2)));
    assert!(
        chain(&error).contains("/no/such/layer"),
        "{}",
        chain(&error)
    );
    let mut spec = world.sh("true");
    spec.hostname = "x".repeat(65);
    assert!(chain(&world.try_run(&spec).unwrap_err()).contains("set the host name"));
    assert_eq!(
        world.run(&world.sh("exit 3")).exit,
        Exit::Code(3),
        "the helper goes on"
    );
}
