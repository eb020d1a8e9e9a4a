//! Access to repositories: from a server's challenges to an `Authorization` header.
//!
//! Anonymous bearer tokens only; credentials would enter where a token is asked for.

mod bearer;
mod challenge;

use crate::transport::{Response, Transport};
use crate::{Error, RetryPolicy};
use bearer::{TokenCache, TokenRequest};
pub(crate) use challenge::Challenge;
use reqwest::header::{HeaderValue, WWW_AUTHENTICATE};

/// What a server wants of who asks.
#[derive(Clone, Debug)]
pub(crate) enum Demand {
    /// Nothing.
    Nothing,
    /// A token of its token service.
    Bearer(Challenge),
    /// Only schemes that need credentials; the first one's name.
    Login(String),
}

impl Demand {
    /// Reads the challenges of an answer with status 401; others demand nothing.
    pub(crate) fn of(response: &Response) -> Self {
        if response.status() != reqwest::StatusCode::UNAUTHORIZED {
            return Self::Nothing;
        }
        let challenges: Vec<Challenge> = response
            .headers(&WWW_AUTHENTICATE)
            .flat_map(challenge::parse)
            .collect();
        let bearer = challenges.iter().find(|challenge| challenge.is("Bearer"));
        match (bearer, challenges.first()) {
            (Some(bearer), _) => Self::Bearer(bearer.clone()),
            (None, Some(first)) => Self::Login(first.scheme.clone()),
            (None, None) => Self::Nothing,
        }
    }
}

/// Who asks, and for what.
pub(crate) struct Access<'a> {
    /// For messages.
    pub(crate) registry: &'a str,
    /// `repository:library/busybox:pull`.
    pub(crate) scope: &'a str,
    /// Plain HTTP is what the registry itself is spoken to in.
    pub(crate) plain: bool,
    /// TLS of the registry's own host is not verified.
    pub(crate) unverified: bool,
    pub(crate) retry: RetryPolicy,
}

/// The tokens of a client.
#[derive(Default)]
pub(crate) struct Authorizer {
    tokens: TokenCache,
}

impl Authorizer {
    /// The header that meets a demand. `rejected` is the header that the server just refused, so that
    /// a token that ran out early is replaced, once for all who wait for it.
    pub(crate) async fn authorization(
        &self,
        transport: &Transport,
        demand: &Demand,
        access: &Access<'_>,
        rejected: Option<&HeaderValue>,
    ) -> Result<Option<HeaderValue>, Error> {
        match demand {
            Demand::Nothing => Ok(None),
            Demand::Login(scheme) => Err(Error::LoginRequired {
                registry: access.registry.to_owned(),
                scheme: scheme.clone(),
            }),
            Demand::Bearer(challenge) => {
                let request = TokenRequest::new(transport, challenge, access)?;
                let token = self.tokens.token(transport, &request, rejected).await?;
                Ok(Some(token))
            }
        }
    }
}
