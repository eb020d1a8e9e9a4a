//! The rendering of made-up places.

use super::{Granted, Report, Verdict};
use sandbox::{Fact, IdMapping, Mode, NetworkKind, NetworkProgram, RootKind};

fn works(id: &str, name: &str, found: &str) -> Fact {
    Fact {
        id: id.to_owned(),
        name: name.to_owned(),
        tried: format!("try {id}"),
        works: true,
        found: found.to_owned(),
        ..Fact::default()
    }
}

fn fails(id: &str, name: &str, errno: i32, fix: &str) -> Fact {
    Fact {
        works: false,
        errno: Some(errno),
        fix: fix.to_owned(),
        ..works(id, name, "")
    }
}

fn lacks(id: &str, name: &str, found: &str, fix: &str) -> Fact {
    Fact {
        works: false,
        fix: fix.to_owned(),
        ..works(id, name, found)
    }
}

/// A root machine where everything works that a root needs.
fn machine() -> Report {
    let facts = vec![
        works("kernel", "kernel", "Linux 6.18.0"),
        works("user-namespace", "user namespaces", ""),
        lacks(
            "subuid",
            "ids of root in /etc/subuid",
            "no line",
            "`usermod ...`",
        ),
        works("id-mapped-mounts", "id-mapped mounts", ""),
        fails(
            "reflink",
            "copies that share their blocks",
            95,
            "put the store on xfs or btrfs",
        ),
        lacks(
            "fuse-overlayfs",
            "fuse-overlayfs",
            "not installed",
            "install the package fuse-overlayfs",
        ),
        works("landlock", "Landlock", "ABI 7"),
        works("memory-limit", "limits of memory", ""),
        works("pids-limit", "limits of processes", ""),
        fails(
            "cpu-limit",
            "limits of processors",
            13,
            "delegate the controller cpu",
        ),
        works("pasta", "pasta", "/usr/bin/pasta"),
        lacks(
            "slirp4netns",
            "slirp4netns",
            "not installed",
            "install the package slirp4netns",
        ),
        works("net-namespace", "network namespaces", ""),
        works("proc", "a new /proc", ""),
        works("overlay", "overlay file systems in the store", ""),
        works("tun-device", "/dev/net/tun", ""),
    ];
    let verdict = Verdict {
        sandbox: Ok(Granted {
            mode: Mode::Full,
            ids: IdMapping::Idmapped,
            root: RootKind::Overlay,
            network: Ok(NetworkKind::Program(NetworkProgram::Pasta)),
            notes: Vec::new(),
        }),
        is_root: true,
    };
    Report::new(facts, verdict)
}

/// A user in a container that may make user namespaces.
fn container() -> Report {
    let facts = vec![
        works("user-namespace", "user namespaces", ""),
        lacks(
            "subuid",
            "ids of ann in /etc/subuid",
            "no line",
            "`usermod --add-subuids 100000-165535 ann`",
        ),
        lacks(
            "id-mapped-mounts",
            "id-mapped mounts",
            "only root may map the ids of a mount",
            "",
        ),
        works("net-namespace", "network namespaces", ""),
        fails(
            "proc",
            "a new /proc",
            1,
            "start it with `--security-opt systempaths=unconfined`",
        ),
        fails("sysfs", "a new /sys", 1, "what it shows is bound"),
        fails(
            "overlay",
            "overlay file systems in the store",
            22,
            "give it a volume",
        ),
        fails(
            "fuse-device",
            "/dev/fuse",
            2,
            "a container gets it by `--device /dev/fuse`",
        ),
        fails(
            "tun-device",
            "/dev/net/tun",
            2,
            "a container gets it by `--device /dev/net/tun`",
        ),
        works("slirp4netns", "slirp4netns", "/usr/bin/slirp4netns"),
    ];
    let verdict = Verdict {
        sandbox: Ok(Granted {
            mode: Mode::Nested,
            ids: IdMapping::Single,
            root: RootKind::Copy,
            network: Ok(NetworkKind::Host),
            notes: vec!["isolation: nested: could not mount a new /proc".to_owned()],
        }),
        is_root: false,
    };
    Report::new(facts, verdict)
}

/// A user in a container with the default profile.
fn locked_down() -> Report {
    let fix = "start the container with `--security-opt seccomp=unconfined`";
    let facts = vec![
        fails("user-namespace", "user namespaces", 1, fix),
        lacks(
            "subuid",
            "ids of ann in /etc/subuid",
            "no line",
            "`usermod ...`",
        ),
        lacks(
            "chroot",
            "change of root without namespaces",
            "capabilities are missing",
            "run as root",
        ),
        works("landlock", "Landlock", "ABI 7"),
    ];
    let verdict = Verdict {
        sandbox: Err(format!(
            "could not make a user namespace ({fix}): Operation not permitted (os error 1)"
        )),
        is_root: false,
    };
    Report::new(facts, verdict)
}

#[test]
fn lines_of_places() {
    assert_eq!(machine().lines(), MACHINE);
    assert_eq!(container().lines(), CONTAINER);
    assert_eq!(locked_down().lines(), LOCKED_DOWN);
}

#[test]
fn only_namespaces_count_as_isolation() {
    assert!(machine().is_isolated());
    assert!(container().is_isolated());
    assert!(!locked_down().is_isolated());
    let mut chroot = machine();
    if let Ok(granted) = &mut chroot.verdict.sandbox {
        granted.mode = Mode::Chroot;
    }
    assert!(!chroot.is_isolated());
    if let Ok(granted) = &mut chroot.verdict.sandbox {
        granted.network = Err("pasta: no".to_owned());
    }
    let lines = chroot.lines();
    assert!(lines.contains("RUN         isolation chroot\n"), "{lines}");
    assert!(
        lines.contains("network     not possible: pasta: no\n"),
        "{lines}"
    );
}

#[test]
fn json_has_the_same() {
    let value = container().json();
    assert_eq!(value["verdict"]["isolation"], "nested");
    assert_eq!(value["verdict"]["works"], true);
    assert_eq!(value["verdict"]["network"], "the host's");
    let proc = &value["facts"][4];
    assert_eq!(
        (&proc["id"], &proc["state"], &proc["errno"]),
        (&"proc".into(), &"missing".into(), &1.into())
    );
    assert_eq!(value["facts"][5]["state"], "not-needed");
    let refused = locked_down().json();
    assert_eq!(refused["verdict"]["isolation"], serde_json::Value::Null);
    assert!(
        refused["verdict"]["error"]
            .as_str()
            .is_some_and(|error| error.contains("seccomp=unconfined"))
    );
}

const MACHINE: &str = "\
ok          kernel: Linux 6.18.0
ok          user namespaces
not needed  ids of root in /etc/subuid: no line
ok          id-mapped mounts
not needed  copies that share their blocks: try reflink: Operation not supported (os error 95)
not needed  fuse-overlayfs: not installed
ok          Landlock: ABI 7
ok          limits of memory
ok          limits of processes
missing     limits of processors: try cpu-limit: Permission denied (os error 13) (fix: delegate the controller cpu)
ok          pasta: /usr/bin/pasta
not needed  slirp4netns: not installed
ok          network namespaces
ok          a new /proc
ok          overlay file systems in the store
ok          /dev/net/tun

RUN         isolation full
ids         all, mapped to ids that the host does not use
roots       overlay
network     the build's own, through pasta
limits      memory, processes
";
const CONTAINER: &str = "\
ok          user namespaces
missing     ids of ann in /etc/subuid: no line (fix: `usermod --add-subuids 100000-165535 ann`)
not needed  id-mapped mounts: only root may map the ids of a mount
ok          network namespaces
missing     a new /proc: try proc: Operation not permitted (os error 1) (fix: start it with `--security-opt systempaths=unconfined`)
not needed  a new /sys: try sysfs: Operation not permitted (os error 1)
missing     overlay file systems in the store: try overlay: Invalid argument (os error 22) (fix: give it a volume)
not needed  /dev/fuse: try fuse-device: No such file or directory (os error 2)
missing     /dev/net/tun: try tun-device: No such file or directory (os error 2) (fix: a container gets it by `--device /dev/net/tun`)
ok          slirp4netns: /usr/bin/slirp4netns

RUN         isolation nested
ids         only the user's own
roots       copies
network     the host's
limits      none can be set
note        isolation: nested: could not mount a new /proc
";
const LOCKED_DOWN: &str = "\
missing     user namespaces: try user-namespace: Operation not permitted (os error 1) (fix: start the container with `--security-opt seccomp=unconfined`)
not needed  ids of ann in /etc/subuid: no line
missing     change of root without namespaces: capabilities are missing (fix: run as root)
ok          Landlock: ABI 7

RUN         not possible: could not make a user namespace (start the container with `--security-opt seccomp=unconfined`): Operation not permitted (os error 1)
limits      none can be set
";
