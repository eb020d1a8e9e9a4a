//! Temporary folders for tests, and where the repository's test data is.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A temporary folder with helpers to fill it. It vanishes when dropped.
#[derive(Debug)]
pub struct Scratch {
    dir: TempDir,
}

impl Scratch {
    /// An empty folder.
    ///
    /// # Panics
    /// When the system's temporary folder cannot be written.
    #[must_use]
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("kiln-").tempdir();
        Self {
            dir: dir.expect("a temporary folder"),
        }
    }

    /// An empty folder in another place than the system's temporary folder.
    ///
    /// # Panics
    /// When the place cannot be written.
    #[must_use]
    pub fn in_folder(place: &Path) -> Self {
        let dir = tempfile::Builder::new().prefix("kiln-").tempdir_in(place);
        Self {
            dir: dir.expect("a temporary folder"),
        }
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A path in it.
    #[must_use]
    pub fn join(&self, path: impl AsRef<Path>) -> PathBuf {
        self.path().join(path)
    }

    /// Writes a file, making the folders above it. Returns its path.
    ///
    /// # Errors
    /// A failed write.
    pub fn write(&self, path: impl AsRef<Path>, content: impl AsRef<[u8]>) -> io::Result<PathBuf> {
        let path = self.join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&path, content)?;
        Ok(path)
    }

    /// Makes a folder and those above it. Returns its path.
    ///
    /// # Errors
    /// A failed `mkdir`.
    pub fn mkdir(&self, path: impl AsRef<Path>) -> io::Result<PathBuf> {
        let path = self.join(path);
        fs::create_dir_all(&path)?;
        Ok(path)
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

/// The repository's top folder.
#[must_use]
pub fn workspace_root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// The busybox base image that ships: an OCI layout with `latest` for linux/amd64 and linux/arm64.
#[must_use]
pub fn busybox_layout() -> PathBuf {
    workspace_root().join("testdata/images/busybox")
}
