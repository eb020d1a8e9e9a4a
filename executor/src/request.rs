//! What a build is asked to do: everything resolved, no raw flag left.

mod annotation;
mod cache;
mod load;
mod remote;
mod run;

pub use annotation::{Annotation, AnnotationPlace, select};
pub use cache::{CacheExport, CacheImport, CacheMode, CacheMounts, CacheTarget};
pub use load::{DockerEndpoint, DockerTls, LoadTarget, Receiver};
pub use remote::{
    EndpointSettings, ExecutorSettings, Fallback, Preset, RemoteAllow, RemoteSettings,
    SharedCachePlace, SharedCacheSettings,
};
pub use run::{NetworkSettings, OnFailure, OutputLimits, RunSettings};

use crate::build::CacheMax;
use crate::context::Unpacked;
use planner::lower::Allowed;
use planner::plan::{Network, Ulimit, Volume};
use planner::platform::Platform;
use registry_client::ClientOptions;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// A build.
#[derive(Clone, Debug, Default)]
pub struct BuildRequest {
    /// The Dockerfile's text.
    pub dockerfile: String,
    /// Where the text is to be taken from first; [`crate::build::prepare`] does it.
    pub dockerfile_source: DockerfileSource,
    /// Its name for messages.
    pub dockerfile_name: String,
    /// The main context.
    pub context: ContextSource,
    /// `--context-mode`.
    pub context_mode: ContextMode,
    /// What was typed, for explanations.
    pub place: RequestPlace,
    /// `.dockerignore` text and the path it came from.
    pub ignore: Option<(String, PathBuf)>,
    /// `--build-context`.
    pub named_contexts: BTreeMap<String, ContextSource>,
    /// `-t`, as typed (normalised by the executor).
    pub tags: Vec<String>,
    /// `--build-arg` with values.
    pub build_args: BTreeMap<String, String>,
    /// `--label`.
    pub labels: Vec<(String, String)>,
    /// `--annotation`, for every image output.
    pub annotations: Vec<Annotation>,
    /// `--squash`: one layer in place of all that the build adds to its base.
    pub squash: bool,
    /// `--target`.
    pub target: Option<String>,
    /// `--platform`; empty: the machine's.
    pub platforms: Vec<Platform>,
    /// `--no-cache`.
    pub no_cache: bool,
    /// `--no-cache-filter`.
    pub no_cache_stages: Vec<String>,
    /// `--pull`.
    pub pull: bool,
    /// `--network`.
    pub network: Network,
    /// `--add-host`.
    pub extra_hosts: Vec<(String, String)>,
    /// `--shm-size`, bytes.
    pub shm_size: Option<u64>,
    /// `--allow`, but for devices.
    pub allowed: Allowed,
    /// `--allow device`.
    pub devices: DeviceGrants,
    /// Folders with CDI specifications; of two that describe a device, the later counts.
    pub cdi_spec_dirs: Vec<PathBuf>,
    /// `--ulimit`.
    pub ulimits: Vec<Ulimit>,
    /// `--volume`.
    pub volumes: Vec<Volume>,
    /// What commands may do and use.
    pub run: RunSettings,
    /// `--ssh`, by id.
    pub ssh: BTreeMap<String, SshSource>,
    /// `--secret`, by id.
    pub secrets: BTreeMap<String, SecretSource>,
    /// Outputs; empty: the store.
    pub outputs: Vec<OutputRequest>,
    /// `--verify`: cached steps are carried out again.
    pub verify: bool,
    /// `--cache-from`.
    pub cache_from: Vec<CacheImport>,
    /// `--cache-to`.
    pub cache_to: Vec<CacheExport>,
    /// `--cache-mounts`.
    pub cache_mounts: CacheMounts,
    /// `--executor`, `--remote-cache`.
    pub remote: RemoteSettings,
    /// SOURCE_DATE_EPOCH, seconds.
    pub source_date_epoch: Option<i64>,
    /// Time of the build for `created`, seconds since the epoch (the clock enters here).
    pub now: i64,
    /// Steps at once.
    pub jobs: usize,
    /// How large the cache may grow.
    pub cache_max: CacheMax,
    /// How registries are reached.
    pub registry: ClientOptions,
    /// `PATH`, where helper programs such as `git` and `ssh` are looked for; empty: the usual folders.
    pub search_path: String,
    /// Proxy variables of the client's environment (`HTTP_PROXY` ...), for git.
    pub proxies: BTreeMap<String, String>,
}

impl BuildRequest {
    /// The build arg `BUILDKIT_MULTI_PLATFORM`; `None` when it is not given.
    ///
    /// # Errors
    /// A value that is no truth value.
    pub fn multi_platform(&self) -> Result<Option<bool>, crate::Error> {
        let value = self.build_args.get("BUILDKIT_MULTI_PLATFORM");
        match value.map(String::as_str) {
            None | Some("") => Ok(None),
            Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(Some(true)),
            Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(Some(false)),
            Some(value) => Err(crate::Error::Request(format!(
                "invalid boolean value for multi-platform: {value}"
            ))),
        }
    }

    /// An image of one platform gets an index too.
    pub(crate) fn wants_index(&self) -> bool {
        matches!(self.multi_platform(), Ok(Some(true)))
    }
}

/// Where a context comes from.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum ContextSource {
    /// A local folder.
    Directory(PathBuf),
    /// No files (Dockerfile on stdin with no context).
    #[default]
    Empty,
    /// `oci-layout://DIR[:tag][@digest]`.
    OciLayout {
        /// Folder.
        dir: PathBuf,
        /// Tag or `latest`.
        tag: Option<String>,
        /// Digest.
        digest: Option<String>,
    },
    /// `docker-image://REF`.
    Image(String),
    /// `target:NAME`: a stage of the same Dockerfile.
    Target(String),
    /// A tar file, plain or compressed. Owners and modes are the archive's, and no ignore file applies.
    Archive(PathBuf),
    /// The same on the stream that [`crate::build::prepare`] is given.
    Stream,
    /// `http://` or `https://`: as the main context a Dockerfile or an archive, as a named one a single file.
    Http(String),
    /// A Git repository, in any form that Docker takes.
    Git(String),
    /// One of the kinds above, fetched and unpacked.
    Unpacked(Unpacked),
}

impl ContextSource {
    /// Whether something must be fetched or unpacked before its files can be read.
    #[must_use]
    pub fn is_pending(&self) -> bool {
        matches!(
            self,
            Self::Archive(_) | Self::Stream | Self::Http(_) | Self::Git(_)
        )
    }
}

/// How the modes and times of files in folders are taken, for keys and for layers. Archives say their own.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ContextMode {
    /// As they are on the disk.
    #[default]
    Exact,
    /// As Git keeps them, whatever the umask of a checkout: 644 or 755 for files, by the owner's execute bit, and 755
    /// for folders. Times, of which Git keeps none, are all the same; hard links are files of their
    /// own, and there are no extended attributes.
    Git,
}

/// When files are from whose times do not count: 1980, the first year that zip archives can hold.
const NO_TIME: i64 = 315_532_800;

impl ContextMode {
    /// Permission bits for a `st_mode`.
    pub(crate) fn mode(self, mode: u32) -> u32 {
        let mode = match self {
            Self::Exact => mode,
            Self::Git => planner::explain::git_mode(mode),
        };
        mode & 0o7777
    }

    /// A time of modification, in seconds since 1970.
    pub(crate) fn time(self, time: i64) -> i64 {
        match self {
            Self::Exact => time,
            Self::Git => NO_TIME,
        }
    }

    /// Whether two names of one file stay one file, and files keep their extended attributes.
    pub(crate) fn keeps_all(self) -> bool {
        match self {
            Self::Exact => true,
            Self::Git => false,
        }
    }
}

/// What people call the things that a build is made of. In no key.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RequestPlace {
    /// The main context, without credentials.
    pub context: String,
    /// `--file`; empty when it was not given.
    pub dockerfile: String,
}

/// Where a Dockerfile's text comes from.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum DockerfileSource {
    /// The request has it.
    #[default]
    Given,
    /// A file of the main context; the usual names when `None`.
    InContext(Option<PathBuf>),
    /// A URL.
    Url(String),
}

/// A secret's value source.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SecretSource {
    /// A file, read when needed.
    File(PathBuf),
    /// A value (taken from the environment by the command line).
    Value(Vec<u8>),
}

/// Devices that commands may have.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DeviceGrants {
    /// All of them.
    pub all: bool,
    /// By the name that a Dockerfile uses: the device that it stands for, mostly itself.
    pub names: BTreeMap<String, String>,
}

/// What stands behind an SSH agent socket in a command.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SshSource {
    /// An agent's socket.
    Socket {
        /// Where.
        path: PathBuf,
        /// Any protocol: bytes go through as they are. Otherwise an agent, which is asked for signatures only.
        raw: bool,
    },
    /// Private keys without passphrases, served by an agent of the build's own.
    Keys(Vec<PathBuf>),
}

/// One `--output`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OutputRequest {
    /// What.
    pub kind: OutputKind,
    /// `dest`; `None` for the store.
    pub dest: Option<OutputDest>,
    /// `name` values; the tags when empty.
    pub names: Vec<String>,
    /// `compression=uncompressed|gzip|estargz|zstd`; gzip for archives when `None`.
    pub compression: Option<String>,
    /// `compression-level`.
    pub compression_level: Option<i32>,
    /// `force-compression`.
    pub force_compression: bool,
    /// `rewrite-timestamp`; with SOURCE_DATE_EPOCH the default is true.
    pub rewrite_timestamp: Option<bool>,
    /// `oci-mediatypes`: false only for `docker` outputs that ask so.
    pub oci_mediatypes: bool,
    /// `tar=false`: a folder layout.
    pub tar: bool,
    /// Who gets the image besides the store (`--load`, `type=docker` without `dest`).
    pub load: Option<LoadTarget>,
    /// Of image outputs: registries, names.
    pub image: ImageOptions,
    /// `platform-split`: a folder for every platform's files; when `None`, for several platforms.
    pub platform_split: Option<bool>,
    /// `mode=delete`: the destination holds what was built, and nothing else.
    pub delete: Option<DeleteScope>,
    /// `annotation*.KEY=VALUE`.
    pub annotations: Vec<Annotation>,
    /// `source-date-epoch`: `Some(None)` (an empty value) is none, whatever the build says.
    pub epoch: Option<Option<i64>>,
}

impl Default for OutputRequest {
    /// The store, with nothing else asked for.
    fn default() -> Self {
        Self {
            kind: OutputKind::Image,
            dest: None,
            names: Vec::new(),
            compression: None,
            compression_level: None,
            force_compression: false,
            rewrite_timestamp: None,
            oci_mediatypes: true,
            tar: true,
            load: None,
            image: ImageOptions::default(),
            platform_split: None,
            delete: None,
            annotations: Vec::new(),
            epoch: None,
        }
    }
}

/// What an image output does with the image.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ImageOptions {
    /// `push`: to the registries of its names.
    pub push: bool,
    /// `push-by-digest`: without tags.
    pub push_by_digest: bool,
    /// `registry.insecure`: in plain HTTP, or without verification.
    pub insecure: bool,
    /// `dangling-name-prefix`: what an image without names is called before `@DIGEST`.
    pub dangling_prefix: Option<String>,
    /// `unpack`: layers are unpacked in the store.
    pub unpack: bool,
    /// `store`: kept in the store; what is pushed is kept only when it says so.
    pub store: Option<bool>,
}

impl ImageOptions {
    /// Whether the image is kept in the store.
    #[must_use]
    pub fn is_stored(&self) -> bool {
        self.store.unwrap_or(!self.push)
    }
}

/// Where `mode=delete` may remove files.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DeleteScope {
    /// Below this folder, whose path has no links.
    Below(PathBuf),
    /// Anywhere but in the root folder (`--allow=buildx.local.delete`).
    Anywhere,
}

/// Output types.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OutputKind {
    /// Files of the root file system into a folder.
    Local,
    /// The same as one tar.
    Tar,
    /// OCI image layout, archive or folder.
    Oci,
    /// `docker load` archive.
    Docker,
    /// The store.
    Image,
    /// Nothing (`type=cacheonly`).
    CacheOnly,
}

/// Checks that an image can have this name; gives it normalised.
///
/// # Errors
/// Characters that no name has, a digest.
pub fn image_name(name: &str) -> Result<String, crate::Error> {
    crate::build::exporter::normalised(name)
}

/// Checks an image reference; gives it normalised.
///
/// # Errors
/// Characters that no reference has, a bad tag or digest.
pub fn reference(text: &str) -> Result<String, crate::Error> {
    let parsed = registry_client::Reference::parse(text);
    let named = parsed.map_err(|source| crate::Error::Reference { source })?;
    Ok(named.to_string())
}

/// Where an output goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum OutputDest {
    /// A path.
    Path(PathBuf),
    /// Standard output, handed in as a file by the command line.
    Stdout,
}
