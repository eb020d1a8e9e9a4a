//! `cargo xtask cluster [--server buildbox|buildgrid|own] [--workers N] [--copies] [--kiln FILE] [CASE..]`: what a cluster makes is
//! what this machine makes. Starts a server of the Remote Execution API with workers on loopback, has the static binary
//! build there and here, compares, and stops everything. With `--serve` it only starts it, says where it is, and stops it when the
//! standard input ends. `cargo xtask cluster all` is in [`all`], `cargo xtask cluster load` in [`load`].

mod all;
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
use testkit::Scratch;

const USAGE: &str = "usage: cargo xtask cluster [--server buildbox|buildgrid|own] [--workers N] [--copies] [--kiln FILE] \
     [--binary FILE] [--work DIR] [--list | --serve | CASE..]
       cargo xtask cluster all [--workers N] [--kiln FILE] [--binary FILE] [--work DIR]
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
    if args.first().is_some_and(|word| word == "all") {
        return all::run(&Asked::read(args.get(1..).unwrap_or_default())?);
    }
    let asked = Asked::read(args)?;
    let all = every_case();
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
    let secrets = secrets()?;
    if asked.serve {
        let server = asked.server(asked.kind, asked.fuse, &secrets)?;
        println!("{},preset={}", server.url(), server.preset());
        let ended = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        return ended.map(|_| ()).map_err(|error| error.to_string());
    }
    let kiln = asked.binary_under_test()?;
    asked.on(asked.kind, asked.fuse, kiln, &cases)?.outcome()
}

/// All that the suite has.
fn every_case() -> Vec<Case> {
    [cases::all(), shared::all(), faults::all()].concat()
}

/// What workers have of their own.
fn secrets() -> Result<Scratch, String> {
    let folder = Scratch::new();
    crate::bench::write_file(&folder.join(cases::SECRET.0), cases::SECRET.1)?;
    Ok(folder)
}

impl Asked {
    fn binary_under_test(&self) -> Result<PathBuf, String> {
        self.kiln.clone().map_or_else(shell::build_static, Ok)
    }

    fn server(&self, kind: Kind, fuse: bool, secrets: &Scratch) -> Result<Server, String> {
        let (work, secrets) = (self.work.as_deref(), Some(secrets.path()));
        Server::start(kind, self.workers, fuse, work, secrets)
            .ok_or_else(|| "the server cannot be had here".to_owned())
    }

    /// Starts a server and runs cases on it.
    fn on(&self, kind: Kind, fuse: bool, kiln: PathBuf, cases: &[Case]) -> Result<Tally, String> {
        let secrets = secrets()?;
        let server = self.server(kind, fuse, &secrets)?;
        let mut bench = Bench::new(server, kiln, self.work.as_deref())?;
        bench.workers = self.workers;
        bench.binary.clone_from(&self.binary);
        Ok(tally(&mut bench, cases))
    }
}

/// What became of cases.
#[derive(Default)]
struct Tally {
    failed: Vec<&'static str>,
    /// With the reason.
    skipped: Vec<(&'static str, &'static str)>,
}

impl Tally {
    fn outcome(self) -> Result<(), String> {
        if self.failed.is_empty() {
            return Ok(());
        }
        Err(format!("failed: {}", self.failed.join(", ")))
    }
}

fn tally(bench: &mut Bench, cases: &[Case]) -> Tally {
    let mut tally = Tally::default();
    let begun = Instant::now();
    println!("{}: {} cases", bench.server.name(), cases.len());
    for case in cases {
        if let Some(reason) = bench.cannot(case) {
            println!("  skipped  {:<28} {reason}", case.name);
            tally.skipped.push((case.name, reason));
            continue;
        }
        let start = Instant::now();
        let result = (case.run)(bench);
        let seconds = start.elapsed().as_secs_f64();
        match result {
            Ok(()) => println!("  passed   {:<28} {seconds:.1} s", case.name),
            Err(why) => {
                println!("  FAILED   {:<28} {seconds:.1} s\n{why}", case.name);
                tally.failed.push(case.name);
            }
        }
    }
    println!(
        "{} passed, {} failed, {} skipped in {:.0} s",
        cases.len() - tally.failed.len() - tally.skipped.len(),
        tally.failed.len(),
        tally.skipped.len(),
        begun.elapsed().as_secs_f64()
    );
    tally
}
