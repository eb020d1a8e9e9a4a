//! `kiln import` and `kiln export`: root file systems as tars.

use super::build::watch_signals;
use super::connect::fetching;
use super::save::{to_file, to_stdout};
use super::{Opener, platform, print_line};
use crate::args::{ExportArgs, ImportArgs};
use crate::build_spec::epoch;
use crate::environment::Environment;
use crate::error::Failure;
use crate::registry_options::client_options;
use executor::output::ImportOptions;
use executor::remote::Remote;
use planner::platform::Platform;
use planner::scheduler::Cancel;
use std::fs::File;
use std::io::{IsTerminal, Read};
use std::time::{SystemTime, UNIX_EPOCH};

/// Makes an image and prints its ID.
pub fn run(args: &ImportArgs, open: &Opener<'_>, environment: &Environment) -> Result<(), Failure> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = i64::try_from(now.unwrap_or_default().as_secs()).unwrap_or_default();
    let epoch = environment.get("SOURCE_DATE_EPOCH").unwrap_or_default();
    let epoch = epoch::seconds(epoch).map_err(Failure::Usage)?;
    let message = args.message.clone();
    let options = ImportOptions {
        name: args.name.clone(),
        changes: args.changes.clone(),
        message: message.unwrap_or_else(|| format!("Imported from {}", shown(&args.source))),
        platform: platform(args.platform.as_deref())?.unwrap_or_else(Platform::host),
        now: epoch.unwrap_or(now),
    };
    let imported = if is_url(&args.source) {
        let client = client_options(&args.registry, environment)?;
        let space = open.space()?;
        let cancel = Cancel::default();
        let remote = Remote::new(&client, &cancel);
        let signals = watch_signals(&cancel)?;
        let imported =
            executor::output::import_url(&space, &remote, &args.source, &options, &cancel);
        signals.close();
        match imported {
            Err(_) if cancel.is_cancelled() => return Err(Failure::Interrupted),
            imported => imported?,
        }
    } else {
        let mut input = input(&args.source)?;
        executor::output::import(&open.space()?, &mut input, &options)?
    };
    print_line(&imported.id);
    Ok(())
}

fn is_url(source: &str) -> bool {
    source.starts_with("http://") || source.starts_with("https://")
}

/// A URL without its credentials.
fn shown(source: &str) -> String {
    match source.split_once("://") {
        Some((scheme, rest)) if is_url(source) => {
            let end = rest.find('/').unwrap_or(rest.len());
            let host = rest[..end].rsplit('@').next().unwrap_or_default();
            format!("{scheme}://{host}{}", &rest[end..])
        }
        _ => source.to_owned(),
    }
}

fn input(source: &str) -> Result<Box<dyn Read>, Failure> {
    if source != "-" {
        let file = File::open(source)
            .map_err(|error| Failure::Other(format!("could not open {source}: {error}")))?;
        return Ok(Box::new(file));
    }
    if std::io::stdin().is_terminal() {
        return Err(Failure::Usage(
            "standard input is a terminal: give a file".to_owned(),
        ));
    }
    Ok(Box::new(std::io::stdin()))
}

/// Writes a root file system.
pub fn export(
    args: &ExportArgs,
    open: &Opener<'_>,
    environment: &Environment,
) -> Result<(), Failure> {
    let platform = platform(args.platform.as_deref())?;
    let remote = fetching(&args.registry, environment)?;
    let space = open.space()?;
    let write = |out: &mut dyn std::io::Write| {
        Ok(executor::output::export(
            (&space, &remote),
            &args.image,
            platform.as_ref(),
            out,
        )?)
    };
    match &args.output {
        Some(path) if path.as_os_str() != "-" => to_file(path, write),
        _ => to_stdout(write),
    }
}
