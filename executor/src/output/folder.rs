//! Files of a build in a folder of the user's (`type=local`). Decides nothing about what is written.

use crate::Error;
use crate::output::files::Sink;
use crate::request::DeleteScope;
use crate::tree::{Entry, Kind};
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, Timespec, Timestamps, XattrFlags, fchmod, fsetxattr,
    futimens, linkat, mkdirat, mkfifoat, openat, renameat, statat, symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;
use rustix::process::{getegid, geteuid};
use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// The mode that an entry gets. A program that becomes its owner when it runs keeps that only where its owner stays
/// the same: with another one it would become somebody whom the image does not name.
fn mode_of(entry: &Entry) -> u32 {
    let mut mode = entry.mode & 0o7777;
    if entry.uid != geteuid().as_raw() {
        mode &= !0o4000;
    }
    if entry.gid != getegid().as_raw() {
        mode &= !0o2000;
    }
    mode
}

/// Writes entries into a folder, owned by the user. No link in the folder is ever followed.
pub(crate) struct FolderSink {
    root: OwnedFd,
    /// Open folders from the root to the one of the last entry, with their names and what is set when they are left.
    open: Vec<OpenFolder>,
    epoch: Option<i64>,
    dest: std::path::PathBuf,
    /// With `mode=delete`: what the root holds of the build. Folders have theirs in `open`.
    kept: Option<HashSet<Vec<u8>>>,
}

struct OpenFolder {
    name: Vec<u8>,
    fd: OwnedFd,
    mode: u32,
    mtime: i64,
    kept: Option<HashSet<Vec<u8>>>,
}

impl FolderSink {
    /// Into `dest`, which is made when it is missing. With `delete`, whatever is there and is not written goes;
    /// `store` is never in there.
    pub(crate) fn new(
        dest: &Path,
        epoch: Option<i64>,
        delete: Option<&DeleteScope>,
        store: &Path,
    ) -> Result<Self, Error> {
        let fail = |source| Error::Io {
            op: "create the folder",
            path: dest.to_owned(),
            source,
        };
        std::fs::create_dir_all(dest).map_err(fail)?;
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY;
        let root = openat(CWD, dest, flags, Mode::empty()).map_err(|errno| fail(errno.into()))?;
        if let Some(scope) = delete {
            // The folder that is open, whatever links led to it.
            let real = std::fs::read_link(format!("/proc/self/fd/{}", root.as_raw_fd()));
            check_delete(&real.map_err(fail)?, scope, store)?;
        }
        Ok(Self {
            root,
            open: Vec::new(),
            epoch,
            dest: dest.to_owned(),
            kept: delete.map(|_| HashSet::new()),
        })
    }

    /// Sets what is left to be set on open folders.
    pub(crate) fn finish(mut self) -> Result<(), Error> {
        while let Some(folder) = self.open.pop() {
            self.leave(&folder)?;
        }
        let removed = remove_others(self.root.as_fd(), self.kept.as_ref());
        removed.map_err(|errno| self.fail(b"", errno))
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
        remove_others(folder.fd.as_fd(), folder.kept.as_ref())
            .and_then(|()| fchmod(&folder.fd, mode))
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
        set_xattrs(&fd, entry);
        let mtime = self.epoch.unwrap_or(entry.mtime);
        self.open.push(OpenFolder {
            name: name.to_owned(),
            fd,
            mode: mode_of(entry),
            mtime,
            kept: self.kept.is_some().then(HashSet::new),
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
            set_xattrs(&file, entry);
            fchmod(&file, Mode::from_raw_mode(mode_of(entry)))?;
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
        let kept = match self.open.last_mut() {
            Some(folder) => folder.kept.as_mut(),
            None => self.kept.as_mut(),
        };
        if let Some(kept) = kept {
            kept.insert(name.clone());
        }
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

/// Refuses folders that nobody means to have emptied.
fn check_delete(dest: &Path, scope: &DeleteScope, store: &Path) -> Result<(), Error> {
    let refuse = |reason: &str| {
        let dest = dest.display();
        Err(Error::Request(format!(
            "refusing mode=delete in {dest}: {reason}"
        )))
    };
    let store = store.canonicalize().unwrap_or_else(|_| store.to_owned());
    if dest.parent().is_none() {
        return refuse("it is the root of the file system");
    }
    if store.starts_with(dest) {
        return refuse("the store is in it");
    }
    match scope {
        DeleteScope::Below(folder) if dest == folder || !dest.starts_with(folder) => {
            refuse("it is not below the working directory, which needs --allow=buildx.local.delete")
        }
        _ => Ok(()),
    }
}

/// Sets the attributes that a user may set. File systems without them lose nothing that a reader relies on.
fn set_xattrs(fd: impl AsFd, entry: &Entry) {
    for (name, value) in &entry.xattrs {
        if name.starts_with(b"user.") {
            let _ = fsetxattr(&fd, OsStr::from_bytes(name), value, XattrFlags::empty());
        }
    }
}

/// Removes what is in a folder and is not to be kept; nothing without a list.
fn remove_others(
    folder: BorrowedFd<'_>,
    kept: Option<&HashSet<Vec<u8>>>,
) -> rustix::io::Result<()> {
    let Some(kept) = kept else { return Ok(()) };
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." && !kept.contains(name) {
            remove(folder, name)?;
        }
    }
    Ok(())
}

fn remove(parent: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<()> {
    match unlinkat(parent, name, AtFlags::empty()) {
        Err(Errno::ISDIR) => remove_folder(parent, name),
        // Somebody else was faster.
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

/// Removes a folder that an image's file replaces; follows no link.
fn remove_folder(parent: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<()> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
    let folder = openat(parent, name, flags, Mode::empty())?;
    // One that its owner made read-only is still the owner's to remove; what is not says so below.
    let _ = fchmod(&folder, Mode::RWXU);
    for entry in Dir::read_from(&folder)? {
        let entry = entry?;
        let child = entry.file_name().to_bytes();
        if child != b"." && child != b".." {
            remove(folder.as_fd(), child)?;
        }
    }
    unlinkat(parent, name, AtFlags::REMOVEDIR)
}
