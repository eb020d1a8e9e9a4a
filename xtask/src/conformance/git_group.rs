//! BuildKit's cases of Git URLs: makes the two repositories that the test describes, serves them as plain files, and
//! replays each case with their address and commits in its texts.

use super::builds::Levels;
use super::harness::Case;
use super::http::{Answer, Server};
use super::text;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

/// What the test writes into its repository: a file for each target that a case builds.
const DOCKERFILE: &str = "FROM scratch AS main\nCOPY foo out\n\nFROM scratch AS withgit\nCOPY .git/HEAD out\n\n\
                          FROM scratch AS withsubmod\nCOPY submod/file out\n\nFROM main\n";

/// Runs a case of the group.
pub fn run(case: Case<'_>, levels: &mut Levels) -> Result<(), String> {
    let scripts = scripts(case.value);
    let [sub, first, rest] = &scripts[..] else {
        return Err("left out: the corpus holds only code for a part of it".to_owned());
    };
    let folders = [case.dir.join("served-sub"), case.dir.join("served")];
    shell(&folders[0], sub)?;
    let sub_server = serve(&folders[0])?;
    shell(&folders[1], first)?;
    let path = folders[1].join("Dockerfile");
    fs::write(&path, DOCKERFILE).map_err(|error| format!("{}: {error}", path.display()))?;
    let rest = rest.replace("\u{ab}submodServerURL\u{bb}", &sub_server.url());
    shell(&folders[1], &rest)?;
    let server = serve(&folders[1])?;
    let latest = commit(&folders[1], "latest")?;
    let second = commit(&folders[1], "v0.0.2")?;
    let mut texts = case.value.to_string();
    for (name, value) in [
        ("serverURL", server.url().as_str()),
        ("commitHashLatest[:8]", &latest[..8]),
        ("commitHashLatest", &latest),
        ("commitHashV2[:8]", &second[..8]),
        ("commitHashV2", &second),
    ] {
        texts = texts.replace(&format!("\u{ab}{name}\u{bb}"), value);
    }
    let mut value: Value = serde_json::from_str(&texts).map_err(|error| error.to_string())?;
    value["needs"] = json!([]);
    let mut fails = false;
    for build in value["builds"].as_array_mut().into_iter().flatten() {
        // A case that expects no error has code there.
        fails = build["error_contains"][0].is_string();
        build["expect"] = json!(if fails { "error" } else { "ok" });
        if !build["target"].is_string() {
            build["target"] = Value::Null;
        }
    }
    // Those that the test describes by their name alone are asserted in one way for all cases.
    let kept: Vec<Value> = value["asserts"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|assert| assert["kind"] == "file" && !fails)
        .map(|assert| {
            let mut assert = assert.clone();
            assert["path"] = json!(text(&assert["path"]).trim_start_matches('/'));
            assert
        })
        .collect();
    value["asserts"] = json!(kept);
    // Only the contexts that the build uses: the others hold what other cases build.
    let used = text(&value["builds"][0]["context"]).to_owned();
    if let Some(contexts) = value["contexts"].as_object_mut() {
        contexts.retain(|name, _| *name == used);
    }
    let case = Case {
        value: &value,
        ..case
    };
    super::integration::replay(case, levels, &[])
}

/// The commands of the test, a text for each call.
fn scripts(case: &Value) -> Vec<String> {
    let asserts = case["asserts"].as_array().into_iter().flatten();
    asserts
        .filter(|assert| assert["kind"] == "shell")
        .map(|assert| {
            let lists = assert["cmds"].as_array().into_iter().flatten();
            let lines = lists.flat_map(|list| list.as_array().into_iter().flatten());
            lines.map(text).collect::<Vec<_>>().join("\n")
        })
        .collect()
}

fn git_settings(command: &mut Command) -> &mut Command {
    command
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_COUNT", "1")
        .env("GIT_CONFIG_KEY_0", "init.defaultBranch")
        .env("GIT_CONFIG_VALUE_0", "master")
}

fn shell(folder: &Path, script: &str) -> Result<(), String> {
    fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut command = Command::new("sh");
    let output = git_settings(&mut command)
        .current_dir(folder)
        .args(["-e", "-c", script])
        .output()
        .map_err(|error| format!("left out: no shell: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    Err(format!("a repository could not be made: {stderr}"))
}

fn commit(folder: &Path, tag: &str) -> Result<String, String> {
    let mut command = Command::new("git");
    let output = git_settings(&mut command)
        .current_dir(folder)
        .args(["rev-parse", tag])
        .output()
        .map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    (text.len() == 40)
        .then_some(text)
        .ok_or_else(|| format!("{tag} is not there"))
}

/// Serves what is in a folder now.
fn serve(folder: &Path) -> Result<Server, String> {
    let mut answers = BTreeMap::new();
    let mut pending = vec![folder.to_path_buf()];
    while let Some(dir) = pending.pop() {
        let fail = |error: std::io::Error| format!("{}: {error}", dir.display());
        for entry in fs::read_dir(&dir).map_err(fail)? {
            let path = entry.map_err(fail)?.path();
            if path.is_dir() {
                pending.push(path);
            } else if let Ok(below) = path.strip_prefix(folder) {
                let body = fs::read(&path).map_err(fail)?;
                let headers = Vec::new();
                answers.insert(format!("/{}", below.display()), Answer { body, headers });
            }
        }
    }
    Server::start(answers)
}
