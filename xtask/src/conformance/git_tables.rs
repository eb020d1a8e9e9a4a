//! The unit tables of BuildKit's Git references.

use super::SuiteResult;
use super::text;
use planner::git_url::GitUrl;
use planner::source::GitMtime;
use serde_json::{Map, Value, json};

/// Fields of a parsed reference.
pub fn references(table: &Value, result: &mut SuiteResult) {
    for row in rows(table) {
        let given = text(&row["ref"]);
        let got = GitUrl::parse(given);
        let outcome = match (row["err"].as_str(), got) {
            (Some(part), Err(error)) if error.contains(part) => Ok(()),
            (Some(part), got) => Err(format!("expected an error with {part:?}, got {got:?}")),
            (None, Err(error)) => Err(error),
            (None, Ok(git)) => {
                let got = git.map_or(Value::Null, |git| fields(&git));
                same(&got, &row["expected"])
            }
        };
        result.note(given, outcome);
    }
}

/// `remote#reference`.
pub fn fragments(table: &Value, result: &mut SuiteResult) {
    formats(table, result, false);
}

/// `remote#reference:folder`.
pub fn with_subdir(table: &Value, result: &mut SuiteResult) {
    formats(table, result, true);
}

fn formats(table: &Value, result: &mut SuiteResult, subdir: bool) {
    for row in rows(table) {
        let given = text(&row["ref"]);
        let parsed = GitUrl::parse(given);
        let got = match &parsed {
            Ok(Some(git)) => (true, fragment(git, subdir)),
            _ => (false, given.to_owned()),
        };
        let expected = (row["ok"] == true, text(&row["expected"]).to_owned());
        let outcome = (got == expected)
            .then_some(())
            .ok_or_else(|| format!("expected {expected:?}, got {got:?}"));
        result.note(given, outcome);
    }
}

fn rows(table: &Value) -> impl Iterator<Item = &Value> {
    table.as_array().into_iter().flatten()
}

fn fragment(git: &GitUrl, subdir: bool) -> String {
    let folder = git.subdir.trim_start_matches('/');
    let mut fragment = git.reference.clone();
    if subdir && !folder.is_empty() {
        fragment.push(':');
        fragment.push_str(folder);
    }
    if fragment.is_empty() {
        git.remote.clone()
    } else {
        format!("{}#{fragment}", git.remote)
    }
}

fn fields(git: &GitUrl) -> Value {
    let mut map = Map::new();
    for (name, value) in [
        ("Remote", &git.remote),
        ("ShortName", &git.short_name),
        ("Ref", &git.reference),
        ("Checksum", &git.checksum),
        ("SubDir", &git.subdir),
    ] {
        if !value.is_empty() {
            map.insert(name.to_owned(), json!(value));
        }
    }
    for (name, value) in [
        ("IndistinguishableFromLocal", git.looks_local),
        ("UnencryptedTCP", git.unencrypted),
        ("FetchByCommit", git.fetch_by_commit),
    ] {
        if value {
            map.insert(name.to_owned(), json!(true));
        }
    }
    if let Some(mtime) = git.mtime {
        let value = match mtime {
            GitMtime::Checkout => "checkout",
            GitMtime::Commit => "commit",
        };
        map.insert("MTime".to_owned(), json!(value));
    }
    Value::Object(map)
}

fn same(got: &Value, expected: &Value) -> Result<(), String> {
    (got == expected)
        .then_some(())
        .ok_or_else(|| format!("expected {expected}, got {got}"))
}
