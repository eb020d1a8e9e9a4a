//! Root file systems as trees of the Remote Execution API: the same as the merged view, in canonical form, whatever the layers.

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

mod layer_support;

use executor::cluster::tree::{Carried, InputTree, input_tree};
use executor::layer;
use executor::snapshot::{Snapshot, View};
use executor::tree::{Entry, FileTree as _, Kind};
use layer_support::{Scratch, TarMaker};
use oci_spec::image::Digest as DiffId;
use proptest::prelude::*;
use reapi::google::protobuf::{Timestamp, UInt32Value};
use reapi::prost::Message as _;
use reapi::{Content, Digest, proto};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read as _;

const ALL: Carried = Carried {
    modes: true,
    times: true,
    absolute_links: true,
};

fn snapshot(layers: &[DiffId]) -> Snapshot {
    Snapshot {
        layers: layers.to_vec(),
    }
}

fn view(scratch: &Scratch, layers: &[DiffId]) -> View {
    let files = layers
        .iter()
        .map(|id| layer::readable(&scratch.space, id).unwrap());
    View::load(&files.collect::<Vec<_>>()).unwrap()
}

/// All blobs of a tree, read; each is what its digest says, and there once.
fn blobs(scratch: &Scratch, tree: &InputTree) -> BTreeMap<Digest, Vec<u8>> {
    let mut found = BTreeMap::new();
    for blob in tree.blobs(&scratch.space).unwrap() {
        let bytes = match &blob.content {
            Content::Bytes(bytes) => bytes.to_vec(),
            Content::Source(source) => {
                let mut bytes = Vec::new();
                source.open().unwrap().read_to_end(&mut bytes).unwrap();
                bytes
            }
        };
        assert_eq!(Digest::of(&bytes), blob.digest);
        assert!(
            found.insert(blob.digest, bytes).is_none(),
            "{} twice",
            blob.digest
        );
    }
    found
}

fn properties(carried: Carried, mode: Option<u32>, mtime: i64) -> Option<proto::NodeProperties> {
    let unix_mode = mode.filter(|_| carried.modes).map(|mode| UInt32Value {
        value: mode & 0o777,
    });
    let mtime = carried.times.then_some(Timestamp {
        seconds: mtime,
        nanos: 0,
    });
    (unix_mode.is_some() || mtime.is_some()).then(|| proto::NodeProperties {
        properties: Vec::new(),
        mtime,
        unix_mode,
    })
}

/// The message of a directory as the merged view has it, with all that it names.
fn expected(
    view: &View,
    (path, entry): (&[u8], &Entry),
    carried: Carried,
    all: &mut BTreeSet<Digest>,
) -> Digest {
    let mut directory = proto::Directory {
        node_properties: properties(carried, Some(entry.mode), entry.mtime),
        ..proto::Directory::default()
    };
    for (name, entry) in view.children(path).unwrap() {
        let Ok(name) = String::from_utf8(name) else {
            continue;
        };
        match &entry.kind {
            Kind::Directory => {
                let digest = expected(view, (&entry.path, &entry), carried, all);
                directory.directories.push(proto::DirectoryNode {
                    name,
                    digest: Some(digest.to_proto()),
                });
            }
            Kind::File { .. } => {
                let mut bytes = Vec::new();
                view.open(&entry.path)
                    .unwrap()
                    .read_to_end(&mut bytes)
                    .unwrap();
                all.insert(Digest::of(&bytes));
                directory.files.push(proto::FileNode {
                    name,
                    digest: Some(Digest::of(&bytes).to_proto()),
                    is_executable: entry.mode & 0o111 != 0,
                    node_properties: properties(carried, Some(entry.mode), entry.mtime),
                });
            }
            Kind::Symlink { target } => {
                let Ok(target) = String::from_utf8(target.clone()) else {
                    continue;
                };
                if target.contains("//") || (target.starts_with('/') && !carried.absolute_links) {
                    continue;
                }
                directory.symlinks.push(proto::SymlinkNode {
                    name,
                    target,
                    node_properties: properties(carried, None, entry.mtime),
                });
            }
            _ => {}
        }
    }
    let digest = Digest::of(&directory.encode_to_vec());
    all.insert(digest);
    digest
}

/// Content of files that have a name that is not UTF-8, by its BLAKE3.
fn unnamed(view: &View, path: &[u8], found: &mut BTreeMap<String, Vec<u8>>) {
    for (_, entry) in view.children(path).unwrap() {
        match &entry.kind {
            Kind::Directory => unnamed(view, &entry.path, found),
            Kind::File { digest, .. } if String::from_utf8(entry.path.clone()).is_err() => {
                let mut bytes = Vec::new();
                view.open(&entry.path)
                    .unwrap()
                    .read_to_end(&mut bytes)
                    .unwrap();
                let digest = blake3::Hash::from_bytes(digest.unwrap());
                found.insert(digest.to_hex().to_string(), bytes);
            }
            _ => {}
        }
    }
}

fn assert_canonical(directory: &proto::Directory) {
    let mut names = BTreeSet::new();
    let mut add = |name: &str, last: &mut String| {
        assert!(
            last.is_empty() || last.as_str() < name,
            "{last} before {name}"
        );
        name.clone_into(last);
        assert!(
            !matches!(name, "" | "." | "..") && !name.contains(['/', '\0']),
            "{name:?}"
        );
        assert!(names.insert(name.to_owned()), "{name:?} twice");
    };
    let mut last = String::new();
    directory
        .files
        .iter()
        .for_each(|node| add(&node.name, &mut last));
    last.clear();
    directory
        .directories
        .iter()
        .for_each(|node| add(&node.name, &mut last));
    last.clear();
    directory
        .symlinks
        .iter()
        .for_each(|node| add(&node.name, &mut last));
}

/// Compares a tree with the merged view, and its blobs with what it names.
fn check(scratch: &Scratch, layers: &[DiffId], carried: Carried) -> InputTree {
    let tree = input_tree(&scratch.space, &snapshot(layers), carried).unwrap();
    let view = view(scratch, layers);
    let root = view.entry(b"").unwrap().unwrap();
    let mut all = BTreeSet::new();
    assert_eq!(expected(&view, (b"", &root), carried, &mut all), tree.root);
    let blobs = blobs(scratch, &tree);

    let mut pending: Vec<Digest> = tree.directories().iter().map(child).collect();
    let mut named = BTreeSet::new();
    while let Some(digest) = pending.pop() {
        let directory = proto::Directory::decode(&blobs[&digest][..]).unwrap();
        assert_canonical(&directory);
        named.insert(digest);
        named.extend(
            directory
                .files
                .iter()
                .map(|node| Digest::from_proto(node.digest.as_ref().unwrap()).unwrap()),
        );
        pending.extend(directory.directories.iter().map(child));
    }
    assert!(all.is_subset(&named));
    assert_eq!(named, blobs.keys().copied().collect());

    let meta = proto::Directory::decode(&blobs[&tree.meta][..]).unwrap();
    for (number, id) in layers.iter().enumerate() {
        let index = fs::read(layer::readable(&scratch.space, id).unwrap().index).unwrap();
        let node = &meta.files[number];
        assert_eq!(node.name, format!("{number:03}.idx"));
        assert_eq!(node.digest, Some(Digest::of(&index).to_proto()));
    }
    let mut wanted = BTreeMap::new();
    unnamed(&view, b"", &mut wanted);
    let extra = tree
        .extra
        .map(|extra| proto::Directory::decode(&blobs[&extra][..]).unwrap());
    let extra = extra.unwrap_or_default();
    for (name, bytes) in wanted {
        let node = extra.files.iter().find(|node| node.name == name).unwrap();
        assert_eq!(node.digest, Some(Digest::of(&bytes).to_proto()));
    }
    tree
}

fn child(node: &proto::DirectoryNode) -> Digest {
    Digest::from_proto(node.digest.as_ref().unwrap()).unwrap()
}

fn register(scratch: &Scratch, tar: TarMaker) -> DiffId {
    let tar = tar.end();
    scratch.register(&tar, &tar)
}

#[test]
fn a_debian_like_root_and_what_a_step_changes() {
    let scratch = Scratch::new();
    let base = TarMaker::new()
        .dir("etc")
        .file("etc/passwd", "root")
        .file("etc/group", "root")
        .symlink("bin", "usr/bin")
        .dir("usr")
        .dir("usr/bin")
        .file("usr/bin/sh", "shell")
        .hardlink("usr/bin/dash", "usr/bin/sh")
        .symlink("etc/localtime", "/usr/share/zoneinfo/UTC")
        .symlink("etc/odd", "..//x")
        .raw(b'6', b"pipe", b"", b"")
        .dir("empty")
        .dir("var")
        .dir("var/lib")
        .file("var/lib/state", "");
    let base = register(&scratch, base);
    let step = TarMaker::new()
        .file("etc/.wh.group", "")
        .file("var/lib/new", "new")
        .raw(b'0', b"etc/passwd", b"", b"root and more");
    let step = register(&scratch, step);
    let opaque = TarMaker::new()
        .dir("usr")
        .file("usr/.wh..wh..opq", "")
        .file("usr/bin", "no directory now")
        .file(".wh.empty", "");
    let opaque = register(&scratch, opaque);
    let layers = [base, step, opaque];
    for carried in [Carried::default(), ALL] {
        for count in 0..=3 {
            check(&scratch, &layers[..count], carried);
        }
    }
    let bare = Carried::default();
    let first = check(&scratch, &layers[..1], bare);
    // A layer that changes nothing but attributes that are not carried leaves the tree as it is.
    let same = register(
        &scratch,
        TarMaker::new().dir("etc").file("etc/passwd", "root"),
    );
    let again = check(&scratch, &[layers[0].clone(), same], bare);
    assert_eq!(first.root, again.root);
    assert_ne!(first.meta, again.meta);
}

#[test]
fn what_the_server_has_is_not_sent_again() {
    let scratch = Scratch::new();
    let tar = TarMaker::new();
    let tar = tar
        .dir("a")
        .file("a/x", "x")
        .dir("b")
        .file("b/y", "y")
        .file("z", "z");
    let base = register(&scratch, tar);
    let step = register(&scratch, TarMaker::new().dir("b").file("b/new", "new"));
    let again = register(&scratch, TarMaker::new().dir("c").file("c/w", "x"));
    let first = check(&scratch, std::slice::from_ref(&base), ALL);
    let there: BTreeSet<Digest> = blobs(&scratch, &first).into_keys().collect();
    let lacking = |layers: &[DiffId]| {
        let tree = check(&scratch, layers, ALL);
        let lacking = tree
            .lacking(&scratch.space, &|digest| there.contains(digest))
            .unwrap();
        let lacking: BTreeSet<Digest> = lacking.iter().map(|blob| blob.digest).collect();
        let all: BTreeSet<Digest> = blobs(&scratch, &tree).into_keys().collect();
        assert_eq!(lacking, all.difference(&there).copied().collect());
        lacking.len()
    };
    assert_eq!(lacking(std::slice::from_ref(&base)), 0);
    // The root, the folder, the file; the folder of indexes and an index.
    assert_eq!(lacking(&[base.clone(), step]), 5);
    // A file of the base under another name is there.
    assert_eq!(lacking(&[base, again]), 4);
}

#[test]
fn names_that_no_message_can_hold() {
    let scratch = Scratch::new();
    let base = TarMaker::new()
        .dir("d")
        .raw(b'0', b"d/\xff", b"", b"hidden name")
        .raw(b'5', b"\xfe", b"", b"")
        .raw(b'0', b"\xfe/inside", b"", b"hidden folder")
        .file("a", "two names")
        .raw(b'1', b"d/\xfd", b"a", b"")
        .raw(b'2', b"link", b"\xff", b"");
    let base = register(&scratch, base);
    // The content under its good name is not there any more: the other name still has it.
    let step = register(
        &scratch,
        TarMaker::new().file("a", "other").file("d/.wh.x", ""),
    );
    let tree = check(&scratch, &[base, step], ALL);
    assert!(tree.extra.is_some());
}

#[test]
fn memory_that_is_damaged_or_gone_is_made_again() {
    let scratch = Scratch::new();
    let tar = TarMaker::new()
        .dir("d")
        .file("d/a", "one")
        .raw(b'0', b"\xff", b"", b"x");
    let base = register(&scratch, tar);
    let step = register(&scratch, TarMaker::new().file("d/b", "two"));
    let layers = [base, step];
    let known = check(&scratch, &layers, ALL);
    let records = scratch.space.store().root().join("records");
    let files = || {
        let folders = fs::read_dir(&records).unwrap();
        let files = folders.flat_map(|folder| fs::read_dir(folder.unwrap().path()).unwrap());
        files.map(|file| file.unwrap().path()).collect::<Vec<_>>()
    };
    // For each layer the facts and the hashes; for each stack its messages; the tree of the whole, under two keys.
    assert_eq!(files().len(), 2 * 2 + 2 + 2);
    for file in files() {
        let sound = fs::read(&file).unwrap();
        for bytes in [Some(&sound[..sound.len() / 2]), Some(b"garbage"), None] {
            match bytes {
                Some(bytes) => fs::write(&file, bytes).unwrap(),
                None => fs::remove_file(&file).unwrap(),
            }
            let tree = check(&scratch, &layers, ALL);
            assert_eq!(
                (tree.root, tree.meta, tree.extra),
                (known.root, known.meta, known.extra)
            );
        }
    }
    for file in files() {
        fs::remove_file(file).unwrap();
    }
    let tree = check(&scratch, &layers, ALL);
    assert_eq!(
        (tree.root, tree.meta, tree.extra),
        (known.root, known.meta, known.extra)
    );
}

#[test]
fn a_known_tree_is_named_without_its_content() {
    let scratch = Scratch::new();
    let tar = TarMaker::new().file("a", "one").end();
    let layers = [scratch.register(&tar, &tar)];
    let known = input_tree(&scratch.space, &snapshot(&layers), ALL).unwrap();
    let files = layer::readable(&scratch.space, &layers[0]).unwrap();
    // Of another length now: who reads it fails.
    fs::write(files.tar.unwrap(), b"").unwrap();
    let again = input_tree(&scratch.space, &snapshot(&layers), ALL).unwrap();
    assert_eq!(again.root, known.root);
    for blob in again.blobs(&scratch.space).unwrap() {
        if let Content::Source(source) = &blob.content
            && blob.digest == Digest::of(b"one")
        {
            let read = source
                .open()
                .and_then(|mut file| file.read_to_end(&mut Vec::new()));
            assert!(read.is_err());
        }
    }
}

/// Names of entries: few, so that layers meet.
fn path() -> impl Strategy<Value = Vec<u8>> {
    let name = prop_oneof![
        6 => prop::sample::select(vec![&b"a"[..], b"b", b"c", b"a-", b"a.b", b"\xc3\xa9"]),
        1 => Just(&b"\xff"[..]),
    ];
    prop::collection::vec(name, 1..4).prop_map(|names| names.join(&b'/'))
}

#[derive(Clone, Debug)]
struct Item {
    flag: u8,
    path: Vec<u8>,
    link: Vec<u8>,
    content: u8,
    mode: u32,
    mtime: u64,
}

fn item() -> impl Strategy<Value = Item> {
    let flag = prop_oneof![
        5 => Just(b'0'), 5 => Just(b'5'), 2 => Just(b'2'), 2 => Just(b'1'),
        1 => Just(b'6'), 1 => Just(b'3'), 2 => Just(b'w'), 1 => Just(b'o'),
    ];
    let link = prop_oneof![
        path(),
        path().prop_map(|path| [b"/", &path[..]].concat()),
        Just(b"a//b".to_vec()),
        Just(b"..".to_vec()),
    ];
    let mode = prop::sample::select(vec![0o644, 0o755, 0o4755, 0o600, 0o1777, 0o010, 0]);
    (flag, path(), link, 0..4u8, mode, 0..3u64).prop_map(
        |(flag, path, link, content, mode, mtime)| Item {
            flag,
            path,
            link,
            content,
            mode,
            mtime,
        },
    )
}

fn tar(items: &[Item]) -> Vec<u8> {
    let mut maker = TarMaker::new();
    for item in items {
        let (dir, name) = match item.path.iter().rposition(|b| *b == b'/') {
            Some(at) => item.path.split_at(at + 1),
            None => (&b""[..], &item.path[..]),
        };
        let (flag, path) = match item.flag {
            b'w' => (b'0', [dir, b".wh.", name].concat()),
            b'o' => (b'0', [&item.path[..], b"/.wh..wh..opq"].concat()),
            flag => (flag, item.path.clone()),
        };
        let mut header = tar::Header::new_ustar();
        header.as_old_mut().name[..path.len()].copy_from_slice(&path);
        if matches!(flag, b'1' | b'2') {
            header.as_old_mut().linkname[..item.link.len()].copy_from_slice(&item.link);
        }
        let content = vec![item.content; usize::from(item.content)];
        let content = if item.flag == b'0' { &content[..] } else { &[] };
        header.set_mode(item.mode);
        header.set_mtime(item.mtime);
        header.set_size(content.len() as u64);
        header.set_entry_type(tar::EntryType::new(flag));
        if flag == b'3' {
            header.set_device_major(1).unwrap();
            header.set_device_minor(3).unwrap();
        }
        header.set_cksum();
        maker.builder.append(&header, content).unwrap();
    }
    maker.end()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_stack_is_its_merged_view(
        stack in prop::collection::vec(prop::collection::vec(item(), 0..14), 1..5),
        bits in 0..8u8,
        stops in any::<u8>(),
    ) {
        let carried = Carried {
            modes: bits & 1 != 0,
            times: bits & 2 != 0,
            absolute_links: bits & 4 != 0,
        };
        let scratch = Scratch::new();
        let mut layers: Vec<DiffId> = Vec::new();
        for items in &stack {
            // What makes no sense in a layer is refused with all of it; the largest part that does is taken.
            let sound = (0..=items.len()).rev().find_map(|count| {
                let tar = tar(&items[..count]);
                let id = scratch.register(&tar, &tar);
                layer::readable(&scratch.space, &id).ok().map(|_| id)
            });
            layers.extend(sound);
            // Some of the trees on the way are known before, some are not.
            if stops & (1 << layers.len()) != 0 {
                check(&scratch, &layers, carried);
            }
        }
        check(&scratch, &layers, carried);
    }

    #[test]
    fn no_name_leads_out(names in prop::collection::vec("[./\\x00-\\x02a]{1,9}", 1..6)) {
        let scratch = Scratch::new();
        let mut maker = TarMaker::new();
        for name in &names {
            maker = maker.raw(b'0', name.as_bytes(), b"", b"x");
        }
        let tar = maker.end();
        let id = scratch.register(&tar, &tar);
        // Refused, or harmless: the check asserts each name.
        if layer::readable(&scratch.space, &id).is_ok() {
            check(&scratch, &[id], ALL);
        }
    }
}
