//! `moby_cli_build.json`: tests of Docker's own builder, with what BuildKit answered to the same builds.
//!
//! BuildKit's recorded answer decides; the tests' own conditions count where their text can be evaluated (texts in the
//! output, equality of image ids, fields of the config).

use super::SuiteResult;
use super::builds::{Build, Levels, Ran, contexts, error_tail};
use super::fixture::Texts;
use super::harness::{Case, Harness};
use super::{integration, text};
use serde_json::Value;
use std::path::Path;

/// How a build reads the cache of another one.
const FROM: &str = "--cache-from=type=local,src=cache-";

/// Recorded files that the tests themselves do not want: the case, the path, what was recorded and what the test demands
/// (SHA-256 and text), and why BuildKit had it.
const STALE: &[(&str, &str, &str, [&str; 2], &str)] = &[(
    "TestBuildMultiStageMultipleBuilds",
    "foo",
    "abc",
    [
        "cb8379ac2098aa165029e3938a51da0bcecfc008fd6795f401178647f96c5b34",
        "def",
    ],
    "the second context has the file with the same size and time, and was not sent again",
)];

/// A recorded answer, with what the test demands in place of stale files.
fn corrected(golden: &Value, name: &str) -> Value {
    let mut golden = golden.clone();
    let layers = golden["layers"].as_array_mut().into_iter().flatten();
    for entry in layers.filter_map(Value::as_array_mut).flatten() {
        for (_, path, recorded, [digest, wanted], _) in
            STALE.iter().filter(|stale| name.contains(stale.0))
        {
            if entry["path"] == *path && entry["text"] == *recorded {
                entry["sha256"] = (*digest).into();
                entry["text"] = (*wanted).into();
            }
        }
    }
    golden
}

/// Runs the verified cases.
pub fn run(corpus: &Path, harness: &Harness) -> Vec<SuiteResult> {
    let Ok(data) = super::load(&corpus.join("moby_cli_build.json")) else {
        return Vec::new();
    };
    let cases = super::by_name(&data);
    harness.run("moby cli", &cases, one)
}

fn one(case: Case<'_>, levels: &mut Levels) -> Result<(), String> {
    let value = case.value;
    super::only_verified(value)?;
    contexts(case.dir, &value["contexts"], &Texts::default())?;
    case.bases.store(&case.dir.join("store"), &value["from"])?;
    let steps: Vec<&Value> = value["steps"].as_array().into_iter().flatten().collect();
    let mut builds: Vec<Build> = Vec::new();
    for step in steps.iter().filter(|step| step["op"] == "build") {
        let golden = &value["oracle"]["golden"][builds.len()];
        let mut build = plan(step, golden, case)?;
        // Builds that import do so into a store that has nothing yet.
        if build.args.iter().any(|arg| arg.starts_with(FROM)) {
            let store = format!("store{}", builds.len());
            case.bases.store(&case.dir.join(&store), &value["from"])?;
            build.store = Some(store);
        }
        builds.push(build);
    }
    levels.case(case, &builds, |ran| check(&steps, ran));
    Ok(())
}

fn plan(step: &Value, golden: &Value, case: Case<'_>) -> Result<Build, String> {
    let mut words = Vec::new();
    flatten(&step["flags"], case.name, &mut words)?;
    let mut name = step["name"].as_str().map(str::to_owned);
    let mut args = Vec::new();
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "build" => {}
            "-t" => name = words.next(),
            // An image of the daemon: its cache lies in a folder here.
            word if word.starts_with("--cache-from=") => {
                let image = word.rsplit('=').next().unwrap_or_default();
                args.push(format!("{FROM}{image}"));
            }
            // The recorded runs print progress; the text of a quiet build is not compared.
            "-q" => {}
            _ => args.push(word),
        }
    }
    if let Some(name) = name {
        if case.value["steps"].to_string().contains("--cache-from=") {
            args.push(format!("--cache-to=type=local,dest=cache-{name},mode=max"));
        }
        args.extend(["-o".to_owned(), format!("type=image,name={name}")]);
    }
    let context = step["context"]
        .as_str()
        .ok_or("left out: the corpus holds only code for the context")?;
    args.push(context.to_owned());
    Ok(Build {
        args,
        cwd: case.dir.to_owned(),
        ok: golden["ok"] == Value::Bool(true),
        golden: corrected(golden, case.name),
        // The recorded run's environment went into such files.
        random: case.value["contexts"].to_string().contains("RUN env >"),
        error_contains: error_tail(&golden["error"]),
        ..Build::default()
    })
}

/// Flags lie in lists of lists; the only code that is understood is the name of the test.
fn flatten(value: &Value, name: &str, words: &mut Vec<String>) -> Result<(), String> {
    match value {
        Value::Array(items) => items.iter().try_for_each(|item| flatten(item, name, words)),
        Value::String(word) => {
            words.push(word.clone());
            Ok(())
        }
        Value::Null => Ok(()),
        other if other["go"] == "strings.ToLower(c.Name())" => {
            words.push(name.to_lowercase());
            Ok(())
        }
        _ => Err("left out: the corpus holds only code for a flag".to_owned()),
    }
}

/// The conditions of a case, each against the builds before it.
fn check(steps: &[&Value], ran: &[Ran]) -> Result<(), String> {
    let mut done = 0;
    let context_of: Vec<&str> = steps
        .iter()
        .filter(|step| step["op"] == "build")
        .map(|step| text(&step["context"]))
        .collect();
    for step in steps {
        match text(&step["op"]) {
            "build" => done += 1,
            "assert_inspect" => inspect(step, ran[..done].last())?,
            "fail_if" => fail_if(text(&step["src"]), &ran[..done], &context_of)?,
            _ => {}
        }
    }
    Ok(())
}

fn inspect(step: &Value, last: Option<&Ran>) -> Result<(), String> {
    let field = text(&step["field"]);
    let (Some(expected), Some(image)) = (
        step["equals"].as_str(),
        last.and_then(|ran| ran.image.as_ref()),
    ) else {
        return Ok(());
    };
    // The classic builder's own record of its containers.
    if field.starts_with("ContainerConfig") {
        return Ok(());
    }
    let found = integration::config(&image.config, field);
    let same = if step["json"] == Value::Bool(true) {
        serde_json::from_str::<Value>(expected).is_ok_and(|expected| expected == found)
    } else {
        go_text(&found) == expected
    };
    if same {
        Ok(())
    } else {
        Err(format!("{field}: expected {expected}, got {found}"))
    }
}

/// A value as Go's templates print it.
fn go_text(value: &Value) -> String {
    match value {
        Value::Null => "[]".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(go_text).collect();
            format!("[{}]", items.join(" "))
        }
        Value::Object(map) if map.is_empty() => "{}".to_owned(),
        Value::Object(map) => {
            let items: Vec<String> = map
                .iter()
                .map(|(key, value)| format!("{key}:{}", go_text(value)))
                .collect();
            format!("map[{}]", items.join(" "))
        }
        other => other.to_string(),
    }
}

/// A condition that must not hold, where its text is one of the known forms.
fn fail_if(source: &str, ran: &[Ran], contexts: &[&str]) -> Result<(), String> {
    let (source, negated) = match source.strip_prefix('!') {
        Some(rest) => (rest, true),
        None => (source, false),
    };
    if let Some(literal) = source
        .strip_prefix("strings.Contains(result.Combined(), \"")
        .and_then(|rest| rest.strip_suffix("\")"))
        && let Some(last) = ran.last()
    {
        // Output can be anything but is compared only where it is plain text.
        return if last.output.contains(literal) == negated {
            Ok(())
        } else {
            Err(format!("the output fails on {source}"))
        };
    }
    let (Some((left, right)), equal) = (match source.split_once(" == ") {
        Some(pair) => (Some(pair), true),
        None => (source.split_once(" != "), false),
    }) else {
        return Ok(());
    };
    let (Some(left), Some(right)) = (number(left), number(right)) else {
        return Ok(());
    };
    // Changes of one folder between builds are code: such builds cannot be told apart.
    if equal && contexts.get(left) == contexts.get(right) {
        return Ok(());
    }
    let id = |number: usize| Some(&ran.get(number)?.image.as_ref()?.id);
    match (id(left), id(right)) {
        (Some(left), Some(right)) if (left == right) == equal => {
            Err(format!("images fail on {source}"))
        }
        _ => Ok(()),
    }
}

/// The build that a variable of the tests' code names.
fn number(variable: &str) -> Option<usize> {
    match variable {
        "origImgID" => Some(0),
        "newImgID" => Some(1),
        _ => variable
            .strip_prefix("id")?
            .parse::<usize>()
            .ok()?
            .checked_sub(1),
    }
}
