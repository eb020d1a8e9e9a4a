//! Drives the logical grammar: the parts of a joined line, each with its span in the file.
//!
//! One function per form of arguments; which form an instruction has is not known here.

#![allow(unreachable_pub, reason = "the grammar's derive makes a public enum")]

use crate::ast::{Span, Spanned};
use crate::source::Joined;
use pest::Parser;

#[derive(pest_derive::Parser)]
#[grammar = "logical.pest"]
pub(crate) struct Grammar;

/// What is wrong with arguments, where, and what to do.
#[derive(Debug)]
pub(crate) struct Wrong {
    pub(crate) message: String,
    pub(crate) span: Span,
    pub(crate) help: String,
}

/// The one error of the exec form: valid JSON that is no array of strings.
const JSON_NOT_STRINGS: &str =
    "when using JSON array syntax, arrays must be comprised of strings only";

/// A part of a joined line.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View<'j, 't> {
    joined: &'j Joined<'t>,
    start: usize,
    end: usize,
}

impl<'j, 't> View<'j, 't> {
    pub(crate) fn new(joined: &'j Joined<'t>) -> Self {
        Self {
            joined,
            start: 0,
            end: joined.text.len(),
        }
    }

    pub(crate) fn text(self) -> &'j str {
        &self.joined.text[self.start..self.end]
    }

    pub(crate) fn part(self, start: usize, end: usize) -> Self {
        Self {
            start: self.start + start,
            end: self.start + end,
            ..self
        }
    }

    pub(crate) fn trimmed(self) -> Self {
        let text = self.text();
        let start = text.len() - text.trim_start().len();
        self.part(start, start + text.trim().len())
    }

    pub(crate) fn span(self) -> Span {
        self.joined.span(self.start, self.end)
    }

    pub(crate) fn spanned(self) -> Spanned<String> {
        Spanned {
            value: self.text().to_owned(),
            span: self.span(),
        }
    }
}

/// Matches `rule` and gives the ranges of the inner pairs of rule `wanted`.
fn ranges(rule: Rule, wanted: Rule, text: &str) -> Option<Vec<(usize, usize)>> {
    let pair = Grammar::parse(rule, text).ok()?.next()?;
    let inner = pair.into_inner().filter(|part| part.as_rule() == wanted);
    Some(
        inner
            .map(|part| (part.as_span().start(), part.as_span().end()))
            .collect(),
    )
}

/// A flag word without its quotes and escapes; the escape is always a backslash here.
pub(crate) fn unquote_flag(raw: &str) -> String {
    let mut out = String::with_capacity(raw.len());
    let mut quote = None;
    let mut chars = raw.chars();
    while let Some(ch) = chars.next() {
        match ch {
            '\\' => out.extend(chars.next()),
            _ if quote == Some(ch) => quote = None,
            '\'' | '"' if quote.is_none() => quote = Some(ch),
            _ => out.push(ch),
        }
    }
    out
}

/// Words cut at blanks.
pub(crate) fn list(view: View<'_, '_>) -> Vec<Spanned<String>> {
    let found = ranges(Rule::list, Rule::item, view.text()).unwrap_or_default();
    found
        .into_iter()
        .map(|(start, end)| view.part(start, end).spanned())
        .collect()
}

fn word_ranges(text: &str, escape: char) -> Vec<(usize, usize)> {
    let (words, word) = match escape {
        '`' => (Rule::words_backtick, Rule::word_backtick),
        _ => (Rule::words_backslash, Rule::word_backslash),
    };
    let mut found = ranges(words, word, text).unwrap_or_default();
    if let Some(last) = found.last_mut() {
        // An escape that escapes nothing is dropped.
        if ends_in_open_escape(&text[last.0..last.1], escape) {
            last.1 -= escape.len_utf8();
        }
    }
    found.retain(|(start, end)| start < end);
    found
}

/// Whether the last character is an escape with nothing behind it, outside of single quotes.
fn ends_in_open_escape(word: &str, escape: char) -> bool {
    if !word.ends_with(escape) {
        return false;
    }
    let mut quote = None;
    let mut chars = word.chars();
    while let Some(ch) = chars.next() {
        if ch == escape && quote != Some('\'') {
            if chars.next().is_none() {
                return true;
            }
        } else if quote == Some(ch) {
            quote = None;
        } else if quote.is_none() && matches!(ch, '\'' | '"') {
            quote = Some(ch);
        }
    }
    false
}

/// Cuts a text at blanks that no quotes and no escape protect; quotes and escapes stay.
///
/// This is how ENV, LABEL and ARG find their words.
#[must_use]
pub fn words(text: &str, escape: char) -> Vec<String> {
    word_ranges(text, escape)
        .into_iter()
        .map(|(start, end)| text[start..end].to_owned())
        .collect()
}

/// Words with their spans.
pub(crate) fn word_list(view: View<'_, '_>, escape: char) -> Vec<Spanned<String>> {
    let found = word_ranges(view.text(), escape);
    found
        .into_iter()
        .map(|(start, end)| view.part(start, end).spanned())
        .collect()
}

/// The arguments of ENV and LABEL: three for each pair.
pub(crate) fn pairs(
    view: View<'_, '_>,
    command: &str,
    escape: char,
) -> Result<Vec<Spanned<String>>, Wrong> {
    let found = word_ranges(view.text(), escape);
    let Some((start, end)) = found.first().copied() else {
        return Ok(Vec::new());
    };
    if !view.text()[start..end].contains('=') {
        return legacy_pair(view, command);
    }
    let mut out = Vec::with_capacity(found.len() * 3);
    for (start, end) in found {
        let word = &view.text()[start..end];
        let Some(equals) = word.find('=') else {
            let word = crate::quote::quote(word);
            let message =
                format!("Syntax error - can't find = in {word}. Must be of the form: name=value");
            return Err(Wrong {
                message,
                span: view.part(start, end).span(),
                help: "a value with blanks needs quotes: name=\"a b\"".to_owned(),
            });
        };
        let equals = start + equals;
        out.push(view.part(start, equals).spanned());
        out.push(view.part(equals + 1, end).spanned());
        out.push(view.part(equals, equals + 1).spanned());
    }
    Ok(out)
}

fn legacy_pair(view: View<'_, '_>, command: &str) -> Result<Vec<Spanned<String>>, Wrong> {
    let text = view.text();
    let pair = Grammar::parse(Rule::legacy_pair, text)
        .ok()
        .and_then(|mut pairs| pairs.next());
    let Some(pair) = pair else {
        return Err(Wrong {
            message: format!("{command} must have two arguments"),
            span: view.span(),
            help: format!("write {command} name=value"),
        });
    };
    let mut out = Vec::with_capacity(3);
    for part in pair.into_inner() {
        if matches!(part.as_rule(), Rule::item | Rule::legacy_value) {
            out.push(
                view.part(part.as_span().start(), part.as_span().end())
                    .spanned(),
            );
        }
    }
    out.push(view.part(text.len(), text.len()).spanned());
    Ok(out)
}

/// The first word and the rest behind the blanks that follow it.
pub(crate) fn split_first_word<'j, 't>(view: View<'j, 't>) -> (View<'j, 't>, View<'j, 't>) {
    let text = view.text();
    let end = Grammar::parse(Rule::first_word, text)
        .ok()
        .and_then(|mut pairs| pairs.next())
        .map_or(0, |pair| pair.as_span().end());
    (view.part(0, end), view.part(end, text.len()).trimmed())
}

/// The strings of a JSON array, `None` if the text is not JSON.
pub(crate) fn json(view: View<'_, '_>) -> Result<Option<Vec<Spanned<String>>>, Wrong> {
    let Some(found) = json_ranges(view.text()).map_err(|message| Wrong {
        message,
        span: view.span(),
        help: "put every element in double quotes".to_owned(),
    })?
    else {
        return Ok(None);
    };
    let strings = found.into_iter().map(|(start, end)| Spanned {
        value: unescape_json(&view.text()[start..end]),
        span: view.part(start, end).span(),
    });
    Ok(Some(strings.collect()))
}

/// Reads the exec form: the strings of a JSON array, `None` if the text is not a JSON array.
///
/// # Errors
/// When it is a JSON array with anything but strings in it.
pub fn json_strings(text: &str) -> Result<Option<Vec<String>>, String> {
    let found = json_ranges(text)?;
    Ok(found.map(|ranges| {
        ranges
            .into_iter()
            .map(|(start, end)| unescape_json(&text[start..end]))
            .collect()
    }))
}

fn json_ranges(text: &str) -> Result<Option<Vec<(usize, usize)>>, String> {
    if !text.trim_start().starts_with('[') {
        return Ok(None);
    }
    if let Some(pair) = Grammar::parse(Rule::json_array, text)
        .ok()
        .and_then(|mut pairs| pairs.next())
    {
        let strings = pair
            .into_inner()
            .filter(|part| part.as_rule() == Rule::json_string);
        // Without the quotes.
        return Ok(Some(
            strings
                .map(|part| (part.as_span().start() + 1, part.as_span().end() - 1))
                .collect(),
        ));
    }
    match serde_json::from_str::<Vec<serde_json::Value>>(text) {
        Ok(_) => Err(JSON_NOT_STRINGS.to_owned()),
        Err(_) => Ok(None),
    }
}

/// Resolves escapes; a lone surrogate becomes the replacement character.
fn unescape_json(raw: &str) -> String {
    let mut out = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let escape = rest[at + 1..].chars().next().unwrap_or('\\');
        rest = &rest[(at + 1 + escape.len_utf8()).min(rest.len())..];
        match escape {
            'b' => out.push('\u{8}'),
            'f' => out.push('\u{c}'),
            'n' => out.push('\n'),
            'r' => out.push('\r'),
            't' => out.push('\t'),
            'u' => {
                let high = hex4(rest).unwrap_or(0xfffd);
                rest = rest.get(4..).unwrap_or_default();
                let low = rest
                    .strip_prefix("\\u")
                    .and_then(hex4)
                    .filter(|low| (0xdc00..0xe000).contains(low));
                match (high, low) {
                    (0xd800..0xdc00, Some(low)) => {
                        rest = rest.get(6..).unwrap_or_default();
                        let code = 0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00);
                        out.push(char::from_u32(code).unwrap_or('\u{fffd}'));
                    }
                    _ => out.push(char::from_u32(high).unwrap_or('\u{fffd}')),
                }
            }
            other => out.push(other),
        }
    }
    out.push_str(rest);
    out
}

fn hex4(text: &str) -> Option<u32> {
    u32::from_str_radix(text.get(..4)?, 16).ok()
}
