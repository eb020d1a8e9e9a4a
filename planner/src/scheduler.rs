//! Runs a plan: keys bottom-up, lookups from the targets down, then the wanted steps, concurrently.
//!
//! It knows no instruction; the [`Backend`] knows no schedule. Plain threads, and only as many as there is
//! work for at once: a fully cached plan starts none, a chain of steps runs on the caller's.
//!
//! A step is *wanted* when a target needs its result and no record has it. Its life: wanted -> ready (all inputs
//! there) -> found by content key, or run, or parked behind a step that is running under the same content key.

mod execution;

use crate::key::{self, CacheKey, ContentId};
use crate::plan::{Plan, Step, StepId};
use execution::Execution;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What carries steps out.
pub trait Backend: Sync {
    /// A step's result (a handle on its root file system).
    type Output: Clone + Send + Sync;
    /// Why something failed.
    type Error: std::error::Error + Send + Sync + 'static;

    /// Digest of what the step reads from outside the plan (context files); `None` when it reads nothing.
    ///
    /// # Errors
    /// An unreadable context, a missing source.
    fn source_digest(&self, step: &Step) -> Result<Option<ContentId>, Self::Error>;

    /// Called once, before any lookup: the definition keys of the steps that may be looked up, in the order in which
    /// they are, each unless one above it is found.
    fn keyed(&self, keys: &[(StepId, CacheKey)]) {
        let _ = keys;
    }

    /// A recorded result by definition key (`inputs` is `None`) or content key (`inputs` are known).
    ///
    /// # Errors
    /// A damaged store.
    fn lookup(
        &self,
        step: &Step,
        key: &CacheKey,
        inputs: Option<&[Self::Output]>,
    ) -> Result<Option<Self::Output>, Self::Error>;

    /// Called once, before any step is said to be cached or runs: how all of them stand.
    fn surveyed(&self, plan: &Plan, survey: &Survey<Self::Output>) {
        let _ = (plan, survey);
    }

    /// Why a step is not cached that is about to run, in a phrase. Changes nothing of what is done.
    fn why(&self, step: &Step) -> Option<String> {
        let _ = step;
        None
    }

    /// Called once, before anything runs, with the steps that have to: what they need from outside can be checked.
    ///
    /// # Errors
    /// Something is missing, and the first step that needs it, if it is not the whole build that does.
    fn prepare(&self, wanted: &[&Step]) -> Result<(), (Option<StepId>, Self::Error)> {
        let _ = wanted;
        Ok(())
    }

    /// Identity of the part of `input` that `step` reads; the whole's identity where it reads all.
    ///
    /// # Errors
    /// A missing source in that input.
    fn input_identity(
        &self,
        step: &Step,
        index: usize,
        input: &Self::Output,
    ) -> Result<ContentId, Self::Error>;

    /// Carries the step out. Must return soon after `cancel` is set.
    ///
    /// # Errors
    /// The step's failure.
    fn execute(
        &self,
        step: &Step,
        inputs: &[Self::Output],
        events: &dyn Observer,
        cancel: &Cancel,
    ) -> Result<Self::Output, Self::Error>;

    /// Records a result under its keys; called last, atomically.
    ///
    /// # Errors
    /// A full or damaged store.
    fn record(
        &self,
        step: &Step,
        keys: &[CacheKey],
        output: &Self::Output,
    ) -> Result<(), Self::Error>;
}

/// Asks running steps to stop. Clones share the state.
#[derive(Clone, Debug, Default)]
pub struct Cancel {
    own: Arc<AtomicBool>,
    outer: Option<Arc<AtomicBool>>,
}

impl Cancel {
    /// Sets it.
    pub fn cancel(&self) {
        self.own.store(true, Ordering::SeqCst);
    }

    /// One that is set when this one is, and can be set alone.
    #[must_use]
    pub fn child(&self) -> Self {
        Self {
            own: Arc::default(),
            outer: Some(Arc::clone(&self.own)),
        }
    }

    /// Whether it is set.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.own.load(Ordering::SeqCst)
            || self
                .outer
                .as_ref()
                .is_some_and(|outer| outer.load(Ordering::SeqCst))
    }
}

/// What happens to a step.
#[derive(Clone, Debug)]
pub enum StepEvent {
    /// Its result is in the cache, or is not needed because the result of a step above it is.
    Cached,
    /// Begins to run.
    Started {
        /// Why its result was not in the cache, in a phrase (`build arg N 1 -> 2`); `None` where nobody can tell.
        why: Option<String>,
    },
    /// Output of the command.
    Output {
        /// Standard error rather than standard output.
        stderr: bool,
        /// The bytes.
        data: Vec<u8>,
    },
    /// Bytes moved so far.
    Transfer {
        /// What (`sha256:...`, `context`).
        what: String,
        /// Bytes done.
        done: u64,
        /// Bytes in all, 0 when unknown.
        total: u64,
    },
    /// What it is at on another machine, until the next of these; `None` when that is over.
    Elsewhere(Option<Elsewhere>),
    /// A note to show (isolation mode, warnings).
    Note(String),
    /// Ended well.
    Finished,
    /// Failed.
    Failed(String),
    /// Stopped because the build stopped.
    Cancelled,
}

/// What a step is at that another machine carries out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Elsewhere {
    /// Handed over; nothing was heard of it since.
    Sent,
    /// It waits for a machine.
    Queued,
    /// A machine carries it out; its name where that is told, without control characters.
    Running(Option<String>),
    /// Its result is on the way.
    Fetching,
}

/// Takes events, from any thread.
pub trait Observer: Sync {
    /// One event.
    fn event(&self, step: StepId, event: StepEvent);
}

/// Why a run of the plan ended early.
#[derive(Debug, thiserror::Error)]
pub enum RunError<E: std::error::Error + 'static> {
    /// A step failed.
    #[error("step failed")]
    Step {
        /// Which.
        step: StepId,
        /// Why.
        #[source]
        source: E,
    },
    /// Something is missing that no step alone needs.
    #[error("nothing was run")]
    Prepare {
        /// What.
        #[source]
        source: E,
    },
    /// Cancelled from outside.
    #[error("cancelled")]
    Cancelled,
}

/// Results of the steps that were looked up or run (`None`: not wanted).
#[derive(Debug)]
pub struct Outcome<O> {
    /// By step id.
    pub outputs: Vec<Option<O>>,
    /// Steps that ran.
    pub executed: usize,
    /// Steps that did not run: found in the cache, or below one that was.
    pub cached: usize,
    /// Definition keys by step id.
    pub keys: Vec<CacheKey>,
}

/// How a step stands before anything runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// A record has its result.
    Hit,
    /// Nothing that is not recorded needs its result.
    NotNeeded,
    /// It has to run, unless its content key is known once its inputs are there.
    Miss,
}

/// Keys and standings of a plan's steps: what a dry run can say.
#[derive(Debug)]
pub struct Survey<O> {
    /// Definition keys by step id.
    pub keys: Vec<CacheKey>,
    /// Digests of what is read from outside the plan, by step id.
    pub sources: Vec<Option<ContentId>>,
    /// Standings by step id.
    pub standings: Vec<Standing>,
    /// Results of the hits.
    pub outputs: Vec<Option<O>>,
}

/// Computes all definition keys bottom-up, then looks results up from the targets down; below a hit nothing
/// is looked up. Runs nothing.
///
/// # Errors
/// An unreadable context or store, with the step it was needed for.
pub fn survey<B: Backend>(
    plan: &Plan,
    backend: &B,
    cancel: &Cancel,
) -> Result<Survey<B::Output>, RunError<B::Error>> {
    let count = plan.steps.len();
    let mut survey = Survey {
        keys: Vec::with_capacity(count),
        sources: Vec::with_capacity(count),
        standings: vec![Standing::NotNeeded; count],
        outputs: std::iter::repeat_with(|| None).take(count).collect(),
    };
    let mut stale = Vec::with_capacity(count);
    for step in &plan.steps {
        if cancel.is_cancelled() {
            return Err(RunError::Cancelled);
        }
        let source = backend
            .source_digest(step)
            .map_err(|source| RunError::Step {
                step: step.id,
                source,
            })?;
        let inputs: Vec<CacheKey> = step
            .inputs
            .iter()
            .map(|input| survey.keys[index(*input)])
            .collect();
        survey
            .keys
            .push(key::definition_key(step, &inputs, source.as_ref()));
        survey.sources.push(source);
        // What a step that must run again will give is not known by its definition.
        stale.push(step.no_cache || step.inputs.iter().any(|input| stale[index(*input)]));
    }
    let fresh = plan
        .steps
        .iter()
        .rev()
        .filter(|step| !stale[index(step.id)]);
    let keyed: Vec<_> = fresh
        .map(|step| (step.id, survey.keys[index(step.id)]))
        .collect();
    backend.keyed(&keyed);
    let mut needed = vec![false; count];
    for target in &plan.targets {
        if let Some(rootfs) = target.rootfs {
            needed[index(rootfs)] = true;
        }
    }
    for step in plan.steps.iter().rev() {
        let at = index(step.id);
        if !needed[at] {
            continue;
        }
        if cancel.is_cancelled() {
            return Err(RunError::Cancelled);
        }
        if !stale[at] {
            survey.outputs[at] =
                backend
                    .lookup(step, &survey.keys[at], None)
                    .map_err(|source| RunError::Step {
                        step: step.id,
                        source,
                    })?;
        }
        if survey.outputs[at].is_some() {
            survey.standings[at] = Standing::Hit;
            continue;
        }
        survey.standings[at] = Standing::Miss;
        for input in &step.inputs {
            needed[index(*input)] = true;
        }
    }
    Ok(survey)
}

/// Runs the plan with at most `jobs` steps at once.
///
/// # Errors
/// The first step's failure; the others are cancelled and awaited.
pub fn run<B: Backend>(
    plan: &Plan,
    backend: &B,
    observer: &dyn Observer,
    jobs: usize,
    cancel: &Cancel,
) -> Result<Outcome<B::Output>, RunError<B::Error>> {
    let survey = survey(plan, backend, cancel).inspect_err(|error| {
        if let RunError::Step { step, source } = error {
            observer.event(*step, StepEvent::Failed(chain(source)));
        }
    })?;
    backend.surveyed(plan, &survey);
    let mut cached = 0;
    for step in &plan.steps {
        if survey.standings[index(step.id)] != Standing::Miss {
            cached += 1;
            observer.event(step.id, StepEvent::Cached);
        }
    }
    if cached == plan.steps.len() {
        return Ok(Outcome {
            outputs: survey.outputs,
            executed: 0,
            cached,
            keys: survey.keys,
        });
    }
    let wanted: Vec<&Step> = plan
        .steps
        .iter()
        .filter(|step| survey.standings[index(step.id)] == Standing::Miss)
        .collect();
    backend
        .prepare(&wanted)
        .map_err(|(step, source)| match step {
            None => RunError::Prepare { source },
            Some(step) => {
                observer.event(step, StepEvent::Failed(chain(&source)));
                RunError::Step { step, source }
            }
        })?;
    let execution = Execution::new(
        plan,
        backend,
        observer,
        survey,
        cached,
        (jobs.max(1), cancel),
    );
    std::thread::scope(|scope| execution.work(scope));
    execution.outcome()
}

fn index(id: StepId) -> usize {
    id.0 as usize
}

/// An error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}
