//! What failed steps left behind, kept for someone to look at: a folder with a record, and the layers that it needs.
//!
//! `kept/ID/` holds `record` (the caller's bytes), `layers` (a diff_id on each line, which pruning spares) and whatever
//! the caller moved in. It appears whole. One that is being looked at is locked by `flock` on its folder.

use crate::Store;
use crate::error::Error;
use crate::file;
use oci_spec::image::Digest;
use rustix::fs::FlockOperation;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

const FOLDER: &str = "kept";
const RECORD: &str = "record";
const LAYERS: &str = "layers";
/// Ends the name of a folder that is being filled.
const UNFINISHED: &str = "part";
/// Largest record read, in bytes.
const RECORD_LIMIT: u64 = 16 << 20;
const LAYERS_LIMIT: u64 = 1 << 20;

/// Something kept.
#[derive(Clone, Debug)]
pub struct Kept {
    id: String,
    path: PathBuf,
    made: SystemTime,
}

/// A kept folder in use: it stays while this is held.
#[derive(Debug)]
pub struct HeldKept {
    _lock: File,
}

impl Kept {
    /// Its name.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// When it was made.
    #[must_use]
    pub fn made(&self) -> SystemTime {
        self.made
    }

    /// The caller's record.
    ///
    /// # Errors
    /// It cannot be read, or is gone.
    pub fn record(&self) -> Result<Vec<u8>, Error> {
        let path = self.path.join(RECORD);
        let bytes = file::read_small(&path, RECORD_LIMIT)?;
        bytes.ok_or_else(|| Error::io("read", &path, std::io::ErrorKind::NotFound.into()))
    }

    /// Keeps others from removing it. `None` when someone removes it just now, or holds it.
    ///
    /// # Errors
    /// The folder cannot be opened.
    pub fn hold(&self) -> Result<Option<HeldKept>, Error> {
        let lock = match File::open(&self.path) {
            Ok(lock) => lock,
            Err(error) if file::is_absent(&error) => return Ok(None),
            Err(error) => return Err(Error::io("open", &self.path, error)),
        };
        let locked = file::try_lock(&lock, FlockOperation::NonBlockingLockExclusive, &self.path)?;
        let there = locked && file::still_named(&lock, &self.path);
        Ok(there.then_some(HeldKept { _lock: lock }))
    }

    /// The layers that it needs.
    pub(crate) fn layers(&self) -> Result<Vec<Digest>, Error> {
        let text = file::read_small(&self.path.join(LAYERS), LAYERS_LIMIT)?.unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        Ok(text.lines().filter_map(|line| line.parse().ok()).collect())
    }
}

impl Store {
    /// Moves a folder of the store's file system in under a name of the caller's choice, with a record and the layers
    /// that it needs; gives its ID.
    ///
    /// # Errors
    /// The folder cannot be made or moved.
    pub fn keep(
        &self,
        (name, folder): (&str, &Path),
        record: impl FnOnce(&str) -> Vec<u8>,
        layers: &[Digest],
    ) -> Result<String, Error> {
        let parent = self.inner.layout.folder(FOLDER);
        fs::create_dir_all(&parent).map_err(|e| Error::io("create", &parent, e))?;
        let id: String = file::random_name()?.chars().take(12).collect();
        let unfinished = parent.join(format!("{id}.{UNFINISHED}"));
        let fill = || -> Result<(), Error> {
            fs::create_dir(&unfinished).map_err(|e| Error::io("create", &unfinished, e))?;
            let lines: String = layers.iter().map(|layer| format!("{layer}\n")).collect();
            let files = [(RECORD, record(&id)), (LAYERS, lines.into_bytes())];
            for (file, bytes) in files {
                let path = unfinished.join(file);
                fs::write(&path, bytes).map_err(|e| Error::io("write", &path, e))?;
            }
            let target = unfinished.join(name);
            fs::rename(folder, &target).map_err(|e| Error::io("move", folder, e))?;
            let path = parent.join(&id);
            fs::rename(&unfinished, &path).map_err(|e| Error::io("move", &unfinished, e))
        };
        fill().inspect_err(|_| {
            // What is in it can be removed: the moved folder comes last and the final rename does not fail alone.
            let _ = file::remove_tree(&unfinished);
        })?;
        Ok(id)
    }

    /// All that is kept, newest first.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn kept(&self) -> Result<Vec<Kept>, Error> {
        let mut all = Vec::new();
        for entry in file::list(&self.inner.layout.folder(FOLDER))? {
            let path = entry.path();
            let id = entry.file_name().to_string_lossy().into_owned();
            if path.extension().is_some() || !path.join(RECORD).is_file() {
                continue;
            }
            let made = fs::metadata(path.join(RECORD)).and_then(|meta| meta.modified());
            let made = made.unwrap_or(SystemTime::UNIX_EPOCH);
            all.push(Kept { id, path, made });
        }
        all.sort_by(|a, b| b.made.cmp(&a.made).then_with(|| a.id.cmp(&b.id)));
        Ok(all)
    }

    /// Takes something kept out of sight; gives where it lies until [`crate::remove_tree`] (inside the user namespace, when
    /// rootless) removes it, or [`Store::leftovers`] has it. `None` when somebody looks at it.
    ///
    /// # Errors
    /// It cannot be moved.
    pub fn discard_kept(&self, kept: &Kept) -> Result<Option<PathBuf>, Error> {
        let Some(_held) = kept.hold()? else {
            return Ok(None);
        };
        let grave = self.inner.temporary()?;
        fs::rename(&kept.path, &grave).map_err(|e| Error::io("move", &kept.path, e))?;
        Ok(Some(grave))
    }
}
