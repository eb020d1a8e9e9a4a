//! `buildkit_integration.json`: the verified cases whose data is complete.

use super::SuiteResult;
use super::builds::{Build, Levels, contexts};
use super::fixture::Bases;
use serde_json::Value;
use std::path::Path;

/// Runs the verified `auto` cases; one more suite a group.
pub fn run(corpus: &Path, bases: &Bases, work: &Path) -> Vec<SuiteResult> {
    let mut levels = Levels::new("buildkit integration");
    let Ok(cases) = super::load(&corpus.join("buildkit_integration.json")) else {
        return Vec::new();
    };
    for case in cases.as_array().into_iter().flatten() {
        if case["verified"] != Value::Bool(true) || case["class"] != "auto" {
            continue;
        }
        let name = format!(
            "{} {} [{}]",
            text(&case["name"]),
            text(&case["variant"]),
            text(&case["group"])
        );
        let dir = work.join(super::file_name(&name));
        if let Err(reason) = one(case, &name, &dir, bases, &mut levels) {
            levels.fail(&name, &reason);
        }
        super::remove(&dir);
    }
    levels.into_results()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn one(
    case: &Value,
    name: &str,
    dir: &Path,
    bases: &Bases,
    levels: &mut Levels,
) -> Result<(), String> {
    contexts(dir, &case["contexts"])?;
    let store = dir.join("store");
    bases.store(&store)?;
    let goldens = case["oracle"]["golden"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let mut builds = Vec::new();
    for (number, build) in case["builds"].as_array().into_iter().flatten().enumerate() {
        builds.push(plan(
            build,
            goldens.get(number).unwrap_or(&Value::Null),
            dir,
        )?);
    }
    levels.case(name, &builds, bases, &store, || asserts(case, dir));
    Ok(())
}

fn plan(build: &Value, golden: &Value, dir: &Path) -> Result<Build, String> {
    let mut args = Vec::new();
    let attrs = build["attrs"].as_object();
    if attrs.is_some_and(|attrs| attrs.keys().any(|key| key.starts_with("attest:"))) {
        return Err("attestations are not made".to_owned());
    }
    let mut push = |flag: &str, value: String| args.extend([flag.to_owned(), value]);
    for (key, value) in build["build_args"].as_object().into_iter().flatten() {
        push("--build-arg", format!("{key}={}", text(value)));
    }
    for (key, value) in build["labels"].as_object().into_iter().flatten() {
        push("--label", format!("{key}={}", text(value)));
    }
    for (key, value) in build["named_contexts"].as_object().into_iter().flatten() {
        push(
            "--build-context",
            format!("{key}={}", registry(text(value))),
        );
    }
    for (flag, key) in [
        ("--target", "target"),
        ("--platform", "platform"),
        ("--shm-size", "shm_size"),
    ] {
        if let Some(value) = build[key].as_str() {
            push(flag, value.to_owned());
        }
    }
    for export in build["exports"].as_array().into_iter().flatten() {
        if let Some(name) = export["attrs"]["name"].as_str() {
            push("-o", format!("type=image,name={}", registry(name)));
        }
        if text(&export["type"]) == "local" {
            push(
                "-o",
                format!(
                    "type=local,dest={}",
                    export["outputdir"]["tmpdir"].as_str().unwrap_or("out")
                ),
            );
        }
    }
    if let Some(given) = build["buildctl_args"].as_str() {
        for out in given.split("dest={").skip(1) {
            push(
                "-o",
                format!("type=local,dest={}", out.split('}').next().unwrap_or("out")),
            );
        }
    }
    if build["no_cache"] == Value::Bool(true) {
        args.push("--no-cache".to_owned());
    }
    // Without a name the default is looked for in the context, as the recorded runs did.
    let same = build["dockerfile_dir"] == build["context"] || build["dockerfile_dir"].is_null();
    if let Some(file) = build["filename"].as_str() {
        args.extend([
            "-f".to_owned(),
            format!("{}/{file}", text(&build["dockerfile_dir"])),
        ]);
    } else if !same {
        args.extend([
            "-f".to_owned(),
            format!("{}/Dockerfile", text(&build["dockerfile_dir"])),
        ]);
    }
    args.push(text(&build["context"]).to_owned());
    Ok(Build {
        args,
        cwd: dir.to_owned(),
        ok: build["expect"] == "ok",
        golden: golden.clone(),
        error_contains: strings(&build["error_contains"]),
    })
}

fn registry(text: &str) -> String {
    text.replace("{registry}", super::fixture::REGISTRY)
}

fn strings(value: &Value) -> Vec<String> {
    value
        .as_array()
        .into_iter()
        .flatten()
        .map(|text_value| text(text_value).to_owned())
        .collect()
}

fn asserts(case: &Value, dir: &Path) -> Result<(), String> {
    for assert in case["asserts"].as_array().into_iter().flatten() {
        if assert["kind"] != "file" {
            continue;
        }
        let path = dir.join(text(&assert["dir"])).join(text(&assert["path"]));
        let content = std::fs::read(&path)
            .ok()
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        let exists = path.symlink_metadata().is_ok();
        if assert["absent"] == Value::Bool(true) {
            if exists {
                return Err(format!("{} must not exist", path.display()));
            }
            continue;
        }
        if !exists {
            return Err(format!("{} must exist", path.display()));
        }
        if let Some(expected) = assert["equals"].as_str()
            && content.as_deref() != Some(expected)
        {
            return Err(format!(
                "{}: expected {expected:?}, got {content:?}",
                path.display()
            ));
        }
        if let Some(expected) = assert["contains"].as_str()
            && !content.as_deref().unwrap_or_default().contains(expected)
        {
            return Err(format!(
                "{}: no {expected:?} in {content:?}",
                path.display()
            ));
        }
    }
    Ok(())
}
