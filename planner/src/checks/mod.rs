//! Build checks: the rules, which of them run, and those that the Dockerfile alone decides.
//!
//! Rules that need variables or base images run while the Dockerfile is lowered ([`crate::lower`]). Findings are
//! [`Diagnostic`]s with the rule's name as their code. Nothing is printed here.

mod config;
mod file;
mod ignored;
mod reference;
mod rules;

pub use config::Config;
pub use file::file;
pub use ignored::IgnoredFiles;
pub use rules::*;

pub(crate) use config::is_check_comment;

use parser::{Diagnostic, Lines, Severity, Span};

/// Collects what the checks find.
#[derive(Clone, Debug, Default)]
pub(crate) struct Linter {
    config: Config,
    /// Findings in order.
    pub(crate) found: Vec<Diagnostic>,
}

/// Where a finding is, and the comments above that place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct At<'a> {
    pub(crate) span: Span,
    pub(crate) lines: Lines,
    pub(crate) comments: &'a [String],
}

impl Linter {
    pub(crate) fn new(config: Config) -> Self {
        Self {
            config,
            found: Vec::new(),
        }
    }

    /// Notes a finding, unless the rule is off here.
    pub(crate) fn run(
        &mut self,
        rule: &'static Rule,
        at: At<'_>,
        message: impl FnOnce() -> String,
    ) {
        if !self.config.runs(rule, at.comments) {
            return;
        }
        self.found.push(Diagnostic {
            severity: Severity::Warning,
            code: Some(rule.name),
            ..Diagnostic::error(message(), at.span, at.lines)
        });
    }
}

/// The error of a build whose checks found something while `error=true` was asked for.
#[must_use]
pub fn violations<'a>(found: impl IntoIterator<Item = &'a Diagnostic>) -> Option<String> {
    let mut names: Vec<&str> = Vec::new();
    for name in found.into_iter().filter_map(|finding| finding.code) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    if names.is_empty() {
        return None;
    }
    Some(format!(
        "lint violation found for rules: {}",
        names.join(", ")
    ))
}

/// A finding in one line, as progress and summaries show it: `Rule: message (line N)`.
#[must_use]
pub fn short(finding: &Diagnostic) -> String {
    let Some(name) = finding.code else {
        return match &finding.help {
            Some(help) => format!("{} ({help})", finding.message),
            None => finding.message.clone(),
        };
    };
    match finding.lines {
        Some(lines) => format!("{name}: {} (line {})", finding.message, lines.start),
        None => format!("{name}: {}", finding.message),
    }
}
