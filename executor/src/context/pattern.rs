//! Exclusion patterns: exactly the rules that Docker applies to `.dockerignore`, `--exclude` and `--parents`.
//!
//! A pattern's meaning is that of the regular expression Docker makes of it (`**` crosses slashes, `*` and `?` do not,
//! a negated class does), unless it is a plain text, `text**` or `**text`, which are compared as text. Matching is done by
//! simulating a small automaton, so no pattern takes exponential time. For sets of many patterns [`globset`] narrows the
//! candidates first: it gets a wider pattern (every wildcard becomes one that matches anything), so it never loses a match.

use super::automaton::Matcher;
use super::glob::{BadPattern, Glob};
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use std::sync::Arc;

/// Sets smaller than this are matched one by one: a pattern's fixed start and end reject most paths at once.
const PREFILTER_FROM: usize = 48;

/// Why a set cannot be made.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PatternError {
    /// `!` with nothing after it.
    #[error("illegal exclusion pattern: \"!\"")]
    LoneNegation {
        /// Index of the pattern.
        index: usize,
    },
    /// A malformed wildcard.
    #[error("{pattern:?}: {source}")]
    Bad {
        /// Index of the pattern.
        index: usize,
        /// Its text.
        pattern: String,
        /// What Go says.
        source: BadPattern,
    },
}

impl PatternError {
    /// Which of the given patterns it is.
    #[must_use]
    pub fn index(&self) -> usize {
        match self {
            Self::LoneNegation { index } | Self::Bad { index, .. } => *index,
        }
    }
}

/// An ordered set of patterns; the last one that matches decides.
#[derive(Clone, Debug, Default)]
pub struct PatternSet {
    patterns: Vec<Pattern>,
    negations: bool,
    prefilter: Option<GlobSet>,
}

/// What a directory's patterns matched, for the decision about its entries.
#[derive(Clone, Debug, Default)]
pub struct ParentMatch(Option<Arc<[bool]>>);

impl PatternSet {
    /// Compiles patterns in order; blank ones are skipped.
    ///
    /// # Errors
    /// A lone `!`, malformed wildcards.
    pub fn new<'p>(texts: impl IntoIterator<Item = &'p str>) -> Result<Self, PatternError> {
        let mut set = Self::default();
        for (index, text) in texts.into_iter().enumerate() {
            let trimmed = text.trim();
            if trimmed.is_empty() {
                continue;
            }
            let cleaned = clean(trimmed);
            let (negated, body) = match cleaned.strip_prefix('!') {
                Some("") => return Err(PatternError::LoneNegation { index }),
                Some(body) => (true, body),
                None => (false, cleaned.as_str()),
            };
            Glob::new(body.as_bytes()).map_err(|source| PatternError::Bad {
                index,
                pattern: body.to_owned(),
                source,
            })?;
            set.negations |= negated;
            set.patterns.push(Pattern {
                index,
                negated,
                matcher: Matcher::new(body),
                text: body.to_owned(),
            });
        }
        if set.patterns.len() >= PREFILTER_FROM {
            set.prefilter = prefilter(&set.patterns);
        }
        Ok(set)
    }

    /// Whether there is no pattern.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// Whether a pattern re-includes something.
    #[must_use]
    pub fn has_negations(&self) -> bool {
        self.negations
    }

    /// Whether something below a matched directory could be taken back by a `!` pattern.
    ///
    /// A `!` pattern with a wildcard in the directory's part of it counts as one that could.
    #[must_use]
    pub fn may_reinclude_below(&self, directory: &[u8]) -> bool {
        self.patterns
            .iter()
            .any(|pattern| pattern.negated && pattern.reaches_below(directory))
    }

    /// Whether a path, or something below it, could match; `true` when in doubt.
    #[must_use]
    pub fn may_match_at_or_below(&self, path: &[u8]) -> bool {
        self.patterns.iter().any(|pattern| {
            !pattern.negated
                && (pattern.reaches_below(path) || pattern.matcher.matches(path) || {
                    let parents = parents(path);
                    parents.iter().any(|parent| pattern.matcher.matches(parent))
                })
        })
    }

    /// Whether the path or one of its parents is matched by the set.
    #[must_use]
    pub fn matches(&self, path: &[u8]) -> bool {
        self.deciding(path)
            .is_some_and(|position| !self.patterns[position].negated)
    }

    /// Index (as given to [`PatternSet::new`]) of the pattern that makes the path match; `None` when it does not match.
    #[must_use]
    pub fn deciding_index(&self, path: &[u8]) -> Option<usize> {
        self.deciding(path)
            .map(|position| &self.patterns[position])
            .filter(|pattern| !pattern.negated)
            .map(|p| p.index)
    }

    fn deciding(&self, path: &[u8]) -> Option<usize> {
        let parents = parents(path);
        let mut candidates = self.candidates(path);
        if let Some(candidates) = &mut candidates {
            for parent in &parents {
                for (known, more) in candidates
                    .iter_mut()
                    .zip(self.candidates(parent).unwrap_or_default())
                {
                    *known |= more;
                }
            }
        }
        let mut matched = false;
        let mut decided = None;
        for (position, pattern) in self.patterns.iter().enumerate() {
            if pattern.negated != matched
                || candidates
                    .as_ref()
                    .is_some_and(|candidates| !candidates[position])
            {
                continue;
            }
            if pattern.matcher.matches(path)
                || parents.iter().any(|parent| pattern.matcher.matches(parent))
            {
                matched = !pattern.negated;
                decided = Some(position);
            }
        }
        decided
    }

    /// Whether an entry matches, given what its directory matched (a default [`ParentMatch`] for entries of the root),
    /// and what its own entries need. This is how BuildKit decides while it walks; it differs from
    /// [`PatternSet::matches`] only when a pattern that was not looked at for the directory would have matched it.
    #[must_use]
    pub fn matches_in(&self, path: &[u8], parent: &ParentMatch) -> (bool, ParentMatch) {
        if parent.0.is_none() && path.contains(&b'/') {
            return self.matches_in(path, &self.parent_match(path));
        }
        let mut own = vec![false; self.patterns.len()];
        let matched = self.decide(path, parent, |position| own[position] = true);
        (matched, ParentMatch(Some(own.into())))
    }

    /// [`PatternSet::matches_in`] for an entry that has nothing below it.
    #[must_use]
    pub fn matches_leaf_in(&self, path: &[u8], parent: &ParentMatch) -> bool {
        if parent.0.is_none() && path.contains(&b'/') {
            return self.matches_leaf_in(path, &self.parent_match(path));
        }
        self.decide(path, parent, |_| {})
    }

    fn parent_match(&self, path: &[u8]) -> ParentMatch {
        parents(path)
            .into_iter()
            .fold(ParentMatch::default(), |above, ancestor| {
                self.matches_in(ancestor, &above).1
            })
    }

    fn decide(&self, path: &[u8], parent: &ParentMatch, mut hit: impl FnMut(usize)) -> bool {
        let candidates = self.candidates(path);
        let mut matched = false;
        for (position, pattern) in self.patterns.iter().enumerate() {
            if !parent.0.as_ref().is_some_and(|parent| parent[position]) {
                if pattern.negated != matched
                    || candidates
                        .as_ref()
                        .is_some_and(|candidates| !candidates[position])
                {
                    continue;
                }
                if !pattern.matcher.matches(path) {
                    continue;
                }
            }
            hit(position);
            matched = !pattern.negated;
        }
        matched
    }

    fn candidates(&self, path: &[u8]) -> Option<Vec<bool>> {
        let prefilter = self.prefilter.as_ref()?;
        let mut candidates = vec![false; self.patterns.len()];
        // `globset` sees no file name in paths that end so, and such paths are rare: every pattern is a candidate.
        match std::str::from_utf8(path) {
            Ok(text) if !text.ends_with(['/', '.']) => {
                for position in prefilter.matches(text) {
                    candidates[position] = true;
                }
            }
            _ => candidates.fill(true),
        }
        Some(candidates)
    }
}

#[derive(Clone, Debug)]
struct Pattern {
    index: usize,
    negated: bool,
    text: String,
    matcher: Matcher,
}

impl Pattern {
    fn reaches_below(&self, directory: &[u8]) -> bool {
        let literal = self
            .text
            .find(['*', '?', '[', '\\'])
            .map_or(self.text.as_str(), |end| &self.text[..end])
            .as_bytes();
        if literal.len() == self.text.len() {
            return literal.len() > directory.len()
                && literal.starts_with(directory)
                && literal[directory.len()] == b'/';
        }
        let shared = literal.len().min(directory.len());
        literal[..shared] == directory[..shared]
    }
}

/// A set that finds at least every pattern that matches.
fn prefilter(patterns: &[Pattern]) -> Option<GlobSet> {
    let mut builder = GlobSetBuilder::new();
    for pattern in patterns {
        let mut wide = String::new();
        // Only the text before the first special character counts, and for `**text` what follows it.
        let (head, tail) = match &pattern.matcher {
            Matcher::Exact(text) => (text.as_str(), None),
            Matcher::Prefix(text) => (text.as_str(), Some("")),
            Matcher::Suffix(text) => ("", Some(text.trim_start_matches('/'))),
            Matcher::Automaton { start, end, .. } => (start.as_str(), Some(end.as_str())),
        };
        escape(head, &mut wide);
        if let Some(tail) = tail {
            wide.push('*');
            escape(tail, &mut wide);
        }
        let glob = GlobBuilder::new(&wide)
            .literal_separator(false)
            .backslash_escape(true)
            .build()
            .ok()?;
        builder.add(glob);
    }
    builder.build().ok()
}

fn escape(text: &str, out: &mut String) {
    for rune in text.chars() {
        if matches!(rune, '*' | '?' | '[' | ']' | '{' | '}' | '!' | '\\' | ',') {
            out.push('\\');
        }
        out.push(rune);
    }
}

/// The directories above a path, outermost first.
fn parents(path: &[u8]) -> Vec<&[u8]> {
    path.iter()
        .enumerate()
        .filter(|&(at, &byte)| byte == b'/' && at > 0)
        .map(|(at, _)| &path[..at])
        .collect()
}

/// Go's `filepath.Clean`.
#[must_use]
pub fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut kept: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if kept.last().is_some_and(|last| *last != "..") => {
                kept.pop();
            }
            ".." if rooted => {}
            _ => kept.push(part),
        }
    }
    let joined = kept.join("/");
    match (rooted, joined.is_empty()) {
        (true, _) => format!("/{joined}"),
        (false, true) => ".".to_owned(),
        (false, false) => joined,
    }
}
