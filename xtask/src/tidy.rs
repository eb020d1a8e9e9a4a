//! `cargo xtask tidy`: rules that neither rustfmt nor clippy checks.

use crate::shell;
use std::path::Path;
use std::process::Command;

/// Lines of a source file without its tests; test files may be longer.
const MAX_LINES: usize = 600;
const MAX_TEST_LINES: usize = 800;

/// Words that betray leftovers. In pieces, so that this file does not hold them.
const LEFTOVERS: &[&str] = &[
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X:"),
    concat!("todo", "!("),
    concat!("unimplemented", "!("),
    concat!("#[ig", "nore]"),
];

/// Files that are tables and may be long.
const TABLES: &[&str] = &["sandbox/src/seccomp/table.rs"];

/// Checks every tracked and new file.
pub fn run() -> Result<(), String> {
    let root = shell::root();
    let list = shell::output(
        Command::new("git")
            .args([
                "ls-files",
                "--cached",
                "--others",
                "--exclude-standard",
                "*.rs",
            ])
            .current_dir(&root),
    )?;
    let mut problems = Vec::new();
    let mut files = 0;
    for name in list.lines() {
        let Ok(text) = std::fs::read_to_string(root.join(name)) else {
            continue;
        };
        files += 1;
        check(name, &text, &mut problems);
    }
    if problems.is_empty() {
        println!("tidy: {files} files in order");
        return Ok(());
    }
    problems.sort();
    Err(format!(
        "{} problems:\n  {}",
        problems.len(),
        problems.join("\n  ")
    ))
}

fn check(name: &str, text: &str, problems: &mut Vec<String>) {
    let lines: Vec<&str> = text.lines().collect();
    let is_test = name.contains("/tests/") || name.starts_with("tests/");
    let production = lines
        .iter()
        .position(|line| line.trim_start().starts_with("#[cfg(test)]"))
        .unwrap_or(lines.len());
    let (length, limit) = if is_test {
        (lines.len(), MAX_TEST_LINES)
    } else {
        (production, MAX_LINES)
    };
    if length > limit && !TABLES.contains(&name) {
        problems.push(format!("{name}: {length} lines, at most {limit}"));
    }
    if !lines.iter().take(3).any(|line| line.starts_with("//!")) {
        problems.push(format!("{name}: no module header (//!) that says its job"));
    }
    for (number, line) in lines.iter().enumerate() {
        check_line(name, number + 1, line, problems);
    }
    let crate_root = ["src/lib.rs", "src/main.rs"]
        .iter()
        .any(|end| name.ends_with(end));
    let in_sandbox = Path::new(name).starts_with("sandbox");
    if crate_root && !in_sandbox && !text.contains("#![forbid(unsafe_code)]") {
        problems.push(format!("{name}: #![forbid(unsafe_code)] is missing"));
    }
}

fn check_line(name: &str, number: usize, line: &str, problems: &mut Vec<String>) {
    if let Some(word) = LEFTOVERS.iter().find(|word| line.contains(**word)) {
        problems.push(format!("{name}:{number}: {word}"));
    }
    let trimmed = line.trim_start();
    let mutable_static =
        trimmed.starts_with("static mut ") || trimmed.starts_with("pub static mut ");
    if mutable_static {
        problems.push(format!("{name}:{number}: a mutable static"));
    }
    let reads_environment = line.contains("env::var") && !line.contains("env!(");
    let is_product = !["src/", "xtask/", "testkit/", "sandbox/examples"]
        .iter()
        .any(|start| name.starts_with(start))
        && name.contains("/src/");
    if reads_environment && is_product && !name.ends_with("build.rs") {
        problems.push(format!("{name}:{number}: only src/ reads the environment"));
    }
}
