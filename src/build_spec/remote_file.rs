//! `$XDG_CONFIG_HOME/kiln/remote.toml`: pools by name, and what is used when nobody says otherwise.
//!
//! ```toml
//! executor = "ci"
//! executor-fallback = "local"
//! remote-cache = ["ci", "registry://registry.example/cache"]
//!
//! [pool.ci]
//! url = "grpcs://cluster.example/main"
//! preset = "buildbarn"
//! property = { Pool = "large" }
//! header-env = { authorization = "CLUSTER_TOKEN" }
//! allow = ["host-network"]
//! ```
//! A pool's keys are those of the flag. Paths are as they are written.

use super::usage;
use crate::environment::Environment;
use crate::error::Failure;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::PathBuf;
use toml::Value;

/// The file; empty where there is none.
#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct RemoteFile {
    executor: Option<String>,
    executor_fallback: Option<String>,
    #[serde(default)]
    remote_cache: Vec<String>,
    #[serde(default)]
    pool: BTreeMap<String, BTreeMap<String, Value>>,
}

impl RemoteFile {
    /// Reads it.
    pub fn read(environment: &Environment) -> Result<Self, Failure> {
        let Some(path) = environment.config_home() else {
            return Ok(Self::default());
        };
        let path: PathBuf = path.join("kiln/remote.toml");
        // A folder that cannot be searched, as that of another user is, has no file for us.
        if !path.is_file() {
            return Ok(Self::default());
        }
        let text = std::fs::read_to_string(&path)
            .map_err(|error| usage(format!("read {}: {error}", path.display())))?;
        Self::parse(&text).map_err(|reason| usage(format!("{}: {reason}", path.display())))
    }

    /// Reads its text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let file: Self = toml::from_str(text).map_err(|error| error.to_string())?;
        for (name, pool) in &file.pool {
            if !matches!(pool.get("url"), Some(Value::String(_))) {
                return Err(format!("pool {name:?} has no url"));
            }
            for (key, value) in pool {
                let words = words(value);
                words.ok_or_else(|| format!("pool {name:?}: {key}: expected words or a table"))?;
            }
        }
        Ok(file)
    }

    /// `executor`.
    pub fn executor(&self) -> Option<&str> {
        self.executor.as_deref()
    }

    /// `executor-fallback`.
    pub fn fallback(&self) -> Option<&str> {
        self.executor_fallback.as_deref()
    }

    /// `remote-cache`.
    pub fn caches(&self) -> impl Iterator<Item = &str> {
        self.remote_cache.iter().map(String::as_str)
    }

    /// Place and fields of a pool.
    pub fn pool(&self, name: &str) -> Option<(String, Vec<(String, String)>)> {
        let pool = self.pool.get(name)?;
        let url = pool.get("url")?.as_str()?.to_owned();
        let fields = pool
            .iter()
            .filter(|(key, _)| *key != "url")
            .flat_map(|(key, value)| {
                let each = words(value).unwrap_or_default().into_iter();
                each.map(|word| (key.clone(), word))
            })
            .collect();
        Some((url, fields))
    }

    /// Names of all pools.
    pub fn pool_names(&self) -> Vec<&str> {
        self.pool.keys().map(String::as_str).collect()
    }
}

/// A value as fields have it: a list is several fields, a table several `NAME=VALUE`.
fn words(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::Array(list) => list.iter().map(word).collect(),
        Value::Table(table) => table
            .iter()
            .map(|(name, value)| Some(format!("{name}={}", word(value)?)))
            .collect(),
        one => Some(vec![word(one)?]),
    }
}

fn word(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Integer(number) => Some(number.to_string()),
        Value::Boolean(flag) => Some(flag.to_string()),
        _ => None,
    }
}
