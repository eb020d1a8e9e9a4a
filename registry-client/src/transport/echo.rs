//! Servers that repeat what they were sent: secrets of a request are taken out of what its answer says in error.

use super::body::Body;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Url;
use reqwest::header::HeaderValue;

/// What stands where a secret was.
const REMOVED: &str = "REDACTED";
/// Shorter texts are found in any message by accident.
const SHORTEST: usize = 4;
/// Fields of a form that a token service is sent.
const FIELDS: [&str; 2] = ["password", "refresh_token"];

/// The secrets of one request.
#[derive(Default)]
pub(super) struct Secrets(Vec<String>);

impl Secrets {
    pub(super) fn of(authorization: Option<&HeaderValue>, body: &Body) -> Self {
        let mut secrets = Vec::new();
        let header = authorization.and_then(|value| value.to_str().ok());
        if let Some((scheme, token)) = header.and_then(|value| value.split_once(' ')) {
            secrets.push(token.to_owned());
            let is_basic = scheme.eq_ignore_ascii_case("basic");
            let decoded = is_basic.then(|| STANDARD.decode(token).ok()).flatten();
            let decoded = decoded.and_then(|bytes| String::from_utf8(bytes).ok());
            if let Some((_, password)) = decoded.as_deref().and_then(|text| text.split_once(':')) {
                secrets.push(password.to_owned());
            }
        }
        if let Body::Bytes(bytes) = body
            && let Ok(form) = std::str::from_utf8(bytes)
            && FIELDS.iter().any(|field| form.contains(field))
            && let Ok(url) = Url::parse(&format!("form:?{form}"))
        {
            let pairs = url.query_pairs();
            let secret = pairs.filter(|(key, _)| FIELDS.contains(&key.as_ref()));
            secrets.extend(secret.map(|(_, value)| value.into_owned()));
        }
        secrets.retain(|secret| secret.len() >= SHORTEST);
        // The longest first: one may hold another.
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        Self(secrets)
    }

    /// The text without them.
    pub(super) fn removed_from(&self, body: Vec<u8>) -> Vec<u8> {
        if self.0.is_empty() {
            return body;
        }
        let mut text = String::from_utf8_lossy(&body).into_owned();
        for secret in &self.0 {
            text = text.replace(secret, REMOVED);
        }
        text.into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn what_was_sent_is_not_shown() {
        let basic = HeaderValue::from_str(&format!("Basic {}", STANDARD.encode("me:pass word")));
        let form = Body::Bytes(Bytes::from_static(
            b"grant_type=password&username=me&password=pass+word%21",
        ));
        let secrets = Secrets::of(Some(&basic.unwrap()), &form);
        let echoed = format!(
            "{} me:pass word pass word! {}",
            STANDARD.encode("me:pass word"),
            "fine"
        );
        let shown = String::from_utf8(secrets.removed_from(echoed.into_bytes())).unwrap();
        assert_eq!(shown, "REDACTED me:REDACTED REDACTED fine");
        let bearer = HeaderValue::from_static("Bearer abcdef");
        let secrets = Secrets::of(Some(&bearer), &Body::Empty);
        assert_eq!(
            secrets.removed_from(b"got abcdef".to_vec()),
            b"got REDACTED"
        );
        assert_eq!(Secrets::default().removed_from(b"\xff".to_vec()), b"\xff");
    }
}
