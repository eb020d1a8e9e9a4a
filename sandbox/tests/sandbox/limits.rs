//! Limits of control groups: kept, told when they are hit, refused where they cannot be set; groups do not outlive their run.

use crate::world::{Outcome, World, chain};
use rustix::fs::{Access, AtFlags, CWD};
use sandbox::{Error, Exit, Network, Pressure, Resources, RunSpec};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub(crate) const CASES: &[crate::Case] = &[
    ("limits::ru19_memory", memory),
    ("limits::ru19_processes", processes),
    ("limits::ru19_processors", processors),
    ("limits::ru19_parent", parent),
    ("limits::what_cannot_be_set_is_an_error", impossible),
    ("limits::groups_are_shown", shown),
    ("limits::groups_are_removed", removed),
    ("limits::leftovers_are_swept", swept),
];

/// Runs with limits, where this user can have any; `None` where that was refused with a way out.
fn run(world: &World, script: &str, resources: Resources) -> Option<(Outcome, Pressure)> {
    let spec = RunSpec {
        resources,
        ..world.sh(script)
    };
    match world.try_run_watched(&spec) {
        Ok(ended) => Some(ended),
        Err(error) => {
            refused(&error);
            None
        }
    }
}

/// Root can set limits wherever the hierarchies are writable; others only in a group that is given to them.
#[track_caller]
fn refused(error: &Error) {
    let text = chain(error);
    assert!(matches!(error, Error::Setup { .. }), "{text}");
    assert!(
        text.contains("could not set the limit") || text.contains("control group"),
        "{text}"
    );
    for word in ["Permission denied", "Read-only", "No such device", "busy"] {
        if text.contains(word) {
            let able =
                rustix::process::geteuid().is_root() && writable(Path::new("/sys/fs/cgroup"));
            assert!(!able, "{text}");
            let fixes = [
                "systemd-run",
                "docker run",
                "Delegate=",
                "as root",
                "not mounted",
                "no control groups",
            ];
            assert!(fixes.iter().any(|fix| text.contains(fix)), "{text}");
            return;
        }
    }
    panic!("{text}");
}

fn writable(path: &Path) -> bool {
    rustix::fs::accessat(CWD, path, Access::WRITE_OK, AtFlags::EACCESS).is_ok()
}

/// A command sees its own groups, which it cannot change, and none of the host's.
fn shown(world: &World) {
    for network in [Network::None, Network::Host] {
        let look = "ls -A /sys/fs/cgroup; mkdir /sys/fs/cgroup/x 2>/dev/null && echo made; true";
        let spec = RunSpec {
            network,
            ..world.sh(look)
        };
        assert_eq!(world.run(&spec).ok(), "", "{network:?}");
    }
    let limit = Resources {
        memory: Some(32 << 20),
        ..Resources::default()
    };
    let look = "cd /sys/fs/cgroup; cat memory/memory.limit_in_bytes memory.max 2>/dev/null; ls -A | grep -v '[.]'; \
        find . -name 'kiln-*'; mkdir x memory/x 2>&1 | grep -c Read-only; \
        (echo 99999999 > memory/memory.limit_in_bytes) 2>&1 | grep -c Read-only; cat /proc/self/cgroup | grep -c kiln-";
    let Some((outcome, _)) = run(world, look, limit) else {
        return;
    };
    let mut lines = outcome.stdout.lines();
    assert_eq!(lines.next(), Some("33554432"), "{outcome:?}");
    let rest: Vec<&str> = lines.collect();
    // Version 1 has a folder for each of its hierarchies, version 2 none.
    let is_right = matches!(rest[..], ["memory", "2", "1", "0"] | ["1", "0", "0"]);
    assert!(is_right, "{outcome:?}");
}

fn memory(world: &World) {
    let limit = Resources {
        memory: Some(32 << 20),
        memory_swap: Some(32 << 20),
        ..Resources::default()
    };
    let eat = "x=x; while true; do x=$x$x; done";
    let Some((outcome, pressure)) = run(world, eat, limit.clone()) else {
        return;
    };
    assert_eq!(outcome.exit, Exit::Signal(9), "{}", outcome.stderr);
    assert!(pressure.oom_kills > 0, "{pressure:?}");
    let (outcome, pressure) = run(world, "exit 4", limit).unwrap();
    assert_eq!(outcome.exit, Exit::Code(4));
    assert_eq!(pressure, Pressure::default());
}

fn processes(world: &World) {
    let limit = Resources {
        pids: Some(20),
        ..Resources::default()
    };
    let bomb = "f() { f | f & }; f; sleep 0.3; exit 7";
    let started = Instant::now();
    let Some((_, pressure)) = run(world, bomb, limit.clone()) else {
        return;
    };
    assert!(pressure.forks_refused > 0, "{pressure:?}");
    assert!(started.elapsed() < Duration::from_secs(20));
    let as_user = RunSpec {
        resources: limit,
        uid: 1000,
        gid: 1000,
        ..world.sh(bomb)
    };
    // Where only the own id is mapped there is no other.
    if let Ok((_, pressure)) = world.try_run_watched(&as_user) {
        assert!(pressure.forks_refused > 0, "{pressure:?}");
    }
}

/// A quota of a tenth of a processor makes two tenths of a second of work take about two seconds.
fn processors(world: &World) {
    let limit = Resources {
        cpu_period: Some(100_000),
        cpu_quota: Some(10_000),
        cpu_shares: Some(512),
        cpuset_cpus: Some("0".to_owned()),
        cpuset_mems: Some("0".to_owned()),
        ..Resources::default()
    };
    // Processor time of this shell and the share of real time it got, in hundredths of a second.
    let work = "read up rest < /proc/uptime; i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; \
        read end rest < /proc/uptime; read stat < /proc/self/stat; set -- $stat; \
        grep Cpus_allowed_list /proc/self/status; echo $up $end ${14} ${15}";
    let Some((outcome, _)) = run(world, work, limit) else {
        return;
    };
    let text = outcome.ok();
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("Cpus_allowed_list:\t0"));
    let numbers: Vec<f64> = lines
        .next()
        .unwrap()
        .split(' ')
        .map(|number| number.parse().unwrap())
        .collect();
    let (real, used) = (numbers[1] - numbers[0], (numbers[2] + numbers[3]) / 100.0);
    // One period's share may be used up before the first wait.
    assert!(used < 0.05 || used / real < 0.3, "{used} s of {real} s");
}

fn parent(world: &World) {
    let named = |parent: &str| Resources {
        cgroup_parent: Some(parent.to_owned()),
        pids: Some(50),
        ..Resources::default()
    };
    let name = format!("kilntest{}", std::process::id());
    let Some((outcome, _)) = run(world, "cat /proc/self/cgroup", named(&name)) else {
        return;
    };
    // The command's namespace begins at its own group.
    let text = outcome.ok();
    let pids = text
        .lines()
        .find(|line| line.contains(":pids:") || line.starts_with("0::"));
    assert!(pids.is_some_and(|line| line.ends_with(":/")), "{text}");
    let made: Vec<PathBuf> = hierarchies()
        .into_iter()
        .map(|mount| mount.join(&name))
        .filter(|path| path.is_dir())
        .collect();
    assert!(!made.is_empty());
    for path in made {
        std::fs::remove_dir(path).unwrap();
    }
    let spec = RunSpec {
        resources: named("kiln-no-such.slice"),
        ..world.sh("true")
    };
    let error = chain(&world.try_run(&spec).unwrap_err());
    assert!(
        error.contains("systemctl start kiln-no-such.slice"),
        "{error}"
    );
}

fn impossible(world: &World) {
    for (resources, says) in [
        (
            Resources {
                cpuset_cpus: Some("4000".to_owned()),
                ..Resources::default()
            },
            "cpuset-cpus=4000",
        ),
        (
            Resources {
                cpu_period: Some(1),
                ..Resources::default()
            },
            "cpu-period=1",
        ),
    ] {
        let spec = RunSpec {
            resources,
            ..world.sh("true")
        };
        let error = chain(&world.try_run(&spec).unwrap_err());
        assert!(
            error.contains(&format!("could not set the limit {says}")),
            "{error}"
        );
    }
}

/// Mount points of control groups.
fn hierarchies() -> Vec<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    mounts
        .lines()
        .filter(|line| line.contains(" - cgroup"))
        .filter_map(|line| line.split(' ').nth(4).map(PathBuf::from))
        .collect()
}

/// Groups of this process.
fn groups() -> Vec<PathBuf> {
    groups_of(std::process::id())
}

/// Groups that a process has made.
pub(crate) fn groups_of(pid: u32) -> Vec<PathBuf> {
    fn collect(folder: &Path, prefix: &str, found: &mut Vec<PathBuf>) {
        let Ok(entries) = std::fs::read_dir(folder) else {
            return;
        };
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if entry.file_name().to_string_lossy().starts_with(prefix) {
                    found.push(entry.path());
                }
                collect(&entry.path(), prefix, found);
            }
        }
    }
    let mut found = Vec::new();
    for mount in hierarchies() {
        collect(&mount, &format!("kiln-{pid}-"), &mut found);
    }
    found
}

fn removed(world: &World) {
    let spec = RunSpec {
        resources: Resources {
            pids: Some(30),
            ..Resources::default()
        },
        ..world.sh("setsid sh -c 'trap \"\" TERM; while true; do sleep 0.05; done' & sleep 600")
    };
    let null = std::fs::File::options()
        .write(true)
        .open("/dev/null")
        .unwrap();
    let Ok(running) = world.sandbox().run(&spec, null.as_fd(), null.as_fd()) else {
        return;
    };
    assert!(!groups().is_empty());
    drop(running);
    assert_eq!(groups(), Vec::<PathBuf>::new());
    // What failed before the command started.
    let bad = RunSpec {
        cwd: "/bin/busybox/x".to_owned(),
        ..spec
    };
    assert!(world.try_run(&bad).is_err());
    assert_eq!(groups(), Vec::<PathBuf>::new());
}

/// A group that a killed build has left.
fn swept(world: &World) {
    let limit = Resources {
        pids: Some(30),
        ..Resources::default()
    };
    let spec = RunSpec {
        resources: limit.clone(),
        ..world.sh("sleep 600")
    };
    let null = std::fs::File::options()
        .write(true)
        .open("/dev/null")
        .unwrap();
    let Ok(running) = world.sandbox().run(&spec, null.as_fd(), null.as_fd()) else {
        return;
    };
    let leftovers: Vec<PathBuf> = groups()
        .iter()
        .map(|group| group.with_file_name("kiln-1-4000000000"))
        .collect();
    for folder in &leftovers {
        std::fs::create_dir(folder).unwrap();
    }
    let live = groups();
    run(world, "true", limit).unwrap();
    assert!(leftovers.iter().all(|folder| !folder.exists()));
    assert_eq!(groups(), live, "a group that is in use stays");
    drop(running);
}
