//! Parts files that have names both in a folder and outside of it: a layer must not change with what lies elsewhere.

use super::attributes::{self, stat_of};
use super::content;
use super::copy::open_folder;
use crate::fail::{Failure, Stage};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{self as rfs, AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

const COPY: &str = "parted";

/// A file with several names, and those that it has in the folder.
struct Linked {
    names: Vec<PathBuf>,
    all: u32,
}

/// Gives the names that files have in a folder a file of their own where there are others elsewhere. The copy is made in a
/// work folder on the same file system.
pub(crate) fn part(folder: &OwnedFd, work: BorrowedFd<'_>) -> Result<(), Failure> {
    let mut found = BTreeMap::new();
    look(folder, Path::new(""), &mut found).stage("look for files with several names")?;
    for linked in found.into_values() {
        if linked.names.len() < linked.all as usize {
            replace(folder, work, &linked.names)
                .stage_with(|| format!("part the file /{}", linked.names[0].display()))?;
        }
    }
    Ok(())
}

fn look(
    folder: &OwnedFd,
    path: &Path,
    found: &mut BTreeMap<(u32, u32, u64), Linked>,
) -> Result<(), Errno> {
    for item in Dir::read_from(folder)? {
        let item = item?;
        let name = item.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        let name = OsStr::from_bytes(name);
        let stat = attributes::stat(folder, name)?;
        match FileType::from_raw_mode(stat.stx_mode.into()) {
            FileType::Directory => {
                look(&open_folder(folder, name)?, &path.join(name), found)?;
            }
            FileType::RegularFile if stat.stx_nlink > 1 => {
                let key = (stat.stx_dev_major, stat.stx_dev_minor, stat.stx_ino);
                let linked = found.entry(key).or_insert(Linked {
                    names: Vec::new(),
                    all: stat.stx_nlink,
                });
                linked.names.push(path.join(name));
            }
            _ => {}
        }
    }
    Ok(())
}

fn replace(folder: &OwnedFd, work: BorrowedFd<'_>, names: &[PathBuf]) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let (parent, name) = above(folder, &names[0])?;
    let source = rfs::openat(&parent, &name, flags, Mode::empty())?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let copy = rfs::openat(work, COPY, flags, Mode::RUSR | Mode::WUSR)?;
    let stat = stat_of(&source)?;
    content::whole(&source, &copy, &stat)?;
    attributes::apply(copy.as_fd(), &stat, &attributes::xattrs(source.as_fd())?)?;
    for path in names {
        let (parent, name) = above(folder, path)?;
        let times = attributes::times(&stat_of(&parent)?);
        rfs::unlinkat(&parent, &name, AtFlags::empty())?;
        rfs::linkat(work, COPY, &parent, &name, AtFlags::empty())?;
        rfs::futimens(&parent, &times)?;
    }
    rfs::unlinkat(work, COPY, AtFlags::empty())
}

fn above(folder: &OwnedFd, path: &Path) -> Result<(OwnedFd, OsString), Errno> {
    let name = path.file_name().ok_or(Errno::INVAL)?;
    let mut here = folder.try_clone().map_err(|_| Errno::MFILE)?;
    for part in path.parent().into_iter().flat_map(Path::iter) {
        here = open_folder(&here, part)?;
    }
    Ok((here, name.to_owned()))
}
