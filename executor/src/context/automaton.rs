//! One exclusion pattern, compiled: compared as text where Docker does so, else as the automaton of the regular expression
//! that Docker makes of it. Sets of patterns are [`super::pattern`]'s.

use super::glob::decode;

/// How one pattern matches a path.
#[derive(Clone, Debug)]
pub(super) enum Matcher {
    Exact(String),
    Prefix(String),
    /// `**` in front: the text that must end the path.
    Suffix(String),
    Automaton {
        /// Text that every match starts with.
        start: String,
        /// Text that every match ends with.
        end: String,
        program: Vec<Step>,
    },
}

#[derive(Clone, Debug)]
pub(super) enum Step {
    One(Set),
    Split(usize, usize),
    AtStart,
}

#[derive(Clone, PartialEq, Debug)]
pub(super) enum Set {
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
    pub(super) fn new(text: &str) -> Self {
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
                    expression.push(Piece::Escaped(rune));
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
                const SPECIAL: [char; 6] = ['*', '?', '[', ']', '\\', '^'];
                let start = text.find(SPECIAL).map_or("", |end| &text[..end]);
                Self::Automaton {
                    start: start.to_owned(),
                    end: fixed_end(&expression),
                    program: program(&expression),
                }
            }
        }
    }

    pub(super) fn matches(&self, path: &[u8]) -> bool {
        match self {
            Self::Exact(text) => path == text.as_bytes(),
            Self::Prefix(text) => path.starts_with(text.as_bytes()),
            Self::Suffix(text) => {
                path.ends_with(text.as_bytes())
                    || text
                        .strip_prefix('/')
                        .is_some_and(|text| path == text.as_bytes())
            }
            Self::Automaton {
                start,
                end,
                program,
            } => {
                path.starts_with(start.as_bytes())
                    && path.ends_with(end.as_bytes())
                    && run(program, path)
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

/// The plain text after the last special character. After a bracket there is none: what it closes is not known here.
fn fixed_end(expression: &[Piece]) -> String {
    let plain = expression.iter().rev().map_while(|piece| match piece {
        Piece::Escaped(rune) => Some(*rune),
        Piece::Rune(rune) if !matches!(rune, '[' | ']' | '^' | '-') => Some(*rune),
        _ => None,
    });
    if expression.contains(&Piece::Rune('[')) {
        return String::new();
    }
    // U+FFFD stands for any invalid byte, which does not read like it.
    let end: Vec<char> = plain
        .take_while(|rune| *rune != char::REPLACEMENT_CHARACTER)
        .collect();
    end.into_iter().rev().collect()
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
                flat.extend("[^/]".chars().map(|rune| (Piece::Rune(rune), origin)));
            }
            Piece::Directories => {
                flat.extend("(.*/)?".chars().map(|rune| (Piece::Rune(rune), origin)));
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
