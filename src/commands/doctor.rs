//! `kiln doctor`: tries what RUN could use here, and says what a build would get.

use super::{Opener, build, print};
use crate::args::{DoctorArgs, DoctorFormat, RemoteArgs};
use crate::build_spec;
use crate::doctor::cluster::ClusterReport;
use crate::doctor::{Granted, Report, Verdict};
use crate::environment::Environment;
use crate::error::Failure;
use crate::render;
use planner::platform::Platform;
use planner::scheduler::Cancel;
use sandbox::{NetworkOptions, Options, Sandbox};

/// Prints it; a failure where RUN has neither full nor nested isolation.
pub fn run(args: &DoctorArgs, open: &Opener<'_>, environment: &Environment) -> Result<(), Failure> {
    if args.executor.is_some() {
        return cluster(args, environment);
    }
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

/// The same of a cluster; a failure where steps cannot be carried out there.
fn cluster(args: &DoctorArgs, environment: &Environment) -> Result<(), Failure> {
    let flags = RemoteArgs {
        executor: args.executor.clone(),
        // What the environment says of caches is nothing to this.
        caches: vec!["none".to_owned()],
        ..RemoteArgs::default()
    };
    let settings = build_spec::remote(&flags, environment)?;
    let Some(settings) = settings.executor else {
        return Err(Failure::Usage(
            "--executor: there is no cluster to look at".to_owned(),
        ));
    };
    let host = Platform::host();
    let platforms: Result<Vec<Platform>, _> = args
        .platform
        .iter()
        .map(|text| Platform::parse(text, &host))
        .collect();
    let mut platforms =
        platforms.map_err(|error| Failure::Usage(format!("--platform: {error}")))?;
    if platforms.is_empty() {
        platforms.push(host);
    }
    let cancel = Cancel::default();
    let signals = build::watch_signals(&cancel)?;
    let check = executor::cluster::check::check(&settings, &platforms, args.write, &cancel);
    signals.close();
    let check = check.map_err(|error| match error {
        executor::Error::Cancelled => Failure::Interrupted,
        error => Failure::from_error(&error),
    })?;
    let report = ClusterReport::new(&check);
    match args.format {
        DoctorFormat::Text => print(&report.lines()),
        DoctorFormat::Json => print(&format!("{:#}\n", report.json())),
    }
    if report.works() {
        Ok(())
    } else {
        Err(Failure::Told)
    }
}
