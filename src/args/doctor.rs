//! Arguments of `kiln doctor`.

use super::IsolationArgs;
use clap::{Args, ValueEnum};

// `kiln doctor`.
#[derive(Args, Debug)]
pub struct DoctorArgs {
    /// How the answer is shown
    #[arg(long, value_enum, default_value_t = DoctorFormat::Text)]
    pub format: DoctorFormat,
    /// Look at a cluster in place of this machine, said as for `kiln build`: what it can do, and what its workers lack
    #[arg(long, value_name = "URL|POOL[,KEY=VALUE...]")]
    pub executor: Option<String>,
    /// With --executor: the platforms of which a worker is tried [default: this machine's]
    #[arg(
        long,
        value_name = "PLATFORM",
        value_delimiter = ',',
        requires = "executor"
    )]
    pub platform: Vec<String>,
    /// With --executor: try whether the action cache takes results from here, which leaves one there
    #[arg(long, requires = "executor")]
    pub write: bool,
    /// As of `kiln build`.
    #[command(flatten)]
    pub isolation: IsolationArgs,
}

/// `--format` of `kiln doctor`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum DoctorFormat {
    /// A line for each thing that was tried
    Text,
    /// One JSON document
    Json,
}
