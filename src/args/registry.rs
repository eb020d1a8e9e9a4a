//! Flags of every command that talks to registries, as Docker, buildah and kaniko spell them.

use clap::Args;
use registry_client::Secret;
use std::path::PathBuf;
use std::time::Duration;

// How registries are reached.
#[derive(Args, Clone, Debug, Default)]
pub struct RegistryArgs {
    /// Registry reached in plain HTTP, or without verification of its certificate
    #[arg(
        long = "insecure-registry",
        value_name = "HOST[:PORT]",
        alias = "skip-tls-verify-registry"
    )]
    pub insecure_registries: Vec<String>,
    /// Verify certificates of registries; with `false` plain HTTP is fine as well [default: true]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true, value_name = "BOOL")]
    pub tls_verify: Option<bool>,
    /// The same as `--tls-verify=false`
    #[arg(long, aliases = ["skip-tls-verify", "insecure-pull", "skip-tls-verify-pull"], num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", hide_default_value = true, hide_possible_values = true, value_name = "BOOL", action = clap::ArgAction::Set)]
    pub insecure: bool,
    /// File of credentials, instead of those of Docker and Podman
    #[arg(long, value_name = "FILE")]
    pub authfile: Option<PathBuf>,
    /// Credentials for all registries of this command; without a password it is asked for
    #[arg(long, value_name = "USER[:PASSWORD]", value_parser = |text: &str| Ok::<_, String>(creds(text)))]
    pub creds: Option<Creds>,
    /// Folder with certificates: `*.crt` of authorities, `*.cert` and `*.key` of clients
    #[arg(long, value_name = "DIR")]
    pub cert_dir: Option<PathBuf>,
    /// Certificate authority of one registry
    #[arg(long = "registry-certificate", value_name = "HOST[:PORT]=FILE", value_parser = certificate)]
    pub registry_certificates: Vec<(String, PathBuf)>,
    /// Client certificate for one registry
    #[arg(long = "registry-client-cert", value_name = "HOST[:PORT]=CERT,KEY", value_parser = client_certificate)]
    pub registry_client_certificates: Vec<(String, PathBuf, PathBuf)>,
    /// How often a failed request is repeated [default: 4]
    #[arg(long, aliases = ["push-retry", "image-download-retry"], value_name = "N", value_parser = clap::value_parser!(u32).range(..=1000))]
    pub retry: Option<u32>,
    /// Wait before each repetition [default: grows from 250ms to 8s]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub retry_delay: Option<Duration>,
}

/// `--creds`.
#[derive(Clone, Debug)]
pub struct Creds {
    /// User name.
    pub username: String,
    /// Asked for where it is not given.
    pub password: Option<Secret>,
}

/// Judged later: a message of the argument parser would quote it.
fn creds(text: &str) -> Creds {
    let (username, password) = match text.split_once(':') {
        Some((username, password)) => (username, Some(Secret::new(password))),
        None => (text, None),
    };
    Creds {
        username: username.to_owned(),
        password,
    }
}

fn certificate(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((host, file)) if !host.is_empty() && !file.is_empty() => {
            Ok((host.to_owned(), file.into()))
        }
        _ => Err("it is not HOST=FILE".to_owned()),
    }
}

fn client_certificate(text: &str) -> Result<(String, PathBuf, PathBuf), String> {
    let parts = text.split_once('=').and_then(|(host, files)| {
        let (certificate, key) = files.split_once(',')?;
        Some((host, certificate, key))
    });
    match parts {
        Some((host, certificate, key)) if ![host, certificate, key].contains(&"") => {
            Ok((host.to_owned(), certificate.into(), key.into()))
        }
        _ => Err("it is not HOST=CERT,KEY".to_owned()),
    }
}

/// `500ms`, `1m30s`; a bare number is seconds.
fn duration(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse::<u32>() {
        return Ok(Duration::from_secs(seconds.into()));
    }
    let nanoseconds = parser::value::duration(text)?;
    let nanoseconds = u64::try_from(nanoseconds).map_err(|_| "it is negative".to_owned())?;
    Ok(Duration::from_nanos(nanoseconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_flags() {
        let given = creds("me:a:b");
        assert_eq!(given.username, "me");
        assert_eq!(given.password.as_ref().unwrap().expose(), "a:b");
        assert!(!format!("{given:?}").contains("a:b"));
        assert!(creds("me").password.is_none());
        assert_eq!(duration("2"), Ok(Duration::from_secs(2)));
        assert_eq!(duration("1m1s"), Ok(Duration::from_secs(61)));
        assert!(duration("-1s").is_err() && duration("soon").is_err());
        assert!(certificate("h:5000=/x").is_ok() && certificate("/x").is_err());
        assert!(client_certificate("h=/c,/k").is_ok() && client_certificate("h=/c").is_err());
    }
}
