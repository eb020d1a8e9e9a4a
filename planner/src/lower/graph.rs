//! The graph of stages for one platform: which stage is based on which, copies from which, and is needed.
//!
//! It makes no step. ONBUILD triggers of resolved bases are added here, as they may bring new dependencies.

use super::context::{Gaps, Place, Shared, at, nowhere};
use super::findings::in_trigger;
use super::{BaseRequest, ResolvedBase, scope};
use crate::platform::Platform;
use parser::ast::Transfer;
use parser::expand::{self, Expanded, Options};
use parser::suggest::nearest;
use parser::{Diagnostic, Instruction, Kind, Stage, quote};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

/// The base that is no image.
pub(super) const SCRATCH: &str = "scratch";

/// Where a stage's root file system, or a file copied, comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Source {
    /// Another stage.
    Stage(usize),
    /// Nothing.
    Scratch,
    /// An image or a named context.
    External(BaseRequest),
}

/// An instruction with what it reads from elsewhere.
#[derive(Debug)]
pub(super) struct Command<'a> {
    pub(super) instruction: Cow<'a, Instruction>,
    /// COPY: at most one. RUN: one per mount.
    pub(super) sources: Vec<Option<Source>>,
    /// It comes from the base's ONBUILD.
    pub(super) onbuild: bool,
    pub(super) place: Place,
}

/// A stage.
#[derive(Debug)]
pub(super) struct Node<'a> {
    /// Its name in lower case, or `stage-N`.
    pub(super) name: String,
    /// It has a name in the Dockerfile.
    pub(super) named: bool,
    pub(super) base: Source,
    /// What a named context puts in the place of the whole stage.
    pub(super) replaced: Option<Source>,
    pub(super) commands: Vec<Command<'a>>,
    /// Steps that its progress names count.
    pub(super) total: usize,
    pub(super) place: Place,
    /// Its FROM is wrong.
    pub(super) broken: bool,
    triggers_added: bool,
}

/// All stages of a Dockerfile for one platform.
pub(super) struct Graph<'a> {
    pub(super) shared: Shared<'a>,
    pub(super) nodes: Vec<Node<'a>>,
    pub(super) target: usize,
    /// Progress names show the stage: there is more than one source of files.
    pub(super) show_stages: bool,
    /// What is wrong. A graph with errors is only tried, to find more of them.
    pub(super) errors: Vec<Diagnostic>,
    /// What is wrong makes more than one line doubtful: nothing can be said of what is built.
    pub(super) muddled: bool,
    names: BTreeMap<String, usize>,
}

impl<'a> Graph<'a> {
    /// `errors` are those of the global scope.
    pub(super) fn new(shared: Shared<'a>, errors: Vec<Diagnostic>) -> Self {
        let mut graph = Self {
            muddled: shared.gaps.stages,
            shared,
            nodes: Vec::new(),
            target: 0,
            show_stages: false,
            errors,
            names: BTreeMap::new(),
        };
        for (index, stage) in graph.shared.dockerfile.stages.iter().enumerate() {
            graph.add_stage(index, stage);
        }
        if graph.nodes.is_empty() {
            graph.muddled = true;
            if graph.shared.gaps == Gaps::default() {
                let message = "dockerfile contains no stages to build".to_owned();
                graph.errors.push(nowhere(message));
            }
            return graph;
        }
        match graph.find_target() {
            Ok(target) => graph.target = target,
            Err(error) => graph.muddle(error),
        }
        for index in 0..graph.nodes.len() {
            for instruction in &graph.shared.dockerfile.stages[index].instructions {
                match graph.command(Cow::Borrowed(instruction), false, at(&instruction.info)) {
                    Ok(command) => graph.nodes[index].commands.push(command),
                    Err(error) => graph.errors.push(error),
                }
            }
        }
        if let Err(error) = graph.check_cycles() {
            graph.muddle(error);
        }
        // A mount counts as a source even when it names none, as BuildKit has it.
        graph.show_stages = graph.nodes.len() > 1
            || graph.nodes[0]
                .commands
                .iter()
                .any(|command| match &command.instruction.kind {
                    Kind::Run(run) => !run.mounts.is_empty(),
                    _ => command
                        .sources
                        .iter()
                        .flatten()
                        .any(|source| !matches!(source, Source::Stage(_))),
                });
        graph
    }

    /// Notes an error about stages; one that a missing stage may explain is left out.
    fn muddle(&mut self, error: Diagnostic) {
        self.muddled = true;
        if !self.shared.gaps.stages {
            self.errors.push(error);
        }
    }

    /// The base of a stage and the platform of its FROM.
    fn stage_base(&self, stage: &Stage) -> Result<(String, Option<Platform>), Diagnostic> {
        let place = at(&stage.from);
        let base = self
            .global_word(&stage.base.value)
            .map_err(|message| place.error(message))?;
        if base.text.is_empty() {
            let message = format!("base name ({}) should not be blank", stage.base.value);
            return Err(self.suggest_global(place.error(message), &base));
        }
        let platform = match &stage.platform {
            Some(text) => Some(self.stage_platform(&text.value, place)?),
            None => None,
        };
        Ok((base.text, platform))
    }

    fn add_stage(&mut self, index: usize, stage: &'a Stage) {
        let place = at(&stage.from);
        let _ = self.shared.globals.take_guessed();
        let base = self.stage_base(stage);
        let guessed = self.shared.globals.take_guessed();
        let broken = base.is_err() || guessed;
        let (base, platform) = match base {
            Ok(base) if !guessed => base,
            Ok(_) => (SCRATCH.to_owned(), None),
            Err(error) => {
                if !guessed {
                    self.errors.push(error);
                }
                (SCRATCH.to_owned(), None)
            }
        };
        let name = stage.name.as_ref().map(|name| name.value.to_lowercase());
        let wanted = platform.as_ref().unwrap_or(&self.shared.platform).clone();
        let replaced = match &name {
            Some(name) => self.context_source(name, &wanted, place),
            None => Ok(None),
        };
        let replaced = replaced.unwrap_or_else(|error| {
            self.errors.push(error);
            Some(Source::Scratch)
        });
        let base = match self.names.get(&base.to_lowercase()) {
            Some(&stage) => Source::Stage(stage),
            None if base == SCRATCH => Source::Scratch,
            None => self.external(&base, wanted, place).unwrap_or_else(|error| {
                self.errors.push(error);
                Source::Scratch
            }),
        };
        let counted = stage
            .instructions
            .iter()
            .filter(|i| makes_step(&i.kind))
            .count();
        let total = counted + usize::from(matches!(base, Source::External(_)));
        if let Some(name) = &name {
            self.names.insert(name.clone(), index);
        }
        self.nodes.push(Node {
            named: name.is_some(),
            name: name.unwrap_or_else(|| format!("stage-{index}")),
            base,
            replaced,
            commands: Vec::new(),
            total,
            place,
            broken,
            triggers_added: false,
        });
    }

    fn global_word(&self, text: &str) -> Result<Expanded, String> {
        let expanded = expand::word(
            text,
            self.shared.dockerfile.escape,
            &self.shared.globals,
            Options::default(),
        );
        expanded.map_err(|error| error.message)
    }

    fn stage_platform(&self, text: &str, place: Place) -> Result<Platform, Diagnostic> {
        let expanded = self.global_word(text).map_err(|message| {
            place.error(format!(
                "failed to process arguments for platform {text}: {message}"
            ))
        })?;
        if expanded.text.is_empty() {
            let message = format!("empty platform value from expression {text}");
            return Err(self.suggest_global(place.error(message), &expanded));
        }
        let platform = Platform::parse(&expanded.text, &self.shared.options.build_platform);
        let platform = platform.map_err(|error| {
            let message = format!("failed to parse platform {text}: {error}");
            self.suggest_global(place.error(message), &expanded)
        })?;
        if platform.os == "windows" {
            let message = format!("platform {platform}: Windows images are not supported");
            return Err(place.error(message));
        }
        Ok(platform)
    }

    /// Adds the global argument that was meant.
    fn suggest_global(&self, error: Diagnostic, expanded: &Expanded) -> Diagnostic {
        let globals = self.shared.globals.pairs();
        let names: Vec<&str> = globals.iter().map(|(name, _)| name.as_str()).collect();
        did_you_mean(
            error,
            expanded
                .unmatched
                .iter()
                .find_map(|name| nearest(name, &names)),
        )
    }

    fn find_target(&self) -> Result<usize, Diagnostic> {
        let Some(wanted) = &self.shared.options.target else {
            return Ok(self.nodes.len() - 1);
        };
        if let Some(&index) = self.names.get(&wanted.to_lowercase()) {
            return Ok(index);
        }
        if let Ok(index) = wanted.parse::<usize>()
            && index < self.nodes.len()
        {
            return Ok(index);
        }
        let message = format!("target stage {} could not be found", quote(wanted));
        let names: Vec<&str> = self.nodes.iter().map(|node| node.name.as_str()).collect();
        let named: Vec<&str> = self
            .nodes
            .iter()
            .filter(|node| node.named)
            .map(|node| node.name.as_str())
            .collect();
        let help = match (nearest(&wanted.to_lowercase(), &names), named.as_slice()) {
            (Some(near), [_]) => format!("did you mean {near}?"),
            (Some(near), _) => format!("did you mean {near}? The stages are {}", named.join(", ")),
            (None, []) => "no stage of the Dockerfile has a name".to_owned(),
            (None, _) => format!("the stages are {}", named.join(", ")),
        };
        Err(nowhere(message).with_help(help))
    }

    /// Finds what an instruction reads from elsewhere.
    fn command(
        &self,
        instruction: Cow<'a, Instruction>,
        onbuild: bool,
        place: Place,
    ) -> Result<Command<'a>, Diagnostic> {
        let sources = match &instruction.kind {
            Kind::Copy(transfer) => self
                .copy_source(transfer, place)?
                .map(Some)
                .into_iter()
                .collect(),
            Kind::Run(run) => run
                .mounts
                .iter()
                .map(|mount| {
                    super::mounts::from_of(&mount.value)
                        .map(|from| self.find_source(&from, place))
                        .transpose()
                })
                .collect::<Result<_, _>>()?,
            _ => Vec::new(),
        };
        Ok(Command {
            instruction,
            sources,
            onbuild,
            place,
        })
    }

    fn copy_source(&self, transfer: &Transfer, place: Place) -> Result<Option<Source>, Diagnostic> {
        let Some(from) = &transfer.from else {
            return Ok(None);
        };
        let name = &from.value;
        let expanded = scope::word(name, self.shared.dockerfile.escape, &scope::Env::default());
        if expanded.map_err(|message| place.error(message))? != *name {
            return Err(place.error(
                "variable expansion is not supported for --from, define a new stage with FROM using ARG from global \
                 scope as a workaround"
                    .to_owned(),
            ));
        }
        match name.parse::<usize>() {
            Ok(index) if index < self.nodes.len() => Ok(Some(Source::Stage(index))),
            Ok(_) if self.shared.gaps.stages => Ok(None),
            Ok(index) => Err(place.error(format!("invalid stage index {index}"))),
            Err(_) => self.find_source(name, place).map(Some),
        }
    }

    fn find_source(&self, name: &str, place: Place) -> Result<Source, Diagnostic> {
        Ok(match self.names.get(&name.to_lowercase()) {
            Some(&stage) => Source::Stage(stage),
            None if name == SCRATCH => Source::Scratch,
            None => return self.external(name, self.shared.platform.clone(), place),
        })
    }

    /// An image, or what a named context puts in its place.
    fn external(&self, name: &str, platform: Platform, place: Place) -> Result<Source, Diagnostic> {
        if let Some(source) = self.context_source(name, &platform, place)? {
            return Ok(source);
        }
        let name = name.to_owned();
        Ok(Source::External(BaseRequest { name, platform }))
    }

    /// What the named context of this name is, if there is one.
    fn context_source(
        &self,
        name: &str,
        platform: &Platform,
        place: Place,
    ) -> Result<Option<Source>, Diagnostic> {
        let Some(context) = self.shared.named_context(name, platform) else {
            return Ok(None);
        };
        let Some(stage) = self.shared.options.context_stages.get(context) else {
            return Ok(Some(Source::External(BaseRequest {
                name: context.to_owned(),
                platform: platform.clone(),
            })));
        };
        if let Some(&index) = self.names.get(&stage.to_lowercase()) {
            return Ok(Some(Source::Stage(index)));
        }
        let message = format!("failed to find target {stage} for context {context}");
        let later = self.shared.dockerfile.stages.iter().any(|known| {
            let name = known.name.as_ref().map(|name| name.value.to_lowercase());
            name.is_some_and(|name| name == stage.to_lowercase())
        });
        let error = place.error(message);
        Err(if later {
            error.with_help(format!("stage {stage} must stand before this line"))
        } else {
            let names: Vec<&str> = self.names.keys().map(String::as_str).collect();
            did_you_mean(error, nearest(stage, &names))
        })
    }

    fn check_cycles(&self) -> Result<(), Diagnostic> {
        let mut done = vec![false; self.nodes.len()];
        for start in 0..self.nodes.len() {
            let mut path = Vec::new();
            if let Some(place) = self.find_cycle(start, &mut path, &mut done) {
                let message = format!(
                    "circular dependency detected on stage: {}",
                    self.nodes[start].name
                );
                return Err(place.error(message));
            }
        }
        Ok(())
    }

    /// Follows what commands read; the place of the command that closes a circle.
    fn find_cycle(&self, node: usize, path: &mut Vec<usize>, done: &mut [bool]) -> Option<Place> {
        if done[node] {
            return None;
        }
        done[node] = true;
        path.push(node);
        for command in &self.nodes[node].commands {
            for source in command.sources.iter().flatten() {
                let Source::Stage(next) = *source else {
                    continue;
                };
                if path.contains(&next) {
                    return Some(command.place);
                }
                if let Some(place) = self.find_cycle(next, path, done) {
                    return Some(place);
                }
            }
        }
        path.pop();
        None
    }

    /// Stages that the target needs, itself included.
    pub(super) fn reachable(&self) -> BTreeSet<usize> {
        if self.shared.options.all_stages {
            return (0..self.nodes.len()).collect();
        }
        let mut found = BTreeSet::new();
        let mut open = vec![self.target];
        while let Some(index) = open.pop() {
            if !found.insert(index) {
                continue;
            }
            let node = &self.nodes[index];
            if let Some(replaced) = &node.replaced {
                if let Source::Stage(stage) = replaced {
                    open.push(*stage);
                }
                continue;
            }
            let sources = node
                .commands
                .iter()
                .flat_map(|command| command.sources.iter().flatten());
            for source in sources.chain([&node.base]) {
                if let Source::Stage(stage) = source {
                    open.push(*stage);
                }
            }
        }
        found
    }

    /// Adds ONBUILD triggers as far as bases are known; gives the bases that are not.
    pub(super) fn resolve(&mut self) -> Vec<(BaseRequest, Place)> {
        if self.muddled {
            return Vec::new();
        }
        loop {
            let mut changed = false;
            for index in self.reachable() {
                changed |= self.add_triggers(index);
            }
            if !changed {
                break;
            }
        }
        let mut wanted = Vec::new();
        for index in self.reachable() {
            let node = &self.nodes[index];
            if let Some(replaced) = &node.replaced {
                if let Source::External(request) = replaced {
                    wanted.push((request.clone(), node.place));
                }
                continue;
            }
            let bases = std::iter::once((Some(&node.base), node.place));
            let reads = node
                .commands
                .iter()
                .flat_map(|c| c.sources.iter().map(|source| (source.as_ref(), c.place)));
            for (source, place) in bases.chain(reads) {
                if let Some(Source::External(request)) = source {
                    wanted.push((request.clone(), place));
                }
            }
        }
        wanted.retain(|(request, _)| !self.shared.bases.contains_key(request));
        wanted
    }

    /// Puts the triggers of a stage's base before its own instructions, once the base is known.
    fn add_triggers(&mut self, index: usize) -> bool {
        let node = &self.nodes[index];
        if node.triggers_added || node.replaced.is_some() {
            return false;
        }
        let place = node.place;
        let mut triggers = Vec::new();
        let mut errors = Vec::new();
        match &node.base {
            Source::Scratch => {}
            Source::External(request) => match self.shared.bases.get(request) {
                None => return false,
                Some(ResolvedBase::Directory(_) | ResolvedBase::Scratch) => {}
                Some(ResolvedBase::Image(image)) => {
                    for text in image.config.config.on_build.iter().flatten() {
                        match parser::parse_trigger(text) {
                            Ok(instruction) => triggers.push((instruction, place)),
                            Err(found) => errors.extend(
                                place
                                    .adopt(found)
                                    .into_iter()
                                    .map(|error| in_trigger(error, text)),
                            ),
                        }
                    }
                }
            },
            Source::Stage(base) => {
                triggers.extend(self.nodes[*base].commands.iter().filter_map(|command| {
                    let Kind::Onbuild { trigger, .. } = &command.instruction.kind else {
                        return None;
                    };
                    Some(((**trigger).clone(), command.place))
                }));
            }
        }
        let mut commands: Vec<Command<'a>> = Vec::new();
        for (instruction, place) in triggers {
            let text = instruction.info.original.clone();
            match self.command(Cow::Owned(instruction), true, place) {
                Ok(command) => commands.push(command),
                Err(error) => errors.push(in_trigger(error, &text)),
            }
        }
        self.errors.extend(errors);
        let node = &mut self.nodes[index];
        node.triggers_added = true;
        node.total += commands.len();
        let changed = !commands.is_empty();
        node.commands.splice(0..0, commands);
        changed
    }
}

fn did_you_mean(error: Diagnostic, near: Option<&str>) -> Diagnostic {
    match near {
        Some(name) => error.with_help(format!("did you mean {name}?")),
        None => error,
    }
}

/// Whether progress names count an instruction.
fn makes_step(kind: &Kind) -> bool {
    matches!(
        kind,
        Kind::Add(_) | Kind::Copy(_) | Kind::Run(_) | Kind::Workdir(_)
    )
}
