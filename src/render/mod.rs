//! Rendering for people: findings with their source lines, error chains, failed builds.
//!
//! It formats only; callers print.

pub mod failure;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use parser::{Diagnostic, Severity};
use std::fmt::Write as _;

/// An error and its causes as `a: b: c`; causes that only repeat their parent are left out.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let message = error.to_string();
        if !text.ends_with(&message) {
            let _ = write!(text, ": {message}");
        }
        cause = error.source();
    }
    text
}

/// `ERROR: message`, red where colours are on.
pub fn error_line(message: &str, colour: bool) -> String {
    if colour {
        format!("\x1b[31mERROR:\x1b[0m {message}")
    } else {
        format!("ERROR: {message}")
    }
}

/// Renders findings, each with its lines of the file.
pub fn diagnostics(name: &str, text: &str, diagnostics: &[Diagnostic], colour: bool) -> String {
    let renderer = if colour {
        Renderer::styled()
    } else {
        Renderer::plain()
    };
    let mut out = String::new();
    for diagnostic in diagnostics {
        out.push_str(&renderer.render(&report(name, text, diagnostic)));
        out.push_str("\n\n");
    }
    out
}

fn report<'a>(name: &'a str, text: &'a str, diagnostic: &'a Diagnostic) -> Vec<Group<'a>> {
    let level = match diagnostic.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let mut title = level.primary_title(diagnostic.message.as_str());
    if let Some(code) = diagnostic.code {
        title = title.id(code);
    }
    let mut group = Group::with_title(title);
    if let Some(range) = shown_range(text, diagnostic) {
        group = group.element(
            Snippet::source(text)
                .path(name)
                .annotation(AnnotationKind::Primary.span(range)),
        );
    } else {
        group = group.element(annotate_snippets::Origin::path(name));
    }
    if let Some(help) = &diagnostic.help {
        group = group.element(Level::HELP.message(help.as_str()));
    }
    vec![group]
}

/// The part of the file to underline: the span up to the end of its first line, so that a whole RUN with its
/// heredoc does not fill the screen; always on character boundaries.
fn shown_range(text: &str, diagnostic: &Diagnostic) -> Option<std::ops::Range<usize>> {
    let span = diagnostic.span?;
    let start = floor_boundary(text, span.start as usize);
    let end = floor_boundary(text, span.end as usize).max(start);
    let first_line = text[start..end].lines().next().map_or(0, str::len);
    Some(start..start + first_line)
}

fn floor_boundary(text: &str, mut index: usize) -> usize {
    index = index.min(text.len());
    while !text.is_char_boundary(index) {
        index -= 1;
    }
    index
}

#[cfg(test)]
mod tests {
    use super::*;
    use parser::{Lines, Span};

    #[test]
    fn finding_shows_file_line_and_hint() {
        let text = "FROM busybox\nRUM echo\n";
        let finding = Diagnostic::error(
            "unknown instruction: RUM",
            Span { start: 13, end: 16 },
            Lines { start: 2, end: 2 },
        )
        .with_help("did you mean RUN?");
        let shown = diagnostics("Dockerfile", text, &[finding], false);
        insta::assert_snapshot!(shown);
    }

    #[test]
    fn spans_beyond_the_text_do_not_panic() {
        let finding = Diagnostic::error("x", Span { start: 90, end: 99 }, Lines::default());
        assert!(diagnostics("Dockerfile", "é", &[finding], false).contains("error"));
    }
}
