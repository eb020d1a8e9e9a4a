//! Trying a login out, before it is kept anywhere.

use crate::auth::Access;
use crate::registry::{Endpoint, Registries};
use crate::transport::Request;
use crate::{Client, Credential, Error, Reference, Secret};
use reqwest::Method;

/// What a registry said to credentials that it took.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct LoggedIn {
    /// Given by the token service to be kept instead of the password.
    pub identity_token: Option<Secret>,
    /// The registry asks nobody for credentials, so these were not looked at.
    pub unasked: bool,
}

impl Client {
    /// Shows credentials to a registry (`host[:port]`, with a part of it behind a `/` where they are for that
    /// alone), whatever others there are for it. Keeps nothing.
    ///
    /// # Errors
    /// Refused, unreachable.
    pub async fn login(&self, registry: &str, credential: &Credential) -> Result<LoggedIn, Error> {
        let (host, path) = registry.split_once('/').unwrap_or((registry, ""));
        let reference = Reference {
            registry: host.to_owned(),
            repository: path.to_owned(),
            tag: None,
            digest: None,
        };
        let endpoint = self.inner.home(&reference).await?;
        self.inner.registries.login_at(&endpoint, credential).await
    }
}

impl Registries {
    async fn login_at(
        &self,
        endpoint: &Endpoint,
        credential: &Credential,
    ) -> Result<LoggedIn, Error> {
        let contact = self.contact(endpoint).await?;
        let access = Access {
            registry: &endpoint.host,
            repository: &endpoint.repository,
            scope: "",
            plain: contact.base.scheme() == "http",
            unverified: self.is_insecure(endpoint),
            retry: self.retry(),
        };
        let (granted, identity_token) = self
            .authorizer
            .login(&self.transport, &contact.demand, &access, credential)
            .await?;
        let Some(header) = granted.header else {
            return Ok(LoggedIn {
                identity_token: None,
                unasked: true,
            });
        };
        let request = Request {
            authorization: Some(header),
            unverified: access.unverified,
            ..Request::new(Method::GET, contact.base)
        };
        let mut response = self.transport.send(&request).await?;
        response.login = granted.login;
        if !response.status().is_success() {
            return Err(response.into_error().await);
        }
        Ok(LoggedIn {
            identity_token,
            unasked: false,
        })
    }
}
