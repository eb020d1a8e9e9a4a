//! A worker for servers that have none of their own, such as BuildGrid: takes leases over the Remote Workers API, runs actions as the
//! server of the tests does, and sends their outputs.
//!
//! It has a storage of its own, so that an input is fetched once. It does not isolate commands.

use super::apis::google::bytestream::byte_stream_client::ByteStreamClient;
use super::apis::google::bytestream::{ReadRequest, WriteRequest};
use super::apis::google::longrunning::operation;
use super::apis::google::protobuf::Any;
use super::apis::google::rpc;
use super::fault::Fault;
use super::operations::Job;
use super::options::{Options, Worker};
use super::process::Why;
use super::proto::content_addressable_storage_client::ContentAddressableStorageClient;
use super::proto::{
    Action, ActionResult, BatchReadBlobsRequest, BatchUpdateBlobsRequest, Directory,
    ExecuteResponse, batch_update_blobs_request,
};
use super::run;
use super::state::{Counters, Key, Shared};
use futures_util::stream;
use prost::Message;
use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tonic::Status;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use wire::{BotSession, CreateSession, Lease, UpdateSession};

/// Messages of `google.devtools.remoteworkers.v1test2`, as far as they are used.
mod wire;

/// Bytes of blobs in one call.
const BATCH: u64 = 2 << 20;

/// How often a bot that runs something asks whether it is still wanted.
const BEAT: Duration = Duration::from_millis(200);

const CREATE: &str = "/google.devtools.remoteworkers.v1test2.Bots/CreateBotSession";
const UPDATE: &str = "/google.devtools.remoteworkers.v1test2.Bots/UpdateBotSession";

/// A running worker; ends when dropped, with the commands that it runs.
pub struct Bot {
    shared: Arc<Shared>,
    runtime: Option<Runtime>,
}

impl fmt::Debug for Bot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bot").finish_non_exhaustive()
    }
}

impl Drop for Bot {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
        self.shared.end_all();
        let _ = super::stage::remove(self.shared.folder());
    }
}

impl Bot {
    /// Starts one for a server at `grpc://HOST:PORT[/INSTANCE]`, with a session for each slot of each worker of the options, of which
    /// those of staging count too.
    ///
    /// # Panics
    /// The address cannot be understood, or no temporary folder be made.
    #[must_use]
    pub fn start(url: &str, options: Options) -> Self {
        let rest = url.strip_prefix("grpc://").unwrap_or(url);
        let (host, instance) = rest.split_once('/').unwrap_or((rest, ""));
        let endpoint = Endpoint::from_shared(format!("http://{host}")).expect("an address");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("reapi-bot")
            .enable_all()
            .build()
            .expect("threads can be started");
        let workers = options.workers.clone();
        let shared = Arc::new(Shared::new(options));
        for (index, worker) in workers.iter().enumerate() {
            for slot in 0..worker.slots {
                let session = Session {
                    channel: {
                        let _inside = runtime.enter();
                        endpoint.connect_lazy()
                    },
                    shared: Arc::clone(&shared),
                    instance: instance.to_owned(),
                    worker: index,
                };
                let described = described(worker, slot);
                runtime.spawn(session.serve(described));
            }
        }
        Self {
            shared,
            runtime: Some(runtime),
        }
    }

    /// Makes it fail in this way the next `times` times: only [`Fault::KillWorker`] means something to it.
    pub fn inject_times(&self, fault: Fault, times: u64) {
        self.shared.inject(fault, Some(times));
    }

    /// Commands that run now.
    #[must_use]
    pub fn running(&self) -> usize {
        let all = self.shared.executions();
        all.iter().filter(|one| one.ended.is_none()).count()
    }

    /// What it has done so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.shared.counters()
    }
}

/// A server takes a worker of the same name for the one that it knows.
fn described(worker: &Worker, slot: usize) -> BotSession {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("{}-{slot}-{}-{number}", worker.name, std::process::id());
    let property = |(key, value): &(String, String)| wire::Property {
        key: key.clone(),
        value: value.clone(),
    };
    BotSession {
        bot_id: name.clone(),
        status: wire::OK,
        worker: Some(wire::Worker {
            devices: vec![wire::Device {
                handle: name,
                properties: worker.properties.iter().map(property).collect(),
            }],
        }),
        ..BotSession::default()
    }
}

#[derive(Clone)]
struct Session {
    channel: Channel,
    shared: Arc<Shared>,
    instance: String,
    worker: usize,
}

/// A lease that runs.
struct Running {
    id: String,
    job: Arc<Job>,
    done: JoinHandle<(rpc::Status, Option<ActionResult>)>,
}

impl Session {
    async fn serve(self, described: BotSession) {
        loop {
            // A server that is not there yet, or no more: another session when it is.
            let _ = self.session(described.clone()).await;
            tokio::time::sleep(BEAT).await;
        }
    }

    async fn session(&self, described: BotSession) -> Result<(), Status> {
        let request = CreateSession {
            parent: self.instance.clone(),
            bot_session: Some(described),
        };
        let mut session: BotSession = self.call(CREATE, request).await?;
        let mut running: Option<Running> = None;
        loop {
            self.follow(&mut session, &mut running).await;
            if let Some(running) = &mut running {
                let _ = tokio::time::timeout(BEAT, wait(&mut running.done)).await;
            }
            if let Some(ended) = running.take_if(|running| running.done.is_finished()) {
                tell(&mut session, ended).await;
            }
            let request = UpdateSession {
                name: session.name.clone(),
                bot_session: Some(session),
            };
            session = match self.call(UPDATE, request).await {
                Ok(session) => session,
                Err(status) => {
                    if let Some(running) = &running {
                        running.job.end(Why::Lost);
                    }
                    return Err(status);
                }
            };
        }
    }

    /// Starts what is new and ends what is not wanted any more.
    async fn follow(&self, session: &mut BotSession, running: &mut Option<Running>) {
        if let Some(known) = running {
            let lease = session.leases.iter().find(|lease| lease.id == known.id);
            let wanted = lease.is_some_and(|lease| lease.state == wire::ACTIVE);
            if !wanted {
                known.job.end(Why::Cancelled);
                let _ = (&mut known.done).await;
                *running = None;
            }
        }
        for lease in &mut session.leases {
            let new = lease.state == wire::PENDING || lease.state == wire::ACTIVE;
            if new && running.is_none() {
                lease.state = wire::ACTIVE;
                match self.begin(lease).await {
                    Ok(begun) => *running = Some(begun),
                    Err(status) => end(lease, super::cas::plain(&status), None),
                }
            }
        }
    }

    async fn begin(&self, lease: &Lease) -> Result<Running, Status> {
        let payload = lease.payload.clone().unwrap_or_default();
        let invalid = |error: prost::DecodeError| Status::invalid_argument(error.to_string());
        let action = if payload.type_url.ends_with(".Action") {
            payload.value
        } else {
            let digest = super::proto::Digest::decode(payload.value.as_slice()).map_err(invalid)?;
            let key = Key::parse(Some(&digest))?;
            self.fetch(std::slice::from_ref(&key)).await?;
            self.local(&key)?
        };
        let key = Key::of(&action);
        let action = Action::decode(action.as_slice()).map_err(invalid)?;
        let command = Key::parse(action.command_digest.as_ref())?;
        self.fetch(std::slice::from_ref(&command)).await?;
        let bytes = self.local(&command)?;
        let command = super::proto::Command::decode(bytes.as_slice()).map_err(invalid)?;
        let job = Arc::new(Job::new(lease.id.clone(), key, action, command));
        self.shared.queue.know(&job);
        let session = self.clone();
        let done = tokio::spawn(session.run(Arc::clone(&job)));
        Ok(Running {
            id: lease.id.clone(),
            job,
            done,
        })
    }

    async fn run(self, job: Arc<Job>) -> (rpc::Status, Option<ActionResult>) {
        let ended = self.run_inner(&job).await;
        self.shared.queue.forget(&job.name);
        ended.unwrap_or_else(|status| (super::cas::plain(&status), None))
    }

    async fn run_inner(
        &self,
        job: &Arc<Job>,
    ) -> Result<(rpc::Status, Option<ActionResult>), Status> {
        let root = Key::parse(job.action.input_root_digest.as_ref())?;
        self.fetch_tree(root).await?;
        let (shared, running, worker) = (Arc::clone(&self.shared), Arc::clone(job), self.worker);
        tokio::task::spawn_blocking(move || run::run(&shared, &running, worker))
            .await
            .map_err(|error| Status::internal(error.to_string()))?;
        let response = match job.state.borrow().result.clone() {
            Some(operation::Result::Response(any)) => ExecuteResponse::decode(any.value.as_slice())
                .map_err(|error| Status::internal(error.to_string()))?,
            Some(operation::Result::Error(status)) => return Ok((status, None)),
            None => return Err(Status::internal("an action without an end")),
        };
        if let Some(result) = &response.result {
            for key in self.shared.outputs(result) {
                self.send(&key).await?;
            }
        }
        Ok((response.status.unwrap_or_default(), response.result))
    }

    fn local(&self, key: &Key) -> Result<Vec<u8>, Status> {
        let found = self.shared.storage.read(key);
        found.map_err(|_| Status::failed_precondition(format!("{key} is not at the server")))
    }

    /// Fetches an input root, level by level. What is not there is left out: staging tells it.
    async fn fetch_tree(&self, root: Key) -> Result<(), Status> {
        let mut level = vec![root];
        let mut seen = HashSet::new();
        let mut files = Vec::new();
        while !level.is_empty() {
            level.retain(|key| seen.insert(key.clone()));
            self.fetch(&level).await?;
            let mut next = Vec::new();
            for key in &level {
                let Ok(directory) = self.shared.storage.message::<Directory>(key) else {
                    continue;
                };
                for file in &directory.files {
                    files.push(Key::parse(file.digest.as_ref())?);
                }
                for child in &directory.directories {
                    next.push(Key::parse(child.digest.as_ref())?);
                }
            }
            level = next;
        }
        self.fetch(&files).await
    }

    /// Fetches what is not here yet.
    async fn fetch(&self, keys: &[Key]) -> Result<(), Status> {
        let wanted: HashSet<&Key> = keys.iter().collect();
        let wanted = wanted
            .into_iter()
            .filter(|key| !self.shared.storage.has(key));
        let (small, large): (Vec<&Key>, Vec<&Key>) = wanted.partition(|key| key.size() < BATCH);
        for key in large {
            self.read(key).await?;
        }
        let mut batch = Vec::new();
        let mut size = 0;
        for key in small {
            if size + key.size() > BATCH || batch.len() >= 500 {
                self.read_batch(std::mem::take(&mut batch)).await?;
                size = 0;
            }
            size += key.size();
            batch.push(key);
        }
        self.read_batch(batch).await
    }

    async fn read_batch(&self, keys: Vec<&Key>) -> Result<(), Status> {
        if keys.is_empty() {
            return Ok(());
        }
        let request = BatchReadBlobsRequest {
            instance_name: self.instance.clone(),
            digests: keys.iter().map(|key| key.digest()).collect(),
            ..BatchReadBlobsRequest::default()
        };
        let client = ContentAddressableStorageClient::new(self.channel.clone());
        let mut client = client.max_decoding_message_size(64 << 20);
        let answer = client.batch_read_blobs(request).await?.into_inner();
        for one in answer.responses {
            let good = one.status.is_none_or(|status| status.code == 0);
            if let (true, Ok(key)) = (good, Key::parse(one.digest.as_ref())) {
                self.keep(&key, &one.data)?;
            }
        }
        Ok(())
    }

    fn keep(&self, key: &Key, bytes: &[u8]) -> Result<(), Status> {
        let kept = self.shared.storage.put_as(key, bytes);
        kept.map_err(|error| Status::data_loss(error.to_string()))
    }

    fn prefix(&self) -> String {
        let slash = if self.instance.is_empty() { "" } else { "/" };
        format!("{}{slash}", self.instance)
    }

    async fn read(&self, key: &Key) -> Result<(), Status> {
        let mut client = ByteStreamClient::new(self.channel.clone());
        let request = ReadRequest {
            resource_name: format!("{}blobs/{key}", self.prefix()),
            ..ReadRequest::default()
        };
        let mut stream = match client.read(request).await {
            Ok(stream) => stream.into_inner(),
            Err(status) if status.code() == tonic::Code::NotFound => return Ok(()),
            Err(status) => return Err(status),
        };
        let mut bytes = Vec::new();
        while let Some(message) = stream.message().await? {
            bytes.extend(message.data);
        }
        self.keep(key, &bytes)
    }

    async fn send(&self, key: &Key) -> Result<(), Status> {
        let data = self.local(key)?;
        if key.size() < BATCH {
            let mut client = ContentAddressableStorageClient::new(self.channel.clone());
            let request = BatchUpdateBlobsRequest {
                instance_name: self.instance.clone(),
                requests: vec![batch_update_blobs_request::Request {
                    digest: Some(key.digest()),
                    data,
                    compressor: 0,
                }],
                ..BatchUpdateBlobsRequest::default()
            };
            client.batch_update_blobs(request).await?;
            return Ok(());
        }
        let number = self.shared.queue.number();
        let name = format!("{}uploads/bot-{number}/blobs/{key}", self.prefix());
        let mut offset = 0;
        let total = data.len();
        let messages: Vec<WriteRequest> = data
            .chunks(1 << 20)
            .map(|piece| {
                let start = offset;
                offset += piece.len();
                WriteRequest {
                    resource_name: name.clone(),
                    write_offset: i64::try_from(start).unwrap_or(i64::MAX),
                    finish_write: offset == total,
                    data: piece.to_vec(),
                }
            })
            .collect();
        let mut client = ByteStreamClient::new(self.channel.clone());
        client.write(stream::iter(messages)).await?;
        Ok(())
    }

    async fn call<M: Message + 'static>(
        &self,
        method: &'static str,
        message: M,
    ) -> Result<BotSession, Status> {
        let mut client = tonic::client::Grpc::new(self.channel.clone());
        let ready = client.ready().await;
        ready.map_err(|error| Status::unavailable(error.to_string()))?;
        let mut request = tonic::Request::new(message);
        // The server waits for work for most of this time.
        request.set_timeout(Duration::from_secs(20));
        let codec = tonic_prost::ProstCodec::<M, BotSession>::default();
        let path = PathAndQuery::from_static(method);
        Ok(client.unary(request, path, codec).await?.into_inner())
    }
}

/// Waits without taking the result.
async fn wait<T>(task: &mut JoinHandle<T>) {
    while !task.is_finished() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Tells the result of what has ended.
async fn tell(session: &mut BotSession, ended: Running) {
    let mut leases = session.leases.iter_mut();
    let lease = leases.find(|lease| lease.id == ended.id);
    if let (Some(lease), Ok((status, result))) = (lease, ended.done.await) {
        end(lease, status, result);
    }
}

fn end(lease: &mut Lease, status: rpc::Status, result: Option<ActionResult>) {
    lease.state = wire::COMPLETED;
    lease.status = Some(status);
    lease.result = result.map(|result| Any {
        type_url: "type.googleapis.com/build.bazel.remote.execution.v2.ActionResult".to_owned(),
        value: result.encode_to_vec(),
    });
}
