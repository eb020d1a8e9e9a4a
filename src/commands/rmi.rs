//! `kiln rmi`.

use super::print_line;
use crate::args::RmiArgs;
use crate::error::Failure;
use crate::render;
use executor::space::Space;

/// Removes references; the content goes with the next `kiln prune`. Every image named is tried.
pub fn run(args: &RmiArgs, space: &Space) -> Result<(), Failure> {
    let mut failures = Vec::new();
    for name in &args.images {
        match executor::output::find(space, name) {
            Ok(image) => {
                let key = if image.name.is_empty() {
                    image.descriptor.digest().to_string()
                } else {
                    image.name.clone()
                };
                space.store().untag(&key)?;
                let shown = if image.name.is_empty() {
                    image.descriptor.digest().to_string()
                } else {
                    image.name
                };
                print_line(&format!("Untagged: {shown}"));
            }
            Err(_) if args.force => {}
            Err(error) => failures.push(render::chain(&error)),
        }
    }
    if failures.is_empty() {
        Ok(())
    } else {
        Err(Failure::Other(failures.join("\nERROR: ")))
    }
}
