//! One command: its root, its mounts, what it may do and use, and how it ended. Plain data, serialisable.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// A root file system: overlay of read-only folders, with or without a writable upper.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Overlay {
    /// Lowers, topmost first. One that comes twice counts where it is topmost, which makes no difference.
    pub lowers: Vec<PathBuf>,
    /// Upper and work folder (same file system); read-only without. The work folder is the caller's to remove afterwards,
    /// inside the namespace; it may be used again.
    pub upper: Option<(PathBuf, PathBuf)>,
}

/// What commands of one build leave for those that come after. The caller removes it, inside the namespace.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Keep {
    /// A folder for lowers that an overlay cannot take one by one, joined; any number of commands use it at the same time.
    pub joins: Option<PathBuf>,
    /// Where a copy of the root is made that stays, for roots that are copies; for one command at a time.
    pub copy: Option<KeptCopy>,
}

/// A copy of a root that one command leaves for another.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KeptCopy {
    /// Its folder, on the file system of the root's upper: empty at first. When a command ended and was not killed, there is
    /// a copy of its lowers in it that lacks what is in its upper; after anything else the folder is not to be used again.
    pub folder: PathBuf,
    /// The lowers that are not in the copy yet, topmost first: those that were in the upper of the command before included.
    pub above: Vec<PathBuf>,
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
        /// Owner and group that commands see, where there is a single id and owners are recorded
        /// ([`Sandbox::records_owners`](crate::Sandbox::records_owners)). Elsewhere they are those on disk.
        owner: Option<(u32, u32)>,
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
    /// One namespace of the whole build, see [`Sandbox::network`](crate::Sandbox::network).
    Private,
}

/// One command to run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct RunSpec {
    /// Root.
    pub root: Overlay,
    /// What this command shares with others of its build.
    pub keep: Keep,
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
    /// Capabilities and system calls; without meaning for an `insecure` command.
    pub security: Security,
    /// Limits of the whole command, by a control group.
    pub resources: Resources,
    /// Standard output is the socket of a [`crate::TerminalOffer`]: the command's streams are a terminal, its controlling one.
    pub terminal: bool,
}

/// Which capabilities and system calls a command has.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Security {
    /// System calls.
    pub seccomp: Seccomp,
    /// Capabilities besides Docker's, by name without `CAP_`, in upper case; `ALL` is all.
    pub cap_add: Vec<String>,
    /// Capabilities that are taken away, in the same form. `ALL` leaves what is added; otherwise none is in both.
    pub cap_drop: Vec<String>,
    /// Programs with set-uid bits or file capabilities gain nothing (`no_new_privs`).
    pub no_new_privileges: bool,
}

impl Security {
    /// Whether commands can have these settings, wherever they run.
    ///
    /// # Errors
    /// What is wrong; for a profile, with the field.
    pub fn check(&self) -> Result<(), String> {
        crate::seccomp::check(self)
    }
}

/// A filter of system calls.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum Seccomp {
    /// moby's default profile.
    #[default]
    Default,
    /// None.
    Unconfined,
    /// A profile in Docker's JSON.
    Profile(String),
}

/// Limits of a command and all that it starts. What cannot be set is an error.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Resources {
    /// Control group that the command's own is made in.
    pub cgroup_parent: Option<String>,
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Bytes of memory and swap; -1 for no limit of swap.
    pub memory_swap: Option<i64>,
    /// Microseconds of a scheduling period.
    pub cpu_period: Option<u64>,
    /// Microseconds of processor time in a period; -1 for no limit.
    pub cpu_quota: Option<i64>,
    /// Relative weight (2 to 262144, 1024 is usual).
    pub cpu_shares: Option<u64>,
    /// Processors (`0-3,7`).
    pub cpuset_cpus: Option<String>,
    /// Memory nodes.
    pub cpuset_mems: Option<String>,
    /// Processes and threads.
    pub pids: Option<i64>,
}

impl Resources {
    /// The limit of memory as people write it (`64m`).
    #[must_use]
    pub fn memory_in_words(&self) -> Option<String> {
        self.memory.map(crate::cgroup::size)
    }
}

/// How often a command hit the limits of its control group.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Pressure {
    /// Processes that the kernel killed for lack of memory.
    pub oom_kills: u64,
    /// Processes and threads that could not be started.
    pub forks_refused: u64,
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
