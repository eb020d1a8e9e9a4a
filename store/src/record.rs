//! Cache records: opaque payloads by key, each in a file of its own with the layers it needs and a checksum.
//! It does not know what a key or a payload means.
//!
//! ```text
//! "kiln record 1\n"  u32 count  (u16 length, digest text)*  u64 length  payload  BLAKE3 of all before
//! ```
//! Numbers are little-endian.

use crate::Store;
use crate::error::Error;
use crate::file;
use oci_spec::image::Digest;
use std::path::Path;

const MAGIC: &[u8] = b"kiln record 1\n";
const CHECKSUM: usize = 32;
/// Larger files are damaged: a record lists the files a step read, at most some hundred bytes each.
const RECORD_LIMIT: u64 = 1 << 30;

/// A decoded record.
pub(crate) struct Record {
    pub(crate) layers: Vec<Digest>,
    pub(crate) payload: Vec<u8>,
}

impl Store {
    /// A cache record's payload (opaque), or `None`. A truncated or damaged one counts as absent.
    ///
    /// # Errors
    /// A failed read.
    pub fn record(&self, key: &[u8; 32]) -> Result<Option<Vec<u8>>, Error> {
        let path = self.inner.layout.record(key);
        let record = read(&path)?;
        if record.is_some() {
            self.note_use(&path);
        }
        Ok(record.map(|record| record.payload))
    }

    /// Writes a record atomically. `layers` are the diff_ids it points at, for garbage collection (digests of blobs
    /// are fine too: a manifest keeps what it names).
    ///
    /// # Errors
    /// A failed write.
    pub fn put_record(
        &self,
        key: &[u8; 32],
        payload: &[u8],
        layers: &[Digest],
    ) -> Result<(), Error> {
        let path = self.inner.layout.record(key);
        self.inner.replace(&path, &encode(payload, layers), false)
    }
}

fn encode(payload: &[u8], layers: &[Digest]) -> Vec<u8> {
    let mut out = Vec::with_capacity(payload.len() + layers.len() * 80 + 128);
    out.extend_from_slice(MAGIC);
    let count = u32::try_from(layers.len()).expect("BUG: fewer than 2^32 layers");
    out.extend_from_slice(&count.to_le_bytes());
    for layer in layers {
        let text = layer.as_ref().as_bytes();
        let length = u16::try_from(text.len()).expect("BUG: a digest is shorter than 64 KiB");
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(text);
    }
    out.extend_from_slice(&(payload.len() as u64).to_le_bytes());
    out.extend_from_slice(payload);
    let checksum = blake3::hash(&out);
    out.extend_from_slice(checksum.as_bytes());
    out
}

/// `None` when absent or damaged.
pub(crate) fn read(path: &Path) -> Result<Option<Record>, Error> {
    let bytes = match file::read_small(path, RECORD_LIMIT) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Ok(None),
        Err(Error::Damaged { reason, .. }) => {
            tracing::warn!(path = %path.display(), reason, "a damaged cache record is ignored");
            return Ok(None);
        }
        Err(e) => return Err(e),
    };
    let record = decode(bytes);
    if record.is_none() {
        tracing::warn!(path = %path.display(), "a damaged cache record is ignored");
    }
    Ok(record)
}

fn decode(mut bytes: Vec<u8>) -> Option<Record> {
    let (content, checksum) = bytes.split_at_checked(bytes.len().checked_sub(CHECKSUM)?)?;
    if blake3::hash(content).as_bytes() != checksum {
        return None;
    }
    let rest = content.strip_prefix(MAGIC)?;
    let (count, mut rest) = rest.split_first_chunk::<4>()?;
    let mut layers = Vec::new();
    for _ in 0..u32::from_le_bytes(*count) {
        let (length, after) = rest.split_first_chunk::<2>()?;
        let (text, after) = after.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
        layers.push(Digest::try_from(std::str::from_utf8(text).ok()?).ok()?);
        rest = after;
    }
    let (length, payload) = rest.split_first_chunk::<8>()?;
    if u64::from_le_bytes(*length) != payload.len() as u64 {
        return None;
    }
    // Some are large: the payload stays in the memory that it was read into.
    let (start, end) = (content.len() - payload.len(), content.len());
    bytes.truncate(end);
    bytes.drain(..start);
    Some(Record {
        layers,
        payload: bytes,
    })
}
