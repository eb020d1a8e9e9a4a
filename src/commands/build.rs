//! `kiln build`.

use super::{Opener, debug, print_line};
use crate::args::{BuildArgs, ProgressMode};
use crate::build_spec;
use crate::environment::Environment;
use crate::error::Failure;
use crate::progress::Progress;
use crate::render::failure::BuildReport;
use executor::build::{BuildFailure, Verified};
use executor::request::{BuildRequest, OutputDest};
use planner::scheduler::Cancel;
use std::fs::File;
use std::os::fd::AsFd;
use store::Store;

/// Builds, prints the image ID where it was asked for, writes the ID and metadata files.
pub fn run(args: &BuildArgs, open: &Opener<'_>, environment: &Environment) -> Result<(), Failure> {
    if let Some(question) = super::call::question(args)? {
        return super::call::run(args, question, open, environment);
    }
    let build_spec::Resolved {
        mut request,
        stream,
        warnings,
    } = build_spec::resolve(args, environment)?;
    let mode = progress_mode(args, environment)?;
    let store = open.store()?;
    let progress = Progress::new(mode, environment);
    for warning in &warnings {
        progress.warn(warning);
    }
    // What failed elsewhere cannot be kept: only who asks for it has all steps run here.
    let is_for_people = !args.quiet
        && request.remote.executor.is_none()
        && matches!(
            mode,
            ProgressMode::Auto | ProgressMode::Tty | ProgressMode::Plain
        );
    let on_failure = debug::Plan::of(args.run.on_failure, is_for_people, environment);
    request.run.on_failure = on_failure.setting();
    let cancel = Cancel::default();
    let signals = watch_signals(&cancel)?;
    settle_loads(&mut request, &progress, &cancel)?;
    let stdout = stdout_file(&request)?;
    let stdout_taken = stdout.is_some();
    let prepared = executor::build::prepare(&store, &mut request, stream, &progress, &cancel);
    progress.set_dockerfile(&request.dockerfile_name, &request.dockerfile);
    let result = match prepared {
        Ok(()) => executor::build::build(&store, &request, &progress, &cancel, stdout),
        Err(failure) => Err(failure),
    };
    progress.finish();
    let result = match result {
        Ok(result) => result,
        Err(failure) => {
            let outcome = Outcome { request, failure };
            let failure = outcome.tell(on_failure, &store, environment, &cancel);
            signals.close();
            return Err(failure);
        }
    };
    signals.close();
    let warnings = environment
        .get("BUILDX_METADATA_WARNINGS")
        .is_some_and(|value| matches!(value, "1" | "t" | "T" | "true" | "TRUE" | "True"))
        .then(|| progress.solve_warnings());
    super::metadata::write(
        args.iidfile.as_deref(),
        args.metadata_file.as_deref(),
        &result,
        warnings,
    )?;
    let quiet = args.quiet || mode == ProgressMode::Quiet;
    if quiet
        && !stdout_taken
        && let Some(id) = &result.image_id
    {
        print_line(id);
    }
    result.verified.as_ref().map_or(Ok(()), verdict)
}

/// What `--verify` found, step by step.
fn verdict(verified: &Verified) -> Result<(), Failure> {
    let steps = count(verified.steps, "step");
    let Some((_, rest)) = verified.differing.split_first() else {
        return Ok(());
    };
    let verb = if rest.is_empty() { "differs" } else { "differ" };
    let mut text = format!("{steps} verified, {} {verb}", verified.differing.len());
    for (step, difference) in &verified.differing {
        text.push_str(&format!("\n  {step}: {difference}"));
    }
    Err(Failure::Other(text))
}

/// A number with what it counts.
fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// A build that failed.
struct Outcome {
    request: BuildRequest,
    failure: BuildFailure,
}

impl Outcome {
    /// What to tell of it; told already where there was a shell after it.
    fn tell(
        self,
        on_failure: debug::Plan,
        store: &Store,
        environment: &Environment,
        cancel: &Cancel,
    ) -> Failure {
        let kept = self.failure.error.left().and_then(|left| left.kept.clone());
        let (Some(id), false) = (kept, cancel.is_cancelled()) else {
            return failed(self.request, self.failure, cancel);
        };
        let build = self.request.clone();
        // The report comes before the question.
        let _ = failed(self.request, self.failure, cancel).report(environment);
        match debug::after_failure(on_failure, (store, id), build, environment, cancel) {
            Ok(()) => Failure::Told,
            Err(failure) => failure,
        }
    }
}

/// Finds out, before anything is built, whether those who are to take the image are there. Without a daemon that
/// somebody named, the image stays in the store.
fn settle_loads(
    request: &mut BuildRequest,
    progress: &Progress,
    cancel: &Cancel,
) -> Result<(), Failure> {
    for output in &mut request.outputs {
        let Some(target) = &output.load else { continue };
        match executor::output::daemon::probe(target, &request.search_path, cancel) {
            Ok(()) => {}
            Err(error) if target.required => {
                return Err(Failure::Other(crate::render::chain(&error)));
            }
            Err(_) => {
                progress.warn("no Docker is running here: the image is in Kiln's own store only");
                output.load = None;
            }
        }
    }
    Ok(())
}

/// `-q`, `--progress`, `BUILDKIT_PROGRESS`, in this order.
pub(super) fn progress_mode(
    args: &BuildArgs,
    environment: &Environment,
) -> Result<ProgressMode, Failure> {
    use clap::ValueEnum as _;
    if args.quiet {
        return Ok(ProgressMode::Quiet);
    }
    if let Some(mode) = args.progress {
        return Ok(mode);
    }
    match environment.get("BUILDKIT_PROGRESS") {
        None => Ok(ProgressMode::Auto),
        Some(text) => ProgressMode::from_str(text, true).map_err(|_| {
            Failure::Usage(format!(
                "invalid BUILDKIT_PROGRESS {text:?}: expected auto, plain, tty, quiet, none or rawjson"
            ))
        }),
    }
}

/// The first SIGINT, SIGTERM or SIGHUP stops the build in order; the second ends the program at once
/// (the sandbox dies with it, and the next build sweeps what is left).
pub(super) fn watch_signals(cancel: &Cancel) -> Result<signal_hook::iterator::Handle, Failure> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP])
        .map_err(|error| Failure::Other(format!("could not watch signals: {error}")))?;
    let handle = signals.handle();
    let cancel = cancel.clone();
    std::thread::spawn(move || {
        for _ in signals.forever() {
            if cancel.is_cancelled() {
                std::process::exit(130);
            }
            cancel.cancel();
        }
    });
    Ok(handle)
}

/// Standard output as a file, when an output goes there. An archive on a terminal helps nobody.
fn stdout_file(request: &BuildRequest) -> Result<Option<File>, Failure> {
    use std::io::IsTerminal as _;
    if !request
        .outputs
        .iter()
        .any(|output| output.dest == Some(OutputDest::Stdout))
    {
        return Ok(None);
    }
    let stdout = std::io::stdout();
    if stdout.is_terminal() {
        return Err(Failure::Usage(
            "refusing to write an archive to a terminal: redirect standard output or give dest=FILE".to_owned(),
        ));
    }
    let fd = stdout
        .as_fd()
        .try_clone_to_owned()
        .map_err(|error| Failure::Other(format!("could not use standard output: {error}")))?;
    Ok(Some(File::from(fd)))
}

pub(super) fn failed(request: BuildRequest, failure: BuildFailure, cancel: &Cancel) -> Failure {
    if cancel.is_cancelled() || matches!(failure.error, executor::Error::Cancelled) {
        return Failure::Interrupted;
    }
    match failure.error {
        executor::Error::Dockerfile(diagnostics) => Failure::Dockerfile {
            name: request.dockerfile_name,
            text: request.dockerfile,
            diagnostics,
        },
        error => Failure::Build(Box::new(BuildReport {
            dockerfile_name: request.dockerfile_name,
            dockerfile: request.dockerfile,
            failure: BuildFailure {
                error,
                origin: failure.origin,
            },
        })),
    }
}
