//! Other machines that a build may use: a cluster that runs its steps, and caches that are shared.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// What a build uses of other machines; nothing, unless it is said.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RemoteSettings {
    /// `--executor`: where RUN steps go.
    pub executor: Option<ExecutorSettings>,
    /// `--remote-cache`, in the order in which they are asked.
    pub caches: Vec<SharedCacheSettings>,
}

/// A server of the Remote Execution API: where it is, and what it is told of who asks.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct EndpointSettings {
    /// `grpc[s]://HOST[:PORT][/INSTANCE]`.
    pub url: String,
    /// Authorities to trust in place of the system's, in PEM.
    pub ca: Option<Vec<u8>>,
    /// Certificate chain and key of the client, in PEM.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
    /// Headers of every call. Their values are secret.
    pub headers: Vec<(String, String)>,
}

/// Without the values of headers and without keys.
impl fmt::Debug for EndpointSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let headers: Vec<&str> = self.headers.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("EndpointSettings")
            .field("url", &self.url)
            .field("has_ca", &self.ca.is_some())
            .field("has_identity", &self.identity.is_some())
            .field("headers", &headers)
            .finish()
    }
}

/// `--executor`: a cluster that runs steps.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ExecutorSettings {
    /// Its server.
    pub endpoint: EndpointSettings,
    /// `preset`: how it names the properties of workers.
    pub preset: Preset,
    /// `property`: in addition to those of the platform, or in place of them; an empty value takes one away.
    pub properties: Vec<(String, String)>,
    /// `jobs`: steps in flight.
    pub jobs: usize,
    /// `queue-timeout`: the longest that a step waits for a worker.
    pub queue_timeout: Duration,
    /// `timeout`: the longest that a step runs; `--timeout` wins when it is shorter.
    pub timeout: Duration,
    /// `network`: whether workers have a network that steps may use.
    pub network: bool,
    /// `allow`: what else may go there.
    pub allow: RemoteAllow,
    /// `binary`: Kiln's executable for workers, by architecture (`amd64`, `arm64` ...).
    pub binaries: BTreeMap<String, PathBuf>,
    /// `salt`: sets results of one tenant apart from those of others.
    pub salt: String,
    /// `--executor-fallback`.
    pub fallback: Fallback,
}

impl ExecutorSettings {
    /// A cluster with all defaults.
    #[must_use]
    pub fn new(endpoint: EndpointSettings) -> Self {
        Self {
            endpoint,
            preset: Preset::default(),
            properties: Vec::new(),
            jobs: 64,
            queue_timeout: Duration::from_secs(5 * 60),
            timeout: Duration::from_secs(60 * 60),
            network: true,
            allow: RemoteAllow::default(),
            binaries: BTreeMap::new(),
            salt: String::new(),
            fallback: Fallback::default(),
        }
    }
}

/// How servers name the properties of workers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Preset {
    /// The names of the specification: `OSFamily`, `ISA`.
    #[default]
    Standard,
    /// buildbox-casd: the same, and who commands run as outside of the sandbox.
    Buildbox,
    /// Buildbarn.
    Buildbarn,
    /// NativeLink.
    Nativelink,
    /// BuildBuddy: `OSFamily`, `Arch`.
    Buildbuddy,
    /// BuildGrid.
    Buildgrid,
}

impl Preset {
    /// Whether such servers stage files with their modes and times although their capabilities do not say so. A worker
    /// looks, whatever is said here. BuildGrid passes on what it gets, to workers that are buildbox's.
    pub(crate) fn carries_unannounced(self) -> bool {
        matches!(self, Self::Buildbox | Self::Buildgrid)
    }
}

/// Steps that stay on this machine unless they are allowed to leave it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RemoteAllow {
    /// Steps in the network of the host, which is the worker's then.
    pub host_network: bool,
    /// Steps with proxies, which they do not get there.
    pub proxy: bool,
    /// Steps with secrets, which are those that workers have then.
    pub secret: bool,
    /// Steps with SSH agents, which are those that workers have then.
    pub ssh: bool,
}

/// What becomes of a step that could run elsewhere when no one there takes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Fallback {
    /// The build fails.
    #[default]
    Fail,
    /// It runs here.
    Local,
}

/// `--remote-cache`: results of steps that machines share.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SharedCacheSettings {
    /// Where.
    pub place: SharedCachePlace,
    /// `mode=rw`: what is built here goes there. Otherwise it is only read.
    pub writes: bool,
    /// `ignore-error`: one that cannot be asked is told and left out. Otherwise the build fails.
    pub ignore_error: bool,
    /// `salt`: sets results of one tenant apart from those of others.
    pub salt: String,
}

/// Where a shared cache is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SharedCachePlace {
    /// A server of the Remote Execution API.
    Reapi(EndpointSettings),
    /// `registry://`.
    Registry {
        /// Repository, normalised, without a tag.
        repository: String,
        /// `branch`: the index of keys that is read ahead and kept.
        branch: Option<String>,
    },
}
