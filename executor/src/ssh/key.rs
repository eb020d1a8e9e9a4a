//! Private keys: reading their files and signing with them. Keys with passphrases are refused.
//!
//! Formats: OpenSSH (PROTOCOL.key), PKCS#1, SEC 1 and PKCS#8 in PEM. Kinds: Ed25519, RSA of 2048 bits and more, ECDSA on P-256
//! and P-384.

use super::der::{self, Der};
use crate::Error;
use base64::Engine as _;
use ring::rand::SystemRandom;
use ring::rsa::{KeyPairComponents, PublicKeyComponents};
use ring::signature::{
    self, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair as _, RsaEncoding,
    RsaKeyPair,
};
use std::path::Path;

const PROTECTED: &str =
    "ssh: this private key is passphrase protected (use an agent: --ssh ID=SOCKET)";
const BROKEN: &str = "it is not a private key, or a damaged one";
/// Largest file read, in bytes.
const LIMIT: u64 = 1 << 20;

/// Flags of a request for a signature (draft-ietf-sshm-ssh-agent).
const RSA_SHA2_256: u32 = 2;
const RSA_SHA2_512: u32 = 4;

const OID_RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
const OID_EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const OID_ED25519: &[u8] = &[0x2b, 0x65, 0x70];
const OID_P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const OID_P384: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];

/// A key that signs.
#[derive(Debug)]
pub(super) struct Key {
    public: Vec<u8>,
    comment: String,
    pair: Pair,
}

#[derive(Debug)]
enum Pair {
    Ed25519(Ed25519KeyPair),
    Rsa(Box<RsaKeyPair>),
    Ecdsa(Curve, EcdsaKeyPair),
}

#[derive(Clone, Copy, Debug)]
enum Curve {
    P256,
    P384,
}

impl Curve {
    fn name(self) -> &'static str {
        match self {
            Self::P256 => "nistp256",
            Self::P384 => "nistp384",
        }
    }

    fn algorithm(self) -> &'static EcdsaSigningAlgorithm {
        match self {
            Self::P256 => &signature::ECDSA_P256_SHA256_FIXED_SIGNING,
            Self::P384 => &signature::ECDSA_P384_SHA384_FIXED_SIGNING,
        }
    }

    /// Bytes of a number of the curve.
    fn size(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
        }
    }

    fn of_object(object: &[u8]) -> Option<Self> {
        match object {
            _ if object == OID_P256 => Some(Self::P256),
            _ if object == OID_P384 => Some(Self::P384),
            _ => None,
        }
    }
}

/// Reads a key's file.
pub(super) fn read(path: &Path) -> Result<Key, Error> {
    let fail = |source| Error::Io {
        op: "read the key",
        path: path.to_owned(),
        source,
    };
    let length = std::fs::metadata(path).map_err(fail)?.len();
    let bytes = if length > LIMIT {
        Vec::new()
    } else {
        std::fs::read(path).map_err(fail)?
    };
    let mut key = String::from_utf8(bytes)
        .map_err(|_| BROKEN)
        .and_then(|text| parse(&text))
        .map_err(|reason| Error::Key {
            path: path.to_owned(),
            reason: reason.to_owned(),
        })?;
    if key.comment.is_empty() {
        key.comment = path.display().to_string();
    }
    Ok(key)
}

fn parse(text: &str) -> Result<Key, &'static str> {
    let (label, body) = pem(text).ok_or(BROKEN)?;
    if label.starts_with("ENCRYPTED") || body.contains("ENCRYPTED") {
        return Err(PROTECTED);
    }
    let body: String = body.split_whitespace().collect();
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(body)
        .map_err(|_| BROKEN)?;
    match label {
        "OPENSSH PRIVATE KEY" => openssh(&bytes),
        "RSA PRIVATE KEY" => pkcs1(&bytes),
        "EC PRIVATE KEY" => sec1(&bytes, None),
        "PRIVATE KEY" => pkcs8(&bytes),
        _ => Err("keys of this kind are not supported (use an agent: --ssh ID=SOCKET)"),
    }
}

/// Label and body of the first PEM block.
fn pem(text: &str) -> Option<(&str, &str)> {
    let (_, rest) = text.split_once("-----BEGIN ")?;
    let (label, rest) = rest.split_once("-----")?;
    let (body, _) = rest.split_once("-----END ")?;
    Some((label, body))
}

fn openssh(bytes: &[u8]) -> Result<Key, &'static str> {
    let mut reader = Reader(bytes.strip_prefix(b"openssh-key-v1\0").ok_or(BROKEN)?);
    let cipher = reader.text().ok_or(BROKEN)?;
    if cipher != b"none" {
        return Err(PROTECTED);
    }
    let mut private = || {
        let (_kdf, _options, count) = (reader.text()?, reader.text()?, reader.number()?);
        let _public = reader.text()?;
        let mut private = Reader(reader.text()?);
        (count == 1 && private.number()? == private.number()?).then_some(private)
    };
    let mut private = private().ok_or(BROKEN)?;
    let kind = private.text().ok_or(BROKEN)?;
    let mut key = match kind {
        b"ssh-ed25519" => {
            let mut pair = || Some((private.text()?, private.text()?));
            let (public, secret) = pair().ok_or(BROKEN)?;
            let seed = secret.get(..32).ok_or(BROKEN)?;
            ed25519(Ed25519KeyPair::from_seed_and_public_key(seed, public).map_err(|_| BROKEN)?)
        }
        b"ssh-rsa" => {
            let mut numbers = Vec::new();
            for _ in 0..6 {
                numbers.push(private.positive().ok_or(BROKEN)?);
            }
            let [n, e, d, inverse, p, q] = numbers[..] else {
                return Err(BROKEN);
            };
            let (d_p, d_q) = (remainder(d, p), remainder(d, q));
            rsa([n, e, d, p, q, &d_p, &d_q, inverse])?
        }
        b"ecdsa-sha2-nistp256" | b"ecdsa-sha2-nistp384" => {
            let curve = if kind.ends_with(b"256") {
                Curve::P256
            } else {
                Curve::P384
            };
            let mut pair = || {
                let _curve = private.text()?;
                Some((private.text()?, private.positive()?))
            };
            let (public, secret) = pair().ok_or(BROKEN)?;
            ecdsa(curve, secret, public)?
        }
        _ => return Err("keys of this kind are not supported (use an agent: --ssh ID=SOCKET)"),
    };
    key.comment = String::from_utf8_lossy(private.text().unwrap_or_default()).into_owned();
    Ok(key)
}

fn pkcs1(bytes: &[u8]) -> Result<Key, &'static str> {
    let numbers = || {
        let mut fields = Der(Der(bytes).expect(der::SEQUENCE)?);
        fields.expect(der::INTEGER)?;
        let mut numbers = Vec::new();
        for _ in 0..8 {
            numbers.push(trim(fields.expect(der::INTEGER)?));
        }
        Some(numbers)
    };
    let numbers = numbers().ok_or(BROKEN)?;
    rsa(numbers.try_into().map_err(|_| BROKEN)?)
}

/// `ECPrivateKey` (RFC 5915); the curve may be known from around it.
fn sec1(bytes: &[u8], curve: Option<Curve>) -> Result<Key, &'static str> {
    let mut fields = Der(Der(bytes).expect(der::SEQUENCE).ok_or(BROKEN)?);
    fields.expect(der::INTEGER).ok_or(BROKEN)?;
    let secret = fields.expect(der::OCTET_STRING).ok_or(BROKEN)?;
    let curve = match curve {
        Some(curve) => curve,
        None => {
            let object = fields
                .find(der::CONTEXT_0)
                .and_then(|content| Der(content).expect(der::OBJECT));
            Curve::of_object(object.ok_or(BROKEN)?).ok_or("this curve is not supported")?
        }
    };
    let public = fields
        .find(der::CONTEXT_1)
        .and_then(|content| Der(content).expect(der::BIT_STRING))
        .and_then(|bits| bits.strip_prefix(&[0]));
    ecdsa(curve, trim(secret), public.ok_or(BROKEN)?)
}

fn pkcs8(bytes: &[u8]) -> Result<Key, &'static str> {
    let parts = || {
        let mut fields = Der(Der(bytes).expect(der::SEQUENCE)?);
        fields.expect(der::INTEGER)?;
        let mut algorithm = Der(fields.expect(der::SEQUENCE)?);
        let object = algorithm.expect(der::OBJECT)?;
        let curve = algorithm.expect(der::OBJECT).and_then(Curve::of_object);
        Some((object, curve, fields.expect(der::OCTET_STRING)?))
    };
    match parts().ok_or(BROKEN)? {
        (OID_RSA, _, key) => pkcs1(key),
        (OID_EC, Some(curve), key) => sec1(key, Some(curve)),
        (OID_ED25519, _, key) => {
            let seed = Der(key).expect(der::OCTET_STRING).ok_or(BROKEN)?;
            Ok(ed25519(
                Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| BROKEN)?,
            ))
        }
        _ => Err("keys of this kind are not supported (use an agent: --ssh ID=SOCKET)"),
    }
}

fn ed25519(pair: Ed25519KeyPair) -> Key {
    let mut public = Vec::new();
    push_text(&mut public, b"ssh-ed25519");
    push_text(&mut public, pair.public_key().as_ref());
    Key {
        public,
        comment: String::new(),
        pair: Pair::Ed25519(pair),
    }
}

/// From `n`, `e`, `d`, `p`, `q`, `d mod p-1`, `d mod q-1`, `1/q mod p`, all without leading zeros.
fn rsa([n, e, d, p, q, d_p, d_q, inverse]: [&[u8]; 8]) -> Result<Key, &'static str> {
    let pair = RsaKeyPair::from_components(&KeyPairComponents {
        public_key: PublicKeyComponents { n, e },
        d,
        p,
        q,
        dP: d_p,
        dQ: d_q,
        qInv: inverse,
    })
    .map_err(|_| "RSA keys must have 2048 to 4096 bits (use an agent: --ssh ID=SOCKET)")?;
    let mut public = Vec::new();
    push_text(&mut public, b"ssh-rsa");
    push_positive(&mut public, e);
    push_positive(&mut public, n);
    Ok(Key {
        public,
        comment: String::new(),
        pair: Pair::Rsa(Box::new(pair)),
    })
}

fn ecdsa(curve: Curve, secret: &[u8], point: &[u8]) -> Result<Key, &'static str> {
    let missing = curve.size().checked_sub(secret.len()).ok_or(BROKEN)?;
    let mut padded = vec![0; missing];
    padded.extend(secret);
    let random = SystemRandom::new();
    let pair =
        EcdsaKeyPair::from_private_key_and_public_key(curve.algorithm(), &padded, point, &random)
            .map_err(|_| BROKEN)?;
    let mut public = Vec::new();
    push_text(
        &mut public,
        format!("ecdsa-sha2-{}", curve.name()).as_bytes(),
    );
    push_text(&mut public, curve.name().as_bytes());
    push_text(&mut public, point);
    Ok(Key {
        public,
        comment: String::new(),
        pair: Pair::Ecdsa(curve, pair),
    })
}

impl Key {
    /// The public key as the protocol has it.
    pub(super) fn public(&self) -> &[u8] {
        &self.public
    }

    pub(super) fn comment(&self) -> &str {
        &self.comment
    }

    /// A signature as the protocol has it; `None` for what this key does not do (RSA with SHA-1).
    pub(super) fn sign(&self, data: &[u8], flags: u32) -> Option<Vec<u8>> {
        let random = SystemRandom::new();
        let (name, signature) = match &self.pair {
            Pair::Ed25519(pair) => ("ssh-ed25519".to_owned(), pair.sign(data).as_ref().to_vec()),
            Pair::Rsa(pair) => {
                let (name, encoding): (_, &'static dyn RsaEncoding) = match flags {
                    flags if flags & RSA_SHA2_512 != 0 => {
                        ("rsa-sha2-512", &signature::RSA_PKCS1_SHA512)
                    }
                    flags if flags & RSA_SHA2_256 != 0 => {
                        ("rsa-sha2-256", &signature::RSA_PKCS1_SHA256)
                    }
                    _ => return None,
                };
                let mut bytes = vec![0; pair.public().modulus_len()];
                pair.sign(encoding, &random, data, &mut bytes).ok()?;
                (name.to_owned(), bytes)
            }
            Pair::Ecdsa(curve, pair) => {
                let fixed = pair.sign(&random, data).ok()?;
                let (r, s) = fixed.as_ref().split_at(curve.size());
                let mut bytes = Vec::new();
                push_positive(&mut bytes, trim(r));
                push_positive(&mut bytes, trim(s));
                (format!("ecdsa-sha2-{}", curve.name()), bytes)
            }
        };
        let mut answer = Vec::new();
        push_text(&mut answer, name.as_bytes());
        push_text(&mut answer, &signature);
        Some(answer)
    }
}

/// Reads what SSH's messages are made of (RFC 4251 section 5).
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn number(&mut self) -> Option<u32> {
        let (number, rest) = self.0.split_first_chunk::<4>()?;
        self.0 = rest;
        Some(u32::from_be_bytes(*number))
    }

    pub(super) fn text(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.number()?).ok()?;
        let (text, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(text)
    }

    /// A positive number without leading zeros.
    fn positive(&mut self) -> Option<&'a [u8]> {
        self.text().map(trim)
    }
}

/// Adds a text with its length.
pub(super) fn push_text(out: &mut Vec<u8>, text: &[u8]) {
    let length = u32::try_from(text.len()).expect("BUG: texts of keys are short");
    out.extend(length.to_be_bytes());
    out.extend(text);
}

/// Adds a positive number.
fn push_positive(out: &mut Vec<u8>, number: &[u8]) {
    if number.first().is_some_and(|first| first & 0x80 != 0) {
        let mut padded = vec![0];
        padded.extend(number);
        push_text(out, &padded);
    } else {
        push_text(out, number);
    }
}

fn trim(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    &number[zeros..]
}

/// `number mod (prime - 1)` of big-endian numbers, by shifting and subtracting: done twice for each key read.
fn remainder(number: &[u8], prime: &[u8]) -> Vec<u8> {
    let mut modulus = prime.to_vec();
    // A prime above 2 is odd: nothing is borrowed.
    if let Some(last) = modulus.last_mut() {
        *last &= 0xfe;
    }
    // One byte more than the modulus, for the bit shifted in.
    let mut rest = vec![0u8; modulus.len() + 1];
    modulus.insert(0, 0);
    for bit in number
        .iter()
        .flat_map(|byte| (0..8).rev().map(move |shift| byte >> shift & 1))
    {
        let mut carry = bit;
        for byte in rest.iter_mut().rev() {
            let next = *byte >> 7;
            *byte = *byte << 1 | carry;
            carry = next;
        }
        if rest >= modulus {
            let mut borrow = 0i16;
            for (byte, minus) in rest.iter_mut().zip(&modulus).rev() {
                let difference = i16::from(*byte) - i16::from(*minus) - borrow;
                borrow = i16::from(difference < 0);
                *byte = difference.rem_euclid(256) as u8;
            }
        }
    }
    trim(&rest).to_vec()
}

#[cfg(test)]
mod tests {
    use super::remainder;

    #[test]
    fn remainders() {
        for (number, prime) in [(0u64, 3u64), (5, 3), (1 << 40, 65_537), (0xdead_beef, 257)] {
            let expected = (number % (prime - 1)).to_be_bytes();
            let found = remainder(&number.to_be_bytes(), super::trim(&prime.to_be_bytes()));
            assert_eq!(found, super::trim(&expected), "{number} {prime}");
        }
    }
}
