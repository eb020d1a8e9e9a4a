//! Layers that are unpacked while their blobs are still on their way. The blob's own digest is the concern of whoever
//! brings it; that the right tar comes out of it is checked here.

use super::Limits;
use super::decode::{Decoded, Input, Source};
use super::extract::ExtractOptions;
use super::growing::Growing;
use super::index::io_error;
use super::materialise::{PULLED, meta_of};
use super::tasks::{self, ExtractRequest};
use super::unpack::index_input;
use super::writer::Written;
use crate::Error;
use crate::space::Space;
use oci_spec::image::{Descriptor, Digest};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;
use store::{LayerBlob, LayerMeta, Scratch, StagedLayer, Store};

/// No honest gzip stream grows more than this (its format's limit is 1032).
const GROWTH: u64 = 1100;
/// What any blob may grow to, however small it is.
const SMALL: u64 = 8 << 30;
/// Bytes of the disk that unpacking one layer leaves to others.
const RESERVE: u64 = 64 << 20;

/// What a layer is wanted as.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Form {
    /// The blob as the registry has it; it is read through all the same, to see that it holds this layer.
    Blob,
    /// The tar and its index, from which files can be read.
    Readable,
    /// A folder that can be mounted, and the index.
    Tree,
}

/// A blob on its way.
#[derive(Debug)]
pub(crate) struct Incoming<'a> {
    /// The layer it should be.
    pub diff_id: &'a Digest,
    /// The blob's descriptor.
    pub blob: &'a Descriptor,
    /// The growing file, and the reader's end of the [`super::announcer`].
    pub descriptors: (OwnedFd, OwnedFd),
}

/// A layer unpacked aside; nothing of it is visible before [`Unpacked::put`].
#[derive(Debug)]
pub(crate) struct Unpacked {
    meta: LayerMeta,
    staged: StagedLayer,
    _scratch: Option<Scratch>,
}

impl Incoming<'_> {
    /// Unpacks it; comes back when the blob is whole, or broken off.
    pub(crate) fn unpack(self, space: &Space, form: Form) -> Result<Unpacked, Error> {
        if form == Form::Blob {
            let (file, news) = self.descriptors;
            let input = Input::Growing(Growing::new(file, news));
            return verified(space, input, self.diff_id, self.blob);
        }
        let scratch = space.store().scratch()?;
        let path =
            std::path::absolute(scratch.path()).map_err(|e| io_error("find", scratch.path(), e))?;
        let source = Source {
            path: path.join("blob"),
            digest: None,
            diff_id: self.diff_id.clone(),
        };
        let index = path.join("index");
        let limits = bounded(space, self.blob.size(), true);
        if form == Form::Tree {
            let folder = path.join("tree");
            std::fs::create_dir(&folder).map_err(|e| io_error("create", &folder, e))?;
            let request = ExtractRequest {
                source,
                limits,
                dest: folder.join("root"),
                options: extract_options(space)?,
                index,
            };
            let (file, news) = self.descriptors;
            let written: Result<Written, Error> =
                space.task_with(tasks::EXTRACT, &request, vec![file, news]);
            let written = written.inspect_err(|_| {
                // What is half unpacked may belong to ids that only the namespace can remove.
                drop(space.remove_tree(&folder));
            })?;
            let staged = StagedLayer {
                tar: None,
                tree: Some(request.dest),
                index: Some(request.index),
            };
            return Ok(Unpacked {
                meta: meta_of(&written),
                staged,
                _scratch: Some(scratch),
            });
        }
        let is_tar = self.blob.digest() == self.diff_id;
        let tar = (!is_tar).then(|| path.join("tar"));
        let input = Input::Growing(Growing::new(self.descriptors.0, self.descriptors.1));
        let written = index_input(input, &source, &limits, tar.as_deref(), &index)?;
        let staged = StagedLayer {
            tar,
            tree: None,
            index: Some(index),
        };
        Ok(Unpacked {
            meta: meta_of(&written),
            staged,
            _scratch: Some(scratch),
        })
    }
}

impl Unpacked {
    /// Makes it visible in the store, beside its blob, which is there already.
    pub(crate) fn put(self, store: &Store, blob: &Descriptor) -> Result<(), Error> {
        let mut meta = self.meta;
        meta.blobs.push(LayerBlob {
            descriptor: blob.clone(),
            encoder: PULLED.to_owned(),
        });
        Ok(store.put_layer(&meta, self.staged)?)
    }
}

/// Reads a blob of the store through and files it as a form of this layer, which it turns out to be.
pub(crate) fn adopt(space: &Space, diff_id: &Digest, blob: &Descriptor) -> Result<(), Error> {
    let store = space.store();
    let known = store.layer(diff_id)?.is_some_and(|meta| {
        let mut blobs = meta.blobs.iter();
        blobs.any(|known| known.descriptor.digest() == blob.digest())
    });
    if known || blob.digest() == diff_id {
        return super::register_blob(space, diff_id, blob);
    }
    let path = store.blob_path(blob.digest());
    let file = File::open(&path).map_err(|e| io_error("open", &path, e))?;
    verified(space, Input::File(file), diff_id, blob)?.put(store, blob)
}

fn verified(
    space: &Space,
    input: Input,
    diff_id: &Digest,
    blob: &Descriptor,
) -> Result<Unpacked, Error> {
    let source = Source {
        path: space.store().blob_path(blob.digest()),
        digest: None,
        diff_id: diff_id.clone(),
    };
    let limits = bounded(space, blob.size(), false);
    let tar = Decoded::over(input, &source, limits.tar, None)?.finish()?;
    Ok(Unpacked {
        meta: LayerMeta {
            diff_id: diff_id.clone(),
            identity: None,
            size: Some(tar.size),
            blobs: Vec::new(),
        },
        staged: StagedLayer::default(),
        _scratch: None,
    })
}

/// How far unpacking may go here.
pub(crate) fn extract_options(space: &Space) -> Result<ExtractOptions, Error> {
    Ok(ExtractOptions {
        devices: space.is_root(),
        owners: !space.has_single_id()?,
    })
}

/// Bounds for one blob: what unpacks to a thousand times its size, or to more than there is room for, is a bomb or
/// cannot be used, and is not followed until the disk is full.
pub(crate) fn bounded(space: &Space, blob: u64, writes: bool) -> Limits {
    let limits = space.limits();
    let free = free_space(space.store().root()).filter(|_| writes);
    let tar = limits.tar.min(most(blob, free));
    Limits { tar, ..limits }
}

fn most(blob: u64, free: Option<u64>) -> u64 {
    let grown = SMALL.max(blob.saturating_mul(GROWTH));
    match free {
        Some(free) => grown.min(free.saturating_sub(RESERVE).max(RESERVE)),
        None => grown,
    }
}

fn free_space(folder: &Path) -> Option<u64> {
    let found = rustix::fs::statvfs(folder).ok()?;
    Some(found.f_bavail.saturating_mul(found.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bombs_are_bounded_and_honest_layers_are_not() {
        const GIB: u64 = 1 << 30;
        assert_eq!(most(1000, None), 8 * GIB);
        assert!(most(100 << 20, None) >= 100 * GIB);
        assert_eq!(most(u64::MAX, None), u64::MAX);
        assert_eq!(most(1000, Some(GIB)), GIB - RESERVE);
        assert_eq!(most(1000, Some(0)), RESERVE, "a small layer may still fit");
    }
}
