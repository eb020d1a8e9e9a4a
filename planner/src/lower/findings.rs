//! Findings of lowering: all of them at once, in file order, each at its word, and none that only follows from another.
//!
//! What is wrong with an instruction is found where it is carried out; here it is put in its place.

use super::builder::Builder;
use super::context::Gaps;
use super::graph::{Command, Graph};
use super::scope::Env;
use super::stage::Lowering;
use super::{LowerOptions, add_new, resolve};
use parser::ast::{Source, Spanned};
use parser::{Diagnostic, Kind, Lines, Parsed, Severity, Span};
use std::collections::BTreeMap;

/// All errors that can be found without knowing any base: those of the parser and, as far as the rest of the file
/// can be understood, those of lowering.
#[must_use]
pub fn check(parsed: &Parsed, options: &LowerOptions) -> Vec<Diagnostic> {
    let bases = BTreeMap::new();
    let resolved = resolve(&parsed.dockerfile, options, &bases, gaps(parsed));
    let mut found = all(resolved.errors, &resolved.graphs);
    let wrong = |lines: Lines| {
        errors_of(parsed).any(|error| error.lines.is_some_and(|it| overlap(it, lines)))
    };
    found.retain(|error| !error.lines.is_some_and(wrong));
    found.extend(parsed.diagnostics.iter().cloned());
    sorted(found)
}

fn errors_of(parsed: &Parsed) -> impl Iterator<Item = &Diagnostic> {
    let all = parsed.diagnostics.iter();
    all.filter(|found| found.severity == Severity::Error)
}

/// What the errors of the parser leave unknown.
fn gaps(parsed: &Parsed) -> Gaps {
    let froms: Vec<Lines> = parsed
        .dockerfile
        .stages
        .iter()
        .map(|stage| stage.from.lines)
        .collect();
    let at_from = |lines: Lines| froms.iter().any(|from| overlap(lines, *from));
    let about_stages = |error: &Diagnostic| {
        let unknown = error.message.starts_with("unknown instruction");
        let meant = error.help.as_deref().unwrap_or_default();
        // Unless it is known to be meant for something else, it may have been a FROM.
        (unknown && (meant.contains("FROM") || !meant.starts_with("did you mean")))
            || error.lines.is_none_or(at_from)
    };
    Gaps {
        variables: errors_of(parsed).next().is_some(),
        stages: errors_of(parsed).any(about_stages),
    }
}

fn overlap(one: Lines, other: Lines) -> bool {
    one.start <= other.end && other.start <= one.end
}

/// The errors known and those that carrying the graphs out brings, bases known or not.
pub(super) fn all(mut errors: Vec<Diagnostic>, graphs: &[Graph<'_>]) -> Vec<Diagnostic> {
    let mut builder = Builder::default();
    for graph in graphs.iter().filter(|graph| !graph.muddled) {
        if let Err(found) = Lowering::new(graph, &mut builder, None).run().target {
            add_new(&mut errors, found);
        }
    }
    sorted(errors)
}

/// In file order, each error with a hint; findings about the whole file at the end.
pub(super) fn sorted(mut found: Vec<Diagnostic>) -> Vec<Diagnostic> {
    found.sort_by_key(|found| found.span.map_or(u32::MAX, |span| span.start));
    found.into_iter().map(Diagnostic::or_general_help).collect()
}

/// Takes what came of a command. An error that an unknown variable may explain is none, and what was set from one
/// is unknown itself.
pub(super) fn settle(
    env: &mut Env,
    command: &Command<'_>,
    done: Result<(), Diagnostic>,
    errors: &mut Vec<Diagnostic>,
) {
    let guessed = env.take_guessed();
    let kind = &command.instruction.kind;
    if guessed || done.is_err() {
        for name in names_set(kind) {
            env.forget(name);
        }
    }
    let Err(error) = done else { return };
    if !names_set(kind).is_empty() {
        env.leave_open();
    }
    if guessed {
        return;
    }
    let info = &command.instruction.info;
    errors.push(if command.place.span == info.span {
        at_word(error, kind)
    } else {
        in_trigger(error, &info.original)
    });
}

fn names_set(kind: &Kind) -> Vec<&str> {
    match kind {
        Kind::Env(pairs) => pairs.iter().map(|pair| pair.key.value.as_str()).collect(),
        Kind::Arg(pairs) => pairs.iter().map(|pair| pair.name.value.as_str()).collect(),
        _ => Vec::new(),
    }
}

/// Says which trigger of the base it was: its text is not in the Dockerfile.
pub(super) fn in_trigger(error: Diagnostic, text: &str) -> Diagnostic {
    let error = error.or_general_help();
    let trigger = format!("the base image has the trigger ONBUILD {}", text.trim());
    let help = match &error.help {
        Some(help) => format!("{help}; {trigger}"),
        None => trigger,
    };
    error.with_help(help)
}

/// Points at the word that the error quotes, rather than at the whole instruction.
fn at_word(error: Diagnostic, kind: &Kind) -> Diagnostic {
    let words = words_of(kind);
    let named = |word: &&Spanned<String>| {
        !word.value.is_empty() && error.message.contains(&parser::quote(&word.value))
    };
    let span = words.iter().copied().find(named).map(|word| word.span);
    Diagnostic {
        span: span.filter(|span| *span != Span::default()).or(error.span),
        ..error
    }
}

/// The words of an instruction that are expanded.
fn words_of(kind: &Kind) -> Vec<&Spanned<String>> {
    match kind {
        Kind::Env(pairs) | Kind::Label(pairs) => pairs
            .iter()
            .flat_map(|pair| [&pair.key, &pair.value])
            .collect(),
        Kind::Arg(pairs) => pairs
            .iter()
            .filter_map(|pair| pair.default.as_ref())
            .collect(),
        Kind::Expose(words) | Kind::Volume(words) => words.iter().collect(),
        Kind::User(word) | Kind::Workdir(word) | Kind::StopSignal(word) => vec![word],
        Kind::Copy(transfer) | Kind::Add(transfer) => {
            let sources = transfer.sources.iter().filter_map(|source| match source {
                Source::Path(path) => Some(path),
                Source::Heredoc(_) => None,
            });
            let flags = [
                &transfer.from,
                &transfer.chown,
                &transfer.chmod,
                &transfer.checksum,
            ];
            sources
                .chain([&transfer.dest])
                .chain(flags.into_iter().flatten())
                .chain(&transfer.exclude)
                .collect()
        }
        _ => Vec::new(),
    }
}
