//! By which digests repositories know the images of the store: those they were pulled from, and those they were pushed
//! to, where their layers are compressed and the digest is another one.
//!
//! Nothing is guessed: what is not written down here no registry is known to have.

use crate::Error;
use oci_spec::image::Digest;
use registry_client::Reference;
use sha2::{Digest as _, Sha256};
use store::Store;

/// Repositories remembered of one image.
const MOST: usize = 64;

fn key(root: &Digest) -> [u8; 32] {
    Sha256::digest(format!("kiln repository digests 1\n{root}\n")).into()
}

fn came_key(root: &Digest) -> [u8; 32] {
    Sha256::digest(format!("kiln came from a registry 1\n{root}\n")).into()
}

/// `REPOSITORY@DIGEST`, with full names, for each repository that is known to have an image of the store (by the digest
/// that it has there).
pub(crate) fn of(store: &Store, root: &Digest) -> Result<Vec<String>, Error> {
    let record = store.record(&key(root))?;
    Ok(record
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_default())
}

/// A repository that is known to have an image.
pub(crate) fn repository(store: &Store, root: &Digest) -> Result<Option<Reference>, Error> {
    let known = of(store, root)?;
    Ok(known.last().and_then(|text| Reference::parse(text).ok()))
}

/// Notes that repositories have an image of the store under a digest.
pub(crate) fn remember(
    store: &Store,
    root: &Digest,
    repositories: &[&Reference],
    digest: &Digest,
) -> Result<(), Error> {
    let before = of(store, root)?;
    let mut all = before.clone();
    for repository in repositories {
        let name = repository.name();
        let text = format!("{name}@{digest}");
        if all.contains(&text) {
            continue;
        }
        let same = format!("{name}@");
        all.retain(|known| !known.starts_with(&same));
        all.push(text);
    }
    if all == before {
        return Ok(());
    }
    let excess = all.len().saturating_sub(MOST);
    all.drain(..excess);
    replace(store, root, &all)
}

/// Notes that an image came from a repository just as it is here.
pub(crate) fn came_from(store: &Store, root: &Digest, repository: &Reference) -> Result<(), Error> {
    remember(store, root, &[repository], root)?;
    Ok(store.put_record(&came_key(root), b"1", &[])?)
}

/// Whether an image came from a repository just as it is here, so that it should be the same one in the next.
pub(crate) fn is_of_a_registry(store: &Store, root: &Digest) -> Result<bool, Error> {
    Ok(store.record(&came_key(root))?.is_some())
}

/// Sets all of them.
pub(crate) fn replace(store: &Store, root: &Digest, all: &[String]) -> Result<(), Error> {
    let payload = serde_json::to_vec(all).expect("BUG: strings always serialise");
    // It keeps nothing: an image that is removed must not live on because it was pushed.
    Ok(store.put_record(&key(root), &payload, &[])?)
}
