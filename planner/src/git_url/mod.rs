//! What names a Git repository: URLs and `user@host:path`, with `#ref:dir` or a query, as BuildKit reads them.
//!
//! No I/O: whether the repository is there is found out by who fetches it.

pub(crate) mod url;

use crate::source::{GitMtime, GitSource};
use std::collections::BTreeSet;

/// A parsed name of a Git repository.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct GitUrl {
    /// What `git` is given, without query and fragment; may hold credentials.
    pub remote: String,
    /// Last component of the remote, without `.git`.
    pub short_name: String,
    /// Branch, tag, full ref or commit; empty for the default branch.
    pub reference: String,
    /// Commit (or the beginning of one) that the reference must lead to; empty when not given.
    pub checksum: String,
    /// Folder inside the repository; empty for all of it.
    pub subdir: String,
    /// `github.com/...`: could be a local path, so it only counts as a context.
    pub looks_local: bool,
    /// `http://` or `git://`.
    pub unencrypted: bool,
    /// `keep-git-dir=`.
    pub keep_git_dir: Option<bool>,
    /// `submodules=`.
    pub submodules: Option<bool>,
    /// `mtime=`.
    pub mtime: Option<GitMtime>,
    /// `fetch-by-commit=`.
    pub fetch_by_commit: bool,
}

/// Remotes may hold passwords.
impl std::fmt::Debug for GitUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GitUrl")
            .field("remote", &redacted(&self.remote))
            .field("reference", &self.reference)
            .field("checksum", &self.checksum)
            .field("subdir", &self.subdir)
            .finish_non_exhaustive()
    }
}

/// A remote and what is behind it.
struct Split {
    remote: String,
    query: String,
    fragment: String,
}

impl GitUrl {
    /// Parses; `None` for what names no Git repository.
    ///
    /// # Errors
    /// A repository with a query that makes no sense, in BuildKit's words.
    pub fn parse(text: &str) -> Result<Option<Self>, String> {
        let mut git = Self::default();
        let Some(split) = git.split(text) else {
            return Ok(None);
        };
        if git.looks_local {
            git.remote = split
                .remote
                .split_once("://")
                .map_or_else(|| split.remote.clone(), |(_, rest)| rest.to_owned());
        } else {
            git.remote = split.remote;
        }
        if let Some((reference, subdir)) = split.fragment.split_once(':') {
            git.reference = reference.to_owned();
            git.subdir = subdir.to_owned();
        } else {
            git.reference = split.fragment;
        }
        let last = git.remote.rsplit('/').next().unwrap_or_default();
        git.short_name = last.strip_suffix(".git").unwrap_or(last).to_owned();
        git.load_query(&url::query(&split.query))?;
        // Escapes of a URL can bring in what the URL itself may not hold; no name that git knows has any.
        let parts = [&git.remote, &git.reference, &git.subdir, &git.checksum];
        if parts.iter().any(|part| part.contains(char::is_control)) {
            return Err("invalid control character in URL".to_owned());
        }
        Ok(Some(git))
    }

    /// Recognises the form.
    fn split(&mut self, text: &str) -> Option<Split> {
        if text.starts_with("./") || text.starts_with("../") {
            return None;
        }
        if text.starts_with("github.com/") {
            self.looks_local = true;
            let url = url::parse(&format!("https://{text}"))?;
            return Some(Split {
                remote: url.base(),
                query: url.query,
                fragment: url.fragment,
            });
        }
        let Some(scheme) = url::scheme(text) else {
            return scp_style(text);
        };
        let scheme = scheme.to_ascii_lowercase();
        if !["http", "https", "ssh", "git"].contains(&scheme.as_str()) {
            return None;
        }
        let url = url::parse(text)?;
        self.unencrypted = ["http", "git"].contains(&url.scheme.as_str());
        if url.scheme.starts_with("http") && !url.path.ends_with(".git") {
            return None;
        }
        Some(Split {
            remote: url.base(),
            query: url.query,
            fragment: url.fragment,
        })
    }

    fn load_query(&mut self, pairs: &[(String, String)]) -> Result<(), String> {
        let (mut tag, mut branch) = (None, None);
        let mut seen = BTreeSet::new();
        for (key, value) in pairs {
            if !seen.insert(key) {
                return Err(format!("query {key:?} has multiple values"));
            }
            let may_be_empty = ["submodules", "keep-git-dir", "fetch-by-commit"];
            if value.is_empty() && !may_be_empty.contains(&key.as_str()) {
                return Err(format!("query {key:?} has no value"));
            }
            match key.as_str() {
                "ref" => replace(&mut self.reference, value, "ref")?,
                "subdir" => replace(&mut self.subdir, value, "subdir")?,
                "tag" => tag = Some(prefixed(value, "refs/tags/")),
                "branch" => branch = Some(prefixed(value, "refs/heads/")),
                "checksum" | "commit" => self.checksum.clone_from(value),
                "keep-git-dir" => self.keep_git_dir = Some(flag(key, value)?),
                "submodules" => self.submodules = Some(flag(key, value)?),
                "fetch-by-commit" => self.fetch_by_commit = flag(key, value)?,
                "mtime" => self.mtime = Some(mtime(value)?),
                _ => return Err(format!("unexpected query {key:?}")),
            }
        }
        if tag.is_some() && branch.is_some() {
            return Err("branch conflicts with tag".to_owned());
        }
        if let Some(reference) = tag.or(branch) {
            replace(&mut self.reference, &reference, "ref")?;
        }
        // The beginning of a commit can only be compared, not asked for.
        if self.reference.is_empty() && is_commit(&self.checksum) && !self.fetch_by_commit {
            self.reference.clone_from(&self.checksum);
        }
        Ok(())
    }

    /// What to fetch. `keep_git_dir` and `checksum` are those of the instruction or build argument.
    ///
    /// # Errors
    /// They contradict the query, in BuildKit's words.
    pub fn source(
        &self,
        keep_git_dir: Option<bool>,
        checksum: Option<&str>,
    ) -> Result<GitSource, String> {
        if let (Some(given), Some(query)) = (keep_git_dir, self.keep_git_dir)
            && given != query
        {
            return Err("inconsistent keep-git-dir configuration".to_owned());
        }
        let own = Some(self.checksum.as_str()).filter(|own| !own.is_empty());
        let checksum = checksum.filter(|given| !given.is_empty());
        if let (Some(given), Some(own)) = (checksum, own)
            && given != own
        {
            return Err(format!("checksum mismatch {given:?} != {own:?}"));
        }
        let remote = if self.looks_local {
            format!("https://{}", self.remote)
        } else {
            self.remote.clone()
        };
        Ok(GitSource {
            remote,
            reference: self.reference.clone(),
            checksum: own.or(checksum).map(str::to_owned),
            subdir: inside(&self.subdir),
            keep_git_dir: self.keep_git_dir.or(keep_git_dir).unwrap_or(false),
            submodules: self.submodules.unwrap_or(true),
            mtime: self.mtime.unwrap_or_default(),
            fetch_by_commit: self.fetch_by_commit,
        })
    }
}

/// A whole commit id: SHA-1 or SHA-256.
#[must_use]
pub fn is_commit(text: &str) -> bool {
    let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    matches!(text.len(), 40 | 64) && text.bytes().all(hex)
}

/// A URL or `user@host:path` for people: no password, and of HTTP URLs no user name, which may be a token.
#[must_use]
pub fn redacted(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else {
        return text.to_owned();
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let Some((user, host)) = rest[..end].rsplit_once('@') else {
        return text.to_owned();
    };
    let user = match user.split_once(':') {
        None if !scheme.to_ascii_lowercase().starts_with("http") => user,
        None => "xxxxx",
        Some(_) => "xxxxx:xxxxx",
    };
    format!("{scheme}://{user}@{host}{}", &rest[end..])
}

/// [`redacted`] for each word of a text.
#[must_use]
pub fn redacted_words(text: &str) -> String {
    if !text.contains("://") {
        return text.to_owned();
    }
    text.split_inclusive(|c: char| c.is_whitespace() || "'\"[],".contains(c))
        .map(redacted)
        .collect()
}

/// A text with the credentials of its URLs overwritten, so that places in it stay where they are.
#[must_use]
pub fn masked(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, behind) = rest.split_at(at + "://".len());
        out.push_str(before);
        let end = behind
            .find(|c: char| c.is_whitespace() || "/?#'\"".contains(c))
            .unwrap_or(behind.len());
        let scheme = before.to_ascii_lowercase();
        let web = scheme.ends_with("http://") || scheme.ends_with("https://");
        match behind[..end].rsplit_once('@') {
            Some((user, _)) if web || user.contains(':') => {
                out.extend(user.bytes().map(|b| if b == b':' { ':' } else { 'x' }));
                rest = &behind[user.len()..];
            }
            _ => rest = behind,
        }
    }
    out.push_str(rest);
    out
}

/// `[user@]host:path[?query][#fragment]`, as `scp` and `git` take it.
fn scp_style(text: &str) -> Option<Split> {
    if text.contains(char::is_control) || has_scheme(text) {
        return None;
    }
    let (host, rest) = text.split_once(':')?;
    let (user, name) = match host.split_once('@') {
        Some((user, name)) => (Some(user), name),
        None => (None, host),
    };
    let valid_user = user.is_none_or(|user| {
        !user.is_empty()
            && user
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
    });
    let valid_name = !name.is_empty()
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b));
    if !valid_user || !valid_name {
        return None;
    }
    let (rest, fragment) = rest.split_once('#').unwrap_or((rest, ""));
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    Some(Split {
        remote: format!("{host}:{path}"),
        query: query.to_owned(),
        fragment: fragment.to_owned(),
    })
}

/// Whether a URL parser would find a scheme and a path behind it: `c:/x`, not `c:x`.
fn has_scheme(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once(':') else {
        return false;
    };
    let first = scheme
        .bytes()
        .next()
        .is_some_and(|b| b.is_ascii_alphabetic());
    let valid = scheme
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
    first && valid && (rest.is_empty() || rest.starts_with(['/', '?', '#']))
}

/// A path that stays below where it begins, however many `..` it has; empty for the beginning itself.
fn inside(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

fn replace(slot: &mut String, value: &str, what: &str) -> Result<(), String> {
    if !slot.is_empty() && slot != value {
        return Err(format!("{what} conflicts: {slot:?} vs {value:?}"));
    }
    value.clone_into(slot);
    Ok(())
}

fn prefixed(value: &str, prefix: &str) -> String {
    if value.starts_with(prefix) {
        value.to_owned()
    } else {
        format!("{prefix}{value}")
    }
}

/// What Go's `ParseBool` takes; no value means yes.
fn flag(key: &str, value: &str) -> Result<bool, String> {
    match value {
        "" | "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        _ => Err(format!("invalid {key} value: {value:?}")),
    }
}

fn mtime(value: &str) -> Result<GitMtime, String> {
    match value {
        "checkout" => Ok(GitMtime::Checkout),
        "commit" => Ok(GitMtime::Commit),
        _ => Err(format!(
            "invalid mtime value: {value:?}, must be \"checkout\" or \"commit\""
        )),
    }
}

#[cfg(test)]
mod tests;
