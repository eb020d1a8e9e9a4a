//! COPY with patterns: what `--exclude` and `--parents` choose, and links that patterns choose.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use planner::plan::CopyOp;
use support::{Bench, expected, message, op};

/// The layer of a COPY of a source tree, or its error.
fn copy(op: &CopyOp, source: &str) -> Vec<String> {
    let bench = Bench::new();
    let context = bench.context("source", source, "");
    match bench.run(op, &bench.base(""), &context) {
        Ok(written) => bench.entries(&written),
        Err(error) => vec![format!("error: {}", message(&error))],
    }
}

#[test]
fn ac09_ac19_links_at_the_top_that_patterns_choose_lead_somewhere() {
    let source = "f a.txt 644 a\nf d/f 644 f\nl d/nowhere nope\nl fine a.txt\nl gone /etc/passwd";
    let excluding = |exclude: &[&str]| CopyOp {
        exclude: exclude.iter().map(|&pattern| pattern.into()).collect(),
        ..op(".", "/x/")
    };
    let below = "d x/d 755 0:0\nf x/d/f 644 0:0 f\nl x/d/nowhere 0:0 -> nope";
    for (name, op, layer) in [
        (
            "no patterns: links are copied as they are",
            op(".", "/x/"),
            format!("d x 755 0:0\nf x/a.txt 644 0:0 a\n{below}\nl x/fine 0:0 -> a.txt\nl x/gone 0:0 -> /etc/passwd"),
        ),
        (
            "one that leads nowhere is missing",
            excluding(&["*.txt2"]),
            r#"error: "/gone": not found (/gone is a link that leads nowhere: with --exclude and --parents such links have to be excluded too)"#.to_owned(),
        ),
        (
            "unless it is excluded; deeper ones do not matter",
            excluding(&["gone"]),
            format!("d x 755 0:0\nf x/a.txt 644 0:0 a\n{below}\nl x/fine 0:0 -> a.txt"),
        ),
        (
            "deeper ones of a named folder neither",
            CopyOp {
                exclude: vec!["f".into()],
                ..op("d", "/x/")
            },
            "d x 755 0:0\nl x/nowhere 0:0 -> nope".to_owned(),
        ),
    ] {
        assert_eq!(copy(&op, source), expected(&layer), "{name}");
    }
}
