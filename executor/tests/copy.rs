//! COPY by tables: a source tree, what is below, the instruction, and the layer that must come of it.
#![allow(
    clippy::unwrap_used,
    clippy::too_many_lines,
    reason = "helpers and tables of tests"
)]

mod support;

use planner::plan::{CopyOp, CopySource};
use support::table::{TREE, case, check};
use support::{Bench, op, ops};

#[test]
fn places() {
    check(vec![
        case(
            "file to a name",
            op("a.txt", "/x/y"),
            TREE,
            "",
            "d x 755 0:0\nf x/y 644 0:0 alpha",
        ),
        case(
            "file into a directory by slash",
            op("a.txt", "/x/"),
            TREE,
            "",
            "d x 755 0:0\nf x/a.txt 644 0:0 alpha",
        ),
        case(
            "file into a directory by dot",
            op("a.txt", "/x/."),
            TREE,
            "",
            "d x 755 0:0\nf x/a.txt 644 0:0 alpha",
        ),
        case(
            "file into the root",
            op("a.txt", "/"),
            TREE,
            "",
            "f a.txt 644 0:0 alpha",
        ),
        case(
            "file into a directory that is there",
            op("a.txt", "/x"),
            TREE,
            "d x 700",
            "d x 700 0:0\nf x/a.txt 644 0:0 alpha",
        ),
        case(
            "file over a file",
            op("a.txt", "/x"),
            TREE,
            "f x 600 old",
            "f x 644 0:0 alpha",
        ),
        case(
            "contents of a directory",
            op("d", "/x"),
            TREE,
            "",
            "d x 755 0:0\nf x/one.txt 600 0:0 1\nd x/sub 700 0:0\nf x/sub/three.txt 644 0:0 3\nf x/two.md 640 0:0 2",
        ),
        case(
            "into a directory that is there: its attributes stay, those below change",
            op("d/", "/x/"),
            TREE,
            "d x 711\nd x/sub 777\nf x/sub/old 644 o\nf x/one.txt 755 old",
            "d x 711 0:0\nf x/one.txt 600 0:0 1\nd x/sub 700 0:0\nf x/sub/three.txt 644 0:0 3\nf x/two.md 640 0:0 2",
        ),
        case(
            "empty directory",
            op("empty", "/x/"),
            TREE,
            "",
            "d x 755 0:0",
        ),
        case(
            "empty directory over a directory",
            op("empty", "/x/"),
            TREE,
            "d x 700",
            "",
        ),
        case(
            "leading slash and dots",
            op("/../x/../a.txt", "/y"),
            TREE,
            "",
            "f y 644 0:0 alpha",
        ),
        case(
            "parents of the base keep their attributes",
            op("a.txt", "/p/q/r"),
            TREE,
            "d p 711\nd p/q 700",
            "d p 711 0:0\nd p/q 700 0:0\nf p/q/r 644 0:0 alpha",
        ),
        case(
            "several",
            ops(&["a.txt", "d", "b.sh"], "/x/"),
            TREE,
            "",
            "d x 755 0:0\nf x/a.txt 644 0:0 alpha\nf x/b.sh 755 0:0 beta\nf x/one.txt 600 0:0 1\nd x/sub 700 0:0\nf x/sub/three.txt 644 0:0 3\nf x/two.md 640 0:0 2",
        ),
        case(
            "wildcards",
            ops(&["*.txt", "d/t*"], "/x/"),
            TREE,
            "",
            "d x 755 0:0\nf x/a.txt 644 0:0 alpha\nf x/two.md 640 0:0 2",
        ),
        case(
            "a wildcard gives a directory's contents",
            op("*/sub", "/x/"),
            TREE,
            "",
            "d x 755 0:0\nf x/three.txt 644 0:0 3",
        ),
        case(
            "no match",
            ops(&["*.none", "a.txt"], "/x/"),
            TREE,
            "",
            "d x 755 0:0\nf x/a.txt 644 0:0 alpha",
        ),
        case("nothing at all", op("*.none", "/x/"), TREE, "", ""),
        case(
            "a class in brackets",
            op("[[]x].txt", "/"),
            "f [x].txt 644 b\nf x.txt 644 n",
            "",
            "f [x].txt 644 0:0 b",
        ),
        case(
            "odd names",
            op(".", "/"),
            "f -n 644 1\nf \u{fc}n\u{ef} 644 2\nf .hidden 644 3\nf a\\b 644 4",
            "",
            "f -n 644 0:0 1\nf .hidden 644 0:0 3\nf a\\b 644 0:0 4\nf \u{fc}n\u{ef} 644 0:0 2",
        ),
    ]);
}

#[test]
fn conflicts() {
    check(vec![
        case(
            "missing",
            op("nope", "/"),
            TREE,
            "",
            r#"error: "/nope": not found"#,
        ),
        case(
            "missing, a near name",
            op("a.text", "/"),
            TREE,
            "",
            r#"error: "/a.text": not found (did you mean "/a.txt"?)"#,
        ),
        case(
            "missing below",
            op("d/sup/three.txt", "/"),
            TREE,
            "",
            r#"error: "/d/sup/three.txt": not found (did you mean "/d/sub"?)"#,
        ),
        case(
            "below a file",
            op("a.txt/x", "/"),
            TREE,
            "",
            r#"error: "/a.txt/x": not found"#,
        ),
        case(
            "directory over a file",
            op("d", "/x"),
            TREE,
            "f x 644 o",
            "error: cannot copy to non-directory: /x",
        ),
        case(
            "directory over a file below",
            op("d", "/x/"),
            TREE,
            "f x/sub 644 o",
            "error: cannot copy to non-directory: /x/sub",
        ),
        case(
            "directory over a link below",
            op("d", "/x/"),
            TREE,
            "l x/sub /tmp\nd tmp 755",
            "error: cannot copy to non-directory: /x/sub",
        ),
        case(
            "file over a directory below",
            op("d", "/x/"),
            TREE,
            "d x/one.txt 755",
            "error: cannot replace to directory /x/one.txt with file",
        ),
        case(
            "file into a directory of its name",
            op("a.txt", "/x/"),
            TREE,
            "d x/a.txt 755",
            "error: cannot replace to directory /x/a.txt with file",
        ),
        case(
            "a file on the way",
            op("a.txt", "/x/y/z"),
            TREE,
            "f x 644 o",
            "error: mkdir /x: not a directory",
        ),
    ]);
}

#[test]
fn links() {
    let tree = "
        f a.txt 644 alpha
        f d/f 644 f
        l d/up ../a.txt
        l file-link a.txt
        l dir-link d
        l far-link dir-link/f
        l out /etc/passwd
        l dots ../../../../../etc/passwd
        l loop loop
        f etc/passwd 644 ours
    ";
    check(vec![
        case(
            "a named link is followed, its name kept",
            op("file-link", "/x/"),
            tree,
            "",
            "d x 755 0:0\nf x/file-link 644 0:0 alpha",
        ),
        case(
            "a link to a directory",
            op("dir-link", "/x/"),
            tree,
            "",
            "d x 755 0:0\nf x/f 644 0:0 f\nl x/up 0:0 -> ../a.txt",
        ),
        case(
            "through links",
            op("far-link", "/x"),
            tree,
            "",
            "f x 644 0:0 f",
        ),
        case(
            "through a directory link",
            op("dir-link/up", "/x"),
            tree,
            "",
            "f x 644 0:0 alpha",
        ),
        case(
            "absolute links stay inside",
            op("out", "/x"),
            tree,
            "",
            "f x 644 0:0 ours",
        ),
        case(
            "dots stay inside",
            op("dots", "/x"),
            tree,
            "",
            "f x 644 0:0 ours",
        ),
        case(
            "wildcards follow too",
            op("file-l*", "/x/"),
            tree,
            "",
            "d x 755 0:0\nf x/file-link 644 0:0 alpha",
        ),
        case(
            "a loop",
            op("loop", "/x"),
            tree,
            "",
            "error: too many links in /loop",
        ),
        case(
            "destination link to a directory",
            op("a.txt", "/to/"),
            tree,
            "l to real/dir\nd real 700",
            "d real 700 0:0\nd real/dir 755 0:0\nf real/dir/a.txt 644 0:0 alpha",
        ),
        case(
            "destination link without a slash",
            op("a.txt", "/to"),
            tree,
            "l to real\nd real 755",
            "d real 755 0:0\nf real/a.txt 644 0:0 alpha",
        ),
        case(
            "destination link to a file",
            op("a.txt", "/to"),
            tree,
            "l to real/f\nf real/f 600 o",
            "d real 755 0:0\nf real/f 644 0:0 alpha",
        ),
        case(
            "absolute destination link",
            op("a.txt", "/to/x"),
            tree,
            "l to /../../real\nd real 755",
            "d real 755 0:0\nf real/x 644 0:0 alpha",
        ),
        case(
            "a link below the destination is replaced",
            op("d", "/x/"),
            tree,
            "l x/f /real\nf real 644 o",
            "d x 755 0:0\nf x/f 644 0:0 f\nl x/up 0:0 -> ../a.txt",
        ),
    ]);
}

#[test]
fn hard_links_and_special_files() {
    check(vec![
        case(
            "hard links stay",
            op(".", "/x/"),
            "f b 644 one\nh a b\nh z/c b\nd z 755",
            "",
            "d x 755 0:0\nf x/a 644 0:0 one\nh x/b => x/a\nd x/z 755 0:0\nh x/z/c => x/a",
        ),
        case(
            "hard links of different sources are files",
            ops(&["a", "b"], "/x/"),
            "f b 644 one\nh a b",
            "",
            "d x 755 0:0\nf x/a 644 0:0 one\nf x/b 644 0:0 one",
        ),
        case(
            "part of the links",
            op("d", "/x/"),
            "f b 644 one\nh d/c b\nd d 755",
            "",
            "d x 755 0:0\nf x/c 644 0:0 one",
        ),
        case(
            "a fifo",
            op(".", "/x/"),
            "p f",
            "",
            "d x 755 0:0\np x/f 644 0:0",
        ),
        case(
            "set-id and sticky bits",
            op(".", "/x/"),
            "f s 4755 x\nd t 1777\nd g 2755",
            "",
            "d x 755 0:0\nd x/g 2755 0:0\nf x/s 4755 0:0 x\nd x/t 1777 0:0",
        ),
    ]);
}

#[test]
fn chown_and_chmod() {
    let with = |mut op: CopyOp, chown: &str, chmod: &str| {
        op.chown = (!chown.is_empty()).then(|| chown.to_owned());
        op.chmod = (!chmod.is_empty()).then(|| chmod.to_owned());
        op
    };
    check(vec![
        case(
            "numbers",
            with(op("d", "/x/"), "5:6", ""),
            TREE,
            "",
            "d x 755 5:6\nf x/one.txt 600 5:6 1\nd x/sub 700 5:6\nf x/sub/three.txt 644 5:6 3\nf x/two.md 640 5:6 2",
        ),
        case(
            "uid is gid too",
            with(op("a.txt", "/x/y"), "5", ""),
            TREE,
            "",
            "d x 755 5:5\nf x/y 644 5:5 alpha",
        ),
        case(
            "existing parents keep theirs",
            with(op("a.txt", "/x/y/z"), "5", ""),
            TREE,
            "d x 700",
            "d x 700 0:0\nd x/y 755 5:5\nf x/y/z 644 5:5 alpha",
        ),
        case(
            "no such user",
            with(op("a.txt", "/"), "nope", ""),
            TREE,
            ACCOUNTS,
            "error: unable to find user nope: no matching entries in passwd file (names are looked up in /etc/passwd of the image that is built; a number needs no entry)",
        ),
        case(
            "a name",
            with(op("a.txt", "/"), "app", ""),
            TREE,
            ACCOUNTS,
            "f a.txt 644 7:8 alpha",
        ),
        case(
            "a name and a group",
            with(op("a.txt", "/"), "app:staff", ""),
            TREE,
            ACCOUNTS,
            "f a.txt 644 7:50 alpha",
        ),
        case(
            "a number and a group",
            with(op("a.txt", "/"), "7:staff", ""),
            TREE,
            ACCOUNTS,
            "f a.txt 644 7:50 alpha",
        ),
        case(
            "a name and a number",
            with(op("a.txt", "/"), "app:9", ""),
            TREE,
            ACCOUNTS,
            "f a.txt 644 7:9 alpha",
        ),
        case(
            "names of the base with --link",
            CopyOp {
                link: true,
                ..with(op("a.txt", "/"), "app", "")
            },
            TREE,
            ACCOUNTS,
            "f a.txt 644 7:8 alpha",
        ),
        case(
            "an unknown group leaves the gid",
            with(op("a.txt", "/"), "5:nope", ""),
            TREE,
            "",
            "f a.txt 644 5:5 alpha",
        ),
        case(
            "octal",
            with(op("d", "/x/"), "", "0604"),
            TREE,
            "",
            "d x 604 0:0\nf x/one.txt 604 0:0 1\nd x/sub 604 0:0\nf x/sub/three.txt 604 0:0 3\nf x/two.md 604 0:0 2",
        ),
        case(
            "octal with set-id",
            with(op("empty", "/x/y/"), "", "4750"),
            TREE,
            "",
            "d x 750 0:0\nd x/y 750 0:0",
        ),
        case(
            "symbolic",
            with(op("d", "/x/"), "", "u=rwX,go=rX"),
            TREE,
            "",
            "d x 755 0:0\nf x/one.txt 644 0:0 1\nd x/sub 755 0:0\nf x/sub/three.txt 644 0:0 3\nf x/two.md 644 0:0 2",
        ),
        case(
            "links have no mode",
            with(op(".", "/x/"), "", "600"),
            "l a b",
            "d x 755",
            "d x 755 0:0\nl x/a 0:0 -> b",
        ),
        case(
            "a bad mode",
            with(op("a.txt", "/"), "", "888"),
            TREE,
            "",
            "error: invalid chmod parameter: '888'. it should be octal string and between 0 and 07777 (symbolic modes such as u=rwX,go=rX are fine too)",
        ),
    ]);
}

const ACCOUNTS: &str =
    "f etc/passwd 644 root:x:0:0::/root:/bin/sh\\napp:x:7:8::/home/app:/bin/sh\\n
    f etc/group 644 root:x:0:\\nstaff:x:50:app,root\\nwheel:x:10:root\\n";

#[test]
fn exclusions() {
    let with = |mut op: CopyOp, exclude: &[&str]| {
        op.exclude = exclude.iter().map(|&pattern| pattern.to_owned()).collect();
        op
    };
    check(vec![
        case(
            "by name",
            with(op("d", "/x/"), &["*.md", "sub"]),
            TREE,
            "",
            "d x 755 0:0\nf x/one.txt 600 0:0 1",
        ),
        case(
            "any depth",
            with(op(".", "/x/"), &["**/*.txt", "b.sh"]),
            TREE,
            "",
            "d x 755 0:0\nd x/d 750 0:0\nd x/d/sub 700 0:0\nf x/d/two.md 640 0:0 2\nd x/empty 711 0:0",
        ),
        case(
            "an exception",
            with(op(".", "/x/"), &["d", "!d/sub/three.txt", "*.*", "empty"]),
            TREE,
            "",
            "d x 755 0:0\nd x/d 750 0:0\nd x/d/sub 700 0:0\nf x/d/sub/three.txt 644 0:0 3",
        ),
        case(
            "a named file is not excluded",
            with(op("a.txt", "/x/"), &["*.txt"]),
            TREE,
            "",
            "d x 755 0:0\nf x/a.txt 644 0:0 alpha",
        ),
        case(
            "a bad pattern",
            with(op("a.txt", "/"), &["["]),
            TREE,
            "",
            "error: invalid exclude patterns: \"[\": syntax error in pattern",
        ),
    ]);
}

#[test]
fn parents() {
    const DEEP: &str = "f a/b/c/f 644 1\nf a/b/g 644 2\nf a/b2/c/f 644 3\nf z 644 4\nd a/b 700\nd a 711\nl a/link b";
    let with = |sources: &[&str], dest: &str| CopyOp {
        parents: true,
        ..ops(sources, dest)
    };
    check(vec![
        case(
            "a file with its parents",
            with(&["a/b/g"], "/x/"),
            DEEP,
            "",
            "d x 755 0:0\nd x/a 711 0:0\nd x/a/b 700 0:0\nf x/a/b/g 644 0:0 2",
        ),
        case(
            "a directory",
            with(&["./a/b/"], "/x/"),
            DEEP,
            "",
            "d x 755 0:0\nd x/a 711 0:0\nd x/a/b 700 0:0\nd x/a/b/c 755 0:0\nf x/a/b/c/f 644 0:0 1\nf x/a/b/g 644 0:0 2",
        ),
        case(
            "a pivot",
            with(&["a/b/./c"], "/x/"),
            DEEP,
            "",
            "d x 755 0:0\nd x/c 755 0:0\nf x/c/f 644 0:0 1",
        ),
        case(
            "any depth",
            with(&["a/**/f", "z"], "/"),
            DEEP,
            "",
            "d a 711 0:0\nd a/b 700 0:0\nd a/b/c 755 0:0\nf a/b/c/f 644 0:0 1\nd a/b2 755 0:0\nd a/b2/c 755 0:0\nf a/b2/c/f 644 0:0 3\nf z 644 0:0 4",
        ),
        case(
            "a wildcard before the pivot",
            with(&["a/b*/./c"], "/x/"),
            DEEP,
            "",
            "d x 755 0:0\nd x/c 755 0:0\nf x/c/f 644 0:0 3",
        ),
        case(
            "missing",
            with(&["a/nope"], "/"),
            DEEP,
            "",
            r#"error: "/a/nope": not found"#,
        ),
        case(
            "parents that are there take the mode",
            with(&["a/b/g"], "/"),
            DEEP,
            "d a 777",
            "d a 711 0:0\nd a/b 700 0:0\nf a/b/g 644 0:0 2",
        ),
    ]);
}

#[test]
fn independent_layers() {
    let with = |source: &str, dest: &str| CopyOp {
        link: true,
        ..op(source, dest)
    };
    check(vec![
        case(
            "parents are made anew",
            with("a.txt", "/x/y/z"),
            TREE,
            "d x 700",
            "d x 755 0:0\nd x/y 755 0:0\nf x/y/z 644 0:0 alpha",
        ),
        case(
            "links of the base are not followed",
            with("a.txt", "/to/"),
            TREE,
            "l to real\nd real 755",
            "d to 755 0:0\nf to/a.txt 644 0:0 alpha",
        ),
        case(
            "a file of the base does not matter",
            with("d/sub", "/x"),
            TREE,
            "f x 644 o",
            "d x 755 0:0\nf x/three.txt 644 0:0 3",
        ),
    ]);
}

#[test]
fn heredocs() {
    let with = |files: &[(&str, &str)], dest: &str| {
        let sources = files.iter().map(|(name, data)| CopySource::Inline {
            name: (*name).to_owned(),
            data: (*data).to_owned(),
        });
        CopyOp {
            sources: sources.collect(),
            ..op(".", dest)
        }
    };
    check(vec![
        case(
            "to a name",
            with(&[("EOF", "hi")], "/x/y"),
            "",
            "",
            "d x 755 0:0\nf x/y 644 0:0 hi",
        ),
        case(
            "into a directory",
            with(&[("one", "1"), ("two", "2")], "/x/"),
            "",
            "",
            "d x 755 0:0\nf x/one 644 0:0 1\nf x/two 644 0:0 2",
        ),
        case(
            "with a mode",
            CopyOp {
                chmod: Some("700".into()),
                chown: Some("3".into()),
                ..with(&[("f", "1")], "/f")
            },
            "",
            "",
            "f f 700 3:3 1",
        ),
    ]);
}

#[test]
fn times_are_kept() {
    let bench = Bench::new();
    let context = bench.context("source", TREE, "");
    let written = bench
        .run(&op("d", "/x"), &bench.base(""), &context)
        .unwrap();
    let tar = executor::layer::readable(&bench.space, &written.diff_id)
        .unwrap()
        .tar
        .unwrap();
    let mut archive = tar::Archive::new(std::fs::File::open(tar).unwrap());
    for entry in archive.entries().unwrap() {
        assert_eq!(entry.unwrap().header().mtime().unwrap(), 1_000_000_000);
    }
}

#[test]
fn the_same_content_gives_the_same_layer() {
    let bench = Bench::new();
    let one = bench.context("one", TREE, "");
    let two = bench.context("two", TREE, "");
    support::set_time(&two.dir().join("a.txt"), 1_100_000_000);
    let base = bench.base("");
    let first = bench.run(&op(".", "/x/"), &base, &one).unwrap();
    let second = bench.run(&op(".", "/x/"), &base, &two).unwrap();
    assert_eq!(first, second, "only times differ: the known layer is taken");
    std::fs::write(two.dir().join("a.txt"), "other").unwrap();
    let fresh = bench.open(two.dir(), "");
    let third = bench.run(&op(".", "/x/"), &base, &fresh).unwrap();
    assert_ne!(first.identity, third.identity);
}
