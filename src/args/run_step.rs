//! Arguments of `kiln run-step`, which people do not type: a remote execution engine starts it on a worker.

use clap::Args;
use std::path::PathBuf;

// `kiln run-step`.
#[derive(Args, Debug)]
pub struct RunStepArgs {
    /// The step, as base64 of JSON; several are parts of one
    #[arg(long = "spec", value_name = "BASE64")]
    pub spec: Vec<String>,
    /// The step, as a file of JSON
    #[arg(long, value_name = "FILE", conflicts_with = "spec")]
    pub spec_file: Option<PathBuf>,
    /// Tell what this worker can do, as JSON, and run nothing
    #[arg(long, conflicts_with_all = ["spec", "spec_file"])]
    pub probe: bool,
}
