//! Blobs as files of a folder, and results of actions in memory.

use super::proto::{ActionResult, Digest};
use super::state::Key;
use crate::hex;
use prost::Message;
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What outlives a restart.
#[derive(Debug)]
pub(super) struct Storage {
    folder: PathBuf,
    next: AtomicU64,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    blobs: BTreeSet<Key>,
    results: BTreeMap<Key, ActionResult>,
}

impl Storage {
    pub(super) fn new(folder: &Path) -> io::Result<Self> {
        let folder = folder.join("blobs");
        fs::create_dir_all(&folder)?;
        Ok(Self {
            folder,
            next: AtomicU64::new(0),
            kept: Mutex::default(),
        })
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A name for a file that is being written.
    pub(super) fn temporary(&self) -> PathBuf {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.folder.join(format!("new-{number}"))
    }

    fn path(&self, key: &Key, executable: bool) -> PathBuf {
        let suffix = if executable { ".x" } else { "" };
        self.folder.join(format!("{}{suffix}", key.hash()))
    }

    pub(super) fn has(&self, key: &Key) -> bool {
        key.is_empty_blob() || self.kept().blobs.contains(key)
    }

    /// Puts a blob in, whose digest is what its bytes have.
    pub(super) fn put(&self, bytes: &[u8]) -> String {
        let key = Key::of(bytes);
        self.put_as(&key, bytes)
            .expect("the storage's folder can be written");
        key.to_string()
    }

    /// Puts a message in.
    pub(super) fn put_message<M: Message>(&self, message: &M) -> Digest {
        Key::from(self.put(&message.encode_to_vec()).as_str()).digest()
    }

    /// Puts a blob in if its bytes have this digest.
    pub(super) fn put_as(&self, key: &Key, bytes: &[u8]) -> io::Result<()> {
        let path = self.temporary();
        fs::write(&path, bytes)?;
        self.adopt(key, &path)
    }

    /// Takes a file over as a blob if it has this digest; otherwise it is removed.
    pub(super) fn adopt(&self, key: &Key, path: &Path) -> io::Result<()> {
        let real = digest_of_file(path)?;
        if real != *key {
            fs::remove_file(path)?;
            let text = format!("content has the digest {real}, not {key}");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        fs::set_permissions(path, fs::Permissions::from_mode(0o444))?;
        let mut kept = self.kept();
        fs::rename(path, self.path(key, false))?;
        kept.blobs.insert(key.clone());
        Ok(())
    }

    /// Copies a file in as a blob.
    pub(super) fn add_file(&self, path: &Path) -> io::Result<Key> {
        let new = self.temporary();
        fs::copy(path, &new)?;
        let key = digest_of_file(&new)?;
        self.adopt(&key, &new)?;
        Ok(key)
    }

    /// The file of a blob.
    pub(super) fn file(&self, key: &Key) -> io::Result<PathBuf> {
        if key.is_empty_blob() && !self.kept().blobs.contains(key) {
            self.put_as(key, &[])?;
        }
        if !self.has(key) {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(self.path(key, false))
    }

    /// The file of a blob with the executable bit, for hard links.
    pub(super) fn executable(&self, key: &Key) -> io::Result<PathBuf> {
        let plain = self.file(key)?;
        let path = self.path(key, true);
        if !path.exists() {
            let new = self.temporary();
            fs::copy(plain, &new)?;
            fs::set_permissions(&new, fs::Permissions::from_mode(0o555))?;
            fs::rename(new, &path)?;
        }
        Ok(path)
    }

    pub(super) fn read(&self, key: &Key) -> io::Result<Vec<u8>> {
        fs::read(self.file(key)?)
    }

    /// Reads and decodes a message.
    pub(super) fn message<M: Message + Default>(&self, key: &Key) -> io::Result<M> {
        let bytes = self.read(key)?;
        M::decode(bytes.as_slice())
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }

    pub(super) fn remove(&self, key: &Key) -> bool {
        let there = self.kept().blobs.remove(key);
        let _ = fs::remove_file(self.path(key, false));
        let _ = fs::remove_file(self.path(key, true));
        there
    }

    pub(super) fn keys(&self) -> Vec<String> {
        self.kept().blobs.iter().map(Key::to_string).collect()
    }

    pub(super) fn result(&self, action: &Key) -> Option<ActionResult> {
        self.kept().results.get(action).cloned()
    }

    pub(super) fn set_result(&self, action: &Key, result: ActionResult) {
        self.kept().results.insert(action.clone(), result);
    }

    pub(super) fn actions(&self) -> Vec<String> {
        self.kept().results.keys().map(Key::to_string).collect()
    }

    pub(super) fn clear(&self) {
        for key in self.keys() {
            self.remove(&Key::from(key.as_str()));
        }
        self.kept().results.clear();
    }
}

fn digest_of_file(path: &Path) -> io::Result<Key> {
    let mut file = fs::File::open(path)?;
    let mut hasher = Sha256::new();
    let mut size = 0;
    let mut buffer = vec![0; 1 << 16];
    loop {
        let n = io::Read::read(&mut file, &mut buffer)?;
        if n == 0 {
            return Ok(Key::new(hex(&hasher.finalize()), size));
        }
        hasher.update(&buffer[..n]);
        size += i64::try_from(n).unwrap_or(0);
    }
}
