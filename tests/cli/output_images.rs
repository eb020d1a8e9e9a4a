//! Images as archives and layouts: `type=oci`, `type=docker`, several outputs at once, and the files that tell of them.

use crate::support::{Project, unpack};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

fn project() -> Project {
    let project = Project::new("FROM scratch\nARG TARGETARCH\nCOPY f /$TARGETARCH/f\n");
    project.write("f", "content");
    project
}

fn json_of(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Annotations of the entries of a layout, without times.
fn annotations(layout: &Path) -> Vec<Value> {
    let index = json_of(&layout.join("index.json"));
    let entries = index["manifests"].as_array().unwrap().iter();
    entries
        .map(|entry| {
            let mut annotations = entry["annotations"].clone();
            let created = annotations
                .as_object_mut()
                .unwrap()
                .remove("org.opencontainers.image.created");
            assert!(created.is_some(), "{entry}");
            annotations
        })
        .collect()
}

fn named(name: &str, tag: &str) -> Value {
    json!({"io.containerd.image.name": name, "org.opencontainers.image.ref.name": tag})
}

const TWO: [&str; 2] = ["--platform", "linux/amd64,linux/arm64"];

#[test]
fn o03_oci_archives_name_their_images() {
    let project = project();
    let out = |args: &[&str], name: &str| {
        let output = format!("type=oci,dest={name}.tar");
        project.build(&[args, &["-o", &output]].concat()).ok();
        let layout = unpack(&project.path(&format!("{name}.tar")), &project.path(name));
        testkit::validate(&layout).unwrap();
        layout
    };
    let layout = out(&["-t", "a", "-t", "host:5000/b:2"], "two");
    assert_eq!(
        annotations(&layout),
        [
            named("docker.io/library/a:latest", "latest"),
            named("host:5000/b:2", "2")
        ]
    );
    assert_eq!(annotations(&out(&[], "none")), [json!({})]);
    // The output's own name counts, not the tags.
    project
        .build(&["-t", "a", "-o", "type=oci,dest=own.tar,name=mine:3"])
        .ok();
    let layout = unpack(&project.path("own.tar"), &project.path("own"));
    assert_eq!(
        annotations(&layout),
        [named("docker.io/library/mine:3", "3")]
    );
}

#[test]
fn o03_oci_folders_are_added_to() {
    let project = project();
    let layout = project.path("layout");
    let build = |args: &[&str]| {
        project
            .build(&[args, &["-o", "type=oci,dest=layout,tar=false"]].concat())
            .ok();
        testkit::validate(&layout).unwrap();
    };
    build(&["-t", "a:1"]);
    build(&["-t", "b:2", "--label", "x=y"]);
    let (a, b) = (
        named("docker.io/library/a:1", "1"),
        named("docker.io/library/b:2", "2"),
    );
    assert_eq!(annotations(&layout), [a.clone(), b.clone()]);
    let before = fs::read_dir(layout.join("blobs/sha256")).unwrap().count();
    // A name stands for one image: the last one.
    build(&["-t", "a:1", "--label", "x=y"]);
    assert_eq!(annotations(&layout), [b.clone(), a.clone()]);
    let index = json_of(&layout.join("index.json"));
    assert_eq!(
        index["manifests"][0]["digest"],
        index["manifests"][1]["digest"]
    );
    assert_eq!(
        fs::read_dir(layout.join("blobs/sha256")).unwrap().count(),
        before
    );
    // Without a name it is the latest, as readers of layouts have it.
    let latest = json!({"org.opencontainers.image.ref.name": "latest"});
    for _ in 0..2 {
        build(&[]);
        assert_eq!(annotations(&layout), [b.clone(), a.clone(), latest.clone()]);
    }
    fs::write(project.path("layout/index.json"), "{").unwrap();
    project
        .build(&["-o", "type=oci,dest=layout,tar=false"])
        .fails(1, &["index.json", "not a manifest"]);
}

#[test]
fn o03_oci_compression_and_media_types() {
    let project = project();
    for (keys, ends) in [
        ("", "tar+gzip"),
        (",compression=zstd,compression-level=19", "tar+zstd"),
        (",compression=uncompressed", "layer.v1.tar"),
        (",oci-mediatypes=false", "diff.tar.gzip"),
    ] {
        let output = format!("type=oci,dest=out.tar{keys}");
        project.build(&["-t", "a:1", "-o", &output]).ok();
        let layout = unpack(&project.path("out.tar"), &project.path("out"));
        let manifest = testkit::manifest_of(&layout, "1").unwrap();
        let media_type = manifest["layers"][0]["mediaType"].as_str().unwrap();
        assert!(media_type.ends_with(ends), "{keys}: {media_type}");
    }
    for (keys, says) in [
        ("compression=lz4", "lz4"),
        ("compression-level=x", "compression-level"),
        ("tar=maybe", "tar must be true or false"),
    ] {
        let output = format!("type=oci,dest=out.tar,{keys}");
        project.build(&["-o", &output]).fails(2, &[says]);
    }
    project
        .build(&["-o", "type=oci,dest=out.tar,compression-level=99"])
        .fails(1, &["compression-level 99"]);
}

#[test]
fn o04_docker_archives_are_for_one_platform() {
    let project = project();
    let lists =
        "docker exporter does not support exporting manifest lists, use the oci exporter instead";
    project
        .build(&[&TWO[..], &["-o", "type=docker,dest=out.tar"]].concat())
        .fails(1, &[lists]);
    assert!(!project.path("out.tar").exists());
    project
        .build(&[
            "--platform",
            "linux/arm64",
            "-t",
            "a",
            "-t",
            "b.example/c:2",
            "-o",
            "type=docker,dest=out,tar=false",
        ])
        .ok();
    testkit::validate(&project.path("out")).unwrap();
    // A layout like any other: `docker load` takes archives only.
    assert_eq!(
        annotations(&project.path("out")),
        [
            named("docker.io/library/a:latest", "latest"),
            named("b.example/c:2", "2")
        ]
    );
}

#[test]
fn o07_cacheonly_builds_and_gives_nothing() {
    let project = project();
    let run = project
        .build(&[
            "-t",
            "a",
            "-o",
            "type=cacheonly",
            "--metadata-file",
            "metadata",
        ])
        .ok();
    assert_eq!(run.text(), "");
    assert!(project.images().is_empty());
    assert_eq!(
        json_of(&project.path("metadata"))
            .as_object()
            .unwrap()
            .len(),
        1
    );
    let again = project.build(&["-t", "a"]).ok();
    assert_eq!(again.step("COPY f"), "CACHED");
    assert_eq!(project.images(), ["docker.io/library/a:latest"]);
}

#[test]
fn o08_several_outputs_at_once_agree() {
    let project = project();
    let mut args = vec![
        "-t",
        "a:1",
        "--iidfile",
        "id",
        "--metadata-file",
        "metadata",
    ];
    let outputs = [
        "type=oci,dest=one.tar",
        "type=oci,dest=two.tar",
        "type=docker,dest=three.tar",
        "type=local,dest=files",
        "type=tar,dest=files.tar",
        "type=cacheonly",
        "type=image",
    ];
    for output in &outputs {
        args.extend(["-o", output]);
    }
    project.build(&args).ok();
    let bytes = |name: &str| fs::read(project.path(name)).unwrap();
    assert!(bytes("one.tar") == bytes("two.tar"));
    let id = String::from_utf8(bytes("id")).unwrap();
    for name in ["one", "three"] {
        let layout = unpack(&project.path(&format!("{name}.tar")), &project.path(name));
        assert_eq!(
            testkit::manifest_of(&layout, "1").unwrap()["config"]["digest"],
            id
        );
    }
    assert_eq!(
        json_of(&project.path("metadata"))["containerimage.config.digest"],
        id
    );
    assert_eq!(fs::read_dir(project.path("files")).unwrap().count(), 1);
    // One that fails is told, and leaves no half of itself.
    fs::create_dir(project.path("folder")).unwrap();
    project
        .build(&["-o", "type=oci,dest=new.tar", "-o", "type=oci,dest=folder"])
        .fails(1, &["folder", "it is a folder"]);
    assert!(!project.path("new.tar").exists());
    project
        .build(&["-o", "-", "-o", "type=oci"])
        .fails(2, &["only one output can go to standard output"]);
}

#[test]
fn o09_an_index_has_a_manifest_for_every_platform() {
    let project = project();
    let files = ["--iidfile", "id", "--metadata-file", "metadata"];
    project
        .build(
            &[
                &TWO[..],
                &files,
                &["-t", "a:1", "-o", "type=oci,dest=out,tar=false"],
            ]
            .concat(),
        )
        .ok();
    let layout = project.path("out");
    testkit::validate(&layout).unwrap();
    let root = json_of(&layout.join("index.json"))["manifests"][0].clone();
    assert_eq!(root["mediaType"], "application/vnd.oci.image.index.v1+json");
    assert!(root.get("platform").is_none(), "{root}");
    let blob = |digest: &Value| {
        layout
            .join("blobs")
            .join(digest.as_str().unwrap().replacen(':', "/", 1))
    };
    let index = json_of(&blob(&root["digest"]));
    let platforms: Vec<_> = index["manifests"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["platform"].clone())
        .collect();
    let platform = |architecture: &str| json!({"architecture": architecture, "os": "linux"});
    assert_eq!(platforms, [platform("amd64"), platform("arm64")]);
    // The whole has no config of its own: its digest is its id.
    let metadata = json_of(&project.path("metadata"));
    assert_eq!(metadata["containerimage.digest"], root["digest"]);
    assert_eq!(
        fs::read_to_string(project.path("id")).unwrap(),
        root["digest"].as_str().unwrap()
    );
    assert!(
        metadata.get("containerimage.config.digest").is_none(),
        "{metadata}"
    );
    let described: Vec<_> = metadata["containerimage.descriptor"]
        .as_object()
        .unwrap()
        .keys()
        .collect();
    assert_eq!(described, ["annotations", "digest", "mediaType", "size"]);
}

#[test]
fn o09_metadata_is_written_as_buildx_writes_it() {
    let project = project();
    project
        .build(&[
            "-t",
            "a:1",
            "--metadata-file",
            "metadata",
            "-o",
            "type=oci,dest=out.tar",
        ])
        .ok();
    let text = fs::read_to_string(project.path("metadata")).unwrap();
    let keys: Vec<&str> = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix('"')?.split_once("\":"))
        .map(|(key, _)| key)
        .collect();
    assert_eq!(
        keys,
        [
            "buildx.build.ref",
            "containerimage.config.digest",
            "containerimage.descriptor",
            "mediaType",
            "digest",
            "size",
            "annotations",
            "org.opencontainers.image.created",
            "platform",
            "architecture",
            "os",
            "containerimage.digest",
            "image.name",
        ]
    );
    assert!(
        text.starts_with("{\n  \"buildx.build.ref\": \"kiln/kiln/") && text.ends_with("\"\n}"),
        "{text}"
    );
    // Files alone have neither id nor digest.
    let says = "local and tar exporters are incompatible with image ID file";
    project
        .build(&["-o", "files", "--iidfile", "id"])
        .fails(2, &[says]);
    project
        .build(&["-o", "files", "--metadata-file", "metadata"])
        .ok();
    assert_eq!(
        json_of(&project.path("metadata"))
            .as_object()
            .unwrap()
            .len(),
        1
    );
}
