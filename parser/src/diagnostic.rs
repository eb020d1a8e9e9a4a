//! Findings: errors and warnings as data. Rendering is the command line's job.

use crate::ast::{Lines, Span};

/// How bad a finding is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Severity {
    /// The build goes on.
    Warning,
    /// The build stops before any step.
    Error,
}

/// One finding about the Dockerfile.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Diagnostic {
    /// Error or warning.
    pub severity: Severity,
    /// Rule name of a build check (`NoEmptyContinuation`), where it has one.
    pub code: Option<&'static str>,
    /// What is wrong: lower case, no full stop. BuildKit's wording where it has one.
    pub message: String,
    /// Where, in bytes. `None` for findings about the whole file.
    pub span: Option<Span>,
    /// Where, in lines.
    pub lines: Option<Lines>,
    /// What to do about it.
    pub help: Option<String>,
}

impl Diagnostic {
    /// An error at a place.
    #[must_use]
    pub fn error(message: impl Into<String>, span: Span, lines: Lines) -> Self {
        Self {
            severity: Severity::Error,
            code: None,
            message: message.into(),
            span: Some(span),
            lines: Some(lines),
            help: None,
        }
    }

    /// Adds the hint.
    #[must_use]
    pub fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Gives an error that has no hint the general one for its message.
    #[must_use]
    pub fn or_general_help(mut self) -> Self {
        if self.severity == Severity::Error && self.help.is_none() {
            self.help = crate::hint::of(&self.message).map(str::to_owned);
        }
        self
    }
}
