//! The OCI distribution protocol: resolve, pull (push, auth and the rest of the protocol come on this base).
//!
//! Hands over bytes and descriptors; knows nothing of disks, stores or what layers hold.
#![forbid(unsafe_code)]

use oci_spec::image::{Descriptor, Digest};
use std::path::PathBuf;

/// Errors (URLs in them carry no credentials).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A reference cannot be parsed.
    #[error("invalid reference {text:?}: {reason}")]
    Reference {
        /// As given.
        text: String,
        /// Why.
        reason: String,
    },
}

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
    /// Parses and normalises as Docker does (FEATURES G08).
    ///
    /// # Errors
    /// Bad characters, upper case in the repository, bad tag or digest.
    pub fn parse(_text: &str) -> Result<Self, Error> {
        todo!()
    }
}

impl std::fmt::Display for Reference {
    fn fmt(&self, _f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        todo!()
    }
}

/// Settings of a client.
#[derive(Clone, Debug, Default)]
pub struct ClientOptions {
    /// A containers registries.conf v2 file (mirrors, insecure, blocked, short names).
    pub registries_conf: Option<PathBuf>,
    /// Registries (host[:port]) to speak plain HTTP with, or TLS without verification; loopback addresses may fall back to HTTP by themselves.
    pub insecure: Vec<String>,
    /// `User-Agent`.
    pub user_agent: String,
}

/// A client. Clones share connections and tokens. Built lazily: making one does no I/O.
#[derive(Clone, Debug)]
pub struct Client {}

/// A manifest or index as the registry has it.
#[derive(Clone, Debug)]
pub struct FetchedManifest {
    /// Digest, size and media type.
    pub descriptor: Descriptor,
    /// The bytes, verified against the digest.
    pub bytes: Vec<u8>,
}

impl Client {
    /// Makes a client.
    #[must_use]
    pub fn new(_options: ClientOptions) -> Self {
        todo!()
    }
    /// Digest, size and media type of a tag or digest (HEAD, then GET where HEAD is not enough).
    ///
    /// # Errors
    /// Unknown name, refused, unreachable.
    pub async fn resolve(&self, _reference: &Reference) -> Result<Descriptor, Error> {
        todo!()
    }
    /// A manifest or index by reference (or by digest in the same repository).
    ///
    /// # Errors
    /// As [`Client::resolve`]; too large; digest mismatch.
    pub async fn manifest(&self, _reference: &Reference, _digest: Option<&Digest>) -> Result<FetchedManifest, Error> {
        todo!()
    }
    /// A blob, streamed to `sink` in order as verified-while-streaming chunks; the call fails at the end when digest or size differ.
    /// Interrupted transfers resume by Range with backoff.
    ///
    /// # Errors
    /// As [`Client::resolve`]; digest or size mismatch; an error of the sink.
    pub async fn blob(
        &self,
        _reference: &Reference,
        _descriptor: &Descriptor,
        _sink: &mut (dyn FnMut(&[u8]) -> std::io::Result<()> + Send),
    ) -> Result<(), Error> {
        todo!()
    }
}
