//! A tree changed by a layer: one pass over the layer's index, in its order. Directories that it does not speak of stay as
//! they are, unread.
//!
//! What a layer means here is what [`crate::snapshot::View`] makes of it.

use super::Carried;
use super::hashes::Hashes;
use super::messages::{Messages, named};
use crate::Error;
use crate::layer::digest_of;
use crate::layer::index::{Node, What, entry_error};
use crate::layer::order::{is_within, split};
use crate::snapshot::LayerContent;
use reapi::google::protobuf::{Timestamp, UInt32Value};
use reapi::{Digest, proto};
use std::collections::BTreeMap;
use std::ops::RangeInclusive;

/// Seconds that a timestamp of the protocol can say: the years 1 to 9999.
const SECONDS: RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;

/// A child of a directory.
enum Child {
    File(proto::FileNode),
    Directory(proto::DirectoryNode),
    Symlink(proto::SymlinkNode),
}

/// A directory that is being changed.
struct Open<'a> {
    path: &'a [u8],
    name: &'a str,
    /// As the layers below have it.
    known: proto::Directory,
    /// Names that the layer speaks of; `None` for what is not in the tree any more.
    changed: BTreeMap<&'a str, Option<Child>>,
}

/// A tree with nothing in it.
pub(super) fn bare(carried: Carried) -> proto::Directory {
    proto::Directory {
        node_properties: properties(carried, Some(0o755), 0),
        ..proto::Directory::default()
    }
}

/// Lays a layer over the tree `below`; gives the new root.
pub(super) fn merge(
    messages: &mut Messages,
    below: Option<Digest>,
    (content, hashes): (&LayerContent, &Hashes),
    carried: Carried,
) -> Result<Digest, Error> {
    let index = &content.index;
    let layer = || digest_of(&index.diff_id());
    let refuse = |node: &Node<'_>, reason| entry_error(layer().as_ref(), node.path, reason);
    let mut open = vec![Open {
        path: b"",
        name: "",
        known: match below {
            Some(below) => messages.get(&below)?,
            None => bare(carried),
        },
        changed: BTreeMap::new(),
    }];
    // Something that is not in the tree, or can hold nothing.
    let mut skipped: Option<&[u8]> = None;
    for (at, node) in index.nodes().enumerate() {
        if skipped.is_some_and(|path| is_within(node.path, path)) {
            continue;
        }
        skipped = None;
        while open.len() > 1 && !is_within(node.path, open[open.len() - 1].path) {
            close(&mut open, messages);
        }
        let top = open.last_mut().expect("BUG: the root is closed last");
        if node.path.is_empty() {
            top.become_as(&node, carried, false);
            continue;
        }
        let (parent, name) = split(node.path);
        if parent != top.path {
            return Err(refuse(&node, "its directory has no entry"));
        }
        if matches!(name, b"" | b"." | b"..") || name.contains(&0) {
            return Err(refuse(&node, "no file can be named so"));
        }
        let Ok(name) = std::str::from_utf8(name) else {
            skipped = Some(node.path);
            continue;
        };
        if !matches!(node.what, What::Directory { .. }) {
            let child = child(index.target(at), name, (content, hashes), carried);
            top.changed.insert(name, child);
            skipped = Some(node.path);
            continue;
        }
        let found = top
            .known
            .directories
            .binary_search_by(|node| node.name.as_str().cmp(name));
        let known = match found {
            Ok(found) => Some(messages.get(&named(top.known.directories[found].digest.as_ref())?)?),
            Err(_) => None,
        };
        let is_new = known.is_none();
        let mut directory = Open {
            path: node.path,
            name,
            known: known.unwrap_or_default(),
            changed: BTreeMap::new(),
        };
        directory.become_as(&node, carried, is_new);
        open.push(directory);
    }
    while open.len() > 1 {
        close(&mut open, messages);
    }
    let root = open.pop().expect("BUG: the root is closed last");
    Ok(messages.put(&root.finish()))
}

/// Ends the innermost directory: it becomes a child of the one around it.
fn close(open: &mut Vec<Open<'_>>, messages: &mut Messages) {
    let Some(inner) = open.pop() else { return };
    let name = inner.name;
    let digest = messages.put(&inner.finish());
    let node = proto::DirectoryNode {
        name: name.to_owned(),
        digest: Some(digest.to_proto()),
    };
    if let Some(outer) = open.last_mut() {
        outer.changed.insert(name, Some(Child::Directory(node)));
    }
}

impl Open<'_> {
    /// Takes over what an entry says of the directory itself.
    fn become_as(&mut self, node: &Node<'_>, carried: Carried, is_new: bool) {
        let opaque = matches!(node.what, What::Directory { opaque: true });
        if opaque {
            self.known = proto::Directory::default();
        }
        if opaque || is_new || !node.implied {
            self.known.node_properties = properties(carried, Some(node.mode), node.mtime);
        }
    }

    fn finish(self) -> proto::Directory {
        let Self {
            mut known, changed, ..
        } = self;
        if changed.is_empty() {
            return known;
        }
        let stays = |name: &str| !changed.contains_key(name);
        known.files.retain(|node| stays(&node.name));
        known.directories.retain(|node| stays(&node.name));
        known.symlinks.retain(|node| stays(&node.name));
        for child in changed.into_values().flatten() {
            match child {
                Child::File(node) => known.files.push(node),
                Child::Directory(node) => known.directories.push(node),
                Child::Symlink(node) => known.symlinks.push(node),
            }
        }
        known.files.sort_by(|a, b| a.name.cmp(&b.name));
        known.directories.sort_by(|a, b| a.name.cmp(&b.name));
        known.symlinks.sort_by(|a, b| a.name.cmp(&b.name));
        known
    }
}

/// What stands for an entry that is no directory; `None` where nothing can, or nothing should.
fn child(
    target: Option<usize>,
    name: &str,
    (content, hashes): (&LayerContent, &Hashes),
    carried: Carried,
) -> Option<Child> {
    let at = target?;
    let node = content.index.node(at);
    let name = name.to_owned();
    match node.what {
        What::File { size, .. } => Some(Child::File(proto::FileNode {
            name,
            digest: Some(hashes.of(at, size).to_proto()),
            is_executable: node.mode & 0o111 != 0,
            node_properties: properties(carried, Some(node.mode), node.mtime),
        })),
        What::Symlink(target) => {
            let target = link_target(target, carried)?.to_owned();
            Some(Child::Symlink(proto::SymlinkNode {
                name,
                target,
                node_properties: properties(carried, None, node.mtime),
            }))
        }
        What::Directory { .. }
        | What::Hardlink(_)
        | What::Char(..)
        | What::Block(..)
        | What::Fifo
        | What::Whiteout => None,
    }
}

/// A link's target where messages can hold it. The form that earlier revisions of the protocol ask for has no empty and no `.`
/// components inside; a link with such is left to the worker, since no other spelling is the same link.
fn link_target(target: &[u8], carried: Carried) -> Option<&str> {
    let target = std::str::from_utf8(target).ok()?;
    let plain = !target.is_empty()
        && !target.contains('\0')
        && !target.contains("//")
        && !target.contains("/./");
    (plain && (carried.absolute_links || !target.starts_with('/'))).then_some(target)
}

/// What is carried of an entry's attributes.
fn properties(carried: Carried, mode: Option<u32>, mtime: i64) -> Option<proto::NodeProperties> {
    let unix_mode = mode.filter(|_| carried.modes);
    let unix_mode = unix_mode.map(|mode| UInt32Value {
        value: mode & 0o777,
    });
    let mtime = (carried.times && SECONDS.contains(&mtime)).then_some(Timestamp {
        seconds: mtime,
        nanos: 0,
    });
    (unix_mode.is_some() || mtime.is_some()).then(|| proto::NodeProperties {
        properties: Vec::new(),
        mtime,
        unix_mode,
    })
}
