//! Forms in which layers go out: plain, compressed, with a table of contents. Each is made once and remembered, also after
//! its bytes have gone; while one is made it can be read by who sends it.
//!
//! A form that a tool remembers by (diff_id, encoder, level, library version) is the same bytes whenever it is made again.

use super::Compression;
use super::compress::{BlockCompressor, encoder};
use super::estargz::{self, EstargzWriter};
use super::index::{Index, io_error};
use super::materialise::{PULLED, missing, plain, readable, write_plain};
use super::outgoing::{Outgoing, Watched};
use crate::Error;
use crate::space::Space;
use oci_spec::image::{Descriptor, Digest, MediaType};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::path::Path;
use store::{LayerBlob, LayerMeta, StagedLayer, Store};

/// A layer as it goes out.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Packed {
    /// Digest of what the blob decompresses to.
    pub(crate) diff_id: Digest,
    /// Media type (OCI's), digest, size, annotations.
    pub(crate) descriptor: Descriptor,
}

/// See [`super::blob`].
pub(crate) fn blob(
    space: &Space,
    diff_id: &Digest,
    compression: Compression,
    force: bool,
) -> Result<Descriptor, Error> {
    Ok(packed(space, diff_id, compression, force)?.descriptor)
}

/// A form whose blob is in the store; it is made if need be.
pub(crate) fn packed(
    space: &Space,
    diff_id: &Digest,
    compression: Compression,
    force: bool,
) -> Result<Packed, Error> {
    if let Some(found) = present(space, diff_id, compression, force)? {
        return Ok(found);
    }
    make(space, diff_id, compression, &Outgoing::default(), &|| false)
}

fn present(
    space: &Space,
    diff_id: &Digest,
    compression: Compression,
    force: bool,
) -> Result<Option<Packed>, Error> {
    let found = known(space, diff_id, compression, force)?;
    let is_here = |form: &Packed| space.store().blob_size(form.descriptor.digest()).is_some();
    Ok(found.filter(is_here))
}

/// What is known of a form, whether its bytes are here or not; those that are here first.
pub(crate) fn known(
    space: &Space,
    diff_id: &Digest,
    compression: Compression,
    force: bool,
) -> Result<Option<Packed>, Error> {
    let store = space.store();
    let meta = store.layer(diff_id)?;
    let plain_form = |descriptor| Packed {
        diff_id: diff_id.clone(),
        descriptor,
    };
    let (Some(encoder), Some(media_type)) = (encoder(compression), media_type(compression)) else {
        let size = store
            .blob_size(diff_id)
            .or_else(|| meta.and_then(|meta| meta.size));
        return Ok(size.map(|size| {
            plain_form(Descriptor::new(
                MediaType::ImageLayer,
                size,
                diff_id.clone(),
            ))
        }));
    };
    if matches!(compression, Compression::Estargz(_)) {
        return remembered(store, diff_id, &encoder);
    }
    let family = if matches!(compression, Compression::Gzip(_) | Compression::AutoGzip) {
        "gzip"
    } else {
        "zstd"
    };
    let fits = |blob: &&LayerBlob| {
        // What others have compressed cannot be made again once it is gone, and what they call compressed may be plain.
        let pulled = blob.encoder == PULLED
            && blob.descriptor.digest() != diff_id
            && blob.descriptor.media_type().to_string().ends_with(family)
            && store.blob_size(blob.descriptor.digest()).is_some();
        blob.encoder == encoder || (pulled && !force)
    };
    let blobs = meta.map(|meta| meta.blobs).unwrap_or_default();
    let mut fitting: Vec<&LayerBlob> = blobs.iter().filter(fits).collect();
    fitting.sort_by_key(|blob| store.blob_size(blob.descriptor.digest()).is_some());
    Ok(fitting.last().map(|blob| {
        let found = &blob.descriptor;
        plain_form(Descriptor::new(
            media_type,
            found.size(),
            found.digest().clone(),
        ))
    }))
}

/// Makes a form; `outgoing` can be read meanwhile. Two that make the same take turns, and the second finds it.
pub(crate) fn make(
    space: &Space,
    diff_id: &Digest,
    compression: Compression,
    outgoing: &Outgoing,
    is_cancelled: &(dyn Fn() -> bool + Sync),
) -> Result<Packed, Error> {
    let made = make_in_turn(space, diff_id, compression, (outgoing, is_cancelled));
    match &made {
        Ok(form) => {
            // Found and not made: nobody has begun to read.
            if !outgoing.has_begun() {
                outgoing.begin(open(space.store(), form)?);
            }
            outgoing.complete(form);
        }
        Err(error) => outgoing.fail(&crate::error::chain(error)),
    }
    made
}

fn open(store: &Store, form: &Packed) -> Result<std::fs::File, Error> {
    let path = store.blob_path(form.descriptor.digest());
    std::fs::File::open(&path).map_err(|e| io_error("open", &path, e))
}

fn make_in_turn(
    space: &Space,
    diff_id: &Digest,
    compression: Compression,
    (outgoing, is_cancelled): (&Outgoing, &(dyn Fn() -> bool + Sync)),
) -> Result<Packed, Error> {
    let Some(encoder) = encoder(compression) else {
        let size = plain(space, diff_id)?;
        return Ok(Packed {
            diff_id: diff_id.clone(),
            descriptor: Descriptor::new(MediaType::ImageLayer, size, diff_id.clone()),
        });
    };
    space.in_turn(format!("blob {diff_id} {encoder}"), || {
        if let Some(found) = present(space, diff_id, compression, true)? {
            return Ok(found);
        }
        let store = space.store();
        let out = Watched::new(store.blob_writer()?, outgoing, is_cancelled)?;
        let form = compress(space, diff_id, compression, out)?;
        remember(store, diff_id, &encoder, &form)?;
        Ok(form)
    })
}

fn compress(
    space: &Space,
    diff_id: &Digest,
    compression: Compression,
    out: Watched<'_>,
) -> Result<Packed, Error> {
    let failed = |e| io_error("write the blob of layer", Path::new(diff_id.as_ref()), e);
    let mut sink = BlockCompressor::new(out, compression, None).map_err(failed)?;
    let media_type = media_type(compression).ok_or_else(|| missing(diff_id))?;
    let Compression::Estargz(level) = compression else {
        write_plain(space, diff_id, &mut sink)?;
        let (digest, size) = sink.finish().map_err(failed)?.commit()?;
        return Ok(Packed {
            diff_id: diff_id.clone(),
            descriptor: Descriptor::new(media_type, size, digest),
        });
    };
    let refused = |error: std::io::Error| Error::Layer {
        layer: diff_id.to_string(),
        reason: error.to_string(),
    };
    let files = readable(space, diff_id)?;
    let index = Index::load(&files.index)?;
    let mut writer = EstargzWriter::new(sink, &index, level).map_err(refused)?;
    write_plain(space, diff_id, &mut writer)?;
    let (out, finished) = writer.finish().map_err(failed)?;
    let (digest, size) = out.commit()?;
    let mut descriptor = Descriptor::new(media_type, size, digest);
    descriptor.set_annotations(Some(HashMap::from([
        (estargz::TOC_DIGEST.to_owned(), finished.toc.to_string()),
        (
            estargz::UNCOMPRESSED_SIZE.to_owned(),
            finished.size.to_string(),
        ),
    ])));
    Ok(Packed {
        diff_id: finished.diff_id,
        descriptor,
    })
}

fn remember(store: &Store, diff_id: &Digest, encoder: &str, form: &Packed) -> Result<(), Error> {
    let descriptor = &form.descriptor;
    let blob = LayerBlob {
        descriptor: Descriptor::new(
            descriptor.media_type().clone(),
            descriptor.size(),
            descriptor.digest().clone(),
        ),
        encoder: encoder.to_owned(),
    };
    let meta = LayerMeta {
        diff_id: form.diff_id.clone(),
        identity: None,
        size: None,
        blobs: vec![blob],
    };
    store.put_layer(&meta, StagedLayer::default())?;
    if form.diff_id == *diff_id {
        return Ok(());
    }
    let payload = serde_json::to_vec(form).expect("BUG: a form has string keys only");
    let kept = [diff_id.clone(), form.diff_id.clone()];
    // The new layer is in this form already.
    store.put_record(&key(&form.diff_id, encoder), &payload, &kept)?;
    Ok(store.put_record(&key(diff_id, encoder), &payload, &kept)?)
}

/// The form of a layer that became another layer by it.
fn remembered(store: &Store, diff_id: &Digest, encoder: &str) -> Result<Option<Packed>, Error> {
    let record = store.record(&key(diff_id, encoder))?;
    Ok(record.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
}

fn key(diff_id: &Digest, encoder: &str) -> [u8; 32] {
    Sha256::digest(format!("kiln packed 1\n{diff_id}\n{encoder}\n")).into()
}

fn media_type(compression: Compression) -> Option<MediaType> {
    match compression {
        Compression::Uncompressed => None,
        Compression::AutoGzip | Compression::Gzip(_) | Compression::Estargz(_) => {
            Some(MediaType::ImageLayerGzip)
        }
        Compression::Zstd(_) => Some(MediaType::ImageLayerZstd),
    }
}
