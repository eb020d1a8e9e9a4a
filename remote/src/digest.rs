//! Digests of the protocol: SHA-256 and a size in bytes.

use crate::{Error, proto};
use bytes::Bytes;
use prost::Message;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// The name of a blob: its SHA-256 and its length. Written as `HEX/SIZE`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest {
    hash: [u8; 32],
    size: u64,
}

impl Digest {
    /// Of the empty blob, which every server has.
    pub const EMPTY: Self = Self {
        hash: [
            0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f,
            0xb9, 0x24, 0x27, 0xae, 0x41, 0xe4, 0x64, 0x9b, 0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b,
            0x78, 0x52, 0xb8, 0x55,
        ],
        size: 0,
    };

    /// From a SHA-256 and a length in bytes that are known.
    pub const fn new(hash: [u8; 32], size: u64) -> Self {
        Self { hash, size }
    }

    /// Of some bytes.
    pub fn of(bytes: &[u8]) -> Self {
        let mut hasher = Hasher::new();
        hasher.update(bytes);
        hasher.finish()
    }

    /// The SHA-256.
    pub const fn hash(&self) -> &[u8; 32] {
        &self.hash
    }

    /// The length in bytes.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// The SHA-256 in lower case hexadecimal.
    pub fn hex(&self) -> String {
        let mut text = String::with_capacity(64);
        for byte in self.hash {
            for digit in [byte >> 4, byte & 15] {
                text.push(char::from(b"0123456789abcdef"[usize::from(digit)]));
            }
        }
        text
    }

    /// From a message of the protocol.
    ///
    /// # Errors
    /// A hash that is not 64 lower case hexadecimal digits, or a negative size.
    pub fn from_proto(digest: &proto::Digest) -> Result<Self, Error> {
        let bad = || Error::Digest {
            text: crate::error::told(&format!("{}/{}", digest.hash, digest.size_bytes)),
        };
        let size = u64::try_from(digest.size_bytes).map_err(|_| bad())?;
        let hash = hash_of(&digest.hash).ok_or_else(bad)?;
        Ok(Self { hash, size })
    }

    /// As a message of the protocol.
    pub fn to_proto(&self) -> proto::Digest {
        proto::Digest {
            hash: self.hex(),
            size_bytes: i64::try_from(self.size).unwrap_or(i64::MAX),
        }
    }
}

/// 32 bytes out of 64 lower case digits.
fn hash_of(hex: &str) -> Option<[u8; 32]> {
    let digits = hex.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    let value = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let mut hash = [0; 32];
    for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = value(pair[0])? << 4 | value(pair[1])?;
    }
    Some(hash)
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.hex(), self.size)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

impl FromStr for Digest {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let parse = || {
            let (hash, size) = text.split_once('/')?;
            if !size.bytes().all(|digit| digit.is_ascii_digit()) {
                return None;
            }
            Some(Self {
                hash: hash_of(hash)?,
                size: size.parse().ok()?,
            })
        };
        parse().ok_or_else(|| Error::Digest {
            text: crate::error::told(text),
        })
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

/// A digest that grows with what is read or written.
#[derive(Clone)]
pub(crate) struct Hasher {
    context: ring::digest::Context,
    size: u64,
}

impl Hasher {
    pub(crate) fn new() -> Self {
        Self {
            context: ring::digest::Context::new(&ring::digest::SHA256),
            size: 0,
        }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.context.update(bytes);
        self.size += bytes.len() as u64;
    }

    /// Bytes so far.
    pub(crate) const fn size(&self) -> u64 {
        self.size
    }

    pub(crate) fn finish(self) -> Digest {
        let mut hash = [0; 32];
        hash.copy_from_slice(self.context.finish().as_ref());
        Digest {
            hash,
            size: self.size,
        }
    }
}

/// A message's canonical bytes, and their digest. Its repeated fields must be in the protocol's order already.
pub fn message_digest<M: Message>(message: &M) -> (Digest, Bytes) {
    let bytes = Bytes::from(message.encode_to_vec());
    (Digest::of(&bytes), bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn text_forms() {
        assert_eq!(Digest::of(b""), Digest::EMPTY);
        let digest = Digest::of(b"abc");
        let text = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad/3";
        assert_eq!(digest.to_string(), text);
        assert_eq!(text.parse::<Digest>().unwrap(), digest);
        assert_eq!(Digest::from_proto(&digest.to_proto()).unwrap(), digest);
        for bad in [
            "",
            "/3",
            "ba78/3",
            &text.to_uppercase(),
            &text[..65],
            &format!("{}-3", &text[..65]),
            &format!("{}+3", &text[..65]),
        ] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
        let negative = proto::Digest {
            hash: digest.hex(),
            size_bytes: -1,
        };
        assert!(Digest::from_proto(&negative).is_err());
    }

    proptest! {
        #[test]
        fn any_proto_is_a_digest_or_an_error(hash in ".{0,80}", size_bytes: i64) {
            let message = proto::Digest { hash, size_bytes };
            if let Ok(digest) = Digest::from_proto(&message) {
                prop_assert_eq!(digest.to_proto(), message);
            }
        }
    }
}
