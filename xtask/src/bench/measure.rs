//! What one piece of work takes: wall time, processor time, peak memory, bytes written. Programs that a daemon runs in a
//! command's place count as the command's.
//!
//! Processor time is that of a control group, which has whatever a daemon starts; where none can be made it is what
//! `/proc` has of the processes that are left. Written is what went through write calls, to files, pipes and sockets alike.

use super::sweep;
use crate::peers::below;
use crate::peers::daemon::Daemon;
use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Clock ticks of `/proc` in a second.
const TICKS: f64 = 100.0;
/// Where control groups are: version 1's accounts of processors, version 2.
const ACCOUNTS: [(&str, &str); 2] = [
    ("/sys/fs/cgroup/cpuacct", "cpuacct.usage"),
    ("/sys/fs/cgroup", "cpu.stat"),
];
/// A long process is looked at this often, and a young one more often.
const LOOK: Duration = Duration::from_millis(5);
const LOOK_WHILE_YOUNG: Duration = Duration::from_micros(700);
const YOUNG: Duration = Duration::from_millis(60);
/// What takes longer is killed, so that a run ends.
const LONGEST: Duration = Duration::from_secs(400);

/// What something took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sample {
    /// Seconds from start to end.
    pub wall: f64,
    /// Seconds of all processors.
    pub cpu: f64,
    /// Largest process of the command, and all of the daemon's, in MB.
    pub peak_mb: f64,
    /// MB written.
    pub written_mb: f64,
    /// Bytes that a registry has afterwards.
    pub bytes: u64,
}

/// Control groups of this program and of daemons; removed with the value.
#[derive(Debug)]
pub struct Groups {
    root: &'static str,
    usage: &'static str,
    name: String,
    works: bool,
}

impl Groups {
    /// Makes them where that can be done.
    pub fn new() -> Self {
        let name = sweep::groups_name(std::process::id());
        for (root, usage) in ACCOUNTS {
            let dir = Path::new(root).join(&name);
            if std::fs::create_dir(&dir).is_err() {
                continue;
            }
            if dir.join(usage).exists() {
                return Self {
                    root,
                    usage,
                    name,
                    works: true,
                };
            }
            let _ = std::fs::remove_dir(&dir);
        }
        Self {
            root: "",
            usage: "",
            name,
            works: false,
        }
    }

    fn dir(&self, name: &str) -> PathBuf {
        Path::new(self.root).join(&self.name).join(name)
    }

    /// The path that engines are told to make groups of commands below.
    pub fn parent(&self, name: &str) -> Option<String> {
        self.works.then(|| format!("/{}/{name}", self.name))
    }

    /// What is started from now on belongs to this group.
    pub fn enter(&self, name: &str) {
        if self.works {
            let dir = self.dir(name);
            // It may be there; what cannot be entered is told apart by figures of 0.
            let _ = std::fs::create_dir(&dir);
            let _ = std::fs::write(dir.join("cgroup.procs"), std::process::id().to_string());
        }
    }

    fn used(&self, name: &str) -> Option<f64> {
        if !self.works {
            return None;
        }
        let text = std::fs::read_to_string(self.dir(name).join(self.usage)).ok()?;
        match text
            .lines()
            .find_map(|line| line.strip_prefix("usage_usec "))
        {
            Some(micros) => Some(micros.trim().parse::<f64>().ok()? / 1e6),
            None => Some(text.trim().parse::<f64>().ok()? / 1e9),
        }
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        if !self.works {
            return;
        }
        let own = Path::new(self.root).join("cgroup.procs");
        let _ = std::fs::write(own, std::process::id().to_string());
        sweep::remove_groups(&self.name);
    }
}

/// Runs commands one after the other and says what they took together with a daemon that works for them.
pub fn measure(
    groups: &Groups,
    daemon: Option<&Daemon>,
    commands: Vec<Command>,
) -> Result<Sample, String> {
    let group = daemon.map_or("commands", Daemon::name);
    groups.enter(group);
    let before = Account::take(daemon);
    for id in before.processes.keys() {
        // The peak from here on; a process may be gone by now.
        let _ = std::fs::write(format!("/proc/{id}/clear_refs"), "5");
    }
    let used = groups.used(group);
    let (mut wall, mut looking, mut peak) = (0.0, 0.0, 0);
    for command in commands {
        let one = finish(command)?;
        wall += one.seconds;
        looking += one.looking;
        peak = peak.max(one.peak_kib);
    }
    let after = Account::take(daemon);
    let cpu = match (used, groups.used(group)) {
        (Some(before), Some(after)) => (after - before - looking).max(0.0),
        _ => (after.ticks - before.ticks) / TICKS,
    };
    let daemon_peak: u64 = before.processes.keys().map(|id| peak_kib(*id)).sum();
    Ok(Sample {
        wall,
        cpu,
        peak_mb: (peak + daemon_peak) as f64 / 1024.0,
        written_mb: after.written_since(&before) as f64 / 1e6,
        bytes: 0,
    })
}

/// What `/proc` has of this program's ended children and of a daemon's processes.
struct Account {
    ticks: f64,
    written: u64,
    /// Bytes written by each of the daemon's.
    processes: BTreeMap<u32, u64>,
}

impl Account {
    fn take(daemon: Option<&Daemon>) -> Self {
        let ids = daemon.map(Daemon::processes).unwrap_or_default();
        let ticks = ids.iter().map(|id| ticks(*id)).sum::<f64>() + ticks_of_children();
        Self {
            ticks,
            written: written("self"),
            processes: ids
                .into_iter()
                .map(|id| (id, written(&id.to_string())))
                .collect(),
        }
    }

    /// Processes that are new count whole, those gone were added to who waited for them.
    fn written_since(&self, before: &Self) -> u64 {
        let of_daemon = |(id, now): (&u32, &u64)| {
            now.saturating_sub(before.processes.get(id).copied().unwrap_or_default())
        };
        let own = self.written.saturating_sub(before.written);
        own + self.processes.iter().map(of_daemon).sum::<u64>()
    }
}

/// Bytes that a process and its ended children gave to write calls.
pub fn written(process: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{process}/io")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("wchar: "));
    line.and_then(|count| count.trim().parse().ok())
        .unwrap_or_default()
}

/// A command that has ended.
struct Finished {
    seconds: f64,
    /// The largest peak of it and the processes below it in KiB, sampled.
    peak_kib: u64,
    /// Processor time that the sampling took.
    looking: f64,
}

/// Runs a command to its end.
fn finish(mut command: Command) -> Result<Finished, String> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let shown = format!("{:?}", command.get_program());
    let start = Instant::now();
    let child = command
        .spawn()
        .map_err(|error| format!("could not start {shown}: {error}"))?;
    let id = child.id();
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut peak = 0;
            while !ended.load(Ordering::Relaxed) {
                let processes = below(id);
                if start.elapsed() > LONGEST {
                    processes.into_iter().for_each(kill);
                    break;
                }
                let largest = processes.into_iter().map(peak_kib).max();
                peak = peak.max(largest.unwrap_or_default());
                let young = start.elapsed() < YOUNG;
                std::thread::sleep(if young { LOOK_WHILE_YOUNG } else { LOOK });
            }
            (peak, own_thread())
        });
        let output = child.wait_with_output();
        let seconds = start.elapsed().as_secs_f64();
        ended.store(true, Ordering::Relaxed);
        let (peak_kib, looking) = watch.join().unwrap_or_default();
        let output = output.map_err(|error| error.to_string())?;
        if seconds > LONGEST.as_secs_f64() {
            return Err(format!("{shown}: took longer than {LONGEST:?}"));
        }
        if output.status.success() {
            return Ok(Finished {
                seconds,
                peak_kib,
                looking,
            });
        }
        Err(format!(
            "{shown}: {}",
            String::from_utf8_lossy(&output.stderr)
        ))
    })
}

fn kill(id: u32) {
    let id = i32::try_from(id).ok().and_then(Pid::from_raw);
    // It may be gone.
    let _ = id.map(|id| kill_process(id, Signal::KILL));
}

/// Seconds of processor time of this thread.
fn own_thread() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = text
        .split_whitespace()
        .next()
        .and_then(|word| word.parse::<f64>().ok());
    nanos.unwrap_or_default() / 1e9
}

fn peak_kib(id: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    kib.unwrap_or_default()
}

/// Fields of a process's account after its name, which may hold anything.
fn account(path: &str) -> Vec<f64> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let rest = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    rest.split_whitespace()
        .map(|field| field.parse().unwrap_or_default())
        .collect()
}

/// User and system time of a process and of its children that have ended.
fn ticks(id: u32) -> f64 {
    account(&format!("/proc/{id}/stat"))
        .iter()
        .skip(11)
        .take(4)
        .sum()
}

/// Those of this program's children that have ended.
fn ticks_of_children() -> f64 {
    account("/proc/self/stat").iter().skip(13).take(2).sum()
}
