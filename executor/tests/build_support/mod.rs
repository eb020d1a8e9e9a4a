//! What the tests of builds share: a scratch place with a store and a context, requests, a recording user interface,
//! and images made by hand.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::result_large_err,
    reason = "support of tests, of which each binary uses a part"
)]

use executor::build::{self, BuildFailure, BuildResult, Ui};
use executor::request::{BuildRequest, ContextSource, OutputDest, OutputKind, OutputRequest};
use oci_spec::image::Digest;
use planner::plan::{Plan, StepId};
use planner::scheduler::{Cancel, Observer, StepEvent};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Mutex;
use store::Store;

/// Times in tests: 2023-11-14T22:13:20Z.
pub const NOW: i64 = 1_700_000_000;

/// A temporary folder with a store (`store`) and a context (`context`).
pub struct Place {
    pub dir: tempfile::TempDir,
    pub store: Store,
}

impl Place {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("context")).unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        Self { dir, store }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file of the context, parents included.
    pub fn file(&self, path: &str, content: &str) -> &Self {
        let path = self.path("context").join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
        self
    }

    /// A request with everything at its default.
    pub fn request(&self, dockerfile: &str) -> BuildRequest {
        BuildRequest {
            dockerfile: dockerfile.to_owned(),
            dockerfile_name: "Dockerfile".to_owned(),
            context: ContextSource::Directory(self.path("context")),
            tags: vec!["test".to_owned()],
            now: NOW,
            jobs: 4,
            ..BuildRequest::default()
        }
    }

    pub fn build(&self, request: &BuildRequest) -> Result<BuildResult, BuildFailure> {
        self.build_with(request, &Recorder::default())
    }

    pub fn build_with(
        &self,
        request: &BuildRequest,
        ui: &Recorder,
    ) -> Result<BuildResult, BuildFailure> {
        build::build(&self.store, request, ui, &Cancel::default(), None)
    }

    /// Manifest and config of an image in the store.
    pub fn image(&self, digest: &str) -> (Value, Value) {
        let manifest = self.json(digest);
        let config = self.json(manifest["config"]["digest"].as_str().unwrap());
        (manifest, config)
    }

    pub fn json(&self, digest: &str) -> Value {
        let bytes = self
            .store
            .read_blob(&Digest::from_str(digest).unwrap(), 1 << 24)
            .unwrap();
        serde_json::from_slice(&bytes).unwrap()
    }

    /// The files of the built image, through an uncompressed OCI archive: path to (type, mode, text).
    pub fn files(&self, request: &BuildRequest) -> BTreeMap<String, String> {
        let dest = self.path("files.tar");
        let mut request = request.clone();
        request.outputs = vec![output(OutputKind::Tar, &dest)];
        self.build(&request)
            .map_err(|f| panic!("{}", failure_text(&f)))
            .unwrap();
        tar_listing(&std::fs::read(dest).unwrap())
    }
}

/// An output with defaults.
pub fn output(kind: OutputKind, dest: &Path) -> OutputRequest {
    OutputRequest {
        kind,
        dest: Some(OutputDest::Path(dest.to_owned())),
        ..OutputRequest::default()
    }
}

/// Path to `mode type content-or-target` of a tar.
pub fn tar_listing(bytes: &[u8]) -> BTreeMap<String, String> {
    let mut archive = tar::Archive::new(bytes);
    let mut listing = BTreeMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = String::from_utf8(entry.path_bytes().into_owned()).unwrap();
        let header = entry.header().clone();
        let mut text = String::new();
        let kind = header.entry_type();
        if kind.is_file() {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            text = String::from_utf8_lossy(&bytes).into_owned();
        } else if let Some(target) = entry.link_name_bytes() {
            text = String::from_utf8_lossy(&target).into_owned();
        }
        let name = match kind {
            tar::EntryType::Directory => "dir",
            tar::EntryType::Symlink => "symlink",
            tar::EntryType::Link => "link",
            tar::EntryType::Regular => "file",
            _ => "other",
        };
        let owner = format!("{}:{}", header.uid().unwrap(), header.gid().unwrap());
        let line = format!("{name} {:o} {owner} {text}", header.mode().unwrap());
        listing.insert(
            path.trim_end_matches('/').to_owned(),
            line.trim_end().to_owned(),
        );
    }
    listing
}

/// The error with its causes.
pub fn failure_text(failure: &BuildFailure) -> String {
    executor::error::chain(&failure.error)
}

/// Records what a build says.
#[derive(Default)]
pub struct Recorder {
    pub steps: Mutex<HashMap<u32, Vec<&'static str>>>,
    pub names: Mutex<Vec<String>>,
    pub output: Mutex<Vec<u8>>,
    pub tasks: Mutex<Vec<String>>,
    pub warnings: Mutex<Vec<String>>,
    /// Set when output holds these bytes.
    pub stop_at: Option<(Vec<u8>, Cancel)>,
}

impl Recorder {
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&self.output.lock().unwrap()).into_owned()
    }

    pub fn tasks(&self) -> Vec<String> {
        self.tasks.lock().unwrap().clone()
    }
}

impl Observer for Recorder {
    fn event(&self, step: StepId, event: StepEvent) {
        let word = match event {
            StepEvent::Cached => "cached",
            StepEvent::Started { .. } => "started",
            StepEvent::Output { data, .. } => {
                let mut output = self.output.lock().unwrap();
                output.write_all(&data).unwrap();
                if let Some((text, cancel)) = &self.stop_at
                    && output.windows(text.len()).any(|window| window == text)
                {
                    cancel.cancel();
                }
                return;
            }
            StepEvent::Finished => "finished",
            StepEvent::Failed(_) => "failed",
            StepEvent::Cancelled => "cancelled",
            _ => return,
        };
        self.steps
            .lock()
            .unwrap()
            .entry(step.0)
            .or_default()
            .push(word);
    }
}

impl Ui for Recorder {
    fn diagnostics(&self, diagnostics: &[parser::Diagnostic]) {
        self.warnings
            .lock()
            .unwrap()
            .extend(diagnostics.iter().map(|finding| finding.message.clone()));
    }
    fn plan(&self, plan: &Plan) {
        *self.names.lock().unwrap() = plan
            .steps
            .iter()
            .map(|step| step.origin.name.clone())
            .collect();
    }
    fn task_started(&self, name: &str) -> u64 {
        let mut tasks = self.tasks.lock().unwrap();
        tasks.push(name.to_owned());
        tasks.len() as u64
    }
    fn task_progress(&self, _task: u64, _what: &str, _done: u64, _total: u64) {}
    fn task_finished(&self, _task: u64, _error: Option<&str>) {}
}

/// One entry of a hand-made layer.
pub enum Item<'a> {
    Dir(&'a str, u32),
    File(&'a str, u32, &'a [u8]),
    Symlink(&'a str, &'a str),
    Hardlink(&'a str, &'a str),
    /// A file whose name is written as it is, however bad.
    Raw(&'a str, &'a [u8]),
}

/// A layer's tar.
pub fn layer(items: &[Item<'_>]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for item in items {
        let mut header = tar::Header::new_gnu();
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_600_000_000);
        header.set_mode(0o644);
        header.set_size(0);
        match item {
            Item::Dir(path, mode) => {
                header.set_entry_type(tar::EntryType::Directory);
                header.set_mode(*mode);
                builder
                    .append_data(&mut header, format!("{path}/"), std::io::empty())
                    .unwrap();
            }
            Item::File(path, mode, data) => {
                header.set_mode(*mode);
                header.set_size(data.len() as u64);
                builder.append_data(&mut header, path, *data).unwrap();
            }
            Item::Symlink(path, target) => {
                header.set_entry_type(tar::EntryType::Symlink);
                builder.append_link(&mut header, path, target).unwrap();
            }
            Item::Hardlink(path, target) => {
                header.set_entry_type(tar::EntryType::Link);
                builder.append_link(&mut header, path, target).unwrap();
            }
            Item::Raw(path, data) => {
                header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
                header.set_size(data.len() as u64);
                header.set_cksum();
                builder.append(&header, *data).unwrap();
            }
        }
    }
    builder.into_inner().unwrap()
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Lower-case hex SHA-256 with its prefix.
pub fn sha256(bytes: &[u8]) -> String {
    use sha2::{Digest as _, Sha256};
    let hex: String = Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("sha256:{hex}")
}

/// An OCI layout under way.
pub struct LayoutMaker {
    dir: PathBuf,
    entries: Vec<Value>,
}

impl LayoutMaker {
    pub fn new(dir: &Path) -> Self {
        std::fs::create_dir_all(dir.join("blobs/sha256")).unwrap();
        std::fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        Self {
            dir: dir.to_owned(),
            entries: Vec::new(),
        }
    }

    fn blob(&self, bytes: &[u8]) -> String {
        let digest = sha256(bytes);
        std::fs::write(self.dir.join("blobs/sha256").join(&digest[7..]), bytes).unwrap();
        digest
    }

    /// Adds an image; `config` is merged into a plain one. Returns the manifest's descriptor.
    pub fn image(&self, architecture: &str, layers: &[Vec<u8>], config: Value) -> Value {
        let diff_ids: Vec<String> = layers.iter().map(|layer| sha256(layer)).collect();
        let mut whole = json!({
            "architecture": architecture, "os": "linux", "created": "2020-01-01T00:00:00Z",
            "config": {"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": layers.iter().map(|_| json!({"created": "2020-01-01T00:00:00Z", "created_by": "base"})).collect::<Vec<_>>(),
        });
        if let Value::Object(config) = config {
            for (key, value) in config {
                whole[key] = value;
            }
        }
        let config = whole.to_string();
        let descriptors: Vec<Value> = layers
            .iter()
            .map(|layer| {
                let blob = gzip(layer);
                json!({"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": self.blob(&blob), "size": blob.len()})
            })
            .collect();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": self.blob(config.as_bytes()), "size": config.len()},
            "layers": descriptors,
        })
        .to_string();
        json!({"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": self.blob(manifest.as_bytes()), "size": manifest.len()})
    }

    /// Puts a descriptor into the index, under a tag.
    pub fn tag(&mut self, mut descriptor: Value, tag: &str) -> &mut Self {
        descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": tag});
        self.entries.push(descriptor);
        self.write();
        self
    }

    /// An index over descriptors by architecture, as a descriptor.
    pub fn index(&self, entries: &[(&str, Value)]) -> Value {
        let manifests: Vec<Value> = entries
            .iter()
            .map(|(architecture, descriptor)| {
                let mut descriptor = descriptor.clone();
                descriptor["platform"] = json!({"os": "linux", "architecture": architecture});
                descriptor
            })
            .collect();
        let index = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": manifests}).to_string();
        json!({"mediaType": "application/vnd.oci.image.index.v1+json", "digest": self.blob(index.as_bytes()), "size": index.len()})
    }

    fn write(&self) {
        let index = json!({"schemaVersion": 2, "manifests": self.entries});
        std::fs::write(self.dir.join("index.json"), index.to_string()).unwrap();
    }
}

/// A layout context.
pub fn layout_context(dir: &Path, tag: Option<&str>) -> ContextSource {
    ContextSource::OciLayout {
        dir: dir.to_owned(),
        tag: tag.map(str::to_owned),
        digest: None,
    }
}

/// The root file system of the hand-made base.
pub fn base_layer() -> Vec<u8> {
    layer(&[
        Item::Dir("etc", 0o755),
        Item::File(
            "etc/passwd",
            0o644,
            b"root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1001::/home/user:/bin/sh\n",
        ),
        Item::File(
            "etc/group",
            0o644,
            b"root:x:0:\nusers:x:1001:\nextra:x:7:user\n",
        ),
        Item::Dir("usr", 0o755),
        Item::File("usr/data", 0o600, b"data"),
        Item::Symlink("link", "usr"),
    ])
}

/// Writes the hand-made base as a layout and returns the context for it.
pub fn base(place: &Place) -> ContextSource {
    let dir = place.path("base");
    let mut maker = LayoutMaker::new(&dir);
    let architecture = planner::platform::Platform::host().architecture;
    let image = maker.image(&architecture, &[base_layer()], Value::Null);
    maker.tag(image, "latest");
    layout_context(&dir, None)
}
