//! `.dockerignore` and wildcard tables: every row against the exact matchers.

use super::SuiteResult;
use executor::context::glob::Glob;
use executor::context::ignore::ignore_lines;
use executor::context::pattern::PatternSet;
use serde_json::Value;
use std::path::Path;

/// Runs the tables of `ignore_cases.json` and `go_glob.tsv`.
#[must_use]
pub fn run(corpus: &Path) -> Vec<SuiteResult> {
    let mut results = Vec::new();
    let cases = std::fs::read_to_string(corpus.join("ignore_cases.json")).unwrap_or_default();
    match serde_json::from_str::<Value>(&cases) {
        Ok(cases) => {
            results.push(tally(
                ".dockerignore lines",
                rows(&cases, "ignorefile").map(ignore_file),
            ));
            let rows = rows(&cases, "patternmatcher").filter(|row| row.get("patterns").is_some());
            results.push(tally(".dockerignore patterns", rows.map(pattern_row)));
        }
        Err(error) => results.push(broken("ignore_cases.json", &error.to_string())),
    }
    match std::fs::read_to_string(corpus.join("go_glob.tsv")) {
        Ok(table) => {
            results.push(tally(
                "filepath.Match",
                table.lines().map(|line| glob_row(line, 2)),
            ));
            results.push(tally(
                "patternmatcher",
                table.lines().map(|line| glob_row(line, 3)),
            ));
        }
        Err(error) => results.push(broken("go_glob.tsv", &error.to_string())),
    }
    results
}

fn rows<'v>(cases: &'v Value, name: &str) -> impl Iterator<Item = &'v Value> {
    cases[name].as_array().into_iter().flatten()
}

fn broken(name: &str, error: &str) -> SuiteResult {
    SuiteResult {
        name: name.to_owned(),
        passed: 0,
        total: 1,
        failures: vec![error.to_owned()],
        ..SuiteResult::default()
    }
}

fn tally(name: &str, outcomes: impl Iterator<Item = Result<(), String>>) -> SuiteResult {
    let mut result = SuiteResult {
        name: name.to_owned(),
        passed: 0,
        total: 0,
        failures: Vec::new(),
        ..SuiteResult::default()
    };
    for outcome in outcomes {
        result.total += 1;
        match outcome {
            Ok(()) => result.passed += 1,
            Err(failure) => result.failures.push(failure),
        }
    }
    result
}

fn strings(value: &Value) -> Vec<&str> {
    value
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect()
}

fn compare(what: &str, expected: &str, found: &str) -> Result<(), String> {
    if expected == found {
        Ok(())
    } else {
        Err(format!("{what}: expected {expected}, found {found}"))
    }
}

fn ignore_file(row: &Value) -> Result<(), String> {
    let found: Vec<String> = ignore_lines(row["content"].as_str().unwrap_or_default())
        .into_iter()
        .map(|(_, pattern)| pattern)
        .collect();
    compare(
        "lines",
        &format!("{:?}", strings(&row["expected"])),
        &format!("{found:?}"),
    )
}

fn pattern_row(row: &Value) -> Result<(), String> {
    let patterns = strings(&row["patterns"]);
    let path = row["path"].as_str().unwrap_or_default();
    let expected = row["oracle"]
        .as_bool()
        .map_or("err".to_owned(), |ignored| ignored.to_string());
    compare(
        &format!("{patterns:?} {path:?}"),
        &expected,
        &set_outcome(&patterns, path),
    )
}

fn set_outcome(patterns: &[&str], path: &str) -> String {
    PatternSet::new(patterns.iter().copied()).map_or("err".to_owned(), |set| {
        set.matches(path.as_bytes()).to_string()
    })
}

/// A row `pattern, path, filepath.Match, patternmatcher`; `column` says whose answer is compared.
fn glob_row(line: &str, column: usize) -> Result<(), String> {
    let fields: Vec<&str> = line.split('\t').collect();
    let [pattern, path, _, _] = fields[..] else {
        return Err(format!("not a row: {line:?}"));
    };
    let found = if column == 3 {
        set_outcome(&[pattern], path)
    } else {
        Glob::new(pattern.as_bytes()).map_or("err".to_owned(), |glob| {
            glob.matches(path.as_bytes()).to_string()
        })
    };
    compare(&format!("{pattern:?} {path:?}"), fields[column], &found)
}
