//! `cargo xtask features`: every feature of the language has a test that names its id (`fn ru09_...`, or `RU09` in a
//! comment of a test). It looks for names only; whether a test is worth its name it cannot know.

use crate::shell;
use std::collections::BTreeSet;
use std::process::Command;

/// The list, in the repository.
const LIST: &str = "testdata/features.tsv";

/// One row of the list.
struct Feature<'t> {
    id: &'t str,
    needs_test: bool,
}

/// Checks the list and looks for the tests.
pub fn run() -> Result<(), String> {
    let root = shell::root();
    let text = std::fs::read_to_string(root.join(LIST)).map_err(|e| format!("{LIST}: {e}"))?;
    let features = read(&text)?;
    let named = tags(&root)?;
    let missing: Vec<&str> = features
        .iter()
        .filter(|feature| feature.needs_test && !named.contains(&feature.id.to_lowercase()))
        .map(|feature| feature.id)
        .collect();
    if missing.is_empty() {
        let needed = features.iter().filter(|feature| feature.needs_test).count();
        println!("features: all {needed} have a test");
        return Ok(());
    }
    Err(format!("{LIST}: no test names {}", missing.join(" ")))
}

fn read(text: &str) -> Result<Vec<Feature<'_>>, String> {
    let mut features = Vec::new();
    let mut seen = BTreeSet::new();
    for (number, line) in text.lines().enumerate() {
        if line.starts_with('#') {
            continue;
        }
        let wrong = |what: &str| format!("{LIST}:{}: {what}", number + 1);
        let fields: Vec<&str> = line.split('\t').collect();
        let [id, description, state] = fields.as_slice() else {
            return Err(wrong("not id, description and state"));
        };
        if description.is_empty() || !seen.insert(*id) {
            return Err(wrong("no description, or an id twice"));
        }
        let needs_test = match *state {
            "tested" | "refused" => true,
            "later" => false,
            _ => return Err(wrong("the state is tested, refused or later")),
        };
        features.push(Feature { id, needs_test });
    }
    Ok(features)
}

/// Words of the names and comments of tests, in lower case.
fn tags(root: &std::path::Path) -> Result<BTreeSet<String>, String> {
    let list = shell::output(
        Command::new("git")
            .args(["ls-files", "--cached", "--others", "--exclude-standard"])
            .arg("*.rs")
            .current_dir(root),
    )?;
    let mut found = BTreeSet::new();
    for name in list.lines().filter(|name| !name.starts_with("xtask/")) {
        let Ok(text) = std::fs::read_to_string(root.join(name)) else {
            continue;
        };
        let whole = name.contains("/tests/") || name.starts_with("tests/");
        let tests = if whole {
            text.as_str()
        } else {
            text.find("#[cfg(test)]").map_or("", |at| &text[at..])
        };
        tests.lines().for_each(|line| add_tags(line, &mut found));
    }
    Ok(found)
}

fn add_tags(line: &str, found: &mut BTreeSet<String>) {
    let line = line.trim_start();
    let (text, separators): (&str, &[char]) = if line.starts_with("//") {
        (line, &[' ', ',', ';', '.', '(', ')', '`', '/', '!', '*'])
    } else if let Some(rest) = line.split_once("fn ").map(|(_, rest)| rest) {
        (rest.split('(').next().unwrap_or_default(), &['_'])
    } else {
        return;
    };
    let words = text
        .split(separators)
        .map(|word| word.trim_end_matches(':'));
    found.extend(words.filter(|word| !word.is_empty()).map(str::to_lowercase));
}

#[cfg(test)]
mod tests {
    use super::{add_tags, read};
    use std::collections::BTreeSet;

    #[test]
    fn tags_stand_in_names_and_comments() {
        let mut found = BTreeSet::new();
        for line in [
            "    fn ru09_and_ru11_secrets() {",
            "/// AC18, AC19: parents.",
            "// L:UndefinedVar CLI:no-cache",
            "let x = \"V01\";",
        ] {
            add_tags(line, &mut found);
        }
        for tag in [
            "ru09",
            "ru11",
            "ac18",
            "ac19",
            "l:undefinedvar",
            "cli:no-cache",
        ] {
            assert!(found.contains(tag), "{tag} in {found:?}");
        }
        assert!(!found.contains("v01"), "text of a test is no tag");
    }

    #[test]
    fn lists_are_checked() {
        assert_eq!(
            read("# x\nA1\ta\ttested\nA2\tb\tlater\n").map(|f| f.len()),
            Ok(2)
        );
        for bad in ["A1\ta\n", "A1\ta\ttested\nA1\ta\ttested\n", "A1\ta\tdone\n"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
