//! File-system helpers: locking, small reads, listing, removal. It knows nothing of the store's layout.

use crate::error::Error;
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use std::collections::HashSet;
use std::fs::{self, DirEntry, File};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

/// 64 random bits as hexadecimal.
pub(crate) fn random_name() -> Result<String, Error> {
    let mut bytes = [0u8; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|e| Error::io("read", Path::new("getrandom(2)"), e.into()))?;
    Ok(crate::layout::hex(&bytes))
}

/// Waits for a lock of the kind asked for.
pub(crate) fn lock(file: &File, operation: FlockOperation, path: &Path) -> Result<(), Error> {
    loop {
        match rustix::fs::flock(file, operation) {
            Ok(()) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(e) => return Err(Error::io("lock", path, e.into())),
        }
    }
}

/// `false` when someone else holds a conflicting lock. `operation` is one of the non-blocking kinds.
pub(crate) fn try_lock(file: &File, operation: FlockOperation, path: &Path) -> Result<bool, Error> {
    loop {
        match rustix::fs::flock(file, operation) {
            Ok(()) => return Ok(true),
            Err(Errno::WOULDBLOCK) => return Ok(false),
            Err(Errno::INTR) => {}
            Err(e) => return Err(Error::io("lock", path, e.into())),
        }
    }
}

/// Whether `path` still names the file that `open` was opened from.
pub(crate) fn still_named(open: &File, path: &Path) -> bool {
    let (Ok(inner), Ok(named)) = (open.metadata(), fs::symlink_metadata(path)) else {
        return false;
    };
    (inner.dev(), inner.ino()) == (named.dev(), named.ino())
}

/// A file's bytes, `None` when it is not there. More than `limit` bytes count as damage.
pub(crate) fn read_small(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, Error> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if is_absent(&e) => return Ok(None),
        Err(e) => return Err(Error::io("open", path, e)),
    };
    let size = file.metadata().map_or(0, |m| m.len());
    if size > limit {
        return Err(Error::Damaged {
            path: path.to_owned(),
            reason: format!("it has {size} bytes, more than the {limit} it may have"),
        });
    }
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0) + 1);
    file.take(limit)
        .read_to_end(&mut bytes)
        .map_err(|e| Error::io("read", path, e))?;
    Ok(Some(bytes))
}

pub(crate) fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// A folder's entries in no order; an absent folder has none.
pub(crate) fn list(folder: &Path) -> Result<Vec<DirEntry>, Error> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if is_absent(&e) => return Ok(Vec::new()),
        Err(e) => return Err(Error::io("list", folder, e)),
    };
    entries
        .collect::<io::Result<Vec<_>>>()
        .map_err(|e| Error::io("list", folder, e))
}

/// Makes a rename in `folder` survive a power cut.
pub(crate) fn sync_dir(folder: &Path) -> Result<(), Error> {
    File::open(folder)
        .and_then(|dir| dir.sync_all())
        .map_err(|e| Error::io("sync", folder, e))
}

/// Removes a file or folder with all it holds, also where a folder of ours forbids writing. An absent one is fine.
///
/// Fails where something belongs to another user id; then a process inside the user namespace has to do it.
///
/// # Errors
/// The first failure; some of the content may be gone.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    let remove = || match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(e) => Err(e),
    };
    match remove() {
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            make_removable(path)?;
            remove()
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn make_removable(folder: &Path) -> io::Result<()> {
    let mut pending = vec![folder.to_owned()];
    while let Some(folder) = pending.pop() {
        let meta = fs::symlink_metadata(&folder)?;
        if meta.mode() & 0o700 != 0o700 {
            fs::set_permissions(&folder, fs::Permissions::from_mode(meta.mode() | 0o700))?;
        }
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                pending.push(entry.path());
            }
        }
    }
    Ok(())
}

/// Bytes on disk below (and of) a path, each hard-linked file once. What cannot be read counts as nothing.
pub(crate) fn disk_bytes(path: &Path) -> u64 {
    let mut total = 0;
    let mut seen = HashSet::new();
    let mut pending = vec![path.to_owned()];
    while let Some(path) = pending.pop() {
        let Ok(meta) = fs::symlink_metadata(&path) else {
            continue;
        };
        let linked = !meta.is_dir() && meta.nlink() > 1;
        if !linked || seen.insert((meta.dev(), meta.ino())) {
            total += meta.blocks() * 512;
        }
        if !meta.is_dir() {
            continue;
        }
        if let Ok(entries) = fs::read_dir(&path) {
            pending.extend(entries.flatten().map(|entry| entry.path()));
        }
    }
    total
}
