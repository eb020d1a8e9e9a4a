//! Many small blobs in one message, to and from the server. Each has a status of its own.

use super::{Blob, Content, LARGEST_ANSWER, Uploaded};
use crate::error::Failure;
use crate::retry::Attempts;
use crate::trouble::Trouble;
use crate::{Client, Code, Digest, Error, proto};
use bytes::Bytes;
use proto::content_addressable_storage_client::ContentAddressableStorageClient;
use proto::{batch_read_blobs_response, batch_update_blobs_request};
use std::collections::HashMap;
use std::io::Read;

/// What became of one blob of a batch.
type Outcome<T> = Result<T, Failure>;

impl Client {
    /// Sends one batch; blobs whose status says that it may help are sent again.
    pub(super) async fn send_batch(
        &self,
        blobs: Vec<Blob>,
        sent: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<Uploaded, Error> {
        let mut pending = load(blobs).await?;
        let mut attempts = Attempts::new(self.endpoint().retry);
        let mut done = Uploaded::default();
        loop {
            let outcomes = match self.update(&pending).await {
                Err(Error::Call { source, .. }) if source.code == Code::Unimplemented => {
                    return self.one_by_one(pending, done, sent).await;
                }
                outcomes => outcomes?,
            };
            let mut again = Vec::new();
            let mut trouble = None;
            for (digest, bytes) in pending {
                match outcomes.get(&digest) {
                    Some(Ok(())) => {
                        done.blobs += 1;
                        done.bytes += digest.size();
                        done.sent += digest.size();
                        sent(digest.size());
                    }
                    Some(Err(failure)) if failure.is_transient() => {
                        trouble = Some((digest, failure.clone()));
                        again.push((digest, bytes));
                    }
                    Some(Err(failure)) => {
                        return Err(self.failed(format!("upload blob {digest}"), failure.clone()));
                    }
                    None => {
                        return Err(self.nonsense(
                            format!("upload blob {digest}"),
                            "does not say what became of it",
                        ));
                    }
                }
            }
            let Some((digest, failure)) = trouble else {
                return Ok(done);
            };
            attempts
                .wait_or_give_up(Trouble::Answer(failure))
                .await
                .map_err(|trouble| self.error(&|| format!("upload blob {digest}"), trouble))?;
            pending = again;
        }
    }

    async fn update(
        &self,
        blobs: &[(Digest, Bytes)],
    ) -> Result<HashMap<Digest, Outcome<()>>, Error> {
        let answer = self
            .unary(
                &|| format!("upload {} blobs", blobs.len()),
                || proto::BatchUpdateBlobsRequest {
                    instance_name: self.instance(),
                    requests: blobs
                        .iter()
                        .map(|(digest, bytes)| batch_update_blobs_request::Request {
                            digest: Some(digest.to_proto()),
                            data: bytes.to_vec(),
                            ..Default::default()
                        })
                        .collect(),
                    ..Default::default()
                },
                |channel, request| async move {
                    ContentAddressableStorageClient::new(channel)
                        .max_decoding_message_size(LARGEST_ANSWER)
                        .batch_update_blobs(request)
                        .await
                },
            )
            .await?;
        let mut outcomes = HashMap::new();
        for response in &answer.responses {
            let Some(digest) = &response.digest else {
                continue;
            };
            let outcome = match outcome(response.status.as_ref()) {
                // It is there, which is what was wanted.
                Err(failure) if failure.code == Code::AlreadyExists => Ok(()),
                outcome => outcome,
            };
            outcomes.insert(Digest::from_proto(digest)?, outcome);
        }
        Ok(outcomes)
    }

    /// For servers without batches.
    async fn one_by_one(
        &self,
        blobs: Vec<(Digest, Bytes)>,
        mut done: Uploaded,
        sent: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<Uploaded, Error> {
        for (digest, bytes) in blobs {
            let content = Content::Bytes(bytes);
            let one = self.write(&Blob { digest, content }, sent).await?;
            done.blobs += one.blobs;
            done.bytes += one.bytes;
            done.sent += one.sent;
        }
        Ok(done)
    }

    /// Fetches one batch of blobs, in their order. The outer error is one of the whole batch.
    pub(super) async fn fetch_batch(
        &self,
        digests: &[Digest],
    ) -> Result<Vec<(Digest, Result<Bytes, Error>)>, Error> {
        let mut results: HashMap<Digest, Result<Bytes, Error>> = HashMap::new();
        let mut attempts = Attempts::new(self.endpoint().retry);
        let mut pending = digests.to_vec();
        while !pending.is_empty() {
            let mut outcomes = self.ask_batch(&pending).await?;
            let mut again = Vec::new();
            let mut trouble = None;
            for digest in pending {
                match outcomes.remove(&digest) {
                    Some(Err(failure)) if failure.is_transient() => {
                        trouble = Some(failure);
                        again.push(digest);
                    }
                    outcome => {
                        results.insert(digest, self.fetched(digest, outcome));
                    }
                }
            }
            pending = again;
            let Some(failure) = trouble else { continue };
            if let Err(trouble) = attempts.wait_or_give_up(Trouble::Answer(failure)).await {
                let Trouble::Answer(failure) = trouble else {
                    continue;
                };
                for digest in std::mem::take(&mut pending) {
                    let error = self.failed(format!("read blob {digest}"), failure.clone());
                    results.insert(digest, Err(error));
                }
            }
        }
        Ok(digests
            .iter()
            .filter_map(|digest| results.remove_entry(digest))
            .collect())
    }

    async fn ask_batch(
        &self,
        digests: &[Digest],
    ) -> Result<HashMap<Digest, Outcome<Bytes>>, Error> {
        let answer = self
            .unary(
                &|| format!("read {} blobs", digests.len()),
                || proto::BatchReadBlobsRequest {
                    instance_name: self.instance(),
                    digests: digests.iter().map(Digest::to_proto).collect(),
                    ..Default::default()
                },
                |channel, request| async move {
                    ContentAddressableStorageClient::new(channel)
                        .max_decoding_message_size(LARGEST_ANSWER)
                        .batch_read_blobs(request)
                        .await
                },
            )
            .await?;
        answer
            .responses
            .into_iter()
            .filter_map(|response| Some((response.digest.clone()?, response)))
            .map(|(digest, response)| Ok((Digest::from_proto(&digest)?, content(response))))
            .collect()
    }

    /// A blob's content once it has been compared with its digest.
    fn fetched(&self, digest: Digest, outcome: Option<Outcome<Bytes>>) -> Result<Bytes, Error> {
        let endpoint = || self.endpoint().name();
        match outcome {
            None => Err(self.nonsense(
                format!("read blob {digest}"),
                "does not say what became of it",
            )),
            Some(Err(failure)) if failure.code == Code::NotFound => Err(Error::NotFound {
                digest,
                endpoint: endpoint(),
            }),
            Some(Err(failure)) => Err(self.failed(format!("read blob {digest}"), failure)),
            Some(Ok(bytes)) => {
                let got = Digest::of(&bytes);
                if got == digest {
                    return Ok(bytes);
                }
                Err(Error::Corrupt {
                    digest,
                    endpoint: endpoint(),
                    got: got.to_string(),
                })
            }
        }
    }
}

fn outcome(status: Option<&crate::google::rpc::Status>) -> Outcome<()> {
    match status {
        Some(status) if status.code != 0 => Err(Failure::of_rpc(status)),
        _ => Ok(()),
    }
}

fn content(response: batch_read_blobs_response::Response) -> Outcome<Bytes> {
    outcome(response.status.as_ref())?;
    Ok(Bytes::from(response.data))
}

/// The blobs' content in memory, compared with their digests.
async fn load(blobs: Vec<Blob>) -> Result<Vec<(Digest, Bytes)>, Error> {
    let work = move || blobs.into_iter().map(load_one).collect();
    match tokio::task::spawn_blocking(work).await {
        Ok(loaded) => loaded,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime ends, and with it what asked for this.
            Err(_) => std::future::pending().await,
        },
    }
}

fn load_one(blob: Blob) -> Result<(Digest, Bytes), Error> {
    let digest = blob.digest;
    let bytes = match blob.content {
        Content::Bytes(bytes) => bytes,
        Content::Source(source) => {
            let mut bytes = Vec::new();
            source
                .open()
                .and_then(|file| file.take(digest.size() + 1).read_to_end(&mut bytes))
                .map_err(|source| Error::Source { digest, source })?;
            Bytes::from(bytes)
        }
    };
    let got = Digest::of(&bytes);
    if got != digest {
        return Err(Error::Changed { digest, got });
    }
    Ok((digest, bytes))
}
