//! Pushes images: from the store, and what a build made. Layers are compressed while they are uploaded, once for all
//! tags and registries, and what a registry has or can mount is neither made nor fetched.
//!
//! How documents change with their layers is in `document`, the way of the bytes in `transfer`, images of the store in
//! `stored`. Names and what is known of earlier pushes are kept in the store's records.

pub(crate) mod document;
mod layers;
pub(crate) mod source;
mod stored;
mod transfer;

pub use document::Style;
pub(crate) use layers::packed_now;
pub(crate) use stored::push_node;
pub use stored::{Choice, StoredPush, names_of_repository, push_stored};
pub(crate) use transfer::{Pusher, push};

use crate::layer::Compression;
use registry_client::{PushedHow, Reference};

/// How layers go out that the image has uncompressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Packing {
    /// Their form.
    pub compression: Compression,
    /// Layers in another form too.
    pub force: bool,
}

impl Default for Packing {
    fn default() -> Self {
        Self {
            compression: Compression::AutoGzip,
            force: false,
        }
    }
}

impl Packing {
    /// From the names and levels that people write: `gzip`, `zstd`, `estargz`, `uncompressed`.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn parse(format: Option<&str>, level: Option<i32>, force: bool) -> Result<Self, String> {
        let within = |range: std::ops::RangeInclusive<i32>, name: &str, default: i32| {
            let level = level.unwrap_or(default);
            if range.contains(&level) {
                return Ok(level);
            }
            let (least, most) = (range.start(), range.end());
            Err(format!(
                "invalid compression-level {level}: it must be from {least} to {most} for {name}"
            ))
        };
        let gzip = |name| within(0..=9, name, DEFAULT_ESTARGZ).map(i32::unsigned_abs);
        let compression = match format {
            None | Some("gzip") if level.is_none() => Compression::AutoGzip,
            None | Some("gzip") => Compression::Gzip(gzip("gzip")?),
            Some("estargz") => Compression::Estargz(gzip("estargz")?),
            Some("zstd") => Compression::Zstd(within(1..=22, "zstd", DEFAULT_ZSTD)?),
            Some("uncompressed") => Compression::Uncompressed,
            Some(other) => {
                return Err(format!(
                    "unsupported compression type {other:?}: expected uncompressed, gzip, estargz or zstd"
                ));
            }
        };
        Ok(Self { compression, force })
    }

    /// Whether Docker's media types can say it.
    #[must_use]
    pub fn fits_docker(&self) -> bool {
        matches!(
            self.compression,
            Compression::Uncompressed | Compression::AutoGzip | Compression::Gzip(_)
        )
    }
}

/// The level of estargz when none is asked for.
pub const DEFAULT_ESTARGZ: i32 = 6;
/// The level of zstd when none is asked for.
pub const DEFAULT_ZSTD: i32 = 3;

/// Where an image is to go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    /// Repository, and tag; without a tag it is pushed by digest.
    pub reference: Reference,
}

/// What happens to a layer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LayerEvent {
    /// Bytes sent so far, and of how many, where that is known.
    Sent(u64, Option<u64>),
    /// It is in a repository.
    Done(PushedHow),
}

/// Is told how a push goes. Calls come from several threads.
pub trait Watcher: Sync {
    /// A layer (its diff_id or digest) and what happens to it.
    fn layer(&self, layer: &str, event: LayerEvent);
    /// The manifest goes to a reference now.
    fn manifest(&self, reference: &Reference, digest: &str);
    /// A manifest below the image has come into a repository.
    fn part(&self, _repository: &Reference, _digest: &str) {}
    /// Something that people should know.
    fn note(&self, text: &str);
}

/// A pushed image.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pushed {
    /// Digest of the manifest or index.
    pub digest: String,
    /// Its size in bytes.
    pub size: u64,
    /// Its media type.
    pub media_type: String,
    /// Digest of the config, where there is one image.
    pub config_digest: Option<String>,
}
