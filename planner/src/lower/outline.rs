//! What a target takes, noted while its stages are carried out: arguments with their values, secrets, agents.

use super::context::{Gaps, Shared};
use super::graph::{Command, Graph, Source};
use super::paths;
use super::scope::{self, Env};
use super::stage::{Lowering, StageState};
use super::{BaseRequest, LowerOptions, ResolvedBase, builder::Builder, findings, resolve};
use crate::outline::{Arg, Need, Outline, description};
use parser::ast::{InstructionInfo, Run};
use parser::expand::{self, Options};
use parser::mount::{self, MountType};
use parser::{Diagnostic, Dockerfile, Kind};
use std::collections::{BTreeMap, BTreeSet};

/// What [`outline`] gives.
#[derive(Debug)]
pub enum Outlined {
    /// These bases are needed before it can go on.
    Need(Vec<BaseRequest>),
    /// The outline.
    Outline(Outline),
}

/// What the target takes, for the first platform. Call it again with more `bases` as long as it says [`Outlined::Need`].
///
/// # Errors
/// As [`super::lower`].
pub fn outline(
    dockerfile: &Dockerfile,
    options: &LowerOptions,
    bases: &BTreeMap<BaseRequest, ResolvedBase>,
) -> Result<Outlined, Vec<Diagnostic>> {
    let resolved = resolve(dockerfile, options, bases, Gaps::default());
    if !resolved.errors.is_empty() || !resolved.missing.is_empty() {
        let errors = findings::all(resolved.errors, &resolved.graphs);
        if !errors.is_empty() {
            return Err(errors);
        }
        let requests = resolved.missing.into_iter().map(|(request, _)| request);
        let requests: BTreeSet<BaseRequest> = requests.collect();
        return Ok(Outlined::Need(requests.into_iter().collect()));
    }
    let graph = resolved
        .graphs
        .first()
        .expect("BUG: there is a platform to build for");
    let mut builder = Builder::default();
    let mut lowering = Lowering::new(graph, &mut builder, None);
    lowering.notes = Some(Notes::new(graph));
    let notes = lowering.run_noting()?;
    Ok(Outlined::Outline(notes.finish(graph)))
}

/// An argument as the stages know it.
#[derive(Clone, Debug)]
struct Known {
    arg: Arg,
    /// Global arguments that its value came from.
    uses: Vec<String>,
}

#[derive(Clone, Debug, Default)]
struct StageNotes {
    known: Vec<Known>,
    used: BTreeSet<String>,
    secrets: Vec<Need>,
    ssh: Vec<Need>,
}

/// What was noted so far, by stage.
#[derive(Clone, Debug)]
pub(super) struct Notes {
    stages: Vec<StageNotes>,
}

impl Notes {
    fn new(graph: &Graph<'_>) -> Self {
        let shared = &graph.shared;
        let known = globals(shared.dockerfile, shared.options, &shared.globals);
        let words = shared.dockerfile.stages.iter().map(|stage| {
            let platform = stage.platform.as_ref().map(|platform| &platform.value);
            let words = std::iter::once(&stage.base.value).chain(platform);
            let matched = words.filter_map(|word| {
                let escape = shared.dockerfile.escape;
                expand::word(word, escape, &shared.globals, Options::default()).ok()
            });
            matched.flat_map(|word| word.matched).collect()
        });
        let stages = words.map(|used| StageNotes {
            known: known.clone(),
            used,
            ..StageNotes::default()
        });
        Self {
            stages: stages.collect(),
        }
    }

    /// Notes what an instruction declared or needs, after it was carried out.
    pub(super) fn note(
        &mut self,
        stage: usize,
        state: &StageState,
        command: &Command<'_>,
        shared: &Shared<'_>,
    ) {
        let notes = &mut self.stages[stage];
        match &command.instruction.kind {
            Kind::Arg(pairs) => {
                let values = &state.args[state.args.len().saturating_sub(pairs.len())..];
                for (pair, (name, value)) in pairs.iter().zip(values) {
                    notes.used.insert(name.clone());
                    // A global argument's value, or a platform's: it is told where that is declared, if anywhere.
                    let inherited = pair.default.is_none()
                        && !shared.options.build_args.contains_key(name)
                        && shared.globals.value(name).is_some();
                    if inherited {
                        continue;
                    }
                    notes.declare(
                        arg(&command.instruction.info, name, value.clone(), command),
                        Vec::new(),
                    );
                }
            }
            Kind::Run(run) => notes.mounts(run, state, command, shared.dockerfile.escape),
            _ => {}
        }
    }

    fn finish(self, graph: &Graph<'_>) -> Outline {
        let (mut args, mut secrets, mut ssh) = (Vec::new(), Vec::new(), Vec::new());
        let mut seen = [BTreeSet::new(), BTreeSet::new(), BTreeSet::new()];
        for index in order(graph) {
            let mut notes = self.stages[index].clone();
            notes.use_all();
            for known in notes.known {
                let name = &known.arg.name;
                if notes.used.contains(name) && seen[0].insert(name.clone()) {
                    args.push(known.arg);
                }
            }
            let new = |seen: &mut BTreeSet<String>, needs: Vec<Need>| -> Vec<Need> {
                needs
                    .into_iter()
                    .filter(|need| seen.insert(need.name.clone()))
                    .collect()
            };
            secrets.extend(new(&mut seen[1], notes.secrets));
            ssh.extend(new(&mut seen[2], notes.ssh));
        }
        args.sort_by_key(|arg: &Arg| arg.lines.start);
        secrets.sort_by_key(|need| need.lines.start);
        ssh.sort_by_key(|need| need.lines.start);
        let stage = &graph.shared.dockerfile.stages[graph.target];
        let name = stage.name.as_ref().map(|name| name.value.to_lowercase());
        let name = name.unwrap_or_default();
        Outline {
            description: description(&stage.from, &name),
            name,
            args,
            secrets,
            ssh,
        }
    }
}

impl StageNotes {
    fn declare(&mut self, arg: Arg, mut uses: Vec<String>) {
        let place = self
            .known
            .iter()
            .position(|known| known.arg.name == arg.name);
        let Some(place) = place else {
            self.known.push(Known { arg, uses });
            return;
        };
        // A value made from the argument's earlier one comes from where that came from.
        if uses.contains(&arg.name) {
            uses.extend(self.known[place].uses.iter().cloned());
        }
        self.known[place] = Known { arg, uses };
    }

    /// What the values of used arguments came from is used too.
    fn use_all(&mut self) {
        let mut open: Vec<String> = self.used.iter().cloned().collect();
        while let Some(name) = open.pop() {
            let Some(known) = self.known.iter().find(|known| known.arg.name == name) else {
                continue;
            };
            for name in &known.uses {
                if self.used.insert(name.clone()) {
                    open.push(name.clone());
                }
            }
        }
    }

    fn mounts(&mut self, run: &Run, state: &StageState, command: &Command<'_>, escape: char) {
        for text in &run.mounts {
            let expand = |field: &str| scope::word(field, escape, &state.env);
            let Ok(mount) = mount::parse(&text.value, &expand) else {
                continue;
            };
            let id = mount.source.as_ref().or(mount.id.as_ref());
            let id = id.filter(|id| !id.is_empty()).cloned();
            let need = |name: String| Need {
                name,
                required: mount.required,
                lines: command.place.lines,
            };
            match mount.kind {
                MountType::Secret => {
                    let target = mount.target.as_deref().unwrap_or_default();
                    let id = id.unwrap_or_else(|| paths::base(target).to_owned());
                    self.secrets.push(need(id));
                }
                MountType::Ssh => {
                    let id = mount.id.clone().unwrap_or_else(|| "default".to_owned());
                    self.ssh.push(need(id));
                }
                _ => {}
            }
        }
    }
}

fn arg(info: &InstructionInfo, name: &str, value: Option<String>, command: &Command<'_>) -> Arg {
    Arg {
        name: name.to_owned(),
        description: description(info, name),
        value,
        lines: command.place.lines,
    }
}

/// The ARGs before the first FROM.
fn globals(dockerfile: &Dockerfile, options: &LowerOptions, globals: &Env) -> Vec<Known> {
    let mut notes = StageNotes::default();
    let mut env = globals.clone();
    for name in names(dockerfile) {
        env.remove(name);
    }
    for instruction in &dockerfile.global_args {
        let Kind::Arg(pairs) = &instruction.kind else {
            continue;
        };
        for pair in pairs {
            let name = &pair.name.value;
            let (value, uses) = match (options.build_args.get(name), &pair.default) {
                (Some(given), _) => (Some(given.clone()), Vec::new()),
                (None, Some(default)) => {
                    let text = &default.value;
                    let word = expand::word(text, dockerfile.escape, &env, Options::default());
                    let word = word.unwrap_or_default();
                    (Some(word.text), word.matched)
                }
                (None, None) => (None, Vec::new()),
            };
            if let Some(value) = &value {
                env.set(name, value);
            }
            let arg = Arg {
                name: name.clone(),
                description: description(&instruction.info, name),
                value,
                lines: instruction.info.lines,
            };
            notes.declare(arg, uses);
        }
    }
    notes.known
}

fn names(dockerfile: &Dockerfile) -> Vec<&str> {
    let pairs = dockerfile.global_args.iter().filter_map(|instruction| {
        let Kind::Arg(pairs) = &instruction.kind else {
            return None;
        };
        Some(pairs.iter().map(|pair| pair.name.value.as_str()))
    });
    pairs
        .flatten()
        .filter(|name| !scope::is_platform_arg(name))
        .collect()
}

/// The target, then what it is based on, then what it reads: the first to know a name says what it is.
fn order(graph: &Graph<'_>) -> Vec<usize> {
    let mut found = Vec::new();
    visit(graph, graph.target, &mut found);
    found
}

fn visit(graph: &Graph<'_>, index: usize, found: &mut Vec<usize>) {
    if found.contains(&index) {
        return;
    }
    found.push(index);
    let node = &graph.nodes[index];
    let read = node
        .commands
        .iter()
        .flat_map(|command| command.sources.iter().flatten());
    for source in std::iter::once(&node.base).chain(read) {
        if let Source::Stage(stage) = source {
            visit(graph, *stage, found);
        }
    }
}
