//! `cargo xtask conformance`: runs recorded behaviour of other builders against Kiln and prints pass rates per suite.
//!
//! The corpora lie beside the project (`../shared/corpus`, or `KILN_CORPUS`); without them it says so and ends well.
//! Suites are independent; the cases of a suite that builds run side by side, each with a store of its own.

mod archives;
pub mod bases;
mod buildah;
mod builds;
mod caches;
mod fixture;
mod fresh;
mod git_group;
mod git_tables;
mod groups;
mod harness;
mod http;
mod ignore;
pub mod image;
mod integration;
mod lint;
mod moby;
mod parser;
mod remote;
mod run_groups;

use crate::shell;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// How one suite went.
#[derive(Debug, Default)]
pub struct SuiteResult {
    /// Name.
    pub name: String,
    /// Cases passed.
    pub passed: usize,
    /// Cases in all.
    pub total: usize,
    /// Names and reasons of those that failed.
    pub failures: Vec<String>,
    /// Names and reasons of those that were not run and do not count.
    pub left_out: Vec<(String, String)>,
}

/// What the command line asks for.
#[derive(Debug, Default)]
struct Options {
    /// Suites whose name contains this.
    suite: Option<String>,
    /// Cases whose name contains this.
    case: Option<String>,
    /// Every miss, not only the first ones.
    verbose: bool,
    /// One JSON object a suite and nothing else.
    json: bool,
    /// The development build of the binary instead of the static release.
    debug: bool,
}

impl Options {
    fn parse(args: &[String]) -> Result<Self, String> {
        let mut options = Self::default();
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "-v" => options.verbose = true,
                "--json" => options.json = true,
                "--debug" => options.debug = true,
                "--case" => {
                    options.case = Some(args.next().ok_or("--case needs a text")?.clone());
                }
                flag if flag.starts_with('-') => return Err(format!("unknown flag {flag}")),
                suite => options.suite = Some(suite.to_owned()),
            }
        }
        Ok(options)
    }

    /// Whether a suite is asked for, by its name or by the name of one of its levels.
    fn wants(&self, suite: &str) -> bool {
        self.suite
            .as_ref()
            .is_none_or(|wanted| suite.contains(wanted.as_str()) || wanted.contains(suite))
    }
}

/// Runs all suites, or those whose name contains the argument.
pub fn run(args: &[String]) -> Result<(), String> {
    let options = Options::parse(args)?;
    let corpus = std::env::var_os("KILN_CORPUS")
        .map_or_else(|| shell::root().join("../shared/corpus"), PathBuf::from);
    if !corpus.is_dir() {
        println!(
            "conformance: no corpus at {}; nothing to do",
            corpus.display()
        );
        return Ok(());
    }
    let mut results = Vec::new();
    results.extend(parser::run(&corpus));
    results.extend(ignore::run(&corpus));
    results.extend(lint::run(&corpus));
    results.extend(builds(&corpus, &options)?);
    results.retain(|result| result.total > 0 || !result.left_out.is_empty());
    results.retain(|result| {
        options
            .suite
            .as_ref()
            .is_none_or(|wanted| result.name.contains(wanted.as_str()))
    });
    for result in &results {
        if options.json {
            println!("{}", json_line(result));
        } else {
            print(result, options.verbose);
        }
    }
    Ok(())
}

/// One line a program can read.
fn json_line(result: &SuiteResult) -> Value {
    serde_json::json!({
        "suite": result.name,
        "passed": result.passed,
        "total": result.total,
        "left_out": result.left_out.len(),
    })
}

fn print(result: &SuiteResult, verbose: bool) {
    let percent = (result.passed * 1000)
        .checked_div(result.total)
        .unwrap_or(0);
    println!(
        "{:<40} {:>5}/{:<5} {:>3}.{} %",
        result.name,
        result.passed,
        result.total,
        percent / 10,
        percent % 10
    );
    let shown = if verbose { usize::MAX } else { 5 };
    for failure in result.failures.iter().take(shown) {
        println!("    {failure}");
    }
    if result.failures.len() > shown {
        println!(
            "    ... and {} more (-v shows all)",
            result.failures.len() - shown
        );
    }
    let mut reasons: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, reason) in &result.left_out {
        reasons.entry(reason).or_default().push(name);
    }
    for (reason, names) in reasons {
        println!("    left out {:>3}: {reason}", names.len());
        if verbose {
            names.iter().for_each(|name| println!("        {name}"));
        }
    }
}

/// The suites that build images.
fn builds(corpus: &Path, options: &Options) -> Result<Vec<SuiteResult>, String> {
    type Suite = fn(&Path, &harness::Harness) -> Vec<SuiteResult>;
    let suites: [(&str, Suite); 4] = [
        ("buildkit integration", integration::run),
        ("fresh examples", fresh::run),
        ("moby cli", moby::run),
        ("buildah conformance", buildah::run),
    ];
    if !suites.iter().any(|(name, _)| options.wants(name)) {
        return Ok(Vec::new());
    }
    let kiln = if options.debug {
        shell::build_debug()?
    } else {
        shell::build_static()?
    };
    let work = tempfile::tempdir_in(shell::target_dir())
        .map_err(|error| format!("could not make a folder: {error}"))?;
    let harness = harness::Harness {
        bases: bases::Bases::make(corpus, kiln, work.path())?,
        work: work.path().to_owned(),
        case: options.case.clone(),
    };
    let mut results = Vec::new();
    for (name, suite) in suites {
        if options.wants(name) {
            results.extend(suite(corpus, &harness));
        }
    }
    Ok(results)
}

/// Reads a corpus file.
fn load(path: &Path) -> Result<Value, String> {
    let bytes = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    serde_json::from_slice(&bytes).map_err(|error| format!("{}: {error}", path.display()))
}

/// The cases of a list, each with its name.
fn by_name(cases: &Value) -> Vec<(String, &Value)> {
    let cases = cases.as_array().into_iter().flatten();
    cases
        .map(|case| (text(&case["name"]).to_owned(), case))
        .collect()
}

/// Leaves a case out whose recorded answer does not count.
fn only_verified(case: &Value) -> Result<(), String> {
    if case["verified"] == Value::Bool(true) {
        return Ok(());
    }
    Err("left out: the case has no recorded answer of BuildKit that counts".to_owned())
}

/// A case's name as a folder's name.
fn file_name(name: &str) -> String {
    name.chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
        .collect()
}

/// The text of a JSON string; empty for anything else.
fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The strings of a JSON array.
fn strings(value: &Value) -> Vec<String> {
    let items = value.as_array().into_iter().flatten();
    items.map(|item| text(item).to_owned()).collect()
}
