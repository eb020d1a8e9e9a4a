//! What can be found wrong before any step runs, all of it at once: sources that no context has, secrets and agents
//! that were not given, caches that cannot be written.
//!
//! A build that is in order pays nothing for it: sources are looked at again only when one was missing.

use crate::Error;
use crate::build::backend::Executor;
use crate::build::contexts::MAIN;
use crate::cluster::Cluster;
use crate::request::{BuildRequest, ContextSource};
use parser::Diagnostic;
use planner::plan::{CopyFrom, Op, Plan, RunMount, Step, StepId};
use planner::scheduler::Backend as _;

/// The errors of all steps that read contexts, once one of them could not; `None` when the step failed for
/// another reason.
pub(crate) fn unreadable_sources(
    executor: &Executor<'_>,
    plan: &Plan,
    failed: StepId,
) -> Option<Error> {
    let failed = &plan.steps[failed.0 as usize];
    if sources(executor, failed).is_empty() {
        return None;
    }
    let mut found: Vec<Diagnostic> = Vec::new();
    for step in &plan.steps {
        for (message, help) in sources(executor, step) {
            let error = diagnostic(step, message, help);
            if !found.contains(&error) {
                found.push(error);
            }
        }
    }
    found.sort_by_key(|error| error.span.map(|span| span.start));
    Some(Error::Dockerfile(found))
}

/// What is wrong with what a step reads from a context: each source by itself.
fn sources(executor: &Executor<'_>, step: &Step) -> Vec<(String, Option<String>)> {
    let Op::Copy(op) = &step.op else {
        return Vec::new();
    };
    let CopyFrom::Context(context) = &op.from else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for source in &op.sources {
        let mut alone = op.clone();
        alone.sources = vec![source.clone()];
        let step = Step {
            op: Op::Copy(alone),
            ..step.clone()
        };
        match executor.source_digest(&step) {
            Err(Error::Copy { message, help }) => {
                let help = help.or_else(|| where_sources_are(executor.request, context));
                found.push((checksum(context, &message), help));
            }
            Err(error @ Error::Io { .. }) => {
                found.push((crate::error::chain(&error), error.help()));
            }
            Ok(_) | Err(_) => {}
        }
    }
    found
}

/// Which folder a source is looked for in.
fn where_sources_are(request: &BuildRequest, context: &str) -> Option<String> {
    let source = match request.named_contexts.get(context) {
        None if context == MAIN => &request.context,
        named => named?,
    };
    let place = match source {
        ContextSource::Directory(dir) => dir.display().to_string(),
        ContextSource::Empty => {
            return Some(
                "this build has no context: give a folder instead of `-` to copy files from it"
                    .to_owned(),
            );
        }
        _ => return None,
    };
    Some(format!("sources are paths in the context: {place}"))
}

/// What steps need that are about to run, and whether the caches can be written that they are to go to.
#[expect(clippy::result_large_err, reason = "a build fails once")]
pub(crate) fn prepare(
    executor: &Executor<'_>,
    wanted: &[&Step],
) -> Result<(), (Option<StepId>, Error)> {
    if let Some((step, error)) = required(executor, wanted) {
        return Err((Some(step), error));
    }
    let runs = wanted.iter().any(|step| matches!(step.op, Op::Run(_)));
    match executor.exports.filter(|_| runs) {
        Some(exports) => exports.ask().map_err(|error| (None, error)),
        None => Ok(()),
    }
}

/// The secrets and agents that steps about to run here require and nobody gave, and the first such step.
fn required(executor: &Executor<'_>, wanted: &[&Step]) -> Option<(StepId, Error)> {
    let request = executor.request;
    let mut found: Vec<Diagnostic> = Vec::new();
    let mut first = None;
    for step in wanted {
        let Op::Run(op) = &step.op else { continue };
        // Workers have their own.
        let is_elsewhere = |cluster: &&Cluster<'_>| cluster.is_for(executor, op);
        if executor.cluster.as_ref().is_some_and(is_elsewhere) {
            continue;
        }
        for mount in &op.mounts {
            let error = match mount {
                RunMount::Secret {
                    id, required: true, ..
                } if !request.secrets.contains_key(id) => Error::Secret { id: id.clone() },
                RunMount::Ssh {
                    id, required: true, ..
                } if !request.ssh.contains_key(id) => Error::Ssh {
                    id: id.clone(),
                    any: !request.ssh.is_empty(),
                },
                _ => continue,
            };
            let error = diagnostic(step, error.to_string(), error.help());
            if !found.contains(&error) {
                found.push(error);
            }
            first.get_or_insert(step.id);
        }
    }
    found.sort_by_key(|error| error.span.map(|span| span.start));
    first.map(|step| (step, Error::Dockerfile(found)))
}

/// A source that another root file system does not have, in the words that people search for.
pub(crate) fn in_buildkits_words(error: Error, plan: &Plan, step: StepId) -> Error {
    let step = &plan.steps[step.0 as usize];
    match (error, &step.op) {
        (Error::Copy { message, help }, Op::Copy(op)) if message.ends_with(": not found") => {
            let from = match &op.from {
                CopyFrom::Input(index) => {
                    let input = &plan.steps[step.inputs[*index].0 as usize];
                    input.origin.stage.as_str()
                }
                CopyFrom::Context(name) => name,
                CopyFrom::Scratch => "scratch",
            };
            let message = checksum(from, &message);
            Error::Copy { message, help }
        }
        (error, _) => error,
    }
}

fn checksum(from: &str, message: &str) -> String {
    // An image that is copied from belongs to no stage.
    let from = if from.is_empty() { "image" } else { from };
    format!("failed to compute cache key: failed to calculate checksum of ref {from}: {message}")
}

fn diagnostic(step: &Step, message: String, help: Option<String>) -> Diagnostic {
    let (span, lines) = (step.origin.span, step.origin.lines);
    Diagnostic {
        span,
        lines,
        help,
        ..Diagnostic::error(message, parser::Span::default(), parser::Lines::default())
    }
}
