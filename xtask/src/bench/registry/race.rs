//! Contestants in turn, round after round, and what each took: wall time, processor time, peak memory, and bytes that the
//! registry then holds. Medians; compare within one run only.

use crate::peers::below;
use crate::peers::daemon::Daemon;
use crate::peers::registry::Registry;
use std::collections::BTreeSet;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Clock ticks of `/proc` in a second.
const TICKS: f64 = 100.0;

/// A tool that does the work of one row.
pub struct Contestant<'a> {
    /// As shown.
    pub name: String,
    /// What must stand before each round; not timed.
    pub prepare: Box<dyn Fn() -> Result<(), String> + 'a>,
    /// The work, one command after the other.
    pub work: Box<dyn Fn() -> Vec<Command> + 'a>,
    /// Does the work in the command's place.
    pub daemon: Option<&'a Daemon>,
}

/// One round.
#[derive(Clone, Copy, Debug, Default)]
struct Sample {
    wall: f64,
    cpu: f64,
    peak_mb: f64,
    bytes: u64,
}

/// Runs all rounds and prints the rows. `registry` is the one whose bytes are counted.
pub fn run(
    title: &str,
    contestants: &[Contestant<'_>],
    rounds: usize,
    registry: Option<&Registry>,
) -> Result<(), String> {
    let mut samples: Vec<Vec<Sample>> = contestants.iter().map(|_| Vec::new()).collect();
    let mut failed: Vec<Option<String>> = contestants.iter().map(|_| None).collect();
    for _ in 0..rounds {
        for (index, contestant) in contestants.iter().enumerate() {
            if failed[index].is_some() {
                continue;
            }
            match one(contestant, registry) {
                Ok(sample) => samples[index].push(sample),
                Err(error) => failed[index] = Some(error),
            }
        }
    }
    println!("\n{title} (medians of {rounds})");
    println!(
        "  {:<44} {:>8} {:>8} {:>8} {:>13} {:>7}",
        "", "wall s", "cpu s", "peak MB", "bytes", "ratio"
    );
    let own = samples.first().map_or(0.0, |list| middle(list, |s| s.wall));
    for ((contestant, list), error) in contestants.iter().zip(&samples).zip(&failed) {
        if let Some(error) = error {
            let line = error.lines().last().unwrap_or_default();
            println!("  {:<44} failed: {line}", contestant.name);
            continue;
        }
        let wall = middle(list, |s| s.wall);
        let bytes = list.last().map_or(0, |sample| sample.bytes);
        let bytes = if bytes == 0 {
            "-".to_owned()
        } else {
            bytes.to_string()
        };
        println!(
            "  {:<44} {wall:>8.3} {:>8.2} {:>8.0} {bytes:>13} {:>6.2}x",
            contestant.name,
            middle(list, |s| s.cpu),
            middle(list, |s| s.peak_mb),
            wall / own,
        );
    }
    match failed.into_iter().next().flatten() {
        Some(error) => Err(format!("{title}: {error}")),
        None => Ok(()),
    }
}

fn middle(list: &[Sample], value: impl Fn(&Sample) -> f64) -> f64 {
    let mut values: Vec<f64> = list.iter().map(value).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

fn one(contestant: &Contestant<'_>, registry: Option<&Registry>) -> Result<Sample, String> {
    (contestant.prepare)()?;
    let daemon = contestant.daemon.map(Daemon::processes).unwrap_or_default();
    for id in &daemon {
        // The peak from here on; a process may be gone by now.
        let _ = std::fs::write(format!("/proc/{id}/clear_refs"), "5");
    }
    let commands = (contestant.work)();
    let before = ticks_of_children() + daemon.iter().map(|id| ticks(*id)).sum::<f64>();
    let start = Instant::now();
    let mut peak = 0;
    for command in commands {
        peak = peak.max(finish(command)?);
    }
    let wall = start.elapsed().as_secs_f64();
    // Processes that the daemon started meanwhile count with what they have used; those gone do not.
    let now: BTreeSet<u32> = contestant
        .daemon
        .map(Daemon::processes)
        .unwrap_or_default()
        .into_iter()
        .collect();
    let after = ticks_of_children() + now.iter().map(|id| ticks(*id)).sum::<f64>();
    let daemon_peak: u64 = daemon.iter().map(|id| peak_kib(*id)).sum();
    Ok(Sample {
        wall,
        cpu: (after - before) / TICKS,
        peak_mb: (peak + daemon_peak) as f64 / 1024.0,
        bytes: registry.map_or(Ok(0), Registry::bytes)?,
    })
}

/// Runs a command to its end. The largest peak of it and the processes below it in KiB, sampled.
fn finish(mut command: Command) -> Result<u64, String> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let shown = format!("{:?}", command.get_program());
    let child = command
        .spawn()
        .map_err(|error| format!("could not start {shown}: {error}"))?;
    let id = child.id();
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut peak = 0;
            while !ended.load(Ordering::Relaxed) {
                peak = peak.max(
                    below(id)
                        .into_iter()
                        .map(peak_kib)
                        .max()
                        .unwrap_or_default(),
                );
                std::thread::sleep(Duration::from_millis(5));
            }
            peak
        });
        let output = child.wait_with_output();
        ended.store(true, Ordering::Relaxed);
        let peak = watch.join().unwrap_or_default();
        let output = output.map_err(|error| error.to_string())?;
        if output.status.success() {
            return Ok(peak);
        }
        Err(format!(
            "{shown}: {}",
            String::from_utf8_lossy(&output.stderr)
        ))
    })
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
