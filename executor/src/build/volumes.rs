//! `--volume`: folders and files of the host in every command, as Buildah has them. Nothing of them gets into a layer, and
//! their content is in no key.

use crate::Error;
use crate::build::backend::Executor;
use crate::build::mounts::Held;
use crate::copy::UserIds;
use crate::space::{Space, run_json};
use planner::plan::{RunOp, VolumeAccess};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid};
use sandbox::{Mount, Overlay};
use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// Name of the task that gives a volume's files to a user.
pub(crate) const TASK_GIVE: &str = "give-volume";

/// The mounts of all volumes.
pub(crate) fn mounts(
    executor: &Executor<'_>,
    op: &RunOp,
    user: &UserIds,
    held: &mut Held<'_>,
) -> Result<Vec<Mount>, Error> {
    let mut mounts = Vec::new();
    for volume in &op.volumes {
        let at = executor.space.volume(&volume.source)?;
        if volume.chown {
            give(executor.space, &volume.source, user)?;
        }
        if volume.access != VolumeAccess::Discard {
            mounts.push(Mount::Bind {
                source: at,
                subpath: String::new(),
                target: volume.target.clone(),
                readonly: volume.access == VolumeAccess::ReadOnly,
                nosuid: true,
                noexec: volume.noexec,
                owner: None,
            });
            continue;
        }
        if !at.is_dir() {
            return Err(Error::Request(format!(
                "volume {}: option O is for folders only",
                volume.source
            )));
        }
        let upper = (held.folder("upper")?, held.folder("work")?);
        mounts.push(Mount::Overlay {
            overlay: Overlay {
                lowers: vec![at],
                upper: Some(upper),
            },
            source: "/".to_owned(),
            target: volume.target.clone(),
            readonly: false,
        });
    }
    Ok(mounts)
}

/// Request of [`TASK_GIVE`].
#[derive(Serialize, Deserialize)]
struct Give {
    path: PathBuf,
    uid: u32,
    gid: u32,
}

fn give(space: &Space, path: &str, user: &UserIds) -> Result<(), Error> {
    let request = Give {
        path: path.into(),
        uid: user.uid,
        gid: user.gid,
    };
    space.task(TASK_GIVE, &request)
}

/// The task of the same name.
pub(crate) fn give_task(request: &[u8], _fds: Vec<OwnedFd>) -> Result<Vec<u8>, String> {
    run_json(request, |request: Give| {
        let owner = (Uid::from_raw(request.uid), Gid::from_raw(request.gid));
        give_tree(&request.path, owner).map_err(|source| Error::Io {
            op: "set the owner of",
            path: request.path.clone(),
            source,
        })
    })
}

/// Gives a file, or a folder with all in it, without following links.
fn give_tree(path: &std::path::Path, owner: (Uid, Gid)) -> io::Result<()> {
    let top = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    rustix::fs::chownat(&top, "", Some(owner.0), Some(owner.1), AtFlags::EMPTY_PATH)?;
    let kind = FileType::from_raw_mode(rustix::fs::fstat(&top)?.st_mode);
    if kind != FileType::Directory {
        return Ok(());
    }
    let mut folders = vec![rustix::fs::openat(&top, ".", FOLDER, Mode::empty())?];
    while let Some(folder) = folders.pop() {
        for entry in rustix::fs::Dir::read_from(&folder)? {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            rustix::fs::chownat(
                &folder,
                name,
                Some(owner.0),
                Some(owner.1),
                AtFlags::SYMLINK_NOFOLLOW,
            )?;
            match rustix::fs::openat(&folder, name, FOLDER, Mode::empty()) {
                Ok(inner) => folders.push(inner),
                Err(rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

const FOLDER: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);
