//! An image's root file system as one canonical tar, and as a view to compare.

use crate::Error;
use crate::build::{fetch, manifest};
use crate::layer;
use crate::output::files;
use crate::output::images::{self, Member};
use crate::output::tarball::TarSink;
use crate::snapshot::View;
use crate::space::Space;
use oci_spec::image::Digest;
use planner::platform::Platform;
use std::io::Write;

/// Writes the merged root file system of an image.
///
/// # Errors
/// Not found, layers that were never pulled; I/O.
pub fn export(
    space: &Space,
    name: &str,
    platform: Option<&Platform>,
    out: &mut dyn Write,
) -> Result<(), Error> {
    let files = layers(space, &member(space, name, platform)?)?
        .iter()
        .map(|layer| layer::content(space, layer))
        .collect::<Result<Vec<_>, _>>()?;
    let view = View::load(&files)?;
    let scratch = space.store().scratch()?;
    let mut sink = TarSink::new(out, None);
    files::walk(&view, &mut sink)?;
    sink.finish(&scratch.path().join("index"))
}

/// An image of one platform.
pub(super) fn member(
    space: &Space,
    name: &str,
    platform: Option<&Platform>,
) -> Result<Member, Error> {
    let image = images::find(space, name)?;
    let members = images::members(space.store(), image.descriptor.digest())?;
    images::select(name, &members, platform).cloned()
}

/// Its layers, all of which the store has.
pub(super) fn layers(space: &Space, member: &Member) -> Result<Vec<Digest>, Error> {
    let mut layers = Vec::new();
    for (diff_id, desc) in member.config.diff_ids.iter().zip(&member.manifest.layers) {
        let diff_id = manifest::digest(diff_id)?;
        if !fetch::available(space, &diff_id)? {
            let descriptor = desc.to_oci()?;
            if space.store().blob_size(descriptor.digest()).is_none() {
                return Err(Error::Image {
                    subject: member.desc.digest.clone(),
                    reason: format!("its layer {} was never pulled", desc.digest),
                });
            }
            layer::adopt(space, &diff_id, &descriptor)?;
        }
        layers.push(diff_id);
    }
    Ok(layers)
}
