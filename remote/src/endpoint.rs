//! Where a server is and how it is spoken to. Says nothing of what it can do.

use crate::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Segments that the protocol gives a meaning in resource names: no instance may contain them.
const RESERVED: [&str; 8] = [
    "blobs",
    "uploads",
    "actions",
    "actionResults",
    "operations",
    "capabilities",
    "compressed-blobs",
    "actionCache",
];

/// The address of a server, with what is needed to be let in.
///
/// Neither its `Display` nor its `Debug` shows values of headers, or keys.
#[derive(Clone)]
pub struct Endpoint {
    /// As told to people: scheme, host, port and instance.
    text: Arc<str>,
    pub(crate) tls: bool,
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) instance: String,
    pub(crate) authorities: Option<Vec<u8>>,
    pub(crate) identity: Option<(Vec<u8>, Vec<u8>)>,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) deadlines: Deadlines,
    pub(crate) retry: Retry,
    pub(crate) compressed_reads: bool,
}

/// How long an answer may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// For a connection, with its TLS handshake.
    pub connect: Duration,
    /// For a call with one answer.
    pub call: Duration,
    /// Without a byte moving in a transfer.
    pub idle: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            call: Duration::from_secs(60),
            idle: Duration::from_secs(60),
        }
    }
}

/// How often a call is tried, and how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// Tries in all; 1 for none but the first.
    pub tries: u32,
    /// No further try begins when this has been waited for between tries of one call.
    pub budget: Duration,
    /// Before the second try; doubled for each further one, and varied by up to a half.
    pub first: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            tries: 5,
            budget: Duration::from_secs(10),
            first: Duration::from_millis(100),
        }
    }
}

impl Endpoint {
    /// Reads `grpc[s]://HOST[:PORT][/INSTANCE]`. Ports are 443 with TLS and 80 without when none is given.
    ///
    /// # Errors
    /// Another scheme, no host, a port that is none, credentials in the address, an instance that the protocol forbids.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let bad = |reason| Error::Address {
            // What is before an @ may be a password.
            text: crate::error::told(match text.rsplit_once('@') {
                Some((_, rest)) => rest,
                None => text,
            }),
            reason,
        };
        let (scheme, rest) = text
            .split_once("://")
            .ok_or_else(|| bad("there is no scheme"))?;
        let tls = match scheme.to_ascii_lowercase().as_str() {
            "grpc" => false,
            "grpcs" => true,
            _ => return Err(bad("the scheme is neither grpc nor grpcs")),
        };
        if rest.contains(['?', '#']) || rest.contains(|c: char| c.is_whitespace() || c.is_control())
        {
            return Err(bad("it has a query, a fragment or spaces"));
        }
        let (authority, instance) = rest.split_once('/').unwrap_or((rest, ""));
        if authority.contains('@') {
            return Err(bad("credentials do not belong in it: give a header"));
        }
        let (host, port) = host_and_port(authority).map_err(bad)?;
        let port = port.unwrap_or(if tls { 443 } else { 80 });
        let instance = instance.trim_matches('/').to_owned();
        if instance
            .split('/')
            .any(|segment| RESERVED.contains(&segment))
        {
            return Err(bad(
                "the instance has a segment that the protocol keeps for itself",
            ));
        }
        let mut shown = format!("{}://{host}:{port}", if tls { "grpcs" } else { "grpc" });
        if !instance.is_empty() {
            shown.push('/');
            shown.push_str(&instance);
        }
        Ok(Self {
            text: shown.into(),
            tls,
            host,
            port,
            instance,
            authorities: None,
            identity: None,
            headers: Vec::new(),
            deadlines: Deadlines::default(),
            retry: Retry::default(),
            compressed_reads: false,
        })
    }

    /// Certificate authorities (PEM) that are trusted instead of the system's.
    #[must_use]
    pub fn with_authorities(mut self, pem: Vec<u8>) -> Self {
        self.authorities = Some(pem);
        self
    }

    /// A certificate with its chain, and its key (both PEM), to show to the server.
    #[must_use]
    pub fn with_identity(mut self, certificate: Vec<u8>, key: Vec<u8>) -> Self {
        self.identity = Some((certificate, key));
        self
    }

    /// A header of every call, such as `authorization: Bearer TOKEN`. Names are case insensitive.
    #[must_use]
    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        self.headers
            .push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
        self
    }

    /// Other deadlines than the default ones.
    #[must_use]
    pub fn with_deadlines(mut self, deadlines: Deadlines) -> Self {
        self.deadlines = deadlines;
        self
    }

    /// Other retries than the default ones.
    #[must_use]
    pub fn with_retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }

    /// Asks for blobs in zstd where the server can. Off by default: what is fetched is mostly compressed already.
    #[must_use]
    pub fn with_compressed_reads(mut self, on: bool) -> Self {
        self.compressed_reads = on;
        self
    }

    /// The instance, empty for the server's default one.
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// Whether TLS is used.
    pub const fn is_tls(&self) -> bool {
        self.tls
    }

    /// What people are told: `grpc://HOST:PORT/INSTANCE`.
    pub(crate) fn name(&self) -> Arc<str> {
        Arc::clone(&self.text)
    }
}

/// `HOST`, `HOST:PORT`, `[IPV6]`, `[IPV6]:PORT`.
fn host_and_port(authority: &str) -> Result<(String, Option<u16>), &'static str> {
    let (host, port) = if let Some(rest) = authority.strip_prefix('[') {
        let (address, rest) = rest
            .split_once(']')
            .ok_or("a bracket is not closed in the host")?;
        if address.parse::<std::net::Ipv6Addr>().is_err() {
            return Err("there is no IPv6 address in the brackets");
        }
        let port = match rest {
            "" => None,
            rest => Some(rest.strip_prefix(':').ok_or("the port is not a number")?),
        };
        (format!("[{address}]"), port)
    } else {
        match authority.split_once(':') {
            Some((_, port)) if port.contains(':') => {
                return Err("IPv6 addresses are written in brackets");
            }
            Some((host, port)) => (host.to_owned(), Some(port)),
            None => (authority.to_owned(), None),
        }
    };
    if host.is_empty() {
        return Err("there is no host");
    }
    let sane = |c: char| c.is_ascii_alphanumeric() || "-._[]:".contains(c);
    if !host.chars().all(sane) {
        return Err("the host has characters that no host has");
    }
    let port = match port {
        None => None,
        Some(port) if port.starts_with('+') => return Err("the port is not a number"),
        Some(port) => match port.parse::<u16>() {
            Ok(port) if port > 0 => Some(port),
            _ => return Err("the port is not a number"),
        },
    };
    Ok((host, port))
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let headers: Vec<&str> = self.headers.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("Endpoint")
            .field("address", &self.text)
            .field("own_authorities", &self.authorities.is_some())
            .field("client_certificate", &self.identity.is_some())
            .field("headers", &headers)
            .field("deadlines", &self.deadlines)
            .field("retry", &self.retry)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn addresses() {
        for (text, shown, instance) in [
            ("grpc://localhost:8980", "grpc://localhost:8980", ""),
            ("grpc://localhost", "grpc://localhost:80", ""),
            ("grpcs://cache.example/", "grpcs://cache.example:443", ""),
            (
                "GRPCS://h:1/projects/p/instances/i",
                "grpcs://h:1/projects/p/instances/i",
                "projects/p/instances/i",
            ),
            ("grpc://[::1]:50051/main", "grpc://[::1]:50051/main", "main"),
            ("grpc://[::1]", "grpc://[::1]:80", ""),
        ] {
            let endpoint = Endpoint::parse(text).unwrap();
            assert_eq!(endpoint.to_string(), shown);
            assert_eq!(endpoint.instance(), instance);
        }
        for text in [
            "",
            "localhost:8980",
            "http://localhost",
            "grpc://",
            "grpc://:80",
            "grpc:///instance",
            "grpc://host:0",
            "grpc://host:65536",
            "grpc://host:+1",
            "grpc://::1",
            "grpc://[::1",
            "grpc://[nonsense]:1",
            "grpc://host/?a=b",
            "grpc://ho st",
            "grpc://host/a/blobs/b",
        ] {
            assert!(Endpoint::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn nothing_secret_is_shown() {
        let error = Endpoint::parse("grpc://user:hunter2@host/").unwrap_err();
        assert!(!error.to_string().contains("hunter2"), "{error}");
        let endpoint = Endpoint::parse("grpcs://host")
            .unwrap()
            .with_header("Authorization", "Bearer hunter2")
            .with_identity(b"hunter2".to_vec(), b"hunter2".to_vec())
            .with_authorities(b"hunter2".to_vec());
        let text = format!("{endpoint:?} {endpoint}");
        assert!(!text.contains("hunter2"), "{text}");
        assert!(text.contains("authorization"), "{text}");
    }

    proptest! {
        #[test]
        fn any_text_is_an_address_or_an_error(text in "(grpcs?://)?.{0,40}") {
            if let Ok(endpoint) = Endpoint::parse(&text) {
                let again = Endpoint::parse(&endpoint.to_string()).unwrap();
                prop_assert_eq!(again.to_string(), endpoint.to_string());
            }
        }
    }
}
