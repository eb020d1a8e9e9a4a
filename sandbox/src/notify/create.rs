//! Calls that make files. A file that is not to be root's is made by this process, so that it has its owner before
//! anybody can see it: a maker's own call would have to be watched until it is through.

use super::calls::{At, Call};
use super::fake::{Answer, Pass, Supervisor};
use super::place::{FOUND, Named, New};
use super::{Notification, Response};
use rustix::fd::AsFd;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::ffi::CString;

const S_IFMT: u32 = 0o170_000;
/// `__O_TMPFILE`.
const UNNAMED: u64 = 0o20_000_000;
/// PATH_MAX, which counts the zero byte.
const LONGEST_TARGET: usize = 4095;

/// What an open call asks for.
#[derive(Clone, Copy)]
struct How {
    flags: u64,
    mode: u64,
    resolve: u64,
}

impl Supervisor {
    pub(super) fn make(&mut self, kind: Call, call: &Notification) -> Answer {
        match kind {
            Call::Symlink(at) => self.make_link(call, at),
            Call::MakeFolder(at) => {
                let (folder, path) = indices(at);
                let mode = Mode::from_raw_mode(call.word(path + 1) & 0o7777);
                self.make_named(call, (folder, path), FileType::Directory, |new| {
                    rustix::fs::mkdirat(&new.folder, &new.name, mode)
                })
            }
            Call::MakeNode(at) => self.make_node(call, at),
            Call::Create => {
                let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::TRUNC;
                let how = How {
                    flags: flags.bits().into(),
                    mode: call.word(1).into(),
                    resolve: 0,
                };
                self.open(call, None, how)
            }
            Call::Open(at) => {
                let (folder, path) = indices(at);
                let how = How {
                    flags: call.word(path + 1).into(),
                    mode: call.word(path + 2).into(),
                    resolve: 0,
                };
                self.open(call, folder, how)
            }
            _ => self.open_how(call),
        }
    }

    fn make_link(&mut self, call: &Notification, at: At) -> Answer {
        let named = if at == At::Folder {
            (Some(1), 2)
        } else {
            (None, 1)
        };
        let target = self
            .notifications
            .read_text(call, call.args[0], LONGEST_TARGET)
            .map_err(|_| Pass)?;
        let target = CString::new(target).map_err(|_| Pass)?;
        self.make_named(call, named, FileType::Symlink, |new| {
            rustix::fs::symlinkat(&target, &new.folder, &new.name)
        })
    }

    fn make_node(&mut self, call: &Notification, at: At) -> Answer {
        let (folder, path) = indices(at);
        let mode = call.word(path + 1);
        let kind = match mode & S_IFMT {
            0 => FileType::RegularFile,
            format => FileType::from_raw_mode(format),
        };
        // Devices the namespace's root cannot make; the kernel says so.
        if !matches!(
            kind,
            FileType::RegularFile | FileType::Fifo | FileType::Socket
        ) {
            return Err(Pass);
        }
        let mode = Mode::from_raw_mode(mode & 0o7777);
        self.make_named(call, (folder, path), kind, |new| {
            rustix::fs::mknodat(&new.folder, &new.name, kind, mode, 0)
        })
    }

    /// Makes something without content.
    fn make_named(
        &mut self,
        call: &Notification,
        at: (Option<usize>, usize),
        kind: FileType,
        make: impl FnOnce(&New) -> Result<(), Errno>,
    ) -> Answer {
        let new = self.new_file(call, at, ResolveFlags::empty())?;
        let owner = self.owner_of_new(call, &new.folder)?;
        if owner == (0, 0) {
            return Err(Pass);
        }
        self.take_umask(call)?;
        if !self.notifications.is_still_valid(call) {
            return Err(Pass);
        }
        let made = make(&new).and_then(|()| {
            let flags = FOUND | OFlags::NOFOLLOW;
            let file = rustix::fs::openat(&new.folder, &new.name, flags, Mode::empty())?;
            let stat = rustix::fs::fstat(&file)?;
            // Another process may have put a file of someone else there.
            let is_new = FileType::from_raw_mode(stat.st_mode) == kind
                && (kind == FileType::Directory || stat.st_nlink == 1);
            if is_new {
                self.owners.set(file.as_fd(), owner)
            } else {
                Ok(())
            }
        });
        Ok(match made {
            Ok(()) => Response::Value(0),
            Err(errno) => Response::Fail(errno),
        })
    }

    fn new_file(
        &mut self,
        call: &Notification,
        at: (Option<usize>, usize),
        resolve: ResolveFlags,
    ) -> Result<New, Pass> {
        self.callers
            .new_file(&self.notifications, call, at, resolve)
            .map_err(|_| Pass)
    }

    fn open_how(&mut self, call: &Notification) -> Answer {
        let mut bytes = [0; 24];
        if call.args[3] < bytes.len() as u64 {
            return Err(Pass);
        }
        self.notifications
            .read(call, call.args[2], &mut bytes)
            .map_err(|_| Pass)?;
        let field =
            |at: usize| u64::from_ne_bytes(bytes[at..at + 8].try_into().expect("BUG: eight bytes"));
        let how = How {
            flags: field(0),
            mode: field(8),
            resolve: field(16),
        };
        if how.flags & (UNNAMED | u64::from(OFlags::CREATE.bits())) == 0 {
            return Err(Pass);
        }
        self.open(call, Some(0), how)
    }

    /// Opens a file that is not there yet and gives it to the caller.
    fn open(&mut self, call: &Notification, folder: Option<usize>, how: How) -> Answer {
        let at = (folder, folder.map_or(0, |folder| folder + 1));
        let mut flags = OFlags::from_bits_retain(u32::try_from(how.flags).map_err(|_| Pass)?);
        let resolve = ResolveFlags::from_bits_retain(how.resolve);
        let unnamed = how.flags & UNNAMED != 0;
        let new = if unnamed {
            self.unnamed_file(call, at, (flags, resolve))?
        } else {
            self.new_file(call, at, resolve)?
        };
        let owner = self.owner_of_new(call, &new.folder)?;
        if owner == (0, 0) {
            return Err(Pass);
        }
        // What is there is opened by the kernel. So is a link that leads nowhere: the file it makes is root's then.
        if !unnamed
            && rustix::fs::statat(&new.folder, &new.name, AtFlags::SYMLINK_NOFOLLOW).err()
                != Some(Errno::NOENT)
        {
            return Err(Pass);
        }
        self.take_umask(call)?;
        if !self.notifications.is_still_valid(call) {
            return Err(Pass);
        }
        let cloexec = flags.contains(OFlags::CLOEXEC);
        flags |= OFlags::CLOEXEC;
        flags.set(OFlags::EXCL, !unnamed || flags.contains(OFlags::EXCL));
        let mode = Mode::from_raw_mode(u32::try_from(how.mode).map_err(|_| Pass)? & 0o7777);
        let file = match rustix::fs::openat(&new.folder, &new.name, flags, mode) {
            Ok(file) => file,
            // It has come into being meanwhile.
            Err(Errno::EXIST) => return Err(Pass),
            Err(errno) => return Ok(Response::Fail(errno)),
        };
        let given = self.owners.set(file.as_fd(), owner).and_then(|()| {
            self.notifications
                .respond_with_fd(call, file.as_fd(), cloexec)
        });
        Ok(given.unwrap_or_else(Response::Fail))
    }

    /// A file without a name in the folder that the path names.
    fn unnamed_file(
        &mut self,
        call: &Notification,
        (folder, path): (Option<usize>, usize),
        (flags, resolve): (OFlags, ResolveFlags),
    ) -> Result<New, Pass> {
        let named = Named {
            folder,
            path: Some(path),
            follow: !flags.contains(OFlags::NOFOLLOW),
            empty: false,
        };
        let folder = self
            .callers
            .file(&self.notifications, call, named, resolve)
            .map_err(|_| Pass)?;
        Ok(New {
            folder,
            name: c".".to_owned(),
        })
    }

    /// New files get their mode by the umask of whoever makes them.
    fn take_umask(&mut self, call: &Notification) -> Result<(), Pass> {
        let number = self.callers.number(call.pid).map_err(|_| Pass)?;
        let status = std::fs::read_to_string(format!("/proc/{number}/status"));
        let umask = status
            .map_err(|_| Pass)?
            .lines()
            .find_map(|line| line.strip_prefix("Umask:"))
            .and_then(|mask| u32::from_str_radix(mask.trim(), 8).ok())
            .ok_or(Pass)?;
        rustix::process::umask(Mode::from_raw_mode(umask));
        Ok(())
    }
}

/// Where the folder and the path are among the arguments.
fn indices(at: At) -> (Option<usize>, usize) {
    if at == At::Folder {
        (Some(0), 1)
    } else {
        (None, 0)
    }
}
