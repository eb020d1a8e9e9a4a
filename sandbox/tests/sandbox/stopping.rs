//! Commands that are asked to end, that cannot be talked to, or whose keepers are killed.

use crate::lifecycle::{await_none, await_some, children_of, mark, processes_with, start_victim};
use crate::limits::groups_of;
use crate::world::World;
use rustix::process::{Pid, Signal, kill_process};
use sandbox::{Exit, Limit, Resources, RunSpec, Running};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

pub(crate) const CASES: &[crate::Case] = &[
    ("stopping::all_processes_are_asked_to_end", asked),
    ("stopping::the_command_may_end_before_others", outlived),
    ("stopping::what_ignores_it_is_killed", ignored),
    ("stopping::stopped_processes_take_it", suspended),
    (
        "stopping::a_command_cannot_ask_its_first_process",
        from_inside,
    ),
    (
        "stopping::death_of_the_first_process",
        death_of_the_first_process,
    ),
    ("stopping::ten_thousand_children", many_children),
    ("stopping::a_fork_bomb_of_a_user", fork_bomb),
    (
        "stopping::control_groups_of_a_killed_caller",
        groups_of_a_killed_caller,
    ),
];

/// A command under way, its output in a file of the store.
fn start(world: &World, script: &str) -> (Running, std::path::PathBuf) {
    let path = world.folder().join("output");
    let output = std::fs::File::create(&path).unwrap();
    let spec = world.sh(script);
    let running = world
        .sandbox()
        .run(&spec, output.as_fd(), output.as_fd())
        .unwrap();
    (running, path)
}

fn wait_for(path: &std::path::Path, text: &str) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !std::fs::read_to_string(path).unwrap().contains(text) {
        assert!(Instant::now() < deadline, "no {text:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

const PATIENCE: Duration = Duration::from_secs(20);

fn asked(world: &World) {
    let (mut running, output) = start(
        world,
        "setsid sh -c 'trap \"echo other; exit\" TERM; echo ready2; while true; do sleep 0.02; done' &\n\
         trap 'echo command; exit 5' TERM; echo ready1; while true; do sleep 0.02; done",
    );
    wait_for(&output, "ready1");
    wait_for(&output, "ready2");
    running.stop();
    assert_eq!(running.wait_timeout(PATIENCE).unwrap(), Some(Exit::Code(5)));
    let text = std::fs::read_to_string(output).unwrap();
    assert!(
        text.contains("command\n") && text.contains("other\n"),
        "{text}"
    );
}

/// What takes longer than the command is waited for, when all were asked.
fn outlived(world: &World) {
    let (mut running, output) = start(
        world,
        "sh -c 'trap \"sleep 0.3; echo late; exit\" TERM; echo ready; while true; do sleep 0.02; done' & sleep 600",
    );
    wait_for(&output, "ready");
    running.stop();
    assert_eq!(
        running.wait_timeout(PATIENCE).unwrap(),
        Some(Exit::Signal(15))
    );
    assert!(std::fs::read_to_string(output).unwrap().contains("late\n"));
}

fn ignored(world: &World) {
    let (mut running, output) = start(
        world,
        "trap '' TERM; echo ready; while true; do sleep 1; done",
    );
    wait_for(&output, "ready");
    running.stop();
    assert_eq!(
        running.wait_timeout(Duration::from_millis(400)).unwrap(),
        None
    );
    running.kill();
    assert_eq!(
        running.wait_timeout(PATIENCE).unwrap(),
        Some(Exit::Signal(9))
    );
}

fn suspended(world: &World) {
    for kill in [false, true] {
        let (mut running, output) = start(
            world,
            "echo ready; kill -STOP $$; while true; do sleep 1; done",
        );
        wait_for(&output, "ready");
        std::thread::sleep(Duration::from_millis(50));
        let expected = if kill {
            running.kill();
            Exit::Signal(9)
        } else {
            running.stop();
            Exit::Signal(15)
        };
        assert_eq!(running.wait_timeout(PATIENCE).unwrap(), Some(expected));
    }
}

/// A SIGTERM that comes from inside is not passed on.
fn from_inside(world: &World) {
    let outcome = world.run(&world.sh("kill -TERM 1; sleep 0.2; echo alive; exit 3"));
    assert_eq!(
        (outcome.stdout.as_str(), outcome.exit),
        ("alive\n", Exit::Code(3))
    );
}

fn death_of_the_first_process(world: &World) {
    let mark = &mark();
    let (mut running, _) = start(
        world,
        &format!("setsid sh -c 'trap \"\" TERM; sleep 600; : {mark}' & sleep 600; : {mark}"),
    );
    await_some(mark, 2);
    let helper = String::from_utf8(world.sandbox().task("helper-pid", b"", &[]).unwrap()).unwrap();
    let helper: u32 = helper.lines().next().unwrap().parse().unwrap();
    for child in children_of(helper) {
        // What serves the root ends with the first process.
        let name = std::fs::read_to_string(format!("/proc/{child}/comm")).unwrap_or_default();
        if name.trim_end() == "kiln-fuse" {
            continue;
        }
        let _ = kill_process(Pid::from_raw(child).unwrap(), Signal::KILL);
    }
    assert_eq!(
        running.wait_timeout(PATIENCE).unwrap(),
        Some(Exit::Signal(9))
    );
    await_none("processes", || processes_with(mark));
    assert_eq!(world.run(&world.sh("echo on")).ok(), "on\n");
}

/// Children whose parents do not wait for them, and that end one by one.
fn many_children(world: &World) {
    let script = "i=0; while [ $i -lt 100 ]; do \
        (j=0; while [ $j -lt 100 ]; do : & j=$((j+1)); done); i=$((i+1)); done; \
        sleep 0.2; ls /proc | grep -c '^[0-9]'";
    let outcome = world.run(&world.sh(script));
    let left: u32 = outcome.ok().trim().parse().unwrap();
    // The first process, the shell, and the three of the last line.
    assert!(left <= 6, "{left} processes are left");
}

fn fork_bomb(world: &World) {
    let nproc = |most| Limit {
        name: "nproc".to_owned(),
        soft: Some(most),
        hard: Some(most),
    };
    let spec = RunSpec {
        uid: 1000,
        gid: 1000,
        limits: vec![nproc(40)],
        ..world.sh("f() { f | f & }; f; sleep 0.3; exit 7")
    };
    let started = Instant::now();
    // Where only the own id is mapped there is no other.
    let Ok(outcome) = world.try_run(&spec) else {
        return;
    };
    assert!(outcome.stderr.contains("fork"), "{outcome:?}");
    assert!(started.elapsed() < PATIENCE);
}

fn groups_of_a_killed_caller(world: &World) {
    let limit = Resources {
        pids: Some(60),
        ..Resources::default()
    };
    let limited = RunSpec {
        resources: limit,
        ..world.sh("true")
    };
    if world.try_run(&limited).is_err() {
        return;
    }
    let mark = &mark();
    let victim = start_victim(world, mark, &["--limited"]);
    let pid = victim.id();
    await_some(mark, 2);
    assert!(!groups_of(pid).is_empty());
    drop(victim);
    await_none("processes", || processes_with(mark));
    await_none("control groups", || {
        world.run(&limited).ok();
        groups_of(pid).len()
    });
}
