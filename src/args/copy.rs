//! `kiln copy`.

use super::RegistryArgs;
use clap::Args;
use std::path::PathBuf;

// `kiln copy`.
#[derive(Args, Debug)]
pub struct CopyArgs {
    /// The image: a name in a registry (also with `docker://`), `store:NAME`, `oci:DIR[:TAG]`, `oci-archive:FILE[:NAME]`,
    /// `docker-archive:FILE[:NAME]`
    #[arg(value_name = "SOURCE")]
    pub source: String,
    /// Where it is copied to, written like the source
    #[arg(value_name = "DESTINATION", required = true)]
    pub destinations: Vec<String>,
    /// Copy only these platforms, comma separated; one gives its image, several an index over them [default: all]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", value_delimiter = ',')]
    pub platform: Vec<String>,
    /// Copy all platforms (the default)
    #[arg(
        short,
        long = "all-platforms",
        visible_alias = "all",
        conflicts_with = "platform"
    )]
    pub all_platforms: bool,
    /// Also copy what refers to the image: signatures, SBOMs
    #[arg(long)]
    pub referrers: bool,
    /// Keep digests (always so; accepted for scripts)
    #[arg(long)]
    pub preserve_digests: bool,
    /// Write the digest to a file
    #[arg(long, value_name = "FILE")]
    pub digestfile: Option<PathBuf>,
    /// Print the copies only, not how they are made
    #[arg(short, long)]
    pub quiet: bool,
    /// How registries are reached.
    #[command(flatten)]
    pub registry: RegistryArgs,
}
