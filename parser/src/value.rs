//! Values of flags and fields: booleans, numbers, durations and sizes, in the forms that Go's library takes.

use crate::quote::quote;

/// `1`, `t`, `T`, `true`, `True`, `TRUE` and their opposites.
#[must_use]
pub fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "True" | "TRUE" => Some(true),
        "0" | "f" | "F" | "false" | "False" | "FALSE" => Some(false),
        _ => None,
    }
}

/// An unsigned number of 32 bits: digits of the base only.
#[must_use]
pub fn unsigned(text: &str, base: u32) -> Option<u32> {
    if text.is_empty() || !text.chars().all(|ch| ch.is_digit(base)) {
        return None;
    }
    u32::from_str_radix(text, base).ok()
}

/// A decimal number of 32 bits with an optional sign.
///
/// # Errors
/// The message of `strconv.ParseInt`.
pub fn int32(text: &str) -> Result<i32, String> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let problem = if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        "invalid syntax"
    } else {
        match text.parse() {
            Ok(number) => return Ok(number),
            Err(_) => "value out of range",
        }
    };
    Err(format!(
        "strconv.ParseInt: parsing {}: {problem}",
        quote(text)
    ))
}

/// A size in bytes: a number and `b`, `k`, `m`, `g`, `t` or `p` (powers of 1024), with `b` or `ib` behind it or not.
#[must_use]
pub fn bytes(text: &str) -> Option<u64> {
    let split = text.rfind(|ch: char| ch.is_ascii_digit() || ch == '.' || ch == ' ')? + 1;
    let (number, suffix) = text.split_at(split);
    let number = number.strip_suffix(' ').unwrap_or(number);
    if !number.starts_with(|ch: char| ch.is_ascii_digit() || ch == '.' || ch == '+') {
        return None;
    }
    let number: f64 = number.parse().ok()?;
    let suffix = suffix.to_ascii_lowercase();
    let (unit, rest) = suffix.split_at(suffix.chars().next().map_or(0, char::len_utf8));
    let power = match unit {
        "" | "b" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return None,
    };
    let rest_fits = if power == 0 {
        rest.is_empty()
    } else {
        matches!(rest, "" | "b" | "ib")
    };
    // A cast of a float saturates; sizes of that kind are no sizes.
    let size = number * 1024f64.powi(power);
    (rest_fits && size < 9.2e18).then_some(size as u64)
}

/// A duration in nanoseconds: numbers with units `ns`, `us`, `ms`, `s`, `m`, `h`.
///
/// # Errors
/// The messages of `time.ParseDuration`.
pub fn duration(text: &str) -> Result<i64, String> {
    let invalid = || format!("time: invalid duration {}", quote(text));
    let negative = text.starts_with('-');
    let mut rest = text.strip_prefix(['+', '-']).unwrap_or(text);
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total: u128 = 0;
    while !rest.is_empty() {
        let whole = take_digits(&mut rest);
        let fraction = rest.strip_prefix('.').map(|after| {
            rest = after;
            take_digits(&mut rest)
        });
        if whole.is_empty() && fraction.is_none_or(str::is_empty) {
            return Err(invalid());
        }
        let end = rest
            .find(|ch: char| ch == '.' || ch.is_ascii_digit())
            .unwrap_or(rest.len());
        let (unit, after) = rest.split_at(end);
        rest = after;
        let scale: u128 = match unit {
            "" => return Err(format!("time: missing unit in duration {}", quote(text))),
            "ns" => 1,
            "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => {
                return Err(format!(
                    "time: unknown unit {} in duration {}",
                    quote(unit),
                    quote(text)
                ));
            }
        };
        total = total
            .checked_add(scaled(whole, fraction.unwrap_or(""), scale).ok_or_else(invalid)?)
            .ok_or_else(invalid)?;
    }
    let nanos = i64::try_from(total).map_err(|_| invalid())?;
    Ok(if negative { -nanos } else { nanos })
}

fn take_digits<'t>(rest: &mut &'t str) -> &'t str {
    let end = rest
        .find(|ch: char| !ch.is_ascii_digit())
        .unwrap_or(rest.len());
    let (digits, after) = rest.split_at(end);
    *rest = after;
    digits
}

/// `whole.fraction` times `scale`; digits of the fraction below a nanosecond are cut.
fn scaled(whole: &str, fraction: &str, scale: u128) -> Option<u128> {
    let whole: u128 = if whole.is_empty() {
        0
    } else {
        whole.parse().ok()?
    };
    let fraction = &fraction[..fraction.len().min(18)];
    let part: u128 = if fraction.is_empty() {
        0
    } else {
        fraction.parse().ok()?
    };
    let divisor = 10u128.pow(u32::try_from(fraction.len()).ok()?);
    whole
        .checked_mul(scale)?
        .checked_add(part * scale / divisor)
}
