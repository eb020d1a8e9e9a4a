//! JSON for people and for other programs' eyes: indented, keys in the order in which Docker's and BuildKit's tools write them.
//!
//! Bytes that have a digest are only re-indented, never parsed and written anew.

use serde_json::Value;

/// Keys of indexes, descriptors and platforms in the order of the Go structures that others print.
const ORDER: [&str; 29] = [
    "Ref",
    "Descriptor",
    "Raw",
    "SchemaV2Manifest",
    "OCIManifest",
    "name",
    "manifest",
    "image",
    "schemaVersion",
    "mediaType",
    "artifactType",
    "config",
    "digest",
    "size",
    "urls",
    "manifests",
    "layers",
    "subject",
    "data",
    "architecture",
    "os",
    "os.version",
    "os.features",
    "variant",
    "features",
    "annotations",
    "platform",
    "rootfs",
    "history",
];

/// A document as `imagetools create` of buildx writes it, byte for byte: two blanks, Go's escapes.
#[must_use]
pub fn ordered(value: &Value) -> Vec<u8> {
    let mut out = String::new();
    write(value, "  ", 0, &mut out);
    out.into_bytes()
}

fn rank(key: &str) -> usize {
    ORDER
        .iter()
        .position(|known| *known == key)
        .unwrap_or(ORDER.len())
}

fn write(value: &Value, unit: &str, depth: usize, out: &mut String) {
    let line = |depth: usize, out: &mut String| {
        out.push('\n');
        out.push_str(&unit.repeat(depth));
    };
    match value {
        Value::Object(map) if !map.is_empty() => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by(|a, b| (rank(a.0), a.0).cmp(&(rank(b.0), b.0)));
            out.push('{');
            for (position, (key, value)) in entries.into_iter().enumerate() {
                if position > 0 {
                    out.push(',');
                }
                line(depth + 1, out);
                text(key, out);
                out.push_str(": ");
                write(value, unit, depth + 1, out);
            }
            line(depth, out);
            out.push('}');
        }
        Value::Array(items) if !items.is_empty() => {
            out.push('[');
            for (position, item) in items.iter().enumerate() {
                if position > 0 {
                    out.push(',');
                }
                line(depth + 1, out);
                write(item, unit, depth + 1, out);
            }
            line(depth, out);
            out.push(']');
        }
        Value::String(string) => text(string, out),
        other => out.push_str(&other.to_string()),
    }
}

/// A string with the escapes of Go's encoder.
fn text(string: &str, out: &mut String) {
    let plain = Value::from(string).to_string();
    for c in plain.chars() {
        match c {
            '<' => out.push_str("\\u003c"),
            '>' => out.push_str("\\u003e"),
            '&' => out.push_str("\\u0026"),
            '\u{2028}' => out.push_str("\\u2028"),
            '\u{2029}' => out.push_str("\\u2029"),
            c => out.push(c),
        }
    }
}

/// JSON text with other white space: order, numbers and escapes stay as they are. What is no JSON comes out somehow.
#[must_use]
pub fn reindented(json: &str, unit: &str) -> String {
    let mut out = String::with_capacity(json.len() * 2);
    let (mut depth, mut in_string, mut escaped, mut just_opened) = (0_usize, false, false, false);
    let line = |depth: usize, out: &mut String| {
        out.push('\n');
        out.push_str(&unit.repeat(depth));
    };
    for c in json.chars() {
        if in_string {
            out.push(c);
            in_string = escaped || c != '"';
            escaped = !escaped && c == '\\';
            continue;
        }
        if c.is_ascii_whitespace() {
            continue;
        }
        if matches!(c, '}' | ']') {
            depth = depth.saturating_sub(1);
            if !just_opened {
                line(depth, &mut out);
            }
            just_opened = false;
            out.push(c);
            continue;
        }
        if just_opened {
            line(depth, &mut out);
            just_opened = false;
        }
        out.push(c);
        match c {
            '"' => in_string = true,
            '{' | '[' => {
                depth += 1;
                just_opened = true;
            }
            ',' => line(depth, &mut out),
            ':' => out.push(' '),
            _ => {}
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn known_keys_come_in_their_order_and_others_after() {
        let value = json!({"zz": [], "annotations": {"b": "<&>", "a": "x"}, "manifests": [{"size": 1, "mediaType": "m"}], "schemaVersion": 2});
        let expected = "{\n  \"schemaVersion\": 2,\n  \"manifests\": [\n    {\n      \"mediaType\": \"m\",\n      \"size\": 1\n    }\n  ],\n  \"annotations\": {\n    \"a\": \"x\",\n    \"b\": \"\\u003c\\u0026\\u003e\"\n  },\n  \"zz\": []\n}";
        assert_eq!(String::from_utf8(ordered(&value)).unwrap(), expected);
    }

    #[test]
    fn only_white_space_changes() {
        let text = r#"{"b": 1.50,"a":["x:{\",", {} ,[ ]],"e":{"k":null}}"#;
        let shown = reindented(text, "\t");
        assert_eq!(
            shown,
            "{\n\t\"b\": 1.50,\n\t\"a\": [\n\t\t\"x:{\\\",\",\n\t\t{},\n\t\t[]\n\t],\n\t\"e\": {\n\t\t\"k\": null\n\t}\n}"
        );
        assert_eq!(reindented(&shown, "\t"), shown);
    }
}
