//! Quoted text as messages show it: double quotes, escapes for what is not printable.
//!
//! The form is that of Go's `%q`, because the messages are known in that form.

use std::fmt::Write as _;

/// Quotes a text.
#[must_use]
pub fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for ch in text.chars() {
        push(&mut out, ch);
    }
    out.push('"');
    out
}

fn push(out: &mut String, ch: char) {
    match ch {
        '"' => out.push_str("\\\""),
        '\\' => out.push_str("\\\\"),
        '\u{7}' => out.push_str("\\a"),
        '\u{8}' => out.push_str("\\b"),
        '\u{c}' => out.push_str("\\f"),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        '\u{b}' => out.push_str("\\v"),
        ' '..='~' => out.push(ch),
        _ if ch.is_ascii() => {
            let _ = write!(out, "\\x{:02x}", u32::from(ch));
        }
        _ if printable(ch) => out.push(ch),
        _ if u32::from(ch) > 0xffff => {
            let _ = write!(out, "\\U{:08x}", u32::from(ch));
        }
        _ => {
            let _ = write!(out, "\\u{:04x}", u32::from(ch));
        }
    }
}

/// Letters, marks, numbers, punctuation and symbols; no blanks, controls or unassigned code points.
fn printable(ch: char) -> bool {
    if ch.is_whitespace() || ch.is_control() || ch == '\u{feff}' {
        return false;
    }
    // The standard library's table also escapes combining marks, which are printable here.
    ch.escape_debug().len() == 1 || (ch.is_alphanumeric() || ('\u{300}'..='\u{36f}').contains(&ch))
}
