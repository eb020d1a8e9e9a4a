//! Arguments of `kiln pull`.

use super::RegistryArgs;
use clap::Args;

// `kiln pull`.
#[derive(Args, Debug)]
pub struct PullArgs {
    /// Images: `NAME[:TAG]`, `NAME@DIGEST`
    #[arg(required = true, value_name = "IMAGE")]
    pub images: Vec<String>,
    /// Platforms to pull, comma separated [default: the one of this machine]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", value_delimiter = ',')]
    pub platform: Vec<String>,
    /// Pull everything that an index has
    #[arg(long, conflicts_with = "platform")]
    pub all_platforms: bool,
    /// Pull all tags of the repository
    #[arg(short, long)]
    pub all_tags: bool,
    /// Unpack layers while they come, so that a build over them need not
    #[arg(long)]
    pub unpack: bool,
    /// Print the name only
    #[arg(short, long)]
    pub quiet: bool,
    /// Accepted for scripts: there is no content trust
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub disable_content_trust: Option<bool>,
    /// How registries are reached.
    #[command(flatten)]
    pub registry: RegistryArgs,
}
