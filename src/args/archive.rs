//! Arguments of the commands that bring images into the store and out of it as files.

use super::RegistryArgs;
use clap::{Args, ValueEnum};
use std::path::PathBuf;

// `kiln load`.
#[derive(Args, Debug)]
pub struct LoadArgs {
    /// Archive, or folder with an OCI layout [default: standard input]
    #[arg(short, long, value_name = "FILE")]
    pub input: Option<PathBuf>,
    /// Print no names
    #[arg(short, long)]
    pub quiet: bool,
    /// Load the image of this platform only
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub platform: Option<String>,
}

// `kiln save`.
#[derive(Args, Debug)]
pub struct SaveArgs {
    /// Names, digests or IDs
    #[arg(required = true, value_name = "IMAGE")]
    pub images: Vec<String>,
    /// File, or folder with `oci-dir` [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Archive format
    #[arg(long, value_enum, default_value_t = SaveFormat::Docker)]
    pub format: SaveFormat,
    /// Save the images of these platforms only
    #[arg(
        long = "platform",
        value_name = "OS/ARCH[/VARIANT]",
        value_delimiter = ','
    )]
    pub platforms: Vec<String>,
    /// Compression of layers: `gzip`, `zstd` or `uncompressed`, with `:LEVEL` for a level. Without it, layers that are
    /// compressed stay as they are, and the others become gzip
    #[arg(long, value_name = "COMPRESSION")]
    pub compression: Option<String>,
    /// How registries are reached, for layers that are not in the store.
    #[command(flatten)]
    pub registry: RegistryArgs,
}

/// Archive formats.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum SaveFormat {
    /// What `docker load` reads (an OCI layout too)
    #[value(alias = "docker-archive")]
    Docker,
    /// OCI image layout
    #[value(alias = "oci-archive")]
    Oci,
    /// OCI image layout in a folder
    OciDir,
}

// `kiln import`.
#[derive(Args, Debug)]
pub struct ImportArgs {
    /// A tar, plain or compressed; `-` for standard input
    #[arg(value_name = "FILE|URL|-")]
    pub source: String,
    /// Name of the image
    #[arg(value_name = "REPOSITORY[:TAG]")]
    pub name: Option<String>,
    /// Dockerfile instruction that sets the config; may be given several times
    #[arg(short, long = "change", value_name = "INSTRUCTION")]
    pub changes: Vec<String>,
    /// Comment of the image
    #[arg(short, long, value_name = "TEXT")]
    pub message: Option<String>,
    /// What the files are for [default: the machine's platform]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub platform: Option<String>,
    #[command(flatten)]
    pub registry: RegistryArgs,
}

// `kiln export`.
#[derive(Args, Debug)]
pub struct ExportArgs {
    /// Name, digest or ID
    #[arg(value_name = "IMAGE")]
    pub image: String,
    /// File [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Platform of an image with several
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub platform: Option<String>,
    /// How registries are reached, for layers that are not in the store.
    #[command(flatten)]
    pub registry: RegistryArgs,
}
