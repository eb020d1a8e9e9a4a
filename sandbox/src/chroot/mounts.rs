//! What takes the place of mounts: system folders, and what a step asks for, as things lent to the copy of the root.

use super::covers::{self, Covers, Thing};
use crate::fail::{Failure, Stage};
use crate::mounts::{DEVICES, LINKS};
use crate::resolve;
use crate::root::{self, Prepared};
use crate::{Mount, Overlay, RootKind, RunSpec, Volume};
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::fs::{self as rfs, AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// What is needed of a build to give its commands things.
#[derive(Debug)]
pub(crate) struct Giver<'a> {
    /// Folders of which parts can be lent; what lies elsewhere is the host's.
    pub(crate) stores: &'a [PathBuf],
    /// What would be mounted in a store.
    pub(crate) volumes: &'a [Volume],
    /// How copies are made.
    pub(crate) kind: RootKind,
}

/// Gives a command its system folders and mounts. What was written to the returned copies is to be collected.
pub(crate) fn give(
    giver: &Giver<'_>,
    spec: &RunSpec,
    root: &OwnedFd,
    covers: &mut Covers,
) -> Result<Vec<Prepared>, Failure> {
    for name in ["dev", "proc", "sys"] {
        refuse_links(root, name)?;
    }
    let (dev, folder) = covers.folder(0o755)?;
    fill_dev(&folder)?;
    covers.lend(dev, Path::new("dev"))?;
    for name in ["proc", "sys"] {
        let (empty, _) = covers.folder(0o555)?;
        covers.lend(empty, Path::new(name))?;
    }
    let mut written = Vec::new();
    for mount in &spec.mounts {
        let given = giver
            .thing(mount, covers, &mut written)
            .and_then(|(thing, target)| covers.lend(thing, &resolve::clean(target)));
        given.map_err(|failure| match (failure.errno(), mount) {
            (Errno::NOENT, Mount::Bind { .. }) => {
                failure.detail("without mounts a cache can be at one place of a step only")
            }
            _ => failure,
        })?;
    }
    Ok(written)
}

/// As with mounts: an image in which `/dev` is a link would have it somewhere else.
fn refuse_links(root: &OwnedFd, name: &str) -> Result<(), Failure> {
    match rfs::statat(root, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) != FileType::Directory => {
            Err(Failure::new(format!("mount /{name}"), Errno::NOTDIR)
                .detail("it is not a folder in the image"))
        }
        _ => Ok(()),
    }
}

/// The minor numbers of [`DEVICES`] among the memory devices; `tty` is a terminal's.
fn device_number(name: &str) -> rfs::Dev {
    let (major, minor) = match name {
        "null" => (1, 3),
        "zero" => (1, 5),
        "full" => (1, 7),
        "random" => (1, 8),
        "urandom" => (1, 9),
        "tty" => (5, 0),
        name => unreachable!("BUG: no number for /dev/{name}"),
    };
    rfs::makedev(major, minor)
}

/// Whether device nodes can be made and opened in a folder.
pub(crate) fn devices_work(folder: &OwnedFd) -> Result<(), Errno> {
    let name = format!(".device{}", rustix::process::getpid().as_raw_nonzero());
    rfs::mknodat(
        folder,
        &name,
        FileType::CharacterDevice,
        Mode::RUSR,
        device_number("null"),
    )?;
    let opened = rfs::openat(
        folder,
        &name,
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    );
    let removed = rfs::unlinkat(folder, &name, AtFlags::empty());
    opened.map(drop).and(removed)
}

fn fill_dev(dev: &OwnedFd) -> Result<(), Failure> {
    let mode = Mode::from_raw_mode(0o666);
    let devices = devices_work(dev).is_ok();
    for name in DEVICES {
        let stage = || format!("make /dev/{name}");
        if devices {
            rfs::mknodat(
                dev,
                name,
                FileType::CharacterDevice,
                mode,
                device_number(name),
            )
            .stage_with(stage)?;
        } else if name == "null" {
            resolve::make_file(dev, OsStr::new(name)).stage_with(stage)?;
        } else {
            continue;
        }
        rfs::chmodat(dev, name, mode, AtFlags::empty()).stage_with(stage)?;
    }
    for (name, target) in LINKS {
        rfs::symlinkat(target, dev, name).stage_with(|| format!("make /dev/{name}"))?;
    }
    for (name, mode) in [("pts", 0o755), ("shm", 0o1777), ("mqueue", 0o1777)] {
        let stage = || format!("make /dev/{name}");
        resolve::make_folder(dev, OsStr::new(name), None).stage_with(stage)?;
        rfs::chmodat(dev, name, Mode::from_raw_mode(mode), AtFlags::empty()).stage_with(stage)?;
    }
    Ok(())
}

impl Giver<'_> {
    fn thing<'m>(
        &self,
        mount: &'m Mount,
        covers: &mut Covers,
        written: &mut Vec<Prepared>,
    ) -> Result<(Thing, &'m str), Failure> {
        match mount {
            Mount::Overlay {
                overlay,
                source,
                target,
                readonly,
            } => {
                let lowers = overlay
                    .lowers
                    .iter()
                    .map(|lower| self.real(lower).to_owned());
                let overlay = Overlay {
                    lowers: lowers.collect(),
                    upper: overlay.upper.clone(),
                };
                let thing = self.copy(&overlay, source, *readonly, covers, written)?;
                Ok((thing, target))
            }
            Mount::Bind {
                source,
                subpath,
                target,
                readonly,
                ..
            } => Ok((self.bound(source, subpath, *readonly, covers)?, target)),
            Mount::Tmpfs { target, mode, .. } => Ok((covers.folder(*mode)?.0, target)),
            Mount::File {
                target,
                data,
                mode,
                uid,
                gid,
            } => Ok((covers.file(data, *mode, (*uid, *gid))?, target)),
        }
    }

    /// What a place in a store stands for.
    fn real<'p>(&'p self, path: &'p Path) -> &'p Path {
        let volume = self.volumes.iter().find(|volume| volume.at == path);
        volume.map_or(path, |volume| &volume.source)
    }

    /// A path in a copy of an overlay. What is written to it goes to the overlay's upper, if it has one.
    fn copy(
        &self,
        overlay: &Overlay,
        source: &str,
        readonly: bool,
        covers: &mut Covers,
        written: &mut Vec<Prepared>,
    ) -> Result<Thing, Failure> {
        let (_, folder) = covers.folder(0o700)?;
        let merged = root::merge_in(overlay, folder, self.kind)?;
        for device in merged.devices() {
            let stage = || format!("remove the device /{} from a copy", device.display());
            let above = device.parent().unwrap_or(Path::new(""));
            let above = resolve::place(merged.root(), above).stage_with(stage)?;
            let name = device.file_name().unwrap_or_default();
            rfs::unlinkat(above, name, AtFlags::empty()).stage_with(stage)?;
        }
        let thing = part_of(merged.root(), source)?;
        if overlay.upper.is_some() && !readonly {
            written.push(merged.snapshot()?);
        }
        Ok(thing)
    }

    /// A part of a store or the host. What is only read is copied; of the host nothing else is given.
    fn bound(
        &self,
        source: &Path,
        subpath: &str,
        readonly: bool,
        covers: &mut Covers,
    ) -> Result<Thing, Failure> {
        let is_volume = self.volumes.iter().any(|volume| volume.at == source);
        let source = self.real(source);
        let stage = || format!("open {}", source.display());
        let whole =
            rfs::open(source, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).stage_with(stage)?;
        if covers::is_socket(&whole).stage_with(stage)? {
            return covers.link(source);
        }
        let path = resolve::clean(subpath);
        if readonly {
            let place = if path.as_os_str().is_empty() {
                whole
            } else {
                resolve::place(&whole, &path)
                    .stage_with(|| format!("find /{} in the mount's source", path.display()))?
            };
            return self
                .copy_of(&place, covers)
                .map_err(|failure| failure.detail(format!("for a mount of {}", source.display())));
        }
        let real = std::fs::canonicalize(source).stage_with(stage)?;
        if is_volume
            || !self
                .stores
                .iter()
                .any(|store| real.starts_with(store) && real != *store)
        {
            let stage = format!("give the command {}, to be written to", source.display());
            return Err(Failure::new(stage, Errno::OPNOTSUPP).detail(
                "without namespaces nothing can be mounted: it can be given read-only, as a copy",
            ));
        }
        if !path.as_os_str().is_empty() {
            return part_of(&whole, subpath);
        }
        let (Some(above), Some(name)) = (real.parent(), real.file_name()) else {
            return Err(Failure::new(stage(), Errno::INVAL));
        };
        let home = rfs::open(
            above,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .stage_with(stage)?;
        Ok(Thing::at(home, name))
    }

    fn copy_of(&self, place: &OwnedFd, covers: &mut Covers) -> Result<Thing, Failure> {
        let stage = "copy the source of a mount";
        let path = PathBuf::from(format!("/proc/self/fd/{}", place.as_raw_fd()));
        let stat = rfs::fstat(place).stage(stage)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            let overlay = Overlay {
                lowers: vec![path],
                upper: None,
            };
            return self.copy(&overlay, "", true, covers, &mut Vec::new());
        }
        let mut data = Vec::new();
        File::open(&path)
            .and_then(|mut file| file.read_to_end(&mut data))
            .stage(stage)?;
        covers.file(&data, stat.st_mode & 0o7777, (stat.st_uid, stat.st_gid))
    }
}

/// What a path inside a folder leads to.
fn part_of(whole: &OwnedFd, path: &str) -> Result<Thing, Failure> {
    let path = resolve::clean(path);
    let stage = || format!("find /{} in the mount's source", path.display());
    if path.as_os_str().is_empty() {
        return whole_of(whole).stage_with(stage);
    }
    let mut walk = resolve::walk_to(whole.as_fd(), &path).stage_with(stage)?;
    if !walk.missing.is_empty() {
        return Err(Failure::new(stage(), Errno::NOENT));
    }
    let name = match walk.leaf {
        Some(leaf) => leaf,
        None => match walk.folders.pop() {
            Some((name, _)) => name,
            // Links led back to the top.
            None => return whole_of(whole).stage_with(stage),
        },
    };
    let above = walk.folders.last().map_or(whole, |(_, fd)| fd);
    let home = covers::open_folder(above.as_fd(), OsStr::new(".")).stage_with(stage)?;
    Ok(Thing::at(home, name))
}

/// A folder of ours by its own name.
fn whole_of(folder: &OwnedFd) -> Result<Thing, Errno> {
    let path = std::fs::read_link(format!("/proc/self/fd/{}", folder.as_raw_fd()))
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    let name = path.file_name().ok_or(Errno::INVAL)?;
    let above = covers::open_folder(folder.as_fd(), OsStr::new(".."))?;
    Ok(Thing::at(above, name))
}
