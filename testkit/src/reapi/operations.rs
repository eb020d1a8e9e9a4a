//! The queue: operations, which worker takes which, and what ends them.

#![allow(
    deprecated,
    reason = "older clients use the fields that newer ones do not"
)]

use super::apis::google::longrunning::Operation;
use super::fault::Fault;
use super::options::{NoMatch, Options, Worker};
use super::process::{Log, Process, Why};
use super::proto::{Action, Command, Platform};
use super::run;
use super::state::{Key, Shared};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::watch;

/// An action that was asked for.
pub(super) struct Job {
    pub(super) name: String,
    pub(super) key: Key,
    pub(super) action: Action,
    pub(super) command: Command,
    pub(super) priority: i32,
    pub(super) queued: SystemTime,
    /// What clients see.
    pub(super) state: watch::Sender<Operation>,
    running: Mutex<Running>,
}

#[derive(Default)]
struct Running {
    why: Option<Why>,
    process: Option<Arc<Process>>,
}

impl Job {
    pub(super) fn new(name: String, key: Key, action: Action, command: Command) -> Self {
        let operation = Operation {
            name: name.clone(),
            ..Operation::default()
        };
        Self {
            name,
            key,
            action,
            command,
            priority: 0,
            queued: SystemTime::now(),
            state: watch::Sender::new(operation),
            running: Mutex::default(),
        }
    }

    fn running(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn done(&self) -> bool {
        self.state.borrow().done
    }

    /// Ends its command, now or as soon as there is one.
    pub(super) fn end(&self, why: Why) {
        let mut running = self.running();
        running.why.get_or_insert(why);
        if let Some(process) = &running.process {
            process.kill(why);
        }
    }

    /// Ties it to its command, which ends at once if the job was ended before.
    pub(super) fn runs(&self, process: &Arc<Process>) {
        let mut running = self.running();
        if let Some(why) = running.why {
            process.kill(why);
        }
        running.process = Some(Arc::clone(process));
    }

    /// Forgets how a worker died, so that another one can take it.
    pub(super) fn again(&self) {
        *self.running() = Running::default();
    }
}

pub(super) struct Queue {
    folder: PathBuf,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    next: u64,
    operations: BTreeMap<String, Arc<Job>>,
    waiting: VecDeque<Arc<Job>>,
    free: Vec<usize>,
    /// Threads that run actions.
    threads: usize,
    processes: Vec<Arc<Process>>,
    logs: HashMap<String, Arc<Log>>,
    closed: bool,
}

impl Queue {
    pub(super) fn new(options: &Options, folder: &Path) -> Self {
        let free = options.workers.iter().map(|worker| worker.slots).collect();
        Self {
            folder: folder.join("work"),
            state: Mutex::new(State {
                free,
                ..State::default()
            }),
            changed: Condvar::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number that was not given before.
    pub(super) fn number(&self) -> u64 {
        let mut state = self.state();
        state.next += 1;
        state.next
    }

    /// Folders of actions are in it.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// A folder for an action, not made yet.
    pub(super) fn work_folder(&self) -> PathBuf {
        self.folder.join(self.number().to_string())
    }

    pub(super) fn job(&self, name: &str) -> Option<Arc<Job>> {
        self.state().operations.get(name).cloned()
    }

    pub(super) fn jobs(&self) -> Vec<Arc<Job>> {
        self.state().operations.values().cloned().collect()
    }

    pub(super) fn forget(&self, name: &str) {
        self.state().operations.remove(name);
    }

    /// Makes it known without running it.
    pub(super) fn know(&self, job: &Arc<Job>) {
        let mut state = self.state();
        state.operations.insert(job.name.clone(), Arc::clone(job));
    }

    fn wait(&self, job: &Arc<Job>) {
        let mut state = self.state();
        let before = |other: &Arc<Job>| other.priority <= job.priority;
        let at = state
            .waiting
            .iter()
            .take_while(|other| before(other))
            .count();
        state.waiting.insert(at, Arc::clone(job));
    }

    /// Takes it out of the queue; false when it runs already or is done.
    pub(super) fn withdraw(&self, job: &Arc<Job>) -> bool {
        let mut state = self.state();
        let before = state.waiting.len();
        state.waiting.retain(|other| other.name != job.name);
        state.waiting.len() < before
    }

    /// The next that a worker can take now, which is its from here on.
    fn next(&self, workers: &[Worker]) -> Option<(Arc<Job>, usize)> {
        let mut state = self.state();
        if state.closed {
            return None;
        }
        let found = state.waiting.iter().enumerate().find_map(|(at, job)| {
            let fits = |&index: &usize| state.free[index] > 0 && offers(&workers[index], job);
            Some((at, (0..workers.len()).find(fits)?))
        });
        let (at, worker) = found?;
        let job = state.waiting.remove(at)?;
        state.free[worker] -= 1;
        state.threads += 1;
        Some((job, worker))
    }

    fn release(&self, worker: usize) {
        let mut state = self.state();
        state.free[worker] += 1;
        state.threads -= 1;
        self.changed.notify_all();
    }

    pub(super) fn add_process(&self, process: &Arc<Process>) {
        self.state().processes.push(Arc::clone(process));
    }

    /// Forgets a process with all that it started, if none of them lives.
    pub(super) fn remove_process(&self, process: &Arc<Process>) {
        if process.living().is_empty() {
            let mut state = self.state();
            state.processes.retain(|other| !Arc::ptr_eq(other, process));
        }
    }

    pub(super) fn live_processes(&self) -> u64 {
        let processes = self.state().processes.clone();
        let count = |process: &Arc<Process>| process.living().len() as u64;
        processes.iter().map(count).sum()
    }

    pub(super) fn open_operations(&self) -> u64 {
        let state = self.state();
        state.operations.values().filter(|job| !job.done()).count() as u64
    }

    pub(super) fn add_log(&self, name: &str, log: &Arc<Log>) {
        self.state().logs.insert(name.to_owned(), Arc::clone(log));
    }

    pub(super) fn log(&self, name: &str) -> Option<Arc<Log>> {
        self.state().logs.get(name).cloned()
    }

    /// Ends everything, waits for it, and forgets it.
    pub(super) fn end_all(&self, patience: Duration) {
        let jobs = {
            let mut state = self.state();
            state.closed = true;
            state.waiting.clear();
            std::mem::take(&mut state.operations)
        };
        for job in jobs.values() {
            job.end(Why::Shutdown);
        }
        let deadline = Instant::now() + patience;
        let mut state = self.state();
        while state.threads > 0 {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                break;
            };
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.logs.clear();
        state.closed = false;
    }
}

impl Shared {
    /// Queues a job and starts what can start.
    pub(super) fn enqueue(self: &Arc<Self>, job: &Arc<Job>) {
        self.queue.know(job);
        self.requeue(job);
    }

    pub(super) fn requeue(self: &Arc<Self>, job: &Arc<Job>) {
        let possible = self
            .options
            .workers
            .iter()
            .any(|worker| offers(worker, job));
        if !possible && self.options.no_match == NoMatch::Error {
            run::refuse(self, job);
            return;
        }
        self.queue.wait(job);
        self.dispatch();
    }

    /// Starts what can start.
    pub(super) fn dispatch(self: &Arc<Self>) {
        if self.is_on(&Fault::StallQueue) {
            return;
        }
        while let Some((job, worker)) = self.queue.next(&self.options.workers) {
            let shared = Arc::clone(self);
            let body = move || {
                let again = run::run(&shared, &job, worker);
                shared.queue.release(worker);
                if again {
                    job.again();
                    shared.requeue(&job);
                }
                shared.dispatch();
            };
            std::thread::Builder::new()
                .name("reapi-worker".to_owned())
                .spawn(body)
                .expect("a thread can be started");
        }
    }
}

/// The platform that counts: the action's, or the command's as older clients have it.
pub(super) fn platform(job: &Job) -> Option<&Platform> {
    job.action
        .platform
        .as_ref()
        .or(job.command.platform.as_ref())
}

fn offers(worker: &Worker, job: &Job) -> bool {
    let wanted = platform(job).map_or(&[][..], |platform| &platform.properties);
    wanted.iter().all(|want| {
        let mut offered = worker.properties.iter();
        offered.any(|(name, value)| *name == want.name && *value == want.value)
    })
}
