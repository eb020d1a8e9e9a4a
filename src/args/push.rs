//! Arguments of `kiln push`, in the spellings of docker and podman.

use super::RegistryArgs;
use clap::{Args, ValueEnum};
use std::path::PathBuf;

// `kiln push`.
#[derive(Args, Debug)]
pub struct PushArgs {
    /// Image of the store: name, digest or ID
    #[arg(value_name = "IMAGE")]
    pub image: String,
    /// Where it goes, if not where its name says: `[docker://]REGISTRY/NAME[:TAG]`; may be several
    #[arg(value_name = "DESTINATION")]
    pub destinations: Vec<String>,
    /// Push all tags that the store has of the repository
    #[arg(short, long, conflicts_with = "destinations")]
    pub all_tags: bool,
    /// Push the image for one platform only
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub platform: Option<String>,
    /// Print the name only
    #[arg(short, long)]
    pub quiet: bool,
    /// Compression of layers that the store has uncompressed: gzip, zstd, estargz or uncompressed [default: gzip]
    #[arg(
        long = "compression-format",
        visible_alias = "compression",
        value_name = "FORMAT"
    )]
    pub compression: Option<String>,
    /// Level of compression: 0 to 9 for gzip and estargz, 1 to 22 for zstd
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub compression_level: Option<i32>,
    /// Compress anew what is compressed in another way
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", hide_default_value = true, hide_possible_values = true, value_name = "BOOL", action = clap::ArgAction::Set)]
    pub force_compression: bool,
    /// Write the digest of what was pushed to a file
    #[arg(long = "digestfile", value_name = "FILE")]
    pub digest_file: Option<PathBuf>,
    /// Media types of manifest, config and layers [default: those that the image has]
    #[arg(short, long, value_enum)]
    pub format: Option<PushFormat>,
    /// Accepted for scripts: signatures are not pushed
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub remove_signatures: Option<bool>,
    /// Accepted for scripts: there is no content trust
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub disable_content_trust: Option<bool>,
    /// How registries are reached.
    #[command(flatten)]
    pub registry: RegistryArgs,
}

/// Media types.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum PushFormat {
    /// OCI image
    Oci,
    /// Docker image manifest, version 2, schema 2
    #[value(alias = "v2s2")]
    Docker,
}
