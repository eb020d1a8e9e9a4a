//! `cargo xtask cutoff [--kiln FILE] [--work DIR] [--rounds N] [CASE..]`: how often early cutoff helps. Each of ten Dockerfiles is
//! built, edited in a way that need not change its result, built and pushed again: how many steps ran, how many that lie above
//! them were found by their content, what the registry got, and how long it took beside an edit that changes the result.
//! Prints tables in Markdown. Needs root, mmdebstrap with a mirror of Debian packages (once), and docker-registry.

mod cases;

use crate::bench::table::median;
use crate::conformance::bases::debian_tar_with;
use crate::peers::registry::Registry;
use crate::shell;
use cases::{CASES, Case};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const USAGE: &str = "usage: cargo xtask cutoff [--kiln FILE] [--work DIR] [--rounds N] [CASE..]";
/// How the base is made that stands for Debian: with what the Dockerfiles use, and with packages that are to be installed
/// without a network.
const BASE: [&str; 6] = [
    "--include=gcc,libc6-dev,make,perl,python3-pip",
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-exclude=/usr/share/man/*",
    "--dpkgopt=path-exclude=/usr/share/locale/*",
    "--customize-hook=chroot \"$1\" sh -c 'mkdir /debs && cd /debs && apt-get download tree libjansson4 jq libjq1 libonig5'",
    "--customize-hook=rm -rf \"$1\"/var/cache/apt/*.bin \"$1\"/var/lib/apt/lists/*",
];
/// A folder in memory.
const MEMORY: &str = "/dev/shm";

/// More than the unit of the times that programs write.
const SECOND: Duration = Duration::from_millis(1_100);

/// How the steps of a build ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Steps {
    /// Carried out.
    ran: usize,
    /// Not carried out, though a step below was.
    cut: usize,
    /// Nothing below changed.
    hit: usize,
}

/// What an edit led to.
struct Outcome {
    steps: Steps,
    seconds: f64,
    /// What the registry has more after the push.
    sent: u64,
}

struct Bench {
    kiln: PathBuf,
    store: PathBuf,
    work: PathBuf,
    registry: Registry,
}

/// Runs it.
pub fn run(args: &[String]) -> Result<(), String> {
    let (mut kiln, mut parent, mut rounds) = (None, PathBuf::from(MEMORY), 3);
    let mut wanted = Vec::new();
    let mut rest = args.iter();
    while let Some(word) = rest.next() {
        match word.as_str() {
            "--kiln" => kiln = Some(PathBuf::from(rest.next().ok_or(USAGE)?)),
            "--work" => parent = PathBuf::from(rest.next().ok_or(USAGE)?),
            "--rounds" => {
                let rounds_given = rest.next().and_then(|text| text.parse().ok());
                rounds = rounds_given.filter(|count| *count > 0).ok_or(USAGE)?;
            }
            name if CASES.iter().any(|case| case.name == name) => wanted.push(name),
            _ => return Err(USAGE.to_owned()),
        }
    }
    let kiln = kiln.map_or_else(shell::build_release, Ok)?;
    let folder = tempfile::Builder::new()
        .prefix("kiln-cutoff")
        .tempdir_in(parent)
        .map_err(|error| format!("could not make a folder: {error}"))?;
    let bench = Bench::new(kiln, folder.path())?;
    let mut rows = Vec::new();
    let mut differences = Vec::new();
    for case in &CASES {
        if !wanted.is_empty() && !wanted.contains(&case.name) {
            continue;
        }
        eprintln!("{}", case.name);
        let (same, other, differs) = measure(&bench, case, rounds)?;
        rows.push(row(case, &same, &other));
        differences.push((case.name, differs));
    }
    println!(
        "| Dockerfile | edit | ran | cut off | cached | time | with another result | saved | sent |\n\
         |---|---|--:|--:|--:|--:|--:|--:|--:|"
    );
    rows.iter().for_each(|row| println!("{row}"));
    println!();
    for (name, paths) in differences.iter().filter(|(_, paths)| !paths.is_empty()) {
        println!("{name}: {}", paths.join(", "));
    }
    Ok(())
}

/// Outcomes of both edits, and files that differ.
type Measured = (Vec<Outcome>, Vec<Outcome>, Vec<String>);

/// Builds, edits and builds again; the last answer are files of the image that changed without need.
fn measure(bench: &Bench, case: &Case, rounds: usize) -> Result<Measured, String> {
    let context = bench.work.join(case.name);
    let source = shell::root().join(case.context);
    shell::output(Command::new("cp").arg("-a").arg(source).arg(&context))?;
    let reference = format!("{}/{}:latest", bench.registry.host(), case.name);
    bench.build(case, &context, &reference, &[])?;
    bench.push(&reference)?;
    let (mut same, mut other, mut differs) = (Vec::new(), Vec::new(), BTreeSet::new());
    for round in 1..=rounds {
        let before = format!("{}-before:latest", case.name);
        bench.kiln(&["tag", &reference, &before])?;
        let edit = |script| edited(bench, case, (&context, &reference), (script, round));
        same.push(edit(case.same)?);
        let format = "--format={{.Type}}|{{.Differs}}|{{.Path}}";
        let changes = bench.kiln(&["diff", format, &before, &reference])?;
        differs.extend(changes.lines().filter_map(changed_file));
        other.push(edit(case.other)?);
    }
    Ok((same, other, differs.into_iter().collect()))
}

/// The path of a line of `kiln diff`, without the folders that are only told because something in them differs.
fn changed_file(line: &str) -> Option<String> {
    let mut fields = line.splitn(3, '|');
    let (kind, differs, path) = (fields.next()?, fields.next()?, fields.next()?);
    (kind != "C" || !differs.is_empty()).then(|| path.to_owned())
}

fn edited(
    bench: &Bench,
    case: &Case,
    (context, reference): (&Path, &str),
    (script, round): (&str, usize),
) -> Result<Outcome, String> {
    let mut shell = Command::new("sh");
    shell.args(["-ec", script, "sh", &round.to_string()]);
    let printed = shell::output(shell.current_dir(context))?;
    let flags: Vec<&str> = printed.split_whitespace().collect();
    let before = bench.registry.bytes()?;
    // What tells the time tells another one now.
    std::thread::sleep(SECOND);
    let began = Instant::now();
    bench.build(case, context, reference, &flags)?;
    let seconds = began.elapsed().as_secs_f64();
    bench.push(reference)?;
    Ok(Outcome {
        steps: bench.steps()?,
        seconds,
        sent: bench.registry.bytes()?.saturating_sub(before),
    })
}

impl Bench {
    fn new(kiln: PathBuf, work: &Path) -> Result<Self, String> {
        let bench = Self {
            kiln,
            store: work.join("store"),
            work: work.to_owned(),
            registry: Registry::start(work)?,
        };
        let base = debian_tar_with("cutoff", &BASE)?;
        let base = base.display().to_string();
        let path = "--change=ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive";
        bench.kiln(&["import", path, &base, "debian:12"])?;
        // The base is unpacked before anything is measured.
        let context = work.join("warm");
        std::fs::create_dir(&context).map_err(|error| error.to_string())?;
        std::fs::write(context.join("Dockerfile"), "FROM debian:12\nRUN true\n")
            .map_err(|error| error.to_string())?;
        bench.kiln(&[
            "build",
            "-q",
            "--network=none",
            &context.display().to_string(),
        ])?;
        Ok(bench)
    }

    fn kiln(&self, args: &[&str]) -> Result<String, String> {
        let mut command = Command::new(&self.kiln);
        shell::output(command.arg("--root").arg(&self.store).args(args))
    }

    fn build(
        &self,
        case: &Case,
        context: &Path,
        reference: &str,
        flags: &[&str],
    ) -> Result<(), String> {
        let layout = shell::root().join("testdata/images/busybox");
        let busybox = format!("busybox=oci-layout://{}", layout.display());
        let context = context.display().to_string();
        let start = [
            "build",
            "-q",
            "--network=none",
            "-t",
            reference,
            "--build-context",
            &busybox,
        ];
        let words = [&start[..], case.flags, flags, &[&context]].concat();
        self.kiln(&words).map(|_| ())
    }

    fn push(&self, reference: &str) -> Result<(), String> {
        self.kiln(&["push", "-q", reference]).map(|_| ())
    }

    /// How the steps of the last build ended.
    fn steps(&self) -> Result<Steps, String> {
        let text = self.kiln(&["explain", "--format", "json"])?;
        let story: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        let mut above = BTreeSet::new();
        let mut count = Steps::default();
        for step in story["steps"].as_array().into_iter().flatten() {
            let number = step["step"].as_u64().unwrap_or_default();
            let inputs = step["inputs"].as_array().into_iter().flatten();
            let ran = step["result"] == "ran";
            let is_above = inputs
                .filter_map(Value::as_u64)
                .any(|input| above.contains(&input));
            if ran || is_above {
                above.insert(number);
            }
            match (ran, is_above) {
                (true, _) => count.ran += 1,
                (false, true) => count.cut += 1,
                (false, false) => count.hit += 1,
            }
        }
        Ok(count)
    }
}

fn row(case: &Case, same: &[Outcome], other: &[Outcome]) -> String {
    let Steps { ran, cut, hit } = same[0].steps;
    let time = |outcomes: &[Outcome]| median(outcomes.iter().map(|outcome| outcome.seconds));
    let (with, without) = (time(same), time(other));
    let saved = if cut > 0 {
        format!("{:.0} %", 100.0 * (1.0 - with / without))
    } else {
        "-".to_owned()
    };
    let mut sent: Vec<u64> = same.iter().map(|outcome| outcome.sent).collect();
    sent.sort_unstable();
    format!(
        "| {} | {} | {ran} | {cut} | {hit} | {:.0} ms | {:.0} ms | {saved} | {} |",
        case.name,
        case.edit,
        1e3 * with,
        1e3 * without,
        bytes(sent[sent.len() / 2])
    )
}

fn bytes(count: u64) -> String {
    match count {
        0 => "0".to_owned(),
        1..1_000 => format!("{count} B"),
        1_000..1_000_000 => format!("{} kB", count / 1_000),
        _ => format!("{:.1} MB", count as f64 / 1e6),
    }
}
