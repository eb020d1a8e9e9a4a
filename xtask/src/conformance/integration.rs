//! `buildkit_integration.json`: BuildKit's own integration tests, as far as the corpus has their data.
//!
//! A case counts by its recorded answers, or, where none is recorded, by its expected status and the files and
//! configs that it asserts. What cannot be compared is left out with its reason.

use super::SuiteResult;
use super::builds::{Build, Levels, Ran, contexts};
use super::fixture::{self, Texts};
use super::harness::{Case, Harness};
use super::http::{Answer, Server};
use super::{groups, strings, text};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// What runners say of a build that the corpus does not: more flags; the folder of another store; and, as an assert,
/// that all images are one.
pub const FLAGS: &str = "runner flags";
pub const STORE: &str = "runner store";
pub const SAME_IMAGES: &str = "same images";

/// Runs all cases, one set of suites a class.
pub fn run(corpus: &Path, harness: &Harness) -> Vec<SuiteResult> {
    let Ok(data) = super::load(&corpus.join("buildkit_integration.json")) else {
        return Vec::new();
    };
    let mut classes: BTreeMap<&str, Vec<(String, &Value)>> = BTreeMap::new();
    for case in data.as_array().into_iter().flatten() {
        let name = format!(
            "{} {} [{}]",
            text(&case["name"]),
            text(&case["variant"]),
            text(&case["group"])
        );
        let class = classes.entry(text(&case["class"])).or_default();
        class.push((name, case));
    }
    let mut results = Vec::new();
    for (class, cases) in classes {
        results.extend(harness.run(&format!("buildkit integration {class}"), &cases, one));
    }
    results
}

fn one(case: Case<'_>, levels: &mut Levels) -> Result<(), String> {
    let group = text(&case.value["group"]);
    if let Some(reason) = groups::elsewhere(group) {
        return Err(format!("left out: {reason}"));
    }
    if let Some(reason) = groups::unfit(text(&case.value["name"])) {
        return Err(format!("left out: {reason}"));
    }
    if case.value["class"] == "windows" {
        return Err("left out: a build for Windows".to_owned());
    }
    match groups::runner(group) {
        Some(runner) => runner(case, levels),
        None => replay(case, levels, &[]),
    }
}

/// Replays a case from its data; `args` are added to each build.
pub fn replay(case: Case<'_>, levels: &mut Levels, args: &[String]) -> Result<(), String> {
    comparable(case.value)?;
    let server = http(case.value)?;
    let texts = Texts {
        http: server.as_ref().map(Server::url).unwrap_or_default(),
    };
    contexts(case.dir, &case.value["contexts"], &texts)?;
    std::fs::create_dir_all(case.dir.join("out1")).map_err(|error| error.to_string())?;
    case.bases
        .store(&case.dir.join("store"), &case.value["from"])?;
    // Answers that the recorded run did not get right are no measure; the case's own asserts are.
    let recorded = case.value["verified"] == Value::Bool(true);
    let builds = case.value["builds"].as_array().into_iter().flatten();
    let builds = builds
        .enumerate()
        .map(|(number, build)| {
            let mut planned = plan(build, case.dir, &texts)?;
            planned.args.splice(0..0, strings(&build[FLAGS]));
            planned.store = build[STORE].as_str().map(str::to_owned);
            planned.args.splice(0..0, args.iter().cloned());
            // A build in the folder of the first context.
            if build["context"] == "." {
                let first = case.value["contexts"].as_object();
                let first = first.and_then(|contexts| contexts.keys().next());
                planned.cwd = case.dir.join(first.map_or("", String::as_str));
            }
            if recorded {
                planned.golden = case.value["oracle"]["golden"][number].clone();
                planned.random = case.value["contexts"].to_string().contains("/dev/urandom");
                planned.alias = alias(&planned.golden, &texts);
            }
            Ok(planned)
        })
        .collect::<Result<Vec<Build>, String>>()?;
    levels.case(case, &builds, |ran| asserts(case, ran, &texts));
    Ok(())
}

/// Leaves out cases that ask for what no flag of ours can say, or that say nothing that can be compared.
fn comparable(case: &Value) -> Result<(), String> {
    let needs = strings(&case["needs"]);
    let reasons = [
        ("gateway API", "drives BuildKit's gateway API"),
        ("git", "needs a Git server"),
        ("ssh agent", "needs an SSH agent"),
        ("secret", "needs secrets of a session"),
        ("insecure", "needs RUN --security=insecure"),
        ("net host", "needs the network mode host"),
    ];
    for (need, reason) in reasons {
        if needs.iter().any(|text| text == need) {
            return Err(format!("left out: {reason}"));
        }
    }
    // Where only an image or a server was missing in the recorded run, the case's own asserts count.
    let oracle = &case["oracle"];
    let missing = oracle["notes"].to_string();
    if oracle["status"] == "fail" && !missing.contains("not found") && !missing.contains(": EOF") {
        return Err("left out: BuildKit itself fails on the stand-in bases".to_owned());
    }
    let builds = || case["builds"].as_array().into_iter().flatten();
    if builds().next().is_none() {
        return Err("left out: nothing recorded that can be compared".to_owned());
    }
    let unresolved = builds().any(|build| build.to_string().contains('«'));
    if unresolved || case["contexts"].to_string().contains('«') {
        return Err("left out: the corpus holds only code for a part of it".to_owned());
    }
    Ok(())
}

/// The server of a case whose texts name one.
fn http(case: &Value) -> Result<Option<Server>, String> {
    let mut answers = BTreeMap::new();
    let asserts = case["asserts"].as_array().into_iter().flatten();
    for assert in asserts.filter(|assert| assert["kind"] == "http_server") {
        for (path, response) in assert["responses"].as_object().into_iter().flatten() {
            let body = fixture::content(&response["Content"], &Texts::default())?;
            let headers = Vec::new();
            answers.insert(path.clone(), Answer { body, headers });
        }
    }
    if answers.is_empty() {
        return Ok(None);
    }
    Server::start(answers).map(Some)
}

/// Our server's address and the recorded run's.
fn alias(golden: &Value, texts: &Texts) -> Option<(String, String)> {
    let recorded = golden["history"].to_string();
    let start = recorded.find("http://127.0.0.1:")?;
    let rest = &recorded[start + "http://".len()..];
    let end = rest.find('/')?;
    Some((texts.http.clone(), format!("http://{}", &rest[..end])))
}

/// The flags of one build.
fn plan(build: &Value, dir: &Path, texts: &Texts) -> Result<Build, String> {
    let mut args = attrs(build)?;
    let mut push = |flag: &str, value: String| args.extend([flag.to_owned(), value]);
    for (key, value) in build["build_args"].as_object().into_iter().flatten() {
        push("--build-arg", format!("{key}={}", text(value)));
    }
    for (key, value) in build["labels"].as_object().into_iter().flatten() {
        push("--label", format!("{key}={}", text(value)));
    }
    for (key, value) in build["named_contexts"].as_object().into_iter().flatten() {
        let value = value
            .as_str()
            .ok_or("left out: the corpus holds only code for a named context")?;
        // A folder that the client sends under a name.
        let value = match value.strip_prefix("local:") {
            Some(name) => text(&build["locals"][name]),
            None => value,
        };
        push("--build-context", format!("{key}={}", texts.fill(value)));
    }
    for entitlement in strings(&build["allowedentitlements"]) {
        push("--allow", entitlement);
    }
    if build["platform"].is_object() {
        return Err("left out: the corpus holds only code for the platform".to_owned());
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
    outputs(build, texts, &mut push);
    if build["no_cache"] == Value::Bool(true) {
        args.push("--no-cache".to_owned());
    }
    // Without a name the default is looked for in the context, as the recorded runs did.
    let (folder, file) = (&build["dockerfile_dir"], build["filename"].as_str());
    if folder.is_null() {
        // A name inside a remote context.
        args.extend(
            file.map(|file| ["-f".to_owned(), file.to_owned()])
                .into_iter()
                .flatten(),
        );
    } else if file.is_some() || *folder != build["context"] {
        let path = format!("{}/{}", text(folder), file.unwrap_or("Dockerfile"));
        args.extend(["-f".to_owned(), path]);
    }
    let context = build["attrs"]["context"]
        .as_str()
        .or(build["context"].as_str())
        .ok_or("left out: the corpus holds only code for the context")?;
    args.push(texts.fill(context));
    Ok(Build {
        args,
        cwd: dir.to_owned(),
        ok: build["expect"] == "ok",
        error_contains: strings(&build["error_contains"])
            .iter()
            .map(|part| texts.fill(part))
            .collect(),
        ..Build::default()
    })
}

/// Flags that frontend attributes stand for; some of them no flag of ours can say.
fn attrs(build: &Value) -> Result<Vec<String>, String> {
    for (key, reason) in [
        ("session", "needs a session of BuildKit's client"),
        ("sourcepolicy", "needs a source policy"),
        ("cacheexports", "needs a registry"),
        ("ocistores", "needs a client's OCI store"),
        ("cgroup_parent", "sets cgroups"),
    ] {
        if !build[key].is_null() {
            return Err(format!("left out: {reason}"));
        }
    }
    for (key, value) in build["attrs"].as_object().into_iter().flatten() {
        let reason = match key.split(':').next().unwrap_or_default() {
            "context" if value.is_string() => continue,
            // The built-in frontend, named.
            "cmdline" | "source" if value == "dockerfile.v0" => continue,
            "attest" => "asks for attestations, which Kiln does not make",
            "cache-from" => "needs a registry",
            "memory" => "sets cgroups",
            _ => "needs a session of BuildKit's client",
        };
        return Err(format!("left out: {reason}"));
    }
    Ok(Vec::new())
}

fn outputs(build: &Value, texts: &Texts, push: &mut impl FnMut(&str, String)) {
    for export in build["exports"].as_array().into_iter().flatten() {
        if let Some(name) = export["attrs"]["name"].as_str() {
            push("-o", format!("type=image,name={}", texts.fill(name)));
        }
        let kind = text(&export["type"]);
        let dest = match export["outputdir"]["tmpdir"].as_str() {
            Some(dest) => dest,
            // Code that writes the archive where the asserts look for it.
            None if export["output"].is_object() && matches!(kind, "oci" | "tar") => "out1/out.tar",
            None => continue,
        };
        let mut output = format!("type={kind},dest={dest}");
        for (key, value) in export["attrs"].as_object().into_iter().flatten() {
            output.push_str(&format!(",{key}={}", text(value)));
        }
        push("-o", output);
    }
    if let Some(given) = build["buildctl_args"].as_str() {
        for out in given.split("dest={").skip(1) {
            let dest = out.split('}').next().unwrap_or("out");
            push("-o", format!("type=local,dest={dest}"));
        }
    }
}

fn asserts(case: Case<'_>, ran: &[Ran], texts: &Texts) -> Result<(), String> {
    for assert in case.value["asserts"].as_array().into_iter().flatten() {
        match text(&assert["kind"]) {
            "file" => file(assert, case.dir, texts)?,
            SAME_IMAGES => {
                let ids = || {
                    ran.iter()
                        .map(|ran| ran.image.as_ref().map(|image| &image.id))
                };
                if ids().any(|id| Some(id) != ids().next()) {
                    return Err("the images are not the same".to_owned());
                }
            }
            // Counts history of the real base image; the recorded history is compared instead.
            "config_len" if case.value["verified"] == Value::Bool(true) => {}
            kind @ ("config" | "config_len") => {
                let number = assert["after_build"].as_u64().unwrap_or_default();
                let image = usize::try_from(number)
                    .ok()
                    .and_then(|number| ran.get(number))
                    .and_then(|ran| ran.image.as_ref())
                    .ok_or("an assert names a build that made no image")?;
                let path = text(&assert["path"]);
                let found = if path == "History" {
                    Value::Array(image.history.clone())
                } else {
                    config(&image.config, path)
                };
                let found = match (kind, found) {
                    ("config_len", found) => {
                        serde_json::json!(found.as_array().map_or(0, Vec::len))
                    }
                    (_, found) => found,
                };
                if found != assert["equals"] {
                    return Err(format!(
                        "{path}: expected {}, got {found}",
                        assert["equals"]
                    ));
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// A field by the name that Go's image type gives it: `Config.Cmd` is `config.Cmd` in JSON.
pub fn config(image: &Value, path: &str) -> Value {
    match path.split_once('.') {
        Some(("Config", field)) => image["config"][field].clone(),
        _ => image[path.to_lowercase()].clone(),
    }
}

fn file(assert: &Value, dir: &Path, texts: &Texts) -> Result<(), String> {
    let path = dir.join(text(&assert["dir"])).join(text(&assert["path"]));
    let exists = path.symlink_metadata().is_ok();
    if assert["absent"] == Value::Bool(true) {
        return if exists {
            Err(format!("{} must not exist", path.display()))
        } else {
            Ok(())
        };
    }
    if !exists {
        return Err(format!("{} must exist", path.display()));
    }
    let found = std::fs::read(&path).unwrap_or_default();
    let shown = || String::from_utf8_lossy(&found).into_owned();
    // Expected values that are code are not compared.
    if !assert["equals"].is_null() && assert["equals"]["go"].is_null() {
        let expected = match fixture::content(&assert["equals"], texts) {
            Err(reason) if reason.starts_with(super::builds::LEFT_OUT) => return Ok(()),
            expected => expected?,
        };
        if found != expected {
            return Err(format!(
                "{}: expected {:?}, got {:?}",
                path.display(),
                String::from_utf8_lossy(&expected),
                shown()
            ));
        }
    }
    if let Some(expected) = assert["contains"].as_str()
        && !shown().contains(expected)
    {
        return Err(format!(
            "{}: no {expected:?} in {:?}",
            path.display(),
            shown()
        ));
    }
    Ok(())
}
