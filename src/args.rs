//! What can be typed: the flags as clap sees them, spelled as `docker buildx build` spells them.
//!
//! Nothing is resolved here; [`crate::build_spec`] turns the raw flags into a request.
//!
//! Commands are deferred: clap learns the flags of the command that was typed, not of all. What such a command's struct
//! (or the enum of its own commands) says of itself would then replace what this enum says of the command, so those have
//! plain comments.

mod archive;
mod cache;
mod compat;
mod copy;
mod debug;
mod doctor;
mod explain;
mod image;
mod isolation;
mod limits;
mod login;
mod manifest;
mod network;
mod pull;
mod push;
mod registry;
mod registry_tools;
mod remote;
mod run;
mod run_step;
mod security;
mod space;
mod verify;

pub use archive::{ExportArgs, ImportArgs, LoadArgs, SaveArgs, SaveFormat};
pub use cache::CacheArgs;
pub use compat::CompatArgs;
pub use copy::CopyArgs;
pub use debug::{DebugArgs, OnFailureMode};
pub use doctor::{DoctorArgs, DoctorFormat};
pub use explain::{ContextArgs, ExplainArgs, PlanArgs};
pub use image::{
    DiffArgs, HistoryArgs, ImageArgs, ImageCommand, ImagesArgs, InspectArgs, RmiArgs, TagArgs,
};
pub use isolation::IsolationArgs;
pub use limits::LimitArgs;
pub use login::{LoginArgs, LogoutArgs};
pub use manifest::*;
pub use network::NetworkArgs;
pub use pull::PullArgs;
pub use push::{PushArgs, PushFormat};
pub use registry::RegistryArgs;
pub use registry_tools::*;
pub use remote::{ExecutorFallback, RemoteArgs};
pub use verify::VerifyArgs;

use clap::{Args, Parser, Subcommand, ValueEnum};
pub use run::RunArgs;
pub use run_step::RunStepArgs;
pub use security::SecurityArgs;
pub use space::{CacheMaxArgs, DuArgs, PruneArgs};
use std::path::PathBuf;

/// Builds OCI images from Dockerfiles: one static binary, no daemon, no root needed.
#[derive(Parser, Debug)]
#[command(
    args_override_self = true,
    name = "kiln",
    version,
    disable_version_flag = true,
    propagate_version = false
)]
pub struct Cli {
    /// Folder of the store [default: $KILN_ROOT, else the data folder of the user]
    #[arg(long, global = true, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// Write debug logs to stderr
    #[arg(short = 'D', long, global = true)]
    pub debug: bool,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// Subcommands.
#[derive(Subcommand, Debug)]
#[command(defer = true)]
pub enum Command {
    /// Build an image from a Dockerfile
    #[command(visible_alias = "b", args_override_self = true)]
    Build(Box<BuildArgs>),
    /// Show what a build would do: which steps are cached, which would run and why, what would be pulled and pushed
    #[command(args_override_self = true)]
    Plan(Box<PlanArgs>),
    /// Show why the steps of the last build were not cached
    Explain(ExplainArgs),
    /// Look at a failed step: a shell in its sandbox, with its files
    Debug(Box<DebugArgs>),
    /// Pull images from a registry into the store
    Pull(Box<PullArgs>),
    /// Push an image to one or more registries
    Push(Box<PushArgs>),
    /// List images in the store
    Images(ImagesArgs),
    /// Commands on images, as `docker image` has them
    Image(ImageArgs),
    /// Remove images from the store
    Rmi(RmiArgs),
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
    /// Copy an image between registries, with all of its platforms
    Copy(Box<CopyArgs>),
    /// Join images in registries, and look at them there
    Imagetools(Box<ImagetoolsArgs>),
    /// Search a registry for repositories
    Search(Box<SearchArgs>),
    /// List the repositories of a registry
    Catalog(Box<CatalogArgs>),
    /// List the tags of a repository
    #[command(visible_alias = "ls-tags")]
    Tags(Box<TagsArgs>),
    /// Work on manifest lists (images for several platforms under one name)
    Manifest(Box<ManifestArgs>),
    /// Log in to a registry
    Login(LoginArgs),
    /// Log out of a registry
    Logout(LogoutArgs),
    /// Remove untagged images, and cached layers and files that nothing needs
    Prune(PruneArgs),
    /// Show what takes room in the store
    Du(DuArgs),
    /// Show what RUN steps can use on this machine, and how to get what is missing
    Doctor(DoctorArgs),
    /// Run one step of a build that another machine sends
    #[command(hide = true)]
    RunStep(RunStepArgs),
    /// Show the version
    Version(VersionArgs),
}

// `kiln build`.
#[derive(Args, Debug)]
pub struct BuildArgs {
    /// Context: a folder, a tar file, a URL, a Git repository, or `-` for a tar or a Dockerfile on standard input
    #[arg(value_name = "PATH|URL|-")]
    pub context: String,
    /// Name of the image (`name:tag`); may be given several times
    #[arg(short, long = "tag", value_name = "NAME")]
    pub tags: Vec<String>,
    /// Dockerfile: a path, a URL, or `-` for standard input [default: Dockerfile in the context]
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Build argument; without a value it is taken from the environment
    #[arg(long = "build-arg", value_name = "NAME[=VALUE]")]
    pub build_args: Vec<String>,
    /// File of build arguments, one `NAME=VALUE` a line; `--build-arg` wins over it
    #[arg(long = "build-arg-file", value_name = "FILE")]
    pub build_arg_files: Vec<PathBuf>,
    /// Additional build context: a folder, `docker-image://REF`, `oci-layout://DIR[:TAG][@DIGEST]`, a URL, a Git repository, `target:STAGE`
    #[arg(long = "build-context", value_name = "NAME=SOURCE")]
    pub build_contexts: Vec<String>,
    /// Stage to build [default: the last one]
    #[arg(long, value_name = "STAGE")]
    pub target: Option<String>,
    /// Label of the image
    #[arg(long = "label", value_name = "KEY=VALUE")]
    pub labels: Vec<String>,
    /// Annotation of the image's manifest; `index:`, `manifest-descriptor:` ... before it say where else it goes
    #[arg(long = "annotation", value_name = "[TYPE[PLATFORM],...:]KEY=VALUE")]
    pub annotations: Vec<String>,
    /// Make one layer of all layers that the build adds to its base
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", hide_default_value = true, hide_possible_values = true, value_name = "BOOL", action = clap::ArgAction::Set)]
    pub squash: bool,
    /// Answer a question about the Dockerfile: `build`, `check`, `outline` or `targets`, with `,format=json` as JSON
    #[arg(long, value_name = "METHOD")]
    pub call: Option<String>,
    /// Run the build checks and nothing else; status 1 if they find something
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", hide_default_value = true, hide_possible_values = true, value_name = "BOOL", action = clap::ArgAction::Set)]
    pub check: bool,
    /// Platforms to build for, comma separated
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", value_delimiter = ',')]
    pub platform: Vec<String>,
    /// Do not use the cache
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", hide_default_value = true, hide_possible_values = true, value_name = "BOOL", action = clap::ArgAction::Set)]
    pub no_cache: bool,
    /// Do not use the cache for these stages
    #[arg(long, value_name = "STAGE", value_delimiter = ',')]
    pub no_cache_filter: Vec<String>,
    /// Ask the registry for newer base images
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", hide_default_value = true, hide_possible_values = true, value_name = "BOOL", action = clap::ArgAction::Set)]
    pub pull: bool,
    /// Secret for RUN steps: `id=ID[,src=PATH|,env=NAME]`
    #[arg(long = "secret", value_name = "SPEC")]
    pub secrets: Vec<String>,
    /// Where the result goes: `type=local|tar|oci|docker|image|cacheonly[,dest=PATH][,name=NAME]...`, a folder, or `-`
    #[arg(short, long = "output", value_name = "SPEC")]
    pub outputs: Vec<String>,
    /// Write the image ID to a file
    #[arg(long, value_name = "FILE")]
    pub iidfile: Option<PathBuf>,
    /// Write build result metadata to a file
    #[arg(long, value_name = "FILE")]
    pub metadata_file: Option<PathBuf>,
    /// How progress is shown [default: $BUILDKIT_PROGRESS, else auto]
    #[arg(long, value_enum)]
    pub progress: Option<ProgressMode>,
    /// Print the image ID only
    #[arg(short, long)]
    pub quiet: bool,
    /// Line for /etc/hosts of RUN steps; `host-gateway` is this machine
    #[arg(long = "add-host", value_name = "HOST:IP")]
    pub add_hosts: Vec<String>,
    /// Size of /dev/shm in RUN steps (bytes; suffixes k, m, g)
    #[arg(long, value_name = "SIZE")]
    pub shm_size: Option<String>,
    /// What RUN steps may have and use.
    #[command(flatten)]
    pub run: RunArgs,
    /// Steps that may run at once
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..))]
    pub jobs: u16,
    /// Caches beside the store.
    #[command(flatten)]
    pub cache: CacheArgs,
    /// Other machines.
    #[command(flatten)]
    pub remote: RemoteArgs,
    /// Whether steps are carried out again.
    #[command(flatten)]
    pub verify: VerifyArgs,
    /// How large the cache may grow.
    #[command(flatten)]
    pub space: CacheMaxArgs,
    /// How contexts are taken.
    #[command(flatten)]
    pub contexts: ContextArgs,
    /// How registries are reached.
    #[command(flatten)]
    pub registry: RegistryArgs,
    /// Flags of other builders
    #[command(flatten)]
    pub compat: CompatArgs,
}

/// Progress displays.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum ProgressMode {
    /// A terminal display on a terminal, plain lines elsewhere
    Auto,
    /// Lines, for logs
    Plain,
    /// A live display
    Tty,
    /// Nothing but the result
    Quiet,
    /// Nothing at all
    None,
    /// JSON lines as BuildKit's client prints them
    Rawjson,
}

// `kiln version`.
#[derive(Args, Debug)]
pub struct VersionArgs {
    /// Print the number only
    #[arg(short, long)]
    pub short: bool,
}

#[cfg(test)]
mod tests {
    use super::Cli;
    use clap::{Command, CommandFactory as _};

    /// What commands say of themselves, by the words that are typed.
    fn abouts(command: &Command, typed: &str, all: &mut Vec<(String, String)>) {
        for sub in command.get_subcommands() {
            let typed = format!("{typed} {}", sub.get_name());
            let about = sub.get_about().map(ToString::to_string);
            all.push((typed.clone(), about.unwrap_or_default()));
            abouts(sub, &typed, all);
        }
    }

    #[test]
    fn a_command_says_of_itself_what_the_list_of_commands_says() {
        let mut command = Cli::command();
        let mut before = Vec::new();
        abouts(&command, "kiln", &mut before);
        command.build();
        let mut after = Vec::new();
        abouts(&command, "kiln", &mut after);
        assert!(before.len() > 20);
        for (typed, about) in before {
            assert!(!about.is_empty(), "{typed}");
            assert!(after.contains(&(typed.clone(), about)), "{typed}");
        }
        assert!(!after.iter().any(|(_, about)| about.starts_with('`')));
    }
}
