//! `kiln manifest`: lists of images in registries and in the store, made, changed, pushed, and read by others.

use crate::support::{Project, able};
use serde_json::{Value, json};
use std::process::Command;
use testkit::registry::FakeRegistry;
use testkit::{DockerRegistry, RegistrySetup};

pub fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// A registry with `app:amd64`, `app:arm64`, `app:arm` and the list `app:both` of the first two.
pub fn registry() -> FakeRegistry {
    let registry = FakeRegistry::start();
    let image = |arch: &str| {
        let layer = testkit::archive(&[testkit::Entry::file("f", arch)]).unwrap();
        registry.put_image("team/app", Some(arch), arch, &[layer])
    };
    let (amd64, arm64) = (image("amd64"), image("arm64"));
    image("arm");
    registry.put_index("team/app", "both", &[(&amd64, "amd64"), (&arm64, "arm64")]);
    registry
}

pub fn platforms(index: &Value) -> Vec<String> {
    let entries = index["manifests"].as_array().unwrap().iter();
    entries
        .map(|entry| {
            let platform = &entry["platform"];
            let parts = ["os", "architecture", "variant"];
            let parts = parts.iter().filter_map(|part| platform[*part].as_str());
            parts.collect::<Vec<_>>().join("/")
        })
        .collect()
}

/// What another tool prints; nothing where it is not installed.
pub fn said(program: &str, args: &[&str]) -> Option<Value> {
    let mut command = Command::new(program);
    command.args(args);
    said_by(command)
}

fn said_by(mut command: Command) -> Option<Value> {
    let ran = command.output();
    let program = command.get_program().to_string_lossy();
    if !able(ran.is_ok(), &program) {
        return None;
    }
    let ran = ran.unwrap();
    let stderr = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{program}: {stderr}");
    Some(serde_json::from_slice(&ran.stdout).unwrap_or(Value::Null))
}

#[test]
fn it01_a_list_is_made_changed_and_pushed() {
    let Some(target) = DockerRegistry::start(&RegistrySetup::default()) else {
        return;
    };
    let (source, project) = (registry(), Project::new(""));
    let image = |tag: &str| format!("{}/team/app:{tag}", source.host());
    let list = format!("{}/deep/er/app:all", target.host());
    let created = project
        .kiln(&["manifest", "create", &list, &image("amd64"), &image("arm")])
        .ok();
    assert_eq!(created.text(), format!("Created manifest list {list}"));
    project
        .kiln(&["manifest", "create", &list, &image("arm64")])
        .fails(
            1,
            &["refusing to amend an existing manifest list with no --amend flag"],
        );
    project
        .kiln(&["manifest", "create", "--amend", &list, &image("arm64")])
        .ok();
    let change = [
        "--variant",
        "v7",
        "--os-version",
        "1.2",
        "--os-features",
        "a,b",
        "--annotation",
        "k=v",
    ];
    let arm = image("arm");
    let mut annotate = vec!["manifest", "annotate", &list, &arm];
    annotate.extend(change);
    let once = project.kiln(&annotate).ok();
    // The same again is the same list.
    assert_eq!(project.kiln(&annotate).ok().text(), once.text());
    let shown = parse(project.kiln(&["manifest", "inspect", &list]).ok().text());
    assert_eq!(
        platforms(&shown),
        ["linux/amd64", "linux/arm/v7", "linux/arm64"]
    );
    let entry = &shown["manifests"][1];
    assert_eq!(entry["platform"]["os.version"], "1.2");
    assert_eq!(entry["platform"]["os.features"], json!(["a", "b"]));
    assert_eq!(entry["annotations"], json!({"k": "v"}));

    let pushed = project.kiln(&["manifest", "push", &list]).ok();
    let lines: Vec<&str> = pushed.text().lines().collect();
    assert_eq!(lines.len(), 4, "{lines:?}");
    let refs = lines.iter().filter(|line| {
        line.starts_with(&format!("Pushed ref {}/deep/er/app@sha256:", target.host()))
    });
    assert_eq!(refs.count(), 3);
    assert_eq!(lines[3], once.text());
    // Everything is there now.
    let again = project.kiln(&["manifest", "push", "-q", &list]).ok();
    assert_eq!(again.text(), once.text());

    let name = format!("docker://{list}");
    if let Some(raw) = said("skopeo", &["inspect", "--raw", "--tls-verify=false", &name]) {
        assert_eq!(raw, shown);
    }
    let out = project.path("copied");
    let out = format!("dir:{}", out.display());
    let _ = said(
        "skopeo",
        &["copy", "-q", "--all", "--src-tls-verify=false", &name, &out],
    );
    let host = target.host();
    let conf = format!("[[registry]]\nlocation = \"{host}\"\ninsecure = true\n");
    let conf = project.write("registries.conf", conf);
    let mut podman = Command::new("podman");
    podman.env("CONTAINERS_REGISTRIES_CONF", conf);
    podman.args(["manifest", "inspect", &list]);
    if let Some(read) = said_by(podman) {
        assert_eq!(platforms(&read), platforms(&shown));
    }
    project.kiln(&["manifest", "rm", &list]).ok();
    project.kiln(&["manifest", "exists", &list]).fails(1, &[]);
    // Not in the store any more, so it is the registry's.
    let remote = parse(project.kiln(&["manifest", "inspect", &list]).ok().text());
    assert_eq!(remote, shown);
}

#[test]
fn it01_errors_are_dockers() {
    let (source, project) = (registry(), Project::new(""));
    let host = source.host();
    let image = |tag: &str| format!("{host}/team/app:{tag}");
    let none = image("none");
    let no_such = format!("no such manifest: {none}");
    project
        .kiln(&["manifest", "create", "list", &none])
        .fails(1, &[&no_such]);
    project.kiln(&["manifest", "exists", "list"]).fails(1, &[]);
    project
        .kiln(&["manifest", "create", "list", &image("both")])
        .fails(1, &[&format!("{} is a manifest list", image("both"))]);
    project
        .kiln(&["manifest", "inspect", &none])
        .fails(1, &[&no_such]);
    for command in ["push", "rm"] {
        project
            .kiln(&["manifest", command, "list"])
            .fails(1, &["No such manifest: docker.io/library/list:latest"]);
    }
    project
        .kiln(&["manifest", "create", "list", &image("amd64")])
        .ok();
    project
        .kiln(&["manifest", "annotate", "list", &none, "--arch", "x"])
        .fails(
            1,
            &[&format!(
                "manifest for image {none} does not exist in docker.io/library/list:latest"
            )],
        );
    let wrong = format!("sha256:{}", "0".repeat(64));
    project
        .kiln(&["manifest", "remove", "list", &wrong])
        .fails(1, &["no instance matching digest sha256:0000"]);
    project
        .kiln(&["manifest", "remove", "list", "sha256:12"])
        .fails(1, &["invalid image digest \"sha256:12\""]);
    project
        .kiln(&[
            "manifest",
            "annotate",
            "list",
            &image("amd64"),
            "--arch",
            "",
        ])
        .fails(1, &["unsupported os/arch combination: linux/"]);
    project
        .kiln(&["manifest", "annotate", "list"])
        .fails(2, &["IMAGE"]);
    // An image that does not say what it is for cannot be pushed in a list.
    let config = source.put_blob("{}");
    let manifest = json!({
        "schemaVersion": 2,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": 2},
        "layers": [],
    });
    let kind = "application/vnd.oci.image.manifest.v1+json";
    source.put_manifest("team/app", Some("bare"), kind, manifest.to_string());
    let bare = image("bare");
    project.kiln(&["manifest", "create", "other", &bare]).ok();
    project
        .kiln(&["manifest", "push", "other", &image("pushed")])
        .fails(
            1,
            &["must have an OS and Architecture to be pushed to a registry"],
        );
    project
        .kiln(&["manifest", "add", "list", &bare])
        .fails(1, &["unsupported os/arch combination: /"]);
    project
        .kiln(&[
            "manifest", "add", "list", &bare, "--os", "linux", "--arch", "riscv64",
        ])
        .ok();
    let shown = parse(project.kiln(&["manifest", "inspect", "list"]).ok().text());
    assert_eq!(platforms(&shown), ["linux/amd64", "linux/riscv64"]);
}

#[test]
fn it01_lists_as_podman_makes_them() {
    let (source, project) = (registry(), Project::new(""));
    let both = format!("docker://{}/team/app:both", source.host());
    project.kiln(&["manifest", "create", "empty"]).ok();
    let one = project
        .kiln(&["manifest", "add", "empty", &both, "--arch", "arm64"])
        .ok();
    assert!(one.text().starts_with("sha256:"));
    let list = || parse(project.kiln(&["manifest", "inspect", "empty"]).ok().text());
    assert_eq!(platforms(&list()), ["linux/arm64"]);
    project
        .kiln(&["manifest", "add", "--all", "empty", &both])
        .ok();
    assert_eq!(platforms(&list()), ["linux/amd64", "linux/arm64"]);
    project
        .kiln(&[
            "manifest",
            "annotate",
            "--index",
            "empty",
            "--annotation",
            "a=b",
        ])
        .ok();
    assert_eq!(list()["annotations"], json!({"a": "b"}));
    let arm64 = list()["manifests"][1]["digest"]
        .as_str()
        .unwrap()
        .to_owned();
    project.kiln(&["manifest", "remove", "empty", &arm64]).ok();
    assert_eq!(platforms(&list()), ["linux/amd64"]);
    // The store shows it as it shows images.
    assert_eq!(project.images(), ["docker.io/library/empty:latest"]);
    let verbose = parse(
        project
            .kiln(&["manifest", "inspect", "-v", "empty"])
            .ok()
            .text(),
    );
    assert_eq!(
        verbose[0]["Descriptor"]["platform"]["architecture"],
        "amd64"
    );
    assert_eq!(
        verbose[0]["OCIManifest"]["layers"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    project.kiln(&["manifest", "exists", "empty"]).ok();
    let removed = project.kiln(&["manifest", "rm", "empty"]).ok();
    assert!(
        removed
            .text()
            .starts_with("Untagged: docker.io/library/empty:latest")
    );
}

#[test]
fn it01_images_of_builds_are_pushed_compressed() {
    let Some(target) = DockerRegistry::start(&RegistrySetup::default()) else {
        return;
    };
    let project = Project::new("FROM scratch\nCOPY f /f\n");
    project.write("f", "content ".repeat(10_000));
    for (tag, platform) in [("a:1", "linux/amd64"), ("a:2", "linux/s390x")] {
        project.build(&["-t", tag, "--platform", platform]).ok();
    }
    let destination = format!("{}/built:1", target.host());
    project
        .kiln(&["manifest", "create", "list", "a:1", "a:2"])
        .ok();
    let digestfile = project.path("digest");
    let file = digestfile.to_str().unwrap();
    let pushed = project
        .kiln(&[
            "manifest",
            "push",
            "--purge",
            "--digestfile",
            file,
            "list",
            &destination,
        ])
        .ok();
    let digest = pushed.text().lines().last().unwrap().to_owned();
    assert_eq!(std::fs::read_to_string(&digestfile).unwrap(), digest);
    project.kiln(&["manifest", "exists", "list"]).fails(1, &[]);
    let read = |args: &[&str]| {
        let mut all = vec!["inspect", "--tls-verify=false"];
        all.extend(args);
        said("skopeo", &all)
    };
    let name = format!("docker://{destination}");
    let Some(index) = read(&["--raw", &name]) else {
        return;
    };
    assert_eq!(platforms(&index), ["linux/amd64", "linux/s390x"]);
    let child = index["manifests"][1]["digest"].as_str().unwrap();
    let child = format!("docker://{}/built@{child}", target.host());
    let manifest = read(&["--raw", &child]).unwrap();
    let layer = &manifest["layers"][0];
    assert_eq!(
        layer["mediaType"],
        "application/vnd.oci.image.layer.v1.tar+gzip"
    );
    assert!(layer["size"].as_u64().unwrap() < 10_000);

    // In Docker's media types it is another list.
    project
        .kiln(&["manifest", "create", "list", "a:1", "a:2"])
        .ok();
    let docker = format!("{}/built:docker", target.host());
    project
        .kiln(&["manifest", "push", "--format", "v2s2", "list", &docker])
        .ok();
    let index = read(&["--raw", &format!("docker://{docker}")]).unwrap();
    assert_eq!(
        index["mediaType"],
        "application/vnd.docker.distribution.manifest.list.v2+json"
    );
}

#[test]
fn it01_processes_that_change_one_list_lose_nothing() {
    let (source, project) = (FakeRegistry::start(), Project::new(""));
    let arches = [
        "386", "amd64", "arm64", "loong64", "mips64le", "ppc64le", "riscv64", "s390x",
    ];
    for arch in arches {
        let layer = testkit::archive(&[testkit::Entry::file("f", arch)]).unwrap();
        source.put_image("team/app", Some(arch), arch, &[layer]);
    }
    project.kiln(&["manifest", "create", "list"]).ok();
    let images: Vec<String> = arches
        .iter()
        .map(|arch| format!("{}/team/app:{arch}", source.host()))
        .collect();
    let all_at_once = |args: &dyn Fn(&str) -> Vec<String>| {
        let start = |image: &String| project.start(project.command(&args(image)));
        let started: Vec<_> = images.iter().map(start).collect();
        for process in started {
            process.finish().ok();
        }
    };
    let args = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    let list = || parse(project.kiln(&["manifest", "inspect", "list"]).ok().text());
    all_at_once(&|image| args(&["manifest", "add", "list", image]));
    let expected: Vec<String> = arches.iter().map(|arch| format!("linux/{arch}")).collect();
    assert_eq!(platforms(&list()), expected);
    all_at_once(&|image| {
        let annotation = format!("of={}", image.rsplit_once(':').unwrap().1);
        args(&[
            "manifest",
            "annotate",
            "list",
            image,
            "--annotation",
            &annotation,
        ])
    });
    for entry in list()["manifests"].as_array().unwrap() {
        assert_eq!(
            entry["annotations"]["of"],
            entry["platform"]["architecture"]
        );
    }
    let more = ["manifest", "create", "--amend", "other"];
    all_at_once(&|image| args(&[more.as_slice(), &[image]].concat()));
    let other = project.kiln(&["manifest", "inspect", "other"]).ok();
    assert_eq!(platforms(&parse(other.text())), expected);
}

#[test]
fn it01_a_list_sends_what_the_registry_lacks_and_nothing_else() {
    let (source, project) = (registry(), Project::new("FROM scratch\nCOPY f /f\n"));
    project.write("f", "content ".repeat(10_000));
    project
        .build(&["-t", "built", "--platform", "linux/s390x"])
        .ok();
    let host = source.host();
    let image = |tag: &str| format!("{host}/team/app:{tag}");
    let create = |list: &str, images: &[&str]| {
        let args = [&["manifest", "create", list], images].concat();
        project.kiln(&args).ok();
    };
    let asked = |args: &[&str]| -> Vec<String> {
        let before = source.requests().len();
        project.kiln(args).ok();
        let requests = source.requests();
        let of_method = |request: &&testkit::registry::Received| request.path != "/v2/";
        let mut asked: Vec<String> = requests[before..]
            .iter()
            .filter(of_method)
            .map(|request| {
                let path = request.path.split('?').next().unwrap_or_default();
                let short = path.split("sha256:").next().unwrap_or_default();
                format!("{} {short}", request.method)
            })
            .collect();
        asked.sort();
        asked
    };
    // Both images are in the repository: a question for each, one for the tag and one for the list.
    create("two", &[&image("amd64"), &image("arm")]);
    let manifests = "/v2/team/app/manifests/";
    assert_eq!(
        asked(&["manifest", "push", "two", &image("two")]),
        [
            format!("HEAD {manifests}"),
            format!("HEAD {manifests}"),
            format!("HEAD {manifests}"),
            format!("HEAD {manifests}two"),
            format!("PUT {manifests}two"),
        ]
    );
    assert_eq!(
        asked(&["manifest", "push", "two", &image("two")]),
        [format!("HEAD {manifests}two")]
    );
    // In another repository of the registry they are mounted; what was built here is compressed and sent.
    create("three", &[&image("amd64"), &image("arm64"), "built"]);
    let target = format!("{host}/other/app:three");
    let wrote = asked(&["manifest", "push", "three", &target]);
    let count = |text: &str| wrote.iter().filter(|line| line.starts_with(text)).count();
    assert_eq!(count("GET /v2/team/app/blobs/"), 0, "{wrote:?}");
    assert_eq!(count("PUT /v2/other/app/manifests/"), 4, "{wrote:?}");
    assert!(source.uploaded() < 10_000, "{}", source.uploaded());
    assert_eq!(
        asked(&["manifest", "push", "three", &target]),
        ["HEAD /v2/other/app/manifests/three"]
    );
    // Copies from the store go the same way, into several registries at once.
    let other = FakeRegistry::start();
    let places = [
        format!("{host}/third:1"),
        format!("{}/third:1", other.host()),
    ];
    let copied = project
        .kiln(&["copy", "store:three", &places[0], &places[1]])
        .ok();
    assert_eq!(copied.text().lines().count(), 2);
    assert_eq!(
        source.tagged("third", "1"),
        source.tagged("other/app", "three")
    );
    assert_eq!(other.tagged("third", "1"), source.tagged("third", "1"));
}
