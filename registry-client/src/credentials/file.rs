//! Files of credentials: `config.json` of Docker and `auth.json` of Podman, which share one form.
//!
//! Reads entries and changes them, and keeps everything else in the file as it is. Secrets are in the file in
//! base64 at best; where it names a helper, that keeps them instead.

use super::helper::{Helper, HelperSettings, Kept};
use super::json::{self, Json, Object};
use super::key::{Fit, Key, server_name};
use super::{Credential, Secret};
use crate::Error;
use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// Bytes read of a file.
const SIZE_LIMIT: u64 = 8 * 1024 * 1024;
/// Files written by hand may lack the padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A parsed file.
pub(super) struct AuthFile {
    /// For messages.
    pub(super) name: String,
    root: Object,
    /// Docker's client takes a key for a part of a registry for all of it.
    docker: bool,
}

/// Where a file keeps what fits a repository best.
pub(super) enum Place<'a> {
    Helper { name: &'a str, server: String },
    Entry { key: &'a str, entry: &'a Object },
}

impl AuthFile {
    pub(super) fn empty(path: &Path) -> Self {
        Self {
            name: path.display().to_string(),
            root: Vec::new(),
            docker: path.ends_with("config.json"),
        }
    }

    /// `None` where there is no file.
    pub(super) fn read(path: &Path) -> Result<Option<Self>, Error> {
        let failed = |source| Error::CredentialsRead {
            path: path.to_owned(),
            source,
        };
        let file = match std::fs::File::open(path) {
            Ok(file) => file,
            Err(error)
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(failed(error)),
        };
        let mut text = Vec::new();
        file.take(SIZE_LIMIT + 1)
            .read_to_end(&mut text)
            .map_err(failed)?;
        let docker = path.ends_with("config.json");
        Self::parse(path.display().to_string(), &text, docker).map(Some)
    }

    pub(super) fn parse(name: String, text: &[u8], docker: bool) -> Result<Self, Error> {
        let bad = |name, reason| Error::Credentials {
            name,
            key: None,
            reason,
        };
        if text.len() as u64 > SIZE_LIMIT {
            let reason = format!("it is larger than {SIZE_LIMIT} bytes");
            return Err(bad(name, reason));
        }
        if text.iter().all(u8::is_ascii_whitespace) {
            return Ok(Self {
                name,
                root: Vec::new(),
                docker,
            });
        }
        // Only the place is told: the text around it may be a secret.
        match serde_json::from_slice(text) {
            Ok(Json::Object(root)) => Ok(Self { name, root, docker }),
            Ok(_) => Err(bad(name, "it is not a JSON object".to_owned())),
            Err(error) => {
                let (line, column) = (error.line(), error.column());
                let reason = format!("it is not JSON (line {line}, column {column})");
                Err(bad(name, reason))
            }
        }
    }

    fn bad(&self, key: &str, reason: &str) -> Error {
        Error::Credentials {
            name: self.name.clone(),
            key: Some(key.to_owned()),
            reason: reason.to_owned(),
        }
    }

    /// An object of the file; anything else under that key is an error.
    fn section(&self, key: &str) -> Result<&[(String, Json)], Error> {
        match json::get(&self.root, key) {
            None | Some(Json::Null) => Ok(&[]),
            Some(Json::Object(entries)) => Ok(entries),
            Some(_) => Err(self.bad(key, "it is not an object")),
        }
    }

    fn text(&self, key: &str) -> Result<Option<&str>, Error> {
        match json::get(&self.root, key) {
            None | Some(Json::Null) => Ok(None),
            Some(Json::String(text)) => Ok(Some(text)
                .filter(|text| !text.is_empty())
                .map(String::as_str)),
            Some(_) => Err(self.bad(key, "it is not a text")),
        }
    }

    /// The places to look at, best first.
    pub(super) fn places(&self, host: &str, repository: &str) -> Result<Vec<Place<'_>>, Error> {
        let mut fits: Vec<(Fit, &str, &Object)> = Vec::new();
        let auths = self.section("auths")?;
        for (number, (key, value)) in auths.iter().enumerate() {
            let Some(fit) = Key::parse(key).fit(key, host, repository) else {
                continue;
            };
            // Of a key that is there twice the last one counts.
            if auths[number + 1..].iter().any(|(later, _)| later == key) {
                continue;
            }
            let Some(entry) = value.as_object() else {
                return Err(self.bad(key, "it is not an object"));
            };
            // With a helper, clients leave empty entries behind as a list of logins.
            let filled =
                |key: &&str| json::get(entry, key).is_some_and(|value| value.as_str() != Some(""));
            let filled = ["auth", "username", "identitytoken", "registrytoken"]
                .iter()
                .any(filled);
            if filled && (fit != Fit::Elsewhere || self.docker) {
                fits.push((fit, key, entry));
            }
        }
        fits.sort_by_key(|(fit, _, _)| std::cmp::Reverse(*fit));
        let mut places = Vec::new();
        let helper = self.helper(host)?;
        let mut helper = helper.map(|name| Place::Helper {
            name,
            server: server_name(host),
        });
        for (fit, key, entry) in fits {
            if fit < Fit::Path(0) {
                places.extend(helper.take());
            }
            places.push(Place::Entry { key, entry });
        }
        places.extend(helper);
        Ok(places)
    }

    /// The helper for a registry: its own, else the one for all.
    pub(super) fn helper(&self, host: &str) -> Result<Option<&str>, Error> {
        for (key, value) in self.section("credHelpers")? {
            let fit = Key::parse(key).fit(key, host, "");
            if !matches!(fit, Some(Fit::Exact | Fit::Registry)) {
                continue;
            }
            return match value.as_str() {
                // An empty name turns the general helper off for this registry.
                Some(name) => Ok(Some(name).filter(|name| !name.is_empty())),
                None => Err(self.bad(key, "its helper is not a text")),
            };
        }
        self.text("credsStore")
    }

    /// What an entry says.
    pub(super) fn credential(
        &self,
        key: &str,
        entry: &Object,
    ) -> Result<Option<Credential>, Error> {
        let text = |name: &str| match json::get(entry, name) {
            None | Some(Json::Null) => Ok(""),
            Some(Json::String(text)) => Ok(text.as_str()),
            Some(_) => Err(self.bad(key, &format!("its {name} is not a text"))),
        };
        let registry_token = text("registrytoken")?;
        if !registry_token.is_empty() {
            return Ok(Some(Credential::RegistryToken(Secret::new(registry_token))));
        }
        let identity = text("identitytoken")?;
        if !identity.is_empty() {
            return Ok(Some(Credential::Identity(Secret::new(identity))));
        }
        let auth = text("auth")?.trim();
        let (username, password) = if auth.is_empty() {
            (text("username")?.to_owned(), text("password")?.to_owned())
        } else {
            decode(auth).map_err(|reason| self.bad(key, reason))?
        };
        if username.is_empty() && password.is_empty() {
            return Ok(None);
        }
        Ok(Some(Credential::Password {
            username,
            password: Secret::new(password),
        }))
    }

    /// Keeps a credential: with the registry's helper, whose name is returned, or in the file.
    pub(super) fn store(
        &mut self,
        server: &str,
        credential: &Credential,
        settings: HelperSettings,
    ) -> Result<Option<String>, Error> {
        let host = host_of(server);
        let helper = self.helper(host)?.map(str::to_owned);
        let key = self.known_key(server);
        let mut entry = Vec::new();
        if let Some(name) = &helper {
            let kept = match credential.clone() {
                Credential::Password { username, password } => Kept::Password(username, password),
                Credential::Identity(token) | Credential::RegistryToken(token) => {
                    Kept::Identity(token)
                }
            };
            self.runner(name, settings)
                .store(&server_name(host), &kept)?;
        } else {
            entry = match credential {
                Credential::Password { username, password } => {
                    let auth = BASE64.encode(format!("{username}:{}", password.expose()));
                    vec![("auth".to_owned(), Json::String(auth))]
                }
                Credential::Identity(token) => vec![
                    ("auth".to_owned(), Json::String(BASE64.encode("<token>:"))),
                    text_entry("identitytoken", token),
                ],
                Credential::RegistryToken(token) => vec![text_entry("registrytoken", token)],
            };
        }
        let auths = json::object_mut(&mut self.root, "auths");
        let wanted = Key::parse(&key);
        let same = |known: &(String, Json)| Key::parse(&known.0).same(&wanted);
        let place = auths.iter().position(same).unwrap_or(auths.len());
        auths.retain(|known| !same(known));
        auths.insert(place, (key.clone(), Json::Object(entry)));
        Ok(helper)
    }

    /// Forgets what is kept for a server. Says whether there was something.
    pub(super) fn erase(&mut self, server: &str, settings: HelperSettings) -> Result<bool, Error> {
        let host = host_of(server).to_owned();
        let mut found = false;
        if let Some(name) = self.helper(&host)?.map(str::to_owned) {
            let helper = self.runner(&name, settings);
            let server = server_name(&host);
            if helper.get(&server)?.is_some() {
                helper.erase(&server)?;
                found = true;
            }
        }
        let auths = json::object_mut(&mut self.root, "auths");
        let before = auths.len();
        let wanted = Key::parse(server);
        auths.retain(|(known, _)| !Key::parse(known).same(&wanted));
        Ok(found || auths.len() != before)
    }

    /// Servers with an entry, or known to a helper.
    pub(super) fn servers(&self, settings: HelperSettings) -> Result<Vec<String>, Error> {
        let entries = self.section("auths")?.iter().map(|(key, _)| key.clone());
        let mut servers: Vec<String> = entries.collect();
        if let Some(name) = self.text("credsStore")? {
            servers.extend(self.runner(name, settings).list()?);
        }
        let own = self.section("credHelpers")?.iter();
        servers.extend(own.map(|(key, _)| key.clone()));
        let mut seen: Vec<Key<'_>> = Vec::new();
        let mut kept = Vec::new();
        for server in &servers {
            let key = Key::parse(server);
            if !seen.iter().any(|known| known.same(&key)) {
                kept.push(server.clone());
                seen.push(key);
            }
        }
        Ok(kept)
    }

    pub(super) fn runner<'a>(&'a self, name: &'a str, settings: HelperSettings) -> Helper<'a> {
        Helper {
            name,
            configured_in: &self.name,
            settings,
        }
    }

    /// The key under which a server is already known, so that it has one entry only.
    fn known_key(&self, server: &str) -> String {
        let auths = json::get(&self.root, "auths").and_then(Json::as_object);
        let wanted = Key::parse(server);
        let mut keys = auths.into_iter().flatten().map(|(key, _)| key);
        let exact = keys.clone().find(|key| *key == server);
        let known = exact.or_else(|| keys.find(|key| Key::parse(key).same(&wanted)));
        known.cloned().unwrap_or_else(|| server.to_owned())
    }

    /// Replaces the file in one step; others never see half of it, nor may read it.
    pub(super) fn save(self, path: &Path) -> Result<(), Error> {
        let failed = |source| Error::CredentialsWrite {
            path: path.to_owned(),
            source,
        };
        // A link, as dotfile managers make, stays one.
        let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let folder = path.parent().unwrap_or(Path::new("."));
        if !folder.as_os_str().is_empty() && !folder.is_dir() {
            std::fs::create_dir_all(folder).map_err(failed)?;
            let private = std::fs::Permissions::from_mode(0o700);
            std::fs::set_permissions(folder, private).map_err(failed)?;
        }
        let bytes = json::pretty(&Json::Object(self.root));
        let temporary = beside(&path);
        let written =
            write_new(&temporary, &bytes).and_then(|()| std::fs::rename(&temporary, &path));
        written.map_err(|error| {
            let _ = std::fs::remove_file(&temporary);
            failed(error)
        })
    }
}

fn write_new(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    path.with_file_name(name)
}

fn text_entry(key: &str, token: &Secret) -> (String, Json) {
    (key.to_owned(), Json::String(token.expose().to_owned()))
}

/// The host in a server's name.
fn host_of(server: &str) -> &str {
    let rest = server.split_once("://").map_or(server, |(_, rest)| rest);
    rest.split('/').next().unwrap_or(rest)
}

/// `user:password` in base64.
fn decode(auth: &str) -> Result<(String, String), &'static str> {
    let bytes = BASE64.decode(auth).map_err(|_| "its auth is not base64")?;
    let text = String::from_utf8(bytes).map_err(|_| "its auth is not text in base64")?;
    let (username, password) = text
        .split_once(':')
        .ok_or("its auth is not user:password in base64")?;
    Ok((
        username.to_owned(),
        password.trim_end_matches('\0').to_owned(),
    ))
}
