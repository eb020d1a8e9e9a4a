//! Arguments of `kiln doctor`.

use super::IsolationArgs;
use clap::{Args, ValueEnum};

// `kiln doctor`.
#[derive(Args, Debug)]
pub struct DoctorArgs {
    /// How the answer is shown
    #[arg(long, value_enum, default_value_t = DoctorFormat::Text)]
    pub format: DoctorFormat,
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
