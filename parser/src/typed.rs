//! From raw nodes to typed instructions, with all findings.
//!
//! An instruction that is wrong is left out and the rest goes on; nothing is expanded.

mod command;
mod transfer;

use crate::Parsed;
use crate::ast::{
    ArgPair, Dockerfile, Heredoc, Instruction, InstructionInfo, KeyValue, Kind, Lines, Span,
    Spanned, Stage,
};
use crate::diagnostic::{Diagnostic, Severity};
use crate::flag::{self, FlagSpec, Flags};
use crate::keyword::Keyword;
use crate::quote::quote;
use crate::suggest;
use crate::tree::{Node, Tree};

/// Types a whole file.
pub(crate) fn dockerfile(tree: Tree) -> Parsed {
    let mut out = Dockerfile {
        directives: tree.directives,
        escape: tree.escape,
        ..Dockerfile::default()
    };
    let mut diagnostics = tree.diagnostics;
    let mut orphan = None;
    for node in &tree.nodes {
        let mut reading = Reading::new(node, &node.heredocs, &mut diagnostics);
        if Keyword::parse(&node.keyword) == Some(Keyword::From) {
            let stage = reading.stage();
            out.stages.push(stage);
            continue;
        }
        let Some(instruction) = reading.instruction() else {
            continue;
        };
        match out.stages.last_mut() {
            Some(stage) => stage.instructions.push(instruction),
            None if matches!(instruction.kind, Kind::Arg(_)) => out.global_args.push(instruction),
            None => {
                orphan.get_or_insert((node.keyword_span, node.lines));
            }
        }
    }
    if let Some((span, lines)) = orphan {
        let found = Diagnostic::error("no build stage in current context", span, lines);
        diagnostics.push(
            found.with_help(
                "only ARG, comments and parser directives may stand before the first FROM",
            ),
        );
    }
    diagnostics.sort_by_key(|found| found.span.map_or(u32::MAX, |span| span.start));
    Parsed {
        dockerfile: out,
        diagnostics: with_help(diagnostics),
    }
}

fn with_help(diagnostics: Vec<Diagnostic>) -> Vec<Diagnostic> {
    diagnostics
        .into_iter()
        .map(Diagnostic::or_general_help)
        .collect()
}

/// Types the one instruction of a trigger.
pub(crate) fn trigger(tree: Tree) -> Result<Instruction, Vec<Diagnostic>> {
    let mut diagnostics = tree.diagnostics;
    let mut nodes = tree.nodes.iter();
    let (Some(node), None) = (nodes.next(), nodes.next()) else {
        if diagnostics
            .iter()
            .all(|found| found.severity != Severity::Error)
        {
            let whole = tree
                .nodes
                .last()
                .map_or((Span::default(), Lines::default()), |last| {
                    (last.span, last.lines)
                });
            diagnostics.push(Diagnostic::error(
                "onbuild trigger should be a single expression",
                whole.0,
                whole.1,
            ));
        }
        return Err(with_help(diagnostics));
    };
    let mut reading = Reading::new(node, &node.heredocs, &mut diagnostics);
    let instruction = reading
        .check_trigger(node)
        .and_then(|()| reading.instruction());
    match instruction {
        Some(instruction)
            if diagnostics
                .iter()
                .all(|found| found.severity != Severity::Error) =>
        {
            Ok(instruction)
        }
        _ => Err(with_help(diagnostics)),
    }
}

/// One node being typed. Its functions give `None` after they noted why.
struct Reading<'n> {
    node: &'n Node,
    /// The heredocs of an ONBUILD are its trigger's.
    heredocs: &'n [Heredoc],
    found: &'n mut Vec<Diagnostic>,
}

impl<'n> Reading<'n> {
    fn new(node: &'n Node, heredocs: &'n [Heredoc], found: &'n mut Vec<Diagnostic>) -> Self {
        Self {
            node,
            heredocs,
            found,
        }
    }

    fn fail<T>(&mut self, message: impl Into<String>, span: Span) -> Option<T> {
        self.found
            .push(Diagnostic::error(message, span, self.node.lines));
        None
    }

    fn fail_with_help<T>(
        &mut self,
        message: impl Into<String>,
        span: Span,
        help: Option<String>,
    ) -> Option<T> {
        self.found.push(Diagnostic {
            help,
            ..Diagnostic::error(message, span, self.node.lines)
        });
        None
    }

    fn flags(&mut self, specs: &[FlagSpec]) -> Option<Flags> {
        match flag::read(&self.node.flags, &self.node.flag_values, specs) {
            Ok(flags) => Some(flags),
            Err(errors) => {
                for error in errors {
                    self.fail_with_help::<()>(error.message, error.span, error.help);
                }
                None
            }
        }
    }

    fn info(&self) -> InstructionInfo {
        let node = self.node;
        InstructionInfo {
            keyword: node.keyword.clone(),
            keyword_span: node.keyword_span,
            span: node.span,
            lines: node.lines,
            original: node.original.clone(),
            comments: node.comments.clone(),
        }
    }

    fn instruction(&mut self) -> Option<Instruction> {
        let kind = self.kind()?;
        Some(Instruction {
            info: self.info(),
            kind,
        })
    }

    fn kind(&mut self) -> Option<Kind> {
        let Some(keyword) = Keyword::parse(&self.node.keyword) else {
            return self.unknown();
        };
        match keyword {
            Keyword::Add | Keyword::Copy => self.transfer(keyword),
            Keyword::Arg => self.arg(),
            Keyword::Cmd => self.command_line().map(Kind::Cmd),
            Keyword::Entrypoint => self.command_line().map(Kind::Entrypoint),
            Keyword::Env => self.pairs("ENV").map(Kind::Env),
            Keyword::Label => self.pairs("LABEL").map(Kind::Label),
            Keyword::Expose => self.words("EXPOSE").map(Kind::Expose),
            Keyword::Volume => self.volume(),
            // The stage opener is taken before; here it can only be a misplaced trigger.
            Keyword::From => self.fail(
                "FROM isn't allowed as an ONBUILD trigger",
                self.node.keyword_span,
            ),
            Keyword::Healthcheck => self.healthcheck(),
            Keyword::Maintainer => self.single("MAINTAINER", true).map(Kind::Maintainer),
            Keyword::Onbuild => self.onbuild(),
            Keyword::Run => self.run(),
            Keyword::Shell => self.shell(),
            Keyword::StopSignal => self.single("STOPSIGNAL", false).map(Kind::StopSignal),
            Keyword::User => self.single("USER", true).map(Kind::User),
            Keyword::Workdir => self.single("WORKDIR", true).map(Kind::Workdir),
        }
    }

    fn unknown<T>(&mut self) -> Option<T> {
        let name = &self.node.keyword;
        let near = suggest::nearest_any_case(name, &Keyword::names());
        let help = match near {
            Some(near) => Some(format!("did you mean {near}?")),
            None if name.starts_with(char::is_alphabetic) => None,
            None => Some(
                "if this belongs to the instruction above, the line before must end with the continuation character"
                    .to_owned(),
            ),
        };
        self.fail_with_help(
            format!("unknown instruction: {name}"),
            self.node.keyword_span,
            help,
        )
    }

    /// FROM. A stage is made even of a wrong one, so that what follows has its place.
    fn stage(&mut self) -> Stage {
        let args = &self.node.args;
        let mut stage = Stage {
            base: args.first().cloned().unwrap_or(Spanned {
                value: String::new(),
                span: self.node.keyword_span,
            }),
            platform: None,
            name: None,
            from: self.info(),
            instructions: Vec::new(),
        };
        match args.as_slice() {
            [_] => {}
            [_, keyword, name] if keyword.value.eq_ignore_ascii_case("as") => {
                if is_stage_name(&name.value) {
                    stage.name = Some(name.clone());
                } else {
                    let message = format!(
                        "invalid name for build stage: {}, name can't start with a number or contain symbols",
                        quote(&name.value)
                    );
                    self.fail::<()>(message, name.span);
                }
            }
            _ => {
                let comment = args.iter().any(|arg| arg.value.starts_with('#'));
                let help = if comment {
                    "a comment needs a line of its own"
                } else {
                    "write FROM image or FROM image AS name"
                };
                let span = args.last().map_or(self.node.keyword_span, |last| last.span);
                let message = "FROM requires either one or three arguments";
                self.fail_with_help::<()>(message, span, Some(help.to_owned()));
            }
        }
        if let Some(flags) = self.flags(&[FlagSpec::text("platform")]) {
            stage.platform = flags
                .text("platform")
                .filter(|platform| !platform.value.is_empty());
        }
        stage
    }

    fn arg(&mut self) -> Option<Kind> {
        if self.node.args.is_empty() {
            return self.needs_one("ARG");
        }
        let mut pairs = Vec::with_capacity(self.node.args.len());
        for arg in &self.node.args {
            let Some((name, value)) = arg.value.split_once('=') else {
                pairs.push(ArgPair {
                    name: arg.clone(),
                    default: None,
                });
                continue;
            };
            if name.is_empty() {
                return self.fail("ARG names can not be blank", arg.span);
            }
            let (name_span, value_span) = split_span(arg, name.len());
            pairs.push(ArgPair {
                name: Spanned {
                    value: name.to_owned(),
                    span: name_span,
                },
                default: Some(Spanned {
                    value: value.to_owned(),
                    span: value_span,
                }),
            });
        }
        Some(Kind::Arg(pairs))
    }

    fn pairs(&mut self, name: &str) -> Option<Vec<KeyValue>> {
        self.flags(&[])?;
        if self.node.args.is_empty() {
            return self.needs_one(name);
        }
        let mut out = Vec::with_capacity(self.node.args.len() / 3);
        for pair in self.node.args.chunks_exact(3) {
            let [key, value, separator] = pair else {
                continue;
            };
            if key.value.is_empty() {
                return self.fail(format!("{name} names can not be blank"), key.span);
            }
            out.push(KeyValue {
                key: key.clone(),
                value: value.clone(),
                legacy: separator.value.is_empty(),
            });
        }
        Some(out)
    }

    fn words(&mut self, name: &str) -> Option<Vec<Spanned<String>>> {
        if self.node.args.is_empty() {
            return self.needs_one(name);
        }
        self.flags(&[])?;
        Some(self.node.args.clone())
    }

    fn volume(&mut self) -> Option<Kind> {
        let mut volumes = self.words("VOLUME")?;
        for volume in &mut volumes {
            volume.value = volume.value.trim().to_owned();
            if volume.value.is_empty() {
                return self.fail("VOLUME specified can not be an empty string", volume.span);
            }
        }
        Some(Kind::Volume(volumes))
    }

    /// Instructions whose argument is the rest of the line.
    fn single(&mut self, name: &str, has_flags: bool) -> Option<Spanned<String>> {
        let Some(argument) = self.node.args.first() else {
            return self.fail(
                format!("{name} requires exactly one argument"),
                self.node.keyword_span,
            );
        };
        if has_flags {
            self.flags(&[])?;
        }
        Some(argument.clone())
    }

    fn needs_one<T>(&mut self, name: &str) -> Option<T> {
        self.fail(
            format!("{name} requires at least one argument"),
            self.node.keyword_span,
        )
    }

    fn check_trigger(&mut self, trigger: &Node) -> Option<()> {
        let message = match Keyword::parse(&trigger.keyword) {
            Some(Keyword::Onbuild) => {
                "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed".to_owned()
            }
            Some(keyword @ (Keyword::From | Keyword::Maintainer)) => {
                format!("{} isn't allowed as an ONBUILD trigger", keyword.name())
            }
            _ => return Some(()),
        };
        self.fail(message, trigger.keyword_span)
    }

    fn onbuild(&mut self) -> Option<Kind> {
        let Some(trigger) = &self.node.trigger else {
            return self.needs_one("ONBUILD");
        };
        self.flags(&[])?;
        self.check_trigger(trigger)?;
        let mut expression = trigger_text(&self.node.original).to_owned();
        for heredoc in self.heredocs {
            expression.push('\n');
            expression.push_str(&heredoc.content);
            expression.push_str(&heredoc.name);
        }
        let instruction = Reading::new(trigger, self.heredocs, self.found).instruction()?;
        Some(Kind::Onbuild {
            expression,
            trigger: Box::new(instruction),
        })
    }
}

/// Spans before and behind the `=` at `at` of a word. A word with continuations in it keeps its whole span.
fn split_span(word: &Spanned<String>, at: usize) -> (Span, Span) {
    let whole = word.span;
    if (whole.end - whole.start) as usize != word.value.len() {
        return (whole, whole);
    }
    let equals = whole.start + crate::source::offset(at);
    (
        Span {
            start: whole.start,
            end: equals,
        },
        Span {
            start: equals + 1,
            end: whole.end,
        },
    )
}

/// The line of an ONBUILD without the keyword.
fn trigger_text(original: &str) -> &str {
    let text = original.trim_start();
    text.get("ONBUILD".len()..).unwrap_or_default().trim_start()
}

/// Names of stages, in any case: a letter, then letters, digits, `-`, `_` and `.`.
fn is_stage_name(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_alphabetic())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}
