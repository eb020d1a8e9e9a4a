//! Arguments of the commands on images of the store, and `kiln image`, which has them all by Docker's names.

use super::{
    ExportArgs, ImportArgs, LoadArgs, PruneArgs, PullArgs, PushArgs, RegistryArgs, SaveArgs,
};
use clap::{Args, Subcommand};

// `kiln image`.
#[derive(Args, Debug)]
pub struct ImageArgs {
    /// What to do
    #[command(subcommand)]
    pub command: ImageCommand,
}

// Subcommands of `kiln image`: the same as those of `kiln` that work on images.
#[derive(Subcommand, Debug)]
#[command(defer = true)]
pub enum ImageCommand {
    /// List images in the store
    #[command(visible_alias = "list")]
    Ls(ImagesArgs),
    /// Remove images from the store
    #[command(visible_alias = "remove")]
    Rm(RmiArgs),
    /// Give an image more names
    Tag(TagArgs),
    /// Load images from an OCI or docker archive
    Load(LoadArgs),
    /// Save images to an archive
    Save(SaveArgs),
    /// Make an image of a root file system in a tar
    Import(Box<ImportArgs>),
    /// Write an image's root file system as a tar
    Export(ExportArgs),
    /// Show which files differ between two images
    Diff(DiffArgs),
    /// Show what there is to know of images, as JSON or by a template
    Inspect(InspectArgs),
    /// Show the history of an image
    History(HistoryArgs),
    /// Pull images from a registry into the store
    Pull(Box<PullArgs>),
    /// Push an image to one or more registries
    Push(Box<PushArgs>),
    /// Remove untagged images, and cached layers and files that nothing needs
    Prune(PruneArgs),
}

// `kiln images`.
#[derive(Args, Debug)]
pub struct ImagesArgs {
    /// Show images of this name only; may be a pattern
    #[arg(value_name = "NAME[:TAG]")]
    pub name: Option<String>,
    /// Show all images (there are no others than those shown anyway)
    #[arg(short, long)]
    pub all: bool,
    /// Print IDs only
    #[arg(short, long)]
    pub quiet: bool,
    /// Show digests
    #[arg(long)]
    pub digests: bool,
    /// Do not shorten IDs
    #[arg(long)]
    pub no_trunc: bool,
    /// Show these only: `dangling=`, `reference=`, `label=`, `since=`, `before=`, `until=`
    #[arg(short, long = "filter", value_name = "KEY=VALUE")]
    pub filters: Vec<String>,
    /// `table`, `table TEMPLATE`, `json` (one object a line), or a Go template
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// Show the platforms of each image below it
    #[arg(long, conflicts_with_all = ["quiet", "format", "digests"])]
    pub tree: bool,
}

// `kiln rmi`.
#[derive(Args, Debug)]
pub struct RmiArgs {
    /// Names, digests or IDs
    #[arg(required = true, value_name = "IMAGE")]
    pub images: Vec<String>,
    /// Remove all names of an image given by its ID, and do not fail when one is not there
    #[arg(short, long)]
    pub force: bool,
    /// Keep the content until the next `kiln prune`
    #[arg(long)]
    pub no_prune: bool,
    /// Remove the image of these platforms only
    #[arg(
        long = "platform",
        value_name = "OS/ARCH[/VARIANT]",
        value_delimiter = ','
    )]
    pub platforms: Vec<String>,
}

// `kiln tag`.
#[derive(Args, Debug)]
pub struct TagArgs {
    /// Name, digest or ID
    #[arg(value_name = "SOURCE_IMAGE[:TAG]")]
    pub source: String,
    /// New names
    #[arg(required = true, value_name = "TARGET_IMAGE[:TAG]")]
    pub targets: Vec<String>,
}

// `kiln inspect`.
#[derive(Args, Debug)]
pub struct InspectArgs {
    /// Names, digests or IDs
    #[arg(required = true, value_name = "IMAGE")]
    pub images: Vec<String>,
    /// Platform of an image with several
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub platform: Option<String>,
    /// `json` or a Go template
    #[arg(short, long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// Kind of object; there are only images
    #[arg(long = "type", value_name = "TYPE", value_parser = ["image"], hide_possible_values = true)]
    pub kind: Option<String>,
    /// Also show sizes (they are always there)
    #[arg(short, long)]
    pub size: bool,
    /// Show the manifest and the config as they are stored
    #[arg(long)]
    pub raw: bool,
}

// `kiln history`.
#[derive(Args, Debug)]
pub struct HistoryArgs {
    /// Name, digest or ID
    #[arg(value_name = "IMAGE")]
    pub image: String,
    /// Do not shorten texts
    #[arg(long)]
    pub no_trunc: bool,
    /// Print IDs only
    #[arg(short, long)]
    pub quiet: bool,
    /// Sizes and times for people
    #[arg(short = 'H', long, num_args = 0..=1, require_equals = true, default_value_t = true, default_missing_value = "true", hide_default_value = true, hide_possible_values = true, value_name = "BOOL", action = clap::ArgAction::Set)]
    pub human: bool,
    /// `table`, `table TEMPLATE`, `json` (one object a line), or a Go template
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// Platform of an image with several
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub platform: Option<String>,
}

// `kiln diff`.
#[derive(Args, Debug)]
pub struct DiffArgs {
    /// Name, digest or ID
    #[arg(value_name = "IMAGE1")]
    pub old: String,
    /// What to compare it with
    #[arg(value_name = "IMAGE2")]
    pub new: String,
    /// Platform of images with several
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub platform: Option<String>,
    /// Compare the configs, not the files
    #[arg(long)]
    pub config: bool,
    /// Only the first difference: the layer, what made it, the file, and where its content parts
    #[arg(long, conflicts_with_all = ["config", "times"])]
    pub first: bool,
    /// Files of different times differ
    #[arg(long, conflicts_with = "config")]
    pub times: bool,
    /// `json` (one object a line), `table`, `table TEMPLATE`, or a Go template
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// How registries are reached, for layers that are not in the store.
    #[command(flatten)]
    pub registry: RegistryArgs,
}
