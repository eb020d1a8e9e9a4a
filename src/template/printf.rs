//! Go's `printf`: the verbs, flags, widths and precisions that make sense for JSON's values.

use super::value::{self, Val};
use serde_json::Value;

/// Wider is no width (Go's own bound is a million; templates need less).
const MAX_WIDTH: usize = 10_000;

/// Longest result, in bytes.
const MAX_RESULT: usize = 64 << 20;

#[derive(Default)]
struct Format {
    minus: bool,
    plus: bool,
    sharp: bool,
    zero: bool,
    space: bool,
    width: Option<usize>,
    precision: Option<usize>,
}

/// `None` when the result gets too long.
pub(super) fn printf(format: &str, arguments: &[Val<'_>]) -> Option<String> {
    let mut out = String::new();
    let mut arguments = arguments.iter();
    let mut rest = format;
    while let Some(at) = rest.find('%') {
        if out.len() > MAX_RESULT {
            return None;
        }
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let (parsed, after) = directive(rest, &mut arguments);
        let Some(verb) = after.chars().next() else {
            out.push_str("%!(NOVERB)");
            rest = "";
            break;
        };
        rest = &after[verb.len_utf8()..];
        if verb == '%' {
            out.push('%');
            continue;
        }
        match arguments.next() {
            Some(argument) => one(&parsed, verb, argument, &mut out),
            None => out.push_str(&format!("%!{verb}(MISSING)")),
        }
    }
    out.push_str(rest);
    let extra: Vec<String> = arguments.map(typed).collect();
    if !extra.is_empty() {
        out.push_str(&format!("%!(EXTRA {})", extra.join(", ")));
    }
    Some(out)
}

fn typed(value: &Val<'_>) -> String {
    let mut text = String::new();
    value::show(value, &mut text);
    format!("{}={text}", value::type_name(value.value()))
}

fn directive<'f, 'v>(
    text: &'f str,
    arguments: &mut impl Iterator<Item = &'v Val<'v>>,
) -> (Format, &'f str) {
    let mut format = Format::default();
    let mut rest = text;
    loop {
        match rest.bytes().next() {
            Some(b'-') => format.minus = true,
            Some(b'+') => format.plus = true,
            Some(b'#') => format.sharp = true,
            Some(b'0') => format.zero = true,
            Some(b' ') => format.space = true,
            _ => break,
        }
        rest = &rest[1..];
    }
    let mut number = |rest: &mut &'f str| -> Option<i64> {
        if let Some(after) = rest.strip_prefix('*') {
            *rest = after;
            return arguments.next()?.value().as_i64();
        }
        let length = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (digits, after) = rest.split_at(length);
        *rest = after;
        digits.parse().ok()
    };
    let bounded = |count: i64| {
        usize::try_from(count.unsigned_abs())
            .unwrap_or(MAX_WIDTH)
            .min(MAX_WIDTH)
    };
    if let Some(width) = number(&mut rest) {
        format.minus |= width < 0;
        format.width = Some(bounded(width));
    }
    if let Some(after) = rest.strip_prefix('.') {
        rest = after;
        format.precision = Some(number(&mut rest).map_or(0, bounded));
    }
    (format, rest)
}

fn one(format: &Format, verb: char, argument: &Val<'_>, out: &mut String) {
    let value = argument.value();
    let text = match (verb, value) {
        ('v', Value::String(text)) if format.sharp => quoted(text),
        ('v', Value::Number(_)) => number(format, 'v', value),
        ('v', _) | ('s', Value::Null | Value::Array(_) | Value::Object(_)) => {
            let mut text = String::new();
            value::show(argument, &mut text);
            Some(text)
        }
        ('s', Value::String(text)) => Some(cut(text, format)),
        ('q', Value::String(text)) => quoted(&cut(text, format)),
        ('x' | 'X', Value::String(text)) => {
            let bytes = text.bytes();
            Some(if verb == 'x' {
                bytes.map(|byte| format!("{byte:02x}")).collect()
            } else {
                bytes.map(|byte| format!("{byte:02X}")).collect()
            })
        }
        ('t', Value::Bool(value)) => Some(value.to_string()),
        ('T', value) => Some(value::type_name(value).to_owned()),
        (verb, Value::Number(_)) => number(format, verb, value),
        ('q', Value::Array(items)) => {
            let items: Option<Vec<String>> = items
                .iter()
                .map(|item| item.as_str().and_then(quoted))
                .collect();
            items.map(|items| format!("[{}]", items.join(" ")))
        }
        _ => None,
    };
    match text {
        Some(text) => pad(&text, format, value.is_number(), out),
        None => out.push_str(&format!("%!{verb}({})", typed(argument))),
    }
}

fn quoted(text: &str) -> Option<String> {
    serde_json::to_string(text).ok()
}

fn cut(text: &str, format: &Format) -> String {
    match format.precision {
        Some(length) => text.chars().take(length).collect(),
        None => text.to_owned(),
    }
}

fn number(format: &Format, verb: char, value: &Value) -> Option<String> {
    let signed = |text: String| {
        if text.starts_with('-') {
            return text;
        }
        match (format.plus, format.space) {
            (true, _) => format!("+{text}"),
            (false, true) => format!(" {text}"),
            _ => text,
        }
    };
    let whole = value
        .as_i64()
        .map(i128::from)
        .or(value.as_u64().map(i128::from));
    match (verb, whole) {
        ('d' | 'v', Some(number)) => Some(signed(number.to_string())),
        ('x' | 'X' | 'o' | 'b', Some(number)) => {
            let sign = if number < 0 { "-" } else { "" };
            let size = number.unsigned_abs();
            let digits = match verb {
                'x' => format!("{size:x}"),
                'X' => format!("{size:X}"),
                'o' => format!("{size:o}"),
                _ => format!("{size:b}"),
            };
            let prefix = match (format.sharp, verb) {
                (true, 'x') => "0x",
                (true, 'X') => "0X",
                (true, 'o') => "0",
                (true, 'b') => "0b",
                _ => "",
            };
            Some(signed(format!("{sign}{prefix}{digits}")))
        }
        ('c', Some(number)) => {
            let code = u32::try_from(number).ok().and_then(char::from_u32);
            Some(code.unwrap_or('\u{fffd}').to_string())
        }
        ('q', Some(number)) => {
            let code = u32::try_from(number).ok().and_then(char::from_u32);
            Some(format!("'{}'", code.unwrap_or('\u{fffd}')))
        }
        ('U', Some(number)) => Some(format!("U+{number:04X}")),
        ('v' | 'g' | 'f' | 'F' | 'e', None) => {
            let number = value.as_f64()?;
            let digits = format.precision;
            Some(signed(match (verb, digits) {
                ('f' | 'F', digits) => format!("{number:.*}", digits.unwrap_or(6).min(300)),
                ('e', digits) => exponent(number, digits.unwrap_or(6).min(300)),
                _ => number.to_string(),
            }))
        }
        _ => None,
    }
}

/// Go writes at least two digits and a sign after the `e`.
fn exponent(number: f64, digits: usize) -> String {
    let text = format!("{number:.digits$e}");
    let Some((mantissa, exponent)) = text.split_once('e') else {
        return text;
    };
    let (sign, exponent) = match exponent.strip_prefix('-') {
        Some(exponent) => ('-', exponent),
        None => ('+', exponent),
    };
    format!("{mantissa}e{sign}{exponent:0>2}")
}

fn pad(text: &str, format: &Format, is_number: bool, out: &mut String) {
    let missing = format
        .width
        .unwrap_or(0)
        .saturating_sub(text.chars().count());
    if format.minus {
        out.push_str(text);
        out.push_str(&" ".repeat(missing));
    } else if format.zero && is_number {
        let (sign, digits) = match text.strip_prefix(['-', '+', ' ']) {
            Some(digits) => text.split_at(text.len() - digits.len()),
            None => ("", text),
        };
        out.push_str(sign);
        out.push_str(&"0".repeat(missing));
        out.push_str(digits);
    } else {
        out.push_str(&" ".repeat(missing));
        out.push_str(text);
    }
}
