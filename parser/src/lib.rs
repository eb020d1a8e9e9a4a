//! Parses Dockerfiles: text to a typed tree with spans, all findings at once, and word expansion.
//!
//! It does no I/O, evaluates nothing, never fails and never panics: [`parse`] always gives
//! a tree (of what could be understood) and the findings.
#![forbid(unsafe_code)]

pub mod ast;
pub mod device;
pub mod diagnostic;
pub mod expand;
pub mod flag;
pub mod frontend;
pub mod heredoc;
pub mod hint;
pub mod mount;
pub mod port;
pub mod suggest;
pub mod tree;
pub mod value;

mod csv;
mod keyword;
mod lines;
mod quote;
mod source;
mod typed;

pub use ast::{Dockerfile, Instruction, Kind, Lines, Span, Spanned, Stage};
pub use diagnostic::{Diagnostic, Severity};
pub use quote::quote;

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
pub fn parse(text: &str) -> Parsed {
    if text.is_empty() {
        let nothing = tree::whole_file("the Dockerfile cannot be empty");
        return Parsed {
            dockerfile: Dockerfile::default(),
            diagnostics: vec![nothing.or_general_help()],
        };
    }
    typed::dockerfile(tree::parse(text))
}

/// Parses one instruction as stored in an image's `config.OnBuild`.
///
/// # Errors
/// The findings, when it is not a valid trigger.
pub fn parse_trigger(text: &str) -> Result<Instruction, Vec<Diagnostic>> {
    typed::trigger(tree::parse(text))
}
