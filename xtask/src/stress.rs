//! `cargo xtask stress [--rounds N] [--builds N] [--kill] [--seconds N] [--seed N]`: many builds at once on one store.
//!
//! The work is the command line's test of the same name, with more rounds; this only passes the numbers on.

use crate::shell;

/// Runs it.
pub fn run(args: &[String]) -> Result<(), String> {
    let mut command = shell::cargo();
    command.args(["test", "--test", "cli", "stress::", "--", "--nocapture"]);
    let mut kill = "0";
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        let name = match arg.as_str() {
            "--kill" => {
                kill = "1";
                continue;
            }
            "--rounds" => "KILN_STRESS_ROUNDS",
            "--builds" => "KILN_STRESS_BUILDS",
            "--seconds" => "KILN_STRESS_SECONDS",
            "--seed" => "KILN_STRESS_SEED",
            other => return Err(format!("unknown argument {other}")),
        };
        let value = rest.next().ok_or_else(|| format!("{arg} needs a number"))?;
        value
            .parse::<u64>()
            .map_err(|_| format!("{arg} needs a number, not {value}"))?;
        command.env(name, value);
    }
    command.env("KILN_STRESS_KILL", kill);
    shell::run(&mut command)
}
