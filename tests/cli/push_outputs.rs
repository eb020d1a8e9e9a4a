//! Builds that push: `--push`, `type=registry`, `type=image` with all its keys.

use crate::registries::{busybox, compressed};
use crate::support::Project;
use serde_json::Value;
use std::path::Path;
use testkit::registry::{FakeRegistry, Fault};
use testkit::{Compression, Entry};

const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

fn project() -> Project {
    let project = Project::new("FROM scratch\nCOPY a /a\n");
    project.write("a", "content ".repeat(5000));
    project
}

fn metadata(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// The manifest under a tag.
fn manifest(registry: &FakeRegistry, repository: &str, tag: &str) -> Value {
    let digest = registry.tagged(repository, tag).expect("the tag is there");
    manifest_of(registry, repository, &digest)
}

fn manifest_of(registry: &FakeRegistry, repository: &str, digest: &str) -> Value {
    let name = format!("{}/{repository}@{digest}", registry.host());
    let project = Project::new("FROM scratch\n");
    project.kiln(&["pull", "-q", &name]).ok();
    let path = project.store().join("blobs").join(digest.replace(':', "/"));
    metadata(&path)
}

#[test]
fn o06_push_goes_to_the_registry_and_not_into_the_store() {
    let registry = FakeRegistry::start();
    let project = project();
    let name = format!("{}/app:v1", registry.host());
    let path = project.path("metadata");
    let file = path.to_str().unwrap();
    for (number, flags) in [
        vec!["--push", "-t", &name],
        vec!["-o", "type=registry", "-t", &name],
        vec!["-o", &format!("type=image,push=true,name={name}")],
        vec!["-o", &format!("type=registry,\"name={name},{name}-b\"")],
    ]
    .into_iter()
    .enumerate()
    {
        let mut args = flags;
        args.extend(["--metadata-file", file]);
        let run = project.build(&args).ok();
        let pushed = registry.tagged("app", "v1").unwrap();
        let said = metadata(&path);
        assert_eq!(said["containerimage.digest"], pushed.as_str(), "{number}");
        assert_eq!(said["containerimage.descriptor"]["digest"], pushed.as_str());
        assert!(said["image.name"].as_str().unwrap().starts_with(&name));
        if number == 0 {
            assert_eq!(run.step("exporting to image"), "DONE");
            assert_eq!(run.step("pushing layers"), "DONE");
            let task = format!("pushing manifest for {name}@{pushed}");
            assert_eq!(run.step(&task), "DONE");
        }
        assert!(project.images().is_empty(), "{number}");
    }
    assert!(registry.tagged("app", "v1-b").is_some());
    let manifest = manifest(&registry, "app", "v1");
    assert_eq!(manifest["mediaType"], OCI_MANIFEST);
    let layer = "application/vnd.oci.image.layer.v1.tar+gzip";
    assert_eq!(manifest["layers"][0]["mediaType"], layer);
    // By a PATCH and a PUT, or by the PUT alone when it was compressed before its upload began.
    let digest = manifest["layers"][0]["digest"].as_str().unwrap();
    let sent = registry.count("PUT", digest.strip_prefix("sha256:").unwrap());
    assert_eq!(sent, 1, "compressed and sent once");
    assert!(registry.count("PATCH", "/blobs/uploads/") <= 1);
}

#[test]
fn o05_keys_of_image_outputs() {
    let registry = FakeRegistry::start();
    let project = project();
    let host = registry.host();
    let build = |keys: &str| {
        let output = format!("type=image,push=true,{keys}");
        project.build(&["-o", &output]).ok();
    };
    build(&format!("name={host}/app:stored,store=true,unpack=true"));
    assert_eq!(project.images(), [format!("{host}/app:stored")]);
    build(&format!("name={host}/app:docker,oci-mediatypes=false"));
    let docker = manifest(&registry, "app", "docker");
    let kind = "application/vnd.docker.distribution.manifest.v2+json";
    assert_eq!(docker["mediaType"], kind);
    build(&format!(
        "name={host}/app:zstd,compression=zstd,compression-level=5,force-compression=true"
    ));
    let zstd = manifest(&registry, "app", "zstd");
    let kind = "application/vnd.oci.image.layer.v1.tar+zstd";
    assert_eq!(zstd["layers"][0]["mediaType"], kind);
    build(&format!(
        "name={host}/app:lazy,compression=estargz,oci-artifact=true"
    ));
    let lazy = manifest(&registry, "app", "lazy");
    let toc = &lazy["layers"][0]["annotations"]["containerd.io/snapshot/stargz/toc.digest"];
    assert!(toc.is_string(), "{lazy}");
    build(&format!(
        "name={host}/app:noted,annotation.a=b,registry.insecure=true"
    ));
    assert_eq!(manifest(&registry, "app", "noted")["annotations"]["a"], "b");

    for (keys, says) in [
        (
            "name=h:1/a,compatibility-version=10",
            "compatibility-version is not supported",
        ),
        ("name=h:1/a,compression=lz4", "unsupported compression type"),
        (
            "name=h:1/a,compression=zstd,oci-mediatypes=false",
            "needs oci-mediatypes=true",
        ),
        (
            "name=h:1/a,compression-level=77",
            "must be from 0 to 9 for gzip",
        ),
        (
            "push-by-digest=true,name=h:1/a:v1",
            "can't push tagged ref h:1/a:v1 by digest",
        ),
    ] {
        let run = project.build(&["-o", &format!("type=image,push=true,{keys}")]);
        assert_ne!(run.status, 0);
        assert!(run.stderr.contains(says), "{keys}: {}", run.stderr);
    }
    let run = project.build(&["--push"]);
    assert!(
        run.stderr
            .contains("tag is needed when pushing to registry"),
        "{}",
        run.stderr
    );
}

#[test]
fn o05_a_push_by_digest_makes_no_tag() {
    let registry = FakeRegistry::start();
    let project = project();
    let name = format!("{}/app", registry.host());
    let output =
        format!("type=image,push=true,push-by-digest=true,name-canonical=true,name={name}");
    let path = project.path("metadata");
    project
        .build(&["-o", &output, "--metadata-file", path.to_str().unwrap()])
        .ok();
    let said = metadata(&path);
    let digest = said["containerimage.digest"].as_str().unwrap();
    assert_eq!(said["image.name"], name.as_str());
    assert!(registry.tagged("app", "latest").is_none());
    assert!(manifest_of(&registry, "app", digest)["layers"].is_array());
    let stored = project.build(&[
        "-o",
        "type=image,dangling-name-prefix=loose",
        "--metadata-file",
        path.to_str().unwrap(),
    ]);
    stored.ok();
    let said = metadata(&path);
    let name = format!("loose@{}", said["containerimage.digest"].as_str().unwrap());
    assert_eq!(said["image.name"], name.as_str());
    project.kiln(&["inspect", &name]).ok();
}

#[test]
fn o08_a_push_among_other_outputs() {
    let registry = FakeRegistry::start();
    let project = project();
    let name = format!("{}/app:v1", registry.host());
    let archive = project.path("app.tar");
    let output = format!("type=oci,dest={}", archive.display());
    project
        .build(&["-t", &name, "--push", "-o", &output, "-o", "type=cacheonly"])
        .ok();
    assert!(archive.is_file() && registry.tagged("app", "v1").is_some());
    assert!(project.images().is_empty());
}

#[test]
fn a_base_that_the_registry_has_is_not_downloaded() {
    let registry = FakeRegistry::start();
    let (_, layer) = compressed(
        &registry,
        "base:v1",
        &[Entry::file("b", "base")],
        Compression::Gzip,
    );
    let host = registry.host();
    // A COPY would have to look into it.
    let project = Project::new(&format!("FROM {host}/base:v1\nLABEL a=b\n"));
    project
        .build(&["--push", "-t", &format!("{host}/app:v1")])
        .ok();
    assert!(!registry.pulled_blobs().contains(&layer));
    let pushed = manifest(&registry, "app", "v1");
    assert_eq!(
        pushed["layers"][0]["digest"],
        layer.as_str(),
        "the base keeps its bytes"
    );

    // Another registry has to be sent it.
    let other = FakeRegistry::start();
    project
        .build(&["--push", "-t", &format!("{}/app:v1", other.host())])
        .ok();
    assert_eq!(
        manifest(&other, "app", "v1")["layers"][0]["digest"],
        layer.as_str()
    );
    assert!(registry.pulled_blobs().contains(&layer));
}

#[test]
fn a_registry_that_refuses_is_told_before_commands_run() {
    let registry = FakeRegistry::start();
    busybox(&registry, "busybox:1");
    let host = registry.host();
    let project = Project::new("FROM busybox\nRUN echo it-runs\n");
    registry.fault(Fault::on("HEAD", "/v2/app/manifests/").error(401, "UNAUTHORIZED", "log in"));
    let run = project.build(&["--push", "-t", &format!("{host}/app:v1")]);
    assert_eq!(run.status, 1);
    assert!(!run.stderr.contains("it-runs\n"), "{}", run.stderr);
    assert!(run.stderr.contains("failed to push"), "{}", run.stderr);
}
