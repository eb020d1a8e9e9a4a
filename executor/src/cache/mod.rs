//! Caches that travel: records of steps and the layers that they name, in a registry, in a folder, or in an image.
//!
//! A cache is an OCI image manifest: its config says what it is, its first layer holds the records, the others are the
//! layers of steps. `records` has their format, `read` finds them, `import` answers lookups with them, `export` writes
//! them; `memories` has what they say of the builds that wrote them. Layers of a hit are not fetched here: the build's fetcher learns where they are, and checks what comes.
//!
//! Whoever can write a cache decides what a build that reads it makes of the steps whose keys it has, as with any cache.
//! It decides no more than that: records are only taken for keys that a step of the build has, and what a cache says of
//! a layer's content is never kept, nor anything that was found by it, until the layer is here and was read.

mod claims;
mod export;
mod folder;
mod import;
mod inline;
mod known;
pub(crate) mod memories;
pub(crate) mod mounts;
mod read;
mod records;
mod registry;
pub mod wire;

pub(crate) use claims::Claims;
pub(crate) use export::{Exports, Site, described};
pub use import::ComparedWith;
pub(crate) use import::{Elsewhere, Imports};
pub(crate) use inline::inline;
pub(crate) use known::Known;
pub(crate) use records::{CachedLayer, Found, PACKED_LIMIT, Records};
pub(crate) use registry::{packed_ahead, packed_here, send_layer};

/// Media type of a cache's config, by which it is known.
pub(crate) const CONFIG_TYPE: &str = "application/vnd.kiln.cache.config.v1+json";
/// Media type of its records.
pub(crate) const RECORDS_TYPE: &str = "application/vnd.kiln.cache.records.v1+zstd";
/// The field of an image's config that holds its inline cache.
pub(crate) const INLINE_FIELD: &str = "kiln.cache.v1";
/// BuildKit's media type of the records of its caches.
const BUILDKIT_CONFIG: &str = "application/vnd.buildkit.cacheconfig.v0";
/// The field in which BuildKit has its inline cache.
const BUILDKIT_INLINE: &str = "moby.buildkit.cache.v0";

/// Seconds since the epoch as a day.
pub(crate) fn day(seconds: i64) -> u32 {
    u32::try_from(seconds / 86_400).unwrap_or(0)
}
