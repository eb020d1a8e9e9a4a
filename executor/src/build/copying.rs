//! Carries COPY and ADD out: what they read is made ready, and a `COPY --link` layer is known by a key of its own.
//!
//! It writes no layers itself: that is [`crate::copy`]'s.

use crate::Error;
use crate::build::backend::{Executor, Work, open_up};
use crate::build::contexts::Opened;

use crate::build::record::{self, Link, OtherKeys, StepOutput};
use crate::copy::{self, CopySourceTree};
use crate::layer::Form;
use oci_spec::image::Digest;
use planner::key::{self, CacheKey};
use planner::plan::{CopyFrom, CopyOp, CopySource, Op, Step};
use planner::scheduler::Backend as _;
use std::collections::BTreeSet;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

impl Executor<'_> {
    /// Makes the layer of a COPY, or finds the one it made over another base.
    pub(super) fn copy(&self, step: &Step, op: &CopyOp, work: &Work<'_>) -> Result<Digest, Error> {
        let layer_key = self.link_key(step, work)?;
        if let Some(found) = self.link_hit(step, layer_key.as_ref())? {
            return Ok(found);
        }
        let base = work.base(op.base);
        // A linked layer does not depend on what it lies over, apart from the names of users.
        if !op.link || op.chown.is_some() {
            self.ensure_as(Form::Readable, &base.layers, step.id, work)?;
        }
        let context;
        let from;
        let source = match &op.from {
            CopyFrom::Context(_) if !reads_paths(op) => CopySourceTree::Empty,
            CopyFrom::Context(name) => {
                context = self.contexts.get(name)?;
                context
                    .as_deref()
                    .map_or(CopySourceTree::Empty, Opened::copy_source)
            }
            CopyFrom::Input(index) => {
                from = work.base(Some(*index));
                self.ensure_as(Form::Readable, &from.layers, step.id, work)?;
                open_up(self.space, &from)?;
                CopySourceTree::Snapshot(&from)
            }
            CopyFrom::Scratch => CopySourceTree::Empty,
        };
        let mut inputs = Vec::new();
        for input in own_inputs(op) {
            let snapshot = work.base(Some(input));
            self.ensure_as(Form::Readable, &snapshot.layers, step.id, work)?;
            inputs.push((input, snapshot));
        }
        let source = if inputs.is_empty() {
            source
        } else {
            CopySourceTree::Mixed(&source, &inputs)
        };
        let again = !(step.no_cache || self.verifying.load(Ordering::SeqCst));
        // The list is of what is read from the context alone.
        let is_listed = inputs.is_empty() && matches!(op.from, CopyFrom::Context(_));
        let reads = self.reads_of(step.id).filter(|_| is_listed);
        let listed = reads.as_deref().map(copy::Listed::new);
        let written = copy::copy_listed(self.space, op, &base, source, again, listed)?;
        let layer = self.known(written)?;
        if let Some(key) = layer_key.filter(|_| !self.verifying.load(Ordering::SeqCst)) {
            let output = StepOutput::default().with(Link {
                layer: layer.clone(),
                created: self.request.now,
            });
            let payload = record::encode(&output, &[], None, &OtherKeys::default());
            self.space
                .store()
                .put_record(&key.0, &payload, &output.snapshot().layers)?;
        }
        Ok(layer)
    }

    /// The key of a `COPY --link` layer, which stays what it is when the base changes.
    fn link_key(&self, step: &Step, work: &Work<'_>) -> Result<Option<CacheKey>, Error> {
        if !matches!(&step.op, Op::Copy(copy) if copy.link) {
            return Ok(None);
        }
        let mut identities = Vec::with_capacity(work.inputs.len());
        for (index, input) in work.inputs.iter().enumerate() {
            identities.push(self.input_identity(step, index, input)?);
        }
        let source = self.source_of(step.id);
        let key = key::layer_key(step, &identities, source.as_ref());
        if let Some(key) = key {
            let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
            links.insert(step.id, key);
        }
        Ok(key)
    }

    fn link_hit(&self, step: &Step, key: Option<&CacheKey>) -> Result<Option<Digest>, Error> {
        let Some(key) = key.filter(|_| !step.no_cache) else {
            return Ok(None);
        };
        let own = self.space.store().record(&key.0)?;
        let own = own.and_then(|payload| record::decode(&payload));
        if let Some(output) = own.filter(|output| !output.chain.is_empty())
            && self.is_usable(&output)?
        {
            return Ok(output.chain.into_iter().next_back().map(|link| link.layer));
        }
        let imports = self.fetcher.imports();
        for link in imports
            .map(|imports| imports.links(key))
            .unwrap_or_default()
        {
            if self.fetcher.can_have(&link.layer)? {
                return Ok(Some(link.layer));
            }
        }
        self.shared_link(step, key)
    }
}

/// Inputs that sources have of their own, each once.
pub(super) fn own_inputs(op: &CopyOp) -> BTreeSet<usize> {
    op.sources
        .iter()
        .filter_map(|source| match source {
            CopySource::Input { input, .. } => Some(*input),
            _ => None,
        })
        .collect()
}

/// Whether a COPY reads files, rather than heredocs alone.
pub(super) fn reads_paths(op: &CopyOp) -> bool {
    op.sources
        .iter()
        .any(|source| matches!(source, CopySource::Path(_)))
}
