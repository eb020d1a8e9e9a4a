//! `Execution` and `Operations`.

use super::apis::google::longrunning::operations_server::Operations;
use super::apis::google::longrunning::{
    CancelOperationRequest, DeleteOperationRequest, GetOperationRequest, ListOperationsRequest,
    ListOperationsResponse, Operation, WaitOperationRequest, operation,
};
use super::apis::google::protobuf::Empty;
use super::cache::{kept, untrue};
use super::cas::Answers;
use super::fault::Fault;
use super::operations::Job;
use super::process::Why;
use super::proto::execution_server::Execution;
use super::proto::{
    Action, Command, ExecuteOperationMetadata, ExecuteRequest, ExecuteResponse,
    WaitExecutionRequest, execution_stage,
};
use super::run::{self, any};
use super::state::{Key, Shared};
use futures_util::stream;
use prost::Message as _;
use std::sync::Arc;
use tonic::{Code, Request, Response, Status};

pub(super) struct Executor(pub(super) Arc<Shared>);

#[tonic::async_trait]
impl Execution for Executor {
    type ExecuteStream = Answers<Operation>;

    async fn execute(
        &self,
        request: Request<ExecuteRequest>,
    ) -> Result<Response<Self::ExecuteStream>, Status> {
        let instance = &request.get_ref().instance_name;
        self.0.enter("Execute", &request, instance).await?;
        if !self.0.options.execution {
            return Err(Status::unimplemented("no execution here"));
        }
        let request = request.into_inner();
        let key = Key::parse(request.action_digest.as_ref())?;
        let action: Action = self.message(&key)?;
        let command: Command = self.message(&Key::parse(action.command_digest.as_ref())?)?;
        let name = format!("operations/{}", self.0.queue.number());
        let cacheable = !action.do_not_cache && !request.skip_cache_lookup;
        let mut job = Job::new(name, key, action, command);
        job.priority = request.execution_policy.map_or(0, |policy| policy.priority);
        let job = Arc::new(job);
        self.queued(&job);
        if let Some(code) = self.0.take(|fault| match fault {
            Fault::StatusInResponse { code } => Some(*code),
            _ => None,
        }) {
            self.0.queue.know(&job);
            let status = Status::new(code.into(), "the action was told to fail");
            run::answer(&self.0, &job, super::cas::plain(&status));
            return Ok(Response::new(self.follow(&job, true)));
        }
        let found = (cacheable && self.0.options.execute_looks)
            .then(|| kept(&self.0, &job.key))
            .flatten();
        if let Some(result) = found {
            self.0.queue.know(&job);
            let response = ExecuteResponse {
                result: Some(untrue(&self.0, result)),
                cached_result: true,
                ..ExecuteResponse::default()
            };
            run::respond(&job, &response);
        } else {
            self.0.enqueue(&job);
        }
        Ok(Response::new(self.follow(&job, true)))
    }

    type WaitExecutionStream = Answers<Operation>;

    async fn wait_execution(
        &self,
        request: Request<WaitExecutionRequest>,
    ) -> Result<Response<Self::WaitExecutionStream>, Status> {
        self.enter("WaitExecution", &request).await?;
        if self.0.is_on(&Fault::NoWait) {
            return Err(Status::unimplemented("no WaitExecution here"));
        }
        let job = self.job(&request.get_ref().name)?;
        Ok(Response::new(self.follow(&job, false)))
    }
}

#[tonic::async_trait]
impl Operations for Executor {
    async fn list_operations(
        &self,
        request: Request<ListOperationsRequest>,
    ) -> Result<Response<ListOperationsResponse>, Status> {
        self.enter("ListOperations", &request).await?;
        let jobs = self.0.queue.jobs();
        Ok(Response::new(ListOperationsResponse {
            operations: jobs.iter().map(|job| job.state.borrow().clone()).collect(),
            ..ListOperationsResponse::default()
        }))
    }

    async fn get_operation(
        &self,
        request: Request<GetOperationRequest>,
    ) -> Result<Response<Operation>, Status> {
        self.enter("GetOperation", &request).await?;
        let job = self.job(&request.get_ref().name)?;
        let operation = job.state.borrow().clone();
        Ok(Response::new(operation))
    }

    async fn delete_operation(
        &self,
        request: Request<DeleteOperationRequest>,
    ) -> Result<Response<Empty>, Status> {
        self.enter("DeleteOperation", &request).await?;
        Err(Status::unimplemented("operations are not deleted here"))
    }

    async fn cancel_operation(
        &self,
        request: Request<CancelOperationRequest>,
    ) -> Result<Response<Empty>, Status> {
        self.enter("CancelOperation", &request).await?;
        if self.0.is_on(&Fault::NoCancel) {
            return Err(Status::unimplemented("no CancelOperation here"));
        }
        let job = self.job(&request.get_ref().name)?;
        self.0.count(|counters| counters.cancellations += 1);
        cancel(&self.0, &job);
        Ok(Response::new(Empty {}))
    }

    async fn wait_operation(
        &self,
        request: Request<WaitOperationRequest>,
    ) -> Result<Response<Operation>, Status> {
        self.enter("WaitOperation", &request).await?;
        let job = self.job(&request.get_ref().name)?;
        let mut state = job.state.subscribe();
        let operation = state.wait_for(|operation| operation.done).await;
        let operation = operation.map_err(|_| Status::unavailable("the server goes down"))?;
        Ok(Response::new(operation.clone()))
    }
}

impl Executor {
    /// For methods that name an operation, not an instance.
    async fn enter<T>(&self, method: &str, request: &Request<T>) -> Result<(), Status> {
        let instance = self.0.options.instance.clone();
        self.0.enter(method, request, &instance).await
    }

    fn job(&self, name: &str) -> Result<Arc<Job>, Status> {
        let job = self.0.queue.job(name);
        job.ok_or_else(|| Status::not_found(format!("no operation {name}")))
    }

    /// A message of the action, or the error that names its blob.
    fn message<M: prost::Message + Default>(&self, key: &Key) -> Result<M, Status> {
        if !self.0.storage.has(key) {
            let status = run::missing(std::slice::from_ref(key));
            let details = status.encode_to_vec().into();
            return Err(Status::with_details(
                Code::FailedPrecondition,
                status.message,
                details,
            ));
        }
        self.0
            .storage
            .message(key)
            .map_err(|error| Status::invalid_argument(format!("{key}: {error}")))
    }

    fn queued(&self, job: &Job) {
        let metadata = any(&ExecuteOperationMetadata {
            stage: execution_stage::Value::Queued as i32,
            action_digest: Some(job.key.digest()),
            ..ExecuteOperationMetadata::default()
        });
        job.state
            .send_modify(|operation| operation.metadata = Some(metadata));
    }

    /// The states of an operation until it is done.
    fn follow(&self, job: &Arc<Job>, asked: bool) -> Answers<Operation> {
        let break_after_first = self.0.is_on(&Fault::BreakOperations);
        let lose = self.0.is_on(&Fault::LoseOperations);
        let client = Client {
            shared: Arc::clone(&self.0),
            job: Arc::clone(job),
            cancels: asked && self.0.options.cancel_on_drop && !break_after_first,
        };
        let follower = Follower {
            state: job.state.subscribe(),
            next: Next::First,
            breaks: break_after_first || lose,
            lose,
            client,
        };
        Box::pin(stream::unfold(follower, |mut follower| async move {
            let item = follower.next().await?;
            Some((item, follower))
        }))
    }
}

/// Where a stream is.
enum Next {
    First,
    Change,
    End,
}

struct Follower {
    state: tokio::sync::watch::Receiver<Operation>,
    next: Next,
    breaks: bool,
    lose: bool,
    client: Client,
}

impl Follower {
    async fn next(&mut self) -> Option<Result<Operation, Status>> {
        match self.next {
            Next::End => return None,
            Next::First => {}
            Next::Change if self.breaks => {
                self.next = Next::End;
                if self.lose {
                    let client = &self.client;
                    client.shared.queue.forget(&client.job.name);
                    cancel(&client.shared, &client.job);
                }
                return Some(Err(Status::unavailable("the stream was told to break")));
            }
            Next::Change => {
                if self.state.changed().await.is_err() {
                    self.next = Next::End;
                    return Some(Err(Status::unavailable("the server goes down")));
                }
            }
        }
        let operation = self.state.borrow_and_update().clone();
        self.next = if operation.done {
            Next::End
        } else {
            Next::Change
        };
        // An operation that is done without metadata is a worker's death that clients see as a broken stream.
        if let (None, Some(operation::Result::Error(status))) =
            (&operation.metadata, &operation.result)
        {
            return Some(Err(Status::new(status.code.into(), &status.message)));
        }
        Some(Ok(operation))
    }
}

/// A client that waits; the action ends with it where the server is so.
struct Client {
    shared: Arc<Shared>,
    job: Arc<Job>,
    cancels: bool,
}

impl Drop for Client {
    fn drop(&mut self) {
        if self.cancels && !self.job.done() {
            cancel(&self.shared, &self.job);
        }
    }
}

fn cancel(shared: &Arc<Shared>, job: &Arc<Job>) {
    if shared.queue.withdraw(job) {
        let status = Status::cancelled("cancelled before it ran");
        run::fail(job, super::cas::plain(&status), false);
        return;
    }
    job.end(Why::Cancelled);
}
