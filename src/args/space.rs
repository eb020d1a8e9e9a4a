//! Arguments of the commands about the room that the store takes.

use clap::Args;

// How large the cache may grow.
#[derive(Args, Debug, Default)]
pub struct CacheMaxArgs {
    /// Bytes that the cache may take before what was not used for longest goes, such as 20GB; `auto` goes by the disk, `unlimited`
    /// has no bounds [default: $KILN_CACHE_MAX, else auto]
    #[arg(long, value_name = "SIZE")]
    pub cache_max: Option<String>,
}

// `kiln prune`.
#[derive(Args, Debug)]
pub struct PruneArgs {
    /// Also remove the cache of builds; images that have a name stay
    #[arg(short, long)]
    pub all: bool,
    /// Do not ask (accepted for scripts; Kiln never asks)
    #[arg(short, long)]
    pub force: bool,
    /// Remove these only: `until=`; images by `label=`, `label!=`; cache by `id=`, `type=`, `description=`, `inuse`, `shared`, `private`,
    /// `mutable`, `immutable`
    #[arg(long = "filter", value_name = "KEY=VALUE")]
    pub filters: Vec<String>,
    /// So much of the cache always stays
    #[arg(long, value_name = "SIZE", alias = "keep-storage")]
    pub reserved_space: Option<String>,
    /// So much of the cache may stay: what was not used for longest goes
    #[arg(long, value_name = "SIZE", alias = "max-storage")]
    pub max_used_space: Option<String>,
    /// So much of the disk is to be free
    #[arg(long, value_name = "SIZE", alias = "min-storage")]
    pub min_free_space: Option<String>,
    /// Show all there is to know of what goes
    #[arg(long)]
    pub verbose: bool,
    /// Show what would go
    #[arg(long)]
    pub dry_run: bool,
}

// `kiln du`.
#[derive(Args, Debug)]
pub struct DuArgs {
    /// Show these only: `id=`, `type=`, `description=`, `inuse`, `shared`, `private`, `mutable`, `immutable`, `until=`
    #[arg(long = "filter", value_name = "KEY=VALUE")]
    pub filters: Vec<String>,
    /// Show all there is to know of each piece; with `--summary` each image, layer and cache mount
    #[arg(short, long)]
    pub verbose: bool,
    /// Show sums by kind, images included
    #[arg(long, conflicts_with = "filters")]
    pub summary: bool,
    /// Do not shorten IDs
    #[arg(long)]
    pub no_trunc: bool,
    /// `table`, `table TEMPLATE`, `json` (one object a line), `pretty` (as `--verbose`), or a Go template
    #[arg(long, value_name = "FORMAT", conflicts_with = "verbose")]
    pub format: Option<String>,
}
