//! Which blobs go into which batch, and which are streamed. Does no I/O.

use super::Blob;
use crate::Digest;
use std::collections::HashSet;

/// What a blob costs in a message besides its content: digest, lengths, status.
pub(super) const OVERHEAD: u64 = 160;
/// Content of a batch that is sent, so that several of them, each there twice, fit into memory.
const BATCH: u64 = 2 << 20;
/// Larger blobs are streamed.
const SMALL: u64 = 1 << 20;
/// Blobs of one batch, however small.
const BLOBS: usize = 4000;

/// Work that one transfer does.
#[derive(Debug)]
pub(super) enum Job {
    Batch(Vec<Blob>),
    Stream(Blob),
}

/// Each blob once, the large ones first, for a server that takes `max_batch` bytes at once.
pub(super) fn uploads(blobs: Vec<Blob>, max_batch: u64) -> Vec<Job> {
    let mut seen = HashSet::from([Digest::EMPTY]);
    let small = SMALL.min(max_batch.saturating_sub(OVERHEAD));
    let (batched, streamed): (Vec<Blob>, Vec<Blob>) = blobs
        .into_iter()
        .filter(|blob| seen.insert(blob.digest))
        .partition(|blob| blob.digest.size() <= small);
    let sizes = |blob: &Blob| blob.digest.size();
    let batches = batches(batched, max_batch.min(BATCH), sizes);
    streamed
        .into_iter()
        .map(Job::Stream)
        .chain(batches.into_iter().map(Job::Batch))
        .collect()
}

/// Groups in order, each of at most `limit` bytes with what they cost, or of one item.
pub(super) fn batches<T>(items: Vec<T>, limit: u64, size: impl Fn(&T) -> u64) -> Vec<Vec<T>> {
    let mut groups: Vec<Vec<T>> = Vec::new();
    let mut room = 0;
    for item in items {
        let cost = size(&item) + OVERHEAD;
        match groups.last_mut() {
            Some(group) if cost <= room && group.len() < BLOBS => {
                group.push(item);
                room -= cost;
            }
            _ => {
                groups.push(vec![item]);
                room = limit.saturating_sub(cost);
            }
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use proptest::prelude::*;

    #[test]
    fn large_ones_are_streamed_and_none_is_sent_twice() {
        let blob = |size: usize| Blob::of(Bytes::from(vec![7; size]));
        let jobs = uploads(
            vec![blob(10), blob(2 << 20), blob(10), blob(0), blob(1 << 20)],
            4 << 20,
        );
        let shape: Vec<Vec<u64>> = jobs
            .iter()
            .map(|job| match job {
                Job::Batch(blobs) => blobs.iter().map(|blob| blob.digest.size()).collect(),
                Job::Stream(blob) => vec![blob.digest.size()],
            })
            .collect();
        assert_eq!(shape, [vec![2 << 20], vec![10, 1 << 20]]);
        assert!(matches!(jobs[0], Job::Stream(_)));
        let tiny = uploads(vec![blob(10), blob(100)], 200);
        assert!(matches!(tiny[0], Job::Stream(_)), "100 + overhead > 200");
    }

    proptest! {
        #[test]
        fn batches_keep_the_limit_and_all_items(
            sizes in prop::collection::vec(0u64..5000, 0..200),
            limit in 1u64..20_000,
        ) {
            let groups = batches(sizes.clone(), limit, |size| *size);
            for group in &groups {
                let cost: u64 = group.iter().map(|size| size + OVERHEAD).sum();
                prop_assert!(group.len() == 1 || cost <= limit);
            }
            prop_assert_eq!(groups.concat(), sizes);
        }
    }
}
