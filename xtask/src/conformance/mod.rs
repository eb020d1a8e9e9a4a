//! `cargo xtask conformance`: runs recorded behaviour of other builders against Kiln and prints pass rates per suite.
//!
//! The corpora lie beside the project (`../shared/corpus`, or `KILN_CORPUS`); without them it says so and ends well.

mod buildah;
mod builds;
mod fixture;
mod fresh;
mod ignore;
mod image;
mod integration;
mod parser;

use crate::shell;
use serde_json::Value;
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
}

/// Runs all suites, or those whose name contains the argument.
pub fn run(args: &[String]) -> Result<(), String> {
    let corpus = std::env::var_os("KILN_CORPUS")
        .map_or_else(|| shell::root().join("../shared/corpus"), PathBuf::from);
    if !corpus.is_dir() {
        println!(
            "conformance: no corpus at {}; nothing to do",
            corpus.display()
        );
        return Ok(());
    }
    let verbose = args.iter().any(|arg| arg == "-v");
    let filter = args.iter().find(|arg| !arg.starts_with('-'));
    let mut results = Vec::new();
    results.extend(parser::run(&corpus));
    results.extend(ignore::run(&corpus));
    results.extend(builds(&corpus, filter.map(String::as_str))?);
    results.retain(|result| filter.is_none_or(|filter| result.name.contains(filter.as_str())));
    for result in &results {
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
    }
    Ok(())
}

/// The suites that build images, with the release binary.
fn builds(corpus: &Path, filter: Option<&str>) -> Result<Vec<SuiteResult>, String> {
    let wanted =
        |name: &str| filter.is_none_or(|filter| name.contains(filter) || filter.contains(name));
    let names = [
        "buildkit integration",
        "fresh examples",
        "buildah conformance",
    ];
    if !names.iter().any(|name| wanted(name)) {
        return Ok(Vec::new());
    }
    let kiln = shell::build_static()?;
    let work = tempfile::tempdir_in(shell::target_dir())
        .map_err(|error| format!("could not make a folder: {error}"))?;
    let bases = fixture::Bases::make(corpus, kiln, work.path())?;
    let mut results = Vec::new();
    if wanted(names[0]) {
        results.extend(integration::run(corpus, &bases, work.path()));
    }
    if wanted(names[1]) {
        results.extend(fresh::run(corpus, &bases, work.path()));
    }
    if wanted(names[2]) {
        results.extend(buildah::run(corpus, &bases, work.path()));
    }
    Ok(results)
}

/// Reads a corpus file.
fn load(path: &Path) -> Result<Value, String> {
    let bytes = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    serde_json::from_slice(&bytes).map_err(|error| format!("{}: {error}", path.display()))
}

/// A case's name as a folder's name.
fn file_name(name: &str) -> String {
    name.chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
        .collect()
}

/// Removes a case's folder; what cannot be removed goes with the whole work folder.
fn remove(dir: &Path) {
    let _ = std::fs::remove_dir_all(dir);
}
