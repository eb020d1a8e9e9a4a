//! `fresh_examples.json`: generated Dockerfiles over one hard context.

use super::SuiteResult;
use super::builds::{Build, Levels, error_tail};
use super::fixture::{self, Texts};
use super::harness::{Case, Harness};
use super::text;
use serde_json::Value;
use std::path::Path;

/// Runs them all.
pub fn run(corpus: &Path, harness: &Harness) -> Vec<SuiteResult> {
    let Ok(data) = super::load(&corpus.join("fresh_examples.json")) else {
        return Vec::new();
    };
    let cases = super::by_name(&data["cases"]);
    harness.run("fresh examples", &cases, |case, levels| {
        one(case, &data["context"], levels)
    })
}

fn one(case: Case<'_>, ops: &Value, levels: &mut Levels) -> Result<(), String> {
    let context = case.dir.join("ctx");
    fixture::context(&context, ops, &Texts::default())?;
    std::fs::write(case.dir.join("Dockerfile"), text(&case.value["dockerfile"]))
        .map_err(|error| error.to_string())?;
    if let Some(ignore) = case.value["dockerignore"].as_str() {
        std::fs::write(context.join(".dockerignore"), ignore).map_err(|error| error.to_string())?;
    }
    case.bases.store(&case.dir.join("store"), &Value::Null)?;
    let mut args = Vec::new();
    for (key, value) in case.value["opts"].as_object().into_iter().flatten() {
        let value = text(value);
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
    let expected = &case.value["expected"];
    let build = Build {
        args,
        cwd: case.dir.to_owned(),
        ok: expected["ok"] == Value::Bool(true),
        golden: expected.clone(),
        error_contains: error_tail(&expected["error"]),
        ..Build::default()
    };
    levels.case(case, &[build], |_| Ok(()));
    Ok(())
}
