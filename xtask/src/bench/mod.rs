//! `cargo xtask bench [WORKLOAD..] [OPTIONS]`: whole-process times of the static release binary beside the other builders
//! that are here, by turns, and beside what the machine can do at best. Medians; compare within one run only. W1 to W9 need root.

mod builders;
mod content;
mod limit;
mod measure;
mod micro;
mod place;
mod race;
mod registry;
mod run;
mod scale;
mod table;
mod workloads;

pub use measure::Groups;

use place::{Options, Place};

/// Options that all benchmarks take.
const OPTIONS: &str = "[--peer docker,buildkit,buildah,umoci..] [--chroot DIR] [--kiln BINARY] [--against BINARY] \
     [--rounds N] [--work DIR] [--big MIB] [--files N] [--markdown]";
const NAMES: [&str; 9] = ["w1", "w2", "w3", "w4", "w5", "w6", "w7", "w8", "w9"];

/// Runs the benchmarks named, or all workloads.
pub fn run(args: &[String]) -> Result<(), String> {
    let rest = args.get(1..).unwrap_or_default();
    match args.first().map(String::as_str) {
        Some("registry") => registry::run(rest),
        Some("run") => run::run(rest),
        Some("micro") => micro::run(rest),
        Some("scale") => scale::run(rest),
        Some("all") => {
            run_workloads(rest)?;
            let markdown: Vec<String> = rest
                .iter()
                .filter(|&word| word == "--markdown")
                .cloned()
                .collect();
            println!();
            micro::run(&markdown)
        }
        _ => run_workloads(args),
    }
}

fn run_workloads(args: &[String]) -> Result<(), String> {
    let usage = format!(
        "usage: cargo xtask bench [all|{}|registry|run|micro|scale] {OPTIONS}",
        NAMES.join("|")
    );
    let place = Place::new(Options::read(args, &NAMES, &usage)?)?;
    let base = workloads::base(&place)?;
    for name in NAMES.into_iter().filter(|name| place.options.wants(name)) {
        match name {
            "w1" => workloads::small(&place, &base)?,
            "w2" => workloads::many_files(&place)?,
            "w3" => workloads::much_data(&place)?,
            "w4" => workloads::many_steps(&place, &base)?,
            "w5" => workloads::files_of_commands(&place, &base)?,
            "w6" => workloads::stages(&place, &base)?,
            "w7" => registry::pull(&place)?,
            "w8" => registry::index(&place)?,
            _ => registry::repush(&place)?,
        }
    }
    Ok(())
}
