//! The lower that makes a staged root exact: engines carry names, content and at most modes and times, and layers say more.
//!
//! It lies over the staged folder and holds every entry that differs from what the layers' indexes say: owner, mode, time,
//! extended attributes, hard links, devices, and whatever could not be staged at all. What is staged beyond the indexes is
//! hidden. It trusts the engine for the content of files, as far as their sizes are right.
//!
//! Where the engine says that it carries modes and times, it is believed for what is nothing special (root's, 0644 or 0755,
//! no attributes): that such entries are there, and their modes, times and sizes. Sixty of them are looked at, some of each
//! sort; one that is wrong, and nothing is believed any longer. Nothing is hidden then. All else is looked at, one by one;
//! of symbolic links the first tells whether their times are carried.

mod folder;
mod sample;

use self::folder::Folder;
use self::sample::{Samples, Sort};
use super::spec::StagedReport;
use crate::Error;
use crate::layer::capture::list_xattrs;
use crate::layer::collect::{Action, Placed};
use crate::layer::extract::{ExtractOptions, Extractor};
use crate::layer::index::io_error;
use crate::layer::open_beneath;
use crate::layer::order::{join, show, split};
use crate::layer::tar_reader::RawEntry;
use crate::layer::xattr::keeps_xattr;
use crate::snapshot::{LayerFiles, View};
use crate::tree::{Entry, FileTree as _, Kind};
use rustix::fd::{AsFd as _, BorrowedFd};
use rustix::fs::{self as rfs, AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::cell::OnceCell;
use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::fs::File;
use std::ops::RangeInclusive;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

/// Name of the task.
pub(crate) const FIX: &str = "fix-staged-root";
/// Times that messages can hold, in seconds: up to the end of the year 9999.
const CARRIED_TIMES: RangeInclusive<i64> = 0..=253_402_300_799;

/// Request of the task.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct FixRequest {
    /// The staged folder, absolute.
    pub(crate) staged: PathBuf,
    /// Content of files whose names an engine cannot carry, by the BLAKE3 of it in hex.
    pub(crate) extra: PathBuf,
    /// Its layers, base first; of their files the indexes alone are used.
    pub(crate) layers: Vec<LayerFiles>,
    /// The folder of the lower, which is made.
    pub(crate) dest: PathBuf,
    /// How far the process may go.
    pub(crate) options: ExtractOptions,
    /// Modes and times are said to be carried.
    pub(crate) carried: bool,
    /// Of which entries a sample is made: the same for the same step.
    pub(crate) seed: u64,
}

/// The task.
pub(crate) fn fix(request: &FixRequest) -> Result<StagedReport, Error> {
    let view = View::load(&request.layers)?;
    if request.carried {
        if let Some(report) = attempt(request, &view, true)? {
            return Ok(report);
        }
        store::remove_tree(&request.dest).map_err(|e| io_error("remove", &request.dest, e))?;
    }
    let report = attempt(request, &view, false)?;
    Ok(report.expect("BUG: only a sample can be refuted"))
}

/// `None` where a sample shows that what is said to be carried is not.
fn attempt(
    request: &FixRequest,
    view: &View,
    samples: bool,
) -> Result<Option<StagedReport>, Error> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let staged = rfs::open(&request.staged, flags, Mode::empty());
    let staged = staged.map_err(|e| io_error("open", &request.staged, e.into()))?;
    let mut fixer = Fixer {
        view,
        request,
        extractor: Extractor::create(&request.dest, request.options)?,
        samples: samples.then(|| Samples::new(request.seed)),
        foreign_xattrs: OnceCell::new(),
        symlinks: None,
        made: BTreeSet::new(),
        links: HashMap::new(),
        report: StagedReport::default(),
    };
    let root = fixer.entry(b"")?;
    fixer.make_directory(&root)?;
    let staged = Folder::root(staged);
    fixer.directory(b"", &staged)?;
    if !fixer.samples_are_exact(&staged)? {
        return Ok(None);
    }
    let Fixer {
        extractor, report, ..
    } = fixer;
    extractor.finish()?;
    Ok(Some(report))
}

struct Fixer<'a> {
    view: &'a View,
    request: &'a FixRequest,
    extractor: Extractor,
    /// Only these of the usual entries are looked at.
    samples: Option<Samples>,
    /// Staged files carry attributes that commands would see and layers would keep.
    foreign_xattrs: OnceCell<bool>,
    /// Whether the first symbolic link is as it should be. Some engines carry the times of all else: then none is looked at.
    symlinks: Option<bool>,
    /// Directories in the lower.
    made: BTreeSet<Vec<u8>>,
    /// Paths in the lower of files with several names.
    links: HashMap<(u64, u64), Vec<u8>>,
    report: StagedReport,
}

impl Fixer<'_> {
    fn error(&self, op: &'static str, path: &[u8], errno: Errno) -> Error {
        let path = self.request.staged.join(OsStr::from_bytes(path));
        io_error(op, &path, errno.into())
    }

    fn entry(&self, path: &[u8]) -> Result<Entry, Error> {
        let entry = self.view.entry(path)?;
        entry.ok_or_else(|| self.error("inspect", path, Errno::NOENT))
    }

    /// Whether staged files have attributes that a layer would keep. An engine that sets some sets them on all files: the
    /// first that is asked about tells.
    fn has_foreign_xattrs(&self, folder: BorrowedFd<'_>, name: &[u8]) -> bool {
        *self.foreign_xattrs.get_or_init(|| {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
            let opened = rfs::openat(folder, OsStr::from_bytes(name), flags, Mode::empty());
            let found = opened.map(|opened| list_xattrs(opened.as_fd()).unwrap_or_default());
            let mut found = found.unwrap_or_default().into_iter();
            found.any(|name| keeps_xattr(&name) || name.starts_with(b"user.overlay."))
        })
    }

    /// Goes through a directory; `staged` is what the engine has made of it.
    fn directory(&mut self, path: &[u8], staged: &Folder<'_>) -> Result<(), Error> {
        let children = self.view.children(path)?;
        self.members(path, staged, &children)
    }

    fn members(
        &mut self,
        path: &[u8],
        staged: &Folder<'_>,
        children: &[(Vec<u8>, Entry)],
    ) -> Result<(), Error> {
        if self.samples.is_none()
            && let Some(staged) = staged.open()
        {
            self.hide_others(path, staged, children)?;
        }
        for (name, entry) in children {
            if entry.kind != Kind::Directory {
                self.child(name, entry, staged, Sort::of_file)?;
                continue;
            }
            let path = join(path, name);
            let below = self.view.children(&path)?;
            self.child(name, entry, staged, |_| Sort::of_folder(below.is_empty()))?;
            self.members(&path, &staged.below(name), &below)?;
        }
        Ok(())
    }

    /// Whether the chosen entries are as they should be. Others that could be staged and are no special are as they are said
    /// to be then, or none is.
    fn samples_are_exact(&mut self, staged: &Folder<'_>) -> Result<bool, Error> {
        let chosen = self.samples.as_mut().map(Samples::take).unwrap_or_default();
        for entry in chosen {
            let (parent, name) = split(&entry.path);
            let flags = OFlags::PATH | OFlags::DIRECTORY;
            let parent = staged
                .open()
                .and_then(|root| open_beneath(root, parent, flags, Mode::empty()).ok());
            let Some(parent) = parent else {
                return Ok(false);
            };
            let at = OsStr::from_bytes(name);
            let Ok(stat) = rfs::statat(&parent, at, AtFlags::SYMLINK_NOFOLLOW) else {
                return Ok(false);
            };
            if !self.is_exact(&entry, &stat, parent.as_fd(), name)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Hides what is staged and in no layer.
    fn hide_others(
        &mut self,
        path: &[u8],
        staged: BorrowedFd<'_>,
        children: &[(Vec<u8>, Entry)],
    ) -> Result<(), Error> {
        let items = rfs::Dir::read_from(staged).map_err(|e| self.error("list", path, e))?;
        for item in items {
            let item = item.map_err(|e| self.error("list", path, e))?;
            let name = item.file_name().to_bytes();
            let known = children.binary_search_by(|(known, _)| known.as_slice().cmp(name));
            if name == b"." || name == b".." || known.is_ok() {
                continue;
            }
            let path = join(path, name);
            self.make_parents(&path)?;
            self.make(path, Action::Whiteout, &RawEntry::default())?;
        }
        Ok(())
    }

    fn child(
        &mut self,
        name: &[u8],
        entry: &Entry,
        staged: &Folder<'_>,
        sort: impl FnOnce(&Entry) -> Sort,
    ) -> Result<(), Error> {
        let is_directory = entry.kind == Kind::Directory;
        let has_links = !is_directory && self.view.has_links(&entry.path);
        self.report.files += 1;
        // Which links are staged at all depends on the engine, and one that is not costs little.
        let is_symlink = matches!(entry.kind, Kind::Symlink { .. });
        if let Some(samples) = &mut self.samples
            && !has_links
            && is_usual(entry)
        {
            samples.offer(sort(entry), entry);
            return Ok(());
        }
        let may_be_exact =
            !has_links && self.may_be_exact(entry) && !(is_symlink && self.symlinks == Some(false));
        if let Some(staged) = staged.open().filter(|_| may_be_exact) {
            let at = OsStr::from_bytes(name);
            if let Ok(stat) = rfs::statat(staged, at, AtFlags::SYMLINK_NOFOLLOW) {
                let exact = self.is_exact(entry, &stat, staged, name)?;
                if is_symlink {
                    self.symlinks.get_or_insert(exact);
                }
                if exact {
                    return Ok(());
                }
            }
        }
        self.fix(name, entry, staged, has_links)
    }

    /// Makes an entry anew.
    fn fix(
        &mut self,
        name: &[u8],
        entry: &Entry,
        staged: &Folder<'_>,
        has_links: bool,
    ) -> Result<(), Error> {
        self.report.fixed += 1;
        self.make_parents(&entry.path)?;
        if has_links && entry.kind != Kind::Directory {
            let group = self.view.link_id(&entry.path);
            let group = group.unwrap_or((u64::MAX, self.report.files));
            if let Some(first) = self.links.get(&group) {
                let action = Action::Hardlink(first.clone());
                return self.make(entry.path.clone(), action, &RawEntry::default());
            }
            self.links.insert(group, entry.path.clone());
        }
        match &entry.kind {
            Kind::Directory => self.make_directory(entry),
            Kind::File { size, digest } => {
                let from = self.content(name, entry, staged, (*size, digest.as_ref()))?;
                self.make_file(entry, from)
            }
            kind => {
                let action = match kind {
                    Kind::Symlink { .. } => Action::Symlink,
                    Kind::Fifo => Action::Fifo,
                    _ => Action::Device,
                };
                self.make(entry.path.clone(), action, &raw(entry))
            }
        }
    }

    /// Whether a staged entry can be what a layer's would be. Owners beside root's are recorded in attributes, where there is
    /// only one id.
    fn may_be_exact(&self, entry: &Entry) -> bool {
        let can_be_staged = match entry.kind {
            Kind::File { .. } | Kind::Directory => {
                self.request.options.owners || (entry.uid, entry.gid) == (0, 0)
            }
            Kind::Symlink { .. } => true,
            _ => false,
        };
        can_be_staged && entry.xattrs.is_empty()
    }

    /// Whether it is.
    fn is_exact(
        &self,
        entry: &Entry,
        stat: &Stat,
        staged: BorrowedFd<'_>,
        name: &[u8],
    ) -> Result<bool, Error> {
        let on_disk = if self.request.options.owners {
            (entry.uid, entry.gid)
        } else {
            (0, 0)
        };
        let is_same = self.may_be_exact(entry)
            && (stat.st_uid, stat.st_gid) == on_disk
            && (stat.st_mtime, stat.st_mtime_nsec) == (entry.mtime, 0);
        let mode_is_same = stat.st_mode & 0o7777 == entry.mode;
        Ok(is_same
            && match (&entry.kind, FileType::from_raw_mode(stat.st_mode)) {
                (Kind::Directory, FileType::Directory) => mode_is_same,
                (Kind::File { size, .. }, FileType::RegularFile) => {
                    let found = u64::try_from(stat.st_size).unwrap_or_default();
                    if found != *size {
                        return Err(self.damaged(entry, found, *size));
                    }
                    mode_is_same && !self.has_foreign_xattrs(staged, name)
                }
                (Kind::Symlink { target }, FileType::Symlink) => {
                    let found = rfs::readlinkat(staged, OsStr::from_bytes(name), Vec::new());
                    found.is_ok_and(|found| found.as_bytes() == target)
                }
                _ => false,
            })
    }

    fn damaged(&self, entry: &Entry, found: u64, size: u64) -> Error {
        Error::Layer {
            layer: self.request.staged.display().to_string(),
            reason: format!(
                "{}: {found} bytes were staged, and it has {size}",
                show(&entry.path)
            ),
        }
    }

    /// The content of a file, as it was staged.
    fn content(
        &self,
        name: &[u8],
        entry: &Entry,
        staged: &Folder<'_>,
        (size, digest): (u64, Option<&[u8; 32]>),
    ) -> Result<File, Error> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let opened = match staged.open() {
            Some(staged) => rfs::openat(staged, OsStr::from_bytes(name), flags, Mode::empty()),
            None => Err(Errno::NOENT),
        };
        let opened = match (opened, digest) {
            (Err(Errno::NOENT), Some(digest)) => {
                let extra = self.request.extra.join(crate::layer::hex(digest));
                rfs::open(&extra, flags, Mode::empty())
            }
            (opened, _) => opened,
        };
        let file = File::from(opened.map_err(|e| self.error("open", &entry.path, e))?);
        let failed = |e| io_error("inspect", &self.request.staged, e);
        let found = file.metadata().map_err(failed)?;
        if !found.is_file() || found.len() != size {
            return Err(self.damaged(entry, found.len(), size));
        }
        Ok(file)
    }

    fn make_file(&mut self, entry: &Entry, from: File) -> Result<(), Error> {
        let target = self.extractor.file(&entry.path)?;
        self.report.copied_bytes += target.fill(from)?;
        self.extractor.end_file(&target, &raw(entry))
    }

    fn make_directory(&mut self, entry: &Entry) -> Result<(), Error> {
        if !self.made.insert(entry.path.clone()) {
            return Ok(());
        }
        let action = Action::Directory { opaque: false };
        self.make(entry.path.clone(), action, &raw(entry))
    }

    /// All directories on the way are in the lower, with what the layers say of them.
    fn make_parents(&mut self, path: &[u8]) -> Result<(), Error> {
        let (parent, _) = split(path);
        if parent.is_empty() || self.made.contains(parent) {
            return Ok(());
        }
        self.make_parents(parent)?;
        let entry = self.entry(parent)?;
        self.make_directory(&entry)
    }

    fn make(&mut self, path: Vec<u8>, action: Action, raw: &RawEntry) -> Result<(), Error> {
        let placed = Placed {
            path,
            action,
            replaces: false,
            parents: Vec::new(),
        };
        self.extractor.special(&placed, raw)
    }
}

/// Whether an entry says nothing that an engine could not carry, if it carries modes and times.
fn is_usual(entry: &Entry) -> bool {
    (entry.uid, entry.gid) == (0, 0)
        && entry.xattrs.is_empty()
        && std::str::from_utf8(&entry.path).is_ok()
        && CARRIED_TIMES.contains(&entry.mtime)
        && match &entry.kind {
            Kind::Directory => entry.mode == 0o755,
            Kind::File { .. } => matches!(entry.mode, 0o644 | 0o755),
            _ => false,
        }
}

/// As the extractor takes it.
fn raw(entry: &Entry) -> RawEntry {
    let (flag, link, device) = match &entry.kind {
        Kind::Symlink { target } => (b'2', target.clone(), (0, 0)),
        Kind::Char { major, minor } => (b'3', Vec::new(), (*major, *minor)),
        Kind::Block { major, minor } => (b'4', Vec::new(), (*major, *minor)),
        Kind::Directory => (b'5', Vec::new(), (0, 0)),
        Kind::Fifo => (b'6', Vec::new(), (0, 0)),
        _ => (b'0', Vec::new(), (0, 0)),
    };
    RawEntry {
        flag,
        link,
        mode: entry.mode,
        uid: entry.uid,
        gid: entry.gid,
        mtime: entry.mtime,
        device,
        xattrs: entry.xattrs.clone(),
        ..RawEntry::default()
    }
}
