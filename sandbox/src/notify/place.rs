//! Finds the file that a caller means, for this process to work on: paths as seen by the caller's working folder, root and
//! descriptors.
//!
//! It is done by going to the folder that a relative path starts at: the path itself is then walked by the kernel, once,
//! exactly as the caller would walk it. Only the supervisor stands there, and it has one thread.

use super::calls::At;
use super::{Notification, Notifications};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::collections::HashMap;
use std::ffi::{CString, OsStr};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// PATH_MAX, which counts the zero byte.
const LONGEST_PATH: usize = 4095;
const AT_FDCWD: i32 = -100;
const AT_SYMLINK_NOFOLLOW: u32 = 0x100;
const AT_EMPTY_PATH: u32 = 0x1000;

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

    /// Those of a call that makes what it names: nothing is followed.
    pub(super) fn new(folder: Option<usize>, path: usize) -> Self {
        Self {
            folder,
            path: Some(path),
            follow: false,
            empty: false,
        }
    }
}

/// A file of the caller, by a path that holds from where this process stands now.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) path: CString,
    pub(super) follow: bool,
    /// What the path goes through.
    _held: Option<OwnedFd>,
}

impl Place {
    /// A path of this process.
    pub(super) fn of(path: &[u8]) -> Result<Self, Errno> {
        Ok(Self {
            path: CString::new(path).map_err(|_| Errno::INVAL)?,
            follow: true,
            _held: None,
        })
    }

    /// The file itself, a link only where links are not followed.
    pub(super) fn open(&self) -> Result<OwnedFd, Errno> {
        let mut flags = OFlags::PATH | OFlags::CLOEXEC;
        flags.set(OFlags::NOFOLLOW, !self.follow);
        rustix::fs::openat(CWD, &self.path, flags, Mode::empty())
    }
}

/// Callers as this process finds them in `/proc`.
#[derive(Debug, Default)]
pub(super) struct Callers {
    /// Someone has changed its root, so that roots are looked at.
    pub(super) roots_differ: bool,
    /// `/proc` is of another pid namespace, in which callers have other numbers.
    foreign: bool,
    numbers: HashMap<i32, i32>,
}

impl Callers {
    pub(super) fn new() -> Self {
        let own = std::fs::read_link("/proc/self")
            .is_ok_and(|link| link.as_os_str() == std::process::id().to_string().as_str());
        Self {
            foreign: !own,
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

    /// Goes to where the caller's path starts.
    pub(super) fn place(
        &mut self,
        notifications: &Notifications,
        call: &Notification,
        named: Named,
    ) -> Result<Place, Errno> {
        let number = self.number(call.pid)?;
        let folder = named.folder.map(|index| call.int(index));
        let Some(path) = named.path else {
            let descriptor = folder.ok_or(Errno::BADF)?;
            return through(format!("/proc/{number}/fd/{descriptor}"));
        };
        let address = call.args[path];
        let path = if address == 0 && named.empty {
            Vec::new()
        } else {
            notifications.read_text(call, address, LONGEST_PATH)?
        };
        let start = match folder {
            None | Some(AT_FDCWD) => format!("/proc/{number}/cwd"),
            Some(descriptor) => format!("/proc/{number}/fd/{descriptor}"),
        };
        if path.is_empty() {
            return if named.empty {
                through(start)
            } else {
                Err(Errno::NOENT)
            };
        }
        if self.roots_differ
            && let Some(place) = in_its_root(number, &start, &path, named.follow)?
        {
            return Ok(place);
        }
        let path = of_caller(path, number, named.follow);
        if path[0] != b'/' {
            rustix::process::chdir(start.as_str())?;
        }
        Ok(Place {
            path: CString::new(path).map_err(|_| Errno::INVAL)?,
            follow: named.follow,
            _held: None,
        })
    }

    /// Makes a thread's number mean nothing any longer.
    pub(super) fn forget(&mut self) {
        self.numbers.clear();
    }
}

/// What a link of `/proc` to a file leads to.
fn through(link: String) -> Result<Place, Errno> {
    Ok(Place {
        path: CString::new(link).map_err(|_| Errno::INVAL)?,
        follow: true,
        _held: None,
    })
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

/// Paths by which a caller means itself.
fn of_caller(path: Vec<u8>, number: i32, follow: bool) -> Vec<u8> {
    for prefix in [&b"/proc/self/"[..], b"/proc/thread-self/"] {
        if let Some(rest) = path.strip_prefix(prefix) {
            return [format!("/proc/{number}/").as_bytes(), rest].concat();
        }
    }
    if let Some(rest) = path.strip_prefix(b"/dev/fd/") {
        return [format!("/proc/{number}/fd/").as_bytes(), rest].concat();
    }
    let standard = [&b"/dev/stdin"[..], b"/dev/stdout", b"/dev/stderr"];
    match standard.iter().position(|name| *name == path) {
        Some(descriptor) if follow => format!("/proc/{number}/fd/{descriptor}").into_bytes(),
        _ => path,
    }
}

/// The place of a path for a caller that has changed its root; `None` when it has not.
fn in_its_root(
    number: i32,
    start: &str,
    path: &[u8],
    follow: bool,
) -> Result<Option<Place>, Errno> {
    let root_link = format!("/proc/{number}/root");
    let root = rustix::fs::readlink(root_link.as_str(), Vec::new())?.into_bytes();
    if root == b"/" {
        return Ok(None);
    }
    let mut inner = path.to_vec();
    if path[0] != b'/' {
        let start = rustix::fs::readlink(start, Vec::new())?.into_bytes();
        // A folder outside of the root, as it was open before.
        let Some(start) = start.strip_prefix(root.as_slice()) else {
            return Ok(None);
        };
        inner = [start, b"/", path].concat();
    }
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let root = rustix::fs::open(root_link.as_str(), flags, Mode::empty())?;
    let (parent, name) = split(&inner);
    let name = if follow { None } else { Some(name) };
    let wanted = match name {
        None => inner.as_slice(),
        Some(_) => parent,
    };
    let wanted = if wanted.is_empty() { b"." } else { wanted };
    let held = rustix::fs::openat2(
        &root,
        OsStr::from_bytes(wanted),
        flags,
        Mode::empty(),
        ResolveFlags::IN_ROOT,
    )?;
    let Some(name) = name else {
        use rustix::fd::AsRawFd as _;
        let path = format!("/proc/self/fd/{}", held.as_raw_fd());
        return Ok(Some(Place {
            path: CString::new(path).map_err(|_| Errno::INVAL)?,
            follow: true,
            _held: Some(held),
        }));
    };
    rustix::process::fchdir(held.as_fd())?;
    let name = std::ffi::OsString::from_vec(name.to_vec());
    Ok(Some(Place {
        path: CString::new(name.as_bytes()).map_err(|_| Errno::INVAL)?,
        follow: false,
        _held: Some(held),
    }))
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
    fn a_caller_means_itself() {
        for (path, follow, expected) in [
            ("/proc/self/fd/3", true, "/proc/7/fd/3"),
            ("/proc/thread-self/status", true, "/proc/7/status"),
            ("/proc/selfish", true, "/proc/selfish"),
            ("/dev/fd/0", true, "/proc/7/fd/0"),
            ("/dev/stdout", true, "/proc/7/fd/1"),
            ("/dev/stdout", false, "/dev/stdout"),
            ("x", true, "x"),
        ] {
            let got = of_caller(path.as_bytes().to_vec(), 7, follow);
            assert_eq!(String::from_utf8(got).unwrap(), expected);
        }
    }

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
