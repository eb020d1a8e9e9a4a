//! The runtime of all network work. It starts when it is first used, so that a build that needs no network starts none.

use super::cancelled;
use crate::Error;
use planner::scheduler::Cancel;
use std::future::Future;
use std::sync::OnceLock;
use tokio::runtime::{Builder, Runtime};

/// A lazily started runtime, for as many clients as there are.
#[derive(Debug, Default)]
pub(crate) struct Network {
    started: OnceLock<Runtime>,
}

impl Network {
    pub(super) fn started(&self) -> Result<&Runtime, Error> {
        if let Some(started) = self.started.get() {
            return Ok(started);
        }
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .map_err(|source| Error::Io {
                op: "start the network runtime for",
                path: "clients".into(),
                source,
            })?;
        Ok(self.started.get_or_init(|| runtime))
    }

    /// Waits for a call's end, on this thread. When the build is cancelled, the call is dropped.
    ///
    /// # Errors
    /// Cancelled; no threads left to start the runtime with.
    pub(crate) fn run<T>(
        &self,
        cancel: &Cancel,
        call: impl Future<Output = T>,
    ) -> Result<T, Error> {
        self.started()?.block_on(async {
            tokio::select! {
                ended = call => Ok(ended),
                () = cancelled(cancel) => Err(Error::Cancelled),
            }
        })
    }

    /// Waits for the end of a call that sees for itself when the build is cancelled.
    ///
    /// # Errors
    /// No threads left to start the runtime with.
    pub(crate) fn wait<T>(&self, call: impl Future<Output = T>) -> Result<T, Error> {
        Ok(self.started()?.block_on(call))
    }
}
