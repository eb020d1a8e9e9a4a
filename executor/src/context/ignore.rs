//! `.dockerignore` files: their lines, and the decision about a path.

use super::pattern::{ParentMatch, PatternSet, clean};
use crate::Error;
use planner::checks::IgnoredFiles;
use std::sync::OnceLock;

/// A `.dockerignore` matcher with Docker's exact rules.
#[derive(Clone, Debug, Default)]
pub struct IgnoreRules {
    set: PatternSet,
    lines: Vec<u32>,
    /// What the set was made of, to hand it to another process.
    patterns: Vec<String>,
}

impl IgnoreRules {
    /// Parses the file's text.
    ///
    /// # Errors
    /// An illegal exclusion pattern (`!` alone), a bad pattern: message and line.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let mut lines = Vec::new();
        let mut patterns = Vec::new();
        for (line, pattern) in ignore_lines(text) {
            lines.push(line);
            patterns.push(pattern);
        }
        Self::from_parts(patterns, lines)
    }

    /// Patterns and their lines as [`IgnoreRules::parts`] gave them.
    ///
    /// # Errors
    /// As [`IgnoreRules::parse`].
    pub(crate) fn from_parts(patterns: Vec<String>, lines: Vec<u32>) -> Result<Self, Error> {
        let set = PatternSet::new(patterns.iter().map(String::as_str)).map_err(|error| {
            Error::Ignore {
                line: lines.get(error.index()).copied().unwrap_or(0),
                message: error.to_string(),
            }
        })?;
        Ok(Self {
            set,
            lines,
            patterns,
        })
    }

    /// Patterns and lines.
    pub(crate) fn parts(&self) -> (&[String], &[u32]) {
        (&self.patterns, &self.lines)
    }

    /// Whether a path (slash-separated, relative) is ignored, parents considered.
    #[must_use]
    pub fn is_ignored(&self, path: &str) -> bool {
        self.set.matches(path.as_bytes())
    }

    /// The line (one-based) of the rule that decides about a path, when it is ignored.
    #[must_use]
    pub fn deciding_line(&self, path: &str) -> Option<u32> {
        self.set
            .deciding_index(path.as_bytes())
            .map(|index| self.lines[index])
    }

    /// Whether there are no rules.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.set.is_empty()
    }

    /// The decision about a directory while walking: see [`PatternSet::matches_in`].
    pub(crate) fn ignored_in(&self, path: &[u8], parent: &ParentMatch) -> (bool, ParentMatch) {
        if self.set.is_empty() {
            return (false, ParentMatch::default());
        }
        self.set.matches_in(path, parent)
    }

    /// The decision about anything else.
    pub(crate) fn ignored_leaf_in(&self, path: &[u8], parent: &ParentMatch) -> bool {
        !self.set.is_empty() && self.set.matches_leaf_in(path, parent)
    }

    /// Whether an ignored directory can still hold something that is not.
    pub(crate) fn may_reinclude_below(&self, directory: &[u8]) -> bool {
        self.set.may_reinclude_below(directory)
    }
}

/// What an ignore file leaves out, as the check of COPY asks it: nothing when the file has exceptions or mistakes.
#[must_use]
pub fn ignored_files(text: &str) -> IgnoredFiles {
    let patterns = ignore_lines(text);
    if patterns.is_empty() {
        return IgnoredFiles::default();
    }
    let set = OnceLock::new();
    IgnoredFiles::new(move |path| {
        let set = set.get_or_init(|| {
            let set = PatternSet::new(patterns.iter().map(|(_, pattern)| pattern.as_str()));
            set.ok().filter(|set| !set.has_negations())
        });
        set.as_ref().is_some_and(|set| set.matches(path.as_bytes()))
    })
}

/// The patterns of an ignore file with their lines: comments and blank lines dropped, trimmed, cleaned, without leading slash.
#[must_use]
pub fn ignore_lines(text: &str) -> Vec<(u32, String)> {
    let mut patterns = Vec::new();
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for (line, number) in text.lines().zip(1..) {
        if line.starts_with('#') {
            continue;
        }
        let line = line.trim();
        if line.is_empty() {
            continue;
        }
        let (negation, body) = match line.strip_prefix('!') {
            Some(body) => ("!", body.trim()),
            None => ("", line),
        };
        let mut pattern = if body.is_empty() {
            String::new()
        } else {
            clean(body)
        };
        if pattern.len() > 1 && pattern.starts_with('/') {
            pattern.remove(0);
        }
        patterns.push((number, format!("{negation}{pattern}")));
    }
    patterns
}
