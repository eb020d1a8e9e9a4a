//! Makes small images as OCI layouts, well-formed or hostile: entries are written as they are given.

use crate::{digest_of, hex};
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::fs;
use std::io::{self, Write};
use std::path::Path;
use tar::{EntryType, Header};

/// An entry of a layer to be made.
#[derive(Clone, Debug)]
pub struct Entry {
    path: Vec<u8>,
    kind: EntryType,
    mode: u32,
    uid: u64,
    gid: u64,
    mtime: u64,
    content: Vec<u8>,
    link: Vec<u8>,
    xattrs: Vec<(String, Vec<u8>)>,
    device: (u32, u32),
}

impl Entry {
    fn new(path: impl AsRef<[u8]>, kind: EntryType, mode: u32) -> Self {
        Self {
            path: path.as_ref().to_vec(),
            kind,
            mode,
            uid: 0,
            gid: 0,
            mtime: 0,
            content: Vec::new(),
            link: Vec::new(),
            xattrs: Vec::new(),
            device: (0, 0),
        }
    }

    /// A folder of mode 0755.
    pub fn dir(path: impl AsRef<[u8]>) -> Self {
        let mut entry = Self::new(path, EntryType::Directory, 0o755);
        if !entry.path.ends_with(b"/") {
            entry.path.push(b'/');
        }
        entry
    }

    /// A file of mode 0644.
    pub fn file(path: impl AsRef<[u8]>, content: impl AsRef<[u8]>) -> Self {
        let mut entry = Self::new(path, EntryType::Regular, 0o644);
        entry.content = content.as_ref().to_vec();
        entry
    }

    /// A symbolic link.
    pub fn symlink(path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        let mut entry = Self::new(path, EntryType::Symlink, 0o777);
        entry.link = target.as_ref().to_vec();
        entry
    }

    /// A hard link.
    pub fn hardlink(path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        let mut entry = Self::new(path, EntryType::Link, 0o644);
        entry.link = target.as_ref().to_vec();
        entry
    }

    /// A named pipe of mode 0644.
    pub fn fifo(path: impl AsRef<[u8]>) -> Self {
        Self::new(path, EntryType::Fifo, 0o644)
    }

    /// A character device of mode 0666.
    pub fn char_device(path: impl AsRef<[u8]>, major: u32, minor: u32) -> Self {
        let mut entry = Self::new(path, EntryType::Char, 0o666);
        entry.device = (major, minor);
        entry
    }

    /// The whiteout of a path (image-spec layer.md, "Whiteouts").
    #[must_use]
    pub fn whiteout(path: &str) -> Self {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let separator = if parent.is_empty() { "" } else { "/" };
        Self::file(format!("{parent}{separator}.wh.{name}"), "")
    }

    /// The opaque whiteout of a folder (image-spec layer.md, "Opaque Whiteout").
    #[must_use]
    pub fn opaque(path: &str) -> Self {
        Self::file(format!("{path}/.wh..wh..opq"), "")
    }

    /// With these permission bits.
    #[must_use]
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    /// With this owner and group.
    #[must_use]
    pub fn owner(mut self, uid: u64, gid: u64) -> Self {
        (self.uid, self.gid) = (uid, gid);
        self
    }

    /// With this mtime in seconds since the epoch.
    #[must_use]
    pub fn mtime(mut self, mtime: u64) -> Self {
        self.mtime = mtime;
        self
    }

    /// With one more extended attribute.
    #[must_use]
    pub fn xattr(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.xattrs.push((name.into(), value.as_ref().to_vec()));
        self
    }

    fn append(&self, archive: &mut tar::Builder<Vec<u8>>) -> io::Result<()> {
        let mut pax: Vec<(String, Vec<u8>)> = Vec::new();
        let mut header = Header::new_ustar();
        header.set_entry_type(self.kind);
        header.set_mode(self.mode);
        header.set_mtime(self.mtime);
        header.set_size(self.content.len() as u64);
        header.set_uid(self.uid);
        header.set_gid(self.gid);
        if matches!(self.kind, EntryType::Char) {
            header.set_device_major(self.device.0)?;
            header.set_device_minor(self.device.1)?;
        }
        // By hand: the crate's setters refuse the hostile names that tests need.
        let old = header.as_old_mut();
        for (field, value, name) in [
            (&mut old.name, &self.path, "path"),
            (&mut old.linkname, &self.link, "linkpath"),
        ] {
            let length = value.len().min(field.len());
            field[..length].copy_from_slice(&value[..length]);
            if length < value.len() {
                pax.push((name.into(), value.clone()));
            }
        }
        for (name, value) in &self.xattrs {
            pax.push((format!("SCHILY.xattr.{name}"), value.clone()));
        }
        header.set_cksum();
        let fields = pax
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_slice()));
        archive.append_pax_extensions(fields)?;
        archive.append(&header, self.content.as_slice())
    }
}

/// A tar archive of entries in this order.
///
/// # Errors
/// Numbers that no header can hold.
pub fn archive(entries: &[Entry]) -> io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    for entry in entries {
        entry.append(&mut archive)?;
    }
    archive.into_inner()
}

/// How layers are stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Compression {
    /// Plain tar.
    None,
    /// gzip.
    Gzip,
    /// zstd.
    Zstd,
}

/// An image to be made: layers, config, name, platform.
#[derive(Clone, Debug)]
pub struct BaseImage {
    layers: Vec<Vec<Entry>>,
    config: Value,
    reference: String,
    os: String,
    architecture: String,
    compression: Compression,
}

impl Default for BaseImage {
    fn default() -> Self {
        Self {
            layers: Vec::new(),
            config: json!({}),
            reference: "latest".into(),
            os: "linux".into(),
            architecture: "amd64".into(),
            compression: Compression::Gzip,
        }
    }
}

impl BaseImage {
    /// An image without layers, named `latest`, for linux/amd64.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// With one more layer, its entries in this order.
    #[must_use]
    pub fn layer(mut self, entries: &[Entry]) -> Self {
        self.layers.push(entries.to_vec());
        self
    }

    /// With this `config` object (`Env`, `Cmd`, `OnBuild` ...).
    #[must_use]
    pub fn config(mut self, config: Value) -> Self {
        self.config = config;
        self
    }

    /// With this name (annotation `org.opencontainers.image.ref.name`).
    #[must_use]
    pub fn reference(mut self, reference: &str) -> Self {
        self.reference = reference.into();
        self
    }

    /// For this platform.
    #[must_use]
    pub fn platform(mut self, os: &str, architecture: &str) -> Self {
        self.os = os.into();
        self.architecture = architecture.into();
        self
    }

    /// With layers stored like this.
    #[must_use]
    pub fn compression(mut self, compression: Compression) -> Self {
        self.compression = compression;
        self
    }

    /// Writes the layout; an image of another name that is in it stays. Returns the manifest's digest.
    ///
    /// # Errors
    /// A failed write.
    pub fn write(&self, layout: &Path) -> io::Result<String> {
        fs::create_dir_all(layout.join("blobs/sha256"))?;
        let mut diff_ids = Vec::new();
        let mut layers = Vec::new();
        let mut history = Vec::new();
        for entries in &self.layers {
            let tar = archive(entries)?;
            diff_ids.push(digest_of(&tar));
            let (bytes, media_type) = self.compress(tar)?;
            layers.push(put(layout, media_type, &bytes)?);
            history.push(json!({"created_by": "testkit", "created": "1970-01-01T00:00:00Z"}));
        }
        let config = json!({
            "created": "1970-01-01T00:00:00Z",
            "architecture": self.architecture,
            "os": self.os,
            "config": self.config,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": history,
        });
        let config_type = "application/vnd.oci.image.config.v1+json";
        let manifest_type = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": manifest_type,
            "config": put(layout, config_type, &serde_json::to_vec(&config)?)?,
            "layers": layers,
        });
        let mut descriptor = put(layout, manifest_type, &serde_json::to_vec(&manifest)?)?;
        descriptor["platform"] = json!({"os": self.os, "architecture": self.architecture});
        descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": self.reference});
        let digest = descriptor["digest"].as_str().unwrap_or_default().to_owned();
        self.add_to_index(layout, descriptor)?;
        Ok(digest)
    }

    fn add_to_index(&self, layout: &Path, descriptor: Value) -> io::Result<()> {
        fs::write(
            layout.join("oci-layout"),
            "{\"imageLayoutVersion\":\"1.0.0\"}",
        )?;
        let path = layout.join("index.json");
        let known = fs::read(&path)
            .ok()
            .and_then(|b| serde_json::from_slice(&b).ok());
        let known: Value = known.unwrap_or_default();
        let name = |image: &Value| {
            let name = &image["annotations"]["org.opencontainers.image.ref.name"];
            name.as_str().map(str::to_owned)
        };
        let mut manifests: Vec<Value> = known["manifests"].as_array().cloned().unwrap_or_default();
        manifests.retain(|image| name(image).as_deref() != Some(&self.reference));
        manifests.push(descriptor);
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": manifests,
        });
        fs::write(path, serde_json::to_vec(&index)?)
    }

    fn compress(&self, tar: Vec<u8>) -> io::Result<(Vec<u8>, &'static str)> {
        match self.compression {
            Compression::None => Ok((tar, "application/vnd.oci.image.layer.v1.tar")),
            Compression::Gzip => {
                let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::new(6));
                encoder.write_all(&tar)?;
                let bytes = encoder.finish()?;
                Ok((bytes, "application/vnd.oci.image.layer.v1.tar+gzip"))
            }
            Compression::Zstd => {
                let bytes = zstd::stream::encode_all(tar.as_slice(), 3)?;
                Ok((bytes, "application/vnd.oci.image.layer.v1.tar+zstd"))
            }
        }
    }
}

fn put(layout: &Path, media_type: &str, bytes: &[u8]) -> io::Result<Value> {
    let encoded = hex(&Sha256::digest(bytes));
    fs::write(layout.join("blobs/sha256").join(&encoded), bytes)?;
    Ok(json!({
        "mediaType": media_type,
        "digest": format!("sha256:{encoded}"),
        "size": bytes.len(),
    }))
}

/// Makes a layout of an image of one layer with this `config` object, named `latest`. Returns the manifest's digest.
///
/// # Errors
/// A failed write.
pub fn base_layout(layout: &Path, entries: &[Entry], config: Value) -> io::Result<String> {
    BaseImage::new().layer(entries).config(config).write(layout)
}
