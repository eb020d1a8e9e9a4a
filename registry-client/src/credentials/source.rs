//! The places credentials come from.

use super::Secret;
use std::path::PathBuf;

/// A user name and password.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Login {
    /// User name.
    pub username: String,
    /// Password, or a token that a registry takes as one.
    pub password: Secret,
}

/// A place that credentials are looked for in.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum CredentialSource {
    /// For one registry (`host[:port]`), or for all where none is named.
    Login {
        /// For messages: `--creds`, `CI_REGISTRY_USER`.
        name: String,
        /// The registry.
        registry: Option<String>,
        /// What it takes.
        login: Login,
    },
    /// The content of a Docker `config.json` or containers `auth.json`.
    Json {
        /// For messages: `DOCKER_AUTH_CONFIG`.
        name: String,
        /// The JSON text.
        text: Secret,
    },
    /// A Docker `config.json` or containers `auth.json`.
    File {
        /// The file.
        path: PathBuf,
        /// It is an error that it is not there.
        required: bool,
    },
}
