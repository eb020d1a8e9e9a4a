//! A build from request to outputs: resolve bases, lower, schedule, assemble, write outputs.

use crate::Error;
use crate::request::BuildRequest;
use planner::plan::Plan;
use planner::scheduler::{Cancel, Observer};
use store::Store;

/// Takes what a build has to say. Step events come through [`Observer`].
pub trait Ui: Observer {
    /// Warnings of the Dockerfile, before anything runs.
    fn diagnostics(&self, diagnostics: &[parser::Diagnostic]);
    /// The plan is known; step events refer to it.
    fn plan(&self, plan: &Plan);
    /// A phase outside the plan begins (`resolve docker.io/library/busybox:latest`, `exporting to image`); returns its number.
    fn task_started(&self, name: &str) -> u64;
    /// Progress of such a phase.
    fn task_progress(&self, task: u64, what: &str, done: u64, total: u64);
    /// It ended; an error text when it failed.
    fn task_finished(&self, task: u64, error: Option<&str>);
}

/// What a build made.
#[derive(Clone, Debug, Default)]
pub struct BuildResult {
    /// Digest of the manifest or index of the first image output (`containerimage.digest`).
    pub digest: Option<String>,
    /// Config digest (`containerimage.config.digest`), for one platform.
    pub config_digest: Option<String>,
    /// Its descriptor as JSON (`containerimage.descriptor`).
    pub descriptor: Option<serde_json::Value>,
    /// Normalised names (`image.name`).
    pub names: Vec<String>,
    /// Steps that ran.
    pub executed: usize,
    /// Steps that were cached.
    pub cached: usize,
}

/// A failed build: the error, and which step it was.
#[derive(Debug, thiserror::Error)]
#[error("build failed")]
pub struct BuildFailure {
    /// Why.
    #[source]
    pub error: Error,
    /// The step's origin, when a step failed.
    pub origin: Option<planner::plan::Origin>,
}

/// Builds. `stdout` receives an output with `dest=-`.
///
/// # Errors
/// Everything that can go wrong, with the place in the Dockerfile where there is one.
pub fn build(
    _store: &Store,
    _request: &BuildRequest,
    _ui: &dyn Ui,
    _cancel: &Cancel,
    _stdout: Option<std::fs::File>,
) -> Result<BuildResult, BuildFailure> {
    todo!()
}
