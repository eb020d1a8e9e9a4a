//! Arguments of the commands about the room that the store takes.

use clap::Args;

/// `kiln prune`.
#[derive(Args, Debug)]
pub struct PruneArgs {
    /// Also remove the cache of builds; images that have a name stay
    #[arg(short, long)]
    pub all: bool,
    /// Do not ask (accepted for scripts; Kiln never asks)
    #[arg(short, long)]
    pub force: bool,
    /// Remove these only: `until=`, `label=`, `label!=`
    #[arg(long = "filter", value_name = "KEY=VALUE")]
    pub filters: Vec<String>,
    /// Show what would go
    #[arg(long)]
    pub dry_run: bool,
}

/// `kiln du`.
#[derive(Args, Debug)]
pub struct DuArgs {
    /// Show each image, layer and cache mount
    #[arg(short, long)]
    pub verbose: bool,
    /// Do not shorten IDs
    #[arg(long, requires = "verbose")]
    pub no_trunc: bool,
    /// `table`, `table TEMPLATE`, `json` (one object a line), or a Go template
    #[arg(long, value_name = "FORMAT", conflicts_with = "verbose")]
    pub format: Option<String>,
}
