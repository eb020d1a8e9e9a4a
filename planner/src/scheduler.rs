//! Runs a plan: keys bottom-up, lookups from the targets down, then the wanted steps, concurrently.
//!
//! It knows no instruction; the [`Backend`] knows no schedule. Plain threads, and only as many as there is
//! work for at once: a fully cached plan starts none, a chain of steps runs on the caller's.
//!
//! A step is *wanted* when a target needs its result and no record has it. Its life: wanted -> ready (all inputs
//! there) -> found by content key, or run, or parked behind a step that is running under the same content key.

use crate::key::{self, CacheKey, ContentId};
use crate::plan::{Plan, Step, StepId};
use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::Scope;

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
    fn child(&self) -> Self {
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
    /// Begins to run; `why` says why it was not cached, where that is known.
    Started,
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
    /// A note to show (isolation mode, warnings).
    Note(String),
    /// Ended well.
    Finished,
    /// Failed.
    Failed(String),
    /// Stopped because the build stopped.
    Cancelled,
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
        });
    }
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

/// What the workers share.
struct Execution<'a, B: Backend> {
    plan: &'a Plan,
    backend: &'a B,
    observer: &'a dyn Observer,
    jobs: usize,
    cancel: Cancel,
    keys: Vec<CacheKey>,
    sources: Vec<Option<ContentId>>,
    /// Wanted users of each step.
    users: Vec<Vec<StepId>>,
    progress: Mutex<Progress<B::Output, B::Error>>,
    changed: Condvar,
}

struct Progress<O, E> {
    outputs: Vec<Option<O>>,
    /// Inputs that are still missing, per wanted step.
    missing: Vec<usize>,
    /// In plan order.
    ready: BTreeSet<StepId>,
    /// Who runs, or ran, under which content key.
    claims: HashMap<CacheKey, StepId>,
    /// Steps that wait for the result of another with the same content key.
    parked: HashMap<StepId, Vec<StepId>>,
    unfinished: usize,
    workers: usize,
    idle: usize,
    executed: usize,
    cached: usize,
    failure: Option<(StepId, E)>,
    stopped: bool,
}

/// How a ready step got on.
enum Attempt<O> {
    Found(O),
    Ran(O),
    Parked,
}

/// Whether a step may run under its content key.
enum Claim<O> {
    Granted,
    Done(O),
    Parked,
}

impl<'a, B: Backend> Execution<'a, B> {
    fn new(
        plan: &'a Plan,
        backend: &'a B,
        observer: &'a dyn Observer,
        survey: Survey<B::Output>,
        cached: usize,
        (jobs, cancel): (usize, &Cancel),
    ) -> Self {
        let count = plan.steps.len();
        let mut users = vec![Vec::new(); count];
        let mut missing = vec![0; count];
        let mut ready = BTreeSet::new();
        let mut unfinished = 0;
        for step in plan
            .steps
            .iter()
            .filter(|step| survey.standings[index(step.id)] == Standing::Miss)
        {
            unfinished += 1;
            let inputs: BTreeSet<StepId> = step
                .inputs
                .iter()
                .copied()
                .filter(|input| survey.outputs[index(*input)].is_none())
                .collect();
            missing[index(step.id)] = inputs.len();
            if inputs.is_empty() {
                ready.insert(step.id);
            }
            for input in inputs {
                users[index(input)].push(step.id);
            }
        }
        let progress = Progress {
            outputs: survey.outputs,
            missing,
            ready,
            claims: HashMap::new(),
            parked: HashMap::new(),
            unfinished,
            workers: 1,
            idle: 0,
            executed: 0,
            cached,
            failure: None,
            stopped: false,
        };
        Self {
            plan,
            backend,
            observer,
            jobs,
            cancel: cancel.child(),
            keys: survey.keys,
            sources: survey.sources,
            users,
            progress: Mutex::new(progress),
            changed: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Progress<B::Output, B::Error>> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What every worker does: takes ready steps until there is nothing left to do.
    fn work<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>) {
        let _guard = StopOnPanic(self);
        while let Some(step) = self.next(scope) {
            let attempt = self.attempt(step);
            self.settle(step.id, attempt);
        }
    }

    /// The next ready step in plan order; waits for one. Starts another worker when more steps are ready.
    fn next<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>) -> Option<&'a Step> {
        let mut progress = self.lock();
        loop {
            if progress.stopped || progress.unfinished == 0 || self.cancel.is_cancelled() {
                self.changed.notify_all();
                return None;
            }
            if let Some(id) = progress.ready.pop_first() {
                if progress.ready.len() > progress.idle && progress.workers < self.jobs {
                    progress.workers += 1;
                    scope.spawn(|| self.work(scope));
                }
                return Some(&self.plan.steps[index(id)]);
            }
            progress.idle += 1;
            progress = self
                .changed
                .wait(progress)
                .unwrap_or_else(PoisonError::into_inner);
            progress.idle -= 1;
        }
    }

    fn attempt(&self, step: &Step) -> Result<Attempt<B::Output>, B::Error> {
        let at = index(step.id);
        let inputs: Vec<B::Output> = {
            let progress = self.lock();
            let output = |input: &StepId| progress.outputs[index(*input)].clone();
            step.inputs
                .iter()
                .map(|input| output(input).expect("BUG: a ready step has all its inputs"))
                .collect()
        };
        let identities = inputs
            .iter()
            .enumerate()
            .map(|(input, output)| self.backend.input_identity(step, input, output))
            .collect::<Result<Vec<ContentId>, B::Error>>()?;
        let content = key::content_key(step, &identities, self.sources[at].as_ref());
        let keys = [self.keys[at], content];
        let known = match self.claim(content, step.id) {
            Claim::Parked => return Ok(Attempt::Parked),
            Claim::Done(output) => Some(output),
            Claim::Granted if step.no_cache => None,
            Claim::Granted => self.backend.lookup(step, &content, Some(&inputs))?,
        };
        if let Some(output) = known {
            self.backend.record(step, &keys, &output)?;
            self.observer.event(step.id, StepEvent::Cached);
            return Ok(Attempt::Found(output));
        }
        self.observer.event(step.id, StepEvent::Started);
        let output = self
            .backend
            .execute(step, &inputs, self.observer, &self.cancel)?;
        self.backend.record(step, &keys, &output)?;
        self.observer.event(step.id, StepEvent::Finished);
        Ok(Attempt::Ran(output))
    }

    /// Steps that read the same and do the same run once.
    fn claim(&self, content: CacheKey, id: StepId) -> Claim<B::Output> {
        let mut progress = self.lock();
        let owner = *progress.claims.entry(content).or_insert(id);
        if owner == id {
            return Claim::Granted;
        }
        if let Some(output) = &progress.outputs[index(owner)] {
            return Claim::Done(output.clone());
        }
        progress.parked.entry(owner).or_default().push(id);
        Claim::Parked
    }

    fn settle(&self, id: StepId, attempt: Result<Attempt<B::Output>, B::Error>) {
        let event = {
            let mut progress = self.lock();
            match attempt {
                Ok(Attempt::Parked) => None,
                Ok(Attempt::Found(output)) => {
                    progress.cached += 1;
                    self.finish(&mut progress, id, output);
                    None
                }
                Ok(Attempt::Ran(output)) => {
                    progress.executed += 1;
                    self.finish(&mut progress, id, output);
                    None
                }
                Err(_) if self.cancel.is_cancelled() => Some(StepEvent::Cancelled),
                Err(error) => {
                    self.cancel.cancel();
                    progress.stopped = true;
                    let event = StepEvent::Failed(chain(&error));
                    progress.failure = Some((id, error));
                    Some(event)
                }
            }
        };
        if let Some(event) = event {
            self.observer.event(id, event);
        }
        self.changed.notify_all();
    }

    fn finish(&self, progress: &mut Progress<B::Output, B::Error>, id: StepId, output: B::Output) {
        progress.outputs[index(id)] = Some(output);
        progress.unfinished -= 1;
        for &user in &self.users[index(id)] {
            progress.missing[index(user)] -= 1;
            if progress.missing[index(user)] == 0 {
                progress.ready.insert(user);
            }
        }
        let parked = progress.parked.remove(&id).unwrap_or_default();
        progress.ready.extend(parked);
    }

    fn outcome(self) -> Result<Outcome<B::Output>, RunError<B::Error>> {
        let progress = self
            .progress
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some((step, source)) = progress.failure {
            return Err(RunError::Step { step, source });
        }
        if progress.unfinished > 0 {
            return Err(RunError::Cancelled);
        }
        Ok(Outcome {
            outputs: progress.outputs,
            executed: progress.executed,
            cached: progress.cached,
        })
    }
}

/// Lets the other workers go when one panics; the scope then passes the panic on.
struct StopOnPanic<'e, 'a, B: Backend>(&'e Execution<'a, B>);

impl<B: Backend> Drop for StopOnPanic<'_, '_, B> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.cancel.cancel();
            self.0.lock().stopped = true;
            self.0.changed.notify_all();
        }
    }
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
