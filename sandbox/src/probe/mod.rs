//! What this place allows: each thing a sandbox may need, tried as the sandbox would, with the settings that would change it.
//!
//! A build tries only what decides its mode; all of it is for whoever asks what would be better. Everything is tried in
//! children of a helper, so that nothing of it stays. What is worth having is not judged here.

pub(crate) mod fixes;
mod inside;
mod outside;

use crate::sys::{self, SingleThreaded};
use crate::wire::{self, Request};
use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::process::WaitOptions;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// One thing that was tried.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Fact {
    /// What programs call it (`user-namespace`).
    pub id: String,
    /// What people call it.
    pub name: String,
    /// How it was tried, or where it was looked for.
    pub tried: String,
    /// Whether it is there and works.
    pub works: bool,
    /// What there is to say of it: a version, a path, a number of ids.
    pub found: String,
    /// The system call's error where it was one that failed.
    pub errno: Option<i32>,
    /// What would make it work; empty when that is not known.
    pub fix: String,
}

impl Fact {
    fn new(id: &str, name: &str, tried: &str) -> Self {
        Self {
            id: id.to_owned(),
            name: name.to_owned(),
            tried: tried.to_owned(),
            ..Self::default()
        }
    }

    fn works(self, found: impl Into<String>) -> Self {
        Self {
            works: true,
            found: found.into(),
            ..self
        }
    }

    /// It is not there, without a system call that said so.
    fn missing(self, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            found: found.into(),
            fix: fix.into(),
            ..self
        }
    }

    /// By the outcome of a try.
    fn of(self, outcome: Result<String, Errno>, fix: impl FnOnce(Errno) -> String) -> Self {
        match outcome {
            Ok(found) => self.works(found),
            Err(errno) => Self {
                errno: Some(errno.raw_os_error()),
                fix: fix(errno),
                ..self
            },
        }
    }
}

/// What to look at.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Place {
    /// The store.
    pub(crate) store: PathBuf,
    /// An empty folder in it, to try file systems in.
    pub(crate) scratch: PathBuf,
    /// Folders with programs, as in `PATH`.
    pub(crate) search_path: String,
}

impl Place {
    /// A program that may be executed.
    fn program(&self, name: &str) -> Option<PathBuf> {
        std::env::split_paths(&self.search_path)
            .map(|folder| folder.join(name))
            .find(|path| is_program(path))
    }
}

fn is_program(path: &Path) -> bool {
    path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
}

/// Tries everything.
pub(crate) fn all(one: SingleThreaded, place: &Place) -> Vec<Fact> {
    let mut facts = outside::facts(one, place);
    facts.extend(inside::facts(one, place));
    facts
}

/// Tries something in a child, with whose end all ends that it entered and mounted.
fn in_child(
    one: SingleThreaded,
    work: impl FnOnce() -> Result<String, Errno>,
) -> Result<String, Errno> {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let Some(pid) = sys::fork(one)? else {
        drop(read);
        send(&write, work());
        sys::exit_now(0)
    };
    drop(write);
    let mut answer = Vec::new();
    let received = File::from(read).read_to_end(&mut answer);
    let _ = rustix::process::waitpid(Some(pid), WaitOptions::empty());
    received.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    match answer.split_first_chunk::<4>() {
        Some((&[0, 0, 0, 0], text)) => Ok(String::from_utf8_lossy(text).into_owned()),
        Some((errno, _)) => Err(Errno::from_raw_os_error(i32::from_le_bytes(*errno))),
        None => Err(Errno::CHILD),
    }
}

fn send(to: &OwnedFd, outcome: Result<String, Errno>) {
    let (errno, text) = match outcome {
        Ok(text) => (0, text),
        Err(errno) => (errno.raw_os_error(), String::new()),
    };
    let mut bytes = errno.to_le_bytes().to_vec();
    bytes.extend(text.into_bytes());
    let mut left = bytes.as_slice();
    while !left.is_empty() {
        match rustix::io::retry_on_intr(|| rustix::io::write(to, left)) {
            Ok(written) => left = &left[written..],
            Err(_) => return,
        }
    }
}

/// What a helper does that was asked for facts: each is one packet.
pub(crate) fn serve(one: SingleThreaded, control: BorrowedFd<'_>, mut request: Request) {
    let Ok(bytes) = request.payload.take() else {
        return;
    };
    let Ok(place) = serde_json::from_slice(&bytes) else {
        return;
    };
    for fact in all(one, &place) {
        if wire::send_answer(control, &fact).is_err() {
            return;
        }
    }
}
