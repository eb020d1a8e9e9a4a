//! Instructions that only change the image config and the variables: they make no step.

use super::context::Shared;
use super::gotext::{duration, plain_list, quoted_list};
use super::scope::NOT_ENVIRONMENT;
use super::stage::StageState;
use super::{scope, signals};
use crate::config::HealthConfig;
use parser::Kind;
use parser::ast::{ArgPair, CommandLine, Healthcheck, KeyValue, Spanned};
use parser::expand;
use serde_json::Value;

/// The shell of shell forms where SHELL says nothing.
const DEFAULT_SHELL: [&str; 2] = ["/bin/sh", "-c"];

impl StageState {
    /// Carries an instruction out that makes no step.
    pub(super) fn fold(&mut self, kind: &Kind, shared: &Shared<'_>) -> Result<(), String> {
        let escape = shared.dockerfile.escape;
        match kind {
            Kind::Arg(pairs) => self.arg(pairs, shared),
            Kind::Env(pairs) => self.set_env(&self.expand_pairs(pairs, escape)?),
            Kind::Label(pairs) => self.set_labels(&self.expand_pairs(pairs, escape)?),
            Kind::Cmd(command) => self.set_cmd(command),
            Kind::Entrypoint(command) => self.set_entrypoint(command),
            Kind::Expose(words) => self.expose(words, escape),
            Kind::Healthcheck(check) => self.set_healthcheck(check),
            Kind::Maintainer(name) => {
                self.config.author = Some(name.value.clone());
                self.note(format!("MAINTAINER {}", name.value))
            }
            Kind::Onbuild { expression, .. } => {
                self.config
                    .config
                    .on_build
                    .get_or_insert_default()
                    .push(expression.clone());
                Ok(())
            }
            Kind::Shell(words) => {
                self.config.config.shell = Some(words.clone()).filter(|words| !words.is_empty());
                self.note(format!("SHELL {}", plain_list(words)))
            }
            Kind::StopSignal(signal) => {
                let signal = scope::word(&signal.value, escape, &self.env)?;
                signals::check(&signal)?;
                self.config.config.stop_signal = Some(signal.clone());
                self.note(format!("STOPSIGNAL {signal}"))
            }
            Kind::User(user) => {
                let user = scope::word(&user.value, escape, &self.env)?;
                self.config.config.user.clone_from(&user);
                self.note(format!("USER {user}"))
            }
            Kind::Volume(words) => {
                self.volume(words.iter().map(|word| word.value.as_str()), escape)
            }
            Kind::Add(_) | Kind::Copy(_) | Kind::Run(_) | Kind::Workdir(_) => {
                unreachable!("BUG: instructions that make steps are carried out elsewhere")
            }
        }
    }

    #[expect(
        clippy::unnecessary_wraps,
        reason = "the last word of instructions that may fail"
    )]
    fn note(&mut self, text: String) -> Result<(), String> {
        self.commit(text, None);
        Ok(())
    }

    /// All words are expanded with the variables as they were before the instruction.
    fn expand_pairs(
        &self,
        pairs: &[KeyValue],
        escape: char,
    ) -> Result<Vec<(String, String)>, String> {
        let expand = |text: &str| scope::word(text, escape, &self.env);
        pairs
            .iter()
            .map(|pair| Ok((expand(&pair.key.value)?, expand(&pair.value.value)?)))
            .collect()
    }

    fn set_env(&mut self, pairs: &[(String, String)]) -> Result<(), String> {
        let mut text = "ENV".to_owned();
        for (name, value) in pairs {
            let pair = format!("{name}={value}");
            text.push(' ');
            text.push_str(&pair);
            self.env.set(name, value);
            let env = self.config.config.env.get_or_insert_default();
            match env
                .iter_mut()
                .find(|known| known.split('=').next() == Some(name))
            {
                Some(known) => *known = pair,
                None => env.push(pair),
            }
        }
        self.note(text)
    }

    fn set_labels(&mut self, pairs: &[(String, String)]) -> Result<(), String> {
        let mut text = "LABEL".to_owned();
        let labels = self.config.config.labels.get_or_insert_default();
        for (name, value) in pairs {
            text.push_str(&format!(" {name}={value}"));
            labels.insert(name.clone(), value.clone());
        }
        self.note(text)
    }

    fn arg(&mut self, pairs: &[ArgPair], shared: &Shared<'_>) -> Result<(), String> {
        let mut texts = Vec::new();
        for pair in pairs {
            let name = &pair.name.value;
            let given = shared.options.build_args.get(name);
            let value = match (given, &pair.default) {
                (Some(given), _) => Some(given.clone()),
                (None, Some(default)) => Some(scope::word(
                    &default.value,
                    shared.dockerfile.escape,
                    &self.env,
                )?),
                (None, None) => shared.globals.value(name).map(str::to_owned),
            };
            if let Some(value) = &value
                && !NOT_ENVIRONMENT.contains(&name.as_str())
            {
                self.env.set(name, value);
            }
            texts.push(match &value {
                Some(value) => format!("{name}={value}"),
                None => name.clone(),
            });
            self.args.push((name.clone(), value));
        }
        self.note(format!("ARG {}", texts.join(" ")))
    }

    /// A command with the shell put before a shell form.
    pub(super) fn with_shell(&self, args: &[String], shell: bool) -> Vec<String> {
        if !shell {
            return args.to_vec();
        }
        let mut command = match &self.config.config.shell {
            Some(shell) if !shell.is_empty() => shell.clone(),
            _ => DEFAULT_SHELL.map(str::to_owned).to_vec(),
        };
        command.push(args.join(" "));
        command
    }

    fn set_cmd(&mut self, command: &CommandLine) -> Result<(), String> {
        let args = self.with_shell(&command.args, command.shell);
        let text = format!("CMD {}", quoted_list(&args));
        self.config.config.cmd = Some(args).filter(|args| !args.is_empty());
        self.config.config.args_escaped = true;
        self.has_cmd = true;
        self.note(text)
    }

    fn set_entrypoint(&mut self, command: &CommandLine) -> Result<(), String> {
        let args = self.with_shell(&command.args, command.shell);
        let text = format!("ENTRYPOINT {}", quoted_list(&args));
        self.config.config.entrypoint = Some(args).filter(|args| !args.is_empty());
        // The base's arguments are meant for the base's entry point.
        if !self.has_cmd {
            self.config.config.cmd = None;
        }
        self.note(text)
    }

    fn expose(&mut self, words: &[Spanned<String>], escape: char) -> Result<(), String> {
        let mut words: Vec<&str> = words.iter().map(|word| word.value.as_str()).collect();
        // BuildKit sorts the words as written; its history shows that order.
        words.sort_unstable();
        let mut exposed = Vec::new();
        for word in words {
            let specs = expand::words(word, escape, &self.env, expand::Options::default())
                .map_err(|error| error.message)?;
            for spec in specs {
                exposed.extend(parser::port::parse(&spec)?.names());
            }
        }
        let ports = exposed
            .iter()
            .map(|port| (port.clone(), Value::Object(serde_json::Map::new())));
        // Words that expand to nothing leave no empty list behind.
        if ports.len() > 0 {
            let known = self.config.config.exposed_ports.get_or_insert_default();
            known.extend(ports);
        }
        self.note(format!("EXPOSE {}", plain_list(&exposed)))
    }

    fn volume<'w>(
        &mut self,
        words: impl Iterator<Item = &'w str>,
        escape: char,
    ) -> Result<(), String> {
        let mut paths = Vec::new();
        for word in words {
            let path = scope::word(word, escape, &self.env)?;
            if path.is_empty() {
                return Err("VOLUME specified can not be an empty string".to_owned());
            }
            paths.push(path);
        }
        let known = self.config.config.volumes.get_or_insert_default();
        known.extend(
            paths
                .iter()
                .map(|path| (path.clone(), Value::Object(serde_json::Map::new()))),
        );
        self.note(format!("VOLUME {}", plain_list(&paths)))
    }

    fn set_healthcheck(&mut self, check: &Healthcheck) -> Result<(), String> {
        let health = match check {
            Healthcheck::None => HealthConfig {
                test: vec!["NONE".to_owned()],
                ..HealthConfig::default()
            },
            Healthcheck::Cmd {
                command,
                interval,
                timeout,
                start_period,
                start_interval,
                retries,
            } => {
                let kind = if command.shell { "CMD-SHELL" } else { "CMD" };
                HealthConfig {
                    test: std::iter::once(kind.to_owned())
                        .chain(command.args.iter().cloned())
                        .collect(),
                    interval: *interval,
                    timeout: *timeout,
                    start_period: *start_period,
                    start_interval: *start_interval,
                    retries: *retries,
                }
            }
        };
        let text = format!(
            "HEALTHCHECK {{Test:{} Interval:{} Timeout:{} StartPeriod:{} StartInterval:{} Retries:{}}}",
            plain_list(&health.test),
            duration(health.interval),
            duration(health.timeout),
            duration(health.start_period),
            duration(health.start_interval),
            health.retries
        );
        self.config.config.healthcheck = Some(health);
        self.note(text)
    }
}
