//! Contestants in turn, round after round, and what each took. Medians; compare within one run only.

use super::measure::{Sample, measure};
use super::place::Place;
use super::table::{Table, median, ratio, seconds};
use crate::peers::daemon::Daemon;
use crate::peers::registry::Registry;
use std::process::Command;
use std::time::Instant;

/// Who takes longer than this for all parts of a round is not asked again, so that a run ends.
const SLOW: f64 = 20.0;
/// Nor is another tool that has taken this long in all rounds, nor one for which preparations have.
const ENOUGH: f64 = 25.0;
const ENOUGH_PREPARED: f64 = 60.0;

/// Characters that are shown of why something failed.
const REASON: usize = 60;

/// A tool that does the work of one row.
pub struct Contestant<'a> {
    /// As shown.
    pub name: String,
    /// What must stand before each round; not timed.
    pub prepare: Box<dyn Fn() -> Result<(), String> + 'a>,
    /// The work, one command after the other.
    pub work: Box<dyn Fn() -> Vec<Command> + 'a>,
    /// Does the work in the command's place.
    pub daemon: Option<&'a Daemon>,
}

/// All that one tool does in a round, part by part.
pub struct Visit<'a> {
    /// The number of a part and the work.
    pub parts: Vec<(usize, Contestant<'a>)>,
    /// What it leaves behind and nobody needs any more is removed.
    pub finish: Box<dyn Fn() -> Result<(), String> + 'a>,
}

/// A part of a contest: a table.
#[derive(Clone, Debug)]
pub struct Part {
    /// As shown.
    pub title: String,
    /// Seconds that Kiln should stay under.
    pub goal: Option<f64>,
}

/// Which bytes of a registry are counted.
#[derive(Clone, Copy, Debug)]
pub enum Bytes<'a> {
    /// None.
    Uncounted,
    /// That it has in the end.
    In(&'a Registry),
    /// That it sends in the meantime; it must not be written to.
    From(&'a Registry),
}

impl Part {
    /// One with a goal or without.
    pub fn new(title: &str, goal: Option<f64>) -> Self {
        Self {
            title: title.to_owned(),
            goal,
        }
    }
}

/// Runs all rounds of one part and prints the rows.
pub fn run(
    place: &Place,
    part: Part,
    contestants: Vec<Contestant<'_>>,
    usual_rounds: usize,
    bytes: Bytes<'_>,
) -> Result<(), String> {
    let alone = |contestant| Visit {
        parts: vec![(0, contestant)],
        finish: Box::new(|| Ok(())),
    };
    let visits = contestants.into_iter().map(alone).collect();
    run_parts(place, &[part], visits, usual_rounds, bytes)
}

/// Runs all rounds of several parts and prints a table for each.
pub fn run_parts(
    place: &Place,
    parts: &[Part],
    visits: Vec<Visit<'_>>,
    usual_rounds: usize,
    bytes: Bytes<'_>,
) -> Result<(), String> {
    let mut runners: Vec<Runner<'_>> = visits
        .into_iter()
        .filter(|visit| {
            visit
                .parts
                .first()
                .is_some_and(|(_, one)| is_wanted(place, &one.name))
        })
        .map(Runner::new)
        .collect();
    for _ in 0..place.rounds(usual_rounds) {
        for runner in &mut runners {
            runner.round(place, bytes);
        }
    }
    for (number, part) in parts.iter().enumerate() {
        show(number, part, &runners, bytes);
    }
    let own = runners.iter_mut().find(|runner| is_kiln(runner.name()));
    match own.and_then(|runner| runner.failed.take()) {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

/// A tool and what it took.
struct Runner<'a> {
    visit: Visit<'a>,
    /// Of each of its parts.
    samples: Vec<Vec<Sample>>,
    slow: bool,
    /// Seconds of all rounds: of the work, and with what was prepared for it.
    spent: f64,
    with_preparations: f64,
    failed: Option<String>,
}

impl<'a> Runner<'a> {
    fn new(visit: Visit<'a>) -> Self {
        Self {
            samples: visit.parts.iter().map(|_| Vec::new()).collect(),
            visit,
            slow: false,
            spent: 0.0,
            with_preparations: 0.0,
            failed: None,
        }
    }

    fn name(&self) -> &str {
        self.visit.parts.first().map_or("", |(_, one)| &one.name)
    }

    fn round(&mut self, place: &Place, bytes: Bytes<'_>) {
        if self.slow || self.failed.is_some() {
            return;
        }
        let (mut wall, start) = (0.0, Instant::now());
        for ((_, contestant), samples) in self.visit.parts.iter().zip(&mut self.samples) {
            match one(place, contestant, bytes) {
                Ok(sample) => {
                    wall += sample.wall;
                    samples.push(sample);
                }
                Err(error) => {
                    self.failed = Some(error);
                    break;
                }
            }
        }
        if let Err(error) = (self.visit.finish)() {
            self.failed.get_or_insert(error);
        }
        self.spent += wall;
        self.with_preparations += start.elapsed().as_secs_f64();
        let enough = self.spent > ENOUGH || self.with_preparations > ENOUGH_PREPARED;
        self.slow = wall > SLOW || (enough && !is_kiln(self.name()));
    }

    /// What a part took, if it has it.
    fn of(&self, part: usize) -> Option<&[Sample]> {
        let index = self
            .visit
            .parts
            .iter()
            .position(|(number, _)| *number == part)?;
        self.samples.get(index).map(Vec::as_slice)
    }
}

fn one(place: &Place, contestant: &Contestant<'_>, bytes: Bytes<'_>) -> Result<Sample, String> {
    (contestant.prepare)()?;
    let before = match bytes {
        Bytes::From(registry) => registry.written(),
        _ => 0,
    };
    let sample = measure(&place.groups, contestant.daemon, (contestant.work)())?;
    let bytes = match bytes {
        Bytes::Uncounted => 0,
        Bytes::In(registry) => registry.bytes()?,
        Bytes::From(registry) => registry.written().saturating_sub(before),
    };
    Ok(Sample { bytes, ..sample })
}

fn is_kiln(name: &str) -> bool {
    name.starts_with("kiln")
}

/// Limits and Kiln always are, other tools by their name; docker's buildx is BuildKit.
fn is_wanted(place: &Place, name: &str) -> bool {
    let first = name.split([' ', ',', ':']).next().unwrap_or_default();
    match first {
        "kiln" | "limit" => true,
        "docker" if name.contains("buildx") => place.options.wants_peer("buildkit"),
        first => place.options.wants_peer(first),
    }
}

/// The last line of an error, shortened.
pub fn reason(error: &str) -> String {
    let line = error.lines().rev().find(|line| !line.trim().is_empty());
    line.unwrap_or_default()
        .replace('|', "/")
        .chars()
        .take(REASON)
        .collect()
}

fn show(number: usize, part: &Part, runners: &[Runner<'_>], bytes: Bytes<'_>) {
    let with_bytes = runners
        .iter()
        .filter_map(|runner| runner.of(number))
        .any(|samples| samples.iter().any(|sample| sample.bytes > 0));
    let mut head = vec![
        "",
        "wall",
        "processor",
        "peak MB",
        "written MB",
        "rounds",
        "ratio",
    ];
    if with_bytes {
        head.push(match bytes {
            Bytes::From(_) => "bytes from the registry",
            _ => "bytes in the registry",
        });
    }
    let middle = |samples: &[Sample], value: fn(&Sample) -> f64| median(samples.iter().map(value));
    let own = runners
        .iter()
        .filter(|runner| is_kiln(runner.name()))
        .find_map(|runner| runner.of(number))
        .map_or(f64::NAN, |samples| middle(samples, |s| s.wall));
    let title = match part.goal {
        Some(goal) if own < goal => format!("{} (goal {}: met)", part.title, seconds(goal)),
        Some(goal) => format!("{} (goal {}: missed)", part.title, seconds(goal)),
        None => part.title.clone(),
    };
    let mut table = Table::new(&title, &head);
    for runner in runners {
        let Some(samples) = runner.of(number) else {
            continue;
        };
        if samples.is_empty() {
            let failed = runner.failed.as_deref().unwrap_or_default();
            eprintln!("bench: {}: {failed}", runner.name());
            table.row(vec![format!(
                "{}: failed: {}",
                runner.name(),
                reason(failed)
            )]);
            continue;
        }
        let wall = middle(samples, |s| s.wall);
        let mut row = vec![
            runner.name().to_owned(),
            seconds(wall),
            seconds(middle(samples, |s| s.cpu)),
            format!("{:.0}", middle(samples, |s| s.peak_mb)),
            format!("{:.1}", middle(samples, |s| s.written_mb)),
            samples.len().to_string(),
            ratio(wall, own),
        ];
        if with_bytes {
            row.push(samples.last().map_or(0, |sample| sample.bytes).to_string());
        }
        table.row(row);
    }
    table.print();
}
