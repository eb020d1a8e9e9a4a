//! Whether a text can be the name of an image (`distribution/reference`, `ParseNormalizedNamed`). Nothing is resolved.

/// Longest tag.
const MAX_TAG: usize = 128;

/// Longest name without tag and digest.
const MAX_NAME: usize = 255;

/// Fewest digits of a digest.
const MIN_DIGEST: usize = 32;

/// Whether this is the name of an image, a short one included.
pub(super) fn is_image_name(text: &str) -> bool {
    let is_id = text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if is_id {
        return false;
    }
    let (text, digest) = match text.split_once('@') {
        Some((text, digest)) => (text, Some(digest)),
        None => (text, None),
    };
    if digest.is_some_and(|digest| !is_digest(digest)) {
        return false;
    }
    let (domain, path) = split_domain(text);
    let (path, tag) = match path.split_once(':') {
        Some((path, tag)) => (path, Some(tag)),
        None => (path, None),
    };
    domain.is_none_or(is_domain)
        && domain.map_or(0, str::len) + path.len() <= MAX_NAME
        && path.split('/').all(is_component)
        && tag.is_none_or(is_tag)
}

/// The first part is a registry if it looks like a host: a dot, a colon, capitals, or `localhost`.
fn split_domain(text: &str) -> (Option<&str>, &str) {
    match text.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.to_lowercase() != first =>
        {
            (Some(first), rest)
        }
        _ => (None, text),
    }
}

fn is_domain(domain: &str) -> bool {
    let (host, port) = match domain.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (domain, None),
    };
    if port.is_some_and(|port| port.is_empty() || !port.bytes().all(|b| b.is_ascii_digit())) {
        return false;
    }
    if let Some(address) = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        return !address.is_empty() && address.bytes().all(|b| b.is_ascii_hexdigit() || b == b':');
    }
    host.split('.').all(|label| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-')
    })
}

/// Lower-case letters and digits, with `.`, `_`, `__` or dashes between them.
fn is_component(component: &str) -> bool {
    let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    if !component.starts_with(alphanumeric) || !component.ends_with(alphanumeric) {
        return false;
    }
    component
        .split(alphanumeric)
        .filter(|separator| !separator.is_empty())
        .all(|separator| {
            matches!(separator, "." | "_" | "__") || separator.bytes().all(|b| b == b'-')
        })
}

fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    tag.len() <= MAX_TAG
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|b| word(b) || matches!(b, b'.' | b'-'))
}

fn is_digest(digest: &str) -> bool {
    let Some((algorithm, hex)) = digest.split_once(':') else {
        return false;
    };
    let named = algorithm.split(['-', '_', '+', '.']).all(|part| {
        part.starts_with(|c: char| c.is_ascii_alphabetic())
            && part.bytes().all(|b| b.is_ascii_alphanumeric())
    });
    named && hex.len() >= MIN_DIGEST && hex.bytes().all(|b| b.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::is_image_name;

    #[test]
    fn names() {
        for name in [
            "busybox",
            "scratch",
            "a/b",
            "a/b:Tag_1.x-",
            "localhost/x",
            "localhost:5000/x:y",
            "example.com/a__b/c--d.e",
            "[::1]:5000/x",
            "Host/x",
            "a@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
        ] {
            assert!(is_image_name(name), "{name}");
        }
        for name in [
            "",
            "busybox:",
            "Busybox",
            "a//b",
            "-a",
            "a-",
            "a___b",
            "a..b",
            "a/B",
            "a:b:c",
            "a@sha256:12",
            ":tag",
            "/a",
            "a/",
            "ex..com/a",
            "h.x:p/a",
            "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
        ] {
            assert!(!is_image_name(name), "{name}");
        }
    }
}
