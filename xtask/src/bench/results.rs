//! Results as they are made: each section's tables are printed and written to a file as soon as it has ended, so that a run
//! that was ended in the middle can be taken up again.

use super::place::Options;
use super::{sections, table};
use crate::shell;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The section that says where the others were measured.
pub const MACHINE: &str = "machine";

/// What a run has so far.
pub struct Results {
    file: Option<PathBuf>,
    text: String,
    failed: Vec<String>,
}

impl Results {
    /// An empty one, or what a file has of an earlier run of the same binary with the same options.
    pub fn open(options: &Options) -> Result<Self, String> {
        let mut results = Self {
            file: options.resume.clone().or_else(|| options.out.clone()),
            text: String::new(),
            failed: Vec::new(),
        };
        let Some(file) = results.file.clone() else {
            return Ok(results);
        };
        table::use_markdown();
        let head = head(options)?;
        if options.resume.is_some() && file.exists() {
            results.text = std::fs::read_to_string(&file)
                .map_err(|error| format!("{}: {error}", file.display()))?;
            if !results.text.starts_with(&head) {
                return Err(format!(
                    "{} has results of another binary or other options, not of: {head}",
                    file.display()
                ));
            }
            return Ok(results);
        }
        results.text = head;
        sections::add(&mut results.text, MACHINE, &machine(options));
        results.write()?;
        Ok(results)
    }

    /// Runs what makes a section, if it is not there yet. What fails is told in the end.
    pub fn section(&mut self, name: &str, work: impl FnOnce() -> Result<(), String>) -> bool {
        if sections::get(&self.text, name).is_some() {
            eprintln!("bench: {name} is there already");
            return true;
        }
        // What a section before has left when it failed.
        let _ = table::take();
        let (load, start) = (load(), Instant::now());
        let result = work();
        let seconds = start.elapsed().as_secs_f64();
        eprintln!("bench: {name} took {seconds:.0} s");
        let result = result.and_then(|()| {
            let note = format!("<!-- {name}: {seconds:.0} s, load {load} before -->\n");
            self.text.push_str(&note);
            sections::add(&mut self.text, name, &table::take());
            self.write()
        });
        if let Err(error) = &result {
            eprintln!("bench: {name} failed: {error}");
            self.failed.push(name.to_owned());
        }
        result.is_ok()
    }

    /// Nothing, or which sections failed.
    pub fn end(self) -> Result<(), String> {
        if self.failed.is_empty() {
            return Ok(());
        }
        Err(format!("failed: {}", self.failed.join(", ")))
    }

    /// At once or not at all.
    fn write(&self) -> Result<(), String> {
        let Some(file) = &self.file else {
            return Ok(());
        };
        let mut new = file.clone().into_os_string();
        new.push(".new");
        std::fs::write(&new, &self.text)
            .and_then(|()| std::fs::rename(&new, file))
            .map_err(|error| format!("{}: {error}", file.display()))
    }
}

/// `cargo xtask bench page FILE [PAGE]`: puts the sections of a file into those of the same names of docs/performance.md.
pub fn page(args: &[String]) -> Result<(), String> {
    let (from, to) = match args {
        [from] => (from, shell::root().join("docs/performance.md")),
        [from, to] => (from, PathBuf::from(to)),
        _ => return Err("usage: cargo xtask bench page FILE [PAGE]".to_owned()),
    };
    let read = |path: &Path| {
        std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
    };
    let (from, mut page) = (read(Path::new(from))?, read(&to)?);
    let mut without = Vec::new();
    for name in sections::names(&from) {
        let content = sections::get(&from, name).unwrap_or_default();
        match sections::replace(&page, name, content) {
            Some(text) => page = text,
            None => without.push(name),
        }
    }
    let old: Vec<&str> = sections::names(&page)
        .into_iter()
        .filter(|name| sections::get(&from, name).is_none())
        .collect();
    std::fs::write(&to, &page).map_err(|error| format!("{}: {error}", to.display()))?;
    if !old.is_empty() {
        println!("not in the file, as they were: {}", old.join(", "));
    }
    if without.is_empty() {
        return Ok(());
    }
    Err(format!("the page has no section {}", without.join(", ")))
}

/// What must be the same in a run that is taken up again.
fn head(options: &Options) -> Result<String, String> {
    let kiln = options.binary()?;
    let sum = shell::output(std::process::Command::new("sha256sum").arg(&kiln))?;
    let rounds = options
        .rounds
        .map_or_else(|| "usual rounds".to_owned(), |rounds| rounds.to_string());
    Ok(format!(
        "<!-- results of cargo xtask bench: binary {}, rounds {rounds}, W3 {} MiB, up to {} files and {} records -->\n",
        sum.get(..16).unwrap_or_default(),
        options.big,
        options.files,
        options.records
    ))
}

/// Where it was measured, in a sentence.
fn machine(options: &Options) -> String {
    let field = |file: &str, key: &str| {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix(key));
        line.map(|rest| rest.trim_matches([':', ' ', '\t']).to_owned())
            .unwrap_or_default()
    };
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let kernel: Vec<&str> = kernel.trim().splitn(3, '.').take(2).collect();
    let memory = field("/proc/meminfo", "MemTotal");
    let memory: f64 = memory
        .split_whitespace()
        .next()
        .and_then(|kib| kib.parse().ok())
        .unwrap_or_default();
    let rounds = match options.rounds {
        Some(1) => "one round".to_owned(),
        Some(rounds) => format!("{rounds} rounds"),
        None => "three to seven rounds".to_owned(),
    };
    format!(
        "Processors: {processors} ({}); {:.0} GB of memory, Linux {}; load {} before the start; {rounds}, W3 with {} MiB.",
        field("/proc/cpuinfo", "model name"),
        memory / 1e6,
        kernel.join("."),
        load(),
        options.big
    )
}

/// Processes that ran on average in the last minute.
fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace()
        .next()
        .unwrap_or_default()
        .to_owned()
}
