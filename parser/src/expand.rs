//! Word expansion as BuildKit's shell lexer does it: quotes, escapes, `$v` and every `${}` operator.
//!
//! It reads text and a scope; it does not know where a word comes from.

mod lexer;
mod pattern;

use crate::quote::quote;

/// Where variables come from.
pub trait Scope {
    /// The value of a variable, `None` when unset.
    fn get(&self, name: &str) -> Option<String>;
    /// Names in scope, for suggestions.
    fn names(&self) -> Vec<String> {
        Vec::new()
    }
}

/// The result of an expansion.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Expanded {
    /// The text.
    pub text: String,
    /// Names that were used and set.
    pub matched: Vec<String>,
    /// Names that were used and unset (build check UndefinedVar).
    pub unmatched: Vec<String>,
}

/// Bytes that a word may expand to, what a Dockerfile may be long. Substitutions multiply: a few nested ones make more
/// text than a machine has memory.
const MAX_LENGTH: usize = 16 * 1024 * 1024;

fn too_long() -> String {
    format!("the result is longer than {MAX_LENGTH} bytes")
}

/// A word that cannot be expanded.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{message}")]
pub struct ExpandError {
    /// BuildKit's wording.
    pub message: String,
    /// Names that were used and unset up to the error.
    pub unmatched: Vec<String>,
}

/// How BuildKit's lexer is set up: see `Lex` in its shell package.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Options {
    /// Leave quotes and escapes in the result.
    pub raw_quotes: bool,
    /// Leave escapes in the result.
    pub raw_escapes: bool,
    /// Keep `$name` of unset variables as written.
    pub skip_unset_env: bool,
    /// Do not remove quotes of what was expanded and leave `$` alone where nothing is to be processed.
    pub skip_process_quotes: bool,
}

/// Expands a word to one string (`Lex.ProcessWord`).
///
/// # Errors
/// Unterminated quotes or braces, bad substitutions, and `${v:?msg}`.
pub fn word(
    text: &str,
    escape: char,
    scope: &dyn Scope,
    options: Options,
) -> Result<Expanded, ExpandError> {
    let (text, _, names) = run(text, escape, scope, options)?;
    Ok(Expanded {
        text,
        matched: names.matched,
        unmatched: names.unmatched,
    })
}

/// Expands a word to several (`Lex.ProcessWords`): what expands unquoted is split at blanks.
///
/// # Errors
/// As [`word`].
pub fn words(
    text: &str,
    escape: char,
    scope: &dyn Scope,
    options: Options,
) -> Result<Vec<String>, ExpandError> {
    run(text, escape, scope, options).map(|(_, words, _)| words)
}

fn run(
    text: &str,
    escape: char,
    scope: &dyn Scope,
    options: Options,
) -> Result<(String, Vec<String>, lexer::Names), ExpandError> {
    let mut lexer = lexer::Lexer::new(text, escape, scope, options);
    match lexer.run() {
        Ok(found) => Ok((found.text, found.words, lexer.names)),
        Err(message) => Err(ExpandError {
            message: format!("failed to process {}: {message}", quote(text)),
            unmatched: lexer.names.unmatched,
        }),
    }
}
