//! Runs one process in namespaces over an overlay root, and file tasks inside the same user namespace.
//!
//! [`Sandbox::start`] re-executes the program as a helper, small and with one thread, which enters the build's user and mount
//! namespace once. Each [`Sandbox::run`] is a child of it in namespaces of its own, whose first process mounts the root, starts
//! the command, and ends with it. Each [`Sandbox::task`] is a child that runs a registered function. The calling process never
//! forks, and everything ends when it does.
//!
//! A leaf: it knows nothing of images, layers as such, or Dockerfiles. All `unsafe` of the workspace lives here.
//! Needs Linux 5.11 (unprivileged overlay); newer kernels are used where they are better.

mod client;
mod command;
mod fail;
mod helper;
mod init;
mod limits;
mod mounts;
mod namespace;
mod overlay;
mod resolve;
mod rootfs;
mod seccomp;
mod subid;
mod sys;
mod task;
mod volumes;
mod watch;
mod wire;

use serde::{Deserialize, Serialize};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;

/// Errors.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Setting up failed at a stage.
    #[error("could not {stage}{}", detail.as_deref().map(|d| format!(" ({d})")).unwrap_or_default())]
    Setup {
        /// What was attempted (`mount the overlay root`).
        stage: String,
        /// Path or setting concerned, and what would fix it.
        detail: Option<String>,
        /// errno.
        #[source]
        source: std::io::Error,
    },
    /// The helper process ended or broke the protocol.
    #[error("the sandbox helper ended unexpectedly: {0}")]
    Helper(String),
    /// A task reported an error.
    #[error("{0}")]
    Task(String),
}

/// A task's code: runs in a child process inside the build's user namespace. Gets the request bytes and the passed
/// descriptors; its result bytes go back to the caller. It has no environment variables and a umask of 022, stands in the
/// caller's working folder, and may start threads; its messages go nowhere but into the result. A panic is an error.
///
/// As [`IdMapping::Idmapped`] it is root of the stores and a stranger everywhere else: what lies outside of them it reaches
/// by passed descriptors, or as anybody may.
pub type TaskFn = fn(request: &[u8], fds: Vec<OwnedFd>) -> Result<Vec<u8>, String>;

/// Must be the first call in `main`, before any thread: a re-executed helper never returns from it.
pub fn init_if_child(tasks: &[(&'static str, TaskFn)]) {
    helper::run_if_child(tasks);
}

/// A program started by this command is killed when the calling process ends, however that comes about, and with it
/// all it has started that stays in its process group, which it leads. What it leaves behind at its own end is killed too.
pub fn end_with_caller(command: &mut std::process::Command) {
    watch::end_with_caller(command);
}

/// How ids are mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum IdMapping {
    /// Root: a user namespace over idmapped mounts; files on disk keep container ids.
    Idmapped,
    /// Subordinate id ranges by newuidmap/newgidmap: files on disk have shifted ids.
    Subordinate,
    /// Only the user's own id: all files belong to it.
    Single,
}

/// How to set up the build's namespace.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Folders the sandbox must reach as they are (the store root): idmapped when root.
    pub stores: Vec<PathBuf>,
    /// Parts of the host that commands may be given.
    pub volumes: Vec<Volume>,
}

/// A part of the host made available inside a store, so that it keeps its ids as the store does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Folder or file of the host.
    pub source: PathBuf,
    /// An empty folder or file in a store, of the same kind, to mount it on.
    pub at: PathBuf,
}

/// The build's namespace and its helper process: one per build, started when first needed. Dropping it ends the helper and all in it.
#[derive(Debug)]
pub struct Sandbox {
    helper: client::Helper,
}

/// A root file system: overlay of read-only folders, with or without a writable upper.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Overlay {
    /// Lowers, topmost first. One that comes twice counts where it is topmost, which makes no difference.
    pub lowers: Vec<PathBuf>,
    /// Upper and work folder (same file system); read-only without. The work folder is the caller's to remove afterwards,
    /// inside the namespace; it may be used again.
    pub upper: Option<(PathBuf, PathBuf)>,
}

/// Something mounted into the root.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Mount {
    /// A path inside another overlay (bind mounts from stages and contexts). With an `upper`, writes go there (and are thrown away by the caller).
    Overlay {
        /// The file system.
        overlay: Overlay,
        /// Path inside it; a file or a folder. Resolved inside it, links included.
        source: String,
        /// Absolute target.
        target: String,
        /// Read-only.
        readonly: bool,
    },
    /// A host folder, file or socket of the store (cache mounts, agents, volumes), with what is mounted in it.
    Bind {
        /// Host path; `subpath` inside it is resolved in that root.
        source: PathBuf,
        /// Path inside `source`, may be empty.
        subpath: String,
        /// Absolute target.
        target: String,
        /// Read-only.
        readonly: bool,
        /// Set-uid bits on it mean nothing.
        nosuid: bool,
        /// Programs on it cannot be run.
        noexec: bool,
    },
    /// A fresh tmpfs.
    Tmpfs {
        /// Absolute target.
        target: String,
        /// Bytes.
        size: Option<u64>,
        /// Mode.
        mode: u32,
    },
    /// A file that never touches a disk (secrets, resolv.conf, hosts, heredoc scripts).
    File {
        /// Absolute target.
        target: String,
        /// Content.
        data: Vec<u8>,
        /// Mode.
        mode: u32,
        /// Owner inside.
        uid: u32,
        /// Group inside.
        gid: u32,
    },
}

/// Network of a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum Network {
    /// A namespace with loopback only.
    #[default]
    None,
    /// The host's.
    Host,
    /// One namespace of the whole build with a way out, when a helper for it is there; else the host's with a note. (The helper programs come later; today: host with a note.)
    Private,
}

/// One command to run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct RunSpec {
    /// Root.
    pub root: Overlay,
    /// Mounts, in order.
    pub mounts: Vec<Mount>,
    /// argv; looked up in the environment's PATH inside the root as runc does.
    pub args: Vec<String>,
    /// Whole environment.
    pub env: Vec<(String, String)>,
    /// Working directory; made by the caller beforehand or created with the user's ownership.
    pub cwd: String,
    /// Ids inside.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Network.
    pub network: Network,
    /// Host name.
    pub hostname: String,
    /// No seccomp filter, all capabilities of the namespace (`--security=insecure`).
    pub insecure: bool,
    /// `/dev/shm` size in bytes.
    pub shm_size: Option<u64>,
    /// Resource limits, in order.
    pub limits: Vec<Limit>,
    /// Device nodes besides those that every command has.
    pub devices: Vec<Device>,
}

/// A resource limit of the command (setrlimit(2)).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// Name without its prefix, in lower case: `nofile`, `core`, ...
    pub name: String,
    /// Soft limit; `None` is none.
    pub soft: Option<u64>,
    /// Hard limit; `None` is none.
    pub hard: Option<u64>,
}

/// A device node of the host in the command's root. Who may open it is said by the node's own mode and owner, which a bind
/// mount cannot change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// On the host.
    pub source: PathBuf,
    /// Absolute target, mostly in `/dev`.
    pub target: String,
}

/// How a command ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Exit {
    /// Exit code; 126 and 127 also stand for what could not be executed or found, as shells have it.
    Code(i32),
    /// Killed by a signal.
    Signal(i32),
}

/// A command under way. Dropping it kills the command and everything it started.
#[derive(Debug)]
pub struct Running {
    started: client::Started,
}

impl Sandbox {
    /// Starts the helper and enters the build's namespace.
    ///
    /// # Errors
    /// What is missing and what would fix it.
    pub fn start(options: &Options) -> Result<Self, Error> {
        let helper = client::Helper::start(options)?;
        Ok(Self { helper })
    }
    /// How ids are mapped here.
    #[must_use]
    pub fn id_mapping(&self) -> IdMapping {
        self.helper.id_mapping()
    }
    /// Things worth telling once per build (`no subordinate ids for user x: ...`).
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        self.helper.notes()
    }
    /// Starts a command; stdout and stderr are written to the given descriptors, stdin is /dev/null. Callable from several threads.
    ///
    /// # Errors
    /// Setting up failed.
    pub fn run(
        &self,
        spec: &RunSpec,
        stdout: BorrowedFd<'_>,
        stderr: BorrowedFd<'_>,
    ) -> Result<Running, Error> {
        let started = self.helper.run(spec, stdout, stderr)?;
        Ok(Running { started })
    }
    /// Runs a registered task inside the user namespace and waits for it. Callable from several threads at once; tasks run in parallel processes.
    ///
    /// # Errors
    /// The task's own message, or the helper's end.
    pub fn task(
        &self,
        name: &str,
        request: &[u8],
        fds: &[BorrowedFd<'_>],
    ) -> Result<Vec<u8>, Error> {
        self.helper.task(name, request, fds)
    }
}

impl Running {
    /// Waits for the end of the command and of everything it started.
    ///
    /// # Errors
    /// Setting up failed after the start, or the helper's end.
    pub fn wait(&mut self) -> Result<Exit, Error> {
        self.started.wait()
    }
    /// Whether it has ended, waiting at most so long.
    ///
    /// # Errors
    /// As [`Running::wait`].
    pub fn wait_timeout(&mut self, timeout: std::time::Duration) -> Result<Option<Exit>, Error> {
        self.started.wait_timeout(timeout)
    }
    /// Kills it and everything it started.
    pub fn kill(&self) {
        self.started.kill();
    }
}
