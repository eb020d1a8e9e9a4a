//! `cargo xtask depgraph`: the workspace's crates may depend on each other only as ARCHITECTURE.md draws it.

use crate::shell;
use serde_json::Value;

/// Package, and the workspace packages that it may use (development dependencies on testkit aside).
const ALLOWED: &[(&str, &[&str])] = &[
    (
        "kiln",
        &[
            "kiln-executor",
            "kiln-parser",
            "kiln-planner",
            "kiln-registry-client",
            "kiln-remote",
            "kiln-sandbox",
            "kiln-store",
        ],
    ),
    (
        "kiln-executor",
        &[
            "kiln-parser",
            "kiln-planner",
            "kiln-registry-client",
            "kiln-remote",
            "kiln-sandbox",
            "kiln-store",
        ],
    ),
    ("kiln-parser", &[]),
    ("kiln-planner", &["kiln-parser"]),
    ("kiln-registry-client", &[]),
    ("kiln-remote", &[]),
    ("kiln-sandbox", &[]),
    ("kiln-store", &[]),
    ("kiln-testkit", &[]),
    (
        "xtask",
        &[
            "kiln-executor",
            "kiln-parser",
            "kiln-planner",
            "kiln-remote",
            "kiln-testkit",
        ],
    ),
];

/// Crates that do no I/O: these packages must not appear among their dependencies.
const PURE: &[&str] = &["kiln-parser", "kiln-planner"];
const IMPURE_LIBRARIES: &[&str] = &["tokio", "reqwest", "rustix", "libc", "tempfile"];

/// Checks the graph from `cargo metadata`.
pub fn run() -> Result<(), String> {
    let text =
        shell::output(shell::cargo().args(["metadata", "--format-version", "1", "--no-deps"]))?;
    let metadata: Value =
        serde_json::from_str(&text).map_err(|error| format!("cargo metadata: {error}"))?;
    let mut problems = Vec::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let name = package["name"].as_str().unwrap_or_default();
        let Some((_, allowed)) = ALLOWED.iter().find(|(known, _)| *known == name) else {
            problems.push(format!(
                "{name}: not in the graph; add it to xtask/src/depgraph.rs and ARCHITECTURE.md"
            ));
            continue;
        };
        check(package, name, allowed, &mut problems);
    }
    if problems.is_empty() {
        println!("depgraph: {} packages, graph as allowed", ALLOWED.len());
        return Ok(());
    }
    Err(format!("the graph is broken:\n  {}", problems.join("\n  ")))
}

fn check(package: &Value, name: &str, allowed: &[&str], problems: &mut Vec<String>) {
    for dependency in package["dependencies"].as_array().into_iter().flatten() {
        let target = dependency["name"].as_str().unwrap_or_default();
        let is_dev = dependency["kind"].as_str() == Some("dev");
        let ours = ALLOWED.iter().any(|(known, _)| *known == target);
        let dev_only = target == "kiln-testkit" && is_dev;
        if ours && !dev_only && !allowed.contains(&target) {
            problems.push(format!("{name} must not depend on {target}"));
        }
        if PURE.contains(&name) && !is_dev && IMPURE_LIBRARIES.contains(&target) {
            problems.push(format!(
                "{name} does no I/O and must not depend on {target}"
            ));
        }
    }
}
