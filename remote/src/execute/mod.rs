//! Execution of actions: from the request to the result, over broken connections. What an action means is the caller's business.

mod logs;
mod run;

use crate::google::protobuf::Timestamp;
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
    /// How long it may be queued, from when the server says that it is; for ever when there is none. Where the server says nothing
    /// of stages, this and the next are one time.
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

impl Timing {
    /// Of a result.
    pub fn of(result: &proto::ActionResult) -> Self {
        let Some(told) = &result.execution_metadata else {
            return Self::default();
        };
        let between = |from: &Option<Timestamp>, to: &Option<Timestamp>| {
            let nanos =
                |at: &Timestamp| i128::from(at.seconds) * 1_000_000_000 + i128::from(at.nanos);
            let span = nanos(to.as_ref()?) - nanos(from.as_ref()?);
            u64::try_from(span).ok().map(Duration::from_nanos)
        };
        Self {
            worker: crate::error::told(&told.worker),
            queue: between(&told.queued_timestamp, &told.worker_start_timestamp),
            fetch: between(
                &told.input_fetch_start_timestamp,
                &told.input_fetch_completed_timestamp,
            ),
            run: between(
                &told.execution_start_timestamp,
                &told.execution_completed_timestamp,
            ),
            upload: between(
                &told.output_upload_start_timestamp,
                &told.output_upload_completed_timestamp,
            ),
        }
    }
}

impl Executed {
    /// Where the time went, as the worker says. A cached result tells the times of its first execution.
    pub fn timing(&self) -> Timing {
        Timing::of(&self.result)
    }
}

impl Client {
    /// Executes an action whose blobs the server has. `tell` is called as things happen; when `cancel` ends first, the
    /// operation is cancelled, and so it is when the future is dropped on a runtime that goes on.
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
        let mut run = run::Run::new(self, action, options, tell);
        tokio::select! {
            biased;
            () = cancel => {}
            ended = run.finish() => return ended,
        }
        run.cancel().await;
        Err(Error::Cancelled { action })
    }

    /// Content that may have come within a result (an output file, standard output), fetched if it has not.
    ///
    /// # Errors
    /// It is larger than `limit` bytes, not there, or something else.
    pub async fn content_of(
        &self,
        inlined: &[u8],
        digest: Option<&proto::Digest>,
        limit: u64,
    ) -> Result<Bytes, Error> {
        match digest {
            Some(digest) if inlined.is_empty() => {
                self.read(Digest::from_proto(digest)?, limit).await
            }
            _ => Ok(Bytes::copy_from_slice(inlined)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_that_make_no_sense_are_not_told() {
        let at = |seconds: i64| Some(Timestamp { seconds, nanos: 5 });
        let result = proto::ActionResult {
            execution_metadata: Some(proto::ExecutedActionMetadata {
                worker: "w\u{1b}[31m1".to_owned(),
                queued_timestamp: at(10),
                worker_start_timestamp: at(12),
                input_fetch_start_timestamp: at(i64::MIN),
                input_fetch_completed_timestamp: at(i64::MAX),
                execution_start_timestamp: at(3),
                execution_completed_timestamp: at(2),
                ..Default::default()
            }),
            ..Default::default()
        };
        let timing = Timing::of(&result);
        assert_eq!(timing.worker, "w [31m1");
        assert_eq!(timing.queue, Some(Duration::from_secs(2)));
        assert_eq!(timing.fetch, None);
        assert_eq!(timing.run, None);
        assert_eq!(timing.upload, None);
    }
}
