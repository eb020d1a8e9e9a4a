//! What registries list: repositories, and what their search finds.

use super::Remote;
use crate::Error;
use registry_client::{Client, Found};
use std::future::Future;

impl Remote {
    /// All repositories of a registry (`host[:port]`).
    ///
    /// # Errors
    /// The registry does not tell them, or cannot be asked.
    pub fn catalog(&self, host: &str) -> Result<Vec<String>, Error> {
        self.list(&format!("repositories of {host}"), |client| async move {
            client.catalog(host).await
        })
    }

    /// Searches a registry; `None` where it has no search.
    ///
    /// # Errors
    /// The registry cannot be asked.
    pub fn search(
        &self,
        host: &str,
        term: &str,
        limit: usize,
    ) -> Result<Option<Vec<Found>>, Error> {
        self.list(&format!("what {host} finds"), |client| async move {
            match client.search(host, term, limit).await {
                Err(registry_client::Error::NoSearch { .. }) => Ok(None),
                answered => answered.map(Some),
            }
        })
    }

    fn list<T, F>(&self, what: &str, call: impl FnOnce(Client) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, registry_client::Error>>,
    {
        self.attempt(call)?.map_err(|source| Error::List {
            what: what.to_owned(),
            source,
        })
    }
}
