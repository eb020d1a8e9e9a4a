//! An image's root file system as one canonical tar, and as a view to compare.

use crate::Error;
use crate::build::manifest;
use crate::layer::{self, Form};
use crate::output::files;
use crate::output::images::{self, Member};
use crate::output::missing;
use crate::output::tarball::TarSink;
use crate::remote::Remote;
use crate::snapshot::View;
use crate::space::Space;
use oci_spec::image::Digest;
use planner::platform::Platform;
use std::io::Write;

/// Writes the merged root file system of an image. Layers that never came into the store are fetched.
///
/// # Errors
/// Not found, layers that were never pulled; I/O.
pub fn export(
    (space, remote): (&Space, &Remote),
    name: &str,
    platform: Option<&Platform>,
    out: &mut dyn Write,
) -> Result<(), Error> {
    let files = layers((space, remote), name, platform)?
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

/// The layers of an image of one platform, all of which the store has then.
pub(super) fn layers(
    (space, remote): (&Space, &Remote),
    name: &str,
    platform: Option<&Platform>,
) -> Result<Vec<Digest>, Error> {
    let member = member(space, name, platform)?;
    let image = images::find(space, name)?;
    missing::bring(
        (space, remote),
        &image,
        std::slice::from_ref(&member),
        Form::Readable,
    )?;
    let mut layers = Vec::new();
    for (diff_id, desc) in member.config.diff_ids.iter().zip(&member.manifest.layers) {
        let diff_id = manifest::digest(diff_id)?;
        if !layer::is_readable(space.store(), &diff_id)? {
            layer::adopt(space, &diff_id, &desc.to_oci()?)?;
        }
        layers.push(diff_id);
    }
    Ok(layers)
}
