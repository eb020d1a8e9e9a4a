//! Outputs of builds, and images loaded, saved, listed and inspected.

#![allow(clippy::unwrap_used, clippy::result_large_err, reason = "tests")]

mod build_support;

use build_support::{
    Item, LayoutMaker, NOW, Place, base, failure_text, gzip, layer, output, sha256, tar_listing,
};
use executor::output::{self as images, ArchiveFormat, Loaded, SaveOptions, SaveTarget};
use executor::remote::Remote;
use executor::request::{BuildRequest, OutputDest, OutputKind};
use executor::space::Space;
use planner::scheduler::Cancel;
use registry_client::ClientOptions;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

/// A build of two layers over the hand-made base.
fn request(place: &Place) -> BuildRequest {
    place.file("a", "one").file("dir/b", "two");
    let mut request = place.request("FROM base\nCOPY a /a\nCOPY dir /d\nCMD [\"a\"]\n");
    request
        .named_contexts
        .insert("base".to_owned(), base(place));
    request
}

fn raw_entries(bytes: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut entries = BTreeMap::new();
    for entry in tar::Archive::new(bytes).entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        entries.insert(
            entry.path().unwrap().to_string_lossy().into_owned(),
            content,
        );
    }
    entries
}

fn parse(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

/// Follows an archive's index, checks every digest and size, and gives manifest and config.
fn check_layout(entries: &BTreeMap<String, Vec<u8>>) -> (Value, Value) {
    let blob = |descriptor: &Value| -> &[u8] {
        let digest = descriptor["digest"].as_str().unwrap();
        let bytes = &entries[&format!("blobs/sha256/{}", &digest[7..])];
        assert_eq!(
            (sha256(bytes).as_str(), bytes.len() as u64),
            (digest, descriptor["size"].as_u64().unwrap())
        );
        bytes
    };
    assert_eq!(entries["oci-layout"], br#"{"imageLayoutVersion":"1.0.0"}"#);
    let index = parse(&entries["index.json"]);
    let manifest = parse(blob(&index["manifests"][0]));
    let config = parse(blob(&manifest["config"]));
    let layers = manifest["layers"].as_array().unwrap();
    assert_eq!(
        layers.len(),
        config["rootfs"]["diff_ids"].as_array().unwrap().len()
    );
    for (layer, diff_id) in layers
        .iter()
        .zip(config["rootfs"]["diff_ids"].as_array().unwrap())
    {
        let bytes = blob(layer);
        let mut plain = Vec::new();
        match layer["mediaType"]
            .as_str()
            .unwrap()
            .rsplit_once(['+', '.'])
            .map(|(_, kind)| kind)
        {
            Some("gzip") => drop(
                flate2::read::MultiGzDecoder::new(bytes)
                    .read_to_end(&mut plain)
                    .unwrap(),
            ),
            Some("zstd") => plain = zstd::decode_all(bytes).unwrap(),
            _ => plain = bytes.to_vec(),
        }
        assert_eq!(sha256(&plain), diff_id.as_str().unwrap());
    }
    (manifest, config)
}

#[test]
fn oci_archives_hold_valid_images_in_every_compression() {
    let place = Place::new();
    let mut request = request(&place);
    for (compression, level, suffixes) in [
        (None, None, ["gzip", "gzip"]),
        (Some("gzip"), Some(1), ["gzip", "gzip"]),
        (Some("zstd"), None, ["gzip", "zstd"]),
        (Some("uncompressed"), None, ["gzip", ".tar"]),
    ] {
        let dest = place.path("image.tar");
        let mut out = output(OutputKind::Oci, &dest);
        out.compression = compression.map(str::to_owned);
        out.compression_level = level;
        request.outputs = vec![out];
        let result = place.build(&request).unwrap();
        let entries = raw_entries(&std::fs::read(&dest).unwrap());
        let (manifest, _) = check_layout(&entries);
        let kinds: Vec<&str> = manifest["layers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|l| l["mediaType"].as_str().unwrap())
            .collect();
        assert!(
            kinds[0].ends_with(suffixes[0]) && kinds[1].ends_with(suffixes[1]),
            "{kinds:?}"
        );
        let index = parse(&entries["index.json"]);
        assert_eq!(
            index["manifests"][0]["digest"].as_str(),
            result.digest.as_deref()
        );
        let annotations = &index["manifests"][0]["annotations"];
        assert_eq!(annotations["org.opencontainers.image.ref.name"], "latest");
        assert_eq!(
            annotations["io.containerd.image.name"],
            "docker.io/library/test:latest"
        );
        assert_eq!(
            annotations["org.opencontainers.image.created"],
            "2023-11-14T22:13:20Z"
        );
    }
    request.outputs[0].force_compression = true;
    request.outputs[0].compression = Some("zstd".to_owned());
    place.build(&request).unwrap();
    let (manifest, _) = check_layout(&raw_entries(
        &std::fs::read(place.path("image.tar")).unwrap(),
    ));
    let all = manifest["layers"].as_array().unwrap();
    assert!(
        all.iter()
            .all(|layer| layer["mediaType"].as_str().unwrap().ends_with("zstd"))
    );
}

#[test]
fn equal_inputs_are_equal_archives_from_any_store() {
    let archive = |now: i64| {
        let place = Place::new();
        let mut request = request(&place);
        request.now = now;
        request.source_date_epoch = Some(1_500_000_000);
        request.outputs = vec![
            output(OutputKind::Oci, &place.path("a.tar")),
            output(OutputKind::Docker, &place.path("b.tar")),
        ];
        place.build(&request).unwrap();
        (
            std::fs::read(place.path("a.tar")).unwrap(),
            std::fs::read(place.path("b.tar")).unwrap(),
        )
    };
    let (first, second) = (archive(NOW), archive(NOW + 777));
    assert_eq!(first, second);
    let (_, config) = check_layout(&raw_entries(&first.0));
    assert_eq!(config["created"], "2017-07-14T02:40:00Z");
    let history = config["history"].as_array().unwrap();
    let times = history.iter().map(|entry| {
        let is_base = entry["created_by"] == "base";
        (is_base, entry["created"].as_str().unwrap())
    });
    for (is_base, time) in times {
        let expected = if is_base {
            "2020-01-01T00:00:00Z"
        } else {
            "2017-07-14T02:40:00Z"
        };
        assert_eq!(time, expected, "the base's history is its own");
    }
}

#[test]
fn docker_archives_say_what_docker_load_wants() {
    let place = Place::new();
    let mut request = request(&place);
    let dest = place.path("docker.tar");
    let mut out = output(OutputKind::Docker, &dest);
    out.names = vec!["app:v2".to_owned(), "ghcr.io/x/app:v3".to_owned()];
    out.oci_mediatypes = false;
    request.outputs = vec![out];
    place.build(&request).unwrap();
    let entries = raw_entries(&std::fs::read(dest).unwrap());
    let (manifest, _) = check_layout(&entries);
    assert_eq!(
        manifest["mediaType"],
        "application/vnd.docker.distribution.manifest.v2+json"
    );
    assert_eq!(
        manifest["layers"][1]["mediaType"],
        "application/vnd.docker.image.rootfs.diff.tar.gzip"
    );
    let docker = parse(&entries["manifest.json"]);
    assert_eq!(docker[0]["RepoTags"], json!(["app:v2", "ghcr.io/x/app:v3"]));
    assert!(entries.contains_key(docker[0]["Config"].as_str().unwrap()));
    for layer in docker[0]["Layers"].as_array().unwrap() {
        assert!(entries.contains_key(layer.as_str().unwrap()));
    }
}

#[test]
fn folders_are_layouts_that_keep_other_images() {
    let place = Place::new();
    let mut request = request(&place);
    let dest = place.path("layout");
    for name in ["one:v1", "one:v2", "one:v1"] {
        let mut out = output(OutputKind::Oci, &dest);
        out.tar = false;
        out.names = vec![name.to_owned()];
        request.outputs = vec![out];
        place.build(&request).unwrap();
    }
    let index = parse(&std::fs::read(dest.join("index.json")).unwrap());
    assert_eq!(index["manifests"].as_array().unwrap().len(), 2);
    testkit::validate_foreign(&dest).unwrap();
    let mut again = place.request("FROM base\n");
    again.named_contexts.insert(
        "base".to_owned(),
        build_support::layout_context(&dest, Some("v2")),
    );
    assert_eq!(place.files(&again)["a"], "file 644 0:0 one");
}

#[test]
fn local_folders_follow_no_link_and_replace_what_is_in_the_way() {
    let place = Place::new();
    place.file("x/run.sh", "#!/bin/sh\n").file("x/sub/f", "f");
    std::fs::set_permissions(
        place.path("context/x/run.sh"),
        std::fs::Permissions::from_mode(0o750),
    )
    .unwrap();
    symlink("sub/f", place.path("context/x/ln")).unwrap();
    let mut request = place.request("FROM scratch\nCOPY --chown=12:13 x /x\n");
    let (dest, outside) = (place.path("dest"), place.path("outside"));
    std::fs::create_dir_all(dest.join("x/run.sh/full")).unwrap();
    std::fs::create_dir(&outside).unwrap();
    symlink(&outside, dest.join("x/sub")).unwrap();
    request.outputs = vec![output(OutputKind::Local, &dest)];
    place.build(&request).unwrap();
    assert_eq!(
        std::fs::read_dir(&outside).unwrap().count(),
        0,
        "nothing went through the link"
    );
    assert_eq!(std::fs::read_to_string(dest.join("x/sub/f")).unwrap(), "f");
    assert_eq!(
        std::fs::read_link(dest.join("x/ln")).unwrap().to_str(),
        Some("sub/f")
    );
    let meta = std::fs::metadata(dest.join("x/run.sh")).unwrap();
    assert_eq!(meta.permissions().mode() & 0o7777, 0o750);
    assert_eq!(
        meta.uid(),
        rustix::process::geteuid().as_raw(),
        "files belong to the user"
    );
    request.source_date_epoch = Some(1000);
    place.build(&request).unwrap();
    assert_eq!(
        std::fs::metadata(dest.join("x/run.sh")).unwrap().mtime(),
        1000
    );
    assert_eq!(std::fs::metadata(dest.join("x")).unwrap().mtime(), 1000);
}

#[test]
fn hard_links_of_a_base_stay_links() {
    let place = Place::new();
    let dir = place.path("base");
    let mut maker = LayoutMaker::new(&dir);
    let items = [
        Item::File("a", 0o644, b"linked"),
        Item::Hardlink("b", "a"),
        Item::Hardlink("c", "a"),
    ];
    let image = maker.image(
        "amd64",
        &[layer(&items), layer(&[Item::File("a", 0o600, b"new")])],
        Value::Null,
    );
    maker.tag(image, "latest");
    let mut request = place.request("FROM base\n");
    request
        .named_contexts
        .insert("base".to_owned(), build_support::layout_context(&dir, None));
    let files = place.files(&request);
    assert_eq!(files["a"], "file 600 0:0 new");
    assert_eq!(files["b"], "file 644 0:0 linked");
    assert!(
        files["c"] == "link 644 0:0 b" || files["c"] == "file 644 0:0 linked",
        "{}",
        files["c"]
    );
}

#[test]
fn several_outputs_at_once_and_standard_output() {
    let place = Place::new();
    let mut request = request(&place);
    let mut to_stdout = output(OutputKind::Tar, &place.path("unused"));
    to_stdout.dest = Some(OutputDest::Stdout);
    let mut image = output(OutputKind::Image, &place.path("unused"));
    image.dest = None;
    request.outputs = vec![
        to_stdout,
        output(OutputKind::Oci, &place.path("a.tar")),
        image,
    ];
    let stdout = std::fs::File::create(place.path("stdout")).unwrap();
    let (ui, cancel) = (
        build_support::Recorder::default(),
        planner::scheduler::Cancel::default(),
    );
    executor::build::build(&place.store, &request, &ui, &cancel, Some(stdout)).unwrap();
    assert_eq!(
        tar_listing(&std::fs::read(place.path("stdout")).unwrap())["a"],
        "file 644 0:0 one"
    );
    check_layout(&raw_entries(&std::fs::read(place.path("a.tar")).unwrap()));
    assert!(
        place
            .store
            .reference("docker.io/library/test:latest")
            .unwrap()
            .is_some()
    );
}

#[test]
fn requests_that_make_no_sense_are_refused() {
    let place = Place::new();
    let base_request = request(&place);
    type Change = fn(&mut BuildRequest);
    let cases: [(Change, &str); 6] = [
        (
            |r| r.outputs[0].compression = Some("lzma".to_owned()),
            "unsupported compression",
        ),
        (
            |r| r.outputs[0].compression_level = Some(99),
            "invalid compression-level",
        ),
        (|r| r.outputs[0].dest = None, "needs dest="),
        (|r| r.outputs[0].names = vec!["UPPER".to_owned()], "UPPER"),
        (
            |r| r.outputs[0].names = vec![format!("a@sha256:{}", "0".repeat(64))],
            "cannot be given a digest",
        ),
        (
            |r| {
                r.outputs[0].kind = OutputKind::Docker;
                r.platforms = ["linux/amd64", "linux/arm64"]
                    .map(|p| p.parse().unwrap())
                    .to_vec();
            },
            "does not support exporting manifest lists",
        ),
    ];
    for (change, expected) in cases {
        let mut request = base_request.clone();
        request.outputs = vec![output(OutputKind::Oci, &place.path("x.tar"))];
        change(&mut request);
        let text = failure_text(&place.build(&request).unwrap_err());
        assert!(text.contains(expected), "{text}");
        assert!(!place.path("x.tar").exists());
    }
}

#[test]
fn an_output_that_cannot_be_written_leaves_nothing() {
    let place = Place::new();
    let mut request = request(&place);
    std::fs::write(place.path("file"), "").unwrap();
    request.outputs = vec![output(OutputKind::Oci, &place.path("file/folder/x.tar"))];
    assert!(place.build(&request).is_err());
    assert_eq!(std::fs::read(place.path("file")).unwrap(), b"");
}

fn names(loaded: &[Loaded]) -> Vec<String> {
    loaded.iter().map(|image| image.name.clone()).collect()
}

#[test]
fn saved_images_load_into_another_store() {
    let place = Place::new();
    let request = request(&place);
    let result = place.build(&request).unwrap();
    let offline = Remote::new(&ClientOptions::default(), &Cancel::default());
    for format in [ArchiveFormat::Docker, ArchiveFormat::Oci] {
        let mut archive = Vec::new();
        images::save(
            (&Space::new(place.store.clone()), &offline),
            &["test".to_owned()],
            &SaveOptions {
                format,
                platforms: Vec::new(),
                compression: None,
            },
            SaveTarget::Archive(&mut archive),
        )
        .unwrap();
        check_layout(&raw_entries(&archive));
        for bytes in [
            archive.clone(),
            gzip(&archive),
            zstd::encode_all(archive.as_slice(), 1).unwrap(),
        ] {
            let other = Place::new();
            let space = Space::new(other.store.clone());
            assert_eq!(
                names(&images::load(&space, &mut bytes.as_slice(), None).unwrap()),
                ["docker.io/library/test:latest"]
            );
            let listed = images::images(&space).unwrap();
            assert_eq!(listed[0].name, "docker.io/library/test:latest");
            assert_eq!(Some(listed[0].id.as_str()), result.config_digest.as_deref());
            let again = other.request("FROM test\n");
            assert_eq!(other.files(&again)["d/b"], "file 644 0:0 two");
        }
    }
}

#[test]
fn old_docker_archives_load() {
    let layer = layer(&[Item::File("old", 0o644, b"x")]);
    let config = json!({
        "architecture": "amd64", "os": "linux", "created": "2015-01-01T00:00:00Z", "config": {"Cmd": null},
        "rootfs": {"type": "layers", "diff_ids": [sha256(&layer), sha256(&layer)]},
    })
    .to_string();
    let manifest = json!([{"Config": "abc.json", "RepoTags": ["old:v1", "other/old:v2"], "Layers": ["1/layer.tar", "2/layer.tar"]}]);
    let archive = build_support::layer(&[
        Item::File("abc.json", 0o644, config.as_bytes()),
        Item::File("1/layer.tar", 0o644, &layer),
        Item::Symlink("2/layer.tar", "../1/layer.tar"),
        Item::File("manifest.json", 0o644, manifest.to_string().as_bytes()),
        Item::File("repositories", 0o644, b"{}"),
    ]);
    let place = Place::new();
    let space = Space::new(place.store.clone());
    let names = names(&images::load(&space, &mut archive.as_slice(), None).unwrap());
    assert_eq!(
        names,
        ["docker.io/library/old:v1", "docker.io/other/old:v2"]
    );
    let seen = images::inspect(&space, "old:v1", None).unwrap();
    assert_eq!(seen.config["created"], "2015-01-01T00:00:00Z");
    assert_eq!(
        place.files(&place.request("FROM other/old:v2\n"))["old"],
        "file 644 0:0 x"
    );
}

#[test]
fn hostile_archives_are_refused_and_name_nothing() {
    let good = layer(&[Item::File("f", 0o644, b"x")]);
    let config = json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [sha256(&good)]}}).to_string();
    let docker = |layers: Value| {
        json!([{"Config": "c.json", "RepoTags": ["evil"], "Layers": layers}]).to_string()
    };
    let evil_layer = layer(&[Item::Raw("../../x", b"x")]);
    let evil_config = json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [sha256(&evil_layer)]}}).to_string();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("empty", Vec::new()),
        ("not a tar", b"hello".repeat(300)),
        ("no image", layer(&[Item::File("x", 0o644, b"x")])),
        ("path", layer(&[Item::Raw("../manifest.json", b"[]")])),
        (
            "wrong layer",
            layer(&[
                Item::File("c.json", 0o644, config.as_bytes()),
                Item::File("l.tar", 0o644, b"other"),
                Item::File("manifest.json", 0o644, docker(json!(["l.tar"])).as_bytes()),
            ]),
        ),
        (
            "escaping layer",
            layer(&[
                Item::File("c.json", 0o644, evil_config.as_bytes()),
                Item::File("l.tar", 0o644, &evil_layer),
                Item::File("manifest.json", 0o644, docker(json!(["l.tar"])).as_bytes()),
            ]),
        ),
        (
            "missing layer",
            layer(&[
                Item::File("c.json", 0o644, config.as_bytes()),
                Item::File("manifest.json", 0o644, docker(json!(["l.tar"])).as_bytes()),
            ]),
        ),
        (
            "link loop",
            layer(&[
                Item::File("c.json", 0o644, config.as_bytes()),
                Item::Symlink("l.tar", "m.tar"),
                Item::Symlink("m.tar", "l.tar"),
                Item::File("manifest.json", 0o644, docker(json!(["l.tar"])).as_bytes()),
            ]),
        ),
        (
            "wrong blob name",
            layer(&[
                Item::File(&format!("blobs/sha256/{}", "0".repeat(64)), 0o644, b"x"),
                Item::File("index.json", 0o644, br#"{"manifests":[]}"#),
            ]),
        ),
    ];
    for (name, archive) in cases {
        let place = Place::new();
        let space = Space::new(place.store.clone());
        let outcome = images::load(&space, &mut archive.as_slice(), None);
        assert!(outcome.is_err(), "{name} was taken");
        assert!(
            place.store.references().unwrap().is_empty(),
            "{name} got a name"
        );
    }
}

#[test]
fn images_are_found_by_name_and_id() {
    let place = Place::new();
    let request = request(&place);
    let result = place.build(&request).unwrap();
    let space = Space::new(place.store.clone());
    let (digest, id) = (result.digest.unwrap(), result.config_digest.unwrap());
    for name in [
        "test",
        "test:latest",
        "docker.io/library/test",
        &digest,
        &id,
        &id[7..19],
        &format!("test@{digest}"),
    ] {
        assert_eq!(
            images::find(&space, name)
                .unwrap()
                .descriptor
                .digest()
                .to_string(),
            digest,
            "{name}"
        );
    }
    for name in ["nope", "test:other", "ffffffffffff"] {
        assert!(images::find(&space, name).is_err(), "{name}");
    }
    let seen = images::inspect(&space, "test", None).unwrap();
    assert_eq!(seen.config["config"]["Cmd"], json!(["a"]));
    assert_eq!(seen.digest, digest);
    let wanted = "linux/s390x".parse().unwrap();
    assert!(images::inspect(&space, "test", Some(&wanted)).is_err());
    let listed = images::images(&space).unwrap();
    assert_eq!(listed.len(), 1);
    assert!(listed[0].size > 0);
}

#[test]
fn layouts_of_our_own_are_valid_and_load_as_folders() {
    let place = Place::new();
    place.file("a", "one").file("dir/b", "two");
    let mut request = place.request("FROM scratch\nCOPY a /a\nCOPY dir /d\nENV A=b\nCMD [\"a\"]\n");
    request.platforms = ["linux/amd64", "linux/arm64"]
        .map(|text| text.parse().unwrap())
        .to_vec();
    for compression in ["gzip", "zstd", "uncompressed"] {
        let dest = place.path(compression);
        let mut out = output(OutputKind::Oci, &dest);
        out.tar = false;
        out.compression = Some(compression.to_owned());
        request.outputs = vec![out];
        let result = place.build(&request).unwrap();
        testkit::validate(&dest).unwrap_or_else(|findings| panic!("{compression}: {findings:#?}"));
        let other = Place::new();
        let space = Space::new(other.store.clone());
        let names = names(&images::load_folder(&space, &dest, None).unwrap());
        assert_eq!(names, ["docker.io/library/test:latest"]);
        let listed = images::images(&space).unwrap();
        assert_eq!(Some(listed[0].digest.as_str()), result.digest.as_deref());
        assert_eq!(listed[0].platforms, ["linux/amd64", "linux/arm64"]);
        std::fs::remove_file(dest.join("oci-layout")).unwrap();
        assert!(images::load_folder(&space, &dest, None).is_err());
    }
}
