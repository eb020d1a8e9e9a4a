//! Findings of build checks as `docker buildx build` shows them: lines, summaries, frames, JSON.

use base64::Engine as _;
use parser::{Diagnostic, Lines};
use planner::checks;
use serde_json::{Value, json};
use std::fmt::Write as _;

/// A Dockerfile as messages name it, and its text.
#[derive(Clone, Copy, Debug)]
pub struct File<'a> {
    /// Name.
    pub name: &'a str,
    /// Text.
    pub text: &'a str,
}

/// The lines of a place with some around them, as BuildKit's client frames them.
pub fn frame(file: File<'_>, lines: Lines) -> String {
    let all: Vec<&str> = file.text.split('\n').collect();
    let (first, mut end) = (lines.start as usize, (lines.end as usize).min(all.len()));
    if first < 1 || first > all.len() {
        return String::new();
    }
    let mut start = first;
    // A single line has more around it than several.
    let padding = if start == end { 4 } else { 2 };
    let mut padded = 0;
    while padded < padding {
        if start > 1 {
            start -= 1;
            padded += 1;
        }
        if end != all.len() {
            end += 1;
            padded += 1;
        }
        padded += 1;
    }
    let mut out = format!("{}:{first}\n--------------------\n", file.name);
    for number in start..=end {
        let marked = (lines.start..=lines.end).any(|line| line as usize == number);
        let marker = if marked { ">>>" } else { "   " };
        let text = all[number - 1].trim_end_matches('\r');
        let _ = writeln!(out, " {number:3} | {marker} {text}");
    }
    out.push_str("--------------------\n");
    out
}

/// What stands at the end of a build: one line a finding, or all there is to say (`full`).
pub fn summary(file: File<'_>, found: &[Diagnostic], full: bool, colour: bool) -> String {
    let mut told: Vec<&Diagnostic> = Vec::new();
    for finding in found {
        if !told.contains(&finding) {
            told.push(finding);
        }
    }
    if told.is_empty() {
        return String::new();
    }
    let noun = if told.len() == 1 {
        "warning"
    } else {
        "warnings"
    };
    let hint = if full { "" } else { " (use --debug to expand)" };
    let head = format!("{} {noun} found{hint}:", told.len());
    let head = if colour {
        format!("\x1b[33m{head}\x1b[0m")
    } else {
        head
    };
    let mut out = format!("\n {head}\n");
    for finding in told {
        let _ = writeln!(out, " - {}", checks::short(finding));
        if full {
            out.push_str(&details(file, finding));
        }
    }
    out
}

fn details(file: File<'_>, finding: &Diagnostic) -> String {
    let mut out = String::new();
    if let Some(rule) = finding.code.and_then(checks::rule) {
        let _ = writeln!(out, "{}\nMore info: {}", rule.description, rule.url());
    }
    if let Some(help) = &finding.help {
        let _ = writeln!(out, "help: {help}");
    }
    if let Some(lines) = finding.lines {
        out.push_str(&frame(file, lines));
    }
    out.push('\n');
    out
}

/// What a check prints for each finding, by line.
pub fn check_report(file: File<'_>, found: &[Diagnostic]) -> String {
    let count = match found.len() {
        0 => return "Check complete, no warnings found.\n".to_owned(),
        1 => "1 warning has".to_owned(),
        many => format!("{many} warnings have"),
    };
    let mut out = format!("Check complete, {count} been found!\n");
    let mut sorted: Vec<&Diagnostic> = found.iter().collect();
    sorted.sort_by_key(|finding| finding.lines.map_or(0, |lines| lines.start));
    for finding in sorted {
        out.push_str("\nWARNING: ");
        out.push_str(finding.code.unwrap_or("warning"));
        if let Some(rule) = finding.code.and_then(checks::rule) {
            let _ = write!(out, " - {}", rule.url());
        }
        let _ = writeln!(out, "\n{}", finding.message);
        if let Some(lines) = finding.lines {
            out.push_str(&frame(file, lines));
        }
    }
    out
}

/// Findings, the file and the error as a check's JSON has them.
pub fn check_json(
    file: File<'_>,
    found: &[Diagnostic],
    error: Option<&(String, Option<Lines>)>,
) -> Value {
    let warnings: Vec<Value> = found
        .iter()
        .map(|finding| {
            let rule = finding.code.and_then(checks::rule);
            let mut warning = json!({ "ruleName": finding.code.unwrap_or_default() });
            if let Some(rule) = rule {
                warning["description"] = json!(rule.description);
                warning["url"] = json!(rule.url());
            }
            warning["detail"] = json!(finding.message);
            warning["location"] = location(finding.lines);
            warning
        })
        .collect();
    let mut report = json!({
        "warnings": if warnings.is_empty() { Value::Null } else { Value::Array(warnings) },
        "sources": [source(file)],
    });
    if let Some((message, lines)) = error {
        report["buildError"] = json!({ "message": message, "location": location(*lines) });
    }
    report
}

/// A place as BuildKit has it in JSON: one range a line.
pub fn location(lines: Option<Lines>) -> Value {
    match lines {
        Some(lines) => json!({ "ranges": ranges(lines) }),
        None => json!({}),
    }
}

fn ranges(lines: Lines) -> Vec<Value> {
    let line = |line: u32| json!({ "start": { "line": line }, "end": { "line": line } });
    (lines.start..=lines.end).map(line).collect()
}

fn source(file: File<'_>) -> Value {
    json!({ "filename": file.name, "data": base64(file.text.as_bytes()), "language": "Dockerfile" })
}

/// A finding as BuildKit's client has it in its solve status and in metadata files.
pub fn solve_warning(file: File<'_>, finding: &Diagnostic, vertex: &str) -> Value {
    let mut warning = json!({
        "vertex": vertex,
        "level": 1,
        "short": base64(checks::short(finding).as_bytes()),
    });
    if let Some(rule) = finding.code.and_then(checks::rule) {
        warning["detail"] = json!([base64(rule.description.as_bytes())]);
        warning["url"] = json!(rule.url());
    }
    if let Some(lines) = finding.lines {
        warning["sourceInfo"] = source(file);
        warning["range"] = json!(ranges(lines));
    }
    warning
}

/// Go's JSON writes byte strings in base64.
pub fn base64(data: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(data)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "FROM scratch as a\nMAINTAINER me\nCOPY b \\\n  c /\nCMD x\n";

    fn found() -> Vec<Diagnostic> {
        let parsed = parser::parse(TEXT);
        let found = checks::file(&parsed, &planner::lower::LowerOptions::default());
        found.unwrap_or_default()
    }

    fn file() -> File<'static> {
        File {
            name: "Dockerfile",
            text: TEXT,
        }
    }

    #[test]
    fn frames_have_lines_around() {
        let lines = |start, end| Lines { start, end };
        insta::assert_snapshot!(
            [lines(1, 1), lines(3, 4), lines(5, 5), lines(9, 9)]
                .map(|lines| frame(file(), lines))
                .join("\n")
        );
    }

    #[test]
    fn summaries_are_short_or_full() {
        let mut found = found();
        found.push(found[0].clone());
        insta::assert_snapshot!(format!(
            "{}{}",
            summary(file(), &found, false, false),
            summary(file(), &found[..1], true, false)
        ));
        assert_eq!(summary(file(), &[], true, true), "");
    }

    #[test]
    fn checks_are_reported() {
        insta::assert_snapshot!(check_report(file(), &found()));
        insta::assert_snapshot!(
            "check_json",
            format!(
                "{:#}",
                check_json(
                    file(),
                    &found()[..1],
                    Some(&("wrong".to_owned(), Some(Lines { start: 3, end: 4 })))
                )
            )
        );
        insta::assert_snapshot!(
            "solve_warning",
            format!("{:#}", solve_warning(file(), &found()[0], "sha256:00"))
        );
    }
}
