//! The error body of the distribution protocol: codes and the registry's own message.
//!
//! Only reads; what an error means for a request is decided elsewhere.

use serde_json::Value;
use std::fmt;

/// Longest text taken from a registry into a message, in characters.
const TEXT_LIMIT: usize = 400;

/// The error codes of the distribution specification (`code-1` to `code-14`).
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum ErrorCode {
    /// `BLOB_UNKNOWN`
    BlobUnknown,
    /// `BLOB_UPLOAD_INVALID`
    BlobUploadInvalid,
    /// `BLOB_UPLOAD_UNKNOWN`
    BlobUploadUnknown,
    /// `DIGEST_INVALID`
    DigestInvalid,
    /// `MANIFEST_BLOB_UNKNOWN`
    ManifestBlobUnknown,
    /// `MANIFEST_INVALID`
    ManifestInvalid,
    /// `MANIFEST_UNKNOWN`
    ManifestUnknown,
    /// `NAME_INVALID`
    NameInvalid,
    /// `NAME_UNKNOWN`
    NameUnknown,
    /// `SIZE_INVALID`
    SizeInvalid,
    /// `UNAUTHORIZED`
    Unauthorized,
    /// `DENIED`
    Denied,
    /// `UNSUPPORTED`
    Unsupported,
    /// `TOOMANYREQUESTS`
    TooManyRequests,
    /// A code the specification does not list.
    Other(String),
}

const CODES: [(&str, ErrorCode); 14] = [
    ("BLOB_UNKNOWN", ErrorCode::BlobUnknown),
    ("BLOB_UPLOAD_INVALID", ErrorCode::BlobUploadInvalid),
    ("BLOB_UPLOAD_UNKNOWN", ErrorCode::BlobUploadUnknown),
    ("DIGEST_INVALID", ErrorCode::DigestInvalid),
    ("MANIFEST_BLOB_UNKNOWN", ErrorCode::ManifestBlobUnknown),
    ("MANIFEST_INVALID", ErrorCode::ManifestInvalid),
    ("MANIFEST_UNKNOWN", ErrorCode::ManifestUnknown),
    ("NAME_INVALID", ErrorCode::NameInvalid),
    ("NAME_UNKNOWN", ErrorCode::NameUnknown),
    ("SIZE_INVALID", ErrorCode::SizeInvalid),
    ("UNAUTHORIZED", ErrorCode::Unauthorized),
    ("DENIED", ErrorCode::Denied),
    ("UNSUPPORTED", ErrorCode::Unsupported),
    ("TOOMANYREQUESTS", ErrorCode::TooManyRequests),
];

impl ErrorCode {
    /// The code of its name on the wire.
    #[must_use]
    pub fn from_name(name: &str) -> Self {
        CODES
            .iter()
            .find(|(known, _)| *known == name)
            .map_or_else(|| Self::Other(clean(name)), |(_, code)| code.clone())
    }

    /// The name on the wire.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Other(name) => name,
            known => CODES
                .iter()
                .find(|(_, code)| code == known)
                .map_or("", |(name, _)| name),
        }
    }
}

/// One entry of a registry's error body.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RegistryMessage {
    /// The code, if the body had one.
    pub code: Option<ErrorCode>,
    /// The text, cut to a reasonable length and without control characters.
    pub message: String,
    /// The entry's `detail` when it is a text or an object (as JSON).
    pub detail: Option<String>,
}

impl fmt::Display for RegistryMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.code, self.message.is_empty()) {
            (Some(code), true) => f.write_str(code.name()),
            (Some(code), false) => write!(f, "{}: {}", code.name(), self.message),
            (None, _) => f.write_str(&self.message),
        }
    }
}

/// Reads an error body; proxies and token services answer in other forms too, which become one message.
pub(crate) fn parse(body: &[u8]) -> Vec<RegistryMessage> {
    let Ok(value) = serde_json::from_slice::<Value>(body) else {
        return plain_text(body);
    };
    if let Some(errors) = value.get("errors").and_then(Value::as_array) {
        return errors.iter().take(8).map(entry).collect();
    }
    ["message", "details", "error_description", "error"]
        .iter()
        .find_map(|key| value.get(key).and_then(Value::as_str))
        .map(|text| vec![without_code(text)])
        .unwrap_or_default()
}

fn entry(value: &Value) -> RegistryMessage {
    let text = |key: &str| value.get(key).and_then(Value::as_str);
    let detail = match value.get("detail") {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => Some(clean(text)),
        Some(other) => Some(clean(&other.to_string())),
    };
    RegistryMessage {
        code: text("code").map(ErrorCode::from_name),
        message: clean(text("message").unwrap_or_default()),
        detail,
    }
}

fn without_code(text: &str) -> RegistryMessage {
    RegistryMessage {
        code: None,
        message: clean(text),
        detail: None,
    }
}

/// The first line of a text; nothing of an HTML page, which would only be noise.
fn plain_text(body: &[u8]) -> Vec<RegistryMessage> {
    let text = String::from_utf8_lossy(body);
    let line = text.lines().map(str::trim).find(|line| !line.is_empty());
    line.filter(|line| !line.starts_with('<'))
        .map(|line| vec![without_code(line)])
        .unwrap_or_default()
}

/// Control characters, and those that turn the direction of text.
fn steers(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A registry's text must not be able to steer a terminal or flood a log.
pub(crate) fn clean(text: &str) -> String {
    text.chars()
        .take(TEXT_LIMIT)
        .map(|c| if steers(c) { ' ' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_bodies_in_the_wild() {
        let cases = [
            (
                r#"{"errors":[{"code":"DENIED","message":"no","detail":{"a":1}}]}"#,
                "DENIED: no",
            ),
            (
                r#"{"errors":[{"code":"DENIED"},{"message":"b"}]}"#,
                "DENIED|b",
            ),
            (r#"{"errors":[]}"#, ""),
            (r#"{"errors":[5]}"#, ""),
            (
                r#"{"details":"incorrect username or password"}"#,
                "incorrect username or password",
            ),
            (
                r#"{"error":"x","error_description":"longer x"}"#,
                "longer x",
            ),
            ("{}", ""),
            ("<html><body>502</body></html>", ""),
            ("\n upstream timed out\nmore", "upstream timed out"),
            ("", ""),
        ];
        for (body, expected) in cases {
            let shown: Vec<String> = parse(body.as_bytes())
                .iter()
                .map(ToString::to_string)
                .collect();
            assert_eq!(shown.join("|"), expected, "{body}");
        }
        let long = format!(r#"{{"message":"{}"}}"#, "x".repeat(10_000));
        assert_eq!(parse(long.as_bytes())[0].message.len(), TEXT_LIMIT);
    }
}
