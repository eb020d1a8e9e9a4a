//! `buildah_conformance.json`: Buildah's cases with BuildKit's recorded answers.

use super::SuiteResult;
use super::builds::{Build, Levels};
use super::fixture::{self, Texts};
use super::harness::{Case, Harness};
use super::text;
use serde_json::Value;
use std::path::Path;

/// Runs the verified cases.
pub fn run(corpus: &Path, harness: &Harness) -> Vec<SuiteResult> {
    let Ok(data) = super::load(&corpus.join("buildah_conformance.json")) else {
        return Vec::new();
    };
    let cases = super::by_name(&data);
    harness.run("buildah conformance", &cases, one)
}

fn one(case: Case<'_>, levels: &mut Levels) -> Result<(), String> {
    let value = case.value;
    super::only_verified(value)?;
    let context = case.dir.join("ctx");
    let ops: Vec<Value> = value["context_files"]
        .as_array()
        .into_iter()
        .flatten()
        .map(op)
        .collect();
    fixture::context(&context, &Value::Array(ops), &Texts::default())?;
    // A Dockerfile given as text was put into the context of the recorded runs.
    let inside = !value["dockerfileContents"].is_null() && !context.join("Dockerfile").exists();
    let file = if inside {
        "ctx/Dockerfile"
    } else {
        "Dockerfile"
    };
    std::fs::write(
        case.dir.join(file),
        built_in(text(&value["dockerfile_text"])),
    )
    .map_err(|error| error.to_string())?;
    case.bases.store(&case.dir.join("store"), &value["from"])?;
    let mut args = Vec::new();
    for (key, value) in value["buildArgs"].as_object().into_iter().flatten() {
        args.extend(["--build-arg".to_owned(), format!("{key}={}", text(value))]);
    }
    args.extend(["-f".to_owned(), file.to_owned(), "ctx".to_owned()]);
    let oracle = &value["oracle"];
    let build = Build {
        args,
        cwd: case.dir.to_owned(),
        ok: oracle["ok"] == Value::Bool(true),
        golden: oracle["golden"].clone(),
        error_contains: super::builds::error_tail(&oracle["error"]),
        ..Build::default()
    };
    levels.case(case, &[build], |_| Ok(()));
    Ok(())
}

/// The recorded runs used the frontend at hand: they blanked the line that asks for another one.
fn built_in(dockerfile: &str) -> String {
    match dockerfile.split_once('\n') {
        Some((first, rest)) if first.starts_with("# syntax=") => format!("\n{rest}"),
        _ => dockerfile.to_owned(),
    }
}

/// Its file list has `type` where the other corpora have `op`.
fn op(file: &Value) -> Value {
    let mut op = file.clone();
    op["op"] = file["type"].clone();
    if op["target"].is_null() && !file["link"].is_null() {
        op["target"] = file["link"].clone();
    }
    op
}
