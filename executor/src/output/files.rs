//! The merged root file system of an image as one tar, or as files in a folder of the user's.

use crate::Error;
use crate::snapshot::View;
use crate::tree::{Entry, FileTree, Kind};
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, Timespec, Timestamps, fchmod, futimens, linkat,
    mkdirat, mkfifoat, openat, renameat, statat, symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;
use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// Takes the entries of a walk: parents first, siblings in order. Hard links to an entry that came before are
/// given as such, with that entry's path.
pub(crate) trait Sink {
    /// One entry; `data` for regular files.
    fn entry(&mut self, entry: Entry, data: Option<&mut dyn Read>) -> Result<(), Error>;
}

/// Walks a whole view below its root.
pub(crate) fn walk(view: &View, sink: &mut dyn Sink) -> Result<(), Error> {
    let mut links = HashMap::new();
    walk_folder(view, &[], &mut links, sink)
}

/// Gives one entry, whose path is set, to a sink. `links` are the files given so far that have several names.
pub(crate) fn entry(
    view: &View,
    entry: Entry,
    links: &mut HashMap<(u64, u64), Vec<u8>>,
    sink: &mut dyn Sink,
) -> Result<(), Error> {
    match &entry.kind {
        Kind::File { .. } | Kind::Hardlink { .. } => walk_file(view, entry, links, sink),
        Kind::Socket => Ok(()),
        _ => sink.entry(entry, None),
    }
}

fn walk_folder(
    view: &View,
    folder: &[u8],
    links: &mut HashMap<(u64, u64), Vec<u8>>,
    sink: &mut dyn Sink,
) -> Result<(), Error> {
    for name in view.list(folder)? {
        let path = if folder.is_empty() {
            name
        } else {
            [folder, b"/", &name].concat()
        };
        let Some(mut entry) = view.entry(&path)? else {
            continue;
        };
        entry.path.clone_from(&path);
        match &entry.kind {
            Kind::Directory => {
                sink.entry(entry, None)?;
                walk_folder(view, &path, links, sink)?;
            }
            _ => self::entry(view, entry, links, sink)?,
        }
    }
    Ok(())
}

fn walk_file(
    view: &View,
    mut entry: Entry,
    links: &mut HashMap<(u64, u64), Vec<u8>>,
    sink: &mut dyn Sink,
) -> Result<(), Error> {
    if let Some(id) = view.link_id(&entry.path) {
        if let Some(first) = links.get(&id) {
            entry.kind = Kind::Hardlink {
                target: first.clone(),
            };
            return sink.entry(entry, None);
        }
        links.insert(id, entry.path.clone());
    }
    if let Kind::Hardlink { target } = &entry.kind {
        let attributes = view
            .entry(target)?
            .filter(|target| matches!(target.kind, Kind::File { .. }));
        let Some(target) = attributes else {
            let reason = format!(
                "hard link {} has no target",
                String::from_utf8_lossy(&entry.path)
            );
            return Err(Error::Layer {
                layer: "root file system".to_owned(),
                reason,
            });
        };
        entry = Entry {
            path: entry.path,
            ..target
        };
    }
    let mut data = view.open(&entry.path)?;
    sink.entry(entry, Some(&mut data))
}

/// Writes entries into a folder, owned by the user. No link in the folder is ever followed.
pub(crate) struct FolderSink {
    root: OwnedFd,
    /// Open folders from the root to the one of the last entry, with their names and what is set when they are left.
    open: Vec<OpenFolder>,
    epoch: Option<i64>,
    dest: std::path::PathBuf,
}

struct OpenFolder {
    name: Vec<u8>,
    fd: OwnedFd,
    mode: u32,
    mtime: i64,
}

impl FolderSink {
    /// Into `dest`, which is made when it is missing.
    pub(crate) fn new(dest: &Path, epoch: Option<i64>) -> Result<Self, Error> {
        let fail = |source| Error::Io {
            op: "create the folder",
            path: dest.to_owned(),
            source,
        };
        std::fs::create_dir_all(dest).map_err(fail)?;
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY;
        let root = openat(CWD, dest, flags, Mode::empty()).map_err(|errno| fail(errno.into()))?;
        Ok(Self {
            root,
            open: Vec::new(),
            epoch,
            dest: dest.to_owned(),
        })
    }

    /// Sets what is left to be set on open folders.
    pub(crate) fn finish(mut self) -> Result<(), Error> {
        while let Some(folder) = self.open.pop() {
            self.leave(&folder)?;
        }
        Ok(())
    }

    fn fail(&self, path: &[u8], source: impl Into<std::io::Error>) -> Error {
        let path = self.dest.join(String::from_utf8_lossy(path).as_ref());
        Error::Io {
            op: "write",
            path,
            source: source.into(),
        }
    }

    fn leave(&self, folder: &OpenFolder) -> Result<(), Error> {
        let mode = Mode::from_raw_mode(folder.mode);
        fchmod(&folder.fd, mode)
            .and_then(|()| futimens(&folder.fd, &times(folder.mtime)))
            .map_err(|errno| self.fail(&folder.name, errno))
    }

    /// Leaves folders until the one that holds `path` is the innermost; it is open already because parents come first.
    fn enter_parent(&mut self, path: &[u8]) -> Result<(), Error> {
        let components: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
        let parents = &components[..components.len() - 1];
        let shared = self
            .open
            .iter()
            .zip(parents)
            .take_while(|(open, parent)| open.name == **parent)
            .count();
        while self.open.len() > shared {
            let folder = self.open.pop().expect("BUG: the length was checked");
            self.leave(&folder)?;
        }
        if shared < parents.len() {
            return Err(self.fail(
                path,
                std::io::Error::other("its folder did not come before it"),
            ));
        }
        Ok(())
    }

    fn parent(&self) -> BorrowedFd<'_> {
        self.open
            .last()
            .map_or(self.root.as_fd(), |folder| folder.fd.as_fd())
    }

    fn folder(&mut self, name: &[u8], entry: &Entry) -> rustix::io::Result<()> {
        let parent = self.parent();
        match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {}
            Ok(_) => {
                unlinkat(parent, name, AtFlags::empty())?;
                mkdirat(parent, name, Mode::RWXU)?;
            }
            Err(Errno::NOENT) => mkdirat(parent, name, Mode::RWXU)?,
            Err(errno) => return Err(errno),
        }
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
        let fd = openat(parent, name, flags, Mode::empty())?;
        // Until its content is written the folder must be writable, whatever its mode is to be.
        fchmod(&fd, Mode::RWXU)?;
        let mtime = self.epoch.unwrap_or(entry.mtime);
        self.open.push(OpenFolder {
            name: name.to_owned(),
            fd,
            mode: entry.mode,
            mtime,
        });
        Ok(())
    }

    fn file(&self, name: &[u8], entry: &Entry, data: &mut dyn Read) -> std::io::Result<()> {
        let parent = self.parent();
        let temporary = temporary(name);
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(openat(
            parent,
            temporary.as_slice(),
            flags,
            Mode::RUSR | Mode::WUSR,
        )?);
        let written = std::io::copy(data, &mut file).and_then(|_| {
            fchmod(&file, Mode::from_raw_mode(entry.mode))?;
            futimens(&file, &times(self.epoch.unwrap_or(entry.mtime)))?;
            Ok(self.put(&temporary, name)?)
        });
        if written.is_err() {
            // The first error is the one to tell.
            let _ = unlinkat(parent, temporary.as_slice(), AtFlags::empty());
        }
        written
    }

    /// Gives a finished entry its name, in place of whatever has it.
    fn put(&self, temporary: &[u8], name: &[u8]) -> rustix::io::Result<()> {
        let parent = self.parent();
        match renameat(parent, temporary, parent, name) {
            Err(Errno::ISDIR | Errno::EXIST | Errno::NOTEMPTY) => {
                remove_folder(parent, name)?;
                renameat(parent, temporary, parent, name)
            }
            renamed => renamed,
        }
    }

    fn special(&self, name: &[u8], entry: &Entry) -> rustix::io::Result<()> {
        let parent = self.parent();
        let temporary = temporary(name);
        match &entry.kind {
            Kind::Symlink { target } => symlinkat(target.as_slice(), parent, temporary.as_slice())?,
            Kind::Hardlink { target } => {
                // Every component was written by this walk as a folder; a rename race could only link a file of the user's own.
                linkat(
                    &self.root,
                    target.as_slice(),
                    parent,
                    temporary.as_slice(),
                    AtFlags::empty(),
                )?;
            }
            Kind::Fifo => mkfifoat(
                parent,
                temporary.as_slice(),
                Mode::from_raw_mode(entry.mode),
            )?,
            // An ordinary user cannot make devices, and an exported folder has no use for them.
            _ => return Ok(()),
        }
        if !matches!(entry.kind, Kind::Hardlink { .. }) {
            let times = times(self.epoch.unwrap_or(entry.mtime));
            utimensat(
                parent,
                temporary.as_slice(),
                &times,
                AtFlags::SYMLINK_NOFOLLOW,
            )?;
        }
        self.put(&temporary, name)
    }
}

impl Sink for FolderSink {
    fn entry(&mut self, entry: Entry, data: Option<&mut dyn Read>) -> Result<(), Error> {
        self.enter_parent(&entry.path)?;
        let name = entry
            .path
            .rsplit(|byte| *byte == b'/')
            .next()
            .unwrap_or_default()
            .to_owned();
        let written = match (&entry.kind, data) {
            (Kind::Directory, _) => self.folder(&name, &entry).map_err(Into::into),
            (Kind::File { .. }, Some(data)) => self.file(&name, &entry, data),
            _ => self.special(&name, &entry).map_err(Into::into),
        };
        written.map_err(|source| self.fail(&entry.path, source))
    }
}

fn times(mtime: i64) -> Timestamps {
    let time = Timespec {
        tv_sec: mtime,
        tv_nsec: 0,
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

fn temporary(name: &[u8]) -> Vec<u8> {
    let end = name.len().min(200);
    let process = format!("-{}", std::process::id());
    [b".kiln-".as_slice(), &name[..end], process.as_bytes()].concat()
}

/// Removes a folder that an image's file replaces; follows no link.
fn remove_folder(parent: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<()> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
    let folder = openat(parent, name, flags, Mode::empty())?;
    for entry in Dir::read_from(&folder)? {
        let entry = entry?;
        let child = entry.file_name().to_bytes();
        if child == b"." || child == b".." {
            continue;
        }
        match unlinkat(&folder, child, AtFlags::empty()) {
            Err(Errno::ISDIR) => remove_folder(folder.as_fd(), child)?,
            other => other?,
        }
    }
    unlinkat(parent, name, AtFlags::REMOVEDIR)
}
