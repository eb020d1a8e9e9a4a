//! `kiln run-step`: one RUN step of somebody else's build, in the input root that stands in the working folder.

use super::{build, print};
use crate::args::RunStepArgs;
use crate::environment::Environment;
use crate::error::Failure;
use executor::worker::{self, Output, Place, Spec};
use planner::scheduler::Cancel;
use std::os::fd::AsFd as _;
use std::path::PathBuf;

/// Where a worker's own secrets are, unless `KILN_WORKER_SECRETS` says it.
const SECRETS: [&str; 2] = ["/run/secrets/kiln", "/run/kiln/secrets"];
/// Where sockets of a worker's own agents are.
const AGENTS: &str = "/run/kiln/ssh";

/// Carries the step out; the status is the command's own.
pub fn run(args: &RunStepArgs, environment: &Environment) -> Result<(), Failure> {
    let input = std::path::absolute(".")
        .map_err(|error| Failure::Other(format!("could not find the working folder: {error}")))?;
    let place = Place {
        scratch: candidates(environment, &input),
        caches: environment.get("KILN_WORKER_CACHE").map(PathBuf::from),
        secrets: secrets(environment),
        agent: environment.get("SSH_AUTH_SOCK").map(PathBuf::from),
        agents: vec![PathBuf::from(AGENTS)],
        input,
    };
    if args.probe {
        let search_path = environment.get("PATH").unwrap_or_default();
        print(&format!("{:#}\n", worker::probe(&place, search_path)));
        return Ok(());
    }
    let cancel = Cancel::default();
    let signals = build::watch_signals(&cancel)?;
    let (stdout, stderr) = (std::io::stdout(), std::io::stderr());
    let output = Output {
        stdout: stdout.as_fd(),
        stderr: stderr.as_fd(),
    };
    let report = worker::run_step(&place, read(args), output, &cancel);
    signals.close();
    let report = report.map_err(|error| match error {
        executor::Error::Cancelled => Failure::Interrupted,
        error => Failure::from_error(&error),
    })?;
    match (&report.exit, report.exit.status()) {
        (worker::Ended::Error(reason), status) => Err(Failure::Step(reason.clone(), status)),
        (_, 0) => Ok(()),
        (_, status) => Err(Failure::Status(status)),
    }
}

fn read(args: &RunStepArgs) -> Result<Spec, String> {
    let spec = match &args.spec_file {
        Some(file) => {
            let json = std::fs::read(file)
                .map_err(|error| format!("could not be read from {}: {error}", file.display()))?;
            Spec::from_json(&json)
        }
        None => Spec::from_pieces(&args.spec),
    };
    spec.map_err(|error| error.to_string())
}

/// Where a step may write: what the worker's owner says, what engines say, what there mostly is, the input root itself.
fn candidates(environment: &Environment, input: &std::path::Path) -> Vec<PathBuf> {
    let told = ["KILN_WORKER_SCRATCH", "EXEC_SCRATCH", "TMPDIR"]
        .into_iter()
        .filter_map(|name| environment.get(name).map(PathBuf::from));
    let usual = ["/tmp", "/var/tmp", "/dev/shm"].map(PathBuf::from);
    told.chain(usual).chain([input.to_owned()]).collect()
}

fn secrets(environment: &Environment) -> Vec<PathBuf> {
    match environment.get("KILN_WORKER_SECRETS") {
        Some(folder) => vec![PathBuf::from(folder)],
        None => SECRETS.map(PathBuf::from).to_vec(),
    }
}
