//! Layers that an image of the store has and the store has not: a build that used the image as a base may have needed
//! none of them. They are fetched from where they were seen.

use crate::Error;
use crate::build::fetch::{Fetcher, Origin};
use crate::build::manifest;
use crate::layer::{self, Form};
use crate::output::archive::familiar;
use crate::output::images::Member;
use crate::places;
use crate::remote::Remote;
use crate::repo_digests;
use crate::space::Space;
use store::ImageRef;

/// Brings the layers of some of an image's members into the store, in this form at least.
pub(super) fn bring(
    (space, remote): (&Space, &Remote),
    image: &ImageRef,
    members: &[Member],
    form: Form,
) -> Result<(), Error> {
    let store = space.store();
    let mut fetcher = Fetcher::without_layers(space, remote);
    let mut missing = Vec::new();
    for member in members {
        for (diff_id, desc) in member.config.diff_ids.iter().zip(&member.manifest.layers) {
            let (diff_id, digest) = (manifest::digest(diff_id)?, desc.digest()?);
            if store.blob_size(&digest).is_some() || layer::is_here(store, form, &diff_id)? {
                continue;
            }
            let seen = places::of(store, &digest)?.into_iter().next();
            let place = match seen {
                Some(place) => Some(place),
                None => repo_digests::repository(store, image.descriptor.digest())?,
            };
            let Some(place) = place else {
                if layer::is_readable(space.store(), &diff_id)? {
                    continue;
                }
                return Err(Error::NeverPulled {
                    image: shown(image),
                    layer: desc.digest.clone(),
                });
            };
            let origin = Origin::Repository(place.name());
            fetcher.add(diff_id.clone(), desc.clone(), &origin);
            missing.push(diff_id);
        }
    }
    fetcher.ensure_as(form, &missing, &|_, _, _| {}, remote.cancel())
}

/// A name to pull it by.
pub(crate) fn shown(image: &ImageRef) -> String {
    match image.name.as_str() {
        "" => image.descriptor.digest().to_string(),
        name => familiar(name).to_owned(),
    }
}
