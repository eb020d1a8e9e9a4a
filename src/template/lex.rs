//! A template's text as tokens: text between actions, and what stands in actions. Byte positions throughout.

use super::Error;
use serde_json::Value;

/// Longest template, in bytes.
pub(super) const MAX_TEXT: usize = 256 << 10;

/// A token of an action, or text outside of one.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Kind {
    Text(String),
    /// `{{`
    Open,
    /// `}}`
    Close,
    /// `.` alone
    Dot,
    /// `.Name`
    Field(String),
    /// `$` or `$name`, with the dollar sign
    Variable(String),
    /// A function, keyword or constant
    Word(String),
    Literal(Value),
    Pipe,
    LeftParen,
    RightParen,
    /// `:=`
    Declare,
    /// `=`
    Assign,
    Comma,
    /// Blanks, which separate arguments
    Space,
}

#[derive(Clone, Debug)]
pub(super) struct Token {
    pub kind: Kind,
    /// Where it begins.
    pub start: usize,
    /// Where it ends.
    pub end: usize,
}

pub(super) fn lex(text: &str) -> Result<Vec<Token>, Error> {
    if text.len() > MAX_TEXT {
        return Err(Error::at(text, 0, "the template is too long"));
    }
    let mut lexer = Lexer {
        text,
        at: 0,
        tokens: Vec::new(),
    };
    lexer.run()?;
    Ok(lexer.tokens)
}

struct Lexer<'a> {
    text: &'a str,
    at: usize,
    tokens: Vec<Token>,
}

impl Lexer<'_> {
    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn fail<T>(&self, at: usize, message: impl Into<String>) -> Result<T, Error> {
        Err(Error::at(self.text, at, message))
    }

    fn push(&mut self, kind: Kind, end: usize) {
        self.tokens.push(Token {
            kind,
            start: self.at,
            end,
        });
        self.at = end;
    }

    fn run(&mut self) -> Result<(), Error> {
        let mut trim_start = false;
        while self.at < self.text.len() {
            let text = self.rest();
            let (mut piece, next) = match text.find("{{") {
                Some(open) => (&text[..open], self.at + open),
                None => (text, self.text.len()),
            };
            if trim_start {
                piece = piece.trim_start_matches(is_space);
            }
            let trims_end =
                self.text[next..].starts_with("{{-") && self.text[next + 3..].starts_with(is_space);
            if trims_end {
                piece = piece.trim_end_matches(is_space);
            }
            if !piece.is_empty() {
                let piece = piece.to_owned();
                self.push(Kind::Text(piece), next);
            }
            self.at = next;
            if next == self.text.len() {
                return Ok(());
            }
            trim_start = self.action(trims_end)?;
        }
        Ok(())
    }

    /// From `{{` to `}}`; whether blanks after it go.
    fn action(&mut self, trimmed: bool) -> Result<bool, Error> {
        let start = self.at;
        let inside = start + if trimmed { 3 } else { 2 };
        let body = &self.text[inside..];
        let comment = body.trim_start_matches(is_space);
        if comment.starts_with("/*") && (trimmed || comment.len() == body.len()) {
            return self.comment(self.text.len() - comment.len());
        }
        self.push(Kind::Open, inside);
        let mut depth = 0_usize;
        loop {
            let rest = self.rest();
            let blanks = rest.len() - rest.trim_start_matches(is_space).len();
            let after = &rest[blanks..];
            if blanks > 0 && after.starts_with("-}}") {
                self.at += blanks;
                self.push(Kind::Close, self.at + 3);
                return Ok(true);
            }
            if after.starts_with("}}") {
                if depth > 0 {
                    return self.fail(self.at, "unclosed left paren");
                }
                self.at += blanks;
                self.push(Kind::Close, self.at + 2);
                return Ok(false);
            }
            if blanks > 0 {
                self.push(Kind::Space, self.at + blanks);
                continue;
            }
            if rest.is_empty() {
                return self.fail(start, "unclosed action");
            }
            self.token()?;
            match self.tokens.last().map(|token| &token.kind) {
                Some(Kind::LeftParen) => depth += 1,
                Some(Kind::RightParen) => match depth.checked_sub(1) {
                    Some(less) => depth = less,
                    None => return self.fail(self.at - 1, "unexpected right paren"),
                },
                _ => {}
            }
        }
    }

    fn comment(&mut self, start: usize) -> Result<bool, Error> {
        let Some(length) = self.text[start..].find("*/") else {
            return self.fail(start, "unclosed comment");
        };
        let after = &self.text[start + length + 2..];
        let tight = after.trim_start_matches(is_space);
        let (end, trims) = if after.starts_with("}}") {
            (2, false)
        } else if tight.len() < after.len() && tight.starts_with("-}}") {
            (after.len() - tight.len() + 3, true)
        } else {
            return self.fail(start, "comment ends before closing delimiter");
        };
        self.at = start + length + 2 + end;
        Ok(trims)
    }

    fn token(&mut self) -> Result<(), Error> {
        let rest = self.rest();
        let first = rest.chars().next().unwrap_or_default();
        let single = |kind: Kind| (kind, 1);
        let (kind, length) = match first {
            '|' => single(Kind::Pipe),
            '(' => single(Kind::LeftParen),
            ')' => single(Kind::RightParen),
            ',' => single(Kind::Comma),
            ':' if rest.starts_with(":=") => (Kind::Declare, 2),
            '=' => single(Kind::Assign),
            '"' => return self.quoted(),
            '`' => return self.raw(),
            '\'' => return self.character(),
            '$' => {
                let length = 1 + word_length(&rest[1..]);
                (Kind::Variable(rest[..length].to_owned()), length)
            }
            '.' if rest[1..].starts_with(|c: char| c.is_ascii_digit()) => return self.number(),
            '.' => match word_length(&rest[1..]) {
                0 => single(Kind::Dot),
                length => (Kind::Field(rest[1..=length].to_owned()), length + 1),
            },
            '0'..='9' | '+' | '-' => return self.number(),
            _ => match word_length(rest) {
                0 => {
                    let message = format!("unexpected {first:?} in command");
                    return self.fail(self.at, message);
                }
                length => (Kind::Word(rest[..length].to_owned()), length),
            },
        };
        self.push(kind, self.at + length);
        Ok(())
    }

    fn literal(&mut self, value: impl Into<Value>, length: usize) {
        self.push(Kind::Literal(value.into()), self.at + length);
    }

    fn raw(&mut self) -> Result<(), Error> {
        let rest = &self.rest()[1..];
        let Some(length) = rest.find('`') else {
            return self.fail(self.at, "unterminated raw quoted string");
        };
        let text = rest[..length].replace('\r', "");
        self.literal(text, length + 2);
        Ok(())
    }

    fn quoted(&mut self) -> Result<(), Error> {
        let mut text = Vec::new();
        let mut rest = &self.rest()[1..];
        loop {
            match rest.chars().next() {
                None | Some('\n') => return self.fail(self.at, "unterminated quoted string"),
                Some('"') => break,
                Some('\\') => {
                    let Some((bytes, length)) = escape(rest, '"') else {
                        return self.fail(self.at, "invalid syntax in quoted string");
                    };
                    text.extend(bytes);
                    rest = &rest[length..];
                }
                Some(other) => {
                    text.extend_from_slice(&rest.as_bytes()[..other.len_utf8()]);
                    rest = &rest[other.len_utf8()..];
                }
            }
        }
        let length = self.rest().len() - rest.len() + 1;
        let text = String::from_utf8_lossy(&text).into_owned();
        self.literal(text, length);
        Ok(())
    }

    /// A character is a number in Go.
    fn character(&mut self) -> Result<(), Error> {
        let rest = &self.rest()[1..];
        let (code, length) = match rest.chars().next() {
            Some('\\') => match escape(rest, '\'') {
                Some((bytes, length)) => {
                    let text = String::from_utf8_lossy(&bytes).into_owned();
                    (text.chars().next().unwrap_or_default(), length)
                }
                None => return self.fail(self.at, "malformed character constant"),
            },
            Some(other) if other != '\'' => (other, other.len_utf8()),
            _ => return self.fail(self.at, "malformed character constant"),
        };
        if !rest[length..].starts_with('\'') {
            return self.fail(self.at, "unterminated character constant");
        }
        self.literal(u32::from(code), length + 2);
        Ok(())
    }

    fn number(&mut self) -> Result<(), Error> {
        let rest = self.rest();
        let mut length = 0;
        let mut previous = ' ';
        for c in rest.chars() {
            let is_sign = matches!(c, '+' | '-');
            let hex = rest.trim_start_matches(['+', '-']).starts_with("0x");
            let signed = length == 0 || (matches!(previous, 'e' | 'E') && !hex);
            if !(c.is_ascii_alphanumeric() || c == '.' || c == '_' || (is_sign && signed)) {
                break;
            }
            length += 1;
            previous = c;
        }
        let text = &rest[..length];
        let Some(value) = number(text) else {
            let message = format!("bad number syntax: {text:?}");
            return self.fail(self.at, message);
        };
        self.literal(value, length);
        Ok(())
    }
}

pub(super) fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n')
}

fn word_length(text: &str) -> usize {
    let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_'));
    end.unwrap_or(text.len())
}

fn number(text: &str) -> Option<Value> {
    let plain = text.replace('_', "");
    let (negative, digits) = match plain.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, plain.strip_prefix('+').unwrap_or(&plain)),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, digits) = match lower.get(..2) {
        Some("0x") => (16, &lower[2..]),
        Some("0o") => (8, &lower[2..]),
        Some("0b") => (2, &lower[2..]),
        _ if lower.len() > 1
            && lower.starts_with('0')
            && lower.bytes().all(|b| b.is_ascii_digit()) =>
        {
            (8, &lower[1..])
        }
        _ => (10, lower.as_str()),
    };
    if let Ok(value) = u64::from_str_radix(digits, radix)
        && !digits.starts_with('+')
    {
        if !negative {
            return Some(value.into());
        }
        return i64::try_from(-i128::from(value)).ok().map(Value::from);
    }
    let is_decimal = radix == 10 && digits.starts_with(|c: char| c.is_ascii_digit() || c == '.');
    let value: f64 = digits.parse().ok().filter(|_| is_decimal)?;
    let value = if negative { -value } else { value };
    serde_json::Number::from_f64(value).map(Value::Number)
}

/// What an escape at the start of a text stands for, and its length.
fn escape(text: &str, quote: char) -> Option<(Vec<u8>, usize)> {
    let bytes = text.as_bytes();
    let simple = |byte: u8| Some((vec![byte], 2));
    let coded = |length: usize, skip: usize, radix: u32| {
        let digits = text.get(skip..skip + length)?;
        let is_plain = digits.bytes().all(|b| b.is_ascii_hexdigit());
        is_plain.then(|| u32::from_str_radix(digits, radix).ok())?
    };
    match bytes.get(1)? {
        b'a' => simple(7),
        b'b' => simple(8),
        b'f' => simple(12),
        b'n' => simple(b'\n'),
        b'r' => simple(b'\r'),
        b't' => simple(b'\t'),
        b'v' => simple(11),
        b'\\' => simple(b'\\'),
        b'x' => Some((vec![u8::try_from(coded(2, 2, 16)?).ok()?], 4)),
        b'0'..=b'7' => Some((vec![u8::try_from(coded(3, 1, 8)?).ok()?], 4)),
        b'u' => Some((
            char::from_u32(coded(4, 2, 16)?)?.to_string().into_bytes(),
            6,
        )),
        b'U' => Some((
            char::from_u32(coded(8, 2, 16)?)?.to_string().into_bytes(),
            10,
        )),
        other if char::from(*other) == quote => simple(*other),
        _ => None,
    }
}
