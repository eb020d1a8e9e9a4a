//! Flags for caches that travel; `build_spec::cache` reads what they say.

use clap::Args;

// Caches beside the store.
#[derive(Args, Debug, Default)]
pub struct CacheArgs {
    /// Cache to read: an image or cache in a registry, or `type=registry,ref=REF`, `type=local,src=DIR[,tag=TAG]`; may be given several times
    #[arg(long = "cache-from", value_name = "SPEC")]
    pub cache_from: Vec<String>,
    /// Cache to write: `type=registry,ref=REF`, `type=local,dest=DIR` or `type=inline`, with `mode=min|max`, `compression=`, `ignore-error=`...; may be given several times
    #[arg(long = "cache-to", value_name = "SPEC")]
    pub cache_to: Vec<String>,
    /// Cache mounts of RUN (`--mount=type=cache`) that travel with --cache-to and --cache-from: `all`, `none`, or ids
    #[arg(long = "cache-mounts", value_name = "all|none|ID[,ID...]")]
    pub cache_mounts: Vec<String>,
}
