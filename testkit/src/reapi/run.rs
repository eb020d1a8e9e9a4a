//! One action from the queue to its result.

use super::apis::google::longrunning::operation;
use super::apis::google::protobuf::{Any, Timestamp};
use super::apis::google::rpc;
use super::cache::untrue;
use super::fault::Fault;
use super::operations::{Job, platform};
use super::options::LostWorker;
use super::process::{Log, Program, Why, exit_code, listen};
use super::proto::{
    ActionResult, ExecuteOperationMetadata, ExecuteResponse, ExecutedActionMetadata,
    execution_stage,
};
use super::stage::{self, Trouble};
use super::state::{Execution, Key, Shared};
use prost::Message;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tonic::Code;

/// How an action ended.
enum End {
    Result(ActionResult),
    /// A status, and what there is of a result.
    Status(rpc::Status, Option<ActionResult>),
    Ended(Why),
}

impl From<Trouble> for End {
    fn from(trouble: Trouble) -> Self {
        let status = match trouble {
            Trouble::Missing(keys) => missing(&keys),
            Trouble::Invalid(text) => status(Code::InvalidArgument, &text),
            Trouble::Io(error) => status(Code::Internal, &error.to_string()),
        };
        Self::Status(status, None)
    }
}

/// Runs an action on a worker. True: the worker died and another one shall take it.
pub(super) fn run(shared: &Arc<Shared>, job: &Arc<Job>, worker: usize) -> bool {
    let mut run = Run {
        shared,
        job,
        folder: shared.queue.work_folder(),
        logs: [Log::new(), Log::new()],
        streams: [String::new(), String::new()],
        metadata: ExecutedActionMetadata {
            worker: shared.options.workers[worker].name.clone(),
            queued_timestamp: Some(timestamp(job.queued)),
            worker_start_timestamp: now(),
            ..ExecutedActionMetadata::default()
        },
    };
    run.name_streams();
    let end = run.attempt();
    for log in &run.logs {
        log.end();
    }
    stage::remove(&run.folder).ok();
    run.metadata.worker_completed_timestamp = now();
    run.finish(end)
}

struct Run<'a> {
    shared: &'a Arc<Shared>,
    job: &'a Arc<Job>,
    folder: PathBuf,
    /// Standard output and error.
    logs: [Arc<Log>; 2],
    streams: [String; 2],
    metadata: ExecutedActionMetadata,
}

impl Run<'_> {
    fn name_streams(&mut self) {
        if !self.shared.options.log_streams {
            return;
        }
        let number = self.shared.queue.number();
        let instance = &self.shared.options.instance;
        let slash = if instance.is_empty() { "" } else { "/" };
        for (index, name) in ["stdout", "stderr"].iter().enumerate() {
            let log = format!("{number}-{name}");
            self.shared.queue.add_log(&log, &self.logs[index]);
            self.streams[index] = format!("{instance}{slash}logstreams/{log}");
        }
    }

    fn attempt(&mut self) -> End {
        self.stage(execution_stage::Value::Executing);
        let storage = &self.shared.storage;
        self.metadata.input_fetch_start_timestamp = now();
        let root = match Key::parse(self.job.action.input_root_digest.as_ref()) {
            Ok(root) => root,
            Err(status) => return Trouble::Invalid(status.message().to_owned()).into(),
        };
        let staged = stage::stage(storage, &self.shared.options, &root, &self.folder)
            .and_then(|()| self.working_folder());
        let folder = match staged {
            Ok(folder) => folder,
            Err(trouble) => return trouble.into(),
        };
        self.metadata.input_fetch_completed_timestamp = now();
        self.metadata.execution_start_timestamp = now();
        let (status, why) = match self.execute(&folder) {
            Ok(ended) => ended,
            Err(error) => {
                let text = format!("{:?}: {error}", self.job.command.arguments.first());
                return End::Status(status(Code::InvalidArgument, &text), None);
            }
        };
        self.metadata.execution_completed_timestamp = now();
        let mut result = self.result(status);
        match why {
            Some(Why::Timeout) => {
                let status = self::status(Code::DeadlineExceeded, "the command took too long");
                return End::Status(status, Some(result));
            }
            Some(why) => return End::Ended(why),
            None => {}
        }
        self.metadata.output_upload_start_timestamp = now();
        if let Err(trouble) = stage::capture(storage, &self.job.command, &folder, &mut result) {
            return trouble.into();
        }
        self.metadata.output_upload_completed_timestamp = now();
        End::Result(result)
    }

    fn working_folder(&self) -> Result<PathBuf, Trouble> {
        let command = &self.job.command;
        let folder = self.folder.join(stage::inside(&command.working_directory)?);
        std::fs::create_dir_all(&folder)?;
        stage::make_parents(command, &folder)?;
        Ok(folder)
    }

    fn execute(&self, folder: &Path) -> std::io::Result<(ExitStatus, Option<Why>)> {
        let command = &self.job.command;
        let of_worker = self.shared.options.environment.iter();
        let of_worker = of_worker.map(|(name, value)| (name.as_str(), value.as_str()));
        let variables = command.environment_variables.iter();
        let program = Program {
            arguments: &command.arguments,
            environment: of_worker
                .chain(variables.map(|it| (it.name.as_str(), it.value.as_str())))
                .collect(),
            folder,
            root: &self.folder,
        };
        let fatal = self.shared.take(|fault| match fault {
            Fault::KillWorker { after_output } => Some(after_output.clone()),
            _ => None,
        });
        let (mut child, process) = program.start()?;
        let number = self.shared.started(Execution {
            action: self.job.key.to_string(),
            worker: self.metadata.worker.clone(),
            arguments: command.arguments.clone(),
            started: SystemTime::now(),
            ended: None,
        });
        self.shared.queue.add_process(&process);
        self.job.runs(&process);
        if fatal.as_ref().is_some_and(String::is_empty) {
            process.kill(Why::Lost);
        }
        let fatal = fatal.map(|text| (text, Arc::clone(&process)));
        let stdout = child.stdout.take().expect("BUG: no pipe was asked for");
        let stderr = child.stderr.take().expect("BUG: no pipe was asked for");
        let readers = [
            listen(stdout, &self.logs[0], fatal.clone()),
            listen(stderr, &self.logs[1], fatal),
        ];
        let limit = self.job.action.timeout.as_ref().map(|limit| {
            let seconds = u64::try_from(limit.seconds).unwrap_or(0);
            Duration::new(seconds, u32::try_from(limit.nanos).unwrap_or(0))
        });
        let ended = process.wait(&mut child, limit.filter(|limit| !limit.is_zero()));
        for reader in readers {
            let _ = reader.join();
        }
        self.shared.ended(number);
        self.shared.queue.remove_process(&process);
        ended
    }

    fn result(&self, status: ExitStatus) -> ActionResult {
        let storage = &self.shared.storage;
        let [stdout, stderr] = self.logs.each_ref().map(|log| log.content());
        let digest = |bytes: &[u8]| Some(Key::from(storage.put(bytes).as_str()).digest());
        let inline = |bytes: Vec<u8>| {
            let fits = bytes.len() <= self.shared.options.inline_output;
            if fits { bytes } else { Vec::new() }
        };
        ActionResult {
            exit_code: exit_code(status),
            stdout_digest: digest(&stdout),
            stderr_digest: digest(&stderr),
            stdout_raw: inline(stdout),
            stderr_raw: inline(stderr),
            ..ActionResult::default()
        }
    }

    fn stage(&self, stage: execution_stage::Value) {
        let metadata = any(&ExecuteOperationMetadata {
            stage: stage as i32,
            action_digest: Some(self.job.key.digest()),
            stdout_stream_name: self.streams[0].clone(),
            stderr_stream_name: self.streams[1].clone(),
            partial_execution_metadata: Some(self.metadata.clone()),
            ..ExecuteOperationMetadata::default()
        });
        self.job
            .state
            .send_modify(|operation| operation.metadata = Some(metadata));
    }

    /// Tells the clients. True: another worker shall take it.
    fn finish(&self, end: End) -> bool {
        let (result, status) = match end {
            End::Result(result) => (Some(result), rpc::Status::default()),
            End::Status(status, result) => (result, status),
            End::Ended(Why::Lost) => {
                let text = "the worker is lost";
                match self.shared.options.lost_worker {
                    LostWorker::Retried => {
                        self.stage(execution_stage::Value::Queued);
                        return true;
                    }
                    LostWorker::Unavailable => (None, self::status(Code::Unavailable, text)),
                    LostWorker::Aborted => (None, self::status(Code::Aborted, text)),
                    LostWorker::Stream => {
                        fail(self.job, self::status(Code::Unavailable, text), true);
                        return false;
                    }
                }
            }
            End::Ended(_) => {
                fail(self.job, self::status(Code::Cancelled, "cancelled"), false);
                return false;
            }
        };
        let result = result.map(|mut result| {
            result.execution_metadata = Some(self.metadata.clone());
            result
        });
        self.keep(result.as_ref(), &status);
        self.stage(execution_stage::Value::Completed);
        let result = result.map(|result| untrue(self.shared, result));
        respond(
            self.job,
            &ExecuteResponse {
                result,
                status: Some(status),
                ..ExecuteResponse::default()
            },
        );
        false
    }

    fn keep(&self, result: Option<&ActionResult>, status: &rpc::Status) {
        let Some(result) = result else {
            return;
        };
        let good = result.exit_code == 0 || self.shared.options.cache_failed;
        if status.code == 0 && good && !self.job.action.do_not_cache {
            self.shared
                .storage
                .set_result(&self.job.key, result.clone());
        }
    }
}

/// Answers an action that no worker can run as buildbox-casd does: exit code 0 beside an error.
pub(super) fn refuse(shared: &Arc<Shared>, job: &Arc<Job>) {
    let wanted = platform(job).cloned().unwrap_or_default();
    let text: Vec<String> = wanted
        .properties
        .iter()
        .map(|property| format!("{}={}", property.name, property.value))
        .collect();
    let text = format!("no worker offers {}", text.join(" "));
    answer(shared, job, status(Code::FailedPrecondition, &text));
}

/// A response with a status and an empty result.
pub(super) fn answer(_: &Arc<Shared>, job: &Arc<Job>, status: rpc::Status) {
    respond(
        job,
        &ExecuteResponse {
            result: Some(ActionResult::default()),
            status: Some(status),
            ..ExecuteResponse::default()
        },
    );
}

pub(super) fn respond(job: &Job, response: &ExecuteResponse) {
    let response = any(response);
    job.state.send_modify(|operation| {
        if let Some(metadata) = completed(operation.metadata.as_ref(), &job.key) {
            operation.metadata = Some(metadata);
        }
        operation.done = true;
        operation.result = Some(operation::Result::Response(response));
    });
}

/// Ends an operation with an error; `cut`: its stream ends with it too.
pub(super) fn fail(job: &Job, status: rpc::Status, cut: bool) {
    job.state.send_modify(|operation| {
        operation.done = true;
        operation.result = Some(operation::Result::Error(status));
        if cut {
            // No client sees this message: see `super::execution::follow`.
            operation.metadata = None;
        }
    });
}

fn completed(metadata: Option<&Any>, key: &Key) -> Option<Any> {
    let known = metadata.map(|any| ExecuteOperationMetadata::decode(any.value.as_slice()));
    let mut known = match known {
        Some(known) => known.ok()?,
        None => ExecuteOperationMetadata {
            action_digest: Some(key.digest()),
            ..ExecuteOperationMetadata::default()
        },
    };
    known.stage = execution_stage::Value::Completed as i32;
    Some(any(&known))
}

pub(super) fn any<M: Message + Named>(message: &M) -> Any {
    Any {
        type_url: format!("type.googleapis.com/{}", M::NAME),
        value: message.encode_to_vec(),
    }
}

/// The full name of a message.
pub(super) trait Named {
    const NAME: &'static str;
}

impl Named for ExecuteOperationMetadata {
    const NAME: &'static str = "build.bazel.remote.execution.v2.ExecuteOperationMetadata";
}

impl Named for ExecuteResponse {
    const NAME: &'static str = "build.bazel.remote.execution.v2.ExecuteResponse";
}

impl Named for PreconditionFailure {
    const NAME: &'static str = "google.rpc.PreconditionFailure";
}

/// `google.rpc.PreconditionFailure`, which the protocol's crate does not have.
#[derive(Clone, PartialEq, Message)]
pub(super) struct PreconditionFailure {
    #[prost(message, repeated, tag = "1")]
    violations: Vec<Violation>,
}

#[derive(Clone, PartialEq, Message)]
struct Violation {
    #[prost(string, tag = "1")]
    kind: String,
    #[prost(string, tag = "2")]
    subject: String,
    #[prost(string, tag = "3")]
    description: String,
}

/// `FAILED_PRECONDITION` that names the blobs.
pub(super) fn missing(keys: &[Key]) -> rpc::Status {
    let violations = keys.iter().map(|key| Violation {
        kind: "MISSING".to_owned(),
        subject: format!("blobs/{key}"),
        description: String::new(),
    });
    let failure = PreconditionFailure {
        violations: violations.collect(),
    };
    rpc::Status {
        code: Code::FailedPrecondition as i32,
        message: format!("{} blobs are not here", keys.len()),
        details: vec![any(&failure)],
    }
}

fn status(code: Code, message: &str) -> rpc::Status {
    rpc::Status {
        code: code as i32,
        message: message.to_owned(),
        details: Vec::new(),
    }
}

fn now() -> Option<Timestamp> {
    Some(timestamp(SystemTime::now()))
}

fn timestamp(time: SystemTime) -> Timestamp {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(0),
        nanos: i32::try_from(since.subsec_nanos()).unwrap_or(0),
    }
}
