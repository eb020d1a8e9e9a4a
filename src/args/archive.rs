//! Arguments of the commands that bring images into the store and out of it as files.

use clap::{Args, ValueEnum};
use std::path::PathBuf;

/// `kiln load`.
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

/// `kiln save`.
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
