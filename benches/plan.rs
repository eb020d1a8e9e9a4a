//! Time to parse and lower a Dockerfile of some hundred lines, without any I/O: what every build pays before its first look-up.
//!
//! `cargo bench --bench plan`. Whole-process figures come from `cargo xtask bench`.
#![allow(
    clippy::print_stdout,
    missing_docs,
    reason = "a benchmark prints its figures"
)]

use planner::lower::{LowerOptions, Lowered, lower};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Instant;

const STAGES: usize = 10;
const REPEATS: usize = 200;

fn main() {
    let text = dockerfile();
    let options = LowerOptions::default();
    let parse = median(|| {
        assert!(parser::parse(&text).diagnostics.is_empty());
    });
    let parsed = parser::parse(&text).dockerfile;
    let plan = median(|| {
        let lowered = lower(&parsed, &options, &BTreeMap::new());
        assert!(matches!(lowered, Ok(Lowered::Plan(..))));
    });
    println!(
        "{} lines: parse {parse:.0} us, lower {plan:.0} us",
        text.lines().count()
    );
}

fn dockerfile() -> String {
    let mut text = String::new();
    for stage in 0..STAGES {
        let base = if stage == 0 {
            "scratch".to_owned()
        } else {
            format!("s{}", stage - 1)
        };
        let _ = writeln!(
            text,
            "FROM {base} AS s{stage}\nARG VERSION=1.{stage}\nENV APP=/app V=$VERSION\nWORKDIR /app/$V"
        );
        for number in 0..6 {
            let _ = writeln!(text, "COPY --chown=1000 <<EOF f{number}\nfile $V\nEOF");
            let _ = writeln!(
                text,
                "RUN --mount=type=cache,target=/cache make \\\n    step-{number} \\\n    && true"
            );
        }
    }
    text
}

/// Microseconds.
fn median(mut work: impl FnMut()) -> f64 {
    let mut times: Vec<f64> = (0..REPEATS)
        .map(|_| {
            let start = Instant::now();
            work();
            start.elapsed().as_secs_f64() * 1e6
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[REPEATS / 2]
}
