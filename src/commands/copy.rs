//! `kiln copy`. What is done is told on stderr, the copies on stdout.

use super::connect::connect;
use super::{Opener, print_line};
use crate::args::CopyArgs;
use crate::environment::Environment;
use crate::error::Failure;
use executor::tools::{CopyOptions, Place};
use planner::platform::Platform;
use std::io::Write as _;

/// Copies an image to one or more places.
pub fn run(args: &CopyArgs, open: &Opener<'_>, environment: &Environment) -> Result<(), Failure> {
    let place = |text: &String| Place::parse(text).map_err(|error| Failure::from_error(&error));
    let source = place(&args.source)?;
    let targets: Vec<Place> = args
        .destinations
        .iter()
        .map(place)
        .collect::<Result<_, _>>()?;
    let options = CopyOptions {
        platforms: args
            .platform
            .iter()
            .map(|text| {
                Platform::parse(text, &Platform::host()).map_err(|error| {
                    Failure::Usage(format!("invalid value {text:?} for '--platform': {error}"))
                })
            })
            .collect::<Result<_, _>>()?,
        referrers: args.referrers,
        now: super::now(),
    };
    let is_remote = |place: &Place| matches!(place, Place::Name(_) | Place::Registry(_));
    let space = if is_remote(&source) && targets.iter().all(is_remote) {
        None
    } else {
        Some(open.space()?)
    };
    let connection = connect(&args.registry, environment)?;
    let say = |line: &str| {
        if !args.quiet {
            let _ = writeln!(std::io::stderr(), "{line}");
        }
    };
    let with = (space.as_ref(), &connection.remote);
    let copied = executor::tools::copy(with, &source, &targets, &options, &say)
        .map_err(|error| connection.failed(error))?;
    if let (Some(path), Some(first)) = (&args.digestfile, copied.first()) {
        std::fs::write(path, &first.digest).map_err(|error| {
            Failure::Other(format!("could not write {}: {error}", path.display()))
        })?;
    }
    for copy in copied {
        if copy.existed {
            say(&format!("{} is there already", copy.place));
        }
        print_line(&format!("{}@{}", copy.place, copy.digest));
    }
    Ok(())
}
