//! The merged view: lookups, listings, link resolution and content over several layers.

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

mod layer_support;

use executor::snapshot::{LayerFiles, View};
use executor::tree::{Entry, FileTree, Kind};
use layer_support::{Scratch, TarMaker, dir, file, hardlink, layer_files, link};
use std::io::Read as _;

fn names(view: &View, path: &str) -> Vec<String> {
    view.list(path.as_bytes())
        .unwrap()
        .into_iter()
        .map(|name| String::from_utf8(name).unwrap())
        .collect()
}

fn content(view: &View, path: &str) -> String {
    let mut text = String::new();
    view.open(path.as_bytes())
        .unwrap()
        .read_to_string(&mut text)
        .unwrap();
    text
}

fn exists(view: &View, path: &str) -> bool {
    view.entry(path.as_bytes()).unwrap().is_some()
}

#[test]
fn upper_layers_win_and_whiteouts_hide() {
    let folder = tempfile::tempdir().unwrap();
    let base = layer_files(
        folder.path(),
        "base",
        &[
            (dir("a"), None),
            (file("a/kept", 3), Some(b"one")),
            (file("a/over", 3), Some(b"old")),
            (file("a-b", 1), Some(b"-")),
            (dir("gone"), None),
            (file("gone/x", 1), Some(b"x")),
            (dir("swap"), None),
            (file("swap/in", 1), Some(b"i")),
        ],
        &[],
    );
    let mut changed = file("a/over", 3);
    changed.mode = 0o600;
    let upper = layer_files(
        folder.path(),
        "upper",
        &[
            (changed, Some(b"new")),
            (file("a/added", 0), None),
            (link("swap", "a"), None),
        ],
        &["gone", "a-b"],
    );
    let view = View::load(&[base, upper]).unwrap();
    assert_eq!(names(&view, ""), ["a", "swap"]);
    assert_eq!(names(&view, "a"), ["added", "kept", "over"]);
    assert_eq!(
        (content(&view, "a/over"), content(&view, "a/kept")),
        ("new".to_owned(), "one".to_owned())
    );
    assert_eq!(view.entry(b"a/over").unwrap().unwrap().mode, 0o600);
    assert_eq!(
        view.entry(b"a").unwrap().unwrap().mtime,
        1_485_449_953,
        "a parent without an entry changes nothing"
    );
    for path in ["gone", "gone/x", "a-b", "swap/in", "a/kept/below", "never"] {
        assert!(!exists(&view, path), "{path}");
    }
    assert!(view.list(b"gone").is_err() && view.list(b"swap").is_err() && view.open(b"a").is_err());
}

#[test]
fn a_directory_made_again_is_new() {
    let folder = tempfile::tempdir().unwrap();
    let base = layer_files(
        folder.path(),
        "1",
        &[(dir("d"), None), (file("d/old", 1), Some(b"o"))],
        &[],
    );
    let without = layer_files(folder.path(), "2", &[], &["d"]);
    let again = layer_files(
        folder.path(),
        "3",
        &[(dir("d"), None), (file("d/new", 1), Some(b"n"))],
        &[],
    );
    let view = View::load(&[base, without, again]).unwrap();
    assert_eq!(names(&view, "d"), ["new"]);
    assert!(!exists(&view, "d/old"));
}

#[test]
fn the_root_is_always_there() {
    let view = View::load(&[]).unwrap();
    let root = view.entry(b"").unwrap().unwrap();
    assert_eq!(
        (root.kind, root.mode, root.uid),
        (Kind::Directory, 0o755, 0)
    );
    assert_eq!(view.list(b"").unwrap(), Vec::<Vec<u8>>::new());
    let folder = tempfile::tempdir().unwrap();
    let own = Entry {
        mode: 0o700,
        ..dir("")
    };
    let view = View::load(&[layer_files(
        folder.path(),
        "r",
        &[(own, None), (dir("x"), None)],
        &[],
    )])
    .unwrap();
    assert_eq!(view.entry(b"").unwrap().unwrap().mode, 0o700);
    assert_eq!(names(&view, ""), ["x"]);
}

#[test]
fn links_resolve_inside_the_root() {
    let folder = tempfile::tempdir().unwrap();
    let base = layer_files(
        folder.path(),
        "base",
        &[
            (link("abs", "/usr/lib"), None),
            (link("deep", "usr/../abs/x"), None),
            (link("loop", "loop"), None),
            (link("out", "../../../usr"), None),
            (dir("usr"), None),
            (dir("usr/lib"), None),
            (link("usr/lib/up", ".."), None),
            (file("usr/lib/x", 2), Some(b"hi")),
        ],
        &[],
    );
    let view = View::load(&[base]).unwrap();
    let rows = [
        ("abs/x", true, "usr/lib/x"),
        ("/abs//./x", true, "usr/lib/x"),
        ("abs", false, "abs"),
        ("abs", true, "usr/lib"),
        ("deep", true, "usr/lib/x"),
        ("out/lib", true, "usr/lib"),
        ("abs/up/lib/x", true, "usr/lib/x"),
        ("../../abs/..", true, "usr"),
        ("abs/new/dir", true, "usr/lib/new/dir"),
        ("usr/lib/x/../y", true, "usr/lib/y"),
        ("", true, ""),
        ("/", true, ""),
    ];
    for (path, follow, expected) in rows {
        let found = view.resolve(path.as_bytes(), follow).unwrap();
        assert_eq!(String::from_utf8(found).unwrap(), expected, "{path}");
    }
    assert!(view.resolve(b"loop/x", true).is_err());
    assert_eq!(view.resolve(b"loop", false).unwrap(), b"loop");
    assert_eq!(view.read(b"/deep", 10).unwrap().unwrap(), b"hi");
    assert_eq!(view.read(b"/nothing", 10).unwrap(), None);
    assert!(view.read(b"/deep", 1).is_err() && view.read(b"/usr", 10).is_err());
}

#[test]
fn hard_links_share_content_and_identity() {
    let folder = tempfile::tempdir().unwrap();
    let mut first = file("a", 2);
    (first.uid, first.xattrs) = (7, vec![(b"user.k".to_vec(), b"v".to_vec())]);
    let base = layer_files(
        folder.path(),
        "base",
        &[
            (first, Some(b"hi")),
            (hardlink("b", "a"), None),
            (file("c", 2), Some(b"hi")),
        ],
        &[],
    );
    // The link's target goes in a later layer; the link stays.
    let upper = layer_files(folder.path(), "upper", &[], &["a"]);
    let view = View::load(std::slice::from_ref(&base)).unwrap();
    assert_eq!(view.link_id(b"a"), view.link_id(b"b"));
    assert_ne!(view.link_id(b"a"), view.link_id(b"c"));
    let view = View::load(&[base, upper]).unwrap();
    let entry = view.entry(b"b").unwrap().unwrap();
    assert_eq!((entry.uid, entry.path.as_slice()), (7, b"b".as_slice()));
    assert!(matches!(
        entry.kind,
        Kind::File {
            size: 2,
            digest: Some(_)
        }
    ));
    assert_eq!(entry.xattrs.len(), 1);
    assert_eq!(content(&view, "b"), "hi");
    assert_eq!(view.digest(b"b").unwrap(), *blake3::hash(b"hi").as_bytes());
}

/// Base layers as other tools write them.
#[test]
fn foreign_layers() {
    let scratch = Scratch::new();
    let base = TarMaker::new()
        .dir("./")
        .dir("./etc/")
        .file("./etc/passwd", "root")
        .file("etc//group", "wheel")
        .dir("opq")
        .file("opq/old", "1")
        .file("/abs", "a")
        .file("z", "first")
        .file("z", "second")
        .symlink("lib", "usr/lib")
        .file("lib/through", "t")
        .dir("both")
        .file("both/below", "b")
        .file("missing/parents/x", "x")
        .end();
    let upper = TarMaker::new()
        .file("opq/.wh..wh..opq", "")
        .file("opq/new", "2")
        .file(".wh.both", "")
        .dir("both")
        .file("both/fresh", "f")
        .file("etc/.wh.group", "")
        .raw(b'3', b"abs", b"", b"")
        .end();
    let base = scratch.register(&base, &layer_support::gzip(&base));
    let upper = scratch.register(&upper, &upper);
    let files: Vec<LayerFiles> = [base, upper]
        .iter()
        .map(|layer| executor::layer::readable(&scratch.space, layer).unwrap())
        .collect();
    let view = View::load(&files).unwrap();
    assert_eq!(
        names(&view, ""),
        ["both", "etc", "lib", "missing", "opq", "usr", "z"]
    );
    assert_eq!(names(&view, "etc"), ["passwd"]);
    assert_eq!(names(&view, "opq"), ["new"]);
    assert_eq!(names(&view, "both"), ["fresh"]);
    assert_eq!(content(&view, "z"), "second");
    assert_eq!(content(&view, "usr/lib/through"), "t");
    assert_eq!(content(&view, "missing/parents/x"), "x");
    assert_eq!(view.entry(b"missing").unwrap().unwrap().mode, 0o755);
    assert!(!exists(&view, "abs") && !exists(&view, "opq/old"));
}

#[test]
fn damaged_indexes_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let files = layer_files(folder.path(), "x", &[(file("a", 1), Some(b"1"))], &[]);
    let whole = std::fs::read(&files.index).unwrap();
    let mut damaged: Vec<Vec<u8>> = (0..whole.len())
        .step_by(7)
        .map(|at| whole[..at].to_vec())
        .collect();
    damaged.extend((0..whole.len()).map(|at| {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x40;
        bytes
    }));
    for bytes in damaged {
        std::fs::write(&files.index, bytes).unwrap();
        assert!(View::load(std::slice::from_ref(&files)).is_err());
    }
}
