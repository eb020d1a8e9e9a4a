//! `kiln inspect`.

use super::{platform, print_line};
use crate::args::InspectArgs;
use crate::error::Failure;
use executor::space::Space;
use serde_json::Value;

/// Prints a JSON array with one object an image.
pub fn run(args: &InspectArgs, space: &Space) -> Result<(), Failure> {
    let platform = platform(args.platform.as_deref())?;
    let images = args
        .images
        .iter()
        .map(|name| executor::output::inspect(space, name, platform.as_ref()))
        .collect::<Result<Vec<Value>, _>>()?;
    let text =
        serde_json::to_string_pretty(&images).map_err(|error| Failure::from_error(&error))?;
    print_line(&text);
    Ok(())
}
