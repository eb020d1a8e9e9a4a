//! Files of the Container Device Interface, JSON and YAML, as far as they are needed: names, annotations, edits.

use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use yaml_rust2::{Yaml, YamlLoader};

/// Largest file read, in bytes.
const LIMIT: u64 = 4 << 20;

/// A device as its file describes it.
#[derive(Clone, Debug)]
pub(super) struct Registered {
    /// Its file.
    pub(super) path: PathBuf,
    /// Those of the file, then its own.
    pub(super) annotations: BTreeMap<String, String>,
    /// `containerEdits` of the file.
    pub(super) common: Value,
    /// Its own.
    pub(super) own: Value,
}

/// The devices of a file by their full names; `None` for a file of another kind.
pub(super) fn read(path: &Path) -> Option<Result<Vec<(String, Registered)>, String>> {
    let parse: fn(&str) -> Result<Value, String> = match path.extension()?.to_str()? {
        "json" => |text| serde_json::from_str(text).map_err(|error| error.to_string()),
        "yaml" | "yml" => yaml,
        _ => return None,
    };
    Some(text(path).and_then(|text| devices(path, &parse(&text)?)))
}

fn text(path: &Path) -> Result<String, String> {
    let fail = |error: std::io::Error| error.to_string();
    let length = std::fs::metadata(path).map_err(fail)?.len();
    if length > LIMIT {
        return Err(format!("larger than {LIMIT} bytes"));
    }
    std::fs::read_to_string(path).map_err(fail)
}

fn devices(path: &Path, spec: &Value) -> Result<Vec<(String, Registered)>, String> {
    let kind = spec["kind"].as_str().ok_or("kind is missing")?;
    let valid = kind
        .split_once('/')
        .is_some_and(|(vendor, class)| is_name(vendor, "_-.") && is_name(class, "_-"));
    if !valid {
        return Err(format!("invalid kind {kind:?}"));
    }
    if !spec["cdiVersion"].is_string() {
        return Err("cdiVersion is missing".to_owned());
    }
    let mut found = Vec::new();
    for device in spec["devices"].as_array().map_or(&[][..], Vec::as_slice) {
        let name = device["name"].as_str().ok_or("a device has no name")?;
        if !name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_-.:".contains(&byte))
        {
            return Err(format!("invalid device name {name:?}"));
        }
        let mut annotations = strings(&spec["annotations"]);
        annotations.extend(strings(&device["annotations"]));
        found.push((
            format!("{kind}={name}"),
            Registered {
                path: path.to_owned(),
                annotations,
                common: spec["containerEdits"].clone(),
                own: device["containerEdits"].clone(),
            },
        ));
    }
    Ok(found)
}

/// A vendor's or class's name: letters and digits, in the middle some signs too, first a letter.
pub(super) fn is_name(text: &str, signs: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.ends_with(|c: char| c.is_ascii_alphanumeric())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || signs.contains(c))
}

fn strings(value: &Value) -> BTreeMap<String, String> {
    let pair = |(key, value): (&String, &Value)| {
        let text = match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        (key.clone(), text)
    };
    value
        .as_object()
        .map(|map| map.iter().map(pair).collect())
        .unwrap_or_default()
}

fn yaml(text: &str) -> Result<Value, String> {
    let documents = YamlLoader::load_from_str(text).map_err(|error| error.to_string())?;
    match documents.as_slice() {
        [document] => value(document),
        _ => Err("a file has one document".to_owned()),
    }
}

fn value(yaml: &Yaml) -> Result<Value, String> {
    Ok(match yaml {
        Yaml::String(text) | Yaml::Real(text) => Value::String(text.clone()),
        Yaml::Integer(number) => Value::from(*number),
        Yaml::Boolean(flag) => Value::from(*flag),
        Yaml::Array(items) => Value::Array(items.iter().map(value).collect::<Result<_, _>>()?),
        Yaml::Hash(pairs) => {
            let mut map = Map::new();
            for (key, item) in pairs {
                let key = key.as_str().ok_or("a key is not text")?;
                map.insert(key.to_owned(), value(item)?);
            }
            Value::Object(map)
        }
        Yaml::Null => Value::Null,
        Yaml::Alias(_) | Yaml::BadValue => return Err("a value cannot be read".to_owned()),
    })
}
