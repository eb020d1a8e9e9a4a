//! Parser suites: AST dumps, node details, errors, word expansion, and the unit tables of BuildKit's parser packages.
//!
//! It compares; it knows nothing of how the parser works.

#[path = "parser_tables.rs"]
mod tables;

use super::SuiteResult;
use parser::expand::{self, Options, Scope};
use parser::tree::{self, Node};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::Path;

/// Runs all parser suites over the corpus.
pub fn run(corpus: &Path) -> Vec<SuiteResult> {
    let mut results = Vec::new();
    match load(corpus, "parser_cases.json") {
        Ok(cases) => {
            results.push(suite("parser: AST dumps", &cases, |case| {
                case["expected"]["ast_dump"].is_string().then(|| dump(case))
            }));
            results.push(suite("parser: nodes", &cases, |case| {
                case["expected"]["oracle"]["nodes"]
                    .is_array()
                    .then(|| nodes(case))
            }));
            results.push(suite("parser: errors", &cases, |case| {
                let expected = &case["expected"];
                let wanted = expected["error"]
                    .as_str()
                    .or(expected["oracle"]["instructions_error"].as_str())?;
                Some(error(case, wanted))
            }));
            results.push(suite("parser: stages", &cases, |case| {
                case["expected"]["oracle"]["stages"]
                    .is_array()
                    .then(|| stages(case))
            }));
        }
        Err(message) => results.push(missing("parser_cases.json", message)),
    }
    match load(corpus, "shell_cases.json") {
        Ok(cases) => results.push(suite("parser: word expansion", &cases, |case| {
            Some(expansion(case))
        })),
        Err(message) => results.push(missing("shell_cases.json", message)),
    }
    match load(corpus, "buildkit_unit_tables.json") {
        Ok(found) => results.extend(tables::run(&found)),
        Err(message) => results.push(missing("buildkit_unit_tables.json", message)),
    }
    results
}

fn load(corpus: &Path, name: &str) -> Result<Value, String> {
    let path = corpus.join(name);
    let text = std::fs::read_to_string(&path)
        .map_err(|error| format!("could not read {}: {error}", path.display()))?;
    serde_json::from_str(&text)
        .map_err(|error| format!("could not parse {}: {error}", path.display()))
}

fn missing(name: &str, message: String) -> SuiteResult {
    SuiteResult {
        name: format!("parser: {name}"),
        failures: vec![message],
        ..SuiteResult::default()
    }
}

/// Runs `check` on each case it applies to.
fn suite(
    name: &str,
    cases: &Value,
    check: impl Fn(&Value) -> Option<Result<(), String>>,
) -> SuiteResult {
    let mut result = SuiteResult {
        name: name.to_owned(),
        ..SuiteResult::default()
    };
    for case in cases.as_array().into_iter().flatten() {
        let Some(outcome) = check(case) else { continue };
        let line = case["line"]
            .as_i64()
            .map_or(String::new(), |line| format!(":{line}"));
        let label = case["name"]
            .as_str()
            .or(case["suite"].as_str())
            .unwrap_or("?");
        result.note(&format!("{label}{line}"), outcome);
    }
    result
}

impl SuiteResult {
    pub(super) fn note(&mut self, label: &str, outcome: Result<(), String>) {
        self.total += 1;
        match outcome {
            Ok(()) => self.passed += 1,
            Err(message) => self.failures.push(format!("{label}: {message}")),
        }
    }
}

fn equal(what: &str, got: &Value, wanted: &Value) -> Result<(), String> {
    if got == wanted {
        Ok(())
    } else {
        Err(format!("{what}: got {got}, wanted {wanted}"))
    }
}

fn text(case: &Value) -> &str {
    case["dockerfile"].as_str().unwrap_or_default()
}

fn dump(case: &Value) -> Result<(), String> {
    let got = tree::parse(text(case)).dump();
    equal(
        "dump",
        &json!(got.trim()),
        &json!(
            case["expected"]["ast_dump"]
                .as_str()
                .unwrap_or_default()
                .trim()
        ),
    )
}

/// Values, flags, arguments, original text, lines and comments of every node, and the escape character and warnings.
///
/// All from the recorded answers; a case's own `lines` are not used, since one of them differs from the recording.
fn nodes(case: &Value) -> Result<(), String> {
    let oracle = &case["expected"]["oracle"];
    let found = tree::parse(text(case));
    equal(
        "escape",
        &json!(found.escape.to_string()),
        &oracle["escape"],
    )?;
    let wanted = oracle["nodes"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    equal(
        "number of nodes",
        &json!(found.nodes.len()),
        &json!(wanted.len()),
    )?;
    for (node, wanted) in found.nodes.iter().zip(wanted) {
        one_node(node, wanted)
            .map_err(|message| format!("line {}: {message}", node.lines.start))?;
    }
    // The recording has the parser's own text, which names the instruction; what people see is the check's.
    let warnings: Vec<String> = found
        .diagnostics
        .iter()
        .map(|warning| {
            let line = warning.lines.map_or(0, |lines| lines.start);
            let node = found
                .nodes
                .iter()
                .find(|node| (node.lines.start..=node.lines.end).contains(&line));
            let original = node.map_or("", |node| node.original.as_str());
            format!("{} found in: {original}", warning.message)
        })
        .collect();
    let wanted = if oracle["warnings"].is_null() {
        json!([])
    } else {
        oracle["warnings"].clone()
    };
    equal("warnings", &json!(warnings), &wanted)
}

fn one_node(node: &Node, wanted: &Value) -> Result<(), String> {
    let list = |name: &str| {
        if wanted[name].is_null() {
            json!([])
        } else {
            wanted[name].clone()
        }
    };
    let args: Vec<&str> = node.args.iter().map(|arg| arg.value.as_str()).collect();
    let flags: Vec<&str> = node.flags.iter().map(|flag| flag.value.as_str()).collect();
    equal("value", &json!(node.keyword), &wanted["value"])?;
    equal("original", &json!(node.original), &wanted["original"])?;
    equal(
        "start line",
        &json!(node.lines.start),
        &wanted["start_line"],
    )?;
    equal("end line", &json!(node.lines.end), &wanted["end_line"])?;
    equal("flags", &json!(flags), &list("flags"))?;
    equal("comments", &json!(node.comments), &list("prev_comment"))?;
    equal(
        "json",
        &json!(node.json),
        &json!(wanted["attributes"]["json"].as_bool().unwrap_or(false)),
    )?;
    if node.trigger.is_none() {
        equal("args", &json!(args), &list("args"))?;
    }
    Ok(())
}

fn error(case: &Value, wanted: &str) -> Result<(), String> {
    let parsed = parser::parse(text(case));
    // An empty file has a text of its own before it comes to the parser proper.
    let raw = tree::parse(text(case));
    let errors: Vec<String> = parsed
        .diagnostics
        .iter()
        .chain(&raw.diagnostics)
        .filter(|found| found.severity == parser::Severity::Error)
        .map(|found| {
            let help = found
                .help
                .as_deref()
                .filter(|help| help.starts_with("did you mean"));
            let hint = help.map_or(String::new(), |help| format!(" ({help})"));
            let line = found.lines.map_or(0, |lines| lines.start);
            format!(
                "dockerfile parse error on line {line}: {}{hint}",
                found.message
            )
        })
        .collect();
    // BuildKit stops at the first; it does not say the line of every kind.
    if errors.iter().any(|error| error.contains(wanted)) {
        return Ok(());
    }
    Err(format!("got {errors:?}, wanted {wanted:?}"))
}

fn stages(case: &Value) -> Result<(), String> {
    let parsed = parser::parse(text(case));
    let got: Vec<Value> = parsed
        .dockerfile
        .stages
        .iter()
        .map(|stage| {
            let commands: Vec<String> =
                stage.instructions.iter().map(|instruction| instruction.info.keyword.to_uppercase()).collect();
            let name = stage.name.as_ref().map_or(String::new(), |name| name.value.to_lowercase());
            let platform = stage.platform.as_ref().map_or("", |platform| platform.value.as_str());
            json!({"base": stage.base.value, "name": name, "platform": platform, "commands": commands})
        })
        .collect();
    let mut wanted = case["expected"]["oracle"]["stages"].clone();
    for stage in wanted.as_array_mut().into_iter().flatten() {
        for command in stage["commands"].as_array_mut().into_iter().flatten() {
            *command = json!(command.as_str().unwrap_or_default().to_uppercase());
        }
    }
    equal("stages", &json!(got), &wanted)
}

/// Variables of a case.
struct Env {
    values: HashMap<String, String>,
    any_case: bool,
}

impl Scope for Env {
    fn get(&self, name: &str) -> Option<String> {
        if self.any_case {
            return self
                .values
                .iter()
                .find(|(key, _)| key.eq_ignore_ascii_case(name))
                .map(|(_, value)| value.clone());
        }
        self.values.get(name).cloned()
    }
}

fn expansion(case: &Value) -> Result<(), String> {
    let word = case["word"].as_str().unwrap_or_default();
    let pairs = case["env"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str);
    let scope = Env {
        values: pairs
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .collect(),
        any_case: case["platform"] == "W",
    };
    let in_words = case["mode"] == "words";
    let (got, unmatched) = if in_words {
        let words = expand::words(word, '\\', &scope, Options::default());
        (words.map(|words| json!(words)), Vec::new())
    } else {
        match expand::word(word, '\\', &scope, Options::default()) {
            Ok(found) => (Ok(json!(found.text)), found.unmatched),
            Err(error) => {
                let unmatched = error.unmatched.clone();
                (Err(error), unmatched)
            }
        }
    };
    match got {
        Ok(got) if case["error"] == false => equal(word, &got, &case["expected"])?,
        Ok(got) => return Err(format!("{word}: got {got}, wanted an error")),
        Err(error) if case["error"] == true => {
            if let Some(wanted) = case["error_text"].as_str() {
                equal(word, &json!(error.message), &json!(wanted))?;
            }
        }
        Err(error) => return Err(format!("{word}: {}", error.message)),
    }
    if case["unmatched"].is_array() {
        equal("unmatched", &json!(unmatched), &case["unmatched"])?;
    }
    Ok(())
}
