//! Parses Dockerfiles: text to a typed tree with spans, all findings at once, and word expansion.
//!
//! It does no I/O, evaluates nothing, never fails and never panics: [`parse`] always gives
//! a tree (of what could be understood) and the findings.
#![forbid(unsafe_code)]

pub mod ast;
pub mod diagnostic;
pub mod expand;
pub mod mount;

pub use ast::{Dockerfile, Instruction, Kind, Lines, Span, Spanned, Stage};
pub use diagnostic::{Diagnostic, Severity};

/// What [`parse`] gives.
#[derive(Clone, Debug)]
pub struct Parsed {
    /// The tree.
    pub dockerfile: Dockerfile,
    /// Findings in file order. With an error among them the tree must not be built.
    pub diagnostics: Vec<Diagnostic>,
}

/// Parses a Dockerfile.
#[must_use]
pub fn parse(_text: &str) -> Parsed {
    todo!()
}

/// Parses one instruction as stored in an image's `config.OnBuild`.
///
/// # Errors
/// The findings, when it is not a valid trigger.
pub fn parse_trigger(_text: &str) -> Result<Instruction, Vec<Diagnostic>> {
    todo!()
}
