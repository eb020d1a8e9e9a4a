//! `cargo xtask cluster all [--workers N] [--kiln FILE] [--binary FILE] [--work DIR]`: the whole suite on buildbox, then what
//! differs where it stages copies, then on the project's own server what buildbox does not show: workers that are root, a queue,
//! every state of an operation. Where `CI` is set, each case must have run on one of them.

use super::server::Kind;
use super::{Asked, every_case};
use std::collections::BTreeSet;

/// A server, and what is run on it.
struct Round {
    kind: Kind,
    fuse: bool,
    /// All where there are none.
    cases: &'static [&'static str],
}

const ROUNDS: [Round; 3] = [
    Round {
        kind: Kind::Buildbox,
        fuse: true,
        cases: &[],
    },
    Round {
        kind: Kind::Buildbox,
        fuse: false,
        cases: &[
            "removals",
            "modes",
            "links",
            "owners",
            "copied-before",
            "names",
            "nothing-runs-twice",
            "cancelled",
        ],
    },
    Round {
        kind: Kind::Own,
        fuse: false,
        cases: &[
            "owners",
            "devices",
            "mounts",
            "nothing-runs-twice",
            "failure",
            "failed-sibling",
            "busy",
            "no-worker",
            "no-worker-but-here",
            "cancelled",
            "evicted",
            "crashed",
        ],
    },
];

/// Runs it.
pub fn run(asked: &Asked) -> Result<(), String> {
    let kiln = asked.binary_under_test()?;
    let every = every_case();
    let mut never: BTreeSet<&str> = every.iter().map(|case| case.name).collect();
    let (mut failed, mut reasons) = (Vec::new(), Vec::new());
    for round in &ROUNDS {
        let chosen: Vec<_> = every
            .iter()
            .filter(|case| round.cases.is_empty() || round.cases.contains(&case.name))
            .copied()
            .collect();
        let tally = match asked.on(round.kind, round.fuse, kiln.clone(), &chosen) {
            Ok(tally) => tally,
            Err(why) => {
                println!("LOUD NOTE: a server less: {why}");
                continue;
            }
        };
        for case in &chosen {
            if !tally.skipped.iter().any(|(name, _)| *name == case.name) {
                never.remove(case.name);
            }
        }
        failed.extend(tally.failed);
        reasons.extend(tally.skipped);
    }
    reasons.retain(|(name, _)| never.contains(name));
    for (name, reason) in &reasons {
        println!("LOUD NOTE: no server ran {name}: {reason}");
    }
    if !failed.is_empty() {
        return Err(format!("failed: {}", failed.join(", ")));
    }
    if !never.is_empty() && std::env::var_os("CI").is_some() {
        let names: Vec<&str> = never.into_iter().collect();
        return Err(format!("no server ran {}", names.join(", ")));
    }
    Ok(())
}
