//! Reads an OCI layout folder into what the corpora record: config, history, layers as entry lists, merged tree.

use flate2::read::MultiGzDecoder;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

/// One entry in the form of the corpora.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Entry {
    /// `file`, `dir`, `symlink`, `hardlink`, `char`, `block`, `fifo`.
    pub kind: String,
    /// `0644`.
    pub mode: String,
    /// Owner.
    pub uid: u64,
    /// Group.
    pub gid: u64,
    /// Digest of the content, hex.
    pub sha256: String,
    /// Link target.
    pub link: String,
}

/// What the corpora do not record of an entry.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Extra {
    /// Seconds since the epoch.
    pub mtime: u64,
    /// Extended attributes by name.
    pub xattrs: BTreeMap<String, String>,
}

/// Entries by path.
pub type Tree = BTreeMap<String, Entry>;

/// An image as the corpora see it.
#[derive(Debug)]
pub struct Image {
    /// Digest of the config: what Docker calls the image's id.
    pub id: String,
    /// `architecture`, `os`, `config` ... without `created`, `rootfs`, `history`.
    pub config: Value,
    /// `history`.
    pub history: Vec<Value>,
    /// Each layer's entries in order.
    pub layers: Vec<Vec<(String, Entry)>>,
    /// The rest of each entry, in the same order.
    pub extras: Vec<Vec<Extra>>,
}

/// Reads the first image of a layout (of the first platform, for an index).
pub fn read(layout: &Path) -> Result<Image, String> {
    let index = json(&layout.join("index.json"))?;
    let mut descriptor = index["manifests"][0].clone();
    let mut manifest = json(&blob(layout, &descriptor)?)?;
    if manifest["manifests"].is_array() {
        descriptor = manifest["manifests"][0].clone();
        manifest = json(&blob(layout, &descriptor)?)?;
    }
    let mut config = json(&blob(layout, &manifest["config"])?)?;
    let history = config["history"].as_array().cloned().unwrap_or_default();
    if let Some(object) = config.as_object_mut() {
        for key in ["created", "rootfs", "history"] {
            object.remove(key);
        }
    }
    let mut layers = Vec::new();
    let mut extras = Vec::new();
    for layer in manifest["layers"].as_array().into_iter().flatten() {
        let (entries, rest) = read_layer(&blob(layout, layer)?)?;
        layers.push(entries);
        extras.push(rest);
    }
    Ok(Image {
        id: manifest["config"]["digest"]
            .as_str()
            .unwrap_or_default()
            .to_owned(),
        config,
        history,
        layers,
        extras,
    })
}

fn blob(layout: &Path, descriptor: &Value) -> Result<PathBuf, String> {
    let digest = descriptor["digest"]
        .as_str()
        .ok_or("a descriptor has no digest")?;
    Ok(layout.join("blobs").join(digest.replace(':', "/")))
}

fn json(path: &Path) -> Result<Value, String> {
    let bytes = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    serde_json::from_slice(&bytes).map_err(|error| format!("{}: {error}", path.display()))
}

/// A layer's entries by path, and the rest of them.
type Layer = (Vec<(String, Entry)>, Vec<Extra>);

fn read_layer(path: &Path) -> Result<Layer, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    let mut file = BufReader::new(std::fs::File::open(path).map_err(failed)?);
    let gzip = std::io::BufRead::fill_buf(&mut file)
        .map_err(failed)?
        .starts_with(&[0x1f, 0x8b]);
    let reader: Box<dyn Read> = if gzip {
        Box::new(MultiGzDecoder::new(file))
    } else {
        Box::new(file)
    };
    let mut archive = tar::Archive::new(reader);
    let mut entries = Vec::new();
    let mut extras = Vec::new();
    for entry in archive.entries().map_err(failed)? {
        let mut entry = entry.map_err(failed)?;
        let path = String::from_utf8_lossy(&entry.path_bytes())
            .trim_start_matches("./")
            .trim_matches('/')
            .to_owned();
        extras.push(parse_extra(&mut entry).map_err(failed)?);
        let parsed = parse_entry(&mut entry).map_err(failed)?;
        entries.push((path, parsed));
    }
    Ok((entries, extras))
}

fn parse_extra(entry: &mut tar::Entry<'_, impl Read>) -> std::io::Result<Extra> {
    let mut extra = Extra {
        mtime: entry.header().mtime()?,
        ..Extra::default()
    };
    for extension in entry.pax_extensions()?.into_iter().flatten() {
        let extension = extension?;
        let name = extension.key().unwrap_or_default();
        if let Some(name) = name.strip_prefix("SCHILY.xattr.") {
            let value = String::from_utf8_lossy(extension.value_bytes()).into_owned();
            extra.xattrs.insert(name.to_owned(), value);
        }
    }
    Ok(extra)
}

fn parse_entry(entry: &mut tar::Entry<'_, impl Read>) -> std::io::Result<Entry> {
    let kind = entry.header().entry_type();
    let mut parsed = Entry {
        kind: match kind {
            tar::EntryType::Directory => "dir",
            tar::EntryType::Symlink => "symlink",
            tar::EntryType::Link => "hardlink",
            tar::EntryType::Char => "char",
            tar::EntryType::Block => "block",
            tar::EntryType::Fifo => "fifo",
            _ => "file",
        }
        .to_owned(),
        mode: format!("{:04o}", entry.header().mode()? & 0o7777),
        uid: entry.header().uid()?,
        gid: entry.header().gid()?,
        ..Entry::default()
    };
    if let Some(link) = entry.link_name_bytes() {
        parsed.link = String::from_utf8_lossy(&link).into_owned();
    }
    if parsed.kind == "file" {
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; 1 << 16];
        loop {
            match entry.read(&mut buffer)? {
                0 => break,
                n => hasher.update(&buffer[..n]),
            }
        }
        parsed.sha256 = hasher
            .finalize()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
    }
    Ok(parsed)
}

/// A layer as the corpus lists it.
pub fn golden_layer(layer: &Value) -> Vec<(String, Entry)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    layer
        .as_array()
        .into_iter()
        .flatten()
        .map(|entry| {
            let parsed = Entry {
                kind: text(&entry["type"]),
                mode: text(&entry["mode"]),
                uid: entry["uid"].as_u64().unwrap_or_default(),
                gid: entry["gid"].as_u64().unwrap_or_default(),
                sha256: text(&entry["sha256"]),
                link: text(&entry["link"]),
            };
            (text(&entry["path"]).trim_matches('/').to_owned(), parsed)
        })
        .collect()
}

/// Applies layers over each other, whiteouts included; hard links become what they point at.
pub fn merge(layers: &[Vec<(String, Entry)>]) -> Tree {
    let mut tree = Tree::new();
    for layer in layers {
        for (path, entry) in layer {
            let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
            let joined = |name: &str| {
                if parent.is_empty() {
                    name.to_owned()
                } else {
                    format!("{parent}/{name}")
                }
            };
            if name == ".wh..wh..opq" {
                remove_below(&mut tree, parent);
            } else if let Some(hidden) = name.strip_prefix(".wh.") {
                let hidden = joined(hidden);
                remove_below(&mut tree, &hidden);
                tree.remove(&hidden);
            } else {
                insert(&mut tree, path, entry);
            }
        }
    }
    tree
}

fn remove_below(tree: &mut Tree, folder: &str) {
    let prefix = format!("{folder}/");
    tree.retain(|path, _| !path.starts_with(&prefix));
}

fn insert(tree: &mut Tree, path: &str, entry: &Entry) {
    if path.is_empty() {
        return;
    }
    if entry.kind != "dir" {
        remove_below(tree, path);
    }
    let resolved = match entry.kind.as_str() {
        "hardlink" => tree
            .get(entry.link.trim_start_matches("./").trim_matches('/'))
            .cloned(),
        _ => None,
    };
    tree.insert(path.to_owned(), resolved.unwrap_or_else(|| entry.clone()));
}
