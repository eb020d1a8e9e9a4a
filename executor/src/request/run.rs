//! What commands may do and use, for the whole build.

use sandbox::{Isolation, Resources, RootKind, Security};
use std::path::PathBuf;
use std::time::Duration;

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
    /// `--ca`: certificates of authorities that commands shall trust, in PEM.
    pub ca: Vec<PathBuf>,
}
