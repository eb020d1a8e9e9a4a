//! Where blobs have been seen: repositories they were pulled from or pushed to, so that a push to the same registry can
//! have them mounted. A hint only: a registry that no longer has a blob there says so.

use crate::Error;
use oci_spec::image::Digest;
use registry_client::Reference;
use sha2::{Digest as _, Sha256};
use store::Store;

/// Repositories remembered of one blob at one registry.
const PER_REGISTRY: usize = 2;
/// Repositories remembered of one blob.
const IN_ALL: usize = 8;

fn key(digest: &Digest) -> [u8; 32] {
    Sha256::digest(format!("kiln blob places 1\n{digest}\n")).into()
}

/// The repositories of a blob (`registry/name`), the latest first.
fn read(store: &Store, digest: &Digest) -> Result<Vec<String>, Error> {
    let record = store.record(&key(digest))?;
    Ok(record
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_default())
}

/// Notes that a repository has a blob.
pub(crate) fn remember(store: &Store, digest: &Digest, place: &Reference) -> Result<(), Error> {
    let known = read(store, digest)?;
    let name = place.name();
    if known.first() == Some(&name) {
        return Ok(());
    }
    let registry = format!("{}/", place.registry);
    let mut places = vec![name.clone()];
    let mut here = 1;
    for other in known {
        if other == name || places.len() == IN_ALL {
            continue;
        }
        if other.starts_with(&registry) {
            here += 1;
            if here > PER_REGISTRY {
                continue;
            }
        }
        places.push(other);
    }
    let payload = serde_json::to_vec(&places).expect("BUG: strings always serialise");
    Ok(store.put_record(&key(digest), &payload, &[])?)
}

/// Repositories that may have a blob.
pub(crate) fn of(store: &Store, digest: &Digest) -> Result<Vec<Reference>, Error> {
    let names = read(store, digest)?;
    Ok(names
        .iter()
        .filter_map(|name| Reference::parse(name).ok())
        .collect())
}
