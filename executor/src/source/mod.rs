//! Remote sources: files behind URLs (`http`) and commits of Git repositories (`git`), for ADD and for contexts.
//!
//! They bring content into the store or into a folder and say by what it is known. What is made of it, and what keys
//! are made of what they say, is for others to decide. Nothing starts before something is asked for.

pub(crate) mod git;
pub(crate) mod http;

use crate::Error;
use crate::build::secrets;
use crate::remote::Remote;
use crate::request::BuildRequest;
use planner::scheduler::Cancel;
use store::Store;

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
        let Some(source) = self.request.secrets.get(id) else {
            return Ok(None);
        };
        let bytes = secrets::read(id, source)?;
        let text = String::from_utf8(bytes).map_err(|_| {
            Error::Request(format!(
                "secret {id} is not text and cannot be a credential"
            ))
        })?;
        Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned()))
    }
}
