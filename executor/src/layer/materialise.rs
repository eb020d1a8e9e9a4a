//! Brings layers of the store into the forms that are wanted, once each: readable by index, unpacked, written anew.
//!
//! Several threads of one process take turns per layer; several processes each do the work and the store keeps one result.

use super::Limits;
use super::decode::{Decoded, Source};
use super::incoming::{bounded, extract_options};
use super::index::io_error;
use super::owners::OwnersFrom;
use super::rewrite::rewrite;
use super::tasks::{self, CaptureRequest, Captured, ExtractRequest, SerialiseRequest};
use super::unpack::index_blob;
use super::writer::Written;
use crate::Error;
use crate::snapshot::{LayerFiles, Snapshot};
use crate::space::Space;
use oci_spec::image::{Descriptor, Digest};
use sha2::{Digest as _, Sha256};
use std::io::{BufRead as _, Write};
use std::path::{Path, PathBuf};
use store::{LayerBlob, LayerMeta, Scratch, StagedLayer, Store};

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
        return Ok(Some(Source {
            path: store.blob_path(diff_id),
            digest: None,
            diff_id: diff_id.clone(),
        }));
    }
    let blobs = store
        .layer(diff_id)?
        .map(|meta| meta.blobs)
        .unwrap_or_default();
    let found = blobs
        .into_iter()
        .map(|blob| blob.descriptor.digest().clone())
        .find(|d| store.blob_size(d).is_some());
    Ok(found.map(|digest| Source {
        path: store.blob_path(&digest),
        digest: Some(digest),
        diff_id: diff_id.clone(),
    }))
}

pub(crate) fn missing(diff_id: &Digest) -> Error {
    let reason = "neither it nor a blob of it is in the store".to_owned();
    Error::Layer {
        layer: diff_id.to_string(),
        reason,
    }
}

pub(crate) fn files(store: &Store, diff_id: &Digest) -> Option<LayerFiles> {
    let index = store.layer_index(diff_id)?;
    let tar = store.blob_size(diff_id).map(|_| store.blob_path(diff_id));
    let tree = store.layer_tree(diff_id);
    (tar.is_some() || tree.is_some()).then(|| LayerFiles {
        diff_id: diff_id.clone(),
        index,
        tree,
        tar,
    })
}

/// See [`super::register_blob`].
pub(crate) fn register_blob(
    space: &Space,
    diff_id: &Digest,
    blob: &Descriptor,
) -> Result<(), Error> {
    let plain = blob.digest() == diff_id;
    let mut meta = LayerMeta {
        diff_id: diff_id.clone(),
        identity: None,
        size: None,
        blobs: vec![LayerBlob {
            descriptor: blob.clone(),
            encoder: PULLED.to_owned(),
        }],
    };
    if plain {
        meta.size = Some(blob.size());
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
        from_sources(store, diff_id, |source| {
            let scratch = store.scratch()?;
            let tar = source.digest.is_some().then(|| scratch.path().join("tar"));
            let index = scratch.path().join("index");
            let written = index_blob(source, &limits_for(space, source), tar.as_deref(), &index)
                .map_err(|e| in_store(e, source))?;
            let staged = StagedLayer {
                tar,
                tree: None,
                index: Some(index),
            };
            Ok(store.put_layer(&meta_of(&written), staged)?)
        })?;
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
        from_sources(store, diff_id, |source| unpack(space, diff_id, source))?;
        store.layer_tree(diff_id).ok_or_else(|| missing(diff_id))
    })
}

/// Bounds for reading a blob of the store.
fn limits_for(space: &Space, source: &Source) -> Limits {
    let size = std::fs::metadata(&source.path).map_or(0, |meta| meta.len());
    bounded(space, size, true)
}

/// Unpacks one blob as the layer's tree.
fn unpack(space: &Space, diff_id: &Digest, source: &Source) -> Result<(), Error> {
    let store = space.store();
    let scratch = store.scratch()?;
    let folder = scratch.path().join("tree");
    std::fs::create_dir(&folder).map_err(|e| io_error("create", &folder, e))?;
    let (dest, index) = (folder.join("root"), scratch.path().join("index"));
    let request = ExtractRequest {
        source: absolute(source)?,
        limits: limits_for(space, source),
        dest: dest.clone(),
        options: extract_options(space)?,
        index,
    };
    let written: Result<Written, Error> = space.task(tasks::EXTRACT, &request);
    let written = match written {
        Ok(written) => written,
        Err(error) => {
            // What is half unpacked may belong to ids that only the namespace can remove.
            drop(space.remove_tree(&folder));
            return Err(in_store(error, source));
        }
    };
    let index = store
        .layer_index(diff_id)
        .is_none()
        .then_some(request.index);
    let staged = StagedLayer {
        tar: None,
        tree: Some(dest),
        index,
    };
    Ok(store.put_layer(&meta_of(&written), staged)?)
}

/// Works with the layer's blob; with the next one when it turns out to be no form of this layer. Whoever made an image
/// chose which blobs go with which diff_ids, so a wrong pair must not stand in the way of other images.
fn from_sources(
    store: &Store,
    diff_id: &Digest,
    work: impl Fn(&Source) -> Result<(), Error>,
) -> Result<(), Error> {
    loop {
        let from = source(store, diff_id)?.ok_or_else(|| missing(diff_id))?;
        match (work(&from), &from.digest) {
            (Err(error @ Error::Layer { .. }), Some(blob)) => {
                store.forget_layer_blob(diff_id, blob)?;
                if source(store, diff_id)?.is_none() {
                    return Err(error);
                }
            }
            (result, _) => return result,
        }
    }
}

/// Where the owners of what a command made are told.
pub(crate) fn owners_of(space: &Space, work: Option<&Path>) -> Result<OwnersFrom, Error> {
    if !space.has_single_id()? {
        return Ok(OwnersFrom::Disk);
    }
    if !space.sandbox()?.records_owners() {
        return Ok(OwnersFrom::Nothing);
    }
    let work = work.map(std::path::absolute).transpose();
    let work = work.map_err(|e| io_error("find the work folder of", Path::new(""), e))?;
    Ok(OwnersFrom::Records { work })
}

/// See [`super::capture`].
pub(crate) fn capture(
    space: &Space,
    upper: &Path,
    work: Option<&Path>,
    below: &Snapshot,
) -> Result<Captured, Error> {
    let below = below
        .layers
        .iter()
        .map(|layer| absolute_files(readable(space, layer)?));
    let below = below.collect::<Result<Vec<_>, Error>>()?;
    let captured = capture_over(space, upper, work, below)?;
    for note in &captured.notes {
        tracing::warn!("{note}");
    }
    Ok(captured)
}

/// [`capture`] over layers of which the indexes are at hand, in absolute paths; and what was left out.
pub(crate) fn capture_over(
    space: &Space,
    upper: &Path,
    work: Option<&Path>,
    below: Vec<LayerFiles>,
) -> Result<Captured, Error> {
    let store = space.store();
    let scratch = store.scratch()?;
    let folder = scratch.path().join("tree");
    std::fs::create_dir(&folder).map_err(|e| io_error("create", &folder, e))?;
    let upper = std::path::absolute(upper).map_err(|e| io_error("find", upper, e))?;
    let (dest, index) = (folder.join("root"), scratch.path().join("index"));
    let request = CaptureRequest {
        upper,
        below,
        owners: owners_of(space, work)?,
        index,
        dest: dest.clone(),
    };
    let captured: Captured = space.task(tasks::CAPTURE, &request)?;
    let written = &captured.written;
    // Early cutoff: the same content was a layer before, with other times at most.
    if let Some(known) = store
        .layer_by_identity(&written.identity)?
        .filter(|known| *known != written.diff_id)
        && super::is_readable(store, &known)?
    {
        space
            .remove_tree(&folder)
            .map_err(|e| io_error("remove", &folder, e))?;
        let size = store
            .layer(&known)?
            .and_then(|meta| meta.size)
            .unwrap_or(written.size);
        let written = Written {
            diff_id: known,
            size,
            ..captured.written
        };
        return Ok(Captured {
            written,
            ..captured
        });
    }
    let staged = StagedLayer {
        tar: None,
        tree: Some(dest),
        index: Some(request.index),
    };
    store.put_layer(&meta_of(written), staged)?;
    Ok(captured)
}

/// See [`super::content`].
pub(crate) fn content(space: &Space, diff_id: &Digest) -> Result<LayerFiles, Error> {
    let files = readable(space, diff_id)?;
    if files.tar.is_some() || space.is_root() {
        return Ok(files);
    }
    plain(space, diff_id)?;
    readable(space, diff_id)
}

fn copy_tar(
    source: &Source,
    space: &Space,
    sink: &mut impl Write,
    failed: &dyn Fn(std::io::Error) -> Error,
) -> Result<(), Error> {
    let mut tar = Decoded::open(source, space.limits().tar, None)?;
    loop {
        let read = match tar.fill_buf() {
            Ok([]) => break,
            Ok(bytes) => {
                sink.write_all(bytes).map_err(failed)?;
                bytes.len()
            }
            Err(error) => return Err(in_store(tar.error(error), source)),
        };
        tar.consume(read);
    }
    tar.finish().map(drop).map_err(|e| in_store(e, source))
}

fn same_again(store: &Store, diff_id: &Digest, written: &Written) -> Result<(), Error> {
    if written.diff_id == *diff_id {
        return Ok(());
    }
    let reason = format!(
        "its unpacked tree has changed in the store, or its blob is gone: it gives {} now; remove {} and build again",
        written.diff_id,
        store.layer_path(diff_id).display()
    );
    Err(Error::Layer {
        layer: diff_id.to_string(),
        reason,
    })
}

/// Makes sure that the plain tar is in the store; its size.
pub(crate) fn plain(space: &Space, diff_id: &Digest) -> Result<u64, Error> {
    let store = space.store();
    if let Some(size) = store.blob_size(diff_id) {
        return Ok(size);
    }
    space.in_turn(format!("plain {diff_id}"), || {
        if let Some(size) = store.blob_size(diff_id) {
            return Ok(size);
        }
        let (scratch, tar, written) = match source(store, diff_id)? {
            Some(source) => {
                let scratch = store.scratch()?;
                let (tar, index) = (scratch.path().join("tar"), scratch.path().join("index"));
                let written = index_blob(&source, &space.limits(), Some(&tar), &index);
                (scratch, tar, written.map_err(|e| in_store(e, &source))?)
            }
            None => serialised(space, diff_id, None)?,
        };
        same_again(store, diff_id, &written)?;
        let index = store
            .layer_index(diff_id)
            .is_none()
            .then(|| scratch.path().join("index"));
        store.put_layer(
            &meta_of(&written),
            StagedLayer {
                tar: Some(tar),
                tree: None,
                index,
            },
        )?;
        store.blob_size(diff_id).ok_or_else(|| missing(diff_id))
    })
}

/// See [`super::write_plain`].
pub(crate) fn write_plain(
    space: &Space,
    diff_id: &Digest,
    mut out: &mut dyn Write,
) -> Result<(), Error> {
    let store = space.store();
    let failed = |e| io_error("write layer", Path::new(diff_id.as_ref()), e);
    if let Some(source) = source(store, diff_id)? {
        return copy_tar(&source, space, &mut out, &failed);
    }
    if space.is_root() {
        let files = files(store, diff_id).ok_or_else(|| missing(diff_id))?;
        let (written, _) = rewrite(&files, None, out)?;
        return same_again(store, diff_id, &written);
    }
    let (_scratch, tar, _) = serialised(space, diff_id, None)?;
    let source = Source {
        path: tar,
        digest: None,
        diff_id: diff_id.clone(),
    };
    copy_tar(&source, space, &mut out, &failed)
}

/// Writes an unpacked layer's tar (and index) to a scratch folder.
fn serialised(
    space: &Space,
    diff_id: &Digest,
    epoch: Option<i64>,
) -> Result<(Scratch, PathBuf, Written), Error> {
    let scratch = space.store().scratch()?;
    let (tar, index) = (scratch.path().join("tar"), scratch.path().join("index"));
    let files = absolute_files(readable(space, diff_id)?)?;
    let from_tree = files.tar.is_none();
    let request = SerialiseRequest {
        files,
        epoch,
        tar: tar.clone(),
        index,
    };
    let written = if from_tree {
        space.task(tasks::SERIALISE, &request)?
    } else {
        tasks::serialise(request)?
    };
    Ok((scratch, tar, written))
}

/// See [`super::clamp_times`].
pub(crate) fn clamp_times(space: &Space, diff_id: &Digest, epoch: i64) -> Result<Digest, Error> {
    let store = space.store();
    let key: [u8; 32] =
        Sha256::digest(format!("kiln clamped times 1\n{diff_id}\n{epoch}\n")).into();
    if let Some(known) = store
        .record(&key)?
        .and_then(|known| Digest::try_from(String::from_utf8(known).ok()?).ok())
        && super::is_readable(store, &known)?
    {
        return Ok(known);
    }
    let files = readable(space, diff_id)?;
    let index = super::index::Index::load(&files.index)?;
    let changes = index.nodes().any(|node| node.mtime > epoch);
    let clamped = if changes {
        let (scratch, tar, written) = serialised(space, diff_id, Some(epoch))?;
        let index = Some(scratch.path().join("index"));
        store.put_layer(
            &meta_of(&written),
            StagedLayer {
                tar: Some(tar),
                tree: None,
                index,
            },
        )?;
        written.diff_id
    } else {
        diff_id.clone()
    };
    store.put_record(
        &key,
        clamped.as_ref().as_bytes(),
        &[diff_id.clone(), clamped.clone()],
    )?;
    Ok(clamped)
}

fn absolute_files(files: LayerFiles) -> Result<LayerFiles, Error> {
    let absolute =
        |path: PathBuf| std::path::absolute(&path).map_err(|e| io_error("find", &path, e));
    Ok(LayerFiles {
        diff_id: files.diff_id,
        index: absolute(files.index)?,
        tree: files.tree.map(absolute).transpose()?,
        tar: files.tar.map(absolute).transpose()?,
    })
}

/// A task may have another working directory.
fn absolute(source: &Source) -> Result<Source, Error> {
    let path = std::path::absolute(&source.path).map_err(|e| io_error("find", &source.path, e))?;
    Ok(Source {
        path,
        ..source.clone()
    })
}

/// A corrupt blob of the store is told with its file.
fn in_store(error: Error, source: &Source) -> Error {
    match error {
        Error::Store(store::Error::Corrupt {
            expected,
            actual,
            path: None,
        }) => Error::Store(store::Error::Corrupt {
            expected,
            actual,
            path: Some(source.path.clone()),
        }),
        // A plain tar is its own proof.
        Error::Layer { layer, reason } if source.digest.is_none() => Error::Layer {
            layer,
            reason: format!("{reason} (it was read from {})", source.path.display()),
        },
        other => other,
    }
}
