//! Pushing images of the store by name.

use super::document::{Documents, Loaded, Node, load};
use super::transfer::{Pusher, push};
use super::{Packing, Pushed, Style, Target, Watcher};
use crate::Error;
use crate::build::fetch::{Fetcher, Origin};
use crate::build::manifest::Desc;
use crate::output::{find, missing};
use crate::places;
use crate::remote::Remote;
use crate::repo_digests;
use crate::space::Space;
use planner::platform::Platform;
use planner::scheduler::Cancel;
use registry_client::Reference;
use std::collections::HashMap;

/// How an image of the store is pushed.
#[derive(Clone, Debug, Default)]
pub struct StoredPush {
    /// Compression.
    pub packing: Packing,
    /// An image that came from a registry goes as it is, layers included that are not compressed.
    pub keep_published: bool,
    /// Media types, where they are to be others than the image has.
    pub style: Option<Style>,
    /// What of an index.
    pub choice: Choice,
}

/// What of an image with several platforms is pushed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Choice {
    /// All, as an index.
    #[default]
    All,
    /// The image for one platform.
    Platform(Platform),
}

/// Pushes an image of the store to all targets.
///
/// # Errors
/// No such image; the registry refuses or cannot be reached.
pub fn push_stored(
    space: &Space,
    remote: &Remote,
    name: &str,
    (targets, how): (&[Target], &StoredPush),
    (watcher, cancel): (&dyn Watcher, &Cancel),
) -> Result<Pushed, Error> {
    let image = find(space, name)?;
    let documents = Documents {
        store: space.store(),
        made: HashMap::new(),
    };
    let loaded = load(&documents, &Desc::of(&image.descriptor))?;
    let root = choose(name, loaded, &how.choice, watcher)?;
    let digest = image.descriptor.digest();
    let origin = repo_digests::repository(space.store(), digest)?;
    let is_fixed = how.keep_published && repo_digests::is_of_a_registry(space.store(), digest)?;
    let mut root = root;
    root.settle(&|_| (origin.clone(), is_fixed));
    let name = missing::shown(&image);
    push_node(
        (space, remote),
        (&root, name),
        (targets, how),
        (watcher, cancel),
    )
}

/// Pushes what was read of an image (with its name, for messages), in the store or elsewhere.
pub(crate) fn push_node(
    (space, remote): (&Space, &Remote),
    (root, name): (&Node, String),
    (targets, how): (&[Target], &StoredPush),
    (watcher, cancel): (&dyn Watcher, &Cancel),
) -> Result<Pushed, Error> {
    let fetcher = fetcher(space, remote, root)?.for_image(name);
    let pusher = Pusher {
        space,
        remote,
        fetcher: &fetcher,
        watcher,
        cancel,
        packing: how.packing,
        style: how.style,
    };
    push(&pusher, root, targets)
}

/// Full names with tags that the store has of a repository, by name.
///
/// # Errors
/// A name that no repository has; a failed read.
pub fn names_of_repository(space: &Space, repository: &str) -> Result<Vec<String>, Error> {
    let parsed = Reference::parse(repository).map_err(|source| Error::Reference { source })?;
    let prefix = format!("{}:", parsed.name());
    let all = space.store().references()?;
    Ok(all
        .into_iter()
        .map(|image| image.name)
        .filter(|name| {
            name.strip_prefix(&prefix)
                .is_some_and(|tag| !tag.contains('@'))
        })
        .collect())
}

fn choose(
    name: &str,
    loaded: Loaded,
    choice: &Choice,
    watcher: &dyn Watcher,
) -> Result<Node, Error> {
    let bad = |reason: String| Error::Image {
        subject: name.to_owned(),
        reason,
    };
    let Loaded { root, missing } = loaded;
    if let Choice::Platform(wanted) = choice {
        let mut found = Vec::new();
        images(&root, &mut found);
        let platforms: Vec<Platform> = found.iter().map(|(platform, _)| platform.clone()).collect();
        let Some(best) = wanted.best_match(&platforms) else {
            let have: Vec<String> = platforms.iter().map(ToString::to_string).collect();
            return Err(bad(format!(
                "the store does not hold its image for {wanted}; platforms there are: {}",
                have.join(", ")
            )));
        };
        return Ok(found.swap_remove(best).1);
    }
    if missing.is_empty() {
        return Ok(root);
    }
    match root.children() {
        [only @ Node::Image(_)] => {
            watcher.note(
                "Not all multiplatform-content is present and only the available single-platform image was pushed",
            );
            Ok(only.clone())
        }
        _ => Err(bad(format!(
            "the store does not hold all of it: it lacks {}; pull those, or push one platform with --platform",
            missing.join(", ")
        ))),
    }
}

fn images(node: &Node, found: &mut Vec<(Platform, Node)>) {
    if let Some(platform) = node.platform() {
        found.push((platform, node.clone()));
    }
    for child in node.children() {
        images(child, found);
    }
}

/// Knows where layers can be had that the store has no bytes of: where they were seen, else where the image is from.
fn fetcher<'a>(space: &'a Space, remote: &'a Remote, root: &Node) -> Result<Fetcher<'a>, Error> {
    let mut fetcher = Fetcher::without_layers(space, remote);
    let store = space.store();
    for image in root.images() {
        for layer in image.layers.iter().filter(|layer| !layer.is_foreign) {
            let digest = layer.desc.digest()?;
            // What goes as it is can be mounted from there too.
            if store.blob_size(&digest).is_some() && !image.is_fixed {
                continue;
            }
            let seen = places::of(store, &digest)?.into_iter().next();
            let Some(place) = image
                .origin
                .clone()
                .filter(|_| image.is_fixed)
                .or(seen)
                .or(image.origin.clone())
            else {
                continue;
            };
            let origin = Origin::Repository(place.name());
            fetcher.add_loose(layer.desc.clone(), &origin);
            if let Some(diff_id) = &layer.diff_id {
                fetcher.add(diff_id.clone(), layer.desc.clone(), &origin);
            }
        }
    }
    Ok(fetcher)
}
