//! Secrets and SSH agents that a worker has of its own, in folders that its owner has filled: steps name them, and nothing of
//! their content is ever sent to a worker or told by one.

use super::Place;
use crate::Error;
use crate::build::secrets::read_all;
use crate::ssh::Forward;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

/// Longest id, in bytes: that of a file name.
const LONGEST: usize = 255;
/// Most names of a folder that are told.
const MOST_NAMES: usize = 1000;
/// The agent of steps that name none.
const DEFAULT_AGENT: &str = "default";

/// Whether a worker can have something of this id: it is a file name, and none that folders of others use for themselves
/// (`..data` and the like, of Kubernetes).
#[must_use]
pub fn is_id(id: &str) -> bool {
    !id.is_empty()
        && id.len() <= LONGEST
        && id != "."
        && !id.starts_with("..")
        && !id.contains(['/', '\0'])
}

/// The bytes of a worker's secret; `None` when it is not there and need not be.
pub(crate) fn secret(place: &Place, id: &str, required: bool) -> Result<Option<Vec<u8>>, Error> {
    check(id, "secret")?;
    for folder in &place.secrets {
        let path = folder.join(id);
        let fail = |source| Error::Io {
            op: "read the secret",
            path: path.clone(),
            source,
        };
        if let Some(file) = open(folder, id).map_err(fail)? {
            return read_all(id, &file, &path).map(Some);
        }
    }
    if required {
        return Err(missing("secret", id, &place.secrets));
    }
    Ok(None)
}

/// A socket in `held` that leads to a worker's agent; `None` when there is none and need not be.
pub(crate) fn agent(
    place: &Place,
    id: &str,
    required: bool,
    held: &Path,
) -> Result<Option<Forward>, Error> {
    check(id, "SSH agent")?;
    let own = place.agent.iter().filter(|_| id == DEFAULT_AGENT).cloned();
    let mut sockets = own.chain(place.agents.iter().map(|folder| folder.join(id)));
    match sockets.find(|path| is_socket(path)) {
        Some(socket) => Forward::to_agent(socket, held).map(Some),
        None if required => Err(missing("SSH agent", id, &place.agents)),
        None => Ok(None),
    }
}

/// Ids of the secrets in a folder, in order.
pub(super) fn names(folder: &Path) -> Vec<String> {
    names_of(folder, |name| {
        let file = open(folder, name).ok().flatten();
        file.is_some_and(|file| file.metadata().is_ok_and(|meta| meta.is_file()))
    })
}

/// Ids of the agents that steps can have, in order.
pub(super) fn agents(place: &Place) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    if place.agent.as_deref().is_some_and(is_socket) {
        found.push(DEFAULT_AGENT.to_owned());
    }
    for folder in &place.agents {
        found.extend(names_of(folder, |name| is_socket(&folder.join(name))));
    }
    found.sort();
    found.dedup();
    found
}

fn names_of(folder: &Path, is_one: impl Fn(&str) -> bool) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<String> = names
        .filter(|name| is_id(name) && is_one(name))
        .take(MOST_NAMES)
        .collect();
    names.sort();
    names
}

fn is_socket(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|meta| meta.file_type().is_socket())
}

fn check(id: &str, what: &str) -> Result<(), Error> {
    if is_id(id) {
        return Ok(());
    }
    Err(Error::Request(format!(
        "{what} {id:?}: a worker has none of such a name"
    )))
}

fn missing(what: &str, id: &str, folders: &[PathBuf]) -> Error {
    let folders: Vec<String> = folders.iter().map(|it| it.display().to_string()).collect();
    let folders = folders.join(" and ");
    Error::Request(format!(
        "{what} {id}: not found (the worker has its own, in {folders})"
    ))
}

/// Opens a file of a folder. Links lead to other files of the folder, as Kubernetes makes them, and not out of it.
fn open(folder: &Path, name: &str) -> io::Result<Option<File>> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = rustix::fs::open(folder, flags, Mode::empty()).and_then(|dir| {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let inside = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        rustix::fs::openat2(&dir, name, flags, Mode::empty(), inside)
    });
    let opened: io::Result<OwnedFd> = match opened {
        // Not known to the kernel, or to a filter of system calls.
        Err(Errno::NOSYS | Errno::PERM | Errno::AGAIN) => open_resolved(folder, name),
        Err(Errno::XDEV) => Err(leads_out()),
        opened => opened.map_err(io::Error::from),
    };
    match opened {
        Ok(file) => Ok(Some(File::from(file))),
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The same without the kernel's help.
fn open_resolved(folder: &Path, name: &str) -> io::Result<OwnedFd> {
    let folder = std::fs::canonicalize(folder)?;
    let path = std::fs::canonicalize(folder.join(name))?;
    if !path.starts_with(&folder) {
        return Err(leads_out());
    }
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(
        &path,
        flags | OFlags::NOFOLLOW,
        Mode::empty(),
    )?)
}

fn leads_out() -> io::Error {
    io::Error::other("it leads out of its folder")
}

fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn folder() -> testkit::Scratch {
        testkit::Scratch::new()
    }

    fn place(folders: &[&Path]) -> Place {
        Place {
            secrets: folders.iter().map(|it| it.to_path_buf()).collect(),
            ..Place::default()
        }
    }

    #[test]
    fn secrets_are_files_of_the_folder() {
        let (scratch, other) = (folder(), folder());
        let at = scratch.path();
        std::fs::create_dir(at.join("..2024")).unwrap();
        std::fs::write(at.join("..2024/token"), "t\n").unwrap();
        symlink("..2024", at.join("..data")).unwrap();
        symlink("..data/token", at.join("token")).unwrap();
        std::fs::write(other.path().join("outside"), "o").unwrap();
        symlink(other.path().join("outside"), at.join("absolute")).unwrap();
        let up = other.path().file_name().unwrap();
        symlink(Path::new("..").join(up).join("outside"), at.join("up")).unwrap();
        std::fs::create_dir(at.join("folder")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, at.join("fifo"), Mode::RUSR | Mode::WUSR).unwrap();
        std::fs::write(at.join("large"), vec![b'x'; (500 << 10) + 1]).unwrap();
        std::fs::write(other.path().join("second"), "2").unwrap();
        let place = place(&[&at.join("none"), at, other.path()]);
        let found = |id: &str| secret(&place, id, false);
        assert_eq!(found("token").unwrap().unwrap(), b"t\n");
        assert_eq!(found("second").unwrap().unwrap(), b"2");
        assert_eq!(found("nothing").unwrap(), None);
        let text = secret(&place, "nothing", true).unwrap_err().to_string();
        assert!(text.starts_with("secret nothing: not found"), "{text}");
        for (id, says) in [
            ("absolute", "leads out of its folder"),
            ("up", "leads out of its folder"),
            ("folder", "is no file"),
            ("fifo", "is no file"),
            ("large", "larger than 512000 bytes"),
            ("..data", "none of such a name"),
            ("../x", "none of such a name"),
            ("a/b", "none of such a name"),
            ("", "none of such a name"),
        ] {
            let text = crate::error::chain(&found(id).unwrap_err());
            assert!(text.contains(says), "{id}: {text}");
        }
        assert_eq!(names(at), ["large", "token"]);
        for name in ["absolute", "up"] {
            assert!(open_resolved(at, name).is_err(), "{name}");
        }
        assert!(open_resolved(at, "token").is_ok());
    }
}
