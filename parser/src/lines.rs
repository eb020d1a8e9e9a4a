//! Drives the physical grammar: from the file to comments, directives, joined lines and heredoc bodies.
//!
//! It knows no instruction; heredoc bodies are read on request, because only the
//! instruction above them says that they are there.

#![allow(unreachable_pub, reason = "the grammar's derive makes a public enum")]

use crate::source::Joined;
use pest::Parser;
use pest::iterators::Pair;

#[derive(pest_derive::Parser)]
#[grammar = "physical.pest"]
struct Grammar;

/// A `# key=value` line.
#[derive(Debug)]
pub(crate) struct DirectiveLine<'t> {
    pub(crate) name: &'t str,
    pub(crate) value: &'t str,
    pub(crate) start: usize,
    pub(crate) value_start: usize,
}

/// What stands at a line start.
#[derive(Debug)]
pub(crate) enum Item<'t> {
    /// A comment line: its text after `#`, trimmed.
    Comment(&'t str),
    /// Nothing.
    Empty,
    /// An instruction.
    Line(LogicalLine<'t>),
}

/// An instruction's lines.
#[derive(Debug)]
pub(crate) struct LogicalLine<'t> {
    pub(crate) joined: Joined<'t>,
    /// Offset of the line start.
    pub(crate) start: usize,
    /// Offset behind the last newline.
    pub(crate) end: usize,
    /// Offset of the first empty line between continuations.
    pub(crate) empty_continuation: Option<usize>,
}

/// Reads a file from top to bottom.
#[derive(Debug)]
pub(crate) struct Reader<'t> {
    text: &'t str,
    at: usize,
    pub(crate) escape: char,
}

/// A heredoc body: its content and where it and its terminator end.
#[derive(Debug)]
pub(crate) struct Body<'t> {
    pub(crate) content: &'t str,
    pub(crate) start: usize,
    /// End of the terminator's text, or of the file.
    pub(crate) end: usize,
    pub(crate) terminated: bool,
}

impl<'t> Reader<'t> {
    /// Begins behind a byte order mark.
    pub(crate) fn new(text: &'t str) -> Self {
        let at = if text.starts_with('\u{feff}') {
            '\u{feff}'.len_utf8()
        } else {
            0
        };
        Self {
            text,
            at,
            escape: '\\',
        }
    }

    pub(crate) fn at_end(&self) -> bool {
        self.at >= self.text.len()
    }

    /// Offset of the next line.
    pub(crate) fn position(&self) -> usize {
        self.at
    }

    /// Goes back to a place given by [`Self::position`].
    pub(crate) fn rewind(&mut self, to: usize) {
        self.at = to;
    }

    /// Takes the next line if it has the form of a directive.
    pub(crate) fn directive(&mut self) -> Option<DirectiveLine<'t>> {
        let rest = &self.text[self.at..];
        let pair = Grammar::parse(Rule::directive, rest).ok()?.next()?;
        let mut found = DirectiveLine {
            name: "",
            value: "",
            start: self.at,
            value_start: self.at,
        };
        let end = pair.as_span().end();
        for part in pair.into_inner() {
            let range = part.as_span().start()..part.as_span().end();
            match part.as_rule() {
                Rule::directive_name => found.name = &rest[range],
                Rule::directive_value => {
                    found.value_start = self.at + range.start;
                    found.value = &rest[range];
                }
                _ => {}
            }
        }
        self.at += end;
        Some(found)
    }

    /// Takes a shebang line.
    pub(crate) fn shebang(&mut self) -> bool {
        if !self.text[self.at..].starts_with("#!") {
            return false;
        }
        self.at = self.line_end(self.at);
        true
    }

    /// Takes what stands at the line start.
    pub(crate) fn item(&mut self) -> Item<'t> {
        let rest = &self.text[self.at..];
        let rule = if self.escape == '`' {
            Rule::item_backtick
        } else {
            Rule::item_backslash
        };
        let start = self.at;
        let Some(pair) = Grammar::parse(rule, rest)
            .ok()
            .and_then(|mut pairs| pairs.next())
        else {
            self.at = self.line_end(start);
            return Item::Empty;
        };
        // A rule that matched nothing would not get on.
        self.at += pair.as_span().end();
        if self.at == start {
            self.at = self.line_end(start);
        }
        match pair.as_rule() {
            Rule::comment => {
                let text = pair
                    .into_inner()
                    .find(|part| part.as_rule() == Rule::comment_text);
                Item::Comment(text.map_or("", |part| part.as_str()).trim())
            }
            Rule::line_backslash | Rule::line_backtick => Item::Line(self.logical(pair, start)),
            _ => Item::Empty,
        }
    }

    fn logical(&self, pair: Pair<'t, Rule>, start: usize) -> LogicalLine<'t> {
        let mut line = LogicalLine {
            joined: Joined::default(),
            start,
            end: self.at,
            empty_continuation: None,
        };
        for part in pair.into_inner() {
            let at = start + part.as_span().start();
            match part.as_rule() {
                Rule::text_backslash | Rule::text_backtick => line.joined.push(part.as_str(), at),
                Rule::empty => line.empty_continuation = line.empty_continuation.or(Some(at)),
                _ => {}
            }
        }
        line
    }

    /// Takes the lines up to the one that is the terminator.
    pub(crate) fn body(&mut self, terminator: &str, chomp: bool) -> Body<'t> {
        let start = self.at;
        while !self.at_end() {
            let line_start = self.at;
            self.at = self.line_end(line_start);
            let line = self.text[line_start..self.at].trim_end_matches(['\r', '\n']);
            let candidate = if chomp {
                line.trim_start_matches('\t')
            } else {
                line
            };
            if candidate == terminator {
                return Body {
                    content: &self.text[start..line_start],
                    start,
                    end: line_start + line.len(),
                    terminated: true,
                };
            }
        }
        Body {
            content: &self.text[start..],
            start,
            end: self.text.len(),
            terminated: false,
        }
    }

    fn line_end(&self, from: usize) -> usize {
        self.text[from..]
            .find('\n')
            .map_or(self.text.len(), |found| from + found + 1)
    }
}
