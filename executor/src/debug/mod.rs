//! Failed steps, to be looked at: their sandboxes are kept ([`crate::request::OnFailure`]) and entered again, with the step's
//! mounts, user, environment and files, before or after its changes. What is done inside is thrown away; the kept files
//! stay as the step left them.

mod enter;
mod record;

pub use enter::{DebugRequest, Streams, enter};

use crate::Error;
use crate::build::backend::{Executor, Work};
use crate::request::OnFailure;
use crate::space::Space;
use planner::plan::{Plan, Step};
pub(crate) use record::CHANGES;
use record::Record;
use sandbox::Exit;
use std::path::Path;
use std::time::SystemTime;
use store::{Kept, Store};

/// Something kept, for people.
#[derive(Clone, Debug)]
pub struct KeptStep {
    /// Its name on the command line.
    pub id: String,
    /// When it failed.
    pub made: SystemTime,
    /// Name of the Dockerfile.
    pub dockerfile: String,
    /// `[build 2/5] RUN make`.
    pub step: String,
    /// How the command ended.
    pub exit: Exit,
}

/// Keeps the sandbox of a step that has just failed: its changes are moved away from where they are. Gives the ID; older
/// ones go as the request says.
pub(crate) fn keep(
    executor: &Executor<'_>,
    (plan, step): (&Plan, &Step),
    work: &Work<'_>,
    changes: &Path,
    exit: Exit,
) -> Result<Option<String>, Error> {
    let OnFailure::Keep(most) = executor.request.run.on_failure else {
        return Ok(None);
    };
    let record = Record::new(executor.request, (plan, step), work.inputs, exit);
    let store = executor.space.store();
    let id = store.keep((CHANGES, changes), |_| record.encode(), &record.layers())?;
    for old in store.kept()?.iter().skip(most.max(1)) {
        if old.id() != id {
            discard(executor.space, old)?;
        }
    }
    Ok(Some(id))
}

/// All that is kept, newest first. What cannot be read is left out.
///
/// # Errors
/// The store cannot be read.
pub fn list(store: &Store) -> Result<Vec<KeptStep>, Error> {
    let mut all = Vec::new();
    for kept in store.kept()? {
        let Ok(record) = Record::read(&kept) else {
            continue;
        };
        all.push(KeptStep {
            id: kept.id().to_owned(),
            made: kept.made(),
            dockerfile: record.dockerfile.clone(),
            step: record.failed().name.clone(),
            exit: record.exit,
        });
    }
    Ok(all)
}

/// Removes a kept sandbox.
///
/// # Errors
/// There is none of this name; somebody is in it.
pub fn remove(space: &Space, id: &str) -> Result<(), Error> {
    let kept = find(space.store(), Some(id))?;
    if discard(space, &kept)? {
        return Ok(());
    }
    Err(Error::Request(format!(
        "the kept sandbox {} is in use",
        kept.id()
    )))
}

/// Whether it is gone: not while somebody looks at it.
fn discard(space: &Space, kept: &Kept) -> Result<bool, Error> {
    let Some(grave) = space.store().discard_kept(kept)? else {
        return Ok(false);
    };
    // What cannot be removed now is swept by the next build.
    let _ = space.remove_tree(&grave);
    Ok(true)
}

/// By the beginning of its ID; the newest without.
fn find(store: &Store, id: Option<&str>) -> Result<Kept, Error> {
    let kept = store.kept()?;
    let Some(id) = id.filter(|id| !id.is_empty()) else {
        return kept.into_iter().next().ok_or_else(|| {
            Error::Request(
                "no sandbox of a failed step is kept: build with `--on-failure keep`".to_owned(),
            )
        });
    };
    let mut found = kept.iter().filter(|kept| kept.id().starts_with(id));
    match (found.next(), found.next()) {
        (Some(kept), None) => Ok(kept.clone()),
        (Some(_), Some(_)) => Err(Error::Request(format!(
            "several kept sandboxes begin with {id:?}: give more of the ID"
        ))),
        (None, _) => {
            let known: Vec<&str> = kept.iter().map(Kept::id).collect();
            let known = if known.is_empty() {
                "none is kept".to_owned()
            } else {
                format!("kept are: {}", known.join(", "))
            };
            Err(Error::Request(format!("no kept sandbox {id:?}; {known}")))
        }
    }
}
