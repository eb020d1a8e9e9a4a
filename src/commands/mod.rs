//! One module per command.

mod build;
mod call;
mod connect;
mod copy;
mod debug;
mod diff;
mod doctor;
mod explain;
mod history;
mod images;
mod imagetools;
mod import;
mod inspect;
mod load;
mod login;
mod manifest;
mod metadata;
mod pieces;
mod plan;
mod prune;
mod pull;
mod push;
mod rmi;
mod run_step;
mod save;
mod search;
mod version;

use crate::args::{Cli, Command, ImageCommand};
use crate::environment::Environment;
use crate::error::Failure;
use executor::space::Space;
use std::path::PathBuf;
use store::Store;

/// Runs the command that was typed.
pub fn run(cli: Cli, environment: &Environment) -> Result<(), Failure> {
    let open = Opener {
        root: cli.root,
        environment,
    };
    match cli.command {
        Command::Build(args) => build::run(&args, &open, environment),
        Command::Plan(args) => plan::run(&args, &open, environment),
        Command::Explain(args) => explain::run(&args, &open),
        Command::Debug(args) => debug::run(&args, &open, environment),
        Command::Images(args) => images::run(&args, &open.space()?),
        Command::Image(args) => image(args.command, &open, environment),
        Command::Rmi(args) => rmi::run(&args, &open.space()?),
        Command::Tag(args) => rmi::tag(&args, &open.space()?),
        Command::Load(args) => load::run(&args, &open.space()?),
        Command::Save(args) => save::run(&args, &open, environment),
        Command::Import(args) => import::run(&args, &open, environment),
        Command::Export(args) => import::export(&args, &open, environment),
        Command::Diff(args) => diff::run(&args, &open, environment),
        Command::Inspect(args) => inspect::run(&args, &open.space()?),
        Command::History(args) => history::run(&args, &open.space()?),
        Command::Pull(args) => pull::run(&args, &open, environment),
        Command::Copy(args) => copy::run(&args, &open, environment),
        Command::Imagetools(args) => imagetools::run(&args, environment),
        Command::Search(args) => search::run(&args, environment),
        Command::Catalog(args) => search::catalog(&args, environment),
        Command::Tags(args) => search::tags(&args, environment),
        Command::Manifest(args) => manifest::run(&args, &open, environment),
        Command::Login(args) => login::run(&args, environment),
        Command::Logout(args) => login::logout(&args, environment),
        Command::Push(args) => push::run(&args, &open, environment),
        Command::Prune(args) => prune::run(&prune::plan(&args)?, &open.quiet_space()?),
        Command::Du(args) => prune::du(&args, || open.quiet_space()),
        Command::Doctor(args) => doctor::run(&args, &open, environment),
        Command::RunStep(args) => run_step::run(&args, environment),
        Command::Version(args) => {
            version::run(&args);
            Ok(())
        }
    }
}

/// `kiln image`: the same commands by Docker's other names.
fn image(
    command: ImageCommand,
    open: &Opener<'_>,
    environment: &Environment,
) -> Result<(), Failure> {
    match command {
        ImageCommand::Ls(args) => images::run(&args, &open.space()?),
        ImageCommand::Rm(args) => rmi::run(&args, &open.space()?),
        ImageCommand::Tag(args) => rmi::tag(&args, &open.space()?),
        ImageCommand::Load(args) => load::run(&args, &open.space()?),
        ImageCommand::Save(args) => save::run(&args, open, environment),
        ImageCommand::Import(args) => import::run(&args, open, environment),
        ImageCommand::Export(args) => import::export(&args, open, environment),
        ImageCommand::Diff(args) => diff::run(&args, open, environment),
        ImageCommand::Inspect(args) => inspect::run(&args, &open.space()?),
        ImageCommand::History(args) => history::run(&args, &open.space()?),
        ImageCommand::Pull(args) => pull::run(&args, open, environment),
        ImageCommand::Push(args) => push::run(&args, open, environment),
        ImageCommand::Prune(args) => prune::run(&prune::plan(&args)?, &open.quiet_space()?),
    }
}

/// Opens the store when a command needs it, not before its arguments are checked.
struct Opener<'a> {
    root: Option<PathBuf>,
    environment: &'a Environment,
}

impl Opener<'_> {
    fn store(&self) -> Result<Store, Failure> {
        Ok(self.open()?)
    }

    fn open(&self) -> Result<Store, store::Error> {
        Store::open(&self.environment.store_root(self.root.clone()))
    }

    fn space(&self) -> Result<Space, Failure> {
        Ok(Space::new(self.store()?))
    }

    /// For what only looks at the store or takes something away.
    fn quiet_space(&self) -> Result<Space, Failure> {
        Ok(Space::new(self.store()?.quiet()))
    }
}

/// Prints a line of results to stdout; a closed pipe is no error of ours.
fn print_line(line: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Prints text as it is; a closed pipe is no error of ours.
fn print(text: &str) {
    use std::io::Write as _;
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// The first 12 hex digits, as Docker shows IDs; all of it when asked for.
fn short_id(id: &str, whole: bool) -> String {
    if whole {
        return id.to_owned();
    }
    let hex = id.split_once(':').map_or(id, |(_, hex)| hex);
    hex.chars().take(12).collect()
}

/// Reads a platform flag that may be given several times.
fn platforms(texts: &[String]) -> Result<Vec<planner::platform::Platform>, Failure> {
    let parsed = texts.iter().map(|text| platform(Some(text)));
    Ok(parsed
        .collect::<Result<Vec<_>, _>>()?
        .into_iter()
        .flatten()
        .collect())
}

/// Seconds since the epoch.
fn now() -> i64 {
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed();
    now.map_or(0, |now| i64::try_from(now.as_secs()).unwrap_or(i64::MAX))
}

/// Reads a platform flag.
fn platform(text: Option<&str>) -> Result<Option<planner::platform::Platform>, Failure> {
    text.map(crate::build_spec::platform).transpose()
}
