//! Pruning by filters, and what the store holds and could give back.

use crate::Error;
use crate::output::ImageFilters;
use crate::repo_digests;
use crate::space::Space;
use store::{PruneOptions, PrunedKind};

/// What pruning removes, beside what nothing needs.
#[derive(Clone, Debug, Default)]
pub struct PruneRequest {
    /// Cache records, cache mounts, stat caches and logs too.
    pub all: bool,
    /// Report only.
    pub dry_run: bool,
    /// Which untagged images go.
    pub filters: ImageFilters,
}

/// Removes untagged images, then frees what nothing needs.
///
/// # Errors
/// A busy store; I/O.
pub fn prune(space: &Space, request: &PruneRequest) -> Result<store::PruneReport, Error> {
    let mut going = super::images(space)?;
    going.retain(|image| image.name.is_empty());
    request.filters.apply(space, &mut going)?;
    let options = PruneOptions {
        // A label says nothing of a cache record.
        all: request.all && !request.filters.has_labels(),
        dry_run: request.dry_run,
        references: going.into_iter().map(|image| image.digest).collect(),
        older_than: request.filters.until(),
    };
    let store = space.store();
    let mut known = Vec::new();
    for image in store.references()? {
        let digest = image.descriptor.digest();
        known.push((digest.clone(), repo_digests::of(store, digest)?));
    }
    let report = store.prune(&options, &|path| space.remove_tree(path))?;
    // They are records, but no cache: an image that stays is known to registries as before.
    known.retain(|(digest, texts)| !texts.is_empty() && store.blob_size(digest).is_some());
    for (digest, texts) in known.iter().filter(|_| options.all && !options.dry_run) {
        repo_digests::replace(store, digest, texts)?;
    }
    Ok(report)
}

/// A row of [`usage`].
#[derive(Clone, Debug, serde::Serialize)]
pub struct UsageRow {
    /// What it is, for people.
    pub kind: &'static str,
    /// Pieces.
    pub total: u64,
    /// Those that something needs.
    pub active: u64,
    /// Bytes on disk.
    pub size: u64,
    /// Bytes that `prune --all` would free.
    pub reclaimable: u64,
}

/// What the store holds, by kind. Walks everything.
///
/// # Errors
/// A damaged store.
pub fn usage(space: &Space) -> Result<Vec<UsageRow>, Error> {
    let store = space.store();
    let request = PruneRequest {
        all: true,
        dry_run: true,
        filters: ImageFilters::default(),
    };
    let report = prune(space, &request)?;
    let usage = store.usage();
    let count = store.count()?;
    let free = |kind: PrunedKind| report.kinds.get(&kind).copied().unwrap_or_default();
    let row = |kind, total: u64, size: u64, (pieces, bytes): (u64, u64)| UsageRow {
        kind,
        total,
        active: total.saturating_sub(pieces),
        size,
        reclaimable: bytes.min(size),
    };
    let references = free(PrunedKind::Reference);
    Ok(vec![
        row("Images", count.references, 0, references),
        row("Blobs", count.blobs, usage.blobs, free(PrunedKind::Blob)),
        row(
            "Layers",
            count.layers,
            usage.layers,
            free(PrunedKind::Layer),
        ),
        row(
            "Cache records",
            count.records,
            usage.records,
            free(PrunedKind::Record),
        ),
        row(
            "Stat caches",
            count.stat_caches,
            usage.stat_caches,
            free(PrunedKind::StatCache),
        ),
        row(
            "Cache mounts",
            count.mounts,
            usage.mounts,
            free(PrunedKind::Mount),
        ),
        row("Build logs", count.logs, usage.logs, free(PrunedKind::Log)),
        row(
            "Kept sandboxes",
            count.kept,
            usage.kept,
            free(PrunedKind::Kept),
        ),
        row(
            "Scratch",
            count.scratch,
            usage.scratch,
            free(PrunedKind::Leftover),
        ),
    ])
}
