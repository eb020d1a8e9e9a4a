//! One execution: the stream of its operation, followed again after it broke, until a result, an error or a time-out.

use super::logs::Logs;
use super::{ExecuteOptions, Executed, Stage};
use crate::error::{Failure, told};
use crate::google::longrunning::operations_client::OperationsClient;
use crate::google::longrunning::{CancelOperationRequest, Operation, operation};
use crate::retry::Attempts;
use crate::trouble::Trouble;
use crate::{Client, Code, ConnectFailure, Digest, Error, proto};
use prost::Message;
use proto::execution_client::ExecutionClient;
use proto::execution_stage;
use std::future::Future;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::time::Instant;
use tonic::{Response, Status, Streaming};

/// A result with its inlined output.
const LARGEST_RESULT: usize = 16 << 20;
/// A name that is longer is none.
const LONGEST_NAME: usize = 4096;
/// An answer to a cancellation that nobody waits for longer.
const CANCEL: Duration = Duration::from_secs(5);
/// Before a server is asked again to cancel something.
const CANCEL_PAUSES: [Duration; 5] = [
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(400),
    Duration::from_millis(800),
];
/// Executions that the server forgot, and that are asked for again.
const AGAIN: u32 = 3;

/// What the server has said of where an execution is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// No word of it: some servers say nothing before the end.
    Untold,
    /// Not with a worker, as the server says.
    Queued,
    Executing,
}

/// One execution. Cancelled when it is dropped before its end.
pub(super) struct Run<'a> {
    client: &'a Client,
    action: Digest,
    options: &'a ExecuteOptions,
    tell: &'a (dyn Fn(Stage) + Send + Sync),
    runtime: Handle,
    /// The operation's name while it is under way.
    operation: Option<String>,
    phase: Phase,
    since: Instant,
    last: Option<Stage>,
    logs: Logs,
    /// The server said something since the last failure.
    moved: bool,
}

impl<'a> Run<'a> {
    pub(super) fn new(
        client: &'a Client,
        action: Digest,
        options: &'a ExecuteOptions,
        tell: &'a (dyn Fn(Stage) + Send + Sync),
    ) -> Self {
        Self {
            client,
            action,
            options,
            tell,
            runtime: Handle::current(),
            operation: None,
            phase: Phase::Untold,
            since: Instant::now(),
            last: None,
            logs: Logs::new(),
            moved: false,
        }
    }

    /// Executes, and follows until the end.
    pub(super) async fn finish(&mut self) -> Result<Executed, Error> {
        let mut attempts = Attempts::new(self.client.endpoint().retry);
        let mut again = 0;
        loop {
            let waiting = self.operation.is_some();
            let trouble = match self.follow().await {
                Ok(response) => return self.finished(response).await,
                Err(Trouble::Fatal(error)) => return Err(*error),
                Err(trouble) => trouble,
            };
            if std::mem::take(&mut self.moved) {
                attempts.progressed();
            }
            // The server forgot the operation, or cannot be asked for it: results are asked for again.
            let forgotten = matches!(
                trouble.code(),
                Some(Code::NotFound | Code::Unimplemented | Code::InvalidArgument)
            );
            if waiting && forgotten && again < AGAIN {
                again += 1;
                self.operation = None;
                continue;
            }
            if let Err(trouble) = attempts.wait_or_give_up(trouble).await {
                return Err(self.gave_up(trouble));
            }
        }
    }

    fn gave_up(&self, trouble: Trouble) -> Error {
        match trouble {
            Trouble::Answer(failure) if !failure.is_transient() => self.refused(failure),
            trouble => {
                let action = self.action;
                self.client
                    .error(&|| format!("execute action {action}"), trouble)
            }
        }
    }

    /// One stream of the operation, until the operation's end or the stream's.
    async fn follow(&mut self) -> Result<proto::ExecuteResponse, Trouble> {
        let client = self.client;
        let line = client.line().await?;
        let mut stub =
            ExecutionClient::new(line.channel()).max_decoding_message_size(LARGEST_RESULT);
        let opened: Response<Streaming<Operation>> = match self.operation.clone() {
            Some(name) => {
                let request = line.request(proto::WaitExecutionRequest { name });
                self.or_too_late(stub.wait_execution(request)).await?
            }
            None => {
                let request = line.request(self.request());
                self.or_too_late(stub.execute(request)).await?
            }
        };
        let mut stream = opened.into_inner();
        while let Some(operation) = self.or_too_late(stream.message()).await? {
            self.moved = true;
            if let Some(response) = self.take(operation)? {
                return Ok(response);
            }
        }
        Err(Trouble::Connect(ConnectFailure::Broken(
            "the stream of the operation ended before the operation".to_owned(),
        )))
    }

    fn request(&self) -> proto::ExecuteRequest {
        let priority = self.options.priority;
        proto::ExecuteRequest {
            instance_name: self.client.instance(),
            skip_cache_lookup: self.options.skip_cache_lookup,
            action_digest: Some(self.action.to_proto()),
            execution_policy: (priority != 0).then_some(proto::ExecutionPolicy { priority }),
            inline_stdout: true,
            inline_stderr: true,
            ..Default::default()
        }
    }

    /// Waits for the server, tells output meanwhile, and ends when the execution has no time left.
    async fn or_too_late<T>(
        &mut self,
        work: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, Trouble> {
        tokio::pin!(work);
        loop {
            let left = self.deadline();
            let too_late = async move {
                match left {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                done = &mut work => return done.map_err(|status| self.client.trouble(&status)),
                Some(piece) = self.logs.next() => (self.tell)(piece),
                () = too_late => {
                    let error = self.too_late();
                    self.cancel().await;
                    return Err(error.into());
                }
            }
        }
    }

    /// When the phase has taken too long.
    fn deadline(&self) -> Option<Instant> {
        let run = self.options.run_timeout;
        let limit = match self.phase {
            Phase::Queued => self.options.queue_timeout?,
            Phase::Untold => self.options.queue_timeout?.saturating_add(run),
            Phase::Executing => run,
        };
        self.since.checked_add(limit)
    }

    fn too_late(&self) -> Error {
        let endpoint = self.client.endpoint().name();
        match self.phase {
            Phase::Queued => Error::NoWorker {
                endpoint,
                properties: self.properties(),
                waited: self.since.elapsed(),
                source: None,
            },
            Phase::Untold | Phase::Executing => Error::TimedOut {
                action: self.action,
                endpoint,
                limit: self.options.run_timeout,
            },
        }
    }

    /// `ISA=arm-a64, OSFamily=linux`.
    fn properties(&self) -> String {
        let all: Vec<String> = self
            .options
            .properties
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        if all.is_empty() {
            return "what the action needs".to_owned();
        }
        all.join(", ")
    }

    /// Takes what an operation says. Gives the response when it is done.
    fn take(&mut self, operation: Operation) -> Result<Option<proto::ExecuteResponse>, Trouble> {
        if !operation.name.is_empty() && operation.name.len() <= LONGEST_NAME {
            self.operation = Some(operation.name);
        }
        match operation.metadata {
            Some(any) if any.type_url.ends_with("ExecuteOperationMetadata") => {
                // What cannot be read is not needed for the result.
                let metadata = proto::ExecuteOperationMetadata::decode(any.value.as_slice());
                self.hear(&metadata.unwrap_or_default());
            }
            _ => self.hear(&proto::ExecuteOperationMetadata::default()),
        }
        if !operation.done {
            return Ok(None);
        }
        // Whatever comes now: there is nothing left to cancel.
        self.operation = None;
        match operation.result {
            Some(operation::Result::Response(any)) => {
                match proto::ExecuteResponse::decode(any.value.as_slice()) {
                    Ok(response) => Ok(Some(response)),
                    Err(_) => Err(self.nonsense("cannot be read").into()),
                }
            }
            Some(operation::Result::Error(status)) => {
                Err(self.refused(Failure::of_rpc(&status)).into())
            }
            None => Err(self
                .nonsense("is of an operation that is done and has no result")
                .into()),
        }
    }

    fn nonsense(&self, what: &'static str) -> Error {
        self.client
            .nonsense(format!("execute action {}", self.action), what)
    }

    /// Where it is, and where its output can be read.
    fn hear(&mut self, metadata: &proto::ExecuteOperationMetadata) {
        use execution_stage::Value;
        let worker = metadata
            .partial_execution_metadata
            .as_ref()
            .map(|partial| told(&partial.worker))
            .filter(|worker| !worker.is_empty());
        let (phase, stage) = match Value::try_from(metadata.stage) {
            Ok(Value::CacheCheck) => (Phase::Queued, Some(Stage::CacheCheck)),
            Ok(Value::Queued) => (Phase::Queued, Some(Stage::Queued)),
            Ok(Value::Executing) => (Phase::Executing, Some(Stage::Executing { worker })),
            Ok(Value::Completed) => (Phase::Executing, Some(Stage::Completed)),
            Ok(Value::Unknown) | Err(_) => (self.phase, None),
        };
        if phase != self.phase {
            self.phase = phase;
            self.since = Instant::now();
        }
        if stage.is_some() && stage != self.last {
            self.last.clone_from(&stage);
            stage.into_iter().for_each(self.tell);
        }
        self.logs.follow(
            self.client,
            &metadata.stdout_stream_name,
            &metadata.stderr_stream_name,
        );
    }

    /// The status comes before the result: servers are known to send both, with an exit code of 0.
    async fn finished(&mut self, response: proto::ExecuteResponse) -> Result<Executed, Error> {
        self.operation = None;
        if let Some(status) = &response.status
            && status.code != 0
        {
            let mut failure = Failure::of_rpc(status);
            if failure.message.is_empty() {
                failure.message = told(&response.message);
            }
            return Err(self.refused(failure));
        }
        let Some(result) = response.result else {
            return Err(self.nonsense("has neither a status nor a result"));
        };
        self.client.check_inlined(&result)?;
        self.logs.rest(self.tell).await;
        let logs = response.server_logs.into_iter().filter_map(|(name, log)| {
            let digest = Digest::from_proto(&log.digest?).ok()?;
            Some((told(&name), digest))
        });
        Ok(Executed {
            result,
            from_cache: response.cached_result,
            message: told(&response.message),
            server_logs: logs.collect(),
            streamed_stdout: self.logs.streamed_stdout,
            streamed_stderr: self.logs.streamed_stderr,
        })
    }

    /// What a status of an execution means.
    fn refused(&self, failure: Failure) -> Error {
        let (action, endpoint) = (self.action, self.client.endpoint().name());
        let says = |words: &[&str]| {
            let message = failure.message.to_ascii_lowercase();
            words.iter().any(|word| message.contains(word))
        };
        let setup = matches!(
            failure.code,
            Code::FailedPrecondition | Code::InvalidArgument | Code::NotFound
        );
        let lacks = !failure.missing.is_empty()
            || failure.code == Code::NotFound
            || failure.code == Code::FailedPrecondition
                && says(&[
                    "missing",
                    "not found",
                    "could not find",
                    "could not get",
                    "no such blob",
                ]);
        if lacks && !failure.missing.is_empty() {
            return Error::Missing {
                action,
                endpoint,
                digests: failure.missing,
            };
        }
        // The second words are those of buildbox-run, which it passes on as an internal error; the third those of BuildGrid, where
        // it has a limit of its own.
        if setup && says(&["worker", "platform", "propert"])
            || says(&["unsupported isa", "unsupported os"])
            || failure.code == Code::Unavailable && says(&["queued for too long"])
        {
            return Error::NoWorker {
                endpoint,
                properties: self.properties(),
                waited: Duration::ZERO,
                source: Some(Box::new(failure)),
            };
        }
        if lacks {
            return Error::Missing {
                action,
                endpoint,
                digests: Vec::new(),
            };
        }
        if failure.code == Code::DeadlineExceeded {
            return Error::TimedOut {
                action,
                endpoint,
                limit: self.options.run_timeout,
            };
        }
        Error::Execution {
            action,
            endpoint,
            source: Box::new(failure),
        }
    }

    /// Cancels what is under way. Servers that cannot are left to their time-outs.
    pub(super) async fn cancel(&mut self) {
        if let Some(name) = self.operation.take() {
            cancel(self.client, name).await;
        }
    }
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        if let Some(name) = self.operation.take() {
            let client = self.client.clone();
            self.runtime
                .spawn(async move { cancel(&client, name).await });
        }
    }
}

/// BuildGrid says UNAVAILABLE as long as it talks to the worker, so that one question is not enough.
async fn cancel(client: &Client, name: String) {
    let Ok(line) = client.line().await else {
        return;
    };
    let asked = async {
        let mut stub = OperationsClient::new(line.channel());
        let mut pauses = CANCEL_PAUSES.into_iter();
        loop {
            let request = line.request(CancelOperationRequest { name: name.clone() });
            let Err(status) = stub.cancel_operation(request).await else {
                return;
            };
            let pause = pauses.next();
            let (Code::Unavailable | Code::Aborted, Some(pause)) = (status.code(), pause) else {
                tracing::debug!(%status, "the operation could not be cancelled");
                return;
            };
            tokio::time::sleep(pause).await;
        }
    };
    if tokio::time::timeout(CANCEL, asked).await.is_err() {
        tracing::debug!("no answer to the cancellation");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Endpoint;
    use crate::google::{protobuf::Any, rpc};
    use proptest::prelude::*;

    /// What an execution makes of one message of a server.
    fn heard(operation: Operation) -> Option<Result<Executed, Error>> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let endpoint = Endpoint::parse("grpc://localhost:1").unwrap();
            let client = Client::new(endpoint);
            let options = ExecuteOptions {
                properties: vec![("ISA".to_owned(), "rv64g".to_owned())],
                ..ExecuteOptions::default()
            };
            let mut run = Run::new(&client, Digest::EMPTY, &options, &|_| {});
            let taken = run.take(operation);
            // Nothing is to be cancelled at a server that is not there.
            run.operation = None;
            match taken {
                Ok(None) => None,
                Ok(Some(response)) => Some(run.finished(response).await),
                Err(Trouble::Fatal(error)) => Some(Err(*error)),
                Err(trouble) => panic!("{trouble:?}"),
            }
        })
    }

    fn done(response: &proto::ExecuteResponse) -> Operation {
        Operation {
            done: true,
            result: Some(operation::Result::Response(Any {
                type_url: "type.googleapis.com/build.bazel.remote.execution.v2.ExecuteResponse"
                    .to_owned(),
                value: response.encode_to_vec(),
            })),
            ..Default::default()
        }
    }

    fn refused(code: i32, message: &str) -> Error {
        let status = Some(rpc::Status {
            code,
            message: message.to_owned(),
            details: Vec::new(),
        });
        let response = proto::ExecuteResponse {
            result: Some(proto::ActionResult::default()),
            status,
            ..Default::default()
        };
        heard(done(&response)).unwrap().unwrap_err()
    }

    #[test]
    fn statuses_have_meanings() {
        for (code, message) in [
            (9, "no worker available"),
            (3, "Unknown platform property ISA"),
            (13, "execute() threw: Unsupported ISA \"rv64g\""),
            (9, "Could not find property set for {('ISA', 'rv64g')}"),
            (14, "Operation has been queued for too long"),
        ] {
            let error = refused(code, message);
            assert!(error.to_string().contains("offers ISA=rv64g"), "{error:?}");
        }
        assert!(refused(5, "").is_missing_blobs());
        assert!(refused(9, "blob not found").is_missing_blobs());
        assert!(refused(9, "Could not get action from storage.").is_missing_blobs());
        assert!(matches!(refused(4, ""), Error::TimedOut { .. }));
        assert!(refused(14, "all workers are busy").is_worker_lost());
        assert!(!refused(7, "not yours").is_worker_lost());
        assert!(!refused(9, "disabled").is_worker_lost());
    }

    #[test]
    fn operations_that_end_with_nothing() {
        let nothing = Operation {
            done: true,
            ..Default::default()
        };
        assert!(matches!(heard(nothing), Some(Err(Error::Answer { .. }))));
        let empty = done(&proto::ExecuteResponse::default());
        assert!(matches!(heard(empty), Some(Err(Error::Answer { .. }))));
        assert!(heard(Operation::default()).is_none());
    }

    proptest! {
        #[test]
        fn any_operation_is_taken(
            name in ".{0,20}",
            is_done: bool,
            stage: i32,
            metadata in prop::collection::vec(any::<u8>(), 0..60),
            garbled: bool,
            code: i32,
            hash in "[0-9a-f]{60,66}",
            size_bytes: i64,
            content in prop::collection::vec(any::<u8>(), 0..10),
        ) {
            let told = proto::ExecuteOperationMetadata { stage, ..Default::default() };
            let digest = Some(proto::Digest { hash, size_bytes });
            let result = proto::ActionResult {
                stdout_raw: content.clone(),
                stdout_digest: digest.clone(),
                ..Default::default()
            };
            let mut operation = done(&proto::ExecuteResponse {
                result: Some(result),
                status: Some(rpc::Status { code: code % 20, ..Default::default() }),
                server_logs: [("log".to_owned(), proto::LogFile { digest, human_readable: true })].into(),
                ..Default::default()
            });
            operation.name = name;
            operation.done = is_done;
            operation.metadata = Some(Any {
                type_url: "x/ExecuteOperationMetadata".to_owned(),
                value: if garbled { metadata.clone() } else { told.encode_to_vec() },
            });
            if garbled && let Some(operation::Result::Response(any)) = &mut operation.result {
                any.value = metadata;
            }
            let _ = heard(operation);
        }
    }
}
