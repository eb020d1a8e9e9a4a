//! `kiln push`: what registries hold afterwards, and how little it takes.

use crate::registries::noise;
use crate::support::{Project, Run};
use serde_json::Value;
use std::process::Command;
use std::time::Duration;
use testkit::registry::{Action, FakeRegistry, Fault};
use testkit::{DockerRegistry, RegistrySetup};

/// A project with an image of one layer under a name.
fn built(name: &str) -> Project {
    let project = Project::new("FROM scratch\nCOPY a /a\nLABEL of=test\n");
    project.write("a", "content ".repeat(5000));
    project.kiln(&["build", "-q", "-t", name, "context"]).ok();
    project
}

/// What skopeo says of an image; `None`, said loudly, where it is not installed.
fn skopeo(args: &[&str]) -> Option<Value> {
    let ran = Command::new("skopeo").args(args).output();
    let Ok(output) = ran else {
        eprintln!("SKIPPED: there is no skopeo");
        return None;
    };
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {said}");
    Some(serde_json::from_slice(&output.stdout).unwrap_or(Value::Null))
}

fn inspect(name: &str) -> Option<Value> {
    skopeo(&["inspect", "--tls-verify=false", &format!("docker://{name}")])
}

fn raw(name: &str) -> Option<Value> {
    skopeo(&[
        "inspect",
        "--raw",
        "--tls-verify=false",
        &format!("docker://{name}"),
    ])
}

/// skopeo reads all blobs and checks them.
fn is_whole(project: &Project, name: &str) {
    let dest = format!("oci:{}", project.path("copied").display());
    let from = format!("docker://{name}");
    skopeo(&[
        "copy",
        "-q",
        "--all",
        "--src-tls-verify=false",
        &from,
        &dest,
    ]);
}

/// The digest in docker's last line.
fn digest(run: &Run) -> String {
    let line = run.text().lines().last().unwrap();
    let (_, rest) = line.split_once("digest: ").unwrap();
    rest.split_once(' ').unwrap().0.to_owned()
}

#[test]
fn g05_a_push_says_what_docker_says_and_a_second_one_asks_once() {
    let registry = FakeRegistry::start();
    let name = format!("{}/team/deep/app:v1", registry.host());
    let project = built(&name);
    let run = project.kiln(&["push", &name]).ok();
    let pushed = digest(&run);
    assert!(
        run.text().starts_with("v1: digest: sha256:"),
        "{}",
        run.text()
    );
    let repository = name.strip_suffix(":v1").unwrap();
    let says = format!("The push refers to repository [{repository}]\n");
    assert!(run.stderr.starts_with(&says), "{}", run.stderr);
    assert!(run.stderr.contains(": Pushed\n"), "{}", run.stderr);
    assert_eq!(
        registry.tagged("team/deep/app", "v1").as_deref(),
        Some(pushed.as_str())
    );

    let known = project
        .kiln(&["inspect", "--format", "{{json .RepoDigests}}", &name])
        .ok();
    assert_eq!(known.text(), format!("[\"{repository}@{pushed}\"]"));

    let before = registry.requests().len();
    let again = project.kiln(&["push", &name]).ok();
    assert_eq!(digest(&again), pushed);
    let asked: Vec<String> = registry.requests()[before..]
        .iter()
        .filter(|request| request.path != "/v2/")
        .map(|request| format!("{} {}", request.method, request.path))
        .collect();
    assert_eq!(asked, ["HEAD /v2/team/deep/app/manifests/v1"]);

    let before = registry.requests().len();
    let more = format!("{repository}:v2");
    project.kiln(&["push", &name, &more, &name]).ok();
    let requests = &registry.requests()[before..];
    let wrote: Vec<&str> = requests
        .iter()
        .filter(|request| request.method != "HEAD" && request.path != "/v2/")
        .map(|request| request.path.as_str())
        .collect();
    assert_eq!(wrote, ["/v2/team/deep/app/manifests/v2"]);
    assert_eq!(
        registry.count("HEAD", "/blobs/"),
        1,
        "the config's, at first"
    );

    let quiet = project.kiln(&["push", "-q", &name]).ok();
    assert_eq!((quiet.text(), quiet.stderr.as_str()), (name.as_str(), ""));
}

#[test]
fn several_tags_and_registries_at_once() {
    let (one, other) = (FakeRegistry::start(), FakeRegistry::start());
    let name = format!("{}/app:v1", one.host());
    let project = built(&name);
    let places = [
        format!("{}/app:v1", one.host()),
        format!("{}/app:v2", one.host()),
        format!("{}/else/where:x", one.host()),
        format!("docker://{}/app:v1", other.host()),
    ];
    let digests = project.path("digest");
    let mut args = vec!["push", "--digestfile", digests.to_str().unwrap(), &name];
    args.extend(places.iter().map(String::as_str));
    let run = project.kiln(&args).ok();
    assert_eq!(run.text().lines().count(), 4);
    let pushed = digest(&run);
    assert_eq!(std::fs::read_to_string(&digests).unwrap(), pushed);
    for (registry, repository, tag) in [
        (&one, "app", "v1"),
        (&one, "app", "v2"),
        (&one, "else/where", "x"),
        (&other, "app", "v1"),
    ] {
        assert_eq!(
            registry.tagged(repository, tag).as_deref(),
            Some(pushed.as_str())
        );
    }
    // A layer and a config to one repository of each registry; the other repository has them mounted.
    // A layer that is compressed before its upload begins needs no PATCH; each blob ends with a PUT.
    let id = project.kiln(&["inspect", "-f", "{{.Id}}", &name]).ok();
    let config = id.text().strip_prefix("sha256:").unwrap();
    for registry in [&one, &other] {
        assert!(registry.count("PATCH", "/blobs/uploads/") <= 1);
        let blobs = registry.count("PUT", "/blobs/uploads/");
        let configs = registry.count("PUT", config);
        assert!(configs >= 1);
        assert_eq!(blobs - configs, 1);
    }
    assert!(one.count("POST", "mount=") >= 1);
}

#[test]
fn what_a_registry_has_elsewhere_is_mounted() {
    let Some(registry) = DockerRegistry::start(&RegistrySetup::default()) else {
        return;
    };
    let host = registry.host();
    let name = format!("{host}/from/app:v1");
    let project = built(&name);
    project.kiln(&["push", &name]).ok();
    let other = format!("{host}/to/app:v1");
    let run = project.kiln(&["push", &name, &other]).ok();
    assert!(run.stderr.contains(": Mounted\n"), "{}", run.stderr);
    is_whole(&project, &other);
    if let Some(said) = inspect(&other) {
        assert_eq!(said["Digest"], digest(&run).as_str());
        assert_eq!(said["Labels"]["of"], "test");
    }
}

#[test]
fn every_compression_is_one_that_others_read() {
    let Some(registry) = DockerRegistry::start(&RegistrySetup::default()) else {
        return;
    };
    let host = registry.host();
    let name = format!("{host}/app:v1");
    let project = built(&name);
    for (format, kind) in [
        ("gzip", "application/vnd.oci.image.layer.v1.tar+gzip"),
        ("zstd", "application/vnd.oci.image.layer.v1.tar+zstd"),
        ("estargz", "application/vnd.oci.image.layer.v1.tar+gzip"),
        ("uncompressed", "application/vnd.oci.image.layer.v1.tar"),
    ] {
        let place = format!("{host}/app:{format}");
        let flag = format!("--compression-format={format}");
        project.kiln(&["push", &flag, &name, &place]).ok();
        is_whole(&project, &place);
        let Some(manifest) = raw(&place) else { return };
        assert_eq!(manifest["layers"][0]["mediaType"], kind, "{format}");
        let toc = &manifest["layers"][0]["annotations"]["containerd.io/snapshot/stargz/toc.digest"];
        assert_eq!(toc.is_string(), format == "estargz");
    }
    let docker = format!("{host}/app:docker");
    project
        .kiln(&["push", "--format", "docker", &name, &docker])
        .ok();
    is_whole(&project, &docker);
    if let Some(manifest) = raw(&docker) {
        let kind = "application/vnd.docker.distribution.manifest.v2+json";
        assert_eq!(manifest["mediaType"], kind);
        let layer = "application/vnd.docker.image.rootfs.diff.tar.gzip";
        assert_eq!(manifest["layers"][0]["mediaType"], layer);
    }
    project
        .kiln(&["push", "--format", "docker", "--compression", "zstd", &name])
        .fails(2, &["need --format oci"]);
    project
        .kiln(&["push", "--compression-level", "10", &name])
        .fails(2, &["it must be from 0 to 9 for gzip"]);
}

/// A pulled image is the same image in the next registry, also when its layers are plain.
#[test]
fn g05_what_was_pulled_keeps_its_digest() {
    let registry = FakeRegistry::start();
    let name = format!("{}/plain:1", registry.host());
    let there = built(&name);
    let plain = ["push", "--compression", "uncompressed", &name];
    let pushed = digest(&there.kiln(&plain).ok());
    let (project, again) = (Project::new(""), format!("{}/again:1", registry.host()));
    project.kiln(&["pull", "-q", &name]).ok();
    project.kiln(&["tag", &name, &again]).ok();
    assert_eq!(digest(&project.kiln(&["push", &again]).ok()), pushed);
    let gzip = ["push", "--compression", "gzip", &again];
    assert_ne!(digest(&project.kiln(&gzip).ok()), pushed);
}

#[test]
fn o09_an_index_goes_with_its_platforms_and_one_alone() {
    let Some(registry) = DockerRegistry::start(&RegistrySetup::default()) else {
        return;
    };
    let host = registry.host();
    let name = format!("{host}/multi/app:v1");
    let project = Project::new("FROM scratch\nARG TARGETARCH\nCOPY $TARGETARCH /arch\n");
    project.write("amd64", "amd64");
    project.write("arm64", "arm64");
    let platforms = "--platform=linux/amd64,linux/arm64";
    project
        .kiln(&["build", "-q", platforms, "-t", &name, "context"])
        .ok();
    let run = project.kiln(&["push", &name]).ok();
    is_whole(&project, &name);
    if let Some(index) = raw(&name) {
        assert_eq!(index["manifests"].as_array().unwrap().len(), 2);
    }
    let by_digest = format!("{host}/multi/app@{}", digest(&run));
    assert!(raw(&by_digest).is_none_or(|index| index["manifests"].is_array()));
    let one = format!("{host}/one/app:arm");
    project
        .kiln(&["push", "--platform", "linux/arm64", &name, &one])
        .ok();
    if let Some(manifest) = raw(&one) {
        assert!(manifest["layers"].is_array(), "{manifest}");
    }
    project
        .kiln(&["push", "--platform", "linux/s390x", &name])
        .fails(
            1,
            &["does not hold its image for linux/s390x", "linux/arm64"],
        );
}

#[test]
fn a_hundred_layers_and_all_tags() {
    let Some(registry) = DockerRegistry::start(&RegistrySetup::default()) else {
        return;
    };
    let host = registry.host();
    let steps: String = (0..100)
        .map(|number| format!("COPY a /{number}\n"))
        .collect();
    let project = Project::new(&format!("FROM scratch\n{steps}"));
    project.write("a", "x");
    let (one, two) = (format!("{host}/many:1"), format!("{host}/many:2"));
    project
        .kiln(&["build", "-q", "-t", &one, "-t", &two, "context"])
        .ok();
    let run = project.kiln(&["push", "-a", &format!("{host}/many")]).ok();
    assert_eq!(run.text().lines().count(), 2, "{}", run.text());
    is_whole(&project, &two);
    if let Some(manifest) = raw(&one) {
        assert_eq!(manifest["layers"].as_array().unwrap().len(), 100);
    }
}

#[test]
fn what_cannot_be_pushed_is_said() {
    let registry = FakeRegistry::start();
    let name = format!("{}/app:v1", registry.host());
    let project = built(&name);
    let cases: [(&[&str], i32, &str); 6] = [
        (
            &["push", "nothing"],
            1,
            "An image does not exist locally with the tag: nothing",
        ),
        (
            &["push", "-a", "nothing"],
            1,
            "An image does not exist locally",
        ),
        (
            &["push", "-a", "nothing:x"],
            2,
            "tag can't be used with --all-tags/-a",
        ),
        (&["push", &name, "UPPER"], 2, "invalid reference format"),
        (&["push", &name, "oci-archive:x.tar"], 2, "kiln save"),
        (
            &[
                "push",
                &name,
                "host:1/x@sha256:1111111111111111111111111111111111111111111111111111111111111111",
            ],
            2,
            "digest",
        ),
    ];
    for (args, status, says) in cases {
        project.kiln(args).fails(status, &[says]);
    }
    registry.fault(Fault::on("POST", "/blobs/uploads/").error(
        403,
        "DENIED",
        "requested access is denied",
    ));
    let files = crate::support::files_below(&project.store().join("blobs")).len();
    let run = project.kiln(&["push", &name]);
    run.fails(1, &["failed to push", "requested access is denied"]);
    assert_eq!(
        crate::support::files_below(&project.store().join("blobs")).len(),
        files,
        "nothing is compressed for a registry that takes nothing"
    );
}

#[test]
fn a_push_that_is_stopped_leaves_nothing_half_done() {
    let registry = FakeRegistry::start();
    let name = format!("{}/app:v1", registry.host());
    let project = Project::new("FROM scratch\nCOPY a /a\n");
    project.write("a", noise(20 << 20));
    project.kiln(&["build", "-q", "-t", &name, "context"]).ok();
    registry.fault(
        Fault::on_any("/blobs/uploads/").with(Action::SlowUpload(1000, Duration::from_millis(20))),
    );
    let mut push = project.start(project.command(&["push", &name]));
    push.wait_for("The push refers to");
    std::thread::sleep(Duration::from_millis(500));
    push.signal(rustix::process::Signal::INT);
    let run = push.finish();
    assert_eq!(run.status, 130, "{}", run.stderr);
    assert!(registry.tagged("app", "v1").is_none());
    registry.heal();
    project.kiln(&["push", &name]).ok();
    let scratch = project.store().join("scratch");
    assert!(crate::support::files_below(&scratch).is_empty());
}
