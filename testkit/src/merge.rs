//! The file tree that an image's layers add up to, in memory.

use crate::tarball::{Kind, TarEntry, tar_entries};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Path to entry. The root folder is `.` if some layer has it.
pub type MergedTree = BTreeMap<String, TarEntry>;

const WHITEOUT: &str = ".wh.";
const OPAQUE: &str = ".wh..wh..opq";

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

fn blob_path(layout: &Path, descriptor: &Value) -> io::Result<PathBuf> {
    let digest = descriptor["digest"].as_str().unwrap_or_default();
    let (algorithm, encoded) = digest
        .split_once(':')
        .ok_or_else(|| invalid(format!("{descriptor} has no digest")))?;
    Ok(layout.join("blobs").join(algorithm).join(encoded))
}

fn read_json(path: &Path) -> io::Result<Value> {
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

/// The manifest that a name (`latest`), a full reference or a digest stands for. With several platforms it is the one
/// for linux/amd64, or `os/architecture` after a `@` (`latest@linux/arm64`).
///
/// # Errors
/// A failed read, an unknown name.
pub fn manifest_of(layout: &Path, reference: &str) -> io::Result<Value> {
    let (name, platform) = match reference.rsplit_once('@') {
        Some((name, platform)) if platform.contains('/') => (name, platform),
        _ => (reference, "linux/amd64"),
    };
    let index = read_json(&layout.join("index.json"))?;
    let entries = index["manifests"].as_array().cloned().unwrap_or_default();
    let named = |entry: &&Value| {
        let annotations = &entry["annotations"];
        entry["digest"] == name
            || annotations["org.opencontainers.image.ref.name"] == name
            || annotations["io.containerd.image.name"] == name
    };
    let found: Vec<&Value> = entries.iter().filter(named).collect();
    pick(layout, &found, platform)?
        .ok_or_else(|| invalid(format!("{reference} is not in the layout")))
}

fn pick(layout: &Path, descriptors: &[&Value], platform: &str) -> io::Result<Option<Value>> {
    for descriptor in descriptors {
        let stated = &descriptor["platform"];
        let matches =
            stated.is_null() || platform_text(&stated["os"], &stated["architecture"]) == platform;
        if !matches {
            continue;
        }
        let document = read_json(&blob_path(layout, descriptor)?)?;
        let Some(nested) = document["manifests"].as_array() else {
            return Ok(Some(document));
        };
        let nested: Vec<&Value> = nested.iter().collect();
        if let Some(found) = pick(layout, &nested, platform)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

fn platform_text(os: &Value, architecture: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    format!("{}/{}", text(os), text(architecture))
}

/// The files of an image's layers, lowest first.
///
/// # Errors
/// A failed read, an unknown name.
pub fn layer_files(layout: &Path, reference: &str) -> io::Result<Vec<PathBuf>> {
    let manifest = manifest_of(layout, reference)?;
    let layers = manifest["layers"].as_array().cloned().unwrap_or_default();
    layers
        .iter()
        .map(|layer| blob_path(layout, layer))
        .collect()
}

/// Applies an image's layers with their whiteouts (image-spec layer.md, "Applying Changesets"). Hard links become
/// files with the attributes of their target; `link` keeps the target's name.
///
/// # Errors
/// A failed read, an unknown name, a hard link to nothing.
pub fn merged_tree(layout: &Path, reference: &str) -> io::Result<MergedTree> {
    let mut tree = MergedTree::new();
    for path in layer_files(layout, reference)? {
        apply(&mut tree, tar_entries(&path)?)?;
    }
    Ok(tree)
}

/// Applies one layer.
pub(crate) fn apply(tree: &mut MergedTree, entries: Vec<TarEntry>) -> io::Result<()> {
    // Whiteouts hide what lower layers have, never an entry of their own layer, wherever they stand in it.
    for entry in &entries {
        let (parent, name) = entry.path.rsplit_once('/').unwrap_or(("", &entry.path));
        if name == OPAQUE {
            remove_below(tree, parent);
        } else if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            let path = if parent.is_empty() {
                hidden.to_owned()
            } else {
                format!("{parent}/{hidden}")
            };
            tree.remove(&path);
            remove_below(tree, &path);
        }
    }
    for mut entry in entries {
        if entry.file_name().starts_with(WHITEOUT) {
            continue;
        }
        if entry.kind == Kind::Hardlink {
            entry = resolve(tree, &entry)?;
        }
        if entry.kind != Kind::Dir {
            remove_below(tree, &entry.path);
        }
        tree.insert(entry.path.clone(), entry);
    }
    Ok(())
}

fn resolve(tree: &MergedTree, entry: &TarEntry) -> io::Result<TarEntry> {
    let target = entry.link.as_deref().unwrap_or_default();
    let found = tree.get(target).ok_or_else(|| {
        invalid(format!(
            "{} is a hard link to {target}, which is not there",
            entry.path
        ))
    })?;
    Ok(TarEntry {
        path: entry.path.clone(),
        raw_path: entry.raw_path.clone(),
        link: entry.link.clone(),
        ..found.clone()
    })
}

fn remove_below(tree: &mut MergedTree, folder: &str) {
    if folder.is_empty() || folder == "." {
        tree.retain(|path, _| path == ".");
        return;
    }
    let prefix = format!("{folder}/");
    let below: Vec<String> = tree
        .range(prefix.clone()..)
        .take_while(|(path, _)| path.starts_with(&prefix))
        .map(|(path, _)| path.clone())
        .collect();
    for path in below {
        tree.remove(&path);
    }
}
