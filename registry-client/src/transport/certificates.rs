//! Certificates for single registries: authorities to trust beside the system's, and what to show as a client.
//!
//! The layout of `certs.d` folders is Docker's and Podman's (`*.crt`, `*.cert` with `*.key`), with containerd's
//! `hosts.toml` for other places of the same. Mirrors in a `hosts.toml` are not read here.

use super::hosts;
use crate::credentials::canonical_host;
use crate::{CertificateOptions, Error};
use reqwest::{Certificate, Identity};
use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use toml::Value;

/// Bytes read of one file.
const SIZE_LIMIT: u64 = 4 * 1024 * 1024;
/// The folder for registries that have none of their own (containerd).
const DEFAULT_FOLDER: &str = "_default";

/// What there is for one registry.
#[derive(Default)]
pub(super) struct Material {
    pub(super) authorities: Vec<Certificate>,
    pub(super) identity: Option<Identity>,
    /// A hosts.toml says so.
    pub(super) skip_verify: bool,
}

impl Material {
    /// `None` where nothing is special. `authority` is the host, with the port where that is not the usual one.
    pub(super) fn load(
        options: &CertificateOptions,
        authority: &str,
    ) -> Result<Option<Self>, Error> {
        let mut files = Files::default();
        if let Some(folder) = &options.folder
            && !files.add_folder(folder, authority)?
        {
            return Err(unreadable(folder, ErrorKind::NotFound.into()));
        }
        for root in &options.certs_d {
            let mut found = false;
            for name in folder_names(authority) {
                found |= files.add_folder(&root.join(name), authority)?;
            }
            if !found {
                files.add_folder(&root.join(DEFAULT_FOLDER), authority)?;
            }
        }
        let (host, port) = hosts::split(authority);
        let port = port.or(Some(443));
        let fits = |entry: &String| hosts::listed(std::slice::from_ref(entry), host, port);
        for (entry, path) in &options.authorities {
            if fits(entry) {
                files.authorities.push(path.clone());
            }
        }
        for (entry, certificate, key) in &options.clients {
            if fits(entry) {
                files.clients.push((certificate.clone(), key.clone()));
            }
        }
        files.read()
    }
}

/// `host:5000`; both forms of a host without a port, and all names of Docker's registry.
fn folder_names(authority: &str) -> Vec<String> {
    let mut names = vec![authority.to_owned()];
    let (host, port) = hosts::split(authority);
    if port.is_none() {
        names.push(format!("{host}:443"));
        let canonical = canonical_host(host);
        if canonical != host {
            names.push(canonical);
        }
    }
    names
}

#[derive(Default)]
struct Files {
    authorities: Vec<PathBuf>,
    clients: Vec<(PathBuf, PathBuf)>,
    skip_verify: bool,
}

impl Files {
    /// Says whether the folder is there.
    fn add_folder(&mut self, folder: &Path, authority: &str) -> Result<bool, Error> {
        let entries = match std::fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::PermissionDenied
                ) =>
            {
                return Ok(false);
            }
            Err(error) => return Err(unreadable(folder, error)),
        };
        let mut names = BTreeSet::new();
        for entry in entries {
            let entry = entry.map_err(|error| unreadable(folder, error))?;
            names.insert(entry.path());
        }
        for path in &names {
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("crt") => self.authorities.push(path.clone()),
                Some("cert") => {
                    let key = path.with_extension("key");
                    if !names.contains(&key) {
                        let reason = format!(
                            "its key {} is missing; certificates of authorities end in .crt",
                            key.display()
                        );
                        return Err(bad(path, reason));
                    }
                    self.clients.push((path.clone(), key));
                }
                Some("key") => {
                    let certificate = path.with_extension("cert");
                    if !names.contains(&certificate) {
                        let reason =
                            format!("its certificate {} is missing", certificate.display());
                        return Err(bad(path, reason));
                    }
                }
                _ => {}
            }
        }
        let hosts_toml = folder.join("hosts.toml");
        if names.contains(&hosts_toml) {
            self.add_hosts_toml(&hosts_toml, authority)?;
        }
        Ok(true)
    }

    /// The settings at the top, and those of the registry itself among the hosts.
    fn add_hosts_toml(&mut self, path: &Path, authority: &str) -> Result<(), Error> {
        let text = read(path)?;
        let text = String::from_utf8(text).map_err(|_| bad(path, "it is not text"))?;
        let table: toml::Table =
            toml::from_str(&text).map_err(|error| bad(path, error.message()))?;
        self.add_section(path, &table)?;
        let hosts = table.get("host").and_then(Value::as_table);
        for (host, section) in hosts.into_iter().flatten() {
            let bare = host
                .split_once("://")
                .map_or(host.as_str(), |(_, rest)| rest);
            let bare = bare.split('/').next().unwrap_or(bare);
            let bare = bare.strip_suffix(":443").unwrap_or(bare);
            if canonical_host(bare) != canonical_host(authority) {
                continue;
            }
            if let Some(section) = section.as_table() {
                self.add_section(path, section)?;
            }
        }
        Ok(())
    }

    fn add_section(&mut self, path: &Path, section: &toml::Table) -> Result<(), Error> {
        let beside = |name: &str| path.with_file_name("").join(name);
        let text = |value: &Value, key: &str| match value {
            Value::String(text) => Ok(beside(text)),
            _ => Err(bad(path, format!("{key} must be the name of a file"))),
        };
        match section.get("ca") {
            None => {}
            Some(Value::Array(values)) => {
                for value in values {
                    self.authorities.push(text(value, "ca")?);
                }
            }
            Some(value) => self.authorities.push(text(value, "ca")?),
        }
        let clients = match section.get("client") {
            None => &[],
            Some(Value::Array(values)) => values.as_slice(),
            Some(value) => std::slice::from_ref(value),
        };
        for value in clients {
            match value {
                Value::Array(pair) if pair.len() == 2 => {
                    let pair = (text(&pair[0], "client")?, text(&pair[1], "client")?);
                    self.clients.push(pair);
                }
                // One file with both.
                value => {
                    let file = text(value, "client")?;
                    self.clients.push((file.clone(), file));
                }
            }
        }
        let skip = section.get("skip_verify").and_then(Value::as_bool);
        self.skip_verify |= skip.unwrap_or(false);
        Ok(())
    }

    fn read(self) -> Result<Option<Material>, Error> {
        if self.authorities.is_empty() && self.clients.is_empty() && !self.skip_verify {
            return Ok(None);
        }
        let mut material = Material {
            skip_verify: self.skip_verify,
            ..Material::default()
        };
        for path in &self.authorities {
            let certificates = Certificate::from_pem_bundle(&read(path)?)
                .map_err(|_| bad(path, "it is not a certificate in PEM"))?;
            if certificates.is_empty() {
                return Err(bad(path, "it has no certificate in PEM"));
            }
            material.authorities.extend(certificates);
        }
        // Like the docker client's, TLS here has one certificate of its own for a server: the first.
        if let Some((certificate, key)) = self.clients.first() {
            let mut pem = read(certificate)?;
            if key != certificate {
                pem.push(b'\n');
                pem.extend(read(key)?);
            }
            let identity = Identity::from_pem(&pem).map_err(|_| {
                let reason = format!("it and {} are no certificate and key in PEM", key.display());
                bad(certificate, reason)
            })?;
            material.identity = Some(identity);
        }
        Ok(Some(material))
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(SIZE_LIMIT).read_to_end(&mut bytes))
        .map_err(|error| unreadable(path, error))?;
    Ok(bytes)
}

fn unreadable(path: &Path, source: std::io::Error) -> Error {
    Error::CertificateRead {
        path: path.to_owned(),
        source,
    }
}

fn bad(path: &Path, reason: impl Into<String>) -> Error {
    Error::Certificate {
        path: path.to_owned(),
        reason: reason.into(),
    }
}
