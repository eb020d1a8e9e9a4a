//! The registry client on a runtime of its own; both start when first used, so that a build that needs
//! no network starts neither. It knows registries and URLs, and nothing of stores.

mod lists;
mod login;
mod pull;
mod push;
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
use std::future::Future;
use std::sync::OnceLock;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};

/// How often a transfer looks whether it is to stop.
const CANCEL_INTERVAL: Duration = Duration::from_millis(50);

/// A lazily started client.
pub struct Remote {
    options: ClientOptions,
    cancel: Cancel,
    started: OnceLock<(Runtime, Client)>,
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
            started: OnceLock::new(),
            conf: OnceLock::new(),
        }
    }

    /// What ends all its work.
    pub(crate) fn cancel(&self) -> &Cancel {
        &self.cancel
    }

    fn started(&self) -> Result<&(Runtime, Client), Error> {
        if let Some(started) = self.started.get() {
            return Ok(started);
        }
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .map_err(|source| Error::Io {
                op: "start the network runtime for",
                path: "the registry client".into(),
                source,
            })?;
        let started = (runtime, Client::new(self.options.clone()));
        Ok(self.started.get_or_init(|| started))
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
        let (runtime, client) = self.started()?;
        let call = call(client.clone());
        runtime.block_on(async {
            tokio::select! {
                ended = call => Ok(ended),
                () = cancelled(&self.cancel) => Err(Error::Cancelled),
            }
        })
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
async fn cancelled(cancel: &Cancel) {
    while !cancel.is_cancelled() {
        tokio::time::sleep(CANCEL_INTERVAL).await;
    }
}
