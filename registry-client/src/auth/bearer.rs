//! The token service: asking for a bearer token, and keeping it per service and scope until it runs out.
//!
//! Specification: "Token Authentication Specification" of the distribution project.

use super::{Access, Challenge};
use crate::transport::retry::Backoff;
use crate::transport::{Request, Response, Transport, hosts, redact};
use crate::{Error, RetryPolicy};
use reqwest::header::HeaderValue;
use reqwest::{Method, Url};
use serde::Deserialize;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lifetime of a token whose service names none, and the least one may name.
const LEAST_LIFETIME: Duration = Duration::from_secs(60);
/// Longest lifetime believed.
const MOST_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// Tokens are replaced this long before they run out, so that none runs out under way.
const MARGIN: Duration = Duration::from_secs(15);
/// Bytes read of a token service's answer.
const ANSWER_LIMIT: u64 = 1024 * 1024;

/// What to ask a token service for.
pub(super) struct TokenRequest {
    url: Url,
    scope: String,
    retry: RetryPolicy,
    /// The token service is on the registry's own host, whose TLS is not verified.
    unverified: bool,
}

impl TokenRequest {
    pub(super) fn new(
        transport: &Transport,
        challenge: &Challenge,
        access: &Access<'_>,
    ) -> Result<Self, Error> {
        let scope = challenge.param("scope").filter(|scope| !scope.is_empty());
        let scope = scope.unwrap_or(access.scope).to_owned();
        let realm = challenge.param("realm").unwrap_or_default();
        let refuse = |reason: &str| Error::Token {
            realm: redact::text(realm),
            scope: scope.clone(),
            source: Box::new(Error::Protocol {
                url: access.registry.to_owned(),
                reason: reason.to_owned(),
            }),
        };
        let Ok(mut url) = Url::parse(realm) else {
            return Err(refuse("its WWW-Authenticate header has no URL as realm"));
        };
        let host = url.host_str().unwrap_or_default();
        let port = url.port_or_known_default();
        match url.scheme() {
            "https" => {}
            "http" if access.plain || transport.may_be_insecure(host, port) => {}
            "http" => return Err(refuse("its token service would be asked in plain HTTP")),
            _ => return Err(refuse("its token service is neither HTTP nor HTTPS")),
        }
        let own_host = hosts::split(access.registry).0 == host.trim_matches(['[', ']']);
        {
            let mut query = url.query_pairs_mut();
            if let Some(service) = challenge.param("service") {
                query.append_pair("service", service);
            }
            query.append_pair("scope", &scope);
        }
        Ok(Self {
            url,
            scope,
            retry: access.retry,
            unverified: access.unverified && own_host,
        })
    }

    async fn fetch(&self, transport: &Transport) -> Result<Token, Error> {
        let request = Request {
            unverified: self.unverified,
            ..Request::new(Method::GET, self.url.clone())
        };
        let mut backoff = Backoff::new(self.retry, false);
        loop {
            let error = match self.attempt(transport, &request).await {
                Ok(token) => return Ok(token),
                Err(error) => error,
            };
            backoff.after(error).await.map_err(|source| {
                let mut realm = self.url.clone();
                realm.set_query(None);
                Error::Token {
                    realm: redact::url(&realm),
                    scope: self.scope.clone(),
                    source: Box::new(source),
                }
            })?;
        }
    }

    async fn attempt(&self, transport: &Transport, request: &Request) -> Result<Token, Error> {
        let mut response = transport.send(request).await?;
        if !response.status().is_success() {
            return Err(response.into_error().await);
        }
        match response.read_within(ANSWER_LIMIT).await? {
            Some(body) => Token::from_answer(&response, &body),
            None => Err(response.protocol_error("it is too long for a token")),
        }
    }
}

#[derive(Deserialize)]
struct Answer {
    token: Option<String>,
    /// The OAuth 2 name of the same.
    access_token: Option<String>,
    /// Seconds.
    expires_in: Option<u64>,
}

struct Token {
    header: HeaderValue,
    until: Instant,
}

impl Token {
    fn from_answer(response: &Response, body: &[u8]) -> Result<Self, Error> {
        // The parser's message may quote the body, and so the token.
        let answer: Answer = serde_json::from_slice(body)
            .map_err(|_| response.protocol_error("it is not the JSON object of a token"))?;
        let token = [answer.token, answer.access_token]
            .into_iter()
            .flatten()
            .find(|token| !token.is_empty())
            .ok_or_else(|| response.protocol_error("it has no token"))?;
        let mut header = HeaderValue::try_from(format!("Bearer {token}"))
            .map_err(|_| response.protocol_error("its token has characters no header can hold"))?;
        header.set_sensitive(true);
        let until = Instant::now() + usable_for(answer.expires_in);
        Ok(Self { header, until })
    }
}

/// How long a token is used that its service gives so many seconds.
fn usable_for(expires_in: Option<u64>) -> Duration {
    let lifetime = Duration::from_secs(expires_in.unwrap_or(0));
    lifetime.clamp(LEAST_LIFETIME, MOST_LIFETIME) - MARGIN
}

type Slot = Arc<tokio::sync::Mutex<Option<Token>>>;

/// Tokens by the URL that gives them, which holds realm, service and scope.
#[derive(Default)]
pub(super) struct TokenCache {
    slots: Mutex<HashMap<String, Slot>>,
}

impl TokenCache {
    /// A token that is valid and not `rejected`. Whoever asks for the same meanwhile waits for this one.
    pub(super) async fn token(
        &self,
        transport: &Transport,
        request: &TokenRequest,
        rejected: Option<&HeaderValue>,
    ) -> Result<HeaderValue, Error> {
        let slot = {
            let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(slots.entry(request.url.to_string()).or_default())
        };
        let mut held = slot.lock().await;
        if let Some(token) = held.as_ref()
            && token.until > Instant::now()
            && rejected != Some(&token.header)
        {
            return Ok(token.header.clone());
        }
        let token = request.fetch(transport).await?;
        let header = token.header.clone();
        *held = Some(token);
        Ok(header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes() {
        let cases = [
            (None, 45),
            (Some(0), 45),
            (Some(60), 45),
            (Some(300), 285),
            (Some(u64::MAX), 86_385),
        ];
        for (expires_in, seconds) in cases {
            assert_eq!(
                usable_for(expires_in),
                Duration::from_secs(seconds),
                "{expires_in:?}"
            );
        }
    }
}
