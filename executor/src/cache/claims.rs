//! What caches say of the content of layers that nobody here has read. A content key may be made of it, and a cache asked
//! by it; nothing is recorded under such a key before the layers are here and hold what was said.

use crate::Error;
use crate::build::fetch::Fetcher;
use crate::build::record::StepOutput;
use crate::space::Space;
use oci_spec::image::Digest;
use planner::key::{CacheKey, ContentId};
use planner::plan::{Step, StepId};
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// By layer: the layer, and the identity that a cache says it has.
type OfStep = BTreeMap<String, (Digest, String)>;

/// The claims that keys of a build were made of.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    by_step: Mutex<HashMap<StepId, OfStep>>,
}

impl Claims {
    fn lock(&self) -> MutexGuard<'_, HashMap<StepId, OfStep>> {
        self.by_step.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Identity of a whole root file system: base layers by diff_id, so that nothing need be unpacked; those of steps by
    /// their content, so that a layer made again with other times is the same.
    pub(crate) fn identity(
        &self,
        space: &Space,
        fetcher: &Fetcher<'_>,
        step: &Step,
        output: &StepOutput,
    ) -> Result<ContentId, Error> {
        let mut hasher = Sha256::new();
        for layer in &output.base {
            hasher.update(format!("base {layer}\n"));
        }
        for layer in output.chain.iter().map(|link| &link.layer) {
            let known = space.store().layer(layer)?.and_then(|meta| meta.identity);
            let identity = known.or_else(|| {
                let claimed = fetcher.imports()?.claimed_identity(layer)?;
                let mut claims = self.lock();
                let of_step = claims.entry(step.id).or_default();
                of_step.insert(layer.to_string(), (layer.clone(), claimed.clone()));
                Some(claimed)
            });
            match identity {
                Some(identity) => hasher.update(format!("content {identity}\n")),
                None => hasher.update(format!("layer {layer}\n")),
            }
        }
        Ok(ContentId(hasher.finalize().into()))
    }

    /// The keys that a result may be recorded under: without the content key, which is the last one, when it was made of
    /// what nobody has seen.
    pub(crate) fn proven<'k>(
        &self,
        space: &Space,
        fetcher: &Fetcher<'_>,
        step: &Step,
        keys: &'k [CacheKey],
    ) -> Result<&'k [CacheKey], Error> {
        let claims = self.lock().get(&step.id).cloned().unwrap_or_default();
        let mut is_proven = true;
        for (layer, claimed) in claims.values() {
            let known = space.store().layer(layer)?.and_then(|meta| meta.identity);
            if known.as_ref() == Some(claimed) {
                continue;
            }
            is_proven = false;
            if let Some(imports) = fetcher.imports().filter(|_| known.is_some()) {
                imports.refuse_claims(layer);
            }
        }
        if is_proven {
            return Ok(keys);
        }
        Ok(&keys[..keys.len().min(1)])
    }
}
