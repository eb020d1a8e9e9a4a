//! Walks a path step by step where the kernel cannot do it for another process: through `/proc/self` and the links of `/proc`
//! to open files, which are the caller's here.

use super::place::FOUND;
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, StatxFlags};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// As many links as the kernel follows in a path.
const MOST_LINKS: usize = 40;
const PROC_MAGIC: i64 = 0x9fa0;

/// For whom a path is walked.
#[derive(Debug)]
pub(super) struct Walk<'a> {
    /// The caller's number in `/proc`.
    pub(super) caller: i32,
    /// This process in `/proc`: its links are followed for nobody.
    pub(super) own: &'a str,
    /// Where `/` and `..` end.
    pub(super) root: OwnedFd,
}

impl Walk<'_> {
    /// The file at a path that starts at a folder.
    pub(super) fn file(&self, start: OwnedFd, path: &[u8], follow: bool) -> Result<OwnedFd, Errno> {
        let mut here = start;
        let mut left = Vec::new();
        let mut links = 0;
        self.push(&mut here, &mut left, path)?;
        while let Some(name) = left.pop() {
            if name == b".." {
                if !is_same(&here, &self.root)? {
                    here = open(&here, b"..", OFlags::NOFOLLOW)?;
                }
                continue;
            }
            let next = open(&here, &name, OFlags::NOFOLLOW)?;
            let is_last = left.is_empty();
            let kind = FileType::from_raw_mode(rustix::fs::fstat(&next)?.st_mode);
            if kind != FileType::Symlink || (is_last && !follow) {
                here = next;
                continue;
            }
            links += 1;
            if links > MOST_LINKS {
                return Err(Errno::LOOP);
            }
            match self.link(&here, &next, &name)? {
                Link::To(file) => here = file,
                Link::Text(text) => self.push(&mut here, &mut left, &text)?,
            }
        }
        Ok(here)
    }

    /// Puts the names of a path before those that are left.
    fn push(&self, here: &mut OwnedFd, left: &mut Vec<Vec<u8>>, path: &[u8]) -> Result<(), Errno> {
        match path.first() {
            None => return Err(Errno::NOENT),
            Some(b'/') => *here = open(&self.root, b".", OFlags::empty())?,
            Some(_) => {}
        }
        // A slash at the end asks for a folder, and for what a link leads to.
        if path.last() == Some(&b'/') {
            left.push(b".".to_vec());
        }
        let names = path.split(|byte| *byte == b'/');
        let names = names.filter(|name| !name.is_empty());
        left.extend(names.rev().map(<[u8]>::to_vec));
        Ok(())
    }

    fn link(&self, folder: &OwnedFd, link: &OwnedFd, name: &[u8]) -> Result<Link, Errno> {
        let of_processes = rustix::fs::fstatfs(folder)?.f_type == PROC_MAGIC;
        if of_processes && [&b"self"[..], b"thread-self"].contains(&name) {
            return Ok(Link::Text(self.caller.to_string().into_bytes()));
        }
        let strictly = ResolveFlags::NO_MAGICLINKS;
        let is_open_file = of_processes
            && rustix::fs::openat2(
                folder,
                OsStr::from_bytes(name),
                FOUND,
                Mode::empty(),
                strictly,
            )
            .err()
                == Some(Errno::LOOP);
        if !is_open_file {
            let text = rustix::fs::readlinkat(link, "", Vec::new())?;
            return Ok(Link::Text(text.into_bytes()));
        }
        let process =
            rustix::fs::readlink(format!("/proc/self/fd/{}", folder.as_raw_fd()), Vec::new())?;
        let numbers: Vec<&str> = process
            .to_str()
            .map_err(|_| Errno::LOOP)?
            .split('/')
            .filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()) && !name.is_empty())
            .collect();
        let caller = self.caller.to_string();
        let may = match numbers.first() {
            None => false,
            Some(_) if numbers.contains(&self.own) => false,
            Some(number) => *number == caller || is_of_this_run(number),
        };
        if !may {
            return Err(Errno::ACCESS);
        }
        open(folder, name, OFlags::empty()).map(Link::To)
    }
}

/// Whether a process is in this pid namespace. In a `/proc` of what is around the run there are others.
fn is_of_this_run(number: &str) -> bool {
    let namespace = |number| rustix::fs::readlink(format!("/proc/{number}/ns/pid"), Vec::new());
    let own = namespace("self");
    own.is_ok() && namespace(number) == own
}

enum Link {
    /// To an open file, which has no path that would lead there.
    To(OwnedFd),
    Text(Vec<u8>),
}

fn open(folder: &OwnedFd, name: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(
        folder,
        OsStr::from_bytes(name),
        FOUND | flags,
        Mode::empty(),
    )
}

fn is_same(one: &OwnedFd, other: &OwnedFd) -> Result<bool, Errno> {
    let place = |folder: &OwnedFd| {
        let wanted = StatxFlags::INO | StatxFlags::MNT_ID;
        let stat = rustix::fs::statx(folder, "", AtFlags::EMPTY_PATH, wanted)?;
        Ok::<_, Errno>((stat.stx_mnt_id, stat.stx_ino))
    };
    Ok(place(one)? == place(other)?)
}
