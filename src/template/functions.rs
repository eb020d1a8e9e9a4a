//! Functions of templates: those of Go's `text/template` and those that Docker's command line adds.

use super::printf;
use super::value::{self, Schema, Val};
use serde_json::Value;
use std::cmp::Ordering;

const NAMES: [&str; 25] = [
    "and", "eq", "ge", "gt", "index", "join", "json", "le", "len", "lower", "lt", "ne", "not",
    "or", "pad", "print", "printf", "println", "slice", "split", "title", "truncate", "upper",
    "html", "urlquery",
];

const TOO_LONG: &str = "the result is too long";

/// Widest padding.
const MAX_PAD: u64 = 10_000;

/// Why a call failed.
pub(super) enum Failed {
    /// It was called wrongly.
    Arguments(String),
    /// It said so itself.
    Call(String),
}

fn call_error<T>(message: impl Into<String>) -> Result<T, Failed> {
    Err(Failed::Call(message.into()))
}

pub(super) fn exists(name: &str) -> bool {
    NAMES.contains(&name)
}

/// Whether a heading stays what it is when this is called on it.
pub(super) fn leaves_headings(name: &str) -> bool {
    [
        "json", "join", "split", "title", "lower", "upper", "truncate", "pad",
    ]
    .contains(&name)
}

/// Bytes of a value, roughly.
pub(super) fn weight(value: &Value) -> u64 {
    match value {
        Value::String(text) => text.len() as u64,
        Value::Array(items) => items.iter().map(|item| 16 + weight(item)).sum(),
        Value::Object(map) => map
            .iter()
            .map(|(key, value)| 16 + key.len() as u64 + weight(value))
            .sum(),
        _ => 8,
    }
}

/// Bytes that a call copies at least.
pub(super) fn cost(name: &str, arguments: &[Val<'_>]) -> u64 {
    if matches!(name, "index" | "len" | "not" | "eq" | "ne") {
        return 0;
    }
    arguments
        .iter()
        .map(|argument| weight(argument.value()))
        .sum()
}

fn arity(name: &str) -> (usize, usize) {
    match name {
        "json" | "len" | "lower" | "not" | "title" | "upper" => (1, 1),
        "ge" | "gt" | "le" | "lt" | "ne" | "split" | "join" | "truncate" => (2, 2),
        "eq" => (2, usize::MAX),
        "pad" => (3, 3),
        "slice" => (1, 3),
        "index" | "printf" => (1, usize::MAX),
        _ => (0, usize::MAX),
    }
}

pub(super) fn call<'a>(
    name: &str,
    arguments: &[Val<'a>],
    schema: &Schema,
) -> Result<Val<'a>, Failed> {
    let (least, most) = arity(name);
    let given = arguments.len();
    if given < least || given > most {
        let want = if most == least {
            least.to_string()
        } else if given < least {
            format!("at least {least}")
        } else {
            format!("at most {most}")
        };
        let message = format!("wrong number of args for {name}: want {want} got {given}");
        return Err(Failed::Arguments(message));
    }
    let first = arguments.first().unwrap_or(&Val::Missing);
    Ok(match name {
        "index" => return index(first, &arguments[1..], schema),
        "slice" => return slice(first, &arguments[1..]),
        "len" => Val::made(length(first)?),
        "not" => Val::made(!first.truth()),
        "eq" => {
            for other in &arguments[1..] {
                if equal(first.value(), other.value())? {
                    return Ok(Val::made(true));
                }
            }
            Val::made(false)
        }
        "ne" => Val::made(!equal(first.value(), arguments[1].value())?),
        "lt" | "le" | "gt" | "ge" => {
            let order = compare(first.value(), arguments[1].value())?;
            Val::made(match name {
                "lt" => order == Ordering::Less,
                "le" => order != Ordering::Greater,
                "gt" => order == Ordering::Greater,
                _ => order != Ordering::Less,
            })
        }
        "json" => Val::made(first.value().to_string()),
        "lower" => Val::made(text(first)?.to_lowercase()),
        "upper" => Val::made(text(first)?.to_uppercase()),
        "title" => Val::made(title(text(first)?)),
        "split" => Val::made(split(text(first)?, text(&arguments[1])?)),
        "join" => Val::made(join(first, text(&arguments[1])?)?),
        "truncate" => Val::made(truncate(text(first)?, number(&arguments[1])?)),
        "pad" => {
            let (before, after) = (number(&arguments[1])?, number(&arguments[2])?);
            Val::made(pad(text(first)?, before, after))
        }
        "print" => Val::made(print(arguments)),
        "println" => Val::made(println(arguments)),
        "printf" => match printf::printf(text(first)?, &arguments[1..]) {
            Some(text) => Val::made(text),
            None => return call_error(TOO_LONG),
        },
        "html" => Val::made(html(&print(arguments))),
        _ => Val::made(query(&print(arguments))),
    })
}

fn text<'v>(value: &'v Val<'_>) -> Result<&'v str, Failed> {
    match value.value() {
        Value::String(text) => Ok(text),
        Value::Null => Ok(""),
        other => {
            let kind = value::type_name(other);
            let message = format!("wrong type for value; expected string; got {kind}");
            Err(Failed::Arguments(message))
        }
    }
}

fn number(value: &Val<'_>) -> Result<u64, Failed> {
    match value.value() {
        Value::Number(number) if number.is_i64() || number.is_u64() => {
            Ok(number.as_u64().unwrap_or(0))
        }
        other => {
            let kind = value::type_name(other);
            let message = format!("wrong type for value; expected int; got {kind}");
            Err(Failed::Arguments(message))
        }
    }
}

fn length(value: &Val<'_>) -> Result<usize, Failed> {
    match value.value() {
        Value::String(text) => Ok(text.len()),
        Value::Array(items) => Ok(items.len()),
        Value::Object(map) => Ok(map.len()),
        other => call_error(format!("len of type {}", value::type_name(other))),
    }
}

fn index<'a>(of: &Val<'a>, keys: &[Val<'a>], schema: &Schema) -> Result<Val<'a>, Failed> {
    let mut value = of.clone();
    for key in keys {
        value = match (&value, key.value()) {
            (Val::Data(Value::Object(map), is_map), Value::String(key)) => match map.get(key) {
                Some(found) => Val::Data(found, schema.open),
                None if *is_map && !schema.open => Val::made(""),
                None => Val::Missing,
            },
            (other, key) => match (other.value(), key) {
                (Value::Null, _) => return call_error("index of untyped nil"),
                (Value::Object(_), Value::String(_)) => Val::made(""),
                (Value::Array(items), Value::Number(at)) => {
                    let at = at.as_u64().and_then(|at| usize::try_from(at).ok());
                    match at.filter(|at| *at < items.len()) {
                        Some(at) => other.item(at),
                        None => return call_error(format!("index out of range: {key}")),
                    }
                }
                (Value::String(text), Value::Number(at)) => {
                    let at = at.as_u64().and_then(|at| usize::try_from(at).ok());
                    match at.and_then(|at| text.as_bytes().get(at)) {
                        Some(byte) => Val::made(*byte),
                        None => return call_error(format!("index out of range: {key}")),
                    }
                }
                (Value::Array(_) | Value::String(_), other) => {
                    let kind = value::type_name(other);
                    return call_error(format!("cannot index slice/array with type {kind}"));
                }
                (Value::Object(_), other) => {
                    let kind = value::type_name(other);
                    return call_error(format!("value has type {kind}; should be string"));
                }
                (other, _) => {
                    let kind = value::type_name(other);
                    return call_error(format!("can't index item of type {kind}"));
                }
            },
        };
    }
    Ok(value)
}

fn slice<'a>(of: &Val<'a>, bounds: &[Val<'a>]) -> Result<Val<'a>, Failed> {
    let whole = match of.value() {
        Value::String(text) => text.len(),
        Value::Array(items) => items.len(),
        other => {
            let kind = value::type_name(other);
            return call_error(format!("can't slice item of type {kind}"));
        }
    };
    let bound = |at: usize, fallback: usize| match bounds.get(at) {
        Some(bound) => {
            usize::try_from(number(bound)?).or_else(|_| call_error("index out of range"))
        }
        None => Ok(fallback),
    };
    let (from, to) = (bound(0, 0)?, bound(1, whole)?);
    if to > whole || from > to {
        let bad = if to > whole { to } else { from };
        return call_error(format!("index out of range: {bad}"));
    }
    Ok(match of.value() {
        Value::Array(items) => Val::made(items[from..to].to_vec()),
        Value::String(text) => {
            Val::made(String::from_utf8_lossy(&text.as_bytes()[from..to]).into_owned())
        }
        _ => Val::Missing,
    })
}

fn equal(a: &Value, b: &Value) -> Result<bool, Failed> {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => {
            Ok(a == b || (a.is_f64() != b.is_f64() && a.as_f64() == b.as_f64()))
        }
        (Value::Null, b) => Ok(b.is_null()),
        (a, Value::Null) => Ok(a.is_null()),
        (Value::Array(_) | Value::Object(_), _) | (_, Value::Array(_) | Value::Object(_)) => {
            call_error("non-comparable type")
        }
        (a, b) if value::type_name(a) == value::type_name(b) => Ok(a == b),
        _ => call_error("incompatible types for comparison"),
    }
}

fn compare(a: &Value, b: &Value) -> Result<Ordering, Failed> {
    match (a, b) {
        (Value::String(a), Value::String(b)) => Ok(a.cmp(b)),
        (Value::Number(a), Value::Number(b)) => {
            if let (Some(a), Some(b)) = (a.as_i64(), b.as_i64()) {
                return Ok(a.cmp(&b));
            }
            let order = a.as_f64().partial_cmp(&b.as_f64());
            order.map_or_else(|| call_error("invalid type for comparison"), Ok)
        }
        (Value::String(_) | Value::Number(_), Value::String(_) | Value::Number(_)) => {
            call_error("incompatible types for comparison")
        }
        _ => call_error("invalid type for comparison"),
    }
}

fn title(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    let mut inside = false;
    for c in text.chars() {
        if inside {
            result.push(c);
        } else {
            result.extend(c.to_uppercase());
        }
        inside = c.is_alphanumeric() || c == '_' || c == '\'';
    }
    result
}

fn split(text: &str, by: &str) -> Vec<Value> {
    if by.is_empty() {
        return text.chars().map(|c| Value::from(c.to_string())).collect();
    }
    text.split(by).map(Value::from).collect()
}

fn join(list: &Val<'_>, by: &str) -> Result<String, Failed> {
    match list.value() {
        Value::Null => Ok(String::new()),
        Value::Array(items) => {
            let texts: Vec<String> = (0..items.len())
                .map(|at| {
                    let mut text = String::new();
                    value::show(&list.item(at), &mut text);
                    text
                })
                .collect();
            // The separator counts, so that many of a long one cost what they are.
            if (by.len() as u64).saturating_mul(texts.len() as u64) > (64 << 20) {
                return call_error(TOO_LONG);
            }
            Ok(texts.join(by))
        }
        other => {
            let kind = value::type_name(other);
            let message = format!("wrong type for value; expected []string; got {kind}");
            Err(Failed::Arguments(message))
        }
    }
}

fn truncate(text: &str, length: u64) -> String {
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if text.len() <= length {
        return text.to_owned();
    }
    let end = (0..=length).rev().find(|&end| text.is_char_boundary(end));
    text[..end.unwrap_or(0)].to_owned()
}

fn pad(text: &str, before: u64, after: u64) -> String {
    if text.is_empty() {
        return String::new();
    }
    let blanks = |count: u64| " ".repeat(usize::try_from(count.min(MAX_PAD)).unwrap_or(0));
    format!("{}{text}{}", blanks(before), blanks(after))
}

/// Blanks stand between operands when neither is a text.
fn print(arguments: &[Val<'_>]) -> String {
    let mut out = String::new();
    let mut after_text = true;
    for (position, argument) in arguments.iter().enumerate() {
        let is_text = argument.value().is_string();
        if position > 0 && !is_text && !after_text {
            out.push(' ');
        }
        value::show(argument, &mut out);
        after_text = is_text;
    }
    out
}

fn println(arguments: &[Val<'_>]) -> String {
    let mut out = String::new();
    for (position, argument) in arguments.iter().enumerate() {
        if position > 0 {
            out.push(' ');
        }
        value::show(argument, &mut out);
    }
    out.push('\n');
    out
}

fn html(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            '\0' => out.push('\u{fffd}'),
            other => out.push(other),
        }
    }
    out
}

fn query(text: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                out.push(char::from(byte));
            }
            b' ' => out.push('+'),
            other => {
                let _ = write!(out, "%{other:02X}");
            }
        }
    }
    out
}
