//! `kiln manifest`: the flags of docker's and podman's commands of that name.

use super::RegistryArgs;
use clap::{Args, Subcommand, ValueEnum};
use std::path::PathBuf;

// `kiln manifest`.
#[derive(Args, Debug)]
pub struct ManifestArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: ManifestCommand,
}

// Subcommands of `kiln manifest`.
#[derive(Subcommand, Debug)]
#[command(defer = true)]
pub enum ManifestCommand {
    /// Create a manifest list of images in the store or in registries
    Create(ManifestCreateArgs),
    /// Add an image to a manifest list
    Add(ManifestAddArgs),
    /// Change what a manifest list says of an image
    Annotate(ManifestAnnotateArgs),
    /// Take an image out of a manifest list
    Remove(ManifestRemoveArgs),
    /// Remove manifest lists from the store
    Rm(ManifestRmArgs),
    /// Tell by the exit status whether a manifest list exists (1: it does not)
    Exists(ManifestExistsArgs),
    /// Show a manifest list of the store, or a manifest in a registry, as JSON
    Inspect(ManifestInspectArgs),
    /// Push a manifest list and its images
    Push(ManifestPushArgs),
}

// `kiln manifest create`.
#[derive(Args, Debug)]
pub struct ManifestCreateArgs {
    /// Name of the list
    #[arg(value_name = "LIST")]
    pub list: String,
    /// Images: names, or `docker://NAME`, `store:NAME`, `oci:DIR[:TAG]`, `oci-archive:FILE`
    #[arg(value_name = "IMAGE")]
    pub images: Vec<String>,
    /// Add to a list that exists
    #[arg(short, long)]
    pub amend: bool,
    /// Of images that are lists, add all of their images
    #[arg(long)]
    pub all: bool,
    /// Annotation of the list
    #[arg(long = "annotation", value_name = "KEY=VALUE")]
    pub annotations: Vec<String>,
    /// How registries are reached.
    #[command(flatten)]
    pub registry: RegistryArgs,
}

// What a list says of an image.
#[derive(Args, Debug, Default)]
pub struct EntryArgs {
    /// Operating system
    #[arg(long, value_name = "OS")]
    pub os: Option<String>,
    /// Architecture
    #[arg(long, value_name = "ARCH")]
    pub arch: Option<String>,
    /// Variant of the architecture
    #[arg(long, value_name = "VARIANT")]
    pub variant: Option<String>,
    /// Version of the operating system
    #[arg(long, value_name = "VERSION")]
    pub os_version: Option<String>,
    /// Features of the operating system
    #[arg(long, value_name = "FEATURE", value_delimiter = ',')]
    pub os_features: Vec<String>,
    /// Features of the processor
    #[arg(long, value_name = "FEATURE", value_delimiter = ',')]
    pub features: Vec<String>,
    /// Annotation
    #[arg(long = "annotation", value_name = "KEY=VALUE")]
    pub annotations: Vec<String>,
}

// `kiln manifest add`.
#[derive(Args, Debug)]
pub struct ManifestAddArgs {
    /// Name of the list
    #[arg(value_name = "LIST")]
    pub list: String,
    /// Images
    #[arg(value_name = "IMAGE", required = true)]
    pub images: Vec<String>,
    /// Of an image that is a list, add all of its images
    #[arg(long)]
    pub all: bool,
    /// What the list says of it.
    #[command(flatten)]
    pub entry: EntryArgs,
    /// How registries are reached.
    #[command(flatten)]
    pub registry: RegistryArgs,
}

// `kiln manifest annotate`.
#[derive(Args, Debug)]
pub struct ManifestAnnotateArgs {
    /// Name of the list
    #[arg(value_name = "LIST")]
    pub list: String,
    /// The image: as it was added, or its digest
    #[arg(value_name = "IMAGE", required_unless_present = "index")]
    pub image: Option<String>,
    /// Annotate the list itself
    #[arg(long)]
    pub index: bool,
    /// What the list says of it.
    #[command(flatten)]
    pub entry: EntryArgs,
}

// `kiln manifest remove`.
#[derive(Args, Debug)]
pub struct ManifestRemoveArgs {
    /// Name of the list
    #[arg(value_name = "LIST")]
    pub list: String,
    /// Digests of images
    #[arg(value_name = "DIGEST", required = true)]
    pub digests: Vec<String>,
}

// `kiln manifest rm`.
#[derive(Args, Debug)]
pub struct ManifestRmArgs {
    /// Names of lists
    #[arg(value_name = "LIST", required = true)]
    pub lists: Vec<String>,
}

// `kiln manifest exists`.
#[derive(Args, Debug)]
pub struct ManifestExistsArgs {
    /// Name of the list
    #[arg(value_name = "LIST")]
    pub list: String,
}

// `kiln manifest inspect`.
#[derive(Args, Debug)]
pub struct ManifestInspectArgs {
    /// A list, or a manifest in a registry; after the name of a list, an image in it
    #[arg(value_name = "[LIST] NAME", required = true, num_args = 1..=2)]
    pub names: Vec<String>,
    /// Also show the manifests of the list's images, and their platforms
    #[arg(short, long)]
    pub verbose: bool,
    /// How registries are reached.
    #[command(flatten)]
    pub registry: RegistryArgs,
}

// `kiln manifest push`.
#[derive(Args, Debug)]
pub struct ManifestPushArgs {
    /// Name of the list
    #[arg(value_name = "LIST")]
    pub list: String,
    /// Where it goes [default: its name]
    #[arg(value_name = "DESTINATION")]
    pub destination: Option<String>,
    /// Remove the list from the store after the push
    #[arg(short, long, visible_alias = "rm")]
    pub purge: bool,
    /// Push the images of the list too; with `false` they must be in the repository
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = true, default_missing_value = "true", hide_default_value = true, hide_possible_values = true, value_name = "BOOL", action = clap::ArgAction::Set)]
    pub all: bool,
    /// Kind of manifests to push [default: as they are]
    #[arg(short, long, value_enum)]
    pub format: Option<ManifestFormat>,
    /// Write the digest of what was pushed to a file
    #[arg(long, value_name = "FILE")]
    pub digestfile: Option<PathBuf>,
    /// Print the digest only
    #[arg(short, long)]
    pub quiet: bool,
    /// How registries are reached.
    #[command(flatten)]
    pub registry: RegistryArgs,
}

/// Kinds of manifests.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum ManifestFormat {
    /// OCI
    Oci,
    /// Docker schema 2
    #[value(alias = "docker")]
    V2s2,
}
