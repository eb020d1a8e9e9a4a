//! `kiln imagetools`, `search`, `catalog` and `tags`: what is done in registries alone.

use super::RegistryArgs;
use clap::{Args, Subcommand};
use std::path::PathBuf;

// `kiln imagetools`.
#[derive(Args, Debug)]
pub struct ImagetoolsArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: ImagetoolsCommand,
}

// Subcommands of `kiln imagetools`.
#[derive(Subcommand, Debug)]
#[command(defer = true)]
pub enum ImagetoolsCommand {
    /// Create an image in a registry of images that are in registries
    Create(ImagetoolsCreateArgs),
    /// Show details of an image in a registry
    Inspect(ImagetoolsInspectArgs),
}

// `kiln imagetools create`.
#[derive(Args, Debug)]
pub struct ImagetoolsCreateArgs {
    /// Images: names, digests in the repository of the tag, or descriptors in JSON
    #[arg(value_name = "SOURCE")]
    pub sources: Vec<String>,
    /// Name of the new image; may be given several times
    #[arg(short, long = "tag", value_name = "NAME")]
    pub tags: Vec<String>,
    /// Read a source from a file
    #[arg(short, long = "file", value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Append to the image that the tag names
    #[arg(long)]
    pub append: bool,
    /// Join with what other runners join under the same tag, in any order; an ID keeps runs apart
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "", value_name = "ID", conflicts_with_all = ["append", "dry_run"])]
    pub join: Option<String>,
    /// Show the image instead of pushing it
    #[arg(long)]
    pub dry_run: bool,
    /// Annotation of the image
    #[arg(long = "annotation", value_name = "[TYPE[PLATFORM],...:]KEY=VALUE")]
    pub annotations: Vec<String>,
    /// Platforms to keep, comma separated
    #[arg(short, long, value_name = "OS/ARCH[/VARIANT]", value_delimiter = ',')]
    pub platform: Vec<String>,
    /// Make an index of a single image too, instead of a copy [default: true]
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = true, default_missing_value = "true", hide_default_value = true, hide_possible_values = true, value_name = "BOOL", action = clap::ArgAction::Set)]
    pub prefer_index: bool,
    /// Write metadata of the image to a file
    #[arg(long, value_name = "FILE")]
    pub metadata_file: Option<PathBuf>,
    /// How progress is shown: `auto`, `none`, `plain`, `quiet`, `tty`
    #[arg(long, value_name = "MODE", default_value = "auto", hide_default_value = true, value_parser = ["auto", "none", "plain", "quiet", "rawjson", "tty"], hide_possible_values = true)]
    pub progress: String,
    /// Accepted for scripts: there is one builder
    #[arg(long, value_name = "NAME", hide = true)]
    pub builder: Option<String>,
    /// How registries are reached.
    #[command(flatten)]
    pub registry: RegistryArgs,
}

// `kiln imagetools inspect`.
#[derive(Args, Debug)]
pub struct ImagetoolsInspectArgs {
    /// Name of the image
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Show the manifest as it is in the registry
    #[arg(long, conflicts_with = "format")]
    pub raw: bool,
    /// Go template; fields are `.Name`, `.Manifest`, `.Image`
    #[arg(long, value_name = "TEMPLATE")]
    pub format: Option<String>,
    /// Accepted for scripts: there is one builder
    #[arg(long, value_name = "NAME", hide = true)]
    pub builder: Option<String>,
    /// How registries are reached.
    #[command(flatten)]
    pub registry: RegistryArgs,
}

// `kiln search`.
#[derive(Args, Debug)]
pub struct SearchArgs {
    /// What to look for; `HOST/TERM` looks in that registry
    #[arg(value_name = "TERM")]
    pub term: String,
    /// Most results
    #[arg(long, value_name = "N", default_value_t = 25, value_parser = clap::value_parser!(u16).range(1..=100))]
    pub limit: u16,
    /// `is-official=BOOL`, `stars=N`
    #[arg(
        short,
        long = "filter",
        value_name = "KEY=VALUE",
        value_delimiter = ','
    )]
    pub filters: Vec<String>,
    /// Do not shorten descriptions
    #[arg(long)]
    pub no_trunc: bool,
    /// `table`, `json` (one object a line), or a Go template
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// List the tags of the repository instead
    #[arg(long)]
    pub list_tags: bool,
    /// How registries are reached.
    #[command(flatten)]
    pub registry: RegistryArgs,
}

// `kiln catalog`.
#[derive(Args, Debug)]
pub struct CatalogArgs {
    /// The registry
    #[arg(value_name = "HOST[:PORT]")]
    pub host: String,
    /// How registries are reached.
    #[command(flatten)]
    pub registry: RegistryArgs,
}

// `kiln tags`.
#[derive(Args, Debug)]
pub struct TagsArgs {
    /// A repository
    #[arg(value_name = "NAME")]
    pub name: String,
    /// How registries are reached.
    #[command(flatten)]
    pub registry: RegistryArgs,
}
