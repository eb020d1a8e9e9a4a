//! Leaves out of a layer what the base has already, as BuildKit's differ does: a file copied again over itself makes no
//! entry. Times do not count: no key knows them, so that a step's result may depend on no time of what lies below it, which
//! can be that of an earlier build where its content is the same.

use super::target::{Change, Data, Finished};
use super::write::Contents;
use crate::Error;
use crate::layer::compare;
use crate::layer::order::is_within;
use crate::snapshot::View;
use crate::tree::{Entry, FileDigest, FileTree as _, Kind};
use planner::plan::CopySource;

/// Removes unchanged entries, and the directories that stood there only as their parents.
pub(super) fn leave_out(
    finished: &mut Finished,
    base: &View,
    contents: &Contents<'_>,
) -> Result<(), Error> {
    let mut same = same_as_below(&finished.changes, base, contents)?;
    keep_links_together(&finished.changes, &mut same);
    // In canonical order what is below a directory follows it directly.
    let mut next: Option<&[u8]> = None;
    for (change, same) in finished.changes.iter().zip(&mut same).rev() {
        let path = change.entry.path.as_slice();
        let needed = |below: &[u8]| is_within(below, path);
        if next.is_some_and(needed) || finished.whiteouts.iter().any(|below| needed(below)) {
            *same = false;
        }
        if !*same {
            next = Some(path);
        }
    }
    let mut same = same.into_iter();
    finished.changes.retain(|_| same.next() == Some(false));
    Ok(())
}

/// For each change whether the base has just that.
fn same_as_below(
    changes: &[Box<Change>],
    base: &View,
    contents: &Contents<'_>,
) -> Result<Vec<bool>, Error> {
    let mut same = vec![false; changes.len()];
    // A directory that the base lacks: there is no need to ask for what is in it.
    let mut absent: Option<&[u8]> = None;
    for (change, same) in changes.iter().zip(&mut same) {
        let path = change.entry.path.as_slice();
        if absent.is_some_and(|absent| is_within(path, absent)) {
            continue;
        }
        let before = base.entry(path)?;
        let is_there = |before: &Entry| before.kind == Kind::Directory;
        if change.entry.kind == Kind::Directory && !before.as_ref().is_some_and(is_there) {
            absent = Some(path);
        } else if let Some(before) = before {
            let content = leader(changes, change).map_or(change, |at| &changes[at]);
            *same = is_same(&before, content, base, contents)?;
        }
    }
    Ok(same)
}

/// Names of one file stay together: a link cannot reach into another layer.
fn keep_links_together(changes: &[Box<Change>], same: &mut [bool]) {
    let links: Vec<(usize, usize)> = changes
        .iter()
        .enumerate()
        .filter_map(|(at, change)| Some((at, leader(changes, change)?)))
        .collect();
    for &(at, leader) in &links {
        same[leader] &= same[at];
    }
    for (at, leader) in links {
        same[at] &= same[leader];
    }
}

/// Index of the change that a hard link names.
fn leader(changes: &[Box<Change>], change: &Change) -> Option<usize> {
    let Kind::Hardlink { target } = &change.entry.kind else {
        return None;
    };
    changes
        .binary_search_by(|other| compare(&other.entry.path, target))
        .ok()
}

pub(super) fn is_same(
    before: &Entry,
    change: &Change,
    base: &View,
    contents: &Contents<'_>,
) -> Result<bool, Error> {
    let after = &change.entry;
    let attributes = |entry: &Entry| (entry.mode, entry.uid, entry.gid);
    if attributes(before) != attributes(after) || before.xattrs != after.xattrs {
        return Ok(false);
    }
    match (&before.kind, &after.kind) {
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
            let Some(new) = digest_of(change, *digest, base, contents)? else {
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
    contents: &Contents<'_>,
) -> Result<Option<FileDigest>, Error> {
    if known.is_some() {
        return Ok(known);
    }
    Ok(match &change.data {
        Data::Source(path) => Some(contents.source.tree().digest(path)?),
        Data::Base(path) => Some(base.digest(path)?),
        Data::Inline(index) => match contents.op.map(|op| &op.sources[*index]) {
            Some(CopySource::Inline { data, .. }) => {
                Some(*blake3::hash(data.as_bytes()).as_bytes())
            }
            _ => None,
        },
        Data::None | Data::Spool { .. } => None,
    })
}
