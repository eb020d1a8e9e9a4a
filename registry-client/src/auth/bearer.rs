//! Bearer tokens: asking a registry's token service for one, and keeping it until it runs out.
//!
//! Specifications: "Token Authentication Specification" and "Oauth2 Token Authentication" of the distribution project.

use super::{Access, Challenge, Granted, Scopes, basic_header};
use crate::credentials::{Credential, Found, Secret};
use crate::transport::retry::Backoff;
use crate::transport::{Body, Request, Response, Transport, hosts, redact};
use crate::{Error, RetryPolicy};
use reqwest::header::{CONTENT_TYPE, HeaderValue};
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
/// Longest token used, in bytes: no server takes longer headers.
const TOKEN_LIMIT: usize = 64 * 1024;
/// What Kiln is called by token services that ask.
const CLIENT_ID: &str = "kiln";

/// What to ask a token service for.
pub(super) struct TokenRequest {
    registry: String,
    realm: Url,
    service: Option<String>,
    scopes: Scopes,
    found: Option<Arc<Found>>,
    retry: RetryPolicy,
    /// The token service is on the registry's own host, whose TLS is not verified.
    unverified: bool,
    /// A refresh token is wanted too.
    pub(super) offline: bool,
}

impl TokenRequest {
    pub(super) fn new(
        transport: &Transport,
        challenge: &Challenge,
        access: &Access<'_>,
        found: Option<Arc<Found>>,
    ) -> Result<Self, Error> {
        let mut scopes = Scopes::parse(access.scope);
        if let Some(wanted) = challenge.param("scope") {
            scopes.merge(Scopes::parse(wanted));
        }
        let realm = challenge.param("realm").unwrap_or_default();
        let refuse = |reason: &str| Error::Token {
            registry: access.registry.into(),
            realm: redact::text(realm).into(),
            scope: scope_text(&scopes),
            login: None,
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
        url.set_fragment(None);
        Ok(Self {
            registry: access.registry.to_owned(),
            realm: url,
            service: challenge.param("service").map(str::to_owned),
            scopes,
            found,
            retry: access.retry,
            unverified: access.unverified && own_host,
            offline: false,
        })
    }

    fn key(&self) -> TokenKey {
        TokenKey {
            realm: self.realm.to_string(),
            service: self.service.clone(),
            scopes: self.scopes.clone(),
            found: self.found.clone(),
        }
    }

    fn refresh_key(&self) -> TokenKey {
        TokenKey {
            scopes: Scopes::default(),
            ..self.key()
        }
    }

    fn origin(&self) -> Option<&str> {
        self.found.as_ref().map(|found| found.origin.as_str())
    }

    /// For messages.
    pub(super) fn with(&self) -> Option<String> {
        self.found.as_ref().map(|found| found.with())
    }

    /// A failure of the service, with what was asked and with whose credentials.
    pub(super) fn failed(&self, source: Error) -> Error {
        let mut realm = self.realm.clone();
        realm.set_query(None);
        Error::Token {
            registry: self.registry.as_str().into(),
            realm: redact::url(&realm).into(),
            scope: scope_text(&self.scopes),
            login: self.with().map(String::into_boxed_str),
            source: Box::new(source),
        }
    }

    /// Asks until there is an answer, or none to be expected.
    async fn fetch(&self, transport: &Transport, refresh: Option<&Secret>) -> Result<Token, Error> {
        let mut backoff = Backoff::new(self.retry, false);
        loop {
            let error = match self.attempt(transport, refresh).await {
                Ok(token) => return Ok(token),
                Err(error) => error,
            };
            backoff.after(error).await?;
        }
    }

    async fn attempt(
        &self,
        transport: &Transport,
        refresh: Option<&Secret>,
    ) -> Result<Token, Error> {
        if let Some(token) = refresh {
            let grant = [
                ("grant_type", "refresh_token"),
                ("refresh_token", token.expose()),
            ];
            return self.post(transport, &grant).await;
        }
        let Some(Credential::Password { username, password }) =
            self.found.as_ref().map(|found| &found.credential)
        else {
            return self.get(transport, None).await;
        };
        match self.get(transport, Some((username, password))).await {
            // Services that know OAuth 2 alone.
            Err(Error::Status {
                status: 404 | 405, ..
            }) => {
                let grant = [
                    ("grant_type", "password"),
                    ("username", username),
                    ("password", password.expose()),
                ];
                self.post(transport, &grant).await
            }
            answer => answer,
        }
    }

    async fn get(
        &self,
        transport: &Transport,
        login: Option<(&str, &Secret)>,
    ) -> Result<Token, Error> {
        let mut url = self.realm.clone();
        {
            let mut query = url.query_pairs_mut();
            if let Some(service) = &self.service {
                query.append_pair("service", service);
            }
            for scope in self.scopes.each() {
                query.append_pair("scope", &scope);
            }
            if let Some((username, _)) = login {
                query.append_pair("account", username);
            }
            if self.offline {
                query.append_pair("client_id", CLIENT_ID);
                query.append_pair("offline_token", "true");
            }
        }
        let request = Request {
            authorization: login.map(|(name, password)| basic_header(name, password.expose())),
            unverified: self.unverified,
            ..Request::new(Method::GET, url)
        };
        Token::read(transport.send(&request).await?).await
    }

    async fn post(&self, transport: &Transport, grant: &[(&str, &str)]) -> Result<Token, Error> {
        // A query string's encoding is that of a form.
        let mut form = Url::parse("form:").expect("BUG: a constant URL");
        {
            let mut pairs = form.query_pairs_mut();
            pairs.extend_pairs(grant);
            pairs.append_pair("client_id", CLIENT_ID);
            if let Some(service) = &self.service {
                pairs.append_pair("service", service);
            }
            if !self.scopes.is_empty() {
                pairs.append_pair("scope", &self.scopes.to_string());
            }
            if self.offline {
                pairs.append_pair("access_type", "offline");
            }
        }
        let form = form.query().unwrap_or_default().to_owned();
        let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
        let request = Request {
            headers: vec![(CONTENT_TYPE, kind)],
            body: Body::Bytes(form.into()),
            unverified: self.unverified,
            ..Request::new(Method::POST, self.realm.clone())
        };
        // The secret is in the body: it goes nowhere else.
        Token::read(transport.send_once(&request).await?).await
    }
}

fn scope_text(scopes: &Scopes) -> String {
    match scopes.is_empty() {
        true => "a login".to_owned(),
        false => scopes.to_string(),
    }
}

#[derive(Deserialize)]
struct Answer {
    token: Option<String>,
    /// The OAuth 2 name of the same.
    access_token: Option<String>,
    /// For later tokens of other scopes.
    refresh_token: Option<String>,
    /// Seconds.
    expires_in: Option<u64>,
}

pub(super) struct Token {
    pub(super) header: HeaderValue,
    until: Instant,
    pub(super) refresh: Option<Secret>,
    /// Instead of the credentials' origin.
    note: Option<String>,
}

impl Token {
    async fn read(mut response: Response) -> Result<Self, Error> {
        if !response.status().is_success() {
            return Err(response.into_error().await);
        }
        match response.read_within(ANSWER_LIMIT).await? {
            Some(body) => Self::from_answer(&response, &body),
            None => Err(response.protocol_error("it is too long for a token")),
        }
    }

    fn from_answer(response: &Response, body: &[u8]) -> Result<Self, Error> {
        // The parser's message may quote the body, and so the token.
        let answer: Answer = serde_json::from_slice(body)
            .map_err(|_| response.protocol_error("it is not the JSON object of a token"))?;
        let token = [answer.token, answer.access_token]
            .into_iter()
            .flatten()
            .find(|token| !token.is_empty())
            .ok_or_else(|| response.protocol_error("it has no token"))?;
        if token.len() > TOKEN_LIMIT {
            return Err(response.protocol_error("its token is too long"));
        }
        let mut header = HeaderValue::try_from(format!("Bearer {token}"))
            .map_err(|_| response.protocol_error("its token has characters no header can hold"))?;
        header.set_sensitive(true);
        let refresh = answer
            .refresh_token
            .filter(|token| !token.is_empty() && token.len() <= TOKEN_LIMIT);
        Ok(Self {
            header,
            until: Instant::now() + usable_for(answer.expires_in),
            refresh: refresh.map(Secret::new),
            note: None,
        })
    }
}

/// How long a token is used that its service gives so many seconds.
fn usable_for(expires_in: Option<u64>) -> Duration {
    let lifetime = Duration::from_secs(expires_in.unwrap_or(0));
    lifetime.clamp(LEAST_LIFETIME, MOST_LIFETIME) - MARGIN
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct TokenKey {
    realm: String,
    service: Option<String>,
    scopes: Scopes,
    found: Option<Arc<Found>>,
}

type Slot = Arc<tokio::sync::Mutex<Option<Token>>>;

/// Tokens by who gives them to whom, and what they allow.
#[derive(Default)]
pub(super) struct TokenCache {
    slots: Mutex<HashMap<TokenKey, Slot>>,
    /// Given by the service beside a token; serve for all scopes.
    refresh: Mutex<HashMap<TokenKey, Secret>>,
}

impl TokenCache {
    /// A token that is valid and not `rejected`. Whoever asks for the same meanwhile waits for this one.
    pub(super) async fn token(
        &self,
        transport: &Transport,
        request: &TokenRequest,
        rejected: Option<&HeaderValue>,
    ) -> Result<Granted, Error> {
        let slot = {
            let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(slots.entry(request.key()).or_default())
        };
        let granted = |token: &Token| Granted {
            header: Some(token.header.clone()),
            login: token.note.clone().or_else(|| request.with()),
        };
        let mut held = slot.lock().await;
        if let Some(token) = held.as_ref()
            && token.until > Instant::now()
            && rejected != Some(&token.header)
        {
            return Ok(granted(token));
        }
        let token = self
            .fetch(transport, request)
            .await
            .map_err(|error| request.failed(error))?;
        let answer = granted(&token);
        *held = Some(token);
        Ok(answer)
    }

    /// Asks with the best there is: a refresh token, credentials, nothing.
    pub(super) async fn fetch(
        &self,
        transport: &Transport,
        request: &TokenRequest,
    ) -> Result<Token, Error> {
        if let Some(Credential::Identity(token)) =
            request.found.as_ref().map(|found| &found.credential)
        {
            return request.fetch(transport, Some(token)).await;
        }
        let key = request.refresh_key();
        let refresh = {
            let known = self.refresh.lock().unwrap_or_else(PoisonError::into_inner);
            known.get(&key).cloned()
        };
        if let Some(refresh) = refresh {
            match request.fetch(transport, Some(&refresh)).await {
                Ok(token) => {
                    self.remember(key, &token);
                    return Ok(token);
                }
                // It ran out, or the service takes none after all.
                Err(Error::Status { .. }) => {
                    let mut known = self.refresh.lock().unwrap_or_else(PoisonError::into_inner);
                    known.remove(&key);
                }
                Err(error) => return Err(error),
            }
        }
        match request.fetch(transport, None).await {
            Ok(token) => {
                self.remember(key, &token);
                Ok(token)
            }
            Err(Error::Status { status: 401, .. }) if may_be_anonymous(request) => {
                anonymous(transport, request).await
            }
            Err(error) => Err(error),
        }
    }

    fn remember(&self, key: TokenKey, token: &Token) {
        if let Some(refresh) = &token.refresh {
            let mut known = self.refresh.lock().unwrap_or_else(PoisonError::into_inner);
            known.insert(key, refresh.clone());
        }
    }
}

/// Whether credentials that nobody typed for this command may turn out useless without harm: what anybody may
/// read is read all the same.
fn may_be_anonymous(request: &TokenRequest) -> bool {
    let stored = request.found.as_ref().is_some_and(|found| found.stored);
    stored && !request.offline && !request.scopes.is_empty() && request.scopes.only_reads()
}

async fn anonymous(transport: &Transport, request: &TokenRequest) -> Result<Token, Error> {
    let host = request.realm.host_str().unwrap_or_default();
    let origin = request.origin().unwrap_or_default();
    tracing::warn!(host, origin, "credentials refused, going on without");
    let mut token = request.get(transport, None).await?;
    token.note = Some(format!(
        "without credentials, for {host} refused those from {origin}"
    ));
    Ok(token)
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
