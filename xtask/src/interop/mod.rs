//! `cargo xtask interop [--chroot DIR] [--kiln BINARY]`: what Kiln pushes is accepted by the tools that are installed, and
//! what they push Kiln pulls and builds on. One table; any refusal that is not expected fails the task.
//!
//! Needs root, docker-registry, and skopeo; podman, buildah and dockerd of the host, and crane, buildah and dockerd of the
//! chroot, are used where they are there.

mod readers;
mod subjects;
mod writers;

use crate::peers::registry::Registry;
use crate::peers::tools::Tools;
use crate::{shell, test};
use std::path::PathBuf;

const USAGE: &str = "usage: cargo xtask interop [--chroot DIR] [--kiln BINARY]";

/// What one tool said of one image.
#[derive(Debug)]
enum Outcome {
    Accepted,
    /// The tool cannot do this at all, and why that is known.
    Known(&'static str),
    Refused(String),
    /// The tool is not installed.
    Missing,
}

/// One line of the table.
#[derive(Debug)]
struct Row {
    subject: String,
    tool: String,
    outcome: Outcome,
}

/// All that the parts need.
struct Bench {
    kiln: PathBuf,
    work: tempfile::TempDir,
    registry: Registry,
    tools: Tools,
}

/// Runs all of it.
pub fn run(args: &[String]) -> Result<(), String> {
    let (mut chroot, mut kiln) = (None, None);
    let mut rest = args.iter();
    while let Some(flag) = rest.next() {
        let value = || rest.clone().next().map(PathBuf::from).ok_or(USAGE);
        match flag.as_str() {
            "--chroot" => chroot = Some(value()?),
            "--kiln" => kiln = Some(value()?),
            _ => return Err(USAGE.to_owned()),
        }
        rest.next();
    }
    test::install()?;
    let kiln = match kiln {
        Some(path) => path,
        None => shell::build_debug()?,
    };
    let work = tempfile::Builder::new()
        .prefix("kiln-interop")
        .tempdir()
        .map_err(|error| format!("could not make a folder: {error}"))?;
    let bench = Bench {
        kiln,
        registry: Registry::start(work.path())?,
        tools: Tools::start(work.path(), true, chroot.as_deref())?,
        work,
    };
    let mut rows = Vec::new();
    for subject in subjects::push_all(&bench)? {
        rows.extend(readers::all(&bench, &subject));
    }
    rows.extend(writers::all(&bench)?);
    print(&rows)
}

fn print(rows: &[Row]) -> Result<(), String> {
    let mut refused = 0;
    println!("{:<36} {:<34} outcome", "image", "tool");
    for row in rows {
        let outcome = match &row.outcome {
            Outcome::Accepted => "accepted".to_owned(),
            Outcome::Known(why) => format!("not possible: {why}"),
            Outcome::Missing => "not installed".to_owned(),
            Outcome::Refused(why) => {
                refused += 1;
                format!("REFUSED: {}", why.trim().replace('\n', "\n    "))
            }
        };
        println!("{:<36} {:<34} {outcome}", row.subject, row.tool);
    }
    if refused > 0 {
        return Err(format!("{refused} refusals"));
    }
    Ok(())
}

impl Row {
    fn new(subject: &str, tool: &str, result: Result<(), String>) -> Self {
        Self {
            subject: subject.to_owned(),
            tool: tool.to_owned(),
            outcome: match result {
                Ok(()) => Outcome::Accepted,
                Err(why) => Outcome::Refused(why),
            },
        }
    }
}
