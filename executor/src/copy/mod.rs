//! COPY and local ADD: which files, where to, with which attributes; written straight into a layer, never through a tree.

use crate::Error;
use crate::layer::Written;
use crate::snapshot::Snapshot;
use crate::space::Space;
use crate::tree::FileTree;
use planner::plan::{CopyOp, MkdirOp};

/// Where a COPY reads path sources from.
#[derive(Clone, Copy)]
pub enum CopySourceTree<'a> {
    /// A context.
    Context(&'a crate::context::Context),
    /// A root file system of another step.
    Snapshot(&'a Snapshot),
    /// Nothing.
    Empty,
}

/// One file read by a COPY, for the key and for `explain`: path, mode, digest or link.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct ReadEntry {
    /// Path in the source.
    pub path: String,
    /// Mode with the type bits.
    pub mode: u32,
    /// Hex digest of the content, link target or empty.
    pub content: String,
}

/// Digest of what the op reads from `source` (paths, modes, owners, contents, links; not mtimes), and the list behind it.
///
/// # Errors
/// A source that is not there, with BuildKit's wording and, when an ignore rule hid it, the rule's file and line.
pub fn source_digest(_op: &CopyOp, _source: &dyn FileTree) -> Result<([u8; 32], Vec<ReadEntry>), Error> {
    todo!()
}

/// Carries a COPY/ADD out: one new layer over `base`. `Ok(None)` when nothing changes.
///
/// # Errors
/// BuildKit's messages for missing sources, files in the way of directories, unknown users, bad modes.
pub fn copy(_space: &Space, _op: &CopyOp, _base: &Snapshot, _source: CopySourceTree<'_>) -> Result<Option<Written>, Error> {
    todo!()
}

/// Carries a WORKDIR out: `Ok(None)` when the directory is there.
///
/// # Errors
/// Something else is in the way.
pub fn mkdir(_space: &Space, _op: &MkdirOp, _base: &Snapshot) -> Result<Option<Written>, Error> {
    todo!()
}

/// Ids of a `USER` or `--chown` text in a root file system: uid, gid, supplementary groups (only when no group is given).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct UserIds {
    /// uid.
    pub uid: u32,
    /// gid.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Home directory, `/` when unknown.
    pub home: String,
}

/// Resolves a user text by `/etc/passwd` and `/etc/group` of the view; numbers need no entry.
///
/// # Errors
/// Unknown names.
pub fn resolve_user(_user: &str, _view: &crate::snapshot::View) -> Result<UserIds, Error> {
    todo!()
}
