//! Cache mounts of a command: taken before it starts, all in one order, so that two steps never wait for each other.

use crate::Error;
use crate::build::mounts::{self, Ground, Held};
use crate::cache::mounts as travel;
use oci_spec::image::Digest;
use planner::plan::RunMount;
use sandbox::{Mode, Mount, Overlay};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use store::{CacheMount, MountSharing};

/// The cache mounts that a command holds, by identity.
pub(crate) type Taken = BTreeMap<String, CacheMount>;

/// Takes all cache mounts of a command, waiting for those that others hold. One that comes twice is taken once, as its
/// strictest user wants it.
pub(crate) fn take(
    ground: &dyn Ground,
    mounts: &[RunMount],
    held: &mut Held<'_>,
) -> Result<(), Error> {
    let mut wanted: BTreeMap<String, MountSharing> = BTreeMap::new();
    // Without mounts a cache is moved into the root of the command that uses it.
    let one_at_a_time = ground.space().sandbox()?.mode() == Mode::Chroot;
    for mount in mounts {
        let Some((id, sharing)) = identity(ground, mount)? else {
            continue;
        };
        let sharing = match sharing {
            MountSharing::Shared if one_at_a_time => MountSharing::Locked,
            sharing => sharing,
        };
        let known = wanted.entry(id).or_insert(sharing);
        *known = stricter(*known, sharing);
    }
    for (id, sharing) in wanted {
        let cache = ground.cache(&id, sharing)?;
        held.caches.insert(id, cache);
    }
    Ok(())
}

fn stricter(one: MountSharing, other: MountSharing) -> MountSharing {
    match (one, other) {
        (MountSharing::Locked, _) | (_, MountSharing::Locked) => MountSharing::Locked,
        (MountSharing::Private, _) | (_, MountSharing::Private) => MountSharing::Private,
        _ => MountSharing::Shared,
    }
}

/// Which cache a mount means. One that is to belong to somebody else is another one, and so is one with another filling,
/// as in BuildKit. A filled one is an overlay whose upper is the cache, so nothing is copied; one step at a time uses it,
/// because two overlays must not share an upper.
fn identity(
    ground: &dyn Ground,
    mount: &RunMount,
) -> Result<Option<(String, MountSharing)>, Error> {
    let RunMount::Cache {
        id,
        from,
        sharing,
        mode,
        uid,
        gid,
        ..
    } = mount
    else {
        return Ok(None);
    };
    let sharing = match sharing.as_str() {
        "private" => MountSharing::Private,
        "locked" => MountSharing::Locked,
        _ => MountSharing::Shared,
    };
    if let Some(input) = from {
        let id = format!("{id}:{}", ground.content_id(*input)?);
        let sharing = if sharing == MountSharing::Shared {
            MountSharing::Locked
        } else {
            sharing
        };
        return Ok(Some((id, sharing)));
    }
    let id = travel::identity(id, *mode, *uid, *gid);
    Ok(Some((id, sharing)))
}

/// The mount of a cache that was taken.
pub(crate) fn mount(
    ground: &dyn Ground,
    mount: &RunMount,
    held: &mut Held<'_>,
) -> Result<Mount, Error> {
    let RunMount::Cache {
        id,
        target,
        from,
        source,
        mode,
        uid,
        gid,
        readonly,
        ..
    } = mount
    else {
        unreachable!("BUG: called for cache mounts only");
    };
    let (identity, _) = identity(ground, mount)?.expect("BUG: a cache mount has an identity");
    let cache = &held.caches[&identity];
    let (folder, is_new) = (cache.path().to_owned(), cache.is_new());
    let (target, readonly) = (target.clone(), *readonly);
    let Some(input) = from else {
        if is_new {
            let owner = mounts::possible_owner(ground, (*uid, *gid), target.as_str())?;
            if !mounts::own(ground.space(), &folder, *mode, owner)? {
                mounts::note_root(ground, owner, target.as_str());
            }
        }
        return Ok(Mount::Bind {
            source: folder,
            subpath: source.clone(),
            target,
            readonly,
            nosuid: false,
            noexec: false,
            owner: None,
        });
    };
    if !held.filled.insert(identity) {
        return Err(Error::Request(format!(
            "cache mount {id} is filled from elsewhere (from=) and mounted twice in one step"
        )));
    }
    let overlay = mounts::overlay_of(ground, Some(*input), held)?;
    let overlay = Overlay {
        upper: Some((folder, ground.cache_work(held)?)),
        ..overlay
    };
    Ok(Mount::Overlay {
        overlay,
        source: source.clone(),
        target,
        readonly,
    })
}

/// A name for a stack of layers.
pub(crate) fn stack_id(layers: &[Digest]) -> String {
    let mut hasher = Sha256::new();
    for layer in layers {
        hasher.update(layer.to_string());
    }
    hasher
        .finalize()
        .iter()
        .take(16)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
