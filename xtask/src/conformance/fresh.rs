//! `fresh_examples.json`: generated Dockerfiles over one hard context.

use super::SuiteResult;
use super::builds::{Build, Levels};
use super::fixture::{self, Bases};
use serde_json::Value;
use std::path::Path;

/// Runs them all.
pub fn run(corpus: &Path, bases: &Bases, work: &Path) -> Vec<SuiteResult> {
    let mut levels = Levels::new("fresh examples");
    let Ok(data) = super::load(&corpus.join("fresh_examples.json")) else {
        return Vec::new();
    };
    for case in data["cases"].as_array().into_iter().flatten() {
        let name = case["name"].as_str().unwrap_or_default();
        let dir = work.join(super::file_name(name));
        if let Err(reason) = one(case, &data["context"], name, &dir, bases, &mut levels) {
            levels.fail(name, &reason);
        }
        super::remove(&dir);
    }
    levels.into_results()
}

fn one(
    case: &Value,
    ops: &Value,
    name: &str,
    dir: &Path,
    bases: &Bases,
    levels: &mut Levels,
) -> Result<(), String> {
    let context = dir.join("ctx");
    fixture::context(&context, ops)?;
    let dockerfile = case["dockerfile"].as_str().unwrap_or_default();
    std::fs::write(dir.join("Dockerfile"), dockerfile).map_err(|error| error.to_string())?;
    if let Some(ignore) = case["dockerignore"].as_str() {
        std::fs::write(context.join(".dockerignore"), ignore).map_err(|error| error.to_string())?;
    }
    let store = dir.join("store");
    bases.store(&store)?;
    let mut args = Vec::new();
    for (key, value) in case["opts"].as_object().into_iter().flatten() {
        let value = value.as_str().unwrap_or_default();
        match key.split_once(':') {
            Some(("build-arg", key)) => {
                args.extend(["--build-arg".to_owned(), format!("{key}={value}")]);
            }
            Some(("label", key)) => args.extend(["--label".to_owned(), format!("{key}={value}")]),
            _ if key == "target" => args.extend(["--target".to_owned(), value.to_owned()]),
            _ => return Err(format!("unknown option {key}")),
        }
    }
    args.extend(["-f".to_owned(), "Dockerfile".to_owned(), "ctx".to_owned()]);
    let build = Build {
        args,
        cwd: dir.to_owned(),
        ok: case["expected"]["ok"] == Value::Bool(true),
        golden: case["expected"].clone(),
        error_contains: error_tail(&case["expected"]["error"]),
    };
    levels.case(name, &[build], bases, &store, || Ok(()));
    Ok(())
}

/// The part of BuildKit's message after its own prefixes.
fn error_tail(error: &Value) -> Vec<String> {
    let text = error[0].as_str().unwrap_or_default();
    text.rsplit("failed to solve: ")
        .next()
        .filter(|tail| !tail.is_empty())
        .map_or_else(Vec::new, |tail| {
            let tail = tail.rsplit_once("::").map_or(tail, |(_, rest)| {
                rest.split_once(": ").map_or(rest, |(_, path)| path)
            });
            vec![tail.to_owned()]
        })
}
