//! Commits of Git repositories, fetched with the `git` command into a repository that the store keeps for each remote.
//!
//! First [`Sources::resolve_git`] says which commit a source means, without downloading anything; then
//! [`Sources::checkout`] puts its files into an empty folder. Which texts name a repository is the planner's to say.

mod checkout;
mod cli;
mod fetch;

use super::Sources;
use crate::Error;
use cli::Git;
use planner::git_url::{is_commit, redacted};
use planner::source::GitSource;

/// The commit that a source means.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct GitCommit {
    /// The full name of what was asked for (`refs/heads/main`), or a commit.
    pub(crate) reference: String,
    /// What it leads to: a commit, or an annotated tag.
    pub(crate) object: String,
    /// The commit behind an annotated tag, where that is known.
    pub(crate) peeled: Option<String>,
}

impl GitCommit {
    /// By what the content is known: the commit; with `.git` kept also the name, which is to be found there.
    pub(crate) fn identity(&self, source: &GitSource) -> String {
        if source.keep_git_dir && source.subdir.is_empty() {
            return format!("{}#{}", self.object, self.reference);
        }
        self.peeled.clone().unwrap_or_else(|| self.object.clone())
    }
}

impl Sources<'_> {
    /// Asks the remote which commit a source means. A whole commit id needs no asking.
    ///
    /// # Errors
    /// No `git`, an unreachable remote, no such reference, another commit than the checksum says; BuildKit's wording.
    pub(crate) fn resolve_git(&self, source: &GitSource) -> Result<GitCommit, Error> {
        check(source)?;
        if let Some(checksum) = &source.checksum
            && source.fetch_by_commit
        {
            return Ok(GitCommit {
                reference: canonical(&source.reference, checksum),
                object: checksum.clone(),
                peeled: None,
            });
        }
        let found = if is_commit(&source.reference) {
            GitCommit {
                reference: source.reference.clone(),
                object: source.reference.clone(),
                peeled: None,
            }
        } else {
            let git = Git::new(self, source)?;
            if source.reference.is_empty() {
                default_branch(&git, source)?
            } else {
                named(&git, source)?
            }
        };
        check_commit(source, &found.object, found.peeled.as_deref())?;
        Ok(found)
    }
}

/// What can be said without asking anyone.
fn check(source: &GitSource) -> Result<(), Error> {
    let hex = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_hexdigit());
    match source.checksum.as_deref() {
        Some(checksum) if !hex(checksum) => Err(refuse(format!(
            "invalid checksum {checksum} for Git URL, expected hex commit hash"
        ))),
        Some(checksum) if source.fetch_by_commit && !is_commit(checksum) => Err(refuse(format!(
            "fetch-by-commit requires a full commit hash as checksum, got {checksum}"
        ))),
        None if source.fetch_by_commit => {
            Err(refuse("fetch-by-commit requires checksum".to_owned()))
        }
        _ if !valid_reference(&source.reference) => Err(no_reference(&source.reference, "")),
        _ => Ok(()),
    }
}

/// Whether `git` could have such a name (git-check-ref-format), so that it can be no option, pattern or refspec.
fn valid_reference(name: &str) -> bool {
    !name.starts_with('-')
        && !name.contains("..")
        && !name.contains("@{")
        && !name
            .bytes()
            .any(|b| b <= b' ' || b == 0x7f || b"~^:?*[\\".contains(&b))
}

/// The branch that HEAD leads to.
fn default_branch(git: &Git<'_>, source: &GitSource) -> Result<GitCommit, Error> {
    let shown = redacted(&source.remote);
    let output = git
        .run(&["ls-remote", "--symref", "--", git.remote(), "HEAD"])
        .map_err(|error| {
            error.into_error(&format!(
                "error fetching default branch for repository {shown}"
            ))
        })?;
    let mut branch = None;
    let mut object = None;
    for line in output.lines() {
        match line.split_once('\t') {
            Some((target, "HEAD")) => match target.strip_prefix("ref: ") {
                Some(name) => branch = Some(name),
                None => object = Some(target),
            },
            _ => continue,
        }
    }
    let found = branch
        .filter(|branch| branch.starts_with("refs/heads/") && valid_reference(branch))
        .zip(object.filter(|object| is_commit(object)));
    let Some((reference, object)) = found else {
        return Err(refuse(format!(
            "could not find default branch for repository: {shown}"
        )));
    };
    Ok(GitCommit {
        reference: reference.to_owned(),
        object: object.to_owned(),
        peeled: None,
    })
}

/// A branch or tag: the full name first, then branches before tags, as `git checkout` has it.
fn named(git: &Git<'_>, source: &GitSource) -> Result<GitCommit, Error> {
    let name = source.reference.as_str();
    let peeled = format!("{name}^{{}}");
    let output = git
        .run(&["ls-remote", "--", git.remote(), name, &peeled])
        .map_err(|error| {
            error.into_error(&format!(
                "failed to fetch remote {}",
                redacted(&source.remote)
            ))
        })?;
    let object_of = |wanted: &str| {
        output.lines().find_map(|line| {
            let (object, name) = line.split_once('\t')?;
            (name == wanted).then(|| object.to_owned())
        })
    };
    let below = |folder: &str| format!("{folder}{}", name.strip_prefix(folder).unwrap_or(name));
    let candidates = [below("refs/"), below("refs/heads/"), below("refs/tags/")];
    let found = candidates
        .into_iter()
        .find_map(|reference| object_of(&reference).map(|object| (reference, object)));
    let Some((reference, object)) = found else {
        return Err(no_reference(name, &output));
    };
    if !is_commit(&object) {
        return Err(refuse(format!("invalid commit sha {object:?}")));
    }
    let peeled =
        object_of(&format!("{reference}^{{}}")).filter(|_| reference.starts_with("refs/tags/"));
    Ok(GitCommit {
        reference,
        object,
        peeled,
    })
}

fn no_reference(name: &str, output: &str) -> Error {
    refuse(format!(
        "repository does not contain ref {name}, output: {output:?}"
    ))
}

/// The name that a commit fetched by its id is known by.
fn canonical(reference: &str, commit: &str) -> String {
    match reference {
        "" => commit.to_owned(),
        full if full.starts_with("refs/") || is_commit(full) => full.to_owned(),
        short => format!("refs/heads/{short}"),
    }
}

/// Compares with the checksum, which may be the tag's or its commit's, or the beginning of one.
fn check_commit(source: &GitSource, object: &str, peeled: Option<&str>) -> Result<(), Error> {
    let Some(checksum) = source.checksum.as_deref() else {
        return Ok(());
    };
    if object.starts_with(checksum) || peeled.is_some_and(|commit| commit.starts_with(checksum)) {
        return Ok(());
    }
    let got = match peeled {
        Some(commit) if commit != object => format!("{object} or {commit}"),
        _ => object.to_owned(),
    };
    Err(refuse(format!(
        "expected checksum to match {checksum}, got {got}"
    )))
}

fn refuse(message: String) -> Error {
    Error::Source {
        message,
        help: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ac24_references_that_git_could_misread() {
        for name in ["main", "refs/tags/v1", "release/1.2", "", "v1.0+x", "ü"] {
            assert!(valid_reference(name), "{name}");
        }
        for name in [
            "-x",
            "--upload-pack=touch /tmp/x",
            "a:refs/heads/b",
            "a b",
            "a\nb",
            "a*",
            "a^{}",
            "a..b",
            "a@{1}",
            "\\",
        ] {
            assert!(!valid_reference(name), "{name}");
        }
    }

    #[test]
    fn ac26_checksums() {
        let source = |checksum: &str| GitSource {
            remote: "https://h/x.git".into(),
            reference: String::new(),
            checksum: Some(checksum.into()),
            subdir: String::new(),
            keep_git_dir: false,
            submodules: true,
            mtime: planner::source::GitMtime::Checkout,
            fetch_by_commit: false,
        };
        assert!(check_commit(&source("ab"), "abcd", None).is_ok());
        assert!(check_commit(&source("cd"), "abcd", Some("cdef")).is_ok());
        let text = |object, peeled| {
            check_commit(&source("ef"), object, peeled)
                .expect_err("another commit")
                .to_string()
        };
        assert_eq!(
            text("abcd", None),
            "expected checksum to match ef, got abcd"
        );
        assert_eq!(
            text("abcd", Some("cdef")),
            "expected checksum to match ef, got abcd or cdef"
        );
        assert!(check(&source("xyz")).is_err());
    }
}
