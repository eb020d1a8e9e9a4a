//! The crate's error.

use std::path::PathBuf;

/// Why a build or an image operation failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An I/O operation failed.
    #[error("could not {op} {}", path.display())]
    Io {
        /// What was attempted.
        op: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The store.
    #[error("store")]
    Store(#[from] store::Error),
    /// An image could not be given to a daemon or program beside the store.
    #[error("could not load the image into {receiver}")]
    Load {
        /// Who was to take it.
        receiver: String,
        /// Why not; the receiver's own words where it has some.
        #[source]
        source: std::io::Error,
    },
    /// A file could not be downloaded.
    #[error("could not download {url}")]
    Download {
        /// The URL, without credentials.
        url: String,
        /// Why.
        #[source]
        source: registry_client::Error,
    },
    /// A remote source that cannot be had; BuildKit's wording where it has one.
    #[error("{message}")]
    Source {
        /// What is wrong, without credentials.
        message: String,
        /// What to do about it.
        help: Option<String>,
    },
    /// The registry.
    #[error("could not pull {reference}")]
    Registry {
        /// Reference.
        reference: String,
        /// Why.
        #[source]
        source: registry_client::Error,
    },
    /// A login.
    #[error("could not log in to {registry}")]
    Login {
        /// The registry.
        registry: String,
        /// Why.
        #[source]
        source: registry_client::Error,
    },
    /// A list of a registry.
    #[error("could not list {what}")]
    List {
        /// Of what.
        what: String,
        /// Why.
        #[source]
        source: registry_client::Error,
    },
    /// The store knows an image and lacks a layer of it.
    #[error("layer {layer} of {image} was never pulled, and no registry is known to have it")]
    NeverPulled {
        /// The image, as people write it.
        image: String,
        /// Digest.
        layer: String,
    },
    /// A registry did not take an image; BuildKit's wording.
    #[error("failed to push {reference}")]
    Push {
        /// Reference.
        reference: String,
        /// Why.
        #[source]
        source: registry_client::Error,
    },
    /// A cache could not be written.
    #[error("failed to export the cache to {place}")]
    CacheExport {
        /// Where to.
        place: String,
        /// Why.
        #[source]
        source: Box<Error>,
    },
    /// A cache of steps at a server of the Remote Execution API.
    #[error("could not use {name}")]
    StepCache {
        /// Its address, without credentials.
        name: String,
        /// Why.
        #[source]
        source: Box<reapi::Error>,
    },
    /// A shared cache that the build is not to do without.
    #[error("remote cache {name} cannot be asked")]
    SharedCache {
        /// Its address, without credentials.
        name: String,
        /// Why.
        #[source]
        source: Box<Error>,
    },
    /// A layer that a cache of `--cache-from` has, as it says. The build makes the layer then.
    #[error("layer {layer} could not be had from a cache")]
    CacheLayer {
        /// diff_id.
        layer: String,
        /// Why.
        #[source]
        source: Box<Error>,
    },
    /// A name that no image can have.
    #[error("invalid tag {name:?}")]
    Name {
        /// As given.
        name: String,
        /// Why.
        #[source]
        source: registry_client::Error,
    },
    /// A name that no image reference can have.
    #[error("invalid reference format")]
    Reference {
        /// Why.
        #[source]
        source: registry_client::Error,
    },
    /// The sandbox.
    #[error("sandbox")]
    Sandbox(#[from] sandbox::Error),
    /// A layer that cannot be trusted or understood.
    #[error("layer {layer}: {reason}")]
    Layer {
        /// diff_id or digest.
        layer: String,
        /// What is wrong, with the entry's path.
        reason: String,
    },
    /// A COPY/ADD that cannot be carried out; BuildKit's wording where it has one.
    #[error("{message}")]
    Copy {
        /// What is wrong.
        message: String,
        /// What to do about it.
        help: Option<String>,
    },
    /// A `.dockerignore` file with a mistake.
    #[error("line {line}: {message}")]
    Ignore {
        /// One-based line.
        line: u32,
        /// What is wrong.
        message: String,
    },
    /// A command ended badly: `process "/bin/sh -c false" did not complete successfully: exit code: 1`.
    #[error("process {command:?} did not complete successfully: {}{}", exit_text(*exit), verdict.as_deref().map(|text| format!(": {text}")).unwrap_or_default())]
    Command {
        /// As displayed.
        command: String,
        /// How.
        exit: sandbox::Exit,
        /// The limit that it hit, where one is known.
        verdict: Option<String>,
        /// What there is to look at.
        left: Box<LeftBehind>,
    },
    /// A command for a platform that nothing here can run.
    #[error(
        "exec format error: this machine is {host} and cannot run programs for {platform}: {missing}"
    )]
    Foreign {
        /// The machine.
        host: String,
        /// The command's platform.
        platform: String,
        /// What is missing, and how to get it.
        missing: String,
    },
    /// A cluster, or a cache that is shared.
    #[error("remote execution")]
    Cluster(#[source] Box<reapi::Error>),
    /// A cluster that does not take a step that could run there.
    #[error("{cluster} cannot take the step: {reason}")]
    Untaken {
        /// Its address.
        cluster: String,
        /// Why.
        reason: String,
    },
    /// A cluster whose answer is not what was asked for.
    #[error("the answer of {cluster} is not used: {reason}")]
    Answer {
        /// Its address.
        cluster: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A command took longer than `--timeout` allows, and was stopped.
    #[error("process {command:?} was stopped: it took longer than --timeout {limit:?} allows")]
    Timeout {
        /// As displayed.
        command: String,
        /// The limit.
        limit: std::time::Duration,
        /// What there is to look at.
        left: Box<LeftBehind>,
    },
    /// An image or archive that cannot be used.
    #[error("{subject}: {reason}")]
    Image {
        /// Name, path or digest.
        subject: String,
        /// What is wrong.
        reason: String,
    },
    /// An image that is not in the store; Docker's wording.
    #[error("No such image: {0}")]
    NoSuchImage(String),
    /// The beginning of several images' IDs; Docker's wording.
    #[error("multiple IDs found with provided prefix: {0}")]
    AmbiguousId(String),
    /// A base that could not be resolved; BuildKit's wording.
    #[error("failed to resolve source metadata for {name}")]
    Base {
        /// As the Dockerfile names it, normalised where it can be.
        name: String,
        /// A stage or a common image of nearly the same name.
        suggestion: Option<String>,
        /// Why.
        #[source]
        source: Box<Error>,
    },
    /// A base whose name no image can have; BuildKit's wording.
    #[error("failed to parse stage name {name:?}: invalid reference format: {reason}")]
    StageName {
        /// As the Dockerfile names it.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An image that neither the store has for the platform nor the registry gives.
    #[error("{reason}, and it could not be pulled")]
    Unavailable {
        /// What the store has.
        reason: String,
        /// Why the registry did not give it.
        #[source]
        source: Box<Error>,
    },
    /// A secret that a RUN requires and the request does not have.
    #[error("secret {id}: not found")]
    Secret {
        /// Id.
        id: String,
    },
    /// A device that a command cannot have; BuildKit's wording where it has one.
    #[error("{message}")]
    Device {
        /// What is wrong.
        message: String,
        /// What to do about it.
        help: Option<String>,
    },
    /// An SSH agent that a RUN requires and the request does not have; BuildKit's wording.
    #[error("{}", if *any { format!("unset ssh forward key {id}") } else { format!("no SSH key {id:?} forwarded from the client") })]
    Ssh {
        /// Id.
        id: String,
        /// Whether the request has another one.
        any: bool,
    },
    /// A private key that cannot be used.
    #[error("failed to parse {}: {reason}", path.display())]
    Key {
        /// Its file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A bad request (option combinations, names).
    #[error("{0}")]
    Request(String),
    /// The Dockerfile cannot be read; BuildKit's wording.
    #[error("failed to read dockerfile: open {}: {reason}", path.display())]
    ReadDockerfile {
        /// Where it was looked for.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The Dockerfile has errors (already positioned).
    #[error("{}", first_of(.0))]
    Dockerfile(Vec<parser::Diagnostic>),
    /// Build checks found something, and `error=true` was asked for.
    #[error("{message}")]
    Checks {
        /// `lint violation found for rules: ...`.
        message: String,
    },
    /// Stopped from outside.
    #[error("cancelled")]
    Cancelled,
}

impl From<reapi::Error> for Error {
    fn from(error: reapi::Error) -> Self {
        Self::Cluster(Box::new(error))
    }
}

/// What a failed command left to look at.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LeftBehind {
    /// Last lines of its output.
    pub tail: String,
    /// Its log.
    pub log: Option<PathBuf>,
    /// Under which ID its sandbox was kept.
    pub kept: Option<String>,
}

impl Error {
    /// What a failed command left.
    #[must_use]
    pub fn left(&self) -> Option<&LeftBehind> {
        match self {
            Self::Command { left, .. } | Self::Timeout { left, .. } => Some(left),
            _ => None,
        }
    }

    /// What to do about it, where there is something to say.
    #[must_use]
    pub fn help(&self) -> Option<String> {
        match self {
            Self::Copy { help, .. } | Self::Source { help, .. } | Self::Device { help, .. } => {
                help.clone()
            }
            Self::Foreign { .. } => Some(
                "or do the work in a stage FROM --platform=$BUILDPLATFORM, which runs on this machine"
                    .to_owned(),
            ),
            Self::Registry { source, .. } | Self::Login { source, .. } => source.hint(),
            Self::Push { source, .. } => source.push_hint(),
            Self::NeverPulled { image, .. } => Some(format!(
                "if a registry has the image, `kiln pull {image}` brings it whole"
            )),
            Self::Unavailable { source, .. }
            | Self::Base {
                suggestion: None,
                source,
                ..
            } => source.help(),
            Self::Download { source, .. } if source.is_denied() => Some(
                "if it needs a login, give --secret id=HTTP_AUTH_TOKEN_<host> or HTTP_AUTH_HEADER_<host>"
                    .to_owned(),
            ),
            Self::Ssh { id, .. } => Some(format!(
                "give it with --ssh {id} (the agent of $SSH_AUTH_SOCK), --ssh {id}=SOCKET or --ssh {id}=KEYFILE"
            )),
            Self::Base {
                suggestion: Some(name),
                ..
            } => Some(format!("did you mean {name}?")),
            Self::StageName { .. } => Some(
                "a name is [registry/]name[:tag][@digest], in lower case".to_owned(),
            ),
            Self::Cluster(source) if matches!(**source, reapi::Error::NoWorker { .. }) => Some(
                "--executor ...,queue-timeout= says how long a step waits, property=KEY=VALUE what a worker must be; --executor-fallback=local runs such steps here"
                    .to_owned(),
            ),
            Self::Cluster(source) if matches!(**source, reapi::Error::Connect { .. }) => {
                Some("--executor-fallback=local runs steps here when the cluster is out of reach".to_owned())
            }
            Self::Secret { id } => Some(format!("give it with --secret id={id},src=FILE")),
            error if error.is_disk_full() => Some(
                "the disk is full: free space on it, or use another; `kiln prune` frees the store's, and --root names another store".to_owned(),
            ),
            _ => None,
        }
    }

    /// Whether a full disk or quota is behind it.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(self);
        while let Some(error) = cause {
            let kind = error
                .downcast_ref::<std::io::Error>()
                .map(std::io::Error::kind);
            if matches!(
                kind,
                Some(std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
            ) {
                return true;
            }
            cause = error.source();
        }
        false
    }
}

fn first_of(found: &[parser::Diagnostic]) -> String {
    let mut errors = found
        .iter()
        .filter(|found| found.severity == parser::Severity::Error);
    let first = errors
        .next()
        .map_or("the Dockerfile has errors", |error| &error.message);
    match errors.count() {
        0 => first.to_owned(),
        more => format!("{first} (and {more} more)"),
    }
}

fn exit_text(exit: sandbox::Exit) -> String {
    match exit {
        sandbox::Exit::Code(code) => format!("exit code: {code}"),
        sandbox::Exit::Signal(signal) => format!("exit code: {}", 128 + signal),
    }
}

/// What the system said, where an error has come of that.
pub(crate) fn errno(error: &Error) -> Option<i32> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        let of_io = error.downcast_ref::<std::io::Error>();
        let of_call = error.downcast_ref::<rustix::io::Errno>();
        let errno = of_io.and_then(std::io::Error::raw_os_error);
        if let Some(errno) = errno.or(of_call.map(|errno| errno.raw_os_error())) {
            return Some(errno);
        }
        cause = error.source();
    }
    None
}

/// An error and its causes in one line.
#[must_use]
pub fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
