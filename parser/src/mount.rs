//! `RUN --mount=` values: one CSV record of key=value fields, as BuildKit's `parseMount`.
//!
//! Paths are not resolved and defaults that depend on the step (targets of secrets) are not set.

use crate::quote::quote;
use crate::{csv, suggest, value};

/// Kinds of mounts.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum MountType {
    /// `bind`, the default.
    #[default]
    Bind,
    /// `cache`.
    Cache,
    /// `tmpfs`.
    Tmpfs,
    /// `secret`.
    Secret,
    /// `ssh`.
    Ssh,
}

/// `sharing=` of cache mounts.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Sharing {
    /// Several steps use it at once.
    #[default]
    Shared,
    /// A second user gets a mount of its own.
    Private,
    /// A second user waits.
    Locked,
}

/// A parsed mount.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Mount {
    /// `type`.
    pub kind: MountType,
    /// `from`.
    pub from: Option<String>,
    /// `source` / `src`.
    pub source: Option<String>,
    /// `target` / `dst` / `destination`.
    pub target: Option<String>,
    /// Resulting read-only state after defaults (bind: true unless rw).
    pub readonly: bool,
    /// `id`.
    pub id: Option<String>,
    /// `sharing`.
    pub sharing: Sharing,
    /// `required`.
    pub required: bool,
    /// `mode`.
    pub mode: Option<u32>,
    /// `uid`.
    pub uid: Option<u32>,
    /// `gid`.
    pub gid: Option<u32>,
    /// `env` of secrets.
    pub env: Option<String>,
    /// `size` of tmpfs, bytes.
    pub size: Option<u64>,
}

/// Expands one field value; given to [`parse`] by the planner, `Ok` of the same text to check only.
pub type Expander<'a> = dyn Fn(&str) -> Result<String, String> + 'a;

/// Keys, in the order in which near names are searched.
const KEYS: [&str; 19] = [
    "type",
    "from",
    "source",
    "target",
    "readonly",
    "id",
    "sharing",
    "required",
    "size",
    "mode",
    "uid",
    "gid",
    "src",
    "dst",
    "destination",
    "ro",
    "rw",
    "readwrite",
    "env",
];

const TYPES: [(&str, MountType); 5] = [
    ("bind", MountType::Bind),
    ("cache", MountType::Cache),
    ("tmpfs", MountType::Tmpfs),
    ("secret", MountType::Secret),
    ("ssh", MountType::Ssh),
];

const SHARING: [(&str, Sharing); 3] = [
    ("shared", Sharing::Shared),
    ("private", Sharing::Private),
    ("locked", Sharing::Locked),
];

impl MountType {
    /// The name as it is written.
    #[must_use]
    pub fn name(self) -> &'static str {
        TYPES
            .iter()
            .find(|(_, kind)| *kind == self)
            .map_or("", |(name, _)| name)
    }
}

/// Parses a `--mount` value. `expand` is applied to each field's value before it is read
/// (not to `from`, where a variable is an error).
///
/// # Errors
/// BuildKit's messages: unknown type or key with the nearest name, missing value, key not allowed for the type.
pub fn parse(value: &str, expand: &Expander<'_>) -> Result<Mount, String> {
    let fields = fields(value)?;
    let mut draft = Draft::default();
    for field in &fields {
        let Some((key, raw)) = field.split_once('=') else {
            draft.set_flag(field)?;
            continue;
        };
        let key = key.to_lowercase();
        if key == "from" {
            check_from(raw)?;
            draft.mount.from = some(raw.to_owned());
            continue;
        }
        draft.set(&key, expand(raw)?, field)?;
    }
    draft.finish()
}

/// Checks what can be known of a `--mount` value without variables: its form, and that `from` has none.
///
/// # Errors
/// As [`parse`].
pub fn check(value: &str) -> Result<(), String> {
    for field in fields(value)? {
        if let Some((key, raw)) = field.split_once('=')
            && key.eq_ignore_ascii_case("from")
        {
            check_from(raw)?;
        }
    }
    Ok(())
}

fn fields(value: &str) -> Result<Vec<String>, String> {
    csv::fields(value).map_err(|error| format!("failed to parse csv mounts: {error}"))
}

fn check_from(value: &str) -> Result<(), String> {
    // A dollar at the end is none of a variable.
    match value.find('$') {
        Some(at) if at + 1 < value.len() => {
            Err("'from' doesn't support variable expansion, define alias stage instead".to_owned())
        }
        _ => Ok(()),
    }
}

fn some(value: String) -> Option<String> {
    (!value.is_empty()).then_some(value)
}

fn suggested(message: String, word: &str, options: &[&str]) -> String {
    match suggest::nearest(word, options) {
        Some(near) => format!("{message} (did you mean {near}?)"),
        None => message,
    }
}

/// A mount being read: what was set, besides the values.
#[derive(Default)]
struct Draft {
    mount: Mount,
    readonly_set: bool,
    sharing_set: bool,
}

impl Draft {
    /// A field without `=`.
    fn set_flag(&mut self, field: &str) -> Result<(), String> {
        let key = field.to_lowercase();
        match key.as_str() {
            "readonly" | "ro" => self.set_readonly(true),
            "readwrite" | "rw" => self.set_readonly(false),
            "required" if self.takes_required() => self.mount.required = true,
            "required" => return Err(self.not_for_type(&key)),
            _ => return Err(format!("invalid field '{field}' must be a key=value pair")),
        }
        Ok(())
    }

    fn set(&mut self, key: &str, value: String, field: &str) -> Result<(), String> {
        let takes_required = self.takes_required();
        let mount = &mut self.mount;
        match key {
            "type" => {
                let options: Vec<&str> = TYPES.iter().map(|(name, _)| *name).collect();
                mount.kind = pick(&TYPES, &value).ok_or_else(|| {
                    suggested(
                        format!("unsupported mount type {}", quote(&value)),
                        &value,
                        &options,
                    )
                })?;
            }
            "source" | "src" => mount.source = some(value),
            "target" | "dst" | "destination" => mount.target = some(value),
            "id" => mount.id = some(value),
            "env" => mount.env = some(value),
            "readonly" | "ro" => self.set_readonly(boolean(key, &value)?),
            "readwrite" | "rw" => self.set_readonly(!boolean(key, &value)?),
            "required" if takes_required => mount.required = boolean(key, &value)?,
            "size" if mount.kind == MountType::Tmpfs => {
                mount.size = Some(
                    value::bytes(&value)
                        .ok_or_else(|| format!("invalid value for {key}: {value}"))?,
                );
            }
            "required" | "size" => return Err(self.not_for_type(key)),
            "sharing" => {
                let options: Vec<&str> = SHARING.iter().map(|(name, _)| *name).collect();
                mount.sharing = pick(&SHARING, &value).ok_or_else(|| {
                    suggested(
                        format!("unsupported sharing value {}", quote(&value)),
                        &value,
                        &options,
                    )
                })?;
                self.sharing_set = true;
            }
            "mode" => mount.mode = Some(number(key, &value, 8)?),
            "uid" => mount.uid = Some(number(key, &value, 10)?),
            "gid" => mount.gid = Some(number(key, &value, 10)?),
            _ => {
                return Err(suggested(
                    format!("unexpected key '{key}' in '{field}'"),
                    key,
                    &KEYS,
                ));
            }
        }
        Ok(())
    }

    fn set_readonly(&mut self, readonly: bool) {
        self.mount.readonly = readonly;
        self.readonly_set = true;
    }

    fn takes_required(&self) -> bool {
        matches!(self.mount.kind, MountType::Secret | MountType::Ssh)
    }

    fn not_for_type(&self, key: &str) -> String {
        format!(
            "unexpected key '{key}' for mount type '{}'",
            self.mount.kind.name()
        )
    }

    fn finish(mut self) -> Result<Mount, String> {
        let kind = self.mount.kind;
        let name = kind.name();
        let mount = &mut self.mount;
        if matches!(kind, MountType::Bind | MountType::Tmpfs) {
            let given = [("mode", mount.mode), ("uid", mount.uid), ("gid", mount.gid)];
            if let Some((key, _)) = given.iter().find(|(_, value)| value.is_some()) {
                return Err(format!("{key} not allowed for {} type mounts", quote(name)));
            }
        }
        if !self.readonly_set {
            mount.readonly = !matches!(kind, MountType::Cache | MountType::Tmpfs);
        }
        if kind == MountType::Secret {
            check_secret(mount, self.sharing_set)?;
        }
        if self.sharing_set && kind != MountType::Cache {
            return Err(format!("invalid cache sharing set for {name} mount"));
        }
        Ok(self.mount)
    }
}

fn check_secret(mount: &Mount, sharing_set: bool) -> Result<(), String> {
    let problem = if mount.from.is_some() {
        "secret mount should not have a from"
    } else if sharing_set {
        "secret mount should not define sharing"
    } else if mount.source.is_none() && mount.target.is_none() && mount.id.is_none() {
        "invalid secret mount. one of source, target required"
    } else if mount.source.is_some() && mount.id.is_some() {
        "both source and id can't be set"
    } else {
        return Ok(());
    };
    Err(problem.to_owned())
}

fn pick<T: Copy>(table: &[(&str, T)], word: &str) -> Option<T> {
    let word = word.to_lowercase();
    table
        .iter()
        .find(|(name, _)| *name == word)
        .map(|(_, value)| *value)
}

fn boolean(key: &str, value: &str) -> Result<bool, String> {
    value::boolean(value).ok_or_else(|| format!("invalid value for {key}: {value}"))
}

fn number(key: &str, value: &str, base: u32) -> Result<u32, String> {
    value::unsigned(value, base).ok_or_else(|| format!("invalid value {value} for {key}"))
}
