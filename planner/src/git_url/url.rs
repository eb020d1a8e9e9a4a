//! Splits URLs the way Go's `net/url` does, as far as remotes of sources need it: what that refuses is refused here.
//!
//! Knows nothing of Git. Not a general URL parser: no relative references, no normalising of hosts.

/// A URL in its parts. `user` and `query` are as written, `fragment` is decoded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Url {
    /// Lower case.
    pub(crate) scheme: String,
    /// `name[:password]`, as written.
    pub(crate) user: Option<String>,
    /// `host[:port]`; IPv6 addresses in brackets.
    pub(crate) host: String,
    /// Decoded.
    pub(crate) path: String,
    /// As it goes back into a URL.
    pub(crate) escaped_path: String,
    /// After the `?`, as written.
    pub(crate) query: String,
    /// After the `#`, decoded.
    pub(crate) fragment: String,
}

impl Url {
    /// The URL without query and fragment.
    pub(crate) fn base(&self) -> String {
        let user = self
            .user
            .as_ref()
            .map(|user| format!("{user}@"))
            .unwrap_or_default();
        format!("{}://{user}{}{}", self.scheme, self.host, self.escaped_path)
    }
}

/// Letters and digits before `://`.
pub(crate) fn scheme(text: &str) -> Option<&str> {
    let (scheme, _) = text.split_once("://")?;
    let valid = !scheme.is_empty() && scheme.bytes().all(|b| b.is_ascii_alphanumeric());
    valid.then_some(scheme)
}

/// Parses `scheme://...`; `None` for what Go's parser refuses.
pub(crate) fn parse(text: &str) -> Option<Url> {
    if text.bytes().any(|b| b < 0x20 || b == 0x7f) {
        return None;
    }
    let scheme = scheme(text)?;
    if !scheme.starts_with(|c: char| c.is_ascii_alphabetic()) {
        return None;
    }
    let rest = &text[scheme.len() + "://".len()..];
    let (rest, fragment) = rest.split_once('#').unwrap_or((rest, ""));
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, ""),
    };
    let (user, host) = match authority.rsplit_once('@') {
        Some((user, host)) => (Some(user), host),
        None => (None, authority),
    };
    if !user.is_none_or(valid_user) || !valid_host(host) {
        return None;
    }
    let decoded = decode(path, false)?;
    Some(Url {
        scheme: scheme.to_ascii_lowercase(),
        user: user.map(str::to_owned),
        host: host.to_owned(),
        escaped_path: escaped_path(path, &decoded),
        path: decoded,
        query: query.to_owned(),
        fragment: decode(fragment, false)?,
    })
}

/// The pairs of a query in order; malformed ones are left out, as Go's `URL.Query` does. `false` marks a key without `=`.
pub(crate) fn query(text: &str) -> Vec<(String, String)> {
    text.split('&')
        .filter(|pair| !pair.is_empty() && !pair.contains(';'))
        .filter_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((decode(key, true)?, decode(value, true)?))
        })
        .collect()
}

/// Percent-decoding; with `plus`, `+` is a space. Bytes that are no UTF-8 afterwards are refused.
fn decode(text: &str, plus: bool) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'%' => hex(bytes.next()?)? << 4 | hex(bytes.next()?)?,
            b'+' if plus => b' ',
            other => other,
        });
    }
    String::from_utf8(out).ok()
}

fn hex(byte: u8) -> Option<u8> {
    char::from(byte)
        .to_digit(16)
        .and_then(|digit| u8::try_from(digit).ok())
}

fn valid_user(user: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._:~!$&'()*+,;=%@".contains(&b);
    user.bytes().all(plain) && user.split(':').all(|part| decode(part, false).is_some())
}

/// A name or address, then at most a numeric port.
fn valid_host(host: &str) -> bool {
    let port = if let Some(rest) = host.strip_prefix('[') {
        let Some((_, port)) = rest.split_once(']') else {
            return false;
        };
        port
    } else {
        host.find(':').map_or("", |at| &host[at..])
    };
    let valid_port = port.strip_prefix(':').map_or(port.is_empty(), |digits| {
        digits.bytes().all(|b| b.is_ascii_digit())
    });
    let plain = |b: u8| {
        !b.is_ascii() || b.is_ascii_alphanumeric() || b"-_.~!$&'()*+,;=:[]<>\"".contains(&b)
    };
    valid_port && host.bytes().all(plain)
}

/// The path as written where a URL may hold it so, else encoded anew.
fn escaped_path(written: &str, decoded: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.~!$&'()*+,;=:@[]/".contains(&b);
    if written.bytes().all(|b| plain(b) || b == b'%') {
        return written.to_owned();
    }
    let kept = |b: u8| b.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@".contains(&b);
    let mut out = String::with_capacity(decoded.len() * 3);
    for byte in decoded.bytes() {
        if kept(byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts() {
        let url = parse("HTTPS://me:pw@h:1/a%20b?x=1&y#f%3Ag").expect("a URL");
        assert_eq!(url.base(), "https://me:pw@h:1/a%20b");
        assert_eq!(url.path, "/a b");
        assert_eq!(url.fragment, "f:g");
        assert_eq!(
            query(&url.query),
            [("x".into(), "1".into()), ("y".into(), String::new())]
        );
    }

    #[test]
    fn paths_are_encoded_where_they_must_be() {
        for (text, base) in [
            ("http://h/a b", "http://h/a%20b"),
            ("http://h/ü", "http://h/%C3%BC"),
            ("http://h/a!b", "http://h/a!b"),
            ("http://h", "http://h"),
            ("http://[::1]:80/x", "http://[::1]:80/x"),
        ] {
            assert_eq!(parse(text).map(|url| url.base()).as_deref(), Some(base));
        }
    }

    #[test]
    fn what_go_refuses() {
        for text in [
            "http://h:port/",
            "http://h/%zz",
            "http://h o/",
            "http://h/\n",
            "http://me pw@h/",
            "http://[::1/",
            "1http://h/",
            "//h/",
            "h",
        ] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }
}
