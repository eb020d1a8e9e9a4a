//! What the entries of a foreign layer mean: paths made clean and resolved inside the layer, later entries over earlier
//! ones, whiteouts, opaque directories, missing parents, hard links.
//!
//! It sees entries one by one and says where each belongs; it moves no content. Whiteouts only speak of the layers below
//! (image-spec layer.md#whiteouts): with an entry of the same path they make a directory opaque and otherwise say nothing.

use super::index::{IndexBuilder, Node, What};
use super::order::{OPAQUE_MARKER, WHITEOUT_PREFIX, clean};
use super::tar_reader::RawEntry;
use super::xattr::{encode_xattrs, kept_xattrs};
use crate::tree::FileDigest;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Links followed in one path, as the kernel does.
const LINK_LIMIT: usize = 40;

/// Bounds on what a foreign layer may hold; beyond them it is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Limits {
    /// Entries.
    pub entries: u64,
    /// Bytes of paths, link targets and xattrs together.
    pub metadata: u64,
    /// Bytes of the uncompressed tar.
    pub tar: u64,
}

impl Default for Limits {
    /// Four million entries, 1 GiB of names, 64 GiB of tar.
    fn default() -> Self {
        Self {
            entries: 4_000_000,
            metadata: 1 << 30,
            tar: 64 << 30,
        }
    }
}

/// What is known of a path. Paths are kept as keys: `/` replaced by NUL, so that plain byte order is canonical order.
#[derive(Clone, Debug)]
struct Draft {
    what: DraftWhat,
    implied: bool,
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: i64,
    xattrs: Box<[u8]>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum DraftWhat {
    Directory {
        opaque: bool,
    },
    File {
        size: u64,
        offset: u64,
        digest: FileDigest,
    },
    Symlink(Box<[u8]>),
    Hardlink(Box<[u8]>),
    Char(u32, u32),
    Block(u32, u32),
    Fifo,
    Whiteout,
}

/// Where an entry belongs and what must be done for it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Placed {
    /// Path inside the layer, no link on the way.
    pub(crate) path: Vec<u8>,
    /// What.
    pub(crate) action: Action,
    /// Something of another kind (or any file) was there and goes.
    pub(crate) replaces: bool,
    /// Parents that no entry made yet, outermost first.
    pub(crate) parents: Vec<Vec<u8>>,
}

/// What to do for an entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Action {
    /// Nothing: metadata of other tools, or said already.
    Nothing,
    /// A directory, new or with new attributes.
    Directory {
        /// It took the place of a whiteout, or is opaque already.
        opaque: bool,
    },
    /// A regular file whose content follows.
    File,
    /// A symbolic link.
    Symlink,
    /// A hard link to a path of the layer.
    Hardlink(Vec<u8>),
    /// A device.
    Device,
    /// A FIFO.
    Fifo,
    /// Hides the path below.
    Whiteout,
    /// Hides what the directory holds below.
    Opaque,
}

/// Gathers a layer's entries.
#[derive(Debug)]
pub(crate) struct Collector {
    drafts: BTreeMap<Vec<u8>, Draft>,
    /// Hard links by their target's key.
    links: BTreeMap<Vec<u8>, Vec<Vec<u8>>>,
    limits: Limits,
    entries: u64,
    metadata: u64,
    /// Key of a directory known to be there, to spare the walk for its neighbours.
    known_dir: Option<Vec<u8>>,
}

impl Collector {
    /// Of nothing.
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            drafts: BTreeMap::new(),
            links: BTreeMap::new(),
            limits,
            entries: 0,
            metadata: 0,
            known_dir: None,
        }
    }

    /// Takes an entry; an error is the reason to refuse the layer. File content is told by [`Collector::content`].
    pub(crate) fn place(&mut self, raw: &RawEntry) -> Result<Placed, String> {
        self.entries += 1;
        let xattrs: usize = raw
            .xattrs
            .iter()
            .map(|(name, value)| name.len() + value.len())
            .sum();
        self.metadata += (raw.name.len() + raw.link.len() + xattrs) as u64;
        if self.entries > self.limits.entries {
            return Err(format!("more than {} entries", self.limits.entries));
        }
        if self.metadata > self.limits.metadata {
            return Err(format!(
                "more than {} bytes of names and attributes",
                self.limits.metadata
            ));
        }
        let components = clean(&raw.name)?;
        let Some((&name, parents)) = components.split_last() else {
            return self.root(raw);
        };
        let mut made = Vec::new();
        let dir = self.directory(parents, &mut made)?;
        if let Some(hidden) = name.strip_prefix(WHITEOUT_PREFIX) {
            return self.marker(&dir, name, hidden, made);
        }
        let key = child(&dir, name);
        if raw.flag == b'3' && raw.device == (0, 0) {
            return Ok(self.whiteout(key, made));
        }
        self.put(key, raw, made)
    }

    fn root(&mut self, raw: &RawEntry) -> Result<Placed, String> {
        if raw.flag != b'5' {
            return Err("the root is no directory".into());
        }
        self.put(Vec::new(), raw, Vec::new())
    }

    /// Key of the directory that these components lead to, links of the layer followed; makes what is missing.
    fn directory(
        &mut self,
        components: &[&[u8]],
        made: &mut Vec<Vec<u8>>,
    ) -> Result<Vec<u8>, String> {
        let wanted = components.join(&0);
        if self.known_dir.as_ref() == Some(&wanted) {
            return Ok(wanted);
        }
        let key = self
            .resolve(components, Some(made))?
            .expect("BUG: missing directories are made");
        if key == wanted {
            self.known_dir = Some(wanted);
        }
        Ok(key)
    }

    /// Walks directories from the root. With `made`, missing ones are made; without, they end the walk with `None`.
    fn resolve(
        &mut self,
        components: &[&[u8]],
        mut made: Option<&mut Vec<Vec<u8>>>,
    ) -> Result<Option<Vec<u8>>, String> {
        let mut key: Vec<u8> = Vec::new();
        let mut todo: Vec<Vec<u8>> = components.iter().rev().map(|c| c.to_vec()).collect();
        let mut followed = 0;
        while let Some(name) = todo.pop() {
            if name == b".." {
                key.truncate(key.iter().rposition(|&b| b == 0).unwrap_or(0));
                continue;
            }
            let next = child(&key, &name);
            match self.drafts.get(&next).map(|draft| &draft.what) {
                Some(DraftWhat::Directory { .. }) => key = next,
                Some(DraftWhat::Symlink(target)) => {
                    followed += 1;
                    if followed > LINK_LIMIT {
                        return Err("too many links on the way".into());
                    }
                    if target.starts_with(b"/") {
                        key.clear();
                    }
                    let parts = target
                        .split(|&b| b == b'/')
                        .filter(|c| !c.is_empty() && *c != b".");
                    todo.extend(parts.rev().map(<[u8]>::to_vec));
                }
                Some(DraftWhat::Whiteout) | None => {
                    let Some(made) = made.as_deref_mut() else {
                        return Ok(None);
                    };
                    if next.len() > 4095 {
                        return Err("links lead to a path that is too long".into());
                    }
                    let opaque = self.drafts.contains_key(&next);
                    self.drafts.insert(next.clone(), Draft::implied(opaque));
                    made.push(path_of(&next));
                    key = next;
                }
                Some(_) => {
                    return Err(format!(
                        "its parent {} is no directory",
                        super::order::show(&path_of(&next))
                    ));
                }
            }
        }
        Ok(Some(key))
    }

    /// A `.wh.` name.
    fn marker(
        &mut self,
        dir: &[u8],
        name: &[u8],
        hidden: &[u8],
        parents: Vec<Vec<u8>>,
    ) -> Result<Placed, String> {
        if name == OPAQUE_MARKER {
            if !dir.is_empty() || self.drafts.contains_key(dir) {
                if let Some(Draft {
                    what: DraftWhat::Directory { opaque },
                    ..
                }) = self.drafts.get_mut(dir)
                {
                    *opaque = true;
                }
            } else {
                self.drafts.insert(Vec::new(), Draft::implied(true));
            }
            return Ok(Placed {
                path: path_of(dir),
                action: Action::Opaque,
                replaces: false,
                parents,
            });
        }
        if hidden.starts_with(WHITEOUT_PREFIX) {
            // Bookkeeping of aufs, which its tools left in layers.
            return Ok(Placed {
                path: path_of(dir),
                action: Action::Nothing,
                replaces: false,
                parents,
            });
        }
        if matches!(hidden, b"" | b"." | b"..") {
            return Err("a whiteout of nothing".into());
        }
        Ok(self.whiteout(child(dir, hidden), parents))
    }

    fn whiteout(&mut self, key: Vec<u8>, parents: Vec<Vec<u8>>) -> Placed {
        let path = path_of(&key);
        let action = match self.drafts.get_mut(&key).map(|draft| &mut draft.what) {
            Some(DraftWhat::Directory { opaque }) => {
                *opaque = true;
                Action::Opaque
            }
            Some(_) => Action::Nothing,
            None => {
                self.drafts.insert(key, Draft::whiteout());
                Action::Whiteout
            }
        };
        Placed {
            path,
            action,
            replaces: false,
            parents,
        }
    }

    /// An entry of its own at a place.
    fn put(
        &mut self,
        key: Vec<u8>,
        raw: &RawEntry,
        parents: Vec<Vec<u8>>,
    ) -> Result<Placed, String> {
        let (mut what, mut action) = self.classify(raw, &key)?;
        let path = path_of(&key);
        if action == Action::Nothing {
            return Ok(Placed {
                path,
                action,
                replaces: false,
                parents,
            });
        }
        let mut replaces = false;
        match (self.drafts.get(&key).map(|draft| &draft.what), &mut what) {
            (Some(DraftWhat::Directory { opaque: known }), DraftWhat::Directory { opaque }) => {
                *opaque = *known;
            }
            (Some(DraftWhat::Whiteout), DraftWhat::Directory { opaque }) => {
                *opaque = true;
                replaces = true;
            }
            (Some(_), _) => replaces = true,
            (None, _) => {}
        }
        if let DraftWhat::Directory { opaque } = what {
            action = Action::Directory { opaque };
        }
        if replaces {
            self.remove(&key);
        }
        if let DraftWhat::Hardlink(target) = &what {
            self.links
                .entry(target.to_vec())
                .or_default()
                .push(key.clone());
        }
        let linked = matches!(what, DraftWhat::Hardlink(_));
        let draft = Draft {
            what,
            implied: false,
            // Linux has no modes of links; trees show this one.
            mode: if raw.flag == b'2' { 0o777 } else { raw.mode },
            uid: raw.uid,
            gid: raw.gid,
            mtime: raw.mtime,
            xattrs: if linked {
                Box::default()
            } else {
                encode_xattrs(&kept_xattrs(&raw.xattrs)).into_boxed_slice()
            },
        };
        self.drafts.insert(key, draft);
        Ok(Placed {
            path,
            action,
            replaces,
            parents,
        })
    }

    fn classify(&mut self, raw: &RawEntry, key: &[u8]) -> Result<(DraftWhat, Action), String> {
        Ok(match raw.flag {
            b'5' => (
                DraftWhat::Directory { opaque: false },
                Action::Directory { opaque: false },
            ),
            0 | b'0' | b'7' => (
                DraftWhat::File {
                    size: raw.size,
                    offset: raw.offset,
                    digest: [0; 32],
                },
                Action::File,
            ),
            b'2' => {
                if raw.link.is_empty() || raw.link.contains(&0) {
                    return Err("a symbolic link to nothing".into());
                }
                (
                    DraftWhat::Symlink(raw.link.clone().into_boxed_slice()),
                    Action::Symlink,
                )
            }
            b'1' => {
                let target = self.link_target(&raw.link)?;
                let action = if target == key {
                    Action::Nothing
                } else {
                    Action::Hardlink(path_of(&target))
                };
                (DraftWhat::Hardlink(target.into_boxed_slice()), action)
            }
            b'3' => (DraftWhat::Char(raw.device.0, raw.device.1), Action::Device),
            b'4' => (DraftWhat::Block(raw.device.0, raw.device.1), Action::Device),
            b'6' => (DraftWhat::Fifo, Action::Fifo),
            other => {
                return Err(format!(
                    "an entry of the unknown type {:?}",
                    char::from(other)
                ));
            }
        })
    }

    /// Key of the file that a hard link leads to.
    fn link_target(&mut self, link: &[u8]) -> Result<Vec<u8>, String> {
        let shown = super::order::show(link);
        let components =
            clean(link).map_err(|reason| format!("its hard link target {shown}: {reason}"))?;
        let missing = || format!("its hard link target {shown} is not in the layer");
        let (&name, parents) = components.split_last().ok_or_else(missing)?;
        let dir = self.resolve(parents, None)?.ok_or_else(missing)?;
        let key = child(&dir, name);
        match self.drafts.get(&key).map(|draft| &draft.what) {
            Some(DraftWhat::Hardlink(target)) => Ok(target.to_vec()),
            Some(DraftWhat::Directory { .. }) => {
                Err(format!("its hard link target {shown} is a directory"))
            }
            Some(DraftWhat::Whiteout) | None => Err(missing()),
            Some(_) => Ok(key),
        }
    }

    /// Removes what is at a place, with everything below it. Hard links to it live on.
    fn remove(&mut self, key: &[u8]) {
        self.known_dir = None;
        if !key.is_empty()
            && matches!(
                self.drafts.get(key),
                Some(Draft {
                    what: DraftWhat::Directory { .. },
                    ..
                })
            )
        {
            let (from, to) = (child(key, b""), [key, &[1]].concat());
            let below: Vec<Vec<u8>> = self
                .drafts
                .range(from..to)
                .map(|(key, _)| key.clone())
                .collect();
            for key in &below {
                self.remove_one(key);
            }
        }
        self.remove_one(key);
    }

    fn remove_one(&mut self, key: &[u8]) {
        let Some(draft) = self.drafts.remove(key) else {
            return;
        };
        let Some(links) = self.links.remove(key) else {
            return;
        };
        let is_link = |drafts: &BTreeMap<Vec<u8>, Draft>, link: &[u8]| matches!(drafts.get(link), Some(Draft { what: DraftWhat::Hardlink(target), .. }) if **target == *key);
        let mut living = links
            .into_iter()
            .filter(|link| is_link(&self.drafts, link))
            .collect::<Vec<_>>()
            .into_iter();
        let Some(heir) = living.next() else { return };
        let rest: Vec<Vec<u8>> = living.collect();
        for link in &rest {
            if let Some(draft) = self.drafts.get_mut(link) {
                draft.what = DraftWhat::Hardlink(heir.clone().into_boxed_slice());
            }
        }
        self.drafts.insert(heir.clone(), draft);
        if !rest.is_empty() {
            self.links.insert(heir, rest);
        }
    }

    /// Tells the content digest of a file placed before.
    pub(crate) fn content(&mut self, path: &[u8], found: FileDigest) {
        if let Some(Draft {
            what: DraftWhat::File { digest, .. },
            ..
        }) = self.drafts.get_mut(&key_of(path))
        {
            *digest = found;
        }
    }

    /// The entries in canonical order.
    pub(crate) fn finish(self) -> IndexBuilder {
        let mut index = IndexBuilder::default();
        // A link may come before its target in canonical order; both are looked up by path.
        for (key, draft) in &self.drafts {
            let path = path_of(key);
            let target;
            let what = match &draft.what {
                DraftWhat::Directory { opaque } => What::Directory { opaque: *opaque },
                DraftWhat::File {
                    size,
                    offset,
                    digest,
                } => What::File {
                    size: *size,
                    offset: *offset,
                    digest: *digest,
                },
                DraftWhat::Symlink(link) => What::Symlink(link),
                DraftWhat::Hardlink(link) => {
                    target = path_of(link);
                    What::Hardlink(&target)
                }
                DraftWhat::Char(major, minor) => What::Char(*major, *minor),
                DraftWhat::Block(major, minor) => What::Block(*major, *minor),
                DraftWhat::Fifo => What::Fifo,
                DraftWhat::Whiteout => What::Whiteout,
            };
            index.push(&Node {
                path: &path,
                what,
                implied: draft.implied,
                mode: draft.mode,
                uid: draft.uid,
                gid: draft.gid,
                mtime: draft.mtime,
                xattrs: &draft.xattrs,
            });
        }
        index
    }
}

impl Draft {
    fn implied(opaque: bool) -> Self {
        let what = DraftWhat::Directory { opaque };
        Self {
            what,
            implied: true,
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime: 0,
            xattrs: Box::default(),
        }
    }
    fn whiteout() -> Self {
        Self {
            what: DraftWhat::Whiteout,
            implied: false,
            mode: 0,
            uid: 0,
            gid: 0,
            mtime: 0,
            xattrs: Box::default(),
        }
    }
}

fn child(dir: &[u8], name: &[u8]) -> Vec<u8> {
    if dir.is_empty() {
        name.to_vec()
    } else {
        [dir, name].join(&0)
    }
}

fn path_of(key: &[u8]) -> Vec<u8> {
    key.iter().map(|&b| if b == 0 { b'/' } else { b }).collect()
}

fn key_of(path: &[u8]) -> Vec<u8> {
    path.iter()
        .map(|&b| if b == b'/' { 0 } else { b })
        .collect()
}
