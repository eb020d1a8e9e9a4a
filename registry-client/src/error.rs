//! The crate's one error type, and what registries say in their own words.
//!
//! Does not decide how often something is tried again; only whether trying again can help.

use crate::failure::{Failure, transport_failure};
use crate::registry_message::RegistryMessage;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

/// Errors (URLs in them carry no credentials, and no query values that could be tokens).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A reference cannot be parsed.
    #[error("invalid reference {text:?}: {reason}")]
    Reference {
        /// As given.
        text: String,
        /// Why.
        reason: String,
    },
    /// The registries.conf file cannot be read.
    #[error("could not read {}", path.display())]
    ConfigRead {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The registries.conf file says something that has no meaning.
    #[error("could not use {}:{line}: {reason}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Why.
        reason: String,
    },
    /// A certificate or key, or a folder of them, cannot be read.
    #[error("could not read certificates from {}", path.display())]
    CertificateRead {
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A file is no certificate, or half of a pair.
    #[error("could not use {}: {reason}", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A file of credentials cannot be read.
    #[error("could not read credentials from {}", path.display())]
    CredentialsRead {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A file of credentials cannot be written.
    #[error("could not write credentials to {}", path.display())]
    CredentialsWrite {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A file or variable with credentials says something that has no meaning.
    #[error("could not use the credentials in {name}{}: {reason}", key.as_deref().map(|key| format!(" for {key:?}")).unwrap_or_default())]
    Credentials {
        /// The file or variable.
        name: String,
        /// The key whose value is meant.
        key: Option<String>,
        /// Why.
        reason: String,
    },
    /// A credential helper failed.
    #[error(
        "could not {action} credentials{} with {helper} names: {reason}",
        about(registry)
    )]
    Helper {
        /// The program and where it is configured: `docker-credential-pass, which FILE`.
        helper: Box<str>,
        /// `get`, `store`, `erase`, `list`.
        action: &'static str,
        /// The registry it was asked for.
        registry: Box<str>,
        /// Why.
        reason: Box<str>,
        /// The cause, where the program could not be run.
        source: Option<std::io::Error>,
    },
    /// registries.conf blocks this registry or repository.
    #[error("could not pull {reference}: {prefix} is blocked in registries.conf")]
    Blocked {
        /// The reference.
        reference: String,
        /// The prefix of the entry that blocks it.
        prefix: String,
    },
    /// policy.json rejects this image; Podman's wording.
    #[error("Source image rejected: running image docker://{reference} is rejected by policy")]
    Rejected {
        /// The reference.
        reference: String,
    },
    /// A name without a registry could be at several, and nobody can be asked; Podman's wording.
    #[error(
        "short-name resolution of {name:?} enforced but cannot prompt without a TTY: it could be at {}",
        registries.join(", ")
    )]
    ShortName {
        /// As given.
        name: String,
        /// Where it could be.
        registries: Vec<String>,
    },
    /// A proxy setting cannot be used.
    #[error("could not use the proxy {url}: {reason}")]
    Proxy {
        /// The proxy, without its password.
        url: String,
        /// Why.
        reason: String,
    },
    /// The HTTP client cannot be set up (for instance no certificate authorities on this machine).
    #[error("could not set up the HTTP client")]
    Setup {
        /// The cause.
        source: reqwest::Error,
    },
    /// A request got no answer.
    #[error("could not {method} {url}")]
    Send {
        /// `GET`, `HEAD`.
        method: &'static str,
        /// The URL.
        url: String,
        /// The cause.
        source: reqwest::Error,
    },
    /// A body broke off.
    #[error("could not read the body of {url} after {received} bytes")]
    Body {
        /// The URL.
        url: String,
        /// Bytes of this answer that came.
        received: u64,
        /// The cause.
        source: reqwest::Error,
    },
    /// The server takes or sends too little.
    #[error("could not {method} {url}: timed out, only {bytes} bytes in {window:?}")]
    Stalled {
        /// `GET`, `PUT`.
        method: &'static str,
        /// The URL.
        url: String,
        /// Bytes of this window (of all of an upload).
        bytes: u64,
        /// How long was waited.
        window: Duration,
    },
    /// What is to be uploaded cannot be read.
    #[error("could not read what is to be uploaded to {url}")]
    Source {
        /// The URL.
        url: String,
        /// The cause.
        source: std::io::Error,
    },
    /// A body ended before all its bytes came.
    #[error("could not read all of {url}: it ended after {received} of {expected} bytes")]
    Short {
        /// The URL.
        url: String,
        /// Bytes that came, with those of earlier attempts.
        received: u64,
        /// Bytes the descriptor promises.
        expected: u64,
    },
    /// The registry answered with an error status.
    #[error("could not {method} {url}: {}{}", answer(*status, messages), access(*status, login.as_deref()))]
    Status {
        /// `GET`, `HEAD`.
        method: &'static str,
        /// The URL.
        url: Box<str>,
        /// The HTTP status.
        status: u16,
        /// The registry's own words.
        messages: Box<[RegistryMessage]>,
        /// What `Retry-After` asked for.
        retry_after: Option<Duration>,
        /// Whose credentials it was asked with: `with the credentials from FILE`.
        login: Option<Box<str>>,
    },
    /// A download was answered with something else than the file; BuildKit's wording.
    #[error("invalid response status {status}")]
    DownloadStatus {
        /// The HTTP status.
        status: u16,
        /// What `Retry-After` asked for.
        retry_after: Option<Duration>,
    },
    /// The address of a download is none.
    #[error("could not download {url}: {reason}")]
    DownloadUrl {
        /// The address.
        url: String,
        /// Why.
        reason: String,
    },
    /// A redirect that is not followed.
    #[error("could not follow the redirect of {url} to {location}: {reason}")]
    Redirect {
        /// Who redirected.
        url: String,
        /// Where to.
        location: String,
        /// Why not.
        reason: &'static str,
    },
    /// An answer that the protocol does not allow.
    #[error("could not understand the answer of {url}: {reason}")]
    Protocol {
        /// The URL.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The registry has no search.
    #[error("could not search {registry}: it has no search")]
    NoSearch {
        /// The registry.
        registry: String,
    },
    /// The registry's token service gave no token.
    #[error("could not get a token for {scope} from {realm}{}", login.as_deref().map(|login| format!(" {login}")).unwrap_or_default())]
    Token {
        /// The registry.
        registry: Box<str>,
        /// The token service.
        realm: Box<str>,
        /// What the token was to allow.
        scope: String,
        /// Whose credentials were shown: `with the credentials from FILE`.
        login: Option<Box<str>>,
        /// The cause.
        source: Box<Error>,
    },
    /// The registry offers nobody access without credentials.
    #[error("could not access {registry} without a login: it offers only {scheme} authentication")]
    LoginRequired {
        /// The registry.
        registry: String,
        /// `Basic`, `Negotiate`.
        scheme: String,
    },
    /// There are credentials, of a kind that the registry does not take.
    #[error(
        "could not log in to {registry}: it offers only {scheme} authentication, which {origin} is not for"
    )]
    LoginUnusable {
        /// The registry.
        registry: String,
        /// `Basic`, `Negotiate`.
        scheme: String,
        /// Where the credentials come from.
        origin: String,
    },
    /// The registry speaks no TLS.
    #[error("could not speak TLS with {registry}: it answers in plain HTTP")]
    PlainHttp {
        /// The registry.
        registry: String,
    },
    /// A manifest is larger than the distribution specification asks clients to take.
    #[error("could not take the manifest {name}: larger than {limit} bytes")]
    ManifestTooLarge {
        /// Repository and tag or digest.
        name: String,
        /// The limit in bytes.
        limit: u64,
    },
    /// A manifest is not one.
    #[error("could not take the manifest {name}: {reason}")]
    ManifestInvalid {
        /// Repository and tag or digest.
        name: String,
        /// Why.
        reason: String,
    },
    /// Content has another digest than it was asked by.
    #[error("could not verify {name}: expected {expected}, got {actual}")]
    DigestMismatch {
        /// Repository and tag or digest, and where it came from.
        name: String,
        /// The digest asked for.
        expected: String,
        /// The digest of what came.
        actual: String,
    },
    /// Content has another size than its descriptor says.
    #[error("could not verify {name}: expected {expected} bytes, got {actual}")]
    SizeMismatch {
        /// Digest, and where it came from.
        name: String,
        /// Bytes in the descriptor.
        expected: u64,
        /// Bytes offered (at least).
        actual: u64,
    },
    /// A digest whose algorithm is not known, so nothing can be verified against it.
    #[error("could not verify {digest}: only sha256, sha384 and sha512 are supported")]
    UnsupportedDigest {
        /// The digest.
        digest: String,
    },
    /// The receiver of a blob failed.
    #[error("could not store {digest}")]
    Sink {
        /// The blob.
        digest: String,
        /// The cause.
        source: std::io::Error,
    },
    /// Mirrors failed, and then the registry itself too.
    #[error("could not pull {reference} from its registry, nor from a mirror: {}", mirrors.join("; "))]
    Mirrors {
        /// The reference.
        reference: String,
        /// Per mirror what went wrong.
        mirrors: Vec<String>,
        /// What the registry itself said.
        source: Box<Error>,
    },
}

impl Error {
    /// The registry does not have it (404, or one of the codes that say so).
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        match self {
            Self::Status { status, .. } | Self::DownloadStatus { status, .. } => *status == 404,
            Self::Mirrors { source, .. } => source.is_not_found(),
            _ => false,
        }
    }

    /// Access was refused, or needs a login.
    #[must_use]
    pub fn is_denied(&self) -> bool {
        match self {
            Self::Status { status, .. } | Self::DownloadStatus { status, .. } => {
                matches!(status, 401 | 403)
            }
            Self::LoginRequired { .. } | Self::LoginUnusable { .. } => true,
            Self::Mirrors { source, .. } | Self::Token { source, .. } => source.is_denied(),
            _ => false,
        }
    }

    /// What the registry said in its own words, if it did.
    #[must_use]
    pub fn messages(&self) -> &[RegistryMessage] {
        match self {
            Self::Status { messages, .. } => messages,
            Self::Mirrors { source, .. } | Self::Token { source, .. } => source.messages(),
            _ => &[],
        }
    }

    /// What a person could do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self.refused_at() {
            Some((registry, has_login)) => Some(login_hint(registry, has_login)),
            None => self.innermost().plain_hint().map(str::to_owned),
        }
    }

    /// What a person could do about it, where it was a push that failed.
    #[must_use]
    pub fn push_hint(&self) -> Option<String> {
        let Some((registry, has_login)) = self.refused_at() else {
            return self.hint();
        };
        let command = login_command(registry);
        Some(match has_login {
            false => format!("pushing mostly needs a login: `{command}`"),
            true => format!(
                "this login may not push there: ask the repository's owner for the right to, or log in as somebody else with `{command}`"
            ),
        })
    }

    /// The error without what stands around it.
    fn innermost(&self) -> &Self {
        match self {
            Self::Mirrors { source, .. } | Self::Token { source, .. } => source.innermost(),
            other => other,
        }
    }

    /// The registry that refused access, and whether it had got a login.
    fn refused_at(&self) -> Option<(&str, bool)> {
        match self {
            Self::Status {
                status: 401 | 403,
                url,
                login,
                ..
            } => {
                let host = url.split_once("://").map_or(&**url, |(_, rest)| rest);
                Some((host.split('/').next().unwrap_or(host), login.is_some()))
            }
            Self::LoginRequired { registry, .. } => Some((registry, false)),
            Self::LoginUnusable { registry, .. } => Some((registry, true)),
            Self::Token {
                registry,
                login,
                source,
                ..
            } if source.is_denied() => Some((registry, login.is_some())),
            Self::Mirrors { source, .. } | Self::Token { source, .. } => source.refused_at(),
            _ => None,
        }
    }

    fn plain_hint(&self) -> Option<&'static str> {
        match self {
            Self::PlainHttp { .. } => Some(
                "if plain HTTP is right for this registry, name it with --insecure-registry, or set `insecure = true` for it in registries.conf",
            ),
            Self::Status { status: 429, .. } => Some(
                "the registry limits how much may be pulled; a mirror in registries.conf avoids this",
            ),
            Self::Setup { .. } => {
                Some("install the ca-certificates package, or name a file in SSL_CERT_FILE")
            }
            Self::Send { source, .. }
                if transport_failure(source) == Failure::ClientCertificate =>
            {
                Some(
                    "the registry wants a client certificate: put client.cert and client.key into certs.d/HOST, or name them with --cert-dir or --registry-client-cert",
                )
            }
            Self::Send { source, .. } if transport_failure(source) == Failure::Certificate => Some(
                "put the registry's certificate authority into certs.d/HOST/ca.crt, or name it with --registry-certificate or SSL_CERT_FILE",
            ),
            _ => None,
        }
    }

    /// Whether the same request may succeed a little later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Send { source, .. } => !matches!(
                transport_failure(source),
                Failure::Certificate | Failure::ClientCertificate
            ),
            Self::Body { .. } | Self::Short { .. } | Self::Stalled { .. } => true,
            Self::Status { status, .. } | Self::DownloadStatus { status, .. } => {
                matches!(status, 408 | 429 | 500 | 502 | 503 | 504)
            }
            _ => false,
        }
    }

    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } | Self::DownloadStatus { retry_after, .. } => {
                *retry_after
            }
            _ => None,
        }
    }

    /// The server speaks TLS, which failed.
    pub(crate) fn is_tls(&self) -> bool {
        match self {
            Self::Send { source, .. } => !matches!(
                transport_failure(source),
                Failure::Connect | Failure::NotTls
            ),
            Self::CertificateRead { .. } | Self::Certificate { .. } => true,
            _ => false,
        }
    }

    /// No connection was made at all: the host is down, unknown or refuses.
    pub(crate) fn is_unreachable(&self) -> bool {
        matches!(self, Self::Send { source, .. } if transport_failure(source) == Failure::Connect)
    }

    /// The message with all its causes on one line.
    pub(crate) fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            let _ = write!(text, ": {error}");
            cause = error.source();
        }
        text
    }
}

// It is part of other crates' errors, which are returned from nearly everywhere.
const _: () = assert!(size_of::<Error>() <= 96);

/// Whose credentials were not enough.
fn access(status: u16, login: Option<&str>) -> String {
    match (status, login) {
        (401 | 403, Some(login)) => format!(", {login}"),
        _ => String::new(),
    }
}

fn login_command(registry: &str) -> String {
    match crate::credentials::canonical_host(registry).as_str() {
        "docker.io" => "kiln login".to_owned(),
        _ => format!("kiln login {registry}"),
    }
}

fn login_hint(registry: &str, logged_in: bool) -> String {
    let command = login_command(registry);
    match logged_in {
        false => format!("the repository may not exist, or may need a login: `{command}`"),
        true => format!(
            "the repository may not exist, or not be open to these credentials; `{command}` replaces them"
        ),
    }
}

fn about(registry: &str) -> String {
    match registry {
        "" => String::new(),
        registry => format!(" of {registry}"),
    }
}

fn answer(status: u16, messages: &[RegistryMessage]) -> String {
    let mut text = format!("the registry answered {status}");
    let reason = reqwest::StatusCode::from_u16(status)
        .ok()
        .and_then(|status| status.canonical_reason());
    if let Some(reason) = reason {
        let _ = write!(text, " {reason}");
    }
    for (index, message) in messages.iter().enumerate() {
        let _ = write!(text, "{} {message}", if index == 0 { ":" } else { ";" });
    }
    text
}
