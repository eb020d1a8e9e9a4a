//! Canonical JSON: object keys sorted bytewise, no blanks, so that equal values are equal bytes.
//!
//! The blobs of an image are addressed by the digest of their bytes; a serialiser that walks hash
//! maps would give one image many digests.

use serde::Serialize;
use serde_json::Value;

/// Serialises a value canonically.
pub(crate) fn to_vec<T: Serialize>(value: &T) -> Vec<u8> {
    let value = serde_json::to_value(value).expect("BUG: image documents have string keys");
    let mut out = Vec::new();
    write(&value, &mut out);
    out
}

fn write(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by(|a, b| a.0.as_bytes().cmp(b.0.as_bytes()));
            out.push(b'{');
            for (position, (key, value)) in entries.into_iter().enumerate() {
                if position > 0 {
                    out.push(b',');
                }
                scalar(&Value::from(key.as_str()), out);
                out.push(b':');
                write(value, out);
            }
            out.push(b'}');
        }
        Value::Array(items) => {
            out.push(b'[');
            for (position, item) in items.iter().enumerate() {
                if position > 0 {
                    out.push(b',');
                }
                write(item, out);
            }
            out.push(b']');
        }
        other => scalar(other, out),
    }
}

fn scalar(value: &Value, out: &mut Vec<u8>) {
    serde_json::to_writer(out, value).expect("BUG: writing to memory cannot fail");
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    #[test]
    fn keys_are_sorted_at_every_level_and_text_survives() {
        let value = json!({"b": [{"z": 1, "a": null}], "a": "RUN a\nb \"q\" é", "B": true});
        let bytes = super::to_vec(&value);
        let text = String::from_utf8(bytes.clone()).unwrap();
        assert_eq!(
            text,
            "{\"B\":true,\"a\":\"RUN a\\nb \\\"q\\\" é\",\"b\":[{\"a\":null,\"z\":1}]}"
        );
        assert_eq!(
            serde_json::from_slice::<serde_json::Value>(&bytes).unwrap(),
            value
        );
    }
}
