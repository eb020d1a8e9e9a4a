//! How runs end: daemons, zombies, kills, the death of the caller or of the helper.

use crate::world::{World, chain, run_in};
use rustix::process::{Pid, Signal, kill_process};
use sandbox::{
    Error, Exit, Isolation, Mode, Network, Options, Overlay, Resources, RunSpec, Sandbox,
};
use std::io::{BufRead, BufReader};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

pub(crate) const CASES: &[crate::Case] = &[
    ("lifecycle::daemons_end_with_the_command", daemons),
    ("lifecycle::closed_streams", closed_streams),
    ("lifecycle::zombies_are_reaped", zombies),
    ("lifecycle::kill_and_timeout", kill),
    ("lifecycle::dropping_a_run_ends_it", drop_running),
    ("lifecycle::dropping_the_sandbox_ends_all", drop_sandbox),
    ("lifecycle::runs_at_the_same_time", parallel),
    ("lifecycle::nothing_leaks_over_many_runs", leaks),
    ("lifecycle::death_of_the_caller", death_of_the_caller),
    ("lifecycle::death_of_the_helper", death_of_the_helper),
    ("lifecycle::sandbox_survives_its_thread", thread),
];

/// A process that ignores all it can, in a session of its own; holds the output open unless told otherwise.
const DAEMON: &str =
    "setsid sh -c 'trap \"\" TERM HUP INT QUIT; echo ready; while true; do sleep 0.05; done' &";

fn daemons(world: &World) {
    let started = Instant::now();
    let outcome = world.run(&world.sh(&format!("{DAEMON} sleep 0.2; exit 7")));
    assert_eq!(
        (outcome.stdout.as_str(), outcome.exit),
        ("ready\n", Exit::Code(7))
    );
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "{:?}",
        started.elapsed()
    );
}

fn closed_streams(world: &World) {
    let outcome = world.run(&world.sh("exec >&- 2>&- <&-; sleep 0.1; exit 5"));
    assert_eq!(outcome.exit, Exit::Code(5));
}

fn zombies(world: &World) {
    let outcome = world.run(&world.probe("zombies"));
    assert_eq!(outcome.ok(), "0 zombies\n");
}

fn start(sandbox: &Sandbox, spec: &RunSpec) -> sandbox::Running {
    let null = std::fs::File::options()
        .write(true)
        .open("/dev/null")
        .unwrap();
    sandbox.run(spec, null.as_fd(), null.as_fd()).unwrap()
}

fn kill(world: &World) {
    let spec = world.sh(&format!("{DAEMON} trap '' TERM; sleep 600"));
    let mut running = start(world.sandbox(), &spec);
    assert_eq!(
        running.wait_timeout(Duration::from_millis(150)).unwrap(),
        None
    );
    let started = Instant::now();
    running.kill();
    assert_eq!(running.wait().unwrap(), Exit::Signal(9));
    assert!(started.elapsed() < Duration::from_secs(2));
    assert_eq!(running.wait().unwrap(), Exit::Signal(9), "the answer stays");
    running.kill();
    let mut running = start(world.sandbox(), &world.sh("exit 4"));
    assert_eq!(
        running.wait_timeout(Duration::from_secs(20)).unwrap(),
        Some(Exit::Code(4))
    );
    assert_eq!(
        running.wait_timeout(Duration::ZERO).unwrap(),
        Some(Exit::Code(4))
    );
}

/// A command that can be found among the host's processes, by its arguments.
fn marked(world: &World, mark: &str) -> RunSpec {
    world.sh(&format!("{DAEMON} sleep 600; : {mark}"))
}

pub(crate) fn mark() -> String {
    let time = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    format!("mark-{}", time.as_nanos())
}

pub(crate) fn processes_with(mark: &str) -> usize {
    let own = std::process::id().to_string();
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter(|entry| entry.file_name().to_string_lossy() != own)
        .filter(|entry| {
            std::fs::read(entry.path().join("cmdline"))
                .is_ok_and(|text| String::from_utf8_lossy(&text).contains(mark))
        })
        .count()
}

pub(crate) fn await_none(what: &str, count: impl Fn() -> usize) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while count() > 0 {
        assert!(Instant::now() < deadline, "{what} are left");
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub(crate) fn await_some(mark: &str, least: usize) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while processes_with(mark) < least {
        assert!(Instant::now() < deadline, "the command does not start");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn drop_running(world: &World) {
    let mark = &mark();
    let running = start(world.sandbox(), &marked(world, mark));
    await_some(mark, 1);
    drop(running);
    await_none("processes", || processes_with(mark));
}

fn drop_sandbox(world: &World) {
    let mark = &mark();
    let sandbox = Sandbox::start(&Options {
        stores: vec![world.store()],
        isolation: world.isolation(),
        ..Options::default()
    })
    .unwrap();
    let mut running = start(&sandbox, &marked(world, mark));
    await_some(mark, 1);
    drop(sandbox);
    assert_eq!(
        processes_with(mark),
        0,
        "the helper is waited for, and it waits for its children"
    );
    assert!(matches!(running.wait(), Err(Error::Helper(_))));
}

fn parallel(world: &World) {
    std::thread::scope(|scope| {
        for index in 0..8 {
            scope.spawn(move || {
                for round in 0..4 {
                    let outcome = world.run(&world.sh(&format!(
                        "echo {index}-{round} > /f; sleep 0.05; cat /f; exit {index}"
                    )));
                    assert_eq!(
                        (outcome.stdout, outcome.exit),
                        (format!("{index}-{round}\n"), Exit::Code(index))
                    );
                }
            });
        }
    });
}

fn leaks(world: &World) {
    let count = || {
        let fds = std::fs::read_dir("/proc/self/fd").unwrap().count();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo")
            .unwrap()
            .lines()
            .count();
        (fds, mounts)
    };
    world.run(&world.sh("true")).ok();
    let helper = String::from_utf8(world.sandbox().task("helper-pid", b"", &[]).unwrap()).unwrap();
    let helper_fds = || {
        std::fs::read_dir(format!("/proc/{helper}/fd"))
            .unwrap()
            .count()
    };
    let (before, helper_before) = (count(), helper_fds());
    for _ in 0..30 {
        world.run(&world.sh("true")).ok();
        let _ = world.sandbox().task("fail", b"", &[]);
    }
    assert_eq!(count(), before, "descriptors and mounts of the caller");
    await_none("descriptors of the helper", || {
        helper_fds().saturating_sub(helper_before)
    });
}

/// Body of `--victim STORE MARK [--limited] MODE`: a program that has a sandbox, a run and a task under way.
pub(crate) fn victim(args: &[String]) -> ExitCode {
    let [store, mark, more @ ..] = args else {
        return ExitCode::FAILURE;
    };
    let limited = more.iter().any(|arg| arg == "--limited");
    let (isolation, network) = if more.iter().any(|arg| arg == "Chroot") {
        (Isolation::Chroot, Network::Host)
    } else {
        (Isolation::Auto, Network::None)
    };
    let store = PathBuf::from(store);
    let sandbox = Sandbox::start(&Options {
        stores: vec![store.clone()],
        isolation,
        ..Options::default()
    })
    .unwrap();
    let spec = RunSpec {
        network,
        root: Overlay {
            lowers: vec![store.join("base")],
            upper: Some((folder(&store), folder(&store))),
        },
        args: ["sh", "-c", &format!("{DAEMON} sleep 600; : {mark}")]
            .map(str::to_owned)
            .into(),
        env: vec![("PATH".to_owned(), "/bin".to_owned())],
        resources: Resources {
            pids: limited.then_some(60),
            cgroup_parent: more
                .iter()
                .find_map(|arg| arg.strip_prefix("--parent="))
                .map(str::to_owned),
            ..Resources::default()
        },
        ..RunSpec::default()
    };
    let running = start(&sandbox, &spec);
    std::thread::scope(|scope| {
        scope.spawn(|| sandbox.task("sleep", b"600000", &[]));
        println!("started");
        std::thread::sleep(Duration::from_secs(600));
    });
    drop(running);
    ExitCode::SUCCESS
}

fn folder(store: &Path) -> PathBuf {
    tempfile::tempdir_in(store).unwrap().keep()
}

/// Killed when dropped.
pub(crate) struct Victim(Child);

impl Victim {
    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a victim and waits until its command runs.
pub(crate) fn start_victim(world: &World, mark: &str, more: &[&str]) -> Victim {
    let mut victim = Command::new("/proc/self/exe")
        .args(["--victim", world.store().to_str().unwrap(), mark])
        .args(more)
        .arg(format!("{:?}", world.sandbox().mode()))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(victim.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let victim = Victim(victim);
    assert_eq!(line, "started\n");
    victim
}

/// Pids of a process's children.
pub(crate) fn children_of(pid: u32) -> Vec<i32> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    children
        .split_whitespace()
        .map(|pid| pid.parse().unwrap())
        .collect()
}

/// Whether a process runs; one that nobody has waited for yet does not.
fn is_alive(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

fn mounts_of(store: &Path) -> usize {
    let store = store.to_str().unwrap();
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter(|entry| {
            std::fs::read_to_string(entry.path().join("mountinfo"))
                .is_ok_and(|text| text.contains(&format!("upperdir={store}")))
        })
        .count()
}

fn death_of_the_caller(world: &World) {
    let mark = &mark();
    let victim = start_victim(world, mark, &[]);
    let helpers = children_of(victim.0.id());
    assert_eq!(helpers.len(), 1);
    await_some(mark, 2);
    assert!(mounts_of(&world.store()) > 0 || world.sandbox().mode() == Mode::Chroot);
    drop(victim);
    await_none("processes", || processes_with(mark));
    await_none("helpers", || usize::from(is_alive(helpers[0])));
    await_none("mounts", || mounts_of(&world.store()));
}

fn death_of_the_helper(world: &World) {
    let mark = &mark();
    let sandbox = Sandbox::start(&Options {
        stores: vec![world.store()],
        isolation: world.isolation(),
        ..Options::default()
    })
    .unwrap();
    let before: Vec<i32> = String::from_utf8(sandbox.task("helper-pid", b"", &[]).unwrap())
        .unwrap()
        .lines()
        .map(|line| line.parse().unwrap())
        .collect();
    let mut running = start(&sandbox, &marked(world, mark));
    kill_process(Pid::from_raw(before[0]).unwrap(), Signal::KILL).unwrap();
    assert!(matches!(running.wait(), Err(Error::Helper(_))));
    await_none("processes", || processes_with(mark));
    let error = run_in(&sandbox, &world.sh("true")).unwrap_err();
    assert!(
        matches!(&error, Error::Helper(text) if text.contains("SIGKILL") || text.contains("socket")),
        "{}",
        chain(&error)
    );
    assert!(sandbox.task("echo", b"", &[]).is_err());
}

/// The helper must not die with the thread that started it.
fn thread(world: &World) {
    let (store, isolation) = (world.store(), world.isolation());
    let sandbox = std::thread::spawn(move || {
        Sandbox::start(&Options {
            stores: vec![store],
            isolation,
            ..Options::default()
        })
        .unwrap()
    })
    .join()
    .unwrap();
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(
        run_in(&sandbox, &world.sh("echo alive")).unwrap().ok(),
        "alive\n"
    );
}
