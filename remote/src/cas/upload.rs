//! Uploads: what is sent how, and what came of it.

use super::plan::{self, Job};
use super::{Blob, Uploaded};
use crate::client::TRANSFERS;
use crate::{Client, Error};
use futures_util::stream::{self, StreamExt};

impl Client {
    /// Sends blobs, each once; those that the server has are best left out ([`Client::find_missing`]). `sent` is told bytes of
    /// content as they go, which add up to the blobs' sizes.
    ///
    /// # Errors
    /// No connection, a refusal, content that cannot be read or is not what its digest says, a blob that is too large for the server.
    pub async fn upload(
        &self,
        blobs: Vec<Blob>,
        sent: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<Uploaded, Error> {
        if blobs.is_empty() {
            return Ok(Uploaded::default());
        }
        let server = self.capabilities().await?;
        if !server.cache {
            return Err(Error::Unsupported {
                endpoint: self.endpoint().name(),
                lacks: "has no content addressed store",
            });
        }
        if let Some(limit) = server.max_blob
            && let Some(blob) = blobs.iter().find(|blob| blob.digest.size() > limit)
        {
            return Err(Error::TooLarge {
                digest: blob.digest,
                limit,
                of: self.endpoint().to_string(),
            });
        }
        let jobs = plan::uploads(blobs, server.max_batch);
        let mut running = stream::iter(jobs.into_iter().map(|job| self.carry_out(job, sent)))
            .buffer_unordered(TRANSFERS);
        let mut total = Uploaded::default();
        while let Some(done) = running.next().await {
            let done = done?;
            total.blobs += done.blobs;
            total.bytes += done.bytes;
            total.sent += done.sent;
        }
        Ok(total)
    }

    async fn carry_out(
        &self,
        job: Job,
        sent: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<Uploaded, Error> {
        let bytes = match &job {
            Job::Stream(blob) => blob.digest.size(),
            Job::Batch(blobs) => blobs.iter().map(|blob| blob.digest.size()).sum(),
        };
        let _slot = self.upload_slot(bytes).await;
        match job {
            Job::Stream(blob) => self.write(&blob, sent).await,
            Job::Batch(blobs) => self.send_batch(blobs, sent).await,
        }
    }
}
