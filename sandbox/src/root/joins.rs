//! Layers that are too many for an overlay, joined in one folder: once for all commands that have the same layers lowest.
//!
//! A join that others may use lies in a folder of the caller's, beside the list of its layers, which is written last.

use super::copy::join;
use crate::fail::{Failure, Stage};
use crate::resolve;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{self as rfs, Dir, Mode, OFlags};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The file that names a join's layers.
const LAYERS: &str = "layers";
/// The join itself, as [`join`] calls its first one.
const TREE: &str = "merged0";

/// The layers in one folder, to be read only: one that is there already, else a new one, in the shared folder if there is
/// one, or in the command's own.
pub(crate) fn joined(
    layers: &[&Path],
    own: &OwnedFd,
    shared: Option<&Path>,
) -> Result<OwnedFd, Failure> {
    let Some(shared) = shared else {
        return join(layers, own);
    };
    let stage = || format!("use the joined layers in {}", shared.display());
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = rfs::open(shared, flags, Mode::empty()).stage_with(stage)?;
    let list = list_of(layers);
    if let Some(found) = find(&folder, &list).stage_with(stage)? {
        return Ok(found);
    }
    for number in 0.. {
        let name = OsString::from(number.to_string());
        let made = match resolve::make_folder(&folder, &name, None) {
            Err(Errno::EXIST) => continue,
            made => made.stage_with(stage)?,
        };
        let joined = join(layers, &made)?;
        write_list(&made, &list).stage_with(stage)?;
        return Ok(joined);
    }
    unreachable!("BUG: there is always a free number")
}

fn list_of(layers: &[&Path]) -> Vec<u8> {
    let mut list = Vec::new();
    for layer in layers {
        list.extend_from_slice(layer.as_os_str().as_bytes());
        list.push(0);
    }
    list
}

fn find(folder: &OwnedFd, list: &[u8]) -> std::io::Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    for item in Dir::read_from(folder)? {
        let item = item?;
        let name = item.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        let inner = rfs::openat(
            folder,
            OsStr::from_bytes(name),
            flags | OFlags::DIRECTORY,
            Mode::empty(),
        )?;
        let file = match rfs::openat(&inner, LAYERS, flags, Mode::empty()) {
            // Another command is making it.
            Err(Errno::NOENT) => continue,
            file => file?,
        };
        let mut layers = Vec::new();
        File::from(file).read_to_end(&mut layers)?;
        if layers == list {
            return Ok(Some(rfs::openat(
                &inner,
                TREE,
                flags | OFlags::DIRECTORY,
                Mode::empty(),
            )?));
        }
    }
    Ok(None)
}

fn write_list(folder: &OwnedFd, list: &[u8]) -> std::io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file = rfs::openat(folder.as_fd(), "layers.new", flags, Mode::RUSR | Mode::WUSR)?;
    File::from(file).write_all(list)?;
    Ok(rfs::renameat(folder, "layers.new", folder, LAYERS)?)
}
