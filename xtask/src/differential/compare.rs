//! Compares what two builders made of a case: exit status, tree, config, layers, history. The differences that
//! docs/compatibility.md names are told apart from the others.

use crate::conformance::image::{self, Entry, Extra, Image};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// One builder's answer.
#[derive(Debug)]
pub struct Answer {
    /// The image, or `None` when the build failed.
    pub image: Option<Image>,
    /// Its messages.
    pub log: String,
}

/// What differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// One builds, the other refuses.
    Exit,
    /// The merged tree.
    Tree,
    /// The config.
    Config,
    /// Entries or number of layers.
    Layers,
    /// Texts of the history.
    History,
    /// Times that come from the context or an archive.
    Times,
    /// The time of a folder that BuildKit made or added to.
    FolderTimes,
    /// Extended attributes other than capabilities.
    Attributes,
    /// HEALTHCHECK as older frontends write it.
    Healthcheck,
}

impl fmt::Display for Level {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, formatter)
    }
}

/// Levels that differ, each with a description.
pub type Differences = Vec<(Level, String)>;

/// Times that a builder must keep: those of contexts and of archives.
const KEPT: &[u64] = &[super::context::TIME, super::archive::TIME];

/// Mount points that BuildKit leaves behind in images that lack them; Kiln leaves none.
const STUBS: &[&str] = &["proc", "sys", "dev", "etc/resolv.conf", "etc/hosts", "etc"];

/// Compares both answers.
pub fn compare(theirs: &Answer, ours: &Answer) -> Differences {
    let mut found = Vec::new();
    match (&theirs.image, &ours.image) {
        (Some(theirs), Some(ours)) => images(theirs, ours, &mut found),
        (None, None) => {}
        (Some(_), None) => found.push((
            Level::Exit,
            format!("only Kiln refuses: {}", message(&ours.log)),
        )),
        (None, Some(_)) => found.push((
            Level::Exit,
            format!("only BuildKit refuses: {}", message(&theirs.log)),
        )),
    }
    found
}

/// The error of a log: the line that says it.
pub fn message(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    let is_error = |line: &&&str| {
        line.starts_with("ERROR:") || line.starts_with("error:") || line.starts_with("error[")
    };
    lines
        .iter()
        .rev()
        .find(is_error)
        .or(lines.last())
        .map_or_else(String::new, |line| (*line).to_owned())
}

fn images(theirs: &Image, ours: &Image, found: &mut Differences) {
    let trees = (image::merge(&theirs.layers), image::merge(&ours.layers));
    report(Level::Tree, &trees.0, &trees.1, found);
    let configs = (normal(&theirs.config), normal(&ours.config));
    if configs.0 != configs.1 {
        found.push((Level::Config, value_difference("", &configs.0, &configs.1)));
    }
    histories(theirs, ours, found);
    if theirs.layers.len() != ours.layers.len() {
        found.push((
            Level::Layers,
            format!("{} layers, ours {}", theirs.layers.len(), ours.layers.len()),
        ));
        return;
    }
    for (number, (left, right)) in theirs.layers.iter().zip(&ours.layers).enumerate() {
        let (left, right) = (as_tree(left), as_tree(right));
        let mut inner = Vec::new();
        report(Level::Layers, &left, &right, &mut inner);
        found.extend(
            inner
                .into_iter()
                .map(|(level, text)| (level, format!("layer {number}: {text}"))),
        );
    }
    extras(theirs, ours, found);
}

/// A layer by path; a repeated entry counts as the last, a hard link with its target.
fn as_tree(layer: &[(String, Entry)]) -> BTreeMap<String, Entry> {
    layer.iter().cloned().collect()
}

fn report(
    level: Level,
    theirs: &BTreeMap<String, Entry>,
    ours: &BTreeMap<String, Entry>,
    found: &mut Differences,
) {
    let mut texts = Vec::new();
    let paths: BTreeSet<&String> = theirs.keys().chain(ours.keys()).collect();
    for path in paths {
        match (theirs.get(path), ours.get(path)) {
            (Some(_), None) if STUBS.contains(&path.as_str()) => {}
            (Some(entry), None) => texts.push(format!("missing {path:?} ({})", shown(entry))),
            (None, Some(entry)) => texts.push(format!("extra {path:?} ({})", shown(entry))),
            (Some(left), Some(right)) if left != right => {
                texts.push(format!(
                    "{path:?}: BuildKit {}, ours {}",
                    shown(left),
                    shown(right)
                ));
            }
            _ => {}
        }
    }
    if !texts.is_empty() {
        let count = texts.len();
        texts.truncate(4);
        found.push((level, format!("{count} entries: {}", texts.join("; "))));
    }
}

fn shown(entry: &Entry) -> String {
    let link = if entry.link.is_empty() {
        String::new()
    } else {
        format!(" -> {}", entry.link)
    };
    let digest = entry.sha256.get(..8).unwrap_or_default();
    format!(
        "{} {} {}:{} {digest}{link}",
        entry.kind, entry.mode, entry.uid, entry.gid
    )
}

/// Attributes that BuildKit's layers keep.
const CAPABILITY: &str = "security.capability";

/// Times from the context, and extended attributes, entry by entry of equal layers. BuildKit gives folders that it makes or adds
/// to the time of the build, and keeps no attributes but one: docs/compatibility.md lists both.
fn extras(theirs: &Image, ours: &Image, found: &mut Differences) {
    let by_path = |image: &Image| -> BTreeMap<(usize, String), (bool, Extra)> {
        let layers = image.layers.iter().zip(&image.extras).enumerate();
        layers
            .flat_map(|(number, (layer, extras))| {
                let entry = move |((path, entry), extra): (&(String, Entry), &Extra)| {
                    ((number, path.clone()), (entry.kind == "dir", extra.clone()))
                };
                layer.iter().zip(extras).map(entry)
            })
            .collect()
    };
    let (left, right) = (by_path(theirs), by_path(ours));
    for (at, (is_folder, extra)) in &left {
        let Some((_, other)) = right.get(at) else {
            continue;
        };
        let text = format!("{at:?}: BuildKit {extra:?}, ours {other:?}");
        let is_kept = KEPT.contains(&extra.mtime) || KEPT.contains(&other.mtime);
        if is_kept && extra.mtime != other.mtime {
            let made = *is_folder && !KEPT.contains(&extra.mtime);
            let level = if made {
                Level::FolderTimes
            } else {
                Level::Times
            };
            found.push((level, text.clone()));
        }
        if extra.xattrs.get(CAPABILITY) != other.xattrs.get(CAPABILITY) {
            found.push((Level::Tree, text));
        } else if extra.xattrs != other.xattrs {
            found.push((Level::Attributes, text));
        }
    }
}

/// Compares the histories' texts. Older frontends print HEALTHCHECK as Go shows a pointer; that is told apart.
fn histories(theirs: &Image, ours: &Image, found: &mut Differences) {
    let (left, right) = (history(theirs), history(ours));
    let is_pointer = |line: &String| line.starts_with("HEALTHCHECK &{");
    if left.iter().any(is_pointer) {
        found.push((Level::Healthcheck, "HEALTHCHECK &{".to_owned()));
    }
    let same =
        |(a, b): (&String, &String)| a == b || is_pointer(a) && b.starts_with("HEALTHCHECK {");
    let shorter = left.len().min(right.len());
    let at = left.iter().zip(&right).position(|pair| !same(pair));
    if at.is_none() && left.len() == right.len() {
        return;
    }
    let at = at.unwrap_or(shorter);
    let line = |lines: &[String]| lines.get(at).cloned().unwrap_or_default();
    let text = format!(
        "entry {at}: BuildKit {:?}, ours {:?}",
        line(&left),
        line(&right)
    );
    found.push((Level::History, text));
}

fn history(image: &Image) -> Vec<String> {
    let line = |entry: &Value| {
        let empty = if entry["empty_layer"] == Value::Bool(true) {
            " (empty)"
        } else {
            ""
        };
        let text = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
        format!(
            "{}{empty} [{}] [{}]",
            text("created_by"),
            text("comment"),
            text("author")
        )
    };
    image.history.iter().map(line).collect()
}

/// Drops what is empty: `null`, `""` and absence mean the same in a config.
fn normal(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map.iter().map(|(key, value)| (key.clone(), normal(value)));
            Value::Object(kept.filter(|(_, value)| !value.is_null()).collect())
        }
        other => other.clone(),
    }
}

fn value_difference(at: &str, theirs: &Value, ours: &Value) -> String {
    let (Value::Object(left), Value::Object(right)) = (theirs, ours) else {
        return format!("{at}: BuildKit {theirs}, ours {ours}");
    };
    let keys: BTreeSet<&String> = left.keys().chain(right.keys()).collect();
    let texts: Vec<String> = keys
        .into_iter()
        .filter(|key| left.get(*key) != right.get(*key))
        .map(|key| {
            let side =
                |map: &serde_json::Map<String, Value>| map.get(key).cloned().unwrap_or_default();
            value_difference(&format!("{at}.{key}"), &side(left), &side(right))
        })
        .collect();
    texts.join("; ")
}

#[cfg(test)]
mod tests {
    use super::{Answer, Level, compare};
    use crate::conformance::image::{Entry, Extra, Image};
    use serde_json::json;

    fn answer(change: impl FnOnce(&mut Image)) -> Answer {
        let entry = Entry {
            kind: "file".to_owned(),
            mode: "0644".to_owned(),
            sha256: "00112233".to_owned(),
            ..Entry::default()
        };
        let extra = Extra {
            mtime: super::super::context::TIME,
            ..Extra::default()
        };
        let mut image = Image {
            id: String::new(),
            config: json!({"config": {"User": ""}}),
            history: vec![json!({"created_by": "COPY a /"})],
            layers: vec![vec![("a".to_owned(), entry)]],
            extras: vec![vec![extra]],
        };
        change(&mut image);
        Answer {
            image: Some(image),
            log: String::new(),
        }
    }

    fn levels(ours: &Answer) -> Vec<Level> {
        let theirs = answer(|_| {});
        let found = compare(&theirs, ours).into_iter();
        found.map(|(level, _)| level).collect()
    }

    #[test]
    fn each_level_is_told() {
        let refused = Answer {
            image: None,
            log: "ERROR: no".to_owned(),
        };
        assert_eq!(levels(&answer(|_| {})), []);
        assert_eq!(levels(&refused), [Level::Exit]);
        let mode = answer(|image| image.layers[0][0].1.mode = "0600".to_owned());
        assert_eq!(levels(&mode), [Level::Tree, Level::Layers]);
        let user = answer(|image| image.config = json!({"config": {"User": "x"}}));
        assert_eq!(levels(&user), [Level::Config]);
        let empty = answer(|image| image.config = json!({"config": {"User": "", "Cmd": null}}));
        assert_eq!(levels(&empty), []);
        let history = answer(|image| image.history[0]["created_by"] = json!("COPY b /"));
        assert_eq!(levels(&history), [Level::History]);
        let time = answer(|image| image.extras[0][0].mtime = 5);
        assert_eq!(levels(&time), [Level::Times]);
        let layers = answer(|image| image.layers.push(Vec::new()));
        assert_eq!(levels(&layers), [Level::Layers]);
    }
}
