//! Writes a layer's canonical tar again, from its index and its content.
//!
//! For a layer that was written here this gives the same bytes; with another time for its entries, or for
//! a layer from elsewhere, it gives a canonical layer of the same content.

use super::index::{Index, What, io_error};
use super::order::compare;
use super::writer::{LayerWriter, Written};
use crate::Error;
use crate::snapshot::{LayerFiles, View};
use crate::tree::{FileTree as _, Kind};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

/// Request of the task: write a layer to files.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SerialiseRequest {
    /// The layer.
    pub(crate) files: LayerFiles,
    /// Times above it are set to it.
    pub(crate) epoch: Option<i64>,
    /// Tar to be made.
    pub(crate) tar: PathBuf,
    /// Index to be made.
    pub(crate) index: PathBuf,
}

/// The task.
pub(crate) fn serialise(request: SerialiseRequest) -> Result<Written, Error> {
    let SerialiseRequest {
        files,
        epoch,
        tar,
        index,
    } = request;
    let out = File::create(&tar).map_err(|e| io_error("create", &tar, e))?;
    let (written, built) = rewrite(&files, epoch, out)?;
    built.save(&index)?;
    Ok(written)
}

/// Writes a layer's entries to `out`, times above `epoch` set to it.
pub(crate) fn rewrite<W: Write>(
    files: &LayerFiles,
    epoch: Option<i64>,
    out: W,
) -> Result<(Written, Index), Error> {
    let index = Index::load(&files.index)?;
    let view = View::load(std::slice::from_ref(files))?;
    // Elsewhere a link may come before the file in canonical order: the first of its paths becomes the file.
    let mut first: HashMap<&[u8], &[u8]> = HashMap::new();
    for node in index.nodes() {
        if let What::Hardlink(target) = node.what {
            first.entry(target).or_insert_with(|| {
                if compare(node.path, target).is_lt() {
                    node.path
                } else {
                    target
                }
            });
        }
    }
    let mut writer = LayerWriter::new(out);
    for node in index.nodes().filter(|node| !is_implied_only(node)) {
        let group = match node.what {
            What::Hardlink(target) => first.get(target),
            _ => first.get(node.path),
        };
        let group = group.copied();
        let source = match (node.what, group) {
            (What::Hardlink(target), Some(path)) if path == node.path => {
                index.find(target).map(|at| index.node(at))
            }
            _ => Some(node),
        };
        let Some(mut entry) = source.and_then(super::index::Node::to_entry) else {
            writer.whiteout(node.path)?;
            continue;
        };
        entry.path = node.path.to_vec();
        if let Some(path) = group.filter(|path| *path != node.path) {
            entry.kind = Kind::Hardlink {
                target: path.to_vec(),
            };
        }
        entry.mtime = epoch.map_or(entry.mtime, |epoch| entry.mtime.min(epoch));
        match (&entry.kind, node.what) {
            (_, What::Directory { opaque: true }) => writer.opaque_directory(&entry)?,
            (Kind::File { size: 1.., .. }, _) => {
                let mut content = view.open(node.path)?;
                writer.entry(&entry, Some(&mut content))?;
            }
            _ => writer.entry(&entry, None)?,
        }
    }
    writer.end()
}

/// A parent that no entry made, unless it says something.
fn is_implied_only(node: &super::index::Node<'_>) -> bool {
    node.implied && node.what == What::Directory { opaque: false }
}
