//! One step on the cluster: looked up, sent, executed, its answer taken; again once, where that may help.

use super::action::{self, Prepared, Setting};
use super::answer::{self, Unusable};
use super::program::Program;
use super::tree::Carried;
use super::{Cluster, Standing, told};
use crate::Error;
use crate::build::backend::{Executor, Work};
use crate::build::run::log::Log;
use crate::cluster::output::Output;
use crate::error::LeftBehind;
use crate::layer::{self, Form, Written};
use crate::snapshot::Snapshot;
use crate::worker::{Ended, REPORT, Spec};
use oci_spec::image::Digest;
use planner::plan::{InputIndex, RunOp, Step};
use planner::scheduler::{Elsewhere, StepEvent};
use reapi::{Blob, ExecuteOptions, Executed, Stage, SymlinkPolicy, proto};
use sandbox::Exit;
use std::collections::{HashMap, HashSet};

/// Executions of one step: the first, one each for a worker, an answer and inputs that were lost, two for lost blobs.
const MOST_EXECUTIONS: usize = 6;

/// A step that is carried out elsewhere.
pub(super) struct Remote<'r> {
    pub cluster: &'r Cluster<'r>,
    pub executor: &'r Executor<'r>,
    pub step: &'r Step,
    pub op: &'r RunOp,
    pub work: &'r Work<'r>,
}

/// What a failed execution is good for.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Again {
    Blobs,
    Worker,
    Answer,
    /// Only if inputs got lost while it ran.
    Inputs,
}

impl Remote<'_> {
    /// Its layer.
    pub(super) fn run(
        &self,
        spec: Spec,
        inputs: &[InputIndex],
        program: &Program,
    ) -> Result<Digest, Error> {
        let ended = self.carried_out(spec, inputs, program);
        self.is_at(None);
        ended
    }

    fn carried_out(
        &self,
        spec: Spec,
        inputs: &[InputIndex],
        program: &Program,
    ) -> Result<Digest, Error> {
        // A base that is not here is brought when it turns out to be needed.
        let remembered = if self.is_all_here(inputs)? {
            None
        } else {
            self.remembered(&spec, inputs, program)?
        };
        if let Some(action) = remembered
            && let Some(written) = self.look_up(action)?
        {
            return self.executor.known(written);
        }
        let prepared = self.prepare(spec, inputs, program)?;
        if remembered != Some(prepared.action)
            && let Some(written) = self.look_up(prepared.action)?
        {
            return self.executor.known(written);
        }
        self.send(&prepared, &Lacking::default())?;
        let mut used: HashMap<Again, usize> = HashMap::new();
        for _ in 0..MOST_EXECUTIONS {
            let (error, again) = match self.execute(&prepared)? {
                Ok(written) => return self.executor.known(written),
                Err(failed) => failed,
            };
            let times = used.entry(again).or_default();
            *times += 1;
            let most = if again == Again::Blobs { 2 } else { 1 };
            if *times > most || self.work.cancel.is_cancelled() {
                return Err(error);
            }
            if again == Again::Inputs {
                let gone = match self.gone(&prepared) {
                    Ok(gone) if !gone.is_empty() => gone.len(),
                    _ if self.work.cancel.is_cancelled() => return Err(Error::Cancelled),
                    _ => return Err(error),
                };
                self.note(format!(
                    "once more: it failed, and the server has lost {gone} of its inputs meanwhile"
                ));
            } else {
                self.note(format!("once more: {}", told(&error)));
            }
            let lacking = match again {
                // Who lacks it still does not say what it lacks: it gets all.
                Again::Blobs if *times > 1 => Lacking::All,
                Again::Blobs => Lacking::These(missing(&error)),
                Again::Worker | Again::Answer | Again::Inputs => Lacking::default(),
            };
            // An engine that stages lazily finds out in the middle of a step that something is gone.
            self.cluster.sent.forget();
            self.send(&prepared, &lacking)?;
        }
        Err(self.cluster.answer("it was lost too often".to_owned()))
    }

    /// Whether the server has its result, as far as its first look tells. Nothing is brought here for that.
    pub(super) fn standing(
        &self,
        spec: Spec,
        inputs: &[InputIndex],
        program: &Program,
    ) -> Result<Standing, Error> {
        let action = if self.is_all_here(inputs)? {
            Some(self.prepare(spec, inputs, program)?.action)
        } else {
            self.remembered(&spec, inputs, program)?
        };
        let Some(action) = action else {
            return Ok(Standing::Unknown);
        };
        let (cluster, work) = (self.cluster, self.work);
        let found = cluster.client.action_result(action, &[REPORT]);
        let found = cluster.network.run(work.cancel, found)??;
        let found = found.filter(|result| result.exit_code == 0);
        Ok(found.map_or(Standing::Missing, |result| Standing::There {
            bytes: answer::layer_size(&result),
        }))
    }

    fn is_at(&self, state: Option<Elsewhere>) {
        let event = StepEvent::Elsewhere(state);
        self.work.events.event(self.step.id, event);
    }

    fn note(&self, text: String) {
        self.work.events.event(self.step.id, StepEvent::Note(text));
    }

    /// What actions of this build have in common. The server is asked once.
    fn setting(&self) -> Result<Setting<'_>, Error> {
        let (cluster, executor) = (self.cluster, self.executor);
        let capabilities = cluster.client.capabilities();
        let server = cluster.network.run(self.work.cancel, capabilities)??;
        if !server.exec_enabled {
            return Err(cluster.untaken("its server executes nothing".to_owned()));
        }
        let unannounced = cluster.settings.preset.carries_unannounced();
        Ok(Setting {
            space: executor.space,
            request: executor.request,
            settings: cluster.settings,
            carried: Carried {
                modes: unannounced || server.carries("unix_mode"),
                times: unannounced || server.carries("mtime"),
                absolute_links: server.symlinks != SymlinkPolicy::Disallowed,
            },
        })
    }

    /// The root file systems that the step is over, and mounts.
    fn snapshots(&self, inputs: &[InputIndex]) -> (Option<Snapshot>, Vec<Snapshot>) {
        let base = self.op.base.map(|base| self.work.base(Some(base)));
        let mounts = inputs.iter().map(|input| self.work.base(Some(*input)));
        (base, mounts.collect())
    }

    /// The action of a step over something that is not here, where the trees of all that is remembered.
    fn remembered(
        &self,
        spec: &Spec,
        inputs: &[InputIndex],
        program: &Program,
    ) -> Result<Option<reapi::Digest>, Error> {
        let (base, mounts) = self.snapshots(inputs);
        let inputs = (base.as_ref(), mounts.as_slice());
        action::remembered(&self.setting()?, self.step, spec.clone(), inputs, program)
    }

    fn is_all_here(&self, inputs: &[InputIndex]) -> Result<bool, Error> {
        let (base, mounts) = self.snapshots(inputs);
        let store = self.executor.space.store();
        for layer in base.iter().chain(&mounts).flat_map(|it| &it.layers) {
            if !layer::is_readable(store, layer)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The action. It takes reading and hashing here, of what is new.
    fn prepare(
        &self,
        spec: Spec,
        inputs: &[InputIndex],
        program: &Program,
    ) -> Result<Prepared, Error> {
        let setting = self.setting()?;
        let (base, mounts) = self.snapshots(inputs);
        for snapshot in base.iter().chain(&mounts) {
            let layers = &snapshot.layers;
            self.executor
                .ensure_as(Form::Readable, layers, self.step.id, self.work)?;
        }
        let _slot = self.cluster.here.take(self.work.cancel)?;
        let inputs = (base.as_ref(), mounts.as_slice());
        action::prepare(&setting, self.step, spec, inputs, program)
    }

    /// A result that the server has. One that is of no use is made anew.
    fn look_up(&self, action: reapi::Digest) -> Result<Option<Written>, Error> {
        if self.step.no_cache {
            return Ok(None);
        }
        let (cluster, work) = (self.cluster, self.work);
        let found = cluster.client.action_result(action, &[REPORT]);
        let Some(result) = cluster.network.run(work.cancel, found)?? else {
            return Ok(None);
        };
        // Some servers keep what failed.
        if result.exit_code != 0 {
            return Ok(None);
        }
        self.is_at(Some(Elsewhere::Fetching));
        match self.layer(&result) {
            Ok(written) => {
                self.note("remote hit".to_owned());
                Ok(Some(written))
            }
            Err(_) if work.cancel.is_cancelled() => Err(Error::Cancelled),
            Err(unusable) => {
                let why = told(&unusable.error());
                self.note(format!("a remote result is not usable: {why}"));
                Ok(None)
            }
        }
    }

    fn layer(&self, result: &proto::ActionResult) -> Result<Written, Unusable> {
        let answer = answer::read(self.cluster, self.work, result)?;
        answer.layer(self.cluster, self.executor.space, (self.step.id, self.work))
    }

    /// Sends what the server lacks: what it says when it is asked, and what it has said that it lacks.
    fn send(&self, prepared: &Prepared, lacking: &Lacking) -> Result<(), Error> {
        let (cluster, work) = (self.cluster, self.work);
        let blobs = {
            let _slot = cluster.here.take(work.cancel)?;
            prepared.blobs(self.executor.space, &|root| cluster.sent.has(root))?
        };
        let mut blobs: HashMap<reapi::Digest, Blob> =
            blobs.into_iter().map(|blob| (blob.digest, blob)).collect();
        let mut wanted: Vec<reapi::Digest> = blobs.keys().copied().collect();
        while !wanted.is_empty() {
            let mut claim = cluster.sent.claim(wanted);
            let missing = cluster.client.find_missing(&claim.mine);
            let missing = cluster.network.run(work.cancel, missing)??;
            let mut missing: HashSet<reapi::Digest> = missing.into_iter().collect();
            missing.extend(claim.mine.iter().filter(|digest| lacking.has(digest)));
            let missing: Vec<Blob> = missing.iter().filter_map(|it| blobs.remove(it)).collect();
            let total: u64 = missing.iter().map(|blob| blob.digest.size()).sum();
            let told = |done: u64| {
                let event = StepEvent::Transfer {
                    what: "to the cluster".to_owned(),
                    done,
                    total,
                };
                work.events.event(self.step.id, event);
            };
            if !missing.is_empty() {
                let sent = cluster.client.upload(missing, &told);
                cluster.network.run(work.cancel, sent)??;
            }
            claim.done();
            wanted = claim.rest(work.cancel)?;
        }
        Ok(())
    }

    /// What the server no longer has of the inputs. An engine that stages lazily finds out in the middle of a step that
    /// something is gone, and no exit code tells that.
    fn gone(&self, prepared: &Prepared) -> Result<Vec<reapi::Digest>, Error> {
        let (cluster, work) = (self.cluster, self.work);
        let blobs = {
            let _slot = cluster.here.take(work.cancel)?;
            prepared.blobs(self.executor.space, &|_| false)?
        };
        let digests: Vec<reapi::Digest> = blobs.iter().map(|blob| blob.digest).collect();
        let missing = cluster.client.find_missing(&digests);
        Ok(cluster.network.run(work.cancel, missing)??)
    }

    /// Executes it, and takes the answer. The inner error is one after which another try may help.
    fn execute(&self, prepared: &Prepared) -> Result<Result<Written, (Error, Again)>, Error> {
        let (cluster, executor, work) = (self.cluster, self.executor, self.work);
        let log = Log::create(
            &executor.space.store().logs(),
            executor.request.now,
            self.step.id,
            executor.request.run.output,
        )?;
        let output = Output::new(&log, self.step.id, work.events);
        let options = ExecuteOptions {
            skip_cache_lookup: true,
            queue_timeout: Some(cluster.settings.queue_timeout),
            run_timeout: prepared.limit,
            priority: 0,
            properties: prepared.properties.clone(),
        };
        self.is_at(Some(Elsewhere::Sent));
        let tell = |stage| match stage {
            Stage::Queued => self.is_at(Some(Elsewhere::Queued)),
            Stage::Executing { worker } => self.is_at(Some(Elsewhere::Running(worker))),
            Stage::Completed => self.is_at(Some(Elsewhere::Fetching)),
            stage => output.stage(stage),
        };
        let cancelled = crate::remote::cancelled(work.cancel);
        let executed = cluster
            .client
            .execute(prepared.action, &options, &tell, cancelled);
        let executed = match cluster.network.wait(executed)? {
            Ok(executed) => executed,
            Err(_) if work.cancel.is_cancelled() => return Err(Error::Cancelled),
            Err(reapi::Error::TimedOut { .. })
                if executor.request.run.timeout == Some(prepared.limit) =>
            {
                output.end();
                log.close()?;
                let (tail, path) = log.finish();
                return Err(Error::Timeout {
                    command: self.op.display.clone(),
                    limit: prepared.limit,
                    left: left(tail, path),
                });
            }
            Err(error) => {
                log.discard_when_empty();
                let again = if error.is_missing_blobs() {
                    Again::Blobs
                } else if error.is_worker_lost() {
                    Again::Worker
                } else {
                    return Err(error.into());
                };
                return Ok(Err((error.into(), again)));
            }
        };
        self.is_at(Some(Elsewhere::Fetching));
        output.rest(cluster, work.cancel, &executed);
        log.close()?;
        self.take(&executed, log)
    }

    /// Takes what was executed.
    fn take(
        &self,
        executed: &Executed,
        log: Log,
    ) -> Result<Result<Written, (Error, Again)>, Error> {
        let result = &executed.result;
        let unusable = |unusable: Unusable| match unusable {
            _ if self.work.cancel.is_cancelled() => Err(Error::Cancelled),
            Unusable::Lost(error) => Ok(Err((error, Again::Answer))),
            Unusable::Wrong(error) => Err(error),
        };
        let answer = match answer::read(self.cluster, self.work, result) {
            Ok(answer) => answer,
            Err(error) => return unusable(error),
        };
        let report = &answer.report;
        for note in &report.notes {
            if self.cluster.is_new(note) {
                self.note(note.to_owned());
            }
        }
        let exit = match &report.exit {
            Ended::Code(0) => None,
            Ended::Code(code) => Some(Exit::Code(*code)),
            Ended::Signal(signal) => Some(Exit::Signal(*signal)),
            Ended::Error(reason) => {
                let error = self
                    .cluster
                    .untaken(format!("its worker could not: {reason}"));
                let again = if report.is_unreadable() {
                    Again::Answer
                } else {
                    Again::Inputs
                };
                return Ok(Err((error, again)));
            }
        };
        self.note(super::timing::told(result, executed.from_cache));
        if let Some(exit) = exit {
            let (tail, path) = log.finish();
            let error = Error::Command {
                command: self.op.display.clone(),
                exit,
                verdict: report.verdict.clone(),
                left: left(tail, path),
            };
            return Ok(Err((error, Again::Inputs)));
        }
        log.discard_when_empty();
        let layer = answer.layer(self.cluster, self.executor.space, (self.step.id, self.work));
        layer.map(Ok).or_else(unusable)
    }
}

/// What is sent without asking.
enum Lacking {
    These(Vec<reapi::Digest>),
    All,
}

impl Default for Lacking {
    fn default() -> Self {
        Self::These(Vec::new())
    }
}

impl Lacking {
    fn has(&self, digest: &reapi::Digest) -> bool {
        match self {
            Self::These(these) => these.contains(digest),
            Self::All => true,
        }
    }
}

/// What a server says that it lacks.
fn missing(error: &Error) -> Vec<reapi::Digest> {
    match error {
        Error::Cluster(source) => source.missing_blobs(),
        _ => Vec::new(),
    }
}

fn left(tail: String, log: std::path::PathBuf) -> Box<LeftBehind> {
    Box::new(LeftBehind {
        tail,
        log: Some(log),
        kept: None,
    })
}
