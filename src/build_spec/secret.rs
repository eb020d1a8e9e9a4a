//! `--secret`: `id=ID[,src=PATH]`, `id=ID,env=NAME`, `type=file|env`.

use super::{csv, usage};
use crate::environment::Environment;
use crate::error::Failure;
use executor::request::SecretSource;
use std::path::PathBuf;

/// Parses one `--secret`: id and where its value comes from. Without `src` and `env`, the environment variable
/// named like the id is taken, else the file named like it.
pub fn parse(text: &str, environment: &Environment) -> Result<(String, SecretSource), Failure> {
    let invalid = |reason: &str| usage(format!("invalid value {text:?} for '--secret': {reason}"));
    let (mut id, mut source, mut variable, mut kind) = (None, None, None, None);
    for (key, value) in csv::pairs(text).map_err(|reason| invalid(&reason))? {
        let Some(value) = value else {
            return Err(invalid(&format!("field {key:?} must be key=value")));
        };
        match key.as_str() {
            "id" => id = Some(value),
            "src" | "source" => source = Some(value),
            "env" => variable = Some(value),
            "type" if value == "file" || value == "env" => kind = Some(value),
            "type" => {
                return Err(invalid(&format!(
                    "unknown type {value:?}: expected file or env"
                )));
            }
            _ => {
                return Err(invalid(&format!(
                    "unexpected key {key:?}: expected id, src, env or type"
                )));
            }
        }
    }
    let id = id
        .filter(|id| !id.is_empty())
        .ok_or_else(|| invalid("id is required"))?;
    if kind.as_deref() == Some("env") && variable.is_none() {
        variable = source.take();
    }
    let value = match (source, variable) {
        (Some(_), Some(_)) => return Err(invalid("give src or env, not both")),
        (Some(path), None) => file(&path)?,
        (None, Some(name)) => from_variable(&name, environment),
        (None, None) if kind.as_deref() != Some("file") && environment.get_raw(&id).is_some() => {
            from_variable(&id, environment)
        }
        (None, None) => file(&id)?,
    };
    Ok((id, value))
}

fn from_variable(name: &str, environment: &Environment) -> SecretSource {
    SecretSource::Value(
        environment
            .get_raw(name)
            .unwrap_or_default()
            .as_bytes()
            .to_vec(),
    )
}

/// As much as a secret may have, and a byte more, which is refused later.
fn read(path: &std::path::Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read as _;
    let mut data = Vec::new();
    std::fs::File::open(path)?
        .take((500 << 10) + 1)
        .read_to_end(&mut data)?;
    Ok(data)
}

/// A file, read when it is needed. A pipe (`src=<(command)`) can be read once only: that is done at once.
fn file(path: &str) -> Result<SecretSource, Failure> {
    let path = PathBuf::from(path);
    match std::fs::metadata(&path) {
        Ok(meta) if meta.is_file() => Ok(SecretSource::File(path)),
        Ok(meta) if meta.is_dir() => Err(Failure::Other(format!(
            "secret file {} is a folder",
            path.display()
        ))),
        Ok(_) => read(&path).map(SecretSource::Value).map_err(|error| {
            Failure::Other(format!("could not read secret {}: {error}", path.display()))
        }),
        Err(error) => Err(Failure::Other(format!(
            "could not read secret file {}: {error}",
            path.display()
        ))),
    }
}
