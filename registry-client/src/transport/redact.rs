//! URLs as they may be shown: without user and password, and without query values that could be secrets.

use reqwest::Url;

/// Query keys whose values are never secret; storage providers sign with keys of many names.
const HARMLESS: [&str; 8] = [
    "digest", "from", "last", "mount", "n", "ns", "scope", "service",
];

/// A URL for messages.
pub(crate) fn url(url: &Url) -> String {
    let mut shown = url.clone();
    if !shown.username().is_empty() || shown.password().is_some() {
        // Both can only fail for URLs without a host, which have no credentials.
        let _ = shown.set_username("");
        let _ = shown.set_password(None);
    }
    shown.set_fragment(None);
    let Some(query) = url.query() else {
        return shown.to_string();
    };
    shown.set_query(None);
    let pairs: Vec<String> = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| match pair.split_once('=') {
            Some((key, _)) if !HARMLESS.contains(&key) => format!("{key}=REDACTED"),
            Some(_) => pair.to_owned(),
            None => "REDACTED".to_owned(),
        })
        .collect();
    format!("{shown}?{}", pairs.join("&"))
}

/// A text that should be a URL, for messages.
pub(crate) fn text(text: &str) -> String {
    match Url::parse(text) {
        Ok(parsed) if parsed.has_host() => url(&parsed),
        _ => match text.rsplit_once('@') {
            Some((_, rest)) => format!("REDACTED@{}", rest.split('?').next().unwrap_or_default()),
            None => text.split('?').next().unwrap_or_default().to_owned(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_secret_is_shown() {
        let cases = [
            (
                "https://h/v2/a/blobs/sha256:1",
                "https://h/v2/a/blobs/sha256:1",
            ),
            ("https://me:pw@h:1/x#f", "https://h:1/x"),
            (
                "https://cdn/b?X-Amz-Signature=abc&n=1&token=t&flag",
                "https://cdn/b?X-Amz-Signature=REDACTED&n=1&token=REDACTED&REDACTED",
            ),
            (
                "https://auth/token?service=r&scope=repository:a:pull",
                "https://auth/token?service=r&scope=repository:a:pull",
            ),
            ("proxy.local:3128", "proxy.local:3128"),
            ("me:pw@proxy.local:3128", "REDACTED@proxy.local:3128"),
        ];
        for (input, expected) in cases {
            assert_eq!(text(input), expected, "{input}");
        }
    }
}
