//! Temporary folders for tests, and where the repository's test data is.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Where Linux has a file system in memory.
const MEMORY: &str = "/dev/shm";
/// What must be free there, of memory too: tests that run at once take a fraction of it.
const ROOM: u64 = 4 << 30;

/// Whether a folder of a file system in memory has room for stores, and programs can be run there.
fn is_roomy(folder: &Path) -> bool {
    use rustix::fs::StatVfsMountFlags as Flags;
    let Ok(found) = rustix::fs::statvfs(folder) else {
        return false;
    };
    let limits = Flags::NOEXEC | Flags::NOSUID | Flags::NODEV | Flags::RDONLY;
    let free = found.f_bavail.saturating_mul(found.f_frsize);
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let available = memory
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))
        .and_then(|rest| rest.trim().strip_suffix(" kB")?.parse::<u64>().ok())
        .unwrap_or(0);
    !found.f_flag.intersects(limits)
        && free.min(available << 10) >= ROOM
        && keeps_attributes(folder)
}

/// Whether files have attributes of users there, as overlays of ordinary users need: in memory since Linux 6.6.
fn keeps_attributes(folder: &Path) -> bool {
    use rustix::fs::{XattrFlags, fsetxattr};
    tempfile::tempfile_in(folder)
        .is_ok_and(|file| fsetxattr(&file, "user.kiln", b"1", XattrFlags::empty()).is_ok())
}

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

    /// An empty folder in memory where there is room for it, else as [`Scratch::new`] and wherever `TMPDIR` says: a store that lives
    /// for one test need not reach a disk, and most of the time of such a test was the disk's.
    ///
    /// # Panics
    /// When neither can be written.
    #[must_use]
    pub fn quick() -> Self {
        let memory = Path::new(MEMORY);
        if std::env::var_os("TMPDIR").is_some() || !is_roomy(memory) {
            return Self::new();
        }
        Self::in_folder(memory)
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
