//! The plan: a DAG of steps, inputs before their users, everything expanded, serialisable.

use crate::config::{HistoryEntry, ImageConfig};
use crate::platform::Platform;
use crate::source::{GitSource, HttpSource};
use parser::{Lines, Span};
use serde::{Deserialize, Serialize};

/// Index of a step in its plan.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct StepId(pub u32);

/// Index into [`Step::inputs`].
pub type InputIndex = usize;

/// A whole plan. Invariant: a step's inputs have lower ids than the step.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Steps; `steps[i].id == StepId(i)`.
    pub steps: Vec<Step>,
    /// One per platform asked for.
    pub targets: Vec<Target>,
}

/// One unit of work.
#[derive(Clone, Debug)]
pub struct Step {
    /// Its place.
    pub id: StepId,
    /// What to do.
    pub op: Op,
    /// Steps whose results it reads.
    pub inputs: Vec<StepId>,
    /// Where it comes from.
    pub origin: Origin,
    /// `--no-cache` applies: never look it up.
    pub no_cache: bool,
    /// Platform it runs for.
    pub platform: Platform,
}

/// Where a step comes from and how to name it to people.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Origin {
    /// `[build 2/5] RUN make` as BuildKit's progress names it.
    pub name: String,
    /// Stage name or index as text.
    pub stage: String,
    /// Instruction in the Dockerfile: the FROM for ONBUILD triggers, the user for steps the planner made up.
    pub span: Option<Span>,
    /// Its lines.
    pub lines: Option<Lines>,
    /// Variables of a command that come from ARG.
    pub args: Vec<String>,
}

/// What a step does.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Op {
    /// A base image's root file system. No inputs.
    Image(ImageOp),
    /// COPY, ADD, heredocs.
    Copy(CopyOp),
    /// RUN.
    Run(RunOp),
    /// WORKDIR: make a directory where it is missing.
    Mkdir(MkdirOp),
    /// A file behind a URL, alone in a root file system. No inputs.
    Http(HttpSource),
    /// The files of a Git commit as a root file system. No inputs.
    Git(GitSource),
}

/// A base image.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct ImageOp {
    /// Normalised reference or context name, for people.
    pub reference: String,
    /// Manifest digest (`sha256:...`).
    pub manifest_digest: String,
    /// diff_ids from the config, base first: the identity of what it holds.
    pub diff_ids: Vec<String>,
    /// Opaque to the planner; tells the executor where its blobs are (not part of the key).
    pub source: String,
}

/// COPY and ADD.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct CopyOp {
    /// The root file system to copy into; `None` is scratch.
    pub base: Option<InputIndex>,
    /// Where `Path` sources are read from.
    pub from: CopyFrom,
    /// Sources in order.
    pub sources: Vec<CopySource>,
    /// Destination, absolute; a trailing slash (or `/.`) is kept and means "a directory".
    pub dest: String,
    /// `--chown` after expansion: `user[:group]`.
    pub chown: Option<String>,
    /// `--chmod` after expansion: octal or symbolic.
    pub chmod: Option<String>,
    /// `--link`: the layer does not depend on the base; destination symlinks are not followed.
    pub link: bool,
    /// `--parents`.
    pub parents: bool,
    /// `--exclude` patterns.
    pub exclude: Vec<String>,
    /// ADD: unpack local archives (`Some(false)`: `--unpack=false`). `None` for COPY.
    pub unpack: Option<bool>,
    /// ADD rather than COPY (messages, wildcards are the same).
    pub add: bool,
}

/// Where path sources are read from.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum CopyFrom {
    /// A local directory: `context` for the main one, else the named context's name.
    Context(String),
    /// A step's root file system.
    Input(InputIndex),
    /// An empty root file system (`--from` of a stage that is `FROM scratch` with no step).
    Scratch,
}

/// One source.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum CopySource {
    /// Path or wildcard.
    Path(String),
    /// Something of an input of its own: what ADD has from elsewhere.
    Input {
        /// Which input.
        input: InputIndex,
        /// Path or wildcard in it.
        path: String,
        /// Unpack it when it is an archive.
        unpack: bool,
    },
    /// A heredoc's file.
    Inline {
        /// File name when the destination is a directory.
        name: String,
        /// Content after expansion and tab stripping.
        data: String,
    },
}

/// RUN.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct RunOp {
    /// Root file system; `None` is scratch.
    pub base: Option<InputIndex>,
    /// argv, the shell included.
    pub args: Vec<String>,
    /// How people name it: `/bin/sh -c make` (BuildKit's error text uses it).
    pub display: String,
    /// Environment in order, PATH included.
    pub env: Vec<(String, String)>,
    /// Proxy variables: set for the command, never in a key.
    pub proxy_env: Vec<(String, String)>,
    /// Working directory, absolute.
    pub cwd: String,
    /// `USER` text, empty for root.
    pub user: String,
    /// Mounts in order.
    pub mounts: Vec<RunMount>,
    /// Network mode.
    pub network: Network,
    /// `--security=insecure`.
    pub insecure: bool,
    /// Host name.
    pub hostname: String,
    /// `--add-host` entries: name, address.
    pub extra_hosts: Vec<(String, String)>,
    /// Files of a RUN heredoc that names an interpreter: path, content; visible to this step only.
    pub files: Vec<(String, String)>,
    /// Host-side numbers in bytes: `/dev/shm`.
    pub shm_size: Option<u64>,
    /// `--device`, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<DeviceRequest>,
    /// `--ulimit`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ulimits: Vec<Ulimit>,
    /// `--volume`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<Volume>,
}

/// `RUN --device`.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct DeviceRequest {
    /// CDI name: `vendor/class`, `vendor/class=name`, `vendor/class=*`, or with a class of annotations as the name.
    pub name: String,
    /// The step fails without it.
    pub required: bool,
}

/// `--ulimit`: a resource limit of commands.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Ulimit {
    /// Name as Docker has it: `nofile`, `core`, ...
    pub name: String,
    /// Soft limit; `None` is none.
    pub soft: Option<u64>,
    /// Hard limit; `None` is none.
    pub hard: Option<u64>,
}

/// `--volume`: something of the host that every command sees. Its content is in no key.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Volume {
    /// Path on the host, absolute.
    pub source: String,
    /// Absolute target.
    pub target: String,
    /// What a command may do with it.
    pub access: VolumeAccess,
    /// Give the files on the host to the user of the command.
    pub chown: bool,
    /// Programs on it cannot be run.
    pub noexec: bool,
}

/// What a command may do with a volume.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub enum VolumeAccess {
    /// Read and write the host's files.
    #[default]
    ReadWrite,
    /// Read only.
    ReadOnly,
    /// Write, but what is written is thrown away with the command's end.
    Discard,
}

/// Network of a RUN.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub enum Network {
    /// As the build's default says.
    #[default]
    Default,
    /// Loopback only.
    None,
    /// The host's.
    Host,
}

/// A mount of a RUN.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum RunMount {
    /// `type=bind`. `input` `None` is an empty directory.
    Bind {
        /// Which input.
        input: Option<InputIndex>,
        /// Path inside it.
        source: String,
        /// Absolute target.
        target: String,
        /// Read-only; otherwise writes are discarded.
        readonly: bool,
    },
    /// `type=cache`.
    Cache {
        /// Identity of the cache.
        id: String,
        /// Absolute target.
        target: String,
        /// What fills it when new.
        from: Option<InputIndex>,
        /// Path inside the cache (or inside `from`).
        source: String,
        /// `shared`, `private` or `locked`.
        sharing: String,
        /// Mode of the directory when created.
        mode: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
        /// Read-only.
        readonly: bool,
    },
    /// `type=tmpfs`.
    Tmpfs {
        /// Absolute target.
        target: String,
        /// Bytes.
        size: Option<u64>,
    },
    /// `type=secret`.
    Secret {
        /// Id.
        id: String,
        /// File target, when mounted as a file.
        target: Option<String>,
        /// Environment variable, when passed so.
        env: Option<String>,
        /// Missing secret is an error.
        required: bool,
        /// File mode.
        mode: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
    },
    /// `type=ssh`.
    Ssh {
        /// Id.
        id: String,
        /// Socket target.
        target: String,
        /// Missing agent is an error.
        required: bool,
        /// Mode.
        mode: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
    },
}

/// WORKDIR.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct MkdirOp {
    /// Root file system; `None` is scratch.
    pub base: Option<InputIndex>,
    /// Absolute path.
    pub path: String,
    /// `USER` in force, empty for root: owner of what is created.
    pub user: String,
}

/// What a platform's build ends in.
#[derive(Clone, Debug)]
pub struct Target {
    /// Platform.
    pub platform: Platform,
    /// The root file system; `None` is scratch.
    pub rootfs: Option<StepId>,
    /// The image config, base's included, without rootfs, history and created.
    pub config: ImageConfig,
    /// History: the base image's entries, then ours.
    pub history: Vec<HistoryEntry>,
}
