//! Hashing by whichever algorithm a digest names.

use crate::Error;
use oci_spec::image::{Digest, DigestAlgorithm};
use ring::digest::{Context, SHA256};
use sha2::{Digest as _, Sha384, Sha512};
use std::fmt::Write as _;

/// A running hash of one of the algorithms of the image specification (descriptor.md#registered-algorithms).
pub(crate) enum Hasher {
    /// By ring, which is the faster one.
    Sha256(Context),
    Sha384(Sha384),
    Sha512(Sha512),
}

impl Hasher {
    pub(crate) fn sha256() -> Self {
        Self::Sha256(Context::new(&SHA256))
    }

    pub(crate) fn for_digest(digest: &Digest) -> Result<Self, Error> {
        match digest.algorithm() {
            DigestAlgorithm::Sha256 => Ok(Self::sha256()),
            DigestAlgorithm::Sha384 => Ok(Self::Sha384(Sha384::new())),
            DigestAlgorithm::Sha512 => Ok(Self::Sha512(Sha512::new())),
            _ => Err(Error::UnsupportedDigest {
                digest: digest.to_string(),
            }),
        }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::Sha384(hasher) => hasher.update(bytes),
            Self::Sha512(hasher) => hasher.update(bytes),
        }
    }

    pub(crate) fn finish(self) -> Digest {
        let (algorithm, bytes) = match self {
            Self::Sha256(hasher) => ("sha256", hasher.finish().as_ref().to_vec()),
            Self::Sha384(hasher) => ("sha384", hasher.finalize().to_vec()),
            Self::Sha512(hasher) => ("sha512", hasher.finalize().to_vec()),
        };
        let mut text = format!("{algorithm}:");
        for byte in bytes {
            let _ = write!(text, "{byte:02x}");
        }
        Digest::try_from(text).expect("BUG: a hash in hexadecimal is a valid digest")
    }
}

/// The digest of bytes, by the algorithm of another digest.
pub(crate) fn digest_like(digest: &Digest, bytes: &[u8]) -> Result<Digest, Error> {
    let mut hasher = Hasher::for_digest(digest)?;
    hasher.update(bytes);
    Ok(hasher.finish())
}
