//! The merged view over layers: lookups, listings, link resolution and content, by indexes alone.
//!
//! A directory that is in a layer only as somebody's parent does not change the attributes it has in the layers below;
//! an overlay mount of unpacked trees shows such a directory with mode 0755 instead. It writes nothing.

use super::LayerFiles;
use super::content::LayerContent;
use crate::Error;
use crate::layer::index::{Node, What, io_error};
use crate::layer::order::{join, show};
use crate::tree::{Entry, FileDigest, FileTree, Kind};
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::ffi::OsStr;
use std::io::{self, ErrorKind, Read};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::OnceLock;

/// Links followed in one path (Go's `filepath.EvalSymlinks` and its relatives stop there).
const LINK_LIMIT: usize = 255;

/// A merged view over layers, whiteouts applied.
#[derive(Debug)]
pub struct View {
    /// Topmost first.
    layers: Vec<Layer>,
    /// Names of hard links and of what they lead to, in all layers, visible or not.
    link_names: OnceLock<HashSet<Vec<u8>>>,
}

#[derive(Debug)]
struct Layer {
    content: LayerContent,
    /// Entries that other names of the layer lead to.
    linked: OnceLock<HashSet<usize>>,
}

/// Numbers of a layer, topmost first, and of an entry in its index.
type Place = (usize, usize);

/// What one layer says about a path.
enum Says {
    /// It has it.
    Entry(usize),
    /// It is gone: so the layers below do not matter.
    Gone,
    /// Nothing.
    Nothing,
}

impl View {
    /// Loads the indexes; reads no content. Layers come base first, as in a snapshot.
    ///
    /// # Errors
    /// A missing or damaged index.
    pub fn load(layers: &[LayerFiles]) -> Result<Self, Error> {
        let load = |files: &LayerFiles| {
            Ok(Layer {
                content: LayerContent::load(files)?,
                linked: OnceLock::new(),
            })
        };
        Ok(Self {
            layers: layers
                .iter()
                .rev()
                .map(load)
                .collect::<Result<_, Error>>()?,
            link_names: OnceLock::new(),
        })
    }

    /// Resolves symlinks inside the root as chroot would (at most 255 links); the last component only when `follow_last`.
    /// The result need not exist; missing components stay as they are.
    ///
    /// # Errors
    /// Too many links.
    pub fn resolve(&self, path: &[u8], follow_last: bool) -> Result<Vec<u8>, Error> {
        let mut todo: VecDeque<Vec<u8>> = components(path).map(<[u8]>::to_vec).collect();
        let mut done: Vec<u8> = Vec::new();
        let mut followed = 0;
        while let Some(name) = todo.pop_front() {
            if name == b".." {
                done.truncate(done.iter().rposition(|&b| b == b'/').unwrap_or(0));
                continue;
            }
            let next = join(&done, &name);
            if todo.is_empty() && !follow_last {
                return Ok(next);
            }
            let link = self.find(&next).and_then(|(layer, at)| {
                match self.layers[layer].content.index.node(at).what {
                    What::Symlink(target) => Some(target),
                    _ => None,
                }
            });
            let Some(target) = link else {
                done = next;
                continue;
            };
            followed += 1;
            if followed > LINK_LIMIT {
                return Err(os_error("resolve", path, rustix::io::Errno::LOOP.into()));
            }
            if target.starts_with(b"/") {
                done.clear();
            }
            for component in components(target).collect::<Vec<_>>().into_iter().rev() {
                todo.push_front(component.to_vec());
            }
        }
        Ok(done)
    }

    /// Reads a small file, links followed (`/etc/passwd`); `None` when it is missing.
    ///
    /// # Errors
    /// Unreadable, larger than `limit` bytes.
    pub fn read(&self, path: &[u8], limit: u64) -> Result<Option<Vec<u8>>, Error> {
        let path = self.resolve(path, true)?;
        let Some((layer, at)) = self.find(&path) else {
            return Ok(None);
        };
        let Some(Kind::File { size, .. }) = self.layers[layer].entry(at).map(|entry| entry.kind)
        else {
            return Err(os_error(
                "read",
                &path,
                io::Error::other("it is no regular file"),
            ));
        };
        if size > limit {
            let message =
                format!("it has {size} bytes, more than the {limit} expected of such a file");
            return Err(os_error("read", &path, io::Error::other(message)));
        }
        let mut content = Vec::new();
        self.open(&path)?
            .read_to_end(&mut content)
            .map_err(|e| os_error("read", &path, e))?;
        Ok(Some(content))
    }

    /// Where a path's topmost entry is.
    fn find(&self, path: &[u8]) -> Option<Place> {
        // A parent that no entry made has the attributes it has below, if it is there at all.
        let mut implied = None;
        for (number, layer) in self.layers.iter().enumerate() {
            match layer.says(path) {
                Says::Nothing => {}
                Says::Gone => break,
                Says::Entry(at) => {
                    let node = layer.content.index.node(at);
                    let directory = matches!(node.what, What::Directory { .. });
                    if implied.is_some() && !directory {
                        break;
                    }
                    if !node.implied {
                        return Some((number, at));
                    }
                    implied = implied.or(Some((number, at)));
                    if matches!(node.what, What::Directory { opaque: true }) {
                        break;
                    }
                }
            }
        }
        implied
    }

    /// Names in a directory, each with where its topmost entry is.
    fn names(&self, path: &[u8]) -> Result<Vec<(Vec<u8>, Place)>, Error> {
        // The topmost layer that says something about a name decides.
        let mut names: BTreeMap<Vec<u8>, Option<Place>> = BTreeMap::new();
        let mut found = path.is_empty();
        for (number, layer) in self.layers.iter().enumerate() {
            let opaque = match layer.says(path) {
                // The root needs no entry.
                Says::Nothing if path.is_empty() => false,
                Says::Nothing => continue,
                Says::Gone => break,
                Says::Entry(at) => match layer.content.index.node(at).what {
                    What::Directory { opaque } => opaque,
                    _ if found => break,
                    _ => return Err(os_error("list", path, ErrorKind::NotADirectory.into())),
                },
            };
            found = true;
            layer.content.index.children(path, &mut |at, name| {
                let visible = layer.content.index.node(at).what != What::Whiteout;
                names
                    .entry(name.to_vec())
                    .or_insert(visible.then_some((number, at)));
            });
            if opaque {
                break;
            }
        }
        if !found {
            return Err(os_error("list", path, ErrorKind::NotFound.into()));
        }
        Ok(names
            .into_iter()
            .filter_map(|(name, place)| Some((name, place?)))
            .collect())
    }

    /// What cannot be opened and belongs to others than root, in any layer, the topmost first.
    pub(crate) fn unopened_of_others(&self) -> impl Iterator<Item = Node<'_>> {
        let nodes = self
            .layers
            .iter()
            .flat_map(|layer| layer.content.index.nodes());
        nodes.filter(|node| {
            (node.uid, node.gid) != (0, 0)
                && matches!(
                    node.what,
                    What::Symlink(_) | What::Fifo | What::Char(..) | What::Block(..)
                )
        })
    }

    /// Whether the file at a path has other names (hard links).
    pub(crate) fn has_links(&self, path: &[u8]) -> bool {
        // Few have, and a search in each layer for each file takes its time.
        if !self.link_names().contains(path) {
            return false;
        }
        let Some((layer, at)) = self.find(path) else {
            return false;
        };
        let Layer { content, linked } = &self.layers[layer];
        let index = &content.index;
        let linked = linked.get_or_init(|| {
            let targets = index.nodes().filter_map(|node| match node.what {
                What::Hardlink(target) => index.find(target),
                _ => None,
            });
            targets.collect()
        });
        index
            .target(at)
            .is_some_and(|target| linked.contains(&target))
    }

    fn link_names(&self) -> &HashSet<Vec<u8>> {
        self.link_names.get_or_init(|| {
            let layers = self.layers.iter();
            let nodes = layers.flat_map(|layer| layer.content.index.nodes());
            let names = nodes.filter_map(|node| match node.what {
                What::Hardlink(target) => Some([node.path.to_vec(), target.to_vec()]),
                _ => None,
            });
            names.flatten().collect()
        })
    }

    /// The regular file behind a path.
    fn file(&self, path: &[u8]) -> Result<(&Layer, usize), Error> {
        let missing = || os_error("open", path, ErrorKind::NotFound.into());
        let (layer, at) = self.find(path).ok_or_else(missing)?;
        let layer = &self.layers[layer];
        let target = layer.content.index.target(at).ok_or_else(missing)?;
        match layer.content.index.node(target).what {
            What::File { .. } => Ok((layer, target)),
            _ => Err(os_error(
                "open",
                path,
                io::Error::other("it is no regular file"),
            )),
        }
    }
}

impl Layer {
    /// What this layer alone says about a path.
    fn says(&self, path: &[u8]) -> Says {
        if let Some(at) = self.content.index.find(path) {
            return if self.content.index.node(at).what == What::Whiteout {
                Says::Gone
            } else {
                Says::Entry(at)
            };
        }
        // Parents have entries always, implied ones at least: the first that is missing ends the search.
        let ends = path
            .iter()
            .enumerate()
            .filter(|(_, b)| **b == b'/')
            .map(|(at, _)| at);
        for end in std::iter::once(0)
            .chain(ends)
            .filter(|end| *end < path.len())
        {
            let Some(at) = self.content.index.find(&path[..end]) else {
                if end == 0 {
                    continue;
                } else {
                    return Says::Nothing;
                }
            };
            if !matches!(
                self.content.index.node(at).what,
                What::Directory { opaque: false }
            ) {
                return Says::Gone;
            }
        }
        Says::Nothing
    }

    /// Entry `at`, hard links as what they lead to.
    fn entry(&self, at: usize) -> Option<Entry> {
        let mut entry = self
            .content
            .index
            .node(self.content.index.target(at)?)
            .to_entry()?;
        entry.path = self.content.index.path(at).to_vec();
        Some(entry)
    }
}

impl FileTree for View {
    fn entry(&self, path: &[u8]) -> Result<Option<Entry>, Error> {
        let found = self
            .find(path)
            .and_then(|(layer, at)| self.layers[layer].entry(at));
        if found.is_none() && path.is_empty() {
            let (mode, mtime) = (0o755, 0);
            let kind = Kind::Directory;
            return Ok(Some(Entry {
                path: Vec::new(),
                kind,
                mode,
                uid: 0,
                gid: 0,
                mtime,
                xattrs: Vec::new(),
            }));
        }
        Ok(found)
    }

    fn list(&self, path: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
        Ok(self
            .names(path)?
            .into_iter()
            .map(|(name, _)| name)
            .collect())
    }

    fn children(&self, path: &[u8]) -> Result<Vec<(Vec<u8>, Entry)>, Error> {
        let mut children = Vec::new();
        for (name, (number, at)) in self.names(path)? {
            let layer = &self.layers[number];
            // What a directory without an entry of its own is like, the layers below say.
            let entry = if layer.content.index.node(at).implied {
                self.entry(layer.content.index.path(at))?
            } else {
                layer.entry(at)
            };
            children.extend(entry.map(|entry| (name, entry)));
        }
        Ok(children)
    }

    fn open(&self, path: &[u8]) -> Result<Box<dyn Read + Send + '_>, Error> {
        let (layer, at) = self.file(path)?;
        layer.content.open(at)
    }

    fn digest(&self, path: &[u8]) -> Result<FileDigest, Error> {
        let (layer, at) = self.file(path)?;
        match layer.content.index.node(at).what {
            What::File { digest, .. } => Ok(digest),
            _ => Err(os_error(
                "open",
                path,
                io::Error::other("it is no regular file"),
            )),
        }
    }

    fn link_id(&self, path: &[u8]) -> Option<(u64, u64)> {
        let (layer, at) = self.find(path)?;
        let target = self.layers[layer].content.index.target(at)?;
        Some((layer as u64, target as u64))
    }
}

/// Components that say something; `..` stays.
fn components(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|&b| b == b'/')
        .filter(|c| !c.is_empty() && *c != b".")
}

fn os_error(op: &'static str, path: &[u8], source: io::Error) -> Error {
    io_error(
        op,
        Path::new(OsStr::from_bytes(show(path).as_bytes())),
        source,
    )
}
