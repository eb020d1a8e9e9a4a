//! Steps that bring remote sources: what each stands for is found out before anything runs, several at once, for keys
//! are made of it; its layer is made when a step needs it.

use crate::Error;
use crate::context::{Context, IgnoreRules};
use crate::copy::{self, CopySourceTree};
use crate::layer::Written;
use crate::snapshot::Snapshot;
use crate::source::Sources;
use crate::source::git::GitCommit;
use crate::source::http::HttpFile;
use crate::space::Space;
use planner::key::ContentId;
use planner::plan::{CopyFrom, CopyOp, CopySource, Op, Plan, Step, StepId};
use planner::scheduler::{Observer, StepEvent};
use planner::source::GitSource;
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Sources asked for at once.
const PARALLEL: usize = 6;

/// What a source stands for.
#[derive(Clone, Debug)]
enum Found {
    Http(HttpFile),
    Git(GitCommit),
}

/// The sources of a plan.
#[derive(Debug)]
pub(crate) struct RemoteSteps<'a> {
    sources: Sources<'a>,
    found: Mutex<HashMap<StepId, Result<Found, Error>>>,
}

impl<'a> RemoteSteps<'a> {
    pub(crate) fn new(sources: Sources<'a>) -> Self {
        Self {
            sources,
            found: Mutex::default(),
        }
    }

    /// Finds out what all sources of a plan stand for. What goes wrong is told when the step is asked about.
    pub(crate) fn find_all(&self, plan: &Plan, events: &dyn Observer) {
        let steps: Vec<&Step> = plan
            .steps
            .iter()
            .filter(|step| matches!(step.op, Op::Http(_) | Op::Git(_)))
            .collect();
        let workers = steps.len().min(PARALLEL);
        let queue = Mutex::new(steps.into_iter());
        let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
        let work = || {
            while let Some(step) = next() {
                let found = self.find(step, events);
                self.table().insert(step.id, found);
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..workers {
                scope.spawn(work);
            }
            work();
        });
    }

    fn find(&self, step: &Step, events: &dyn Observer) -> Result<Found, Error> {
        match &step.op {
            Op::Http(http) => {
                let progress = |done, total| {
                    let what = step.origin.name.clone();
                    events.event(step.id, StepEvent::Transfer { what, done, total });
                };
                Ok(Found::Http(self.sources.download(http, &progress)?))
            }
            Op::Git(git) => Ok(Found::Git(self.sources.resolve_git(git)?)),
            _ => unreachable!("BUG: only remote sources are found"),
        }
    }

    fn table(&self) -> MutexGuard<'_, HashMap<StepId, Result<Found, Error>>> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn found(&self, step: &Step) -> Result<Found, Error> {
        let mut table = self.table();
        match table.remove(&step.id) {
            Some(Ok(found)) => {
                table.insert(step.id, Ok(found.clone()));
                Ok(found)
            }
            Some(Err(error)) => Err(error),
            None => Err(Error::Cancelled),
        }
    }

    /// By what the step's result is known.
    pub(crate) fn digest(&self, step: &Step) -> Result<ContentId, Error> {
        let mut hasher = Sha256::new();
        let mut field = |text: &str| {
            hasher.update((text.len() as u64).to_le_bytes());
            hasher.update(text);
        };
        match (self.found(step)?, &step.op) {
            (Found::Http(file), _) => {
                field("http");
                field(&file.name);
                field(&file.digest);
                field(&file.mtime.to_string());
            }
            (Found::Git(commit), Op::Git(source)) => {
                field("git");
                field(&commit.identity(source));
            }
            (Found::Git(_), _) => unreachable!("BUG: a commit was found for a Git step"),
        }
        Ok(ContentId(hasher.finalize().into()))
    }

    /// Makes the step's layer.
    pub(crate) fn layer(&self, space: &Space, step: &Step) -> Result<Written, Error> {
        match (self.found(step)?, &step.op) {
            (Found::Http(file), _) => http_layer(space, &file),
            (Found::Git(commit), Op::Git(source)) => self.git_layer(space, source, &commit),
            (Found::Git(_), _) => unreachable!("BUG: a commit was found for a Git step"),
        }
    }

    fn git_layer(
        &self,
        space: &Space,
        source: &GitSource,
        commit: &GitCommit,
    ) -> Result<Written, Error> {
        let scratch = space.store().scratch()?;
        let folder = scratch.path().join("files");
        std::fs::create_dir(&folder).map_err(|source| Error::Io {
            op: "create",
            path: folder.clone(),
            source,
        })?;
        let folder = self.sources.checkout(source, commit, &folder)?;
        let context = Context::open_uncached(&folder, IgnoreRules::default(), None)?;
        copy::copy(
            space,
            &everything(),
            &Snapshot::default(),
            CopySourceTree::Context(&context),
        )
    }
}

fn http_layer(space: &Space, file: &HttpFile) -> Result<Written, Error> {
    let digest = super::manifest::digest(&file.digest)?;
    let mut content = space.store().open_blob(&digest)?;
    let entry = crate::tree::Entry {
        path: file.name.clone().into_bytes(),
        kind: crate::tree::Kind::File {
            size: file.size,
            digest: None,
        },
        mode: 0o600,
        uid: 0,
        gid: 0,
        mtime: file.mtime,
        xattrs: Vec::new(),
    };
    copy::single_file(space, &entry, &mut content)
}

/// A copy of all there is.
fn everything() -> CopyOp {
    CopyOp {
        base: None,
        from: CopyFrom::Context(String::new()),
        sources: vec![CopySource::Path("/".to_owned())],
        dest: "/".to_owned(),
        chown: None,
        chmod: None,
        link: false,
        parents: false,
        exclude: Vec::new(),
        unpack: None,
        add: false,
    }
}
