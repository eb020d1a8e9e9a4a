//! `WWW-Authenticate` (RFC 9110 section 11.6.1): the schemes a server offers and their parameters.
//!
//! Only reads the header; what to do with a challenge is decided by the parent module.

/// One offered scheme.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Challenge {
    /// As the server spells it.
    pub(crate) scheme: String,
    params: Vec<(String, String)>,
}

impl Challenge {
    /// The schemes that a header offers.
    pub(crate) fn schemes(header: &str) -> Vec<String> {
        let challenges = parse(header).into_iter();
        challenges.map(|challenge| challenge.scheme).collect()
    }

    /// A parameter; names know no case.
    pub(crate) fn param(&self, name: &str) -> Option<&str> {
        let found = self
            .params
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    pub(crate) fn remove(&mut self, name: &str) {
        self.params
            .retain(|(key, _)| !key.eq_ignore_ascii_case(name));
    }

    pub(crate) fn is(&self, scheme: &str) -> bool {
        self.scheme.eq_ignore_ascii_case(scheme)
    }
}

/// All challenges of one header value; a malformed rest is left out.
pub(crate) fn parse(value: &str) -> Vec<Challenge> {
    let mut scanner = Scanner(value);
    let mut challenges: Vec<Challenge> = Vec::new();
    loop {
        scanner.skip(|c| c == ',' || c.is_ascii_whitespace());
        let word = scanner.take(is_token);
        if word.is_empty() {
            return challenges;
        }
        scanner.skip(|c| c.is_ascii_whitespace());
        if scanner.0.starts_with('=') && !challenges.is_empty() {
            scanner.0 = &scanner.0[1..];
            scanner.skip(|c| c.is_ascii_whitespace());
            let Some(value) = scanner.value() else {
                return challenges;
            };
            if let Some(last) = challenges.last_mut() {
                last.params.push((word.to_owned(), value));
            }
        } else {
            challenges.push(Challenge {
                scheme: word.to_owned(),
                params: Vec::new(),
            });
        }
    }
}

struct Scanner<'a>(&'a str);

impl<'a> Scanner<'a> {
    fn take(&mut self, fits: impl Fn(char) -> bool) -> &'a str {
        let end = self.0.find(|c| !fits(c)).unwrap_or(self.0.len());
        let (word, rest) = self.0.split_at(end);
        self.0 = rest;
        word
    }

    fn skip(&mut self, fits: impl Fn(char) -> bool) {
        self.take(fits);
    }

    /// A token or a quoted string.
    fn value(&mut self) -> Option<String> {
        let Some(quoted) = self.0.strip_prefix('"') else {
            // Some servers leave out the quotes around URLs.
            return Some(
                self.take(|c| c != ',' && !c.is_ascii_whitespace())
                    .to_owned(),
            );
        };
        let mut value = String::new();
        let mut chars = quoted.char_indices();
        while let Some((index, c)) = chars.next() {
            match c {
                '"' => {
                    self.0 = &quoted[index + 1..];
                    return Some(value);
                }
                '\\' => value.push(chars.next()?.1),
                other => value.push(other),
            }
        }
        None
    }
}

fn is_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~/".contains(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_in_the_wild() {
        let cases = [
            (
                r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push""#,
                r#"Bearer{realm=https://auth.docker.io/token;service=registry.docker.io;scope=repository:a/b:pull,push;}"#,
            ),
            (r#"Basic realm="Registry""#, "Basic{realm=Registry;}"),
            (
                r#"Negotiate, bearer Realm = "x" , error="a \"b\" c", Basic realm=y"#,
                r#"Negotiate{}bearer{Realm=x;error=a "b" c;}Basic{realm=y;}"#,
            ),
            (
                "Bearer realm=https://a/token,service=s",
                "Bearer{realm=https://a/token;service=s;}",
            ),
            (r#"Bearer realm="unclosed"#, "Bearer{}"),
            ("", ""),
            (" , ,", ""),
            ("=", ""),
        ];
        for (header, expected) in cases {
            let mut shown = String::new();
            for challenge in parse(header) {
                shown.push_str(&challenge.scheme);
                shown.push('{');
                for (key, value) in &challenge.params {
                    shown.push_str(&format!("{key}={value};"));
                }
                shown.push('}');
            }
            assert_eq!(shown, expected, "{header}");
        }
        let parsed = parse(r#"bearer Realm="x""#);
        assert!(parsed[0].is("Bearer"));
        assert_eq!(parsed[0].param("realm"), Some("x"));
    }

    proptest::proptest! {
        #[test]
        fn never_panics(text in "(Bearer|[a-z]{0,3}|[ ,=\"\\\\]|\\PC){0,20}") {
            let _ = parse(&text);
        }
    }
}
