//! A folder for what a step writes, found by trying: an overlay's upper cannot be everywhere, and what a worker says of
//! itself is nothing to rely on. It goes with the step; what a killed step has left goes with the next one.

use super::Place;
use crate::Error;
use crate::request::RunSettings;
use crate::space::Space;
use rustix::fs::{FlockOperation, flock};
use sandbox::RootKind;
use std::fs::File;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use store::Store;

/// Names of folders of steps.
const PREFIX: &str = "kiln-step.";
/// Bytes that a file system should have free to be taken before others.
const ROOM: u64 = 1 << 30;

/// A folder of this step, locked; removed when it is dropped.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    _lock: File,
}

impl Folder {
    fn make(parent: &Path) -> io::Result<Self> {
        sweep(parent);
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        let pid = rustix::process::getpid().as_raw_nonzero();
        let path = std::path::absolute(parent)?.join(format!("{PREFIX}{pid}.{}", now.as_nanos()));
        std::fs::create_dir(&path)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
        let lock = File::open(&path)?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Self { path, _lock: lock })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left is swept by the next step.
        let _ = store::remove_tree(&self.path);
    }
}

/// Removes folders whose steps are gone, as far as they can be removed.
fn sweep(parent: &Path) {
    let Ok(entries) = std::fs::read_dir(parent) else {
        return;
    };
    for entry in entries.flatten() {
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        let path = entry.path();
        let Ok(lock) = File::open(&path) else {
            continue;
        };
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            let _ = store::remove_tree(&path);
        }
    }
}

/// Free bytes of a folder's file system.
fn room(path: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(path).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// A candidate and what came of it.
#[derive(Debug)]
pub(crate) struct Tried {
    pub(crate) folder: PathBuf,
    /// Free bytes; none where there is no such folder.
    pub(crate) free: Option<u64>,
    /// How roots can be put together there, or why nothing can be done.
    pub(crate) outcome: Result<RootKind, Error>,
}

/// Where a step works.
#[derive(Debug)]
pub(crate) struct Work {
    // Ends before the folder goes.
    pub(crate) space: Space,
    pub(crate) folder: Folder,
}

impl Work {
    fn begin(parent: &Path, place: &Place, settings: &RunSettings) -> Result<Self, Error> {
        let folder = Folder::make(parent).map_err(|source| Error::Io {
            op: "create a folder for the step in",
            path: parent.to_owned(),
            source,
        })?;
        let store = Store::open(&folder.path().join("store"))?;
        let space = Space::new(store)
            .with_isolation(settings)
            .with_folders(place.folders());
        space.sandbox()?;
        Ok(Self { space, folder })
    }

    fn kind(&self) -> Result<RootKind, Error> {
        Ok(self.space.sandbox()?.root_kind())
    }

    /// Removes all that the step has made: files of other ids the sandbox alone can remove.
    pub(crate) fn end(self) {
        if let Err(error) = self.space.remove_tree(self.space.store().root()) {
            tracing::debug!(%error, "the step's folder is left to the next one");
        }
    }
}

/// Tries the candidates: those with room first, each in turn until an overlay works; else the best of them. `tried` gets
/// all that was tried.
///
/// # Errors
/// That of the first candidate that is there, when none works.
pub(crate) fn find(
    place: &Place,
    settings: &RunSettings,
    tried: &mut Vec<Tried>,
) -> Result<Work, Error> {
    let mut candidates: Vec<(PathBuf, Option<u64>)> = Vec::new();
    for folder in &place.scratch {
        if !candidates.iter().any(|(known, _)| known == folder) {
            candidates.push((folder.clone(), room(folder)));
        }
    }
    candidates.sort_by_key(|(_, free)| free.is_none_or(|free| free < ROOM));
    let mut best: Option<(RootKind, Work)> = None;
    for (folder, free) in candidates {
        let outcome = Work::begin(&folder, place, settings).and_then(|work| {
            let kind = work.kind()?;
            Ok((kind, work))
        });
        let outcome = match outcome {
            Err(error) => Err(error),
            Ok((kind, work)) => {
                if best.as_ref().is_none_or(|(known, _)| kind < *known) {
                    best = Some((kind, work));
                }
                Ok(kind)
            }
        };
        let is_good =
            matches!(outcome, Ok(kind) if kind == RootKind::Overlay || settings.root == Some(kind));
        tried.push(Tried {
            folder,
            free,
            outcome,
        });
        if is_good {
            break;
        }
    }
    if let Some((_, work)) = best {
        return Ok(work);
    }
    let failed = tried.iter().position(|tried| tried.free.is_some());
    match failed.map(|at| tried.remove(at).outcome) {
        Some(Err(error)) => Err(error),
        _ => Err(Error::Request(
            "there is no folder to write in: set KILN_WORKER_SCRATCH".to_owned(),
        )),
    }
}
