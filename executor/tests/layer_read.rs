//! Foreign layer blobs: every compression, digests checked, hostile tars refused or contained.

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

mod layer_support;

use executor::layer::{self, Compression, Limits};
use executor::snapshot::View;
use executor::space::Space;
use executor::tree::FileTree as _;
use layer_support::{Scratch, TarMaker, gzip, is_root};
use oci_spec::image::{Descriptor, MediaType};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;
use store::Store;

/// Reads and unpacks a layer; the error, or the tree's folder.
fn take(scratch: &Scratch, tar: &[u8], blob: &[u8]) -> Result<std::path::PathBuf, String> {
    let diff_id = scratch.register(tar, blob);
    let read = layer::readable(&scratch.space, &diff_id).map_err(|e| executor::error::chain(&e));
    let tree = layer::tree(&scratch.space, &diff_id).map_err(|e| executor::error::chain(&e));
    assert_eq!(read.is_ok(), tree.is_ok(), "{read:?} {tree:?}");
    read.and(tree)
}

fn sample() -> Vec<u8> {
    TarMaker::new()
        .dir("d")
        .file("d/f", &"content".repeat(100_000))
        .symlink("l", "d/f")
        .hardlink("d/h", "d/f")
        .end()
}

#[test]
fn every_compression_gives_the_same_layer() {
    let tar = sample();
    let members: Vec<u8> = tar.chunks(70_000).flat_map(gzip).collect();
    let frames: Vec<u8> = tar
        .chunks(70_000)
        .flat_map(|part| zstd::encode_all(part, 3).unwrap())
        .collect();
    let mut skippable = vec![0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3];
    skippable.extend(zstd::encode_all(tar.as_slice(), 3).unwrap());
    for blob in [tar.clone(), gzip(&tar), members, frames, skippable] {
        let scratch = Scratch::new();
        let tree = take(&scratch, &tar, &blob).unwrap();
        assert_eq!(
            std::fs::read(tree.join("l")).unwrap(),
            "content".repeat(100_000).as_bytes()
        );
        assert_eq!(std::fs::metadata(tree.join("d/h")).unwrap().nlink(), 2);
    }
}

#[test]
fn identity_is_the_same_from_writer_and_reader() {
    let folder = tempfile::tempdir().unwrap();
    let items = [
        (layer_support::dir("d"), None),
        (layer_support::file("d/f", 2), Some(b"hi".as_slice())),
        (layer_support::hardlink("d/h", "d/f"), None),
        (layer_support::file("no/parent", 1), Some(b"x".as_slice())),
    ];
    let (written, tar, _) = layer_support::write(folder.path(), "x", &items, &["d/gone"]);
    let scratch = Scratch::new();
    take(&scratch, &tar, &gzip(&tar)).unwrap();
    let meta = scratch
        .space
        .store()
        .layer(&written.diff_id)
        .unwrap()
        .unwrap();
    assert_eq!(
        (meta.identity, meta.size),
        (Some(written.identity), Some(written.size))
    );
}

#[test]
fn content_that_is_not_what_was_promised() {
    let tar = sample();
    let other = TarMaker::new().file("x", "y").end();
    let cut = &gzip(&tar)[..60];
    let mut garbage = gzip(&tar);
    let middle = garbage.len() / 2;
    garbage[middle] ^= 0xff;
    for (blob, expected) in [
        (gzip(&other), "its content has the digest"),
        (cut.to_vec(), "damaged"),
        (garbage, "layer sha256"),
        (b"nonsense".to_vec(), "cut off"),
    ] {
        let error = take(&Scratch::new(), &tar, &blob).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_corrupt_blob_of_the_store_is_told() {
    let (scratch, tar) = (Scratch::new(), sample());
    let blob = gzip(&tar);
    let diff_id = scratch.register(&tar, &blob);
    let path = scratch
        .space
        .store()
        .blob_path(&layer_support::sha256(&blob));
    // The same content compressed otherwise: only the blob's own digest can tell.
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, zstd::encode_all(tar.as_slice(), 1).unwrap()).unwrap();
    for result in [
        layer::readable(&scratch.space, &diff_id).map(drop),
        layer::tree(&scratch.space, &diff_id).map(drop),
    ] {
        let error = executor::error::chain(&result.unwrap_err());
        assert!(error.contains("corrupt"), "{error}");
    }
}

#[test]
fn unknown_layers() {
    let scratch = Scratch::new();
    let error = layer::readable(&scratch.space, &layer_support::sha256(b"x"))
        .unwrap_err()
        .to_string();
    assert!(error.contains("in the store"), "{error}");
}

/// HS04, HS05.
#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn hostile_layers_are_refused() {
    let mut bad_sum = TarMaker::new().file("a", "b").end();
    bad_sum[0] = b'x';
    let mut bad_size = TarMaker::new().file("a", "").end();
    bad_size[124..136].copy_from_slice(&[0xff; 12]);
    let sum: u32 = bad_size[..512]
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
    bad_size[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let deep = "d/".repeat(2500);
    let rows: Vec<(&str, Vec<u8>, &str)> = vec![
        (
            "dot dot",
            TarMaker::new().file("../x", "").end(),
            "leads out",
        ),
        (
            "inner dot dot",
            TarMaker::new().file("a/../../x", "").end(),
            "leads out",
        ),
        (
            "absolute dot dot",
            TarMaker::new().file("/../x", "").end(),
            "leads out",
        ),
        (
            "link outside",
            TarMaker::new().hardlink("a", "../../etc/passwd").end(),
            "leads out",
        ),
        (
            "link to nothing",
            TarMaker::new().hardlink("a", "/etc/passwd").end(),
            "not in the layer",
        ),
        (
            "link to a directory",
            TarMaker::new().dir("d").hardlink("a", "d").end(),
            "is a directory",
        ),
        (
            "link through a link",
            TarMaker::new()
                .symlink("l", "/etc")
                .hardlink("a", "l/passwd")
                .end(),
            "not in the layer",
        ),
        (
            "NUL",
            TarMaker::new()
                .pax(&[("path", b"a\0b")])
                .file("x", "")
                .end(),
            "NUL",
        ),
        ("empty name", TarMaker::new().file("", "").end(), "no name"),
        (
            "file as parent",
            TarMaker::new().file("a", "").file("a/b", "").end(),
            "no directory",
        ),
        (
            "root as file",
            TarMaker::new()
                .file("./", "x")
                .raw(b'2', b"/", b"x", b"")
                .end(),
            "root",
        ),
        (
            "whiteout of nothing",
            TarMaker::new().file("a/.wh.", "").end(),
            "whiteout of nothing",
        ),
        (
            "whiteout of dots",
            TarMaker::new().file("a/.wh...", "").end(),
            "whiteout of nothing",
        ),
        (
            "whiteout as parent",
            TarMaker::new().file(".wh.a/b", "").end(),
            "like a whiteout",
        ),
        (
            "symlink loop",
            TarMaker::new()
                .symlink("a", "b")
                .symlink("b", "a")
                .file("a/x", "")
                .end(),
            "too many links",
        ),
        (
            "unknown type",
            TarMaker::new().raw(b'Z', b"a", b"", b"").end(),
            "unknown type",
        ),
        (
            "sparse",
            TarMaker::new().raw(b'S', b"a", b"", b"").end(),
            "sparse",
        ),
        (
            "pax sparse",
            TarMaker::new()
                .pax(&[("GNU.sparse.major", b"1")])
                .file("a", "")
                .end(),
            "sparse",
        ),
        ("checksum", bad_sum, "checksum"),
        ("size", bad_size, "size"),
        ("cut off", sample()[..3000].to_vec(), "cut off"),
        (
            "long",
            TarMaker::new()
                .pax(&[("path", deep.as_bytes())])
                .file("a", "")
                .end(),
            "more than 4095",
        ),
        (
            "long name",
            TarMaker::new()
                .pax(&[("path", &[b'n'; 256])])
                .file("a", "")
                .end(),
            "255",
        ),
        (
            "broken record",
            TarMaker::new()
                .raw(b'x', b"h", b"", b"99 path=a\n")
                .file("a", "")
                .end(),
            "extended header",
        ),
        (
            "huge record",
            TarMaker::new()
                .raw(b'x', b"h", b"", &vec![b'1'; 2 << 20])
                .end(),
            "too large",
        ),
        (
            "huge name",
            TarMaker::new()
                .raw(b'L', b"h", b"", &vec![b'1'; 2 << 20])
                .end(),
            "too large",
        ),
    ];
    for (name, tar, expected) in rows {
        let error = take(&Scratch::new(), &tar, &tar).expect_err(name);
        assert!(
            error.contains(expected) && error.contains("layer sha256:"),
            "{name}: {error}"
        );
    }
}

#[test]
fn bounds() {
    let many = TarMaker::new()
        .file("a", "")
        .file("b", "")
        .file("c", "")
        .end();
    let big = TarMaker::new().file("a", &"\0".repeat(1 << 20)).end();
    let rows = [
        (
            Limits {
                entries: 2,
                ..Limits::default()
            },
            many,
            "more than 2 entries",
        ),
        (
            Limits {
                tar: 1 << 20,
                ..Limits::default()
            },
            big.clone(),
            "more than 1048576 bytes",
        ),
        (
            Limits {
                metadata: 0,
                ..Limits::default()
            },
            big,
            "bytes of names",
        ),
    ];
    for (limits, tar, expected) in rows {
        let scratch = Scratch::with_limits(limits);
        let error = take(&scratch, &tar, &gzip(&tar)).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
}

/// All paths below a folder.
fn paths(folder: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut pending = vec![folder.to_path_buf()];
    while let Some(dir) = pending.pop() {
        for item in std::fs::read_dir(dir).unwrap() {
            let item = item.unwrap();
            found.insert(
                item.path()
                    .strip_prefix(folder)
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .to_owned(),
            );
            if item.file_type().unwrap().is_dir() {
                pending.push(item.path());
            }
        }
    }
    found
}

#[test]
fn links_of_the_layer_are_followed_inside_it() {
    let scratch = Scratch::new();
    let outside = scratch.folder.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    let target = outside.to_str().unwrap();
    let tar = TarMaker::new()
        .symlink("abs", target)
        .file("abs/evil", "e")
        .symlink("up", "../../../../../..")
        .file("up/evil", "e")
        .symlink("over", "abs/evil")
        .file("over", "o")
        .end();
    let tree = take(&scratch, &tar, &tar).unwrap();
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
    assert!(tree.join("evil").is_file() && tree.join(&target[1..]).join("evil").is_file());
    assert!(
        std::fs::symlink_metadata(tree.join("over"))
            .unwrap()
            .is_file()
    );
}

#[test]
fn later_entries_win() {
    let tar = TarMaker::new()
        .dir("d")
        .file("d/x", "1")
        .hardlink("kept", "d/x")
        .hardlink("kept2", "d/x")
        .file("d", "now a file")
        .file("f", "1")
        .dir("f")
        .file("f/in", "2")
        .symlink("s", "nowhere")
        .file("s", "3")
        .end();
    let scratch = Scratch::new();
    let tree = take(&scratch, &tar, &gzip(&tar)).unwrap();
    let expected = ["d", "f", "f/in", "kept", "kept2", "s"];
    assert_eq!(
        paths(&tree),
        expected.iter().map(|s| (*s).to_owned()).collect()
    );
    assert_eq!(std::fs::read(tree.join("kept")).unwrap(), b"1");
    assert_eq!(std::fs::metadata(tree.join("kept")).unwrap().nlink(), 2);
    let view =
        View::load(&[layer::readable(&scratch.space, &layer_support::sha256(&tar)).unwrap()])
            .unwrap();
    let seen: Vec<Vec<u8>> = view.list(b"").unwrap();
    assert_eq!(
        seen,
        [
            b"d".to_vec(),
            b"f".to_vec(),
            b"kept".to_vec(),
            b"kept2".to_vec(),
            b"s".to_vec()
        ]
    );
    assert_eq!(view.read(b"kept2", 9).unwrap().unwrap(), b"1");
    assert_eq!(view.link_id(b"kept"), view.link_id(b"kept2"));
}

/// HS07.
#[test]
fn attributes_reach_the_tree() {
    if layer_support::skip_without_root("setting owners") {
        return;
    }
    let tar = TarMaker::new()
        .pax(&[
            ("uid", b"3000000"),
            ("mtime", b"-5.5"),
            ("SCHILY.xattr.user.k", b"v"),
            ("SCHILY.xattr.user.overlay.opaque", b"y"),
            ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
            ("SCHILY.xattr.security.selinux", b"x"),
        ])
        .dir("d")
        .raw(b'6', b"d/fifo", b"", b"")
        .file("w/.wh.gone", "")
        .dir("o")
        .file("o/.wh..wh..opq", "")
        .file("p/.wh.again", "")
        .file("p/again/x", "")
        .end();
    let scratch = Scratch::new();
    let tree = take(&scratch, &tar, &tar).unwrap();
    let dir = std::fs::metadata(tree.join("d")).unwrap();
    assert_eq!(
        (dir.uid(), dir.gid(), dir.mode() & 0o7777, dir.mtime()),
        (3_000_000, 0, 0o755, -6)
    );
    assert_eq!(xattr_names(&tree.join("d")), ["user.k"]);
    assert!(
        std::fs::metadata(tree.join("d/fifo"))
            .unwrap()
            .file_type()
            .is_fifo()
    );
    let gone = std::fs::symlink_metadata(tree.join("w/gone")).unwrap();
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
    assert_eq!(xattr_names(&tree.join("o")), ["user.overlay.opaque"]);
    assert_eq!(xattr_names(&tree.join("p/again")), ["user.overlay.opaque"]);
    assert!(tree.join("p/again/x").is_file());
}

fn xattr_names(path: &Path) -> Vec<String> {
    let mut names = vec![0u8; 4096];
    let length = rustix::fs::listxattr(path, &mut names).unwrap();
    let names = names[..length].split(|b| *b == 0).filter(|n| !n.is_empty());
    let mut names: Vec<String> = names
        .map(|name| String::from_utf8(name.to_vec()).unwrap())
        .collect();
    names.sort();
    names
}

/// HS06.
#[test]
fn devices_are_made_by_root_only() {
    let tar = TarMaker::new()
        .raw(b'4', b"disk", b"", b"")
        .hardlink("same", "disk")
        .end();
    let scratch = Scratch::new();
    let tree = take(&scratch, &tar, &tar).unwrap();
    assert_eq!(
        std::fs::symlink_metadata(tree.join("disk")).is_ok(),
        is_root()
    );
    let view =
        View::load(&[layer::readable(&scratch.space, &layer_support::sha256(&tar)).unwrap()])
            .unwrap();
    assert!(view.entry(b"disk").unwrap().is_some() && view.entry(b"same").unwrap().is_some());
}

#[test]
fn threads_unpack_once() {
    let (scratch, tar) = (Scratch::new(), sample());
    let diff_id = scratch.register(&tar, &gzip(&tar));
    let trees: BTreeSet<std::path::PathBuf> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| layer::tree(&scratch.space, &diff_id).unwrap()))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    assert_eq!(trees.len(), 1);
}

/// Two handles on one store are as two processes to each other.
#[test]
fn processes_may_unpack_at_once() {
    let (scratch, tar) = (Scratch::new(), sample());
    let diff_id = scratch.register(&tar, &gzip(&tar));
    let root = scratch.space.store().root();
    let unfinished = || std::fs::read_dir(root.join("scratch")).unwrap().count();
    let before = unfinished();
    std::thread::scope(|scope| {
        let work = || {
            let space = Space::new(Store::open(root).unwrap());
            let files = layer::readable(&space, &diff_id).unwrap();
            let tree = layer::tree(&space, &diff_id).unwrap();
            assert!(tree.join("d/f").is_file() && files.index.is_file());
        };
        let threads: Vec<_> = (0..6).map(|_| scope.spawn(work)).collect();
        threads
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
    });
    assert_eq!(unfinished(), before, "nothing half-made is left");
}

#[test]
fn a_full_disk_is_told() {
    use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
    if layer_support::skip_without_root("mounting a small tmpfs") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let options = c"size=1m";
    mount(
        "tmpfs",
        folder.path(),
        "tmpfs",
        MountFlags::empty(),
        options,
    )
    .unwrap();
    let tar = TarMaker::new().file("a", &"x".repeat(4 << 20)).end();
    let blob = gzip(&tar);
    let shown = std::panic::catch_unwind(|| {
        let space = Space::new(Store::open(&folder.path().join("store")).unwrap());
        let digest = space.store().put_blob(&blob).unwrap();
        let descriptor = Descriptor::new(MediaType::ImageLayerGzip, blob.len() as u64, digest);
        let diff_id = layer_support::sha256(&tar);
        layer::register_blob(&space, &diff_id, &descriptor).unwrap();
        [
            layer::readable(&space, &diff_id).map(drop),
            layer::tree(&space, &diff_id).map(drop),
            layer::blob(&space, &diff_id, Compression::Uncompressed, false).map(drop),
        ]
        .map(|result| executor::error::chain(&result.unwrap_err()))
    });
    unmount(folder.path(), UnmountFlags::DETACH).unwrap();
    for error in shown.unwrap() {
        assert!(
            error.contains("could not write") && error.contains("No space left"),
            "{error}"
        );
    }
}

/// Header blocks with right checksums around random fields, so that reading gets beyond the first check.
fn block() -> impl Strategy<Value = Vec<u8>> {
    let name = prop_oneof![
        Just("a"),
        Just("a/b"),
        Just("./c/"),
        Just(".wh.a"),
        Just("a/.wh..wh..opq"),
        Just("d/../e"),
        Just("l/x")
    ];
    let flag = prop::sample::select(b"0123456xgLKS7\0".to_vec());
    let content = prop::collection::vec(any::<u8>(), 0..700);
    let damage = prop::collection::vec((0..512usize, any::<u8>()), 0..3);
    (
        name,
        flag,
        prop_oneof![Just("a"), Just("/a/b"), Just("..")],
        content,
        damage,
        any::<bool>(),
    )
        .prop_map(|(name, flag, link, content, damage, repair)| {
            let mut bytes = TarMaker::new()
                .raw(flag, name.as_bytes(), link.as_bytes(), &content)
                .end();
            bytes.truncate(bytes.len() - 1024);
            for (at, value) in damage {
                bytes[at] = value;
            }
            if repair {
                let sum: u32 = bytes[..512]
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
                bytes[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            }
            bytes
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever comes in: an error or a tree, the same verdict by index and by extraction, nothing outside the tree.
    #[test]
    fn random_tars_do_no_harm(blocks in prop::collection::vec(block(), 1..8), tail in prop::collection::vec(any::<u8>(), 0..600)) {
        let mut tar = blocks.concat();
        tar.extend(tail);
        let scratch = Scratch::new();
        let before = paths(scratch.folder.path()).into_iter().filter(|p| !p.starts_with("store/")).count();
        if let Ok(tree) = take(&scratch, &tar, &tar) {
            let view = View::load(&[layer::readable(&scratch.space, &layer_support::sha256(&tar)).unwrap()]).unwrap();
            // The view shows what the tree has, whiteouts (devices 0:0) aside.
            for path in paths(&tree) {
                let meta = std::fs::symlink_metadata(tree.join(&path)).unwrap();
                let whiteout = meta.file_type().is_char_device() && meta.rdev() == 0;
                prop_assert_eq!(view.entry(path.as_bytes()).unwrap().is_some(), !whiteout, "{}", path);
            }
        }
        let after = paths(scratch.folder.path()).into_iter().filter(|p| !p.starts_with("store/")).count();
        prop_assert_eq!(before, after);
    }
}
