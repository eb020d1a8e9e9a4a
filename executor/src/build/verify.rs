//! `--verify`: steps whose results the cache has are carried out again, and what they make now is compared with what the
//! cache has. It finds steps that are not deterministic. No record is written, and the build's result is the cache's.
//!
//! Times do not count: they are in no identity of a layer. Remote sources have checksums of their own and are left out.

use crate::Error;
use crate::build::Ui;
use crate::build::again::is_of_cache;
use crate::build::backend::{Executor, Work};
use crate::build::record::StepOutput;
use crate::error::chain;
use crate::layer::index::{Index, Node, What};
use crate::layer::{self, Form};
use crate::snapshot::View;
use crate::tree::FileTree as _;
use oci_spec::image::Digest;
use planner::plan::{Op, Plan, Step, StepId};
use planner::scheduler::{Backend as _, Cancel, Observer, Outcome, StepEvent};
use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::sync::atomic::Ordering;

/// What was found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Verified {
    /// Steps that were carried out again.
    pub steps: usize,
    /// Those that gave something else: what they are called, and the first difference.
    pub differing: Vec<(String, String)>,
}

/// Takes nothing that steps say: they have ended already.
struct Quiet;

impl Observer for Quiet {
    fn event(&self, _step: StepId, _event: StepEvent) {}
}

/// Carries all steps of a plan out again whose results are known.
///
/// # Errors
/// Cancelled; a cache that cannot be read.
pub(super) fn verify(
    executor: &Executor<'_>,
    plan: &Plan,
    outcome: &Outcome<StepOutput>,
    ui: &dyn Ui,
    cancel: &Cancel,
) -> Result<Verified, Error> {
    executor.verifying.store(true, Ordering::SeqCst);
    let mut outputs = outcome.outputs.clone();
    for (at, step) in plan.steps.iter().enumerate() {
        if outputs[at].is_none() {
            outputs[at] = executor.lookup(step, &outcome.keys[at], None)?;
        }
    }
    let mut verified = Verified::default();
    for (at, step) in plan.steps.iter().enumerate() {
        if matches!(step.op, Op::Image(_) | Op::Http(_) | Op::Git(_)) {
            continue;
        }
        let inputs = step.inputs.iter().map(|id| outputs[id.0 as usize].clone());
        let Some(inputs) = inputs.collect::<Option<Vec<_>>>() else {
            continue;
        };
        let Some(link) = outputs[at].as_ref().and_then(|output| output.chain.last()) else {
            continue;
        };
        if cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        let name = &step.origin.name;
        let task = ui.task_started(&format!("verify {name}"));
        let difference = again(executor, step, &inputs, &link.layer, cancel);
        if cancel.is_cancelled() {
            ui.task_finished(task, Some("cancelled"));
            return Err(Error::Cancelled);
        }
        if difference.as_ref().is_err_and(is_of_cache) {
            let note = "not verified: a layer that it needs was not in the cache";
            ui.task_progress(task, note, 0, 0);
            ui.task_finished(task, None);
            continue;
        }
        let difference =
            difference.unwrap_or_else(|error| Some(format!("failed: {}", chain(&error))));
        ui.task_finished(task, difference.as_deref());
        verified.steps += 1;
        if let Some(difference) = difference {
            verified.differing.push((name.clone(), difference));
        }
    }
    let differing = verified.differing.len();
    let summary = format!("verified {} steps, {differing} differ", verified.steps);
    ui.task_finished(ui.task_started(&summary), None);
    Ok(verified)
}

/// Carries a step out; the first difference of what it makes from the layer that the cache has.
fn again(
    executor: &Executor<'_>,
    step: &Step,
    inputs: &[StepOutput],
    cached: &Digest,
    cancel: &Cancel,
) -> Result<Option<String>, Error> {
    let work = Work {
        inputs,
        events: &Quiet,
        cancel,
    };
    let fresh = Step {
        no_cache: true,
        ..step.clone()
    };
    let made = executor.make(&fresh, &work)?;
    if made == *cached {
        return Ok(None);
    }
    let both = [cached.clone(), made.clone()];
    executor.ensure_as(Form::Readable, &both, step.id, &work)?;
    first_difference(executor, cached, &made)
}

fn first_difference(
    executor: &Executor<'_>,
    cached: &Digest,
    made: &Digest,
) -> Result<Option<String>, Error> {
    let load = |layer: &Digest| -> Result<(View, Index), Error> {
        let files = layer::content(executor.space, layer)?;
        let index = Index::load(&files.index)?;
        Ok((View::load(&[files])?, index))
    };
    let (old, new) = (load(cached)?, load(made)?);
    let by_path = |index: &'_ Index| -> BTreeMap<Vec<u8>, usize> {
        let paths = index.nodes().enumerate();
        paths.map(|(at, node)| (node.path.to_vec(), at)).collect()
    };
    let (before, after) = (by_path(&old.1), by_path(&new.1));
    let paths: std::collections::BTreeSet<_> = before.keys().chain(after.keys()).collect();
    for path in paths {
        let shown = format!("/{}", String::from_utf8_lossy(path).escape_debug());
        let pair = (
            before.get(path).map(|at| old.1.node(*at)),
            after.get(path).map(|at| new.1.node(*at)),
        );
        let text = match pair {
            (Some(a), Some(b)) => difference((&a, &old.0), (&b, &new.0))?,
            (Some(a), None) => Some(format!("{} is missing", kind(&a))),
            (None, Some(b)) => Some(format!("{} is added", kind(&b))),
            (None, None) => None,
        };
        if let Some(text) = text {
            return Ok(Some(format!("{shown}: {text}")));
        }
    }
    Ok(None)
}

fn kind(node: &Node<'_>) -> &'static str {
    match node.what {
        What::Directory { .. } => "folder",
        What::File { .. } => "file",
        What::Symlink(_) => "symbolic link",
        What::Hardlink(_) => "hard link",
        What::Char(..) | What::Block(..) => "device",
        What::Fifo => "named pipe",
        What::Whiteout => "removal",
    }
}

fn difference(
    (old, before): (&Node<'_>, &View),
    (new, after): (&Node<'_>, &View),
) -> Result<Option<String>, Error> {
    if kind(old) != kind(new) {
        return Ok(Some(format!("type {} -> {}", kind(old), kind(new))));
    }
    if let (
        What::File {
            size, digest: was, ..
        },
        What::File {
            size: now,
            digest: is,
            ..
        },
    ) = (old.what, new.what)
    {
        if was != is {
            let at = first_byte(before, after, old.path)?;
            return Ok(Some(format!(
                "content differs from byte {at} on ({size} -> {now} bytes)"
            )));
        }
    } else if old.what != new.what {
        let text = match (old.what, new.what) {
            (What::Symlink(a), What::Symlink(b)) | (What::Hardlink(a), What::Hardlink(b)) => {
                let shown = |target: &[u8]| String::from_utf8_lossy(target).into_owned();
                format!("target {:?} -> {:?}", shown(a), shown(b))
            }
            (What::Directory { .. }, _) => "replaces the folder below, or not".to_owned(),
            _ => "device number".to_owned(),
        };
        return Ok(Some(text));
    }
    if old.mode != new.mode {
        return Ok(Some(format!("mode {:o} -> {:o}", old.mode, new.mode)));
    }
    if (old.uid, old.gid) != (new.uid, new.gid) {
        return Ok(Some(format!(
            "owner {}:{} -> {}:{}",
            old.uid, old.gid, new.uid, new.gid
        )));
    }
    if old.xattrs != new.xattrs {
        return Ok(Some("extended attributes".to_owned()));
    }
    Ok(None)
}

/// Where two files differ first: where the shorter one ends, if it is the beginning of the other.
fn first_byte(before: &View, after: &View, path: &[u8]) -> Result<u64, Error> {
    let failed = |source| Error::Io {
        op: "read",
        path: String::from_utf8_lossy(path).into_owned().into(),
        source,
    };
    let mut old = BufReader::new(before.open(path)?);
    let mut new = BufReader::new(after.open(path)?);
    let mut at = 0;
    loop {
        let (a, b) = (
            old.fill_buf().map_err(failed)?,
            new.fill_buf().map_err(failed)?,
        );
        let length = a.len().min(b.len());
        if let Some(differs) = a.iter().zip(b).position(|(a, b)| a != b) {
            return Ok(at + differs as u64);
        }
        if length == 0 {
            return Ok(at);
        }
        old.consume(length);
        new.consume(length);
        at += length as u64;
    }
}
