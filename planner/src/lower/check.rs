//! Build checks that need the variables and the state of a stage: they run as its instructions are carried out.
//!
//! Nothing here changes the state. Words are expanded apart from the lowering, and only those that hold a `$`.

use super::context::Place;
use super::graph::{Command, Node, Source};
use super::scope::NOT_ENVIRONMENT;
use super::stage::{Lowering, StageState};
use super::{paths, scope};
use crate::checks::{self, At, Linter};
use parser::ast::{ArgPair, CommandLine, KeyValue, Source as Word, Spanned, Transfer};
use parser::expand::{self, Options, Scope};
use parser::suggest::nearest;
use parser::{Kind, mount, port, quote};

/// Words of a variable's name that make it a secret's.
const SECRET: [&str; 10] = [
    "apikey",
    "auth",
    "credential",
    "credentials",
    "key",
    "password",
    "pword",
    "passwd",
    "secret",
    "token",
];

/// Words that say that it is none after all.
const NO_SECRET: [&str; 3] = ["public", "file", "version"];

/// What the checks remember of a stage.
#[derive(Clone, Debug, Default)]
struct Seen {
    /// Where the last CMD, ENTRYPOINT and HEALTHCHECK stand, with the comments above.
    cmd: Option<Earlier>,
    entrypoint: Option<Earlier>,
    healthcheck: Option<Earlier>,
    /// A WORKDIR was given, here or in the stage that this one is based on.
    workdir: bool,
}

#[derive(Clone, Debug)]
struct Earlier {
    place: Place,
    comments: Vec<String>,
}

/// The checks of one platform's lowering.
#[derive(Debug, Default)]
pub(super) struct Checks {
    /// `None` for all platforms but the first.
    linter: Option<Linter>,
    stages: Vec<Seen>,
    /// The stage in hand.
    pub(super) current: usize,
}

impl Checks {
    pub(super) fn new(linter: Option<Linter>, stages: usize) -> Self {
        Self {
            linter,
            stages: vec![Seen::default(); stages],
            current: 0,
        }
    }

    /// A stage begins.
    pub(super) fn begin(&mut self, index: usize, node: &Node<'_>) {
        self.current = index;
        if let Source::Stage(base) = node.base {
            self.stages[index].workdir = self.stages[base].workdir;
        }
    }

    pub(super) fn into_found(self) -> Vec<parser::Diagnostic> {
        self.linter.map(|linter| linter.found).unwrap_or_default()
    }

    /// A finding about a base image.
    pub(super) fn base_platform(&mut self, place: Place, comments: &[String], message: String) {
        if let Some(linter) = &mut self.linter {
            linter.run(
                &checks::INVALID_BASE_IMAGE_PLATFORM,
                at(place, comments),
                || message,
            );
        }
    }
}

fn at(place: Place, comments: &[String]) -> At<'_> {
    At {
        span: place.span,
        lines: place.lines,
        comments,
    }
}

impl Lowering<'_, '_> {
    /// Runs the checks of an instruction that is about to be carried out.
    pub(super) fn check(&mut self, state: &StageState, command: &Command<'_>) {
        let Some(linter) = &mut self.checks.linter else {
            return;
        };
        let shared = &self.graph.shared;
        let mut checking = Checking {
            linter,
            seen: &mut self.checks.stages[self.checks.current],
            state,
            escape: shared.dockerfile.escape,
            keyword: &command.instruction.info.keyword,
            // A trigger is told at the FROM that sets it off.
            place: if command.onbuild {
                self.graph.nodes[self.checks.current].place
            } else {
                command.place
            },
            comments: &command.instruction.info.comments,
        };
        match &command.instruction.kind {
            Kind::Arg(pairs) => checking.args(pairs, shared),
            Kind::Env(pairs) => checking.pairs(pairs, true),
            Kind::Label(pairs) => checking.pairs(pairs, false),
            Kind::Cmd(line) => {
                let earlier = checking.remember(|seen| &mut seen.cmd);
                checking.once(earlier);
                checking.exec_form(line);
            }
            Kind::Entrypoint(line) => {
                let earlier = checking.remember(|seen| &mut seen.entrypoint);
                checking.once(earlier);
                checking.exec_form(line);
            }
            Kind::Healthcheck(_) => {
                let earlier = checking.remember(|seen| &mut seen.healthcheck);
                checking.once(earlier);
            }
            Kind::Expose(words) => checking.ports(words),
            Kind::Workdir(path) => checking.workdir(&path.value),
            Kind::User(word) | Kind::StopSignal(word) => checking.word(&word.value),
            Kind::Volume(words) => words.iter().for_each(|word| checking.word(&word.value)),
            Kind::Run(run) => run
                .mounts
                .iter()
                .for_each(|text| checking.mount(&text.value)),
            Kind::Copy(transfer) => {
                checking.transfer(transfer);
                if transfer.from.is_none() {
                    checking.ignored(transfer, "Copy", &shared.options.ignored);
                }
            }
            Kind::Add(transfer) => {
                checking.transfer(transfer);
                checking.ignored(transfer, "Add", &shared.options.ignored);
            }
            Kind::Maintainer(_) | Kind::Onbuild { .. } | Kind::Shell(_) => {}
        }
        // What the checks asked for is no concern of the instruction itself.
        state.env.take_guessed();
    }
}

/// One instruction being checked.
struct Checking<'c> {
    linter: &'c mut Linter,
    seen: &'c mut Seen,
    state: &'c StageState,
    escape: char,
    /// As typed.
    keyword: &'c str,
    place: Place,
    comments: &'c [String],
}

impl<'c> Checking<'c> {
    fn here(&self) -> At<'c> {
        at(self.place, self.comments)
    }

    /// Variables of a word that nothing defines.
    fn word(&mut self, text: &str) {
        self.word_in(text, self.escape, Options::default(), &self.state.env);
    }

    fn word_in(&mut self, text: &str, escape: char, options: Options, env: &scope::Env) {
        if !text.contains('$') || env.is_open() {
            return;
        }
        let unmatched = match expand::word(text, escape, env, options) {
            Ok(expanded) => expanded.unmatched,
            Err(error) => error.unmatched,
        };
        self.undefined(&unmatched, env);
    }

    fn undefined(&mut self, unmatched: &[String], env: &scope::Env) {
        for name in unmatched {
            let declared = self.state.args.iter().any(|(known, _)| known == name);
            if declared || NOT_ENVIRONMENT.contains(&name.as_str()) {
                continue;
            }
            let here = self.here();
            self.linter.run(&checks::UNDEFINED_VAR, here, || {
                let names = env.names();
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                let near = nearest(name, &names).map(|near| format!(" (did you mean ${near}?)"));
                format!(
                    "Usage of undefined variable '${name}'{}",
                    near.unwrap_or_default()
                )
            });
        }
    }

    fn args(&mut self, pairs: &[ArgPair], shared: &super::context::Shared<'_>) {
        // Each argument sees those before it.
        let mut env = std::borrow::Cow::Borrowed(&self.state.env);
        for (index, pair) in pairs.iter().enumerate() {
            let name = &pair.name.value;
            self.secret("ARG", name);
            let given = shared.options.build_args.get(name);
            let value = match (given, &pair.default) {
                (Some(given), _) => Some(given.clone()),
                (None, Some(default)) => {
                    let (text, escape) = (&default.value, self.escape);
                    self.word_in(text, escape, Options::default(), &env);
                    scope::word(text, escape, &*env).ok()
                }
                (None, None) => None,
            };
            if let Some(value) = value
                && pairs[index + 1..].iter().any(uses_variables)
            {
                env.to_mut().set(name, &value);
            }
        }
    }

    fn pairs(&mut self, pairs: &[KeyValue], env: bool) {
        for pair in pairs {
            self.word(&pair.key.value);
            self.word(&pair.value.value);
        }
        for pair in pairs {
            if pair.legacy {
                let (keyword, here) = (self.keyword, self.here());
                self.linter.run(&checks::LEGACY_KEY_VALUE_FORMAT, here, || {
                    format!(
                        "\"{keyword} key=value\" should be used instead of legacy \"{keyword} key value\" format"
                    )
                });
            }
            if env {
                let key = scope::word(&pair.key.value, self.escape, &self.state.env);
                self.secret("ENV", &key.unwrap_or_default());
            }
        }
    }

    fn secret(&mut self, instruction: &str, name: &str) {
        let has = |words: &[&str]| {
            name.split('_')
                .any(|part| words.iter().any(|word| part.eq_ignore_ascii_case(word)))
        };
        if !has(&SECRET) || has(&NO_SECRET) {
            return;
        }
        let here = self.here();
        self.linter
            .run(&checks::SECRETS_USED_IN_ARG_OR_ENV, here, || {
                format!(
                    "Do not use ARG or ENV instructions for sensitive data ({instruction} {})",
                    quote(name)
                )
            });
    }

    /// Notes this instruction; gives the one before it in the stage.
    fn remember(&mut self, slot: fn(&mut Seen) -> &mut Option<Earlier>) -> Option<Earlier> {
        slot(self.seen).replace(Earlier {
            place: self.place,
            comments: self.comments.to_vec(),
        })
    }

    /// Told at the earlier instruction, because that one has no effect. A comment above either one counts.
    fn once(&mut self, earlier: Option<Earlier>) {
        let Some(earlier) = earlier else { return };
        let comments: Vec<String> = [&earlier.comments, self.comments].concat();
        let keyword = self.keyword;
        self.linter.run(
            &checks::MULTIPLE_INSTRUCTIONS_DISALLOWED,
            at(earlier.place, &comments),
            || {
                format!(
                    "Multiple {keyword} instructions should not be used in the same stage because only the last one will be used"
                )
            },
        );
    }

    fn exec_form(&mut self, line: &CommandLine) {
        let shell = self.state.config.config.shell.as_ref();
        if !line.shell || shell.is_some_and(|shell| !shell.is_empty()) {
            return;
        }
        let (keyword, here) = (self.keyword, self.here());
        self.linter.run(&checks::JSON_ARGS_RECOMMENDED, here, || {
            format!(
                "JSON arguments recommended for {keyword} to prevent unintended behavior related to OS signals"
            )
        });
    }

    fn ports(&mut self, words: &[Spanned<String>]) {
        for word in words {
            let env = &self.state.env;
            let Ok(specs) = expand::words(&word.value, self.escape, env, Options::default()) else {
                return;
            };
            for spec in specs {
                let Ok(ports) = port::parse(&spec) else {
                    return;
                };
                let here = self.here();
                if ports.odd_case {
                    self.linter.run(&checks::EXPOSE_PROTO_CASING, here, || {
                        format!(
                            "Defined protocol '{spec}' in EXPOSE instruction should be lowercase"
                        )
                    });
                }
                if ports.has_host {
                    self.linter.run(&checks::EXPOSE_INVALID_FORMAT, here, || {
                        format!(
                            "EXPOSE instruction should not define an IP address or host-port mapping, found '{spec}'"
                        )
                    });
                }
            }
        }
    }

    /// The first WORKDIR of the Dockerfile for this stage is absolute; what the base image says does not count.
    fn workdir(&mut self, path: &str) {
        self.word(path);
        let first = !std::mem::replace(&mut self.seen.workdir, true);
        if !first {
            return;
        }
        let Ok(path) = scope::word(path, self.escape, &self.state.env) else {
            return;
        };
        if !path.starts_with('/') {
            let here = self.here();
            self.linter.run(&checks::WORKDIR_RELATIVE_PATH, here, || {
                format!(
                    "Relative workdir {} can have unexpected results if the base image changes",
                    quote(&path)
                )
            });
        }
    }

    fn mount(&mut self, text: &str) {
        if !text.contains('$') || self.state.env.is_open() {
            return;
        }
        let unmatched = std::cell::RefCell::new(Vec::new());
        let env = &self.state.env;
        // What is wrong with the mount itself, the lowering tells.
        let _ = mount::parse(text, &|field| match expand::word(
            field,
            self.escape,
            env,
            Options::default(),
        ) {
            Ok(expanded) => {
                unmatched.borrow_mut().push(expanded.unmatched);
                Ok(expanded.text)
            }
            Err(error) => {
                unmatched.borrow_mut().push(error.unmatched);
                Err(error.message)
            }
        });
        for names in unmatched.into_inner() {
            self.undefined(&names, env);
        }
    }

    fn transfer(&mut self, transfer: &Transfer) {
        let flags = [&transfer.chown, &transfer.chmod, &transfer.checksum];
        for flag in flags.into_iter().flatten() {
            self.word(&flag.value);
        }
        for pattern in &transfer.exclude {
            self.word(&pattern.value);
        }
        for source in &transfer.sources {
            if let Word::Path(path) = source {
                self.word(&path.value);
            }
        }
        self.word(&transfer.dest.value);
        for source in &transfer.sources {
            if let Word::Heredoc(heredoc) = source
                && heredoc.expand
            {
                let options = Options {
                    skip_process_quotes: true,
                    ..Options::default()
                };
                self.word_in(&heredoc.content, '\\', options, &self.state.env);
            }
        }
    }

    /// Sources in the context that its ignore file leaves out.
    fn ignored(&mut self, transfer: &Transfer, verb: &str, ignored: &checks::IgnoredFiles) {
        if !ignored.any() {
            return;
        }
        for source in &transfer.sources {
            let Word::Path(path) = source else { continue };
            let Ok(path) = scope::word(&path.value, self.escape, &self.state.env) else {
                continue;
            };
            if path.contains("://") || path.starts_with("git@") {
                continue;
            }
            let path = paths::clean(&path);
            if !ignored.has(&path) {
                continue;
            }
            let here = self.here();
            self.linter.run(&checks::COPY_IGNORED_FILE, here, || {
                format!(
                    "Attempting to {verb} file {} that is excluded by .dockerignore",
                    quote(&path)
                )
            });
        }
    }
}

fn uses_variables(pair: &ArgPair) -> bool {
    pair.default
        .as_ref()
        .is_some_and(|default| default.value.contains('$'))
}
