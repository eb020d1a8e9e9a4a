//! The destination as it will be: the root file system below, and the entries that the new layer changes.
//!
//! It decides nothing about what is copied; it answers what is at a path now, and keeps changes consistent: parents of a
//! change are part of the layer too, and what replaces a directory hides what was in it.

use super::owner::Owner;
use super::paths::{join, refuse, resolve, show, split};
use crate::Error;
use crate::snapshot::View;
use crate::tree::{Entry, FileTree, Kind};
use std::collections::{HashMap, HashSet};

/// Where a changed file's content comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Data {
    /// No content.
    None,
    /// A path of the source tree.
    Source(Vec<u8>),
    /// A path of the root file system below.
    Base(Vec<u8>),
    /// A heredoc: index of the source.
    Inline(usize),
    /// A part of the spool file that archives are unpacked into.
    Spool {
        /// Start.
        offset: u64,
    },
}

/// Changed files with the same key are one file.
pub(super) type LinkKey = (usize, u64, u64);

/// An entry of the new layer.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) entry: Entry,
    pub(super) data: Data,
    /// Few have one.
    pub(super) link: Option<Box<LinkKey>>,
}

impl Change {
    /// An entry without content.
    pub(super) fn new(entry: Entry) -> Self {
        Self {
            entry,
            data: Data::None,
            link: None,
        }
    }
}

/// What a path has now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Found {
    Nothing,
    Directory,
    Other,
}

/// What a layer holds.
#[derive(Debug)]
pub(super) struct Finished {
    /// In canonical order.
    #[allow(
        clippy::vec_box,
        reason = "as they are in the map: sorting moves pointers"
    )]
    pub(super) changes: Vec<Box<Change>>,
    /// Paths of the base that are gone.
    pub(super) whiteouts: Vec<Vec<u8>>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Target<'a> {
    base: Option<&'a View>,
    /// By path; the entries' own paths are empty until the end.
    changes: HashMap<Vec<u8>, Box<Change>>,
    /// Directories that were not there: the base has nothing below them.
    fresh: HashSet<Vec<u8>>,
    /// Directories of the base that were replaced.
    gone: HashSet<Vec<u8>>,
    /// Owner of what is made on the way.
    pub(super) owner: Option<Owner>,
}

impl<'a> Target<'a> {
    pub(super) fn new(base: Option<&'a View>, owner: Option<Owner>) -> Self {
        Self {
            base,
            changes: HashMap::new(),
            fresh: HashSet::new(),
            gone: HashSet::new(),
            owner,
        }
    }

    /// Makes room for more entries at once: growing by doubling leaves holes in memory.
    pub(super) fn expect(&mut self, more: usize) {
        self.changes.reserve(more);
    }

    /// The entry at a path, links not followed.
    pub(super) fn lookup(&self, path: &[u8]) -> Result<Option<Entry>, Error> {
        if let Some(change) = self.changes.get(path) {
            return Ok(Some(change.entry.clone()));
        }
        self.base_entry(path)
    }

    pub(super) fn found(&self, path: &[u8]) -> Result<Found, Error> {
        if path.is_empty() {
            return Ok(Found::Directory);
        }
        let found = |kind: &Kind| {
            if *kind == Kind::Directory {
                Found::Directory
            } else {
                Found::Other
            }
        };
        if let Some(change) = self.changes.get(path) {
            return Ok(found(&change.entry.kind));
        }
        Ok(self
            .base_entry(path)?
            .map_or(Found::Nothing, |entry| found(&entry.kind)))
    }

    fn base_entry(&self, path: &[u8]) -> Result<Option<Entry>, Error> {
        let Some(base) = self.base else {
            return Ok(None);
        };
        if !path.is_empty() && self.is_fresh_below(split(path).0) {
            return Ok(None);
        }
        base.entry(path)
    }

    /// Whether the base has nothing (left) in a directory.
    fn is_fresh_below(&self, directory: &[u8]) -> bool {
        if self.fresh.contains(directory) {
            return true;
        }
        if self.gone.is_empty() {
            return false;
        }
        let mut at = directory;
        while !at.is_empty() {
            if self.gone.contains(at) {
                return true;
            }
            at = split(at).0;
        }
        false
    }

    /// Follows links inside the root.
    pub(super) fn resolve(&self, path: &[u8]) -> Result<Vec<u8>, Error> {
        resolve(path, &|path| self.lookup(path))
    }

    /// As [`Target::resolve`], with a resolved directory as the root that nothing leads out of.
    pub(super) fn resolve_in(&self, root: &[u8], path: &[u8]) -> Result<Vec<u8>, Error> {
        let inside = resolve(path, &|path| self.lookup(&join(root, path)))?;
        Ok(join(root, &inside))
    }

    /// Makes a directory and its parents where they are missing. `path` is resolved.
    pub(super) fn make_directories(&mut self, path: &[u8], mode: u32) -> Result<(), Error> {
        self.make_directories_of(path, mode, self.owner)
    }

    /// The same for an owner. What is made in a set-group-id directory is set-group-id too, and of its group unless the owner
    /// is given, as `mkdir` does it.
    pub(super) fn make_directories_of(
        &mut self,
        path: &[u8],
        mode: u32,
        owner: Option<Owner>,
    ) -> Result<(), Error> {
        match self.found(path)? {
            Found::Directory => return Ok(()),
            Found::Other => return Err(refuse(format!("mkdir {}: not a directory", show(path)))),
            Found::Nothing => {}
        }
        let above = split(path).0;
        self.make_directories_of(above, mode, owner)?;
        let inherited = self
            .lookup(above)?
            .filter(|above| above.mode & 0o2000 != 0)
            .map(|above| above.gid);
        let Owner { uid, gid } = owner.unwrap_or(Owner {
            uid: 0,
            gid: inherited.unwrap_or(0),
        });
        let entry = Entry {
            path: path.to_vec(),
            kind: Kind::Directory,
            mode: mode & 0o777 | if inherited.is_some() { 0o2000 } else { 0 },
            uid,
            gid,
            mtime: 0,
            xattrs: Vec::new(),
        };
        self.put(Change::new(entry))
    }

    /// Sets an entry at its path; its parent is a directory. A directory over a directory keeps what is in it.
    pub(super) fn put(&mut self, mut change: Change) -> Result<(), Error> {
        let path = std::mem::take(&mut change.entry.path);
        if let Some(known) = self.changes.get_mut(&path)
            && known.entry.kind != Kind::Directory
            && change.entry.kind != Kind::Directory
        {
            **known = change;
            return Ok(());
        }
        let before = self.found(&path)?;
        let directory = change.entry.kind == Kind::Directory;
        if before == Found::Directory && !directory {
            self.remove_below(&path);
        }
        if before != Found::Directory && directory {
            self.fresh.insert(path.clone());
        }
        self.keep_parents(&path)?;
        self.changes.insert(path, Box::new(change));
        Ok(())
    }

    /// Changes what is there; the entry is part of the layer from now on.
    pub(super) fn update(
        &mut self,
        path: &[u8],
        change: impl FnOnce(&mut Entry),
    ) -> Result<(), Error> {
        // The root has no entry in a layer.
        if path.is_empty() {
            return Ok(());
        }
        if let Some(known) = self.changes.get_mut(path) {
            change(&mut known.entry);
            return Ok(());
        }
        let Some(mut entry) = self.base_entry(path)? else {
            return Ok(());
        };
        let before = entry.clone();
        change(&mut entry);
        if entry != before {
            self.keep_parents(path)?;
            let change = Box::new(Change::new(entry));
            self.changes.insert(path.to_vec(), change);
        }
        Ok(())
    }

    /// A change that makes `path` another name of the file at `existing`. A file of the base becomes part of the layer with
    /// it, since links between layers cannot be written. `None` when there is no such file.
    pub(super) fn linked(&mut self, existing: &[u8], path: &[u8]) -> Result<Option<Change>, Error> {
        if let Some(known) = self.changes.get(existing) {
            if known.entry.kind == Kind::Directory {
                return Ok(None);
            }
            let mut change = Change::clone(known);
            change.entry.path = path.to_vec();
            return Ok(Some(change));
        }
        let Some(entry) = self
            .base_entry(existing)?
            .filter(|entry| entry.kind != Kind::Directory)
        else {
            return Ok(None);
        };
        let link = Some(Box::new((usize::MAX, u64::MAX, self.changes.len() as u64)));
        let data = if matches!(entry.kind, Kind::File { .. }) {
            Data::Base(existing.to_vec())
        } else {
            Data::None
        };
        let mut change = Change { entry, data, link };
        self.put(change.clone())?;
        change.entry.path = path.to_vec();
        Ok(Some(change))
    }

    /// Existing parents of a change are listed with the attributes that they have, as BuildKit's layers do.
    fn keep_parents(&mut self, path: &[u8]) -> Result<(), Error> {
        let mut at = split(path).0;
        while !at.is_empty() && !self.changes.contains_key(at) {
            if let Some(entry) = self.base_entry(at)? {
                let change = Box::new(Change::new(entry));
                self.changes.insert(at.to_vec(), change);
            }
            at = split(at).0;
        }
        Ok(())
    }

    /// A directory stops being one.
    fn remove_below(&mut self, path: &[u8]) {
        let below = |other: &Vec<u8>| {
            other.len() > path.len() && other.starts_with(path) && other[path.len()] == b'/'
        };
        self.changes.retain(|other, _| !below(other));
        self.fresh.retain(|other| !below(other) && other != path);
        self.gone.retain(|other| !below(other));
        self.gone.insert(path.to_vec());
    }

    /// The layer: changes in canonical order, and whiteouts for what replaced directories of the base hide.
    pub(super) fn finish(self) -> Result<Finished, Error> {
        let mut whiteouts = Vec::new();
        if let Some(base) = self.base {
            for path in &self.gone {
                self.hide(base, path, &mut whiteouts)?;
            }
        }
        let with_path = |(path, mut change): (Vec<u8>, Box<Change>)| {
            change.entry.path = path;
            change
        };
        let mut changes: Vec<Box<Change>> = self.changes.into_iter().map(with_path).collect();
        changes.sort_unstable_by(|a, b| crate::layer::compare(&a.entry.path, &b.entry.path));
        number_links(&mut changes);
        Ok(Finished { changes, whiteouts })
    }

    /// A directory that came again at a path must not show what the base has in it.
    fn hide(&self, base: &View, path: &[u8], whiteouts: &mut Vec<Vec<u8>>) -> Result<(), Error> {
        let again = self
            .changes
            .get(path)
            .is_some_and(|change| change.entry.kind == Kind::Directory);
        if !again
            || base
                .entry(path)?
                .is_none_or(|entry| entry.kind != Kind::Directory)
        {
            return Ok(());
        }
        for name in base.list(path)? {
            let child = join(path, &name);
            if self.changes.contains_key(&child) {
                self.hide(base, &child, whiteouts)?;
            } else {
                whiteouts.push(child);
            }
        }
        Ok(())
    }
}

/// The first of the files that are one file has the content; the others become hard links to it.
fn number_links(changes: &mut [Box<Change>]) {
    let mut first: HashMap<LinkKey, usize> = HashMap::new();
    for at in 0..changes.len() {
        let Some(link) = changes[at].link.as_deref().copied() else {
            continue;
        };
        match first.get(&link) {
            None => {
                first.insert(link, at);
            }
            Some(&leader) => {
                let target = changes[leader].entry.path.clone();
                let kept = changes[leader].entry.clone();
                let change = &mut changes[at];
                change.entry = Entry {
                    path: std::mem::take(&mut change.entry.path),
                    kind: Kind::Hardlink { target },
                    ..kept
                };
                change.data = Data::None;
            }
        }
    }
}
