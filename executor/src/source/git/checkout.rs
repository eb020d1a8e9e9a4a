//! Puts a commit's files into an empty folder: with submodules, with modes and times as they are meant to be, and
//! without anything of `git`'s own, unless `.git` is wanted.

use super::cli::{Failed, Git, Place, io, text};
use super::fetch::{Fetched, fetch};
use super::{GitCommit, refuse};
use crate::Error;
use crate::source::Sources;
use planner::git_url::redacted;
use planner::source::{GitMtime, GitSource};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

impl Sources<'_> {
    /// Fetches what [`Sources::resolve_git`] found and puts it into `folder`, which is empty; returns the folder
    /// inside it that the source means. Modes are 0644, 0755 for what can be executed and for folders.
    ///
    /// # Errors
    /// The remote, a subdirectory that is not there.
    pub(crate) fn checkout(
        &self,
        source: &GitSource,
        commit: &GitCommit,
        folder: &Path,
    ) -> Result<PathBuf, Error> {
        let git = Git::new(self, source)?;
        let fetched = fetch(self, &git, source, commit)?;
        let keep = source.keep_git_dir && source.subdir.is_empty();
        let fail = |failed: Failed| {
            failed.into_error(&format!(
                "failed to checkout remote {}",
                redacted(&source.remote)
            ))
        };
        let git_dir = if keep {
            own_repository(&git, &fetched, commit, folder)
        } else {
            borrowed_repository(&git, &fetched, folder)
        };
        let git_dir = git_dir.map_err(fail)?;
        let place = Place {
            git_dir: Some(&git_dir),
            work_tree: Some(folder),
            local: false,
        };
        git.run_in(
            place,
            &[
                "checkout",
                "--quiet",
                "--force",
                "--detach",
                &fetched.commit,
            ],
        )
        .map_err(fail)?;
        if source.submodules && folder.join(".gitmodules").exists() {
            submodules(&git, place, source)?;
        }
        let time = match source.mtime {
            GitMtime::Checkout => None,
            GitMtime::Commit => Some(commit_time(&git, place, &fetched.commit).map_err(fail)?),
        };
        tidy(folder, keep, time)?;
        subfolder(folder, source)
    }
}

impl Sources<'_> {
    /// When the commit that [`Sources::resolve_git`] found was made, in seconds since 1970.
    ///
    /// # Errors
    /// The remote.
    pub(crate) fn commit_time(&self, source: &GitSource, commit: &GitCommit) -> Result<i64, Error> {
        let git = Git::new(self, source)?;
        let fetched = fetch(self, &git, source, commit)?;
        let place = Place {
            git_dir: Some(&fetched.repository.dir),
            ..Place::default()
        };
        commit_time(&git, place, &fetched.commit)
            .map_err(|failed| failed.into_error("failed to read the time of a commit"))
    }
}

/// A `.git` that stands alone, fetched from the kept repository.
fn own_repository(
    git: &Git<'_>,
    fetched: &Fetched,
    commit: &GitCommit,
    folder: &Path,
) -> Result<PathBuf, Failed> {
    let git_dir = folder.join(".git");
    init(git, &git_dir, folder, &fetched.commit)?;
    let place = Place {
        git_dir: Some(&git_dir),
        work_tree: Some(folder),
        local: true,
    };
    // The protocol for files, unlike a plain path, takes nothing from the other repository but what was asked for.
    let from = format!(
        "file://{}",
        text(&fetched.repository.dir).map_err(Failed::Other)?
    );
    let refspec = if commit.reference.starts_with("refs/") {
        format!("+{}:{}", fetched.reference, commit.reference)
    } else {
        fetched.reference.clone()
    };
    git.run_in(
        place,
        &[
            "fetch",
            "--quiet",
            "--update-head-ok",
            "--depth=1",
            "--no-tags",
            "--no-recurse-submodules",
            "--",
            &from,
            &refspec,
        ],
    )?;
    git.run_in(place, &["remote", "add", "--", "origin", git.remote()])?;
    let _ = fs::remove_file(git_dir.join("FETCH_HEAD"));
    Ok(git_dir)
}

/// A repository outside the folder that takes its objects from the kept one.
fn borrowed_repository(git: &Git<'_>, fetched: &Fetched, folder: &Path) -> Result<PathBuf, Failed> {
    let git_dir = git.folder("repository").map_err(Failed::Other)?;
    init(git, &git_dir, folder, &fetched.commit)?;
    let kept = &fetched.repository.dir;
    let write = |path: PathBuf, bytes: &[u8]| {
        fs::write(&path, bytes).map_err(|source| Failed::Other(io("write", &path, source)))
    };
    let objects = kept.join("objects");
    let line = format!("{}\n", text(&objects).map_err(Failed::Other)?);
    let info = git_dir.join("objects/info");
    fs::create_dir_all(&info).map_err(|source| Failed::Other(io("create", &info, source)))?;
    write(info.join("alternates"), line.as_bytes())?;
    if let Ok(shallow) = fs::read(kept.join("shallow")) {
        write(git_dir.join("shallow"), &shallow)?;
    }
    let place = Place {
        git_dir: Some(&git_dir),
        work_tree: Some(folder),
        local: false,
    };
    // Submodules may be named relative to it.
    git.run_in(place, &["config", "remote.origin.url", git.remote()])?;
    Ok(git_dir)
}

fn init(git: &Git<'_>, git_dir: &Path, folder: &Path, commit: &str) -> Result<(), Failed> {
    let format = if commit.len() == 64 {
        "--object-format=sha256"
    } else {
        "--object-format=sha1"
    };
    let place = Place {
        git_dir: Some(git_dir),
        work_tree: Some(folder),
        local: false,
    };
    git.run_in(place, &["init", "--quiet", "--template=", format])
        .map(drop)
}

fn submodules(git: &Git<'_>, place: Place<'_>, source: &GitSource) -> Result<(), Error> {
    let update = ["submodule", "--quiet", "update", "--init", "--recursive"];
    let shallow: Vec<&str> = update.into_iter().chain(["--depth=1"]).collect();
    let updated = match git.run_in(place, &shallow) {
        Err(failed) if failed.says("--depth") || failed.says("shallow") => {
            git.run_in(place, &update)
        }
        updated => updated,
    };
    updated.map(drop).map_err(|failed| {
        failed.into_error(&format!(
            "failed to update submodules for {}",
            redacted(&source.remote)
        ))
    })
}

fn commit_time(git: &Git<'_>, place: Place<'_>, commit: &str) -> Result<i64, Failed> {
    let output = git.run_in(
        place,
        &[
            "show",
            "--no-patch",
            "--format=%ct",
            "--end-of-options",
            commit,
        ],
    )?;
    output
        .trim()
        .parse()
        .map_err(|_| Failed::Other(refuse(format!("commit {commit} has no time: {output:?}"))))
}

/// Sets modes as `git` with the usual mask would, and times where one is given; removes what submodules leave of
/// `git`'s own, which names folders of this machine.
fn tidy(folder: &Path, keep: bool, time: Option<i64>) -> Result<(), Error> {
    let mut pending = vec![folder.to_path_buf()];
    let mut folders = Vec::new();
    while let Some(path) = pending.pop() {
        let entries = fs::read_dir(&path).map_err(|source| io("list", &path, source))?;
        for entry in entries {
            let entry = entry.map_err(|source| io("list", &path, source))?;
            let child = entry.path();
            let kind = entry
                .file_type()
                .map_err(|source| io("inspect", &child, source))?;
            if !keep && entry.file_name() == ".git" {
                store::remove_tree(&child).map_err(|source| io("remove", &child, source))?;
            } else if kind.is_dir() {
                pending.push(child);
            } else {
                if kind.is_file() {
                    set_mode(&child)?;
                }
                set_time(&child, time)?;
            }
        }
        folders.push(path);
    }
    for path in folders {
        let mode = fs::Permissions::from_mode(0o755);
        fs::set_permissions(&path, mode).map_err(|source| io("set the mode of", &path, source))?;
        set_time(&path, time)?;
    }
    Ok(())
}

fn set_mode(path: &Path) -> Result<(), Error> {
    let fail = |source| io("set the mode of", path, source);
    let had = fs::symlink_metadata(path)
        .map_err(fail)?
        .permissions()
        .mode();
    // Git makes its objects read-only.
    let mode = match (had & 0o100 != 0, had & 0o200 != 0) {
        (true, _) => 0o755,
        (false, true) => 0o644,
        (false, false) => 0o444,
    };
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(fail)
}

fn set_time(path: &Path, time: Option<i64>) -> Result<(), Error> {
    let Some(seconds) = time else { return Ok(()) };
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: 0,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|errno| io("set the time of", path, errno.into()))
}

/// The folder that the source means. Links on the way are not followed: they could lead anywhere.
fn subfolder(folder: &Path, source: &GitSource) -> Result<PathBuf, Error> {
    let mut path = folder.to_path_buf();
    for part in source.subdir.split('/').filter(|part| !part.is_empty()) {
        path.push(part);
        let reason = match fs::symlink_metadata(&path) {
            Ok(meta) if meta.is_dir() => continue,
            Ok(meta) if meta.is_symlink() => "it is behind a symbolic link",
            Ok(_) => "not a directory",
            Err(_) => "no such file or directory",
        };
        return Err(refuse(format!(
            "failed to open subdir {}: {reason}",
            source.subdir
        )));
    }
    Ok(path)
}
