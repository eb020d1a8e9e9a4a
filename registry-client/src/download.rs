//! Plain downloads over the clients that registries are spoken to with: one GET, conditional where the caller knows an
//! earlier answer. One that breaks off goes on where it was if the server can tell that the file is still the same,
//! and starts again else.
//!
//! Knows nothing of registries' logins and keeps nothing.

use crate::blob::{PROGRESS, range_start};
use crate::transport::retry::{self, Backoff};
use crate::transport::{Body, Request, Response, redact};
use crate::{Client, Error};
use reqwest::header::{
    AUTHORIZATION, CONTENT_DISPOSITION, CONTENT_RANGE, DATE, ETAG, HeaderName, HeaderValue,
    IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, LAST_MODIFIED, RANGE, RETRY_AFTER,
};
use reqwest::{Method, StatusCode, Url};
use std::fmt;

/// What to download.
#[derive(Clone, Default)]
pub struct Download {
    /// The URL; credentials in it are sent as Basic authentication.
    pub url: String,
    /// `Authorization`, sent to the URL's own origin only.
    pub authorization: Option<String>,
    /// `If-None-Match`.
    pub etag: Option<String>,
    /// `If-Modified-Since`.
    pub modified: Option<String>,
}

/// URL and header may hold secrets.
impl fmt::Debug for Download {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Download")
            .field("url", &redact::text(&self.url))
            .field("authorization", &self.authorization.is_some())
            .field("etag", &self.etag)
            .field("modified", &self.modified)
            .finish()
    }
}

/// What an answer says of its body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DownloadHead {
    /// `ETag`, as sent.
    pub etag: Option<String>,
    /// `Last-Modified`, as sent.
    pub modified: Option<String>,
    /// `Content-Disposition`, as sent.
    pub disposition: Option<String>,
    /// `Content-Length`.
    pub length: Option<u64>,
}

impl DownloadHead {
    /// `Last-Modified` in seconds since 1970, where it is a date.
    #[must_use]
    pub fn modified_time(&self) -> Option<i64> {
        let seconds = retry::http_date(self.modified.as_deref()?)?;
        i64::try_from(seconds).ok()
    }
}

/// How a download ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Downloaded {
    /// The answer to a conditional request: nothing new. The head may lack what the earlier answer had.
    NotModified(DownloadHead),
    /// The receiver has the whole body.
    Complete(DownloadHead),
    /// The receiver did not want the body.
    Stopped(DownloadHead),
}

/// Whether a receiver wants the body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flow {
    /// Go on.
    Continue,
    /// Leave the body.
    Stop,
}

/// Takes a body.
pub trait Receiver: Send {
    /// A body begins, perhaps again from its start after a failure: what came before is void.
    ///
    /// # Errors
    /// Whatever keeps it from taking the body.
    fn begin(&mut self, head: &DownloadHead) -> std::io::Result<Flow>;

    /// The next bytes.
    ///
    /// # Errors
    /// Whatever keeps it from taking them.
    fn bytes(&mut self, bytes: &[u8]) -> std::io::Result<()>;
}

impl Client {
    /// Downloads. Broken connections and server errors are tried again.
    ///
    /// # Errors
    /// An address that is none, no answer, a status that is neither success nor "not modified", a receiver that fails.
    pub async fn download(
        &self,
        download: &Download,
        receiver: &mut dyn Receiver,
    ) -> Result<Downloaded, Error> {
        let first = request(download)?;
        let registries = &self.inner.registries;
        let mut backoff = Backoff::new(registries.retry(), false);
        let mut part = Part::default();
        loop {
            let before = part.received;
            let sent = match part.rest() {
                None => registries.transport.send(&first).await,
                Some(headers) => {
                    let rest = Request {
                        headers,
                        ..request(download)?
                    };
                    registries.transport.send(&rest).await
                }
            };
            let ended = match sent {
                Ok(response) => part.read(response, receiver).await,
                Err(error) => Err(error),
            };
            match ended {
                Ok(downloaded) => return Ok(downloaded),
                Err(error) => {
                    if part.resumable() && part.received >= before + PROGRESS {
                        backoff.progressed();
                    }
                    backoff.after(error).await?;
                }
            }
        }
    }
}

/// What the receiver has of a body that broke off.
#[derive(Default)]
struct Part {
    head: DownloadHead,
    received: u64,
}

impl Part {
    /// A strong validator names the very bytes (RFC 9110 section 13.1.5).
    fn resumable(&self) -> bool {
        let strong = |etag: &String| etag.starts_with('"');
        self.received > 0 && self.head.etag.as_ref().is_some_and(strong)
    }

    /// The headers that ask for the rest alone.
    fn rest(&self) -> Option<Vec<(HeaderName, HeaderValue)>> {
        let etag = self.head.etag.as_deref().filter(|_| self.resumable())?;
        let range = HeaderValue::from_str(&format!("bytes={}-", self.received)).ok()?;
        Some(vec![
            (RANGE, range),
            (IF_RANGE, HeaderValue::from_str(etag).ok()?),
        ])
    }

    /// Whether an answer is the rest that was asked for.
    fn continues(&self, response: &Response) -> bool {
        response.status() == StatusCode::PARTIAL_CONTENT
            && self.resumable()
            && response
                .header(&ETAG)
                .is_none_or(|etag| Some(etag) == self.head.etag.as_deref())
            && response.header(&CONTENT_RANGE).and_then(range_start) == Some(self.received)
    }

    /// The next attempt starts again.
    fn again(&mut self, url: String) -> Error {
        let Self { head, received } = std::mem::take(self);
        Error::Short {
            url,
            received,
            expected: head.length.unwrap_or_default(),
        }
    }

    async fn read(
        &mut self,
        mut response: Response,
        receiver: &mut dyn Receiver,
    ) -> Result<Downloaded, Error> {
        let text = |name: &HeaderName| response.header(name).map(str::to_owned);
        let head = DownloadHead {
            etag: text(&ETAG),
            modified: text(&LAST_MODIFIED),
            disposition: text(&CONTENT_DISPOSITION),
            length: response.content_length(),
        };
        match response.status() {
            StatusCode::NOT_MODIFIED => return Ok(Downloaded::NotModified(head)),
            status if status.is_success() => {}
            StatusCode::RANGE_NOT_SATISFIABLE if self.received > 0 => {
                return Err(self.again(response.shown_url()));
            }
            status => {
                let retry_after = response
                    .header(&RETRY_AFTER)
                    .and_then(|value| retry::retry_after(value, response.header(&DATE)));
                return Err(Error::DownloadStatus {
                    status: status.as_u16(),
                    retry_after,
                });
            }
        }
        let failed = |url: String| {
            move |source| Error::Sink {
                digest: url,
                source,
            }
        };
        let url = response.shown_url();
        if response.status() == StatusCode::PARTIAL_CONTENT {
            if !self.continues(&response) {
                return Err(self.again(url));
            }
        } else {
            *self = Self {
                head: head.clone(),
                received: 0,
            };
            if receiver.begin(&head).map_err(failed(url.clone()))? == Flow::Stop {
                return Ok(Downloaded::Stopped(head));
            }
        }
        while let Some(chunk) = response.chunk().await? {
            self.received += chunk.len() as u64;
            receiver.bytes(&chunk).map_err(failed(url.clone()))?;
        }
        match self.head.length {
            Some(expected) if self.received < expected => Err(Error::Short {
                url,
                received: self.received,
                expected,
            }),
            _ => Ok(Downloaded::Complete(self.head.clone())),
        }
    }
}

fn request(download: &Download) -> Result<Request, Error> {
    let bad = |reason: String| Error::DownloadUrl {
        url: redact::text(&download.url),
        reason,
    };
    let mut url = Url::parse(&download.url).map_err(|error| bad(error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(bad("it is neither HTTP nor HTTPS".to_owned()));
    }
    url.set_fragment(None);
    let header = |value: &String, name: HeaderName| {
        HeaderValue::from_str(value).map_err(|_| bad(format!("{name} cannot be sent as a header")))
    };
    let authorization = match &download.authorization {
        Some(value) => {
            // The library would send the URL's own credentials as a second header.
            let _ = url.set_username("");
            let _ = url.set_password(None);
            let mut value = header(value, AUTHORIZATION)?;
            value.set_sensitive(true);
            Some(value)
        }
        None => None,
    };
    let mut headers = Vec::new();
    for (name, value) in [
        (IF_NONE_MATCH, &download.etag),
        (IF_MODIFIED_SINCE, &download.modified),
    ] {
        if let Some(value) = value {
            headers.push((name.clone(), header(value, name)?));
        }
    }
    Ok(Request {
        method: Method::GET,
        url,
        headers,
        authorization,
        unverified: false,
        page: true,
        body: Body::Empty,
    })
}
