//! Shell patterns of the `#`, `%` and `/` operators: `*`, `?` and literals, no bracket expressions.

use super::MAX_LENGTH;

/// Comparisons of a character with a place of a pattern that one operator may take: some tenths of a second. Patterns are
/// a few characters and values a line; only what was made to keep the builder busy comes near it.
const MAX_COMPARISONS: usize = 20_000_000;

/// Which end of the value a pattern is taken from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Side {
    Prefix,
    Suffix,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Token {
    /// Any run of characters but newlines.
    Star,
    /// Any character but a newline.
    Any,
    Literal(char),
}

/// Removes the shortest or longest match of `pattern` at one end of `value`.
pub(super) fn trim(side: Side, pattern: &str, value: &str, greedy: bool) -> Result<String, String> {
    let mut chars: Vec<char> = value.chars().collect();
    let mut pattern = pattern.to_owned();
    if side == Side::Suffix {
        // The shortest match at the end is a leftmost match once both are turned around.
        chars.reverse();
        pattern = reversed(&pattern);
    }
    let tokens = compile(&pattern)?;
    let mut matcher = Matcher::new(&tokens, &chars);
    let mut kept = match matcher.match_at(0, greedy)? {
        Some(end) => chars.split_off(end),
        None => chars,
    };
    if side == Side::Suffix {
        kept.reverse();
    }
    Ok(kept.into_iter().collect())
}

/// Replaces the first match or all of them; the longest match at each place counts.
pub(super) fn replace(pattern: &str, value: &str, with: &str, all: bool) -> Result<String, String> {
    let tokens = compile(pattern)?;
    let chars: Vec<char> = value.chars().collect();
    let mut out = String::with_capacity(value.len());
    let mut matcher = Matcher::new(&tokens, &chars);
    let mut copied = 0;
    let mut search = 0;
    while search <= chars.len() {
        let Some((start, end)) = matcher.find(search)? else {
            break;
        };
        if out.len() > MAX_LENGTH {
            return Err(super::too_long());
        }
        out.extend(&chars[copied..start]);
        // An empty match just behind a match does not count.
        if end > copied || start == 0 {
            if all {
                push_template(&mut out, with, &chars[start..end]);
            } else {
                out.push_str(with);
            }
        }
        copied = end;
        if !all {
            break;
        }
        search = if end > search { end } else { search + 1 };
    }
    out.extend(&chars[copied..]);
    Ok(out)
}

/// A pattern over a value, and what may still be spent on it.
struct Matcher<'a> {
    tokens: &'a [Token],
    chars: &'a [char],
    comparisons_left: usize,
}

impl<'a> Matcher<'a> {
    fn new(tokens: &'a [Token], chars: &'a [char]) -> Self {
        Self {
            tokens,
            chars,
            comparisons_left: MAX_COMPARISONS,
        }
    }

    /// Leftmost match from `from` on.
    fn find(&mut self, from: usize) -> Result<Option<(usize, usize)>, String> {
        for start in from..=self.chars.len() {
            if let Some(end) = self.match_at(start, true)? {
                return Ok(Some((start, end)));
            }
        }
        Ok(None)
    }

    /// End of the longest or shortest match that begins at `start`.
    ///
    /// It follows all ways through the pattern at once, so that stars cost no more than the product of the lengths.
    fn match_at(&mut self, start: usize, longest: bool) -> Result<Option<usize>, String> {
        let end_of_pattern = self.tokens.len();
        let mut active = vec![false; end_of_pattern + 1];
        activate(&mut active, self.tokens, 0);
        let mut found = None;
        for at in start..=self.chars.len() {
            if active[end_of_pattern] {
                found = Some(at);
                if !longest {
                    break;
                }
            }
            let Some(ch) = self.chars.get(at) else {
                break;
            };
            self.comparisons_left = self
                .comparisons_left
                .checked_sub(end_of_pattern + 1)
                .ok_or_else(|| "the pattern takes too long on a value of this length".to_owned())?;
            let Some(next) = step(self.tokens, &active, *ch) else {
                break;
            };
            active = next;
        }
        Ok(found)
    }
}

/// The places of the pattern that can be reached over `ch`; `None` when there is none.
fn step(tokens: &[Token], active: &[bool], ch: char) -> Option<Vec<bool>> {
    let mut next = vec![false; tokens.len() + 1];
    let mut alive = false;
    for (index, token) in tokens
        .iter()
        .enumerate()
        .filter(|(index, _)| active[*index])
    {
        let target = match token {
            Token::Star if ch != '\n' => index,
            Token::Any if ch != '\n' => index + 1,
            Token::Literal(literal) if *literal == ch => index + 1,
            _ => continue,
        };
        activate(&mut next, tokens, target);
        alive = true;
    }
    alive.then_some(next)
}

/// Marks a place in the pattern, and those behind stars that may match nothing.
fn activate(active: &mut [bool], tokens: &[Token], mut index: usize) {
    active[index] = true;
    while tokens.get(index) == Some(&Token::Star) {
        index += 1;
        active[index] = true;
    }
}

fn compile(pattern: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::with_capacity(pattern.len());
    let mut chars = pattern.chars().peekable();
    while let Some(ch) = chars.next() {
        let token = match ch {
            '*' => Token::Star,
            '?' => Token::Any,
            '\\' => match chars.next_if(|next| matches!(next, '*' | '?' | '\\' | '}' | '/')) {
                Some(escaped) => Token::Literal(escaped),
                None => {
                    let bad = chars.next().unwrap_or('\u{fffd}');
                    return Err(format!(
                        "invalid pattern ({pattern}) in substitution: invalid escape '\\{bad}'"
                    ));
                }
            },
            _ => Token::Literal(ch),
        };
        tokens.push(token);
    }
    Ok(tokens)
}

/// Turns a pattern around, escapes staying before what they escape.
fn reversed(pattern: &str) -> String {
    let mut units: Vec<String> = Vec::new();
    let mut chars = pattern.chars();
    while let Some(ch) = chars.next() {
        let mut unit = String::from(ch);
        if ch == '\\' {
            unit.extend(chars.next());
        }
        units.push(unit);
    }
    units.reverse();
    units.concat()
}

/// Adds the replacement text of a global replacement, in which `$0` is the match and other groups are empty.
fn push_template(out: &mut String, template: &str, matched: &[char]) {
    let mut rest = template;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
            continue;
        }
        let (inside, braced) = rest
            .strip_prefix('{')
            .map_or((rest, false), |inside| (inside, true));
        let len = inside
            .find(|ch: char| ch != '_' && !ch.is_alphanumeric())
            .unwrap_or(inside.len());
        let (name, after) = inside.split_at(len);
        let after = if braced {
            after.strip_prefix('}')
        } else {
            Some(after)
        };
        match after {
            Some(after) if !name.is_empty() => {
                if name.bytes().all(|byte| byte == b'0') && name.len() == 1 {
                    out.extend(matched);
                }
                rest = after;
            }
            _ => out.push('$'),
        }
    }
    out.push_str(rest);
}
