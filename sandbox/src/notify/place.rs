//! Finds the file that a caller means, for this process to work on: paths as seen by the caller's working folder, root and
//! descriptors.
//!
//! This process goes to where the caller stands, and the kernel walks the path once, as it would for the caller. Only the
//! supervisor stands there, and it has one thread. What is found is a descriptor: the path is never walked a second time.
//!
//! The links of `/proc` to open files mean this process where they mean whoever asks (`/proc/self`), and process 1 can read
//! its own, which lead out of the root. So the kernel does not follow them here; [`super::walk`] does, as the caller's.

use super::calls::At;
use super::walk::Walk;
use super::{Notification, Notifications};
use crate::sys as processes;
use rustix::fd::OwnedFd;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::collections::HashMap;
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;

/// PATH_MAX, which counts the zero byte.
const LONGEST_PATH: usize = 4095;
const AT_FDCWD: i32 = -100;
const AT_SYMLINK_NOFOLLOW: u32 = 0x100;
const AT_EMPTY_PATH: u32 = 0x1000;
/// For finding a file without opening it.
pub(super) const FOUND: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);

/// Which path arguments a call has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Named {
    /// Index of the descriptor or folder; none for a path alone.
    pub(super) folder: Option<usize>,
    /// Index of the path; none for a descriptor alone.
    pub(super) path: Option<usize>,
    /// Whether a link at the end is followed.
    pub(super) follow: bool,
    /// An empty path means the folder itself.
    pub(super) empty: bool,
}

impl Named {
    /// The usual arguments, from the first on; flags of `*at` calls as given.
    pub(super) fn usual(at: At, flags: u32) -> Self {
        let folder = matches!(at, At::Folder | At::Descriptor).then_some(0);
        Self {
            folder,
            path: match at {
                At::Path | At::Link => Some(0),
                At::Folder => Some(1),
                At::Descriptor => None,
            },
            follow: at != At::Link && flags & AT_SYMLINK_NOFOLLOW == 0,
            empty: flags & AT_EMPTY_PATH != 0,
        }
    }
}

/// Where a file that is to be made goes.
#[derive(Debug)]
pub(super) struct New {
    pub(super) folder: OwnedFd,
    /// Trailing slashes are part of it.
    pub(super) name: CString,
}

/// What a caller asks for, in its own words.
#[derive(Debug)]
struct Asked {
    /// The caller in `/proc`.
    number: i32,
    /// Where a relative path starts.
    start: String,
    path: Vec<u8>,
}

/// Callers as this process finds them in `/proc`.
#[derive(Debug, Default)]
pub(super) struct Callers {
    /// Someone has changed its root or mounts, so that they are looked at.
    pub(super) roots_differ: bool,
    /// This process in `/proc`.
    own: String,
    /// `/proc` is of another pid namespace, in which callers have other numbers.
    foreign: bool,
    numbers: HashMap<i32, i32>,
}

impl Callers {
    pub(super) fn new() -> Self {
        let own = std::fs::read_link("/proc/self")
            .ok()
            .and_then(|link| link.into_os_string().into_string().ok())
            .unwrap_or_default();
        Self {
            foreign: own != std::process::id().to_string(),
            own,
            ..Self::default()
        }
    }

    /// A caller's number in `/proc`.
    pub(super) fn number(&mut self, caller: i32) -> Result<i32, Errno> {
        if !self.foreign {
            return Ok(caller);
        }
        let namespace = std::fs::read_link("/proc/self/ns/pid").map_err(|_| Errno::SRCH)?;
        if let Some(number) = self.numbers.get(&caller)
            && is_numbered(*number, caller, &namespace)
        {
            return Ok(*number);
        }
        for entry in std::fs::read_dir("/proc")
            .map_err(|_| Errno::SRCH)?
            .flatten()
        {
            let tasks = entry.path().join("task");
            if !entry.file_name().as_bytes()[0].is_ascii_digit() {
                continue;
            }
            for task in std::fs::read_dir(tasks).into_iter().flatten().flatten() {
                let number = task.file_name().to_str().and_then(|name| name.parse().ok());
                if let Some(number) = number
                    && is_numbered(number, caller, &namespace)
                {
                    self.numbers.insert(caller, number);
                    return Ok(number);
                }
            }
        }
        Err(Errno::SRCH)
    }

    /// The file that a call is about; a link only where links are not followed. `resolve` is what openat2(2) was told.
    pub(super) fn file(
        &mut self,
        notifications: &Notifications,
        call: &Notification,
        named: Named,
        resolve: ResolveFlags,
    ) -> Result<OwnedFd, Errno> {
        let asked = self.asked(notifications, call, named)?;
        if asked.path.is_empty() {
            return rustix::fs::open(asked.start.as_str(), FOUND, Mode::empty());
        }
        self.resolve(&asked, &asked.path, named.follow, resolve)
    }

    /// A path by which this process may look whether a file has a mark, and no more: what is found need not be what the
    /// caller means, where that leads through links of `/proc`. `None` where it has to be found as it should be.
    pub(super) fn glance(
        &mut self,
        notifications: &Notifications,
        call: &Notification,
        named: Named,
    ) -> Result<Option<(CString, bool)>, Errno> {
        if self.roots_differ {
            return Ok(None);
        }
        let mut asked = self.asked(notifications, call, named)?;
        let mut follow = named.follow;
        if asked.path.is_empty() {
            (asked.path, follow) = (asked.start.into_bytes(), true);
        } else if is_of_processes(&asked.path) {
            return Ok(None);
        } else if asked.path[0] != b'/' {
            rustix::process::chdir(asked.start.as_str())?;
        }
        let path = CString::new(asked.path).map_err(|_| Errno::INVAL)?;
        Ok(Some((path, follow)))
    }

    /// Where a call makes a file. `resolve` is what openat2(2) was told.
    pub(super) fn new_file(
        &mut self,
        notifications: &Notifications,
        call: &Notification,
        (folder, path): (Option<usize>, usize),
        resolve: ResolveFlags,
    ) -> Result<New, Errno> {
        let named = Named {
            folder,
            path: Some(path),
            follow: true,
            empty: false,
        };
        let asked = self.asked(notifications, call, named)?;
        let (parent, name) = split(&asked.path);
        let parent = if parent.is_empty() { b"." } else { parent };
        Ok(New {
            folder: self.resolve(&asked, parent, true, resolve)?,
            name: CString::new(name).map_err(|_| Errno::INVAL)?,
        })
    }

    fn asked(
        &mut self,
        notifications: &Notifications,
        call: &Notification,
        named: Named,
    ) -> Result<Asked, Errno> {
        let number = self.number(call.pid)?;
        let start = match named.folder.map(|index| call.int(index)) {
            Some(AT_FDCWD) if named.path.is_none() => return Err(Errno::BADF),
            None | Some(AT_FDCWD) => format!("/proc/{number}/cwd"),
            Some(descriptor) => format!("/proc/{number}/fd/{descriptor}"),
        };
        let path = match named.path.map(|index| call.args[index]) {
            None => Vec::new(),
            Some(0) if named.empty => Vec::new(),
            Some(address) => {
                let path = notifications.read_text(call, address, LONGEST_PATH)?;
                if path.is_empty() && !named.empty {
                    return Err(Errno::NOENT);
                }
                path
            }
        };
        Ok(Asked {
            number,
            start,
            path,
        })
    }

    /// Walks a path of what was asked for.
    fn resolve(
        &self,
        asked: &Asked,
        path: &[u8],
        follow: bool,
        resolve: ResolveFlags,
    ) -> Result<OwnedFd, Errno> {
        let by_folder = path[0] != b'/' || !resolve.is_empty();
        let path = CString::new(path).map_err(|_| Errno::INVAL)?;
        let elsewhere = self.roots_differ && stands_elsewhere(asked.number)?;
        let own = elsewhere
            .then(|| rustix::fs::open("/", FOUND, Mode::empty()))
            .transpose()?;
        // A folder is needed where the walk begins in it.
        if by_folder {
            rustix::process::chdir(asked.start.as_str())?;
        }
        if own.is_some() {
            rustix::process::chroot(format!("/proc/{}/root", asked.number))?;
        }
        let mut flags = FOUND;
        flags.set(OFlags::NOFOLLOW, !follow);
        let strictly = || {
            let resolve = resolve | ResolveFlags::NO_MAGICLINKS;
            rustix::fs::openat2(CWD, &path, flags, Mode::empty(), resolve)
        };
        let by_processes = resolve.is_empty() && is_of_processes(path.as_bytes());
        let found = if by_processes {
            Err(Errno::LOOP)
        } else {
            strictly()
        };
        let start = match found {
            // Perhaps `/proc/self` was on the way, or a link to an open file.
            Err(Errno::LOOP | Errno::NOENT) if resolve.is_empty() => {
                rustix::fs::open(".", FOUND, Mode::empty()).and_then(|start| {
                    let root = rustix::fs::open("/", FOUND, Mode::empty())?;
                    Ok(Some((start, root)))
                })
            }
            _ => Ok(None),
        };
        if let Some(own) = &own
            && let Err(errno) = back_to(own)
        {
            // Nothing may be done with a caller's root as root.
            processes::exit_now(errno.raw_os_error());
        }
        match start? {
            Some((start, root)) => Walk {
                caller: asked.number,
                own: &self.own,
                root,
            }
            .file(start, path.as_bytes(), follow),
            None => found,
        }
    }

    /// Makes a thread's number mean nothing any longer.
    pub(super) fn forget(&mut self) {
        self.numbers.clear();
    }
}

/// Whether a process has another root or other mounts than this one.
fn stands_elsewhere(number: i32) -> Result<bool, Errno> {
    let link = |path: String| rustix::fs::readlink(path, Vec::new());
    Ok(link(format!("/proc/{number}/root"))?.as_bytes() != b"/"
        || link(format!("/proc/{number}/ns/mnt"))? != link("/proc/self/ns/mnt".to_owned())?)
}

fn back_to(root: &OwnedFd) -> Result<(), Errno> {
    rustix::process::fchdir(root)?;
    rustix::process::chroot(".")
}

/// Whether a path is of those by which callers mean themselves.
fn is_of_processes(path: &[u8]) -> bool {
    [&b"/proc/"[..], b"/dev/fd", b"/dev/std"]
        .iter()
        .any(|prefix| path.starts_with(prefix))
}

/// Whether a process of `/proc` is the caller of this number in a pid namespace.
fn is_numbered(number: i32, caller: i32, namespace: &std::path::Path) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{number}/status")).unwrap_or_default();
    let inner = status
        .lines()
        .find_map(|line| line.strip_prefix("NSpid:"))
        .and_then(|ids| ids.split_whitespace().next_back()?.parse().ok());
    inner == Some(caller)
        && std::fs::read_link(format!("/proc/{number}/ns/pid"))
            .is_ok_and(|found| found == namespace)
}

/// A path's folder and its last name, trailing slashes with the name.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    let end = path
        .iter()
        .rposition(|byte| *byte != b'/')
        .map_or(0, |last| last + 1);
    match path[..end].iter().rposition(|byte| *byte == b'/') {
        Some(0) => (b"/", &path[1..]),
        Some(slash) => path.split_at(slash + 1),
        None => (b"", path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_split_at_their_last_name() {
        for (path, folder, name) in [
            ("a", "", "a"),
            ("a/b", "a/", "b"),
            ("/a", "/", "a"),
            ("/a/b/", "/a/", "b/"),
            ("/", "", "/"),
        ] {
            let (got_folder, got_name) = split(path.as_bytes());
            assert_eq!((got_folder, got_name), (folder.as_bytes(), name.as_bytes()));
        }
    }
}
