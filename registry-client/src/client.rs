//! The client: finds the places a reference can be pulled from and asks them in turn.
//!
//! What is done at one place is in `manifest` and `blob`.

use crate::blob::Transfer;
use crate::policy::Policy;
use crate::registry::{Endpoint, Registries};
use crate::{ClientOptions, Error, PullSource, Reference, RegistriesConf};
use oci_spec::image::{Descriptor, Digest};
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::OnceCell;

/// A mirror that cannot be reached is left out this long.
const AVOID_UNREACHABLE: Duration = Duration::from_secs(30);
/// A mirror that served wrong content is left out this long.
const AVOID_CORRUPT: Duration = Duration::from_secs(3600);

/// A client. Clones share connections and tokens. Built lazily: making one does no I/O.
#[derive(Clone)]
pub struct Client {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) registries: Registries,
    conf: OnceCell<RegistriesConf>,
    policy: OnceCell<Policy>,
    /// Held while a list of referrers is changed.
    pub(crate) listing: tokio::sync::Mutex<()>,
    /// Mirrors to leave out, and until when.
    avoided: Mutex<HashMap<String, Instant>>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("options", &self.inner.registries.options)
            .finish_non_exhaustive()
    }
}

/// A manifest or index as the registry has it.
#[derive(Clone, Debug)]
pub struct FetchedManifest {
    /// Digest, size and media type.
    pub descriptor: Descriptor,
    /// The bytes, verified against the digest.
    pub bytes: Vec<u8>,
}

impl Client {
    /// Makes a client.
    #[must_use]
    pub fn new(options: ClientOptions) -> Self {
        Self {
            inner: Arc::new(Inner {
                registries: Registries::new(Arc::new(options)),
                conf: OnceCell::new(),
                policy: OnceCell::new(),
                listing: tokio::sync::Mutex::default(),
                avoided: Mutex::default(),
            }),
        }
    }

    /// Digest, size and media type of a tag or digest (HEAD, then GET where HEAD is not enough).
    ///
    /// # Errors
    /// Unknown name, refused, unreachable.
    pub async fn resolve(&self, reference: &Reference) -> Result<Descriptor, Error> {
        let expected = pinned(reference)?;
        let mut route = self.inner.route(reference).await?;
        loop {
            let endpoint = route.next();
            let registries = &self.inner.registries;
            let selector = reference.selector();
            match registries
                .resolve_at(&endpoint, selector, expected.as_ref())
                .await
            {
                Ok(descriptor) => return Ok(descriptor),
                Err(error) => route.failed(&endpoint, error)?,
            }
        }
    }

    /// [`Client::resolve`], but of the registry itself: a mirror may lag behind.
    ///
    /// # Errors
    /// As [`Client::resolve`].
    pub async fn resolve_at_home(&self, reference: &Reference) -> Result<Descriptor, Error> {
        let expected = pinned(reference)?;
        let endpoint = self.inner.home(reference).await?;
        let registries = &self.inner.registries;
        registries
            .resolve_at(&endpoint, reference.selector(), expected.as_ref())
            .await
    }

    /// A manifest or index by reference (or by digest in the same repository).
    ///
    /// # Errors
    /// As [`Client::resolve`]; too large; digest mismatch.
    pub async fn manifest(
        &self,
        reference: &Reference,
        digest: Option<&Digest>,
    ) -> Result<FetchedManifest, Error> {
        let expected = match digest {
            Some(digest) => Some(digest.clone()),
            None => pinned(reference)?,
        };
        let selector = match &expected {
            Some(digest) => digest.as_ref(),
            None => reference.selector(),
        };
        let mut route = self.inner.route(reference).await?;
        loop {
            let endpoint = route.next();
            let registries = &self.inner.registries;
            match registries
                .manifest_at(&endpoint, selector, expected.as_ref())
                .await
            {
                Ok(fetched) => return Ok(fetched),
                Err(error) => route.failed(&endpoint, error)?,
            }
        }
    }

    /// A blob, streamed to `sink` in order as verified-while-streaming chunks; the call fails at the end when digest or size differ.
    /// Interrupted transfers resume by Range with backoff, also from the next mirror. A mirror that served
    /// wrong bytes is left out from then on, so a second call can succeed.
    ///
    /// The sink runs on the task's thread; chunks are some tens of kilobytes.
    ///
    /// # Errors
    /// As [`Client::resolve`]; digest or size mismatch; an error of the sink.
    pub async fn blob(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        sink: &mut (dyn FnMut(&[u8]) -> std::io::Result<()> + Send),
    ) -> Result<(), Error> {
        let transfer = Transfer::new(descriptor, sink)?;
        self.transferred(reference, transfer).await
    }

    /// The rest of a blob from an offset on, as [`Client::blob`] gives a whole one; that the digest is right is for the caller to
    /// find out.
    ///
    /// # Errors
    /// As [`Client::blob`], apart from the digest.
    pub async fn blob_from(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        offset: u64,
        sink: &mut (dyn FnMut(&[u8]) -> std::io::Result<()> + Send),
    ) -> Result<(), Error> {
        let transfer = Transfer::starting_at(descriptor, offset, sink);
        self.transferred(reference, transfer).await
    }

    async fn transferred(
        &self,
        reference: &Reference,
        mut transfer: Transfer<'_>,
    ) -> Result<(), Error> {
        let mut route = self.inner.route(reference).await?;
        loop {
            let endpoint = route.next();
            match self
                .inner
                .registries
                .blob_at(&endpoint, &mut transfer)
                .await
            {
                Ok(()) => {
                    return transfer
                        .finish(&endpoint.host)
                        .inspect_err(|_| self.inner.avoid(&endpoint, AVOID_CORRUPT));
                }
                Err(error @ Error::Sink { .. }) => return Err(error),
                Err(error) => route.failed(&endpoint, error)?,
            }
        }
    }
}

/// The digest a reference is pinned to.
pub(crate) fn pinned(reference: &Reference) -> Result<Option<Digest>, Error> {
    let parse = |text: &String| {
        Digest::try_from(text.as_str()).map_err(|error| Error::Reference {
            text: reference.to_string(),
            reason: error.to_string(),
        })
    };
    reference.digest.as_ref().map(parse).transpose()
}

impl Inner {
    async fn route(&self, reference: &Reference) -> Result<Route<'_>, Error> {
        let options = &self.registries.options;
        if let Some(path) = &options.policy {
            let policy = self.policy.get_or_try_init(|| async { Policy::load(path) });
            policy.await?.check(reference)?;
        }
        let conf = self.conf().await?;
        let sources = conf.sources(reference)?;
        let endpoint =
            |source: &PullSource| Endpoint::new(&source.reference, source.insecure, source.mirror);
        let (itself, mirrors) = sources
            .split_last()
            .expect("BUG: the registry itself is always a source");
        let mut mirrors: Vec<Endpoint> = mirrors.iter().map(endpoint).collect();
        mirrors.retain(|mirror| !self.is_avoided(mirror));
        Ok(Route {
            inner: self,
            reference: reference.to_string(),
            mirrors: mirrors.into_iter(),
            itself: endpoint(itself),
            failures: Vec::new(),
        })
    }

    /// Where a reference is pushed to, and everything else is done that a mirror cannot do: the registry itself.
    pub(crate) async fn home(&self, reference: &Reference) -> Result<Endpoint, Error> {
        let sources = self.conf().await?.sources(reference)?;
        let itself = sources
            .last()
            .expect("BUG: the registry itself is always a source");
        Ok(Endpoint::new(&itself.reference, itself.insecure, false))
    }

    async fn conf(&self) -> Result<&RegistriesConf, Error> {
        self.conf
            .get_or_try_init(|| async { RegistriesConf::of(&self.registries.options) })
            .await
    }

    fn is_avoided(&self, endpoint: &Endpoint) -> bool {
        let avoided = self.avoided.lock().unwrap_or_else(PoisonError::into_inner);
        let until = avoided.get(&endpoint.host);
        until.is_some_and(|until| *until > Instant::now())
    }

    fn avoid(&self, endpoint: &Endpoint, period: Duration) {
        let mut avoided = self.avoided.lock().unwrap_or_else(PoisonError::into_inner);
        avoided.insert(endpoint.host.clone(), Instant::now() + period);
    }
}

/// The endpoints of one operation that are still to be asked, and what went wrong at the others.
struct Route<'a> {
    inner: &'a Inner,
    reference: String,
    mirrors: std::vec::IntoIter<Endpoint>,
    itself: Endpoint,
    failures: Vec<String>,
}

impl Route<'_> {
    /// The next mirror, after them the registry itself.
    fn next(&mut self) -> Endpoint {
        self.mirrors.next().unwrap_or_else(|| self.itself.clone())
    }

    /// Notes a mirror's failure; the registry's own ends the operation.
    fn failed(&mut self, endpoint: &Endpoint, error: Error) -> Result<(), Error> {
        if endpoint.mirror {
            match &error {
                Error::DigestMismatch { .. } => self.inner.avoid(endpoint, AVOID_CORRUPT),
                error if error.is_unreachable() => self.inner.avoid(endpoint, AVOID_UNREACHABLE),
                _ => {}
            }
            let error = error.chain();
            tracing::debug!(mirror = endpoint.host, error, "mirror failed");
            self.failures.push(format!("{}: {error}", endpoint.host));
            return Ok(());
        }
        if self.failures.is_empty() {
            return Err(error);
        }
        Err(Error::Mirrors {
            reference: std::mem::take(&mut self.reference),
            mirrors: std::mem::take(&mut self.failures),
            source: Box::new(error),
        })
    }
}
