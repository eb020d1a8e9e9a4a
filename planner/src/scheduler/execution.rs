//! The workers: take ready steps, look them up by content, run them, and make their users ready.
//!
//! Which steps are wanted was decided before.

use super::{
    Backend, Cancel, Observer, Outcome, RunError, Standing, StepEvent, Survey, chain, index,
};
use crate::key::{self, CacheKey, ContentId};
use crate::plan::{Plan, Step, StepId};
use std::collections::{BTreeSet, HashMap};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::Scope;

/// What the workers share.
pub(super) struct Execution<'a, B: Backend> {
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
    pub(super) fn new(
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
    pub(super) fn work<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>) {
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
        let why = self.backend.why(step);
        self.observer.event(step.id, StepEvent::Started { why });
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

    pub(super) fn outcome(self) -> Result<Outcome<B::Output>, RunError<B::Error>> {
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
            keys: self.keys,
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
