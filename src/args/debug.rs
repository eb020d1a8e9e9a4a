//! Arguments of `kiln debug`, and the flag of `kiln build` that keeps what it looks at.

use super::RegistryArgs;
use clap::{Args, ValueEnum};
use std::path::PathBuf;

// `kiln debug`.
#[derive(Args, Debug)]
pub struct DebugArgs {
    /// Sandbox to enter, by the beginning of its ID, and a step of the failed stage, by number or by a part of its name [default: the newest, the failed step]
    #[arg(value_name = "BUILD[:STEP]")]
    pub target: Option<String>,
    /// Command to run in it [default: a shell]
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
    /// Leave out what the step has changed
    #[arg(long)]
    pub before: bool,
    /// List the sandboxes that are kept
    #[arg(long, visible_alias = "ls", conflicts_with_all = ["target", "command", "before", "remove"])]
    pub list: bool,
    /// Remove the sandbox
    #[arg(long = "rm", conflicts_with_all = ["command", "before"], requires = "target")]
    pub remove: bool,
    /// Secret of the step: as `kiln build --secret`
    #[arg(long = "secret", value_name = "SECRET")]
    pub secrets: Vec<String>,
    /// SSH agent or keys of the step: as `kiln build --ssh`
    #[arg(long, value_name = "ID[=SOCKET|KEY[,KEY]]")]
    pub ssh: Vec<String>,
    /// Let the command trust the authorities in this file (PEM): as `kiln build --ca`
    #[arg(long = "ca", value_name = "FILE")]
    pub ca: Vec<PathBuf>,
    /// How registries are reached, for layers that are not in the store.
    #[command(flatten)]
    pub registry: RegistryArgs,
}

/// `--on-failure`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum OnFailureMode {
    /// Open a shell in the failed step's sandbox, and keep it
    Shell,
    /// Keep the sandbox for `kiln debug`, in place of one kept earlier
    Keep,
    /// Remove the sandbox
    Fail,
}
