//! A root file system as the Remote Execution API has trees: a `Directory` for each directory, named by digests, and beside
//! it the layers' indexes, which say what such a tree cannot.
//!
//! The tree has directories, regular files (each name of a file with hard links is a file of its own) and symbolic links, as
//! they are after all whiteouts. Left out is what the messages have no place for: devices, FIFOs, names and link targets that
//! are not UTF-8, and absolute links where the server takes none. A worker makes them, owners, modes and the like by the
//! indexes: `NNN.idx` for each layer, base first. Content of files whose names are left out lies in a folder `extra`, by its
//! BLAKE3 in hex, which the indexes have.
//!
//! A tree is that of the layers but the last, changed by the last one's index: that costs what the last layer touches, and all
//! that is made on the way is remembered in records of the store, which keep no layer there and may go at any time.
//! Nothing is sent from here.

mod hashes;
mod merge;
mod messages;

use self::hashes::{Facts, Known};
use self::messages::Messages;
use crate::Error;
use crate::layer;
use crate::snapshot::{LayerContent, Snapshot};
use crate::space::Space;
use crate::worker::{EXTRA, META, ROOTFS, index_name};
use oci_spec::image::Digest as DiffId;
use reapi::prost::Message as _;
use reapi::{Blob, Content, Digest, Source, proto};
use serde::{Deserialize, Serialize};
use sha2::Digest as _;
use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;

/// What the server brings to its workers, beyond names, content, executable bits and relative links.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Carried {
    /// Permission bits, but for setuid, setgid and sticky.
    pub modes: bool,
    /// Times, in seconds.
    pub times: bool,
    /// Symbolic links to absolute paths.
    pub absolute_links: bool,
}

impl Carried {
    fn bits(self) -> u8 {
        u8::from(self.modes) | u8::from(self.times) << 1 | u8::from(self.absolute_links) << 2
    }
}

/// A root file system for a worker.
#[derive(Clone, Debug)]
pub struct InputTree {
    /// The root directory.
    pub root: Digest,
    /// The directory of the layers' indexes.
    pub meta: Digest,
    /// The directory of content that has no name in the tree, where there is some.
    pub extra: Option<Digest>,
    layers: Vec<Known>,
    carried: Carried,
}

/// The directories of an [`InputTree`], which is what is remembered of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Roots {
    root: Digest,
    meta: Digest,
    extra: Option<Digest>,
}

impl Roots {
    /// In the order that messages ask for.
    pub(crate) fn directories(&self) -> Vec<proto::DirectoryNode> {
        let node = |name: &str, digest: Digest| proto::DirectoryNode {
            name: name.to_owned(),
            digest: Some(digest.to_proto()),
        };
        let extra = self.extra.map(|extra| node(EXTRA, extra));
        let always = [node(META, self.meta), node(ROOTFS, self.root)];
        extra.into_iter().chain(always).collect()
    }
}

/// The tree of a root file system, where it has been made here once: its layers may be gone since. They may get another
/// index when they are brought again, and so another tree; this one says the same of them.
pub(crate) fn remembered_roots(
    space: &Space,
    snapshot: &Snapshot,
    carried: Carried,
) -> Result<Option<Roots>, Error> {
    remembered(space, &layers_key(&snapshot.layers, carried))
}

/// The tree of a root file system. Its layers are in the store, and are made readable where they are not.
///
/// # Errors
/// Missing, corrupt or hostile layers; I/O.
pub fn input_tree(
    space: &Space,
    snapshot: &Snapshot,
    carried: Carried,
) -> Result<InputTree, Error> {
    let known = snapshot.layers.iter().map(|id| Known::of(space, id));
    let layers = known.collect::<Result<Vec<_>, Error>>()?;
    let key = chain_key("tree", &layers, carried);
    let found = |memo: Roots| InputTree {
        root: memo.root,
        meta: memo.meta,
        extra: memo.extra,
        layers: layers.clone(),
        carried,
    };
    if let Some(memo) = remembered(space, &key)? {
        return Ok(found(memo));
    }
    space.in_turn(format!("input tree {}", layer::hex(&key)), || {
        if let Some(memo) = remembered(space, &key)? {
            return Ok(found(memo));
        }
        let (root, _) = grown(space, &layers, carried)?;
        let Beside { meta, extra, .. } = beside(&facts(space, &layers)?);
        let memo = Roots { root, meta, extra };
        let text = serde_json::to_vec(&memo).expect("BUG: texts always serialise");
        for key in [key, layers_key(&snapshot.layers, carried)] {
            space.store().put_record(&key, &text, &[])?;
        }
        Ok(found(memo))
    })
}

impl InputTree {
    /// The directories that make up the input, in the order that messages ask for.
    #[must_use]
    pub fn directories(&self) -> Vec<proto::DirectoryNode> {
        self.roots().directories()
    }

    pub(crate) fn roots(&self) -> Roots {
        let Self {
            root, meta, extra, ..
        } = *self;
        Roots { root, meta, extra }
    }

    /// Everything that a server must have of it, each once: messages, files, indexes. Files are opened when they are sent.
    ///
    /// # Errors
    /// Missing or corrupt layers; I/O.
    pub fn blobs(&self, space: &Space) -> Result<Vec<Blob>, Error> {
        self.lacking(space, &|_| false)
    }

    /// [`InputTree::blobs`] without what the server has by now, and without all that is below a directory that it has:
    /// directories are sent with what is in them.
    ///
    /// # Errors
    /// Missing or corrupt layers; I/O.
    pub fn lacking(
        &self,
        space: &Space,
        has: &dyn Fn(&Digest) -> bool,
    ) -> Result<Vec<Blob>, Error> {
        let (root, messages) = grown(space, &self.layers, self.carried)?;
        let facts = facts(space, &self.layers)?;
        let beside = beside(&facts);
        if (root, beside.meta, beside.extra) != (self.root, self.meta, self.extra) {
            return Err(unlike("they give another tree than before"));
        }
        let mut blobs = Vec::new();
        let mut wanted = messages.finish(root, has, &mut blobs)?;
        let mut seen: HashSet<Digest> = blobs.iter().map(|blob| blob.digest).collect();
        for (digest, message) in beside.messages {
            if !has(&digest) && seen.insert(digest) {
                let content = Content::Bytes(message);
                blobs.push(Blob { digest, content });
            }
        }
        wanted.extend(facts.iter().flat_map(|facts| facts.extras.values()));
        // A file may well have the bytes of a message.
        wanted.retain(|digest| !seen.contains(digest) && !has(digest));
        // What is new is most likely in the topmost.
        for (known, facts) in self.layers.iter().zip(&facts).rev() {
            if !has(&facts.index) && seen.insert(facts.index) {
                wanted.remove(&facts.index);
                let path = known.files().index.clone();
                let content = Content::Source(Arc::new(IndexFile { path }));
                let digest = facts.index;
                blobs.push(Blob { digest, content });
            }
            if wanted.is_empty() {
                continue;
            }
            let (content, hashes) = known.hashed(space, facts.closed)?;
            let content = Arc::new(content);
            for (entry, digest) in hashes.files(&content.index) {
                if wanted.remove(&digest) {
                    let content = Arc::clone(&content);
                    let content = Content::Source(Arc::new(LayerFile { content, entry }));
                    blobs.push(Blob { digest, content });
                }
            }
        }
        if !wanted.is_empty() {
            return Err(unlike("a file of their tree is in none of them"));
        }
        Ok(blobs)
    }
}

/// An error of layers that are not what they were.
fn unlike(reason: &str) -> Error {
    Error::Layer {
        layer: "the layers of an input tree".to_owned(),
        reason: reason.to_owned(),
    }
}

fn remembered(space: &Space, key: &[u8; 32]) -> Result<Option<Roots>, Error> {
    let record = space.store().record(key)?;
    Ok(record.and_then(|record| serde_json::from_slice(&record).ok()))
}

/// What is remembered about a stack of layers goes by this.
fn chain_key(what: &str, layers: &[Known], carried: Carried) -> [u8; 32] {
    let mut hasher = sha2::Sha256::new();
    hasher.update(format!("kiln input {what} 1\n"));
    hasher.update([carried.bits()]);
    for known in layers {
        hasher.update(known.name());
    }
    hasher.finalize().into()
}

/// What a tree goes by where the layers are not here.
fn layers_key(layers: &[DiffId], carried: Carried) -> [u8; 32] {
    let mut hasher = sha2::Sha256::new();
    hasher.update("kiln input tree of layers 1\n");
    hasher.update([carried.bits()]);
    for layer in layers {
        hasher.update(layer.to_string());
        hasher.update(b"\n");
    }
    hasher.finalize().into()
}

/// The tree's root, and its messages with others that it has no need of.
fn grown(space: &Space, layers: &[Known], carried: Carried) -> Result<(Digest, Messages), Error> {
    let store = space.store();
    let mut messages = Messages::default();
    let mut root = None;
    let mut from = 0;
    for count in 1..=layers.len() {
        let key = chain_key("messages", &layers[..count], carried);
        let Some(known) = messages.load(store, &key)? else {
            break;
        };
        (root, from) = (Some(known), count);
    }
    for (at, known) in layers.iter().enumerate().skip(from) {
        let facts = known.facts(space)?;
        let (content, hashes) = known.hashed(space, facts.closed)?;
        let mark = messages.mark();
        let made = merge::merge(&mut messages, root, (&content, &hashes), carried)?;
        let key = chain_key("messages", &layers[..=at], carried);
        messages.save(store, &key, (mark, made))?;
        root = Some(made);
    }
    let root = root.unwrap_or_else(|| messages.put(&merge::bare(carried)));
    Ok((root, messages))
}

fn facts(space: &Space, layers: &[Known]) -> Result<Vec<Facts>, Error> {
    layers.iter().map(|known| known.facts(space)).collect()
}

/// The directories beside a root.
struct Beside {
    meta: Digest,
    extra: Option<Digest>,
    messages: Vec<(Digest, bytes::Bytes)>,
}

fn beside(layers: &[Facts]) -> Beside {
    let mut names: BTreeMap<String, Digest> = BTreeMap::new();
    names.extend(
        layers
            .iter()
            .enumerate()
            .map(|(number, facts)| (index_name(number), facts.index)),
    );
    let (meta, message) = reapi::message_digest(&flat(&names));
    let mut messages = vec![(meta, message)];
    let extras = layers.iter().flat_map(|facts| &facts.extras);
    let names: BTreeMap<String, Digest> = extras
        .map(|(name, digest)| (name.clone(), *digest))
        .collect();
    let extra = (!names.is_empty()).then(|| {
        let (extra, message) = reapi::message_digest(&flat(&names));
        messages.push((extra, message));
        extra
    });
    Beside {
        meta,
        extra,
        messages,
    }
}

/// A directory of files.
fn flat(names: &BTreeMap<String, Digest>) -> proto::Directory {
    let files = names.iter().map(|(name, digest)| proto::FileNode {
        name: name.clone(),
        digest: Some(digest.to_proto()),
        ..proto::FileNode::default()
    });
    proto::Directory {
        files: files.collect(),
        ..proto::Directory::default()
    }
}

/// A file of a layer.
#[derive(Debug)]
struct LayerFile {
    content: Arc<LayerContent>,
    entry: usize,
}

impl Source for LayerFile {
    fn open(&self) -> io::Result<Box<dyn Read + Send>> {
        self.content.open(self.entry).map_err(io::Error::other)
    }
}

/// An index of the store.
#[derive(Debug)]
struct IndexFile {
    path: PathBuf,
}

impl Source for IndexFile {
    fn open(&self) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(File::open(&self.path)?))
    }
}

/// A message out of bytes.
fn decoded(message: &[u8]) -> Result<proto::Directory, Error> {
    proto::Directory::decode(message).map_err(|_| unlike("what is remembered of them is damaged"))
}
