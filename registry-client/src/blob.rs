//! Blobs: streamed to a sink, hashed on the way, resumed where they broke off.
//!
//! Holds one chunk at a time; knows nothing of compression or of what the bytes mean.

use crate::Error;
use crate::registry::{Ask, Endpoint, Registries};
use crate::transport::Response;
use crate::transport::retry::Backoff;
use crate::verify::Hasher;
use oci_spec::image::Descriptor;
use reqwest::header::{CONTENT_RANGE, HeaderName, HeaderValue, RANGE};
use reqwest::{Method, StatusCode, Url};

/// After this many new bytes a failure counts as the first one again.
pub(crate) const PROGRESS: u64 = 1024 * 1024;

/// Where blobs go.
pub(crate) type Sink<'a> = &'a mut (dyn FnMut(&[u8]) -> std::io::Result<()> + Send);

/// A blob under way: what has come so far, over all attempts and endpoints.
pub(crate) struct Transfer<'a> {
    descriptor: &'a Descriptor,
    digest: String,
    /// None when it does not begin at the blob's start.
    hasher: Option<Hasher>,
    received: u64,
    sink: Sink<'a>,
}

impl<'a> Transfer<'a> {
    pub(crate) fn new(descriptor: &'a Descriptor, sink: Sink<'a>) -> Result<Self, Error> {
        Ok(Self {
            descriptor,
            digest: descriptor.digest().to_string(),
            hasher: Some(Hasher::for_digest(descriptor.digest())?),
            received: 0,
            sink,
        })
    }

    /// From an offset on; the digest is not looked at.
    pub(crate) fn starting_at(descriptor: &'a Descriptor, offset: u64, sink: Sink<'a>) -> Self {
        Self {
            descriptor,
            digest: descriptor.digest().to_string(),
            hasher: None,
            received: offset,
            sink,
        }
    }

    fn size(&self) -> u64 {
        self.descriptor.size()
    }

    /// Passes bytes on, never more than the descriptor promises.
    fn accept(&mut self, bytes: &[u8], url: &str) -> Result<(), Error> {
        let total = self.received + bytes.len() as u64;
        if total > self.size() {
            return Err(self.wrong_size(url, total));
        }
        if let Some(hasher) = &mut self.hasher {
            hasher.update(bytes);
        }
        (self.sink)(bytes).map_err(|source| Error::Sink {
            digest: self.digest.clone(),
            source,
        })?;
        self.received = total;
        Ok(())
    }

    fn wrong_size(&self, url: &str, actual: u64) -> Error {
        Error::SizeMismatch {
            name: format!("{} from {url}", self.digest),
            expected: self.size(),
            actual,
        }
    }

    fn range(&self) -> Vec<(HeaderName, HeaderValue)> {
        if self.received == 0 {
            return Vec::new();
        }
        let range = HeaderValue::from_str(&format!("bytes={}-", self.received));
        vec![(RANGE, range.expect("BUG: a number is valid in a header"))]
    }

    /// Compares the digest of all that came; `place` is who sent the end of it.
    pub(crate) fn finish(self, place: &str) -> Result<(), Error> {
        let Some(hasher) = self.hasher else {
            return Ok(());
        };
        let actual = hasher.finish();
        if actual == *self.descriptor.digest() {
            return Ok(());
        }
        Err(Error::DigestMismatch {
            name: format!("{} from {place}", self.digest),
            expected: self.digest,
            actual: actual.to_string(),
        })
    }

    /// Reads an answer to its end. An answer that starts over is skipped up to what came already.
    async fn read(&mut self, response: &mut Response) -> Result<(), Error> {
        let url = response.shown_url();
        let mut skip = self.offset(response)?;
        while let Some(chunk) = response.chunk().await? {
            let skipped = usize::try_from(skip).map_or(chunk.len(), |skip| skip.min(chunk.len()));
            skip -= skipped as u64;
            if skipped < chunk.len() {
                self.accept(&chunk[skipped..], &url)?;
            }
        }
        if self.received < self.size() {
            return Err(Error::Short {
                url,
                received: self.received,
                expected: self.size(),
            });
        }
        Ok(())
    }

    /// How many bytes at an answer's start are known already.
    fn offset(&self, response: &Response) -> Result<u64, Error> {
        if response.status() != StatusCode::PARTIAL_CONTENT {
            if let Some(length) = response.content_length().filter(|len| *len != self.size()) {
                return Err(self.wrong_size(&response.shown_url(), length));
            }
            return Ok(self.received);
        }
        let start = response
            .header(&CONTENT_RANGE)
            .map_or(Some(self.received), range_start);
        start
            .and_then(|start| self.received.checked_sub(start))
            .ok_or_else(|| response.protocol_error("its range is not the one asked for"))
    }
}

/// The start in `bytes 5-9/10` (RFC 9110 section 14.4).
pub(crate) fn range_start(value: &str) -> Option<u64> {
    let range = value.trim().strip_prefix("bytes")?.trim_start();
    range.split_once('-')?.0.trim().parse().ok()
}

impl Registries {
    /// Brings a blob to its end from one endpoint, or as far as that goes.
    pub(crate) async fn blob_at(
        &self,
        endpoint: &Endpoint,
        transfer: &mut Transfer<'_>,
    ) -> Result<(), Error> {
        let error = match self.stream(endpoint, None, transfer).await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        // A registry need not hold what a manifest only points to (descriptor.md, `urls`).
        let urls = transfer.descriptor.urls().iter().flatten();
        let urls: Vec<Url> = urls.filter_map(|url| Url::parse(url).ok()).collect();
        if !error.is_not_found() || urls.is_empty() {
            return Err(error);
        }
        let mut last = error;
        for url in &urls {
            match self.stream(endpoint, Some(url), transfer).await {
                Ok(()) => return Ok(()),
                Err(error @ Error::Sink { .. }) => return Err(error),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn stream(
        &self,
        endpoint: &Endpoint,
        foreign: Option<&Url>,
        transfer: &mut Transfer<'_>,
    ) -> Result<(), Error> {
        let mut backoff = Backoff::new(self.retry(), endpoint.mirror);
        loop {
            let before = transfer.received;
            match self.stream_once(endpoint, foreign, transfer).await {
                Ok(()) => return Ok(()),
                Err(error) => {
                    if transfer.received >= before + PROGRESS {
                        backoff.progressed();
                    }
                    backoff.after(error).await?;
                }
            }
        }
    }

    async fn stream_once(
        &self,
        endpoint: &Endpoint,
        foreign: Option<&Url>,
        transfer: &mut Transfer<'_>,
    ) -> Result<(), Error> {
        let headers = transfer.range();
        let mut response = match foreign {
            Some(url) => self.fetch_foreign(url, headers).await?,
            None => {
                let ask = Ask {
                    method: Method::GET,
                    kind: "blobs",
                    selector: &transfer.digest,
                    headers,
                };
                self.ask(endpoint, ask).await?
            }
        };
        match response.status() {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => transfer.read(&mut response).await,
            _ => Err(response.into_error().await),
        }
    }
}
