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
use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom, Write as _};
use std::path::Path;

const MAGIC: &[u8] = b"kiln record 1\n";
const CHECKSUM: usize = 32;
/// Larger files are damaged: a record lists the files a step read, at most some hundred bytes each.
const RECORD_LIMIT: u64 = 1 << 30;
/// Copied at once from one file to another.
const PIECE: usize = 64 * 1024;

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

    /// Writes a record whose payload need not be in memory: it is read to its end, which must come after `length` bytes.
    ///
    /// # Errors
    /// A failed read or write, another length.
    pub fn put_large_record(
        &self,
        key: &[u8; 32],
        length: u64,
        payload: &mut dyn Read,
    ) -> Result<(), Error> {
        let temporary = self.inner.temporary()?;
        let mut write = || -> io::Result<u64> {
            let mut out = File::create_new(&temporary)?;
            let mut hasher = blake3::Hasher::new();
            let mut piece = head(length, &[]);
            let mut total = 0;
            loop {
                hasher.update(&piece);
                out.write_all(&piece)?;
                total += piece.len() as u64;
                piece.clear();
                payload.take(PIECE as u64).read_to_end(&mut piece)?;
                if piece.is_empty() {
                    break;
                }
            }
            if total != head(length, &[]).len() as u64 + length {
                return Err(io::Error::other("the payload has another length"));
            }
            out.write_all(hasher.finalize().as_bytes())?;
            Ok(total + CHECKSUM as u64)
        };
        let written = write().map_err(|e| Error::io("write", &temporary, e));
        let path = self.inner.layout.record(key);
        self.inner.place(&temporary, &path, written)
    }

    /// A record's payload to be read from its file, or `None`. It is checked as a whole first: a damaged one counts as absent.
    ///
    /// # Errors
    /// A failed read.
    pub fn large_record(&self, key: &[u8; 32]) -> Result<Option<impl Read + use<>>, Error> {
        let path = self.inner.layout.record(key);
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if file::is_absent(&e) => return Ok(None),
            Err(e) => return Err(Error::io("open", &path, e)),
        };
        let failed = |e| Error::io("read", &path, e);
        let Some((start, length)) = sound_payload(&file).map_err(failed)? else {
            tracing::warn!(path = %path.display(), "a damaged cache record is ignored");
            return Ok(None);
        };
        self.note_use(&path);
        file.seek(SeekFrom::Start(start)).map_err(failed)?;
        Ok(Some(file.take(length)))
    }
}

/// Where the payload begins and its length, once the sum is right.
fn sound_payload(mut file: &File) -> io::Result<Option<(u64, u64)>> {
    let size = file.metadata()?.len();
    let Some(content) = size.checked_sub(CHECKSUM as u64) else {
        return Ok(None);
    };
    let mut hasher = blake3::Hasher::new();
    let mut left = content;
    let mut piece = Vec::with_capacity(PIECE);
    let mut payload = None;
    while left > 0 {
        piece.clear();
        let got = file.take(left.min(PIECE as u64)).read_to_end(&mut piece)?;
        if got == 0 {
            return Ok(None);
        }
        hasher.update(&piece);
        // Layers, of which a record that is read so has none, would all have to be in the first piece.
        if left == content
            && let Some((_, start, length)) = decode_head(&piece)
        {
            payload = Some((start as u64, length));
        }
        left -= got as u64;
    }
    let mut sum = [0; CHECKSUM];
    file.read_exact(&mut sum)?;
    let whole = |(start, length): &(u64, u64)| start.checked_add(*length) == Some(content);
    Ok(payload.filter(|payload| whole(payload) && *hasher.finalize().as_bytes() == sum))
}

fn encode(payload: &[u8], layers: &[Digest]) -> Vec<u8> {
    let mut out = head(payload.len() as u64, layers);
    out.reserve_exact(payload.len() + CHECKSUM);
    out.extend_from_slice(payload);
    let checksum = blake3::hash(&out);
    out.extend_from_slice(checksum.as_bytes());
    out
}

/// What comes before a payload.
fn head(length: u64, layers: &[Digest]) -> Vec<u8> {
    let mut out = Vec::with_capacity(layers.len() * 80 + 128);
    out.extend_from_slice(MAGIC);
    let count = u32::try_from(layers.len()).expect("BUG: fewer than 2^32 layers");
    out.extend_from_slice(&count.to_le_bytes());
    for layer in layers {
        let text = layer.as_ref().as_bytes();
        let length = u16::try_from(text.len()).expect("BUG: a digest is shorter than 64 KiB");
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(text);
    }
    out.extend_from_slice(&length.to_le_bytes());
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
    let (layers, start, length) = decode_head(content)?;
    let end = content.len();
    if length != (end - start) as u64 {
        return None;
    }
    // Some are large: the payload stays in the memory that it was read into.
    bytes.truncate(end);
    bytes.drain(..start);
    Some(Record {
        layers,
        payload: bytes,
    })
}

/// Layers, where the payload begins, and its length.
fn decode_head(content: &[u8]) -> Option<(Vec<Digest>, usize, u64)> {
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
    let start = content.len() - payload.len();
    Some((layers, start, u64::from_le_bytes(*length)))
}
