//! Collects steps, merging equal ones, and drops those that no target needs.

use crate::plan::{Op, Origin, Plan, Step, StepId, Target};
use crate::platform::Platform;
use std::collections::HashMap;

/// What makes two steps the same. Only commands run *for* a platform; a copied file is the same on all.
#[derive(PartialEq, Eq, Hash)]
struct Identity {
    op: Op,
    inputs: Vec<StepId>,
    platform: Option<Platform>,
}

/// A step to be.
pub(super) struct NewStep {
    pub(super) op: Op,
    pub(super) inputs: Vec<StepId>,
    pub(super) origin: Origin,
    pub(super) no_cache: bool,
    pub(super) platform: Platform,
}

#[derive(Default)]
pub(super) struct Builder {
    steps: Vec<Step>,
    known: HashMap<Identity, StepId>,
}

impl Builder {
    /// Adds a step, or finds the equal one.
    pub(super) fn add(&mut self, new: NewStep) -> StepId {
        let identity = Identity {
            op: new.op.clone(),
            inputs: new.inputs.clone(),
            platform: matches!(new.op, Op::Run(_)).then(|| new.platform.clone()),
        };
        if let Some(&known) = self.known.get(&identity) {
            self.steps[known.0 as usize].no_cache |= new.no_cache;
            return known;
        }
        let id = StepId(
            u32::try_from(self.steps.len()).expect("BUG: a Dockerfile has fewer than 2^32 steps"),
        );
        self.known.insert(identity, id);
        self.steps.push(Step {
            id,
            op: new.op,
            inputs: new.inputs,
            origin: new.origin,
            no_cache: new.no_cache,
            platform: new.platform,
        });
        id
    }

    /// The plan with only the steps that the targets need, numbered anew.
    pub(super) fn finish(self, mut targets: Vec<Target>) -> Plan {
        let mut needed = vec![false; self.steps.len()];
        for target in &targets {
            if let Some(rootfs) = target.rootfs {
                needed[rootfs.0 as usize] = true;
            }
        }
        for step in self.steps.iter().rev() {
            if needed[step.id.0 as usize] {
                for input in &step.inputs {
                    needed[input.0 as usize] = true;
                }
            }
        }
        let mut numbers = vec![StepId(0); self.steps.len()];
        let mut steps: Vec<Step> = Vec::new();
        for mut step in self.steps {
            let old = step.id.0 as usize;
            if !needed[old] {
                continue;
            }
            step.id = StepId(u32::try_from(steps.len()).expect("BUG: no more steps than before"));
            numbers[old] = step.id;
            for input in &mut step.inputs {
                *input = numbers[input.0 as usize];
            }
            steps.push(step);
        }
        for target in &mut targets {
            let renumber = |id: &mut StepId| *id = numbers[id.0 as usize];
            target.rootfs.iter_mut().for_each(renumber);
            target
                .history
                .iter_mut()
                .filter_map(|entry| entry.step.as_mut())
                .for_each(renumber);
        }
        Plan { steps, targets }
    }
}
