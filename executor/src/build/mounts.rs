//! What a RUN sees besides its root: bind, cache, tmpfs, secret and SSH mounts, and the files of the runtime.

use crate::Error;
use crate::build::backend::{Executor, Work};
use crate::build::cache_mounts::{self, Taken};
use crate::build::network::{self, Reach};
use crate::build::{run, secrets};
use crate::layer::Form;
use crate::request::NetworkSettings;
use crate::space::Space;
use crate::ssh::Forward;
use oci_spec::image::Digest;
use planner::plan::{InputIndex, RunMount, RunOp, StepId};
use planner::scheduler::{Cancel, StepEvent};
use rustix::fs::XattrFlags;
use sandbox::{IdMapping, Mount, Overlay};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use store::{CacheMount, MountSharing};

/// Name of the task that gives a folder its mode and owner inside the build's user namespace.
pub(crate) const TASK_OWN_FOLDER: &str = "own-folder";

/// Folders, cache mounts and sockets that a command uses; folders are removed and mounts released when it is dropped.
pub(crate) struct Held<'a> {
    space: &'a Space,
    scratch: PathBuf,
    folders: Vec<PathBuf>,
    pub(crate) forwards: Vec<Forward>,
    pub(crate) caches: Taken,
    /// Caches that are mounted over a filling.
    pub(crate) filled: BTreeSet<String>,
    /// Bundles of certificates that lie over the image's, as paths inside.
    pub(crate) bundles: Vec<Vec<u8>>,
}

impl<'a> Held<'a> {
    pub(crate) fn new(space: &'a Space, scratch: &Path) -> Self {
        Self {
            space,
            scratch: scratch.to_owned(),
            folders: Vec::new(),
            forwards: Vec::new(),
            caches: Taken::new(),
            filled: BTreeSet::new(),
            bundles: Vec::new(),
        }
    }

    /// A new empty folder.
    pub(crate) fn folder(&mut self, name: &str) -> Result<PathBuf, Error> {
        let path = self.scratch.join(format!("{}-{name}", self.folders.len()));
        std::fs::create_dir(&path).map_err(|source| Error::Io {
            op: "create",
            path: path.clone(),
            source,
        })?;
        self.folders.push(path.clone());
        Ok(path)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.forwards.clear();
        for folder in &self.folders {
            if folder.exists() {
                // What cannot be removed now is swept by the next build.
                let _ = self.space.remove_tree(folder);
            }
        }
    }
}

/// `/etc/hosts`, `/etc/resolv.conf` and the step's own files.
pub(crate) fn files_of_the_runtime(
    op: &RunOp,
    reach: Reach,
    settings: &NetworkSettings,
) -> Result<Vec<Mount>, Error> {
    let file = |target: &str, data: Vec<u8>, mode: u32| Mount::File {
        target: target.to_owned(),
        data,
        mode,
        uid: 0,
        gid: 0,
    };
    let hosts = network::hosts(op, reach).into_bytes();
    let mut files = vec![file("/etc/hosts", hosts, 0o644)];
    let resolv_conf = network::resolv_conf(reach, settings)?;
    files.extend(resolv_conf.map(|text| file("/etc/resolv.conf", text.into_bytes(), 0o644)));
    for (target, content) in &op.files {
        files.push(file(target, content.clone().into_bytes(), 0o755));
    }
    Ok(files)
}

/// What a command's mounts are made of: the store of a build, or what was staged for a worker.
pub(crate) trait Ground {
    /// Where the command runs.
    fn space(&self) -> &Space;
    /// The folders of an input's root file system, topmost first; all layers below of the others.
    fn lowers(&self, input: InputIndex, held: &mut Held<'_>) -> Result<Vec<PathBuf>, Error>;
    /// A name for an input's content.
    fn content_id(&self, input: InputIndex) -> Result<String, Error>;
    /// A cache, waiting for those who hold it.
    fn cache(&self, id: &str, sharing: MountSharing) -> Result<CacheMount, Error>;
    /// A work folder on the file system of caches.
    fn cache_work(&self, held: &mut Held<'_>) -> Result<PathBuf, Error> {
        held.folder("work")
    }
    /// A secret's bytes; `None` when it is not there and need not be.
    fn secret(&self, id: &str, required: bool) -> Result<Option<Vec<u8>>, Error>;
    /// A socket in a folder that leads to an SSH agent; `None` when there is none and need not be.
    fn agent(&self, id: &str, required: bool, folder: &Path) -> Result<Option<Forward>, Error>;
    /// Tells what is not as it should be.
    fn note(&self, note: String);
}

/// A step of a build as [`Ground`].
pub(crate) struct StepGround<'a> {
    pub(crate) executor: &'a Executor<'a>,
    pub(crate) step: StepId,
    pub(crate) work: &'a Work<'a>,
}

impl Ground for StepGround<'_> {
    fn space(&self) -> &Space {
        self.executor.space
    }

    fn lowers(&self, input: InputIndex, _held: &mut Held<'_>) -> Result<Vec<PathBuf>, Error> {
        let (executor, work) = (self.executor, self.work);
        let snapshot = work.base(Some(input));
        executor.ensure_as(Form::Tree, &snapshot.layers, self.step, work)?;
        let lowers = run::lowers(executor, &snapshot, work)?;
        Ok(lowers.into_iter().map(|(_, folder)| folder).collect())
    }

    fn content_id(&self, input: InputIndex) -> Result<String, Error> {
        Ok(cache_mounts::stack_id(&self.work.base(Some(input)).layers))
    }

    fn cache(&self, id: &str, sharing: MountSharing) -> Result<CacheMount, Error> {
        if let Some(travel) = self.executor.travel {
            travel.before_use(id)?;
        }
        let stop = || Cancel::is_cancelled(self.work.cancel);
        let store = self.executor.space.store();
        let cache = store.cache_mount_unless(id, sharing, &stop)?;
        cache.ok_or(Error::Cancelled)
    }

    fn secret(&self, id: &str, required: bool) -> Result<Option<Vec<u8>>, Error> {
        secrets::secret(self.executor.request, id, required)
    }

    fn agent(&self, id: &str, required: bool, folder: &Path) -> Result<Option<Forward>, Error> {
        self.executor.agents.forward(id, required, folder)
    }

    fn note(&self, note: String) {
        self.work.events.event(self.step, StepEvent::Note(note));
    }
}

/// The mounts of `RUN --mount`, in order.
pub(crate) fn mounts(
    ground: &dyn Ground,
    op: &RunOp,
    held: &mut Held<'_>,
) -> Result<Vec<Mount>, Error> {
    cache_mounts::take(ground, &op.mounts, held)?;
    let mut mounts = Vec::new();
    for mount in &op.mounts {
        match mount {
            RunMount::Bind { .. } | RunMount::Cache { .. } | RunMount::Tmpfs { .. } => {
                mounts.push(of_files(ground, mount, held)?);
            }
            RunMount::Secret {
                id,
                target,
                required,
                mode,
                uid,
                gid,
                ..
            } => {
                let (Some(data), Some(target)) = (ground.secret(id, *required)?, target) else {
                    continue;
                };
                let (uid, gid) = possible_owner(ground, (*uid, *gid), target)?;
                mounts.push(Mount::File {
                    target: target.clone(),
                    data,
                    mode: *mode,
                    uid,
                    gid,
                });
            }
            RunMount::Ssh { .. } => mounts.extend(agent(ground, mount, held)?),
        }
    }
    Ok(mounts)
}

/// A mount of files that are no secret: a bind of an input, a cache that was taken, a tmpfs.
fn of_files(ground: &dyn Ground, mount: &RunMount, held: &mut Held<'_>) -> Result<Mount, Error> {
    match mount {
        RunMount::Bind {
            input,
            source,
            target,
            readonly,
        } => {
            let overlay = overlay_of(ground, *input, held)?;
            let upper = if *readonly {
                None
            } else {
                Some((held.folder("upper")?, held.folder("work")?))
            };
            Ok(Mount::Overlay {
                overlay: Overlay { upper, ..overlay },
                source: source.clone(),
                target: target.clone(),
                readonly: *readonly,
            })
        }
        RunMount::Cache { .. } => cache_mounts::mount(ground, mount, held),
        RunMount::Tmpfs { target, size } => Ok(Mount::Tmpfs {
            target: target.clone(),
            size: *size,
            mode: 0o1777,
        }),
        RunMount::Secret { .. } | RunMount::Ssh { .. } => {
            unreachable!("BUG: called for mounts of files only")
        }
    }
}

/// The socket of an SSH agent; none when there is none and need not be.
fn agent(
    ground: &dyn Ground,
    mount: &RunMount,
    held: &mut Held<'_>,
) -> Result<Option<Mount>, Error> {
    let RunMount::Ssh {
        id,
        target,
        required,
        mode,
        uid,
        gid,
    } = mount
    else {
        unreachable!("BUG: called for SSH mounts only");
    };
    let folder = held.folder("agent")?;
    let Some(forward) = ground.agent(id, *required, &folder)? else {
        return Ok(None);
    };
    let owner = possible_owner(ground, (*uid, *gid), target)?;
    own(ground.space(), forward.path(), *mode, owner)?;
    let source = forward.path().to_owned();
    held.forwards.push(forward);
    Ok(Some(Mount::Bind {
        source,
        subpath: String::new(),
        target: target.clone(),
        readonly: false,
        nosuid: true,
        noexec: true,
        owner: Some(owner),
    }))
}

/// An input's root file system as an overlay without an upper; an empty one without an input.
pub(crate) fn overlay_of(
    ground: &dyn Ground,
    input: Option<InputIndex>,
    held: &mut Held<'_>,
) -> Result<Overlay, Error> {
    let mut lowers = match input {
        Some(input) => ground.lowers(input, held)?,
        None => Vec::new(),
    };
    if lowers.is_empty() {
        lowers.push(held.folder("empty")?);
    }
    Ok(Overlay {
        lowers,
        upper: None,
    })
}

/// The folders of layers; an empty one where there are none, because an overlay needs one.
pub(crate) fn folders(
    lowers: Vec<(Digest, PathBuf)>,
    held: &mut Held<'_>,
) -> Result<Vec<PathBuf>, Error> {
    if lowers.is_empty() {
        return Ok(vec![held.folder("empty")?]);
    }
    Ok(lowers.into_iter().map(|(_, folder)| folder).collect())
}

/// The owner that something can have here. Where there is one id only, and owners cannot be recorded either, it is that of
/// whoever builds, which is root inside: a command, which is root then, can read it as well.
pub(crate) fn possible_owner(
    ground: &dyn Ground,
    owner: (u32, u32),
    what: &str,
) -> Result<(u32, u32), Error> {
    let sandbox = ground.space().sandbox()?;
    if owner == (0, 0) || sandbox.id_mapping() != IdMapping::Single || sandbox.records_owners() {
        return Ok(owner);
    }
    note_root(ground, owner, what);
    Ok((0, 0))
}

/// Tells that something is root's.
pub(crate) fn note_root(ground: &dyn Ground, (uid, gid): (u32, u32), what: &str) {
    ground.note(format!(
        "{what} belongs to root instead of {uid}:{gid}, since only one user id is available"
    ));
}

/// Request of [`TASK_OWN_FOLDER`].
#[derive(serde::Serialize, serde::Deserialize)]
struct OwnFolder {
    path: PathBuf,
    mode: u32,
    /// On disk; none where it stays the builder's.
    owner: Option<(u32, u32)>,
}

/// Gives a folder or socket in the store its mode and owner. Where there is one id, a folder carries its owner as a record,
/// and a socket cannot: commands are told by its mount. Whether the folder is told about.
pub(crate) fn own(space: &Space, path: &Path, mode: u32, owner: (u32, u32)) -> Result<bool, Error> {
    let mut is_told = true;
    let records = owner != (0, 0) && space.has_single_id()?;
    let request = OwnFolder {
        path: path.to_owned(),
        mode,
        owner: (!records).then_some(owner),
    };
    if records && path.is_dir() {
        let value = sandbox::owner_value(owner);
        let name = sandbox::OWNER_ATTRIBUTE;
        is_told = rustix::fs::setxattr(path, name, value.as_bytes(), XattrFlags::empty()).is_ok();
    }
    if space.is_root() || records || owner == (0, 0) {
        apply_ownership(&request).map_err(|source| Error::Io {
            op: "set the owner and mode of",
            path: path.to_owned(),
            source,
        })?;
        return Ok(is_told);
    }
    let bytes = serde_json::to_vec(&request).expect("BUG: a request has string keys only");
    space.sandbox()?.task(TASK_OWN_FOLDER, &bytes, &[])?;
    Ok(is_told)
}

/// The task of the same name.
pub(crate) fn own_folder_task(
    request: &[u8],
    _fds: Vec<std::os::fd::OwnedFd>,
) -> Result<Vec<u8>, String> {
    let request: OwnFolder = serde_json::from_slice(request).map_err(|e| e.to_string())?;
    apply_ownership(&request)
        .map_err(|e| format!("could not set the owner of {}: {e}", request.path.display()))?;
    Ok(Vec::new())
}

fn apply_ownership(request: &OwnFolder) -> std::io::Result<()> {
    use rustix::fs::{AtFlags, Gid, Uid};
    use rustix::fs::{CWD, Mode, chmod, chownat};
    let is_root = rustix::process::geteuid().is_root();
    if is_root && let Some((uid, gid)) = request.owner {
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        chownat(
            CWD,
            &request.path,
            Some(uid),
            Some(gid),
            AtFlags::SYMLINK_NOFOLLOW,
        )?;
    }
    chmod(&request.path, Mode::from_raw_mode(request.mode))?;
    Ok(())
}
