//! Wildcards of COPY and ADD sources: exactly Go's `path/filepath.Match` on Linux.
//!
//! A pattern is split at its stars into chunks, and a star takes the shortest text that lets the next chunk match; it never
//! crosses a slash. A class may match a slash, and a pattern with an error anywhere never matches anything: both as Go has it.

/// A pattern that Go calls malformed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("syntax error in pattern")]
pub struct BadPattern;

/// One compiled wildcard pattern.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Glob {
    chunks: Vec<Chunk>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Chunk {
    after_star: bool,
    tokens: Vec<Token>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Token {
    Byte(u8),
    AnyRune,
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

impl Glob {
    /// Compiles a pattern.
    ///
    /// # Errors
    /// Unclosed or empty classes, a bare `-` or `]` where a class wants a character, a backslash at the end.
    pub fn new(pattern: &[u8]) -> Result<Self, BadPattern> {
        let mut chunks = Vec::new();
        let mut rest = pattern;
        while !rest.is_empty() {
            let stars = rest.iter().take_while(|&&byte| byte == b'*').count();
            let (chunk, tail) = rest[stars..].split_at(chunk_len(&rest[stars..]));
            chunks.push(Chunk {
                after_star: stars > 0,
                tokens: tokens(chunk)?,
            });
            rest = tail;
        }
        Ok(Self { chunks })
    }

    /// Whether a single character of the pattern could match a slash (only classes can).
    #[must_use]
    pub fn may_cross_directories(&self) -> bool {
        self.chunks
            .iter()
            .flat_map(|chunk| &chunk.tokens)
            .any(|token| match token {
                Token::Class { negated, ranges } => {
                    ranges.iter().any(|&(low, high)| low <= '/' && '/' <= high) != *negated
                }
                Token::Byte(_) | Token::AnyRune => false,
            })
    }

    /// Whether the whole name matches.
    #[must_use]
    pub fn matches(&self, name: &[u8]) -> bool {
        let mut name = name;
        for (position, chunk) in self.chunks.iter().enumerate() {
            let last = position + 1 == self.chunks.len();
            if chunk.after_star && chunk.tokens.is_empty() {
                return !name.contains(&b'/');
            }
            let Some(rest) = chunk.place(name, last) else {
                return false;
            };
            name = rest;
        }
        name.is_empty()
    }
}

impl Chunk {
    /// Matches at the start of `name`, or after what the star in front takes; returns what is left.
    fn place<'n>(&self, name: &'n [u8], last: bool) -> Option<&'n [u8]> {
        if let Some(rest) = self.consume(name)
            && (rest.is_empty() || !last)
        {
            return Some(rest);
        }
        if !self.after_star {
            return None;
        }
        let reach = name
            .iter()
            .position(|&byte| byte == b'/')
            .unwrap_or(name.len());
        (1..=reach).find_map(|skip| {
            self.consume(&name[skip..])
                .filter(|rest| rest.is_empty() || !last)
        })
    }

    fn consume<'n>(&self, name: &'n [u8]) -> Option<&'n [u8]> {
        let mut name = name;
        for token in &self.tokens {
            let &first = name.first()?;
            match token {
                Token::Byte(byte) => {
                    if first != *byte {
                        return None;
                    }
                    name = &name[1..];
                }
                Token::AnyRune => {
                    if first == b'/' {
                        return None;
                    }
                    name = &name[decode(name).1..];
                }
                Token::Class { negated, ranges } => {
                    let (rune, width) = decode(name);
                    if ranges
                        .iter()
                        .any(|&(low, high)| low <= rune && rune <= high)
                        == *negated
                    {
                        return None;
                    }
                    name = &name[width..];
                }
            }
        }
        Some(name)
    }
}

/// Whether a COPY source has an unescaped wildcard character.
#[must_use]
pub fn has_wildcard(text: &[u8]) -> bool {
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => {
                bytes.next();
            }
            b'*' | b'?' | b'[' => return true,
            _ => {}
        }
    }
    false
}

/// Length of the part before the next star outside brackets.
fn chunk_len(pattern: &[u8]) -> usize {
    let mut in_class = false;
    let mut at = 0;
    while at < pattern.len() {
        match pattern[at] {
            b'\\' => at += 1,
            b'[' => in_class = true,
            b']' => in_class = false,
            b'*' if !in_class => return at,
            _ => {}
        }
        at += 1;
    }
    pattern.len()
}

fn tokens(chunk: &[u8]) -> Result<Vec<Token>, BadPattern> {
    let mut tokens = Vec::new();
    let mut rest = chunk;
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        match first {
            b'[' => {
                let (class, tail) = class(rest)?;
                tokens.push(class);
                rest = tail;
            }
            b'?' => tokens.push(Token::AnyRune),
            b'\\' => {
                let (&byte, tail) = rest.split_first().ok_or(BadPattern)?;
                tokens.push(Token::Byte(byte));
                rest = tail;
            }
            byte => tokens.push(Token::Byte(byte)),
        }
    }
    Ok(tokens)
}

/// A class after its opening bracket.
fn class(text: &[u8]) -> Result<(Token, &[u8]), BadPattern> {
    let (negated, mut rest) = match text.strip_prefix(b"^") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let mut ranges = Vec::new();
    loop {
        if let Some(tail) = rest.strip_prefix(b"]")
            && !ranges.is_empty()
        {
            return Ok((Token::Class { negated, ranges }, tail));
        }
        let (low, tail) = class_rune(rest)?;
        let (high, tail) = match tail.strip_prefix(b"-") {
            Some(tail) => class_rune(tail)?,
            None => (low, tail),
        };
        ranges.push((low, high));
        rest = tail;
    }
}

/// One possibly escaped character of a class; something must follow it.
fn class_rune(text: &[u8]) -> Result<(char, &[u8]), BadPattern> {
    let text = match text.first() {
        None | Some(b'-' | b']') => return Err(BadPattern),
        Some(b'\\') => &text[1..],
        Some(_) => text,
    };
    if text.is_empty() {
        return Err(BadPattern);
    }
    let (rune, width) = decode(text);
    if (rune == char::REPLACEMENT_CHARACTER && width == 1) || text.len() == width {
        return Err(BadPattern);
    }
    Ok((rune, &text[width..]))
}

/// The first UTF-8 character and its width; a byte that starts none is U+FFFD of width 1. `bytes` is not empty.
pub(crate) fn decode(bytes: &[u8]) -> (char, usize) {
    if bytes[0] < 0x80 {
        return (char::from(bytes[0]), 1);
    }
    let window = &bytes[..bytes.len().min(4)];
    let valid = match std::str::from_utf8(window) {
        Ok(text) => text,
        Err(error) => std::str::from_utf8(&window[..error.valid_up_to()]).unwrap_or_default(),
    };
    valid
        .chars()
        .next()
        .map_or((char::REPLACEMENT_CHARACTER, 1), |rune| {
            (rune, rune.len_utf8())
        })
}
