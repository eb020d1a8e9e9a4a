//! What the tests share: impatient clients and a sink that collects.

use oci_spec::image::{Descriptor, Digest, MediaType};
use registry_client::{Client, ClientOptions, Error, Reference, RetryPolicy, Timeouts};
use std::time::Duration;
use testkit::registry::FakeRegistry;

/// Options whose waits are short enough for tests.
pub(crate) fn quick() -> ClientOptions {
    ClientOptions {
        user_agent: "kiln-test".to_owned(),
        retry: RetryPolicy {
            attempts: 4,
            base: Duration::from_millis(5),
            max: Duration::from_millis(20),
            max_retry_after: Duration::from_secs(2),
        },
        timeouts: Timeouts {
            connect: Duration::from_secs(2),
            idle: Duration::from_millis(400),
            ..Timeouts::default()
        },
        ..ClientOptions::default()
    }
}

pub(crate) fn client() -> Client {
    Client::new(quick())
}

/// A reference to a repository of a fake registry.
pub(crate) fn reference(registry: &FakeRegistry, name: &str) -> Reference {
    Reference::parse(&format!("{}/{name}", registry.host())).unwrap()
}

pub(crate) fn digest(text: &str) -> Digest {
    Digest::try_from(text).unwrap()
}

/// The descriptor of a layer.
pub(crate) fn descriptor(digest_text: &str, size: usize) -> Descriptor {
    Descriptor::new(MediaType::ImageLayer, size as u64, digest(digest_text))
}

/// Pulls a blob into memory; the bytes that came are returned even when it failed.
pub(crate) async fn pull(
    client: &Client,
    reference: &Reference,
    descriptor: &Descriptor,
) -> (Vec<u8>, Result<(), Error>) {
    let mut bytes = Vec::new();
    let mut sink = |chunk: &[u8]| {
        bytes.extend_from_slice(chunk);
        Ok(())
    };
    let result = client.blob(reference, descriptor, &mut sink).await;
    (bytes, result)
}

/// Bytes that repeat nowhere soon, so that a misplaced piece changes them.
pub(crate) fn noise(size: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}

/// An error with all its causes, as a user would see it.
pub(crate) fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
