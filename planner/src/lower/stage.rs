//! One stage after the other: the state that instructions change, and the steps they make.

use super::builder::{Builder, NewStep};
use super::check::Checks;
use super::context::{Place, Shared};
use super::copy::context_copy;
use super::findings;
use super::graph::{Command, Graph, Node, Source};
use super::naming::Naming;
use super::outline::Notes;
use super::scope::{DEFAULT_PATH, Env};
use super::{BaseRequest, ResolvedBase, ResolvedImage};
use crate::checks::Linter;
use crate::config::{HistoryEntry, ImageConfig};
use crate::plan::{CopyOp, ImageOp, InputIndex, Op, Origin, StepId, Target};
use crate::platform::Platform;
use parser::Kind;
use parser::{Diagnostic, expand};

/// `comment` of our history entries.
const HISTORY_COMMENT: &str = "buildkit.dockerfile.v0";

/// What instructions change.
#[derive(Clone, Debug)]
pub(super) struct StageState {
    /// The root file system so far; `None` is scratch.
    pub(super) rootfs: Option<StepId>,
    /// Variables of commands: ENV and ARG.
    pub(super) env: Env,
    pub(super) config: ImageConfig,
    pub(super) history: Vec<HistoryEntry>,
    /// The working directory, absolute and clean.
    pub(super) dir: String,
    /// ARGs in force, in order, also those without a value.
    pub(super) args: Vec<(String, Option<String>)>,
    pub(super) platform: Platform,
    /// CMD was given in this stage.
    pub(super) has_cmd: bool,
    /// Never look up this stage's steps.
    pub(super) no_cache: bool,
    pub(super) naming: Naming,
}

/// Inputs of a step to be; equal ones are one.
#[derive(Default)]
pub(super) struct Inputs(pub(super) Vec<StepId>);

impl Inputs {
    /// Starts with the root file system that the step changes.
    pub(super) fn with_base(rootfs: Option<StepId>) -> (Self, Option<InputIndex>) {
        (Self(rootfs.into_iter().collect()), rootfs.map(|_| 0))
    }

    /// The index of a step among the inputs.
    pub(super) fn add(&mut self, step: StepId) -> InputIndex {
        if let Some(index) = self.0.iter().position(|known| *known == step) {
            return index;
        }
        self.0.push(step);
        self.0.len() - 1
    }
}

/// Where files to copy or mount are.
pub(super) enum Files {
    Step(StepId),
    Context(String),
    Scratch,
}

/// The lowering of one platform's graph.
pub(super) struct Lowering<'g, 'a> {
    pub(super) graph: &'g Graph<'a>,
    pub(super) builder: &'g mut Builder,
    pub(super) checks: Checks,
    /// What an outline tells, where one is wanted.
    pub(super) notes: Option<Notes>,
    states: Vec<Option<StageState>>,
}

/// What the lowering of one platform gives.
pub(super) struct LoweredPlatform {
    pub(super) target: Result<Target, Vec<Diagnostic>>,
    /// What the checks found.
    pub(super) warnings: Vec<Diagnostic>,
}

impl<'g, 'a> Lowering<'g, 'a> {
    /// With a linter the checks run.
    pub(super) fn new(
        graph: &'g Graph<'a>,
        builder: &'g mut Builder,
        linter: Option<Linter>,
    ) -> Self {
        let states = graph.nodes.iter().map(|_| None).collect();
        Self {
            graph,
            builder,
            checks: Checks::new(linter, graph.nodes.len()),
            notes: None,
            states,
        }
    }

    pub(super) fn shared(&self) -> &'g Shared<'a> {
        &self.graph.shared
    }

    /// Lowers all stages that the target needs.
    pub(super) fn run(mut self) -> LoweredPlatform {
        let target = self.stages();
        LoweredPlatform {
            target,
            warnings: self.checks.into_found(),
        }
    }

    /// Lowers all stages for what is noted by the way.
    pub(super) fn run_noting(mut self) -> Result<Notes, Vec<Diagnostic>> {
        self.stages()?;
        Ok(self.notes.expect("BUG: somebody wants the notes"))
    }

    fn stages(&mut self) -> Result<Target, Vec<Diagnostic>> {
        let graph = self.graph;
        let mut errors = Vec::new();
        for index in graph.reachable() {
            let node = &graph.nodes[index];
            self.checks.begin(index, node);
            let mut state = self.start(index, node);
            if node.replaced.is_none() {
                for command in &node.commands {
                    let _ = state.env.take_guessed();
                    let done = self.dispatch(&mut state, command);
                    if let Some(notes) = &mut self.notes {
                        notes.note(index, &state, command, &graph.shared);
                    }
                    findings::settle(&mut state.env, command, done, &mut errors);
                }
            }
            self.states[index] = Some(state);
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        let state = self.states[graph.target]
            .take()
            .expect("BUG: the target is reachable");
        Ok(self.target(state))
    }

    fn target(&self, state: StageState) -> Target {
        let shared = self.shared();
        let mut config = state.config;
        for (name, value) in &shared.options.labels {
            config
                .config
                .labels
                .get_or_insert_default()
                .insert(name.clone(), value.clone());
        }
        let platform = shared.platform.normalise();
        // Asked for nothing else than this machine's platform: what the base says of itself stays.
        let implicit =
            !shared.several_platforms && platform == shared.options.build_platform.normalise();
        if !implicit || config.os.is_empty() || config.architecture.is_empty() {
            let same = config.os == platform.os && config.architecture == platform.architecture;
            config.os.clone_from(&platform.os);
            config.architecture.clone_from(&platform.architecture);
            if platform.variant.is_some() || !same {
                config.variant.clone_from(&platform.variant);
            }
            if platform.os_version.is_some() || !same {
                config.os_version.clone_from(&platform.os_version);
            }
            if !same {
                config.os_features = None;
            }
        }
        let own = Platform::new(
            &config.os,
            &config.architecture,
            config.variant.as_deref().unwrap_or(""),
        );
        (config.os, config.architecture, config.variant) = (own.os, own.architecture, own.variant);
        Target {
            platform: shared.platform.clone(),
            rootfs: state.rootfs,
            config,
            history: state.history,
        }
    }

    /// The state in which a stage's instructions find it.
    fn start(&mut self, index: usize, node: &Node<'_>) -> StageState {
        let shared = self.shared();
        let naming = Naming {
            full_name: node.name.clone(),
            shown: self.graph.show_stages,
            label: if node.named {
                node.name.clone()
            } else {
                index.to_string()
            },
            index: 0,
            // Nothing but the base is left of a stage that a named context replaces.
            total: if node.replaced.is_some() {
                1
            } else {
                node.total
            },
            several_platforms: shared.several_platforms,
            onbuild: false,
        };
        let mut state = match node.replaced.as_ref().unwrap_or(&node.base) {
            Source::External(request) => self.external_stage(request, node.place, naming),
            Source::Scratch => empty_stage(&shared.platform, naming),
            Source::Stage(base) => {
                let base = self.states[*base]
                    .clone()
                    .expect("BUG: a base stands before its users");
                let mut state = StageState {
                    has_cmd: false,
                    naming,
                    ..base
                };
                // Triggers run in the next stage only.
                state.config.config.on_build = None;
                state
            }
        };
        let options = shared.options;
        let named = |filter: &String| node.named && filter.eq_ignore_ascii_case(&node.name);
        state.no_cache = options.no_cache || options.no_cache_stages.iter().any(named);
        state.inherit_config();
        if node.broken || self.shared().gaps.variables || self.shared().globals.is_open() {
            state.env.leave_open();
        }
        state
    }

    fn external_stage(
        &mut self,
        request: &BaseRequest,
        place: Place,
        mut naming: Naming,
    ) -> StageState {
        let shared = self.shared();
        let Some(resolved) = shared.bases.get(request) else {
            return unknown_stage(&request.platform, naming);
        };
        match resolved {
            ResolvedBase::Scratch => {
                naming.total = naming.total.saturating_sub(1);
                empty_stage(&request.platform, naming)
            }
            ResolvedBase::Directory(name) => {
                naming.total = naming.total.saturating_sub(1);
                let mut state = empty_stage(&request.platform, naming);
                let copy = context_copy(name, "/");
                state.rootfs = Some(self.add_context_step(copy, name, place, &request.platform));
                state
            }
            ResolvedBase::Image(image) => {
                self.check_platform(request, image, place);
                let rootfs = self.add_image(image, &request.platform, place, Some(&mut naming));
                let mut config = image.config.clone();
                config.config.on_build = None;
                StageState {
                    rootfs,
                    config,
                    history: image.history.clone(),
                    ..empty_stage(&request.platform, naming)
                }
            }
        }
    }

    fn check_platform(&mut self, request: &BaseRequest, image: &ResolvedImage, place: Place) {
        let config = &image.config;
        let wanted = request.platform.normalise();
        if config.os.is_empty()
            || (config.os == wanted.os && config.architecture == wanted.architecture)
        {
            return;
        }
        let actual = Platform::new(
            &config.os,
            &config.architecture,
            config.variant.as_deref().unwrap_or(""),
        );
        if actual.os == wanted.os && actual.architecture == wanted.architecture {
            return;
        }
        let message = format!(
            "Base image {} was pulled with platform {:?}, expected {:?} for current build",
            request.name,
            actual.to_string(),
            wanted.to_string()
        );
        let stage = &self.shared().dockerfile.stages[self.checks.current];
        self.checks
            .base_platform(place, &stage.from.comments, message);
    }

    /// The step of an image; `None` for one without layers, which progress does not count.
    fn add_image(
        &mut self,
        image: &ResolvedImage,
        platform: &Platform,
        place: Place,
        naming: Option<&mut Naming>,
    ) -> Option<StepId> {
        if image.diff_ids.is_empty() {
            if let Some(naming) = naming {
                naming.total = naming.total.saturating_sub(1);
            }
            return None;
        }
        let pinned = image.manifest_digest.is_empty() || image.reference.contains('@');
        let reference = if pinned {
            image.reference.clone()
        } else {
            format!("{}@{}", image.reference, image.manifest_digest)
        };
        let text = format!("FROM {reference}");
        let origin = match naming {
            Some(naming) => naming.origin(&text, place, platform, &Env::default()),
            None => Origin {
                name: text,
                stage: String::new(),
                span: Some(place.span),
                lines: Some(place.lines),
                ..Origin::default()
            },
        };
        let op = ImageOp {
            reference: image.reference.clone(),
            manifest_digest: image.manifest_digest.clone(),
            diff_ids: image.diff_ids.clone(),
            source: image.source.clone(),
        };
        let platform = platform.clone();
        Some(self.builder.add(NewStep {
            op: Op::Image(op),
            inputs: Vec::new(),
            origin,
            no_cache: false,
            platform,
        }))
    }

    /// A step that reads a local directory for a stage or a mount.
    pub(super) fn add_context_step(
        &mut self,
        copy: CopyOp,
        context: &str,
        place: Place,
        platform: &Platform,
    ) -> StepId {
        let name = match context {
            "context" => "[internal] load build context".to_owned(),
            name => format!("[context {name}] load from client"),
        };
        let origin = Origin {
            name,
            stage: String::new(),
            span: Some(place.span),
            lines: Some(place.lines),
            ..Origin::default()
        };
        let platform = platform.clone();
        self.builder.add(NewStep {
            op: Op::Copy(copy),
            inputs: Vec::new(),
            origin,
            no_cache: false,
            platform,
        })
    }

    /// Whether a stage can be read from by now. A named context in its place can be at any time.
    pub(super) fn is_done(&self, stage: usize) -> bool {
        let replaced = &self.graph.nodes[stage].replaced;
        self.states[stage].is_some() || matches!(replaced, Some(Source::External(_)))
    }

    /// Where the files of a source are.
    pub(super) fn files_of(&mut self, source: &Source, place: Place) -> Files {
        let graph = self.graph;
        let request = match source {
            Source::Scratch => return Files::Scratch,
            Source::External(request) => request,
            Source::Stage(stage) => match &graph.nodes[*stage].replaced {
                Some(Source::External(request)) => request,
                _ => {
                    let state = self.states[*stage].as_ref();
                    let rootfs = state.expect("BUG: checked to be done").rootfs;
                    return rootfs.map_or(Files::Scratch, Files::Step);
                }
            },
        };
        // Unknown in a trial only.
        let Some(resolved) = self.shared().bases.get(request) else {
            return Files::Scratch;
        };
        let step = match resolved {
            ResolvedBase::Scratch => return Files::Scratch,
            ResolvedBase::Directory(name) => return Files::Context(name.clone()),
            ResolvedBase::Image(image) => self.add_image(image, &request.platform, place, None),
        };
        step.map_or(Files::Scratch, Files::Step)
    }

    /// Adds a step that changes the stage's root file system.
    pub(super) fn add_step(
        &mut self,
        state: &mut StageState,
        op: Op,
        inputs: Inputs,
        origin: Origin,
    ) -> StepId {
        let step = self.builder.add(NewStep {
            op,
            inputs: inputs.0,
            origin,
            no_cache: state.no_cache,
            platform: state.platform.clone(),
        });
        state.rootfs = Some(step);
        step
    }

    fn dispatch(
        &mut self,
        state: &mut StageState,
        command: &Command<'_>,
    ) -> Result<(), Diagnostic> {
        state.naming.onbuild = command.onbuild;
        self.check(state, command);
        let place = command.place;
        match &command.instruction.kind {
            Kind::Add(transfer) => self.transfer(state, command, transfer, true),
            Kind::Copy(transfer) => self.transfer(state, command, transfer, false),
            Kind::Run(run) => self.run_command(state, command, run),
            Kind::Workdir(path) => self.workdir(state, command, &path.value),
            other => state
                .fold(other, self.shared())
                .map_err(|message| place.error(message)),
        }
    }
}

impl StageState {
    /// Takes over what the base's config says.
    fn inherit_config(&mut self) {
        let config = &mut self.config.config;
        let env = config.env.get_or_insert_default();
        if !env
            .iter()
            .any(|pair| pair.split('=').next() == Some("PATH"))
        {
            env.push(format!("PATH={DEFAULT_PATH}"));
        }
        for pair in env.iter() {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            self.env.set(name, value);
        }
        if !config.working_dir.is_empty() {
            config.working_dir = super::paths::workdir("/", &config.working_dir);
            self.dir = super::paths::clean(&config.working_dir);
        }
    }

    /// Adds a history entry; `step` makes its layer.
    pub(super) fn commit(&mut self, text: String, step: Option<StepId>) {
        self.history.push(HistoryEntry {
            created: None,
            created_by: Some(text),
            author: None,
            comment: Some(HISTORY_COMMENT.to_owned()),
            empty_layer: step.is_none(),
            step,
        });
    }

    /// Variables that have the value of an ARG.
    pub(super) fn args_in_force(&self) -> Vec<String> {
        let in_force = |(name, value): &&(String, Option<String>)| {
            value.is_some() && self.env.value(name) == value.as_deref()
        };
        self.args
            .iter()
            .filter(in_force)
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// The place and progress name of a step that an instruction makes.
    pub(super) fn origin(&mut self, text: &str, command: &Command<'_>) -> Origin {
        let platform = self.platform.clone();
        self.naming
            .origin(text, command.place, &platform, &self.env)
    }
}

/// A stage on nothing.
fn empty_stage(platform: &Platform, naming: Naming) -> StageState {
    let normal = platform.normalise();
    let mut config = ImageConfig {
        architecture: normal.architecture,
        os: normal.os,
        variant: normal.variant,
        ..ImageConfig::default()
    };
    config.config.working_dir = "/".to_owned();
    StageState {
        rootfs: None,
        env: Env::default(),
        config,
        history: Vec::new(),
        dir: "/".to_owned(),
        args: Vec::new(),
        platform: platform.clone(),
        has_cmd: false,
        no_cache: false,
        naming,
    }
}

/// A stage on a base that is not known yet: for the trial that finds errors before any base is asked for.
fn unknown_stage(platform: &Platform, naming: Naming) -> StageState {
    let mut state = empty_stage(platform, naming);
    state.env.leave_open();
    // Whatever it is, a mount at "." is hardly one at the root.
    state.config.config.working_dir = "/unknown".to_owned();
    state
}

/// Expands a text that people read; as it is where that fails.
pub(super) fn expand_for_people(
    text: &str,
    escape: char,
    env: &dyn expand::Scope,
    options: expand::Options,
) -> String {
    expand::word(text, escape, env, options)
        .map_or_else(|_| text.to_owned(), |expanded| expanded.text)
}
