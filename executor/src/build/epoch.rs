//! SOURCE_DATE_EPOCH: the time that a build's arguments or its Dockerfile name, looked up where it is no number.

use crate::Error;
use crate::build::contexts::MAIN;
use crate::build::prepare::Pending;
use crate::request::BuildRequest;
use parser::Dockerfile;
use planner::lower::{self, EpochSource, LowerOptions};

const NAME: &str = "SOURCE_DATE_EPOCH";

/// The request with its time known: the build arg is a number or empty, and `source_date_epoch` agrees with it.
pub(super) fn resolve(
    dockerfile: &Dockerfile,
    request: &BuildRequest,
    options: &LowerOptions,
    pending: &Pending<'_>,
) -> Result<BuildRequest, Error> {
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
