//! What the digest of an image of the store was in the repositories it was pushed to: there its layers are compressed.

use crate::Error;
use crate::space::Space;
use oci_spec::image::Digest;
use registry_client::Reference;
use sha2::{Digest as _, Sha256};

/// Pushes remembered of one image.
const MOST: usize = 64;

fn key(root: &Digest) -> [u8; 32] {
    Sha256::digest(format!("kiln pushed 1\n{root}\n")).into()
}

/// `REPOSITORY@DIGEST` for each repository that an image of the store (by the digest it has there) was pushed to.
///
/// # Errors
/// A failed read.
pub fn repo_digests(space: &Space, root: &Digest) -> Result<Vec<String>, Error> {
    let record = space.store().record(&key(root))?;
    Ok(record
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_default())
}

/// Notes pushes of an image of the store.
pub(crate) fn remember(
    space: &Space,
    root: &Digest,
    repositories: &[&Reference],
    pushed: &Digest,
) -> Result<(), Error> {
    let before = repo_digests(space, root)?;
    let mut all = before.clone();
    for repository in repositories {
        let name = repository.name();
        let text = format!("{name}@{pushed}");
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
    let payload = serde_json::to_vec(&all).expect("BUG: strings always serialise");
    let kept = [root.clone()];
    Ok(space.store().put_record(&key(root), &payload, &kept)?)
}
