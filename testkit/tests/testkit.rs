//! The validator finds what is wrong and nothing else; makers and readers agree.
#![allow(
    clippy::unwrap_used,
    reason = "tests; clippy's own exception does not reach helper functions"
)]

use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use testkit::{
    BaseImage, Compression, Entry, Kind, Scratch, base_layout, digest_of, layer_files, manifest_of,
    merged_tree, tar_entries, validate, validate_foreign,
};

fn sound_entries() -> Vec<Entry> {
    vec![
        Entry::dir("bin"),
        Entry::file("bin/sh", "#!").mode(0o755),
        Entry::dir("etc").mtime(5),
        Entry::file("etc/passwd", "root:x:0:0::/:/bin/sh\n").owner(1000, 300_000),
        Entry::hardlink("etc/passwd-", "etc/passwd"),
        Entry::symlink("etc/shell", "../bin/sh"),
        Entry::fifo("pipe"),
        Entry::char_device("zero", 1, 5),
    ]
}

fn sound(layout: &Path) {
    let config = json!({"Env": ["PATH=/bin"], "Cmd": ["sh"], "ExposedPorts": {"80/tcp": {}}});
    base_layout(layout, &sound_entries(), config).unwrap();
}

#[test]
fn sound_images_pass() {
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let scratch = Scratch::new();
        let image = BaseImage::new()
            .layer(&sound_entries())
            .layer(&[Entry::whiteout("etc/shell"), Entry::file("new", "new")])
            .compression(compression);
        image.write(scratch.path()).unwrap();
        image
            .clone()
            .reference("other")
            .platform("linux", "arm64")
            .write(scratch.path())
            .unwrap();
        validate(scratch.path()).unwrap();
        assert_eq!(layer_files(scratch.path(), "latest").unwrap().len(), 2);
    }
}

/// Puts a changed document in place of the one a descriptor names, and mends the descriptor.
fn change(layout: &Path, descriptor: &mut Value, edit: &dyn Fn(&mut Value)) {
    let path = blob(layout, descriptor);
    let mut document: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    edit(&mut document);
    let bytes = serde_json::to_vec(&document).unwrap();
    fs::remove_file(path).unwrap();
    descriptor["digest"] = digest_of(&bytes).into();
    descriptor["size"] = bytes.len().into();
    fs::write(blob(layout, descriptor), bytes).unwrap();
}

fn blob(layout: &Path, descriptor: &Value) -> std::path::PathBuf {
    let digest = descriptor["digest"].as_str().unwrap();
    layout.join("blobs").join(digest.replace(':', "/"))
}

fn change_index(layout: &Path, edit: &dyn Fn(&mut Value)) {
    let path = layout.join("index.json");
    let mut index: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    edit(&mut index);
    fs::write(path, serde_json::to_vec(&index).unwrap()).unwrap();
}

enum Document {
    Index,
    Manifest,
    Config,
}

/// Sets what a JSON pointer names in a document, and mends the descriptors above it.
fn set(layout: &Path, document: &Document, pointer: &str, value: &Value) {
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    let edit = |document: &mut Value| {
        let parent = document.pointer_mut(parent).unwrap();
        match parent {
            Value::Array(list) => list[name.parse::<usize>().unwrap()] = value.clone(),
            other => other[name] = value.clone(),
        }
    };
    let edit_config = |manifest: &mut Value| change(layout, &mut manifest["config"], &edit);
    change_index(layout, &|index| match document {
        Document::Index => edit(index),
        Document::Manifest => change(layout, &mut index["manifests"][0], &edit),
        Document::Config => change(layout, &mut index["manifests"][0], &edit_config),
    });
}

/// Checks that a damage is found under a name.
fn finds(expected: &str, damage: impl FnOnce(&Path)) {
    let scratch = Scratch::new();
    sound(scratch.path());
    validate(scratch.path()).unwrap();
    damage(scratch.path());
    let findings = validate(scratch.path()).expect_err(expected);
    let found = findings.iter().any(|finding| finding.contains(expected));
    assert!(found, "{expected}: {findings:?}");
}

#[test]
fn each_fault_of_a_document_is_found() {
    use Document::{Config, Index, Manifest};
    let zstd = "application/vnd.oci.image.layer.v1.tar+zstd";
    let other = digest_of(b"?");
    let faults = [
        ("schemaVersion", Index, "/schemaVersion", json!(1)),
        ("manifests is not a list", Index, "/manifests", json!({})),
        (
            "lacks os",
            Index,
            "/manifests/0/platform",
            json!({"os": "linux"}),
        ),
        (
            "not a sha256",
            Index,
            "/manifests/0/digest",
            json!("sha256:x"),
        ),
        ("bytes, not 7", Index, "/manifests/0/size", json!(7)),
        ("is missing", Index, "/manifests/0/digest", json!(other)),
        (
            "architecture is",
            Index,
            "/manifests/0/platform/architecture",
            json!("s390x"),
        ),
        (
            "annotations of",
            Index,
            "/manifests/0/annotations",
            json!({"a": 1}),
        ),
        ("schemaVersion", Manifest, "/schemaVersion", json!(3)),
        ("mediaType", Manifest, "/mediaType", json!("text/plain")),
        ("layers", Manifest, "/layers", json!("x")),
        ("diff_ids for", Manifest, "/layers", json!([])),
        ("not what", Manifest, "/layers/0/mediaType", json!(zstd)),
        ("its diff_id is", Config, "/rootfs/diff_ids/0", json!(other)),
        ("rootfs.type", Config, "/rootfs/type", json!("tree")),
        ("os is missing", Config, "/os", json!("")),
        (
            "history tells of 0",
            Config,
            "/history/0/empty_layer",
            json!(true),
        ),
        (
            "history: created",
            Config,
            "/history/0/created",
            json!("now"),
        ),
        ("created is", Config, "/created", json!("yesterday")),
        (
            "created is",
            Config,
            "/created",
            json!("2024-01-01 00:00:00Z"),
        ),
        ("Env has", Config, "/config/Env/0", json!("PATH")),
        ("Cmd is not", Config, "/config/Cmd", json!("sh")),
        (
            "ExposedPorts has",
            Config,
            "/config/ExposedPorts",
            json!({"x": {}}),
        ),
        (
            "Volumes is not",
            Config,
            "/config/Volumes",
            json!({"/x": 1}),
        ),
        ("Labels are not", Config, "/config/Labels", json!({"x": 1})),
        ("WorkingDir is", Config, "/config/WorkingDir", json!("x")),
    ];
    for (expected, document, pointer, value) in faults {
        finds(expected, |layout| set(layout, &document, pointer, &value));
    }
}

#[test]
fn each_fault_of_a_file_is_found() {
    let write = |name: &'static str, text: &'static str| {
        move |layout: &Path| fs::write(layout.join(name), text).unwrap()
    };
    finds("imageLayoutVersion", write("oci-layout", "{}"));
    finds("index.json: ", write("index.json", "["));
    finds("not a JSON object", write("index.json", "[]"));
    finds("oci-layout: ", |layout| {
        fs::remove_file(layout.join("oci-layout")).unwrap();
    });
    finds("has content of digest", |layout| {
        let manifest = manifest_of(layout, "latest").unwrap();
        fs::write(blob(layout, &manifest["layers"][0]), "damaged").unwrap();
    });
    finds("two images", |layout| {
        change_index(layout, &|index| {
            let first = index["manifests"][0].clone();
            index["manifests"].as_array_mut().unwrap().push(first);
        });
    });
}

#[test]
fn each_fault_of_a_layer_is_found() {
    let faults = [
        ("absolute", vec![Entry::file("/etc", "")]),
        ("not sane", vec![Entry::file("a/../../b", "")]),
        ("2 entries", vec![Entry::dir("a"), Entry::dir("./a")]),
        (
            "not in order",
            vec![Entry::file("b", ""), Entry::file("a", "")],
        ),
        ("whiteout must be", vec![Entry::file(".wh.x", "content")]),
        ("its mode is", vec![Entry::file("x", "").mode(0o100_644)]),
        ("without target", vec![Entry::symlink("x", "")]),
        ("hard link to gone", vec![Entry::hardlink("x", "gone")]),
        (
            "overlayfs",
            vec![Entry::dir("x").xattr("trusted.overlay.opaque", "y")],
        ),
    ];
    for (expected, entries) in faults {
        let scratch = Scratch::new();
        base_layout(scratch.path(), &entries, json!({})).unwrap();
        let findings = validate(scratch.path()).expect_err(expected);
        assert!(
            findings.iter().any(|f| f.contains(expected)),
            "{expected}: {findings:?}"
        );
    }
}

#[test]
fn order_is_our_promise_alone_and_may_be_by_name_or_by_folder() {
    let cases = [
        (true, ["a", "a-b", "a/c"]),
        (true, ["a", "a/c", "a-b"]),
        (false, ["a-b", "a", "a/c"]),
    ];
    for (sorted, names) in cases {
        let scratch = Scratch::new();
        let entries: Vec<_> = names
            .iter()
            .map(|name| {
                if *name == "a" {
                    Entry::dir(name)
                } else {
                    Entry::file(name, "")
                }
            })
            .collect();
        base_layout(scratch.path(), &entries, json!({})).unwrap();
        assert_eq!(validate(scratch.path()).is_ok(), sorted, "{names:?}");
        validate_foreign(scratch.path()).unwrap();
    }
}

#[test]
fn entries_come_back_as_they_were_made() {
    let scratch = Scratch::new();
    let long = format!("{}/{}", "d".repeat(120), "é".repeat(60));
    let mut entries = sound_entries();
    entries.push(Entry::symlink(&long, "t".repeat(200)).xattr("user.x", [0, 255, b'\n']));
    entries.push(Entry::file([b'z', 0xff], "bytes"));
    base_layout(scratch.path(), &entries, json!({})).unwrap();
    let read = tar_entries(&layer_files(scratch.path(), "latest").unwrap()[0]).unwrap();
    let find = |path: &str| read.iter().find(|entry| entry.path == path).unwrap();
    assert_eq!(read.len(), entries.len());
    let passwd = find("etc/passwd");
    assert_eq!(
        (passwd.uid, passwd.gid, passwd.mode, passwd.size),
        (1000, 300_000, 0o644, 22)
    );
    assert_eq!(passwd.sha256, Some(digest_of(b"root:x:0:0::/:/bin/sh\n")));
    assert_eq!((find("etc").kind, find("etc").mtime), (Kind::Dir, 5));
    assert_eq!(find("zero").device, Some((1, 5)));
    assert_eq!(find("etc/passwd-").link.as_deref(), Some("etc/passwd"));
    assert_eq!(find(&long).link, Some("t".repeat(200)));
    assert_eq!(find(&long).xattrs["user.x"], [0, 255, b'\n']);
    assert_eq!(find("z\\xff").size, 5);
}

#[test]
fn layers_merge_with_their_whiteouts() {
    let scratch = Scratch::new();
    let lower = [
        Entry::dir("a"),
        Entry::file("a/gone", ""),
        Entry::file("a/kept", "1"),
        Entry::dir("b"),
        Entry::file("b/hidden", ""),
        Entry::dir("c"),
        Entry::file("c/below", ""),
        Entry::file("ca", ""),
        Entry::file("d", "d"),
    ];
    let upper = [
        Entry::whiteout("a/gone"),
        Entry::dir("a").mode(0o700),
        Entry::file("b/shown", ""),
        Entry::opaque("b"),
        Entry::file("c", "a file now"),
        Entry::hardlink("e", "d"),
        Entry::whiteout("nothing"),
    ];
    BaseImage::new()
        .layer(&lower)
        .layer(&upper)
        .write(scratch.path())
        .unwrap();
    let tree = merged_tree(scratch.path(), "latest").unwrap();
    let names: Vec<&str> = tree.keys().map(String::as_str).collect();
    assert_eq!(names, ["a", "a/kept", "b", "b/shown", "c", "ca", "d", "e"]);
    assert_eq!(tree["a"].mode, 0o700);
    assert_eq!(tree["c"].kind, Kind::File);
    assert_eq!(tree["e"].sha256, tree["d"].sha256);
    assert!(merged_tree(scratch.path(), "unknown").is_err());
    assert!(merged_tree(scratch.path(), "latest@linux/arm64").is_err());
}

#[test]
fn the_base_image_that_ships_is_sound() {
    let layout = testkit::busybox_layout();
    validate(&layout).unwrap();
    for platform in ["linux/amd64", "linux/arm64"] {
        let tree = merged_tree(&layout, &format!("latest@{platform}")).unwrap();
        assert!(tree["bin/busybox"].size > 500_000);
        assert_eq!(tree["bin/busybox"].mode, 0o755);
        for path in ["bin/sh", "bin/httpd", "etc/passwd", "etc/os-release"] {
            assert!(tree.contains_key(path), "{path}");
        }
        assert_eq!(tree["tmp"].mode, 0o1777);
        assert!(tree.len() > 200);
    }
}
