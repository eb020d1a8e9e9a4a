//! What a COPY reads, as a digest for keys and as a list for people. Both come from one walk over the selection.

use super::reads::Reads;
use super::select::{Item, Selection};
use crate::context::walk::libc_mode;
use crate::tree::{Entry, Kind};
use std::collections::HashMap;

/// Bytes hashed at once.
const FLUSH: usize = 32 * 1024;
/// Changes when the encoding does.
const DOMAIN: &[u8] = b"kiln copy source 1";
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

/// Gives the selection's memory back on the way.
pub(super) fn digest(selection: Selection) -> ([u8; 32], Reads) {
    let mut encoder = Encoder::new();
    encoder.bytes(DOMAIN);
    let mut reads = Reads::for_all_of(&selection);
    for group in selection.groups {
        encoder.number(group.items.len() as u64);
        encoder.bytes(&group.name);
        let mut links: HashMap<(u64, u64), u64> = HashMap::new();
        for (at, item) in (LINKED..).zip(group.items.drain()) {
            // Empty for the root of what is copied.
            let relative = item.entry.path.get(group.strip..).unwrap_or_default();
            encoder.bytes(relative);
            // The first name of a file is like any file: its other names may lie where nothing is copied from.
            let first = item.link.map_or(at, |id| *links.entry(id).or_insert(at));
            encoder.number(if first == at { 0 } else { first });
            // A directory that is the source itself gives its files, not its own attributes.
            let unnamed = relative.is_empty() && item.entry.kind == Kind::Directory;
            encode(&mut encoder, &item, unnamed);
            if !unnamed {
                list(&item.entry, &mut reads);
            }
        }
    }
    (encoder.finish(), reads)
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

fn list(entry: &Entry, reads: &mut Reads) {
    let path = String::from_utf8_lossy(&entry.path);
    let mode = type_bits(&entry.kind) | entry.mode;
    reads.push(&path, mode, |text| match &entry.kind {
        Kind::File { digest, .. } => hex(&digest.expect("BUG: a selection is complete"), text),
        Kind::Symlink { target } | Kind::Hardlink { target } => {
            text.push_str(&String::from_utf8_lossy(target));
        }
        Kind::Char { major, minor } | Kind::Block { major, minor } => {
            text.push_str(&format!("{major}:{minor}"));
        }
        Kind::Directory | Kind::Fifo | Kind::Socket => {}
    });
}

fn hex(bytes: &[u8], text: &mut String) {
    for byte in bytes {
        for nibble in [byte >> 4, byte & 15] {
            text.push(char::from(b"0123456789abcdef"[usize::from(nibble)]));
        }
    }
}

/// The type bits of `st_mode`.
fn type_bits(kind: &Kind) -> u32 {
    match kind {
        Kind::Directory => libc_mode::DIRECTORY,
        Kind::File { .. } | Kind::Hardlink { .. } => libc_mode::REGULAR,
        Kind::Symlink { .. } => libc_mode::SYMLINK,
        Kind::Char { .. } => libc_mode::CHARACTER,
        Kind::Block { .. } => libc_mode::BLOCK,
        Kind::Fifo => libc_mode::FIFO,
        Kind::Socket => libc_mode::SOCKET,
    }
}
