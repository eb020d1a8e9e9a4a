//! Configs and histories that a real BuildKit gave, where `KILN_CORPUS` names the folder that has them.
#![allow(clippy::print_stderr, reason = "a test that is skipped must say so")]

use crate::build::{PATH, options};
use planner::config::{ContainerConfig, HistoryEntry, ImageConfig};
use planner::lower::{BaseRequest, LowerOptions, Lowered, ResolvedBase, ResolvedImage, lower};
use planner::plan::Target;
use planner::platform::Platform;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;

fn corpus(file: &str) -> Option<Value> {
    let Some(folder) = std::env::var_os("KILN_CORPUS") else {
        eprintln!("SKIPPED: KILN_CORPUS is not set");
        return None;
    };
    let text = std::fs::read_to_string(PathBuf::from(folder).join(file)).expect(file);
    Some(serde_json::from_str(&text).expect(file))
}

fn stand_in(request: &BaseRequest, options: &LowerOptions) -> ResolvedBase {
    if options.named_contexts.contains(&request.name) {
        return ResolvedBase::Directory(request.name.clone());
    }
    let name = request
        .name
        .split(':')
        .next()
        .unwrap_or_default()
        .rsplit('/')
        .next()
        .unwrap_or_default()
        .to_owned();
    let config = ContainerConfig {
        env: Some(vec![PATH.to_owned()]),
        cmd: Some(vec!["sh".to_owned()]),
        ..ContainerConfig::default()
    };
    ResolvedBase::Image(Box::new(ResolvedImage {
        reference: name.clone(),
        manifest_digest: String::new(),
        diff_ids: vec![format!("sha256:{name}")],
        config: ImageConfig {
            architecture: "amd64".to_owned(),
            os: "linux".to_owned(),
            config,
            ..ImageConfig::default()
        },
        history: vec![HistoryEntry {
            created_by: Some(format!("base {name}")),
            ..HistoryEntry::default()
        }],
        source: String::new(),
    }))
}

fn build(text: &str, options: &LowerOptions) -> Result<Target, String> {
    let parsed = parser::parse(text);
    let told = |found: Vec<parser::Diagnostic>| {
        let errors = found
            .into_iter()
            .filter(|found| found.severity == parser::Severity::Error);
        errors
            .map(|error| {
                [Some(error.message), error.help]
                    .into_iter()
                    .flatten()
                    .collect::<Vec<_>>()
                    .join(", ")
            })
            .collect::<Vec<_>>()
            .join("; ")
    };
    let errors = told(parsed.diagnostics);
    if !errors.is_empty() {
        return Err(errors);
    }
    let mut bases = BTreeMap::new();
    loop {
        match lower(&parsed.dockerfile, options, &bases).map_err(told)? {
            Lowered::Plan(mut plan, _) => {
                crate::build::check(&plan);
                return Ok(plan.targets.remove(0));
            }
            Lowered::Need(requests) => bases.extend(
                requests
                    .into_iter()
                    .map(|request| (request.clone(), stand_in(&request, options))),
            ),
        }
    }
}

/// What differs, as text; the recorded answer leaves out what it has not.
fn differences(target: &Target, expected: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let config = serde_json::to_value(&target.config).unwrap();
    if config != expected["config"] {
        found.push(format!(
            "config\n  ours   {config}\n  theirs {}",
            expected["config"]
        ));
    }
    let ours: Vec<Value> = target
        .history
        .iter()
        .map(|entry| json!([entry.created_by, entry.comment, entry.empty_layer]))
        .collect();
    let theirs: Vec<Value> = expected["history"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|entry| {
            json!([
                entry["created_by"],
                entry["comment"],
                entry["empty_layer"].as_bool().unwrap_or(false)
            ])
        })
        .collect();
    for index in 0..ours.len().max(theirs.len()) {
        if ours.get(index) != theirs.get(index) {
            let line = |side: &[Value]| {
                side.get(index)
                    .map_or("nothing".to_owned(), Value::to_string)
            };
            found.push(format!(
                "history {index}\n  ours   {}\n  theirs {}",
                line(&ours),
                line(&theirs)
            ));
        }
    }
    found
}

fn texts(value: &Value) -> Vec<(String, String)> {
    let pairs = value.as_object().into_iter().flatten();
    pairs
        .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
        .collect()
}

#[test]
fn fresh_examples_have_buildkit_s_config_and_history() {
    let Some(corpus) = corpus("fresh_examples.json") else {
        return;
    };
    let mut bad = Vec::new();
    let mut count = 0;
    for case in corpus["cases"].as_array().unwrap() {
        let expected = &case["expected"];
        let mut options = options();
        for (name, value) in texts(&case["opts"]) {
            match name.split_once(':') {
                Some(("build-arg", name)) => {
                    drop(options.build_args.insert(name.to_owned(), value));
                }
                Some(("label", name)) => options.labels.push((name.to_owned(), value)),
                _ => options.target = Some(value),
            }
        }
        let result = build(case["dockerfile"].as_str().unwrap(), &options);
        count += 1;
        match (result, expected["ok"].as_bool().unwrap()) {
            (Ok(target), true) => bad.extend(
                differences(&target, expected)
                    .into_iter()
                    .map(|d| format!("{}: {d}", case["name"])),
            ),
            (Err(error), true) => bad.push(format!("{}: {error}", case["name"])),
            (_, false) => {}
        }
    }
    assert!(
        bad.is_empty(),
        "{} differences in {count} cases\n{}",
        bad.len(),
        bad.join("\n")
    );
}

#[test]
fn integration_cases_have_buildkit_s_config_and_history() {
    let Some(corpus) = corpus("buildkit_integration.json") else {
        return;
    };
    let mut bad = Vec::new();
    let (mut compared, mut skipped) = (0, 0);
    for case in corpus.as_array().unwrap() {
        let goldens = case["oracle"]["golden"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        for (index, build_case) in case["builds"].as_array().unwrap().iter().enumerate() {
            let Some(golden) = goldens.get(index).filter(|golden| !golden.is_null()) else {
                continue;
            };
            let Some((text, options)) = input(case, build_case) else {
                skipped += 1;
                continue;
            };
            compared += 1;
            let name = format!("{} {} {index}", case["name"], case["variant"]);
            match (build(&text, &options), golden["config"].is_object()) {
                (Ok(target), true) => {
                    let recorded = text.contains("{registry}") || text.contains("docker.io/moby");
                    if !recorded {
                        bad.extend(
                            differences(&target, golden)
                                .into_iter()
                                .map(|d| format!("{name}: {d}\n{text}")),
                        );
                    }
                }
                (Err(error), true) => bad.push(format!("{name}: {error}\n{text}")),
                (Err(error), false) => {
                    let wanted = build_case["error_contains"]
                        .as_array()
                        .cloned()
                        .unwrap_or_default();
                    let missing = wanted
                        .iter()
                        .filter_map(Value::as_str)
                        .find(|part| !error.contains(part));
                    bad.extend(
                        missing.map(|part| format!("{name}: {error:?} does not say {part:?}")),
                    );
                }
                (Ok(_), false) => {}
            }
        }
    }
    eprintln!("{compared} compared, {skipped} skipped");
    assert!(
        bad.is_empty(),
        "{} differences in {compared} builds\n{}",
        bad.len(),
        bad.join("\n")
    );
}

/// The Dockerfile and options of a build, where they are known as data.
fn input(case: &Value, build: &Value) -> Option<(String, LowerOptions)> {
    let folder = build["dockerfile_dir"]
        .as_str()
        .or(build["context"].as_str())?;
    let wanted = build["filename"].as_str().unwrap_or("Dockerfile");
    let files = case["contexts"][folder].as_array()?;
    let file = files.iter().find(|op| {
        op["path"]
            .as_str()
            .is_some_and(|path| path.eq_ignore_ascii_case(wanted))
    })?;
    let text = file["content"].as_str()?.to_owned();
    let mut options = options();
    options.build_args = texts(&build["build_args"]).into_iter().collect();
    options.labels = texts(&build["labels"]);
    options.target = build["target"].as_str().map(str::to_owned);
    for (name, source) in texts(&build["named_contexts"]) {
        // Images only stand in for themselves here, which gives another history.
        if !source.starts_with("local:") {
            return None;
        }
        options.named_contexts.insert(name);
    }
    match &build["platform"] {
        Value::Null => {}
        Value::String(list) => {
            let parse = |text: &str| Platform::parse(text, &options.build_platform).ok();
            options.platforms = list.split(',').map(parse).collect::<Option<Vec<_>>>()?;
        }
        _ => return None,
    }
    let remote = text.contains("http") && text.contains("ADD");
    (!remote).then_some((text, options))
}
