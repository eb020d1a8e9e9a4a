//! Images for registries of tests, made by hand so that they can be wrong too.

use crate::support::Project;
use serde_json::{Value, json};
use std::path::Path;
use testkit::registry::{FakeRegistry, sha256};
use testkit::{BaseImage, Compression, Entry};

pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// A descriptor of bytes that the registry gets.
pub fn blob(registry: &FakeRegistry, media_type: &str, bytes: &[u8]) -> Value {
    let digest = registry.put_blob(bytes);
    json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
}

/// A config for linux/amd64 of layers with these diff_ids.
pub fn config(diff_ids: &[String]) -> Value {
    json!({
        "architecture": "amd64",
        "os": "linux",
        "config": {"Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    })
}

/// Puts an image of these layers, uncompressed bytes and descriptor each.
pub fn image(registry: &FakeRegistry, name: &str, layers: &[(Vec<u8>, Value)]) -> String {
    let diff_ids: Vec<String> = layers.iter().map(|(tar, _)| sha256(tar)).collect();
    let config = config(&diff_ids).to_string();
    let config = blob(registry, OCI_CONFIG, config.as_bytes());
    let layers: Vec<&Value> = layers.iter().map(|(_, desc)| desc).collect();
    let manifest = json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": layers,
    });
    put(registry, name, OCI_MANIFEST, &manifest)
}

/// Puts a manifest or index as `repository:tag`.
pub fn put(registry: &FakeRegistry, name: &str, media_type: &str, document: &Value) -> String {
    let (repository, tag) = name.split_once(':').unwrap();
    registry.put_manifest(repository, Some(tag), media_type, document.to_string())
}

/// A tar with one file.
pub fn tar(path: &str, content: impl AsRef<[u8]>) -> Vec<u8> {
    testkit::archive(&[Entry::file(path, content)]).unwrap()
}

/// Puts an image of one compressed layer for linux/amd64; returns the manifest's digest and the layer's.
pub fn compressed(
    registry: &FakeRegistry,
    name: &str,
    entries: &[Entry],
    compression: Compression,
) -> (String, String) {
    let folder = testkit::Scratch::new();
    let image = BaseImage::new().layer(entries).compression(compression);
    let digest = image.write(folder.path()).unwrap();
    serve(registry, name, folder.path(), &digest);
    let manifest = document(folder.path(), &digest);
    let layer = manifest["layers"][0]["digest"].as_str().unwrap().to_owned();
    (digest, layer)
}

/// Puts the shipped busybox; returns the manifest's digest.
pub fn busybox(registry: &FakeRegistry, name: &str) -> String {
    let layout = testkit::busybox_layout();
    let index: Value =
        serde_json::from_slice(&std::fs::read(layout.join("index.json")).unwrap()).unwrap();
    let digest = index["manifests"][0]["digest"].as_str().unwrap().to_owned();
    serve(registry, name, &layout, &digest);
    digest
}

/// Puts all blobs of a layout, and one manifest with a name.
fn serve(registry: &FakeRegistry, name: &str, layout: &Path, manifest: &str) {
    for file in std::fs::read_dir(layout.join("blobs/sha256")).unwrap() {
        registry.put_blob(std::fs::read(file.unwrap().path()).unwrap());
    }
    let document = document(layout, manifest);
    let (repository, tag) = name.split_once(':').unwrap();
    let bytes = std::fs::read(path(layout, manifest)).unwrap();
    let media_type = document["mediaType"].as_str().unwrap();
    registry.put_manifest(repository, Some(tag), media_type, bytes);
}

fn path(layout: &Path, digest: &str) -> std::path::PathBuf {
    layout.join("blobs").join(digest.replace(':', "/"))
}

/// A JSON blob of a layout.
pub fn document(layout: &Path, digest: &str) -> Value {
    serde_json::from_slice(&std::fs::read(path(layout, digest)).unwrap()).unwrap()
}

/// A project without a Dockerfile of interest.
pub fn project() -> Project {
    Project::new("FROM scratch\n")
}

/// Content that no compression makes smaller.
pub fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    let mut noise: Vec<u8> = next.take(bytes.div_ceil(8)).flatten().collect();
    noise.truncate(bytes);
    noise
}
