//! What `login` and `logout` change.

use super::file::{AuthFile, Place};
use super::helper::{self, HelperSettings};
use super::{Credential, key};
use crate::Error;
use std::fmt;
use std::path::{Path, PathBuf};

/// A file that logins are kept in, or in a helper that it names. Read when opened, written by [`CredentialFile::save`].
pub struct CredentialFile {
    path: PathBuf,
    file: AuthFile,
    settings: HelperSettings,
}

impl fmt::Debug for CredentialFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CredentialFile")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

/// Where a login went.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Kept {
    /// Into the file, where whoever may read it can read them.
    File,
    /// To this helper (`docker-credential-NAME`).
    Helper(String),
}

impl CredentialFile {
    /// Reads it; one that is not there is empty.
    ///
    /// # Errors
    /// It cannot be read, or is no such file.
    pub fn open(path: &Path, settings: HelperSettings) -> Result<Self, Error> {
        let file = AuthFile::read(path)?.unwrap_or_else(|| AuthFile::empty(path));
        Ok(Self {
            path: path.to_owned(),
            file,
            settings,
        })
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Keeps a login for a registry (`host[:port]`, with `/path` for a part of it).
    ///
    /// # Errors
    /// A helper's.
    pub fn store(&mut self, registry: &str, credential: &Credential) -> Result<Kept, Error> {
        let helper = self
            .file
            .store(&server(registry), credential, self.settings)?;
        Ok(helper.map_or(Kept::File, Kept::Helper))
    }

    /// Forgets a registry's login. Says whether there was one.
    ///
    /// # Errors
    /// A helper's.
    pub fn erase(&mut self, registry: &str) -> Result<bool, Error> {
        self.file.erase(&server(registry), self.settings)
    }

    /// The registries there are logins for, as they are spelled in the file.
    ///
    /// # Errors
    /// A helper's; a file with another form.
    pub fn registries(&self) -> Result<Vec<String>, Error> {
        self.file.servers(self.settings)
    }

    /// What is kept for a registry.
    ///
    /// # Errors
    /// A helper's; a file with another form.
    pub fn credential(&self, registry: &str) -> Result<Option<Credential>, Error> {
        let (host, path) = registry.split_once('/').unwrap_or((registry, ""));
        for place in self.file.places(host, path)? {
            let found = match place {
                Place::Entry { key, entry } => self.file.credential(key, entry)?,
                Place::Helper { name, server } => self
                    .file
                    .runner(name, self.settings)
                    .get(&server)?
                    .map(helper::Kept::into_credential),
            };
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// Replaces the file in one step; only its owner may read it.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn save(self) -> Result<(), Error> {
        self.file.save(&self.path)
    }
}

/// The key of a registry in a file.
fn server(registry: &str) -> String {
    match registry.contains('/') {
        true => registry.to_owned(),
        false => key::server_name(registry),
    }
}
