//! Heredoc marks: finding `<<EOF` in an instruction. The bodies are read elsewhere.

use crate::expand::{self, Options, Scope};
use crate::tree::arguments::{Grammar, Rule};
use pest::Parser;

/// What `3<<-EOF` says.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Mark {
    /// The terminator without quotes.
    pub name: String,
    /// File descriptor; 0 if none is written.
    pub fd: u32,
    /// `<<-`.
    pub chomp: bool,
    /// Whether the terminator has no quotes.
    pub expand: bool,
}

struct NoVariables;

impl Scope for NoVariables {
    fn get(&self, _name: &str) -> Option<String> {
        None
    }
}

/// Reads one word. `None` if it is no heredoc mark.
///
/// # Errors
/// Quotes that do not close.
pub fn mark(word: &str) -> Result<Option<Mark>, String> {
    let Some(pair) = Grammar::parse(Rule::heredoc_mark, word)
        .ok()
        .and_then(|mut pairs| pairs.next())
    else {
        return Ok(None);
    };
    let mut found = Mark::default();
    let mut raw = "";
    for part in pair.into_inner() {
        match part.as_rule() {
            Rule::heredoc_fd => found.fd = part.as_str().parse().unwrap_or(0),
            Rule::heredoc_chomp => found.chomp = !part.as_str().is_empty(),
            Rule::heredoc_name => raw = part.as_str(),
            _ => {}
        }
    }
    if raw.is_empty() {
        return Ok(None);
    }
    // Read with and without its quotes: if their numbers differ, part of the word was quoted.
    let mut options = Options {
        skip_unset_env: true,
        ..Options::default()
    };
    let plain = expand::words(raw, '\\', &NoVariables, options).map_err(|error| error.message)?;
    let [name] = plain.as_slice() else {
        return Ok(None);
    };
    options.raw_quotes = true;
    let quoted = expand::words(raw, '\\', &NoVariables, options).map_err(|error| error.message)?;
    let [with_quotes] = quoted.as_slice() else {
        return Err(format!(
            "internal lexing of heredoc produced inconsistent results: {raw}"
        ));
    };
    found.expand = quotes(name) == quotes(with_quotes);
    found.name.clone_from(name);
    Ok(Some(found))
}

fn quotes(text: &str) -> usize {
    text.matches(['\'', '"']).count()
}

/// Finds the marks of an instruction, in order. An instruction whose quotes do not close has none.
///
/// # Errors
/// As [`mark`].
pub fn marks(line: &str) -> Result<Vec<Mark>, String> {
    let options = Options {
        raw_quotes: true,
        raw_escapes: true,
        skip_unset_env: true,
        skip_process_quotes: false,
    };
    let words = expand::words(line, '\\', &NoVariables, options).unwrap_or_default();
    let mut found = Vec::new();
    for word in words {
        found.extend(mark(&word)?);
    }
    Ok(found)
}
