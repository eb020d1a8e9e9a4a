//! Bodies of requests: none, bytes in memory, or a part of a blob that is read while it is sent.
//!
//! Reads on threads that may block; tries nothing twice.

use crate::BlobSource;
use bytes::{Bytes, BytesMut};
use futures_core::Stream;
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::task::JoinHandle;

/// Bytes read at a time.
const READ: usize = 256 * 1024;
/// Pieces that are kept for their memory: one being sent, one behind it.
const USED: usize = 2;

/// What a request carries.
#[derive(Clone)]
pub(crate) enum Body {
    Empty,
    Bytes(Bytes),
    Piece(Piece),
}

/// A part of a blob.
#[derive(Clone)]
pub(crate) struct Piece {
    pub(crate) source: Arc<dyn BlobSource>,
    pub(crate) start: u64,
    /// `None`: to the blob's end, wherever that will be.
    pub(crate) length: Option<u64>,
    /// Counts the bytes that were sent.
    pub(crate) sent: Arc<AtomicU64>,
}

impl Body {
    pub(super) fn is_upload(&self) -> bool {
        matches!(self, Self::Piece(_))
    }

    /// What `Content-Length` says that the HTTP library would not say by itself.
    pub(super) fn length(&self) -> Option<u64> {
        match self {
            Self::Piece(piece) => piece.length,
            Self::Empty | Self::Bytes(_) => None,
        }
    }

    pub(super) fn stream(&self, progress: &Arc<Progress>) -> Option<reqwest::Body> {
        match self {
            Self::Empty => None,
            Self::Bytes(bytes) => Some(bytes.clone().into()),
            Self::Piece(piece) => {
                progress.sending.store(true, Ordering::Relaxed);
                Some(reqwest::Body::wrap_stream(Reader {
                    source: Arc::clone(&piece.source),
                    offset: piece.start,
                    left: piece.length,
                    reading: None,
                    used: VecDeque::new(),
                    sent: Arc::clone(&piece.sent),
                    progress: Arc::clone(progress),
                }))
            }
        }
    }
}

/// What of a body has been sent, as far as can be seen from here.
#[derive(Default)]
pub(super) struct Progress {
    taken: AtomicU64,
    /// The blob's next bytes are not there yet, which is not the network's fault.
    starving: AtomicBool,
    /// More of the body is to come.
    sending: AtomicBool,
    failure: Mutex<Option<io::Error>>,
}

impl Progress {
    /// Bytes handed to the network.
    pub(super) fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    /// Why the blob could not be read, if that is what happened.
    pub(super) fn failure(&self) -> Option<io::Error> {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.take()
    }

    /// Waits for an answer. `None` when `idle` went by without a byte sent, or `patience` after the last byte.
    pub(super) async fn watch<T>(
        &self,
        answer: impl Future<Output = T>,
        idle: Duration,
        patience: Duration,
    ) -> Option<T> {
        let mut answer = pin!(answer);
        let mut before = 0;
        loop {
            let sending = self.sending.load(Ordering::Relaxed);
            let limit = if sending { idle } else { patience };
            if let Ok(answer) = tokio::time::timeout(limit, &mut answer).await {
                return Some(answer);
            }
            let taken = self.taken();
            let still = taken == before && sending == self.sending.load(Ordering::Relaxed);
            if still && !self.starving.load(Ordering::Relaxed) {
                return None;
            }
            before = taken;
        }
    }
}

struct Reader {
    source: Arc<dyn BlobSource>,
    offset: u64,
    left: Option<u64>,
    /// The next piece, read while the one before is sent.
    reading: Option<JoinHandle<io::Result<Bytes>>>,
    /// The last pieces: their memory serves again once the network let go of them.
    used: VecDeque<Bytes>,
    sent: Arc<AtomicU64>,
    progress: Arc<Progress>,
}

impl Reader {
    fn read_on(&mut self) {
        let wanted = self.left.map_or(READ, |left| {
            usize::try_from(left).map_or(READ, |left| left.min(READ))
        });
        if wanted == 0 {
            self.progress.sending.store(false, Ordering::Relaxed);
            return;
        }
        let (source, offset) = (Arc::clone(&self.source), self.offset);
        let mut buffer = self.memory();
        self.reading = Some(tokio::task::spawn_blocking(move || {
            buffer.resize(wanted, 0);
            let length = source.read_at(offset, &mut buffer)?;
            buffer.truncate(length);
            Ok(buffer.freeze())
        }));
    }

    fn memory(&mut self) -> BytesMut {
        if self.used.len() < USED {
            return BytesMut::new();
        }
        let oldest = self.used.pop_front().map(Bytes::try_into_mut);
        oldest.and_then(Result::ok).unwrap_or_default()
    }

    /// Keeps the error where it can be told apart from the network's, and ends the body.
    fn fail(&mut self, error: io::Error) -> Poll<Option<io::Result<Bytes>>> {
        let kind = error.kind();
        let mut failure = self
            .progress
            .failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *failure = Some(error);
        Poll::Ready(Some(Err(kind.into())))
    }
}

impl Stream for Reader {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.reading.is_none() {
            this.read_on();
        }
        let Some(reading) = this.reading.as_mut() else {
            return Poll::Ready(None);
        };
        this.progress.starving.store(true, Ordering::Relaxed);
        let read = ready!(Pin::new(reading).poll(context));
        this.progress.starving.store(false, Ordering::Relaxed);
        this.reading = None;
        let bytes = match read {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(error)) => return this.fail(error),
            Err(error) => return this.fail(io::Error::other(error)),
        };
        if bytes.is_empty() {
            this.progress.sending.store(false, Ordering::Relaxed);
            return match this.left {
                Some(_) => this.fail(io::ErrorKind::UnexpectedEof.into()),
                None => Poll::Ready(None),
            };
        }
        let length = bytes.len() as u64;
        this.offset += length;
        if let Some(left) = &mut this.left {
            *left -= length;
        }
        this.progress.taken.fetch_add(length, Ordering::Relaxed);
        this.sent.fetch_add(length, Ordering::Relaxed);
        this.used.push_back(bytes.clone());
        this.read_on();
        Poll::Ready(Some(Ok(bytes)))
    }
}
