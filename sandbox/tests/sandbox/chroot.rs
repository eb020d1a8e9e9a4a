//! Commands without namespaces, in a changed root: what they cannot reach, and what is not left of them.

use crate::world::{World, chain, file, run_in};
use sandbox::{
    Device, Exit, Isolation, Mount, Network, Options, Overlay, RunSpec, Sandbox, Security, Volume,
};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};
use std::path::Path;
use std::time::{Duration, Instant};

const CASES: &[crate::Case] = &[
    ("chroot::nothing_outside_is_reached", escapes),
    ("chroot::capabilities_and_the_profile", privileges),
    ("chroot::no_device_of_an_image_opens", image_devices),
    ("chroot::devices", devices),
    ("chroot::refused", refused),
    ("chroot::files_are_there_and_gone", files),
    ("chroot::files_that_were_moved_hold_nothing", moved_files),
    ("chroot::what_was_covered_comes_back", covered),
    ("chroot::caches", caches),
    ("chroot::volumes", volumes),
    ("chroot::sources_are_copies", sources),
    ("chroot::fillings_of_caches", fillings),
    ("chroot::sockets", sockets),
    ("chroot::forks_do_not_outrun_the_end", forks),
    ("chroot::death_of_the_supervisor", death_of_the_supervisor),
    ("chroot::death_of_the_guard", death_of_the_guard),
    ("chroot::changes_of_ids", ids),
];

/// Tests of other modes that hold in this one too.
const SHARED: &[&str] = &[
    "basics::exit_codes",
    "basics::what_cannot_be_executed",
    "basics::programs_are_found_in_path",
    "basics::environment_is_exact",
    "basics::working_folder",
    "basics::upper_holds_only_changes",
    "mounts::mount_points_never_reach_the_upper",
    "mounts::mount_points_behind_links",
    "mounts::mount_points_that_layers_remove",
    "mounts::parents_keep_their_attributes",
    "mounts::wrong_types_are_refused",
    "mounts::inside_other_mounts",
    "mounts::many_layers",
    "mounts::repeated_layers",
    "mounts::odd_store_paths",
    "mounts::upper_is_used_again",
    "hostile::denied_calls",
    "hostile::no_new_namespaces",
    "hostile::sockets_of_the_kernel",
    "hostile::device_nodes_do_not_open",
    "hostile::masks_stay",
    "hostile::writes_through_links_stay_inside",
    "hostile::system_folders_as_links",
    "hostile::terminal",
    "hostile::programs_of_32_bits",
    "lifecycle::",
    "tasks::",
];

pub(crate) fn cases() -> Vec<crate::Case> {
    let shared = crate::cases().into_iter();
    let shared = shared.filter(|(name, _)| SHARED.iter().any(|known| name.starts_with(known)));
    let own = CASES.iter().chain(crate::unfenced::CASES).copied();
    own.chain(shared).collect()
}

/// A file, a listening socket and a process outside.
struct Outside {
    folder: tempfile::TempDir,
    name: String,
    sleeper: std::process::Child,
    _sockets: (UnixListener, UnixListener, UnixDatagram),
}

impl Outside {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("outside"), "untouched\n").unwrap();
        let name = format!("kiln-test-{}", std::process::id());
        let abstract_name = SocketAddr::from_abstract_name(&name).unwrap();
        let datagrams = SocketAddr::from_abstract_name(format!("{name}-d")).unwrap();
        let sockets = (
            UnixListener::bind(folder.path().join("socket")).unwrap(),
            UnixListener::bind_addr(&abstract_name).unwrap(),
            UnixDatagram::bind_addr(&datagrams).unwrap(),
        );
        let sleeper = std::process::Command::new("sleep")
            .arg("600")
            .spawn()
            .unwrap();
        Self {
            folder,
            name,
            sleeper,
            _sockets: sockets,
        }
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        let _ = self.sleeper.kill();
        let _ = self.sleeper.wait();
    }
}

fn escapes(world: &World) {
    let mut outside = Outside::new();
    let path = outside.folder.path().join("outside");
    let before = std::fs::metadata(&path).unwrap();
    let (own, parent) = (std::process::id(), std::os::unix::process::parent_id());
    // The first process of a container has no parent: 0 would be the command's own group.
    let pids = [outside.sleeper.id(), own, parent, helper_of(own), 1];
    let pids = pids.iter().filter(|pid| **pid != 0);
    let mut args = vec![
        "/probe".to_owned(),
        "--probe".to_owned(),
        "fence".to_owned(),
        outside.folder.path().to_string_lossy().into_owned(),
        outside.name.clone(),
    ];
    args.extend(pids.map(u32::to_string));
    let mut spec = world.sh("");
    spec.args = args;
    let text = world.run(&spec).ok();
    let mut seen = 0;
    for (name, value) in text.lines().filter_map(|line| line.split_once(' ')) {
        seen += 1;
        match name {
            "descriptors" => assert_eq!(value, "[0, 1, 2]"),
            "above" => assert_eq!(value, "bin dev etc lib lib64 probe proc sys tmp usr"),
            "opened" => panic!("{value} was opened"),
            // The path to it does not exist inside, or is a link that leads nowhere.
            "rename-link" | "remove-link" | "hard-link-link" => {}
            _ => assert_ne!(value, "0", "{name} went through"),
        }
    }
    assert!(seen > 130, "{seen} attempts: {text}");
    let after = std::fs::metadata(&path).unwrap();
    assert_eq!(
        (
            before.mode(),
            before.uid(),
            before.ctime(),
            before.ctime_nsec()
        ),
        (after.mode(), after.uid(), after.ctime(), after.ctime_nsec()),
    );
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "untouched\n");
    assert!(
        outside.sleeper.try_wait().unwrap().is_none(),
        "a process of the host was ended"
    );
}

/// The sandbox helper among the children of this process.
fn helper_of(parent: u32) -> u32 {
    children(parent)
        .into_iter()
        .find(|pid| name_of(*pid) == "kiln-sandbox")
        .unwrap()
}

fn children(parent: u32) -> Vec<u32> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else {
            continue;
        };
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let fields = stat.rsplit_once(") ").map(|(_, rest)| rest.to_owned());
        let above = fields.and_then(|rest| rest.split(' ').nth(1)?.parse::<u32>().ok());
        if above == Some(parent) {
            found.push(pid);
        }
    }
    found
}

fn name_of(pid: u32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/comm"))
        .unwrap_or_default()
        .trim()
        .to_owned()
}

fn privileges(world: &World) {
    let status = |spec: &RunSpec| {
        let (mut running, pid) = start(world, spec);
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        running.kill();
        running.wait().unwrap();
        let field = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_once(":\t").unwrap().1.to_owned()
        };
        [
            "CapPrm",
            "CapEff",
            "CapBnd",
            "CapInh",
            "NoNewPrivs",
            "Seccomp",
        ]
        .map(field)
    };
    let none = "0000000000000000";
    // Without SYS_CHROOT, MKNOD and NET_RAW.
    let (kept, bound) = ("00000000a00005fb", "00000000a00025fb");
    assert_eq!(
        status(&world.sh("sleep 100")),
        [kept, kept, bound, none, "1", "2"]
    );
    let mut spec = world.sh("sleep 100");
    spec.uid = 1000;
    assert_eq!(status(&spec), [none, none, bound, none, "1", "2"]);
    let mut spec = world.sh("sleep 100");
    spec.security = Security {
        cap_drop: vec!["ALL".to_owned()],
        ..Security::default()
    };
    assert_eq!(status(&spec)[..2], [none, none]);
}

/// Starts a command and gives the number of its process.
fn start(world: &World, spec: &RunSpec) -> (sandbox::Running, u32) {
    let null = std::fs::File::options()
        .write(true)
        .open("/dev/null")
        .unwrap();
    use std::os::fd::AsFd;
    let running = world
        .sandbox()
        .run(spec, null.as_fd(), null.as_fd())
        .unwrap();
    let supervisor = supervisor();
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let found = children(supervisor)
            .into_iter()
            .find(|pid| !["kiln-run", "kiln-guard"].contains(&name_of(*pid).as_str()));
        if let Some(pid) = found {
            return (running, pid);
        }
        assert!(Instant::now() < deadline, "the command does not start");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn supervisor() -> u32 {
    let helper = helper_of(std::process::id());
    children(helper)
        .into_iter()
        .find(|pid| name_of(*pid) == "kiln-run")
        .unwrap()
}

fn make_node(path: &Path, major: u32, minor: u32) {
    rustix::fs::mknodat(
        rustix::fs::CWD,
        path,
        rustix::fs::FileType::CharacterDevice,
        rustix::fs::Mode::from_raw_mode(0o666),
        rustix::fs::makedev(major, minor),
    )
    .unwrap();
}

fn image_devices(world: &World) {
    let layer = world.layer(&["root/"]);
    make_node(&layer.join("root/zero"), 1, 5);
    let mut spec = world.sh("head -c 1 /root/zero | wc -c; ls /root; cat /etc/passwd > /dev/null; head -c 1 /from/zero | wc -c; ls /from");
    spec.root = world.root(std::slice::from_ref(&layer));
    spec.mounts = vec![Mount::Overlay {
        overlay: Overlay {
            lowers: vec![layer],
            upper: None,
        },
        source: "/root".into(),
        target: "/from".into(),
        readonly: true,
    }];
    let outcome = world.run(&spec);
    assert_eq!(outcome.stdout, "0\n0\n", "{}", outcome.stderr);
    // It is in the image still: the step neither removed nor changed it.
    assert_eq!(world.changes(&spec), [""; 0]);
}

fn devices(world: &World) {
    let script = "head -c 3 /dev/zero | wc -c; head -c 9 /dev/urandom | wc -c; echo x > /dev/null; cat /dev/null; \
                  (echo x > /dev/full) 2>/dev/null || echo full; ls /dev | tr '\\n' ' '; ls /proc /sys | wc -l; \
                  echo y > /dev/shm/y; ls -ld /dev/shm | head -c 10; rm /dev/zero; rm -r /dev/pts";
    let mut spec = world.sh(script);
    spec.root = world.root(&[world.layer(&["dev/of-the-image", "dev/null/"])]);
    assert_eq!(
        world.run(&spec).ok(),
        "3\n9\nfull\ncore fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero 3\ndrwxrwxrwt"
    );
    assert_eq!(world.changes(&spec), [""; 0]);
}

fn refused(world: &World) {
    type Change = fn(&mut RunSpec);
    let cases: [(&str, Change); 5] = [
        ("--security=insecure", |spec| spec.insecure = true),
        ("--network=none", |spec| spec.network = Network::None),
        ("the device /dev/loop0", |spec| {
            spec.devices = vec![Device {
                source: "/dev/loop0".into(),
                target: "/dev/loop0".into(),
            }];
        }),
        ("the capability SYS_CHROOT", |spec| {
            spec.security.cap_add = vec!["SYS_CHROOT".to_owned()];
        }),
        ("give the command /etc, to be written to", |spec| {
            spec.mounts = vec![Mount::Bind {
                source: "/etc".into(),
                subpath: String::new(),
                target: "/host".into(),
                readonly: false,
                nosuid: false,
                noexec: false,
                owner: None,
            }];
        }),
    ];
    for (named, change) in cases {
        let mut spec = world.sh("true");
        change(&mut spec);
        let error = chain(&world.try_run(&spec).unwrap_err());
        assert!(error.contains(named), "{error}");
    }
    let mut spec = world.sh("true");
    spec.mounts = vec![file("/", "x")];
    assert!(chain(&world.try_run(&spec).unwrap_err()).contains("mount point /"));
}

const SECRET: &str = "tell-nobody-9152";

fn secret(target: &str) -> Mount {
    Mount::File {
        target: target.into(),
        data: SECRET.into(),
        mode: 0o400,
        uid: 1000,
        gid: 7,
    }
}

/// Whether a text is in a file below a folder.
fn holds(folder: &Path, text: &str) -> bool {
    std::fs::read_dir(folder).unwrap().flatten().any(|entry| {
        let path = entry.path();
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            return holds(&path, text);
        }
        kind.is_file()
            && entry.metadata().is_ok_and(|file| file.len() < 65536)
            && std::fs::read(&path).is_ok_and(|bytes| {
                bytes
                    .windows(text.len())
                    .any(|window| window == text.as_bytes())
            })
    })
}

fn files(world: &World) {
    let script =
        "cat /run/secrets/key; stat -c ' %a %u %g' /run/secrets/key; /run/script; cat /etc/hosts";
    for (ending, exit) in [
        ("", Exit::Code(0)),
        ("; exit 3", Exit::Code(3)),
        ("; kill -9 $$", Exit::Signal(9)),
    ] {
        let mut spec = world.sh(&format!("{script}{ending}"));
        spec.mounts = vec![
            secret("/run/secrets/key"),
            file("/run/script", "#!/bin/sh\necho script\n"),
            file("/etc/hosts", "hosts\n"),
        ];
        if let Mount::File { mode, .. } = &mut spec.mounts[1] {
            *mode = 0o755;
        }
        let outcome = world.run(&spec);
        assert_eq!(outcome.exit, exit);
        assert_eq!(
            outcome.stdout,
            format!("{SECRET} 400 1000 7\nscript\nhosts\n"),
            "{}",
            outcome.stderr
        );
        assert_eq!(world.changes(&spec), [""; 0]);
        assert!(!holds(&world.store(), SECRET), "the secret is on the disk");
    }
    // Killed while it is there, and with all that could clean up.
    let mut spec = world.sh("cat /run/secrets/key > /dev/null; sleep 100");
    spec.mounts = vec![secret("/run/secrets/key")];
    let (mut running, _) = start(world, &spec);
    assert!(holds(&world.store(), SECRET));
    running.kill();
    assert_eq!(running.wait().unwrap(), Exit::Signal(9));
    assert!(!holds(&world.store(), SECRET));
}

fn moved_files(world: &World) {
    for script in [
        "mv /run/secrets/key /root-file",
        "ln /run/secrets/key /root-file",
        "mv /run/secrets /moved",
        "mv /run /moved",
        "mkdir /moved && mv /run/secrets/key /moved/key && echo else > /run/secrets/key",
    ] {
        let mut spec = world.sh(script);
        spec.mounts = vec![secret("/run/secrets/key")];
        world.run(&spec).ok();
        assert!(!holds(&world.store(), SECRET), "{script}");
        let changes = world.changes(&spec);
        assert!(
            !changes.iter().any(|path| path.contains("key")),
            "{script}: {changes:?}"
        );
    }
}

fn covered(world: &World) {
    let layer = world.layer(&["etc/hosts", "data/kept", "dev/node", "run/x"]);
    std::fs::write(layer.join("etc/hosts"), "of the image\n").unwrap();
    let script = "cat /etc/hosts; echo changed > /etc/hosts; rm /etc/resolv.conf; ls /data; echo x > /data/x; touch /etc/new; rm -r /t; mv /dev /old-dev || true";
    let mut spec = world.sh(script);
    spec.root = world.root(std::slice::from_ref(&layer));
    spec.mounts = vec![
        file("/etc/hosts", "given\n"),
        file("/etc/resolv.conf", "given\n"),
        Mount::Tmpfs {
            target: "/data".into(),
            size: None,
            mode: 0o755,
        },
        Mount::Tmpfs {
            target: "/t".into(),
            size: None,
            mode: 0o755,
        },
    ];
    assert_eq!(world.run(&spec).ok(), "given\n");
    let (upper, _) = spec.root.upper.clone().unwrap();
    let mut after = world.sh("cat /etc/hosts; ls / /etc /data | tr '\\n' ' '");
    after.root = world.root(&[upper.clone(), layer.clone()]);
    assert_eq!(
        world.run(&after).ok(),
        "of the image\n/: bin data dev etc lib lib64 probe proc run sys tmp usr  /data: kept  /etc: hosts new passwd "
    );
    let names: Vec<String> = world.changes(&spec);
    assert!(names.iter().any(|path| path == "etc/new"), "{names:?}");
    // A file that was covered is as it was, and no change.
    assert!(!upper.join("etc/hosts").exists(), "{names:?}");
    assert!(
        !upper.join("data").exists() && !upper.join("dev").exists(),
        "{names:?}"
    );
}

fn bind(source: &Path, target: &str, readonly: bool) -> Mount {
    Mount::Bind {
        source: source.to_owned(),
        subpath: String::new(),
        target: target.into(),
        readonly,
        nosuid: false,
        noexec: false,
        owner: None,
    }
}

fn caches(world: &World) {
    let cache = world.layer(&["kept", "sub/deep"]);
    let run = |script: &str, mounts: Vec<Mount>| {
        let mut spec = world.sh(script);
        spec.mounts = mounts;
        let outcome = world.try_run(&spec);
        assert!(
            cache.join("kept").exists(),
            "the cache is gone after {script:?}"
        );
        (outcome, world.changes(&spec))
    };
    let (outcome, changes) = run(
        "ls /c; echo new > /c/new; mv /c/sub/deep /out",
        vec![bind(&cache, "/c", false)],
    );
    assert_eq!(outcome.unwrap().ok(), "kept\nsub\n");
    assert_eq!(changes, ["out"]);
    assert_eq!(std::fs::read_to_string(cache.join("new")).unwrap(), "new\n");
    for script in [
        "mv /c /elsewhere",
        "mv /c /elsewhere; mkdir /c; touch /c/decoy",
        "exit 9",
        "kill -9 $$",
    ] {
        let (_, changes) = run(script, vec![bind(&cache, "/c", false)]);
        assert_eq!(changes, [""; 0], "{script}");
        assert!(!cache.join("decoy").exists());
    }
    // What only is read can be changed, but not in the cache.
    run("rm -r /c/*; echo x > /c/x", vec![bind(&cache, "/c", true)])
        .0
        .unwrap()
        .ok();
    assert!(!cache.join("x").exists());
    let (outcome, _) = run(
        "true",
        vec![bind(&cache, "/c", false), bind(&cache, "/d", false)],
    );
    assert!(chain(&outcome.unwrap_err()).contains("one place of a step only"));
    // A file with a second name in a cache would change with it.
    let (outcome, changes) = run(
        "ln /c/kept /linked; cat /linked > /dev/null",
        vec![bind(&cache, "/c", false)],
    );
    outcome.unwrap().ok();
    assert_eq!(changes, ["linked"]);
    assert_eq!(
        std::fs::metadata(cache.join("kept")).unwrap().nlink(),
        1,
        "a layer shares a file with a cache"
    );
}

/// In chroot isolation nothing is attached at their places.
fn volumes(world: &World) {
    let (host, store) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::write(host.path().join("x"), "of the host\n").unwrap();
    let at = store.path().join("0");
    std::fs::create_dir(&at).unwrap();
    let sandbox = Sandbox::start(&Options {
        stores: vec![world.store(), store.path().to_owned()],
        volumes: vec![Volume {
            source: host.path().to_owned(),
            at: at.clone(),
        }],
        isolation: Isolation::Chroot,
        ..Options::default()
    })
    .unwrap();
    let mut spec =
        world.sh("cat /v/x; echo changed > /v/x; cat /w/x; echo changed > /w/x; rm /w/x");
    spec.mounts = vec![
        bind(&at, "/v", true),
        Mount::Overlay {
            overlay: Overlay {
                lowers: vec![at.clone()],
                upper: Some((world.folder(), world.folder())),
            },
            source: "/".into(),
            target: "/w".into(),
            readonly: false,
        },
    ];
    assert_eq!(
        run_in(&sandbox, &spec).unwrap().ok(),
        "of the host\nof the host\n"
    );
    assert_eq!(
        std::fs::read_to_string(host.path().join("x")).unwrap(),
        "of the host\n"
    );
    spec.mounts = vec![bind(&at, "/v", false)];
    let error = chain(&run_in(&sandbox, &spec).unwrap_err());
    assert!(
        error.contains(&format!("give the command {}", host.path().display())),
        "{error}"
    );
}

fn sources(world: &World) {
    let layer = world.layer(&["app/a", "app/b/c", "link -> /app", "file"]);
    let overlay = Overlay {
        lowers: vec![layer.clone()],
        upper: None,
    };
    let from = |source: &str, target: &str| Mount::Overlay {
        overlay: overlay.clone(),
        source: source.into(),
        target: target.into(),
        readonly: true,
    };
    let mut spec =
        world.sh("ls /one /two /three; cat /four; rm -r /one/*; echo x > /four; mv /two/a /taken");
    spec.mounts = vec![
        from("/app", "/one"),
        from("/link", "/two"),
        from("/", "/three"),
        from("/file", "/four"),
    ];
    let outcome = world.run(&spec);
    assert_eq!(
        outcome.stdout, "/one:\na\nb\n\n/three:\napp\nfile\nlink\n\n/two:\na\nb\nfrom the layer\n",
        "{}",
        outcome.stderr
    );
    assert_eq!(world.changes(&spec), ["taken"]);
    assert!(layer.join("app/b/c").exists());
    assert_eq!(
        std::fs::read_to_string(layer.join("file")).unwrap(),
        "from the layer\n"
    );
}

fn fillings(world: &World) {
    let (filling, cache) = (world.layer(&["a", "b"]), world.folder());
    let mount = || Mount::Overlay {
        overlay: Overlay {
            lowers: vec![filling.clone()],
            upper: Some((cache.clone(), world.folder())),
        },
        source: String::new(),
        target: "/c".into(),
        readonly: false,
    };
    for (script, expected) in [
        ("ls /c; echo new > /c/new; rm /c/a", "a\nb\n"),
        ("ls /c; echo more >> /c/new", "b\nnew\n"),
        ("cat /c/new", "new\nmore\n"),
    ] {
        let mut spec = world.sh(script);
        spec.mounts = vec![mount()];
        assert_eq!(world.run(&spec).ok(), expected, "{script}");
        assert_eq!(world.changes(&spec), [""; 0]);
    }
    assert!(filling.join("a").exists());
}

fn sockets(world: &World) {
    let path = world.folder().join("agent");
    let listener = UnixListener::bind(&path).unwrap();
    let answer = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        std::io::Write::write_all(&mut stream, b"hello\n").unwrap();
    });
    let mut spec = world.spec(&["/probe", "--probe", "fence-socket", "/run/agent"]);
    spec.mounts = vec![bind(&path, "/run/agent", false)];
    assert_eq!(world.run(&spec).ok(), "hello\n");
    answer.join().unwrap();
    assert_eq!(world.changes(&spec), [""; 0]);
    assert!(
        std::fs::symlink_metadata(&path)
            .unwrap()
            .file_type()
            .is_socket()
    );
}

/// Processes with this variable in their environment.
fn marked(mark: &str) -> usize {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    entries
        .filter(|entry| {
            std::fs::read(entry.path().join("environ")).is_ok_and(|bytes| {
                bytes
                    .windows(mark.len())
                    .any(|window| window == mark.as_bytes())
            })
        })
        .count()
}

fn forks(world: &World) {
    let mark = format!("MARK=forks{}", std::process::id());
    for end in ["exit 0", "sleep 100"] {
        // Processes that are never the same for longer than a moment, in sessions of their own.
        let mut spec = world.sh(&format!(
            "relay() {{ /probe --probe fence-relay & }}; relay; relay; setsid sh -c 'trap \"\" TERM HUP; while :; do sleep 1; done' & sleep 0.3; {end}"
        ));
        let (key, value) = mark.split_once('=').unwrap();
        spec.env.push((key.to_owned(), value.to_owned()));
        if end == "exit 0" {
            world.run(&spec).ok();
        } else {
            let (mut running, _) = start(world, &spec);
            std::thread::sleep(Duration::from_millis(400));
            running.kill();
            assert_eq!(running.wait().unwrap(), Exit::Signal(9));
        }
        assert_eq!(marked(&mark), 0);
    }
}

fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

fn death_of_the_supervisor(world: &World) {
    let mark = format!("MARK=supervisor{}", std::process::id());
    let mut spec = world.sh("setsid sleep 300 & /probe --probe fence-relay & sleep 300");
    spec.env.push(("MARK".into(), mark[5..].to_owned()));
    let (mut running, _) = start(world, &spec);
    let deadline = Instant::now() + Duration::from_secs(10);
    while marked(&mark) < 3 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    kill(supervisor());
    assert_eq!(running.wait().unwrap(), Exit::Signal(9));
    assert_eq!(marked(&mark), 0);
    assert_eq!(world.run(&world.sh("echo next")).ok(), "next\n");
}

fn death_of_the_guard(world: &World) {
    let mark = format!("MARK=guard{}", std::process::id());
    let mut spec = world.sh("setsid sleep 300 & sleep 300");
    spec.env.push(("MARK".into(), mark[5..].to_owned()));
    let (mut running, _) = start(world, &spec);
    let guard = children(supervisor())
        .into_iter()
        .find(|pid| name_of(*pid) == "kiln-guard");
    kill(guard.unwrap());
    std::thread::sleep(Duration::from_millis(50));
    assert!(marked(&mark) >= 2, "the command goes on without it");
    running.kill();
    running.wait().unwrap();
    assert_eq!(marked(&mark), 0);
}

fn ids(world: &World) {
    let mut spec = world.sh(
        "id -u; id -g; id -G; touch /tmp/x && stat -c '%u %g' /tmp/x; touch /etc/x || echo denied",
    );
    (spec.uid, spec.gid, spec.groups) = (70_000, 1001, vec![7, 2000]);
    assert_eq!(
        world.run(&spec).ok(),
        "70000\n1001\n1001 7 2000\n70000 1001\ndenied\n"
    );
    let outcome = run_in(
        world.sandbox(),
        &world.sh("touch /a; chown 33:4000000 /a; stat -c '%u %g' /a"),
    )
    .unwrap();
    assert_eq!(outcome.ok(), "33 4000000\n");
}
