//! Names of keys in places that tenants share: who does not know the salt can neither ask for a key nor tell which it is.

use planner::key::CacheKey;
use sha2::{Digest as _, Sha256};

/// Bytes of a block of SHA-256.
const BLOCK: usize = 64;

/// A tenant's salt; an empty one leaves keys as they are.
#[derive(Clone)]
pub(super) struct Salt(Vec<u8>);

impl std::fmt::Debug for Salt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Salt({} bytes)", self.0.len())
    }
}

impl Salt {
    pub(super) fn new(text: &str) -> Self {
        Self(text.as_bytes().to_vec())
    }

    /// The name of a key.
    pub(super) fn name(&self, key: &CacheKey) -> CacheKey {
        if self.0.is_empty() {
            return *key;
        }
        CacheKey(hmac(&self.0, &[b"kiln step 1\n", &key.0]))
    }
}

/// HMAC-SHA256 (RFC 2104).
fn hmac(secret: &[u8], message: &[&[u8]]) -> [u8; 32] {
    let mut block = [0; BLOCK];
    if secret.len() > BLOCK {
        block[..32].copy_from_slice(&Sha256::digest(secret));
    } else {
        block[..secret.len()].copy_from_slice(secret);
    }
    let keyed = |pad: u8| Sha256::new_with_prefix(block.map(|byte| byte ^ pad));
    let mut inner = keyed(0x36);
    for part in message {
        inner.update(part);
    }
    let mut outer = keyed(0x5c);
    outer.update(inner.finalize());
    outer.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::hex;

    /// RFC 4231, test cases 2 and 6.
    #[test]
    fn hmac_is_the_rfcs() {
        let cases: [(&[u8], &str, &str); 2] = [
            (
                b"Jefe",
                "what do ya want for nothing?",
                "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
            ),
            (
                &[0xaa; 131],
                "Test Using Larger Than Block-Size Key - Hash Key First",
                "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
            ),
        ];
        for (secret, message, expected) in cases {
            let (start, end) = message.as_bytes().split_at(5);
            assert_eq!(hex(&hmac(secret, &[start, end])), expected);
        }
    }

    #[test]
    fn names_depend_on_key_and_salt() {
        let (one, two) = (CacheKey([1; 32]), CacheKey([2; 32]));
        let (none, a, b) = (Salt::new(""), Salt::new("a"), Salt::new("b"));
        assert_eq!(none.name(&one), one);
        let names = [a.name(&one), a.name(&two), b.name(&one), one];
        for (at, name) in names.iter().enumerate() {
            assert!(!names[at + 1..].contains(name));
        }
    }
}
