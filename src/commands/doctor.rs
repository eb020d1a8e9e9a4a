//! `kiln doctor`: tries what RUN could use here, and says what a build would get.

use super::{Opener, print};
use crate::args::{DoctorArgs, DoctorFormat};
use crate::build_spec;
use crate::doctor::{Granted, Report, Verdict};
use crate::environment::Environment;
use crate::error::Failure;
use crate::render;
use sandbox::{NetworkOptions, Options, Sandbox};

/// Prints it; a failure where RUN has neither full nor nested isolation.
pub fn run(args: &DoctorArgs, open: &Opener<'_>, environment: &Environment) -> Result<(), Failure> {
    let isolation = build_spec::isolation(&args.isolation, environment)?;
    let store = open.store()?;
    let scratch = store.scratch()?;
    let absolute = |path: &std::path::Path| {
        std::path::absolute(path)
            .map_err(|error| Failure::Other(format!("could not find {}: {error}", path.display())))
    };
    let (root, folder) = (absolute(store.root())?, absolute(scratch.path())?);
    let search_path = environment.get("PATH").unwrap_or_default();
    let facts =
        sandbox::facts(&root, &folder, search_path).map_err(|error| Failure::from_error(&error))?;
    let options = Options {
        stores: vec![root],
        isolation,
        network: NetworkOptions {
            search_path: search_path.to_owned(),
            ..NetworkOptions::default()
        },
        ..Options::default()
    };
    let granted = Sandbox::start(&options).map(|sandbox| Granted {
        mode: sandbox.mode(),
        ids: sandbox.id_mapping(),
        root: sandbox.root_kind(),
        network: sandbox
            .network()
            .map(|network| network.kind)
            .map_err(|error| render::chain(&error)),
        notes: sandbox.notes(),
    });
    let verdict = Verdict {
        sandbox: granted.map_err(|error| render::chain(&error)),
        is_root: sandbox::works_as_root(),
    };
    let report = Report::new(facts, verdict);
    match args.format {
        DoctorFormat::Text => print(&report.lines()),
        DoctorFormat::Json => print(&format!("{:#}\n", report.json())),
    }
    if report.is_isolated() {
        Ok(())
    } else {
        Err(Failure::Told)
    }
}
