//! Arguments of the commands that explain the cache, and the flag that says how a context's modes are taken.

use super::BuildArgs;
use clap::Args;

// How a build takes its contexts.
#[derive(Args, Debug, Default)]
pub struct ContextArgs {
    /// Modes and times of context files: `exact`, as they are, or `git`, as Git keeps them [default: $KILN_CONTEXT_MODE, else exact]
    #[arg(long, value_name = "MODE")]
    pub context_mode: Option<String>,
}

// `kiln explain`.
#[derive(Args, Debug)]
pub struct ExplainArgs {
    /// Step: its number, or `STAGE:LINE`; all steps in short without it
    pub step: Option<String>,
    /// All files that differ, rather than the first 20
    #[arg(short, long)]
    pub all: bool,
    /// `table`, `table TEMPLATE`, `json` (one document), or a Go template
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
}

// `kiln plan`.
#[derive(Args, Debug)]
pub struct PlanArgs {
    /// End with status 3 when a step would run, or may
    #[arg(long)]
    pub exit_code: bool,
    /// `table`, `table TEMPLATE`, `json` (one document), or a Go template
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// The build.
    #[command(flatten)]
    pub build: BuildArgs,
}
