//! `--squash`: one layer in place of all that a build adds to its base, as the classic builder made it.
//!
//! The layer holds what the build's layers touched, as it is in the end, and whiteouts of what they removed from the
//! base. The history keeps every instruction, without a layer, and ends with an entry for the merged one.

use super::backend::whole_view;
use super::record::{Link, StepOutput};
use crate::Error;
use crate::layer::index::{Index, What};
use crate::layer::{self, LayerWriter, compare};
use crate::output::files::{self, Sink};
use crate::snapshot::{Snapshot, View};
use crate::space::Space;
use crate::tree::{Entry, FileTree, Kind};
use oci_spec::image::Digest;
use planner::config::HistoryEntry;
use planner::plan::{Plan, Target};
use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::Read;
use store::{LayerMeta, StagedLayer};

/// Squashes all targets.
pub(super) fn squash(
    space: &Space,
    plan: &mut Plan,
    results: &mut [StepOutput],
) -> Result<(), Error> {
    for (target, result) in plan.targets.iter_mut().zip(results) {
        let Some(last) = result.chain.last() else {
            continue;
        };
        let link = Link {
            layer: merged(space, result)?,
            created: last.created,
        };
        rewrite_history(target, result.chain.len());
        result.chain = vec![link];
    }
    Ok(())
}

fn rewrite_history(target: &mut Target, layers: usize) {
    for entry in &mut target.history {
        if entry.step.take().is_some() {
            entry.empty_layer = true;
        }
    }
    target.history.push(HistoryEntry {
        comment: Some(format!("merge of {layers} layers")),
        step: target.rootfs,
        ..HistoryEntry::default()
    });
}

/// The layer that does what all of a result's own layers do.
fn merged(space: &Space, result: &StepOutput) -> Result<Digest, Error> {
    let whole = whole_view(space, &result.snapshot())?;
    let base = Snapshot {
        layers: result.base.clone(),
    };
    let base = whole_view(space, &base)?;
    let mut changes = Changes::default();
    for link in &result.chain {
        let files = layer::readable(space, &link.layer)?;
        changes.note(&Index::load(&files.index)?);
    }
    changes.hidden(&base, &whole)?;
    let scratch = space.store().scratch()?;
    let (tar, index) = (scratch.path().join("tar"), scratch.path().join("index"));
    let file = File::create(&tar).map_err(|source| Error::Io {
        op: "create",
        path: tar.clone(),
        source,
    })?;
    let mut sink = LayerSink {
        writer: LayerWriter::new(file),
    };
    let mut links = HashMap::new();
    for path in changes.in_order() {
        match whole.entry(path)? {
            Some(mut entry) => {
                entry.path.clone_from(path);
                files::entry(&whole, entry, &mut links, &mut sink)?;
            }
            None if is_in_folder(&whole, path)? && base.entry(path)?.is_some() => {
                sink.writer.whiteout(path)?;
            }
            None => {}
        }
    }
    let written = sink.writer.finish(&index)?;
    let meta = LayerMeta {
        diff_id: written.diff_id.clone(),
        identity: Some(written.identity),
        size: Some(written.size),
        blobs: Vec::new(),
    };
    let staged = StagedLayer {
        tar: Some(tar),
        tree: None,
        index: Some(index),
    };
    space.store().put_layer(&meta, staged)?;
    Ok(written.diff_id)
}

/// Whether the folder of a path is still a folder: what was in one that is gone needs no whiteout.
fn is_in_folder(whole: &View, path: &[u8]) -> Result<bool, Error> {
    let Some(end) = path.iter().rposition(|byte| *byte == b'/') else {
        return Ok(true);
    };
    let folder = whole.entry(&path[..end])?;
    Ok(folder.is_some_and(|folder| folder.kind == Kind::Directory))
}

/// Paths that the layers of a build say something about.
#[derive(Default)]
struct Changes {
    touched: BTreeSet<Vec<u8>>,
    /// Paths removed at some time, with all below them.
    removed: BTreeSet<Vec<u8>>,
}

impl Changes {
    fn note(&mut self, index: &Index) {
        for node in index
            .nodes()
            .filter(|node| !node.implied && !node.path.is_empty())
        {
            let path = node.path.to_vec();
            if matches!(node.what, What::Whiteout | What::Directory { opaque: true }) {
                self.removed.insert(path.clone());
            }
            self.touched.insert(path);
        }
    }

    /// Adds what the base has in folders that were removed and made again.
    fn hidden(&mut self, base: &View, whole: &View) -> Result<(), Error> {
        let mut open: Vec<Vec<u8>> = self.removed.iter().cloned().collect();
        while let Some(folder) = open.pop() {
            let is_folder = |view: &View| -> Result<bool, Error> {
                let entry = view.entry(&folder)?;
                Ok(entry.is_some_and(|entry| entry.kind == Kind::Directory))
            };
            if !is_folder(base)? || !is_folder(whole)? {
                continue;
            }
            for name in base.list(&folder)? {
                let path = [folder.as_slice(), b"/", &name].concat();
                self.touched.insert(path.clone());
                open.push(path);
            }
        }
        Ok(())
    }

    fn in_order(&self) -> Vec<&Vec<u8>> {
        let mut paths: Vec<&Vec<u8>> = self.touched.iter().collect();
        paths.sort_unstable_by(|a, b| compare(a, b));
        paths
    }
}

struct LayerSink {
    writer: LayerWriter<File>,
}

impl Sink for LayerSink {
    fn entry(&mut self, entry: Entry, data: Option<&mut dyn Read>) -> Result<(), Error> {
        self.writer.entry(&entry, data)
    }
}
