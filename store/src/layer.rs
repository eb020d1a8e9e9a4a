//! Layers by diff_id: their facts and their materialisations, moved in place from a scratch folder.
//! It does not look into trees, tars or indexes.

use crate::Store;
use crate::error::Error;
use crate::file;
use oci_spec::image::{Descriptor, Digest};
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A layer's `meta.json` or an identity file is never near this many bytes.
const META_LIMIT: u64 = 1 << 20;

/// What was made faster is not worth a file that says so.
const LEAST_COST: Duration = Duration::from_millis(200);

/// Name of an unpacked tree within its wrapper folder.
const TREE_ROOT: &str = "root";

/// Facts about a layer, kept beside its materialisations as JSON.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LayerMeta {
    /// Digest of the uncompressed tar.
    pub diff_id: Digest,
    /// Identity of the content (BLAKE3 or SHA-256 over sorted entries without mtimes), hex. `None` until an index was made.
    pub identity: Option<String>,
    /// Size of the uncompressed tar in bytes, when known.
    pub size: Option<u64>,
    /// Compressed forms that were made or pulled.
    pub blobs: Vec<LayerBlob>,
}

/// One serialised form of a layer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LayerBlob {
    /// Media type, digest, size.
    pub descriptor: Descriptor,
    /// Encoder that made it (`pulled`, `gzip:6:libdeflate-1.26`), so that equal requests find it.
    pub encoder: String,
}

/// A layer about to be put: files in a [`crate::Scratch`], moved in place atomically.
#[derive(Debug, Default)]
pub struct StagedLayer {
    /// Uncompressed tar, when it was written out. Becomes blob `diff_id`; whoever wrote it hashed it, so only its size
    /// is checked here.
    pub tar: Option<PathBuf>,
    /// Unpacked tree (a directory), when there is one. A tree whose top folder may belong to another user id must be
    /// named `root` and be alone in a folder of ours, which then moves as a whole: the kernel refuses to move a folder
    /// one may not write to.
    pub tree: Option<PathBuf>,
    /// Index file (opaque to the store).
    pub index: Option<PathBuf>,
}

impl LayerMeta {
    /// Takes over what `other` knows. What is known already stays.
    fn merge(&mut self, other: &Self) {
        if self.identity.is_none() {
            self.identity.clone_from(&other.identity);
        }
        self.size = self.size.or(other.size);
        for blob in &other.blobs {
            let same = |known: &LayerBlob| {
                known.encoder == blob.encoder
                    && known.descriptor.digest() == blob.descriptor.digest()
            };
            match self.blobs.iter_mut().find(|known| same(known)) {
                Some(known) => known.clone_from(blob),
                None => self.blobs.push(blob.clone()),
            }
        }
    }
}

impl Store {
    /// A layer's facts. Damaged ones count as absent.
    ///
    /// # Errors
    /// A failed read.
    pub fn layer(&self, diff_id: &Digest) -> Result<Option<LayerMeta>, Error> {
        self.uses_layer(diff_id);
        read_meta(&self.inner.layout.layer(diff_id), diff_id)
    }

    /// Its tree, when materialised.
    #[must_use]
    pub fn layer_tree(&self, diff_id: &Digest) -> Option<PathBuf> {
        let mut path = self.inner.layout.layer(diff_id);
        self.uses(&path);
        path.push("tree");
        path.push(TREE_ROOT);
        path.is_dir().then_some(path)
    }

    /// Where its folder is or would be.
    #[must_use]
    pub fn layer_path(&self, diff_id: &Digest) -> PathBuf {
        self.inner.layout.layer(diff_id)
    }

    /// Its index file, when made.
    #[must_use]
    pub fn layer_index(&self, diff_id: &Digest) -> Option<PathBuf> {
        self.uses_layer(diff_id);
        let path = self.inner.layout.layer(diff_id).join("index");
        path.is_file().then_some(path)
    }

    /// Adds a layer or more materialisations of one (merging `blobs`); files are renamed into place; idempotent and
    /// safe against other processes doing the same. Records `identity -> diff_id` when identity is known and new.
    ///
    /// A tree that is there already is kept and the staged one is left to be swept; a staged tar or index replaces.
    ///
    /// # Errors
    /// A failed rename or write; [`Error::WrongSize`] when the tar has another size than `meta` says.
    pub fn put_layer(&self, meta: &LayerMeta, staged: StagedLayer) -> Result<(), Error> {
        let StagedLayer { tar, tree, index } = staged;
        let folder = self.inner.layout.layer(&meta.diff_id);
        fs::create_dir_all(&folder).map_err(|e| Error::io("create", &folder, e))?;
        self.uses(&folder);
        if let Some(tar) = tar {
            self.place_tar(meta, &tar)?;
        }
        if let Some(tree) = tree {
            self.inner.growth.add(meta.size.unwrap_or(0));
            self.place_tree(&tree, &folder.join("tree"))?;
        }
        if let Some(index) = index {
            self.inner.rename_into(&index, &folder.join("index"))?;
        }
        self.merge_meta(&folder, meta)?;
        if let Some(identity) = &meta.identity {
            self.record_identity(identity, &meta.diff_id)?;
        }
        Ok(())
    }

    fn place_tar(&self, meta: &LayerMeta, tar: &Path) -> Result<(), Error> {
        let actual = fs::metadata(tar)
            .map_err(|e| Error::io("inspect", tar, e))?
            .len();
        if let Some(expected) = meta.size
            && expected != actual
        {
            return Err(Error::WrongSize {
                digest: meta.diff_id.to_string(),
                expected,
                actual,
                path: None,
            });
        }
        self.inner.growth.add(actual);
        self.inner
            .rename_into(tar, &self.inner.layout.blob(&meta.diff_id))
    }

    /// Moves a tree's wrapper to `wrapper`. When another process was first, theirs stays: the rename fails because
    /// the folder is not empty.
    fn place_tree(&self, tree: &Path, wrapper: &Path) -> Result<(), Error> {
        let staged = match self.wrapper_of(tree) {
            Some(parent) => parent.to_owned(),
            None => self.wrap(tree)?,
        };
        match fs::rename(&staged, wrapper) {
            Ok(()) => Ok(()),
            Err(e) if lost_race(&e) => self.bury(&staged),
            Err(e) => Err(Error::io("create", wrapper, e)),
        }
    }

    /// The folder around a tree, when it holds nothing else and may be moved (a scratch folder itself may not).
    fn wrapper_of<'a>(&self, tree: &'a Path) -> Option<&'a Path> {
        let parent = tree.parent()?;
        let named = tree.file_name().is_some_and(|name| name == TREE_ROOT);
        let scratch = self.inner.layout.scratch();
        if !named || !parent.starts_with(&scratch) || parent.parent()? == scratch {
            return None;
        }
        let entries = fs::read_dir(parent).ok()?;
        (entries.count() == 1).then_some(parent)
    }

    fn wrap(&self, tree: &Path) -> Result<PathBuf, Error> {
        let wrapper = self.inner.temporary()?;
        fs::create_dir(&wrapper).map_err(|e| Error::io("create", &wrapper, e))?;
        fs::rename(tree, wrapper.join(TREE_ROOT)).map_err(|e| Error::io("move", tree, e))?;
        Ok(wrapper)
    }

    /// Removes a folder, by way of one that is swept if we are killed or may not remove it.
    fn bury(&self, folder: &Path) -> Result<(), Error> {
        let grave = self.inner.temporary()?;
        fs::rename(folder, &grave).map_err(|e| Error::io("move", folder, e))?;
        if let Err(error) = file::remove_tree(&grave) {
            tracing::debug!(path = %grave.display(), %error, "a tree is left to be removed later");
        }
        Ok(())
    }

    /// Takes back that a blob is a form of this layer: its content has turned out to be another's. The blob itself stays.
    ///
    /// # Errors
    /// A failed read or write.
    pub fn forget_layer_blob(&self, diff_id: &Digest, blob: &Digest) -> Result<(), Error> {
        let folder = self.inner.layout.layer(diff_id);
        let _lock = lock_folder(&folder)?;
        let Some(mut meta) = read_meta(&folder, diff_id)? else {
            return Ok(());
        };
        meta.blobs.retain(|known| known.descriptor.digest() != blob);
        self.inner
            .replace(&folder.join("meta.json"), &to_json(&meta), false)
    }

    /// Remembers how long it took to make a layer, for the choice of what to remove first.
    ///
    /// # Errors
    /// A failed write.
    pub fn note_cost(&self, diff_id: &Digest, took: Duration) -> Result<(), Error> {
        let folder = self.inner.layout.layer(diff_id);
        if took < LEAST_COST || !folder.is_dir() {
            return Ok(());
        }
        let text = took.as_millis().to_string();
        self.inner
            .replace(&folder.join("cost"), text.as_bytes(), false)
    }

    fn merge_meta(&self, folder: &Path, meta: &LayerMeta) -> Result<(), Error> {
        let _lock = lock_folder(folder)?;
        let known = read_meta(folder, &meta.diff_id)?;
        let mut merged = known.clone().unwrap_or_else(|| meta.clone());
        merged.merge(meta);
        if known.as_ref() == Some(&merged) {
            return Ok(());
        }
        self.inner
            .replace(&folder.join("meta.json"), &to_json(&merged), false)
    }

    /// The first layer seen with this content identity.
    ///
    /// # Errors
    /// A failed read.
    pub fn layer_by_identity(&self, identity: &str) -> Result<Option<Digest>, Error> {
        let path = self.inner.layout.identity(identity);
        let Some(diff_id) = read_identity(&path)? else {
            return Ok(None);
        };
        self.uses_layer(&diff_id);
        let there = self
            .inner
            .layout
            .layer(&diff_id)
            .join("meta.json")
            .is_file();
        Ok(there.then_some(diff_id))
    }

    fn record_identity(&self, identity: &str, diff_id: &Digest) -> Result<(), Error> {
        if self.layer_by_identity(identity)?.is_some() {
            return Ok(());
        }
        let path = self.inner.layout.identity(identity);
        if path.exists() {
            // Damaged, or its layer is gone.
            return self
                .inner
                .replace(&path, diff_id.as_ref().as_bytes(), false);
        }
        self.first_wins(&path, diff_id.as_ref().as_bytes())
    }

    /// Creates a file whole unless there is one.
    fn first_wins(&self, path: &Path, bytes: &[u8]) -> Result<(), Error> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(|e| Error::io("create", folder, e))?;
        }
        let temporary = self.inner.write_temporary(bytes, false)?;
        let linked = fs::hard_link(&temporary, path);
        let _ = fs::remove_file(&temporary);
        match linked {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(Error::io("create", path, e)),
            _ => Ok(()),
        }
    }
}

/// Keeps other writers of a layer's facts out while the file is held.
fn lock_folder(folder: &Path) -> Result<File, Error> {
    let lock = File::open(folder).map_err(|e| Error::io("open", folder, e))?;
    file::lock(&lock, FlockOperation::LockExclusive, folder)?;
    Ok(lock)
}

fn lost_race(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists
    )
}

/// A layer's facts; damaged ones are reported to the log and count as absent.
fn read_meta(folder: &Path, diff_id: &Digest) -> Result<Option<LayerMeta>, Error> {
    let path = folder.join("meta.json");
    let bytes = match file::read_small(&path, META_LIMIT) {
        Ok(Some(bytes)) => bytes,
        Ok(None) | Err(Error::Damaged { .. }) => return Ok(None),
        Err(e) => return Err(e),
    };
    let meta = serde_json::from_slice::<LayerMeta>(&bytes)
        .ok()
        .filter(|meta| meta.diff_id == *diff_id);
    if meta.is_none() {
        tracing::warn!(path = %path.display(), "damaged layer facts are ignored");
    }
    Ok(meta)
}

/// What an identity file says; `None` when it is absent or damaged.
pub(crate) fn read_identity(path: &Path) -> Result<Option<Digest>, Error> {
    let bytes = match file::read_small(path, META_LIMIT) {
        Ok(Some(bytes)) => bytes,
        Ok(None) | Err(Error::Damaged { .. }) => return Ok(None),
        Err(e) => return Err(e),
    };
    Ok(String::from_utf8(bytes)
        .ok()
        .and_then(|text| Digest::try_from(text).ok()))
}

/// JSON with sorted keys: `Descriptor` holds a hash map, so only the detour over `Value` gives stable bytes.
pub(crate) fn to_json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_value(value)
        .and_then(|value| serde_json::to_vec(&value))
        .expect("BUG: plain structs with string keys always serialise")
}
