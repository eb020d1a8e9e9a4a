//! Volumes: parts of the host that lie in a store for the time of a build, in its mount namespace only.

use crate::Volume;
use crate::fail::{Failure, Stage};
use crate::sys;
use rustix::fd::OwnedFd;
use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, OpenTreeFlags};
use std::path::PathBuf;

/// A volume ready to be attached, and what could not be done for it.
#[derive(Debug)]
pub(crate) struct Open {
    tree: OwnedFd,
    at: PathBuf,
    note: Option<String>,
}

/// Clones the mounts of volumes with all that is mounted in them, their ids mapped by a user namespace where one is given.
pub(crate) fn open(volumes: &[Volume], userns: Option<&OwnedFd>) -> Result<Vec<Open>, Failure> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE;
    let open = |volume: &Volume| {
        let source = volume.source.display();
        let tree = rustix::mount::open_tree(CWD, &volume.source, flags)
            .stage_with(|| format!("open the volume {source}"))?;
        let mapped = match userns {
            // Something mounted in it may be of a file system that has no mapped mounts.
            Some(userns) => sys::idmap_mount(&tree, userns, true)
                .or_else(|_| sys::idmap_mount(&tree, userns, false)),
            None => Ok(()),
        };
        let note = mapped.err().map(|errno| no_ids(volume, errno));
        Ok(Open {
            tree,
            at: volume.at.clone(),
            note,
        })
    };
    volumes.iter().map(open).collect()
}

fn no_ids(volume: &Volume, errno: Errno) -> String {
    format!(
        "files of the volume {} belong to nobody in commands, since the ids of its file system cannot be mapped: {errno}",
        volume.source.display()
    )
}

/// Attaches opened volumes in the present mount namespace; returns what is to be told.
pub(crate) fn attach_open(volumes: Vec<Open>) -> Result<Vec<String>, Failure> {
    let mut notes = Vec::new();
    for Open { tree, at, note } in volumes {
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        rustix::mount::move_mount(&tree, "", CWD, &at, flags)
            .stage_with(|| format!("mount a volume on {}", at.display()))?;
        notes.extend(note);
    }
    Ok(notes)
}

/// Opens and attaches volumes.
pub(crate) fn attach(volumes: &[Volume], userns: Option<&OwnedFd>) -> Result<Vec<String>, Failure> {
    attach_open(open(volumes, userns)?)
}
