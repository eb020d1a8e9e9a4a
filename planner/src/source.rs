//! Remote sources as data: what to download or to fetch. Shared by ADD and by remote contexts; who fetches is elsewhere.

use crate::git_url::redacted;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A file behind a URL.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HttpSource {
    /// The URL; may hold credentials.
    pub url: String,
    /// The digest that the content must have: `sha256:...`.
    pub checksum: Option<String>,
    /// Name of the file; `None` leaves it to the server (Content-Disposition), and else to the URL.
    pub filename: Option<String>,
}

/// A commit of a Git repository.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct GitSource {
    /// What `git` is given; may hold credentials.
    pub remote: String,
    /// Branch, tag, full ref or commit; empty for the default branch.
    pub reference: String,
    /// Commit (or the beginning of one) that the reference must lead to.
    pub checksum: Option<String>,
    /// Folder inside the repository, clean, without a leading slash; empty for all of it.
    pub subdir: String,
    /// Keep `.git` (only without a subdirectory).
    pub keep_git_dir: bool,
    /// Fetch submodules too.
    pub submodules: bool,
    /// Times of the files.
    pub mtime: GitMtime,
    /// Take the checksum as the commit to fetch, without asking where the reference leads.
    pub fetch_by_commit: bool,
}

/// Which modification times files of a Git repository get.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub enum GitMtime {
    /// When they were checked out.
    #[default]
    Checkout,
    /// When the commit was made.
    Commit,
}

impl HttpSource {
    /// The name that the URL gives its file, where it gives one.
    #[must_use]
    pub fn name_in_url(url: &str) -> Option<String> {
        let path = crate::git_url::url::parse(url)?.path;
        let base = path.trim_end_matches('/').rsplit('/').next()?;
        (!matches!(base, "" | "." | "..")).then(|| base.to_owned())
    }
}

/// URLs may hold passwords.
impl fmt::Debug for HttpSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpSource")
            .field("url", &redacted(&self.url))
            .field("checksum", &self.checksum)
            .field("filename", &self.filename)
            .finish()
    }
}

/// Remotes may hold passwords.
impl fmt::Debug for GitSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GitSource")
            .field("remote", &redacted(&self.remote))
            .field("reference", &self.reference)
            .field("checksum", &self.checksum)
            .field("subdir", &self.subdir)
            .field("keep_git_dir", &self.keep_git_dir)
            .field("submodules", &self.submodules)
            .field("mtime", &self.mtime)
            .field("fetch_by_commit", &self.fetch_by_commit)
            .finish()
    }
}
