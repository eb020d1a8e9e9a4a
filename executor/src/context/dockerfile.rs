//! Finds the Dockerfile and its ignore files: which names, in which order, in a folder of the host or in an unpacked context.
//!
//! Links are followed inside the root that is searched, as BuildKit does, so that a context cannot make a file of the host
//! its Dockerfile. It parses nothing.

use crate::Error;
use crate::tree::{FileTree, Kind};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

/// Bytes of the largest Dockerfile, and of the largest ignore file; BuildKit's frontend reads no more either.
pub const SIZE_LIMIT: u64 = 16 << 20;

/// The name that is looked for first.
pub const DEFAULT_NAME: &str = "Dockerfile";
/// Endings of an ignore file beside its Dockerfile. Docker's name goes first.
const BESIDE: [&str; 2] = [".dockerignore", ".containerignore"];

/// Where to look.
#[derive(Clone, Copy)]
pub enum Place<'a> {
    /// A folder of the host.
    Folder(&'a Path),
    /// A context that is not a folder.
    Tree(&'a dyn FileTree),
}

impl std::fmt::Debug for Place<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Folder(dir) => f.debug_tuple("Folder").field(dir).finish(),
            Self::Tree(_) => f.debug_tuple("Tree").finish_non_exhaustive(),
        }
    }
}

/// A file that was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found {
    /// Its path below the place.
    pub path: PathBuf,
    /// Its bytes.
    pub content: Vec<u8>,
}

impl Place<'_> {
    /// The Dockerfile: `file`, else `Dockerfile` or `Containerfile`. `dockerfile` stands in for `Dockerfile` wherever that
    /// is missing.
    ///
    /// # Errors
    /// None of them there, unreadable, too large.
    pub fn dockerfile(self, file: Option<&Path>) -> Result<Found, Error> {
        let wanted = file.unwrap_or(Path::new(DEFAULT_NAME));
        let mut names = vec![wanted.to_owned()];
        if wanted.file_name().is_some_and(|name| name == DEFAULT_NAME) {
            names.push(wanted.with_file_name("dockerfile"));
        }
        if file.is_none() {
            names.push(PathBuf::from("Containerfile"));
        }
        let fail = |path: &Path, reason: String| Error::ReadDockerfile {
            path: self.full(path),
            reason,
        };
        for name in names {
            match self.read(&name) {
                Ok(Some(content)) => {
                    return Ok(Found {
                        path: name,
                        content,
                    });
                }
                Ok(None) => {}
                Err(Error::Io { source, .. }) => return Err(fail(&name, plain(&source))),
                Err(error) => return Err(error),
            }
        }
        let reason = if self.is_dangling(wanted) {
            "no such file or directory (it is a symbolic link to nothing inside its folder)"
        } else {
            "no such file or directory"
        };
        Err(fail(wanted, reason.to_owned()))
    }

    /// The ignore file that belongs to a Dockerfile alone: `<Dockerfile>.dockerignore`, else `<Dockerfile>.containerignore`.
    ///
    /// # Errors
    /// Unreadable, too large.
    pub fn ignore_beside(self, dockerfile: &Path) -> Result<Option<Found>, Error> {
        let named = BESIDE.map(|ending| {
            let mut name = dockerfile.as_os_str().to_owned();
            name.push(ending);
            PathBuf::from(name)
        });
        self.first(named)
    }

    /// The ignore file of a context: `.dockerignore`, else `.containerignore`.
    ///
    /// # Errors
    /// Unreadable, too large.
    pub fn ignore(self) -> Result<Option<Found>, Error> {
        self.first(BESIDE.map(PathBuf::from))
    }

    fn first<const N: usize>(self, names: [PathBuf; N]) -> Result<Option<Found>, Error> {
        for path in names {
            if let Some(content) = self.read(&path)? {
                return Ok(Some(Found { path, content }));
            }
        }
        Ok(None)
    }

    /// A path for messages.
    fn full(self, path: &Path) -> PathBuf {
        match self {
            Self::Folder(dir) => dir.join(path),
            Self::Tree(_) => path.to_owned(),
        }
    }

    /// The whole file; `None` when it is not there.
    fn read(self, path: &Path) -> Result<Option<Vec<u8>>, Error> {
        let fail = |source: io::Error| Error::Io {
            op: "read",
            path: self.full(path),
            source,
        };
        let mut content = Vec::new();
        let read = match self {
            Self::Folder(dir) => match open_in_root(dir, path) {
                Ok(file) => file.take(SIZE_LIMIT + 1).read_to_end(&mut content),
                Err(error) if is_absent(&error) => return Ok(None),
                Err(error) => Err(error),
            },
            Self::Tree(tree) => {
                let resolved = crate::copy::resolve_in(tree, path.as_os_str().as_bytes())?;
                match tree.entry(&resolved)?.map(|entry| entry.kind) {
                    None => return Ok(None),
                    Some(Kind::File { .. } | Kind::Hardlink { .. }) => tree
                        .open(&resolved)?
                        .take(SIZE_LIMIT + 1)
                        .read_to_end(&mut content),
                    Some(Kind::Directory) => Err(io::ErrorKind::IsADirectory.into()),
                    Some(_) => Err(io::Error::other("not a regular file")),
                }
            }
        };
        read.map_err(fail)?;
        if content.len() as u64 > SIZE_LIMIT {
            let limit = format!("larger than {SIZE_LIMIT} bytes");
            return Err(fail(io::Error::other(limit)));
        }
        Ok(Some(content))
    }

    fn is_dangling(self, path: &Path) -> bool {
        match self {
            Self::Folder(dir) => dir.join(path).is_symlink(),
            Self::Tree(tree) => matches!(
                tree.entry(path.as_os_str().as_bytes()),
                Ok(Some(entry)) if matches!(entry.kind, Kind::Symlink { .. })
            ),
        }
    }
}

/// Opens a regular file below a folder; links are followed as if the folder were the root of all.
fn open_in_root(dir: &Path, path: &Path) -> io::Result<File> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(dir, flags, Mode::empty())?;
    let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    // Without waiting, as a FIFO would make it wait for a writer.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = loop {
        match rustix::fs::openat2(&root, path, flags, Mode::empty(), inside) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => break File::from(other?),
        }
    };
    let kind = file.metadata()?.file_type();
    if kind.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    if !kind.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    Ok(file)
}

fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// The operating system's words without its number.
fn plain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        io::ErrorKind::IsADirectory => "is a directory".to_owned(),
        _ => error.to_string(),
    }
}
