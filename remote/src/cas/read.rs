//! Blobs from the server. Nothing is given to the caller as read before it has been compared with its digest.

use super::plan;
use super::stream::Sink;
use crate::client::TRANSFERS;
use crate::{Client, Code, Digest, Error};
use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use std::collections::{HashMap, HashSet};
use std::io::Write;

impl Client {
    /// A blob of at most `limit` bytes.
    ///
    /// # Errors
    /// It is larger, or not there, or the server sends something else.
    pub async fn read(&self, digest: Digest, limit: u64) -> Result<Bytes, Error> {
        if digest.size() > limit {
            return Err(Error::TooLarge {
                digest,
                limit,
                of: "who reads it".to_owned(),
            });
        }
        if digest == Digest::EMPTY {
            return Ok(Bytes::new());
        }
        let server = self.capabilities().await?;
        let _slot = self.download_slot(digest.size()).await;
        if digest.size() + plan::OVERHEAD <= server.max_batch {
            match self.fetch_batch(&[digest]).await {
                Err(Error::Call { source, .. }) if source.code == Code::Unimplemented => {}
                Err(error) => return Err(error),
                Ok(mut results) => {
                    if let Some((_, result)) = results.pop() {
                        return result;
                    }
                }
            }
        }
        self.read_whole(digest).await
    }

    /// Several blobs at once, each with its own result, in their order and each once. The caller sees to it that they fit into memory.
    ///
    /// # Errors
    /// No connection, or a refusal of all of them.
    pub async fn read_many(
        &self,
        digests: &[Digest],
    ) -> Result<Vec<(Digest, Result<Bytes, Error>)>, Error> {
        let mut seen = HashSet::new();
        let asked: Vec<Digest> = digests
            .iter()
            .copied()
            .filter(|digest| seen.insert(*digest))
            .collect();
        let mut results: HashMap<Digest, Result<Bytes, Error>> =
            HashMap::from([(Digest::EMPTY, Ok(Bytes::new()))]);
        let server = self.capabilities().await?;
        let (small, large): (Vec<Digest>, Vec<Digest>) = asked
            .iter()
            .copied()
            .filter(|digest| *digest != Digest::EMPTY)
            .partition(|digest| digest.size() + plan::OVERHEAD <= server.max_batch);
        let groups = plan::batches(small, server.max_batch, Digest::size);
        let groups = groups.into_iter().map(|group| self.read_group(group));
        let mut running = stream::iter(groups).buffer_unordered(TRANSFERS);
        while let Some(group) = running.next().await {
            results.extend(group?);
        }
        let large = large.into_iter().map(|digest| async move {
            let _slot = self.download_slot(digest.size()).await;
            (digest, self.read_whole(digest).await)
        });
        let mut running = stream::iter(large).buffer_unordered(TRANSFERS);
        while let Some((digest, result)) = running.next().await {
            results.insert(digest, result);
        }
        Ok(asked
            .iter()
            .filter_map(|digest| results.remove_entry(digest))
            .collect())
    }

    async fn read_group(
        &self,
        group: Vec<Digest>,
    ) -> Result<Vec<(Digest, Result<Bytes, Error>)>, Error> {
        let _slot = self
            .download_slot(group.iter().map(Digest::size).sum())
            .await;
        match self.fetch_batch(&group).await {
            Err(Error::Call { source, .. }) if source.code == Code::Unimplemented => {}
            results => return results,
        }
        let mut results = Vec::new();
        for digest in group {
            results.push((digest, self.read_whole(digest).await));
        }
        Ok(results)
    }

    async fn read_whole(&self, digest: Digest) -> Result<Bytes, Error> {
        let mut bytes = Vec::new();
        self.stream(&mut Sink::new(digest, &mut bytes, &|_| {}))
            .await?;
        Ok(Bytes::from(bytes))
    }

    /// Writes a blob's content to `sink` as it comes, without waiting for it elsewhere: the writer must not block for long.
    /// `received` is told bytes of content. An error after some was written means that what was written is worthless.
    ///
    /// # Errors
    /// It is not there, the server sends something else, or it cannot be written.
    pub async fn read_to(
        &self,
        digest: Digest,
        sink: &mut (dyn Write + Send),
        received: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<(), Error> {
        let _slot = self.download_slot(digest.size()).await;
        self.stream(&mut Sink::new(digest, sink, received)).await
    }
}
