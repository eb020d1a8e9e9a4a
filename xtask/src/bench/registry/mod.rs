//! `cargo xtask bench registry [pull|push|repush|index ..] [OPTIONS]`: Kiln beside skopeo, podman, buildah, crane and
//! docker with BuildKit against one docker-registry on loopback, and beside the bare requests. Needs root.

mod moves;
mod small;

pub use moves::pull;
pub use small::{index, repush};

use super::place::{Options, Place};

const NAMES: [&str; 4] = ["pull", "push", "repush", "index"];

/// Runs the workloads named, or all.
pub fn run(args: &[String]) -> Result<(), String> {
    let usage = format!(
        "usage: cargo xtask bench registry [{}] {}",
        NAMES.join("|"),
        super::OPTIONS
    );
    let place = Place::new(Options::read(args, &NAMES, &usage)?)?;
    for (name, work) in
        NAMES
            .into_iter()
            .zip([moves::pull, moves::push, small::repush, small::index])
    {
        if place.options.wants(name) {
            work(&place)?;
        }
    }
    Ok(())
}
