//! ADD of local archives: told by content, unpacked inside the root, hostile names contained or refused.
#![allow(
    clippy::unwrap_used,
    clippy::type_complexity,
    reason = "helpers of tests"
)]

mod support;

use planner::plan::CopyOp;
use proptest::prelude::*;
use std::io::Write;
use support::{Bench, expected, message, op};
use tar::EntryType;

/// One entry: name, type, mode, link or content.
type Member<'a> = (&'a str, EntryType, u32, &'a str);

const FILE: EntryType = EntryType::Regular;
const DIR: EntryType = EntryType::Directory;
const LINK: EntryType = EntryType::Symlink;
const HARD: EntryType = EntryType::Link;

/// A tar with names as they are given, owned by 7:8.
fn archive(members: &[Member<'_>]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for &(name, kind, mode, text) in members {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(7);
        header.set_gid(8);
        header.set_mtime(1_000_000_000);
        let content = if kind == FILE { text.as_bytes() } else { b"" };
        header.set_size(content.len() as u64);
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        if kind != FILE {
            header.as_old_mut().linkname[..text.len()].copy_from_slice(text.as_bytes());
        }
        if matches!(kind, EntryType::Char | EntryType::Block) {
            header.set_device_major(1).unwrap();
            header.set_device_minor(3).unwrap();
        }
        header.set_cksum();
        builder.append(&header, content).unwrap();
    }
    builder.into_inner().unwrap()
}

fn add(dest: &str) -> CopyOp {
    CopyOp {
        add: true,
        unpack: Some(true),
        ..op("a", dest)
    }
}

/// The layer of an ADD of these bytes, named `a`.
fn layer(bench: &Bench, bytes: &[u8], op: &CopyOp, base: &str) -> Result<Vec<String>, String> {
    let dir = bench.folder("context", "");
    std::fs::write(dir.join("a"), bytes).unwrap();
    let context = bench.open(&dir, "");
    match bench.run(op, &bench.base(base), &context) {
        Ok(written) => Ok(bench.entries(&written)),
        Err(error) => Err(message(&error)),
    }
}

const MEMBERS: &[Member<'_>] = &[
    ("d/", DIR, 0o750, ""),
    ("d/f", FILE, 0o640, "hello"),
    ("d/l", LINK, 0o777, "f"),
    ("h", HARD, 0o640, "d/f"),
    ("p", EntryType::Fifo, 0o600, ""),
    ("n/m", FILE, 0o4755, "deep"),
];
const LAYER: &str = "
    d x 755 0:0
    d x/d 750 7:8
    f x/d/f 640 7:8 hello
    l x/d/l 7:8 -> f
    h x/h => x/d/f
    d x/n 755 0:0
    f x/n/m 4755 7:8 deep
    p x/p 600 7:8
";

/// AC20.
#[test]
fn every_compression_is_told_by_content() {
    let plain = archive(MEMBERS);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&plain).unwrap();
    let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    bzip2.write_all(&plain).unwrap();
    let mut xz = Vec::new();
    lzma_rs::xz_compress(&mut plain.as_slice(), &mut xz).unwrap();
    let forms = [
        ("plain", plain.clone()),
        ("gzip", gzip.finish().unwrap()),
        ("bzip2", bzip2.finish().unwrap()),
        ("xz", xz),
        ("zstd", zstd::encode_all(plain.as_slice(), 1).unwrap()),
    ];
    for (name, bytes) in forms {
        let bench = Bench::new();
        assert_eq!(
            layer(&bench, &bytes, &add("/x"), "").unwrap(),
            expected(LAYER),
            "{name}"
        );
    }
}

#[test]
fn what_is_no_archive_is_a_file() {
    let gzip = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let zeros = vec![0; 10240];
    let cases: &[(&str, Vec<u8>)] = &[
        ("text", b"just text".to_vec()),
        ("empty", Vec::new()),
        ("an empty archive", zeros.clone()),
        ("a compressed text", gzip(b"just text")),
        ("a compressed empty archive", gzip(&zeros)),
        ("a broken gzip", b"\x1f\x8b\x08nonsense".to_vec()),
        ("a broken xz", b"\xfd7zXZ\0nonsense".to_vec()),
        ("a broken bzip2", b"BZh9nonsense".to_vec()),
        ("a broken zstd", b"\x28\xb5\x2f\xfdnonsense".to_vec()),
    ];
    for (name, bytes) in cases {
        let bench = Bench::new();
        let dir = bench.folder("context", "");
        std::fs::write(dir.join("a"), bytes).unwrap();
        let written = bench
            .run(&add("/x"), &bench.base(""), &bench.open(&dir, ""))
            .unwrap();
        let tar = executor::layer::readable(&bench.space, &written.diff_id)
            .unwrap()
            .tar
            .unwrap();
        let mut found = tar::Archive::new(std::fs::File::open(tar).unwrap());
        let entry = found.entries().unwrap().next().unwrap().unwrap();
        assert_eq!(
            (entry.path().unwrap().to_str().unwrap(), entry.size()),
            ("x", bytes.len() as u64),
            "{name}"
        );
    }
}

#[test]
fn not_unpacked_when_not_asked_for() {
    let bench = Bench::new();
    let bytes = archive(&[("f", FILE, 0o644, "x")]);
    let dir = bench.folder("context", "");
    std::fs::write(dir.join("a"), &bytes).unwrap();
    for op in [
        op("a", "/"),
        CopyOp {
            unpack: Some(false),
            ..add("/")
        },
    ] {
        let written = bench
            .run(&op, &bench.base(""), &bench.open(&dir, ""))
            .unwrap();
        let files = executor::layer::readable(&bench.space, &written.diff_id).unwrap();
        let mut tar = tar::Archive::new(std::fs::File::open(files.tar.unwrap()).unwrap());
        assert_eq!(
            tar.entries().unwrap().next().unwrap().unwrap().size(),
            bytes.len() as u64
        );
    }
}

#[test]
fn over_what_is_there() {
    let cases: &[(&str, &[Member<'_>], &str, &str)] = &[
        (
            "directories merge",
            &[("d/", DIR, 0o700, ""), ("d/n", FILE, 0o644, "n")],
            "d x/d 755\nf x/d/o 644 o",
            "d x 755 0:0\nd x/d 700 7:8\nf x/d/n 644 7:8 n",
        ),
        (
            "a file replaces a link",
            &[("l", FILE, 0o644, "new")],
            "l x/l /etc\nd etc 755",
            "d x 755 0:0\nf x/l 644 7:8 new",
        ),
        (
            "a file replaces a directory",
            &[("d", FILE, 0o644, "new")],
            "f x/d/a 644 a",
            "d x 755 0:0\nf x/d 644 7:8 new",
        ),
        (
            "a directory replaces a file",
            &[("d/", DIR, 0o755, ""), ("d/f", FILE, 0o644, "f")],
            "f x/d 644 old",
            "d x 755 0:0\nd x/d 755 7:8\nf x/d/f 644 7:8 f",
        ),
        (
            "a directory that went and came hides what was in it",
            &[
                ("d", FILE, 0o644, "x"),
                ("d", DIR, 0o755, ""),
                ("d/new", FILE, 0o644, "n"),
            ],
            "f x/d/old 644 o\nf x/d/e/older 644 o",
            "d x 755 0:0\nd x/d 755 7:8\nf x/d/.wh.e 0 0:0\nf x/d/new 644 7:8 n\nf x/d/.wh.old 0 0:0",
        ),
        (
            "the last of a name wins",
            &[("f", FILE, 0o644, "1"), ("f", FILE, 0o600, "2")],
            "",
            "d x 755 0:0\nf x/f 600 7:8 2",
        ),
        (
            "a hard link to the base",
            &[("h", HARD, 0o644, "d/o")],
            "f x/d/o 600 o",
            "d x 755 0:0\nd x/d 755 0:0\nf x/d/o 600 0:0 o\nh x/h => x/d/o",
        ),
    ];
    for (name, members, base, layers) in cases {
        let bench = Bench::new();
        let found = layer(&bench, &archive(members), &add("/x/"), base);
        let found: Vec<String> = found
            .unwrap()
            .into_iter()
            .map(|line| whiteout(&line))
            .collect();
        let wanted: Vec<String> = expected(layers)
            .into_iter()
            .map(|line| whiteout(&line))
            .collect();
        assert_eq!(found, wanted, "{name}");
    }
}

/// Whiteouts have no attributes that matter.
fn whiteout(line: &str) -> String {
    if line.contains("/.wh.") {
        line.split(' ').nth(1).unwrap().to_owned()
    } else {
        line.to_owned()
    }
}

/// AC20: what the archive only implies is root's, as with BuildKit.
#[test]
fn owners_can_be_overridden() {
    let bench = Bench::new();
    let op = CopyOp {
        chown: Some("1:2".into()),
        ..add("/x/")
    };
    let members: &[Member<'_>] = &[("n/f", FILE, 0o644, "x")];
    assert_eq!(
        layer(&bench, &archive(members), &op, "").unwrap(),
        expected("d x 755 1:2\nd x/n 755 0:0\nf x/n/f 644 1:2 x")
    );
}

/// AC20: the destination is the root of all that an archive names.
#[test]
fn hostile_archives() {
    let cases: &[(&str, &[Member<'_>], &str, Result<&str, &str>)] = &[
        (
            "an entry without a name",
            &[("", FILE, 0o644, ""), ("f", FILE, 0o644, "x")],
            "",
            Ok("d x 755 0:0\nf x/f 644 7:8 x"),
        ),
        (
            "dots",
            &[("../../f", FILE, 0o644, "x")],
            "",
            Ok("d x 755 0:0\nf x/f 644 7:8 x"),
        ),
        (
            "absolute",
            &[("/etc/f", FILE, 0o644, "x")],
            "",
            Ok("d x 755 0:0\nd x/etc 755 0:0\nf x/etc/f 644 7:8 x"),
        ),
        (
            "through its own link",
            &[("l", LINK, 0o777, "/../../out"), ("l/f", FILE, 0o644, "x")],
            "",
            Ok("d x 755 0:0\nl x/l 7:8 -> /../../out\nd x/out 755 0:0\nf x/out/f 644 7:8 x"),
        ),
        (
            "through a link to the folder above",
            &[("l", LINK, 0o777, ".."), ("l/etc/f", FILE, 0o644, "x")],
            "d etc 755",
            Ok("d x 755 0:0\nd x/etc 755 0:0\nf x/etc/f 644 7:8 x\nl x/l 7:8 -> .."),
        ),
        (
            "through a link of the base",
            &[("l/f", FILE, 0o644, "x")],
            "l x/l /etc\nd etc 755",
            Ok("d x 755 0:0\nd x/etc 755 0:0\nf x/etc/f 644 7:8 x"),
        ),
        (
            "a hard link to outside",
            &[("h", HARD, 0o644, "../../../etc/passwd")],
            "",
            Err("/a: /x/h is a hard link to /etc/passwd, which is not there"),
        ),
        (
            "a hard link to a directory",
            &[("d/", DIR, 0o755, ""), ("h", HARD, 0o644, "d")],
            "",
            Err("/a: /x/h is a hard link to /d, which is not there"),
        ),
        (
            "a whiteout's name",
            &[("d/.wh.f", FILE, 0o644, "")],
            "",
            Err(""),
        ),
        (
            "a link loop",
            &[
                ("a", LINK, 0o777, "b"),
                ("b", LINK, 0o777, "a"),
                ("a/f", FILE, 0o644, "x"),
            ],
            "",
            Err("too many links in /a"),
        ),
        (
            "below a file",
            &[("f", FILE, 0o644, "x"), ("f/g", FILE, 0o644, "y")],
            "",
            Err("mkdir /x/f: not a directory"),
        ),
    ];
    for (name, members, base, outcome) in cases {
        let bench = Bench::new();
        match (layer(&bench, &archive(members), &add("/x/"), base), outcome) {
            (Ok(found), Ok(layers)) => assert_eq!(found, expected(layers), "{name}"),
            (Err(found), Err(error)) => assert!(found.contains(error), "{name}: {found}"),
            (found, _) => panic!("{name}: {found:?}"),
        }
    }
}

#[test]
fn damaged_archives_are_errors() {
    let noise: String = (0..3000_u32)
        .map(|at| char::from(b'a' + (at.wrapping_mul(2_654_435_761) >> 27) as u8 % 26))
        .collect();
    let whole = archive(&[("a", FILE, 0o644, "first"), ("b", FILE, 0o644, &noise)]);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&whole).unwrap();
    let gzip = gzip.finish().unwrap();
    for bytes in [&whole[..1700], &gzip[..gzip.len() / 2]] {
        let bench = Bench::new();
        let error = layer(&bench, bytes, &add("/x/"), "").unwrap_err();
        assert!(error.starts_with("/a: "), "{error}");
    }
}

/// AC20: nothing but padding and the end mark is missing.
#[test]
fn an_archive_without_its_end_is_unpacked() {
    let whole = archive(&[("a", FILE, 0o644, "first"), ("b", FILE, 0o644, "second")]);
    for length in [3 * 512 + 10, 4 * 512] {
        let bench = Bench::new();
        assert_eq!(
            layer(&bench, &whole[..length], &add("/"), "").unwrap(),
            expected("f a 644 7:8 first\nf b 644 7:8 second")
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    /// Whatever an archive holds, the layer's paths are clean and nothing panics.
    #[test]
    fn any_archive_stays_inside(
        members in prop::collection::vec(("(\\.\\./|/|)([abl./]{1,3}/?){1,3}", 0_u8..7, "[abl./]{1,6}"), 1..8),
        flip in prop::option::of((0_usize..4096, any::<u8>())),
    ) {
        let kinds = [FILE, DIR, LINK, HARD, EntryType::Fifo, EntryType::Char, EntryType::GNUSparse];
        let members: Vec<Member<'_>> =
            members.iter().map(|(name, kind, text)| (name.as_str(), kinds[usize::from(*kind)], 0o755, text.as_str())).collect();
        let mut bytes = archive(&members);
        if let Some((at, value)) = flip {
            let at = at % bytes.len();
            bytes[at] = value;
        }
        let bench = Bench::new();
        if let Ok(lines) = layer(&bench, &bytes, &add("/x/"), "l b /y\nf x/a 644 a") {
            for line in lines {
                let path = line.split(' ').nth(1).unwrap_or_default();
                prop_assert!(path.split('/').all(|part| part != ".." && part != "." && !part.is_empty()), "{line}");
            }
        }
    }
}
