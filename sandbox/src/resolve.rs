//! Paths inside a root file system, which may be hostile: no link of an image leads out of it.

use crate::fail::{Failure, Stage};
use crate::notify;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Uid};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// As many links as the kernel follows in one path (path_resolution(7)).
const MAX_LINKS: usize = 40;

/// A path without empty, `.` and `..` components, relative to the root; empty for the root itself.
pub(crate) fn clean(path: &str) -> PathBuf {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.iter().collect()
}

/// Opens a path inside a root, following links as if the root were `/` (openat2, Linux 5.6). `flags` go with `O_CLOEXEC`.
pub(crate) fn open_in(root: impl AsFd, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    loop {
        // EAGAIN: something was renamed meanwhile, so that `..` could not be proven to stay inside.
        match rustix::fs::openat2(&root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            result => return result,
        }
    }
}

/// Opens a path inside a root as a mere place.
pub(crate) fn place(root: impl AsFd, path: &Path) -> Result<OwnedFd, Errno> {
    open_in(root, path, OFlags::PATH)
}

/// Whether a descriptor is of a folder.
pub(crate) fn is_folder(fd: impl AsFd) -> Result<bool, Errno> {
    let stat = rustix::fs::fstat(fd)?;
    Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
}

/// Where a path leads, as far as it exists.
#[derive(Debug)]
pub(crate) struct Walk {
    /// Existing folders from the root down: name and place, the root itself not among them.
    pub(crate) folders: Vec<(OsString, OwnedFd)>,
    /// Names that are missing below them; empty when the whole path exists.
    pub(crate) missing: Vec<OsString>,
    /// Name of the last component in the last folder, when it is not a folder.
    pub(crate) leaf: Option<OsString>,
}

/// Walks a path component by component, following links inside the root, and goes on in thought where nothing exists: a
/// dangling link leads to where its target would be. A last component that is not a folder ends the walk with `ENOTDIR`.
pub(crate) fn walk(root: BorrowedFd<'_>, path: &Path) -> Result<Walk, Errno> {
    match walk_to(root, path)? {
        Walk { leaf: Some(_), .. } => Err(Errno::NOTDIR),
        walk => Ok(walk),
    }
}

/// [`walk`] to anything: a last component that is not a folder is the leaf.
pub(crate) fn walk_to(root: BorrowedFd<'_>, path: &Path) -> Result<Walk, Errno> {
    let mut left: VecDeque<OsString> = path.iter().map(OsStr::to_owned).collect();
    let mut walk = Walk {
        folders: Vec::new(),
        missing: Vec::new(),
        leaf: None,
    };
    let mut links = 0;
    while let Some(name) = left.pop_front() {
        if name == ".." {
            if walk.missing.pop().is_none() {
                walk.folders.pop();
            }
            continue;
        }
        if name == "." || name == "/" {
            continue;
        }
        if !walk.missing.is_empty() {
            walk.missing.push(name);
            continue;
        }
        let here = walk.folders.last().map_or(root, |(_, fd)| fd.as_fd());
        let next = match rustix::fs::openat(
            here,
            &name,
            OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        ) {
            Ok(next) => next,
            Err(Errno::NOENT) => {
                walk.missing.push(name);
                continue;
            }
            Err(errno) => return Err(errno),
        };
        match FileType::from_raw_mode(rustix::fs::fstat(&next)?.st_mode) {
            FileType::Directory => walk.folders.push((name, next)),
            FileType::Symlink => {
                links += 1;
                if links > MAX_LINKS {
                    return Err(Errno::LOOP);
                }
                let target =
                    OsString::from_vec(rustix::fs::readlinkat(&next, "", Vec::new())?.into_bytes());
                if target.as_bytes().starts_with(b"/") {
                    walk.folders.clear();
                }
                for part in Path::new(&target).iter().rev() {
                    left.push_front(part.to_owned());
                }
            }
            _ if left.is_empty() => walk.leaf = Some(name),
            _ => return Err(Errno::NOTDIR),
        }
    }
    Ok(walk)
}

/// Creates the folders of a path that are missing, with an owner, and returns the last one. Links are followed inside the root.
pub(crate) fn make_folders(
    root: impl AsFd,
    path: &Path,
    owner: Option<(u32, u32)>,
) -> Result<OwnedFd, Failure> {
    let stage = || format!("create the folder /{}", path.display());
    match place(&root, path) {
        Ok(fd) if is_folder(&fd).stage_with(stage)? => return Ok(fd),
        Ok(_) => return Err(Failure::new(stage(), Errno::NOTDIR)),
        Err(Errno::NOENT) => {}
        Err(errno) => return Err(Failure::new(stage(), errno)),
    }
    let walk = walk(root.as_fd(), path).stage_with(stage)?;
    let mut here = match walk.folders.into_iter().next_back() {
        Some((_, fd)) => fd,
        None => place(&root, Path::new("")).stage_with(stage)?,
    };
    for name in &walk.missing {
        here = match make_folder(&here, name, owner) {
            // Another command has the same cache, and was first.
            Err(Errno::EXIST) => open_folder(&here, name),
            made => made,
        }
        .stage_with(stage)?;
    }
    Ok(here)
}

/// Creates one folder and opens it.
pub(crate) fn make_folder(
    parent: impl AsFd,
    name: &OsStr,
    owner: Option<(u32, u32)>,
) -> Result<OwnedFd, Errno> {
    rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755))?;
    let fd = open_folder(&parent, name)?;
    if let Some((uid, gid)) = owner {
        let ids = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        match rustix::fs::chownat(&fd, "", ids.0, ids.1, AtFlags::EMPTY_PATH) {
            // There is no such id, but there may be a record of it.
            Err(Errno::INVAL) => notify::record(fd.as_fd(), (uid, gid))?,
            result => result?,
        }
    }
    Ok(fd)
}

fn open_folder(parent: impl AsFd, name: &OsStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

/// Creates an empty file and opens it as a place.
pub(crate) fn make_file(parent: impl AsFd, name: &OsStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o644))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cleaned_paths_stay_inside() {
        for (path, expected) in [
            ("/", ""),
            ("", ""),
            ("/a//b/./c/", "a/b/c"),
            ("/../../etc", "etc"),
            ("/a/../../b", "b"),
            ("a/b/..", "a"),
        ] {
            assert_eq!(clean(path), Path::new(expected), "{path}");
        }
    }

    #[test]
    fn walks_follow_links_inside_the_root() {
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| root.path().join(path);
        std::fs::create_dir_all(at("etc/real")).unwrap();
        std::fs::write(at("etc/file"), "").unwrap();
        for (target, link) in [
            ("/run/resolve/stub", "etc/dangling"),
            ("../../../../etc/real", "etc/up"),
            ("loop", "etc/loop"),
            ("/host", "abs"),
        ] {
            std::os::unix::fs::symlink(target, at(link)).unwrap();
        }
        let fd = rustix::fs::open(root.path(), OFlags::PATH, Mode::empty()).unwrap();
        let walked = |path: &str| {
            walk(fd.as_fd(), Path::new(path)).map(|walk| {
                let names: Vec<String> = walk
                    .folders
                    .iter()
                    .map(|(name, _)| name.to_string_lossy().into_owned())
                    .collect();
                (
                    names.join("/"),
                    walk.missing
                        .iter()
                        .collect::<PathBuf>()
                        .to_string_lossy()
                        .into_owned(),
                )
            })
        };
        let ends = |there: &str, missing: &str| Ok((there.to_owned(), missing.to_owned()));
        assert_eq!(walked("etc/dangling"), ends("", "run/resolve/stub"));
        assert_eq!(walked("etc/up"), ends("etc/real", ""));
        assert_eq!(walked("etc/up/x/../y"), ends("etc/real", "y"));
        assert_eq!(walked("abs/a/b"), ends("", "host/a/b"));
        assert_eq!(walked("etc/real/new"), ends("etc/real", "new"));
        assert_eq!(walked("etc/loop"), Err(Errno::LOOP));
        assert_eq!(walked("etc/file/x"), Err(Errno::NOTDIR));
    }
}
