//! SOURCE_DATE_EPOCH: the time that a build's arguments or its Dockerfile name, looked up where it is no number.

use crate::Error;
use crate::build::BuildFailure;
use crate::build::contexts::MAIN;
use crate::build::manifest::digest;
use crate::build::prepare::Pending;
use crate::copy::newest_file;
use crate::request::BuildRequest;
use crate::source::Sources;
use parser::Dockerfile;
use planner::git_url::GitUrl;
use planner::lower::{self, EpochRemote, EpochSource, LowerOptions};
use planner::plan::Origin;
use planner::source::HttpSource;

const NAME: &str = "SOURCE_DATE_EPOCH";

/// The request with its time known: the build arg is a number or empty, and `source_date_epoch` agrees with it.
#[expect(clippy::result_large_err, reason = "a build fails once")]
pub(super) fn resolve(
    dockerfile: &Dockerfile,
    request: &BuildRequest,
    options: &LowerOptions,
    pending: &Pending<'_>,
) -> Result<BuildRequest, BuildFailure> {
    let source = lower::epoch_source(dockerfile, options).map_err(Error::Dockerfile)?;
    let epoch = match source {
        EpochSource::Unset if request.build_args.contains_key(NAME) => None,
        EpochSource::Unset => request.source_date_epoch,
        EpochSource::Seconds(seconds) => Some(seconds),
        EpochSource::Context => pending.time(MAIN, &request.context)?,
        EpochSource::Named(name) => match request.named_contexts.get(&name) {
            Some(source) => pending.time(&name, source)?,
            None => None,
        },
        EpochSource::Remote(remote) => {
            remote_time(&pending.sources(), &remote).map_err(|error| BuildFailure {
                origin: Some(Origin {
                    name: format!(
                        "[internal] resolve SOURCE_DATE_EPOCH source stage {}",
                        remote.stage
                    ),
                    stage: remote.stage.clone(),
                    span: Some(remote.span),
                    lines: Some(remote.lines),
                    ..Origin::default()
                }),
                ..BuildFailure::from(error)
            })?
        }
    };
    let mut request = request.clone();
    request.source_date_epoch = epoch;
    if let Some(text) = request.build_args.get_mut(NAME) {
        *text = text_of(epoch);
    }
    Ok(request)
}

/// The value that ARG SOURCE_DATE_EPOCH shows to commands.
pub(super) fn text_of(epoch: Option<i64>) -> String {
    epoch.map_or_else(String::new, |seconds| seconds.to_string())
}

/// When a remote source was made: a commit's time, `Last-Modified`, or the newest file of an archive.
fn remote_time(sources: &Sources<'_>, remote: &EpochRemote) -> Result<Option<i64>, Error> {
    let refused = |message: String| Error::Source {
        message,
        help: None,
    };
    let checksum = remote.checksum.as_deref().filter(|text| !text.is_empty());
    if let Some(git) = GitUrl::parse(&remote.source).map_err(refused)? {
        let source = git.source(remote.keep_git_dir, checksum).map_err(refused)?;
        let commit = sources.resolve_git(&source)?;
        return sources.commit_time(&source, &commit).map(Some);
    }
    let source = HttpSource {
        url: remote.source.clone(),
        checksum: checksum.map(str::to_owned),
        filename: None,
    };
    let file = sources.download(&source, &|_, _| {})?;
    if file.mtime != 0 {
        return Ok(Some(file.mtime));
    }
    let scratch = sources.store.scratch()?;
    let blob = sources.store.open_blob(&digest(&file.digest)?)?;
    newest_file(blob, scratch.path().join("archive"))
}
