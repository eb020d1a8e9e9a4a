//! Shell patterns of the `#`, `%` and `/` operators: `*`, `?` and literals, no bracket expressions.

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
    let mut kept = match match_at(&tokens, &chars, 0, greedy) {
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
    let mut copied = 0;
    let mut search = 0;
    while search <= chars.len() {
        let Some((start, end)) = find(&tokens, &chars, search) else {
            break;
        };
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

/// Leftmost match from `from` on.
fn find(tokens: &[Token], chars: &[char], from: usize) -> Option<(usize, usize)> {
    (from..=chars.len())
        .find_map(|start| match_at(tokens, chars, start, true).map(|end| (start, end)))
}

/// End of the longest or shortest match that begins at `start`.
///
/// It follows all ways through the pattern at once, so that stars cost no more than the product of the lengths.
fn match_at(tokens: &[Token], chars: &[char], start: usize, longest: bool) -> Option<usize> {
    let mut active = vec![false; tokens.len() + 1];
    activate(&mut active, tokens, 0);
    let mut found = None;
    for at in start..=chars.len() {
        if active[tokens.len()] {
            found = Some(at);
            if !longest {
                break;
            }
        }
        let Some(ch) = chars.get(at) else {
            break;
        };
        let mut next = vec![false; tokens.len() + 1];
        let mut alive = false;
        for (index, token) in tokens
            .iter()
            .enumerate()
            .filter(|(index, _)| active[*index])
        {
            let target = match token {
                Token::Star if *ch != '\n' => index,
                Token::Any if *ch != '\n' => index + 1,
                Token::Literal(literal) if literal == ch => index + 1,
                _ => continue,
            };
            activate(&mut next, tokens, target);
            alive = true;
        }
        if !alive {
            break;
        }
        active = next;
    }
    found
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
