//! What commands of one build leave for those that come after: copies of roots, where roots are copies, and joins of
//! layers that are too many for an overlay. All of it lies in the store's scratch folder and is gone with the build.
//!
//! A copy belongs to the root file system that its last command made, and only a command upon just that gets it: stages that
//! run at the same time have copies of their own.

use crate::Error;
use crate::build::backend::Executor;
use crate::build::record::base_of;
use crate::layer;
use crate::space::Space;
use oci_spec::image::Digest;
use planner::plan::{Op, Plan, StepId};
use sandbox::{Keep, KeptCopy, RootKind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use store::Scratch;

/// As many copies are kept as are likely to be asked for: each takes the room of a whole root.
const MOST: usize = 3;

/// All that is kept in a build.
#[derive(Debug)]
pub(crate) struct Copies<'a> {
    space: &'a Space,
    pool: Mutex<Pool>,
}

#[derive(Debug, Default)]
struct Pool {
    scratch: Option<Scratch>,
    next: u32,
    /// The oldest first.
    kept: Vec<Kept>,
    joins: Option<PathBuf>,
}

#[derive(Debug)]
struct Kept {
    folder: PathBuf,
    /// Layers of the root file system that it is for, lowest first.
    layers: Vec<Digest>,
    /// As many of them are in it.
    held: usize,
}

impl Pool {
    fn folder(&mut self, space: &Space, name: &str) -> Result<PathBuf, Error> {
        let scratch = match &mut self.scratch {
            Some(scratch) => scratch,
            none => none.insert(space.store().scratch()?),
        };
        let path = scratch.path().join(name);
        std::fs::create_dir(&path).map_err(|source| Error::Io {
            op: "create",
            path: path.clone(),
            source,
        })?;
        Ok(path)
    }
}

impl<'a> Copies<'a> {
    pub(crate) fn new(space: &'a Space) -> Self {
        Self {
            space,
            pool: Mutex::default(),
        }
    }

    fn pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The folder for joins.
    fn joins(&self) -> Result<PathBuf, Error> {
        let mut pool = self.pool();
        if let Some(joins) = &pool.joins {
            return Ok(joins.clone());
        }
        let joins = pool.folder(self.space, "joins")?;
        pool.joins = Some(joins.clone());
        Ok(joins)
    }

    /// The copy that holds the most of these layers, or a folder for a new one.
    fn take(&self, layers: &[Digest]) -> Result<Taken<'_>, Error> {
        let mut pool = self.pool();
        let fitting = (0..pool.kept.len()).filter(|&at| layers.starts_with(&pool.kept[at].layers));
        if let Some(at) = fitting.max_by_key(|&at| pool.kept[at].held) {
            let Kept { folder, held, .. } = pool.kept.remove(at);
            return Ok(Taken {
                copies: self,
                folder: Some(folder),
                held,
            });
        }
        pool.next += 1;
        let name = format!("copy{}", pool.next);
        Ok(Taken {
            copies: self,
            folder: Some(pool.folder(self.space, &name)?),
            held: 0,
        })
    }

    fn give(&self, kept: Kept) {
        let mut pool = self.pool();
        pool.kept.push(kept);
        let oldest = (pool.kept.len() > MOST).then(|| pool.kept.remove(0));
        drop(pool);
        if let Some(oldest) = oldest {
            self.remove(&oldest.folder);
        }
    }

    fn remove(&self, folder: &Path) {
        // What cannot be removed now is swept by the next build.
        let _ = self.space.remove_tree(folder);
    }
}

impl Drop for Copies<'_> {
    fn drop(&mut self) {
        let pool = std::mem::take(self.pool.get_mut().unwrap_or_else(PoisonError::into_inner));
        for folder in pool.kept.iter().map(|kept| &kept.folder).chain(&pool.joins) {
            self.remove(folder);
        }
    }
}

/// A copy, or the folder of one, that one command has. Removed when it is not given back.
#[derive(Debug)]
pub(crate) struct Taken<'c> {
    copies: &'c Copies<'c>,
    folder: Option<PathBuf>,
    held: usize,
}

impl Taken<'_> {
    /// Leaves the copy, of a root file system with these layers lowest first, for a command upon the layer that was made
    /// over it.
    fn give_back(mut self, below: &[Digest], made: &Digest) {
        if let Some(folder) = self.folder.take() {
            let mut layers = below.to_vec();
            layers.push(made.clone());
            self.copies.give(Kept {
                folder,
                layers,
                held: below.len(),
            });
        }
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if let Some(folder) = self.folder.take() {
            self.copies.remove(&folder);
        }
    }
}

/// What a command over these layers has to do with others; its copy is to be given back when its layer was made.
pub(crate) fn keep<'c>(
    executor: &'c Executor<'_>,
    layers: &[Digest],
    keep: &mut Keep,
) -> Result<Option<Taken<'c>>, Error> {
    let sandbox = executor.space.sandbox()?;
    if !matches!(sandbox.root_kind(), RootKind::Reflink | RootKind::Copy) {
        if layers.len() > sandbox::MOST_LAYERS {
            keep.joins = Some(executor.copies.joins()?);
        }
        return Ok(None);
    }
    // Bundles of certificates come and go with each command; records of owners lie beside uppers.
    if executor.authorities.is_some() || sandbox.records_owners() {
        return Ok(None);
    }
    let taken = executor.copies.take(layers)?;
    let above: Result<Vec<PathBuf>, Error> = layers[taken.held..]
        .iter()
        .rev()
        .map(|layer| layer::tree(executor.space, layer))
        .collect();
    keep.copy = taken
        .folder
        .clone()
        .zip(Some(above?))
        .map(|(folder, above)| KeptCopy { folder, above });
    Ok(Some(taken))
}

/// Leaves a command's copy for those upon its step, of which there may be some: the layers below it and its own are given.
pub(crate) fn give_back(
    copy: Option<Taken<'_>>,
    plan: Option<&Plan>,
    step: StepId,
    (below, made): (&[Digest], &Digest),
) {
    if let Some(copy) = copy
        && is_built_upon(plan, step)
    {
        copy.give_back(below, made);
    }
}

/// Whether a command may run upon a step's root file system, with nothing or only other kinds of steps between.
fn is_built_upon(plan: Option<&Plan>, step: StepId) -> bool {
    let Some(plan) = plan else { return true };
    let mut upon = vec![false; plan.steps.len()];
    for (at, later) in plan.steps.iter().enumerate() {
        let base = base_of(&later.op).and_then(|input| later.inputs.get(input));
        let is_upon = base.is_some_and(|base| *base == step || upon[base.0 as usize]);
        if is_upon && matches!(later.op, Op::Run(_)) {
            return true;
        }
        upon[at] = is_upon;
    }
    false
}
