//! What a build knows of one cache: its records, where its blobs are, and what of it is of no use.

use super::memories::Memories;
use super::read::Cached;
use super::records::{CachedLayer, Records};
use crate::build::fetch::Origin;
use oci_spec::image::Digest;
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard};

/// One cache.
#[derive(Debug)]
pub(crate) struct Known {
    /// As messages call it.
    pub(crate) name: String,
    /// Where its blobs are.
    pub(crate) origin: Origin,
    /// What it remembers of builds.
    pub(crate) memories: Memories,
    records: RwLock<Records>,
    is_refused: AtomicBool,
    refused_layers: Mutex<HashSet<Digest>>,
}

impl Known {
    pub(crate) fn new(name: String, origin: Origin, cached: impl Into<Cached>) -> Self {
        let Cached { records, memories } = cached.into();
        Self {
            name,
            origin,
            memories,
            records: RwLock::new(records),
            is_refused: AtomicBool::new(false),
            refused_layers: Mutex::default(),
        }
    }

    /// Whether it has not been refused.
    pub(crate) fn is_in_use(&self) -> bool {
        !self.is_refused.load(Ordering::SeqCst)
    }

    /// Takes all trust from it; whether it had any.
    pub(crate) fn refuse(&self) -> bool {
        !self.is_refused.swap(true, Ordering::SeqCst)
    }

    /// It does not have this layer, whatever it says.
    pub(crate) fn refuse_layer(&self, diff_id: &Digest) {
        let refused = &self.refused_layers;
        let mut refused = refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.insert(diff_id.clone());
    }

    /// It has this layer now.
    pub(crate) fn trust_layer(&self, diff_id: &Digest) {
        let refused = &self.refused_layers;
        let mut refused = refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.remove(diff_id);
    }

    /// Whether it turned out not to have a layer.
    pub(crate) fn lacks(&self, diff_id: &Digest) -> bool {
        let refused = &self.refused_layers;
        let refused = refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.contains(diff_id)
    }

    /// What it says.
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Records> {
        self.records.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what is known of it.
    pub(crate) fn learn<T>(&self, change: impl FnOnce(&mut Records) -> T) -> T {
        let mut records = self.records.write().unwrap_or_else(PoisonError::into_inner);
        change(&mut records)
    }

    /// A layer that it says it has, unless it turned out not to.
    pub(crate) fn layer(&self, diff_id: &Digest) -> Option<CachedLayer> {
        let layer = self.read().layer(diff_id).cloned()?;
        (!self.lacks(diff_id)).then_some(layer)
    }
}
