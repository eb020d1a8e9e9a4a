//! Settings of a client. All come from the caller; nothing here reads the environment.

use crate::CredentialSource;
use std::fmt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// Settings of a client.
#[derive(Clone, Default)]
pub struct ClientOptions {
    /// A containers registries.conf v2 file (mirrors, insecure, blocked, short names).
    pub registries_conf: Option<PathBuf>,
    /// Folders of drop-in files for it (`registries.conf.d`), later ones winning; those that are missing say nothing.
    pub registries_conf_dirs: Vec<PathBuf>,
    /// Where Podman records which image a short name was taken for (`short-name-aliases.conf`); may be missing.
    pub short_name_aliases: Option<PathBuf>,
    /// A containers policy.json file; what it rejects is not pulled.
    pub policy: Option<PathBuf>,
    /// Registries (`host[:port]`, or a CIDR block of addresses) to speak plain HTTP with, or TLS without
    /// verification; loopback addresses may fall back to HTTP by themselves.
    pub insecure: Vec<String>,
    /// All registries are as if named in `insecure` (`--tls-verify=false`).
    pub insecure_all: bool,
    /// Loopback addresses are no exception from TLS (`--tls-verify=true`).
    pub verify_loopback: bool,
    /// Where credentials are looked for; the first place that has some for a repository wins.
    pub credentials: Vec<CredentialSource>,
    /// Certificate authorities and client certificates beside the system's.
    pub certificates: CertificateOptions,
    /// Called on every program before it is started (credential helpers).
    pub prepare_program: Option<fn(&mut Command)>,
    /// `User-Agent`; empty for the crate's own.
    pub user_agent: String,
    /// Proxy for `http:` URLs (the value of `HTTP_PROXY`).
    pub http_proxy: Option<String>,
    /// Proxy for `https:` URLs (the value of `HTTPS_PROXY`).
    pub https_proxy: Option<String>,
    /// Hosts reached without a proxy (the value of `NO_PROXY`); loopback always is.
    pub no_proxy: Option<String>,
    /// How often and how patiently failed requests are repeated.
    pub retry: RetryPolicy,
    /// Limits of waiting.
    pub timeouts: Timeouts,
    /// Requests to one host at a time; 0 for the default of 6.
    pub requests_per_host: usize,
}

/// Proxy addresses may hold passwords.
impl fmt::Debug for ClientOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let proxy = |url: &Option<String>| url.as_deref().map(crate::transport::redact::text);
        f.debug_struct("ClientOptions")
            .field("registries_conf", &self.registries_conf)
            .field("registries_conf_dirs", &self.registries_conf_dirs)
            .field("short_name_aliases", &self.short_name_aliases)
            .field("policy", &self.policy)
            .field("insecure", &self.insecure)
            .field("insecure_all", &self.insecure_all)
            .field("verify_loopback", &self.verify_loopback)
            .field("credentials", &self.credentials)
            .field("certificates", &self.certificates)
            .field("user_agent", &self.user_agent)
            .field("http_proxy", &proxy(&self.http_proxy))
            .field("https_proxy", &proxy(&self.https_proxy))
            .field("no_proxy", &self.no_proxy)
            .field("retry", &self.retry)
            .field("timeouts", &self.timeouts)
            .field("requests_per_host", &self.requests_per_host)
            .finish()
    }
}

/// Certificates for registries.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct CertificateOptions {
    /// A folder with `*.crt` (authorities), `*.cert` and `*.key` (client certificates) for all registries (`--cert-dir`).
    pub folder: Option<PathBuf>,
    /// `certs.d` folders, each with a folder `host[:port]` per registry that holds the same. All that exist count.
    pub certs_d: Vec<PathBuf>,
    /// Files of authorities for single registries: `host[:port]` and the file.
    pub authorities: Vec<(String, PathBuf)>,
    /// Client certificates for single registries: `host[:port]`, certificate, key.
    pub clients: Vec<(String, PathBuf, PathBuf)>,
}

/// How failed requests are repeated: waits double from `base` up to `max`, with jitter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RetryPolicy {
    /// Attempts in all, at least 1.
    pub attempts: u32,
    /// First wait.
    pub base: Duration,
    /// Longest wait of our own choice.
    pub max: Duration,
    /// Longest `Retry-After` that is obeyed; a registry that asks for more fails at once.
    pub max_retry_after: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts: 5,
            base: Duration::from_millis(250),
            max: Duration::from_secs(8),
            max_retry_after: Duration::from_secs(60),
        }
    }
}

/// Limits of waiting.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timeouts {
    /// Until a connection stands, TLS included.
    pub connect: Duration,
    /// Between two pieces of an answer, and the window in which the least rate is looked at.
    pub idle: Duration,
    /// Until a credential helper has answered.
    pub helper: Duration,
    /// Bytes a second that a body must bring at least, over `idle`; a server that is slower is given up.
    pub least_rate: u64,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(15),
            idle: Duration::from_secs(60),
            helper: Duration::from_secs(60),
            least_rate: 512,
        }
    }
}
