//! `cargo xtask cluster [--server buildbox|buildgrid|own] [--workers N] [--copies] [--kiln FILE] [CASE..]`: what a cluster makes is
//! what this machine makes. Starts a server of the Remote Execution API with workers on loopback, has the static release binary
//! build there and here, compares, and stops everything. With `--serve` it only starts it, says where it is, and stops it when the
//! standard input ends. `cargo xtask cluster load` is in [`load`].

mod cases;
mod faults;
mod harness;
mod load;
pub mod server;
mod shared;

use crate::shell;
use harness::{Bench, Case};
use server::{Kind, Server};
use std::path::PathBuf;
use std::time::Instant;

const USAGE: &str = "usage: cargo xtask cluster [--server buildbox|buildgrid|own] [--workers N] [--copies] [--kiln FILE] \
     [--binary FILE] [--work DIR] [--list | --serve | CASE..]
       cargo xtask cluster load [--url URL] [--builders N] [--seconds N] [--out FILE]";

/// What the command line asks for.
struct Asked {
    kind: Kind,
    workers: usize,
    fuse: bool,
    kiln: Option<PathBuf>,
    /// The program for workers, where that is not static.
    binary: Option<PathBuf>,
    work: Option<PathBuf>,
    list: bool,
    serve: bool,
    wanted: Vec<String>,
}

impl Asked {
    fn read(args: &[String]) -> Result<Self, String> {
        let mut asked = Self {
            kind: Kind::Buildbox,
            workers: 2,
            fuse: true,
            kiln: None,
            binary: None,
            work: None,
            list: false,
            serve: false,
            wanted: Vec::new(),
        };
        let mut rest = args.iter();
        while let Some(word) = rest.next() {
            let mut value = || rest.next().ok_or(USAGE);
            match word.as_str() {
                "--server" => asked.kind = Kind::of(value()?).ok_or(USAGE)?,
                "--workers" => asked.workers = value()?.parse().map_err(|_| USAGE)?,
                "--copies" => asked.fuse = false,
                "--kiln" => asked.kiln = Some(PathBuf::from(value()?)),
                "--binary" => asked.binary = Some(PathBuf::from(value()?)),
                "--work" => asked.work = Some(PathBuf::from(value()?)),
                "--list" => asked.list = true,
                "--serve" => asked.serve = true,
                name if !name.starts_with('-') => asked.wanted.push(name.to_owned()),
                _ => return Err(USAGE.to_owned()),
            }
        }
        Ok(asked)
    }
}

/// Runs it.
pub fn run(args: &[String]) -> Result<(), String> {
    if args.first().is_some_and(|word| word == "load") {
        return load::run(args.get(1..).unwrap_or_default());
    }
    let asked = Asked::read(args)?;
    let all = [cases::all(), shared::all(), faults::all()].concat();
    if let Some(unknown) = asked
        .wanted
        .iter()
        .find(|name| !all.iter().any(|case| case.name == *name))
    {
        return Err(format!("there is no case {unknown}\n{USAGE}"));
    }
    let cases: Vec<Case> = all
        .into_iter()
        .filter(|case| asked.wanted.is_empty() || asked.wanted.iter().any(|it| it == case.name))
        .collect();
    if asked.list {
        cases.iter().for_each(|case| println!("{}", case.name));
        return Ok(());
    }
    let secrets = testkit::Scratch::new();
    crate::bench::write_file(&secrets.join(cases::SECRET.0), cases::SECRET.1)?;
    let start = || {
        let place = asked.work.as_deref();
        let secrets = Some(secrets.path());
        let server = Server::start(asked.kind, asked.workers, asked.fuse, place, secrets);
        server.ok_or("the server cannot be had here")
    };
    if asked.serve {
        let server = start()?;
        println!("{},preset={}", server.url(), server.preset());
        let ended = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        return ended.map(|_| ()).map_err(|error| error.to_string());
    }
    let kiln = asked.kiln.clone().map_or_else(shell::build_static, Ok)?;
    let server = start()?;
    let mut bench = Bench::new(server, kiln, asked.work.as_deref())?;
    bench.workers = asked.workers;
    bench.binary = asked.binary;
    passed(&mut bench, &cases)
}

fn passed(bench: &mut Bench, cases: &[Case]) -> Result<(), String> {
    let (mut failed, mut skipped) = (Vec::new(), 0);
    println!("{}: {} cases", bench.server.name(), cases.len());
    for case in cases {
        if let Some(reason) = bench.cannot(case) {
            println!("  skipped  {:<28} {reason}", case.name);
            skipped += 1;
            continue;
        }
        let start = Instant::now();
        let result = (case.run)(bench);
        let seconds = start.elapsed().as_secs_f64();
        match result {
            Ok(()) => println!("  passed   {:<28} {seconds:.1} s", case.name),
            Err(why) => {
                println!("  FAILED   {:<28} {seconds:.1} s\n{why}", case.name);
                failed.push(case.name);
            }
        }
    }
    let good = cases.len() - failed.len() - skipped;
    println!("{good} passed, {} failed, {skipped} skipped", failed.len());
    if failed.is_empty() {
        return Ok(());
    }
    Err(format!("failed: {}", failed.join(", ")))
}
