//! Several runners make one index, each with its own images, at the same time and in any order.
//!
//! Registries have no compare-and-swap for tags, so none of them may be the only place where a runner's part is known.
//! Each runner puts its part under a tag of its own (one for each platform), which no other runner writes. Then, until the
//! name is the index over all such tags: it lists them, puts the index over them under the name, and lists again.
//!
//! Why the last index has all parts, where the registry shows a tag to everyone as soon as it has accepted it: let X
//! be the runner that writes the name last. X lists the tags after that write and stops only if the name has them all. A runner whose
//! tag came after this listing lists later still, finds that the name lacks its part, and writes: then X was not the last. A runner that dies
//! between its write and its listing can leave an older index; any runner that runs again mends it.

use super::document::{ATTESTATION_OF, Doc, sort_key};
use super::parallel::each;
use crate::Error;
use crate::build::manifest::{self, Desc, Document, Index};
use crate::remote::Remote;
use registry_client::Reference;
use std::collections::BTreeMap;
use std::time::Duration;

/// Times that the list of parts is read.
const ROUNDS: u32 = 200;
/// Longest tag (distribution specification).
const TAG_LIMIT: usize = 128;

/// Joins parts, which are in the repository, into the index that a tag names.
pub(super) fn join(
    remote: &Remote,
    tag: &Reference,
    parts: &[Desc],
    id: &str,
    index: &dyn Fn(Vec<Desc>) -> Result<Doc, Error>,
) -> Result<Doc, Error> {
    let name = tag.tag.as_deref().ok_or_else(|| {
        Error::Request(format!("{tag} has no tag that parts could be joined under"))
    })?;
    let prefix = prefix(name, id);
    for (platform, group) in groups(parts) {
        let marker = marked(tag, format!("{prefix}{platform}"));
        let doc = Doc::of_index(&Index::of(group));
        remote.put_manifest(&marker, &doc.desc.media_type, &doc.bytes)?;
    }
    for round in 0..ROUNDS {
        let Some(found) = found(remote, tag, &prefix)? else {
            std::thread::sleep(pause(round));
            continue;
        };
        let doc = index(found)?;
        if remote.has_manifest(tag, &doc.desc.digest()?)? {
            return Ok(doc);
        }
        if round > 0 {
            // Others write too: not all at once, or they go on for ever.
            std::thread::sleep(pause(round));
        }
        remote.put_manifest(tag, &doc.desc.media_type, &doc.bytes)?;
    }
    Err(Error::Request(format!(
        "{tag} did not come to rest: others have written it {ROUNDS} times"
    )))
}

/// What all runners have put so far; `None` when a tag that is listed cannot be read yet.
fn found(remote: &Remote, tag: &Reference, prefix: &str) -> Result<Option<Vec<Desc>>, Error> {
    let mut tags = remote.tags(tag)?;
    tags.retain(|name| name.starts_with(prefix));
    tags.sort();
    let read = |name: &String| {
        let marker = marked(tag, name.clone());
        match super::source::fetched(remote, &marker, None) {
            Ok(doc) => match doc.parse()? {
                Document::Index(index) => Ok(Some(index.manifests)),
                Document::Manifest(_) => Ok(Some(Vec::new())),
            },
            Err(Error::Registry { source, .. }) if source.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    };
    let mut all: Vec<Desc> = Vec::new();
    for part in each(&tags, read)? {
        let Some(part) = part else {
            return Ok(None);
        };
        for desc in part {
            if !all.iter().any(|known| known.digest == desc.digest) {
                all.push(desc);
            }
        }
    }
    all.sort_by_cached_key(sort_key);
    Ok(Some(all))
}

fn marked(tag: &Reference, name: String) -> Reference {
    Reference {
        tag: Some(name),
        digest: None,
        ..tag.clone()
    }
}

/// What the tags of all parts begin with: a name that people see, or a short form of one that would be too long.
fn prefix(tag: &str, id: &str) -> String {
    let is_plain = id
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'));
    let plain = if id.is_empty() {
        format!("{tag}.join.")
    } else {
        format!("{tag}.join-{id}.")
    };
    if is_plain && plain.len() + 48 <= TAG_LIMIT {
        return plain;
    }
    let digest = manifest::digest_of(format!("{tag}\n{id}").as_bytes());
    format!("join-{}.", &digest.digest()[..32])
}

/// Images by platform, each with what is attested of it.
fn groups(parts: &[Desc]) -> BTreeMap<String, Vec<Desc>> {
    let mut groups: BTreeMap<String, Vec<Desc>> = BTreeMap::new();
    let slug = |desc: &Desc| {
        let about = desc.annotations.get(ATTESTATION_OF);
        let image = about.and_then(|about| parts.iter().find(|part| part.digest == *about));
        let shown = match &image.unwrap_or(desc).platform {
            Some(platform) if !platform.is_unknown() => platform.to_platform().to_string(),
            _ => desc.digest.clone(),
        };
        let plain: String = shown
            .chars()
            .map(|c| {
                if c.is_ascii_alphanumeric() || c == '.' {
                    c
                } else {
                    '-'
                }
            })
            .collect();
        if plain.len() <= 48 {
            return plain;
        }
        manifest::digest_of(shown.as_bytes()).digest()[..32].to_owned()
    };
    for desc in parts {
        groups.entry(slug(desc)).or_default().push(desc.clone());
    }
    groups
}

/// Longer and longer, and different for each process.
pub(super) fn pause(round: u32) -> Duration {
    use std::hash::{BuildHasher as _, RandomState};
    let random = RandomState::new().hash_one(round) % 1000;
    let most = 20 + 20 * u64::from(round.min(10));
    Duration::from_millis(most * random / 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it02_names_of_parts_are_tags() {
        assert_eq!(prefix("1.0", ""), "1.0.join.");
        assert_eq!(prefix("1.0", "run-7"), "1.0.join-run-7.");
        let odd = prefix("1.0", "a b");
        assert!(odd.starts_with("join-") && odd.len() == 38, "{odd}");
        assert_eq!(prefix(&"t".repeat(128), "").len(), 38);
        assert_ne!(prefix("1", "a b"), prefix("1", "a  b"));
    }
}
