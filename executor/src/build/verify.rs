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
use crate::layer::{self, Form};
use oci_spec::image::Digest;
use planner::plan::{Op, Plan, Step, StepId};
use planner::scheduler::{Backend as _, Cancel, Observer, Outcome, StepEvent};
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
    let first = layer::first_difference(executor.space, (cached, &made), false)?;
    Ok(first.map(|first| first.to_string()))
}
