//! The layer that the same copy made before: what did not change since is taken out of its tar, in place of opening every
//! file once more. It saves time and decides nothing: paths, attributes and digests are those of the selection, and content
//! that is not what its digest says (the tar is a file like others) is not taken.
//!
//! Which layer that was is a plain record, one for each context and copy; it keeps no layer from being pruned.

use super::target::{Change, Data};
use crate::Error;
use crate::context::Context;
use crate::layer::index::{Index, Node, What};
use crate::layer::{self, compare};
use crate::space::Space;
use crate::tree::{FileDigest, Kind};
use oci_spec::image::Digest;
use planner::plan::CopyOp;
use sha2::{Digest as _, Sha256};
use std::cmp::Ordering;
use std::fs::File;
use std::iter::Peekable;
use std::os::unix::fs::FileExt as _;
use store::Store;

/// The record of what a copy made.
#[derive(Debug)]
pub(super) struct Memory {
    key: [u8; 32],
}

impl Memory {
    /// Of a copy out of a context.
    pub(super) fn of(op: &CopyOp, context: &Context) -> Self {
        let op = serde_json::to_vec(op).expect("BUG: a copy has string keys only");
        let dir = context.dir().as_os_str().as_encoded_bytes();
        let mut hasher = Sha256::new();
        hasher.update("kiln earlier copy 1\n");
        hasher.update((dir.len() as u64).to_le_bytes());
        hasher.update(dir);
        hasher.update(&op);
        Self {
            key: hasher.finalize().into(),
        }
    }

    /// The layer, if all of it is at hand.
    pub(super) fn layer(&self, space: &Space) -> Option<Earlier> {
        let payload = space.store().record(&self.key).ok()??;
        let layer = Digest::try_from(String::from_utf8(payload).ok()?).ok()?;
        Earlier::open(space.store(), &layer)
    }

    /// Notes the layer for the next time.
    ///
    /// # Errors
    /// A failed write.
    pub(super) fn keep(&self, store: &Store, layer: &Digest) -> Result<(), Error> {
        let payload = layer.to_string();
        if store.record(&self.key)?.as_deref() == Some(payload.as_bytes()) {
            return Ok(());
        }
        Ok(store.put_record(&self.key, payload.as_bytes(), &[])?)
    }
}

/// A layer whose contents can be read.
#[derive(Debug)]
pub(super) struct Earlier {
    index: Index,
    tar: File,
}

impl Earlier {
    fn open(store: &Store, layer: &Digest) -> Option<Self> {
        let files = layer::at_hand(store, layer)?;
        Some(Self {
            tar: File::open(files.tar?).ok()?,
            index: Index::load(&files.index).ok()?,
        })
    }

    /// Reads along with changes in canonical order.
    pub(super) fn reader(&self) -> Reader<'_, impl Iterator<Item = Node<'_>>> {
        Reader {
            nodes: self.index.nodes().peekable(),
            tar: &self.tar,
        }
    }
}

/// See [`Earlier::reader`].
pub(super) struct Reader<'e, I: Iterator<Item = Node<'e>>> {
    nodes: Peekable<I>,
    tar: &'e File,
}

impl<'e, I: Iterator<Item = Node<'e>>> Reader<'e, I> {
    /// The content of a changed file, with its digest, if the layer has just that at the same path.
    pub(super) fn content(&mut self, change: &Change) -> Option<(Vec<u8>, FileDigest)> {
        let Kind::File {
            size,
            digest: Some(wanted),
        } = change.entry.kind
        else {
            return None;
        };
        if !matches!(change.data, Data::Source(_)) {
            return None;
        }
        let path = change.entry.path.as_slice();
        while self
            .nodes
            .next_if(|node| compare(node.path, path) == Ordering::Less)
            .is_some()
        {}
        let node = self.nodes.next_if(|node| node.path == path)?;
        let What::File {
            size: length,
            offset,
            digest,
        } = node.what
        else {
            return None;
        };
        if digest != wanted || length != size {
            return None;
        }
        let mut bytes = vec![0; usize::try_from(size).ok()?];
        self.tar.read_exact_at(&mut bytes, offset).ok()?;
        (*blake3::hash(&bytes).as_bytes() == wanted).then_some((bytes, wanted))
    }
}
