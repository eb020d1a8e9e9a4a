//! `kiln pull`, and FROM of what registries hold.

use crate::registries::{
    DOCKER_CONFIG, DOCKER_MANIFEST, LAYER, OCI_CONFIG, OCI_INDEX, OCI_MANIFEST, blob, busybox,
    compressed, config, image, noise, project, put, tar,
};
use crate::support::{Project, able, files_below};
use serde_json::json;
use std::path::Path;
use std::process::Command;
use testkit::registry::{Action, FakeRegistry, Fault, sha256};
use testkit::{Compression, DockerRegistry, Entry, RegistrySetup};

/// Digests of the blobs of a store.
fn blobs(project: &Project) -> Vec<String> {
    let folder = project.store().join("blobs/sha256");
    let mut names: Vec<String> = files_below(&folder)
        .iter()
        .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
        .collect();
    names.sort();
    names
}

/// Whether the store has a blob.
fn has(project: &Project, digest: &str) -> bool {
    let hex = digest.split_once(':').unwrap().1;
    blobs(project).iter().any(|name| name == hex)
}

#[test]
fn g02_a_pull_by_tag_says_what_docker_says() {
    let registry = FakeRegistry::start();
    let (digest, layer) = compressed(
        &registry,
        "team/app:v1",
        &[Entry::file("a", "one")],
        Compression::Gzip,
    );
    let project = project();
    let name = format!("{}/team/app:v1", registry.host());
    let run = project.kiln(&["pull", &name]).ok();
    assert_eq!(run.text(), name);
    let short = &layer["sha256:".len()..][..12];
    assert_eq!(
        run.stderr,
        format!(
            "v1: Pulling from {host}/team/app\n{short}: Pull complete\nDigest: {digest}\n\
             Status: Downloaded newer image for {name}\n",
            host = registry.host()
        )
    );
    assert_eq!(project.images(), [name.as_str()]);
    assert!(has(&project, &layer), "the compressed blob is kept");

    let gets = registry.count("GET", "/manifests/");
    let again = project.kiln(&["pull", &name]).ok();
    let says = format!("Status: Image is up to date for {name}\n");
    assert!(again.stderr.ends_with(&says), "{}", again.stderr);
    assert!(again.stderr.contains("Already exists"), "{}", again.stderr);
    assert_eq!(
        registry.count("GET", "/manifests/"),
        gets,
        "a HEAD is enough"
    );
    assert_eq!(registry.count("GET", &layer), 1);

    let quiet = project.kiln(&["pull", "-q", &name]).ok();
    assert_eq!((quiet.text(), quiet.stderr.as_str()), (name.as_str(), ""));

    registry.put_image("team/app", Some("v1"), "amd64", &[tar("b", "two")]);
    let newer = project.kiln(&["pull", &name]).ok();
    assert!(
        newer.stderr.contains("Downloaded newer image"),
        "{}",
        newer.stderr
    );
}

#[test]
fn g02_a_pull_by_digest_has_no_tag_and_the_digest_counts() {
    let registry = FakeRegistry::start();
    let first = registry.put_image("app", Some("latest"), "amd64", &[tar("a", "one")]);
    let second = registry.put_image("app", Some("latest"), "amd64", &[tar("a", "two")]);
    let project = project();
    let host = registry.host();
    let by_digest = format!("{host}/app@{first}");
    let run = project.kiln(&["pull", &by_digest]).ok();
    assert_eq!(run.text(), by_digest);
    assert!(run.stderr.starts_with(&format!("{first}: Pulling from")));
    let both = format!("{host}/app:latest@{second}");
    assert_eq!(project.kiln(&["pull", "-q", &both]).ok().text(), both);
    let tags = registry.count("GET", "/manifests/latest") + registry.count("HEAD", "latest");
    assert_eq!(tags, 0, "the digest is asked for, whatever the tag");
    let requests = registry.requests().len();
    project.kiln(&["pull", &by_digest]).ok();
    assert_eq!(
        registry.requests().len(),
        requests,
        "it can be nothing else"
    );
    // Both can be built on.
    drop(registry);
    project.write(
        "Dockerfile",
        format!("FROM {by_digest} AS a\nFROM {both}\nCOPY --from=a /a /b\n"),
    );
    let out = project.path("out");
    project.build(&["-o", out.to_str().unwrap()]).ok();
    assert_eq!(std::fs::read_to_string(out.join("a")).unwrap(), "two");
    assert_eq!(std::fs::read_to_string(out.join("b")).unwrap(), "one");
}

#[test]
fn g02_of_an_index_comes_what_is_asked_for() {
    let registry = FakeRegistry::start();
    let layer = |arch: &str| tar("arch", arch);
    let image = |arch: &str| registry.put_image("multi", None, arch, &[layer(arch)]);
    let (amd64, arm64) = (image("amd64"), image("arm64"));
    registry.put_index("multi", "latest", &[(&amd64, "amd64"), (&arm64, "arm64")]);
    let name = format!("{}/multi", registry.host());
    let (here, there) = if cfg!(target_arch = "x86_64") {
        ("amd64", "arm64")
    } else {
        ("arm64", "amd64")
    };
    let holds = |args: &[&str]| {
        let project = project();
        project
            .kiln(&[&["pull", "-q"], args, &[&name]].concat())
            .ok();
        [here, there].map(|arch| has(&project, &sha256(&layer(arch))))
    };
    assert_eq!(holds(&[]), [true, false]);
    let other = format!("linux/{there}");
    assert_eq!(holds(&["--platform", &other]), [false, true]);
    assert_eq!(
        holds(&["--platform", "linux/amd64,linux/arm64"]),
        [true, true]
    );
    assert_eq!(holds(&["--all-platforms"]), [true, true]);
    project()
        .kiln(&["pull", "--platform", "linux/s390x", &name])
        .fails(
            1,
            &[
                "no match for platform in manifest",
                "linux/amd64, linux/arm64",
            ],
        );
    // A manifest without an index is refused only to those who ask for something else.
    let single = format!(
        "{}/multi@{}",
        registry.host(),
        if here == "amd64" { &arm64 } else { &amd64 }
    );
    project().kiln(&["pull", "-q", &single]).ok();
    project()
        .kiln(&["pull", "--platform", &format!("linux/{here}"), &single])
        .fails(1, &["does not provide the specified platform"]);
    project()
        .kiln(&["pull", "--platform", "no/such/thing/at/all", &name])
        .fails(
            2,
            &["invalid value \"no/such/thing/at/all\" for '--platform'"],
        );
}

#[test]
fn g02_a_whole_index_comes_with_attestations_and_indexes_in_it() {
    let registry = FakeRegistry::start();
    let arm = registry.put_image("app", None, "arm64", &[tar("arch", "arm")]);
    let amd = registry.put_image("app", None, "amd64", &[tar("arch", "amd")]);
    registry.put_index("app", "inner", &[(&amd, "amd64")]);
    let statement = br#"{"_type": "https://in-toto.io/Statement/v0.1"}"#;
    let attached = json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST,
        "config": blob(&registry, OCI_CONFIG, b"{\"architecture\": \"unknown\"}"),
        "layers": [blob(&registry, "application/vnd.in-toto+json", statement)],
    });
    let attached = put(&registry, "app:attached", OCI_MANIFEST, &attached);
    let inner = registry.put_index("app", "inner", &[(&amd, "amd64")]);
    let describe = |digest: &str| -> serde_json::Value {
        let size = registry_size(&registry, "app", digest);
        json!({"mediaType": OCI_MANIFEST, "digest": digest, "size": size})
    };
    let mut entries = [describe(&arm), describe(&attached), describe(&inner)];
    entries[0]["platform"] = json!({"os": "linux", "architecture": "arm64"});
    entries[1]["platform"] = json!({"os": "unknown", "architecture": "unknown"});
    entries[2]["mediaType"] = json!(OCI_INDEX);
    let outer = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries});
    put(&registry, "app:latest", OCI_INDEX, &outer);
    let name = format!("{}/app", registry.host());

    let project = project();
    project.kiln(&["pull", "-q", "--all-platforms", &name]).ok();
    for digest in [&arm, &amd, &attached, &inner, &sha256(statement)] {
        assert!(has(&project, digest), "{digest}");
    }
    // One platform comes from as deep.
    let project = crate::registries::project();
    project
        .kiln(&["pull", "-q", "--platform", "linux/amd64", &name])
        .ok();
    assert!(has(&project, &sha256(&tar("arch", "amd"))) && !has(&project, &attached));
}

fn registry_size(registry: &FakeRegistry, repository: &str, digest: &str) -> usize {
    let url = format!("{}/v2/{repository}/manifests/{digest}", registry.url());
    let mut curl = Command::new("curl");
    curl.args(["-s", &url]);
    curl.output().unwrap().stdout.len()
}

#[test]
fn g02_what_is_no_image_is_refused_with_a_reason() {
    let registry = FakeRegistry::start();
    let chart = "application/vnd.cncf.helm.config.v1+json";
    let manifest = |config: serde_json::Value, layer: &str| {
        json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST,
            "config": config, "layers": [blob(&registry, layer, &tar("a", "b"))],
        })
    };
    let cases = [
        (
            "artifact",
            manifest(blob(&registry, chart, b"{}"), LAYER),
            "no container image but an artifact: its config has the media type application/vnd.cncf.helm",
        ),
        (
            "empty",
            manifest(
                blob(&registry, "application/vnd.oci.empty.v1+json", b"{}"),
                LAYER,
            ),
            "no container image but an artifact",
        ),
        (
            "secret",
            manifest(
                blob(
                    &registry,
                    OCI_CONFIG,
                    config(&[sha256(&tar("a", "b"))]).to_string().as_bytes(),
                ),
                "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
            ),
            "is encrypted",
        ),
        (
            "old",
            json!({"schemaVersion": 1, "name": "x", "fsLayers": [], "history": []}),
            "schema version 1 is not supported",
        ),
        (
            "fewer",
            manifest(
                blob(&registry, OCI_CONFIG, config(&[]).to_string().as_bytes()),
                LAYER,
            ),
            "its manifest has 1 layers, its config 0 diff_ids",
        ),
    ];
    for (tag, document, says) in cases {
        put(&registry, &format!("odd:{tag}"), OCI_MANIFEST, &document);
        let name = format!("{}/odd:{tag}", registry.host());
        let project = project();
        project.kiln(&["pull", &name]).fails(1, &[says]);
        assert!(project.images().is_empty());
        project.write("Dockerfile", format!("FROM {name}\nENV a=b\n"));
        project.build(&[]).fails(1, &[says]);
    }
}

#[test]
fn g02_docker_media_types_are_images_too() {
    let registry = FakeRegistry::start();
    let layer = tar("a", "docker");
    let document = json!({
        "schemaVersion": 2, "mediaType": DOCKER_MANIFEST,
        "config": blob(&registry, DOCKER_CONFIG, config(&[sha256(&layer)]).to_string().as_bytes()),
        "layers": [blob(&registry, "application/vnd.docker.image.rootfs.diff.tar", &layer)],
    });
    let digest = put(&registry, "app:1", DOCKER_MANIFEST, &document);
    let project = project();
    let name = format!("{}/app:1", registry.host());
    project.kiln(&["pull", &name]).ok();
    assert!(has(&project, &digest), "the manifest is kept as it came");
    project.write("Dockerfile", format!("FROM {name}\n"));
    let out = project.path("out");
    project.build(&["-o", out.to_str().unwrap()]).ok();
    assert_eq!(std::fs::read_to_string(out.join("a")).unwrap(), "docker");
}

#[test]
fn g03_layers_come_in_every_compression_redirected_and_from_elsewhere() {
    let registry = FakeRegistry::start();
    let elsewhere = FakeRegistry::start();
    let content = noise(300_000);
    for (tag, compression) in [
        ("none", Compression::None),
        ("gzip", Compression::Gzip),
        ("zstd", Compression::Zstd),
    ] {
        let name = format!("app:{tag}");
        let entries = [Entry::file("a", &content), Entry::file("tag", tag)];
        let (_, layer) = compressed(&registry, &name, &entries, compression);
        compressed(&elsewhere, &name, &entries, compression);
        if tag == "zstd" {
            let to = format!("{}/...", elsewhere.url());
            registry.fault(Fault::on("GET", &layer).with(Action::Redirect(to)));
        }
    }
    // A layer that only its URL has: the registry does not know it.
    let foreign = tar("tag", "foreign");
    let mut desc = blob(
        &elsewhere,
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        &foreign,
    );
    let digest = desc["digest"].as_str().unwrap().to_owned();
    desc["urls"] = json!([format!("{}/v2/any/blobs/{digest}", elsewhere.url())]);
    image(&registry, "app:foreign", &[(foreign, desc)]);
    for tag in ["none", "gzip", "zstd", "foreign"] {
        for command in ["pull", "unpacked", "build"] {
            let project = project();
            let name = format!("{}/app:{tag}", registry.host());
            match command {
                "pull" => drop(project.kiln(&["pull", &name]).ok()),
                "unpacked" => drop(project.kiln(&["pull", "--unpack", &name]).ok()),
                _ => {}
            }
            project.write("Dockerfile", format!("FROM {name}\n"));
            let out = project.path("out");
            project.build(&["-o", out.to_str().unwrap()]).ok();
            assert_eq!(std::fs::read_to_string(out.join("tag")).unwrap(), tag);
        }
    }
    assert!(
        elsewhere
            .requests()
            .iter()
            .all(|request| request.header("authorization").is_none())
    );
}

/// W7's shape: what a RUN needs is unpacked while it comes, whatever breaks on the way.
#[test]
fn g03_a_base_is_unpacked_while_it_comes_and_broken_transfers_go_on() {
    let registry = FakeRegistry::start();
    busybox(&registry, "busybox:latest");
    let content = noise(3 << 20);
    let files: Vec<Entry> = content
        .chunks(100_000)
        .enumerate()
        .map(|(number, part)| Entry::file(format!("data/{number:02}"), part))
        .collect();
    let shell = std::fs::read(busybox_binary()).unwrap();
    let mut entries = vec![
        Entry::dir("bin"),
        Entry::file("bin/sh", shell).mode(0o755),
        Entry::dir("data"),
    ];
    entries.extend(files);
    let (_, layer) = compressed(&registry, "base:1", &entries, Compression::Gzip);
    for at in [0, 1, 100_000, 1_000_000, 2_500_000] {
        registry.fault(Fault::on("GET", &layer).times(1).with(Action::Reset(at)));
    }
    let project = Project::new(&format!(
        "FROM {}/base:1\nRUN cat /data/* | md5sum > /sum\n",
        registry.host()
    ));
    let out = project.path("out");
    project.build(&["-o", out.to_str().unwrap()]).ok();
    let together: Vec<u8> = (0..content.len().div_ceil(100_000))
        .flat_map(|number| std::fs::read(out.join(format!("data/{number:02}"))).unwrap())
        .collect();
    assert!(together == content, "a byte is wrong");
    assert!(has(&project, &layer), "the blob is kept for pushing");
    let ranges = registry.requests();
    let ranges = ranges
        .iter()
        .filter(|r| r.path.ends_with(&layer) && r.header("range").is_some());
    assert!(ranges.count() >= 3, "it goes on where it broke off");
}

fn busybox_binary() -> &'static str {
    ["/bin/busybox", "/usr/bin/busybox"]
        .into_iter()
        .find(|path| Path::new(path).exists())
        .expect("busybox is installed")
}

#[test]
fn g03_a_blob_that_is_another_layer_is_never_filed() {
    let registry = FakeRegistry::start();
    let (claimed, brought) = (tar("a", "claimed"), tar("a", noise(200_000)));
    let small = tar("a", "small");
    for (tag, bytes) in [("large", &brought), ("small", &small)] {
        let desc = blob(&registry, LAYER, bytes);
        image(&registry, &format!("app:{tag}"), &[(claimed.clone(), desc)]);
        for flags in [&["pull"][..], &["pull", "--unpack"]] {
            let project = project();
            let name = format!("{}/app:{tag}", registry.host());
            let run = project.kiln(&[flags, &[name.as_str()]].concat());
            run.fails(1, &[&sha256(&claimed), "its content has the digest"]);
            assert!(project.images().is_empty());
            let layers = files_below(&project.store().join("layers"));
            assert!(
                layers.iter().all(|path| path.extension().is_none()),
                "{layers:?}"
            );
        }
    }
}

#[test]
fn g03_nothing_of_a_transfer_that_fails_stays() {
    let registry = FakeRegistry::start();
    let content = noise(1 << 20);
    let (_, layer) = compressed(
        &registry,
        "app:1",
        &[Entry::file("a", content)],
        Compression::Gzip,
    );
    registry.fault(Fault::on("GET", &layer).with(Action::Corrupt));
    let name = format!("{}/app:1", registry.host());
    for flags in [&["pull"][..], &["pull", "--unpack"]] {
        let project = project();
        project
            .kiln(&[flags, &[name.as_str()]].concat())
            .fails(1, &["could not verify"]);
        assert!(!has(&project, &layer) && project.images().is_empty());
        registry.heal();
        project.kiln(&["pull", "--unpack", &name]).ok();
        registry.fault(Fault::on("GET", &layer).with(Action::Corrupt));
    }
}

#[test]
fn all_tags_of_a_repository_come_together() {
    let registry = FakeRegistry::start();
    for tag in ["one", "two", "three"] {
        registry.put_image("app", Some(tag), "amd64", &[tar("tag", tag)]);
    }
    let list = json!({"name": "app", "tags": ["one", "two", "three"]});
    registry.fault(Fault::on("GET", "/tags/list").with(Action::Answer {
        status: 200,
        headers: vec![("Content-Type".to_owned(), "application/json".to_owned())],
        body: list.to_string().into_bytes(),
    }));
    let project = project();
    let name = format!("{}/app", registry.host());
    let run = project.kiln(&["pull", "-a", &name]).ok();
    assert_eq!(run.text(), name);
    let expected = ["one", "three", "two"].map(|tag| format!("{name}:{tag}"));
    assert_eq!(project.images(), expected);
    project
        .kiln(&["pull", "-a", &format!("{name}:one")])
        .fails(2, &["tag can't be used with --all-tags/-a"]);
}

/// A registry of Debian's, filled by skopeo; `None` where one of them is missing.
fn filled(images: &[(&str, &Path)]) -> Option<DockerRegistry> {
    let skopeo = Command::new("skopeo").arg("--version").output().is_ok();
    if !able(skopeo, "skopeo") {
        return None;
    }
    let registry = DockerRegistry::start(&RegistrySetup::default())?;
    for (name, layout) in images {
        let mut skopeo = Command::new("skopeo");
        skopeo.args([
            "copy",
            "-q",
            "--all",
            "--insecure-policy",
            "--dest-tls-verify=false",
        ]);
        skopeo.arg(format!("oci:{}", layout.display()));
        skopeo.arg(format!("docker://{}/{name}", registry.host()));
        let copied = skopeo.output().unwrap();
        assert!(
            copied.status.success(),
            "{}",
            String::from_utf8_lossy(&copied.stderr)
        );
    }
    Some(registry)
}

#[test]
fn g02_docker_registry_gives_a_hundred_layers_by_a_nested_name() {
    let folder = testkit::Scratch::new();
    let mut many = testkit::BaseImage::new();
    for number in 0..100 {
        many = many.layer(&[Entry::file(format!("f{number}"), number.to_string())]);
    }
    let digest = many.write(folder.path()).unwrap();
    let Some(registry) = filled(&[("a/b/c-d/e_f.g:v1", folder.path())]) else {
        return;
    };
    let project = project();
    let name = format!("{}/a/b/c-d/e_f.g", registry.host());
    let run = project.kiln(&["pull", &format!("{name}:v1")]).ok();
    assert!(
        run.stderr.contains(&format!("Digest: {digest}")),
        "{}",
        run.stderr
    );
    assert_eq!(run.stderr.matches("Pull complete").count(), 100);
    project.kiln(&["pull", &format!("{name}@{digest}")]).ok();
    drop(registry);
    project.write("Dockerfile", format!("FROM {name}:v1\n"));
    let out = project.path("out");
    project.build(&["-o", out.to_str().unwrap()]).ok();
    for number in 0..100 {
        let file = std::fs::read_to_string(out.join(format!("f{number}"))).unwrap();
        assert_eq!(file, number.to_string());
    }
    // What was pulled can be looked at and saved.
    let name = format!("{name}:v1");
    let shown = project.kiln(&["inspect", &name]).ok();
    assert!(shown.text().contains(&digest), "{}", shown.text());
    let archive = project.path("saved.tar");
    project
        .kiln(&[
            "save",
            "--format",
            "oci",
            "-o",
            archive.to_str().unwrap(),
            &name,
        ])
        .ok();
    let saved = crate::support::unpack(&archive, &project.path("saved"));
    let index: serde_json::Value =
        serde_json::from_slice(&std::fs::read(saved.join("index.json")).unwrap()).unwrap();
    assert_eq!(index["manifests"][0]["digest"], digest.as_str());
}

#[test]
fn g02_names_that_are_none_are_refused_in_dockers_words() {
    let project = project();
    for (name, says) in [
        (
            "App",
            "invalid reference format: repository name (library/App) must be lowercase",
        ),
        (
            "Team/App",
            "invalid reference format: repository name (App) must be lowercase",
        ),
        (
            "host:1/App",
            "invalid reference format: repository name (App) must be lowercase",
        ),
        ("a//b", "invalid reference format"),
        ("app@sha256:../../x", "invalid reference format"),
        ("../../etc/passwd", "invalid reference format"),
    ] {
        project.kiln(&["pull", name]).fails(1, &[says]);
    }
    assert!(!project.store().exists(), "nothing is opened for them");
    project.kiln(&["pull"]).fails(2, &["<IMAGE>"]);
}
