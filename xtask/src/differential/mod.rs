//! `cargo xtask differential --seed N --count M`: generated builds, carried out by Kiln and by a real BuildKit, and compared.
//!
//! Needs root, docker-registry, skopeo and, where the peer's folder is missing, mmdebstrap. `--buildkit` names the folder
//! (made if missing) or the socket of a running dockerd with the containerd image store; without it the folder is
//! `KILN_PEER_ROOT`, else `peer` in the target folder.

mod archive;
mod base;
mod compare;
mod context;
mod copying;
mod dockerfile;
mod listed;
mod peer;
mod random;
mod run;
mod words;
mod wrong;

use crate::conformance::image;
use crate::{shell, test};
use compare::{Answer, Level};
use dockerfile::Case;
use peer::{Peer, Source};
use std::collections::BTreeMap;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

const USAGE: &str = "usage: cargo xtask differential [--seed N] [--count M] [--case I] [--buildkit DIR-OR-SOCKET] [--kiln BINARY] [-v] [--keep]";

/// Builds that run at a time.
const JOBS: usize = 2;

#[derive(Debug)]
struct Options {
    seed: u64,
    first: u64,
    count: u64,
    source: Source,
    kiln: Option<PathBuf>,
    verbose: bool,
    keep: bool,
}

/// Counts of a run.
#[derive(Debug, Default)]
struct Tally {
    equal: usize,
    both_refuse: usize,
    listed: BTreeMap<&'static str, usize>,
    unexplained: Vec<u64>,
}

/// Runs the cases of a seed.
pub fn run(args: &[String]) -> Result<(), String> {
    let options = parse(args)?;
    test::install()?;
    let kiln = match &options.kiln {
        Some(path) => path.clone(),
        None => build()?,
    };
    std::fs::create_dir_all(shell::target_dir())
        .map_err(|error| format!("could not make {}: {error}", shell::target_dir().display()))?;
    let work = tempfile::Builder::new()
        .prefix("differential")
        .tempdir_in(shell::target_dir())
        .map_err(|error| format!("could not make a folder: {error}"))?;
    let peer = Peer::start(&options.source, work.path())?;
    let tally = Mutex::new(Tally::default());
    let next = AtomicU64::new(options.first);
    let end = options.first + options.count;
    std::thread::scope(|scope| {
        for _ in 0..JOBS {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= end {
                        return;
                    }
                    one(&options, number, &peer, &kiln, work.path(), &tally);
                }
            });
        }
    });
    drop(peer);
    let tally = tally
        .into_inner()
        .map_err(|_| "a worker panicked".to_owned())?;
    finish(&options, &tally, work)
}

fn finish(options: &Options, tally: &Tally, work: tempfile::TempDir) -> Result<(), String> {
    let listed: usize = tally.listed.values().sum();
    println!(
        "seed {}: {} cases, {} equal ({} refused by both), {listed} with listed differences only, {} unexplained",
        options.seed,
        options.count,
        tally.equal,
        tally.both_refuse,
        tally.unexplained.len()
    );
    for (name, count) in &tally.listed {
        println!("    listed: {name}: {count}");
    }
    if options.keep {
        println!("kept: {}", work.keep().display());
    }
    if tally.unexplained.is_empty() {
        Ok(())
    } else {
        Err(format!(
            "unexplained differences in cases {:?}",
            tally.unexplained
        ))
    }
}

fn parse(args: &[String]) -> Result<Options, String> {
    let mut options = Options {
        seed: 1,
        first: 0,
        count: 100,
        source: source_of(
            std::env::var_os("KILN_PEER_ROOT")
                .map_or_else(|| shell::target_dir().join("peer"), PathBuf::from),
        ),
        kiln: None,
        verbose: false,
        keep: false,
    };
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let mut value = || {
            args.next()
                .ok_or_else(|| format!("{arg} needs a value\n{USAGE}"))
        };
        let number = |text: &String| {
            text.parse::<u64>()
                .map_err(|error| format!("{text}: {error}"))
        };
        match arg.as_str() {
            "--seed" => options.seed = number(value()?)?,
            "--count" => options.count = number(value()?)?,
            "--case" => (options.first, options.count) = (number(value()?)?, 1),
            "--buildkit" | "--chroot" => options.source = source_of(PathBuf::from(value()?)),
            "--kiln" => options.kiln = Some(PathBuf::from(value()?)),
            "-v" => options.verbose = true,
            "--keep" => options.keep = true,
            _ => return Err(format!("unknown argument {arg}\n{USAGE}")),
        }
    }
    Ok(options)
}

fn source_of(path: PathBuf) -> Source {
    let is_socket = path
        .metadata()
        .is_ok_and(|found| found.file_type().is_socket());
    if is_socket {
        Source::Socket(path)
    } else {
        Source::Chroot(path)
    }
}

fn build() -> Result<PathBuf, String> {
    shell::run(shell::cargo().args(["build", "--package", "kiln"]))?;
    Ok(shell::target_dir().join("debug/kiln"))
}

/// Builds one case with both, compares, prints.
fn one(
    options: &Options,
    number: u64,
    peer: &Peer,
    kiln: &Path,
    work: &Path,
    tally: &Mutex<Tally>,
) {
    let case = Case::generate(options.seed, number, &|variant| peer.base(variant));
    let dir = work.join(format!("case{number}"));
    let (theirs, ours) = match answers(&case, &dir, peer, kiln) {
        Ok(answers) => answers,
        Err(error) => {
            println!("seed {} case {number}: not compared: {error}", options.seed);
            if let Ok(mut tally) = tally.lock() {
                tally.unexplained.push(number);
            }
            return;
        }
    };
    let differences = compare::compare(&theirs, &ours);
    let (listed, unexplained) = listed::split(differences, &case, &theirs, &ours);
    let Ok(mut tally) = tally.lock() else { return };
    let both_refuse = theirs.image.is_none() && ours.image.is_none();
    if unexplained.is_empty() && listed.is_empty() {
        tally.equal += 1;
        tally.both_refuse += usize::from(both_refuse);
    }
    if unexplained.is_empty()
        && let Some(name) = listed.first()
    {
        *tally.listed.entry(name).or_default() += 1;
    }
    if !unexplained.is_empty() {
        tally.unexplained.push(number);
    }
    if !unexplained.is_empty() || options.verbose {
        show(options.seed, number, &case, &unexplained, (&theirs, &ours));
    }
    drop(tally);
    if !options.keep {
        // What a build left without write permission goes with the whole folder.
        let _ = std::fs::remove_dir_all(&dir);
    }
}

fn show(
    seed: u64,
    number: u64,
    case: &Case,
    differences: &[(Level, String)],
    answers: (&Answer, &Answer),
) {
    let mut text = format!(
        "---- seed {seed} case {number} {}\n{}\n",
        case.args.join(" "),
        case.dockerfile.trim_end()
    );
    if let Some(ignore) = &case.context.ignore {
        text.push_str(&format!(".dockerignore: {ignore:?}\n"));
    }
    for (level, difference) in differences {
        text.push_str(&format!("  {level}: {difference}\n"));
    }
    if answers.0.image.is_none() && answers.1.image.is_none() {
        text.push_str(&format!(
            "  BuildKit: {}\n",
            compare::message(&answers.0.log)
        ));
        text.push_str(&format!(
            "  Kiln:     {}\n",
            compare::message(&answers.1.log)
        ));
    }
    println!("{text}");
}

fn answers(case: &Case, dir: &Path, peer: &Peer, kiln: &Path) -> Result<(Answer, Answer), String> {
    case.context.write(&dir.join(context_name(dir)))?;
    std::fs::write(dir.join("Dockerfile"), &case.dockerfile).map_err(|error| error.to_string())?;
    let theirs = answer(&mut peer.build(dir, &case.args), &dir.join("theirs"))?;
    let mut command = Command::new(kiln);
    command
        .args([
            "build",
            "--progress",
            "plain",
            "--network",
            "none",
            "--root",
        ])
        .arg(dir.join("store"))
        .arg("--file")
        .arg(dir.join("Dockerfile"))
        .arg("--output")
        .arg(format!(
            "type=oci,tar=false,dest={}",
            dir.join("ours").display()
        ))
        .args(&case.args)
        .arg(dir.join(context_name(dir)))
        .env_remove("SOURCE_DATE_EPOCH");
    let ours = answer(&mut command, &dir.join("ours"))?;
    if ours.log.contains("panicked at") {
        return Err(format!("Kiln panicked: {}", ours.log));
    }
    Ok((theirs, ours))
}

/// Name of a case's context folder. BuildKit updates the copy that it has of a folder of the same name, which leaves
/// other times on folders: each case has its own.
fn context_name(case: &Path) -> String {
    let name = case.file_name().unwrap_or_default().to_string_lossy();
    format!("context-of-{name}")
}

fn answer(command: &mut Command, layout: &Path) -> Result<Answer, String> {
    let output = command
        .output()
        .map_err(|error| format!("could not start {:?}: {error}", command.get_program()))?;
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    let image = if output.status.success() {
        Some(image::read(layout)?)
    } else {
        None
    };
    let kept = layout.with_extension("log");
    std::fs::write(&kept, &log).map_err(|error| format!("{}: {error}", kept.display()))?;
    Ok(Answer { image, log })
}
