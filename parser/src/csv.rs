//! One CSV record, as mounts and devices are written: commas, quotes around fields, quotes doubled inside.

use std::iter::Peekable;
use std::str::CharIndices;

/// Cuts a record into its fields.
pub(crate) fn fields(record: &str) -> Result<Vec<String>, String> {
    if record.is_empty() {
        return Err("EOF".to_owned());
    }
    let mut fields = Vec::new();
    let mut chars = record.char_indices().peekable();
    loop {
        let field = if chars.next_if(|(_, ch)| *ch == '"').is_some() {
            quoted(&mut chars, record.len())?
        } else {
            plain(&mut chars)?
        };
        fields.push(field);
        if chars.next().is_none() {
            return Ok(fields);
        }
    }
}

/// Reads up to the comma, which stays.
fn plain(chars: &mut Peekable<CharIndices<'_>>) -> Result<String, String> {
    let mut field = String::new();
    while let Some((at, ch)) = chars.next_if(|(_, ch)| *ch != ',') {
        if ch == '"' {
            return Err(format!(
                "parse error on line 1, column {}: bare \" in non-quoted field",
                at + 1
            ));
        }
        field.push(ch);
    }
    Ok(field)
}

/// Reads behind an opening quote up to the comma behind the closing one, which stays.
fn quoted(chars: &mut Peekable<CharIndices<'_>>, len: usize) -> Result<String, String> {
    let wrong = |at: usize| {
        format!(
            "parse error on line 1, column {}: extraneous or missing \" in quoted-field",
            at + 1
        )
    };
    let mut field = String::new();
    while let Some((at, ch)) = chars.next() {
        if ch != '"' {
            field.push(ch);
            continue;
        }
        match chars.peek() {
            None | Some((_, ',')) => return Ok(field),
            Some((_, '"')) => {
                chars.next();
                field.push('"');
            }
            Some(_) => return Err(wrong(at)),
        }
    }
    Err(wrong(len))
}
