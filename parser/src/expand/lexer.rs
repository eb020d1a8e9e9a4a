//! The lexer proper: a cursor over the word, and one function per construct.
//!
//! Substitutions nest, so it recurses; the depth is bounded.

use super::pattern::{self, Side};
use super::{MAX_LENGTH, Options, Scope};
use pest::unicode::{DECIMAL_NUMBER, LETTER};

/// Levels of `${a:-${b}}`; more than anyone writes, and far below what a thread's stack holds.
const MAX_DEPTH: usize = 200;

/// Variables that were asked for.
#[derive(Debug, Default)]
pub(super) struct Names {
    pub(super) matched: Vec<String>,
    pub(super) unmatched: Vec<String>,
}

/// What a run gives: the whole text, and the same cut into words.
#[derive(Debug, Default)]
pub(super) struct Output {
    pub(super) text: String,
    pub(super) words: Vec<String>,
}

pub(super) struct Lexer<'a> {
    rest: &'a str,
    escape: char,
    scope: &'a dyn Scope,
    options: Options,
    /// Like `options.raw_escapes`, but switched within pattern operators.
    raw_escapes: bool,
    depth: usize,
    pub(super) names: Names,
}

type Lexed<T> = Result<T, String>;

impl<'a> Lexer<'a> {
    pub(super) fn new(text: &'a str, escape: char, scope: &'a dyn Scope, options: Options) -> Self {
        Self {
            rest: text,
            escape,
            scope,
            options,
            raw_escapes: options.raw_escapes,
            depth: 0,
            names: Names::default(),
        }
    }

    pub(super) fn run(&mut self) -> Lexed<Output> {
        self.until(None, self.raw_escapes)
    }

    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let mut chars = self.rest.chars();
        let ch = chars.next();
        self.rest = chars.as_str();
        ch
    }

    /// Reads up to `stop`, which is taken too.
    fn until(&mut self, stop: Option<char>, raw_escapes: bool) -> Lexed<Output> {
        if self.depth >= MAX_DEPTH {
            return Err("substitutions are nested too deeply".to_owned());
        }
        self.depth += 1;
        let outer = std::mem::replace(&mut self.raw_escapes, raw_escapes);
        let result = self.read_until(stop);
        self.raw_escapes = outer;
        self.depth -= 1;
        result
    }

    fn read_until(&mut self, stop: Option<char>) -> Lexed<Output> {
        let mut out = String::new();
        let mut words = Words::default();
        while let Some(ch) = self.peek() {
            if stop == Some(ch) {
                self.next();
                return Ok(Output {
                    text: out,
                    words: words.finish(),
                });
            }
            if out.len() > MAX_LENGTH {
                return Err(super::too_long());
            }
            match ch {
                '$' => {
                    let value = self.dollar()?;
                    value.chars().for_each(|ch| words.add(ch));
                    out.push_str(&value);
                }
                '\'' | '"' if !self.options.skip_process_quotes => {
                    let value = if ch == '"' {
                        self.double_quote()?
                    } else {
                        self.single_quote()?
                    };
                    words.add_raw(&value);
                    out.push_str(&value);
                }
                '<' => {
                    let value = self.possible_heredoc();
                    words.add_raw(value);
                    out.push_str(value);
                }
                _ => {
                    self.next();
                    if ch != self.escape {
                        words.add(ch);
                        out.push(ch);
                        continue;
                    }
                    if self.raw_escapes {
                        words.add_raw_char(ch);
                        out.push(ch);
                    }
                    // An escape at the end escapes nothing.
                    if let Some(escaped) = self.next() {
                        words.add_raw_char(escaped);
                        out.push(escaped);
                    }
                }
            }
        }
        match stop {
            Some(stop) => Err(format!(
                "unexpected end of statement while looking for matching {stop}"
            )),
            None => Ok(Output {
                text: out,
                words: words.finish(),
            }),
        }
    }

    /// `<<` and `<<-` take the blanks behind them, so that a terminator after blanks is in the same word.
    fn possible_heredoc(&mut self) -> &'a str {
        const BLANKS: [char; 4] = [' ', '\t', '\r', '\n'];
        let start = self.rest;
        self.next();
        if self.peek() == Some('<') {
            self.next();
            if let Some(after) = self
                .rest
                .strip_prefix('-')
                .filter(|after| after.starts_with(BLANKS))
            {
                self.rest = after;
            }
            self.rest = self.rest.trim_start_matches(BLANKS);
        }
        &start[..start.len() - self.rest.len()]
    }

    fn single_quote(&mut self) -> Lexed<String> {
        self.next();
        let Some(end) = self.rest.find('\'') else {
            self.rest = "";
            return Err(
                "unexpected end of statement while looking for matching single-quote".to_owned(),
            );
        };
        let inside = &self.rest[..end];
        self.rest = &self.rest[end + 1..];
        Ok(if self.options.raw_quotes {
            format!("'{inside}'")
        } else {
            inside.to_owned()
        })
    }

    fn double_quote(&mut self) -> Lexed<String> {
        let mut out = String::new();
        self.next();
        if self.options.raw_quotes {
            out.push('"');
        }
        loop {
            match self.peek() {
                None => {
                    return Err(
                        "unexpected end of statement while looking for matching double-quote"
                            .to_owned(),
                    );
                }
                Some('"') => {
                    self.next();
                    if self.options.raw_quotes {
                        out.push('"');
                    }
                    return Ok(out);
                }
                Some('$') => out.push_str(&self.dollar()?),
                Some(ch) => {
                    self.next();
                    self.quoted_char(ch, &mut out);
                }
            }
        }
    }

    /// Within double quotes an escape counts only before a quote, a dollar or itself.
    fn quoted_char(&mut self, ch: char, out: &mut String) {
        if ch != self.escape {
            out.push(ch);
            return;
        }
        if self.raw_escapes {
            out.push(ch);
        }
        match self.peek() {
            None => {}
            Some(next) if next == '"' || next == '$' || next == self.escape => {
                self.next();
                out.push(next);
            }
            Some(_) => out.push(ch),
        }
    }

    fn dollar(&mut self) -> Lexed<String> {
        self.next();
        if self.peek() != Some('{') {
            let name = self.name();
            if name.is_empty() {
                return Ok("$".to_owned());
            }
            return Ok(match self.get(name) {
                None if self.options.skip_unset_env => format!("${name}"),
                value => value.unwrap_or_default(),
            });
        }
        self.next();
        match self.peek() {
            None => return Err("syntax error: missing '}'".to_owned()),
            Some('{' | '}' | ':') => return Err("syntax error: bad substitution".to_owned()),
            Some(_) => {}
        }
        let name = self.name();
        match self.next() {
            Some('}') => Ok(match self.get(name) {
                None if self.options.skip_unset_env => format!("${{{name}}}"),
                value => value.unwrap_or_default(),
            }),
            Some(':') => {
                let operator = self.next();
                self.operation(name, operator, true)
            }
            operator @ Some('+' | '-' | '?' | '#' | '%') => self.operation(name, operator, false),
            Some('/') => self.replacement(name),
            other => Err(unsupported("", other)),
        }
    }

    /// `${name-word}` and its like; `colon` makes an empty value count as unset.
    fn operation(&mut self, name: &str, operator: Option<char>, colon: bool) -> Lexed<String> {
        let raw = matches!(operator, Some('#' | '%'));
        let word = self.operand('}', raw, "syntax error: missing '}'")?;
        let prefix = if colon { ":" } else { "" };
        // With a colon the two pattern operators are no operators.
        if colon && !matches!(operator, Some('-' | '+' | '?')) {
            return Err(unsupported(prefix, operator));
        }
        let value = self.get(name);
        if value.is_none() && self.options.skip_unset_env {
            let operator = operator.unwrap_or('\u{fffd}');
            return Ok(format!("${{{name}{prefix}{operator}{word}}}"));
        }
        let is_set = value
            .as_ref()
            .is_some_and(|value| !(colon && value.is_empty()));
        match operator {
            Some('-') if is_set => Ok(value.unwrap_or_default()),
            Some('-') => Ok(word),
            Some('+') if is_set => Ok(word),
            Some('+') => Ok(String::new()),
            Some('?') => match value {
                Some(value) if is_set => Ok(value),
                _ if !word.is_empty() => Err(format!("{name}: {word}")),
                Some(_) => Err(format!("{name}: is not allowed to be empty")),
                None => Err(format!("{name}: is not allowed to be unset")),
            },
            Some(side @ ('#' | '%')) => {
                let greedy = word.starts_with(side);
                let pattern = if greedy { &word[1..] } else { &word };
                let side = if side == '#' {
                    Side::Prefix
                } else {
                    Side::Suffix
                };
                pattern::trim(side, pattern, &value.unwrap_or_default(), greedy)
            }
            other => Err(unsupported(prefix, other)),
        }
    }

    /// `${name/pattern/text}` and `${name//pattern/text}`.
    fn replacement(&mut self, name: &str) -> Lexed<String> {
        let all = self.peek() == Some('/');
        if all {
            self.next();
        }
        let pattern = self.operand('/', true, "syntax error: missing '/' in ${}")?;
        let with = self.operand('}', true, "syntax error: missing '}'")?;
        match self.get(name) {
            None if self.options.skip_unset_env => Ok(format!("${{{name}/{pattern}/{with}}}")),
            value => pattern::replace(&pattern, &value.unwrap_or_default(), &with, all),
        }
    }

    /// Reads an operand; at the end of the text the failure is that the end mark is missing.
    fn operand(&mut self, stop: char, raw: bool, missing: &str) -> Lexed<String> {
        match self.until(Some(stop), raw) {
            Ok(found) => Ok(found.text),
            Err(_) if self.rest.is_empty() => Err(missing.to_owned()),
            Err(message) => Err(message),
        }
    }

    /// A name, a number or one of the special parameters; empty if there is none.
    fn name(&mut self) -> &'a str {
        let start = self.rest;
        match self.peek() {
            Some(ch) if DECIMAL_NUMBER(ch) => {
                self.rest = self.rest.trim_start_matches(DECIMAL_NUMBER);
            }
            Some('@' | '*' | '#' | '?' | '-' | '$' | '!') => {
                self.next();
            }
            _ => {
                self.rest = self
                    .rest
                    .trim_start_matches(|ch| ch == '_' || LETTER(ch) || DECIMAL_NUMBER(ch));
            }
        }
        &start[..start.len() - self.rest.len()]
    }

    fn get(&mut self, name: &str) -> Option<String> {
        let value = self.scope.get(name);
        let names = if value.is_some() {
            &mut self.names.matched
        } else {
            &mut self.names.unmatched
        };
        if !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
        value
    }
}

fn unsupported(prefix: &str, operator: Option<char>) -> String {
    format!(
        "unsupported modifier ({prefix}{}) in substitution",
        operator.unwrap_or('\u{fffd}')
    )
}

/// Collects words; blanks that come from text or variables separate, those from quotes and escapes do not.
#[derive(Debug, Default)]
struct Words {
    word: String,
    words: Vec<String>,
}

impl Words {
    fn add(&mut self, ch: char) {
        if !ch.is_whitespace() {
            self.word.push(ch);
        } else if !self.word.is_empty() {
            self.words.push(std::mem::take(&mut self.word));
        }
    }

    fn add_raw_char(&mut self, ch: char) {
        self.word.push(ch);
    }

    fn add_raw(&mut self, text: &str) {
        self.word.push_str(text);
    }

    fn finish(mut self) -> Vec<String> {
        if !self.word.is_empty() {
            self.words.push(self.word);
        }
        self.words
    }
}
