//! Writes a layer's entries into a directory that can be an overlay lower (mounted with `userxattr`).
//!
//! Whiteouts become character devices 0:0, opaque directories get `user.overlay.opaque`. Every path is opened from the
//! root's descriptor with `openat2(RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)`, so that nothing can be made outside. Paths
//! come from [`super::collect`], clean and free of links.

use super::collect::{Action, Placed};
use super::index::io_error;
use super::order::{show, split};
use super::tar_reader::RawEntry;
use super::xattr::kept_xattrs;
use crate::Error;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{
    self as rfs, AtFlags, FileType, Mode, OFlags, ResolveFlags, Timespec, Timestamps, XattrFlags,
};
use rustix::io::Errno;
use sandbox::whiteout;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

/// How far the process may go.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ExtractOptions {
    /// Make device nodes (needs `CAP_MKNOD` outside user namespaces); otherwise only the index knows them.
    pub devices: bool,
    /// Set owners; otherwise everything belongs to the process (a namespace with a single id), and they are recorded.
    pub owners: bool,
}

/// A tree being written.
#[derive(Debug)]
pub(crate) struct Extractor {
    root: OwnedFd,
    dest: PathBuf,
    options: ExtractOptions,
    /// The directory used last: neighbours share it.
    last: Option<(Vec<u8>, OwnedFd)>,
    /// Attributes of directories, applied at the end: writing into them would change their times.
    directories: BTreeMap<Vec<u8>, Attributes>,
}

/// A file being written.
#[derive(Debug)]
pub(crate) struct Target {
    file: OwnedFd,
    path: Vec<u8>,
}

#[derive(Clone, Debug)]
struct Attributes {
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: i64,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Attributes {
    fn of(raw: &RawEntry) -> Self {
        Self {
            mode: raw.mode,
            uid: raw.uid,
            gid: raw.gid,
            mtime: raw.mtime,
            xattrs: kept_xattrs(&raw.xattrs),
        }
    }
    fn implied() -> Self {
        Self {
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime: 0,
            xattrs: Vec::new(),
        }
    }
}

const BENEATH: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS);

/// Opens a path below a root, following no link. The empty path is the root.
pub(crate) fn open_beneath(
    root: BorrowedFd<'_>,
    path: &[u8],
    flags: OFlags,
    mode: Mode,
) -> rustix::io::Result<OwnedFd> {
    let path = if path.is_empty() { b"." } else { path };
    loop {
        match rfs::openat2(
            root,
            OsStr::from_bytes(path),
            flags | OFlags::CLOEXEC,
            mode,
            BENEATH,
        ) {
            // A rename elsewhere raced with the walk; the kernel asks to try again.
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
}

impl Extractor {
    /// Makes the root, mode 0755.
    pub(crate) fn create(dest: &Path, options: ExtractOptions) -> Result<Self, Error> {
        std::fs::create_dir(dest).map_err(|e| io_error("create", dest, e))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let root =
            rfs::open(dest, flags, Mode::empty()).map_err(|e| io_error("open", dest, e.into()))?;
        // A setgid parent must not hand its group down.
        rfs::fchmod(&root, Mode::from_raw_mode(0o755))
            .map_err(|e| io_error("set the mode of", dest, e.into()))?;
        let directories = BTreeMap::from([(Vec::new(), Attributes::implied())]);
        Ok(Self {
            root,
            dest: dest.to_path_buf(),
            options,
            last: None,
            directories,
        })
    }

    fn error(&self, op: &'static str, path: &[u8], errno: Errno) -> Error {
        io_error(op, &self.dest.join(OsStr::from_bytes(path)), errno.into())
    }

    /// Makes missing parents and removes what goes.
    pub(crate) fn prepare(&mut self, placed: &Placed) -> Result<(), Error> {
        for parent in &placed.parents {
            self.make_parent(parent)?;
        }
        if placed.replaces {
            self.remove(&placed.path)?;
        }
        Ok(())
    }

    fn make_parent(&mut self, path: &[u8]) -> Result<(), Error> {
        let mode = Mode::from_raw_mode(0o755);
        let (_, name) = split(path);
        let made = rfs::mkdirat(self.dir(path)?, OsStr::from_bytes(name), mode);
        if made == Err(Errno::EXIST) {
            // A whiteout of the same layer: the directory takes its place and hides what is below.
            self.remove(path)?;
            rfs::mkdirat(self.dir(path)?, OsStr::from_bytes(name), mode)
                .map_err(|e| self.error("create", path, e))?;
            self.opaque(path)?;
        } else {
            made.map_err(|e| self.error("create", path, e))?;
        }
        self.directories
            .insert(path.to_vec(), Attributes::implied());
        Ok(())
    }

    /// The directory that holds `path`.
    fn dir(&mut self, path: &[u8]) -> Result<BorrowedFd<'_>, Error> {
        let (dir, _) = split(path);
        if dir.is_empty() {
            return Ok(self.root.as_fd());
        }
        if self.last.as_ref().is_none_or(|(known, _)| known != dir) {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            let fd = open_beneath(self.root.as_fd(), dir, flags, Mode::empty());
            let fd = fd.map_err(|e| self.error("open", dir, e))?;
            self.last = Some((dir.to_vec(), fd));
        }
        Ok(self
            .last
            .as_ref()
            .map_or(self.root.as_fd(), |(_, fd)| fd.as_fd()))
    }

    fn remove(&mut self, path: &[u8]) -> Result<(), Error> {
        let name = OsStr::from_bytes(split(path).1);
        let dir = self.dir(path)?;
        match rfs::unlinkat(dir, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::ISDIR) => {}
            Err(error) => return Err(self.error("remove", path, error)),
        }
        let removed = remove_below(dir, name);
        self.last = None;
        self.directories.remove(path);
        // Everything below begins with `PATH/`, and `0` is the byte after the slash.
        let below = self
            .directories
            .range([path, b"/"].concat()..[path, b"0"].concat());
        let below: Vec<Vec<u8>> = below.map(|(path, _)| path.clone()).collect();
        for path in below {
            self.directories.remove(&path);
        }
        removed.map_err(|e| self.error("remove", path, e))
    }

    /// Starts a regular file.
    pub(crate) fn file(&mut self, path: &[u8]) -> Result<Target, Error> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let name = OsStr::from_bytes(split(path).1);
        let file = rfs::openat(self.dir(path)?, name, flags, Mode::from_raw_mode(0o600));
        let file = file.map_err(|e| self.error("create", path, e))?;
        Ok(Target {
            file,
            path: path.to_vec(),
        })
    }

    /// Ends a regular file: owner, mode, xattrs, time.
    pub(crate) fn end_file(&self, target: &Target, raw: &RawEntry) -> Result<(), Error> {
        self.attributes(target.file.as_fd(), &target.path, &Attributes::of(raw))
    }

    /// Everything that has no content.
    pub(crate) fn special(&mut self, placed: &Placed, raw: &RawEntry) -> Result<(), Error> {
        let path = placed.path.as_slice();
        let name = OsStr::from_bytes(split(path).1);
        match &placed.action {
            Action::Nothing | Action::File => Ok(()),
            Action::Directory { opaque } => self.directory(path, *opaque, raw),
            Action::Opaque => self.opaque(path),
            Action::Whiteout => {
                let made = whiteout::make(self.dir(path)?, name);
                made.map_err(|e| self.error("create the whiteout", path, e))
            }
            Action::Symlink => {
                let made = rfs::symlinkat(OsStr::from_bytes(&raw.link), self.dir(path)?, name);
                made.map_err(|e| self.error("create", path, e))?;
                self.node_attributes(path, raw)
            }
            Action::Hardlink(target) => self.hardlink(path, target),
            Action::Fifo => {
                let made = rfs::mknodat(
                    self.dir(path)?,
                    name,
                    FileType::Fifo,
                    Mode::from_raw_mode(raw.mode),
                    0,
                );
                made.map_err(|e| self.error("create", path, e))?;
                self.node_attributes(path, raw)
            }
            Action::Device if !self.options.devices => Ok(()),
            Action::Device => {
                let kind = if raw.flag == b'3' {
                    FileType::CharacterDevice
                } else {
                    FileType::BlockDevice
                };
                let device = rfs::makedev(raw.device.0, raw.device.1);
                let made = rfs::mknodat(
                    self.dir(path)?,
                    name,
                    kind,
                    Mode::from_raw_mode(raw.mode),
                    device,
                );
                match made {
                    // A container may be root without CAP_MKNOD.
                    Err(Errno::PERM) => return Ok(()),
                    other => other.map_err(|e| self.error("create the device", path, e))?,
                }
                self.node_attributes(path, raw)
            }
        }
    }

    fn directory(&mut self, path: &[u8], opaque: bool, raw: &RawEntry) -> Result<(), Error> {
        if !path.is_empty() {
            let name = OsStr::from_bytes(split(path).1);
            match rfs::mkdirat(self.dir(path)?, name, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(self.error("create", path, error)),
            }
        }
        if opaque {
            self.opaque(path)?;
        }
        self.directories.insert(path.to_vec(), Attributes::of(raw));
        Ok(())
    }

    fn opaque(&self, path: &[u8]) -> Result<(), Error> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let dir = open_beneath(self.root.as_fd(), path, flags, Mode::empty())
            .map_err(|e| self.error("open", path, e))?;
        rfs::fsetxattr(&dir, "user.overlay.opaque", b"y", XattrFlags::empty())
            .map_err(|e| self.error("mark as opaque", path, e))
    }

    fn hardlink(&mut self, path: &[u8], target: &[u8]) -> Result<(), Error> {
        let (dir, name) = split(target);
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let from = open_beneath(self.root.as_fd(), dir, flags, Mode::empty())
            .map_err(|e| self.error("open", dir, e))?;
        let new = OsStr::from_bytes(split(path).1);
        let linked = rfs::linkat(
            &from,
            OsStr::from_bytes(name),
            self.dir(path)?,
            new,
            AtFlags::empty(),
        );
        match linked {
            // A device that was not made has no links either.
            Err(Errno::NOENT)
                if !self.options.devices
                    || rfs::statat(&from, OsStr::from_bytes(name), AtFlags::SYMLINK_NOFOLLOW)
                        .is_err() =>
            {
                Ok(())
            }
            other => other.map_err(|e| self.error("link", path, e)),
        }
    }

    fn attributes(
        &self,
        fd: BorrowedFd<'_>,
        path: &[u8],
        attributes: &Attributes,
    ) -> Result<(), Error> {
        if self.options.owners {
            let (uid, gid) = (
                rfs::Uid::from_raw(attributes.uid),
                rfs::Gid::from_raw(attributes.gid),
            );
            rfs::fchown(fd, Some(uid), Some(gid))
                .map_err(|e| self.owner_error(path, attributes, e))?;
        } else if (attributes.uid, attributes.gid) != (0, 0) {
            let value = sandbox::owner_value((attributes.uid, attributes.gid));
            match rfs::fsetxattr(
                fd,
                sandbox::OWNER_ATTRIBUTE,
                value.as_bytes(),
                XattrFlags::empty(),
            ) {
                // The index keeps it.
                Ok(()) | Err(Errno::OPNOTSUPP | Errno::PERM) => {}
                Err(error) => return Err(self.error("set an extended attribute of", path, error)),
            }
        }
        rfs::fchmod(fd, Mode::from_raw_mode(attributes.mode))
            .map_err(|e| self.error("set the mode of", path, e))?;
        for (name, value) in &attributes.xattrs {
            match rfs::fsetxattr(fd, OsStr::from_bytes(name), value, XattrFlags::empty()) {
                // The index keeps what this file system or namespace cannot hold.
                Ok(()) | Err(Errno::OPNOTSUPP | Errno::PERM) => {}
                Err(error) => return Err(self.error("set an extended attribute of", path, error)),
            }
        }
        rfs::futimens(fd, &times(attributes.mtime))
            .map_err(|e| self.error("set the time of", path, e))
    }

    fn owner_error(&self, path: &[u8], attributes: &Attributes, errno: Errno) -> Error {
        if errno != Errno::INVAL {
            return self.error("set the owner of", path, errno);
        }
        let owner = format!("{}:{}", attributes.uid, attributes.gid);
        let reason = format!(
            "{}: its owner {owner} is outside the subordinate ids of this user",
            show(path)
        );
        Error::Layer {
            layer: self.dest.display().to_string(),
            reason,
        }
    }

    /// Attributes of what cannot be opened: links, FIFOs, devices.
    fn node_attributes(&mut self, path: &[u8], raw: &RawEntry) -> Result<(), Error> {
        let name = OsStr::from_bytes(split(path).1);
        let options = self.options;
        let dir = self.dir(path)?;
        let set = || -> rustix::io::Result<()> {
            if options.owners {
                let (uid, gid) = (rfs::Uid::from_raw(raw.uid), rfs::Gid::from_raw(raw.gid));
                rfs::chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
            }
            if raw.flag != b'2' {
                rfs::chmodat(dir, name, Mode::from_raw_mode(raw.mode), AtFlags::empty())?;
            }
            rfs::utimensat(dir, name, &times(raw.mtime), AtFlags::SYMLINK_NOFOLLOW)
        };
        let set = set();
        set.map_err(|e| self.owner_error(path, &Attributes::of(raw), e))
    }

    /// Ends the tree: attributes of directories, the innermost first.
    pub(crate) fn finish(mut self) -> Result<(), Error> {
        self.last = None;
        let directories = std::mem::take(&mut self.directories);
        for (path, attributes) in directories.iter().rev() {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            let dir = open_beneath(self.root.as_fd(), path, flags, Mode::empty());
            let dir = dir.map_err(|e| self.error("open", path, e))?;
            self.attributes(dir.as_fd(), path, attributes)?;
        }
        Ok(())
    }
}

impl Target {
    /// Gives it the content of another file; its bytes.
    pub(crate) fn fill(&self, mut from: std::fs::File) -> Result<u64, Error> {
        let path = Path::new(OsStr::from_bytes(&self.path));
        let filled = self
            .file
            .try_clone()
            .and_then(|file| std::io::copy(&mut from, &mut std::fs::File::from(file)));
        filled.map_err(|e| io_error("write", path, e))
    }

    /// Appends content.
    pub(crate) fn write(&mut self, mut content: &[u8]) -> Result<(), Error> {
        while !content.is_empty() {
            match rustix::io::write(&self.file, content) {
                Ok(written) => content = &content[written..],
                Err(Errno::INTR) => {}
                Err(error) => {
                    let path = Path::new(OsStr::from_bytes(&self.path));
                    return Err(io_error("write", path, error.into()));
                }
            }
        }
        Ok(())
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

/// Removes a directory and everything in it, following no link. Unreadable directories of the same owner are opened up.
pub(crate) fn remove_below(dir: BorrowedFd<'_>, name: &OsStr) -> rustix::io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = match rfs::openat(dir, name, flags, Mode::empty()) {
        Err(Errno::ACCESS) => {
            rfs::chmodat(dir, name, Mode::RWXU, AtFlags::empty())?;
            rfs::openat(dir, name, flags, Mode::empty())?
        }
        other => other?,
    };
    let mut opened_up = false;
    for entry in rfs::Dir::read_from(&opened)? {
        let entry = entry?;
        let child = OsStr::from_bytes(entry.file_name().to_bytes());
        if child == "." || child == ".." {
            continue;
        }
        loop {
            let removed = match entry.file_type() {
                FileType::Directory => remove_below(opened.as_fd(), child),
                _ => match rfs::unlinkat(&opened, child, AtFlags::empty()) {
                    Err(Errno::ISDIR) => remove_below(opened.as_fd(), child),
                    other => other,
                },
            };
            match removed {
                Ok(()) | Err(Errno::NOENT) => break,
                Err(Errno::ACCESS) if !opened_up => {
                    opened_up = true;
                    rfs::fchmod(&opened, Mode::RWXU)?;
                }
                Err(error) => return Err(error),
            }
        }
    }
    rfs::unlinkat(dir, name, AtFlags::REMOVEDIR)
}
