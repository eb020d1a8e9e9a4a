//! RUN.

use super::graph::Command;
use super::scope::{Masked, proxies};
use super::stage::{Inputs, Lowering, StageState, expand_for_people};
use super::{Allowed, LowerOptions, gotext, mounts};
use crate::plan::{DeviceRequest, Network, Op, Origin, RunOp};
use parser::Diagnostic;
use parser::ast::{Heredoc, Run};
use parser::expand::Options;
use parser::heredoc;

/// Where the files of heredoc scripts are for the command.
const SCRIPTS: &str = "/dev/pipes/";

/// Host name of commands, unless the build arg `BUILDKIT_SANDBOX_HOSTNAME` gives another.
const HOST_NAME: &str = "buildkitsandbox";

/// What is run, before the shell is put in front.
struct Script {
    args: Vec<String>,
    files: Vec<(String, String)>,
    /// First line of a script, for progress.
    summary: Option<String>,
}

impl Lowering<'_, '_> {
    pub(super) fn run_command(
        &mut self,
        state: &mut StageState,
        command: &Command<'_>,
        run: &Run,
    ) -> Result<(), Diagnostic> {
        let place = command.place;
        let options = self.shared().options;
        let script = script(run).map_err(|message| place.error(message))?;
        let args = state.with_shell(&script.args, run.command.shell);
        if args.is_empty() {
            return Err(place.error("arguments are required".to_owned()));
        }
        let (mut inputs, base) = Inputs::with_base(state.rootfs);
        let mounts = self.run_mounts(state, command, run, &mut inputs)?;
        let network = network(run, options.network).map_err(|message| place.error(message))?;
        let insecure = insecure(run).map_err(|message| place.error(message))?;
        entitled(options, network, insecure).map_err(|entitlement| Diagnostic {
            help: Some(format!("build with --allow {entitlement}")),
            ..place.error(format!("{entitlement} is not allowed"))
        })?;
        let devices = devices(run).map_err(|message| place.error(message))?;
        let name = self.run_name(state, command, run, script.summary.as_deref());
        let origin = Origin {
            args: state.args_in_force(),
            ..state.origin(&name, command)
        };
        let text = history(&args, state);
        let op = RunOp {
            base,
            display: args.join(" "),
            args,
            env: state.env.pairs().to_vec(),
            proxy_env: proxies(options),
            cwd: state.dir.clone(),
            user: state.config.config.user.clone(),
            mounts,
            network,
            insecure,
            hostname: options
                .build_args
                .get("BUILDKIT_SANDBOX_HOSTNAME")
                .map_or(HOST_NAME, String::as_str)
                .to_owned(),
            extra_hosts: options.extra_hosts.clone(),
            files: script.files,
            shm_size: options.shm_size,
            devices,
            ulimits: options.ulimits.clone(),
            volumes: options.volumes.clone(),
        };
        let step = self.add_step(state, Op::Run(op), inputs, origin);
        state.commit(text, Some(step));
        Ok(())
    }

    fn run_name(
        &self,
        state: &StageState,
        command: &Command<'_>,
        run: &Run,
        summary: Option<&str>,
    ) -> String {
        let mut name = command.instruction.info.original.trim().to_owned();
        if let Some(summary) = summary {
            name.push_str(&format!(" ({summary})"));
        }
        let masked = Masked {
            env: &state.env,
            names: mounts::secret_names(run),
        };
        let options = Options {
            raw_quotes: true,
            skip_unset_env: true,
            ..Options::default()
        };
        expand_for_people(&name, self.shared().dockerfile.escape, &masked, options)
    }
}

/// Heredocs become the script itself, a file of the command's, or text for the shell.
fn script(run: &Run) -> Result<Script, String> {
    let args = run.command.args.clone();
    let Some(first) = run.heredocs.first() else {
        return Ok(Script {
            args,
            files: Vec::new(),
            summary: None,
        });
    };
    let [line] = args.as_slice() else {
        return Err(format!(
            "parsing produced an invalid run command: {}",
            gotext::plain_list(&args)
        ));
    };
    // A mark and nothing else: the body is the script.
    if heredoc::mark(line.trim())?.is_none() {
        return Ok(Script {
            args: vec![for_the_shell(line, &run.heredocs)],
            files: Vec::new(),
            summary: None,
        });
    }
    let text = if first.chomp {
        strip_tabs(&first.content)
    } else {
        first.content.clone()
    };
    let summary = Some(summarise(&first.content));
    if !text.starts_with("#!") {
        return Ok(Script {
            args: vec![text],
            files: Vec::new(),
            summary,
        });
    }
    let path = format!("{SCRIPTS}{}", first.name);
    Ok(Script {
        args: vec![path.clone()],
        files: vec![(path, text)],
        summary,
    })
}

/// The command line with the heredoc bodies below it, as it stood in the Dockerfile.
fn for_the_shell(line: &str, heredocs: &[Heredoc]) -> String {
    let mut text = line.to_owned();
    for heredoc in heredocs {
        text.push('\n');
        text.push_str(&heredoc.content);
        text.push_str(&heredoc.name);
    }
    text
}

/// Drops the tabs at the start of each line, as `<<-` does.
pub(super) fn strip_tabs(text: &str) -> String {
    text.split_inclusive('\n')
        .map(|line| line.trim_start_matches('\t'))
        .collect()
}

fn summarise(script: &str) -> String {
    let mut lines = script.trim().lines();
    let first = lines.next().unwrap_or_default().to_owned();
    if lines.next().is_some() {
        first + "..."
    } else {
        first
    }
}

fn network(run: &Run, default: Network) -> Result<Network, String> {
    match run.network.as_ref().map(|network| network.value.as_str()) {
        None | Some("default") => Ok(default),
        Some("none") => Ok(Network::None),
        Some("host") => Ok(Network::Host),
        Some(other) => Err(format!("invalid network mode {other:?}")),
    }
}

fn insecure(run: &Run) -> Result<bool, String> {
    match run
        .security
        .as_ref()
        .map(|security| security.value.as_str())
    {
        None | Some("sandbox") => Ok(false),
        Some("insecure") => Ok(true),
        Some(other) => Err(format!("security {other:?} is not valid")),
    }
}

/// The name of what a command asks for and may not have. A default of the build, `--network=host`, is allowed with it.
fn entitled(options: &LowerOptions, network: Network, insecure: bool) -> Result<(), &'static str> {
    let Allowed {
        network_host,
        security_insecure,
    } = options.allowed;
    let network_host = network_host || options.network == Network::Host;
    if network == Network::Host && !network_host {
        return Err("network.host");
    }
    if insecure && !security_insecure {
        return Err("security.insecure");
    }
    Ok(())
}

fn devices(run: &Run) -> Result<Vec<DeviceRequest>, String> {
    let request = |text: &parser::ast::Spanned<String>| {
        let device = parser::device::parse(&text.value)?;
        Ok(DeviceRequest {
            name: device.name,
            required: device.required,
        })
    };
    run.devices.iter().map(request).collect()
}

/// `RUN |1 a=b /bin/sh -c make # buildkit`: the ARGs in force, with the values that the command sees.
fn history(args: &[String], state: &StageState) -> String {
    let mut seen: Vec<(&str, String)> = Vec::new();
    for (name, given) in &state.args {
        let value = state
            .env
            .value(name)
            .or(given.as_deref())
            .unwrap_or_default();
        let pair = format!("{name}={value}");
        match seen.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => *known = pair,
            None => seen.push((name, pair)),
        }
    }
    let mut words = vec!["RUN".to_owned()];
    if !seen.is_empty() {
        words.push(format!("|{}", seen.len()));
    }
    words.extend(seen.into_iter().map(|(_, pair)| pair));
    words.extend(args.iter().cloned());
    words.push("# buildkit".to_owned());
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::{strip_tabs, summarise};

    #[test]
    fn tabs_are_stripped_and_scripts_summed_up() {
        assert_eq!(strip_tabs("\ta\n\t\tb\n c\n\t\n"), "a\nb\n c\n\n");
        assert_eq!(summarise("echo a\n"), "echo a");
        assert_eq!(summarise("\n  echo a\n\necho b\n"), "echo a...");
        assert_eq!(summarise(""), "");
    }
}
