//! An answer and its body, read no slower than a least rate.
//!
//! Knows nothing of what the body means.

use super::echo::Secrets;
use super::{redact, retry};
use crate::{Error, Timeouts, registry_message};
use bytes::Bytes;
use reqwest::header::{CONTENT_LENGTH, DATE, HeaderName, RETRY_AFTER};
use reqwest::{StatusCode, Url};
use std::time::{Duration, Instant};
use tokio::sync::OwnedSemaphorePermit;

/// Bytes read of an error's body.
const ERROR_BODY_LIMIT: u64 = 64 * 1024;

/// How fast a body comes: in each window of waiting there must be so many bytes. Only waiting for the
/// server counts, not what the reader does with the bytes.
struct Pace {
    window: Duration,
    least: u64,
    waited: Duration,
    received: u64,
}

impl Pace {
    fn new(timeouts: Timeouts) -> Self {
        let least = timeouts.idle.as_secs_f64() * timeouts.least_rate as f64;
        Self {
            window: timeouts.idle,
            least: least as u64,
            waited: Duration::ZERO,
            received: 0,
        }
    }

    /// How long the next piece may take: until the window ends, where it has too little so far.
    fn left(&self) -> Duration {
        if self.received >= self.least {
            self.window
        } else {
            self.window.saturating_sub(self.waited)
        }
    }

    fn accepts(&mut self, waited: Duration, bytes: u64) -> bool {
        self.waited += waited;
        self.received += bytes;
        if self.waited < self.window {
            return true;
        }
        let enough = self.received >= self.least;
        self.waited = Duration::ZERO;
        self.received = 0;
        enough
    }
}

/// An answer whose body is still to come. Holds its host's permit until dropped.
pub(crate) struct Response {
    method: &'static str,
    url: Url,
    answer: reqwest::Response,
    received: u64,
    pace: Pace,
    /// With whose credentials it was asked for, for messages.
    pub(crate) login: Option<String>,
    secrets: Secrets,
    _permit: OwnedSemaphorePermit,
}

impl Response {
    pub(super) fn new(
        method: &'static str,
        url: Url,
        answer: reqwest::Response,
        timeouts: Timeouts,
        (secrets, permit): (Secrets, OwnedSemaphorePermit),
    ) -> Self {
        Self {
            method,
            url,
            answer,
            received: 0,
            pace: Pace::new(timeouts),
            login: None,
            secrets,
            _permit: permit,
        }
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.answer.status()
    }

    /// The URL that answered, after redirects.
    pub(crate) fn url(&self) -> &Url {
        &self.url
    }

    pub(crate) fn header(&self, name: &HeaderName) -> Option<&str> {
        self.answer.headers().get(name)?.to_str().ok()
    }

    pub(crate) fn headers(&self, name: &HeaderName) -> impl Iterator<Item = &str> {
        let values = self.answer.headers().get_all(name).iter();
        values.filter_map(|value| value.to_str().ok())
    }

    pub(crate) fn content_length(&self) -> Option<u64> {
        self.header(&CONTENT_LENGTH)?.trim().parse().ok()
    }

    /// The next piece of the body.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>, Error> {
        let started = Instant::now();
        let waited = tokio::time::timeout(self.pace.left(), self.answer.chunk()).await;
        let Ok(answered) = waited else {
            return Err(self.stalled());
        };
        let chunk = answered.map_err(|error| Error::Body {
            url: redact::url(&self.url),
            received: self.received,
            source: error.without_url(),
        })?;
        if let Some(bytes) = &chunk {
            self.received += bytes.len() as u64;
            if !self.pace.accepts(started.elapsed(), bytes.len() as u64) {
                return Err(self.stalled());
            }
        }
        Ok(chunk)
    }

    fn stalled(&self) -> Error {
        Error::Stalled {
            method: self.method,
            url: redact::url(&self.url),
            bytes: self.pace.received,
            window: self.pace.window,
        }
    }

    /// The whole body, or `None` when it is longer than `limit` bytes.
    pub(crate) async fn read_within(&mut self, limit: u64) -> Result<Option<Vec<u8>>, Error> {
        if self.content_length().is_some_and(|length| length > limit) {
            return Ok(None);
        }
        let mut body = Vec::new();
        while let Some(chunk) = self.chunk().await? {
            if body.len() as u64 + chunk.len() as u64 > limit {
                return Ok(None);
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Some(body))
    }

    /// This answer as an error, with what the server said.
    pub(crate) async fn into_error(mut self) -> Error {
        let retry_after = self
            .header(&RETRY_AFTER)
            .and_then(|value| retry::retry_after(value, self.header(&DATE)));
        let mut body = Vec::new();
        while let Ok(Some(chunk)) = self.chunk().await {
            body.extend_from_slice(&chunk);
            if body.len() as u64 >= ERROR_BODY_LIMIT {
                break;
            }
        }
        Error::Status {
            method: self.method,
            url: redact::url(&self.url).into(),
            status: self.answer.status().as_u16(),
            messages: registry_message::parse(&self.secrets.removed_from(body)).into(),
            retry_after,
            login: self.login.map(String::into_boxed_str),
        }
    }

    /// This answer as a breach of the protocol.
    pub(crate) fn protocol_error(&self, reason: impl Into<String>) -> Error {
        Error::Protocol {
            url: redact::url(&self.url),
            reason: reason.into(),
        }
    }

    pub(crate) fn shown_url(&self) -> String {
        redact::url(&self.url)
    }
}
