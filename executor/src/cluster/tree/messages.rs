//! `Directory` messages by their hashes, in one piece of memory, and in records that each hold what one layer adds.
//!
//! A record: hash and size (u64) of the root, then for each message hash, length (u32) and bytes; numbers little-endian. The
//! store's checksum tells damage.

use super::{decoded, unlike};
use crate::Error;
use reapi::prost::Message as _;
use reapi::{Blob, Content, Digest, proto};
use std::collections::{HashMap, HashSet};
use std::io::Read;
use std::ops::Range;
use store::Store;

const HASH: usize = 32;
const HEAD: usize = HASH + 4;
const ROOT: usize = HASH + 8;

/// Messages, each once.
#[derive(Debug, Default)]
pub(super) struct Messages {
    /// As in records.
    bytes: Vec<u8>,
    places: HashMap<[u8; HASH], Range<usize>>,
}

impl Messages {
    /// Adds a message that is in canonical form.
    pub(super) fn put(&mut self, directory: &proto::Directory) -> Digest {
        let start = self.bytes.len();
        let length = directory.encoded_len();
        self.bytes.resize(start + HEAD, 0);
        directory
            .encode(&mut self.bytes)
            .expect("BUG: a vector takes any message");
        let place = start + HEAD..start + HEAD + length;
        let mut hasher = store::Sha256::new();
        hasher.update(&self.bytes[place.clone()]);
        let hash = hasher.finish();
        if self.places.contains_key(&hash) {
            self.bytes.truncate(start);
        } else {
            let length = u32::try_from(length).expect("BUG: a layer's names are below 4 GiB");
            self.bytes[start..start + HASH].copy_from_slice(&hash);
            self.bytes[start + HASH..start + HEAD].copy_from_slice(&length.to_le_bytes());
            self.places.insert(hash, place);
        }
        Digest::new(hash, length as u64)
    }

    /// A message that was added.
    pub(super) fn get(&self, digest: &Digest) -> Result<proto::Directory, Error> {
        let place = self.places.get(digest.hash());
        let place = place.ok_or_else(|| unlike("what is remembered of them is not whole"))?;
        decoded(&self.bytes[place.clone()])
    }

    /// Where what is added from now on begins.
    pub(super) fn mark(&self) -> usize {
        self.bytes.len()
    }

    /// Remembers what was added since a mark, and a root.
    pub(super) fn save(
        &self,
        store: &Store,
        key: &[u8; 32],
        (mark, root): (usize, Digest),
    ) -> Result<(), Error> {
        let added = &self.bytes[mark..];
        let mut head = root.hash().to_vec();
        head.extend_from_slice(&root.size().to_le_bytes());
        let length = (head.len() + added.len()) as u64;
        Ok(store.put_large_record(key, length, &mut head.chain(added))?)
    }

    /// Adds what a record has; gives its root. `None` where there is none that makes sense.
    pub(super) fn load(&mut self, store: &Store, key: &[u8; 32]) -> Result<Option<Digest>, Error> {
        let Some(mut record) = store.large_record(key)? else {
            return Ok(None);
        };
        let mark = self.mark();
        let mut head = [0; ROOT];
        let read = record.read_exact(&mut head);
        if read
            .and_then(|()| record.read_to_end(&mut self.bytes))
            .is_err()
        {
            self.bytes.truncate(mark);
            return Ok(None);
        }
        let Some(found) = places(&self.bytes, mark) else {
            self.bytes.truncate(mark);
            return Ok(None);
        };
        self.places.extend(found);
        let (hash, size) = head.split_at(HASH);
        let hash = hash.try_into().expect("BUG: thirty-two bytes");
        let size = u64::from_le_bytes(size.try_into().expect("BUG: eight bytes"));
        Ok(Some(Digest::new(hash, size)))
    }

    /// Puts the messages that a root needs into `blobs`, each once; gives the digests of all files in them. Directories that
    /// the server has are left out with all that is below.
    pub(super) fn finish(
        self,
        root: Digest,
        has: &dyn Fn(&Digest) -> bool,
        blobs: &mut Vec<Blob>,
    ) -> Result<HashSet<Digest>, Error> {
        let Self { bytes, places } = self;
        let bytes = bytes::Bytes::from(bytes);
        let mut files = HashSet::new();
        let mut seen = HashSet::from([root]);
        let mut todo = if has(&root) { Vec::new() } else { vec![root] };
        while let Some(digest) = todo.pop() {
            let place = places.get(digest.hash());
            let place = place.ok_or_else(|| unlike("what is remembered of them is not whole"))?;
            let message = bytes.slice(place.clone());
            let directory = decoded(&message)?;
            for node in &directory.files {
                files.insert(named(node.digest.as_ref())?);
            }
            for node in &directory.directories {
                let child = named(node.digest.as_ref())?;
                if !has(&child) && seen.insert(child) {
                    todo.push(child);
                }
            }
            let content = Content::Bytes(message);
            blobs.push(Blob { digest, content });
        }
        Ok(files)
    }
}

/// The digest that a node names.
pub(super) fn named(digest: Option<&proto::Digest>) -> Result<Digest, Error> {
    digest
        .and_then(|digest| Digest::from_proto(digest).ok())
        .ok_or_else(|| unlike("what is remembered of them is damaged"))
}

/// Where the messages are, from `at` on.
fn places(bytes: &[u8], mut at: usize) -> Option<Vec<([u8; HASH], Range<usize>)>> {
    let mut found = Vec::new();
    while at < bytes.len() {
        let head = bytes.get(at..at + HEAD)?;
        let hash: [u8; HASH] = head[..HASH].try_into().ok()?;
        let length = u32::from_le_bytes(head[HASH..].try_into().ok()?) as usize;
        let place = at + HEAD..(at + HEAD).checked_add(length)?;
        bytes.get(place.clone())?;
        at = place.end;
        found.push((hash, place));
    }
    Some(found)
}
