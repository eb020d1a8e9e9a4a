//! Image references as Docker reads them: grammar, defaults, and both ways of writing them.
//!
//! Knows nothing of mirrors or short-name aliases; those are `registries.conf`'s business.

use crate::Error;
use oci_spec::image::{Digest, DigestAlgorithm};
use std::fmt;

/// The registry of names without one.
const DEFAULT_REGISTRY: &str = "docker.io";
/// What people still write for it.
const LEGACY_REGISTRY: &str = "index.docker.io";
/// The namespace of one-word names at the default registry.
const OFFICIAL_NAMESPACE: &str = "library/";
/// The tag of names with neither tag nor digest.
const DEFAULT_TAG: &str = "latest";
/// Longest repository, in bytes (distribution specification, "Pulling manifests").
const REPOSITORY_LIMIT: usize = 255;
/// Longest tag, in bytes.
const TAG_LIMIT: usize = 128;

/// A parsed, normalised reference: `docker.io/library/busybox:latest`, `host:5000/a/b@sha256:...`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Reference {
    /// `docker.io`, `localhost:5000`.
    pub registry: String,
    /// `library/busybox`.
    pub repository: String,
    /// Tag; `latest` when neither tag nor digest was given.
    pub tag: Option<String>,
    /// Digest.
    pub digest: Option<String>,
}

impl Reference {
    /// Parses and normalises as Docker does.
    ///
    /// # Errors
    /// Bad characters, upper case in the repository, bad tag or digest.
    pub fn parse(text: &str) -> Result<Self, Error> {
        parse(text).map_err(|reason| Error::Reference {
            text: text.to_owned(),
            reason,
        })
    }

    /// As people write it: without `docker.io/` and `library/`.
    #[must_use]
    pub fn familiar(&self) -> String {
        let name = if self.registry == DEFAULT_REGISTRY {
            let short = self.repository.strip_prefix(OFFICIAL_NAMESPACE);
            short
                .filter(|rest| !rest.contains('/'))
                .unwrap_or(&self.repository)
                .to_owned()
        } else {
            self.name()
        };
        self.with_suffix(name)
    }

    /// The same repository, pinned to a digest (the tag stays, as a note for people).
    #[must_use]
    pub fn with_digest(&self, digest: &Digest) -> Self {
        Self {
            digest: Some(digest.to_string()),
            ..self.clone()
        }
    }

    /// Registry and repository: `docker.io/library/busybox`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// What a manifest is asked by: the digest if there is one, else the tag.
    pub(crate) fn selector(&self) -> &str {
        self.digest
            .as_deref()
            .or(self.tag.as_deref())
            .unwrap_or(DEFAULT_TAG)
    }

    fn with_suffix(&self, mut name: String) -> String {
        if let Some(tag) = &self.tag {
            name.push(':');
            name.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            name.push('@');
            name.push_str(digest);
        }
        name
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.with_suffix(self.name()))
    }
}

impl std::str::FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::parse(text)
    }
}

fn parse(text: &str) -> Result<Reference, String> {
    if text.is_empty() {
        return Err("it is empty".to_owned());
    }
    if text.len() == 64 && text.bytes().all(is_lower_hex) {
        return Err(format!(
            "invalid repository name ({text}), cannot specify 64-byte hexadecimal strings"
        ));
    }
    let (registry, rest) = split_registry(text);
    let (rest, digest) = match rest.split_once('@') {
        Some((rest, digest)) => (rest, Some(check_digest(digest)?)),
        None => (rest, None),
    };
    let (path, tag) = match rest.split_once(':') {
        Some((path, tag)) => (path, Some(check_tag(tag)?)),
        None => (rest, None),
    };
    let registry = match registry {
        Some(LEGACY_REGISTRY) | None => DEFAULT_REGISTRY,
        Some(registry) => check_registry(registry)?,
    };
    if path.is_empty() {
        return Err("the repository is empty".to_owned());
    }
    let repository = if registry == DEFAULT_REGISTRY && !path.contains('/') {
        format!("{OFFICIAL_NAMESPACE}{path}")
    } else {
        path.to_owned()
    };
    check_path(&repository)?;
    if repository.len() > REPOSITORY_LIMIT {
        return Err(format!(
            "the repository is longer than {REPOSITORY_LIMIT} characters"
        ));
    }
    let tag = match (tag, &digest) {
        (None, None) => Some(DEFAULT_TAG),
        (tag, _) => tag,
    };
    Ok(Reference {
        registry: registry.to_owned(),
        repository,
        tag: tag.map(str::to_owned),
        digest: digest.map(str::to_owned),
    })
}

/// The first component is a registry if it could not be a path component: it has a dot, a colon or
/// upper case, or is `localhost`.
pub(crate) fn split_registry(text: &str) -> (Option<&str>, &str) {
    let Some((first, rest)) = text.split_once('/') else {
        return (None, text);
    };
    let is_registry = first.contains(['.', ':'])
        || first == "localhost"
        || first.bytes().any(|byte| byte.is_ascii_uppercase());
    if is_registry {
        (Some(first), rest)
    } else {
        (None, text)
    }
}

fn check_registry(registry: &str) -> Result<&str, String> {
    let bad = |reason: &str| Err(format!("bad registry {registry:?}: {reason}"));
    let (host, port) = if let Some(rest) = registry.strip_prefix('[') {
        let Some((address, rest)) = rest.split_once(']') else {
            return bad("the IPv6 address is not closed");
        };
        let plain = address.bytes().all(|b| b.is_ascii_hexdigit() || b == b':');
        if address.is_empty() || !plain {
            return bad("not an IPv6 address");
        }
        match rest.strip_prefix(':') {
            Some(port) => (None, Some(port)),
            None if rest.is_empty() => (None, None),
            None => return bad("text after the IPv6 address"),
        }
    } else {
        match registry.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(registry), None),
        }
    };
    if port.is_some_and(|port| port.is_empty() || !port.bytes().all(|b| b.is_ascii_digit())) {
        return bad("the port is not a number");
    }
    if host.is_some_and(|host| !host.split('.').all(is_host_label)) {
        return bad("not a host name");
    }
    Ok(registry)
}

fn is_host_label(label: &str) -> bool {
    let plain = label
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    plain && !label.is_empty() && !label.starts_with('-') && !label.ends_with('-')
}

fn check_path(path: &str) -> Result<(), String> {
    if path.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err(format!("repository name ({path}) must be lowercase"));
    }
    match path.split('/').find(|part| !is_path_component(part)) {
        None => Ok(()),
        Some("") => Err("the repository has an empty component".to_owned()),
        Some(part) => Err(format!("bad repository component {part:?}")),
    }
}

/// Whether a tag can be part of a reference.
pub(crate) fn is_tag(text: &str) -> bool {
    check_tag(text).is_ok()
}

/// Whether a repository can be part of a reference.
pub(crate) fn is_repository(text: &str) -> bool {
    text.len() <= REPOSITORY_LIMIT && check_path(text).is_ok()
}

/// Runs of letters and digits, between them one `.`, one or two `_`, or any number of `-`.
fn is_path_component(part: &str) -> bool {
    let alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = part.as_bytes();
    let edges_fit =
        bytes.first().is_some_and(alphanumeric) && bytes.last().is_some_and(alphanumeric);
    let mut separators = part.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    edges_fit
        && separators.all(|separator| {
            matches!(separator, "" | "." | "_" | "__") || separator.bytes().all(|b| b == b'-')
        })
}

fn check_tag(tag: &str) -> Result<&str, String> {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let starts = tag.bytes().next().is_some_and(word);
    if !starts || !tag.bytes().all(|b| word(b) || b == b'.' || b == b'-') {
        return Err(format!("bad tag {tag:?}"));
    }
    if tag.len() > TAG_LIMIT {
        return Err(format!("the tag is longer than {TAG_LIMIT} characters"));
    }
    Ok(tag)
}

fn check_digest(digest: &str) -> Result<&str, String> {
    let parsed = Digest::try_from(digest).map_err(|_| format!("bad digest {digest:?}"))?;
    if matches!(parsed.algorithm(), DigestAlgorithm::Other(_)) {
        return Err(format!("unsupported digest algorithm in {digest:?}"));
    }
    Ok(digest)
}

fn is_lower_hex(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}
