//! Runs a plan: keys bottom-up, lookups from the targets down, then the wanted steps, concurrently.
//!
//! It knows no instruction; the [`Backend`] knows no schedule. Plain threads: a fully cached
//! plan starts none.

use crate::key::{CacheKey, ContentId};
use crate::plan::{Plan, Step, StepId};
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

    /// A recorded result by definition key (`inputs` is `None`) or content key (`inputs` are known).
    ///
    /// # Errors
    /// A damaged store.
    fn lookup(&self, step: &Step, key: &CacheKey, inputs: Option<&[Self::Output]>) -> Result<Option<Self::Output>, Self::Error>;

    /// Identity of the part of `input` that `step` reads; the whole's identity where it reads all.
    ///
    /// # Errors
    /// A missing source in that input.
    fn input_identity(&self, step: &Step, index: usize, input: &Self::Output) -> Result<ContentId, Self::Error>;

    /// Carries the step out. Must return soon after `cancel` is set.
    ///
    /// # Errors
    /// The step's failure.
    fn execute(&self, step: &Step, inputs: &[Self::Output], events: &dyn Observer, cancel: &Cancel) -> Result<Self::Output, Self::Error>;

    /// Records a result under its keys; called last, atomically.
    ///
    /// # Errors
    /// A full or damaged store.
    fn record(&self, step: &Step, keys: &[CacheKey], output: &Self::Output) -> Result<(), Self::Error>;
}

/// Asks running steps to stop. Clones share the state.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Sets it.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Whether it is set.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// What happens to a step.
#[derive(Clone, Debug)]
pub enum StepEvent {
    /// Found in the cache.
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
    /// Steps found in the cache.
    pub cached: usize,
}

/// Runs the plan with at most `jobs` steps at once.
///
/// # Errors
/// The first step's failure; the others are cancelled and awaited.
pub fn run<B: Backend>(
    _plan: &Plan,
    _backend: &B,
    _observer: &dyn Observer,
    _jobs: usize,
    _cancel: &Cancel,
) -> Result<Outcome<B::Output>, RunError<B::Error>> {
    todo!()
}
