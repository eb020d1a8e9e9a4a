//! `buildah_conformance.json`: Buildah's cases with BuildKit's recorded answers, those that need no network.

use super::SuiteResult;
use super::builds::{Build, Levels};
use super::fixture::{self, Bases};
use serde_json::Value;
use std::path::Path;

/// Runs the verified cases over the base images that are there.
pub fn run(corpus: &Path, bases: &Bases, work: &Path) -> Vec<SuiteResult> {
    let mut levels = Levels::new("buildah conformance");
    let Ok(cases) = super::load(&corpus.join("buildah_conformance.json")) else {
        return Vec::new();
    };
    for case in cases.as_array().into_iter().flatten() {
        let needs_network = case["needs_network"] == Value::Bool(true);
        if case["verified"] != Value::Bool(true) || needs_network {
            continue;
        }
        let name = case["name"].as_str().unwrap_or_default();
        let dir = work.join(super::file_name(name));
        if let Err(reason) = one(case, name, &dir, bases, &mut levels) {
            levels.fail(name, &reason);
        }
        super::remove(&dir);
    }
    levels.into_results()
}

fn one(
    case: &Value,
    name: &str,
    dir: &Path,
    bases: &Bases,
    levels: &mut Levels,
) -> Result<(), String> {
    if case["tweak"] == Value::Bool(true) || !case["transientMounts"].is_null() {
        return Err("left out: the case changes its context by code".to_owned());
    }
    let foreign = |from: &Value| {
        from.as_str()
            .is_some_and(|from| from.contains("centos") || from.contains("debian"))
    };
    if case["from"].as_array().into_iter().flatten().any(foreign) {
        return Err("left out: needs a Debian base".to_owned());
    }
    let context = dir.join("ctx");
    let ops: Vec<Value> = case["context_files"]
        .as_array()
        .into_iter()
        .flatten()
        .map(op)
        .collect();
    fixture::context(&context, &Value::Array(ops))?;
    // A Dockerfile given as text was put into the context of the recorded runs.
    let inside = !case["dockerfileContents"].is_null() && !context.join("Dockerfile").exists();
    let file = if inside {
        "ctx/Dockerfile"
    } else {
        "Dockerfile"
    };
    std::fs::write(
        dir.join(file),
        case["dockerfile_text"].as_str().unwrap_or_default(),
    )
    .map_err(|error| error.to_string())?;
    let store = dir.join("store");
    bases.store(&store)?;
    let mut args = Vec::new();
    for (key, value) in case["buildArgs"].as_object().into_iter().flatten() {
        args.extend([
            "--build-arg".to_owned(),
            format!("{key}={}", value.as_str().unwrap_or_default()),
        ]);
    }
    args.extend(["-f".to_owned(), file.to_owned(), "ctx".to_owned()]);
    let oracle = &case["oracle"];
    let build = Build {
        args,
        cwd: dir.to_owned(),
        ok: oracle["ok"] == Value::Bool(true),
        golden: oracle["golden"].clone(),
        error_contains: Vec::new(),
    };
    levels.case(name, &[build], bases, &store, || Ok(()));
    Ok(())
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
