//! Who gets an image that `--load` or `type=docker` without a destination asks to be loaded, besides the store.

use std::path::PathBuf;

/// Where an image is loaded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LoadTarget {
    /// Who takes it.
    pub receiver: Receiver,
    /// Nobody there is an error. Otherwise the image stays in the store.
    pub required: bool,
}

/// Who takes images.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Receiver {
    /// A daemon with Docker's API.
    Docker(DockerEndpoint),
    /// `podman load`.
    Podman,
    /// `ctr images import`; its own variables say which containerd.
    Containerd {
        /// Its namespace, `default` when `None`.
        namespace: Option<String>,
    },
}

/// Where Docker's API is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DockerEndpoint {
    /// The context's name or the variable that says so, for messages.
    pub name: String,
    /// `unix:///run/docker.sock`, `tcp://host:2376`, `ssh://user@host`.
    pub host: String,
    /// TLS over TCP.
    pub tls: Option<DockerTls>,
}

/// Files of a TLS connection to a daemon.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DockerTls {
    /// Certificates that the daemon's must come from.
    pub ca: PathBuf,
    /// The client's certificate and key.
    pub identity: Option<(PathBuf, PathBuf)>,
}
