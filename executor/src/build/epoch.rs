//! SOURCE_DATE_EPOCH: the time that a build's arguments or its Dockerfile name, looked up where it is no number.

use crate::Error;
use crate::request::{BuildRequest, ContextSource};
use parser::Dockerfile;
use planner::lower::{self, EpochSource, LowerOptions};

const NAME: &str = "SOURCE_DATE_EPOCH";

/// The request with its time known: the build arg is a number or empty, and `source_date_epoch` agrees with it.
pub(super) fn resolve(
    dockerfile: &Dockerfile,
    request: &BuildRequest,
    options: &LowerOptions,
) -> Result<BuildRequest, Error> {
    let source = lower::epoch_source(dockerfile, options).map_err(Error::Dockerfile)?;
    let epoch = match source {
        EpochSource::Unset if request.build_args.contains_key(NAME) => None,
        EpochSource::Unset => request.source_date_epoch,
        EpochSource::Seconds(seconds) => Some(seconds),
        EpochSource::Context => time_of(&request.context),
        EpochSource::Named(name) => request.named_contexts.get(&name).and_then(time_of),
        EpochSource::Remote(remote) => {
            let message = format!(
                "SOURCE_DATE_EPOCH from the remote source of stage {} is not supported yet: give the time as a number",
                remote.stage
            );
            return Err(Error::Dockerfile(vec![parser::Diagnostic::error(
                message,
                remote.span,
                remote.lines,
            )]));
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

/// When a context was made. A folder has no such time: what its files carry depends on who checked them out.
fn time_of(source: &ContextSource) -> Option<i64> {
    match source {
        ContextSource::Directory(_)
        | ContextSource::Empty
        | ContextSource::OciLayout { .. }
        | ContextSource::Image(_) => None,
    }
}
