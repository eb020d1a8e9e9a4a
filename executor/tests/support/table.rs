//! Tables of copies: a source tree, what is below, the instruction, and the layer that must come of it.

use super::{Bench, expected, message};
use planner::plan::CopyOp;

/// One copy.
pub struct Case {
    name: &'static str,
    source: &'static str,
    base: &'static str,
    op: CopyOp,
    layer: &'static str,
}

/// A row of a table.
pub fn case(
    name: &'static str,
    op: CopyOp,
    source: &'static str,
    base: &'static str,
    layer: &'static str,
) -> Case {
    Case {
        name,
        source,
        base,
        op,
        layer,
    }
}

/// Carries out all rows, and tells all that went wrong.
pub fn check(cases: Vec<Case>) {
    let mut failures = Vec::new();
    for case in cases {
        let bench = Bench::new();
        let context = bench.context("source", case.source, "");
        let base = bench.base(case.base);
        let lines = |bench: &Bench, written| match written {
            Ok(written) => bench.entries(&written),
            Err(error) => vec![format!("error: {}", message(&error))],
        };
        let found = lines(&bench, bench.run(&case.op, &base, &context));
        // From a list, in a store of its own.
        let other = Bench::new();
        let base = other.base(case.base);
        let listed = lines(&other, other.run_listed(&case.op, &base, &context));
        if found != listed {
            failures.push(format!(
                "{}:\n  found {found:#?}\n  from a list {listed:#?}",
                case.name
            ));
        }
        if found != expected(case.layer) {
            failures.push(format!(
                "{}:\n  expected {:#?}\n  found {found:#?}",
                case.name,
                expected(case.layer)
            ));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// A source with files and folders of all sorts of modes.
pub const TREE: &str = "
    f a.txt 644 alpha
    f b.sh 755 beta
    f d/one.txt 600 1
    f d/two.md 640 2
    f d/sub/three.txt 644 3
    d d/sub 700
    d d 750
    d empty 711
";
