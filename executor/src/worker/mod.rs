//! A RUN step carried out for another machine: an input root that a remote execution engine has staged becomes the
//! command's root file system, and what the command changed becomes a layer and a report.
//!
//! It knows nothing of protocols: what asks for a step is in [`Spec`], what became of it in [`Report`], and the files of both
//! have fixed names in the input root. What commands see and what layers hold is what a build on one machine would give.

pub(crate) mod fix;
mod probe;
mod scratch;
mod secrets;
mod spec;
mod staged;
mod step;

pub use probe::probe;
pub use secrets::is_id;
pub use spec::{
    EXTRA, Ended, LAYER_BLOB, LAYER_INDEX, META, MOUNTS, Millis, PROGRAM, PackedLayer, REPORT,
    ROOTFS, Report, SPEC_FILE, SUBCOMMAND, Spec, SpecError, Staged, StagedReport, index_name,
};
pub use step::{Output, run_step};

use std::path::PathBuf;

/// Where a worker works.
#[derive(Clone, Debug, Default)]
pub struct Place {
    /// The input root, absolute.
    pub input: PathBuf,
    /// Folders that may do for what is written, the best first.
    pub scratch: Vec<PathBuf>,
    /// A folder of cache mounts that outlive steps.
    pub caches: Option<PathBuf>,
    /// Folders of the worker's own secrets, files named by id, the first that is asked first.
    pub secrets: Vec<PathBuf>,
    /// The socket of the worker's agent, for steps that name none.
    pub agent: Option<PathBuf>,
    /// Folders of sockets of the worker's agents, named by id.
    pub agents: Vec<PathBuf>,
}

impl Place {
    /// What the sandbox must reach as it is. Never the input root itself, which may be the root of all.
    fn folders(&self) -> Vec<PathBuf> {
        let parts = [ROOTFS, META, MOUNTS, EXTRA];
        let parts = parts.iter().map(|part| self.input.join(part));
        let parts = parts.filter(|part| part.is_dir());
        parts.chain(self.caches.clone()).collect()
    }
}
