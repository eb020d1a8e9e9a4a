//! Exclusion patterns: exactly the rules that Docker applies to `.dockerignore`, `--exclude` and `--parents`.
//!
//! A pattern's meaning is that of the regular expression Docker makes of it (`**` crosses slashes, `*` and `?` do not,
//! a negated class does), unless it is a plain text, `text**` or `**text`, which are compared as text. Matching is done by
//! simulating a small automaton, so no pattern takes exponential time. For sets of many patterns [`globset`] narrows the
//! candidates first: it gets a wider pattern (every wildcard becomes one that matches anything), so it never loses a match.

use super::glob::{BadPattern, Glob, decode};
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

/// Sets smaller than this are matched one by one.
const PREFILTER_FROM: usize = 8;

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
pub struct ParentMatch(Option<Vec<bool>>);

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
            let mut below = ParentMatch::default();
            for ancestor in parents(path) {
                below = self.matches_in(ancestor, &below).1;
            }
            return self.matches_in(path, &below);
        }
        let candidates = self.candidates(path);
        let mut matched = false;
        let mut own = vec![false; self.patterns.len()];
        for (position, pattern) in self.patterns.iter().enumerate() {
            let mut hit = parent.0.as_ref().is_some_and(|parent| parent[position]);
            if !hit {
                if pattern.negated != matched
                    || candidates
                        .as_ref()
                        .is_some_and(|candidates| !candidates[position])
                {
                    continue;
                }
                hit = pattern.matcher.matches(path);
            }
            own[position] = hit;
            if hit {
                matched = !pattern.negated;
            }
        }
        (matched, ParentMatch(Some(own)))
    }

    fn candidates(&self, path: &[u8]) -> Option<Vec<bool>> {
        let prefilter = self.prefilter.as_ref()?;
        let mut candidates = vec![false; self.patterns.len()];
        // A path with a trailing slash or bytes outside UTF-8 is rare: every pattern is a candidate.
        match std::str::from_utf8(path) {
            Ok(text) if !text.ends_with('/') => {
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

#[derive(Clone, Debug)]
enum Matcher {
    Exact(String),
    Prefix(String),
    /// `**` in front: the text that must end the path.
    Suffix(String),
    Automaton {
        literal: String,
        program: Vec<Step>,
    },
}

#[derive(Clone, Debug)]
enum Step {
    One(Set),
    Split(usize, usize),
    AtStart,
}

#[derive(Clone, PartialEq, Debug)]
enum Set {
    Rune(char),
    /// `.` of Go's expressions: not a newline.
    Any,
    NotSlash,
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

impl Set {
    fn contains(&self, rune: char) -> bool {
        match self {
            Self::Rune(expected) => rune == *expected,
            Self::Any => rune != '\n',
            Self::NotSlash => rune != '/',
            Self::Class { negated, ranges } => {
                ranges
                    .iter()
                    .any(|&(low, high)| low <= rune && rune <= high)
                    != *negated
            }
        }
    }
}

impl Matcher {
    /// `text` is cleaned and has no `!`.
    fn new(text: &str) -> Self {
        #[derive(PartialEq)]
        enum Form {
            Exact,
            Prefix,
            Suffix,
            General,
        }
        let mut form = Form::Exact;
        let mut expression = Vec::new();
        let mut chars = text.chars().peekable();
        let mut first = true;
        while let Some(rune) = chars.next() {
            match rune {
                '*' if chars.peek() == Some(&'*') => {
                    chars.next();
                    if chars.peek() == Some(&'/') {
                        chars.next();
                    }
                    if chars.peek().is_some() {
                        expression.push(Piece::Directories);
                        form = Form::General;
                    } else if form == Form::Exact {
                        form = Form::Prefix;
                    } else {
                        expression.push(Piece::Everything);
                        form = Form::General;
                    }
                    if first {
                        form = Form::Suffix;
                    }
                }
                '*' => {
                    expression.push(Piece::Star);
                    form = Form::General;
                }
                '?' => {
                    expression.push(Piece::Question);
                    form = Form::General;
                }
                '\\' => match chars.next() {
                    Some(escaped) => {
                        expression.push(Piece::Escaped(escaped));
                        form = Form::General;
                    }
                    None => expression.push(Piece::Escaped('\\')),
                },
                '[' | ']' => {
                    expression.push(Piece::Rune(rune));
                    form = Form::General;
                }
                '.' | '+' | '(' | ')' | '|' | '{' | '}' | '$' => {
                    expression.push(Piece::Escaped(rune))
                }
                _ => expression.push(Piece::Rune(rune)),
            }
            first = false;
        }
        match form {
            Form::Exact => Self::Exact(text.to_owned()),
            Form::Prefix => Self::Prefix(text[..text.len() - 2].to_owned()),
            Form::Suffix => Self::Suffix(text[2..].to_owned()),
            Form::General => {
                let literal = text
                    .find(['*', '?', '[', ']', '\\', '^'])
                    .map_or("", |end| &text[..end])
                    .to_owned();
                Self::Automaton {
                    literal,
                    program: program(&expression),
                }
            }
        }
    }

    fn matches(&self, path: &[u8]) -> bool {
        match self {
            Self::Exact(text) => path == text.as_bytes(),
            Self::Prefix(text) => path.starts_with(text.as_bytes()),
            Self::Suffix(text) => {
                path.ends_with(text.as_bytes())
                    || text
                        .strip_prefix('/')
                        .is_some_and(|text| path == text.as_bytes())
            }
            Self::Automaton { literal, program } => {
                path.starts_with(literal.as_bytes()) && run(program, path)
            }
        }
    }
}

/// A part of the expression that Docker makes of a pattern.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Piece {
    /// A character that means itself or, in the expression, what it means there (`[`, `]`, `^`, `-`).
    Rune(char),
    /// A character after a backslash.
    Escaped(char),
    /// `[^/]*`
    Star,
    /// `[^/]`
    Question,
    /// `(.*/)?`
    Directories,
    /// `.*`
    Everything,
}

fn program(expression: &[Piece]) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut at = 0;
    while let Some(&piece) = expression.get(at) {
        at += 1;
        match piece {
            Piece::Rune('[') => {
                let (class, star, next) = class(expression, at);
                at = next;
                repeat_or_one(&mut steps, class, star);
            }
            Piece::Rune('^') => steps.push(Step::AtStart),
            Piece::Rune(rune) | Piece::Escaped(rune) => steps.push(Step::One(Set::Rune(rune))),
            Piece::Star => repeat_or_one(&mut steps, Set::NotSlash, true),
            Piece::Question => steps.push(Step::One(Set::NotSlash)),
            Piece::Everything => repeat_or_one(&mut steps, Set::Any, true),
            Piece::Directories => {
                let start = steps.len();
                // skip it all, or any text and a slash
                steps.push(Step::Split(start + 1, start + 5));
                repeat_or_one(&mut steps, Set::Any, true);
                steps.push(Step::One(Set::Rune('/')));
            }
        }
    }
    steps
}

fn repeat_or_one(steps: &mut Vec<Step>, set: Set, repeat: bool) {
    if !repeat {
        steps.push(Step::One(set));
        return;
    }
    let start = steps.len();
    steps.push(Step::Split(start + 1, start + 3));
    steps.push(Step::One(set));
    // a jump back
    steps.push(Step::Split(start, start));
}

/// A class of the expression after its bracket: the set, whether a star follows it, and where to go on.
///
/// A wildcard inside brackets was replaced by its own expression, so `[*]` reads as `[[^/]*]` there: a class that ends
/// at the first `]`, repeated, and then a literal `]`.
fn class(expression: &[Piece], start: usize) -> (Set, bool, usize) {
    let flat: Vec<(Piece, usize)> = flatten(&expression[start..]);
    let mut at = 0;
    let mut negated = false;
    let mut ranges = Vec::new();
    if let Some((Piece::Rune('^'), _)) = flat.first() {
        negated = true;
        at = 1;
    }
    let first = at;
    while let Some(&(piece, _)) = flat.get(at) {
        if piece == Piece::Rune(']') && at > first {
            break;
        }
        if piece == Piece::Rune('[')
            && let Some((posix, length)) = posix_class(&flat[at..])
        {
            ranges.extend_from_slice(posix);
            at += length;
            continue;
        }
        let (Piece::Rune(low) | Piece::Escaped(low)) = piece else {
            break;
        };
        at += 1;
        let mut high = low;
        if let (Some((Piece::Rune('-'), _)), Some(&(Piece::Rune(end) | Piece::Escaped(end), _))) =
            (flat.get(at), flat.get(at + 1))
            && flat[at + 1].0 != Piece::Rune(']')
        {
            high = end;
            at += 2;
        }
        ranges.push((low, high));
    }
    let closed_in = flat
        .get(at)
        .map_or(expression.len(), |&(_, origin)| start + origin);
    // The bracket that closed it came out of a wildcard: the rest of that wildcard's expression is its star, if any.
    let from_star = expression.get(closed_in) == Some(&Piece::Star);
    (Set::Class { negated, ranges }, from_star, closed_in + 1)
}

/// The expression as single characters, each with the index of the piece it came from.
fn flatten(pieces: &[Piece]) -> Vec<(Piece, usize)> {
    let mut flat = Vec::new();
    for (origin, &piece) in pieces.iter().enumerate() {
        match piece {
            Piece::Star | Piece::Question => {
                flat.extend("[^/]".chars().map(|rune| (Piece::Rune(rune), origin)))
            }
            Piece::Directories => {
                flat.extend("(.*/)?".chars().map(|rune| (Piece::Rune(rune), origin)))
            }
            Piece::Everything => flat.extend(".*".chars().map(|rune| (Piece::Rune(rune), origin))),
            Piece::Rune(_) | Piece::Escaped(_) => flat.push((piece, origin)),
        }
    }
    flat
}

/// `[:name:]` inside a class, with its length.
fn posix_class(flat: &[(Piece, usize)]) -> Option<(&'static [(char, char)], usize)> {
    const CLASSES: &[(&str, &[(char, char)])] = &[
        ("[:alnum:]", &[('0', '9'), ('A', 'Z'), ('a', 'z')]),
        ("[:alpha:]", &[('A', 'Z'), ('a', 'z')]),
        ("[:ascii:]", &[('\0', '\x7f')]),
        ("[:blank:]", &[('\t', '\t'), (' ', ' ')]),
        ("[:cntrl:]", &[('\0', '\x1f'), ('\x7f', '\x7f')]),
        ("[:digit:]", &[('0', '9')]),
        ("[:graph:]", &[('!', '~')]),
        ("[:lower:]", &[('a', 'z')]),
        ("[:print:]", &[(' ', '~')]),
        (
            "[:punct:]",
            &[('!', '/'), (':', '@'), ('[', '`'), ('{', '~')],
        ),
        ("[:space:]", &[('\t', '\r'), (' ', ' ')]),
        ("[:upper:]", &[('A', 'Z')]),
        (
            "[:word:]",
            &[('0', '9'), ('A', 'Z'), ('_', '_'), ('a', 'z')],
        ),
        ("[:xdigit:]", &[('0', '9'), ('A', 'F'), ('a', 'f')]),
    ];
    CLASSES
        .iter()
        .find(|(name, _)| {
            let mut runes = name.chars();
            flat.len() >= name.len()
                && flat
                    .iter()
                    .zip(&mut runes)
                    .all(|(&(piece, _), rune)| piece == Piece::Rune(rune))
        })
        .map(|(name, ranges)| (*ranges, name.len()))
}

fn run(program: &[Step], path: &[u8]) -> bool {
    let mut current = vec![false; program.len() + 1];
    let mut next = current.clone();
    enter(program, &mut current, 0, true);
    let mut rest = path;
    while !rest.is_empty() {
        let (rune, width) = decode(rest);
        rest = &rest[width..];
        next.fill(false);
        let mut alive = false;
        for (at, step) in program.iter().enumerate() {
            if let Step::One(set) = step
                && current[at]
                && set.contains(rune)
            {
                enter(program, &mut next, at + 1, false);
                alive = true;
            }
        }
        if !alive {
            return false;
        }
        std::mem::swap(&mut current, &mut next);
    }
    current[program.len()]
}

/// Marks a state and all that it reaches without a character.
fn enter(program: &[Step], states: &mut [bool], at: usize, at_start: bool) {
    if states[at] {
        return;
    }
    states[at] = true;
    match program.get(at) {
        Some(Step::Split(one, other)) => {
            enter(program, states, *one, at_start);
            enter(program, states, *other, at_start);
        }
        Some(Step::AtStart) if at_start => enter(program, states, at + 1, at_start),
        Some(Step::AtStart | Step::One(_)) | None => {}
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
            Matcher::Automaton { literal, .. } => (literal.as_str(), Some("")),
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
