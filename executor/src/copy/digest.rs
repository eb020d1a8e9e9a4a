//! What a COPY reads, as a digest for keys and as a list for people. Both come from one walk over the selection.

use super::reads::{Reads, type_bits};
use super::select::{Head, Item, Sink};
use crate::Error;
use crate::tree::Kind;
use std::collections::HashMap;

/// Bytes hashed at once.
const FLUSH: usize = 32 * 1024;
/// Changes when the encoding does.
const DOMAIN: &[u8] = b"kiln copy source 2";
/// Where the numbers of items begin that later names of the same file refer to.
const LINKED: u64 = 1 << 32;

/// Encodes fields with their lengths, so that no two selections read alike.
struct Encoder {
    hasher: blake3::Hasher,
    /// Fields not hashed yet: they are short, and hashing pays for long input.
    fields: Vec<u8>,
}

impl Encoder {
    fn new() -> Self {
        Self {
            hasher: blake3::Hasher::new(),
            fields: Vec::with_capacity(2 * FLUSH),
        }
    }

    fn number(&mut self, number: u64) {
        self.fields.extend_from_slice(&number.to_le_bytes());
        if self.fields.len() >= FLUSH {
            self.hasher.update(&self.fields);
            self.fields.clear();
        }
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.fields.extend_from_slice(bytes);
    }

    fn finish(mut self) -> [u8; 32] {
        *self.hasher.update(&self.fields).finalize().as_bytes()
    }
}

/// The digest as a selection's entries come by, and the list.
pub(super) struct Digesting {
    encoder: Encoder,
    reads: Reads,
    head: Head,
    /// Number of the group's next item.
    at: u64,
    /// Numbers of the group's files that have several names.
    links: HashMap<(u64, u64), u64>,
}

impl Digesting {
    pub(super) fn new(reads: Reads) -> Self {
        let mut encoder = Encoder::new();
        encoder.bytes(DOMAIN);
        Self {
            encoder,
            reads,
            head: Head::default(),
            at: LINKED,
            links: HashMap::new(),
        }
    }

    pub(super) fn finish(self) -> ([u8; 32], Reads) {
        (self.encoder.finish(), self.reads)
    }
}

impl Sink for Digesting {
    fn begin(&mut self, head: Head) -> Result<(), Error> {
        self.encoder.bytes(&head.name);
        self.head = head;
        self.at = LINKED;
        self.links.clear();
        Ok(())
    }

    fn item(&mut self, item: Item) -> Result<(), Error> {
        // Another one.
        self.encoder.number(1);
        self.encoder.bytes(item.relative(&self.head));
        let at = self.at;
        self.at += 1;
        // The first name of a file is like any file: its other names may lie where nothing is copied from.
        let first = item
            .link
            .map_or(at, |id| *self.links.entry(id).or_insert(at));
        self.encoder.number(if first == at { 0 } else { first });
        // A directory that is the source itself gives its files, not its own attributes.
        let named = item.is_named(&self.head);
        encode(&mut self.encoder, &item, !named);
        if named {
            self.reads.push(&item.entry)?;
        }
        if at == LINKED {
            self.reads.begin(&self.head, &item);
            return Ok(());
        }
        self.reads.below(&item, first != at)
    }

    fn end(&mut self) -> Result<(), Error> {
        self.encoder.number(0);
        Ok(())
    }
}

fn encode(encoder: &mut Encoder, item: &Item, type_only: bool) {
    let entry = &item.entry;
    encoder.number(u64::from(type_bits(&entry.kind)));
    encoder.number(u64::from(item.parent_only));
    if type_only {
        return;
    }
    encoder.number(u64::from(entry.mode));
    encoder.number(u64::from(entry.uid));
    encoder.number(u64::from(entry.gid));
    match &entry.kind {
        Kind::File { size, digest } => {
            encoder.number(*size);
            encoder.bytes(&digest.expect("BUG: a selection is complete"));
        }
        Kind::Symlink { target } | Kind::Hardlink { target } => encoder.bytes(target),
        Kind::Char { major, minor } | Kind::Block { major, minor } => {
            encoder.number(u64::from(*major));
            encoder.number(u64::from(*minor));
        }
        Kind::Directory | Kind::Fifo | Kind::Socket => {}
    }
    encoder.number(entry.xattrs.len() as u64);
    for (name, value) in &entry.xattrs {
        encoder.bytes(name);
        encoder.bytes(value);
    }
}
