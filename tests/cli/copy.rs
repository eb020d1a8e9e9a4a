//! `kiln copy`: images between registries, layouts, archives and the store; digests stay, bytes are not sent twice.

use crate::manifest::{platforms, said};
use crate::support::Project;
use serde_json::{Value, json};
use testkit::registry::{Action, FakeRegistry, Fault};
use testkit::{DockerRegistry, RegistrySetup};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// Bytes that do not compress.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// `team/app:both` for two platforms that share a layer of `size` bytes; returns the index's digest.
fn put_both(registry: &FakeRegistry, size: usize) -> String {
    let shared = testkit::archive(&[testkit::Entry::file("big", noise(size))]).unwrap();
    let image = |arch: &str| {
        let own = testkit::archive(&[testkit::Entry::file("f", arch)]).unwrap();
        registry.put_image("team/app", Some(arch), arch, &[shared.clone(), own])
    };
    let (amd64, arm64) = (image("amd64"), image("arm64"));
    registry.put_index("team/app", "both", &[(&amd64, "amd64"), (&arm64, "arm64")])
}

fn raw(name: &str) -> Option<Value> {
    let name = format!("docker://{name}");
    said("skopeo", &["inspect", "--raw", "--tls-verify=false", &name])
}

#[test]
fn it03_all_platforms_with_their_digests() {
    let Some(target) = DockerRegistry::start(&RegistrySetup::default()) else {
        return;
    };
    let (source, project) = (FakeRegistry::start(), Project::new(""));
    let digest = put_both(&source, 100_000);
    let from = format!("{}/team/app:both", source.host());
    let to = format!("{}/a/b/app:1", target.host());
    let file = project.path("digest");
    let copied = project
        .kiln(&["copy", "--digestfile", file.to_str().unwrap(), &from, &to])
        .ok();
    assert_eq!(copied.text(), format!("{to}@{digest}"));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), digest);
    // The layer that both have was read once.
    assert_eq!(source.count("GET", "/blobs/"), 5);
    // No store was needed for it.
    assert!(!project.store().exists());
    if let Some(index) = raw(&to) {
        assert_eq!(platforms(&index), ["linux/amd64", "linux/arm64"]);
    }
    let out = format!("dir:{}", project.path("out").display());
    let args = ["copy", "-q", "--all", "--src-tls-verify=false"];
    let _ = said(
        "skopeo",
        &[&args[..], &[&format!("docker://{to}"), &out]].concat(),
    );

    // The second copy asks what the name is on both sides, and nothing else.
    let before = source.requests().len();
    let again = project.kiln(&["copy", &from, &to]).ok();
    assert_eq!(again.text(), copied.text());
    assert!(again.stderr.contains("is there already"));
    let asked: Vec<String> = source.requests()[before..]
        .iter()
        .map(|request| format!("{} {}", request.method, request.path))
        .collect();
    assert_eq!(asked, ["GET /v2/", "HEAD /v2/team/app/manifests/both"]);

    // In the same registry layers are mounted.
    let log = target.log().len();
    let other = format!("{}/other:1", target.host());
    let moved = project.kiln(&["copy", &to, &other]).ok();
    assert_eq!(moved.stderr.matches("mounted sha256:").count(), 5);
    assert!(!target.log()[log..].contains("PATCH"));

    // One platform is its image; several places at once.
    let third = format!("{}/third:1", target.host());
    let fourth = format!("docker://{}/fourth:1", target.host());
    let one = project
        .kiln(&[
            "copy",
            "-q",
            "--platform",
            "linux/arm64",
            &to,
            &third,
            &fourth,
        ])
        .ok();
    assert_eq!(one.text().lines().count(), 2);
    if let Some(manifest) = raw(&third) {
        assert_eq!(manifest["layers"].as_array().unwrap().len(), 2);
    }
    project
        .kiln(&["copy", "--platform", "linux/mips", &to, &third])
        .fails(
            1,
            &["no image for linux/mips (it has linux/amd64, linux/arm64)"],
        );
    let missing = format!("{}/team/app:missing", source.host());
    project
        .kiln(&["copy", &missing, &to])
        .fails(1, &[&format!("no such manifest: {missing}")]);
}

#[test]
fn it03_broken_connections_on_both_sides_are_gone_on_with() {
    let (source, target) = (FakeRegistry::start(), FakeRegistry::start());
    let project = Project::new("");
    let digest = put_both(&source, 8_000_000);
    for after in [1_000_000, 3_000_000, 5_000_000] {
        let fault = Fault::on("GET", "/blobs/").times(1);
        source.fault(fault.with(Action::Reset(after)));
    }
    for after in [500_000, 2_000_000] {
        let fault = Fault::on("PUT", "/uploads/").times(1);
        target.fault(fault.with(Action::CutUpload(after)));
    }
    let to = format!("{}/x:1", target.host());
    let copied = project
        .kiln(&[
            "copy",
            "-q",
            &format!("{}/team/app:both", source.host()),
            &to,
        ])
        .ok();
    assert_eq!(copied.text(), format!("{to}@{digest}"));
    assert_eq!(target.tagged("x", "1"), Some(digest));
}

#[test]
fn it03_wrong_bytes_do_not_arrive() {
    let (source, target) = (FakeRegistry::start(), FakeRegistry::start());
    let project = Project::new("");
    put_both(&source, 200_000);
    source.fault(Fault::on("GET", "/blobs/").with(Action::Corrupt));
    let from = format!("{}/team/app:both", source.host());
    let to = format!("{}/x:1", target.host());
    let failed = project.kiln(&["copy", "-q", &from, &to]).fails(1, &[]);
    assert!(failed.stderr.contains("digest"), "{}", failed.stderr);
    assert_eq!(target.tagged("x", "1"), None);
}

#[test]
fn it03_layouts_archives_and_the_store() {
    let (source, project) = (FakeRegistry::start(), Project::new(""));
    let digest = put_both(&source, 50_000);
    let from = format!("{}/team/app:both", source.host());
    let layout = project.path("layout");
    let to_layout = format!("oci:{}:both", layout.display());
    let archive = format!("oci-archive:{}", project.path("oci.tar").display());
    let copied = project
        .kiln(&["copy", "-q", &from, &to_layout, &archive, "store:both"])
        .ok();
    for line in copied.text().lines() {
        assert!(line.ends_with(&format!("@{digest}")), "{line}");
    }
    testkit::validate_foreign(&layout).unwrap();
    assert_eq!(project.images(), ["docker.io/library/both:latest"]);
    let docker = format!("docker-archive:{}:a/b:c", project.path("d.tar").display());
    project
        .kiln(&["copy", &from, &docker])
        .fails(1, &["holds one platform only: say which with --platform"]);
    project
        .kiln(&["copy", "-q", "--platform", "linux/amd64", &from, &docker])
        .ok();

    // And back into a registry, from each, with the digest that it had.
    let target = FakeRegistry::start();
    for (number, place) in [&*to_layout, &archive, "store:both"].iter().enumerate() {
        let name = format!("{}/back:{number}", target.host());
        project.kiln(&["copy", "-q", place, &name]).ok();
        assert_eq!(
            target.tagged("back", &number.to_string()),
            Some(digest.clone())
        );
    }
    let name = format!("{}/back:d", target.host());
    project.kiln(&["copy", "-q", &docker, &name]).ok();
    // What archives brought into the store has no name there.
    assert_eq!(project.images(), ["docker.io/library/both:latest"]);
    project
        .kiln(&["copy", &format!("oci:{}:none", layout.display()), &name])
        .fails(1, &["it holds no image tagged none"]);
}

#[test]
fn it03_nested_indexes_foreign_layers_and_referrers() {
    let (source, target) = (FakeRegistry::start(), FakeRegistry::start());
    let project = Project::new("");
    let config = json!({"architecture": "amd64", "os": "windows", "rootfs": {"type": "layers", "diff_ids": []}}).to_string();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "size": config.len(), "digest": source.put_blob(config)},
        "layers": [{
            "mediaType": "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
            "size": 5,
            "digest": format!("sha256:{}", "1".repeat(64)),
            "urls": ["https://example.invalid/layer"],
        }],
    })
    .to_string();
    let size = manifest.len();
    let image = source.put_manifest("app", None, MANIFEST, manifest);
    let mut digest = image.clone();
    let mut length = size;
    for _ in 0..5 {
        let kind = if digest == image { MANIFEST } else { INDEX };
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [{"mediaType": kind, "size": length, "digest": digest}]}).to_string();
        length = index.len();
        digest = source.put_manifest("app", Some("nested"), INDEX, index);
    }
    let from = format!("{}/app:nested", source.host());
    let to = format!("{}/app:nested", target.host());
    let copied = project.kiln(&["copy", "-q", &from, &to]).ok();
    assert_eq!(copied.text(), format!("{to}@{digest}"));
    assert_eq!(source.count("GET", &"1".repeat(64)), 0);
    let read = project.kiln(&[
        "manifest",
        "inspect",
        &format!("{}/app@{image}", target.host()),
    ]);
    let read: Value = serde_json::from_str(read.ok().text()).unwrap();
    assert_eq!(
        read["layers"][0]["urls"][0],
        "https://example.invalid/layer"
    );

    // Deeper than anything sensible: told, not followed for ever.
    for _ in 0..20 {
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [{"mediaType": INDEX, "size": length, "digest": digest}]}).to_string();
        length = index.len();
        digest = source.put_manifest("app", Some("deep"), INDEX, index);
    }
    project
        .kiln(&["copy", &format!("{}/app:deep", source.host()), &to])
        .fails(1, &["its indexes are nested more than 16 deep"]);

    // A signature: found by the fallback tag, copied when asked for.
    let empty = source.put_blob("{}");
    let signature = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": "application/x.signature",
        "config": {"mediaType": "application/vnd.oci.empty.v1+json", "size": 2, "digest": empty},
        "layers": [],
        "subject": {"mediaType": MANIFEST, "size": size, "digest": image},
    })
    .to_string();
    let entry = json!({"mediaType": MANIFEST, "size": signature.len(), "digest": source.put_manifest("app", None, MANIFEST, signature.clone())});
    let list = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]}).to_string();
    source.put_manifest("app", Some(&image.replace(':', "-")), INDEX, list);
    let by_digest = format!("{}/app@{image}", source.host());
    let signed = format!("{}/signed:1", target.host());
    project
        .kiln(&["copy", "-q", "--referrers", &by_digest, &signed])
        .ok();
    let digest = entry["digest"].as_str().unwrap();
    let name = format!("{}/signed@{digest}", target.host());
    let read = project.kiln(&["manifest", "inspect", &name]).ok();
    assert!(read.text().contains("application/x.signature"));
}
