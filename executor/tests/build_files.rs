//! Builds that copy files only: images, caching, early cutoff, what the store keeps.

#![allow(clippy::unwrap_used, clippy::result_large_err, reason = "tests")]

mod build_support;

use build_support::{
    Item, LayoutMaker, NOW, Place, Recorder, base, failure_text, layer, layout_context, output,
    tar_listing,
};
use executor::Error;
use executor::request::{ContextSource, OutputKind};
use serde_json::{Value, json};

#[test]
fn a_scratch_image_has_config_history_and_a_layer_for_each_copy() {
    let place = Place::new();
    place.file("a", "one").file("dir/b", "two");
    let request = place.request("FROM scratch\nCOPY a /a\nENV K=v\nCOPY dir /d\nLABEL l=1\n");
    let result = place.build(&request).unwrap();
    assert_eq!((result.executed, result.cached), (2, 0));
    assert_eq!(result.names, ["docker.io/library/test:latest"]);
    let (manifest, config) = place.image(result.digest.as_deref().unwrap());
    assert_eq!(
        manifest["config"]["digest"].as_str(),
        result.config_digest.as_deref()
    );
    assert_eq!(
        manifest["mediaType"],
        "application/vnd.oci.image.manifest.v1+json"
    );
    let layers = manifest["layers"].as_array().unwrap();
    assert_eq!(layers.len(), 2);
    for (layer, diff_id) in layers
        .iter()
        .zip(config["rootfs"]["diff_ids"].as_array().unwrap())
    {
        assert_eq!(layer["mediaType"], "application/vnd.oci.image.layer.v1.tar");
        assert_eq!(
            &layer["digest"], diff_id,
            "a layer in the store is described uncompressed"
        );
    }
    assert_eq!(config["created"], "2023-11-14T22:13:20Z");
    let history: Vec<(&str, bool)> = config["history"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| {
            assert_eq!(entry["created"], "2023-11-14T22:13:20Z");
            (
                entry["created_by"].as_str().unwrap(),
                entry["empty_layer"] == true,
            )
        })
        .collect();
    let expected = [
        ("COPY a /a # buildkit", false),
        ("ENV K=v", true),
        ("COPY dir /d # buildkit", false),
        ("LABEL l=1", true),
    ];
    assert_eq!(history, expected);
    let files = place.files(&request);
    assert_eq!(files["a"], "file 644 0:0 one");
    assert_eq!(files["d/b"], "file 644 0:0 two");
}

#[test]
fn a_second_build_runs_nothing_and_makes_the_same_image() {
    let place = Place::new();
    place.file("a", "one");
    let mut request = place.request("FROM scratch\nCOPY a /a\nWORKDIR /w\nCOPY a /b\n");
    let first = place.build(&request).unwrap();
    request.now = NOW + 1000;
    let ui = Recorder::default();
    let second = place.build_with(&request, &ui).unwrap();
    assert_eq!((second.executed, second.cached), (0, 3));
    assert_eq!(first.digest, second.digest);
    assert!(
        ui.steps
            .lock()
            .unwrap()
            .values()
            .all(|events| events == &["cached"])
    );
}

#[test]
fn without_the_cache_the_same_content_is_still_the_same_image() {
    let place = Place::new();
    place.file("a", "one");
    let mut request = place.request("FROM scratch\nCOPY a /a\n");
    let first = place.build(&request).unwrap();
    request.now = NOW + 1000;
    request.no_cache = true;
    let second = place.build(&request).unwrap();
    assert_eq!(second.executed, 1);
    assert_eq!(first.digest, second.digest);
}

#[test]
fn an_equal_result_cuts_off_what_follows() {
    let place = Place::new();
    place.file("src/a", "one").file("src/b", "two");
    let request = place.request(
        "FROM scratch AS one\nCOPY src /src\nFROM scratch AS two\nCOPY --from=one /src/a /a\nFROM two\nCOPY --from=two /a /b\n",
    );
    let first = place.build(&request).unwrap();
    assert_eq!(first.executed, 3);
    place.file("src/b", "changed");
    let second = place.build(&request).unwrap();
    assert_eq!(
        second.executed, 1,
        "only the step that reads the changed file runs"
    );
    assert_eq!(first.digest, second.digest);
    place.file("src/a", "changed too");
    let third = place.build(&request).unwrap();
    assert_eq!(third.executed, 3);
    assert_ne!(first.digest, third.digest);
}

#[test]
fn times_of_files_are_in_no_key() {
    let place = Place::new();
    place.file("a", "one");
    let request = place.request("FROM scratch\nCOPY a /a\n");
    place.build(&request).unwrap();
    place.file("a", "one");
    assert_eq!(place.build(&request).unwrap().executed, 0);
}

#[test]
fn a_linked_copy_is_made_once_for_all_bases() {
    let place = Place::new();
    place.file("a", "one").file("x", "1");
    let request = place.request("FROM scratch\nCOPY x /x\nCOPY --link a /deep/a\n");
    let first = place.build(&request).unwrap();
    place.file("x", "2");
    let second = place.build(&request).unwrap();
    let layer =
        |digest: &Option<String>| place.image(digest.as_deref().unwrap()).0["layers"][1].clone();
    assert_eq!(layer(&first.digest), layer(&second.digest));
    assert_ne!(first.digest, second.digest);
}

#[test]
fn a_base_image_gives_its_config_history_and_layers() {
    let place = Place::new();
    place.file("a", "one");
    let mut request =
        place.request("FROM base\nCOPY --chown=user a /link/a\nWORKDIR /etc\nCMD [\"x\"]\n");
    request
        .named_contexts
        .insert("base".to_owned(), base(&place));
    let result = place.build(&request).unwrap();
    let (manifest, config) = place.image(result.digest.as_deref().unwrap());
    assert_eq!(manifest["layers"].as_array().unwrap().len(), 3);
    assert_eq!(
        manifest["layers"][0]["mediaType"],
        "application/vnd.oci.image.layer.v1.tar+gzip"
    );
    assert_eq!(config["config"]["Cmd"], json!(["x"]));
    assert_eq!(config["config"]["WorkingDir"], "/etc");
    let history = config["history"].as_array().unwrap();
    assert_eq!(
        history[0],
        json!({"created": "2020-01-01T00:00:00Z", "created_by": "base"})
    );
    assert_eq!(history[1]["created"], "2023-11-14T22:13:20Z");
    assert!(
        history[2]["empty_layer"].is_null(),
        "a WORKDIR that is there makes an empty layer, as BuildKit has it"
    );
    let files = place.files(&request);
    assert_eq!(
        files["usr/a"], "file 644 1000:1001 one",
        "a link of the base is followed"
    );
    assert_eq!(files["link"], "symlink 777 0:0 usr");
    assert_eq!(files["usr/data"], "file 600 0:0 data");
}

#[test]
fn a_metadata_build_touches_no_step() {
    let place = Place::new();
    let mut request = place.request("FROM base\nENV A=b\n");
    request
        .named_contexts
        .insert("base".to_owned(), base(&place));
    let result = place.build(&request).unwrap();
    let (_, config) = place.image(result.digest.as_deref().unwrap());
    assert_eq!(
        config["created"], "2020-01-01T00:00:00Z",
        "nothing was made, so the base's time stays"
    );
    request.now = NOW + 5;
    assert_eq!(place.build(&request).unwrap().digest, result.digest);
}

#[test]
fn a_base_without_history_gets_an_entry_for_each_layer() {
    let place = Place::new();
    place.file("a", "one");
    let dir = place.path("base");
    let mut maker = LayoutMaker::new(&dir);
    let layers = [
        layer(&[Item::Dir("x", 0o755)]),
        layer(&[Item::Dir("b", 0o755)]),
    ];
    let image = maker.image("amd64", &layers, json!({"history": []}));
    maker.tag(image, "latest");
    let mut request = place.request("FROM base\nCOPY a /\n");
    request
        .named_contexts
        .insert("base".to_owned(), layout_context(&dir, None));
    let result = place.build(&request).unwrap();
    let (_, config) = place.image(result.digest.as_deref().unwrap());
    let with_layer = config["history"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|entry| entry["empty_layer"] != true)
        .count();
    assert_eq!(
        with_layer,
        config["rootfs"]["diff_ids"].as_array().unwrap().len()
    );
    assert_eq!(config["history"][2]["created_by"], "COPY a / # buildkit");
}

#[test]
fn an_image_of_the_store_is_a_base_without_network() {
    let place = Place::new();
    place.file("a", "one").file("b", "two");
    place
        .build(&place.request("FROM scratch\nCOPY a /a\nLABEL from=first\n"))
        .unwrap();
    let mut request = place.request("FROM test\nCOPY b /b\n");
    request.tags = vec!["second:v1".to_owned()];
    let result = place.build(&request).unwrap();
    assert_eq!(result.names, ["docker.io/library/second:v1"]);
    let (manifest, config) = place.image(result.digest.as_deref().unwrap());
    assert_eq!(manifest["layers"].as_array().unwrap().len(), 2);
    assert_eq!(config["config"]["Labels"]["from"], "first");
    let files = place.files(&request);
    assert_eq!(
        (files["a"].as_str(), files["b"].as_str()),
        ("file 644 0:0 one", "file 644 0:0 two")
    );
}

#[test]
fn several_platforms_give_an_index() {
    let place = Place::new();
    place.file("a", "one");
    let mut request = place.request("FROM scratch\nARG TARGETARCH\nCOPY a /a-$TARGETARCH\n");
    request.platforms = ["linux/amd64", "linux/arm/v7"]
        .map(|text| text.parse().unwrap())
        .to_vec();
    let result = place.build(&request).unwrap();
    assert_eq!(result.config_digest, None);
    let index = place.json(result.digest.as_deref().unwrap());
    assert_eq!(
        index["mediaType"],
        "application/vnd.oci.image.index.v1+json"
    );
    let platforms: Vec<Value> = index["manifests"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m["platform"].clone())
        .collect();
    let expected = [
        json!({"architecture": "amd64", "os": "linux"}),
        json!({"architecture": "arm", "os": "linux", "variant": "v7"}),
    ];
    assert_eq!(platforms, expected);
    let dest = place.path("local");
    request.outputs = vec![output(OutputKind::Local, &dest)];
    place.build(&request).unwrap();
    assert_eq!(
        std::fs::read_to_string(dest.join("linux_arm_v7/a-arm")).unwrap(),
        "one"
    );
    assert_eq!(
        std::fs::read_to_string(dest.join("linux_amd64/a-amd64")).unwrap(),
        "one"
    );
}

#[test]
fn named_folders_and_empty_contexts() {
    let place = Place::new();
    place.file("a", "main");
    let other = place.path("other");
    std::fs::create_dir(&other).unwrap();
    std::fs::write(other.join("a"), "other").unwrap();
    std::fs::write(other.join("hidden"), "x").unwrap();
    std::fs::write(other.join(".dockerignore"), "hidden\n").unwrap();
    let mut request = place.request("FROM scratch\nCOPY --from=other . /\n");
    request
        .named_contexts
        .insert("other".to_owned(), ContextSource::Directory(other));
    let files = place.files(&request);
    assert_eq!(files["a"], "file 644 0:0 other");
    assert!(!files.contains_key("hidden"));
    let mut request = place.request("FROM scratch\nCOPY a /\n");
    request.context = ContextSource::Empty;
    let failure = place.build(&request).unwrap_err();
    assert!(
        failure_text(&failure).contains("not found"),
        "{}",
        failure_text(&failure)
    );
}

#[test]
fn a_missing_source_is_told_at_its_line() {
    let place = Place::new();
    place.file("a", "one");
    let failure = place
        .build(&place.request(
            "FROM scratch\nCOPY a /\nCOPY nothere a b /\n\
             RUN --mount=source=/nor/this,target=/x true\n",
        ))
        .unwrap_err();
    let Error::Dockerfile(found) = &failure.error else {
        panic!("{failure:?}")
    };
    let told: Vec<(u32, &str, Option<&str>)> = found
        .iter()
        .map(|error| {
            let message = error.message.rsplit_once("context: ").unwrap().1;
            (error.lines.unwrap().start, message, error.help.as_deref())
        })
        .collect();
    let context = place.path("context");
    let where_they_are = format!("sources are paths in the context: {}", context.display());
    let where_they_are = Some(where_they_are.as_str());
    assert_eq!(
        told,
        [
            (3, "\"/nothere\": not found", where_they_are),
            (3, "\"/b\": not found", Some("did you mean \"/a\"?")),
            (4, "\"/nor/this\": not found", where_they_are),
        ]
    );
    assert_eq!(failure.origin.unwrap().lines.unwrap().start, 3);
}

#[test]
fn a_bad_dockerfile_fails_before_anything_else() {
    let place = Place::new();
    let failure = place
        .build(&place.request("FROM missing.example/x\nFOO bar\n"))
        .unwrap_err();
    assert!(matches!(failure.error, Error::Dockerfile(_)));
}

#[test]
fn damaged_records_and_lost_layers_are_misses() {
    let place = Place::new();
    place.file("a", "one");
    let request = place.request("FROM scratch\nCOPY a /a\n");
    let first = place.build(&request).unwrap();
    for folder in ["records", "layers", "blobs"] {
        let path = place.path("store").join(folder);
        if path.exists() && folder != "records" {
            std::fs::remove_dir_all(&path).unwrap();
            std::fs::create_dir_all(&path).unwrap();
        }
    }
    drop(place.store.clone());
    let store = store::Store::open(&place.path("store")).unwrap();
    let result = executor::build::build(
        &store,
        &request,
        &Recorder::default(),
        &planner::scheduler::Cancel::default(),
        None,
    );
    let second = result.unwrap();
    assert_eq!(second.executed, 1);
    assert_eq!(first.digest, second.digest);
}

#[test]
fn every_platform_of_a_tar_has_its_folder() {
    let place = Place::new();
    place.file("a", "one");
    let mut request = place.request("FROM scratch\nCOPY a /a\n");
    request.platforms = ["linux/amd64", "linux/arm64"]
        .map(|text| text.parse().unwrap())
        .to_vec();
    let dest = place.path("out.tar");
    request.outputs = vec![output(OutputKind::Tar, &dest)];
    place.build(&request).unwrap();
    let files = tar_listing(&std::fs::read(dest).unwrap());
    let names: Vec<&str> = files.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "linux_amd64",
            "linux_amd64/a",
            "linux_arm64",
            "linux_arm64/a"
        ]
    );
}
