//! `kiln`: builds OCI images from Dockerfiles.
//!
//! This package is the command line alone: flags, progress display, rendering of findings. It is the only
//! place that prints, exits or reads the environment; the work is done by the `executor`.
#![forbid(unsafe_code)]
#![allow(
    unreachable_pub,
    reason = "a program has no public surface; pub marks what other modules use"
)]

mod args;
mod build_spec;
mod commands;
mod doctor;
mod environment;
mod error;
mod progress;
mod prompt;
mod registry_options;
mod render;
mod table;
mod template;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    // A re-executed sandbox helper never returns from here; no thread exists yet.
    sandbox::init_if_child(executor::TASKS);
    let raw = args::Cli::parse();
    let mut environment = environment::Environment::read();
    environment.debug = raw.debug;
    init_logging(raw.debug, &environment);
    match commands::run(raw, &environment) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(&environment),
    }
}

/// Sends `tracing` output to stderr when `-D` or `KILN_LOG` asks for it; costs nothing otherwise.
fn init_logging(debug: bool, environment: &environment::Environment) {
    let filter = match (&environment.log_filter, debug) {
        (Some(filter), _) => filter.clone(),
        (None, true) => "debug".to_owned(),
        (None, false) => return,
    };
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new(filter))
        .with_writer(std::io::stderr)
        .with_ansi(environment.colour)
        .init();
}
