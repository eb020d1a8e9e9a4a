//! Steps on a cluster: which of them may go there, what a worker is given, and what is taken of its answer.
//!
//! It schedules nothing: the scheduler of the plan hands over steps, and waits. A step that may not leave runs here, and
//! so does one that no worker takes, where that is allowed.

mod action;
mod answer;
pub mod check;
mod output;
mod platform;
mod policy;
mod program;
mod run;
mod sent;
mod slots;
mod timing;
pub mod tree;

pub(crate) use slots::{Slot, Slots};

use crate::Error;
use crate::build::backend::{Executor, Work};
use crate::remote::Network;
use crate::request::{BuildRequest, EndpointSettings, ExecutorSettings, Fallback};
use crate::worker::SpecError;
use oci_spec::image::Digest;
use planner::plan::{RunMount, RunOp, Step};
use planner::scheduler::{Cancel, StepEvent};
use policy::Place;
use program::Programs;
use reapi::{Client, Endpoint};
use run::Remote;
use sent::Sent;
use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

/// What a cluster knows of a step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Standing {
    /// It has its result.
    There {
        /// Bytes of the layer's blob.
        bytes: u64,
    },
    /// It has none.
    Missing,
    /// What the step is there depends on files that are not here.
    Unknown,
}

/// The cluster of a build. It connects when the first step goes there.
#[derive(Debug)]
pub(crate) struct Cluster<'a> {
    settings: &'a ExecutorSettings,
    client: Client,
    network: Arc<Network>,
    programs: Programs,
    sent: Sent,
    /// Work on this machine.
    here: Slots,
    /// What was said once, and why steps of some kind are not taken.
    said: Mutex<HashSet<String>>,
    refused: Mutex<HashSet<String>>,
}

impl<'a> Cluster<'a> {
    /// Of a build, where it has one. Nothing is started.
    ///
    /// # Errors
    /// An address that is none.
    pub(crate) fn of(
        request: &'a BuildRequest,
        network: &Arc<Network>,
    ) -> Result<Option<Self>, Error> {
        let Some(settings) = &request.remote.executor else {
            return Ok(None);
        };
        Ok(Some(Self {
            settings,
            client: Client::new(endpoint(&settings.endpoint)?),
            network: Arc::clone(network),
            programs: Programs::default(),
            sent: Sent::default(),
            here: Slots::new(request.jobs),
            said: Mutex::default(),
            refused: Mutex::default(),
        }))
    }

    /// Steps in flight, here and there.
    pub(crate) fn jobs(&self, here: usize) -> usize {
        self.settings.jobs.max(here)
    }

    /// Waits until this machine has room for a step.
    ///
    /// # Errors
    /// The build was cancelled.
    pub(crate) fn here(&self, cancel: &Cancel) -> Result<Slot<'_>, Error> {
        self.here.take(cancel)
    }

    /// Carries a RUN out, there or here.
    ///
    /// # Errors
    /// Its failure; a cluster that cannot take it, where it may not run here.
    pub(crate) fn run(
        &self,
        executor: &Executor<'_>,
        step: &Step,
        op: &RunOp,
        work: &Work<'_>,
    ) -> Result<Digest, Error> {
        let here = |why: &str| {
            let note = format!("runs on this machine: {why}");
            work.events.event(step.id, StepEvent::Note(note));
            let _slot = self.here(work.cancel)?;
            crate::build::run::run(executor, step, op, work)
        };
        let verifying = executor.verifying.load(Ordering::SeqCst);
        if let Place::Here(why) = policy::place(self.settings, executor.request, op, verifying) {
            return here(why);
        }
        let (spec, inputs) = match action::spec(executor.request, op) {
            Ok(spec) => spec,
            Err(SpecError::Local(what)) => return here(&format!("it needs {what}")),
            Err(error) => return Err(self.untaken(error.to_string())),
        };
        self.tell_whose(executor.request, step, op, work);
        let falls_back = self.settings.fallback == Fallback::Local;
        let architecture = platform::worker_architecture(self.settings, &step.platform);
        if falls_back && self.is_refused(architecture) {
            return here("the cluster did not take such a step");
        }
        let program = self.programs.of(self.settings, architecture);
        let ended = match program.as_ref() {
            Ok(program) => {
                let remote = self.remote(executor, step, op, work);
                remote.run(spec, &inputs, program)
            }
            Err(reason) => Err(self.untaken(reason.clone())),
        };
        match ended {
            Err(error) if falls_back && is_of_cluster(&error) => {
                self.remember(&error, architecture);
                here(&told(&error))
            }
            ended => ended,
        }
    }

    /// Tells, once of each, that what was given here is not what the step gets there.
    fn tell_whose(&self, request: &BuildRequest, step: &Step, op: &RunOp, work: &Work<'_>) {
        for mount in &op.mounts {
            let note = match mount {
                RunMount::Secret { id, .. } if request.secrets.contains_key(id) => {
                    format!("secret {id} is the worker's: the one that was given stays here")
                }
                RunMount::Ssh { id, .. } if request.ssh.contains_key(id) => {
                    format!("SSH agent {id} is the worker's: the one that was given stays here")
                }
                _ => continue,
            };
            if self.is_new(&note) {
                work.events.event(step.id, StepEvent::Note(note));
            }
        }
    }

    /// Whether a step goes there, and takes there what it needs of secrets and agents.
    pub(crate) fn is_for(&self, executor: &Executor<'_>, op: &RunOp) -> bool {
        let verifying = executor.verifying.load(Ordering::SeqCst);
        policy::place(self.settings, executor.request, op, verifying) == Place::Cluster
    }

    /// Whether a step could go there, as far as can be told from here.
    pub(crate) fn may_take(&self, executor: &Executor<'_>, step: &Step, op: &RunOp) -> bool {
        let architecture = platform::worker_architecture(self.settings, &step.platform);
        policy::place(self.settings, executor.request, op, false) == Place::Cluster
            && !step.no_cache
            && !self.is_refused(architecture)
            && self.programs.of(self.settings, architecture).is_ok()
    }

    /// Whether the cluster has the result of such a step. Nothing is brought here or there.
    /// A cluster that is out of reach has nothing.
    ///
    /// # Errors
    /// The build was cancelled; layers that cannot be read.
    pub(crate) fn standing(
        &self,
        executor: &Executor<'_>,
        step: &Step,
        op: &RunOp,
        work: &Work<'_>,
    ) -> Result<Standing, Error> {
        let Ok((spec, inputs)) = action::spec(executor.request, op) else {
            return Ok(Standing::Missing);
        };
        let architecture = platform::worker_architecture(self.settings, &step.platform);
        let program = self.programs.of(self.settings, architecture);
        let Ok(program) = program.as_ref() else {
            return Ok(Standing::Missing);
        };
        let remote = self.remote(executor, step, op, work);
        match remote.standing(spec, &inputs, program) {
            Err(error) if is_of_cluster(&error) => {
                self.remember(&error, architecture);
                Ok(Standing::Missing)
            }
            ended => ended,
        }
    }

    /// As messages call it.
    pub(crate) fn name(&self) -> &str {
        &self.settings.endpoint.url
    }

    fn remote<'r>(
        &'r self,
        executor: &'r Executor<'r>,
        step: &'r Step,
        op: &'r RunOp,
        work: &'r Work<'r>,
    ) -> Remote<'r> {
        Remote {
            cluster: self,
            executor,
            step,
            op,
            work,
        }
    }

    /// Waiting for an error once is enough.
    fn remember(&self, error: &Error, architecture: &str) {
        if is_lasting(error) {
            let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
            refused.insert(architecture.to_owned());
        }
    }

    fn is_refused(&self, architecture: &str) -> bool {
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.contains(architecture)
    }

    /// Whether something is said for the first time.
    fn is_new(&self, text: &str) -> bool {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.insert(text.to_owned())
    }

    /// An answer that does not fit.
    fn answer(&self, reason: String) -> Error {
        Error::Answer {
            cluster: self.settings.endpoint.url.clone(),
            reason,
        }
    }

    /// A step that could go there and is not taken.
    fn untaken(&self, reason: String) -> Error {
        Error::Untaken {
            cluster: self.settings.endpoint.url.clone(),
            reason,
        }
    }
}

/// The address of a server, with what it is told of who asks.
///
/// # Errors
/// No address.
pub(crate) fn endpoint(settings: &EndpointSettings) -> Result<Endpoint, Error> {
    let mut endpoint = Endpoint::parse(&settings.url)?;
    if let Some(ca) = &settings.ca {
        endpoint = endpoint.with_authorities(ca.clone());
    }
    if let Some((certificate, key)) = &settings.identity {
        endpoint = endpoint.with_identity(certificate.clone(), key.clone());
    }
    let headers = settings.headers.iter();
    Ok(headers.fold(endpoint, |endpoint, (name, value)| {
        endpoint.with_header(name, value)
    }))
}

/// Whether an error says that the cluster could not take or finish a step, and nothing of the step itself.
fn is_of_cluster(error: &Error) -> bool {
    matches!(error, Error::Cluster(_) | Error::Untaken { .. })
}

/// Whether the next step of this kind would have no more luck.
fn is_lasting(error: &Error) -> bool {
    let Error::Cluster(source) = error else {
        return false;
    };
    matches!(
        **source,
        reapi::Error::Connect { .. }
            | reapi::Error::NoWorker { .. }
            | reapi::Error::Unsupported { .. }
            | reapi::Error::Instance { .. }
    )
}

/// An error with its causes, in a line.
fn told(error: &Error) -> String {
    crate::error::chain(error)
}
