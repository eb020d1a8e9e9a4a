//! `cargo xtask bench [SECTION..] [OPTIONS]`: whole-process times of the static release binary beside the other builders
//! that are here, by turns, and beside what the machine can do at best. Medians; compare within one run only. Needs root.

mod builders;
mod cluster;
mod content;
mod limit;
mod measure;
mod micro;
mod place;
mod race;
mod registry;
mod results;
mod run;
mod scale;
pub mod sections;
mod sweep;
pub mod table;
mod travel;
mod workloads;

pub use content::random;
pub use measure::{Groups, written};
pub use place::write as write_file;
pub use table::{Table, median, take, thousands};

use place::{Options, Place};
use results::Results;

/// Options that all benchmarks take.
const OPTIONS: &str = "[--peer docker,buildkit,buildah,umoci..] [--chroot DIR] [--kiln BINARY] [--against BINARY] \
     [--rounds N] [--work DIR] [--big MIB] [--files N] [--records N] [--random GIB] [--disk DIR] [--markdown] \
     [--out FILE | --resume FILE]";

const WORKLOADS: &[&str] = &["w1", "w2", "w3", "w4", "w5", "w6", "w7", "w8", "w9"];
const REGISTRY: &[&str] = &["pull", "push", "repush", "index"];
const SCALE: &[&str] = &["steps", "files", "records", "holes", "random"];
/// What `all` runs; those with daemons first.
const ALL: &[&str] = &[
    "w1", "w2", "w3", "w4", "w5", "w6", "w7", "w8", "w9", "travel", "run", "micro", "steps",
    "files", "records", "holes", "random",
];
/// Takes long and shows little that W3 does not.
const MORE: &[&str] = &["push"];

/// Needs what tests of clusters need.
const CLUSTER: &[&str] = &["cluster"];

/// Runs the benchmarks named, or all workloads.
pub fn run(args: &[String]) -> Result<(), String> {
    let rest = args.get(1..).unwrap_or_default();
    match args.first().map(String::as_str) {
        Some("sweep") => sweep::run(rest),
        Some("page") => results::page(rest),
        Some("push") => run_sections(MORE, args),
        Some("cluster") => run_sections(CLUSTER, args),
        Some("registry") => run_sections(REGISTRY, rest),
        Some("scale") => run_sections(SCALE, rest),
        Some("all") => run_sections(ALL, rest),
        Some(word) if ALL.contains(&word) => run_sections(ALL, args),
        _ => run_sections(WORKLOADS, args),
    }
}

/// Runs those of some sections that the arguments name, or all of them.
fn run_sections(names: &[&str], args: &[String]) -> Result<(), String> {
    let usage = format!(
        "usage: cargo xtask bench [all|{}|push|cluster|registry|scale|page FILE] {OPTIONS}",
        ALL.join("|")
    );
    let mut options = Options::read(args, names, &usage)?;
    let wanted: Vec<&str> = names
        .iter()
        .copied()
        .filter(|name| options.wants(name))
        .collect();
    if wanted != ["micro"] || options.out.is_some() || options.resume.is_some() {
        options.kiln = Some(options.binary()?);
    }
    let mut results = Results::open(&options)?;
    let mut shared = Shared {
        options: &options,
        place: None,
    };
    for name in wanted {
        if !results.section(name, || shared.run(name)) {
            // Whatever state its daemons are in.
            shared.place = None;
        }
    }
    results.end()
}

/// What sections with daemons use together.
struct Shared<'a> {
    options: &'a Options,
    /// With the name of the base in its registry.
    place: Option<(Place, String)>,
}

impl Shared<'_> {
    fn run(&mut self, name: &str) -> Result<(), String> {
        if ["run", "micro", "cluster"].contains(&name) || SCALE.contains(&name) {
            // Daemons take time and memory when they do nothing, too.
            self.place = None;
        }
        match name {
            "run" => return run::run(self.options),
            "micro" => return micro::run(),
            "cluster" => return cluster::run(self.options),
            name if SCALE.contains(&name) => return scale::run(name, self.options),
            _ => {}
        }
        let (place, base) = self.place()?;
        match name {
            "w1" => workloads::small(place, base),
            "w2" => workloads::many_files(place),
            "w3" => workloads::much_data(place),
            "w4" => workloads::many_steps(place, base),
            "w5" => workloads::files_of_commands(place, base),
            "w6" => workloads::stages(place, base),
            "w7" | "pull" => registry::pull(place),
            "w8" | "index" => registry::index(place),
            "w9" | "repush" => registry::repush(place),
            "push" => registry::push(place),
            "travel" => travel::run(place),
            _ => Err(format!("BUG: no section {name}")),
        }
    }

    /// With daemons that answer.
    fn place(&mut self) -> Result<&(Place, String), String> {
        if self
            .place
            .as_ref()
            .is_some_and(|(place, _)| !place.tools.answer())
        {
            eprintln!("bench: a daemon does not answer: all are started anew");
            self.place = None;
        }
        if self.place.is_none() {
            let place = Place::new(self.options.clone())?;
            let base = workloads::base(&place)?;
            self.place = Some((place, base));
        }
        self.place
            .as_ref()
            .ok_or_else(|| "BUG: it was just made".to_owned())
    }
}
