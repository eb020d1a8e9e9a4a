//! A command's end: awaited, brought about when the build is cancelled or its time is over, and explained.

use crate::Error;
use planner::scheduler::Cancel;
use sandbox::{Exit, Pressure, Resources, Running};
use std::time::{Duration, Instant};

/// How often a running command looks whether it is to stop.
const INTERVAL: Duration = Duration::from_millis(50);
/// How long a command has to end by itself when the build is cancelled: somebody waits at a terminal.
const CANCEL_GRACE: Duration = Duration::from_secs(3);
/// The same when its time is over, as `docker stop` has it.
const TIMEOUT_GRACE: Duration = Duration::from_secs(10);

/// How a command ended.
pub(crate) struct Ended {
    pub(crate) exit: Exit,
    pub(crate) pressure: Pressure,
    /// The limit of time that it was stopped for.
    pub(crate) timeout: Option<Duration>,
}

/// Waits for the end of a command and of all that it started.
pub(crate) fn wait(
    mut running: Running,
    cancel: &Cancel,
    timeout: Option<Duration>,
) -> Result<Ended, Error> {
    let over = timeout.and_then(|limit| Instant::now().checked_add(limit));
    loop {
        let left = over.map_or(INTERVAL, |over| {
            over.saturating_duration_since(Instant::now()).min(INTERVAL)
        });
        if let Some(exit) = running.wait_timeout(left)? {
            return Ok(Ended {
                exit,
                pressure: running.pressure(),
                timeout: None,
            });
        }
        if cancel.is_cancelled() {
            stop(&mut running, cancel)?;
            return Err(Error::Cancelled);
        }
        if over.is_some_and(|over| over <= Instant::now()) {
            let exit = stop(&mut running, cancel)?;
            return Ok(Ended {
                exit,
                pressure: running.pressure(),
                timeout,
            });
        }
    }
}

/// SIGTERM, and SIGKILL for what is left when its time of grace is over.
fn stop(running: &mut Running, cancel: &Cancel) -> Result<Exit, Error> {
    running.stop();
    let began = Instant::now();
    let mut cancelled = None;
    loop {
        if let Some(exit) = running.wait_timeout(INTERVAL)? {
            return Ok(exit);
        }
        if cancelled.is_none() && cancel.is_cancelled() {
            cancelled = Some(Instant::now());
        }
        let patience = cancelled.is_none_or(|since| since.elapsed() < CANCEL_GRACE);
        if !patience || began.elapsed() >= TIMEOUT_GRACE {
            break;
        }
    }
    running.kill();
    Ok(running.wait()?)
}

/// The limit that a failed command hit, where one is known. `before` is what the machine had killed when the build began.
pub(crate) fn verdict(ended: &Ended, resources: &Resources, before: u64) -> Option<String> {
    let killed = matches!(ended.exit, Exit::Signal(9) | Exit::Code(137));
    if ended.pressure.oom_kills > 0 {
        let limit = resources.memory_in_words().map_or_else(
            || "its control group".to_owned(),
            |memory| format!("--memory {memory}"),
        );
        let what = if killed { "" } else { "a process of it was " };
        return Some(format!(
            "out of memory: {what}killed by the limit of {limit}"
        ));
    }
    if ended.pressure.forks_refused > 0
        && let Some(most) = resources.pids
    {
        return Some(format!(
            "out of processes: some could not be started because of --pids-limit {most}"
        ));
    }
    let by_machine = sandbox::machine_oom_kills().saturating_sub(before);
    if killed && by_machine > 0 {
        return Some(format!(
            "probably out of memory: the kernel killed {by_machine} process{} for lack of it on this machine since the build began",
            if by_machine == 1 { "" } else { "es" }
        ));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_that_were_hit_are_named() {
        let resources = Resources {
            memory: Some(64 << 20),
            pids: Some(20),
            ..Resources::default()
        };
        let said = |exit, oom_kills, forks_refused, resources: &Resources| {
            let pressure = Pressure {
                oom_kills,
                forks_refused,
            };
            let ended = Ended {
                exit,
                pressure,
                timeout: None,
            };
            verdict(&ended, resources, u64::MAX)
        };
        let memory = "killed by the limit of --memory 64m";
        assert_eq!(
            said(Exit::Signal(9), 1, 0, &resources),
            Some(format!("out of memory: {memory}"))
        );
        assert_eq!(
            said(Exit::Code(2), 1, 3, &resources),
            Some(format!("out of memory: a process of it was {memory}"))
        );
        assert_eq!(
            said(Exit::Code(2), 0, 3, &resources).as_deref(),
            Some("out of processes: some could not be started because of --pids-limit 20")
        );
        assert_eq!(said(Exit::Signal(9), 0, 0, &resources), None);
        let parent = Resources::default();
        assert_eq!(
            said(Exit::Code(137), 1, 0, &parent).as_deref(),
            Some("out of memory: killed by the limit of its control group")
        );
    }
}
