//! `kiln imagetools`: images that several runners have pushed become one; what is in a registry is shown as buildx shows it.

use crate::manifest::{parse, platforms, registry};
use crate::support::Project;
use serde_json::{Value, json};
use testkit::registry::FakeRegistry;
use testkit::{DockerRegistry, RegistrySetup};

const ARCHITECTURES: [&str; 8] = [
    "386", "amd64", "arm", "arm64", "mips64le", "ppc64le", "riscv64", "s390x",
];

#[test]
fn it02_the_same_bytes_as_buildx() {
    let (source, project) = (FakeRegistry::start(), Project::new(""));
    // What buildx 0.29 made of these two on a registry.
    let image = |arch: &str, variant: Option<&str>| {
        let mut config = json!({"architecture": arch, "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": []}});
        if let Some(variant) = variant {
            config["variant"] = variant.into();
        }
        let config = config.to_string();
        let kind = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({"schemaVersion": 2, "mediaType": kind, "layers": [], "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json", "size": config.len(), "digest": source.put_blob(config),
        }});
        let text = manifest.to_string();
        let size = text.len();
        (source.put_manifest("app", Some(arch), kind, text), size)
    };
    let (amd64, amd64_size) = image("amd64", None);
    let (arm64, arm64_size) = image("arm64", Some("v8"));
    let name = |tag: &str| format!("{}/app:{tag}", source.host());
    let made = project
        .kiln(&[
            "imagetools",
            "create",
            "--dry-run",
            &name("amd64"),
            &name("arm64"),
        ])
        .ok();
    let entry = |digest: &str, size: usize, arch: &str| {
        format!(
            "    {{\n      \"mediaType\": \"application/vnd.oci.image.manifest.v1+json\",\n      \"digest\": \"{digest}\",\n      \"size\": {size},\n      \"platform\": {{\n        \"architecture\": \"{arch}\",\n        \"os\": \"linux\"\n      }}\n    }}"
        )
    };
    let expected = format!(
        "{{\n  \"schemaVersion\": 2,\n  \"mediaType\": \"application/vnd.oci.image.index.v1+json\",\n  \"manifests\": [\n{},\n{}\n  ]\n}}",
        entry(&amd64, amd64_size, "amd64"),
        entry(&arm64, arm64_size, "arm64")
    );
    assert_eq!(made.text(), expected);
    // Nothing was written.
    assert_eq!(source.count("PUT", "/"), 0);
}

#[test]
fn it02_create_joins_across_repositories() {
    let Some(target) = DockerRegistry::start(&RegistrySetup::default()) else {
        return;
    };
    let (source, project) = (registry(), Project::new(""));
    let from = |tag: &str| format!("{}/team/app:{tag}", source.host());
    let to = |tag: &str| format!("{}/joined/app:{tag}", target.host());
    let metadata = project.path("metadata");
    let file = metadata.to_str().unwrap();
    let (both, arm) = (from("both"), from("arm"));
    let create = [
        "imagetools",
        "create",
        "--metadata-file",
        file,
        "--annotation",
        "index:a=b",
        "--annotation",
        "manifest-descriptor[linux/arm/v7]:c=d",
        "-t",
        &to("1"),
        "-t",
        &to("2"),
        &both,
        &arm,
    ];
    let made = project.kiln(&create).ok();
    assert!(
        made.stderr.contains("[internal] pushing "),
        "{}",
        made.stderr
    );
    let written = parse(&std::fs::read_to_string(&metadata).unwrap());
    let digest = written["containerimage.descriptor"]["digest"]
        .as_str()
        .unwrap();
    assert_eq!(written["image.name"], format!("{},{}", to("1"), to("2")));
    let raw = |name: &str| {
        parse(
            project
                .kiln(&["imagetools", "inspect", "--raw", name])
                .ok()
                .text(),
        )
    };
    for tag in ["1", "2"] {
        let index = raw(&to(tag));
        assert_eq!(
            platforms(&index),
            ["linux/amd64", "linux/arm64", "linux/arm/v7"]
        );
        assert_eq!(index["annotations"], json!({"a": "b"}));
        assert_eq!(index["manifests"][2]["annotations"], json!({"c": "d"}));
        assert_eq!(index["manifests"][0].get("annotations"), None);
    }
    // The same again is the same, and sends nothing.
    let again = project.kiln(&create).ok();
    assert!(!again.stderr.contains("copying"), "{}", again.stderr);
    joined_is_shown(&project, &to("1"), digest);
    parts_are_picked(&project, &to);
}

/// As text and by templates.
#[track_caller]
fn joined_is_shown(project: &Project, name: &str, digest: &str) {
    let shown = project.kiln(&["imagetools", "inspect", name]).ok();
    let text = String::from_utf8(shown.stdout.clone()).unwrap();
    let head = format!(
        "Name:      {name}\nMediaType: application/vnd.oci.image.index.v1+json\nDigest:    {digest}\n           \nManifests: \n  Name:      {name}@sha256:"
    );
    assert!(text.starts_with(&head), "{text}");
    assert!(
        text.ends_with("  Platform:    linux/arm/v7\n  Annotations: \n    c: d\n"),
        "{text}"
    );
    let format = |template: &str| {
        let run = project.kiln(&["imagetools", "inspect", "--format", template, name]);
        run.ok().text().to_owned()
    };
    assert_eq!(format("{{.Manifest.Digest}}"), digest);
    assert_eq!(
        format("{{range .Manifest.Manifests}}{{.Platform.OS}}/{{.Platform.Architecture}} {{end}}"),
        "linux/amd64 linux/arm64 linux/arm"
    );
    let whole = parse(&format("{{json .}}"));
    assert_eq!(whole["image"]["linux/arm64"]["architecture"], "arm64");
    assert_eq!(whole["manifest"]["digest"], digest);
}

/// A copy where an index is not preferred, platforms picked, sources by digest and descriptor.
#[track_caller]
fn parts_are_picked(project: &Project, to: &dyn Fn(&str) -> String) {
    let raw = |name: &str| {
        let run = project.kiln(&["imagetools", "inspect", "--raw", name]);
        parse(run.ok().text())
    };
    let arm64 = raw(&to("1"))["manifests"][1].clone();
    let arm64_digest = arm64["digest"].as_str().unwrap();
    let copy = [
        "imagetools",
        "create",
        "--prefer-index=false",
        "-t",
        &to("3"),
        arm64_digest,
    ];
    project.kiln(&copy).ok();
    let one = project
        .kiln(&[
            "imagetools",
            "inspect",
            "--format",
            "{{.Manifest.Digest}}",
            &to("3"),
        ])
        .ok();
    assert_eq!(one.text(), arm64_digest);
    let descriptor = project.write("descriptor", arm64.to_string());
    let file = descriptor.to_str().unwrap();
    let of_file = ["imagetools", "create", "-t", &to("4"), "-f", file];
    project.kiln(&of_file).ok();
    assert_eq!(platforms(&raw(&to("4"))), ["linux/arm64"]);
    let some = [
        "imagetools",
        "create",
        "-p",
        "linux/amd64,linux/arm64",
        "-t",
        &to("5"),
        &to("1"),
    ];
    project.kiln(&some).ok();
    assert_eq!(platforms(&raw(&to("5"))), ["linux/amd64", "linux/arm64"]);
}

#[test]
fn it02_append_replaces_the_image_of_a_platform() {
    let (registry, project) = (registry(), Project::new(""));
    let name = |tag: &str| format!("{}/team/app:{tag}", registry.host());
    project
        .kiln(&[
            "imagetools",
            "create",
            "--append",
            "-t",
            &name("all"),
            &name("arm"),
        ])
        .fails(1, &[&format!("{}: not found", name("all"))]);
    project
        .kiln(&["imagetools", "create", "-t", &name("all"), &name("both")])
        .ok();
    project
        .kiln(&[
            "imagetools",
            "create",
            "--append",
            "-t",
            &name("all"),
            &name("arm"),
        ])
        .ok();
    let layer = testkit::archive(&[testkit::Entry::file("f", "newer")]).unwrap();
    let newer = registry.put_image("team/app", Some("newer"), "amd64", &[layer]);
    let append = [
        "imagetools",
        "create",
        "--append",
        "-t",
        &name("all"),
        &name("newer"),
    ];
    for _ in 0..2 {
        project.kiln(&append).ok();
        let raw = project
            .kiln(&["imagetools", "inspect", "--raw", &name("all")])
            .ok();
        let index = parse(raw.text());
        assert_eq!(
            platforms(&index),
            ["linux/arm64", "linux/arm/v7", "linux/amd64"]
        );
        assert_eq!(index["manifests"][2]["digest"], *newer);
    }
}

#[test]
fn it02_errors_are_buildxs() {
    let (registry, project) = (registry(), Project::new(""));
    let name = |tag: &str| format!("{}/team/app:{tag}", registry.host());
    let amd64 = name("amd64");
    let create = |args: &[&str], says: &str| {
        let mut all = vec!["imagetools", "create"];
        all.extend(args);
        project.kiln(&all).fails(1, &[says]);
    };
    let digest = format!("sha256:{}", "1".repeat(64));
    create(&["--dry-run"], "no sources specified");
    create(
        &[&amd64],
        "can't push with no tags specified, please set --tag or --dry-run",
    );
    create(
        &["--dry-run", &digest],
        "no repositories specified, please set a reference in tag or source",
    );
    create(&["--dry-run", &name("none")], ": not found");
    create(
        &["--dry-run", "-p", "linux/mips", &name("both")],
        "no manifests match the platforms linux/mips",
    );
    create(
        &["--dry-run", "--annotation", "a=b", &amd64],
        "\"manifest\" annotations are not supported yet",
    );
    create(&["--append", &amd64], "must specify a tag to append to");
    project
        .kiln(&["imagetools", "inspect", &name("none")])
        .fails(1, &[": not found"]);
    project
        .kiln(&[
            "imagetools",
            "create",
            "-t",
            &format!("{amd64}@{digest}"),
            &amd64,
        ])
        .fails(2, &["cannot be given a digest"]);
}

/// Eight runners, each with an image of its own, join it into one tag at the same moment. Whatever the order, all are in it.
#[test]
fn it02_runners_that_race_lose_nothing() {
    let Some(registry) = DockerRegistry::start(&RegistrySetup::default()) else {
        return;
    };
    let (source, project) = (FakeRegistry::start(), Project::new(""));
    for arch in ARCHITECTURES {
        let layer = testkit::archive(&[testkit::Entry::file("f", arch)]).unwrap();
        source.put_image("built", Some(arch), arch, &[layer]);
    }
    let image = |arch: &str| format!("{}/built:{arch}", source.host());
    let index = |name: &str| -> Value {
        let raw = project.kiln(&["imagetools", "inspect", "--raw", name]).ok();
        parse(raw.text())
    };
    let mut made = Vec::new();
    for round in 0..5 {
        let name = format!("{}/app:{round}", registry.host());
        let runners = ARCHITECTURES.map(|arch| {
            let args = ["imagetools", "create", "--join", "-t", &name, &image(arch)];
            project.start(project.command(&args))
        });
        for runner in runners {
            runner.finish().ok();
        }
        let mut found = platforms(&index(&name));
        found.sort();
        assert_eq!(found.len(), ARCHITECTURES.len(), "round {round}: {found:?}");
        let format = [
            "imagetools",
            "inspect",
            "--format",
            "{{.Manifest.Digest}}",
            &name,
        ];
        made.push(project.kiln(&format).ok().text().to_owned());
    }
    // Whatever came last, it is the same index.
    made.dedup();
    assert_eq!(made.len(), 1, "{made:?}");

    // Another run of its own, with fewer runners: nothing of the first is in it.
    let name = format!("{}/app:0", registry.host());
    for arch in ["amd64", "arm64"] {
        let args = [
            "imagetools",
            "create",
            "--join=run-2",
            "-t",
            &name,
            &image(arch),
        ];
        project.kiln(&args).ok();
    }
    assert_eq!(platforms(&index(&name)), ["linux/amd64", "linux/arm64"]);
}
