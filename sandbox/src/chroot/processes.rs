//! All that a command started, and its end, without a pid namespace.
//!
//! Whatever loses its parent becomes a child of the command's supervisor, which waits until there is none left. A guard stands
//! inside the command's fence, where a signal to everybody reaches all that the command started and nobody else, at one
//! moment, so that no fork escapes it. It does so when its supervisor says so or is gone. A command may kill its guard; then,
//! and where fences keep no signals, the supervisor goes through the process table until it finds nothing more.

use super::calls;
use crate::sys::{self, SingleThreaded};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Said to a guard: ask all to end.
const TERMINATE: u8 = b'T';
/// How long a guard is waited for.
const PATIENCE: Duration = Duration::from_millis(200);
/// When it is given up.
const NO_PATIENCE: Duration = Duration::from_secs(2);

/// The supervisor's hold on a command's processes.
#[derive(Debug)]
pub(crate) struct Leash {
    /// Its end is what a guard waits for.
    write: OwnedFd,
    guard: Option<Pid>,
}

/// The command's side of it, before it starts.
#[derive(Debug)]
pub(crate) struct Collar {
    read: OwnedFd,
    /// Where the guard's number is told.
    told: OwnedFd,
}

/// A leash to be completed by [`Leash::hold`], and its other end.
pub(crate) fn leash() -> Result<(Leash, OwnedFd, Collar), Errno> {
    let flags = rustix::pipe::PipeFlags::CLOEXEC;
    let (read, write) = rustix::pipe::pipe_with(flags)?;
    let (told_read, told) = rustix::pipe::pipe_with(flags)?;
    let leash = Leash { write, guard: None };
    Ok((leash, told_read, Collar { read, told }))
}

impl Collar {
    /// Starts the guard, in the command's process, which is fenced in. Nothing of the supervisor's side may be open any longer.
    pub(crate) fn start_guard(self, one: SingleThreaded) -> Result<(), Errno> {
        let Some(pid) = calls::fork_sibling(one)? else {
            guard(&self.read)
        };
        let number = pid.as_raw_nonzero().get().to_ne_bytes();
        rustix::io::write(&self.told, &number).map(drop)
    }
}

/// Body of the guard.
fn guard(leash: &OwnedFd) -> ! {
    calls::block_all_signals();
    let _ = rustix::thread::set_name(c"kiln-guard");
    if crate::helper::close_all_but(&[leash]).is_err() {
        sys::exit_now(1);
    }
    for standard in 0..3 {
        let _ = sys::dup_onto(leash, standard);
    }
    let mut byte = [0];
    loop {
        match rustix::io::read(leash, &mut byte) {
            Ok(1..) if byte == [TERMINATE] => calls::kill_everybody(Signal::TERM),
            Err(Errno::INTR) => {}
            _ => break,
        }
    }
    calls::kill_everybody(Signal::KILL);
    sys::exit_now(0)
}

impl Leash {
    /// Learns of the guard, if there is one, once the command has forked. Blocks until the command is fenced in or gone.
    pub(crate) fn hold(&mut self, told: &OwnedFd) {
        let mut number = [0; 4];
        let read = rustix::io::retry_on_intr(|| rustix::io::read(told, &mut number));
        if read == Ok(number.len()) {
            self.guard = Pid::from_raw(i32::from_ne_bytes(number));
        }
    }

    /// A child was waited for: its number may be another's soon.
    pub(crate) fn forget(&mut self, pid: Pid) {
        if self.guard == Some(pid) {
            self.guard = None;
        }
    }

    /// Whether anything that the command started is left.
    pub(crate) fn holds_any(&self) -> bool {
        !descendants(self.guard).is_empty()
    }

    /// Asks all that a command started to end.
    pub(crate) fn terminate(&self) {
        if self.guard.is_some() && rustix::io::write(&self.write, &[TERMINATE]).is_ok() {
            return;
        }
        for pid in descendants(self.guard) {
            let _ = rustix::process::kill_process(pid, Signal::TERM);
        }
    }

    /// Kills all that is left and returns when nothing is.
    pub(crate) fn end(self) {
        let Self { write, guard } = self;
        drop(write);
        end_children(guard, &[]);
    }
}

/// Kills all descendants of this process but some children of its own, and waits for their end. A guard gets time to do it
/// better.
pub(crate) fn end_children(mut guard: Option<Pid>, but: &[Pid]) {
    let started = Instant::now();
    let mut pause = Duration::from_micros(200);
    loop {
        if but.is_empty() {
            loop {
                match rustix::process::wait(WaitOptions::NOHANG) {
                    Ok(Some((pid, _))) if Some(pid) == guard => guard = None,
                    Ok(Some(_)) | Err(Errno::INTR) => {}
                    Ok(None) => break,
                    Err(_) => return,
                }
            }
        }
        let waited = started.elapsed();
        if guard.is_none() || waited > PATIENCE {
            let kept = if waited > NO_PATIENCE { None } else { guard };
            if let Some(guard) = guard {
                // It may have been stopped.
                let _ = rustix::process::kill_process(guard, Signal::CONT);
            }
            let left = descendants_but(kept, but);
            if left.is_empty() && !but.is_empty() {
                return;
            }
            for pid in left {
                let _ = rustix::process::kill_process(pid, Signal::KILL);
                if !but.is_empty() {
                    // Only children can be waited for; the others become children.
                    let _ = rustix::process::waitpid(Some(pid), WaitOptions::NOHANG);
                }
            }
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(10));
    }
}

fn descendants(but: Option<Pid>) -> Vec<Pid> {
    descendants_but(but, &[])
}

/// All processes below this one, by the process table, without some and what is below those.
fn descendants_but(one: Option<Pid>, others: &[Pid]) -> Vec<Pid> {
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        if let Some(parent) = parent_in(&stat) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = Vec::new();
    let mut left = vec![rustix::process::getpid().as_raw_nonzero().get()];
    while let Some(parent) = left.pop() {
        for pid in children.remove(&parent).unwrap_or_default() {
            let Some(known) = Pid::from_raw(pid) else {
                continue;
            };
            if Some(known) != one && !others.contains(&known) {
                found.push(known);
                left.push(pid);
            }
        }
    }
    found
}

/// The parent's number in a line of `/proc/PID/stat`; a program chooses its own name, brackets included.
fn parent_in(stat: &str) -> Option<i32> {
    let (_, rest) = stat.rsplit_once(") ")?;
    rest.split(' ').nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_do_not_hide_a_parent() {
        assert_eq!(parent_in("12 (sh) S 7 12 12 0"), Some(7));
        assert_eq!(parent_in("12 (a) S 1 (b) R 7 12"), Some(7));
        assert_eq!(parent_in(""), None);
    }
}
