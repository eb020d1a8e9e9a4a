//! `kiln rmi` and `kiln tag`.

use super::{platforms, print_line};
use crate::args::{RmiArgs, TagArgs};
use crate::error::Failure;
use crate::render;
use executor::output::RemoveOptions;
use executor::space::Space;
use std::time::{SystemTime, UNIX_EPOCH};

/// Removes names, and images that have none left. Every image named is tried.
pub fn run(args: &RmiArgs, space: &Space) -> Result<(), Failure> {
    let options = RemoveOptions {
        force: args.force,
        keep_content: args.no_prune,
        platforms: platforms(&args.platforms)?,
    };
    let mut failures = Vec::new();
    for name in &args.images {
        match executor::output::remove(space, name, &options) {
            Ok(removed) => {
                for name in removed.untagged {
                    print_line(&format!("Untagged: {name}"));
                }
                for id in removed.deleted {
                    print_line(&format!("Deleted: {id}"));
                }
            }
            Err(executor::Error::NoSuchImage(_)) if args.force => {}
            Err(error) => failures.push(render::chain(&error)),
        }
    }
    if failures.is_empty() {
        Ok(())
    } else {
        Err(Failure::Other(failures.join("\nERROR: ")))
    }
}

/// Gives an image more names.
pub fn tag(args: &TagArgs, space: &Space) -> Result<(), Failure> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = i64::try_from(now.unwrap_or_default().as_secs()).unwrap_or_default();
    for target in &args.targets {
        executor::output::tag(space, &args.source, target, now)?;
    }
    Ok(())
}
