//! Checks an OCI image layout against the image specification, with code that shares nothing with the builder.

mod config;
mod layer;

use crate::digest_reader;
use crate::merge::{MergedTree, apply};
use serde_json::Value;
use std::collections::{BTreeSet, HashSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

/// Checks a layout of ours: all of the specification, and what we promise beyond it (layers sorted, without repeated
/// names, without the host's user names, without fractions of seconds).
///
/// # Errors
/// All findings, each naming the document or entry it is about.
pub fn validate(layout: &Path) -> Result<(), Vec<String>> {
    Check::new(layout, true).run()
}

/// Checks a layout that someone else made: only what the specification says.
///
/// # Errors
/// All findings, each naming the document or entry it is about.
pub fn validate_foreign(layout: &Path) -> Result<(), Vec<String>> {
    Check::new(layout, false).run()
}

struct Check<'a> {
    layout: &'a Path,
    strict: bool,
    findings: Vec<String>,
    seen: HashSet<String>,
}

impl<'a> Check<'a> {
    fn new(layout: &'a Path, strict: bool) -> Self {
        Self {
            layout,
            strict,
            findings: Vec::new(),
            seen: HashSet::new(),
        }
    }

    fn run(mut self) -> Result<(), Vec<String>> {
        self.marker();
        self.blob_names();
        let path = self.layout.join("index.json");
        if let Some(index) = self.json(&path, "index.json") {
            self.index(&index, "index.json");
            self.names(&index);
        }
        if self.findings.is_empty() {
            return Ok(());
        }
        Err(self.findings)
    }

    fn report(&mut self, finding: impl Into<String>) {
        self.findings.push(finding.into());
    }

    /// image-layout.md, "oci-layout file".
    fn marker(&mut self) {
        let path = self.layout.join("oci-layout");
        if let Some(marker) = self.json(&path, "oci-layout")
            && marker["imageLayoutVersion"] != "1.0.0"
        {
            self.report("oci-layout: imageLayoutVersion is not 1.0.0");
        }
    }

    /// Every blob is what its name says.
    fn blob_names(&mut self) {
        let Ok(entries) = fs::read_dir(self.layout.join("blobs/sha256")) else {
            return self.report("blobs/sha256 cannot be read");
        };
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        for path in paths {
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            match File::open(&path).and_then(digest_reader) {
                Ok((digest, _)) if digest == format!("sha256:{name}") => {}
                Ok((digest, _)) => {
                    self.report(format!("blob {name} has content of digest {digest}"));
                }
                Err(error) => self.report(format!("blob {name} cannot be read: {error}")),
            }
        }
    }

    fn json(&mut self, path: &Path, what: &str) -> Option<Value> {
        let parsed = fs::read(path)
            .map_err(|e| e.to_string())
            .and_then(|bytes| serde_json::from_slice(&bytes).map_err(|e| e.to_string()));
        match parsed {
            Ok(Value::Object(object)) => Some(Value::Object(object)),
            Ok(_) => {
                self.report(format!("{what}: not a JSON object"));
                None
            }
            Err(error) => {
                self.report(format!("{what}: {error}"));
                None
            }
        }
    }

    /// image-index.md. Names within one index are unique unless told apart by platform.
    fn names(&mut self, index: &Value) {
        let mut known = BTreeSet::new();
        for entry in index["manifests"].as_array().into_iter().flatten() {
            let name = &entry["annotations"]["org.opencontainers.image.ref.name"];
            let key = format!("{name} {}", entry["platform"]);
            if !name.is_null() && !known.insert(key) {
                self.report(format!("index.json: two images have the name {name}"));
            }
        }
    }

    fn schema_version(&mut self, document: &Value, what: &str) {
        if document["schemaVersion"] != 2 {
            self.report(format!("{what}: schemaVersion is not 2"));
        }
    }

    fn media_type(&mut self, document: &Value, stated: Option<&str>, what: &str) {
        let Some(own) = document.get("mediaType") else {
            return;
        };
        if stated.is_some_and(|stated| own != stated) {
            self.report(format!(
                "{what}: mediaType {own} differs from its descriptor's"
            ));
        }
    }

    fn index(&mut self, index: &Value, what: &str) {
        self.schema_version(index, what);
        let Some(entries) = index["manifests"].as_array() else {
            return self.report(format!("{what}: manifests is not a list"));
        };
        for entry in entries {
            self.platform(entry, what);
            let Some((path, name)) = self.descriptor(entry, what) else {
                continue;
            };
            let media_type = entry["mediaType"].as_str().unwrap_or_default().to_owned();
            if !self.seen.insert(name.clone()) {
                continue;
            }
            let Some(document) = self.json(&path, &name) else {
                continue;
            };
            self.media_type(&document, Some(&media_type), &name);
            match media_type.as_str() {
                INDEX | DOCKER_INDEX => self.index(&document, &name),
                MANIFEST | DOCKER_MANIFEST => self.manifest(&document, &entry["platform"], &name),
                other => self.report(format!("{what}: {name} has the media type {other:?}")),
            }
        }
    }

    fn platform(&mut self, entry: &Value, what: &str) {
        let platform = &entry["platform"];
        let incomplete = ["os", "architecture"]
            .iter()
            .any(|field| platform[field].as_str().is_none_or(str::is_empty));
        if !platform.is_null() && incomplete {
            self.report(format!(
                "{what}: platform {platform} lacks os or architecture"
            ));
        }
    }

    /// descriptor.md: form, and the blob's presence, size and digest. Returns the blob's path and digest.
    fn descriptor(&mut self, descriptor: &Value, what: &str) -> Option<(PathBuf, String)> {
        let digest = descriptor["digest"].as_str().unwrap_or_default().to_owned();
        let Some(encoded) = digest.strip_prefix("sha256:").filter(|hex| is_sha256(hex)) else {
            self.report(format!("{what}: {digest:?} is not a sha256 digest"));
            return None;
        };
        if descriptor["mediaType"].as_str().is_none_or(str::is_empty) {
            self.report(format!("{what}: descriptor of {digest} has no mediaType"));
        }
        let annotations = descriptor.get("annotations");
        if annotations.is_some_and(|map| !config::is_string_map(map)) {
            self.report(format!("{what}: annotations of {digest} are not strings"));
        }
        let path = self.layout.join("blobs/sha256").join(encoded);
        let Ok(meta) = fs::metadata(&path) else {
            self.report(format!("{what}: blob {digest} is missing"));
            return None;
        };
        if descriptor["size"].as_u64() != Some(meta.len()) {
            let stated = &descriptor["size"];
            self.report(format!(
                "{what}: blob {digest} has {} bytes, not {stated}",
                meta.len()
            ));
        }
        Some((path, digest))
    }

    /// manifest.md, and the parts of config.md that concern layers.
    fn manifest(&mut self, manifest: &Value, platform: &Value, what: &str) {
        self.schema_version(manifest, what);
        if let Err(error) =
            serde_json::from_value::<oci_spec::image::ImageManifest>(manifest.clone())
        {
            self.report(format!("{what}: {error}"));
        }
        let Some(layers) = manifest["layers"].as_array() else {
            return self.report(format!("{what}: layers is not a list"));
        };
        let layers: Vec<_> = layers
            .iter()
            .map(|layer| (layer.clone(), self.descriptor(layer, what)))
            .collect();
        let Some((path, name)) = self.descriptor(&manifest["config"], what) else {
            return;
        };
        let config_type = manifest["config"]["mediaType"].as_str().unwrap_or_default();
        if config_type != CONFIG && config_type != DOCKER_CONFIG {
            // An artifact: what its layers are is its own affair.
            return;
        }
        let is_statement =
            |(layer, _): &(Value, _)| layer["mediaType"] == "application/vnd.in-toto+json";
        if layers.iter().any(is_statement) {
            return;
        }
        let Some(config) = self.json(&path, &name) else {
            return;
        };
        let mut findings = config::check(&config, platform, layers.len());
        self.findings
            .extend(findings.drain(..).map(|f| format!("{name}: {f}")));
        self.layers(&config, &layers);
    }

    fn layers(&mut self, config: &Value, layers: &[(Value, Option<(PathBuf, String)>)]) {
        let mut tree = MergedTree::new();
        for (number, (descriptor, blob)) in layers.iter().enumerate() {
            let Some((path, name)) = blob else {
                continue;
            };
            let media_type = descriptor["mediaType"].as_str().unwrap_or_default();
            let diff_id = config["rootfs"]["diff_ids"][number]
                .as_str()
                .unwrap_or_default();
            let checked = layer::check(path, media_type, diff_id, self.strict);
            let findings = checked.findings.into_iter();
            self.findings
                .extend(findings.map(|f| format!("layer {name}: {f}")));
            if let Err(error) = apply(&mut tree, checked.entries) {
                self.report(format!("layer {name}: {error}"));
            }
        }
    }
}

fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}
