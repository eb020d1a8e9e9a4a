//! Brings a commit into the repository that the store keeps for a remote.
//!
//! One process at a time works on it. What is fetched stays reachable by a reference of our own; nothing is ever
//! collected, pruning removes the whole.

use super::cli::{Failed, Git, Place, io};
use super::{GitCommit, check_commit, refuse};
use crate::Error;
use crate::source::Sources;
use planner::git_url::{is_commit, redacted};
use planner::source::GitSource;
use sha2::{Digest as _, Sha256};
use std::path::{Path, PathBuf};
use store::{CacheMount, MountSharing};

/// The kept repository of a remote, ours alone while this lives.
#[derive(Debug)]
pub(super) struct Repository {
    pub(super) dir: PathBuf,
    _held: CacheMount,
}

/// A fetched commit.
#[derive(Debug)]
pub(super) struct Fetched {
    pub(super) repository: Repository,
    /// The name that it has in the repository.
    pub(super) reference: String,
    /// A commit.
    pub(super) commit: String,
}

impl Repository {
    fn place(&self) -> Place<'_> {
        Place {
            git_dir: Some(&self.dir),
            ..Place::default()
        }
    }

    fn is_shallow(&self) -> bool {
        self.dir.join("shallow").exists()
    }
}

/// Fetches what was resolved, unless it is here.
pub(super) fn fetch(
    sources: &Sources<'_>,
    git: &Git<'_>,
    source: &GitSource,
    wanted: &GitCommit,
) -> Result<Fetched, Error> {
    let repository = open(sources, git, source, wanted)?;
    let place = repository.place();
    let object = wanted.object.as_str();
    if !has(git, place, object)? {
        let fetched = bring(git, &repository, wanted);
        if let Err(failed) = fetched {
            return Err(failed.into_error(&format!(
                "failed to fetch remote {}",
                redacted(&source.remote)
            )));
        }
        if !has(git, place, object)? {
            return Err(refuse(format!(
                "fetched ref {} does not match expected commit {object} and commit can not be found in the repository",
                wanted.reference
            )));
        }
    }
    let reference = format!("refs/kiln/{object}");
    let fail = |failed: Failed| {
        failed.into_error(&format!(
            "failed to rev-parse {object} for {}",
            redacted(&source.remote)
        ))
    };
    git.run_in(place, &["update-ref", "--no-deref", &reference, object])
        .map_err(fail)?;
    let peeled = format!("{object}^{{commit}}");
    let commit = git
        .run_in(
            place,
            &["rev-parse", "--verify", "--end-of-options", &peeled],
        )
        .map_err(fail)?
        .trim()
        .to_owned();
    check_commit(source, object, Some(&commit))?;
    Ok(Fetched {
        repository,
        reference,
        commit,
    })
}

/// The remote's repository, made when it is not there.
fn open(
    sources: &Sources<'_>,
    git: &Git<'_>,
    source: &GitSource,
    wanted: &GitCommit,
) -> Result<Repository, Error> {
    // The identity has the credentials in it, which must not be readable in the store.
    let digest = Sha256::digest(source.remote.as_bytes());
    let hash: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let id = format!("git repository {} {hash}", redacted(&source.remote));
    let held = sources.store.cache_mount(&id, MountSharing::Locked)?;
    let long = wanted.object.len() == 64;
    let dir = held
        .path()
        .join(if long { "sha256.git" } else { "sha1.git" });
    let repository = Repository { dir, _held: held };
    forget_locks(&repository.dir);
    if !repository.dir.join("HEAD").exists() {
        std::fs::create_dir_all(&repository.dir)
            .map_err(|source| io("create", &repository.dir, source))?;
        let format = if long {
            "--object-format=sha256"
        } else {
            "--object-format=sha1"
        };
        git.run_in(
            repository.place(),
            &["init", "--quiet", "--bare", "--template=", format],
        )
        .map_err(|failed| {
            failed.into_error(&format!(
                "failed to init repo for {}",
                redacted(&source.remote)
            ))
        })?;
    }
    Ok(repository)
}

/// Lock files of a process that died while it held the repository.
fn forget_locks(dir: &Path) {
    for name in [
        "shallow.lock",
        "packed-refs.lock",
        "config.lock",
        "HEAD.lock",
    ] {
        let _ = std::fs::remove_file(dir.join(name));
    }
}

fn has(git: &Git<'_>, place: Place<'_>, object: &str) -> Result<bool, Error> {
    let commit = format!("{object}^{{commit}}");
    match git.run_in(place, &["cat-file", "-e", &commit]) {
        Ok(_) => Ok(true),
        Err(Failed::Status { .. }) => Ok(false),
        Err(Failed::Other(error)) => Err(error),
    }
}

/// The name alone and shallow first; then the commit itself; then all there is, as servers of plain files need it.
fn bring(git: &Git<'_>, repository: &Repository, wanted: &GitCommit) -> Result<(), Failed> {
    let place = repository.place();
    let object = wanted.object.as_str();
    if wanted.reference.starts_with("refs/") {
        let refspec = format!("+{}:refs/kiln/fetched", wanted.reference);
        let args = ["--depth=1", "--no-tags", "--", git.remote(), &refspec];
        shallow(git, repository, &args)?;
        if has(git, place, object).map_err(Failed::Other)? {
            return Ok(());
        }
    }
    if !is_commit(object) {
        return Ok(());
    }
    let args = ["--depth=1", "--no-tags", "--", git.remote(), object];
    match shallow(git, repository, &args) {
        Ok(()) => return Ok(()),
        Err(Failed::Other(error)) => return Err(Failed::Other(error)),
        Err(Failed::Status { stderr }) => {
            tracing::debug!(stderr, "the commit cannot be asked for by its id");
        }
    }
    let mut args = vec!["--tags"];
    if repository.is_shallow() {
        args.push("--unshallow");
    }
    args.extend(["--", git.remote(), "+refs/heads/*:refs/kiln/heads/*"]);
    run(git, place, &args)
}

/// Fetches with `--depth=1`, or without where the server does not know it.
fn shallow(git: &Git<'_>, repository: &Repository, args: &[&str]) -> Result<(), Failed> {
    match run(git, repository.place(), args) {
        Err(failed) if failed.says("--depth") || failed.says("shallow") => {
            let args: Vec<&str> = args
                .iter()
                .copied()
                .filter(|arg| *arg != "--depth=1")
                .collect();
            run(git, repository.place(), &args)
        }
        ended => ended,
    }
}

fn run(git: &Git<'_>, place: Place<'_>, args: &[&str]) -> Result<(), Failed> {
    let mut all = vec![
        "fetch",
        "--quiet",
        "--force",
        "--no-write-fetch-head",
        "--no-recurse-submodules",
        "--no-auto-maintenance",
    ];
    all.extend_from_slice(args);
    git.run_in(place, &all).map(drop)
}
