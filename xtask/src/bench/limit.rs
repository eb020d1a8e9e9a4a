//! What the machine can do at best: the same work by the simplest tool that does it.

use super::place::script_of;
use super::race::{Contestant, Visit};
use super::table::median;
use crate::shell;
use std::process::Command;
use std::time::Instant;

/// Namespaces of a RUN.
const NAMESPACES: [&str; 7] = ["-m", "-p", "-i", "-u", "-n", "-C", "-f"];

/// `unshare` of all namespaces that a RUN has, and `true`: seconds.
pub fn namespaces(repeats: usize) -> Result<f64, String> {
    let mut times = Vec::new();
    for _ in 0..repeats {
        let start = Instant::now();
        shell::output(Command::new("unshare").args(NAMESPACES).arg("/bin/true"))?;
        times.push(start.elapsed().as_secs_f64());
    }
    Ok(median(times))
}

/// So many times `unshare` and `true`, one after the other.
pub fn commands_in_namespaces(count: usize) -> Vec<Command> {
    let command = |_| {
        let mut command = Command::new("unshare");
        command.args(NAMESPACES).arg("/bin/true");
        command
    };
    (0..count).map(command).collect()
}

/// A limit in a contest's part.
pub fn row<'a>(part: usize, name: &str, work: impl Fn() -> Vec<Command> + 'a) -> Visit<'a> {
    let contestant = Contestant {
        name: format!("limit: {name}"),
        prepare: Box::new(|| Ok(())),
        work: Box::new(work),
        daemon: None,
    };
    Visit {
        parts: vec![(part, contestant)],
        finish: Box::new(|| Ok(())),
    }
}

/// A limit that a script of the shell shows.
pub fn script<'a>(part: usize, name: &str, script: String) -> Visit<'a> {
    row(part, name, move || vec![script_of(&script)])
}
