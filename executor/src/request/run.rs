//! What commands may do and use, for the whole build.

use sandbox::{Isolation, NetworkProgram, Resources, RootKind, Security};
use std::path::PathBuf;
use std::time::Duration;

/// The network of commands and how names are found there.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NetworkSettings {
    /// `--network=pasta` and the like: this program, or an error.
    pub program: Option<NetworkProgram>,
    /// `--dns`, in place of the host's; `none` alone keeps the image's `resolv.conf`.
    pub name_servers: Vec<String>,
    /// `--dns-search`, in place of the host's; `.` alone is none.
    pub search: Vec<String>,
    /// `--dns-option`, in place of the host's.
    pub options: Vec<String>,
}

/// Settings of all RUN steps. None of them is part of a cache key, as they are not in BuildKit's either.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RunSettings {
    /// `--isolation`.
    pub isolation: Isolation,
    /// The way to put root file systems together; `None` takes the best that works here.
    pub root: Option<RootKind>,
    /// `--cap-add`, `--cap-drop`, `--security-opt`.
    pub security: Security,
    /// `--memory` and the like.
    pub resources: Resources,
    /// `--timeout`: the longest that one step may take.
    pub timeout: Option<Duration>,
    /// How much of what a command writes is shown.
    pub output: OutputLimits,
    /// `--on-failure`: what becomes of a failed step's sandbox.
    pub on_failure: OnFailure,
    /// Their network.
    pub network: NetworkSettings,
    /// `--ca`: certificates of authorities that commands shall trust, in PEM.
    pub ca: Vec<PathBuf>,
}

/// How much of what a step writes is shown while it runs; the rest is in its log alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OutputLimits {
    /// Bytes; `None` is no limit.
    pub size: Option<u64>,
    /// Bytes a second, on average since the step began; `None` is no limit.
    pub speed: Option<u64>,
}

impl Default for OutputLimits {
    /// BuildKit's limit of size. Its limit of speed would cut what a fast step writes in its first second.
    fn default() -> Self {
        Self {
            size: Some(2 << 20),
            speed: None,
        }
    }
}

/// What becomes of the sandbox of a failed step.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OnFailure {
    /// It goes.
    #[default]
    Fail,
    /// It is kept, and only so many of those kept, the newest.
    Keep(usize),
}
