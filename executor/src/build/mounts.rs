//! What a RUN sees besides its root: bind, cache, tmpfs and secret mounts, and the files of the runtime.

use crate::Error;
use crate::build::backend::{Executor, Work};
use crate::build::run;
use crate::request::SecretSource;
use crate::snapshot::Snapshot;
use crate::space::Space;
use oci_spec::image::Digest;
use planner::plan::{RunMount, RunOp, Step};
use sandbox::{Mount, Network, Overlay};
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use store::{CacheMount, MountSharing};

/// Name of the task that gives a folder its mode and owner inside the build's user namespace.
pub(crate) const TASK_OWN_FOLDER: &str = "own-folder";

/// Mode of a cache mount's folder that does not say one.
const DEFAULT_CACHE_MODE: u32 = 0o755;

/// Largest secret, in bytes (BuildKit's limit).
const SECRET_LIMIT: u64 = 500 << 10;

/// Folders and cache mounts that a command uses; folders are removed and mounts released when it is dropped.
pub(crate) struct Held<'a> {
    space: &'a Space,
    scratch: PathBuf,
    folders: Vec<PathBuf>,
    caches: Vec<CacheMount>,
}

impl<'a> Held<'a> {
    pub(crate) fn new(space: &'a Space, scratch: &Path) -> Self {
        Self {
            space,
            scratch: scratch.to_owned(),
            folders: Vec::new(),
            caches: Vec::new(),
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
        for folder in &self.folders {
            if folder.exists() {
                // What cannot be removed now is swept by the next build.
                let _ = self.space.remove_tree(folder);
            }
        }
    }
}

/// `/etc/hosts`, `/etc/resolv.conf` and the step's own files.
pub(crate) fn files_of_the_runtime(op: &RunOp, network: Network) -> Result<Vec<Mount>, Error> {
    let file = |target: &str, data: Vec<u8>, mode: u32| Mount::File {
        target: target.to_owned(),
        data,
        mode,
        uid: 0,
        gid: 0,
    };
    let mut files = vec![
        file("/etc/hosts", hosts(op).into_bytes(), 0o644),
        file("/etc/resolv.conf", resolv_conf(network)?, 0o644),
    ];
    for (target, content) in &op.files {
        files.push(file(target, content.clone().into_bytes(), 0o755));
    }
    Ok(files)
}

fn hosts(op: &RunOp) -> String {
    let mut text = format!(
        "127.0.0.1\tlocalhost {}\n::1\tlocalhost ip6-localhost ip6-loopback\n",
        op.hostname
    );
    for (name, address) in &op.extra_hosts {
        let address = if address == "host-gateway" {
            "127.0.0.1"
        } else {
            address
        };
        text.push_str(&format!("{address}\t{name}\n"));
    }
    text
}

/// The host's resolver settings. Resolvers on loopback are reached only where the host's network is used.
fn resolv_conf(network: Network) -> Result<Vec<u8>, Error> {
    let path = Path::new("/etc/resolv.conf");
    match std::fs::read(path) {
        Ok(text) if network == Network::None => {
            let keep = |line: &&[u8]| !line.starts_with(b"nameserver");
            Ok(text
                .split_inclusive(|byte| *byte == b'\n')
                .filter(keep)
                .flatten()
                .copied()
                .collect())
        }
        Ok(text) => Ok(text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(source) => Err(Error::Io {
            op: "read",
            path: path.to_owned(),
            source,
        }),
    }
}

/// The mounts of `RUN --mount`, in order.
pub(crate) fn mounts(
    executor: &Executor<'_>,
    step: &Step,
    op: &RunOp,
    work: &Work<'_>,
    held: &mut Held<'_>,
) -> Result<Vec<Mount>, Error> {
    let mut mounts = Vec::new();
    for mount in &op.mounts {
        match mount {
            RunMount::Bind {
                input,
                source,
                target,
                readonly,
            } => {
                let overlay = overlay_of(executor, step, work, *input, held)?;
                let upper = if *readonly {
                    None
                } else {
                    Some((held.folder("upper")?, held.folder("work")?))
                };
                mounts.push(Mount::Overlay {
                    overlay: Overlay { upper, ..overlay },
                    source: source.clone(),
                    target: target.clone(),
                    readonly: *readonly,
                });
            }
            RunMount::Cache { .. } => mounts.push(cache(executor, step, work, mount, held)?),
            RunMount::Tmpfs { target, size } => {
                mounts.push(Mount::Tmpfs {
                    target: target.clone(),
                    size: *size,
                    mode: 0o1777,
                });
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
                let Some(data) = secret(executor, id, *required)? else {
                    continue;
                };
                if let Some(target) = target {
                    let (mode, uid, gid) = (*mode, *uid, *gid);
                    mounts.push(Mount::File {
                        target: target.clone(),
                        data,
                        mode,
                        uid,
                        gid,
                    });
                }
            }
            RunMount::Ssh { id, required, .. } => {
                if *required {
                    let message = format!(
                        "ssh agent {id:?} cannot be forwarded: ssh mounts are not supported yet"
                    );
                    return Err(Error::Request(message));
                }
            }
        }
    }
    Ok(mounts)
}

/// An input's root file system as an overlay without an upper; an empty one without an input.
fn overlay_of(
    executor: &Executor<'_>,
    step: &Step,
    work: &Work<'_>,
    input: Option<usize>,
    held: &mut Held<'_>,
) -> Result<Overlay, Error> {
    let snapshot = work.base(input);
    executor.ensure(&snapshot.layers, step.id, work.events, work.cancel)?;
    let lowers = run::lowers(executor, &snapshot, work)?;
    Ok(Overlay {
        lowers: folders(lowers, held)?,
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

/// A cache mount. One that `from` fills is an overlay whose upper is the cache, so nothing is copied; its identity
/// holds that of the filling, as in BuildKit, and one step at a time uses it, because two overlays must not share an upper.
fn cache(
    executor: &Executor<'_>,
    step: &Step,
    work: &Work<'_>,
    mount: &RunMount,
    held: &mut Held<'_>,
) -> Result<Mount, Error> {
    let RunMount::Cache {
        id,
        target,
        from,
        source,
        sharing,
        mode,
        uid,
        gid,
        readonly,
    } = mount
    else {
        unreachable!("BUG: called for cache mounts only");
    };
    let sharing = match sharing.as_str() {
        "private" => MountSharing::Private,
        "locked" => MountSharing::Locked,
        _ => MountSharing::Shared,
    };
    let store = executor.space.store();
    let (target, readonly) = (target.clone(), *readonly);
    let Some(input) = from else {
        // As in BuildKit, one that is to belong to somebody else is another one.
        let id = match (*mode, *uid, *gid) {
            (DEFAULT_CACHE_MODE, 0, 0) => id.clone(),
            (mode, uid, gid) => format!("{id}:{mode:o}:{uid}:{gid}"),
        };
        let cache = store.cache_mount(&id, sharing)?;
        let folder = cache.path().to_owned();
        if cache.is_new() {
            own_folder(executor.space, &folder, (*mode, *uid, *gid))?;
        }
        held.caches.push(cache);
        return Ok(Mount::Bind {
            source: folder,
            subpath: source.clone(),
            target,
            readonly,
        });
    };
    let sharing = if sharing == MountSharing::Shared {
        MountSharing::Locked
    } else {
        sharing
    };
    let filling = work.base(Some(*input));
    let cache = store.cache_mount(&format!("{id}:{}", stack_id(&filling)), sharing)?;
    let overlay = overlay_of(executor, step, work, Some(*input), held)?;
    let upper = cache.path().to_owned();
    let overlay = Overlay {
        upper: Some((upper, held.folder("work")?)),
        ..overlay
    };
    held.caches.push(cache);
    Ok(Mount::Overlay {
        overlay,
        source: source.clone(),
        target,
        readonly,
    })
}

fn stack_id(snapshot: &Snapshot) -> String {
    let mut hasher = Sha256::new();
    for layer in &snapshot.layers {
        hasher.update(layer.to_string());
    }
    hasher
        .finalize()
        .iter()
        .take(16)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// A secret's bytes; `None` when it is not there and need not be.
fn secret(executor: &Executor<'_>, id: &str, required: bool) -> Result<Option<Vec<u8>>, Error> {
    let data = match executor.request.secrets.get(id) {
        None if required => return Err(Error::Secret { id: id.to_owned() }),
        None => return Ok(None),
        Some(SecretSource::Value(value)) => value.clone(),
        Some(SecretSource::File(path)) => {
            let fail = |source| Error::Io {
                op: "read the secret",
                path: path.clone(),
                source,
            };
            let mut data = Vec::new();
            File::open(path)
                .map_err(fail)?
                .take(SECRET_LIMIT + 1)
                .read_to_end(&mut data)
                .map_err(fail)?;
            data
        }
    };
    if data.len() as u64 > SECRET_LIMIT {
        return Err(Error::Request(format!(
            "secret {id} is larger than {SECRET_LIMIT} bytes"
        )));
    }
    Ok(Some(data))
}

/// Variables that hold secrets.
pub(crate) fn secret_env(
    executor: &Executor<'_>,
    op: &RunOp,
) -> Result<Vec<(String, String)>, Error> {
    let mut env = Vec::new();
    for mount in &op.mounts {
        let RunMount::Secret {
            id,
            env: Some(name),
            required,
            ..
        } = mount
        else {
            continue;
        };
        if let Some(data) = secret(executor, id, *required)? {
            let value = String::from_utf8(data).map_err(|_| {
                Error::Request(format!("secret {id} is not text and cannot be a variable"))
            })?;
            env.push((name.clone(), value));
        }
    }
    Ok(env)
}

/// Request of [`TASK_OWN_FOLDER`].
#[derive(serde::Serialize, serde::Deserialize)]
struct OwnFolder {
    path: PathBuf,
    mode: u32,
    uid: u32,
    gid: u32,
}

fn own_folder(space: &Space, path: &Path, (mode, uid, gid): (u32, u32, u32)) -> Result<(), Error> {
    let request = OwnFolder {
        path: path.to_owned(),
        mode,
        uid,
        gid,
    };
    if rustix::process::geteuid().is_root() || (uid, gid) == (0, 0) {
        return apply_ownership(&request).map_err(|source| Error::Io {
            op: "set the owner and mode of",
            path: path.to_owned(),
            source,
        });
    }
    let bytes = serde_json::to_vec(&request).expect("BUG: a request has string keys only");
    space.sandbox()?.task(TASK_OWN_FOLDER, &bytes, &[])?;
    Ok(())
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
    if is_root {
        let (uid, gid) = (Uid::from_raw(request.uid), Gid::from_raw(request.gid));
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
