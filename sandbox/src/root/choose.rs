//! Chooses how roots are put together, by trying it on the file system of the store.

use super::compare::remove;
use super::fuse;
use crate::fail::{Failure, Stage};
use crate::overlay::{self, Layer, Layers, Spare};
use crate::resolve;
use crate::sys::SingleThreaded;
use crate::{Mode, RootKind};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{self as rfs, AtFlags, FileType, Mode as FileMode, OFlags, StatVfsMountFlags};
use rustix::io::Errno;
use rustix::process::WaitOptions;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

/// From best to slowest.
const ORDER: [RootKind; 4] = [
    RootKind::Overlay,
    RootKind::Fuse,
    RootKind::Reflink,
    RootKind::Copy,
];

/// Facts of fuse-overlayfs 1.10 to 1.14, which no caller can see or mend: after `rm a; mv folder a; mv a b` the old `a` is
/// there again. A command sees it so too.
const FUSE_LACKS: &str = "its layers can be wrong: what a folder was moved over and away from comes back with its old \
    content, and times of folders are lost; an overlay or a copy is safe";

/// The kind of root that commands get.
#[derive(Debug)]
pub(crate) struct Choice {
    pub(crate) kind: RootKind,
    /// Why it is not a better one, and what it lacks.
    pub(crate) note: Option<String>,
}

/// The best kind that works on the file system of the stores, in a namespace that was entered; or the wanted one, or why
/// it does not work. Without namespaces nothing can be mounted.
pub(crate) fn choose(
    stores: &[PathBuf],
    wanted: Option<RootKind>,
    mode: Mode,
    one: SingleThreaded,
) -> Result<Choice, Failure> {
    let Some(store) = stores.first() else {
        let kind = wanted.unwrap_or(RootKind::Overlay);
        return Ok(Choice { kind, note: None });
    };
    let place = Place::make(store)?;
    let mut lost = Vec::new();
    for kind in ORDER {
        let cannot = mode == Mode::Chroot && kind < RootKind::Reflink && wanted.is_none();
        // Only for who asks for it: see `FUSE_LACKS`.
        let is_doubtful = kind == RootKind::Fuse && wanted.is_none();
        if cannot || is_doubtful || wanted.is_some_and(|wanted| wanted != kind) {
            continue;
        }
        match place.try_kind(kind, mode, one) {
            Ok(lacks) => {
                let note = line(kind, &lost, lacks);
                return Ok(Choice { kind, note });
            }
            Err(failure) if wanted.is_some() => {
                let stage = format!("use {kind} for the root of commands: {}", failure.stage);
                return Err(Failure { stage, ..failure });
            }
            Err(failure) => lost.push((kind, failure)),
        }
    }
    let failure = lost.pop().map(|(_, failure)| failure);
    Err(failure.unwrap_or_else(|| Failure::new("put a root together", Errno::NOTSUP)))
}

/// One line: what kept the best kind from being taken, what kept the one after it, and what the taken one lacks.
fn line(kind: RootKind, lost: &[(RootKind, Failure)], lacks: Option<String>) -> Option<String> {
    let mut reasons = Vec::new();
    for (better, failure) in lost {
        // That copies share no blocks says nothing of what to do.
        if *better != RootKind::Reflink || lost.len() == 1 {
            reasons.push(format!("no {better}: {}", said(failure)));
        }
    }
    reasons.extend(lacks);
    if reasons.is_empty() {
        return None;
    }
    Some(format!(
        "root file systems by {kind}: {}",
        reasons.join("; ")
    ))
}

fn said(failure: &Failure) -> String {
    let detail = failure.detail.as_ref();
    let detail = detail.map_or_else(String::new, |detail| format!(" ({detail})"));
    format!("could not {}: {}{detail}", failure.stage, failure.errno())
}

/// A folder in the store to try things in; removed in the end.
struct Place {
    store: OwnedFd,
    name: OsString,
    folder: OwnedFd,
}

impl Place {
    fn make(store: &Path) -> Result<Self, Failure> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let stage = || format!("try what the file system of {} can do", store.display());
        let open = rfs::open(store, flags, FileMode::empty()).stage_with(stage)?;
        let name = OsString::from(format!(
            ".try-{}",
            rustix::process::getpid().as_raw_nonzero()
        ));
        remove(open.as_fd(), &name).stage_with(stage)?;
        let folder = resolve::make_folder(&open, &name, None).stage_with(stage)?;
        Ok(Self {
            store: open,
            name,
            folder,
        })
    }

    /// Fails where a kind does not work, or tells what it lacks.
    fn try_kind(
        &self,
        kind: RootKind,
        mode: Mode,
        one: SingleThreaded,
    ) -> Result<Option<String>, Failure> {
        match kind {
            RootKind::Overlay | RootKind::Fuse if mode == Mode::Chroot => Err(Failure::new(
                "mount anything without namespaces",
                Errno::PERM,
            )),
            RootKind::Overlay => self.overlay().map(|()| None),
            RootKind::Fuse => self.fuse(one).map(|()| Some(FUSE_LACKS.to_owned())),
            RootKind::Reflink => self.reflink().and_then(|()| self.copy()),
            RootKind::Copy => self.copy(),
        }
    }

    fn folder(&self, name: &str) -> Result<OwnedFd, Failure> {
        resolve::make_folder(&self.folder, OsStr::new(name), None)
            .stage_with(|| format!("create the folder {name} in the store"))
    }

    fn overlay(&self) -> Result<(), Failure> {
        let [lower, upper, work, _spare] =
            ["lower", "upper", "work", "spare"].map(|name| self.folder(name));
        let (lower, upper, work) = (lower?, upper?, work?);
        let spare = Spare {
            parent: self.folder.as_fd(),
            name: "spare".to_owned(),
        };
        let layers = Layers {
            lowers: vec![Layer::Open(lower.as_fd())],
            upper: Some((upper.as_fd(), work.as_fd())),
        };
        let mounted = overlay::mount(&layers, &spare)?;
        // Some file systems are taken, and then cannot hold what an overlay needs.
        let stage = "write to an overlay in the store";
        resolve::make_file(&mounted, OsStr::new("file")).stage(stage)?;
        Ok(())
    }

    /// As a run does it: the program may refuse what the kernel allows.
    fn fuse(&self, one: SingleThreaded) -> Result<(), Failure> {
        fuse::find()?;
        let [lower, upper, work] =
            ["fuse-lower", "fuse-upper", "fuse-work"].map(|name| self.folder(name));
        let (lower, upper, work) = (lower?, upper?, work?);
        let stage = "use fuse-overlayfs in the store";
        // Where no such device can be made, layers of the store say what is gone in a way that the program does not know.
        let device = FileType::CharacterDevice;
        rfs::mknodat(&lower, "gone", device, FileMode::empty(), 0)
            .stage("make whiteouts in the store, which fuse-overlayfs needs")?;
        let (keeper, pid, _end) = fuse::start(one)?;
        let layers = Layers {
            lowers: vec![Layer::Open(lower.as_fd())],
            upper: Some((upper.as_fd(), work.as_fd())),
        };
        let tried = fuse::mount(&layers, &keeper).and_then(|mounted| {
            resolve::make_file(&mounted, OsStr::new("file")).stage(stage)?;
            match rfs::statat(&mounted, "gone", AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => Ok(()),
                seen => Err(Failure::new(stage, seen.err().unwrap_or(Errno::EXIST))),
            }
        });
        let tried = tried.and_then(|()| keeper.end());
        drop(keeper);
        let _ = rustix::process::waitpid(Some(pid), WaitOptions::empty());
        tried
    }

    fn reflink(&self) -> Result<(), Failure> {
        let stage = "share blocks between files of the store";
        let file = |name: &str| {
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let mode = FileMode::RUSR | FileMode::WUSR;
            rfs::openat(&self.folder, name, flags, mode).stage(stage)
        };
        let (one, other) = (file("one")?, file("other")?);
        rustix::io::write(&one, &[1; 4096]).stage(stage)?;
        rfs::ioctl_ficlone(&other, &one).stage(stage)
    }

    /// A copy's root is a part of the store's mount and has its flags.
    fn copy(&self) -> Result<Option<String>, Failure> {
        let stage = "look at the mount of the store";
        let flags = rfs::fstatvfs(&self.store).stage(stage)?.f_flag;
        if flags.contains(StatVfsMountFlags::NOEXEC) {
            let fix = "mount it without, or keep the store elsewhere (`--root`)";
            return Err(Failure::new(
                "run programs in the store, which is mounted noexec",
                Errno::ACCESS,
            )
            .detail(fix));
        }
        if flags.contains(StatVfsMountFlags::NOSUID) {
            return Ok(Some("the store is mounted nosuid: set-user-id programs and file capabilities do not work in commands".to_owned()));
        }
        Ok(None)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // What is left is empty but for what a crash leaves too.
        let _ = remove(self.store.as_fd(), &self.name);
    }
}
