//! The base images of the corpora: in a template store, which is copied for every case.
//!
//! `busybox` and `alpine` come from the corpus' own script. A Debian base (for `debian`, `ubuntu`, `centos` names) is
//! made by `mmdebstrap` when the first case asks for it, and kept under the target folder.

use super::image::{self, Entry};
use crate::shell;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Names under which the corpora know a Debian system.
const DEBIAN: &[&str] = &["debian", "ubuntu", "centos", "python-311"];

/// Entries of a layer in order.
type Layer = Vec<(String, Entry)>;

/// Base images of the corpus in template stores.
#[derive(Debug)]
pub struct Bases {
    work: PathBuf,
    /// The binary.
    pub kiln: PathBuf,
    /// Layers of the small base images.
    layers: Vec<Layer>,
    /// The store with the Debian base too, and its layer.
    debian: OnceLock<Result<(PathBuf, Vec<Layer>), String>>,
}

impl Bases {
    /// Makes them with the corpus' own script.
    pub fn make(corpus: &Path, kiln: PathBuf, work: &Path) -> Result<Self, String> {
        let images = work.join("images");
        std::fs::create_dir_all(&images).map_err(|error| error.to_string())?;
        shell::output(
            Command::new("python3")
                .arg(corpus.join("mkbase.py"))
                .arg(&images),
        )?;
        let store = work.join("template");
        let mut layers = Vec::new();
        for name in ["busybox", "alpine"] {
            let names = ["docker.io/library", "mirror.gcr.io", "quay.io/libpod"]
                .map(|prefix| format!("{prefix}/{name}:latest"));
            let archive = work.join(format!("{name}.tar"));
            pack(&images.join(name), &names, &archive)?;
            load(&kiln, &store, &archive)?;
            layers.extend(image::read(&images.join(name))?.layers);
        }
        Ok(Self {
            work: work.to_owned(),
            kiln,
            layers,
            debian: OnceLock::new(),
        })
    }

    /// The layer itself, when it is one of a base image.
    pub fn known_layer(&self, layer: Option<&Layer>) -> Option<Layer> {
        let debian = self.debian.get().and_then(|made| made.as_ref().ok());
        let mut known = self
            .layers
            .iter()
            .chain(debian.into_iter().flat_map(|(_, layers)| layers));
        layer
            .filter(|layer| known.any(|base| base == *layer))
            .cloned()
    }

    /// A fresh store with the base images in it; with Debian's when one of the names stands for it.
    pub fn store(&self, dir: &Path, from: &Value) -> Result<(), String> {
        let mut names = from.as_array().into_iter().flatten();
        let debian = names.any(|name| {
            let name = super::text(name);
            DEBIAN.iter().any(|part| name.contains(part))
        });
        let template = if debian {
            let made = self.debian.get_or_init(|| self.make_debian());
            made.as_ref().map_err(Clone::clone)?.0.clone()
        } else {
            self.work.join("template")
        };
        if let Some(parent) = dir.parent() {
            std::fs::create_dir_all(parent).map_err(|error| error.to_string())?;
        }
        shell::output(Command::new("cp").arg("-a").arg(template).arg(dir)).map(|_| ())
    }

    fn make_debian(&self) -> Result<(PathBuf, Vec<Layer>), String> {
        let kept = shell::target_dir().join("conformance");
        let layout = kept.join("debian");
        if !layout.join("index.json").exists() {
            let tar = debian_tar()
                .map_err(|_| "left out: needs a Debian base from mmdebstrap".to_owned())?;
            write_layout(&layout, &tar).map_err(|error| format!("Debian base: {error}"))?;
        }
        let names = [
            "docker.io/library/debian:bookworm",
            "docker.io/library/debian:latest",
            "quay.io/libpod/centos:7",
            "docker.io/library/ubuntu:latest",
        ]
        .map(str::to_owned);
        let archive = self.work.join("debian.tar");
        pack(&layout, &names, &archive)?;
        let store = self.work.join("template-debian");
        shell::output(
            Command::new("cp")
                .arg("-a")
                .arg(self.work.join("template"))
                .arg(&store),
        )?;
        load(&self.kiln, &store, &archive)?;
        Ok((store, image::read(&layout)?.layers))
    }
}

/// The root file system of a small Debian, made once.
pub fn debian_tar() -> Result<PathBuf, String> {
    debian_tar_with("debian", &[])
}

/// The same under a name of its own, with more options for mmdebstrap.
pub fn debian_tar_with(name: &str, options: &[&str]) -> Result<PathBuf, String> {
    let kept = shell::target_dir().join("conformance");
    std::fs::create_dir_all(&kept).map_err(|error| error.to_string())?;
    let tar = kept.join(format!("{name}.tar"));
    if !tar.exists() {
        let part = kept.join(format!("{name}.part.tar"));
        let mut command = Command::new("mmdebstrap");
        command.arg("--variant=minbase").args(options);
        shell::output(command.arg("bookworm").arg(&part))?;
        std::fs::rename(&part, &tar).map_err(|error| error.to_string())?;
    }
    Ok(tar)
}

fn load(kiln: &Path, store: &Path, archive: &Path) -> Result<(), String> {
    let mut command = Command::new(kiln);
    command.arg("--root").arg(store).arg("load").arg("-i");
    shell::output(command.arg(archive)).map(|_| ())
}

/// Writes a one-layer image of a root file system's tar, configured as the recorded runs had it.
fn write_layout(layout: &Path, tar: &Path) -> std::io::Result<()> {
    let blobs = layout.join("blobs/sha256");
    std::fs::create_dir_all(&blobs)?;
    let blob = |bytes: &[u8]| -> std::io::Result<(String, usize)> {
        let hex = hex(Sha256::digest(bytes).as_slice());
        std::fs::write(blobs.join(&hex), bytes)?;
        Ok((format!("sha256:{hex}"), bytes.len()))
    };
    let mut hasher = Sha256::new();
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    let mut source = std::fs::File::open(tar)?;
    let mut buffer = vec![0; 1 << 18];
    loop {
        let length = source.read(&mut buffer)?;
        if length == 0 {
            break;
        }
        hasher.update(&buffer[..length]);
        std::io::Write::write_all(&mut encoder, &buffer[..length])?;
    }
    let (layer, layer_size) = blob(&encoder.finish()?)?;
    let config = json!({
        "created": "2023-11-14T22:13:20Z", "architecture": "amd64", "os": "linux",
        "config": {
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "Cmd": ["bash"],
        },
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", hex(hasher.finalize().as_slice()))]},
        "history": [{"created": "2023-11-14T22:13:20Z", "created_by": "base debian"}],
    });
    let (config, config_size) = blob(config.to_string().as_bytes())?;
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": config_size},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": layer, "size": layer_size}],
    });
    let (manifest, manifest_size) = blob(manifest.to_string().as_bytes())?;
    std::fs::write(
        layout.join("oci-layout"),
        r#"{"imageLayoutVersion":"1.0.0"}"#,
    )?;
    let index = json!({"schemaVersion": 2, "manifests": [{
        "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": manifest, "size": manifest_size,
    }]});
    std::fs::write(layout.join("index.json"), index.to_string())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Packs a layout folder as an archive that carries these names.
fn pack(layout: &Path, names: &[String], archive: &Path) -> Result<(), String> {
    let path = layout.join("index.json");
    let text = std::fs::read_to_string(&path).map_err(|error| error.to_string())?;
    let mut index: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    let first = index["manifests"][0].clone();
    index["manifests"] = names
        .iter()
        .map(|name| {
            let mut descriptor = first.clone();
            descriptor["annotations"] = json!({"io.containerd.image.name": name, "org.opencontainers.image.ref.name": "latest"});
            descriptor
        })
        .collect();
    std::fs::write(&path, index.to_string()).map_err(|error| error.to_string())?;
    shell::output(
        Command::new("tar")
            .arg("-C")
            .arg(layout)
            .arg("-cf")
            .arg(archive)
            .arg("."),
    )
    .map(|_| ())
}
