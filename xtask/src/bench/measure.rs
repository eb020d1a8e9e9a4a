//! Timing of whole processes: wall time from spawn to exit, peak memory from `wait4`'s account in `/proc`.

use crate::shell;
use std::process::{Command, Stdio};
use std::time::Instant;

/// One run.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Wall time in seconds.
    pub seconds: f64,
    /// Peak resident memory in KiB of the process and the largest of its children; 0 where unknown.
    pub peak_kib: u64,
}

/// Runs the command several times.
pub fn time(
    mut command: impl FnMut(usize) -> Command,
    repeats: usize,
) -> Result<Vec<Sample>, String> {
    (0..repeats)
        .map(|number| {
            let mut command = command(number);
            command.stderr(Stdio::piped());
            let start = Instant::now();
            let child = command
                .spawn()
                .map_err(|error| format!("could not start: {error}"))?;
            let id = child.id();
            let watch = std::thread::spawn(move || peak_of(id));
            let output = child
                .wait_with_output()
                .map_err(|error| error.to_string())?;
            let seconds = start.elapsed().as_secs_f64();
            let peak_kib = watch.join().unwrap_or_default();
            if !output.status.success() {
                return Err(format!(
                    "a measured command failed: {}",
                    String::from_utf8_lossy(&output.stderr)
                ));
            }
            Ok(Sample { seconds, peak_kib })
        })
        .collect()
}

/// Reads the peak of a process until it is gone. Sampled: short processes may end before the first look.
fn peak_of(id: u32) -> u64 {
    let mut peak = 0;
    while let Ok(status) = std::fs::read_to_string(format!("/proc/{id}/status")) {
        let Some(line) = status.lines().find(|line| line.starts_with("VmHWM:")) else {
            break;
        };
        peak = line
            .split_whitespace()
            .nth(1)
            .and_then(|kib| kib.parse().ok())
            .unwrap_or(peak);
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    peak
}

/// The middle wall time.
pub fn median(samples: &[Sample]) -> f64 {
    let mut seconds: Vec<f64> = samples.iter().map(|sample| sample.seconds).collect();
    seconds.sort_by(f64::total_cmp);
    seconds.get(seconds.len() / 2).copied().unwrap_or_default()
}

/// Median of a shell command's wall time.
pub fn shell_median(script: &str, repeats: usize) -> Result<f64, String> {
    let mut seconds = Vec::new();
    for _ in 0..repeats {
        let start = Instant::now();
        shell::output(Command::new("sh").args(["-c", script]))?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    Ok(seconds[seconds.len() / 2])
}
