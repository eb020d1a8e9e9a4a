//! A build from request to outputs: resolve bases, lower, schedule, assemble, write outputs.

mod again;
pub(crate) mod backend;
pub(crate) mod ca;
pub(crate) mod cache_mounts;
mod call;
pub(crate) mod canonical;
pub(crate) mod contexts;
mod copying;
mod epoch;
pub(crate) mod exporter;
pub(crate) mod fetch;
pub(crate) mod forecast;
pub(crate) mod foreign;
mod front;
pub(crate) mod image;
pub(crate) mod journal;
pub(crate) mod layout;
mod load;
pub(crate) mod manifest;
pub(crate) mod mounts;
pub(crate) mod network;
mod preflight;
pub(crate) mod prepare;
pub(crate) mod record;
pub(crate) mod resolve;
mod room;
pub(crate) mod run;
pub(crate) mod secrets;
mod shared;
pub(crate) mod sources;
mod squash;
mod trees;
mod verify;
pub(crate) mod volumes;

pub use crate::cache::ComparedWith;
pub use call::{Call, OpenStore};
pub(crate) use exporter::normalised;
pub use forecast::{Amount, Forecast, ForecastStep, Foreseen, forecast};
pub use journal::{Story, Subject, Told, last_story};
pub use prepare::{Stream, prepare, utf8};
pub use room::CacheMax;
pub use verify::Verified;

use crate::Error;
use crate::cache::mounts::Travel;
use crate::cache::{Exports, Imports, Site};
use crate::cluster::Cluster;
use crate::context::ignore::ignored_files;
use crate::device::Devices;
use crate::remote::Remote;
use crate::request::{BuildRequest, ContextSource};
use crate::source::Sources;
use crate::space::Space;
use crate::ssh::Agents;
use crate::steps::Sending;
use again::Shows;
use backend::Executor;
use contexts::Contexts;
use exporter::Exporter;
use fetch::Fetcher;
use foreign::Emulation;
use front::Front;
use planner::checks::IgnoredFiles;
use planner::key::CacheKey;
use planner::lower::{BaseRequest, LowerOptions, WantedBy};
use planner::plan::{Origin, Plan, StepId};
use planner::platform::Platform;
use planner::scheduler::{self, Cancel, Observer, Outcome, RunError};
use prepare::Pending;
use record::StepOutput;
use resolve::Resolver;
use sources::RemoteSteps;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Instant;
use store::Store;

/// Takes what a build has to say. Step events come through [`Observer`].
pub trait Ui: Observer {
    /// Warnings of the Dockerfile, before anything runs.
    fn diagnostics(&self, diagnostics: &[parser::Diagnostic]);
    /// Something worth knowing that concerns the whole build; told at its end.
    fn warning(&self, _text: &str) {}
    /// The plan is known; step events refer to it.
    fn plan(&self, plan: &Plan);
    /// A phase outside the plan begins (`resolve docker.io/library/busybox:latest`, `exporting to image`); returns its number.
    fn task_started(&self, name: &str) -> u64;
    /// Progress of such a phase.
    fn task_progress(&self, task: u64, what: &str, done: u64, total: u64);
    /// It ended; an error text when it failed.
    fn task_finished(&self, task: u64, error: Option<&str>);
}

/// What a build made.
#[derive(Clone, Debug, Default)]
pub struct BuildResult {
    /// Digest of the manifest or index of the first image output (`containerimage.digest`).
    pub digest: Option<String>,
    /// Config digest (`containerimage.config.digest`), for one platform.
    pub config_digest: Option<String>,
    /// What the image is called where it went: its config digest, and where there is none or images are known by
    /// their manifests, its digest.
    pub image_id: Option<String>,
    /// Its descriptor as JSON (`containerimage.descriptor`).
    pub descriptor: Option<serde_json::Value>,
    /// Normalised names (`image.name`).
    pub names: Vec<String>,
    /// Steps that ran.
    pub executed: usize,
    /// Steps that were cached.
    pub cached: usize,
    /// What `--verify` found.
    pub verified: Option<Verified>,
}

/// A failed build: the error, and which step it was.
#[derive(Debug, thiserror::Error)]
#[error("build failed")]
pub struct BuildFailure {
    /// Why.
    #[source]
    pub error: Error,
    /// The step's origin, when a step failed.
    pub origin: Option<planner::plan::Origin>,
}

impl From<Error> for BuildFailure {
    fn from(error: Error) -> Self {
        Self {
            error,
            origin: None,
        }
    }
}

/// Refuses several platforms where one was asked for.
fn refuse_platforms(request: &BuildRequest) -> Result<(), Error> {
    if request.multi_platform()? == Some(false) && request.platforms.len() > 1 {
        return Err(Error::Request(
            "conflicting config: returning multiple target platforms is not allowed".to_owned(),
        ));
    }
    Ok(())
}

/// Builds. `stdout` receives an output with `dest=-`.
///
/// # Errors
/// Everything that can go wrong, with the place in the Dockerfile where there is one.
#[expect(clippy::result_large_err, reason = "a build fails once")]
#[expect(
    clippy::needless_pass_by_value,
    reason = "nobody else writes to it meanwhile"
)]
pub fn build(
    store: &Store,
    request: &BuildRequest,
    ui: &dyn Ui,
    cancel: &Cancel,
    stdout: Option<std::fs::File>,
) -> Result<BuildResult, BuildFailure> {
    refuse_platforms(request)?;
    let begun = Instant::now();
    let mut front = Front::new(request, options(request), ui)?;
    let agents = Agents::load(&request.ssh)?;
    let authorities = ca::Authorities::load(&request.run.ca)?;
    let sources = request.volumes.iter().map(|volume| volume.source.clone());
    let space = Space::new(store.clone())
        .with_volumes(sources.collect())
        .with_isolation(&request.run)
        .with_network(network::options(request));
    let remote = Remote::new(&request.registry, cancel);
    let pending = Pending::new(&space, request, &remote, ui, cancel);
    let request = &epoch::resolve(&front.parsed.dockerfile, request, &front.options, &pending)?;
    // Nothing else of the request depends on the time.
    front.options.build_args.clone_from(&request.build_args);
    front.options.source_date_epoch = Some(epoch::text_of(request.source_date_epoch));
    let resolver = Resolver {
        space: &space,
        request,
        remote: &remote,
        pending: &pending,
        ui,
    };
    let plan = front.plan(&mut |requests| resolver.resolve(requests))?;
    let devices =
        Devices::check(&plan, &request.cdi_spec_dirs, &request.devices).map_err(|refused| {
            BuildFailure {
                origin: Some(refused.1.origin.clone()),
                error: refused.0,
            }
        })?;
    ui.plan(&plan);
    let imports = Imports::new(&space, request, &remote, ui);
    let fetcher = Fetcher::new(&space, &remote, &plan)?.with_imports(&imports);
    let site = Site {
        space: &space,
        request,
        remote: &remote,
        fetcher: &fetcher,
        imports: &imports,
        ui,
        plan: &plan,
    };
    let exports = Exports::new(site, cancel)?;
    let sending = Sending::new(site, cancel);
    let travel = Travel::new(&space, request, &remote, (&plan, ui, cancel));
    exporter::publish::ask_registries(request, &plan, &remote, ui, cancel)?;
    imports.steps().check()?;
    let contexts = Contexts::new(&space, request, &pending);
    let emulation = Emulation::of(&plan, request, begun);
    let cluster = Cluster::of(request, remote.network())?;
    let carried = exports.meanwhile(|| {
        let steps = RemoteSteps::new(Sources {
            store,
            request,
            remote: &remote,
            cancel,
        });
        steps.find_all(&plan, ui);
        let mut executor = Executor::new(&space, request, &contexts, &fetcher, steps, &emulation);
        executor.agents = agents;
        executor.authorities = authorities;
        executor.devices = devices;
        executor.plan = Some(&plan);
        executor.exports = Some(&exports);
        executor.sending = Some(&sending);
        executor.travel = Some(&travel);
        executor.cluster = cluster.as_ref();
        sending.meanwhile(|| carry_out(site, &executor, cancel, stdout.as_ref()))
    });
    // What was learnt about the context holds even when a step failed.
    contexts.save(ui);
    emulation.tell(ui);
    let (result, keys) = carried?;
    exports.finish(&keys)?;
    travel.export()?;
    Ok(result)
}

/// Runs the steps and writes the outputs; with the steps' keys. When something that was found in a cache is not there, and
/// has to be made, the plan is gone over again.
#[expect(clippy::result_large_err, reason = "a build fails once")]
fn carry_out(
    site: Site<'_>,
    executor: &Executor<'_>,
    cancel: &Cancel,
    stdout: Option<&std::fs::File>,
) -> Result<(BuildResult, Vec<CacheKey>), BuildFailure> {
    let shows = Shows::new(site.ui, site.imports, site.plan);
    let ended = loop {
        match attempt(site, executor, &shows, cancel, stdout) {
            Err((_, Again::Possible)) if site.imports.take_refusal() && !cancel.is_cancelled() => {
                shows.repeat();
            }
            ended => break ended,
        }
    };
    shows.end();
    let (exported, outcome) = ended.map_err(|(failure, _)| failure)?;
    let verified = site
        .request
        .verify
        .then(|| verify::verify(executor, site.plan, &outcome, site.ui, cancel))
        .transpose()?;
    let executed = shows.ran().unwrap_or(outcome.executed);
    let result = BuildResult {
        verified,
        executed,
        cached: site.plan.steps.len() - executed,
        ..exported
    };
    room::Room::new(site.request.cache_max).check(site.space);
    Ok((result, outcome.keys))
}

/// Whether a failure may be one of a cache alone.
enum Again {
    Possible,
    Useless,
}

#[expect(clippy::result_large_err, reason = "a build fails once")]
fn attempt(
    site: Site<'_>,
    executor: &Executor<'_>,
    shows: &Shows<'_>,
    cancel: &Cancel,
    stdout: Option<&std::fs::File>,
) -> Result<(BuildResult, Outcome<StepOutput>), (BuildFailure, Again)> {
    let Site {
        space,
        request,
        remote,
        fetcher,
        ui,
        plan,
        ..
    } = site;
    let told = |error: Error| {
        let again = if again::is_of_cache(&error) {
            Again::Possible
        } else {
            Again::Useless
        };
        (error.into(), again)
    };
    let jobs = executor.jobs();
    let ran = scheduler::run(plan, executor, shows, jobs, cancel);
    let ran = match ran {
        Err(RunError::Step { source, step }) if again::is_of_cache(&source) => {
            let origin = Some(plan.steps[step.0 as usize].origin.clone());
            let error = source;
            return Err((BuildFailure { error, origin }, Again::Possible));
        }
        ran => {
            if let (Ok(_), Some(exports)) = (&ran, executor.exports) {
                exports.remember(|| executor.journal.told(executor, plan));
            }
            executor.journal.finish(executor, plan, failed_step(&ran));
            ran
        }
    };
    let outcome = match ran {
        Ok(outcome) => outcome,
        Err(error) => return Err((failure(error, plan, executor), Again::Useless)),
    };
    let mut results = results(plan, &outcome);
    let mut squashed = None;
    if request.squash {
        let all = layers(&results);
        fetcher.ensure(&all, &|_, _, _| {}, cancel).map_err(told)?;
        let plan = squashed.insert(plan.clone());
        squash::squash(space, plan, &mut results).map_err(told)?;
    }
    let stdout = stdout.map(std::fs::File::try_clone).transpose();
    let stdout = stdout.map_err(|source| {
        told(Error::Io {
            op: "duplicate",
            path: "standard output".into(),
            source,
        })
    })?;
    let exporter = Exporter {
        space,
        request,
        fetcher,
        remote,
        ui,
        cancel,
        plan: squashed.as_ref().unwrap_or(plan),
        results,
        stdout: Mutex::new(stdout),
        cache: (site, &outcome.keys),
    };
    let is_here = exporter.gather().map_err(told)?;
    let exported = exporter.export().map_err(|error| {
        // What is begun only once all layers are here is not begun twice.
        let again = if is_here {
            Again::Useless
        } else {
            Again::Possible
        };
        (error.into(), again)
    })?;
    Ok((exported, outcome))
}

fn options(request: &BuildRequest) -> LowerOptions {
    let host = Platform::host();
    let platforms = if request.platforms.is_empty() {
        vec![host.clone()]
    } else {
        request.platforms.clone()
    };
    LowerOptions {
        target: request.target.clone(),
        build_args: request.build_args.clone(),
        labels: request.labels.clone(),
        platforms,
        build_platform: host,
        named_contexts: request.named_contexts.keys().cloned().collect(),
        context_stages: context_stages(request),
        no_cache: request.no_cache,
        no_cache_stages: request.no_cache_stages.clone(),
        network: request.network,
        extra_hosts: request.extra_hosts.clone(),
        shm_size: request.shm_size,
        ulimits: request.ulimits.clone(),
        volumes: request.volumes.clone(),
        allowed: request.allowed,
        cache_mount_namespace: request
            .build_args
            .get("BUILDKIT_CACHE_MOUNT_NS")
            .cloned()
            .unwrap_or_default(),
        source_date_epoch: None,
        all_stages: false,
        ignored: request
            .ignore
            .as_ref()
            .map_or_else(IgnoredFiles::default, |(text, _)| ignored_files(text)),
    }
}

/// Named contexts that stand for stages of the Dockerfile.
fn context_stages(request: &BuildRequest) -> BTreeMap<String, String> {
    let stage = |(name, source): (&String, &ContextSource)| match source {
        ContextSource::Target(stage) => Some((name.clone(), stage.clone())),
        _ => None,
    };
    request.named_contexts.iter().filter_map(stage).collect()
}

/// A base that could not be resolved is told at the instruction that wants it.
fn base_failure(request: &BaseRequest, error: Error, wanted_by: Option<WantedBy>) -> BuildFailure {
    let name = normalised(&request.name).unwrap_or_else(|_| request.name.clone());
    let suggestion = wanted_by.as_ref().and_then(|by| by.suggestion.clone());
    let origin = wanted_by.map(|by| Origin {
        name: format!("load metadata for {name}"),
        span: Some(by.span),
        lines: Some(by.lines),
        ..Origin::default()
    });
    if matches!(error, Error::Cancelled) {
        return BuildFailure {
            error,
            origin: None,
        };
    }
    // A named context that is no image says all there is to say.
    if matches!(error, Error::Source { .. } | Error::Download { .. }) {
        let name = format!("load context {}", request.name);
        let origin = origin.map(|origin| Origin { name, ..origin });
        return BuildFailure { error, origin };
    }
    let error = match error {
        Error::Registry {
            source: registry_client::Error::Reference { text, reason },
            ..
        } => Error::StageName { name: text, reason },
        error => Error::Base {
            name,
            suggestion,
            source: Box::new(error),
        },
    };
    BuildFailure { error, origin }
}

/// The step that failed of itself.
fn failed_step(ran: &Result<Outcome<StepOutput>, RunError<Error>>) -> Option<StepId> {
    match ran {
        Err(RunError::Step { step, .. }) => Some(*step),
        _ => None,
    }
}

fn failure(error: RunError<Error>, plan: &Plan, executor: &Executor<'_>) -> BuildFailure {
    match error {
        RunError::Cancelled => Error::Cancelled.into(),
        RunError::Prepare { source } => source.into(),
        RunError::Step { step, source } => BuildFailure {
            error: preflight::unreadable_sources(executor, plan, step)
                .unwrap_or_else(|| preflight::in_buildkits_words(source, plan, step)),
            origin: Some(plan.steps[step.0 as usize].origin.clone()),
        },
    }
}

/// Layers of results.
fn layers(results: &[StepOutput]) -> Vec<oci_spec::image::Digest> {
    let all = results.iter().flat_map(|result| result.snapshot().layers);
    all.collect()
}

/// The root file systems of the targets.
fn results(plan: &Plan, outcome: &Outcome<StepOutput>) -> Vec<StepOutput> {
    let take = |target: &planner::plan::Target| match target.rootfs {
        None => StepOutput::default(),
        Some(step) => outcome.outputs[step.0 as usize]
            .clone()
            .expect("BUG: every target's root file system is wanted"),
    };
    plan.targets.iter().map(take).collect()
}
