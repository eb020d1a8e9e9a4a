//! `kiln build --call` and `--check`: questions about a Dockerfile, answered on standard output, and nothing is built.

use super::build::{failed, progress_mode, watch_signals};
use super::{Opener, print_line};
use crate::args::BuildArgs;
use crate::build_spec;
use crate::environment::Environment;
use crate::error::Failure;
use crate::progress::Progress;
use crate::render::finding::{self, File};
use crate::render::question;
use executor::build::{BuildFailure, Call};
use executor::request::{BuildRequest, DockerfileSource};
use parser::{Lines, Severity};
use planner::scheduler::Cancel;
use std::path::{Component, Path, PathBuf};

/// What is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Method {
    Check,
    Outline,
    Targets,
    Describe,
}

/// `--call` as understood.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Question {
    method: Method,
    json: bool,
    /// Findings are no failure.
    ignore_status: bool,
}

/// The question that the flags ask; `None` for a build. `--check` wins over `--call`.
pub fn question(args: &BuildArgs) -> Result<Option<Question>, Failure> {
    let mut question = Question {
        method: Method::Check,
        json: false,
        ignore_status: false,
    };
    let text = args.call.as_deref().unwrap_or_default();
    let mut name = "";
    for field in text.split(',').filter(|field| !field.is_empty()) {
        match field.split_once('=') {
            None => name = field,
            Some(("format", format)) => question.json = format == "json",
            Some(("ignorestatus", value)) => {
                question.ignore_status = value.parse().map_err(|_| {
                    Failure::Usage(format!("invalid value for ignorestatus: {value:?}"))
                })?;
            }
            Some(_) => {
                return Err(Failure::Usage(format!("invalid print field: {field}")));
            }
        }
    }
    question.method = match name {
        _ if args.check => Method::Check,
        "" | "build" => return Ok(None),
        "check" | "lint" => Method::Check,
        "outline" => Method::Outline,
        "targets" => Method::Targets,
        "subrequests.describe" => Method::Describe,
        other => {
            return Err(Failure::Usage(format!(
                "unsupported request frontend.{other}: expected build, check, outline, targets or subrequests.describe"
            )));
        }
    };
    Ok(Some(question))
}

/// Answers a question.
pub fn run(
    args: &BuildArgs,
    question: Question,
    open: &Opener<'_>,
    environment: &Environment,
) -> Result<(), Failure> {
    if question.method == Method::Describe {
        print(&question::describe(question.json));
        return Ok(());
    }
    let build_spec::Resolved {
        mut request,
        stream,
        ..
    } = build_spec::resolve(args, environment)?;
    let mode = progress_mode(args, environment)?;
    let progress = Progress::new(mode, environment).without_findings();
    let cancel = Cancel::default();
    let signals = watch_signals(&cancel)?;
    if request.context.is_pending() || request.dockerfile_source != DockerfileSource::Given {
        let store = open.store()?;
        let prepared = executor::build::prepare(&store, &mut request, stream, &progress, &cancel);
        if let Err(failure) = prepared {
            progress.finish();
            return Err(failed(request, failure, &cancel));
        }
    }
    progress.set_dockerfile(&request.dockerfile_name, &request.dockerfile);
    let open_store = || open.open();
    let call = Call {
        request: &request,
        open: &open_store,
        ui: &progress,
        cancel: &cancel,
    };
    let answer = answer(args, question, &call, &progress);
    signals.close();
    match answer {
        Answer::Failed(failure) => Err(match failure.error {
            executor::Error::Checks { message } => Failure::Other(message),
            _ => failed(request, *failure, &cancel),
        }),
        Answer::Found if question.ignore_status => Ok(()),
        Answer::Found => Err(Failure::Told),
        Answer::Done => Ok(()),
    }
}

enum Answer {
    Done,
    /// The checks found something, which was told.
    Found,
    Failed(Box<BuildFailure>),
}

fn answer(args: &BuildArgs, question: Question, call: &Call<'_>, progress: &Progress) -> Answer {
    let text = &call.request.dockerfile;
    let printed = match question.method {
        Method::Check => {
            let result = call.check();
            progress.finish();
            return checked(args, question, call, (progress, result));
        }
        Method::Outline => call.outline().map(|outline| {
            if question.json {
                question::outline_json(&outline, text)
            } else {
                question::outline_text(&outline)
            }
        }),
        Method::Targets | Method::Describe => call.targets().map(|targets| {
            if question.json {
                question::targets_json(&targets, text)
            } else {
                question::targets_text(&targets)
            }
        }),
    };
    progress.finish();
    match printed {
        Ok(text) => {
            print(&text);
            Answer::Done
        }
        Err(failure) => Answer::Failed(Box::new(failure)),
    }
}

fn checked(
    args: &BuildArgs,
    question: Question,
    call: &Call<'_>,
    (progress, result): (&Progress, Result<(), BuildFailure>),
) -> Answer {
    // A build arg that nothing uses is no check's finding.
    let mut found = progress.findings();
    found.retain(|finding| finding.code.is_some());
    let request = call.request;
    let error = result.as_ref().err().map(|failure| told(failure, request));
    let shown = shown_name(args, request);
    if question.json {
        // The JSON names the file alone, the text a path that can be opened.
        let file = File {
            name: &request.dockerfile_name,
            text: &request.dockerfile,
        };
        let report = finding::check_json(file, &found, error.as_ref());
        print(&format!("{report:#}\n"));
    } else if !found.is_empty() || error.is_none() {
        let file = File {
            name: &shown,
            text: &request.dockerfile,
        };
        print(&finding::check_report(file, &found));
    }
    match result {
        Err(failure) => Answer::Failed(Box::new(failure)),
        Ok(()) if found.is_empty() => Answer::Done,
        Ok(()) => Answer::Found,
    }
}

/// Message and place of an error, as BuildKit has them in its answer.
fn told(failure: &BuildFailure, request: &BuildRequest) -> (String, Option<Lines>) {
    let origin = failure.origin.as_ref().and_then(|origin| origin.lines);
    match &failure.error {
        executor::Error::Dockerfile(errors) => {
            let Some(first) = errors.first() else {
                return (crate::render::chain(&failure.error), origin);
            };
            let syntax = parser::parse(&request.dockerfile).diagnostics;
            let is_syntax = syntax.iter().any(|finding| {
                finding.severity == Severity::Error && finding.message == first.message
            });
            let near = first.help.as_ref();
            let near = near.filter(|help| help.starts_with("did you mean"));
            let near = near.map_or_else(String::new, |help| format!(" ({help})"));
            let message = format!("{}{near}", first.message);
            let message = match first.lines {
                Some(lines) if is_syntax => {
                    format!("dockerfile parse error on line {}: {message}", lines.start)
                }
                _ => message,
            };
            (message, first.lines)
        }
        executor::Error::Checks { message } => (message.clone(), None),
        error => (crate::render::chain(error), origin),
    }
}

/// The Dockerfile's path as it can be opened from here.
fn shown_name(args: &BuildArgs, request: &BuildRequest) -> String {
    let path = match &args.file {
        Some(file) if file == Path::new("-") => return "stdin".to_owned(),
        Some(file) => file.clone(),
        None if Path::new(&args.context).is_dir() => {
            Path::new(&args.context).join(&request.dockerfile_name)
        }
        None => return request.dockerfile_name.clone(),
    };
    let plain: PathBuf = path
        .components()
        .filter(|part| *part != Component::CurDir)
        .collect();
    plain.display().to_string()
}

fn print(text: &str) {
    print_line(text.strip_suffix('\n').unwrap_or(text));
}
