//! One blob's upload: a session of the registry, brought to its end whatever breaks.
//!
//! A blob whose digest is known goes in one PUT. One that still grows goes in a PATCH that ends with it, and
//! a registry that asks for chunks gets chunks. After a failure the registry says how far it got (distribution
//! specification, "Pushing a blob in chunks"); where it cannot, the upload starts over.

use super::{BlobSource, PushedBlob, PushedHow};
use crate::Error;
use crate::registry::{Call, Endpoint, Registries, Target};
use crate::registry_message::ErrorCode;
use crate::transport::body::Piece;
use crate::transport::retry::Backoff;
use crate::transport::{Body, Response};
use oci_spec::image::Digest;
use reqwest::header::{CONTENT_RANGE, CONTENT_TYPE, HeaderName, HeaderValue, RANGE};
use reqwest::{Method, StatusCode, Url};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// After this many bytes a failure counts as the first one again.
const PROGRESS: u64 = 1024 * 1024;
/// A chunk, where the registry wants chunks but no longer ones.
const CHUNK: u64 = 16 * 1024 * 1024;
/// Longest shortest chunk that a registry may ask for.
const LONGEST_CHUNK: u64 = 1024 * 1024 * 1024;
/// Chunks are made no shorter than this for a server that finds them too long.
const SHORTEST_CHUNK: u64 = 1024 * 1024;
/// So many times more often than others an upload may start over that got bytes across.
const RESTARTS: u32 = 5;
const MINIMUM: HeaderName = HeaderName::from_static("oci-chunk-min-length");

/// An upload under way.
pub(super) struct Upload<'a> {
    registries: &'a Registries,
    endpoint: &'a Endpoint,
    source: Arc<dyn BlobSource>,
    scope: String,
    session: Option<Session>,
    /// Longest chunk, once the registry wanted chunks.
    chunk: Option<u64>,
    backoff: Backoff,
    /// Bytes of the last request; those of one without an end count as very many.
    asked: u64,
    /// The most bytes the registry ever had at a failure.
    confirmed: u64,
    /// Times the upload started over.
    restarts: u32,
    /// Those of the last ones before which next to nothing went over.
    futile: u32,
    /// Bytes sent, over all attempts.
    sent: Arc<AtomicU64>,
}

/// What the registry keeps of an unfinished upload.
struct Session {
    url: Url,
    /// Bytes it has.
    offset: u64,
    /// Something was sent that it has not confirmed.
    doubtful: bool,
}

/// What to do after a failure.
enum Cure {
    /// Wait, then ask how far the registry got.
    Wait,
    /// Ask how far the registry got.
    Ask,
    /// Start over.
    Restart,
    /// Nothing helps.
    None,
}

impl<'a> Upload<'a> {
    pub(super) fn new(
        registries: &'a Registries,
        endpoint: &'a Endpoint,
        source: &Arc<dyn BlobSource>,
    ) -> Self {
        Self {
            registries,
            endpoint,
            source: Arc::clone(source),
            scope: endpoint.scope("pull,push"),
            session: None,
            chunk: None,
            backoff: Backoff::new(registries.retry(), false),
            asked: 0,
            confirmed: 0,
            restarts: 0,
            futile: 0,
            sent: Arc::default(),
        }
    }

    /// Digest and size, if they are known yet.
    pub(super) async fn known(&self) -> Result<Option<(Digest, u64)>, Error> {
        let source = Arc::clone(&self.source);
        let asking = tokio::task::spawn_blocking(move || source.known());
        asking.await.map_err(|error| self.unreadable(error.into()))
    }

    /// Asks the registry to take the blob from another repository. A registry that will not opens a session
    /// instead, which the upload then uses; one that refuses in another way is not asked about it again.
    pub(super) async fn mount(&mut self, digest: &Digest, from: &Endpoint) -> Result<bool, Error> {
        let path = format!(
            "{}?mount={digest}&from={}",
            self.endpoint.path("blobs", "uploads/"),
            from.repository
        );
        let scope = format!("{} {}", self.scope, from.scope("pull"));
        let call = Call::new(Method::POST, path, scope);
        let response = match self.registries.call(self.endpoint, &call).await {
            Ok(response) => response,
            Err(error) => {
                tracing::debug!(error = error.chain(), "could not mount");
                return Ok(false);
            }
        };
        match response.status() {
            StatusCode::CREATED => return Ok(true),
            StatusCode::ACCEPTED => {}
            _ => return Ok(false),
        }
        let unused = self.session.take();
        if let Err(error) = self.begin(&response) {
            tracing::debug!(
                error = error.chain(),
                "could not use the session of a mount"
            );
        }
        drop(response);
        if let Some(unused) = unused {
            let call = self.call(Method::DELETE, unused.url);
            let _ = self.registries.call(self.endpoint, &call).await;
        }
        Ok(false)
    }

    /// Uploads.
    pub(super) async fn run(mut self) -> Result<PushedBlob, Error> {
        loop {
            let sent = self.sent.load(Ordering::Relaxed);
            let error = match self.attempt().await {
                Ok((digest, size)) => return Ok(self.pushed(digest, size)),
                Err(error) => error,
            };
            // A registry that says no after having got it all, or says nothing, is no bad line.
            let moved = !matches!(error, Error::Status { .. } | Error::Stalled { .. })
                && self.sent.load(Ordering::Relaxed) - sent >= PROGRESS;
            match self.cure(&error) {
                Cure::None => return Err(error),
                Cure::Ask => self.count(error, true)?,
                Cure::Wait => self.backoff.after(error).await?,
                Cure::Restart => self.restart(error, false)?,
            }
            if let Some((digest, size)) = self.find_out(moved).await? {
                return Ok(self.pushed(digest, size));
            }
        }
    }

    fn pushed(&self, digest: Digest, size: u64) -> PushedBlob {
        PushedBlob {
            digest,
            size,
            how: PushedHow::Uploaded,
            sent: self.sent.load(Ordering::Relaxed),
        }
    }

    /// From where the upload is to its end.
    async fn attempt(&mut self) -> Result<(Digest, u64), Error> {
        if self.session.is_none() {
            let path = self.endpoint.path("blobs", "uploads/");
            let call = Call::new(Method::POST, path, self.scope.clone());
            let response = self.registries.call(self.endpoint, &call).await?;
            if response.status() != StatusCode::ACCEPTED {
                return Err(unexpected(response).await);
            }
            self.begin(&response)?;
        }
        loop {
            let known = self.known().await?;
            let at = self.session().offset;
            match (known, self.chunk) {
                (Some((digest, size)), None) if at == 0 => {
                    self.put(&digest, Some(size)).await?;
                    return Ok((digest, size));
                }
                (Some((digest, size)), _) if at == size => {
                    self.put(&digest, None).await?;
                    return Ok((digest, size));
                }
                (Some((_, size)), _) if at > size => {
                    return Err(Error::Protocol {
                        url: crate::transport::redact::url(&self.session().url),
                        reason: format!("it has {at} bytes of a blob of {size}"),
                    });
                }
                (Some((_, size)), chunk) => {
                    let length = chunk.map_or(size - at, |chunk| chunk.min(size - at));
                    self.patch(Some(length)).await?;
                }
                // The chunk's length is sent before it, so all of it must be there; else the blob's end is.
                (None, Some(chunk)) if self.reaches(at + chunk).await? => {
                    self.patch(Some(chunk)).await?;
                }
                (None, chunk) => {
                    if chunk.is_none() {
                        self.patch(None).await?;
                    }
                    if self.known().await?.is_none() {
                        let reason = "it ended without a digest";
                        return Err(self.unreadable(std::io::Error::other(reason)));
                    }
                }
            }
        }
    }

    /// Waits until the blob has so many bytes; `false` when it ended before.
    async fn reaches(&self, length: u64) -> Result<bool, Error> {
        let source = Arc::clone(&self.source);
        let reading = tokio::task::spawn_blocking(move || source.read_at(length - 1, &mut [0]));
        let read = reading
            .await
            .map_err(|error| self.unreadable(error.into()))?;
        read.map(|read| read > 0)
            .map_err(|error| self.unreadable(error))
    }

    /// Takes an answer's session; all begin empty.
    fn begin(&mut self, response: &Response) -> Result<(), Error> {
        let url = self.registries.transport.location(response)?;
        let url =
            url.ok_or_else(|| response.protocol_error("it has no Location for the upload"))?;
        let minimum = response.header(&MINIMUM).map(str::trim);
        if let Some(minimum) = minimum.and_then(|text| text.parse::<u64>().ok()) {
            let longer = minimum.clamp(CHUNK, LONGEST_CHUNK);
            self.chunk = Some(self.chunk.map_or(longer, |chunk| chunk.max(minimum)));
        }
        self.session = Some(Session {
            url,
            offset: 0,
            doubtful: false,
        });
        Ok(())
    }

    fn session(&mut self) -> &mut Session {
        self.session
            .as_mut()
            .expect("BUG: an attempt begins with a session")
    }

    fn call(&self, method: Method, url: Url) -> Call {
        Call {
            target: Target::Url(url),
            ..Call::new(method, String::new(), self.scope.clone())
        }
    }

    fn piece(&self, start: u64, length: Option<u64>) -> Body {
        Body::Piece(Piece {
            source: Arc::clone(&self.source),
            start,
            length,
            sent: Arc::clone(&self.sent),
        })
    }

    /// Ends the session with its digest, and with the whole blob if it is given its size.
    async fn put(&mut self, digest: &Digest, whole: Option<u64>) -> Result<(), Error> {
        let session = self.session();
        session.doubtful = true;
        let mut url = session.url.clone();
        url.query_pairs_mut().append_pair("digest", digest.as_ref());
        let mut call = self.call(Method::PUT, url);
        call.headers.push(octets());
        self.asked = whole.unwrap_or(0);
        if self.asked > 0 {
            call.body = self.piece(0, whole);
        }
        let response = self.registries.call(self.endpoint, &call).await?;
        match response.status() {
            StatusCode::CREATED | StatusCode::NO_CONTENT | StatusCode::OK => Ok(()),
            _ => Err(unexpected(response).await),
        }
    }

    /// Sends a chunk, or without a length all up to the blob's end.
    async fn patch(&mut self, length: Option<u64>) -> Result<(), Error> {
        let session = self.session();
        let start = session.offset;
        session.doubtful = true;
        let url = session.url.clone();
        let mut call = self.call(Method::PATCH, url);
        call.headers.push(octets());
        if let Some(length) = length {
            let range = format!("{start}-{}", start + length - 1);
            let range = HeaderValue::from_str(&range).expect("BUG: numbers are valid in a header");
            call.headers.push((CONTENT_RANGE, range));
        }
        call.body = self.piece(start, length);
        self.asked = length.unwrap_or(u64::MAX);
        let before = self.sent.load(Ordering::Relaxed);
        let response = self.registries.call(self.endpoint, &call).await?;
        if !matches!(
            response.status(),
            StatusCode::ACCEPTED | StatusCode::NO_CONTENT | StatusCode::CREATED | StatusCode::OK
        ) {
            return Err(unexpected(response).await);
        }
        let sent = start + (self.sent.load(Ordering::Relaxed) - before);
        let has = match response.header(&RANGE).and_then(received) {
            // Nothing is `0-0` too.
            Some(has) if sent > 0 => has,
            _ => sent,
        };
        if has > sent || has <= start && sent > start {
            let reason = format!("it has {has} bytes after the bytes {start} to {sent} were sent");
            return Err(response.protocol_error(reason));
        }
        let url = self.registries.transport.location(&response)?;
        let session = self.session();
        session.offset = has;
        session.doubtful = false;
        if let Some(url) = url {
            session.url = url;
        }
        Ok(())
    }

    fn cure(&mut self, error: &Error) -> Cure {
        if error.is_retryable() {
            return Cure::Wait;
        }
        let Error::Status {
            status, messages, ..
        } = error
        else {
            return Cure::None;
        };
        let says = |code: &ErrorCode| {
            let mut codes = messages.iter().filter_map(|message| message.code.as_ref());
            codes.any(|known| known == code)
        };
        let started = self
            .session
            .as_ref()
            .is_some_and(|session| session.doubtful);
        match status {
            _ if !started => Cure::None,
            // Bytes that do not fit their digest are most likely the caller's.
            400 if says(&ErrorCode::DigestInvalid) && self.restarts > 0 => Cure::None,
            413 => self.shorten(),
            416 => Cure::Ask,
            404 => Cure::Restart,
            // A session that was lost, or bytes that were.
            400 if says(&ErrorCode::BlobUploadInvalid)
                || says(&ErrorCode::BlobUploadUnknown)
                || says(&ErrorCode::DigestInvalid)
                || says(&ErrorCode::SizeInvalid) =>
            {
                Cure::Restart
            }
            _ => Cure::None,
        }
    }

    /// Makes chunks shorter for a server that finds a request too large.
    fn shorten(&mut self) -> Cure {
        if self.asked <= SHORTEST_CHUNK {
            return Cure::None;
        }
        self.chunk = Some((self.asked / 2).clamp(SHORTEST_CHUNK, CHUNK));
        Cure::Ask
    }

    /// Leaves the session.
    fn restart(&mut self, error: Error, moved: bool) -> Result<(), Error> {
        tracing::debug!(error = error.chain(), "the upload starts over");
        self.session = None;
        if moved {
            self.backoff.progressed();
        }
        self.count(error, moved)
    }

    /// Starting over costs the whole blob, so it is not done for ever.
    fn count(&mut self, error: Error, moved: bool) -> Result<(), Error> {
        let attempts = self.registries.retry().attempts;
        self.restarts += 1;
        self.futile = if moved { 0 } else { self.futile + 1 };
        if self.restarts >= attempts.saturating_mul(RESTARTS) || self.futile >= attempts {
            return Err(error);
        }
        Ok(())
    }

    /// After a failure: is the blob there after all, and if not, what does the registry have of it?
    async fn find_out(&mut self, moved: bool) -> Result<Option<(Digest, u64)>, Error> {
        let Some(session) = self.session.as_ref().filter(|session| session.doubtful) else {
            return Ok(None);
        };
        let call = self.call(Method::GET, session.url.clone());
        // The answer to the last PUT may have been lost.
        if let Some((digest, size)) = self.known().await?
            && self.registries.has_blob_at(self.endpoint, &digest).await?
        {
            return Ok(Some((digest, size)));
        }
        loop {
            let response = match self.registries.call(self.endpoint, &call).await {
                Ok(response) if response.status().is_success() => response,
                other => {
                    let error = match other {
                        Ok(response) => response.into_error().await,
                        Err(error) => error,
                    };
                    // A registry that is still busy with the broken request may take other sessions.
                    if error.is_retryable() && !matches!(error, Error::Stalled { .. }) {
                        self.backoff.after(error).await?;
                        continue;
                    }
                    if error.is_denied() {
                        return Err(error);
                    }
                    self.restart(error, moved)?;
                    return Ok(None);
                }
            };
            let has = response.header(&RANGE).and_then(status_range);
            let url = self.registries.transport.location(&response)?;
            let session = self.session();
            session.doubtful = false;
            if let Some(url) = url {
                session.url = url;
            }
            match has {
                Some(has) => {
                    session.offset = has;
                    if has >= self.confirmed + PROGRESS {
                        self.confirmed = has;
                        self.backoff.progressed();
                    }
                }
                None => {
                    let error = response.protocol_error("it has no Range");
                    self.restart(error, moved)?;
                }
            }
            return Ok(None);
        }
    }

    fn unreadable(&self, source: std::io::Error) -> Error {
        let url = format!("{}/{}", self.endpoint.host, self.endpoint.repository);
        Error::Source { url, source }
    }
}

fn octets() -> (HeaderName, HeaderValue) {
    let value = HeaderValue::from_static("application/octet-stream");
    (CONTENT_TYPE, value)
}

/// An answer that is neither what was hoped for nor an error.
async fn unexpected(response: Response) -> Error {
    let status = response.status();
    if status.is_client_error() || status.is_server_error() {
        return response.into_error().await;
    }
    response.protocol_error(format!("unexpected status {}", status.as_u16()))
}

/// How many bytes `0-99` says there are; `bytes=0-99` is read too.
pub(crate) fn received(range: &str) -> Option<u64> {
    let range = range.trim();
    let range = range.strip_prefix("bytes=").unwrap_or(range);
    let (start, end) = range.split_once('-')?;
    let (start, end): (u64, u64) = (start.parse().ok()?, end.parse().ok()?);
    (start == 0).then(|| end.checked_add(1)).flatten()
}

/// The same of a session's status, where `0-0` means that there is nothing: one byte has no other form, but
/// is as good as nothing.
fn status_range(range: &str) -> Option<u64> {
    received(range).map(|bytes| if bytes == 1 { 0 } else { bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let cases = [
            ("0-99", Some(100)),
            (" bytes=0-99 ", Some(100)),
            ("0-0", Some(1)),
            ("5-99", None),
            ("0-", None),
            ("0", None),
            ("", None),
            ("0-18446744073709551615", None),
            ("0--1", None),
        ];
        for (range, expected) in cases {
            assert_eq!(received(range), expected, "{range:?}");
        }
        assert_eq!(status_range("0-0"), Some(0));
    }
}
