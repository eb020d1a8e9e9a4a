//! A merged copy that stays for the commands that come after, in a folder of the caller's.
//!
//! Once what a command changed was moved to the upper, the copy lacks just that, and the layer that the upper becomes brings
//! it back when a command over that layer asks for the copy: no file of it is ever one of a layer's. What it holds is kept in
//! a file beside it, written last and taken away first, so that a copy without is half done and made anew.

use super::compare::remove;
#[cfg(test)]
use super::copy::open_work;
use super::copy::{Merged, merge_in, merge_onto, open_below, open_folder, open_layer};
use super::state::{Folder, Seen, decode, encode, names};
use crate::fail::{Failure, Stage};
use crate::{KeptCopy, Overlay, RootKind};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{self as rfs, AtFlags, FileType, Mode, OFlags, Timespec, Timestamps};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// Name of the copy in its folder.
const TREE: &str = "tree";
/// Name of the file that says what it holds.
const STATE: &str = "state";

/// A merged copy of an overlay with an upper: one that was kept, brought up to date, or a new one, which may be one to keep.
pub(crate) fn copy(
    overlay: &Overlay,
    work: OwnedFd,
    kept: Option<&KeptCopy>,
    kind: RootKind,
) -> Result<Merged, Failure> {
    let (Some(kept), Some((upper, _))) = (kept, &overlay.upper) else {
        return merge_in(overlay, work, kind);
    };
    // What an upper holds is in no layer yet.
    if !names(&open_layer(upper)?)
        .stage_with(|| format!("list the folder {}", upper.display()))?
        .is_empty()
    {
        return merge_in(overlay, work, kind);
    }
    let folder = open_layer(&kept.folder)?;
    let stage = || format!("use the copy in {}", kept.folder.display());
    let found = take(&folder).stage_with(stage)?;
    let is_found = found.is_some();
    let (root, known, devices) = match found {
        Some(found) => found,
        None => (
            new_tree(&folder).stage_with(stage)?,
            Folder::default(),
            Vec::new(),
        ),
    };
    let merged = Merged {
        root,
        upper: None,
        work,
        devices,
        known: Some(known),
        stubs: Vec::new(),
        stays: Some(folder),
    };
    let layers = if is_found {
        &kept.above
    } else {
        &overlay.lowers
    };
    let layers = layers.iter().map(PathBuf::as_path);
    let mut merged = merge_onto(merged, Some(upper), layers, kind)?;
    let root = merged.root.as_fd();
    merged.devices.retain(|path| is_device(root, path));
    Ok(merged)
}

/// [`copy`] in the overlay's own work folder.
#[cfg(test)]
pub(super) fn copy_beside(
    overlay: &Overlay,
    kept: Option<&KeptCopy>,
    kind: RootKind,
) -> Result<Merged, Failure> {
    copy(overlay, open_work(overlay)?, kept, kind)
}

/// A whole copy and what it holds. Whoever has it must say anew what it holds.
fn take(folder: &OwnedFd) -> Result<Option<(OwnedFd, Folder, Vec<PathBuf>)>, Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = match rfs::openat(folder, STATE, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(None),
        file => file?,
    };
    rfs::unlinkat(folder, STATE, AtFlags::empty())?;
    let mut bytes = Vec::new();
    File::from(file)
        .read_to_end(&mut bytes)
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    let Some((known, devices)) = decode(&bytes) else {
        return Ok(None);
    };
    let root = open_folder(folder, OsStr::new(TREE))?;
    let is_it = known
        .seen
        .is_same(&Seen::of(&super::attributes::stat_of(&root)?));
    Ok(is_it.then_some((root, known, devices)))
}

fn new_tree(folder: &OwnedFd) -> Result<OwnedFd, Errno> {
    remove(folder.as_fd(), OsStr::new(TREE))?;
    rfs::mkdirat(folder, TREE, Mode::RWXU)?;
    open_folder(folder, OsStr::new(TREE))
}

fn is_device(root: rustix::fd::BorrowedFd<'_>, path: &Path) -> bool {
    let above = open_below(root, path.parent().unwrap_or(Path::new("")));
    let stat = above.and_then(|above| {
        rfs::statat(
            &above,
            path.file_name().unwrap_or_default(),
            AtFlags::SYMLINK_NOFOLLOW,
        )
    });
    stat.is_ok_and(|stat| {
        matches!(
            FileType::from_raw_mode(stat.st_mode),
            FileType::CharacterDevice | FileType::BlockDevice
        )
    })
}

/// Leaves a copy whose changes were collected for the next command, if it is one that stays.
pub(super) fn leave(merged: &Merged, known: &mut Folder) -> Result<(), Failure> {
    let Some(folder) = &merged.stays else {
        return Ok(());
    };
    for stub in &merged.stubs {
        remove_stub(&merged.root, stub)
            .stage_with(|| format!("remove the mount point /{}", stub.display()))?;
        known.put(stub, None);
    }
    let bytes = encode(known, &merged.devices);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let write = || -> std::io::Result<()> {
        let file = rfs::openat(folder, "state.new", flags, Mode::RUSR | Mode::WUSR)?;
        File::from(file).write_all(&bytes)?;
        Ok(rfs::renameat(folder, "state.new", folder, STATE)?)
    };
    write().stage("write down what the copy of the layers holds")
}

/// Removes what was made for the time of a command. What it was made in keeps its time.
fn remove_stub(root: &OwnedFd, path: &Path) -> Result<(), Errno> {
    let above = match open_below(root.as_fd(), path.parent().unwrap_or(Path::new(""))) {
        // The command moved it away.
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
        above => above?,
    };
    let stat = rfs::fstat(&above)?;
    remove(above.as_fd(), path.file_name().unwrap_or_default())?;
    let time = |seconds, nanoseconds: u64| Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds.cast_signed(),
    };
    let times = Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    };
    rfs::futimens(&above, &times)
}
