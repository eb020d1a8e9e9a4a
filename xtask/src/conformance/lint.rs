//! `buildkit_lint.json`: Dockerfiles and the warnings of BuildKit's checks for them.
//!
//! Nothing is built and no registry is asked: base images are stand-ins that say as much as the checks look at.
//! Compared are rule, description, address, text, level and line; for a check of all stages the line is left out,
//! because the recorded tests do not compare it there either.

use super::{SuiteResult, load};
use parser::{Diagnostic, Parsed, Severity};
use planner::checks::{self, IgnoredFiles};
use planner::config::ImageConfig;
use planner::lower::{LowerOptions, Lowered, ResolvedBase, ResolvedImage, lower};
use planner::platform::Platform;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// Runs the cases.
pub fn run(corpus: &Path) -> Vec<SuiteResult> {
    let mut result = SuiteResult {
        name: "lint".to_owned(),
        ..SuiteResult::default()
    };
    let Ok(cases) = load(&corpus.join("buildkit_lint.json")) else {
        return Vec::new();
    };
    for case in cases.as_array().into_iter().flatten() {
        result.total += 1;
        match one(case) {
            Ok(()) => result.passed += 1,
            Err(reason) => result.failures.push(format!(
                "{} {} {}: {reason}",
                text(&case["name"]),
                case["index"],
                text(&case["variant"])
            )),
        }
    }
    vec![result]
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn one(case: &Value) -> Result<(), String> {
    let built = findings(case, false)?;
    compare("warnings", &case["warnings"], &built.warnings, true)?;
    let all = findings(case, true)?;
    let recorded = match &case["unmarshal_warnings"] {
        Value::Null => &case["warnings"],
        other => other,
    };
    compare("warnings of all stages", recorded, &all.warnings, false)?;
    // Where there is no text of an error, the error comes from the steps, which are not run here.
    let line = case["build_err_location"].as_u64();
    if line.is_some() && case["stream_build_err_regexp"].is_null() {
        let found = built.error.ok_or("no error")?;
        if found.lines.map(|lines| u64::from(lines.start)) != line {
            return Err(format!("the error is at {:?}, not {line:?}", found.lines));
        }
        for message in [&case["stream_build_err"], &case["unmarshal_build_err"]] {
            let wanted = text(message).trim_start_matches("failed to solve: ");
            if !wanted.contains(&found.message) {
                let empty = message.is_null();
                if !empty {
                    return Err(format!("the error is {:?}, not {wanted:?}", found.message));
                }
            }
        }
    } else if let Some(error) = built.error {
        return Err(format!("unexpected error: {}", error.message));
    }
    Ok(())
}

/// What a check or a build says.
#[derive(Debug, Default)]
struct Findings {
    warnings: Vec<Diagnostic>,
    error: Option<Diagnostic>,
}

fn findings(case: &Value, all_stages: bool) -> Result<Findings, String> {
    let parsed = parser::parse(text(&case["dockerfile"]));
    let options = options(case, all_stages);
    let mut found = Findings {
        warnings: checks::file(&parsed, &options)?,
        error: first_error(&parsed.diagnostics),
    };
    if found.error.is_some() {
        return Ok(found);
    }
    found.lower(&parsed, &options);
    let config = checks::Config::of(&parsed.dockerfile, &options.build_args)?;
    if let Some(message) = checks::violations(&found.warnings)
        && config.error
        && found.error.is_none()
    {
        found.error = found.warnings.first().cloned();
        if let Some(error) = &mut found.error {
            error.message = message;
        }
    }
    Ok(found)
}

impl Findings {
    fn lower(&mut self, parsed: &Parsed, options: &LowerOptions) {
        let mut bases = BTreeMap::new();
        loop {
            match lower(&parsed.dockerfile, options, &bases) {
                Ok(Lowered::Need(requests)) => {
                    bases.extend(requests.into_iter().map(|request| {
                        let image = stand_in(&request.name, &request.platform);
                        (request, ResolvedBase::Image(Box::new(image)))
                    }));
                }
                Ok(Lowered::Plan(_, warnings)) => {
                    // A build arg that nothing uses is no check's finding.
                    self.warnings
                        .extend(warnings.into_iter().filter(|found| found.code.is_some()));
                    return;
                }
                Err(found) => {
                    self.error = first_error(&found);
                    let warnings = found.into_iter();
                    self.warnings
                        .extend(warnings.filter(|found| found.severity == Severity::Warning));
                    return;
                }
            }
        }
    }
}

fn first_error(found: &[Diagnostic]) -> Option<Diagnostic> {
    found
        .iter()
        .find(|found| found.severity == Severity::Error)
        .cloned()
}

fn options(case: &Value, all_stages: bool) -> LowerOptions {
    let platform = Platform::new("linux", "amd64", "");
    let mut options = LowerOptions {
        platforms: vec![platform.clone()],
        build_platform: platform,
        all_stages,
        ..LowerOptions::default()
    };
    for (key, value) in case["frontend_attrs"].as_object().into_iter().flatten() {
        match key.strip_prefix("build-arg:") {
            Some(name) => {
                let value = text(value).to_owned();
                options.build_args.insert(name.to_owned(), value);
            }
            None if key == "target" => options.target = Some(text(value).to_owned()),
            None => {}
        }
    }
    if let Some(ignore) = case["dockerignore"].as_str() {
        options.ignored = executor::context::ignore::ignored_files(ignore);
    } else {
        options.ignored = IgnoredFiles::default();
    }
    options
}

fn stand_in(name: &str, platform: &Platform) -> ResolvedImage {
    ResolvedImage {
        reference: name.to_owned(),
        manifest_digest: String::new(),
        diff_ids: vec!["sha256:00".to_owned()],
        config: ImageConfig {
            os: platform.os.clone(),
            architecture: platform.architecture.clone(),
            ..ImageConfig::default()
        },
        history: Vec::new(),
        source: String::new(),
    }
}

fn compare(what: &str, recorded: &Value, found: &[Diagnostic], lines: bool) -> Result<(), String> {
    let shown = |warning: &Value| {
        let line = if lines {
            warning["Line"].to_string()
        } else {
            String::new()
        };
        format!(
            "{line} {} | {} | {} | {} | {}",
            warning["RuleName"],
            warning["Detail"],
            warning["Description"],
            warning["URL"],
            warning["Level"]
        )
    };
    let mut wanted: Vec<String> = recorded
        .as_array()
        .into_iter()
        .flatten()
        .map(shown)
        .collect();
    let mut given: Vec<String> = found
        .iter()
        .map(|finding| {
            let rule = finding.code.and_then(checks::rule);
            shown(&json!({
                "Line": finding.lines.map(|lines| lines.start),
                "RuleName": finding.code,
                "Detail": finding.message,
                "Description": rule.map(|rule| rule.description),
                "URL": rule.map(checks::Rule::url),
                "Level": 1,
            }))
        })
        .collect();
    wanted.sort();
    given.sort();
    if wanted == given {
        Ok(())
    } else {
        Err(format!("{what}: wanted {wanted:#?}, found {given:#?}"))
    }
}
