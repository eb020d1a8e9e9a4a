//! Differences in words: what the fields of a key are called by people, and phrases for them.

use super::sealed::CONTEXT;
use super::{BaseImage, Memo};
use crate::key::{Difference, Field, explain};

/// Longest value that a phrase quotes.
const LONGEST: usize = 60;
/// Differences that a phrase names.
const NAMED: usize = 2;
/// Digits of a digest in a phrase.
const DIGITS: usize = 12;
/// What an argument of the command is called in a key.
const ARGUMENT: &str = "argument ";

/// `[build 2/5] RUN make` without its numbers. The brackets of a step that is no instruction belong to its name.
pub(super) fn without_numbers(name: &str) -> &str {
    let rest = name
        .strip_prefix('[')
        .and_then(|rest| rest.split_once("] "))
        .filter(|(numbers, _)| numbers.contains('/'));
    rest.map_or(name, |(_, text)| text)
}

/// `at line 4`, or the name of what has no line.
pub(super) fn place(memo: &Memo) -> String {
    match memo.line {
        Some(line) => format!("at line {line}"),
        None => format!("({})", clip(&memo.text)),
    }
}

/// One line, not too long.
pub(super) fn clip(text: &str) -> String {
    let text = text.replace('\n', "\\n").replace('\t', " ");
    if text.chars().count() <= LONGEST {
        return text;
    }
    text.chars().take(LONGEST - 1).chain(['…']).collect()
}

/// `base busybox:latest sha256:abc -> sha256:def`.
pub(super) fn base(old: &BaseImage, new: &BaseImage) -> String {
    let (was, is) = (familiar(&old.reference), familiar(&new.reference));
    if was != is {
        return format!("base {was} -> {is}");
    }
    if old.digest == new.digest {
        return format!("base {is} has other layers");
    }
    format!("base {is} {} -> {}", short(&old.digest), short(&new.digest))
}

/// `base busybox:latest changed`, where nothing is known of the other one.
pub(super) fn other_base(new: &BaseImage) -> String {
    format!("base {} changed", familiar(&new.reference))
}

pub(super) fn image_fields(old: &BaseImage, new: &BaseImage) -> Vec<Difference> {
    let mut fields = Vec::new();
    let mut put = |name: &str, old: &str, new: &str| {
        if old != new {
            fields.push(Difference {
                name: name.to_owned(),
                old: Some(old.to_owned()),
                new: Some(new.to_owned()),
            });
        }
    };
    put("base", &old.reference, &new.reference);
    put("digest", &old.digest, &new.digest);
    fields
}

/// A reference as Docker shows it.
fn familiar(reference: &str) -> &str {
    let bare = reference
        .split_once('@')
        .map_or(reference, |(name, _)| name);
    let bare = bare.strip_prefix("docker.io/").unwrap_or(bare);
    bare.strip_prefix("library/").unwrap_or(bare)
}

fn short(digest: &str) -> &str {
    const PREFIX: &str = "sha256:";
    if digest.starts_with(PREFIX) {
        return digest.get(..PREFIX.len() + DIGITS).unwrap_or(digest);
    }
    digest
}

/// What differs between the fields of two steps, as people name it; and whether the files of a context do.
pub(super) fn differences(old: &Memo, new: &Memo) -> (Vec<Difference>, bool) {
    let mut found = explain(&old.fields, &new.fields);
    let files = found.iter().any(|difference| difference.name == CONTEXT);
    found.retain(|difference| difference.name != CONTEXT);
    if old.hidden && !old.sealed.is_empty() {
        let name = if old.text == new.text {
            "what it is run with"
        } else {
            "instruction or its variables"
        };
        return (vec![unknown(name.to_owned())], files);
    }
    let is_sealed = |name: &str| old.sealed.iter().any(|sealed| sealed == name);
    let has_command = found
        .iter()
        .any(|difference| difference.name.starts_with(ARGUMENT));
    found.retain(|difference| !difference.name.starts_with(ARGUMENT));
    for difference in &mut found {
        if is_sealed(&difference.name) {
            *difference = unknown(std::mem::take(&mut difference.name));
        }
        let given_as_arg = |args: &[String]| {
            difference
                .name
                .strip_prefix("env ")
                .is_some_and(|name| args.iter().any(|arg| arg == name))
        };
        if given_as_arg(&new.args) || given_as_arg(&old.args) {
            difference.name = difference.name.replacen("env ", "build arg ", 1);
        }
        if let Some(number) = difference.name.strip_prefix("heredoc ")
            && number.parse::<u32>().is_ok()
        {
            difference.name = "heredoc".to_owned();
        }
        if difference.name == "content" {
            difference.name = "content of the source".to_owned();
        }
        if difference.name == "user" {
            for value in [&mut difference.old, &mut difference.new] {
                if value.as_deref() == Some("") {
                    *value = Some("root".to_owned());
                }
            }
        }
    }
    if has_command {
        let is_unknown = old.sealed.iter().any(|name| name.starts_with(ARGUMENT));
        let name = "command".to_owned();
        let command = if is_unknown {
            unknown(name)
        } else {
            Difference {
                name,
                old: Some(command(&old.fields, &new.fields)),
                new: Some(command(&new.fields, &old.fields)),
            }
        };
        found.insert(0, command);
    }
    // Places of inputs tell nobody anything when something else does.
    if found.iter().any(|difference| !is_place(&difference.name)) {
        found.retain(|difference| !is_place(&difference.name));
    }
    // What people did comes before what it entails.
    found.sort_by_key(|difference| !difference.name.starts_with("build arg "));
    (found, files)
}

/// It differs, and what it was is not known.
fn unknown(name: String) -> Difference {
    Difference {
        name,
        old: None,
        new: None,
    }
}

fn is_place(name: &str) -> bool {
    name == "base"
        || name == "from input"
        || name.starts_with("source ") && name.ends_with(" input")
        || name.starts_with("mount ") && name.ends_with(" from")
}

/// The command; without the shell in front, where both have the same.
fn command(of: &[Field], other: &[Field]) -> String {
    let arguments = |fields: &'_ [Field]| -> Vec<String> {
        let values = fields.iter().filter(|f| f.name.starts_with(ARGUMENT));
        values.map(|field| field.value.clone()).collect()
    };
    let (own, other) = (arguments(of), arguments(other));
    let (Some((last, shell)), Some((_, other_shell))) = (own.split_last(), other.split_last())
    else {
        return own.join(" ");
    };
    if shell == other_shell && shell.last().is_some_and(|flag| flag == "-c") {
        return last.clone();
    }
    own.join(" ")
}

/// `build arg N 1 -> 2, user root -> app`.
pub(super) fn fields(differences: &[Difference]) -> String {
    let phrases = phrases(differences);
    let named = &phrases[..phrases.len().min(NAMED)];
    let more = phrases.len() - named.len();
    let text = named.join(", ");
    match more {
        0 => text,
        more => format!("{text}, and {more} more"),
    }
}

/// A phrase for each; a mount that is new or gone has one for all of its fields.
fn phrases(differences: &[Difference]) -> Vec<String> {
    let mut whole: Vec<&str> = Vec::new();
    let mut phrases = Vec::new();
    for difference in differences {
        let name = difference.name.as_str();
        let Some((mount, part)) = name
            .strip_prefix("mount ")
            .and_then(|rest| rest.split_once(' '))
        else {
            phrases.push(field(difference));
            continue;
        };
        if whole.contains(&mount) {
            continue;
        }
        let target = || {
            let name = format!("mount {mount} target");
            let found = differences.iter().find(|other| other.name == name);
            let found = found.and_then(|other| other.new.as_ref().or(other.old.as_ref()));
            found.map_or_else(String::new, |target| format!(" at {}", clip(target)))
        };
        match (part, &difference.old, &difference.new) {
            ("type", None, Some(kind)) => phrases.push(format!("{kind} mount{} added", target())),
            ("type", Some(kind), None) => phrases.push(format!("{kind} mount{} removed", target())),
            _ => {
                phrases.push(field(difference));
                continue;
            }
        }
        whole.push(mount);
    }
    phrases
}

fn field(difference: &Difference) -> String {
    let value = |value: &Option<String>| match value.as_deref() {
        None | Some("-") => "unset".to_owned(),
        Some("") => "\"\"".to_owned(),
        Some(text) => text.to_owned(),
    };
    if difference.old.is_none() && difference.new.is_none() {
        return format!("{} changed", difference.name);
    }
    let (old, new) = (value(&difference.old), value(&difference.new));
    let is_long = [&old, &new]
        .iter()
        .any(|text| text.contains('\n') || text.chars().count() > LONGEST);
    let name = &difference.name;
    if is_long || name == "content of the source" {
        return format!("{name} changed");
    }
    format!("{name} {old} -> {new}")
}
