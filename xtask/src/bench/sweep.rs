//! Nothing stays of a run, however it ends. A process that waits for the end of this one, by SIGKILL too, ends what it has
//! started, unmounts what was mounted in its work folder, and removes the folder, the control groups and the accounts. A later
//! run does the same for what an earlier one has left.

use super::run::USERS;
use crate::shell;
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, kill_process};
use std::io::Read as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Name of the work folder, before the process id.
const FOLDER: &str = "kiln-bench";
/// Name of the control groups, before the process id.
const GROUPS: &str = "kiln-bench-";
/// Where control groups are.
const HIERARCHIES: &str = "/sys/fs/cgroup";
/// Daemons are asked first, and this long they are waited for.
const PATIENCE: Duration = Duration::from_secs(15);

/// Work folder of a process.
pub fn folder_name(id: u32) -> String {
    format!("{FOLDER}{id}")
}

/// Control groups of a process.
pub fn groups_name(id: u32) -> String {
    format!("{GROUPS}{id}")
}

/// The process that waits; it has nothing left to do where this value ends as it should.
pub struct Watch(Child);

impl Watch {
    /// Watches over this process and its work folder, in no control group that this one enters later.
    pub fn start(dir: &Path) -> Result<Self, String> {
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        Command::new(program)
            .args(["bench", "sweep", &std::process::id().to_string()])
            .arg(dir)
            .stdin(Stdio::piped())
            // Ctrl-C is not for it.
            .process_group(0)
            .spawn()
            .map(Self)
            .map_err(|error| format!("could not start what sweeps up: {error}"))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// `cargo xtask bench sweep PID DIR`: waits for the end of its standard input.
pub fn run(args: &[String]) -> Result<(), String> {
    let [id, dir] = args else {
        return Err("usage: cargo xtask bench sweep PID DIR < PIPE".to_owned());
    };
    let id = id.parse().map_err(|_| format!("not a process id: {id}"))?;
    let mut rest = Vec::new();
    // An error is an end too.
    let _ = std::io::stdin().read_to_end(&mut rest);
    sweep(id, Path::new(dir));
    Ok(())
}

/// Sweeps up what runs that are no more have left beside a new folder.
pub fn sweep_dead(parent: &Path) {
    let children = |dir: &Path| {
        std::fs::read_dir(dir)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect::<Vec<_>>()
    };
    let mut dead: Vec<u32> = children(parent)
        .iter()
        .filter_map(|name| name.strip_prefix(FOLDER)?.parse().ok())
        .collect();
    for hierarchy in hierarchies() {
        let names = children(&hierarchy);
        dead.extend(
            names
                .iter()
                .filter_map(|name| name.strip_prefix(GROUPS)?.parse::<u32>().ok()),
        );
    }
    dead.sort_unstable();
    dead.dedup();
    for id in dead.into_iter().filter(|id| !is_bench(*id)) {
        let dir = parent.join(folder_name(id));
        eprintln!("bench: sweeping up what process {id} has left");
        sweep(id, &dir);
    }
}

/// Whether a process is a run of benchmarks; ids come again.
fn is_bench(id: u32) -> bool {
    let line = std::fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&line)
        .split('\0')
        .any(|word| word == "bench")
}

fn sweep(id: u32, dir: &Path) {
    let deadline = Instant::now() + PATIENCE;
    let mut signal = Signal::TERM;
    loop {
        let found = processes(id, dir);
        if found.is_empty() {
            break;
        }
        for process in found {
            if let Some(process) = i32::try_from(process).ok().and_then(Pid::from_raw) {
                let _ = kill_process(process, signal);
            }
        }
        if Instant::now() > deadline {
            if signal == Signal::KILL && Instant::now() > deadline + PATIENCE {
                break;
            }
            signal = Signal::KILL;
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    unmount_below(dir);
    for (name, _) in USERS {
        // It has a home in the folder while the run has the account.
        if dir.join(name).is_dir() {
            let _ = shell::output(Command::new("userdel").arg(name));
        }
    }
    let _ = std::fs::remove_dir_all(dir);
    remove_groups(&groups_name(id));
}

/// Processes in the groups, and those whose program or root is in the folder; never this one or who is watched.
fn processes(id: u32, dir: &Path) -> Vec<u32> {
    let mut found = Vec::new();
    for hierarchy in hierarchies() {
        members(&hierarchy.join(groups_name(id)), &mut found);
    }
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let process = entry.path();
        let inside = ["root", "exe"]
            .iter()
            .filter_map(|link| std::fs::read_link(process.join(link)).ok())
            .any(|path| path.starts_with(dir));
        if inside {
            let name = entry.file_name();
            found.extend(name.to_str().and_then(|name| name.parse::<u32>().ok()));
        }
    }
    found.sort_unstable();
    found.dedup();
    found.retain(|process| *process != id && *process != std::process::id());
    found
}

fn members(group: &Path, found: &mut Vec<u32>) {
    let list = std::fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    found.extend(list.lines().filter_map(|line| line.parse::<u32>().ok()));
    for entry in std::fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            members(&entry.path(), found);
        }
    }
}

/// The last mounted first.
fn unmount_below(dir: &Path) {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut points: Vec<PathBuf> = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4).map(PathBuf::from))
        .filter(|point| point.starts_with(dir))
        .collect();
    while let Some(point) = points.pop() {
        let _ = unmount(&point, UnmountFlags::DETACH);
    }
}

/// Version 1 has many, version 2 one.
fn hierarchies() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(HIERARCHIES)
        .into_iter()
        .flatten()
        .flatten();
    entries
        .map(|entry| entry.path())
        .chain([HIERARCHIES.into()])
        .collect()
}

/// Removes the groups of a name with the empty ones below them: engines make some of the same name in all hierarchies.
pub fn remove_groups(name: &str) {
    for hierarchy in hierarchies() {
        remove_empty(&hierarchy.join(name));
    }
}

fn remove_empty(dir: &Path) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_empty(&entry.path());
        }
    }
    let _ = std::fs::remove_dir(dir);
}
