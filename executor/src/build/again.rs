//! What people see of a build that goes over its plan again because a cache did not have a layer that it said it has: each
//! step once. Steps that made something have it recorded, so only those run again that something is missing of.

use crate::Error;
use crate::build::Ui;
use crate::cache::Imports;
use planner::plan::{Plan, StepId};
use planner::scheduler::{Observer, StepEvent};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How a step stands for who looks on.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
enum Shown {
    #[default]
    Nothing,
    Cached,
    Running,
    /// It has said something.
    Speaking,
    Done,
}

/// Passes events of steps on.
pub(super) struct Shows<'a> {
    ui: &'a dyn Ui,
    imports: &'a Imports<'a>,
    state: Mutex<State>,
}

struct State {
    steps: Vec<Shown>,
    /// How steps ended that may begin again.
    held: Vec<(StepId, StepEvent)>,
    is_repeated: bool,
}

impl<'a> Shows<'a> {
    pub(super) fn new(ui: &'a dyn Ui, imports: &'a Imports<'a>, plan: &Plan) -> Self {
        Self {
            ui,
            imports,
            state: Mutex::new(State {
                steps: vec![Shown::Nothing; plan.steps.len()],
                held: Vec::new(),
                is_repeated: false,
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The plan is gone over again: what ended badly did not.
    pub(super) fn repeat(&self) {
        let mut state = self.lock();
        state.held.clear();
        state.is_repeated = true;
    }

    /// The end: what was held back is so.
    pub(super) fn end(&self) {
        for (step, event) in std::mem::take(&mut self.lock().held) {
            self.ui.event(step, event);
        }
    }

    /// How many steps ran in all, if more than one run of the plan knows.
    pub(super) fn ran(&self) -> Option<usize> {
        let state = self.lock();
        let ran = || state.steps.iter().filter(|step| **step == Shown::Done);
        state.is_repeated.then(|| ran().count())
    }
}

impl Observer for Shows<'_> {
    fn event(&self, step: StepId, event: StepEvent) {
        let mut state = self.lock();
        let at = step.0 as usize;
        let before = state.steps[at];
        let is_running = matches!(before, Shown::Running | Shown::Speaking);
        let passed = match event {
            StepEvent::Cached => {
                if matches!(before, Shown::Cached | Shown::Done) {
                    return;
                }
                // Another step has made it meanwhile.
                if is_running {
                    StepEvent::Finished
                } else {
                    StepEvent::Cached
                }
            }
            StepEvent::Started { .. } if is_running => {
                if before == Shown::Running {
                    return;
                }
                StepEvent::Note("begins again: a layer below was not in the cache".to_owned())
            }
            StepEvent::Failed(_) | StepEvent::Cancelled if self.imports.was_refused() => {
                state.held.push((step, event));
                return;
            }
            event => event,
        };
        state.steps[at] = match &passed {
            StepEvent::Cached => Shown::Cached,
            StepEvent::Started { .. } => Shown::Running,
            StepEvent::Output { .. } => Shown::Speaking,
            StepEvent::Finished => Shown::Done,
            _ => before,
        };
        drop(state);
        self.ui.event(step, passed);
    }
}

/// Whether an error says that a cache does not have what it said.
pub(super) fn is_of_cache(error: &Error) -> bool {
    let first: &dyn std::error::Error = error;
    std::iter::successors(Some(first), |error| error.source())
        .filter_map(|error| error.downcast_ref::<Error>())
        .any(|error| matches!(error, Error::CacheLayer { .. }))
}
