//! `kiln debug`: into the sandbox of a failed step. Also the shell that `kiln build` offers when a step fails.

mod terminal;

use super::{Opener, build, print};
use crate::args::{DebugArgs, OnFailureMode};
use crate::build_spec;
use crate::environment::Environment;
use crate::error::Failure;
use crate::registry_options;
use crate::table::{Table, since};
use executor::build::Ui;
use executor::debug::{self, DebugRequest, Streams};
use executor::request::{BuildRequest, OnFailure, RunSettings};
use planner::plan::StepId;
use planner::scheduler::{Cancel, Observer, StepEvent};
use sandbox::Exit;
use std::io::{IsTerminal as _, Write as _};
use std::os::fd::AsFd as _;
use store::Store;
use terminal::Relay;

/// Lists, removes, or enters.
pub fn run(args: &DebugArgs, open: &Opener<'_>, environment: &Environment) -> Result<(), Failure> {
    if args.list {
        return list(&open.store()?);
    }
    if args.remove {
        let target = args.target.as_deref().unwrap_or_default();
        return Ok(debug::remove(&open.space()?, target)?);
    }
    let mut secrets = std::collections::BTreeMap::new();
    for text in &args.secrets {
        let (id, source) = build_spec::secret(text, environment)?;
        secrets.insert(id, source);
    }
    let request = DebugRequest {
        target: args.target.clone(),
        before: args.before,
        command: args.command.clone(),
        build: BuildRequest {
            secrets,
            ssh: build_spec::ssh(&args.ssh, environment)?,
            registry: registry_options::client_options(&args.registry, environment)?,
            search_path: environment.get("PATH").unwrap_or_default().to_owned(),
            jobs: 1,
            run: RunSettings {
                ca: args.ca.clone(),
                ..RunSettings::default()
            },
            ..BuildRequest::default()
        },
        term: environment.get("TERM").map(str::to_owned),
    };
    let store = open.store()?;
    let cancel = Cancel::default();
    let signals = build::watch_signals(&cancel)?;
    let ended = enter(&store, &request, &cancel);
    signals.close();
    status(ended?)
}

/// Whether a shell can be had: its input and its messages are a terminal's.
pub fn has_terminal() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

/// Runs the command, on the terminal where there is one.
pub fn enter(store: &Store, request: &DebugRequest, cancel: &Cancel) -> Result<Exit, Failure> {
    let is_terminal = has_terminal() && std::io::stdout().is_terminal();
    if !is_terminal {
        if request.command.is_empty() {
            return Err(Failure::Usage(
                "a shell needs a terminal: give a command after --".to_owned(),
            ));
        }
        let copy = |fd: std::os::fd::BorrowedFd<'_>| {
            let copy = fd.try_clone_to_owned();
            copy.map_err(|error| Failure::Other(format!("could not use the output: {error}")))
        };
        let streams = Streams::Files(
            copy(std::io::stdout().as_fd())?,
            copy(std::io::stderr().as_fd())?,
        );
        return Ok(debug::enter(store, request, &streams, &Notes, cancel)?);
    }
    let (relay, far) = Relay::start()?;
    let streams = Streams::Terminal(far);
    let ended = debug::enter(store, request, &streams, &Notes, cancel);
    drop(streams);
    drop(relay);
    ended.map_err(|error| match error {
        executor::Error::Cancelled => Failure::Interrupted,
        error => error.into(),
    })
}

/// What `--on-failure` comes to here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Plan {
    /// Nothing is kept.
    Fail,
    /// Kept for later.
    Keep,
    /// Kept, and the user is asked whether to look at once.
    Ask,
    /// Kept and entered.
    Shell,
}

impl Plan {
    /// Without the flag there is a question where somebody can answer it: on a terminal, with a display for people.
    pub fn of(mode: Option<OnFailureMode>, is_for_people: bool, environment: &Environment) -> Self {
        let is_ci = environment.get("CI").is_some_and(|value| !value.is_empty());
        match mode {
            Some(OnFailureMode::Fail) => Self::Fail,
            Some(OnFailureMode::Keep) => Self::Keep,
            Some(OnFailureMode::Shell) if has_terminal() => Self::Shell,
            Some(OnFailureMode::Shell) => Self::Keep,
            None if has_terminal() && is_for_people && !is_ci => Self::Ask,
            None => Self::Fail,
        }
    }

    /// For the request.
    pub fn setting(self) -> OnFailure {
        match self {
            Self::Fail => OnFailure::Fail,
            _ => OnFailure::Keep(1),
        }
    }
}

/// The shell after a failed build, whose report was printed; the question first, where there is one.
pub fn after_failure(
    plan: Plan,
    (store, id): (&Store, String),
    build: BuildRequest,
    environment: &Environment,
    cancel: &Cancel,
) -> Result<(), Failure> {
    let wanted = match plan {
        Plan::Fail | Plan::Keep => false,
        Plan::Shell => true,
        Plan::Ask => terminal::ask("Open a shell in the failed step? [y/N] ", cancel),
    };
    if !wanted {
        return Ok(());
    }
    let hint = format!(
        "a shell with the files, user and environment of the failed step; changes made here are thrown away.\nIt is there again with `kiln debug {id}`; `exit` leaves it.\n"
    );
    let _ = std::io::stderr().write_all(hint.as_bytes());
    let request = DebugRequest {
        target: Some(id),
        build,
        term: environment.get("TERM").map(str::to_owned),
        ..DebugRequest::default()
    };
    enter(store, &request, cancel).map(|_| ())
}

/// The command's status is the program's.
fn status(exit: Exit) -> Result<(), Failure> {
    match exit {
        Exit::Code(0) => Ok(()),
        Exit::Code(code) => Err(Failure::Status(u8::try_from(code).unwrap_or(1))),
        Exit::Signal(signal) => Err(Failure::Status(u8::try_from(128 + signal).unwrap_or(1))),
    }
}

fn list(store: &Store) -> Result<(), Failure> {
    let mut table = Table::new(&["ID", "FAILED", "EXIT", "DOCKERFILE", "STEP"]);
    for kept in debug::list(store)? {
        let code = match kept.exit {
            Exit::Code(code) => code,
            Exit::Signal(signal) => 128 + signal,
        };
        table.row(vec![
            kept.id,
            since(kept.made),
            code.to_string(),
            kept.dockerfile,
            kept.step,
        ]);
    }
    print(&table.render());
    Ok(())
}

/// Notes on stderr; a sandbox that is entered shows no progress.
struct Notes;

impl Observer for Notes {
    fn event(&self, _: StepId, event: StepEvent) {
        if let StepEvent::Note(note) = event {
            let _ = write!(std::io::stderr(), "note: {note}\r\n");
        }
    }
}

impl Ui for Notes {
    fn diagnostics(&self, _: &[parser::Diagnostic]) {}
    fn plan(&self, _: &planner::plan::Plan) {}
    fn task_started(&self, _: &str) -> u64 {
        0
    }
    fn task_progress(&self, _: u64, _: &str, _: u64, _: u64) {}
    fn task_finished(&self, _: u64, _: Option<&str>) {}
}
