//! Rendering for people: findings with their source lines, error chains, failed builds.
//!
//! It formats only; callers print.

pub mod failure;
pub mod finding;
pub mod question;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use parser::{Diagnostic, Severity};
use std::fmt::Write as _;

/// Lines shown before and after an instruction.
const CONTEXT_LINES: usize = 2;
/// Lines of an instruction shown behind its first.
const MARKED_LINES: usize = 8;

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
    let text = planner::git_url::masked(text);
    for diagnostic in diagnostics {
        out.push_str(&renderer.render(&report(name, &text, diagnostic)));
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
        let around = lines_around(text, diagnostic, range.start)
            .into_iter()
            .map(|line| AnnotationKind::Visible.span(line));
        group = group.element(
            Snippet::source(text)
                .path(name)
                .annotation(AnnotationKind::Primary.span(range))
                .annotations(around),
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

/// The lines of the instruction, as far as they fit, and those before and after: the frame of an error.
fn lines_around(text: &str, diagnostic: &Diagnostic, at: usize) -> Vec<std::ops::Range<usize>> {
    let mut starts = vec![0];
    starts.extend(text.match_indices('\n').map(|(end, _)| end + 1));
    let line = starts.partition_point(|start| *start <= at) - 1;
    let last_of_instruction = diagnostic
        .lines
        .map_or(line, |lines| (lines.end as usize).saturating_sub(1))
        .clamp(line, line + MARKED_LINES);
    let first = line.saturating_sub(CONTEXT_LINES);
    let last = (last_of_instruction + CONTEXT_LINES).min(starts.len() - 1);
    let range = |number: usize| {
        let end = starts.get(number + 1).map_or(text.len(), |next| next - 1);
        starts[number]..end
    };
    (first..=last)
        .map(range)
        .filter(|range| !range.is_empty())
        .collect()
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

    /// F14: two lines before and after; tabs, wide characters, CRLF and long lines do no harm.
    #[test]
    fn f14_frames_show_the_lines_around() {
        let long = format!("RUN echo {}end", "x".repeat(400));
        let text = format!(
            "FROM busybox\r\nENV A=1 \\\r\n\tB=\"日本 ${{C\" \\\r\n\tD=é\r\n\r\nCMD x\r\n{long}\nEXPOSE 80 \\\n  x/y\n"
        );
        let parsed = parser::parse(&text);
        let options = planner::lower::LowerOptions::default();
        let found = planner::lower::check(&parsed, &options);
        let mut long_line = Diagnostic::error("in a long line", Span::default(), Lines::default());
        let end = u32::try_from(text.find("end").unwrap()).unwrap();
        long_line.span = Some(Span {
            start: end,
            end: end + 3,
        });
        let shown = diagnostics(
            "Dockerfile",
            &text,
            &[found, vec![long_line]].concat(),
            false,
        );
        insta::assert_snapshot!(shown);
    }

    #[test]
    fn spans_beyond_the_text_do_not_panic() {
        let finding = Diagnostic::error("x", Span { start: 90, end: 99 }, Lines::default());
        assert!(diagnostics("Dockerfile", "é", &[finding], false).contains("error"));
    }
}
