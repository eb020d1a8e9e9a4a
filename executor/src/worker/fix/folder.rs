//! Directories of a staged tree, opened when something in them has to be looked at: an engine that stages lazily is asked
//! for each that is opened.

use rustix::fd::{AsFd as _, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags, openat};
use std::cell::OnceCell;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

/// A directory and where it is.
pub(super) struct Folder<'p> {
    parent: Option<(&'p Folder<'p>, &'p [u8])>,
    /// `None` in it: there is no such directory.
    opened: OnceCell<Option<OwnedFd>>,
}

impl<'p> Folder<'p> {
    pub(super) fn root(opened: OwnedFd) -> Self {
        Self {
            parent: None,
            opened: OnceCell::from(Some(opened)),
        }
    }

    pub(super) fn below(&'p self, name: &'p [u8]) -> Self {
        Self {
            parent: Some((self, name)),
            opened: OnceCell::new(),
        }
    }

    /// Itself, where it is staged as a directory. No link is followed.
    pub(super) fn open(&self) -> Option<BorrowedFd<'_>> {
        let open = || {
            let (parent, name) = self.parent?;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let name = OsStr::from_bytes(name);
            openat(parent.open()?, name, flags, Mode::empty()).ok()
        };
        let opened = self.opened.get_or_init(open);
        opened.as_ref().map(|opened| opened.as_fd())
    }
}
