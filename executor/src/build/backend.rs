//! Carries a plan's steps out for the scheduler: digests of what they read, records, and the work itself.
//!
//! It knows what a step needs (layers fetched, contexts opened, a sandbox only for RUN), not when it runs.

use crate::Error;
use crate::build::ca::Authorities;
use crate::build::contexts::{Contexts, NoFiles};
use crate::build::copying::{own_inputs, reads_paths};
use crate::build::fetch::Fetcher;
use crate::build::foreign::Emulation;
use crate::build::journal::Journal;
use crate::build::manifest;
use crate::build::preflight;
use crate::build::record::{self, Link, OtherKeys, StepOutput, base_of};
use crate::build::room::Room;
use crate::build::run;
use crate::build::sources::RemoteSteps;
use crate::cache::mounts::Travel;
use crate::cache::{Claims, Exports};
use crate::cluster::Cluster;
use crate::copy::{self, Reads};
use crate::device::Devices;
use crate::layer::{self, Compression, Form, Written};
use crate::request::BuildRequest;
use crate::snapshot::{Snapshot, View};
use crate::space::Space;
use crate::ssh::Agents;
use crate::steps::Sending;
use oci_spec::image::Digest;
use planner::key::{self, CacheKey, ContentId};
use planner::plan::{CopyFrom, ImageOp, Op, Plan, Step, StepId};
use planner::scheduler::{Backend, Cancel, Observer, StepEvent, Survey};
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

/// The backend of one build.
#[derive(Debug)]
pub(crate) struct Executor<'a> {
    pub space: &'a Space,
    pub request: &'a BuildRequest,
    pub contexts: &'a Contexts<'a>,
    pub fetcher: &'a Fetcher<'a>,
    /// How many of the sandbox's notes were shown already.
    pub notes_told: AtomicUsize,
    /// Whether it was said that a proxy is out of reach.
    pub proxy_told: AtomicBool,
    /// Processes that the machine had killed for lack of memory when the first command began.
    pub oom_kills: OnceLock<u64>,
    /// Users resolved so far.
    pub users: run::KnownUsers,
    /// Authorities that commands trust besides the image's.
    pub authorities: Option<Authorities>,
    /// Agents that commands may reach.
    pub agents: Agents,
    /// Devices that the host describes.
    pub devices: Devices,
    /// What runs commands of other platforms.
    pub emulation: &'a Emulation,
    /// What commands leave for those that come after.
    pub copies: run::copies::Copies<'a>,
    /// All steps, for what is kept of a failed one.
    pub plan: Option<&'a Plan>,
    /// What the steps of remote sources bring.
    pub sources: RemoteSteps<'a>,
    /// What is remembered for explanations.
    pub journal: Journal,
    /// Caches that what is made here goes to.
    pub exports: Option<&'a Exports<'a>>,
    /// Caches that machines share, which steps go to.
    pub sending: Option<&'a Sending<'a>>,
    /// Where steps go that need not run here.
    pub cluster: Option<&'a Cluster<'a>>,
    /// Cache mounts that travel.
    pub travel: Option<&'a Travel<'a>>,
    /// Steps are carried out to be compared: nothing is recorded.
    pub verifying: AtomicBool,
    /// None is carried out: what caches say is not recorded either.
    pub foresees: bool,
    claims: Claims,
    /// Keys of the layers of `COPY --link` steps that ran.
    pub(super) links: Mutex<HashMap<StepId, CacheKey>>,
    reads: Mutex<HashMap<StepId, (ContentId, Arc<Reads>)>>,
    /// Keeps the cache in bounds.
    room: Room,
}

impl<'a> Executor<'a> {
    pub(crate) fn new(
        space: &'a Space,
        request: &'a BuildRequest,
        contexts: &'a Contexts<'a>,
        fetcher: &'a Fetcher<'a>,
        sources: RemoteSteps<'a>,
        emulation: &'a Emulation,
    ) -> Self {
        Self {
            space,
            request,
            contexts,
            fetcher,
            sources,
            emulation,
            notes_told: AtomicUsize::new(0),
            proxy_told: AtomicBool::new(false),
            oom_kills: OnceLock::new(),
            users: Mutex::default(),
            authorities: None,
            agents: Agents::default(),
            devices: Devices::default(),
            copies: run::copies::Copies::new(space),
            plan: None,
            journal: Journal::default(),
            exports: None,
            sending: None,
            cluster: None,
            travel: None,
            verifying: AtomicBool::new(false),
            foresees: false,
            claims: Claims::default(),
            links: Mutex::default(),
            reads: Mutex::default(),
            room: Room::new(request.cache_max),
        }
    }

    /// Fetches what is missing of these layers, in this form, telling the step's observer.
    pub(crate) fn ensure_as(
        &self,
        form: Form,
        layers: &[Digest],
        step: StepId,
        work: &Work<'_>,
    ) -> Result<(), Error> {
        let progress = |what: &str, done: u64, total: u64| {
            work.events.event(
                step,
                StepEvent::Transfer {
                    what: what.to_owned(),
                    done,
                    total,
                },
            );
        };
        self.fetcher.ensure_as(form, layers, &progress, work.cancel)
    }

    fn view(&self, snapshot: &Snapshot) -> Result<View, Error> {
        let (quiet, cancel) = (|_: &str, _, _| {}, Cancel::default());
        self.fetcher
            .ensure_as(Form::Readable, &snapshot.layers, &quiet, &cancel)?;
        view(self.space, snapshot)
    }

    pub(super) fn is_usable(&self, output: &StepOutput) -> Result<bool, Error> {
        for layer in &output.base {
            if !self.fetcher.can_have(layer)? {
                return Ok(false);
            }
        }
        for layer in output.chain.iter().map(|link| &link.layer) {
            if !self.fetcher.can_have(layer)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Steps in flight.
    pub(crate) fn jobs(&self) -> usize {
        let here = self.request.jobs;
        self.cluster.map_or(here, |cluster| cluster.jobs(here))
    }

    /// Carries a step out; its layer.
    pub(crate) fn make(&self, step: &Step, work: &Work<'_>) -> Result<Digest, Error> {
        let _slot = match (self.cluster, &step.op) {
            (Some(cluster), Op::Run(op)) => return cluster.run(self, step, op, work),
            (Some(cluster), _) => Some(cluster.here(work.cancel)?),
            (None, _) => None,
        };
        match &step.op {
            Op::Image(_) => Err(Error::Request("an image is not made".to_owned())),
            Op::Copy(op) => self.copy(step, op, work),
            Op::Mkdir(op) => {
                let base = work.base(op.base);
                self.ensure_as(Form::Readable, &base.layers, step.id, work)?;
                self.known(copy::mkdir(self.space, op, &base)?)
            }
            Op::Run(op) => run::run(self, step, op, work),
            Op::Http(_) | Op::Git(_) => self.known(self.sources.layer(self.space, step)?),
        }
    }

    /// The layer to take for a new one: an older one of the same content, so that what follows stays cached.
    pub(crate) fn known(&self, written: Written) -> Result<Digest, Error> {
        match self.space.store().layer_by_identity(&written.identity)? {
            Some(known) if layer::is_readable(self.space.store(), &known)? => Ok(known),
            _ => Ok(written.diff_id),
        }
    }

    /// When a root file system was first made in this store: now, unless it is an old one made again.
    fn first_made(&self, output: &StepOutput, layer: &Digest) -> Result<i64, Error> {
        let mut hasher = Sha256::new();
        hasher.update(b"kiln first made 1\n");
        for layer in output.snapshot().layers.iter().chain([layer]) {
            hasher.update(layer.to_string());
        }
        let key: [u8; 32] = hasher.finalize().into();
        let store = self.space.store();
        let known = store
            .record(&key)?
            .and_then(|payload| serde_json::from_slice::<i64>(&payload).ok());
        if let Some(created) = known {
            return Ok(created);
        }
        let chain = output.chain.iter().map(|link| &link.layer);
        let chain: Vec<&Digest> = chain.chain([layer]).collect();
        let imports = self.fetcher.imports();
        let created = imports.and_then(|imports| imports.created(&output.base, &chain));
        let created = created.unwrap_or(self.request.now);
        store.put_record(&key, created.to_string().as_bytes(), &[])?;
        Ok(created)
    }

    /// Keeps the list of what a step read, once for each content; returns the key of its record.
    fn record_reads(&self, step: StepId, source: &ContentId) -> Result<CacheKey, Error> {
        let key = record::reads_key(source);
        if let Some(reads) = self.reads_of(step) {
            let (length, mut payload) = reads.payload();
            let store = self.space.store();
            store.put_large_record(&key.0, length, &mut payload)?;
        }
        Ok(key)
    }

    /// What a step reads of a context.
    pub(crate) fn reads_of(&self, step: StepId) -> Option<Arc<Reads>> {
        let reads = self
            .reads
            .lock()
            .expect("BUG: no holder of the read lists panics");
        reads.get(&step).map(|(_, reads)| reads.clone())
    }

    /// A recorded result over the inputs that the step has now, if its layers can be had.
    pub(super) fn found(
        &self,
        step: &Step,
        recorded: StepOutput,
        inputs: Option<&[StepOutput]>,
    ) -> Result<Option<StepOutput>, Error> {
        let output = match inputs {
            None => recorded,
            Some(inputs) => {
                let Some(link) = recorded.chain.last().cloned() else {
                    return Ok(None);
                };
                base_of(&step.op)
                    .map(|index| inputs[index].clone())
                    .unwrap_or_default()
                    .with(link)
            }
        };
        Ok(self.is_usable(&output)?.then_some(output))
    }

    /// Records a result under keys.
    pub(super) fn keep(
        &self,
        step: &Step,
        keys: &[CacheKey],
        output: &StepOutput,
        others: &OtherKeys,
    ) -> Result<(), Error> {
        if self.foresees {
            return Ok(());
        }
        let source = self.source_of(step.id);
        let reads = source
            .map(|source| self.record_reads(step.id, &source))
            .transpose()?;
        let payload = record::encode(output, &key::fields(step, source.as_ref()), reads, others);
        let own: Vec<Digest> = output.chain.iter().map(|link| link.layer.clone()).collect();
        for key in keys {
            self.space.store().put_record(&key.0, &payload, &own)?;
        }
        Ok(())
    }

    pub(super) fn source_of(&self, step: StepId) -> Option<ContentId> {
        self.reads
            .lock()
            .expect("BUG: no holder of the read lists panics")
            .get(&step)
            .map(|(id, _)| *id)
    }
}

/// What a step works with.
pub(crate) struct Work<'w> {
    pub inputs: &'w [StepOutput],
    pub events: &'w dyn Observer,
    pub cancel: &'w Cancel,
}

impl Work<'_> {
    /// An input's root file system; an empty one for scratch.
    pub(crate) fn base(&self, input: Option<usize>) -> Snapshot {
        input.map_or_else(Snapshot::default, |index| self.inputs[index].snapshot())
    }
}

impl Backend for Executor<'_> {
    type Output = StepOutput;
    type Error = Error;

    fn source_digest(&self, step: &Step) -> Result<Option<ContentId>, Error> {
        let op = match &step.op {
            Op::Copy(op) => &copy::part(op, None),
            Op::Http(_) | Op::Git(_) => return self.sources.digest(step).map(Some),
            _ => return Ok(None),
        };
        let (digest, reads) = match &op.from {
            CopyFrom::Input(_) => return Ok(None),
            _ if !reads_paths(op) => return Ok(None),
            CopyFrom::Scratch => copy::source_digest(op, &NoFiles)?,
            CopyFrom::Context(name) => match self.contexts.get(name)? {
                Some(context) => copy::read_list(op, context.tree(), Some(self.space.store()))?,
                None => copy::source_digest(op, &NoFiles)?,
            },
        };
        let id = ContentId(digest);
        self.reads
            .lock()
            .expect("BUG: no holder of the read lists panics")
            .insert(step.id, (id, Arc::new(reads)));
        Ok(Some(id))
    }

    fn lookup(
        &self,
        step: &Step,
        key: &CacheKey,
        inputs: Option<&[StepOutput]>,
    ) -> Result<Option<StepOutput>, Error> {
        if let Op::Image(image) = &step.op {
            let output = image_output(image)?;
            for layer in &output.base {
                if !layer::is_readable(self.space.store(), layer)? {
                    return Ok(None);
                }
            }
            return Ok(Some(output));
        }
        let own = self.space.store().record(&key.0)?;
        if let Some(recorded) = own.and_then(|payload| record::decode(&payload))
            && let Some(output) = self.found(step, recorded, inputs)?
        {
            return Ok(Some(output));
        }
        let imports = self.fetcher.imports();
        let found = imports.map(|imports| imports.lookup(key, inputs.is_some(), (self.plan, step)));
        for found in found.unwrap_or_default() {
            let keys = OtherKeys {
                content: found.content,
                link: found.link,
            };
            let Some(output) = self.found(step, found.output, inputs)? else {
                continue;
            };
            if inputs.is_none() {
                self.keep(step, &[*key], &output, &keys)?;
            }
            return Ok(Some(output));
        }
        self.lookup_shared(step, key, inputs)
    }

    fn keyed(&self, keys: &[(StepId, CacheKey)]) {
        self.expect(keys);
    }

    fn surveyed(&self, plan: &Plan, survey: &Survey<StepOutput>) {
        self.journal.begin(self, plan, survey);
        self.share_hits(plan, survey);
    }

    fn why(&self, step: &Step) -> Option<String> {
        self.journal.began(step.id)
    }

    fn prepare(&self, wanted: &[&Step]) -> Result<(), (Option<StepId>, Error)> {
        preflight::prepare(self, wanted)
    }

    fn input_identity(
        &self,
        step: &Step,
        index: usize,
        input: &StepOutput,
    ) -> Result<ContentId, Error> {
        match &step.op {
            Op::Copy(op)
                if op.from == CopyFrom::Input(index)
                    && op.base != Some(index)
                    && reads_paths(op) =>
            {
                let (digest, _) = copy::source_digest(op, &self.view(&input.snapshot())?)?;
                Ok(ContentId(digest))
            }
            Op::Copy(op) if op.base != Some(index) && own_inputs(op).contains(&index) => {
                let view = self.view(&input.snapshot())?;
                Ok(ContentId(copy::input_digest(op, index, view)?))
            }
            _ => self.claims.identity(self.space, self.fetcher, step, input),
        }
    }

    fn execute(
        &self,
        step: &Step,
        inputs: &[StepOutput],
        events: &dyn Observer,
        cancel: &Cancel,
    ) -> Result<StepOutput, Error> {
        let work = Work {
            inputs,
            events,
            cancel,
        };
        let begun = Instant::now();
        if let Op::Image(image) = &step.op {
            return image_output(image);
        }
        let layer = self.make(step, &work)?;
        let base = base_of(&step.op)
            .map(|index| inputs[index].clone())
            .unwrap_or_default();
        self.space.store().note_cost(&layer, begun.elapsed())?;
        let created = self.first_made(&base, &layer)?;
        if let Some(exports) = self.exports {
            exports.made(step.id, &layer);
        }
        self.room.check(self.space);
        Ok(base.with(Link { layer, created }))
    }

    fn record(&self, step: &Step, keys: &[CacheKey], output: &StepOutput) -> Result<(), Error> {
        self.journal.ended(step.id);
        if matches!(step.op, Op::Image(_)) {
            return Ok(());
        }
        let links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        let others = OtherKeys {
            content: keys.get(1).copied(),
            link: links.get(&step.id).copied(),
        };
        drop(links);
        let proven = self.claims.proven(self.space, self.fetcher, step, keys)?;
        self.keep(step, proven, output, &others)?;
        self.share(step, proven, output, others.link);
        Ok(())
    }
}

pub(crate) fn image_output(image: &ImageOp) -> Result<StepOutput, Error> {
    let base = image
        .diff_ids
        .iter()
        .map(|diff_id| manifest::digest(diff_id))
        .collect::<Result<_, _>>()?;
    Ok(StepOutput {
        base,
        chain: Vec::new(),
    })
}

/// A view of a root file system whose layers are in the store. Files of other owners may be out of reach in it.
pub(crate) fn view(space: &Space, snapshot: &Snapshot) -> Result<View, Error> {
    let files = snapshot
        .layers
        .iter()
        .map(|layer| layer::readable(space, layer))
        .collect::<Result<Vec<_>, _>>()?;
    View::load(&files)
}

/// The same with all files in reach: what an ordinary user may not read in an unpacked layer is read from its tar,
/// which is made inside the user namespace.
pub(crate) fn whole_view(space: &Space, snapshot: &Snapshot) -> Result<View, Error> {
    open_up(space, snapshot)?;
    view(space, snapshot)
}

pub(super) fn open_up(space: &Space, snapshot: &Snapshot) -> Result<(), Error> {
    if space.is_root() {
        return Ok(());
    }
    for layer in &snapshot.layers {
        let store = space.store();
        if store.blob_size(layer).is_none() && store.layer_tree(layer).is_some() {
            layer::blob(space, layer, Compression::Uncompressed, false)?;
        }
    }
    Ok(())
}
