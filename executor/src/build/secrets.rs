//! Secrets of a command: bytes that go into its memory and nowhere else.

use crate::Error;
use crate::build::backend::Executor;
use crate::request::SecretSource;
use planner::plan::{RunMount, RunOp};
use std::fs::File;
use std::io::Read;

/// Largest secret, in bytes (BuildKit's limit).
const LIMIT: u64 = 500 << 10;

/// A secret's bytes; `None` when it is not there and need not be.
pub(crate) fn secret(
    executor: &Executor<'_>,
    id: &str,
    required: bool,
) -> Result<Option<Vec<u8>>, Error> {
    match executor.request.secrets.get(id) {
        None if required => Err(Error::Secret { id: id.to_owned() }),
        None => Ok(None),
        Some(source) => read(id, source).map(Some),
    }
}

/// The bytes of a secret that was given.
pub(crate) fn read(id: &str, source: &SecretSource) -> Result<Vec<u8>, Error> {
    let data = match source {
        SecretSource::Value(value) => value.clone(),
        SecretSource::File(path) => {
            let fail = |source| Error::Io {
                op: "read the secret",
                path: path.clone(),
                source,
            };
            let mut data = Vec::new();
            File::open(path)
                .map_err(fail)?
                .take(LIMIT + 1)
                .read_to_end(&mut data)
                .map_err(fail)?;
            data
        }
    };
    if data.len() as u64 > LIMIT {
        return Err(Error::Request(format!(
            "secret {id} is larger than {LIMIT} bytes"
        )));
    }
    Ok(data)
}

/// Variables that hold secrets.
pub(crate) fn env(executor: &Executor<'_>, op: &RunOp) -> Result<Vec<(String, String)>, Error> {
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
        if let Some(data) = secret(executor, id, *required)? {
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
