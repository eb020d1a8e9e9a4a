//! Where a build works: the store, and the user namespace when one is needed.
//!
//! File work on trees runs in this process when it is a root that has all ids, and as a task inside the build's
//! user namespace otherwise, because trees then hold files of subordinate ids. (For root the files on disk keep the
//! ids they have in containers, by idmapped mounts.) Where no namespace can be made, what only reads trees is tried in this
//! process all the same. What a task does is its module's; this one only brings it there.

use crate::build::{ca, volumes};
use crate::cache::mounts;
use crate::request::RunSettings;
use crate::worker::fix;
use crate::{Error, copy, layer};
use sandbox::{IdMapping, Isolation, NetworkOptions, RootKind, Sandbox};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use store::Store;

/// Tasks for `sandbox::init_if_child`. Each is [`run_json`] around a function of a request.
pub const TASKS: &[(&str, sandbox::TaskFn)] = &[
    (REMOVE, |request, _| run_json(request, remove_task)),
    (volumes::TASK_GIVE, volumes::give_task),
    (ca::TASK_LAY, |request, _| {
        run_json(request, |lay| ca::lay_task(&lay))
    }),
    (ca::TASK_CUT, |request, _| {
        run_json(request, |cut| ca::cut_task(&cut))
    }),
    (copy::COPY_TASK, |request, _| {
        run_json(request, copy::copy_task)
    }),
    (layer::tasks::EXTRACT, |request, fds| {
        run_json(request, |request| layer::tasks::extract(request, fds))
    }),
    (layer::tasks::CAPTURE, |request, _| {
        run_json(request, layer::tasks::capture)
    }),
    (layer::tasks::SERIALISE, |request, _| {
        run_json(request, layer::tasks::serialise)
    }),
    (fix::FIX, |request, _| {
        run_json(request, |request| fix::fix(&request))
    }),
    (mounts::SCAN, |request, _| {
        run_json(request, mounts::scan_task)
    }),
    (mounts::PACK, |request, _| {
        run_json(request, mounts::pack_task)
    }),
    (mounts::LAY_OUT, |request, _| {
        run_json(request, mounts::lay_out_task)
    }),
];

const REMOVE: &str = "remove-trees";

/// Tasks that make no files of other owners: where there is no namespace, they can do without one as long as the user may
/// read what they read.
const WITHOUT_IDS: &[&str] = &[REMOVE, copy::COPY_TASK, layer::tasks::SERIALISE];

/// The store and a lazily started sandbox. Shared by reference between threads.
#[derive(Debug)]
pub struct Space {
    store: Store,
    sandbox: OnceLock<Sandbox>,
    starting: Mutex<()>,
    /// One lock per piece of work, so that concurrent requests for the same do it once.
    turns: Mutex<HashMap<String, Arc<Mutex<()>>>>,
    is_root: bool,
    may_unpack: OnceLock<bool>,
    limits: layer::Limits,
    /// Folders beside the store that layers and caches lie in.
    folders: Vec<PathBuf>,
    /// Paths of the host that commands are given, without repetition.
    volumes: Vec<String>,
    isolation: Isolation,
    root: Option<RootKind>,
    network: NetworkOptions,
    /// Where they lie in the store while the sandbox runs. It must outlive the sandbox, and be removed from outside only:
    /// inside, the host's files are in it.
    volume_places: OnceLock<store::Scratch>,
}

impl Space {
    /// Over a store; starts nothing.
    #[must_use]
    pub fn new(store: Store) -> Self {
        Self {
            store,
            sandbox: OnceLock::new(),
            starting: Mutex::new(()),
            turns: Mutex::new(HashMap::new()),
            is_root: sandbox::works_as_root(),
            may_unpack: OnceLock::new(),
            limits: layer::Limits::default(),
            folders: Vec::new(),
            volumes: Vec::new(),
            isolation: Isolation::Auto,
            root: None,
            network: NetworkOptions::default(),
            volume_places: OnceLock::new(),
        }
    }

    /// With the sandbox set up so.
    #[must_use]
    pub fn with_isolation(mut self, settings: &RunSettings) -> Self {
        self.isolation = settings.isolation;
        self.root = settings.root;
        self
    }

    /// With folders beside the store in which layers and caches lie, absolute.
    #[must_use]
    pub(crate) fn with_folders(mut self, folders: Vec<PathBuf>) -> Self {
        self.folders = folders;
        self
    }

    /// With a private network made so.
    #[must_use]
    pub fn with_network(mut self, options: NetworkOptions) -> Self {
        self.network = options;
        self
    }

    /// With paths of the host for commands.
    #[must_use]
    pub fn with_volumes(mut self, mut paths: Vec<String>) -> Self {
        paths.sort();
        paths.dedup();
        self.volumes = paths;
        self
    }

    /// Where a path of [`Space::with_volumes`] lies for commands.
    pub(crate) fn volume(&self, source: &str) -> Result<PathBuf, Error> {
        self.sandbox()?;
        let index = self.volumes.iter().position(|path| path == source);
        let (index, places) = index
            .zip(self.volume_places.get())
            .expect("BUG: the volumes of steps are those of the request");
        Ok(places.path().join(index.to_string()))
    }

    /// Makes the places of volumes.
    fn place_volumes(&self) -> Result<Vec<sandbox::Volume>, Error> {
        if self.volumes.is_empty() {
            return Ok(Vec::new());
        }
        let scratch = self.store.scratch()?;
        let mut placed = Vec::new();
        for (index, source) in self.volumes.iter().enumerate() {
            let source = PathBuf::from(source);
            let folder = std::path::absolute(scratch.path());
            let at = folder.map(|folder| folder.join(index.to_string()));
            let made = at.and_then(|at| {
                if source.metadata()?.is_dir() {
                    std::fs::create_dir(&at)?;
                } else {
                    std::fs::File::create(&at)?;
                }
                Ok(at)
            });
            let at = made.map_err(|error| Error::Io {
                op: "make a place for the volume",
                path: source.clone(),
                source: error,
            })?;
            placed.push(sandbox::Volume { source, at });
        }
        self.volume_places.get_or_init(|| scratch);
        Ok(placed)
    }

    /// With other bounds on foreign layers.
    #[must_use]
    pub fn with_limits(mut self, limits: layer::Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Bounds on foreign layers.
    #[must_use]
    pub fn limits(&self) -> layer::Limits {
        self.limits
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Whether this process may work on files of any owner, so that trees can be worked on in it.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.is_root
    }

    /// The sandbox, started on first use.
    ///
    /// # Errors
    /// What the host does not allow.
    pub fn sandbox(&self) -> Result<&Sandbox, Error> {
        if let Some(sandbox) = self.sandbox.get() {
            return Ok(sandbox);
        }
        let _starting = self.starting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sandbox) = self.sandbox.get() {
            return Ok(sandbox);
        }
        let root = std::path::absolute(self.store.root());
        let root = root.map_err(|source| Error::Io {
            op: "find",
            path: self.store.root().to_path_buf(),
            source,
        })?;
        let started = Sandbox::start(&sandbox::Options {
            stores: std::iter::once(root)
                .chain(self.folders.iter().cloned())
                .collect(),
            volumes: self.place_volumes()?,
            isolation: self.isolation,
            root: self.root,
            network: self.network.clone(),
        })?;
        let sandbox = self.sandbox.get_or_init(|| started);
        tracing::debug!(
            isolation = %sandbox.mode(),
            roots = ?sandbox.root_kind(),
            ids = ?sandbox.id_mapping(),
            "sandbox started"
        );
        self.sweep();
        Ok(sandbox)
    }

    /// Whether layers can be unpacked as trees here.
    pub(crate) fn may_unpack(&self) -> bool {
        self.is_root || *self.may_unpack.get_or_init(|| self.sandbox().is_ok())
    }

    /// Whether the namespace has only one id, so that every file on disk belongs to it.
    ///
    /// # Errors
    /// The sandbox cannot start.
    pub fn has_single_id(&self) -> Result<bool, Error> {
        Ok(!self.is_root && self.sandbox()?.id_mapping() == IdMapping::Single)
    }

    /// Runs a task of [`TASKS`]: in this process when it is root, else inside the namespace. Request and answer are JSON.
    ///
    /// # Errors
    /// The task's.
    pub fn task<Q: Serialize, A: DeserializeOwned>(
        &self,
        name: &str,
        request: &Q,
    ) -> Result<A, Error> {
        self.task_with(name, request, Vec::new())
    }

    /// [`Space::task`] with descriptors.
    ///
    /// # Errors
    /// The task's.
    pub(crate) fn task_with<Q: Serialize, A: DeserializeOwned>(
        &self,
        name: &str,
        request: &Q,
        fds: Vec<OwnedFd>,
    ) -> Result<A, Error> {
        let request = serde_json::to_vec(request).expect("BUG: task requests are plain structs");
        let mut refused = None;
        let answer = if self.is_root {
            task_here(name, &request, fds)
        } else {
            match self.sandbox() {
                Ok(sandbox) => {
                    let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
                    sandbox.task(name, &request, &borrowed)
                }
                Err(error) if WITHOUT_IDS.contains(&name) => {
                    refused = Some(error);
                    task_here(name, &request, fds)
                }
                Err(error) => return Err(error),
            }
        };
        let answer = match answer {
            Ok(answer) => answer,
            Err(sandbox::Error::Task(message)) => {
                let error = Carried::unpack(message);
                // What is out of reach here is not with a namespace.
                return Err(match refused {
                    Some(refused) if is_denied(&error) => refused,
                    _ => error,
                });
            }
            Err(other) => return Err(other.into()),
        };
        serde_json::from_slice(&answer).map_err(|e| {
            sandbox::Error::Helper(format!("the answer of task {name} cannot be read: {e}")).into()
        })
    }

    /// Removes a tree, whoever owns its files. An absent one is fine.
    ///
    /// # Errors
    /// I/O.
    pub fn remove_tree(&self, path: &Path) -> io::Result<()> {
        match store::remove_tree(path) {
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied && !self.is_root => {}
            other => return other,
        }
        let path = std::path::absolute(path)?;
        self.task(REMOVE, &Remove { paths: vec![path] })
            .map_err(io::Error::other)
    }

    /// Removes what earlier builds left in the store and could not remove from outside the namespace.
    fn sweep(&self) {
        let paths: Vec<PathBuf> = self
            .store
            .leftovers()
            .iter()
            .filter_map(|p| std::path::absolute(p).ok())
            .collect();
        if paths.is_empty() {
            return;
        }
        if let Err(error) = self.task::<_, ()>(REMOVE, &Remove { paths }) {
            tracing::warn!(
                error = crate::error::chain(&error),
                "leftovers of earlier builds could not be removed"
            );
        }
    }

    /// Runs `work` while no other thread of this process works on the same `what`.
    pub(crate) fn in_turn<T>(&self, what: String, work: impl FnOnce() -> T) -> T {
        let turn = {
            let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(turns.entry(what).or_default())
        };
        let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
        work()
    }
}

/// Runs a task of [`TASKS`] in this process.
fn task_here(name: &str, request: &[u8], fds: Vec<OwnedFd>) -> Result<Vec<u8>, sandbox::Error> {
    let (_, task) = TASKS
        .iter()
        .find(|(known, _)| *known == name)
        .expect("BUG: the task is in the table");
    task(request, fds).map_err(sandbox::Error::Task)
}

fn is_denied(error: &Error) -> bool {
    matches!(error, Error::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied)
}

#[derive(Serialize, Deserialize)]
struct Remove {
    paths: Vec<PathBuf>,
}

fn remove_task(request: Remove) -> Result<(), Error> {
    for path in request.paths {
        store::remove_tree(&path).map_err(|source| Error::Io {
            op: "remove",
            path,
            source,
        })?;
    }
    Ok(())
}

/// Runs a function as a task: request and answer are JSON, errors keep their kind.
///
/// # Errors
/// The function's error, packed for [`Space::task`].
pub fn run_json<Q: DeserializeOwned, A: Serialize>(
    request: &[u8],
    work: impl FnOnce(Q) -> Result<A, Error>,
) -> Result<Vec<u8>, String> {
    let request = serde_json::from_slice(request)
        .map_err(|e| format!("the task's request cannot be read: {e}"))?;
    let answer = work(request).map_err(Carried::pack)?;
    serde_json::to_vec(&answer).map_err(|e| format!("the task's answer cannot be written: {e}"))
}

/// An error on its way out of a task, in a text.
#[derive(Serialize, Deserialize)]
enum Carried {
    Io {
        op: String,
        path: PathBuf,
        errno: Option<i32>,
        text: String,
    },
    Layer {
        layer: String,
        reason: String,
    },
    Copy {
        message: String,
        help: Option<String>,
    },
    Corrupt {
        expected: String,
        actual: String,
        path: Option<PathBuf>,
    },
}

impl Carried {
    fn pack(error: Error) -> String {
        let carried = match error {
            Error::Io { op, path, source } => Self::Io {
                op: op.to_owned(),
                path,
                errno: source.raw_os_error(),
                text: source.to_string(),
            },
            Error::Layer { layer, reason } => Self::Layer { layer, reason },
            Error::Copy { message, help } => Self::Copy { message, help },
            Error::Store(store::Error::Corrupt {
                expected,
                actual,
                path,
            }) => Self::Corrupt {
                expected,
                actual,
                path,
            },
            other => return crate::error::chain(&other),
        };
        serde_json::to_string(&carried).expect("BUG: plain fields always serialise")
    }

    fn unpack(message: String) -> Error {
        match serde_json::from_str(&message) {
            Ok(Self::Layer { layer, reason }) => Error::Layer { layer, reason },
            Ok(Self::Copy { message, help }) => Error::Copy { message, help },
            Ok(Self::Corrupt {
                expected,
                actual,
                path,
            }) => Error::Store(store::Error::Corrupt {
                expected,
                actual,
                path,
            }),
            Ok(Self::Io {
                op,
                path,
                errno,
                text,
            }) => {
                let source =
                    errno.map_or_else(|| io::Error::other(text), io::Error::from_raw_os_error);
                Error::Io {
                    op: known_op(&op),
                    path,
                    source,
                }
            }
            Err(_) => sandbox::Error::Task(message).into(),
        }
    }
}

/// The static text of an operation; errors keep it by reference.
fn known_op(op: &str) -> &'static str {
    const OPS: &[&str] = &[
        "open",
        "read",
        "write",
        "create",
        "remove",
        "list",
        "link",
        "inspect",
        "move",
        "find",
        "resolve",
        "create the whiteout",
        "create the device",
        "mark as opaque",
        "set the mode of",
        "set the owner of",
        "set the time of",
        "set an extended attribute of",
        "read the extended attributes of",
        "remove an extended attribute of",
        "unpack",
        "read the layer index",
        "write the layer index",
    ];
    OPS.iter()
        .find(|known| **known == op)
        .copied()
        .unwrap_or("work on")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_keep_their_kind() {
        let errors = [
            Error::Io {
                op: "open",
                path: "/x".into(),
                source: io::Error::from_raw_os_error(28),
            },
            Error::Layer {
                layer: "sha256:0".into(),
                reason: "/a: bad".into(),
            },
            Error::Copy {
                message: "not found".into(),
                help: Some("look".into()),
            },
            Error::Request("no".into()),
        ];
        for error in errors {
            let shown = crate::error::chain(&error);
            let back = Carried::unpack(Carried::pack(error));
            assert_eq!(
                crate::error::chain(&back).trim_start_matches("sandbox: "),
                shown
            );
        }
    }
}
