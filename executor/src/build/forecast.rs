//! What a build would do: which steps are cached, which run, and which is known only once others have run; what would
//! be pulled and pushed. It runs no step and fetches no layer; bases are resolved as a build resolves them.

use super::backend::{Executor, Work};
use super::contexts::Contexts;
use super::exporter::publish;
use super::fetch::{self, Fetcher};
use super::foreign::Emulation;
use super::front::Front;
use super::journal::{self, Past, Subject};
use super::prepare::Pending;
use super::record::{self, StepOutput, base_of};
use super::resolve::Resolver;
use super::sources::RemoteSteps;
use super::{BuildFailure, Ui, epoch, failure, options, refuse_platforms};
use crate::Error;
use crate::cache::{ComparedWith, Imports};
use crate::cluster::{self, Cluster};
use crate::layer;
use crate::remote::Remote;
use crate::request::BuildRequest;
use crate::source::Sources;
use crate::space::Space;
use oci_spec::image::Digest;
use planner::explain::{Kind, Memo, Reason};
use planner::key::{self, ContentId};
use planner::plan::{CopyFrom, CopySource, Op, Plan, Step};
use planner::scheduler::{self, Backend, Cancel, Standing, Survey};
use registry_client::Reference;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;
use store::Store;

/// What would become of a step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Foreseen {
    /// Its result is in the cache, or not needed.
    Hit,
    /// Its result is on the cluster, or in a cache that is shared.
    RemoteHit,
    /// It would run; a base image would be pulled.
    Miss,
    /// Whether it runs is known once its inputs have run: with the same content as before it is cached.
    Unknown,
}

impl Foreseen {
    /// Whether nothing runs for it.
    #[must_use]
    pub fn is_hit(self) -> bool {
        matches!(self, Self::Hit | Self::RemoteHit)
    }
}

/// One step of a build to be.
#[derive(Clone, Debug)]
pub struct ForecastStep {
    /// The step.
    pub memo: Memo,
    /// What would become of it.
    pub foreseen: Foreseen,
    /// The shared cache or the cluster that has its result, where that is not here.
    pub elsewhere: Option<String>,
    /// Why it is not cached, where there is an earlier build to compare with.
    pub reason: Option<Reason>,
}

/// Bytes that would be moved.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Amount {
    /// Layers of a known size.
    pub layers: usize,
    /// Their bytes.
    pub bytes: u64,
    /// It may be less: something is needed only if a step runs, sizes are those before compression, or a registry
    /// could not be asked.
    pub at_most: bool,
    /// Layers that nothing is known of, because their steps have to run first.
    pub unknown: usize,
}

/// A build to be.
#[derive(Clone, Debug)]
pub struct Forecast {
    /// What would be built.
    pub subject: Subject,
    /// Whether there was an earlier build to compare with.
    pub compared: bool,
    /// That build, when it was made elsewhere.
    pub compared_with: Option<ComparedWith>,
    /// All steps, inputs first.
    pub steps: Vec<ForecastStep>,
    /// Layers of base images and of imported caches that would be pulled.
    pub pull: Amount,
    /// Layers that would be sent, by repository.
    pub push: BTreeMap<String, Amount>,
}

impl Forecast {
    /// Whether a step would run, or may.
    #[must_use]
    pub fn runs_anything(&self) -> bool {
        self.steps
            .iter()
            .any(|step| !step.foreseen.is_hit() && step.memo.kind != Kind::Image)
    }
}

/// Says what a build of this request would do.
///
/// # Errors
/// Everything that a build finds before it runs a step.
#[expect(clippy::result_large_err, reason = "a build fails once")]
pub fn forecast(
    store: &Store,
    request: &BuildRequest,
    ui: &dyn Ui,
    cancel: &Cancel,
) -> Result<Forecast, BuildFailure> {
    refuse_platforms(request)?;
    let begun = Instant::now();
    let mut front = Front::new(request, options(request), ui)?;
    let space = Space::new(store.clone())
        .with_isolation(&request.run)
        .with_network(super::network::options(request));
    let remote = Remote::new(&request.registry, cancel);
    let pending = Pending::new(&space, request, &remote, ui, cancel);
    let request = &epoch::resolve(&front.parsed.dockerfile, request, &front.options, &pending)?;
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
    let imports = Imports::new(&space, request, &remote, ui);
    let fetcher = Fetcher::new(&space, &remote, &plan)?.with_imports(&imports);
    let contexts = Contexts::new(&space, request, &pending);
    let emulation = Emulation::of(&plan, request, begun);
    let forecast = {
        let steps = RemoteSteps::new(Sources {
            store,
            request,
            remote: &remote,
            cancel,
        });
        steps.find_all(&plan, ui);
        let cluster = Cluster::of(request, remote.network())?;
        let mut executor = Executor::new(&space, request, &contexts, &fetcher, steps, &emulation);
        executor.cluster = cluster.as_ref();
        executor.plan = Some(&plan);
        executor.foresees = true;
        let survey = scheduler::survey(&plan, &executor, cancel)
            .map_err(|error| failure(error, &plan, &executor))?;
        Foreseeing {
            plan: &plan,
            executor: &executor,
            survey,
            elsewhere: BTreeMap::new(),
            ui,
            cancel,
        }
        .forecast(&remote)
    };
    contexts.save(ui);
    Ok(forecast?)
}

/// Who has the result of a step that is not here.
#[derive(Clone, Debug)]
struct Elsewhere {
    /// A shared cache or a cluster.
    name: String,
    /// Bytes of the layer, where it comes with the result.
    brought: Option<u64>,
}

struct Foreseeing<'a, 'e> {
    plan: &'a Plan,
    executor: &'a Executor<'e>,
    survey: Survey<StepOutput>,
    /// By number of a step: who has its result.
    elsewhere: BTreeMap<usize, Elsewhere>,
    ui: &'a dyn Ui,
    cancel: &'a Cancel,
}

impl Foreseeing<'_, '_> {
    fn forecast(mut self, remote: &Remote) -> Result<Forecast, Error> {
        let foreseen = self.foresee()?;
        let subject = Subject::of(self.executor.request, self.plan);
        let now = journal::memos(self.plan, &self.survey.keys, &self.survey.sources);
        let missed: Vec<bool> = foreseen.iter().map(|step| !step.is_hit()).collect();
        let past = Past::of(self.executor, self.plan, (&subject, &now), &missed);
        let reasons = past.reasons(self.executor, &now, &missed);
        let pull = self.pull(&foreseen)?;
        let push = self.push(&foreseen, remote)?;
        let steps = now.into_iter().zip(&foreseen).zip(reasons).enumerate();
        let steps = steps
            .map(|(at, ((memo, foreseen), reason))| ForecastStep {
                memo,
                foreseen: *foreseen,
                elsewhere: self.elsewhere.remove(&at).map(|it| it.name),
                reason: reason.filter(|_| !foreseen.is_hit()),
            })
            .collect();
        Ok(Forecast {
            subject,
            compared: !past.steps().is_empty(),
            compared_with: match past {
                Past::Elsewhere(elsewhere) => Some(elsewhere.from),
                Past::Here(_) => None,
            },
            steps,
            pull,
            push,
        })
    }

    /// Looks by content for what was not found by definition, as far as the inputs are known.
    fn foresee(&mut self) -> Result<Vec<Foreseen>, Error> {
        let mut foreseen = Vec::with_capacity(self.plan.steps.len());
        for step in &self.plan.steps {
            let at = step.id.0 as usize;
            let next = match (&step.op, self.survey.standings[at]) {
                (_, Standing::Hit | Standing::NotNeeded) => Foreseen::Hit,
                (Op::Image(image), Standing::Miss) => {
                    self.survey.outputs[at] = Some(super::backend::image_output(image)?);
                    Foreseen::Miss
                }
                (_, Standing::Miss) => self.by_content(step)?,
            };
            foreseen.push(next);
        }
        self.tell_apart(&mut foreseen)?;
        Ok(foreseen)
    }

    /// Tells hits in caches that are shared from those that are here. What is only below such a hit is not asked for, and
    /// counts as it does.
    fn tell_apart(&mut self, foreseen: &mut [Foreseen]) -> Result<(), Error> {
        let mut above: Vec<Vec<usize>> = vec![Vec::new(); foreseen.len()];
        for step in &self.plan.steps {
            let at = step.id.0 as usize;
            for input in &step.inputs {
                above[input.0 as usize].push(at);
            }
        }
        for step in self.plan.steps.iter().rev() {
            let at = step.id.0 as usize;
            if foreseen[at] != Foreseen::Hit || matches!(step.op, Op::Image(_)) {
                continue;
            }
            let name = match &self.survey.outputs[at] {
                Some(output) => self.shared_with(output)?,
                None if self.is_recorded_here(at)? => None,
                None => {
                    let mut all = above[at].iter();
                    let is_all = all.all(|at| foreseen[*at] == Foreseen::RemoteHit);
                    let first = above[at].first().filter(|_| is_all);
                    let first = first.and_then(|at| self.elsewhere.get(at));
                    first.map(|elsewhere| elsewhere.name.clone())
                }
            };
            if let Some(name) = name {
                foreseen[at] = Foreseen::RemoteHit;
                let brought = None;
                self.elsewhere.insert(at, Elsewhere { name, brought });
            }
        }
        Ok(())
    }

    /// The shared cache that has the layer of a step, where it is not here.
    fn shared_with(&self, output: &StepOutput) -> Result<Option<String>, Error> {
        let (Some(link), Some(imports)) = (output.chain.last(), self.executor.fetcher.imports())
        else {
            return Ok(None);
        };
        if layer::is_readable(self.executor.space.store(), &link.layer)? {
            return Ok(None);
        }
        Ok(imports.shared_with(&link.layer).map(str::to_owned))
    }

    /// Whether the store has the result of a step, by its definition.
    fn is_recorded_here(&self, at: usize) -> Result<bool, Error> {
        let store = self.executor.space.store();
        let record = store.record(&self.survey.keys[at].0)?;
        let output = record.and_then(|payload| record::decode(&payload));
        match output.as_ref().and_then(|output| output.chain.last()) {
            Some(link) => layer::is_readable(store, &link.layer),
            None => Ok(false),
        }
    }

    fn by_content(&mut self, step: &Step) -> Result<Foreseen, Error> {
        if step.no_cache {
            return Ok(Foreseen::Miss);
        }
        let at = step.id.0 as usize;
        let outputs = &self.survey.outputs;
        let inputs: Option<Vec<StepOutput>> = step
            .inputs
            .iter()
            .map(|input| outputs[input.0 as usize].clone())
            .collect();
        let Some(inputs) = inputs else {
            return Ok(Foreseen::Unknown);
        };
        let mut identities: Vec<ContentId> = Vec::with_capacity(inputs.len());
        for (index, input) in inputs.iter().enumerate() {
            if reads_files(step, index) && !self.is_here(input)? {
                return Ok(Foreseen::Unknown);
            }
            identities.push(self.executor.input_identity(step, index, input)?);
        }
        let content = key::content_key(step, &identities, self.survey.sources[at].as_ref());
        let found = self.executor.lookup(step, &content, Some(&inputs))?;
        let is_found = found.is_some();
        self.survey.outputs[at] = found;
        if is_found {
            return Ok(Foreseen::Hit);
        }
        self.on_cluster(step, &inputs)
    }

    /// Whether the cluster has run a step that nobody here knows. What the step is for a worker depends on files: it is
    /// not known unless they are here, or have been.
    fn on_cluster(&mut self, step: &Step, inputs: &[StepOutput]) -> Result<Foreseen, Error> {
        let (Some(cluster), Op::Run(op)) = (self.executor.cluster, &step.op) else {
            return Ok(Foreseen::Miss);
        };
        if !cluster.may_take(self.executor, step, op) {
            return Ok(Foreseen::Miss);
        }
        let work = Work {
            inputs,
            events: self.ui,
            cancel: self.cancel,
        };
        match cluster.standing(self.executor, step, op, &work)? {
            cluster::Standing::Missing => Ok(Foreseen::Miss),
            cluster::Standing::Unknown => Ok(Foreseen::Unknown),
            cluster::Standing::There { bytes } => {
                let elsewhere = Elsewhere {
                    name: cluster.name().to_owned(),
                    brought: Some(bytes),
                };
                self.elsewhere.insert(step.id.0 as usize, elsewhere);
                Ok(Foreseen::RemoteHit)
            }
        }
    }

    fn is_here(&self, output: &StepOutput) -> Result<bool, Error> {
        for layer in &output.snapshot().layers {
            if !layer::is_readable(self.executor.space.store(), layer)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Layers that are not here and that a step, or what is made of the result, needs.
    fn pull(&self, foreseen: &[Foreseen]) -> Result<Amount, Error> {
        let mut wanted: BTreeMap<String, (Digest, bool)> = BTreeMap::new();
        // What a cached step made may be in an imported cache only.
        let mut want = |step: usize, surely: bool| -> Result<(), Error> {
            let layers = match self.layers_of(step)? {
                layers if layers.is_empty() => self.layers_of(fetch::bottom_of(self.plan, step))?,
                layers => layers,
            };
            for layer in layers {
                let entry = wanted.entry(layer.to_string()).or_insert((layer, surely));
                entry.1 |= surely;
            }
            Ok(())
        };
        for (step, foreseen) in self.plan.steps.iter().zip(foreseen) {
            if foreseen.is_hit() || matches!(step.op, Op::Image(_)) {
                continue;
            }
            for (index, input) in step.inputs.iter().enumerate() {
                if needs_layers(&step.op, index) {
                    want(input.0 as usize, *foreseen == Foreseen::Miss)?;
                }
            }
        }
        if publish::keeps_result(self.executor.request) {
            for target in &self.plan.targets {
                if let Some(rootfs) = target.rootfs {
                    want(rootfs.0 as usize, true)?;
                }
            }
        }
        let brought = self.elsewhere.values().filter_map(|it| it.brought);
        let mut amount = brought.fold(Amount::default(), |amount, bytes| Amount {
            layers: amount.layers + 1,
            bytes: amount.bytes + bytes,
            ..amount
        });
        for (layer, surely) in wanted.into_values() {
            if layer::is_readable(self.executor.space.store(), &layer)? {
                continue;
            }
            amount.at_most |= !surely;
            match self.executor.fetcher.descriptor(&layer) {
                Some(desc) => {
                    amount.layers += 1;
                    amount.bytes += desc.size;
                }
                None => amount.unknown += 1,
            }
        }
        Ok(amount)
    }

    /// Layers of the results that the repositories they are pushed to do not have.
    fn push(
        &self,
        foreseen: &[Foreseen],
        remote: &Remote,
    ) -> Result<BTreeMap<String, Amount>, Error> {
        let mut amounts = BTreeMap::new();
        for (repository, compression) in publish::repositories(self.executor.request)? {
            let mut amount = Amount::default();
            let mut seen = BTreeSet::new();
            for target in &self.plan.targets {
                let mut at = target.rootfs.map(|rootfs| rootfs.0 as usize);
                while let Some(step) = at {
                    at = None;
                    let is_known = foreseen[step].is_hit() && !self.is_brought(step);
                    if !is_known && !matches!(self.plan.steps[step].op, Op::Image(_)) {
                        amount.unknown += usize::from(seen.insert(format!("step {step}")));
                        let op = &self.plan.steps[step].op;
                        at = base_of(op).map(|base| self.plan.steps[step].inputs[base].0 as usize);
                        continue;
                    }
                    let layers = self.layers_of(step)?;
                    for layer in layers {
                        if seen.insert(layer.to_string()) {
                            self.add(&layer, compression, (&repository, remote), &mut amount)?;
                        }
                    }
                }
            }
            amounts.insert(repository.name(), amount);
        }
        Ok(amounts)
    }

    /// Whether its layer is not known before a cluster has given it.
    fn is_brought(&self, step: usize) -> bool {
        let elsewhere = self.elsewhere.get(&step);
        elsewhere.is_some_and(|elsewhere| elsewhere.brought.is_some())
    }

    fn layers_of(&self, step: usize) -> Result<Vec<Digest>, Error> {
        if let Some(output) = &self.survey.outputs[step] {
            return Ok(output.snapshot().layers);
        }
        match &self.plan.steps[step].op {
            Op::Image(image) => Ok(super::backend::image_output(image)?.base),
            _ => Ok(Vec::new()),
        }
    }

    fn add(
        &self,
        layer: &Digest,
        compression: layer::Compression,
        (repository, remote): (&Reference, &Remote),
        amount: &mut Amount,
    ) -> Result<(), Error> {
        let space = self.executor.space;
        let of_base = self.executor.fetcher.descriptor(layer);
        let made = layer::packed::known(space, layer, compression, false)?;
        let known = match (of_base, made) {
            (Some(desc), _) => Some((desc.digest()?, desc.size)),
            (None, Some(packed)) => {
                let descriptor = packed.descriptor;
                Some((descriptor.digest().clone(), descriptor.size()))
            }
            (None, None) => None,
        };
        let Some((digest, size)) = known else {
            let plain = space.store().layer(layer)?.and_then(|meta| meta.size);
            amount.at_most = true;
            match plain {
                Some(size) => {
                    amount.layers += 1;
                    amount.bytes += size;
                }
                None => amount.unknown += 1,
            }
            return Ok(());
        };
        match remote.has_blob(repository, &digest) {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(Error::Cancelled) => return Err(Error::Cancelled),
            Err(_) => amount.at_most = true,
        }
        amount.layers += 1;
        amount.bytes += size;
        Ok(())
    }
}

/// Whether the content key of a step depends on files in this input, so that its layers have to be read.
fn reads_files(step: &Step, index: usize) -> bool {
    let Op::Copy(op) = &step.op else { return false };
    if op.base == Some(index) {
        return false;
    }
    let is_own =
        |source: &CopySource| matches!(source, CopySource::Input { input, .. } if *input == index);
    op.from == CopyFrom::Input(index) || op.sources.iter().any(is_own)
}

/// Whether a step that runs needs the layers of this input.
fn needs_layers(op: &Op, index: usize) -> bool {
    match op {
        Op::Copy(copy) => !(copy.link && copy.chown.is_none() && copy.base == Some(index)),
        _ => true,
    }
}
