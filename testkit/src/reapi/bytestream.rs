//! `ByteStream`: blobs in pieces, with resuming and zstd, and streams of output while commands run.

use super::apis::google::bytestream::byte_stream_server::ByteStream;
use super::apis::google::bytestream::{
    QueryWriteStatusRequest, QueryWriteStatusResponse, ReadRequest, ReadResponse, WriteRequest,
    WriteResponse,
};
use super::cas::{Answers, pack, read, unpack};
use super::fault::Fault;
use super::resource::Resource;
use super::state::{Key, Shared};
use futures_util::stream;
use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tonic::{Request, Response, Status, Streaming};

/// Bytes in one message of `Read`.
const PIECE: usize = 256 << 10;

pub(super) struct Bytes {
    shared: Arc<Shared>,
    /// Uploads that are not complete, by resource name.
    partial: Mutex<HashMap<String, Partial>>,
}

#[derive(Clone)]
struct Partial {
    path: PathBuf,
    size: u64,
}

impl Bytes {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            partial: Mutex::default(),
        }
    }

    fn partial(&self) -> MutexGuard<'_, HashMap<String, Partial>> {
        self.partial.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn allowed(&self, zstd: bool) -> Result<(), Status> {
        if zstd && !self.shared.options.zstd {
            return Err(Status::invalid_argument("zstd is not announced"));
        }
        Ok(())
    }
}

#[tonic::async_trait]
impl ByteStream for Bytes {
    type ReadStream = Answers<ReadResponse>;

    async fn read(
        &self,
        request: Request<ReadRequest>,
    ) -> Result<Response<Self::ReadStream>, Status> {
        let resource = Resource::to_read(&request.get_ref().resource_name)?;
        self.shared
            .enter("Read", &request, resource.instance())
            .await?;
        let request = request.into_inner();
        let offset = usize::try_from(request.read_offset)
            .map_err(|_| Status::out_of_range("the offset is negative"))?;
        let (key, zstd) = match resource {
            Resource::Log { name, .. } => return self.log(&name, offset),
            Resource::Blob { key, zstd, .. } => (key, zstd),
        };
        self.allowed(zstd)?;
        let mut bytes = read(&self.shared, &key)?;
        if offset > bytes.len() {
            return Err(Status::out_of_range("the offset is behind the end"));
        }
        bytes.drain(..offset);
        if request.read_limit < 0 {
            return Err(Status::invalid_argument("the limit is negative"));
        }
        if request.read_limit > 0 && !zstd {
            bytes.truncate(usize::try_from(request.read_limit).unwrap_or(usize::MAX));
        }
        if zstd {
            bytes = pack(&bytes);
        }
        Ok(Response::new(pieces(&self.shared, &bytes)))
    }

    async fn write(
        &self,
        request: Request<Streaming<WriteRequest>>,
    ) -> Result<Response<WriteResponse>, Status> {
        // The name, and with it the instance, comes with the first message: headers are checked here, the rest there.
        let instance = self.shared.options.instance.clone();
        self.shared.enter("Write", &request, &instance).await?;
        let mut messages = request.into_inner();
        let first = messages.message().await?;
        let first = first.ok_or_else(|| Status::invalid_argument("a write without a message"))?;
        let name = first.resource_name.clone();
        let resource = Resource::to_write(&name)?;
        let Resource::Blob { key, zstd, .. } = &resource else {
            return Err(Status::invalid_argument(
                "streams of output are not written",
            ));
        };
        if resource.instance() != instance {
            return Err(Status::not_found("this instance is not served here"));
        }
        self.allowed(*zstd)?;
        if self.shared.storage.has(key) {
            let size = if *zstd { -1 } else { signed(key.size()) };
            return Ok(Response::new(WriteResponse {
                committed_size: size,
            }));
        }
        let mut upload = self.begin(&name, first.write_offset)?;
        let mut message = Some(first);
        let mut finished = false;
        while let Some(one) = message {
            if finished {
                return Err(Status::invalid_argument("a message after the last"));
            }
            if !one.resource_name.is_empty() && one.resource_name != name {
                return Err(Status::invalid_argument("the name changes"));
            }
            self.take_in(&name, &mut upload, &one)?;
            finished = one.finish_write;
            message = messages.message().await?;
        }
        if !finished {
            return Err(Status::invalid_argument(
                "the stream ends without the last message",
            ));
        }
        let partial = self.partial().remove(&name);
        let partial = partial.ok_or_else(|| Status::aborted("the upload is gone"))?;
        self.commit(key, *zstd, &partial)?;
        Ok(Response::new(WriteResponse {
            committed_size: signed(partial.size),
        }))
    }

    async fn query_write_status(
        &self,
        request: Request<QueryWriteStatusRequest>,
    ) -> Result<Response<QueryWriteStatusResponse>, Status> {
        let name = request.get_ref().resource_name.clone();
        let resource = Resource::to_write(&name)?;
        self.shared
            .enter("QueryWriteStatus", &request, resource.instance())
            .await?;
        if let Resource::Blob { key, .. } = &resource
            && self.shared.storage.has(key)
        {
            return Ok(Response::new(QueryWriteStatusResponse {
                committed_size: signed(key.size()),
                complete: true,
            }));
        }
        let partial = self.partial().get(&name).cloned();
        let partial = partial.ok_or_else(|| Status::not_found("no such upload"))?;
        Ok(Response::new(QueryWriteStatusResponse {
            committed_size: signed(partial.size),
            complete: false,
        }))
    }
}

impl Bytes {
    /// The upload that a write goes on with, or a new one.
    fn begin(&self, name: &str, offset: i64) -> Result<File, Status> {
        let mut partial = self.partial();
        let known = partial.get(name).map(|known| known.size);
        let offset = u64::try_from(offset)
            .map_err(|_| Status::invalid_argument("the offset is negative"))?;
        if offset != known.unwrap_or(0) && offset != 0 {
            let text = format!("{} bytes are here, not {offset}", known.unwrap_or(0));
            return Err(Status::out_of_range(text));
        }
        let path = match partial.get(name) {
            Some(known) => known.path.clone(),
            None => self.shared.storage.temporary(),
        };
        let mut options = OpenOptions::new();
        let file = if offset == 0 {
            options.write(true).create(true).truncate(true).open(&path)
        } else {
            options.append(true).open(&path)
        };
        let entry = Partial { path, size: offset };
        partial.insert(name.to_owned(), entry);
        file.map_err(|error| Status::internal(error.to_string()))
    }

    fn take_in(&self, name: &str, file: &mut File, one: &WriteRequest) -> Result<(), Status> {
        let mut partial = self.partial();
        let known = partial.get_mut(name);
        let known = known.ok_or_else(|| Status::aborted("another write took this upload over"))?;
        if u64::try_from(one.write_offset).ok() != Some(known.size) {
            let text = format!("{} bytes are here, not {}", known.size, one.write_offset);
            return Err(Status::invalid_argument(text));
        }
        let end = known.size + one.data.len() as u64;
        let cut = self.shared.take(|fault| match fault {
            Fault::BreakWrite { after } if end > *after => Some((*after, true)),
            Fault::LoseWrite { after } if end > *after => Some((*after, false)),
            _ => None,
        });
        let taken = cut.map_or(end, |(after, _)| after.max(known.size)) - known.size;
        let bytes = &one.data[..usize::try_from(taken).unwrap_or(usize::MAX)];
        file.write_all(bytes)
            .map_err(|error| Status::internal(error.to_string()))?;
        known.size += taken;
        self.shared.count(|counters| counters.bytes_in += taken);
        match cut {
            None => Ok(()),
            Some((_, kept)) => {
                if !kept && let Some(lost) = partial.remove(name) {
                    let _ = fs::remove_file(lost.path);
                }
                Err(Status::unavailable("the write was told to break"))
            }
        }
    }

    fn commit(&self, key: &Key, zstd: bool, partial: &Partial) -> Result<(), Status> {
        let failed = |error: std::io::Error| Status::invalid_argument(error.to_string());
        if !zstd {
            return self
                .shared
                .storage
                .adopt(key, &partial.path)
                .map_err(failed);
        }
        let packed = fs::read(&partial.path).map_err(failed)?;
        let _ = fs::remove_file(&partial.path);
        self.shared
            .storage
            .put_as(key, &unpack(&packed)?)
            .map_err(failed)
    }

    /// What a command says, from an offset until it ends.
    fn log(&self, name: &str, offset: usize) -> Result<Response<Answers<ReadResponse>>, Status> {
        let log = self.shared.queue.log(name);
        let log = log.ok_or_else(|| Status::not_found(format!("no stream {name}")))?;
        let shared = Arc::clone(&self.shared);
        let follow = log.follow();
        let stream = stream::unfold((follow, offset), move |(mut follow, offset)| {
            let shared = Arc::clone(&shared);
            async move {
                let data = follow.next(offset).await?;
                let next = offset + data.len();
                shared.count(|counters| counters.bytes_out += data.len() as u64);
                Some((Ok(ReadResponse { data }), (follow, next)))
            }
        });
        Ok(Response::new(Box::pin(stream)))
    }
}

/// Messages of a `Read`, broken where it was told.
fn pieces(shared: &Arc<Shared>, bytes: &[u8]) -> Answers<ReadResponse> {
    let cut = shared.take(|fault| match fault {
        Fault::BreakRead { after } if *after < bytes.len() as u64 => Some(*after),
        _ => None,
    });
    let end = cut.map_or(bytes.len(), |after| usize::try_from(after).unwrap_or(0));
    shared.count(|counters| counters.bytes_out += end as u64);
    let mut messages: Vec<Result<ReadResponse, Status>> = bytes[..end]
        .chunks(PIECE)
        .map(|piece| {
            Ok(ReadResponse {
                data: piece.to_vec(),
            })
        })
        .collect();
    if cut.is_some() {
        messages.push(Err(Status::unavailable("the read was told to break")));
    }
    Box::pin(stream::iter(messages))
}

fn signed(size: u64) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}
