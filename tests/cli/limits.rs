//! Limits of RUN steps, and how they end: memory, processes, time, signals, what they write.

use crate::support::{Project, Run, able, is_root, unique, wait_until};
use rustix::process::Signal;
use std::fs;
use std::time::{Duration, Instant};

/// Builds with limits; `None` where this place allows none, which must be said with what would help.
#[track_caller]
fn build(project: &Project, args: &[&str]) -> Option<Run> {
    let run = project.build(args);
    if run.status == 1 && run.stderr.contains("could not set the limit") {
        let fixes = [
            "systemd-run",
            "docker run",
            "Delegate=",
            "as root",
            "no control groups",
        ];
        assert!(
            fixes.iter().any(|fix| run.stderr.contains(fix)),
            "{}",
            run.stderr
        );
        let writable =
            fs::metadata("/sys/fs/cgroup").is_ok_and(|meta| !meta.permissions().readonly());
        able(
            !(is_root() && writable),
            "control groups that can be made here",
        );
        return None;
    }
    Some(run)
}

// CLI:resource
#[test]
fn ru19_memory() {
    let project = Project::new("FROM busybox\nRUN x=x; while true; do x=$x$x; done\n");
    for limit in [
        &["--memory", "32m", "--memory-swap", "32m"][..],
        &["--resource", "memory=32m,memory-swap=32m"],
    ] {
        let Some(run) = build(&project, limit) else {
            return;
        };
        run.fails(
            1,
            &["did not complete successfully: exit code: 137: out of memory: killed by the limit of --memory 32m"],
        );
    }
    let project =
        Project::new("FROM busybox\nRUN sh -c 'x=x; while true; do x=$x$x; done' || exit 3\n");
    project.build(&["-m", "32m", "--memory-swap=32m"]).fails(
        1,
        &["exit code: 3: out of memory: a process of it was killed by the limit of --memory 32m"],
    );
}

// CLI:cgroup-parent
#[test]
fn ru19_limits_change_no_key() {
    let project = Project::new("FROM busybox\nRUN cat /proc/self/cgroup > /group\n");
    let args = [
        "-m",
        "64m",
        "--cpus",
        "1",
        "--pids-limit",
        "50",
        "-o",
        "out",
    ];
    let Some(run) = build(&project, &args) else {
        return;
    };
    run.ok();
    let group = fs::read_to_string(project.path("out/group")).unwrap();
    assert!(
        group
            .lines()
            .any(|line| line.ends_with(":memory:/") || line == "0::/"),
        "{group}"
    );
    assert_eq!(project.build(&[]).ok().step("RUN"), "CACHED");
    let parent = unique("kilncli");
    let args = [
        "--no-cache",
        "--pids-limit",
        "50",
        "--cgroup-parent",
        &parent,
    ];
    project.build(&args).ok();
    let made = project.build(&["--no-cache", "--cgroup-parent", "no-such.slice"]);
    made.fails(
        1,
        &[
            "could not use the control group no-such.slice",
            "systemctl start no-such.slice",
        ],
    );
    for mount in ["", "cpu", "cpuset", "memory", "pids", "unified"] {
        let group = std::path::Path::new("/sys/fs/cgroup").join(mount);
        let _ = fs::remove_dir(group.join(&parent));
    }
}

#[test]
fn ru19_processes() {
    let project = Project::new("FROM busybox\nRUN f() { f | f & }; f; sleep 0.3; exit 9\n");
    let Some(run) = build(&project, &["--pids-limit", "30"]) else {
        return;
    };
    run.fails(
        1,
        &["out of processes: some could not be started because of --pids-limit 30"],
    );
}

#[test]
fn a_step_that_takes_too_long_is_stopped() {
    let marker = unique("timeout");
    let project = Project::new(&format!(
        "FROM busybox\nENV E2E={marker}\nRUN trap 'echo clean\"\"ing; exit 0' TERM; sleep 100 & wait\n"
    ));
    let started = Instant::now();
    project.build(&["--timeout", "500ms"]).fails(
        1,
        &[
            "was stopped: it took longer than --timeout 500ms allows",
            "Dockerfile:3",
            "cleaning",
            "whole log: ",
        ],
    );
    assert!(started.elapsed() < Duration::from_secs(8));
    project
        .build(&["--timeout", "soon"])
        .fails(2, &["'--timeout'"]);
    let quick = Project::new("FROM busybox\nRUN sleep 0.1\n");
    quick.build(&["--timeout", "1m"]).ok();
}

#[test]
fn a_command_is_asked_to_end_before_it_is_killed() {
    for signal in [Signal::INT, Signal::TERM] {
        let project = Project::new(
            "FROM busybox\nRUN trap 'echo clean\"\"ing; exit 0' TERM; echo wai\"\"ting; sleep 100 & wait\n",
        );
        let mut build = project.start(project.build_command(&[]));
        build.wait_for("waiting");
        let started = Instant::now();
        build.signal(signal);
        build.finish().fails(130, &["cleaning", "interrupted"]);
        assert!(
            started.elapsed() < Duration::from_millis(2500),
            "the grace time was not needed"
        );
    }
}

#[test]
fn a_second_signal_ends_at_once() {
    let project = Project::new(
        "FROM busybox\nRUN trap '' TERM; echo wai\"\"ting; while true; do sleep 1; done\n",
    );
    let mut build = project.start(project.build_command(&[]));
    build.wait_for("waiting");
    let started = Instant::now();
    build.signal(Signal::INT);
    std::thread::sleep(Duration::from_millis(200));
    build.signal(Signal::INT);
    assert_eq!(build.finish().status, 130);
    assert!(started.elapsed() < Duration::from_millis(2500));
}

/// What shells report, in the message of the error.
#[test]
fn exit_codes_and_signals() {
    let project = Project::new("FROM busybox\nARG how\nRUN eval \"$how\"\n");
    for (how, code) in [
        ("exit 1", 1),
        ("exit 255", 255),
        ("/etc", 126),
        ("nothing-of-this-name", 127),
        ("kill -TERM $$", 143),
        ("kill -KILL $$", 137),
        ("kill -SEGV $$", 139),
        ("kill -PIPE $$", 141),
        ("sh -c 'kill -TERM $$'", 143),
    ] {
        let arg = format!("how={how}");
        project.build(&["--build-arg", &arg]).fails(
            1,
            &[&format!(
                "did not complete successfully: exit code: {code}\n"
            )],
        );
    }
    // A pipe whose reader goes ends its writer.
    let quick = Project::new(
        "FROM busybox\nRUN yes | head -n 1\nRUN set -o pipefail; yes | head -n 1 || [ $? = 141 ]\n",
    );
    quick.build(&[]).ok();
}

/// A flood of output is neither held in memory nor written to the disk as a whole, and blocks nobody.
#[test]
fn floods_of_output() {
    const MOST_KIB: u64 = 60 << 10;
    for (mode, flood) in [
        ("plain", "yes | head -c 60000000"),
        ("tty", "yes | head -c 60000000"),
        ("rawjson", "head -c 60000000 /dev/zero"),
        (
            "quiet",
            "head -c 60000000 /dev/zero; yes | head -c 60000000 >&2",
        ),
    ] {
        let project = Project::new(&format!(
            "FROM busybox\nRUN {flood}; echo; echo the e\"\"nd; exit 3\n"
        ));
        let build = project.start(project.build_command(&["--progress", mode]));
        let mut most = 0;
        wait_until(Duration::from_secs(100), || {
            let status = fs::read_to_string(format!("/proc/{}/status", build.id()));
            let status = status.unwrap_or_default();
            let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let now = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
            most = most.max(now.unwrap_or(0));
            now.is_none()
        });
        let run = build.finish();
        assert_eq!(run.status, 1);
        assert!(run.stderr.contains("\nthe end\n"), "{mode}");
        assert!((1..MOST_KIB).contains(&most), "{mode}: {most} KiB");
        assert!(run.stderr.len() < 16 << 20, "{mode}: {}", run.stderr.len());
        if mode == "plain" {
            assert!(
                run.stderr
                    .contains("[output clipped, log limit 2MiB reached]")
            );
        }
        let logs = fs::read_dir(project.store().join("logs")).unwrap();
        let size: u64 = logs.map(|log| log.unwrap().metadata().unwrap().len()).sum();
        assert!((9 << 20..10 << 20).contains(&size), "{mode}: {size}");
    }
}
