//! Fields of steps that bring something from elsewhere. What they brought is a field of its own, written by the caller.

use super::{KeyWriter, Value};
use crate::git_url::redacted;
use crate::source::{GitMtime, GitSource, HttpSource};

/// What is behind a URL is known by its content, name and time, wherever it comes from.
pub(super) fn write_http(http: &HttpSource, w: &mut dyn KeyWriter) {
    let HttpSource {
        url: _,
        checksum: _,
        filename: _,
    } = http;
    w.field("op", Value::Text("http"));
}

/// A commit is known by its id, wherever it comes from; only `.git` itself says where that was.
pub(super) fn write_git(git: &GitSource, w: &mut dyn KeyWriter) {
    let GitSource {
        remote,
        reference: _,
        checksum: _,
        subdir,
        keep_git_dir,
        submodules,
        mtime,
        fetch_by_commit: _,
    } = git;
    w.field("op", Value::Text("git"));
    w.field("subdirectory", Value::Text(subdir));
    w.field("keep git dir", Value::Flag(*keep_git_dir));
    if *keep_git_dir {
        w.field("remote", Value::Text(&redacted(remote)));
    }
    w.field("submodules", Value::Flag(*submodules));
    let mtime = match mtime {
        GitMtime::Checkout => "checkout",
        GitMtime::Commit => "commit",
    };
    w.field("times", Value::Text(mtime));
}
