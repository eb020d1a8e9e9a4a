//! Brings layers of the store into the forms that are wanted, once each: readable by index, unpacked, written anew.
//!
//! Several threads of one process take turns per layer; several processes each do the work and the store keeps one result.

use super::decode::Source;
use super::extract::ExtractOptions;
use super::index::io_error;
use super::tasks::{self, ExtractRequest};
use super::unpack::index_blob;
use super::writer::Written;
use crate::Error;
use crate::snapshot::LayerFiles;
use crate::space::Space;
use oci_spec::image::{Descriptor, Digest};
use std::path::PathBuf;
use store::{LayerBlob, LayerMeta, StagedLayer, Store};

/// The encoder's name for blobs that came from elsewhere.
pub(crate) const PULLED: &str = "pulled";

/// Facts about a finished layer.
pub(crate) fn meta_of(written: &Written) -> LayerMeta {
    LayerMeta {
        diff_id: written.diff_id.clone(),
        identity: Some(written.identity.clone()),
        size: Some(written.size),
        blobs: Vec::new(),
    }
}

/// Where the tar of a layer can be had: the plain blob, else a compressed one.
pub(crate) fn source(store: &Store, diff_id: &Digest) -> Result<Option<Source>, Error> {
    if store.blob_size(diff_id).is_some() {
        return Ok(Some(Source { path: store.blob_path(diff_id), digest: None, diff_id: diff_id.clone() }));
    }
    let blobs = store.layer(diff_id)?.map(|meta| meta.blobs).unwrap_or_default();
    let found = blobs.into_iter().map(|blob| blob.descriptor.digest().clone()).find(|d| store.blob_size(d).is_some());
    Ok(found.map(|digest| Source { path: store.blob_path(&digest), digest: Some(digest), diff_id: diff_id.clone() }))
}

pub(crate) fn missing(diff_id: &Digest) -> Error {
    let reason = "neither it nor a blob of it is in the store".to_owned();
    Error::Layer { layer: diff_id.to_string(), reason }
}

fn files(store: &Store, diff_id: &Digest) -> Option<LayerFiles> {
    let index = store.layer_index(diff_id)?;
    let tar = store.blob_size(diff_id).map(|_| store.blob_path(diff_id));
    let tree = store.layer_tree(diff_id);
    (tar.is_some() || tree.is_some()).then(|| LayerFiles { diff_id: diff_id.clone(), index, tree, tar })
}

/// See [`super::register_blob`].
pub(crate) fn register_blob(space: &Space, diff_id: &Digest, blob: &Descriptor) -> Result<(), Error> {
    let plain = blob.digest() == diff_id;
    let mut meta = LayerMeta { diff_id: diff_id.clone(), identity: None, size: None, blobs: Vec::new() };
    if plain {
        meta.size = Some(blob.size());
    } else {
        meta.blobs.push(LayerBlob { descriptor: blob.clone(), encoder: PULLED.to_owned() });
    }
    Ok(space.store().put_layer(&meta, StagedLayer::default())?)
}

/// See [`super::readable`].
pub(crate) fn readable(space: &Space, diff_id: &Digest) -> Result<LayerFiles, Error> {
    let store = space.store();
    if let Some(files) = files(store, diff_id) {
        return Ok(files);
    }
    space.in_turn(format!("layer {diff_id}"), || {
        if let Some(files) = files(store, diff_id) {
            return Ok(files);
        }
        let source = source(store, diff_id)?.ok_or_else(|| missing(diff_id))?;
        let scratch = store.scratch()?;
        let tar = source.digest.is_some().then(|| scratch.path().join("tar"));
        let index = scratch.path().join("index");
        let written = index_blob(&source, &space.limits(), tar.as_deref(), &index).map_err(|e| in_store(e, &source))?;
        store.put_layer(&meta_of(&written), StagedLayer { tar, tree: None, index: Some(index) })?;
        files(store, diff_id).ok_or_else(|| missing(diff_id))
    })
}

/// See [`super::tree`].
pub(crate) fn tree(space: &Space, diff_id: &Digest) -> Result<PathBuf, Error> {
    let store = space.store();
    if let Some(tree) = store.layer_tree(diff_id) {
        return Ok(tree);
    }
    space.in_turn(format!("layer {diff_id}"), || {
        if let Some(tree) = store.layer_tree(diff_id) {
            return Ok(tree);
        }
        let source = source(store, diff_id)?.ok_or_else(|| missing(diff_id))?;
        let scratch = store.scratch()?;
        let folder = scratch.path().join("tree");
        std::fs::create_dir(&folder).map_err(|e| io_error("create", &folder, e))?;
        let (dest, index) = (folder.join("root"), scratch.path().join("index"));
        let options = ExtractOptions { devices: space.is_root(), owners: !space.has_single_id()? };
        let request =
            ExtractRequest { source: absolute(&source)?, limits: space.limits(), dest: dest.clone(), options, index };
        let written: Result<Written, Error> = space.task(tasks::EXTRACT, &request);
        let written = match written {
            Ok(written) => written,
            Err(error) => {
                // What is half unpacked may belong to ids that only the namespace can remove.
                drop(space.remove_tree(&folder));
                return Err(in_store(error, &source));
            }
        };
        let index = store.layer_index(diff_id).is_none().then_some(request.index);
        store.put_layer(&meta_of(&written), StagedLayer { tar: None, tree: Some(dest), index })?;
        store.layer_tree(diff_id).ok_or_else(|| missing(diff_id))
    })
}

/// A task may have another working directory.
fn absolute(source: &Source) -> Result<Source, Error> {
    let path = std::path::absolute(&source.path).map_err(|e| io_error("find", &source.path, e))?;
    Ok(Source { path, ..source.clone() })
}

/// A corrupt blob of the store is told with its file.
fn in_store(error: Error, source: &Source) -> Error {
    match error {
        Error::Store(store::Error::Corrupt { expected, actual, path: None }) => {
            Error::Store(store::Error::Corrupt { expected, actual, path: Some(source.path.clone()) })
        }
        other => other,
    }
}
