//! Users, WORKDIR, and COPY from another root file system.
#![allow(
    clippy::unwrap_used,
    clippy::type_complexity,
    reason = "helpers of tests"
)]

mod support;

use planner::plan::CopyOp;
use support::{Bench, expected, message, op};

const ACCOUNTS: &str =
    "f etc/passwd 644 root:x:0:0::/root:/bin/sh\\napp:x:7:8::/home/app:/bin/sh\\n
    f etc/group 644 root:x:0:\\nstaff:x:50:app,root\\nwheel:x:10:root\\n";

/// M13: the own group is among the groups.
#[test]
fn users_of_processes() {
    let bench = Bench::new();
    let view = bench.view(&bench.base(ACCOUNTS));
    let cases: &[(&str, Result<(u32, u32, &[u32], &str), &str>)] = &[
        ("root", Ok((0, 0, &[0, 50, 10], "/root"))),
        ("", Ok((0, 0, &[0, 50, 10], "/root"))),
        ("app", Ok((7, 8, &[8, 50], "/home/app"))),
        ("7", Ok((7, 8, &[8, 50], "/home/app"))),
        ("app:wheel", Ok((7, 10, &[10], "/home/app"))),
        ("app:99", Ok((7, 99, &[99], "/home/app"))),
        ("99", Ok((99, 0, &[0], "/"))),
        ("99:98", Ok((99, 98, &[98], "/"))),
        (
            "nobody",
            Err("unable to find user nobody: no matching entries in passwd file"),
        ),
        (
            "app:nobody",
            Err("unable to find group nobody: no matching entries in group file"),
        ),
    ];
    for (text, expected) in cases {
        let found = executor::copy::resolve_user(text, &view);
        match expected {
            Ok((uid, gid, groups, home)) => {
                let found = found.unwrap();
                assert_eq!(
                    (found.uid, found.gid, &found.groups[..], &found.home[..]),
                    (*uid, *gid, *groups, *home),
                    "{text}"
                );
            }
            Err(expected) => assert_eq!(message(&found.unwrap_err()), *expected),
        }
    }
}

/// M14, M15: also below a set-group-id directory.
#[test]
fn working_directories() {
    let cases: &[(&str, &str, &str, &str)] = &[
        ("", "/a/b", "", "d a 755 0:0\nd a/b 755 0:0"),
        ("d a 700", "/a/b/", "", "d a 700 0:0\nd a/b 755 0:0"),
        ("d a/b 700", "/a/b", "5", ""),
        ("", "/", "", ""),
        (
            "d a 755",
            "/a/b/c",
            "5:6",
            "d a 755 0:0\nd a/b 755 5:6\nd a/b/c 755 5:6",
        ),
        ("l to real", "/to/x", "", "d real 755 0:0\nd real/x 755 0:0"),
        ("d real 755\nl to real", "/to", "", ""),
        (ACCOUNTS, "/w", "app:staff", "d w 755 7:50"),
        (
            "d s 2775 @0:5",
            "/s/a/b",
            "",
            "d s 2775 0:5\nd s/a 2755 0:5\nd s/a/b 2755 0:5",
        ),
        (
            "d s 2775 @0:5",
            "/s/a",
            "7:8",
            "d s 2775 0:5\nd s/a 2755 7:8",
        ),
        (ACCOUNTS, "/w", "nobody", "d w 755 0:0"),
        ("f a 644 x", "/a/b", "", "error: mkdir /a: not a directory"),
    ];
    for &(base, path, user, layer) in cases {
        let bench = Bench::new();
        let base = bench.base(base);
        let op = planner::plan::MkdirOp {
            base: Some(0),
            path: path.to_owned(),
            user: user.to_owned(),
        };
        let found = match executor::copy::mkdir(&bench.space, &op, &base) {
            Ok(written) => bench.entries(&written),
            Err(error) => vec![format!("error: {}", message(&error))],
        };
        assert_eq!(found, expected(layer), "{path}");
    }
}

#[test]
fn from_another_root() {
    let bench = Bench::new();
    let stage = bench.base("f etc/x 4755 set @3:4\nf top 644 t\nd etc 711\nl abs /etc/x\nf gone 644 g\nh etc/again top");
    let run = |op: &CopyOp| {
        let source = executor::copy::CopySourceTree::Snapshot(&stage);
        executor::copy::copy(&bench.space, op, &bench.base(""), source)
            .map(|written| bench.entries(&written))
    };
    assert_eq!(run(&op("/etc/x", "/")).unwrap(), ["f x 4755 3:4 set"]);
    assert_eq!(run(&op("/abs", "/y")).unwrap(), ["f y 4755 3:4 set"]);
    let all = "l abs 0:0 -> /etc/x\nd etc 755 3:4\nf etc/again 644 0:0 t\nf etc/x 4755 3:4 set\nf gone 644 0:0 g\nh top => etc/again";
    assert_eq!(run(&op("/", "/")).unwrap(), expected(all));
    let owned = CopyOp {
        chown: Some("9".into()),
        chmod: Some("400".into()),
        ..op("/etc", "/e/")
    };
    assert_eq!(
        run(&owned).unwrap(),
        ["d e 400 9:9", "f e/again 400 9:9 t", "f e/x 400 9:9 set"]
    );
    assert_eq!(
        message(&run(&op("/nope", "/")).unwrap_err()),
        r#""/nope": not found"#
    );
}
