//! Control groups of version 2, where it is all that is mounted: in a mount namespace of the tests' own, since machines also
//! have those of version 1. No controller is counted on: a named parent needs none. Takes root.

use crate::limits::groups_of;
use crate::world::{World, chain};
use crate::{Counts, skip};
use rustix::fs::FlockOperation;
use sandbox::{Resources, RunSpec};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

const MOUNT: &str = "/sys/fs/cgroup";
const NAME: &str = "unified::groups_without_controllers";
const MACHINE: &str =
    "umount -l -R /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup || exit 3; exec \"$@\"";
/// No cgroup2 here.
const NONE: i32 = 3;

pub(crate) fn run_all(filters: &[&str]) -> Counts {
    if !filters.iter().all(|filter| NAME.contains(filter)) {
        return Counts::default();
    }
    let own = std::fs::read_link("/proc/self/exe").unwrap();
    let status = Command::new("unshare")
        .args(["--mount", "sh", "-c", MACHINE, "machine"])
        .arg(own)
        .arg("--in-unified")
        .stdin(Stdio::null())
        .status();
    match status {
        Ok(status) if status.code() == Some(NONE) => skip(NAME, "cgroup2 cannot be mounted"),
        Ok(status) if status.success() => Counts {
            passed: 1,
            ..Counts::default()
        },
        other => {
            println!("{NAME}: {other:?}");
            Counts {
                failed: 1,
                ..Counts::default()
            }
        }
    }
}

/// The group that all others are made in; removed in the end.
struct Parent(PathBuf);

impl Parent {
    fn new() -> Self {
        let path = Path::new(MOUNT).join(format!("kilntest{}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn named(&self) -> Resources {
        let name = self.0.file_name().unwrap().to_str().unwrap();
        Resources {
            cgroup_parent: Some(name.to_owned()),
            ..Resources::default()
        }
    }

    fn inside(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.0).unwrap().flatten();
        let folders = entries.filter(|entry| entry.path().is_dir());
        folders
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect()
    }
}

impl Drop for Parent {
    fn drop(&mut self) {
        for name in self.inside() {
            let _ = std::fs::remove_dir(self.0.join(name));
        }
        let _ = std::fs::remove_dir(&self.0);
    }
}

pub(crate) fn main() -> ExitCode {
    let world = World::new().unwrap();
    let started = Instant::now();
    let parent = Parent::new();
    shown(&world, &parent);
    swept(&world, &parent);
    killed(&world, &parent);
    let spec = RunSpec {
        resources: Resources {
            memory: Some(32 << 20),
            ..parent.named()
        },
        ..world.sh("true")
    };
    let controllers = std::fs::read_to_string(Path::new(MOUNT).join("cgroup.controllers")).unwrap();
    if !controllers.split_whitespace().any(|name| name == "memory") {
        let error = chain(&world.try_run(&spec).unwrap_err());
        assert!(error.contains("set the limit memory"), "{error}");
        assert!(
            error.contains("memory is not delegated") || error.contains("no controller memory"),
            "{error}"
        );
    }
    drop(parent);
    let took = started.elapsed().as_millis();
    println!("test {NAME} ... ok ({took} ms)");
    world.remove();
    ExitCode::SUCCESS
}

/// A command sees its own group as the root, read-only, and none beside it.
fn shown(world: &World, parent: &Parent) {
    let look = "grep ^0: /proc/self/cgroup; cd /sys/fs/cgroup; grep -c . cgroup.procs; find . -name 'kiln*'; \
        mkdir x 2>&1 | grep -c Read-only; (echo 1 > cgroup.freeze) 2>&1 | grep -c Read-only; ls -d memory 2>/dev/null; \
        mount | grep -c 'cgroup2 .*[(]ro,nosuid,nodev,noexec'";
    let spec = RunSpec {
        resources: parent.named(),
        ..world.sh(look)
    };
    let text = world.run(&spec).ok();
    let lines: Vec<&str> = text.lines().collect();
    let [own, processes, rest @ ..] = lines.as_slice() else {
        panic!("{text}")
    };
    assert_eq!(*own, "0::/", "{text}");
    assert!(processes.parse::<u32>().unwrap() >= 2, "{text}");
    assert_eq!(rest, ["1", "1", "1"], "{text}");
    assert_eq!(parent.inside(), [""; 0]);
}

/// What somebody who was killed has left goes; what somebody holds, and what is not Kiln's, stays.
fn swept(world: &World, parent: &Parent) {
    for name in ["kiln-1-0", "kiln-1-1", "other"] {
        std::fs::create_dir(parent.0.join(name)).unwrap();
    }
    let held = std::fs::File::open(parent.0.join("kiln-1-1")).unwrap();
    rustix::fs::flock(&held, FlockOperation::NonBlockingLockExclusive).unwrap();
    let spec = RunSpec {
        resources: parent.named(),
        ..world.sh("true")
    };
    world.run(&spec).ok();
    let mut left = parent.inside();
    left.sort();
    assert_eq!(left, ["kiln-1-1", "other"]);
    drop(held);
    world.run(&spec).ok();
    assert_eq!(parent.inside(), ["other"]);
    std::fs::remove_dir(parent.0.join("other")).unwrap();
}

/// A build that is killed leaves its group, empty, and the next one removes it.
fn killed(world: &World, parent: &Parent) {
    let name = parent.0.file_name().unwrap().to_str().unwrap();
    let mut child = Command::new("/proc/self/exe")
        .arg("--victim")
        .arg(world.store())
        .args(["unified", &format!("--parent={name}")])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let stdout = child.stdout.as_mut().unwrap();
    BufReader::new(stdout).read_line(&mut line).unwrap();
    assert_eq!(line, "started\n");
    let made = groups_of(child.id());
    assert_eq!(made.len(), 1, "{made:?}");
    child.kill().unwrap();
    child.wait().unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    let events = || std::fs::read_to_string(made[0].join("cgroup.events")).unwrap();
    while !events().contains("populated 0") {
        assert!(Instant::now() < deadline, "{}", events());
        std::thread::sleep(Duration::from_millis(10));
    }
    let spec = RunSpec {
        resources: parent.named(),
        ..world.sh("true")
    };
    world.run(&spec).ok();
    assert_eq!(parent.inside(), [""; 0]);
}
