//! Runs one command in a sandbox over a root folder: `run ROOT COMMAND...`; with `--time N` prints how long N runs of it take.

#![allow(clippy::print_stdout, clippy::print_stderr)]

use sandbox::{Exit, Network, Options, Overlay, RunSpec, Sandbox};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

fn main() -> ExitCode {
    sandbox::init_if_child(&[]);
    let mut args = std::env::args().skip(1).peekable();
    let mut times = None;
    let mut network = Network::None;
    while let Some(flag) = args.next_if(|arg| arg.starts_with("--")) {
        match flag.as_str() {
            "--time" => times = args.next().and_then(|count| count.parse().ok()),
            "--host-network" => network = Network::Host,
            _ => break,
        }
    }
    let Some(root) = args.next() else {
        eprintln!("usage: run [--time N] [--host-network] ROOT COMMAND...");
        return ExitCode::from(2);
    };
    let root = PathBuf::from(root).canonicalize().expect("ROOT exists");
    let store = root.parent().expect("ROOT is below a folder").to_owned();
    let started = Instant::now();
    let sandbox = Sandbox::start(&Options {
        stores: vec![store.clone()],
        ..Options::default()
    });
    let sandbox = match sandbox {
        Ok(sandbox) => sandbox,
        Err(error) => return fail(&error),
    };
    eprintln!("{:?} in {:?}", sandbox.id_mapping(), started.elapsed());
    for note in sandbox.notes() {
        eprintln!("note: {note}");
    }
    let args: Vec<String> = args.collect();
    let mut durations = Vec::new();
    let mut last = Exit::Code(0);
    for number in 0..times.unwrap_or(1) {
        let started = Instant::now();
        let spec = RunSpec {
            root: Overlay {
                lowers: vec![root.clone()],
                upper: Some(folders(&store, number)),
            },
            args: args.clone(),
            env: vec![(
                "PATH".to_owned(),
                "/bin:/usr/bin:/sbin:/usr/sbin".to_owned(),
            )],
            cwd: "/".to_owned(),
            hostname: "sandbox".to_owned(),
            network,
            ..RunSpec::default()
        };
        let running = sandbox.run(&spec, std::io::stdout().as_fd(), std::io::stderr().as_fd());
        match running.and_then(|mut running| running.wait()) {
            Ok(exit) => last = exit,
            Err(error) => return fail(&error),
        }
        durations.push(started.elapsed());
    }
    if times.is_some() {
        report(&mut durations);
    }
    eprintln!("{last:?}");
    ExitCode::SUCCESS
}

/// Upper and work folder of a run, made by this user: in a user's own namespace they belong to its root.
fn folders(store: &Path, number: u32) -> (PathBuf, PathBuf) {
    let base = store.join(format!("run-{}-{number}", std::process::id()));
    let (upper, work) = (base.join("upper"), base.join("work"));
    std::fs::create_dir_all(&upper).expect("the store is writable");
    std::fs::create_dir_all(&work).expect("the store is writable");
    (upper, work)
}

fn report(durations: &mut [Duration]) {
    durations.sort_unstable();
    let at = |percent: usize| durations[(durations.len() - 1) * percent / 100];
    println!(
        "n={} p10={:?} p50={:?} p90={:?} max={:?}",
        durations.len(),
        at(10),
        at(50),
        at(90),
        at(100)
    );
}

fn fail(error: &dyn std::error::Error) -> ExitCode {
    eprintln!("error: {error}");
    let mut source = error.source();
    while let Some(cause) = source {
        eprintln!("  caused by: {cause}");
        source = cause.source();
    }
    ExitCode::FAILURE
}
