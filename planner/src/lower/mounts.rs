//! `RUN --mount`: from parsed fields to what a step mounts.

use super::copy::context_copy;
use super::graph::{Command, Source};
use super::stage::{Inputs, Lowering, StageState};
use super::{paths, scope};
use crate::plan::{CopyFrom, InputIndex, RunMount};
use parser::Diagnostic;
use parser::ast::Run;
use parser::mount::{self, Mount, MountType, Sharing};

/// The `from` field of a mount, read before anything is expanded: a variable in it is refused later.
pub(super) fn from_of(value: &str) -> Option<String> {
    let mut field = String::new();
    let mut quoted = false;
    let mut fields = Vec::new();
    for c in value.chars() {
        match c {
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(std::mem::take(&mut field)),
            c => field.push(c),
        }
    }
    fields.push(field);
    let from = |field: &String| {
        let (key, value) = field.split_once('=')?;
        key.eq_ignore_ascii_case("from").then(|| value.to_owned())
    };
    fields
        .iter()
        .rev()
        .find_map(from)
        .filter(|from| !from.is_empty())
}

/// Names of environment variables that secrets are passed in.
pub(super) fn secret_names(run: &Run) -> Vec<String> {
    let parsed = run
        .mounts
        .iter()
        .filter_map(|text| mount::parse(&text.value, &|field| Ok(field.to_owned())).ok());
    parsed
        .filter(|mount| mount.kind == MountType::Secret)
        .filter_map(|mount| mount.env)
        .collect()
}

impl Lowering<'_, '_> {
    /// The mounts of a RUN; what they read is added to its inputs.
    pub(super) fn run_mounts(
        &mut self,
        state: &StageState,
        command: &Command<'_>,
        run: &Run,
        inputs: &mut Inputs,
    ) -> Result<Vec<RunMount>, Diagnostic> {
        let escape = self.shared().dockerfile.escape;
        let mut mounts = Vec::new();
        let mut agents = 0;
        for (text, source) in run.mounts.iter().zip(&command.sources) {
            let parsed = mount::parse(&text.value, &|field| scope::word(field, escape, &state.env));
            let mount = parsed.map_err(|message| command.place.error(message))?;
            let lowered = match mount.kind {
                MountType::Bind => self.bind(state, command, &mount, source.as_ref(), inputs)?,
                MountType::Cache => self.cache(state, command, &mount, source.as_ref(), inputs)?,
                MountType::Tmpfs => RunMount::Tmpfs {
                    target: target_of(state, command, &mount)?,
                    size: mount.size,
                },
                MountType::Secret => secret(state, command, &mount)?,
                MountType::Ssh if mount.source.is_some() => {
                    let message = "ssh does not support source".to_owned();
                    return Err(command.place.error(message));
                }
                MountType::Ssh => {
                    agents += 1;
                    ssh(state, &mount, agents - 1)
                }
            };
            mounts.push(lowered);
        }
        Ok(mounts)
    }

    fn bind(
        &mut self,
        state: &StageState,
        command: &Command<'_>,
        mount: &Mount,
        from: Option<&Source>,
        inputs: &mut Inputs,
    ) -> Result<RunMount, Diagnostic> {
        let source = paths::join("/", mount.source.as_deref().unwrap_or("/"));
        let input = match from {
            None => Some(inputs.add(self.bound_files(state, command, "context", &source))),
            Some(from) => self.mounted(state, command, from, &source, inputs)?,
        };
        let target = target_of(state, command, mount)?;
        Ok(RunMount::Bind {
            input,
            source,
            target,
            readonly: mount.readonly,
        })
    }

    fn cache(
        &mut self,
        state: &StageState,
        command: &Command<'_>,
        mount: &Mount,
        from: Option<&Source>,
        inputs: &mut Inputs,
    ) -> Result<RunMount, Diagnostic> {
        let source = paths::join("/", mount.source.as_deref().unwrap_or("/"));
        let target = target_of(state, command, mount)?;
        let id = paths::clean(
            mount
                .id
                .as_deref()
                .or(mount.target.as_deref())
                .unwrap_or(&target),
        );
        let namespace = &self.shared().options.cache_mount_namespace;
        let id = if namespace.is_empty() {
            id
        } else {
            format!("{namespace}/{id}")
        };
        let from = match from {
            None => None,
            Some(from) => self.mounted(state, command, from, &source, inputs)?,
        };
        let sharing = match mount.sharing {
            Sharing::Shared => "shared",
            Sharing::Private => "private",
            Sharing::Locked => "locked",
        };
        Ok(RunMount::Cache {
            id,
            target,
            from,
            source,
            sharing: sharing.to_owned(),
            mode: mount.mode.unwrap_or(0o755),
            uid: mount.uid.unwrap_or(0),
            gid: mount.gid.unwrap_or(0),
            readonly: mount.readonly,
        })
    }

    /// The input that `from=` names; `None` is empty.
    fn mounted(
        &mut self,
        state: &StageState,
        command: &Command<'_>,
        from: &Source,
        source: &str,
        inputs: &mut Inputs,
    ) -> Result<Option<InputIndex>, Diagnostic> {
        if let Source::Stage(stage) = from
            && !self.is_done(*stage)
        {
            let name = &self.graph.nodes[*stage].name;
            let message = format!(
                "cannot mount from stage {name:?} to {}, stage needs to be defined before current command",
                parser::quote(&command.instruction.info.original)
            );
            return Err(command.place.error(message));
        }
        Ok(match self.files_of(from, command.place) {
            CopyFromStep::Step(step) => Some(inputs.add(step)),
            CopyFromStep::Context(name) => {
                Some(inputs.add(self.bound_files(state, command, &name, source)))
            }
            CopyFromStep::Scratch => None,
        })
    }

    /// A step that holds what a mount shows of a local directory, at its own path.
    fn bound_files(
        &mut self,
        state: &StageState,
        command: &Command<'_>,
        context: &str,
        source: &str,
    ) -> crate::plan::StepId {
        let copy = context_copy(context, source);
        debug_assert!(
            matches!(copy.from, CopyFrom::Context(_)),
            "a mount reads a context"
        );
        self.add_context_step(copy, context, command.place, &state.platform)
    }
}

pub(super) use super::stage::Files as CopyFromStep;

/// The absolute target of a mount.
fn target_of(
    state: &StageState,
    command: &Command<'_>,
    mount: &Mount,
) -> Result<String, Diagnostic> {
    let given = mount.target.as_deref().unwrap_or_default();
    let target = paths::join(&state.dir, given);
    if target == "/" {
        return Err(command
            .place
            .error(format!("invalid mount target {target:?}")));
    }
    Ok(target)
}

fn secret(
    state: &StageState,
    command: &Command<'_>,
    mount: &Mount,
) -> Result<RunMount, Diagnostic> {
    let given = mount.target.as_deref().filter(|target| !target.is_empty());
    let id = mount
        .source
        .as_deref()
        .or(mount.id.as_deref())
        .filter(|id| !id.is_empty());
    let id = match (id, given) {
        (Some(id), _) => id.to_owned(),
        (None, Some(target)) => paths::base(target).to_owned(),
        (None, None) => {
            return Err(command
                .place
                .error("one of source, target required".to_owned()));
        }
    };
    let target = match (given, &mount.env) {
        (Some(target), _) => Some(paths::join(&state.dir, target)),
        (None, Some(_)) => None,
        (None, None) => Some(format!("/run/secrets/{}", paths::base(&id))),
    };
    Ok(RunMount::Secret {
        id,
        target,
        env: mount.env.clone(),
        required: mount.required,
        mode: mount.mode.unwrap_or(0o400),
        uid: mount.uid.unwrap_or(0),
        gid: mount.gid.unwrap_or(0),
    })
}

fn ssh(state: &StageState, mount: &Mount, index: usize) -> RunMount {
    let target = match mount.target.as_deref() {
        None | Some("") => format!("/run/buildkit/ssh_agent.{index}"),
        Some(target) => paths::join(&state.dir, target),
    };
    RunMount::Ssh {
        id: mount.id.clone().unwrap_or_else(|| "default".to_owned()),
        target,
        required: mount.required,
        mode: mount.mode.unwrap_or(0o600),
        uid: mount.uid.unwrap_or(0),
        gid: mount.gid.unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::from_of;

    #[test]
    fn the_from_field_is_found() {
        for (value, expected) in [
            ("target=/x", None),
            ("from=build,target=/x", Some("build")),
            ("type=cache,From=a:b,target=/x", Some("a:b")),
            ("type=bind,\"from=a,b\",target=/x", Some("a,b")),
            ("from=,target=/x", None),
        ] {
            assert_eq!(from_of(value).as_deref(), expected, "{value}");
        }
    }
}
