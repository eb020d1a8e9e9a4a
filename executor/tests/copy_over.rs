//! COPY where something is there already: unchanged entries, and folders made below others.
#![allow(
    clippy::unwrap_used,
    clippy::too_many_lines,
    reason = "helpers and tables of tests"
)]

mod support;

use planner::plan::CopyOp;
use support::table::{TREE, case, check};
use support::{Bench, op, ops};

/// AC08: a file copied over itself, or a directory that is there with the same attributes, makes no entry.
#[test]
fn what_is_there_already_makes_no_entry() {
    check(vec![
        case(
            "a file",
            op("a.txt", "/x/"),
            TREE,
            "f x/a.txt 644 alpha",
            "",
        ),
        case(
            "other content of the same length",
            op("a.txt", "/x/"),
            TREE,
            "f x/a.txt 644 ALPHA",
            "d x 755 0:0\nf x/a.txt 644 0:0 alpha",
        ),
        case(
            "another mode",
            op("a.txt", "/x/"),
            TREE,
            "f x/a.txt 600 alpha",
            "d x 755 0:0\nf x/a.txt 644 0:0 alpha",
        ),
        case(
            "another owner",
            op("a.txt", "/x/"),
            TREE,
            "f x/a.txt 644 alpha @1:2",
            "d x 755 1:2\nf x/a.txt 644 0:0 alpha",
        ),
        case(
            "one file of two",
            ops(&["a.txt", "b.sh"], "/x/"),
            TREE,
            "f x/a.txt 644 alpha",
            "d x 755 0:0\nf x/b.sh 755 0:0 beta",
        ),
        case(
            "names of one file stay together",
            op("h", "/x/"),
            "f h/one 644 same\nh h/two h/one",
            "f x/one 644 same",
            "d x 755 0:0\nf x/one 644 0:0 same\nh x/two => x/one",
        ),
        case(
            "a heredoc",
            CopyOp {
                sources: vec![planner::plan::CopySource::Inline {
                    name: "EOF".into(),
                    data: "alpha".into(),
                }],
                ..op(".", "/x/a.txt")
            },
            TREE,
            "f x/a.txt 644 other",
            "d x 755 0:0\nf x/a.txt 644 0:0 alpha",
        ),
        case(
            "an independent layer holds all",
            CopyOp {
                link: true,
                ..op("a.txt", "/x/")
            },
            TREE,
            "f x/a.txt 644 alpha",
            "d x 755 0:0\nf x/a.txt 644 0:0 alpha",
        ),
    ]);
}

/// AC07, AC14: parents made in a set-group-id directory are as `mkdir` makes them; a colon without a group is group 0.
#[test]
fn made_parents_inherit_the_group() {
    let owned = |owner: &str| CopyOp {
        chown: Some(owner.into()),
        ..op("a.txt", "/s/x/")
    };
    check(vec![
        case(
            "without an owner",
            op("a.txt", "/s/x/y/"),
            TREE,
            "d s 2775 @0:5",
            "d s 2775 0:5\nd s/x 2755 0:5\nd s/x/y 2755 0:5\nf s/x/y/a.txt 644 0:0 alpha",
        ),
        case(
            "with an owner",
            owned("7:8"),
            TREE,
            "d s 2775 @0:5",
            "d s 2775 0:5\nd s/x 2755 7:8\nf s/x/a.txt 644 7:8 alpha",
        ),
        case(
            "no group behind the colon",
            owned("7:"),
            TREE,
            "d s 755",
            "d s 755 0:0\nd s/x 755 7:0\nf s/x/a.txt 644 7:0 alpha",
        ),
    ]);
}

/// AC12: the same heredoc again changes nothing.
#[test]
fn the_same_heredoc_twice_is_one_entry() {
    let bench = Bench::new();
    let context = bench.context("source", TREE, "");
    let op = CopyOp {
        sources: vec![planner::plan::CopySource::Inline {
            name: "EOF".into(),
            data: "text".into(),
        }],
        ..op(".", "/x")
    };
    let mut base = bench.base("");
    let first = bench.run(&op, &base, &context).unwrap();
    assert_eq!(bench.entries(&first), ["f x 644 0:0 text"]);
    base.layers.push(first.diff_id);
    let second = bench.run(&op, &base, &context).unwrap();
    assert_eq!(bench.entries(&second), Vec::<String>::new());
}
