//! `kiln load`.
//!
//! Beyond what `docker load` takes, a folder that holds an OCI layout is fine too.

use super::print_line;
use crate::args::LoadArgs;
use crate::error::Failure;
use executor::space::Space;
use std::fs::File;
use std::io::{IsTerminal, Read};

/// Loads an archive from a file or standard input, or an OCI layout from a folder.
pub fn run(args: &LoadArgs, space: &Space) -> Result<(), Failure> {
    for name in load(args, space)? {
        if !args.quiet {
            print_line(&format!("Loaded image: {name}"));
        }
    }
    Ok(())
}

fn load(args: &LoadArgs, space: &Space) -> Result<Vec<String>, Failure> {
    if let Some(dir) = args.input.as_deref().filter(|path| path.is_dir()) {
        return Ok(executor::output::load_folder(space, dir)?);
    }
    let mut input: Box<dyn Read> = match &args.input {
        Some(path) => Box::new(File::open(path).map_err(|error| {
            Failure::Other(format!("could not open {}: {error}", path.display()))
        })?),
        None if std::io::stdin().is_terminal() => {
            return Err(Failure::Usage(
                "requested load from stdin, but stdin is empty: give --input FILE".to_owned(),
            ));
        }
        None => Box::new(std::io::stdin()),
    };
    let name = args.input.as_ref().map_or_else(
        || "standard input".to_owned(),
        |path| path.display().to_string(),
    );
    executor::output::load(space, &mut input).map_err(|error| {
        Failure::Other(format!(
            "could not load {name}: {}",
            crate::render::chain(&error)
        ))
    })
}
