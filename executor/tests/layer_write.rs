//! The layer writer: header bytes as Go's writer makes them, other readers' view of a tar, refusals.

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

mod layer_support;

use executor::layer::LayerWriter;
use executor::tree::{Entry, Kind};
use layer_support::{dir, entry, file, hardlink, link, sha256, write};
use std::io::Read;
use std::process::Command;

/// The header block that starts at a block number.
fn block(tar: &[u8], number: usize) -> &[u8] {
    &tar[number * 512..(number + 1) * 512]
}

fn tar_of(items: &[(Entry, Option<&[u8]>)]) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "x", items, &[]).1
}

/// Text of a field up to its NUL.
fn text(field: &[u8]) -> String {
    field
        .split(|b| *b == 0)
        .next()
        .unwrap()
        .escape_ascii()
        .to_string()
}

#[test]
fn a_short_entry_is_plain_ustar() {
    let mut item = file("etc/hosts", 4);
    (item.mode, item.uid, item.gid) = (0o4755, 1000, 65534);
    let tar = tar_of(&[(item, Some(b"abc\n"))]);
    let header = block(&tar, 0);
    let fields: [(&str, std::ops::Range<usize>, &[u8]); 12] = [
        ("name", 0..10, b"etc/hosts\0"),
        ("mode", 100..108, b"0004755\0"),
        ("uid", 108..116, b"0001750\0"),
        ("gid", 116..124, b"0177776\0"),
        ("size", 124..136, b"00000000004\0"),
        ("mtime", 136..148, b"13042425341\0"),
        ("type", 156..157, b"0"),
        ("magic", 257..265, b"ustar\x0000"),
        ("uname", 265..297, &[0; 32]),
        ("gname", 297..329, &[0; 32]),
        ("major", 329..337, b"0000000\0"),
        ("minor", 337..345, b"0000000\0"),
    ];
    for (name, place, bytes) in fields {
        assert_eq!(&header[place], bytes, "{name}");
    }
    // Six digits, NUL, blank.
    let sum: u32 = header
        .iter()
        .enumerate()
        .map(|(at, b)| {
            if (148..156).contains(&at) {
                32
            } else {
                u32::from(*b)
            }
        })
        .sum();
    assert_eq!(&header[148..156], format!("{sum:06o}\0 ").as_bytes());
    assert_eq!(&header[345..512], &[0; 167], "no prefix");
    assert_eq!(&tar[512..516], b"abc\n");
    assert_eq!(tar.len(), 512 * 4, "header, content, two zero blocks");
}

#[test]
fn kinds() {
    let items = [
        (dir("d"), None),
        (entry(b"d/block", Kind::Block { major: 8, minor: 1 }), None),
        (entry(b"d/char", Kind::Char { major: 5, minor: 0 }), None),
        (entry(b"d/fifo", Kind::Fifo), None),
        (file("d/file", 0), None),
        (hardlink("d/hard", "d/file"), None),
        (link("d/soft", "../x"), None),
    ];
    let tar = tar_of(&items.clone().map(|(entry, data)| (entry, data)));
    let rows = [
        ("d/", b'5', ""),
        ("d/block", b'4', ""),
        ("d/char", b'3', ""),
        ("d/fifo", b'6', ""),
        ("d/file", b'0', ""),
        ("d/hard", b'1', "d/file"),
        ("d/soft", b'2', "../x"),
    ];
    for (at, (name, flag, target)) in rows.into_iter().enumerate() {
        let header = block(&tar, at);
        assert_eq!(
            (
                text(&header[..100]).as_str(),
                header[156],
                text(&header[157..257]).as_str()
            ),
            (name, flag, target)
        );
    }
    assert_eq!(&block(&tar, 1)[329..345], b"0000010\x000000001\0");
}

/// Entries, a part of the extended header's name, and its records.
fn extended() -> Vec<(Entry, &'static str, String)> {
    let long = format!("{}/{}", "a".repeat(60), "b".repeat(60));
    let with = |change: fn(&mut Entry)| {
        let mut item = file("f", 0);
        change(&mut item);
        item
    };
    vec![
        (
            entry(
                "ä".as_bytes(),
                Kind::File {
                    size: 0,
                    digest: None,
                },
            ),
            "PaxHeaders.0",
            "11 path=\u{e4}\n".to_owned(),
        ),
        (file(&"c".repeat(100), 0), "", String::new()),
        (
            file(&"c".repeat(101), 0),
            "PaxHeaders.0/",
            format!("111 path={}\n", "c".repeat(101)),
        ),
        (
            file(&long, 0),
            "PaxHeaders.0/",
            format!("131 path={long}\n"),
        ),
        (with(|e| e.uid = 2_097_151), "", String::new()),
        (
            with(|e| e.uid = 2_097_152),
            "PaxHeaders.0/f",
            "15 uid=2097152\n".to_owned(),
        ),
        (
            with(|e| e.gid = 3_000_000),
            "PaxHeaders.0/f",
            "15 gid=3000000\n".to_owned(),
        ),
        (
            with(|e| e.mtime = -1965),
            "PaxHeaders.0/f",
            "15 mtime=-1965\n".to_owned(),
        ),
        (with(|e| e.mtime = 8_589_934_591), "", String::new()),
        (
            with(|e| e.mtime = 8_589_934_592),
            "PaxHeaders.0/f",
            "20 mtime=8589934592\n".to_owned(),
        ),
        (
            with(|e| {
                e.xattrs = vec![
                    (b"user.b".to_vec(), b"2\n".to_vec()),
                    (b"user.a".to_vec(), b"1".to_vec()),
                ];
            }),
            "PaxHeaders.0/f",
            "25 SCHILY.xattr.user.a=1\n26 SCHILY.xattr.user.b=2\n\n".to_owned(),
        ),
        (
            link("f", &"t".repeat(101)),
            "PaxHeaders.0/f",
            format!("115 linkpath={}\n", "t".repeat(101)),
        ),
    ]
}

#[test]
fn records_are_written_only_where_needed() {
    for (item, name, records) in extended() {
        let tar = tar_of(&[(item.clone(), None)]);
        let header = block(&tar, 0);
        if records.is_empty() {
            assert_ne!(header[156], b'x', "{item:?}");
            continue;
        }
        assert_eq!(header[156], b'x', "{item:?}");
        assert!(
            text(&header[..100]).contains(name),
            "{item:?}: {}",
            text(&header[..100])
        );
        assert_eq!(
            &tar[512..512 + records.len()],
            records.as_bytes(),
            "{item:?}"
        );
        assert_eq!(
            &header[100..124],
            b"0000000\x000000000\x000000000\0",
            "all numbers are 0"
        );
        assert_eq!(&header[136..148], b"00000000000\0");
        assert_eq!(&header[329..345], &[0; 16]);
        let main = block(&tar, 2);
        assert_eq!(&main[257..265], b"ustar\x0000");
    }
}

#[test]
fn what_does_not_fit_is_zero_and_names_are_ascii() {
    let mut item = entry(
        "\u{e4}x/y\u{e4}".as_bytes(),
        Kind::File {
            size: 0,
            digest: None,
        },
    );
    (item.uid, item.mtime) = (3_000_000, -1);
    let tar = tar_of(&[(item, None)]);
    assert_eq!(text(&block(&tar, 0)[..100]), "x/PaxHeaders.0/y");
    let main = block(&tar, 2);
    assert_eq!(text(&main[..100]), "x/y");
    assert_eq!(&main[108..116], b"0000000\0");
    assert_eq!(&main[136..148], b"00000000000\0");
    // A long directory name must not look like one that ends at the cut.
    let cut = format!("{}/{}", "a".repeat(99), "b".repeat(20));
    let tar = tar_of(&[(file(&cut, 0), None)]);
    let main = block(&tar, 2);
    assert_eq!((&main[..99], main[99]), ("a".repeat(99).as_bytes(), 0));
}

#[test]
fn an_empty_layer_has_the_well_known_digest() {
    let folder = tempfile::tempdir().unwrap();
    let (written, tar, _) = write(folder.path(), "x", &[], &[]);
    assert_eq!(tar, [0; 1024]);
    assert_eq!(
        written.diff_id.to_string(),
        "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"
    );
}

#[test]
fn whiteouts_are_plain_empty_files() {
    let folder = tempfile::tempdir().unwrap();
    let (_, tar, _) = write(folder.path(), "x", &[(dir("a"), None)], &["a/gone", "top"]);
    for (at, name) in [(1, "a/.wh.gone"), (2, ".wh.top")] {
        let header = block(&tar, at);
        assert_eq!((text(&header[..100]).as_str(), header[156]), (name, b'0'));
        assert_eq!(&header[124..148], b"00000000000\x0000000000000\0");
        assert_eq!(text(&header[157..257]), "");
    }
}

#[test]
fn digest_and_size_are_those_of_the_tar() {
    let folder = tempfile::tempdir().unwrap();
    // Long enough for the hashing thread and for files across buffers.
    let content: Vec<u8> = (0..5_000_003u32).map(|n| (n % 251) as u8).collect();
    let items = [
        (file("a", 5_000_003), Some(content.as_slice())),
        (file("b", 5_000_003), Some(content.as_slice())),
    ];
    let (written, tar, _) = write(folder.path(), "x", &items, &[]);
    assert_eq!(
        (written.diff_id, written.size),
        (sha256(&tar), tar.len() as u64)
    );
    let mut archive = tar::Archive::new(tar.as_slice());
    for item in archive.entries().unwrap() {
        let mut read = Vec::new();
        item.unwrap().read_to_end(&mut read).unwrap();
        assert_eq!(read, content);
    }
}

#[test]
fn identity_leaves_out_times_only() {
    let folder = tempfile::tempdir().unwrap();
    let identity = |change: &dyn Fn(&mut Entry), content: &[u8]| {
        let mut item = file("f", content.len() as u64);
        change(&mut item);
        write(folder.path(), "x", &[(item, Some(content))], &[])
            .0
            .identity
    };
    let base = identity(&|_| (), b"one");
    assert_eq!(base, identity(&|e| e.mtime = 7, b"one"));
    let others = [
        identity(&|_| (), b"two"),
        identity(&|e| e.mode = 0o600, b"one"),
        identity(&|e| e.uid = 1, b"one"),
        identity(&|e| e.gid = 1, b"one"),
        identity(&|e| e.path = b"g".to_vec(), b"one"),
        identity(
            &|e| e.xattrs = vec![(b"user.x".to_vec(), b"".to_vec())],
            b"one",
        ),
        write(folder.path(), "x", &[], &["f"]).0.identity,
        write(folder.path(), "x", &[(link("f", "one"), None)], &[])
            .0
            .identity,
    ];
    for (at, other) in others.iter().enumerate() {
        assert!(*other != base && !others[..at].contains(other), "{at}");
    }
}

#[test]
fn refusals() {
    let long = b"four".as_slice();
    type Row<'a> = (Vec<(Entry, Option<&'a [u8]>)>, &'a str);
    let rows: Vec<Row<'_>> = vec![
        (vec![(file("a/.wh.b", 0), None)], "whiteout"),
        (vec![(file("../a", 0), None)], "component"),
        (vec![(file("a//b", 0), None)], "component"),
        (vec![(file("/a", 0), None)], "component"),
        (vec![(entry(b"a\0b", Kind::Fifo), None)], "NUL"),
        (vec![(entry(b"s", Kind::Socket), None)], "socket"),
        (
            vec![(entry(b"c", Kind::Char { major: 0, minor: 0 }), None)],
            "removed file",
        ),
        (vec![(file("a", 5), Some(long))], "shorter"),
        (vec![(file("a", 3), Some(long))], "longer"),
        (vec![(file("a", 3), None)], "missing"),
        (vec![(file("b", 0), None), (file("a", 0), None)], "order"),
        (vec![(file("a", 0), None), (file("a", 0), None)], "order"),
        (
            vec![(file("a", 0), None), (file("a/b", 0), None)],
            "no directory",
        ),
        (
            vec![(hardlink("a", "b"), None), (file("b", 0), None)],
            "hard link",
        ),
        (
            vec![(dir("a"), None), (hardlink("b", "a"), None)],
            "hard link",
        ),
        (vec![(link("a", ""), None)], "no path"),
        (
            vec![(
                entry(
                    b"a",
                    Kind::File {
                        size: 4,
                        digest: Some([0; 32]),
                    },
                ),
                Some(long),
            )],
            "changed",
        ),
    ];
    let folder = tempfile::tempdir().unwrap();
    for (items, expected) in rows {
        let mut writer = LayerWriter::new(std::io::sink());
        let mut result = Ok(());
        for (item, content) in &items {
            let mut content = *content;
            result = result
                .and_then(|()| writer.entry(item, content.as_mut().map(|c| c as &mut dyn Read)));
        }
        let error = result
            .and_then(|()| writer.finish(&folder.path().join("i")).map(drop))
            .unwrap_err();
        assert!(error.to_string().contains(expected), "{items:?}: {error}");
    }
}

/// What Python's own reader sees.
#[test]
fn python_reads_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut odd = entry(
        b"d/\xff\nx",
        Kind::File {
            size: 3,
            digest: None,
        },
    );
    (odd.uid, odd.mtime) = (3_000_000, -1965);
    odd.xattrs = vec![(b"user.k".to_vec(), b"v".to_vec())];
    let long = format!("d/{}", "n".repeat(150));
    let items = [
        (dir("d"), None),
        (file(&long, 1), Some(b"1".as_slice())),
        (hardlink("d/o", &long), None),
        (odd, Some(b"abc".as_slice())),
    ];
    let (_, tar, _) = write(folder.path(), "x", &items, &["d/gone"]);
    let path = folder.path().join("x.tar");
    std::fs::write(&path, tar).unwrap();
    let script = "import sys,tarfile\n\
        for m in tarfile.open(sys.argv[1], encoding='utf-8', errors='surrogateescape'):\n\
        \x20 print(m.name.encode('utf-8','surrogateescape'), m.type, oct(m.mode), m.uid, m.size, int(m.mtime), m.linkname, \
        m.pax_headers.get('SCHILY.xattr.user.k'))\n";
    let output = Command::new("python3")
        .args(["-c", script])
        .arg(&path)
        .output();
    let Ok(output) = output else {
        eprintln!("SKIPPED: there is no python3");
        return;
    };
    let shown = String::from_utf8(output.stdout).unwrap();
    let expected = format!(
        "b'd' b'5' 0o755 0 0 1485449953  None\n\
         b'd/gone' b'0'\n\
         b'{long}' b'0' 0o644 0 1 1485449953  None\n\
         b'd/o' b'1' 0o644 0 0 1485449953 {long} None\n\
         b'd/\\xff\\nx' b'0' 0o644 3000000 3 -1965  v\n"
    )
    .replace("b'd/gone' b'0'\n", "b'd/.wh.gone' b'0' 0o0 0 0 0  None\n");
    assert_eq!(
        shown,
        expected,
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// What GNU tar sees.
#[test]
fn gnu_tar_reads_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut odd = file("d/big-id", 3);
    (odd.uid, odd.mode) = (3_000_000, 0o600);
    let items = [
        (dir("d"), None),
        (odd, Some(b"abc".as_slice())),
        (link("d/l", "big-id"), None),
    ];
    let (_, tar, _) = write(folder.path(), "x", &items, &[]);
    let path = folder.path().join("x.tar");
    std::fs::write(&path, tar).unwrap();
    let output = Command::new("tar")
        .args(["--numeric-owner", "--utc", "-tvf"])
        .arg(&path)
        .output()
        .unwrap();
    let shown = String::from_utf8(output.stdout).unwrap();
    let rows: Vec<Vec<&str>> = shown
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(
        rows[0],
        ["drwxr-xr-x", "0/0", "0", "2017-01-26", "16:59", "d/"]
    );
    assert_eq!(
        rows[1],
        [
            "-rw-------",
            "3000000/0",
            "3",
            "2017-01-26",
            "16:59",
            "d/big-id"
        ]
    );
    assert_eq!(rows[2][5..], ["d/l", "->", "big-id"]);
    assert!(
        output.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
