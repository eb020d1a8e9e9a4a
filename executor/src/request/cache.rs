//! Caches that are read and written beside the store: `--cache-from`, `--cache-to`.

use std::path::PathBuf;

/// One `--cache-from`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CacheImport {
    /// `type=registry`: a cache, or an image with an inline cache.
    Registry {
        /// `ref`, normalised.
        reference: String,
    },
    /// `type=local`: a folder that is an OCI layout.
    Local {
        /// `src`.
        src: PathBuf,
        /// `tag`; `latest` when there is neither.
        tag: Option<String>,
        /// `digest`, of the manifest.
        digest: Option<String>,
    },
}

/// One `--cache-to`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CacheExport {
    /// Where to.
    pub target: CacheTarget,
    /// `mode`.
    pub mode: CacheMode,
    /// `compression=uncompressed|gzip|estargz|zstd`.
    pub compression: Option<String>,
    /// `compression-level`.
    pub compression_level: Option<i32>,
    /// `force-compression`: also layers that are in another form.
    pub force_compression: bool,
    /// `image-manifest`: the manifest is an image's; otherwise it is an index.
    pub image_manifest: bool,
    /// `oci-mediatypes`.
    pub oci_mediatypes: bool,
    /// `ignore-error`: a failed export is told and fails nothing.
    pub ignore_error: bool,
    /// `reset`: what was there goes.
    pub reset: bool,
}

impl CacheExport {
    /// With BuildKit's defaults.
    #[must_use]
    pub fn new(target: CacheTarget) -> Self {
        Self {
            target,
            mode: CacheMode::Min,
            compression: None,
            compression_level: None,
            force_compression: false,
            image_manifest: true,
            oci_mediatypes: true,
            ignore_error: false,
            reset: false,
        }
    }
}

/// Where a cache goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CacheTarget {
    /// `type=registry`.
    Registry {
        /// `ref`, normalised.
        reference: String,
    },
    /// `type=local`.
    Local {
        /// `dest`.
        dest: PathBuf,
        /// `tag`.
        tag: String,
    },
    /// `type=inline`: in the config of the images that the build makes.
    Inline,
}

/// Which steps a cache has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CacheMode {
    /// Those whose layers are in the result.
    Min,
    /// All.
    Max,
}

/// `--cache-mounts`: which cache mounts of RUN steps (`--mount=type=cache`) travel with the caches.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum CacheMounts {
    /// None.
    #[default]
    None,
    /// All.
    All,
    /// Those with these ids, as the Dockerfile has them, with or without the namespace of `BUILDKIT_CACHE_MOUNT_NS`.
    Ids(Vec<String>),
}
