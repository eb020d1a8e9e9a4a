//! Which blobs a server lacks.

use super::LARGEST_ANSWER;
use crate::client::TRANSFERS;
use crate::{Client, Digest, Error, proto};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use proto::content_addressable_storage_client::ContentAddressableStorageClient;
use std::collections::HashSet;

/// Digests in one question: some 400 KB.
const PAGE: usize = 5000;

impl Client {
    /// Which of these the server lacks: each once, in ascending order. The empty blob is never missing.
    ///
    /// # Errors
    /// No connection, or a refusal.
    pub async fn find_missing(&self, digests: &[Digest]) -> Result<Vec<Digest>, Error> {
        let pages = pages(digests);
        let asked = pages.into_iter().map(|page| self.missing_of(page));
        let mut missing: Vec<Digest> = stream::iter(asked)
            .buffer_unordered(TRANSFERS)
            .try_fold(Vec::new(), async |mut all, page| {
                all.extend(page);
                Ok(all)
            })
            .await?;
        missing.sort_unstable();
        Ok(missing)
    }

    async fn missing_of(&self, page: Vec<Digest>) -> Result<Vec<Digest>, Error> {
        let attempt = || format!("ask which of {} blobs are missing", page.len());
        let answer = self
            .unary(
                &attempt,
                || proto::FindMissingBlobsRequest {
                    instance_name: self.instance(),
                    blob_digests: page.iter().map(Digest::to_proto).collect(),
                    ..Default::default()
                },
                |channel, request| async move {
                    ContentAddressableStorageClient::new(channel)
                        .max_decoding_message_size(LARGEST_ANSWER)
                        .find_missing_blobs(request)
                        .await
                },
            )
            .await?;
        let told: HashSet<Digest> = answer
            .missing_blob_digests
            .iter()
            .map(Digest::from_proto)
            .collect::<Result<_, _>>()?;
        let missing: Vec<Digest> = page
            .iter()
            .copied()
            .filter(|digest| told.contains(digest))
            .collect();
        if missing.len() != told.len() {
            return Err(self.nonsense(attempt(), "names blobs that were not asked about"));
        }
        Ok(missing)
    }
}

/// Each digest once, without the empty blob, in pages.
fn pages(digests: &[Digest]) -> Vec<Vec<Digest>> {
    let mut all: Vec<Digest> = digests
        .iter()
        .copied()
        .filter(|digest| *digest != Digest::EMPTY)
        .collect();
    all.sort_unstable();
    all.dedup();
    all.chunks(PAGE).map(<[Digest]>::to_vec).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_hold_each_digest_once() {
        let some = |count: u32| -> Vec<Digest> {
            (0..count).map(|i| Digest::of(&i.to_be_bytes())).collect()
        };
        assert!(pages(&[]).is_empty());
        assert!(pages(&[Digest::EMPTY]).is_empty());
        for (count, sizes) in [
            (1, vec![1]),
            (5000, vec![5000]),
            (5001, vec![5000, 1]),
            (12_000, vec![5000, 5000, 2000]),
        ] {
            let mut digests = some(count);
            digests.extend(some(count));
            let pages = pages(&digests);
            assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), sizes);
        }
    }
}
