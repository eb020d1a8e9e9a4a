//! Several trees as one: the one that paths are read from, and those of sources that have an input of their own.
//!
//! An input's entries lie below a folder whose name no file can have, so that nothing else leads there.

use super::CopySourceFiles;
use super::paths::join;
use crate::Error;
use crate::snapshot::View;
use crate::tree::{Child, Entry, FileDigest, FileTree};
use std::io::Read;

/// The trees.
#[derive(Debug)]
pub(super) struct Mixed<'a> {
    pub(super) main: CopySourceFiles<'a>,
    pub(super) inputs: Vec<(usize, View)>,
}

/// Where the entries of an input are.
pub(super) fn folder(input: usize) -> Vec<u8> {
    format!("\0{input}").into_bytes()
}

/// A path as it is in its own tree.
pub(super) fn own_path(path: &[u8]) -> &[u8] {
    if path.first() != Some(&0) {
        return path;
    }
    let end = path.iter().position(|&byte| byte == b'/');
    end.map_or(b"", |end| &path[end + 1..])
}

impl<'a> Mixed<'a> {
    fn tree<'p>(&self, path: &'p [u8]) -> (&dyn FileTree, &'p [u8]) {
        let found = path.strip_prefix(b"\0").and_then(|rest| {
            let name = rest.split(|&byte| byte == b'/').next()?;
            let number: usize = std::str::from_utf8(name).ok()?.parse().ok()?;
            self.inputs.iter().find(|(input, _)| *input == number)
        });
        match found {
            Some((_, view)) => (view, own_path(path)),
            None => (self.main.tree(), path),
        }
    }

    /// An entry under the path that it has here.
    fn moved(path: &[u8], mut entry: Entry) -> Entry {
        if path.first() == Some(&0) {
            Self::move_under(path, &mut entry);
        }
        entry
    }

    fn move_under(path: &[u8], entry: &mut Entry) {
        let end = path.iter().position(|&byte| byte == b'/');
        let folder = &path[..end.unwrap_or(path.len())];
        entry.path = join(folder, &entry.path);
    }
}

impl FileTree for Mixed<'_> {
    fn entry(&self, path: &[u8]) -> Result<Option<Entry>, Error> {
        let (tree, own) = self.tree(path);
        Ok(tree.entry(own)?.map(|entry| Self::moved(path, entry)))
    }

    fn list(&self, path: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
        let (tree, own) = self.tree(path);
        tree.list(own)
    }

    fn open(&self, path: &[u8]) -> Result<Box<dyn Read + Send + '_>, Error> {
        let (tree, own) = self.tree(path);
        tree.open(own)
    }

    fn digest(&self, path: &[u8]) -> Result<FileDigest, Error> {
        let (tree, own) = self.tree(path);
        tree.digest(own)
    }

    fn children(&self, path: &[u8]) -> Result<Vec<(Vec<u8>, Entry)>, Error> {
        let (tree, own) = self.tree(path);
        let children = tree.children(own)?.into_iter();
        Ok(children
            .map(|(name, entry)| (name, Self::moved(path, entry)))
            .collect())
    }

    fn walk(&self, path: &[u8]) -> Result<Vec<Child>, Error> {
        let (tree, own) = self.tree(path);
        let mut children = tree.walk(own)?;
        if path.first() == Some(&0) {
            for child in &mut children {
                Self::move_under(path, &mut child.entry);
            }
        }
        Ok(children)
    }

    fn complete(&self, children: &mut [&mut Child]) -> Result<(), Error> {
        let (mut own, mut others): (Vec<&mut Child>, Vec<&mut Child>) = children
            .iter_mut()
            .map(|child| &mut **child)
            .partition(|child| child.entry.path.first() != Some(&0));
        self.main.tree().complete(&mut own)?;
        for child in &mut others {
            let here = std::mem::take(&mut child.entry.path);
            let (tree, path) = self.tree(&here);
            child.entry.path = path.to_vec();
            tree.complete(&mut [child])?;
            child.entry.path = here;
        }
        Ok(())
    }

    fn hidden_by(&self, path: &[u8]) -> Option<String> {
        let (tree, own) = self.tree(path);
        tree.hidden_by(own)
    }

    fn link_id(&self, path: &[u8]) -> Option<(u64, u64)> {
        let (tree, own) = self.tree(path);
        tree.link_id(own)
    }
}
