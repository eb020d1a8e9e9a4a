//! `--build-arg`, `--build-arg-file` and `--label`.

use super::usage;
use crate::environment::Environment;
use crate::error::Failure;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The build args: files in order, then flags, each winning over what came before; then what the environment and the
/// configuration of the docker client add where nothing was given.
pub fn build_args(
    flags: &[String],
    files: &[PathBuf],
    environment: &Environment,
) -> Result<BTreeMap<String, String>, Failure> {
    let mut args = BTreeMap::new();
    for path in files {
        let text = std::fs::read_to_string(path).map_err(|error| {
            Failure::Other(format!("could not read {}: {error}", path.display()))
        })?;
        let lines = text
            .lines()
            .map(str::trim_start)
            .filter(|line| !line.is_empty() && !line.starts_with('#'));
        for line in lines {
            add(&mut args, line, environment)
                .map_err(|reason| usage(format!("{}: {reason}", path.display())))?;
        }
    }
    for text in flags {
        add(&mut args, text, environment).map_err(usage)?;
    }
    if let Some(epoch) = environment.get("SOURCE_DATE_EPOCH") {
        args.entry("SOURCE_DATE_EPOCH".to_owned())
            .or_insert_with(|| epoch.to_owned());
    }
    for (name, value) in environment.client_proxies() {
        args.entry(name).or_insert(value);
    }
    Ok(args)
}

/// `K=V`, or `K` for the value in the environment; a bare name that is not set there is unset.
fn add(
    args: &mut BTreeMap<String, String>,
    text: &str,
    environment: &Environment,
) -> Result<(), String> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (text, environment.get_raw(text)),
    };
    if name.is_empty() {
        return Err(format!("invalid key-value pair {text:?}: empty key"));
    }
    match value {
        Some(value) => args.insert(name.to_owned(), value.to_owned()),
        None => args.remove(name),
    };
    Ok(())
}

/// `--label K=V`; a bare key has an empty value.
pub fn labels(flags: &[String]) -> Result<Vec<(String, String)>, Failure> {
    flags
        .iter()
        .map(|text| {
            let (key, value) = text.split_once('=').unwrap_or((text, ""));
            if key.is_empty() {
                return Err(usage(format!("invalid key-value pair {text:?}: empty key")));
            }
            Ok((key.to_owned(), value.to_owned()))
        })
        .collect()
}
