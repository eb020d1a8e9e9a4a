//! Access to repositories: from a server's challenges and the user's credentials to an `Authorization` header.
//!
//! Where credentials are found is the business of `credentials`; they go to the registry they are for and to the
//! token service that it names, and to nobody else.

mod bearer;
mod challenge;
mod login;
mod scope;

use crate::credentials::{Credential, Found, Keyring};
use crate::transport::{Response, Transport};
use crate::{ClientOptions, Error, RetryPolicy};
use base64::Engine as _;
use bearer::{TokenCache, TokenRequest};
pub(crate) use challenge::Challenge;
use reqwest::header::{HeaderValue, WWW_AUTHENTICATE};
use scope::Scopes;
use std::sync::Arc;

/// Challenges taken from one answer.
const CHALLENGE_LIMIT: usize = 16;

/// What a server wants of who asks.
#[derive(Clone, Debug)]
pub(crate) enum Demand {
    /// Nothing.
    Nothing,
    /// One of these.
    OneOf(Vec<Challenge>),
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
            .take(CHALLENGE_LIMIT)
            .collect();
        match challenges.is_empty() {
            true => Self::Nothing,
            false => Self::OneOf(challenges),
        }
    }

    /// For a ping's answer: some registries name an example of a scope in it, which nobody has access to.
    pub(crate) fn without_scope(mut self) -> Self {
        if let Self::OneOf(challenges) = &mut self {
            for challenge in challenges {
                challenge.remove("scope");
            }
        }
        self
    }

    /// Whether there is another answer to this demand than the one that was refused.
    pub(crate) fn may_be_met_after(&self, rejected: Option<&HeaderValue>) -> bool {
        match self {
            Self::Nothing => false,
            Self::OneOf(challenges) => {
                rejected.is_none() || challenges.iter().any(|challenge| challenge.is("Bearer"))
            }
        }
    }
}

/// Who asks, and for what.
pub(crate) struct Access<'a> {
    /// `host[:port]`: credentials are looked for under this name.
    pub(crate) registry: &'a str,
    /// Credentials can be for a part of a registry; empty for the registry as such.
    pub(crate) repository: &'a str,
    /// `repository:library/busybox:pull`; several have blanks between them.
    pub(crate) scope: &'a str,
    /// Plain HTTP is what the registry itself is spoken to in.
    pub(crate) plain: bool,
    /// TLS of the registry's own host is not verified.
    pub(crate) unverified: bool,
    pub(crate) retry: RetryPolicy,
}

/// What meets a demand.
#[derive(Clone, Default)]
pub(crate) struct Granted {
    /// The `Authorization` header.
    pub(crate) header: Option<HeaderValue>,
    /// Where the credentials come from, for messages.
    pub(crate) login: Option<String>,
}

/// The credentials and tokens of a client.
pub(crate) struct Authorizer {
    keyring: Keyring,
    tokens: TokenCache,
}

impl Authorizer {
    pub(crate) fn new(options: &ClientOptions) -> Self {
        Self {
            keyring: Keyring::new(options),
            tokens: TokenCache::default(),
        }
    }

    /// The header that meets a demand. `rejected` is the header that the server just refused, so that
    /// a token that ran out early is replaced, once for all who wait for it.
    pub(crate) async fn authorization(
        &self,
        transport: &Transport,
        demand: &Demand,
        access: &Access<'_>,
        rejected: Option<&HeaderValue>,
    ) -> Result<Granted, Error> {
        let Demand::OneOf(challenges) = demand else {
            return Ok(Granted::default());
        };
        let found = self
            .keyring
            .find(access.registry, access.repository)
            .await?;
        self.meet(transport, challenges, access, found, rejected)
            .await
    }

    async fn meet(
        &self,
        transport: &Transport,
        challenges: &[Challenge],
        access: &Access<'_>,
        found: Option<Arc<Found>>,
        rejected: Option<&HeaderValue>,
    ) -> Result<Granted, Error> {
        let login = found.as_ref().map(|found| found.with());
        let given = |header| Granted {
            header: Some(header),
            login: login.clone(),
        };
        let bearer = challenges.iter().find(|challenge| challenge.is("Bearer"));
        let basic = challenges.iter().find(|challenge| challenge.is("Basic"));
        match (bearer, basic, found.as_ref().map(|found| &found.credential)) {
            (Some(_), _, Some(Credential::RegistryToken(token))) => {
                return header(&format!("Bearer {}", token.expose()), access).map(given);
            }
            (Some(challenge), _, _) => {
                let request = TokenRequest::new(transport, challenge, access, found)?;
                return self.tokens.token(transport, &request, rejected).await;
            }
            (None, Some(_), Some(Credential::Password { username, password })) => {
                return Ok(given(basic_header(username, password.expose())));
            }
            _ => {}
        }
        let offered = challenges.iter().map(|challenge| challenge.scheme.as_str());
        let mut schemes: Vec<&str> = offered.collect();
        schemes.dedup();
        let scheme = schemes.join(" and ");
        Err(match found.map(|found| found.origin.clone()) {
            None => Error::LoginRequired {
                registry: access.registry.to_owned(),
                scheme,
            },
            Some(origin) => Error::LoginUnusable {
                registry: access.registry.to_owned(),
                scheme,
                origin,
            },
        })
    }
}

/// `Basic` of RFC 7617.
fn basic_header(username: &str, password: &str) -> HeaderValue {
    let pair = base64::engine::general_purpose::STANDARD.encode(format!("{username}:{password}"));
    let mut header = HeaderValue::try_from(format!("Basic {pair}"))
        .expect("BUG: base64 has only characters that headers can hold");
    header.set_sensitive(true);
    header
}

fn header(text: &str, access: &Access<'_>) -> Result<HeaderValue, Error> {
    let mut header = HeaderValue::try_from(text).map_err(|_| Error::LoginUnusable {
        registry: access.registry.to_owned(),
        scheme: "Bearer".to_owned(),
        origin: "a token with characters that no header can hold".to_owned(),
    })?;
    header.set_sensitive(true);
    Ok(header)
}
