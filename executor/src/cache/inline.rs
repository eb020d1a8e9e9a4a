//! Inline caches: records of the steps whose layers are in an image, in a field of its config that other readers pass
//! over. Its layers are the image's own.

use super::export::{Site, recorded};
use super::read::inline_text;
use super::records::{CachedLayer, Records};
use crate::Error;
use crate::build::manifest::{Desc, OCI_LAYER};
use crate::build::record::base_of;
use crate::request::CacheTarget;
use oci_spec::image::Digest;
use planner::key::CacheKey;
use planner::plan::Target;
use std::collections::HashMap;

/// The text of the field for a target's image. `replaced` gives the layers that stand in for others in the image;
/// `epoch` is the latest time that is in it.
pub(crate) fn inline(
    site: Site<'_>,
    keys: &[CacheKey],
    target: &Target,
    replaced: &HashMap<Digest, Digest>,
    epoch: Option<i64>,
) -> Result<Option<String>, Error> {
    let exports = &site.request.cache_to;
    let is_wanted = exports
        .iter()
        .any(|export| export.target == CacheTarget::Inline);
    // The one layer of a squashed image is no step's.
    if !is_wanted || site.request.squash {
        return Ok(None);
    }
    let mut records = Records::default();
    let mut next = target.rootfs;
    while let Some(id) = next {
        let step = &site.plan.steps[id.0 as usize];
        next = base_of(&step.op).map(|input| step.inputs[input]);
        let key = keys[id.0 as usize];
        let Some(mut found) = recorded(site, &key)? else {
            continue;
        };
        for link in &mut found.output.chain {
            let identity = site.space.store().layer(&link.layer)?;
            let identity = identity
                .and_then(|meta| meta.identity)
                .or_else(|| site.imports.claimed_identity(&link.layer));
            if let Some(other) = replaced.get(&link.layer) {
                link.layer = other.clone();
            }
            link.created = epoch.map_or(link.created, |epoch| link.created.min(epoch));
            records.put_layer(CachedLayer {
                diff_id: link.layer.clone(),
                identity,
                // The manifest says where it is.
                blob: Desc::new(OCI_LAYER, &link.layer, 0),
            });
        }
        records.put(key, &found, 0);
    }
    Ok((records.len() > 0).then(|| inline_text(&records)))
}
