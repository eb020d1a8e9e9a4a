//! Where an archive goes: a file that appears under its name only when it is whole, standard output, or
//! something special (a pipe, a device) that is written as it comes.

use crate::Error;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat, openat};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// An archive under way.
#[derive(Debug)]
pub(crate) struct Destination {
    out: BufWriter<File>,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// Without a name until it is done: nothing is left when the process dies.
    Nameless(PathBuf),
    /// Under a temporary name, where the file system cannot do without.
    Temporary { temporary: PathBuf, path: PathBuf },
    /// Not ours to rename.
    Direct(PathBuf),
}

impl Destination {
    /// A file, made in the folder of `path`, which is made too.
    pub(crate) fn file(path: &Path) -> Result<Self, Error> {
        let fail = |source| Error::Io {
            op: "create",
            path: path.to_owned(),
            source,
        };
        if path.is_dir() {
            return Err(fail(std::io::ErrorKind::IsADirectory.into()));
        }
        let is_special = std::fs::metadata(path).is_ok_and(|meta| !meta.is_file());
        if is_special {
            let file = File::options().write(true).open(path).map_err(fail)?;
            return Ok(Self::new(file, Kind::Direct(path.to_owned())));
        }
        let folder = folder_of(path);
        std::fs::create_dir_all(folder).map_err(|source| Error::Io {
            op: "create the folder",
            path: folder.to_owned(),
            source,
        })?;
        let mode = Mode::from_raw_mode(0o666);
        if let Ok(file) = openat(
            CWD,
            folder,
            OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC,
            mode,
        ) {
            return Ok(Self::new(file.into(), Kind::Nameless(path.to_owned())));
        }
        let temporary = temporary_name(path);
        let file = File::create(&temporary).map_err(fail)?;
        Ok(Self::new(
            file,
            Kind::Temporary {
                temporary,
                path: path.to_owned(),
            },
        ))
    }

    /// Standard output, handed in as a file.
    pub(crate) fn stdout(file: File) -> Self {
        Self::new(file, Kind::Direct("-".into()))
    }

    fn new(file: File, kind: Kind) -> Self {
        Self {
            out: BufWriter::with_capacity(256 << 10, file),
            kind,
        }
    }

    /// Makes it visible under its name.
    pub(crate) fn commit(mut self) -> Result<(), Error> {
        let path = self.path().to_owned();
        let fail = |op| {
            move |source| Error::Io {
                op,
                path: path.clone(),
                source,
            }
        };
        self.out.flush().map_err(fail("write"))?;
        match &self.kind {
            Kind::Direct(_) => Ok(()),
            Kind::Temporary { temporary, path } => {
                let renamed = std::fs::rename(temporary, path);
                renamed.map_err(|source| Error::Io {
                    op: "create",
                    path: path.clone(),
                    source,
                })
            }
            Kind::Nameless(path) => {
                let temporary = temporary_name(path);
                let source = format!("/proc/self/fd/{}", self.out.get_ref().as_raw_fd());
                let named = linkat(
                    CWD,
                    source.as_str(),
                    CWD,
                    &temporary,
                    AtFlags::SYMLINK_FOLLOW,
                )
                .map_err(std::io::Error::from)
                .and_then(|()| std::fs::rename(&temporary, path));
                named.map_err(|source| Error::Io {
                    op: "create",
                    path: path.clone(),
                    source,
                })
            }
        }
    }

    fn path(&self) -> &Path {
        match &self.kind {
            Kind::Nameless(path) | Kind::Temporary { path, .. } | Kind::Direct(path) => path,
        }
    }
}

impl Write for Destination {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        self.out.write(buffer)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}

impl Drop for Destination {
    fn drop(&mut self) {
        if let Kind::Temporary { temporary, .. } = &self.kind {
            // After a commit the name is gone already.
            let _ = std::fs::remove_file(temporary);
        }
    }
}

fn folder_of(path: &Path) -> &Path {
    path.parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

/// A name beside `path` that no other process of this machine uses now.
pub(crate) fn temporary_name(path: &Path) -> PathBuf {
    use std::sync::atomic::{AtomicU64, Ordering};
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    folder_of(path).join(format!(".{name}.kiln-{}-{number}", std::process::id()))
}
