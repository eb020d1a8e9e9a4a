//! The registry client, which starts when first used, and the runtime of all network work. It knows registries and
//! URLs, and nothing of stores.

mod lists;
mod login;
mod pull;
mod push;
mod runtime;
mod stream;
mod write;

use crate::Error;
use crate::build::manifest::{self, Desc};
use oci_spec::image::Digest;
use planner::scheduler::Cancel;
use registry_client::{
    Client, ClientOptions, Download, Downloaded, FetchedManifest, Receiver, Reference,
    RegistriesConf,
};
pub(crate) use runtime::Network;
use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::runtime::Runtime;

/// How often a transfer looks whether it is to stop.
const CANCEL_INTERVAL: Duration = Duration::from_millis(50);

/// Attempts of who has little patience.
const HASTY_ATTEMPTS: u32 = 2;
/// How long such a one waits for a connection.
const HASTY_CONNECT: Duration = Duration::from_secs(5);
/// How long such a one waits for an answer.
const HASTY_IDLE: Duration = Duration::from_secs(10);

/// A lazily started client.
pub struct Remote {
    options: ClientOptions,
    cancel: Cancel,
    network: Arc<Network>,
    client: OnceLock<Client>,
    /// The same files as the client reads, for names alone.
    conf: OnceLock<RegistriesConf>,
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Remote")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl Remote {
    /// Starts nothing.
    #[must_use]
    pub fn new(options: &ClientOptions, cancel: &Cancel) -> Self {
        Self {
            options: options.clone(),
            cancel: cancel.clone(),
            network: Arc::default(),
            client: OnceLock::new(),
            conf: OnceLock::new(),
        }
    }

    /// The same with less patience: for what a build asks and can do without.
    #[must_use]
    pub(crate) fn hasty(&self) -> Self {
        let mut options = self.options.clone();
        let (retry, timeouts) = (&mut options.retry, &mut options.timeouts);
        retry.attempts = retry.attempts.min(HASTY_ATTEMPTS);
        retry.max_retry_after = retry.max_retry_after.min(HASTY_CONNECT);
        timeouts.connect = timeouts.connect.min(HASTY_CONNECT);
        timeouts.idle = timeouts.idle.min(HASTY_IDLE);
        Self {
            options,
            cancel: self.cancel.clone(),
            network: Arc::clone(&self.network),
            client: OnceLock::new(),
            conf: OnceLock::new(),
        }
    }

    /// What ends all its work.
    pub(crate) fn cancel(&self) -> &Cancel {
        &self.cancel
    }

    /// The runtime that it works on.
    pub(crate) fn network(&self) -> &Arc<Network> {
        &self.network
    }

    fn started(&self) -> Result<(&Runtime, &Client), Error> {
        let runtime = self.network.started()?;
        let client = self
            .client
            .get_or_init(|| Client::new(self.options.clone()));
        Ok((runtime, client))
    }

    fn run<T, F>(&self, reference: &Reference, call: impl FnOnce(Client) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, registry_client::Error>>,
    {
        self.attempt(call)?.map_err(|source| Error::Registry {
            reference: reference.to_string(),
            source,
        })
    }

    /// Runs a call; its own failure is the inner result.
    fn attempt<T, F>(
        &self,
        call: impl FnOnce(Client) -> F,
    ) -> Result<Result<T, registry_client::Error>, Error>
    where
        F: Future<Output = Result<T, registry_client::Error>>,
    {
        let (_, client) = self.started()?;
        let call = call(client.clone());
        self.network.run(&self.cancel, call)
    }

    /// A plain download; `name` is the URL for messages.
    pub(crate) fn download(
        &self,
        name: &str,
        download: &Download,
        receiver: &mut dyn Receiver,
    ) -> Result<Downloaded, Error> {
        self.attempt(|client| async move { client.download(download, receiver).await })?
            .map_err(|source| Error::Download {
                url: name.to_owned(),
                source,
            })
    }

    /// A manifest or index, by the reference or by digest in its repository.
    pub(crate) fn manifest(
        &self,
        reference: &Reference,
        digest: Option<&Digest>,
    ) -> Result<FetchedManifest, Error> {
        self.run(reference, |client| async move {
            client.manifest(reference, digest).await
        })
    }

    /// A whole small blob.
    pub(crate) fn small_blob(
        &self,
        reference: &Reference,
        desc: &Desc,
        limit: u64,
    ) -> Result<Vec<u8>, Error> {
        if desc.size > limit {
            let reason = format!(
                "config of {} bytes is larger than the limit of {limit}",
                desc.size
            );
            return Err(Error::Image {
                subject: reference.to_string(),
                reason,
            });
        }
        let mut bytes = Vec::new();
        self.blob(reference, desc, &mut |chunk| {
            bytes.extend_from_slice(chunk);
            Ok(())
        })?;
        if bytes.len() as u64 != desc.size || manifest::digest_of(&bytes).to_string() != desc.digest
        {
            let reason = format!("blob {} is not what its digest says", desc.digest);
            return Err(Error::Image {
                subject: reference.to_string(),
                reason,
            });
        }
        Ok(bytes)
    }

    /// A blob, streamed.
    pub(crate) fn blob(
        &self,
        reference: &Reference,
        desc: &Desc,
        sink: &mut (dyn FnMut(&[u8]) -> std::io::Result<()> + Send),
    ) -> Result<(), Error> {
        let descriptor = desc.to_oci()?;
        self.run(reference, |client| async move {
            client.blob(reference, &descriptor, sink).await
        })
    }
}

/// Ends when the build is to stop.
pub(crate) async fn cancelled(cancel: &Cancel) {
    while !cancel.is_cancelled() {
        tokio::time::sleep(CANCEL_INTERVAL).await;
    }
}
