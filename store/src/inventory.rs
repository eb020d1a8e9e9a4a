//! Everything in the store as pieces: what each takes, when it was last used, and what needs it. It removes nothing.
//!
//! It reads manifests and configs only as far as to find the digests in them. Time and memory are linear in the number of
//! pieces; trees, which do not change, are measured once, and their sizes kept in the file `sizes`.

use crate::Store;
use crate::error::Error;
use crate::file;
use crate::layer::{self, LayerMeta};
use crate::prune::PrunedKind;
use crate::record;
use crate::stat_cache;
use oci_spec::image::Digest;
use serde_json::Value;
use std::collections::{HashMap, HashSet};
use std::fs::{self, Metadata};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Manifests, indexes and configs are smaller; anything larger holds no references.
const DOCUMENT_LIMIT: u64 = 16 << 20;
const SIZES_LIMIT: u64 = 1 << 30;
const COST_LIMIT: u64 = 64;

/// Something in the store that can be there or not.
#[derive(Clone, Debug)]
pub struct Piece {
    /// What it is.
    pub kind: PrunedKind,
    /// Its name: a digest, a key, the id of a cache mount, a file name.
    pub id: String,
    /// What it is, for people.
    pub description: String,
    /// Bytes on disk; a layer's are those of its tree, its index and its blobs.
    pub bytes: u64,
    /// When it was last used, to the hour.
    pub used: SystemTime,
    /// When it was made, where the file system knows.
    pub created: SystemTime,
    /// An image or a kept sandbox needs it: it is no cache.
    pub is_needed: bool,
    /// A process that runs now has used it.
    pub is_in_use: bool,
    /// A cache record leads to it.
    pub is_recorded: bool,
    /// How many cache records name it.
    pub records: usize,
    /// How long it took to make, where that is worth knowing.
    pub cost: Duration,
    /// Its files and folders, the one that it is known by first.
    pub(crate) paths: Vec<PathBuf>,
    /// Positions of pieces that are of no use without this one.
    pub(crate) users: Vec<usize>,
}

/// What is reached from some digests.
#[derive(Debug)]
pub(crate) struct Marks<'a> {
    store: &'a Store,
    reached: HashSet<Digest>,
}

impl<'a> Marks<'a> {
    /// Looking does not count as use.
    pub(crate) fn new(store: &'a Store) -> Self {
        Self {
            store,
            reached: HashSet::new(),
        }
    }

    pub(crate) fn has(&self, digest: &Digest) -> bool {
        self.reached.contains(digest)
    }

    /// Marks a digest and all it reaches, be it a layer's diff_id or a blob's digest.
    pub(crate) fn mark(&mut self, digest: Digest) -> Result<(), Error> {
        let mut pending = vec![digest];
        while let Some(digest) = pending.pop() {
            if !self.reached.insert(digest.clone()) {
                continue;
            }
            if let Some(meta) = self.store.layer(&digest)? {
                let blobs = meta.blobs.iter();
                pending.extend(blobs.map(|blob| blob.descriptor.digest().clone()));
                continue;
            }
            if let Some(document) = document(&self.store.blob_path(&digest)) {
                pending.extend(digests_in(&document));
            }
        }
        Ok(())
    }
}

/// What is in a folder, in order.
pub(crate) fn sorted_entries(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut paths: Vec<_> = file::list(folder)?.iter().map(fs::DirEntry::path).collect();
    paths.sort();
    Ok(paths)
}

/// What is in a folder's folders.
pub(crate) fn fanned_out(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut paths = Vec::new();
    for part in sorted_entries(folder)? {
        paths.extend(sorted_entries(&part)?);
    }
    Ok(paths)
}

/// Paths of a folder's folders by the digests that they are named by.
pub(crate) fn by_digest(folder: &Path) -> Result<Vec<(Digest, PathBuf)>, Error> {
    let mut found = Vec::new();
    for path in fanned_out(folder)? {
        let algorithm = path.parent().map(display_name).unwrap_or_default();
        let text = format!("{algorithm}:{}", display_name(&path));
        if let Ok(digest) = Digest::try_from(text) {
            found.push((digest, path));
        }
    }
    Ok(found)
}

pub(crate) fn display_name(path: &Path) -> String {
    path.file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

pub(crate) fn fanned_name(path: &Path) -> String {
    let parent = path.parent().map(display_name).unwrap_or_default();
    format!("{parent}{}", display_name(path))
}

/// When a file or folder was last used; long ago when it is gone.
pub(crate) fn last_used(path: &Path) -> SystemTime {
    fs::symlink_metadata(path).map_or(SystemTime::UNIX_EPOCH, |meta| used(&meta))
}

fn used(meta: &Metadata) -> SystemTime {
    meta.modified().unwrap_or(SystemTime::UNIX_EPOCH)
}

/// A blob as JSON, if it is a JSON object; layers are told apart by their first byte.
fn document(path: &Path) -> Option<Value> {
    let mut file = fs::File::open(path).ok()?;
    if file.metadata().ok()?.len() > DOCUMENT_LIMIT {
        return None;
    }
    let mut bytes = vec![0];
    file.read_exact(&mut bytes).ok()?;
    if !matches!(bytes[0], b'{' | b' ' | b'\t' | b'\r' | b'\n') {
        return None;
    }
    file.take(DOCUMENT_LIMIT).read_to_end(&mut bytes).ok()?;
    serde_json::from_slice(&bytes).ok()
}

/// Digests that an index, a manifest, an artifact or a config refers to.
fn digests_in(document: &Value) -> Vec<Digest> {
    let lists = ["manifests", "layers", "blobs"];
    let listed = lists
        .iter()
        .filter_map(|name| document.get(name)?.as_array())
        .flatten();
    let single = ["config", "subject"]
        .iter()
        .filter_map(|name| document.get(name));
    let descriptors = listed.chain(single).filter_map(|entry| entry.get("digest"));
    let diff_ids = document
        .pointer("/rootfs/diff_ids")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    descriptors
        .chain(diff_ids)
        .filter_map(Value::as_str)
        .filter_map(|text| Digest::try_from(text).ok())
        .collect()
}

impl Store {
    /// All pieces but names, in no particular order. What was used at or after `since` counts as in use.
    ///
    /// # Errors
    /// A folder that cannot be read.
    pub(crate) fn inventory(&self, since: Option<SystemTime>) -> Result<Vec<Piece>, Error> {
        let store = self.quiet();
        let mut needed = Marks::new(&store);
        let mut untagged = Vec::new();
        for image in store.references()? {
            let digest = image.descriptor.digest().clone();
            if image.name.is_empty() {
                untagged.push(digest);
            } else {
                needed.mark(digest)?;
            }
        }
        for kept in store.kept()? {
            for layer in kept.layers()? {
                needed.mark(layer)?;
            }
        }
        let mut survey = Survey {
            store: &store,
            since,
            sizes: Sizes::load(&store),
            pieces: Vec::new(),
            by_digest: HashMap::new(),
        };
        survey.layers()?;
        survey.blobs()?;
        survey.records()?;
        survey.others()?;
        survey.untagged(untagged)?;
        survey.mark(&needed)?;
        survey.sizes.save(&store);
        Ok(survey.pieces)
    }

    /// All pieces but names, for people: what other processes use at this time counts as in use.
    ///
    /// # Errors
    /// A folder that cannot be read.
    pub fn pieces(&self) -> Result<Vec<Piece>, Error> {
        let since = match self.alone(|| Ok::<(), Error>(())) {
            Ok(()) => None,
            Err(Error::Busy { .. }) => Some(crate::lease::oldest(&self.inner.layout.leases())?),
            Err(error) => return Err(error),
        };
        self.inventory(since)
    }
}

struct Survey<'a> {
    store: &'a Store,
    since: Option<SystemTime>,
    sizes: Sizes,
    pieces: Vec<Piece>,
    /// Positions of layers and blobs; a layer's blobs lead to the layer.
    by_digest: HashMap<Digest, usize>,
}

impl Survey<'_> {
    /// Adds a piece that is one file or folder, and gives its position.
    fn add(&mut self, kind: PrunedKind, path: PathBuf, id: String) -> Option<usize> {
        let meta = fs::symlink_metadata(&path).ok()?;
        let bytes = if meta.is_dir() {
            file::disk_bytes(&path)
        } else {
            meta.blocks() * 512
        };
        self.pieces.push(Piece {
            kind,
            id,
            description: String::new(),
            bytes,
            used: used(&meta),
            created: meta.created().unwrap_or_else(|_| used(&meta)),
            is_needed: false,
            is_in_use: self.since.is_some_and(|since| used(&meta) >= since),
            is_recorded: false,
            records: 0,
            cost: Duration::ZERO,
            paths: vec![path],
            users: Vec::new(),
        });
        Some(self.pieces.len() - 1)
    }

    fn layers(&mut self) -> Result<(), Error> {
        for (diff_id, path) in by_digest(&self.store.inner.layout.folder("layers"))? {
            let meta = self.store.layer(&diff_id)?;
            let Ok(stat) = fs::symlink_metadata(&path) else {
                continue;
            };
            let bytes = self.layer_bytes(&diff_id, &path)?;
            let position = self.pieces.len();
            self.pieces.push(Piece {
                kind: PrunedKind::Layer,
                id: diff_id.to_string(),
                description: described(meta.as_ref()),
                bytes: bytes + stat.blocks() * 512,
                used: used(&stat),
                created: stat.created().unwrap_or_else(|_| used(&stat)),
                is_needed: false,
                is_in_use: false,
                is_recorded: false,
                records: 0,
                cost: cost_of(&path),
                paths: vec![path],
                users: Vec::new(),
            });
            self.by_digest.insert(diff_id.clone(), position);
            let blobs = meta.iter().flat_map(|meta| &meta.blobs);
            let blobs = blobs.map(|blob| blob.descriptor.digest().clone());
            for digest in std::iter::once(diff_id).chain(blobs) {
                self.add_blob(position, digest);
            }
            let piece = &mut self.pieces[position];
            piece.is_in_use = self.since.is_some_and(|since| piece.used >= since);
            if let Some(identity) = meta.and_then(|meta| meta.identity) {
                piece
                    .paths
                    .push(self.store.inner.layout.identity(&identity));
            }
        }
        Ok(())
    }

    /// Counts a blob to its layer, once.
    fn add_blob(&mut self, layer: usize, digest: Digest) {
        let path = self.store.inner.layout.blob(&digest);
        let Ok(stat) = fs::symlink_metadata(&path) else {
            return;
        };
        let piece = &mut self.pieces[layer];
        if piece.paths.contains(&path) {
            return;
        }
        let owner = *self.by_digest.entry(digest).or_insert(layer);
        if owner != layer && self.pieces[owner].paths.contains(&path) {
            return;
        }
        let piece = &mut self.pieces[layer];
        piece.bytes += stat.blocks() * 512;
        piece.used = piece.used.max(used(&stat));
        piece.paths.push(path);
    }

    fn layer_bytes(&mut self, diff_id: &Digest, folder: &Path) -> Result<u64, Error> {
        let mut bytes = 0;
        for entry in file::list(folder)? {
            let path = entry.path();
            bytes += if entry.file_name() == "tree" {
                self.sizes.of(diff_id, &path)
            } else {
                file::disk_bytes(&path)
            };
        }
        Ok(bytes)
    }

    /// Blobs of no layer: manifests, configs, attestations, and layers that nothing knows as such yet.
    fn blobs(&mut self) -> Result<(), Error> {
        for (digest, path) in by_digest(&self.store.inner.layout.folder("blobs"))? {
            let known = self.by_digest.get(&digest);
            if known.is_some_and(|known| self.pieces[*known].paths.contains(&path)) {
                continue;
            }
            if let Some(position) = self.add(PrunedKind::Blob, path, digest.to_string()) {
                self.by_digest.insert(digest, position);
            }
        }
        Ok(())
    }

    fn records(&mut self) -> Result<(), Error> {
        for path in fanned_out(&self.store.inner.layout.folder("records"))? {
            let layers = record::read(&path)?.map(|record| record.layers);
            let Some(position) = self.add(PrunedKind::Record, path.clone(), fanned_name(&path))
            else {
                continue;
            };
            // One that leads nowhere is of no use, and its like is never looked up as a hit.
            self.pieces[position].is_recorded = layers.is_some();
            for layer in layers.into_iter().flatten() {
                match self.by_digest.get(&layer) {
                    Some(known) => {
                        self.pieces[*known].users.push(position);
                        self.pieces[*known].records += 1;
                    }
                    None => self.pieces[position].is_recorded = false,
                }
            }
        }
        Ok(())
    }

    fn others(&mut self) -> Result<(), Error> {
        let layout = &self.store.inner.layout;
        for path in sorted_entries(&layout.folder("stat"))? {
            let context = stat_cache::live_context(&path);
            let id = display_name(&path);
            if let Some(position) = self.add(PrunedKind::StatCache, path, id) {
                let piece = &mut self.pieces[position];
                piece.is_recorded = context.is_some();
                piece.description = context.map_or_else(
                    || "local source of a folder that is gone".to_owned(),
                    |context| format!("local source for {}", context.display()),
                );
            }
        }
        for path in sorted_entries(&layout.folder("mounts"))? {
            let id = fs::read(path.join("id")).unwrap_or_default();
            let id = String::from_utf8_lossy(&id).into_owned();
            let description = format!("cached mount {id}");
            if let Some(position) = self.add(PrunedKind::Mount, path, id) {
                let piece = &mut self.pieces[position];
                piece.is_recorded = true;
                piece.description = description;
            }
        }
        for (folder, kind, what) in [
            ("logs", PrunedKind::Log, "log of a build"),
            ("kept", PrunedKind::Kept, "sandbox of a failed step"),
        ] {
            for path in sorted_entries(&layout.folder(folder))? {
                let id = display_name(&path);
                if let Some(position) = self.add(kind, path, id) {
                    let piece = &mut self.pieces[position];
                    piece.is_recorded = true;
                    piece.is_needed = kind == PrunedKind::Kept;
                    what.clone_into(&mut piece.description);
                }
            }
        }
        Ok(())
    }

    /// Images without a name go when something of theirs goes.
    fn untagged(&mut self, images: Vec<Digest>) -> Result<(), Error> {
        for digest in images {
            let path = self.store.inner.layout.untagged(&digest);
            let Some(position) = self.add(PrunedKind::Reference, path, digest.to_string()) else {
                continue;
            };
            "image without a name".clone_into(&mut self.pieces[position].description);
            self.pieces[position].is_recorded = true;
            let mut reached = Marks::new(self.store);
            reached.mark(digest)?;
            for digest in &reached.reached {
                if let Some(known) = self.by_digest.get(digest) {
                    self.pieces[*known].users.push(position);
                    self.pieces[*known].is_recorded = true;
                }
            }
        }
        Ok(())
    }

    /// Says what is needed, what a running process may need, and what records lead to.
    fn mark(&mut self, needed: &Marks<'_>) -> Result<(), Error> {
        let (mut running, mut recorded) = (Marks::new(self.store), Marks::new(self.store));
        for (digest, position) in &self.by_digest {
            let piece = &self.pieces[*position];
            // What a manifest in use names is in use.
            if piece.is_in_use {
                running.mark(digest.clone())?;
            }
            if piece.records > 0 {
                recorded.mark(digest.clone())?;
            }
        }
        for (digest, position) in &self.by_digest {
            let piece = &mut self.pieces[*position];
            piece.is_needed |= needed.has(digest);
            piece.is_in_use |= running.has(digest);
            piece.is_recorded |= recorded.has(digest);
        }
        Ok(())
    }
}

fn described(meta: Option<&LayerMeta>) -> String {
    match meta {
        None => "damaged layer".to_owned(),
        Some(meta) if meta.blobs.iter().any(|blob| blob.encoder == "pulled") => {
            "layer that was pulled".to_owned()
        }
        Some(_) => "layer".to_owned(),
    }
}

fn cost_of(layer: &Path) -> Duration {
    let text = file::read_small(&layer.join("cost"), COST_LIMIT);
    let text = text.ok().flatten().unwrap_or_default();
    let milliseconds = std::str::from_utf8(&text)
        .ok()
        .and_then(|text| text.parse().ok());
    milliseconds.map_or(Duration::ZERO, Duration::from_millis)
}

/// Sizes of trees, each measured once.
struct Sizes {
    known: HashMap<(String, u64), u64>,
    current: Vec<(String, u64, u64)>,
    is_new: bool,
}

impl Sizes {
    fn load(store: &Store) -> Self {
        let bytes = file::read_small(&store.inner.layout.sizes(), SIZES_LIMIT);
        let bytes = bytes.ok().flatten().unwrap_or_default();
        let line = |line: &str| {
            let mut words = line.split(' ');
            let key = (words.next()?.to_owned(), words.next()?.parse().ok()?);
            Some((key, words.next()?.parse().ok()?))
        };
        let text = String::from_utf8_lossy(&bytes);
        Self {
            known: text.lines().filter_map(line).collect(),
            current: Vec::new(),
            is_new: false,
        }
    }

    /// Bytes of a layer's tree. Another tree for the same layer has another inode.
    fn of(&mut self, diff_id: &Digest, tree: &Path) -> u64 {
        let inode = fs::symlink_metadata(tree).map_or(0, |meta| meta.ino());
        let key = (diff_id.to_string(), inode);
        let bytes = self.known.get(&key).copied().unwrap_or_else(|| {
            self.is_new = true;
            file::disk_bytes(tree)
        });
        self.current.push((key.0, inode, bytes));
        bytes
    }

    fn save(&self, store: &Store) {
        if !self.is_new && self.current.len() == self.known.len() {
            return;
        }
        let lines: String = self
            .current
            .iter()
            .map(|(digest, inode, bytes)| format!("{digest} {inode} {bytes}\n"))
            .collect();
        let saved = store
            .inner
            .replace(&store.inner.layout.sizes(), lines.as_bytes(), false);
        if let Err(error) = saved {
            tracing::debug!(%error, "sizes of trees will be measured again");
        }
    }
}

/// The layer that an identity file names is not its own: it stays with the one that it names.
pub(crate) fn is_foreign_identity(path: &Path, diff_id: &str) -> bool {
    let named = layer::read_identity(path).ok().flatten();
    named.is_some_and(|named| named.as_ref() != diff_id)
}
