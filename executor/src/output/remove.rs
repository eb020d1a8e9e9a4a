//! Taking names from images, and images from the store, by the rules of `docker rmi`; giving names.

use crate::Error;
use crate::build::{image, normalised};
use crate::output::archive::familiar;
use crate::output::images::{self, Member};
use crate::repo_digests;
use crate::space::Space;
use oci_spec::image::Digest;
use planner::platform::Platform;
use registry_client::Reference;
use store::{ImageRef, PruneOptions, Store};

/// How to remove an image.
#[derive(Clone, Debug, Default)]
pub struct RemoveOptions {
    /// Also when several names would go.
    pub force: bool,
    /// Leave the content for a later pruning.
    pub keep_content: bool,
    /// Remove the content of these platforms only, and no name.
    pub platforms: Vec<Platform>,
}

/// What was removed.
#[derive(Clone, Debug, Default)]
pub struct Removed {
    /// Familiar names.
    pub untagged: Vec<String>,
    /// Image IDs, and diff_ids of layers.
    pub deleted: Vec<String>,
}

/// Gives an image one more name.
///
/// # Errors
/// No such image; a name that no image can have.
pub fn tag(space: &Space, source: &str, target: &str, now: i64) -> Result<(), Error> {
    let name = normalised(target).map_err(|_| {
        Error::Request(format!(
            "Error parsing reference: {target:?} is not a valid repository/tag: invalid reference format"
        ))
    })?;
    let image = images::find(space, source)?;
    space.store().tag(&ImageRef {
        name,
        tagged: image::rfc3339(now),
        ..image
    })?;
    Ok(())
}

/// Removes a name, or by an ID an image with all its names; the content goes when nothing else needs it.
///
/// # Errors
/// No such image; several names without `force`.
pub fn remove(space: &Space, name: &str, options: &RemoveOptions) -> Result<Removed, Error> {
    if !options.platforms.is_empty() {
        return remove_platforms(space, name, options);
    }
    let store = space.store();
    let going = going(space, name, options.force)?;
    let mut removed = Removed::default();
    for image in &going {
        let digest = image.descriptor.digest();
        let id = images::summary(store, image).map(|image| image.id)?;
        if !image.name.is_empty() {
            store.untag(&image.name)?;
            removed.untagged.push(familiar(&image.name).to_owned());
        }
        let mut left = store.references()?;
        left.retain(|other| !other.name.is_empty() && other.descriptor.digest() == digest);
        let lost = lost_repositories(store, digest, &left)?;
        removed.untagged.extend(lost);
        if left.is_empty() {
            store.untag(digest.as_ref())?;
            let id = if id.is_empty() {
                digest.to_string()
            } else {
                id
            };
            if !removed.deleted.contains(&id) {
                removed.deleted.push(id);
            }
        }
    }
    if !removed.deleted.is_empty() && !options.keep_content {
        removed.deleted.extend(free(space));
    }
    Ok(removed)
}

/// Forgets what repositories know the image by that none of its names is in any more.
fn lost_repositories(
    store: &Store,
    digest: &Digest,
    left: &[ImageRef],
) -> Result<Vec<String>, Error> {
    let known = repo_digests::of(store, digest)?;
    let has_name = |text: &String| {
        let repository = images::repository_of(text);
        let mut left = left.iter();
        left.any(|image| images::repository_of(&image.name) == repository)
    };
    let (kept, lost): (Vec<String>, Vec<String>) = known.into_iter().partition(has_name);
    if !lost.is_empty() {
        repo_digests::replace(store, digest, &kept)?;
    }
    Ok(lost.iter().map(|text| familiar(text).to_owned()).collect())
}

/// The references that go: one by name; by an ID all of the image, by `name@digest` those of the repository.
fn going(space: &Space, name: &str, force: bool) -> Result<Vec<ImageRef>, Error> {
    let store = space.store();
    if let Ok(full) = normalised(name)
        && let Some(found) = store.reference(&full)?
    {
        return Ok(vec![found]);
    }
    let mut found = images::all_with_id(space, name)?;
    if let Ok(reference) = Reference::parse(name)
        && reference.digest.is_some()
    {
        let repository = reference.name();
        found.retain(|image| images::repository_of(&image.name) == repository);
        if found.is_empty() {
            return Err(Error::NoSuchImage(name.to_owned()));
        }
        return Ok(found);
    }
    let names = found.iter().filter(|image| !image.name.is_empty()).count();
    if names > 1 && !force {
        return Err(Error::Request(format!(
            "conflict: unable to delete {name} (must be forced) - image is referenced in multiple repositories"
        )));
    }
    Ok(found)
}

/// Frees what no image and no cache record needs. Another process that uses the store puts that off to the next time.
fn free(space: &Space) -> Vec<String> {
    let options = PruneOptions::default();
    match space
        .store()
        .prune(&options, &|path| space.remove_tree(path))
    {
        Ok(report) => report
            .removed
            .iter()
            .filter_map(|name| name.strip_prefix("layer ").map(str::to_owned))
            .collect(),
        Err(error) => {
            tracing::debug!(%error, "nothing was freed");
            Vec::new()
        }
    }
}

fn remove_platforms(space: &Space, name: &str, options: &RemoveOptions) -> Result<Removed, Error> {
    let removed = space
        .store()
        .alone(|| unneeded_platforms(space, name, options))?;
    if !options.keep_content {
        free(space);
    }
    Ok(removed)
}

/// All are looked at before the first one goes.
fn unneeded_platforms(
    space: &Space,
    name: &str,
    options: &RemoveOptions,
) -> Result<Removed, Error> {
    let store = space.store();
    let image = images::find(space, name)?;
    let root = image.descriptor.digest();
    let members = images::members(store, root)?;
    let mut going: Vec<&Member> = Vec::new();
    for platform in &options.platforms {
        let conflict = |reason: &str| {
            Error::Request(format!(
                "conflict: unable to delete {name} for {platform} - {reason}"
            ))
        };
        let member = images::select(name, &members, Some(platform))?;
        let has_it = |other: &ImageRef| {
            other.descriptor.digest() != root
                && images::members(store, other.descriptor.digest()).is_ok_and(|others| {
                    let mut others = others.iter();
                    others.any(|other| other.desc.digest == member.desc.digest)
                })
        };
        if store.references()?.iter().any(has_it) {
            return Err(conflict("another image has it"));
        }
        if !going
            .iter()
            .any(|known| known.desc.digest == member.desc.digest)
        {
            going.push(member);
        }
        if members.len() == going.len() || root.as_ref() == member.desc.digest {
            return Err(conflict("it is the only platform of the image"));
        }
    }
    let mut removed = Removed::default();
    for member in going {
        store.remove_blob(&member.desc.digest()?)?;
        removed.deleted.push(member.desc.digest.clone());
    }
    Ok(removed)
}
