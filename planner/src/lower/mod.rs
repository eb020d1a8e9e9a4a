//! From a parsed Dockerfile to a [`Plan`]. Pure: bases come in as data, asked for in rounds.

use crate::config::{HistoryEntry, ImageConfig};
use crate::plan::{Network, Plan};
use crate::platform::Platform;
use parser::{Diagnostic, Dockerfile};
use std::collections::{BTreeMap, BTreeSet};

/// Everything that is not in the Dockerfile.
#[derive(Clone, Debug)]
pub struct LowerOptions {
    /// `--target`.
    pub target: Option<String>,
    /// `--build-arg`, values known.
    pub build_args: BTreeMap<String, String>,
    /// `--label`.
    pub labels: Vec<(String, String)>,
    /// Platforms to build for; at least one.
    pub platforms: Vec<Platform>,
    /// The machine's platform.
    pub build_platform: Platform,
    /// `--build-context` names (lower case where BuildKit compares so).
    pub named_contexts: BTreeSet<String>,
    /// `--no-cache`.
    pub no_cache: bool,
    /// `--no-cache-filter` stage names.
    pub no_cache_stages: Vec<String>,
    /// `--network`.
    pub network: Network,
    /// `--add-host`.
    pub extra_hosts: Vec<(String, String)>,
    /// `--shm-size`.
    pub shm_size: Option<u64>,
    /// Name prefix of cache mounts, `BUILDKIT_CACHE_MOUNT_NS`.
    pub cache_mount_namespace: String,
}

/// A base that lowering needs to know about.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct BaseRequest {
    /// Image reference after expansion, or a named context's name.
    pub name: String,
    /// Platform wanted.
    pub platform: Platform,
}

/// The answer.
#[derive(Clone, Debug)]
pub enum ResolvedBase {
    /// An image (from the store, a registry, an OCI layout).
    Image(Box<ResolvedImage>),
    /// A named context that is a local directory (or other file tree), named as in [`crate::plan::CopyFrom::Context`].
    Directory(String),
}

/// What lowering must know of an image.
#[derive(Clone, Debug)]
pub struct ResolvedImage {
    /// Normalised reference.
    pub reference: String,
    /// Manifest digest.
    pub manifest_digest: String,
    /// diff_ids, base first.
    pub diff_ids: Vec<String>,
    /// Config.
    pub config: ImageConfig,
    /// Its history.
    pub history: Vec<HistoryEntry>,
    /// Opaque; copied into [`crate::plan::ImageOp::source`].
    pub source: String,
}

/// What [`lower`] gives.
#[derive(Debug)]
pub enum Lowered {
    /// These bases are needed before it can go on.
    Need(Vec<BaseRequest>),
    /// The plan and warnings.
    Plan(Plan, Vec<Diagnostic>),
}

/// Lowers a Dockerfile. Call it again with more `bases` as long as it says [`Lowered::Need`].
///
/// # Errors
/// All findings that stop the build: unknown target or stage, cycles, expansion errors, bad mounts, bad triggers.
pub fn lower(
    _dockerfile: &Dockerfile,
    _options: &LowerOptions,
    _bases: &BTreeMap<BaseRequest, ResolvedBase>,
) -> Result<Lowered, Vec<Diagnostic>> {
    todo!()
}
