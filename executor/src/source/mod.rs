//! Remote sources: files behind URLs (`http`) and commits of Git repositories (`git`), for ADD and for contexts.
//!
//! They bring content into the store or into a folder and say by what it is known. What is made of it, and what keys
//! are made of what they say, is for others to decide. Nothing starts before something is asked for.

pub(crate) mod git;
pub(crate) mod http;

use crate::Error;
use crate::build::remote::Remote;
use crate::request::{BuildRequest, SecretSource};
use planner::scheduler::Cancel;
use std::io::Read;
use store::Store;

/// Larger secrets are no credentials.
const SECRET_LIMIT: u64 = 64 * 1024;

/// Told about bytes: done, in all (0 when unknown).
pub(crate) type Progress<'a> = &'a (dyn Fn(u64, u64) + Sync);

/// What fetching needs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sources<'a> {
    pub(crate) store: &'a Store,
    pub(crate) request: &'a BuildRequest,
    pub(crate) remote: &'a Remote,
    pub(crate) cancel: &'a Cancel,
}

impl Sources<'_> {
    /// A secret that serves as a credential, without the line feed at its end; `None` when it was not given.
    fn credential(&self, id: &str) -> Result<Option<String>, Error> {
        let bytes = match self.request.secrets.get(id) {
            None => return Ok(None),
            Some(SecretSource::Value(value)) => value.clone(),
            Some(SecretSource::File(path)) => {
                let fail = |source| Error::Io {
                    op: "read the secret",
                    path: path.clone(),
                    source,
                };
                let mut bytes = Vec::new();
                let file = std::fs::File::open(path).map_err(fail)?;
                file.take(SECRET_LIMIT)
                    .read_to_end(&mut bytes)
                    .map_err(fail)?;
                bytes
            }
        };
        let text = String::from_utf8(bytes).map_err(|_| {
            Error::Request(format!(
                "secret {id} is not text and cannot be a credential"
            ))
        })?;
        Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned()))
    }
}
