//! The client: one connection to a server, made when it is first used, and how calls are made, bounded and repeated.

use crate::capabilities::Capabilities;
use crate::endpoint::Endpoint;
use crate::error::{ConnectFailure, Error, Failure};
use crate::{channel, retry::Attempts, trouble::Trouble};
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{OnceCell, Semaphore, SemaphorePermit};
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

/// Transfers at the same time in each direction, over all calls of a client and its clones: each holds a few MiB at most.
pub(crate) const TRANSFERS: usize = 4;

/// Transfers of fewer bytes wait for no others: an action's messages do not queue behind layers.
const LIGHT: u64 = 256 << 10;

/// Between the deadline on this side and the one that the server is told.
const MARGIN: Duration = Duration::from_secs(2);

/// A client of one server. Clones share the connection, what is known of the server, and the bound on memory.
///
/// The connection belongs to the runtime of the first call: that runtime must outlive the client's use.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    endpoint: Endpoint,
    line: OnceCell<channel::Line>,
    capabilities: OnceCell<Arc<Capabilities>>,
    uploads: Semaphore,
    downloads: Semaphore,
    /// The server has answered a call, if only with a status.
    answered: AtomicBool,
}

impl Client {
    /// A client that has not connected yet, and does so when first used.
    pub fn new(endpoint: Endpoint) -> Self {
        Self {
            inner: Arc::new(Inner {
                endpoint,
                line: OnceCell::new(),
                capabilities: OnceCell::new(),
                uploads: Semaphore::new(TRANSFERS),
                downloads: Semaphore::new(TRANSFERS),
                answered: AtomicBool::new(false),
            }),
        }
    }

    /// The server's address.
    pub fn endpoint(&self) -> &Endpoint {
        &self.inner.endpoint
    }

    pub(crate) fn instance(&self) -> String {
        self.inner.endpoint.instance.clone()
    }

    pub(crate) fn known_capabilities(&self) -> &OnceCell<Arc<Capabilities>> {
        &self.inner.capabilities
    }

    /// Held while so many bytes are sent.
    pub(crate) async fn upload_slot(&self, bytes: u64) -> Option<SemaphorePermit<'_>> {
        slot(&self.inner.uploads, bytes).await
    }

    /// Held while so many bytes are received.
    pub(crate) async fn download_slot(&self, bytes: u64) -> Option<SemaphorePermit<'_>> {
        slot(&self.inner.downloads, bytes).await
    }

    /// The connection, and the metadata of calls.
    pub(crate) async fn line(&self) -> Result<&channel::Line, Error> {
        self.inner
            .line
            .get_or_try_init(|| async { channel::open(&self.inner.endpoint) })
            .await
    }

    /// Makes a call with one answer, again while that may help and the retries allow it.
    pub(crate) async fn unary<M, T, Fut>(
        &self,
        attempt: &(dyn Fn() -> String + Sync),
        message: impl Fn() -> M,
        call: impl Fn(Channel, Request<M>) -> Fut,
    ) -> Result<T, Error>
    where
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        let mut attempts = Attempts::new(self.endpoint().retry);
        loop {
            let trouble = match self.once(message(), &call).await? {
                Ok(answer) => return Ok(answer),
                Err(trouble) => trouble,
            };
            if let Err(trouble) = attempts.wait_or_give_up(trouble).await {
                return Err(self.error(attempt, trouble));
            }
        }
    }

    /// One try of a call with one answer.
    async fn once<M, T, Fut>(
        &self,
        message: M,
        call: &impl Fn(Channel, Request<M>) -> Fut,
    ) -> Result<Result<T, Trouble>, Error>
    where
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        let line = self.line().await?;
        let within = self.endpoint().deadlines.call;
        let mut request = line.request(message);
        // The server is told a little more, so that it is this side that says whose silence it was.
        request.set_timeout(within + MARGIN);
        let answer = tokio::time::timeout(within, call(line.channel(), request)).await;
        Ok(match answer {
            Ok(Ok(answer)) => {
                self.inner.answered.store(true, Ordering::Relaxed);
                Ok(answer.into_inner())
            }
            Ok(Err(status)) => Err(self.trouble(&status)),
            Err(_) => Err(Trouble::Silent(within)),
        })
    }

    pub(crate) fn trouble(&self, status: &Status) -> Trouble {
        let trouble = Trouble::of(status, self.endpoint().deadlines);
        match trouble {
            Trouble::Answer(_) => self.inner.answered.store(true, Ordering::Relaxed),
            Trouble::Connect(ConnectFailure::Broken(_))
                if !self.inner.answered.load(Ordering::Relaxed) =>
            {
                return Trouble::Connect(ConnectFailure::HungUp(self.hint()));
            }
            _ => {}
        }
        trouble
    }

    /// What servers that hang up before they have said anything mostly want.
    fn hint(&self) -> &'static str {
        let endpoint = self.endpoint();
        match (endpoint.tls, &endpoint.identity) {
            (false, _) => "a TLS port wants grpcs://",
            (true, None) => "it may want a client certificate",
            (true, Some(_)) => "it may not accept the client certificate",
        }
    }

    /// The error that a trouble is for who attempted something.
    pub(crate) fn error(&self, attempt: &(dyn Fn() -> String + Sync), trouble: Trouble) -> Error {
        let endpoint = self.endpoint().name();
        match trouble {
            Trouble::Connect(source) => Error::Connect { endpoint, source },
            Trouble::Silent(waited) => Error::Deadline {
                attempt: attempt(),
                endpoint,
                waited,
            },
            Trouble::Answer(source) => Error::Call {
                attempt: attempt(),
                endpoint,
                source: Box::new(source),
            },
            Trouble::Fatal(error) => *error,
        }
    }

    /// An error for an answer that makes no sense.
    pub(crate) fn nonsense(&self, attempt: String, what: &'static str) -> Error {
        Error::Answer {
            attempt,
            endpoint: self.endpoint().name(),
            what,
        }
    }

    /// An error for a failure that came inside of an answer.
    pub(crate) fn failed(&self, attempt: String, source: Failure) -> Error {
        Error::Call {
            attempt,
            endpoint: self.endpoint().name(),
            source: Box::new(source),
        }
    }
}

async fn slot(slots: &Semaphore, bytes: u64) -> Option<SemaphorePermit<'_>> {
    if bytes <= LIGHT {
        return None;
    }
    let permit = slots.acquire().await;
    Some(permit.expect("BUG: the semaphore is never closed"))
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("endpoint", &self.inner.endpoint)
            .finish_non_exhaustive()
    }
}
