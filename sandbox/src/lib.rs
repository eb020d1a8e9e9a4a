//! Runs one process in namespaces over an overlay root, and file tasks inside the same user namespace.
//!
//! [`Sandbox::start`] re-executes the program as a helper, small and with one thread, which enters the build's user and mount
//! namespace once. Each [`Sandbox::run`] is a child of it in namespaces of its own, whose first process mounts the root, starts
//! the command, and ends with it. Each [`Sandbox::task`] is a child that runs a registered function. The calling process never
//! forks, and everything ends when it does.
//!
//! A leaf: it knows nothing of images, layers as such, or Dockerfiles. All `unsafe` of the workspace lives here.
//! Needs Linux 5.11 (unprivileged overlay); newer kernels are used where they are better.

mod binfmt;
mod capability;
mod cgroup;
mod chroot;
mod client;
mod command;
mod device;
mod fail;
mod helper;
mod init;
mod ladder;
mod limits;
mod mounts;
mod namespace;
mod network;
mod notify;
mod options;
mod overlay;
mod probe;
mod resolve;
mod root;
mod rootfs;
mod seccomp;
mod spec;
mod subid;
mod sys;
mod task;
mod terminal;
mod volumes;
mod watch;
mod wire;

pub use binfmt::{Emulator, Machine, runs_natively};
pub use capability::capability_name;
pub use network::{NetworkKind, NetworkOptions, NetworkProgram, PrivateNetwork};
pub use notify::{OWNER_ATTRIBUTE, OwnerRecord, owner_table, owner_value, parse_owner};
pub use options::{IdMapping, Isolation, Mode, Options, RootKind, Volume};
pub use probe::Fact;
pub use root::whiteout;
pub use spec::{
    Device, Exit, Keep, KeptCopy, Limit, Mount, Network, Overlay, Pressure, Resources, RunSpec,
    Seccomp, Security,
};
pub use terminal::TerminalOffer;

/// As many layers as the kernel is given one by one; of more, the lowest are joined in one folder.
pub const MOST_LAYERS: usize = rootfs::MOST_LAYERS;

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

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

/// Tries everything that a sandbox could need here: for those who ask what is missing, since a build tries only what decides.
/// `scratch` is an empty folder in the store, in which file systems are tried.
///
/// # Errors
/// The helper cannot be started.
pub fn facts(store: &Path, scratch: &Path, search_path: &str) -> Result<Vec<Fact>, Error> {
    client::facts(&probe::Place {
        store: store.to_owned(),
        scratch: scratch.to_owned(),
        search_path: search_path.to_owned(),
    })
}

/// Whether this process may work on files of any owner by itself, as root may: not in a user namespace of one id, and not
/// without the capabilities for it.
#[must_use]
pub fn works_as_root() -> bool {
    use rustix::thread::CapabilitySet;
    let needed = CapabilitySet::CHOWN | CapabilitySet::DAC_OVERRIDE | CapabilitySet::FOWNER;
    namespace::is_root_with(needed) && !namespace::has_one_id()
}

/// A program started by this command is killed when the calling process ends, however that comes about, and with it
/// all it has started that stays in its process group, which it leads. What it leaves behind at its own end is killed too.
pub fn end_with_caller(command: &mut std::process::Command) {
    watch::end_with_caller(command);
}

/// Processes that the kernel has killed for lack of memory on this machine since it was booted; 0 where it does not tell.
#[must_use]
pub fn machine_oom_kills() -> u64 {
    cgroup::machine_oom_kills()
}

/// The build's namespace and its helper process: one per build, started when first needed. Dropping it ends the helper and all in it.
#[derive(Debug)]
pub struct Sandbox {
    helper: client::Helper,
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
    /// Whether commands change owners as if there were all ids, though there is a single one ([`IdMapping::Single`]):
    /// what they ask for is recorded with the files ([`OWNER_ATTRIBUTE`], [`owner_table`]).
    #[must_use]
    pub fn records_owners(&self) -> bool {
        self.helper.records_owners()
    }
    /// How commands are isolated here.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.helper.mode()
    }
    /// How the root file systems of commands are put together here.
    #[must_use]
    pub fn root_kind(&self) -> RootKind {
        self.helper.root_kind()
    }
    /// Things worth telling once per build (`no subordinate ids for user x: ...`).
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        self.helper.notes()
    }
    /// Registers emulators for the programs of other architectures, for this build alone, from now on. Once is enough.
    ///
    /// # Errors
    /// The kernel has no binfmt_misc for user namespaces (Linux 6.7 has), or an emulator cannot be opened inside.
    pub fn emulate(&self, emulators: &[Emulator]) -> Result<(), Error> {
        self.helper.emulate(emulators)
    }
    /// Has the build's private network made, without waiting for it. Without effect when it is there or under way.
    pub fn prepare_network(&self) {
        self.helper.prepare_network();
    }
    /// The build's private network, which is made when the first one asks. Callable from several threads.
    ///
    /// # Errors
    /// The program that was asked for is missing or does not work.
    pub fn network(&self) -> Result<PrivateNetwork, Error> {
        self.helper.network().map(|(network, _)| network)
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
    /// Asks it and everything it started to end (SIGTERM, and SIGCONT for what is stopped). What does not is left running;
    /// what ends in time is waited for before the rest is killed.
    pub fn stop(&self) {
        self.started.stop();
    }
    /// How often its limits were hit; all zero before its end, and without limits.
    #[must_use]
    pub fn pressure(&self) -> Pressure {
        self.started.pressure()
    }
    /// Kills it and everything it started.
    pub fn kill(&self) {
        self.started.kill();
    }
}
