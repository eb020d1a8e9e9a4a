//! Makes a kept sandbox again and runs a command in it.

use super::find;
use super::record::{CHANGES, Record, RecordedStep};
use crate::Error;
use crate::build::Ui;
use crate::build::backend::{Executor, Work};
use crate::build::ca::Authorities;
use crate::build::contexts::Contexts;
use crate::build::fetch::Fetcher;
use crate::build::foreign::Emulation;
use crate::build::mounts::Held;
use crate::build::prepare::Pending;
use crate::build::record::StepOutput;
use crate::build::run;
use crate::build::sources::RemoteSteps;
use crate::device::Devices;
use crate::layer::Form;
use crate::remote::Remote;
use crate::request::BuildRequest;
use crate::source::Sources;
use crate::space::Space;
use crate::ssh::Agents;
use planner::plan::{Op, Origin, Plan, RunOp, Step, StepId};
use planner::scheduler::Cancel;
use sandbox::Exit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::Instant;
use store::Store;

/// What to do in which sandbox.
#[derive(Clone, Debug, Default)]
pub struct DebugRequest {
    /// `BUILD[:STEP]`: the beginning of an ID, and a step by number or by a part of its name. The newest; the failed one.
    pub target: Option<String>,
    /// Without the step's changes.
    pub before: bool,
    /// argv; empty: a shell.
    pub command: Vec<String>,
    /// `TERM` of the terminal.
    pub term: Option<String>,
    /// Secrets, agents, registries, proxies: what a record does not hold.
    pub build: BuildRequest,
}

/// Where the command's output goes.
#[derive(Debug)]
pub enum Streams {
    /// A terminal, which is its input too: what [`sandbox::TerminalOffer`] has to be passed on.
    Terminal(OwnedFd),
    /// Standard output and standard error; its input is empty.
    Files(OwnedFd, OwnedFd),
}

/// Runs the command and waits for its end.
///
/// # Errors
/// Nothing of this name is kept; a layer or a secret is missing; the sandbox cannot be set up.
pub fn enter(
    store: &Store,
    request: &DebugRequest,
    streams: &Streams,
    ui: &dyn Ui,
    cancel: &Cancel,
) -> Result<Exit, Error> {
    let target = request.target.as_deref().unwrap_or_default();
    let (id, wanted) = match target.split_once(':') {
        Some((id, step)) => (id, Some(step)),
        None => (target, None),
    };
    let kept = find(store, Some(id))?;
    let Some(_held) = kept.hold()? else {
        return Err(Error::Request(format!(
            "the kept sandbox {} is in use",
            kept.id()
        )));
    };
    let record = Record::read(&kept)?;
    let recorded = record.step(wanted)?;
    let place = Place::of(&record, recorded, request.before)?;
    let changes = place
        .with_changes
        .then(|| kept.path().join(CHANGES).join("upper"));
    let build = settings(&record, &place.op, request);
    let session = Session {
        store,
        build: &build,
        place: &place,
        changes,
    };
    session.run(request, streams, ui, cancel)
}

/// What to start over what.
struct Place {
    op: RunOp,
    step: Step,
    inputs: Vec<StepOutput>,
    with_changes: bool,
}

impl Place {
    fn of(record: &Record, recorded: &RecordedStep, before: bool) -> Result<Self, Error> {
        let (mut op, mut inputs) = match &recorded.run {
            Some(op) => (op.clone(), recorded.inputs.clone()),
            // A COPY has no user or environment of its own: those of the step that failed later.
            None => {
                let mut op =
                    record.failed().run.clone().ok_or_else(|| {
                        Error::Request("the kept sandbox has no command".to_owned())
                    })?;
                op.base = op.base.map(|_| 0);
                op.mounts.clear();
                (op, recorded.inputs.clone())
            }
        };
        // The failed step made no layer: its changes are a folder.
        let with_changes = recorded.output.is_none() && !before;
        if let Some(output) = recorded.output.as_ref().filter(|_| !before) {
            op.base = Some(0);
            inputs = vec![output.clone()];
        }
        let step = Step {
            id: StepId(0),
            op: Op::Run(op.clone()),
            inputs: Vec::new(),
            origin: Origin {
                name: recorded.name.clone(),
                ..Origin::default()
            },
            no_cache: true,
            platform: recorded.platform.clone(),
        };
        Ok(Self {
            op,
            step,
            inputs,
            with_changes,
        })
    }
}

/// The request of a build with one step.
fn settings(record: &Record, op: &RunOp, request: &DebugRequest) -> BuildRequest {
    let mut build = request.build.clone();
    let settings = &record.settings;
    build.run.isolation = settings.isolation;
    build.run.root = settings.root;
    build.run.security = settings.security.clone();
    build.run.resources = settings.resources.clone();
    build.network = settings.network;
    build.devices = record.grants();
    build.cdi_spec_dirs.clone_from(&settings.cdi_spec_dirs);
    build.volumes.clone_from(&op.volumes);
    build
}

struct Session<'a> {
    store: &'a Store,
    build: &'a BuildRequest,
    place: &'a Place,
    changes: Option<PathBuf>,
}

impl Session<'_> {
    fn run(
        &self,
        request: &DebugRequest,
        streams: &Streams,
        ui: &dyn Ui,
        cancel: &Cancel,
    ) -> Result<Exit, Error> {
        let (build, place) = (self.build, self.place);
        let agents = Agents::load(&build.ssh)?;
        let sources = build.volumes.iter().map(|volume| volume.source.clone());
        let space = Space::new(self.store.clone())
            .with_volumes(sources.collect())
            .with_isolation(&build.run);
        let plan = Plan {
            steps: vec![place.step.clone()],
            targets: Vec::new(),
        };
        let devices = Devices::check(&plan, &build.cdi_spec_dirs, &build.devices);
        let devices = devices.map_err(|refused| refused.0)?;
        let remote = Remote::new(&build.registry, cancel);
        let pending = Pending::new(&space, build, &remote, ui, cancel);
        let contexts = Contexts::new(&space, build, &pending);
        let fetcher = Fetcher::new(&space, &remote, &plan)?;
        let steps = RemoteSteps::new(Sources {
            store: self.store,
            request: build,
            remote: &remote,
            cancel,
        });
        let emulation = Emulation::of(&plan, build, Instant::now());
        let mut executor = Executor::new(&space, build, &contexts, &fetcher, steps, &emulation);
        executor.agents = agents;
        executor.devices = devices;
        executor.authorities = Authorities::load(&build.run.ca)?;
        let work = Work {
            inputs: &place.inputs,
            events: ui,
            cancel,
        };
        let base = work.base(place.op.base);
        executor.ensure_as(Form::Tree, &base.layers, place.step.id, &work)?;
        let sandbox = space.sandbox()?;
        emulation.register(sandbox);
        let scratch = self.store.scratch()?;
        let mut held = Held::new(&space, scratch.path());
        let upper = (held.folder("upper")?, held.folder("work")?);
        let mut spec = run::spec(&executor, &place.step, &place.op, &work, &mut held)?;
        spec.root.upper = Some(upper);
        if let Some(changes) = &self.changes {
            spec.root.lowers.insert(0, changes.clone());
        }
        spec.args = if request.command.is_empty() {
            SHELL.map(str::to_owned).into()
        } else {
            request.command.clone()
        };
        spec.terminal = matches!(streams, Streams::Terminal(_));
        if let Some(term) = request.term.as_ref().filter(|_| spec.terminal)
            && !spec.env.iter().any(|(name, _)| name == "TERM")
        {
            spec.env.push(("TERM".to_owned(), term.clone()));
        }
        let (stdout, stderr) = match streams {
            Streams::Terminal(terminal) => (terminal, terminal),
            Streams::Files(stdout, stderr) => (stdout, stderr),
        };
        let running = sandbox.run(&spec, stdout.as_fd(), stderr.as_fd())?;
        run::until_end(running, cancel)
    }
}

/// The better of the usual shells that the image has.
const SHELL: [&str; 3] = [
    "/bin/sh",
    "-c",
    "if [ -x /bin/bash ]; then exec /bin/bash; fi; exec /bin/sh -i",
];
