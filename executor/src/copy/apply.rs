//! Where a selection goes and with which attributes: the rules of BuildKit's copy (fsutil), against a [`Target`].

use super::archive;
use super::chmod::Chmod;
use super::mixed::own_path;
use super::owner::Owner;
use super::paths::{clean, join, refuse, show, split};
use super::select::{Group, Head, Item, Selection};
use super::target::{Change, Data, Found, Target};
use crate::Error;
use crate::tree::{Entry, FileTree, Kind};
use planner::plan::CopyOp;

/// A copy under way.
#[derive(Debug)]
pub(super) struct Copier<'a, 't> {
    pub(super) op: &'a CopyOp,
    pub(super) target: &'t mut Target<'a>,
    pub(super) chmod: Option<Chmod>,
    pub(super) owner: Option<Owner>,
}

/// Where a group goes.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) path: Vec<u8>,
    /// Whether nothing was there.
    pub(super) is_new: bool,
}

impl Copier<'_, '_> {
    /// Applies everything. `spool` takes the content of unpacked archives.
    pub(super) fn run(
        &mut self,
        selection: Selection,
        tree: &dyn FileTree,
        spool: &mut archive::Spool,
    ) -> Result<(), Error> {
        for (number, group) in selection.groups.into_iter().enumerate() {
            let unpack = group
                .head
                .unpack
                .unwrap_or(self.op.unpack.unwrap_or(self.op.add));
            if unpack && self.unpack(number, &group, tree, spool)? {
                continue;
            }
            self.group(number, group)?;
        }
        Ok(())
    }

    /// Unpacks a source that is an archive; `false` when it is none.
    fn unpack(
        &mut self,
        number: usize,
        group: &Group,
        tree: &dyn FileTree,
        spool: &mut archive::Spool,
    ) -> Result<bool, Error> {
        let mut items = group.items.iter();
        let (Some(item), None) = (items.next(), items.next()) else {
            return Ok(false);
        };
        let Kind::File { size, .. } = item.entry.kind else {
            return Ok(false);
        };
        let path = &item.entry.path;
        if size == 0 {
            return Ok(false);
        }
        let Some(archive) = archive::open(tree.open(path)?, spool)? else {
            return Ok(false);
        };
        let directory = self.target.resolve(self.op.dest.as_bytes())?;
        self.target.make_directories(&directory, 0o755)?;
        let unpacking = archive::Unpacking {
            target: self.target,
            owner: self.owner,
            directory,
            number,
        };
        unpacking.run(&show(own_path(path)), archive, spool)?;
        Ok(true)
    }

    fn group(&mut self, number: usize, group: Group) -> Result<(), Error> {
        let Group { head, items } = group;
        let anything = items.len() > 1;
        self.target.expect(items.len());
        let mut items = items.drain();
        let root = items.next().expect("BUG: a group has its root");
        let Place { path, is_new } = self.enter(&head, &root)?;
        if root.entry.kind != Kind::Directory {
            return self.file(number, head.inline, root, path);
        }
        for item in items {
            let path = join(&path, &item.entry.path[head.strip..]);
            if item.entry.kind == Kind::Directory {
                self.directory(item, path)?;
            } else {
                self.file(number, head.inline, item, path)?;
            }
        }
        // The destination keeps its own attributes, but its time becomes the source's.
        if is_new || anything {
            self.target
                .update(&path, |entry| entry.mtime = root.entry.mtime)?;
        }
        Ok(())
    }

    /// Makes what a group needs, and finds its place.
    pub(super) fn enter(&mut self, head: &Head, root: &Item) -> Result<Place, Error> {
        let made = self.chmod.as_ref().map_or(0o755, Chmod::made_directories);
        let dest = self.op.dest.as_bytes();
        let (above, last) = split(dest);
        let ensure = if last.is_empty() || last == b"." {
            dest
        } else {
            above
        };
        let is_new = self.target.found(&self.target.resolve(&clean(dest))?)? == Found::Nothing;
        let ensure = self.target.resolve(ensure)?;
        self.target.make_directories(&ensure, made)?;

        let mut path = self.target.resolve(&clean(dest))?;
        let there = self.target.found(&path)?;
        let directory = root.entry.kind == Kind::Directory;
        if !directory && there == Found::Directory {
            path = join(&path, &head.name);
        }
        let needed = if directory && there == Found::Nothing {
            path.as_slice()
        } else {
            split(&path).0
        };
        self.target.make_directories(needed, made)?;
        if directory && self.target.found(&path)? != Found::Directory {
            return Err(not_a_directory(&path));
        }
        Ok(Place { path, is_new })
    }

    fn directory(&mut self, item: Item, path: Vec<u8>) -> Result<(), Error> {
        match self.target.found(&path)? {
            Found::Other => Err(not_a_directory(&path)),
            // A parent that is only there for what is below it takes the mode alone.
            Found::Directory if item.parent_only => self
                .target
                .update(&path, |entry| entry.mode = item.entry.mode),
            Found::Directory | Found::Nothing => {
                let mut entry = item.entry;
                entry.path = path;
                self.set_attributes(&mut entry);
                self.target.put(Change::new(entry))
            }
        }
    }

    fn file(
        &mut self,
        number: usize,
        inline: Option<usize>,
        item: Item,
        path: Vec<u8>,
    ) -> Result<(), Error> {
        if self.target.found(&path)? == Found::Directory {
            return Err(is_a_directory(&path));
        }
        let link = item
            .link
            .map(|(device, inode)| Box::new((number, device, inode)));
        let mut entry = item.entry;
        let source = std::mem::replace(&mut entry.path, path);
        self.set_attributes(&mut entry);
        let data = match (&entry.kind, inline) {
            (Kind::File { .. }, Some(index)) => Data::Inline(index),
            (Kind::File { .. }, None) => Data::Source(source),
            _ => Data::None,
        };
        self.target.put(Change { entry, data, link })
    }

    fn set_attributes(&self, entry: &mut Entry) {
        set_attributes(entry, self.owner, self.chmod.as_ref());
    }
}

/// Owner and mode as the instruction wants them.
pub(super) fn set_attributes(entry: &mut Entry, owner: Option<Owner>, chmod: Option<&Chmod>) {
    if let Some(Owner { uid, gid }) = owner {
        (entry.uid, entry.gid) = (uid, gid);
    }
    if let (Some(chmod), false) = (chmod, matches!(entry.kind, Kind::Symlink { .. })) {
        entry.mode = chmod.apply(entry.mode, entry.kind == Kind::Directory);
    }
}

pub(super) fn is_a_directory(path: &[u8]) -> Error {
    refuse(format!(
        "cannot replace to directory {} with file",
        show(path)
    ))
}

pub(super) fn not_a_directory(path: &[u8]) -> Error {
    refuse(format!("cannot copy to non-directory: {}", show(path)))
}
