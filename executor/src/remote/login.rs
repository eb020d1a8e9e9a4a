//! Logins.

use super::Remote;
use crate::Error;
use registry_client::{Credential, LoggedIn};

impl Remote {
    /// Shows credentials to a registry; keeps nothing.
    ///
    /// # Errors
    /// Refused, unreachable.
    pub fn login(&self, registry: &str, credential: &Credential) -> Result<LoggedIn, Error> {
        self.attempt(|client| async move { client.login(registry, credential).await })?
            .map_err(|source| Error::Login {
                registry: registry.to_owned(),
                source,
            })
    }
}
