//! Leaves out of a layer what the base has already, as BuildKit's differ does: a file copied again over itself makes no
//! entry. Times of directories do not count, those of files do. Heredocs are always new.

use super::target::{Change, Data, Finished};
use crate::Error;
use crate::snapshot::View;
use crate::tree::{Entry, FileDigest, FileTree, Kind};
use std::collections::{HashMap, HashSet};

/// Removes unchanged entries, and then the directories that stood there only as their parents.
pub(super) fn leave_out(
    finished: &mut Finished,
    base: &View,
    source: &dyn FileTree,
) -> Result<(), Error> {
    let by_path: HashMap<&[u8], &Change> = finished
        .changes
        .iter()
        .map(|change| (change.entry.path.as_slice(), &**change))
        .collect();
    let mut kept: HashSet<Vec<u8>> = HashSet::new();
    // Names of one file stay together: a link cannot reach into another layer.
    let mut kept_links: HashSet<&[u8]> = HashSet::new();
    let mut same_files = Vec::new();
    for change in &finished.changes {
        let content = match &change.entry.kind {
            Kind::Hardlink { target } => by_path.get(target.as_slice()).copied(),
            _ => Some(&**change),
        };
        let before = base.entry(&change.entry.path)?;
        let same = match (&before, content) {
            (Some(before), Some(content)) => is_same(before, content, base, source)?,
            _ => false,
        };
        let leader = content.map_or(&change.entry.path, |content| &content.entry.path);
        if !same {
            kept.insert(change.entry.path.clone());
            kept_links.insert(leader);
        } else if change.entry.kind != Kind::Directory {
            same_files.push((change.entry.path.clone(), leader));
        }
    }
    let together = same_files
        .into_iter()
        .filter(|(_, leader)| kept_links.contains(leader.as_slice()));
    kept.extend(together.map(|(path, _)| path));
    for path in kept.clone().iter().chain(&finished.whiteouts) {
        let mut at = parent(path);
        while !at.is_empty() && kept.insert(at.to_vec()) {
            at = parent(at);
        }
    }
    finished
        .changes
        .retain(|change| kept.contains(&change.entry.path));
    Ok(())
}

fn parent(path: &[u8]) -> &[u8] {
    path.iter()
        .rposition(|&byte| byte == b'/')
        .map_or(b"", |at| &path[..at])
}

fn is_same(
    before: &Entry,
    change: &Change,
    base: &View,
    source: &dyn FileTree,
) -> Result<bool, Error> {
    let after = &change.entry;
    let attributes = |entry: &Entry| (entry.mode, entry.uid, entry.gid);
    if attributes(before) != attributes(after) || before.xattrs != after.xattrs {
        return Ok(false);
    }
    match (&before.kind, &after.kind) {
        (Kind::Directory, Kind::Directory) => Ok(true),
        _ if before.mtime != after.mtime => Ok(false),
        (
            Kind::File { size, .. },
            Kind::File {
                size: new_size,
                digest,
            },
        ) => {
            if size != new_size {
                return Ok(false);
            }
            let Some(new) = digest_of(change, *digest, base, source)? else {
                return Ok(false);
            };
            Ok(base.digest(&before.path)? == new)
        }
        (before, after) => Ok(before == after),
    }
}

fn digest_of(
    change: &Change,
    known: Option<FileDigest>,
    base: &View,
    source: &dyn FileTree,
) -> Result<Option<FileDigest>, Error> {
    if matches!(change.data, Data::Inline(_)) {
        return Ok(None);
    }
    if known.is_some() {
        return Ok(known);
    }
    Ok(match &change.data {
        Data::Source(path) => Some(source.digest(path)?),
        Data::Base(path) => Some(base.digest(path)?),
        Data::Inline(_) | Data::None | Data::Spool { .. } => None,
    })
}
