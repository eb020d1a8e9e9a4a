//! `kiln load`.
//!
//! Beyond what `docker load` takes, a folder that holds an OCI layout is fine too.

use super::images::familiar;
use super::{platform, print_line};
use crate::args::LoadArgs;
use crate::error::Failure;
use executor::output::Loaded;
use executor::space::Space;
use std::fs::File;
use std::io::{IsTerminal, Read};

/// Loads an archive from a file or standard input, or an OCI layout from a folder.
pub fn run(args: &LoadArgs, space: &Space) -> Result<(), Failure> {
    for image in load(args, space)? {
        if args.quiet {
            continue;
        }
        print_line(&match image.name.as_str() {
            "" => format!("Loaded image ID: {}", image.id),
            name => format!("Loaded image: {}", familiar(name)),
        });
    }
    Ok(())
}

fn load(args: &LoadArgs, space: &Space) -> Result<Vec<Loaded>, Failure> {
    let platform = platform(args.platform.as_deref())?;
    if let Some(dir) = args.input.as_deref().filter(|path| path.is_dir()) {
        return Ok(executor::output::load_folder(
            space,
            dir,
            platform.as_ref(),
        )?);
    }
    let given = args.input.as_deref().filter(|path| path.as_os_str() != "-");
    let mut input: Box<dyn Read> = match given {
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
    let name = given.map_or_else(
        || "standard input".to_owned(),
        |path| path.display().to_string(),
    );
    executor::output::load(space, &mut input, platform.as_ref()).map_err(|error| {
        Failure::Other(format!(
            "could not load {name}: {}",
            crate::render::chain(&error)
        ))
    })
}
