//! `ContentAddressableStorage`. Chunked blobs (`SplitBlob` and the like) are UNIMPLEMENTED, as capabilities say.

use super::apis::google::rpc;
use super::fault::Fault;
use super::proto::content_addressable_storage_server::ContentAddressableStorage;
use super::proto::{
    self, BatchReadBlobsRequest, BatchReadBlobsResponse, BatchUpdateBlobsRequest,
    BatchUpdateBlobsResponse, Directory, FindMissingBlobsRequest, FindMissingBlobsResponse,
    GetTreeRequest, GetTreeResponse, batch_read_blobs_response, batch_update_blobs_response,
    compressor,
};
use super::state::{Key, Shared};
use futures_core::Stream;
use futures_util::stream;
use prost::Message as _;
use std::collections::HashSet;
use std::pin::Pin;
use std::sync::Arc;
use tonic::{Request, Response, Status};

/// A stream of answers.
pub(super) type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Directories in one message of `GetTree` unless the client asks for fewer.
const TREE_PAGE: usize = 500;

pub(super) struct Cas(pub(super) Arc<Shared>);

#[tonic::async_trait]
impl ContentAddressableStorage for Cas {
    async fn find_missing_blobs(
        &self,
        request: Request<FindMissingBlobsRequest>,
    ) -> Result<Response<FindMissingBlobsResponse>, Status> {
        let instance = &request.get_ref().instance_name;
        self.0.enter("FindMissingBlobs", &request, instance).await?;
        let mut missing = Vec::new();
        let mut seen = HashSet::new();
        for digest in &request.get_ref().blob_digests {
            let key = Key::parse(Some(digest))?;
            if !self.0.storage.has(&key) && seen.insert(key) {
                missing.push(digest.clone());
            }
        }
        if !missing.is_empty() && self.0.is_on(&Fault::MissingLies) {
            missing.clear();
        }
        Ok(Response::new(FindMissingBlobsResponse {
            missing_blob_digests: missing,
        }))
    }

    async fn batch_update_blobs(
        &self,
        request: Request<BatchUpdateBlobsRequest>,
    ) -> Result<Response<BatchUpdateBlobsResponse>, Status> {
        let instance = &request.get_ref().instance_name;
        self.0.enter("BatchUpdateBlobs", &request, instance).await?;
        let requests = request.into_inner().requests;
        let total: u64 = requests.iter().map(|one| one.data.len() as u64).sum();
        if total > self.0.options.max_batch {
            let text = format!("a batch of {total} bytes is above the limit");
            return Err(Status::invalid_argument(text));
        }
        self.0.count(|counters| counters.bytes_in += total);
        let mut responses = Vec::new();
        for one in requests {
            let digest = one.digest.clone();
            let status = self.update(one).err();
            responses.push(batch_update_blobs_response::Response {
                digest,
                status: Some(status.map_or_else(rpc::Status::default, |status| plain(&status))),
            });
        }
        Ok(Response::new(BatchUpdateBlobsResponse { responses }))
    }

    async fn batch_read_blobs(
        &self,
        request: Request<BatchReadBlobsRequest>,
    ) -> Result<Response<BatchReadBlobsResponse>, Status> {
        let request_ref = request.get_ref();
        self.0
            .enter("BatchReadBlobs", &request, &request_ref.instance_name)
            .await?;
        let sizes = request_ref.digests.iter();
        let sizes = sizes.map(|digest| u64::try_from(digest.size_bytes).unwrap_or(0));
        let total = sizes.fold(0, u64::saturating_add);
        if total > self.0.options.max_batch {
            let text = format!("a batch of {total} bytes is above the limit");
            return Err(Status::invalid_argument(text));
        }
        let zstd = self.0.options.zstd
            && request_ref
                .acceptable_compressors
                .contains(&(compressor::Value::Zstd as i32));
        let mut responses = Vec::new();
        for digest in &request_ref.digests {
            let key = Key::parse(Some(digest))?;
            let (bytes, status) = match read(&self.0, &key) {
                Ok(bytes) => (bytes, rpc::Status::default()),
                Err(status) => (Vec::new(), plain(&status)),
            };
            let (data, compressor) = if zstd && status.code == 0 {
                (pack(&bytes), compressor::Value::Zstd)
            } else {
                (bytes, compressor::Value::Identity)
            };
            self.0
                .count(|counters| counters.bytes_out += data.len() as u64);
            responses.push(batch_read_blobs_response::Response {
                digest: Some(digest.clone()),
                data,
                compressor: compressor as i32,
                status: Some(status),
            });
        }
        Ok(Response::new(BatchReadBlobsResponse { responses }))
    }

    type GetTreeStream = Answers<GetTreeResponse>;

    async fn get_tree(
        &self,
        request: Request<GetTreeRequest>,
    ) -> Result<Response<Self::GetTreeStream>, Status> {
        let instance = &request.get_ref().instance_name;
        self.0.enter("GetTree", &request, instance).await?;
        let request = request.into_inner();
        let root = Key::parse(request.root_digest.as_ref())?;
        let mut todo = vec![root.clone()];
        let mut seen = HashSet::from([root]);
        let mut found = Vec::new();
        while let Some(key) = todo.pop() {
            let bytes = read(&self.0, &key)?;
            let directory = Directory::decode(bytes.as_slice())
                .map_err(|error| Status::invalid_argument(format!("{key}: {error}")))?;
            for child in &directory.directories {
                let key = Key::parse(child.digest.as_ref())?;
                if seen.insert(key.clone()) {
                    todo.push(key);
                }
            }
            found.push(directory);
        }
        let page = usize::try_from(request.page_size).unwrap_or(0);
        let page = if page == 0 { TREE_PAGE } else { page };
        let pages: Vec<_> = found
            .chunks(page)
            .map(|directories| {
                Ok(GetTreeResponse {
                    directories: directories.to_vec(),
                    next_page_token: String::new(),
                })
            })
            .collect();
        Ok(Response::new(Box::pin(stream::iter(pages))))
    }

    async fn split_blob(
        &self,
        _: Request<proto::SplitBlobRequest>,
    ) -> Result<Response<proto::SplitBlobResponse>, Status> {
        Err(Status::unimplemented("no chunks here"))
    }

    type GetChunkMappingStream = Answers<proto::GetChunkMappingResponse>;

    async fn get_chunk_mapping(
        &self,
        _: Request<proto::GetChunkMappingRequest>,
    ) -> Result<Response<Self::GetChunkMappingStream>, Status> {
        Err(Status::unimplemented("no chunks here"))
    }

    async fn splice_blob(
        &self,
        _: Request<proto::SpliceBlobRequest>,
    ) -> Result<Response<proto::SpliceBlobResponse>, Status> {
        Err(Status::unimplemented("no chunks here"))
    }

    async fn register_chunk_mapping(
        &self,
        _: Request<tonic::Streaming<proto::RegisterChunkMappingRequest>>,
    ) -> Result<Response<proto::RegisterChunkMappingResponse>, Status> {
        Err(Status::unimplemented("no chunks here"))
    }
}

impl Cas {
    fn update(&self, one: proto::batch_update_blobs_request::Request) -> Result<(), Status> {
        let key = Key::parse(one.digest.as_ref())?;
        if let Some(code) = self.0.take(|fault| match fault {
            Fault::RefuseInBatch { code } => Some(*code),
            _ => None,
        }) {
            return Err(Status::new(code.into(), "this blob was told to be refused"));
        }
        let bytes = match compressor::Value::try_from(one.compressor) {
            Ok(compressor::Value::Identity) => one.data,
            Ok(compressor::Value::Zstd) if self.0.options.zstd => unpack(&one.data)?,
            _ => return Err(Status::invalid_argument("this compressor is not announced")),
        };
        self.0
            .storage
            .put_as(&key, &bytes)
            .map_err(|error| Status::invalid_argument(error.to_string()))
    }
}

/// A blob as a client gets it: what faults make of it included.
pub(super) fn read(shared: &Shared, key: &Key) -> Result<Vec<u8>, Status> {
    let name = key.to_string();
    let meant = |of: &Option<String>| of.as_ref().is_none_or(|of| *of == name);
    if shared
        .take(|fault| matches!(fault, Fault::EvictOnRead(of) if meant(of)).then_some(()))
        .is_some()
    {
        shared.storage.remove(key);
    }
    let mut bytes = shared
        .storage
        .read(key)
        .map_err(|_| Status::not_found(format!("no blob {key}")))?;
    let change = shared.take(|fault| match fault {
        Fault::WrongContent(of) | Fault::ShortContent(of) | Fault::LongContent(of) if meant(of) => {
            Some(fault.clone())
        }
        _ => None,
    });
    match change {
        Some(Fault::WrongContent(_)) => bytes.iter_mut().for_each(|byte| *byte ^= 0x55),
        Some(Fault::ShortContent(_)) => bytes.truncate(bytes.len().saturating_sub(1)),
        Some(Fault::LongContent(_)) => bytes.push(b'!'),
        _ => {}
    }
    Ok(bytes)
}

pub(super) fn pack(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).expect("zstd packs what is in memory")
}

pub(super) fn unpack(bytes: &[u8]) -> Result<Vec<u8>, Status> {
    zstd::decode_all(bytes).map_err(|error| Status::invalid_argument(format!("zstd: {error}")))
}

/// As it is inside of messages.
pub(super) fn plain(status: &Status) -> rpc::Status {
    rpc::Status {
        code: status.code() as i32,
        message: status.message().to_owned(),
        details: Vec::new(),
    }
}
