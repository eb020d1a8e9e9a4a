//! `cargo xtask histories`: the test of random histories of edits, with as many of them as wanted and an optimised
//! program.

use crate::shell;
use std::path::PathBuf;

const USAGE: &str =
    "usage: cargo xtask histories [--count N] [--seed N] [--first N] [--threads N] [--only KIND[,KIND...]] [--kiln BINARY]
kinds: plain, mounts, caches, platforms, git; without --only each history draws its own";

/// Builds the program unless one is named, and runs the test.
pub fn run(args: &[String]) -> Result<(), String> {
    let mut command = shell::cargo();
    command.args(["test", "--package", "kiln", "--test", "cli", "histories::"]);
    command.args(["--", "--nocapture"]);
    let mut binary = None;
    let mut settings = vec![("KILN_HISTORIES_COUNT", "1000".to_owned())];
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let value = args
            .next()
            .ok_or_else(|| format!("{arg} needs a value\n{USAGE}"))?;
        let name = match arg.as_str() {
            "--count" => "KILN_HISTORIES_COUNT",
            "--seed" => "KILN_HISTORIES_SEED",
            "--first" => "KILN_HISTORIES_FIRST",
            "--threads" => "KILN_HISTORIES_THREADS",
            "--only" => {
                settings.push(("KILN_HISTORIES_ONLY", value.clone()));
                continue;
            }
            "--kiln" => {
                let path = PathBuf::from(value);
                binary = Some(
                    path.canonicalize()
                        .map_err(|error| format!("{value}: {error}"))?,
                );
                continue;
            }
            _ => return Err(format!("unknown argument {arg}\n{USAGE}")),
        };
        value
            .parse::<u64>()
            .map_err(|error| format!("{arg} {value}: {error}"))?;
        settings.push((name, value.clone()));
    }
    let binary = match binary {
        Some(binary) => binary,
        None => shell::build_static()?,
    };
    command.envs(settings).env("KILN_HISTORIES_BINARY", binary);
    shell::run(&mut command)
}
