//! Secrets of a command: bytes that go into its memory and nowhere else.

use crate::Error;
use crate::build::mounts::Ground;
use crate::request::{BuildRequest, SecretSource};
use planner::plan::{RunMount, RunOp};
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

/// Largest secret, in bytes (BuildKit's limit).
const LIMIT: u64 = 500 << 10;

/// A secret's bytes; `None` when it is not there and need not be.
pub(crate) fn secret(
    request: &BuildRequest,
    id: &str,
    required: bool,
) -> Result<Option<Vec<u8>>, Error> {
    match request.secrets.get(id) {
        None if required => Err(Error::Secret { id: id.to_owned() }),
        None => Ok(None),
        Some(source) => read(id, source).map(Some),
    }
}

/// The bytes of a secret that was given.
pub(crate) fn read(id: &str, source: &SecretSource) -> Result<Vec<u8>, Error> {
    match source {
        SecretSource::Value(value) => checked(id, value.clone()),
        SecretSource::File(path) => {
            let file = File::open(path).map_err(|source| Error::Io {
                op: "read the secret",
                path: path.clone(),
                source,
            })?;
            read_to_limit(id, &file, path)
        }
    }
}

/// The bytes of a secret that stands in a regular file.
pub(crate) fn read_all(id: &str, file: &File, path: &Path) -> Result<Vec<u8>, Error> {
    let is_file = file.metadata().is_ok_and(|meta| meta.is_file());
    if !is_file {
        return Err(Error::Request(format!("secret {id} is no file")));
    }
    read_to_limit(id, file, path)
}

fn read_to_limit(id: &str, file: &File, path: &Path) -> Result<Vec<u8>, Error> {
    let mut data = Vec::new();
    let read = file.take(LIMIT + 1).read_to_end(&mut data);
    read.map_err(|source| Error::Io {
        op: "read the secret",
        path: path.to_owned(),
        source,
    })?;
    checked(id, data)
}

fn checked(id: &str, data: Vec<u8>) -> Result<Vec<u8>, Error> {
    if data.len() as u64 > LIMIT {
        return Err(Error::Request(format!(
            "secret {id} is larger than {LIMIT} bytes"
        )));
    }
    Ok(data)
}

/// Variables that hold secrets.
pub(crate) fn env(ground: &dyn Ground, op: &RunOp) -> Result<Vec<(String, String)>, Error> {
    let mut env = Vec::new();
    for mount in &op.mounts {
        let RunMount::Secret {
            id,
            env: Some(name),
            required,
            ..
        } = mount
        else {
            continue;
        };
        if let Some(data) = ground.secret(id, *required)? {
            let value = String::from_utf8(data)
                .ok()
                .filter(|text| !text.contains('\0'))
                .ok_or_else(|| {
                    Error::Request(format!("secret {id} is not text and cannot be a variable"))
                })?;
            env.push((name.clone(), value));
        }
    }
    Ok(env)
}
