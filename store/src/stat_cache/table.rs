//! Sorted entries of a stat cache in a file, of which only some are in memory: the first of every block, and the blocks
//! that were looked at last. Small files are in memory as a whole. It trusts nothing that it has not summed up.

use super::{CHECKSUM, MAGIC, MAX_IDLE, StatKey, VERSION};
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes of an entry.
pub(super) const ENTRY: usize = 80;
/// Entries of a block.
const BLOCK: usize = 128;
/// Blocks in memory of a file that is larger than that.
const KEPT: usize = 64;
/// Blocks of a file that is in memory as a whole: 64,000 entries.
const SMALL: usize = 500;
/// About 13 million entries; more is damage.
const FILE_LIMIT: u64 = 1 << 30;
/// Longer paths than any system has are damage.
const PATH_LIMIT: usize = 1 << 16;

#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: StatKey,
    pub(super) digest: [u8; 32],
    pub(super) idle: u8,
    /// Not to be kept.
    pub(super) fleeting: bool,
}

impl Entry {
    /// Times outside the years 1678 to 2262 have no room in the file.
    pub(super) fn fits(key: &StatKey) -> bool {
        i64::try_from(key.mtime_ns).is_ok() && i64::try_from(key.ctime_ns).is_ok()
    }

    pub(super) fn encode(&self) -> [u8; ENTRY] {
        // Those that do not fit are fleeting, and nothing finds them.
        let time = |ns: i128| i64::try_from(ns).unwrap_or(i64::MIN);
        let mut out = [0; ENTRY];
        out[..8].copy_from_slice(&self.key.dev.to_le_bytes());
        out[8..16].copy_from_slice(&self.key.ino.to_le_bytes());
        out[16..24].copy_from_slice(&self.key.size.to_le_bytes());
        out[24..32].copy_from_slice(&time(self.key.mtime_ns).to_le_bytes());
        out[32..40].copy_from_slice(&time(self.key.ctime_ns).to_le_bytes());
        out[40..72].copy_from_slice(&self.digest);
        out[72] = self.idle;
        out[73] = u8::from(self.fleeting);
        out
    }

    fn order(bytes: &[u8; ENTRY]) -> (u64, u64) {
        let (words, _) = bytes.as_chunks::<8>();
        (u64::from_le_bytes(words[0]), u64::from_le_bytes(words[1]))
    }

    fn key(bytes: &[u8; ENTRY]) -> StatKey {
        let (words, _) = bytes.as_chunks::<8>();
        StatKey {
            dev: u64::from_le_bytes(words[0]),
            ino: u64::from_le_bytes(words[1]),
            size: u64::from_le_bytes(words[2]),
            mtime_ns: i128::from(i64::from_le_bytes(words[3])),
            ctime_ns: i128::from(i64::from_le_bytes(words[4])),
        }
    }

    fn decode(bytes: &[u8; ENTRY]) -> Self {
        let mut digest = [0; 32];
        digest.copy_from_slice(&bytes[40..72]);
        Self {
            key: Self::key(bytes),
            digest,
            idle: bytes[72],
            fleeting: bytes[73] != 0,
        }
    }
}

/// As [`Entry::fleeting`], encoded.
pub(super) fn is_fleeting(entry: &[u8; ENTRY]) -> bool {
    entry[73] != 0
}

/// Entries side by side.
type Block = Arc<Vec<u8>>;

fn entries_of(block: &Block) -> &[[u8; ENTRY]] {
    block.as_chunks::<ENTRY>().0
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Table {
    count: usize,
    /// Of each block the (dev, ino) of its first entry.
    firsts: Vec<(u64, u64)>,
    /// A bit for each entry that was found.
    used: Vec<AtomicU64>,
    /// Where entries begin in the file.
    start: u64,
    /// `None` when all blocks are in memory.
    file: Option<File>,
    /// All blocks, or those looked at last by their number modulo [`KEPT`].
    blocks: Mutex<Vec<(usize, Block)>>,
}

impl Table {
    /// Entries that were just written to a temporary file.
    pub(super) fn of_run(file: File, entries: &[Entry]) -> Self {
        let firsts = entries.iter().step_by(BLOCK);
        Self {
            firsts: firsts.map(|entry| entry.key.order()).collect(),
            file: Some(file),
            ..Self::with_count(entries.len())
        }
    }

    fn with_count(count: usize) -> Self {
        let used = std::iter::repeat_with(AtomicU64::default).take(count.div_ceil(64));
        Self {
            count,
            used: used.collect(),
            ..Self::default()
        }
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// A block; empty when it cannot be read, which is as good as unknown.
    fn block(&self, number: usize) -> Block {
        let lock = || self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        let place = if self.file.is_some() {
            number % KEPT
        } else {
            number
        };
        if let Some((known, block)) = lock().get(place)
            && *known == number
        {
            return block.clone();
        }
        let block = self.read(number);
        if self.file.is_some() {
            let mut blocks = lock();
            if blocks.len() < KEPT {
                blocks.resize(KEPT, (usize::MAX, Block::default()));
            }
            blocks[place] = (number, block.clone());
        }
        block
    }

    fn read(&self, number: usize) -> Block {
        let Some(file) = &self.file else {
            return Block::default();
        };
        let first = number * BLOCK;
        let mut bytes = vec![0; self.count.saturating_sub(first).min(BLOCK) * ENTRY];
        let at = self.start + (first * ENTRY) as u64;
        if let Err(error) = file.read_exact_at(&mut bytes, at) {
            tracing::debug!(%error, "a part of a stat cache cannot be read");
            return Block::default();
        }
        Block::new(bytes)
    }

    /// Looks entries up one after the other.
    pub(super) fn cursor(&self) -> Cursor<'_> {
        Cursor {
            table: self,
            number: usize::MAX,
            block: Block::default(),
            at: 0,
        }
    }

    /// All entries in order.
    pub(super) fn entries(&self) -> impl Iterator<Item = Entry> + '_ {
        let blocks = (0..self.firsts.len()).map(|number| match &self.file {
            Some(_) => self.read(number),
            None => self.block(number),
        });
        blocks.flat_map(|block| {
            let entries: Vec<Entry> = entries_of(&block).iter().map(Entry::decode).collect();
            entries
        })
    }

    /// Entries to keep where there is no newer one.
    pub(super) fn survivors(&self) -> impl Iterator<Item = Entry> + '_ {
        let used = |at: usize| self.used[at / 64].load(Ordering::Relaxed) >> (at % 64) & 1 == 1;
        self.entries()
            .enumerate()
            .map(move |(at, mut entry)| {
                entry.idle = if used(at) {
                    0
                } else {
                    entry.idle.saturating_add(1)
                };
                entry
            })
            .filter(|entry| entry.idle <= MAX_IDLE)
    }
}

/// Where the last one was found: the next is mostly near.
#[derive(Debug)]
pub(super) struct Cursor<'a> {
    table: &'a Table,
    number: usize,
    block: Block,
    at: usize,
}

impl Cursor<'_> {
    pub(super) fn get(&mut self, key: &StatKey) -> Option<[u8; 32]> {
        let table = self.table;
        let order = key.order();
        let starts_before = |number: usize| table.firsts.get(number).is_some_and(|f| *f <= order);
        let is_here = self.number != usize::MAX
            && starts_before(self.number)
            && !starts_before(self.number + 1);
        if !is_here {
            let after = table.firsts.partition_point(|first| *first <= order);
            self.number = after.checked_sub(1)?;
            self.block = table.block(self.number);
            self.at = 0;
        }
        let entries = entries_of(&self.block);
        let next = entries.get(self.at);
        let at = if next.is_some_and(|entry| Entry::order(entry) == order) {
            self.at
        } else {
            entries.binary_search_by_key(&order, Entry::order).ok()?
        };
        self.at = at + 1;
        let entry = &entries[at];
        if Entry::key(entry) != *key {
            return None;
        }
        let place = self.number * BLOCK + at;
        table.used[place / 64].fetch_or(1 << (place % 64), Ordering::Relaxed);
        Some(Entry::decode(entry).digest)
    }
}

/// A stat cache's file.
pub(super) struct Parsed {
    pub(super) context: PathBuf,
    pub(super) table: Table,
}

/// Reads the file once, checks its sum and its order; `None` when it is damaged.
pub(super) fn parse(file: File) -> io::Result<Option<Parsed>> {
    let size = file.metadata()?.len();
    let mut reader = Reader {
        file: &file,
        at: 0,
        hasher: blake3::Hasher::new(),
    };
    let fixed = (MAGIC.len() + 8 + 8 + CHECKSUM) as u64;
    if !(fixed..=FILE_LIMIT).contains(&size) {
        return Ok(None);
    }
    let head = reader.take(MAGIC.len() + 8)?;
    let number =
        |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let length = number(12) as usize;
    let entries = size.checked_sub(fixed + length as u64);
    let Some(entries) = entries.filter(|bytes| bytes.is_multiple_of(ENTRY as u64)) else {
        return Ok(None);
    };
    if !head.starts_with(MAGIC) || number(8) != VERSION || length > PATH_LIMIT {
        return Ok(None);
    }
    let context = PathBuf::from(OsString::from_vec(reader.take(length)?));
    let Some(count) = usize::try_from(entries / ENTRY as u64).ok() else {
        return Ok(None);
    };
    let mut table = Table::with_count(count);
    table.start = reader.at;
    let is_small = count <= SMALL * BLOCK;
    let mut blocks = Vec::new();
    let mut previous = None;
    for number in 0..count.div_ceil(BLOCK) {
        let block = Block::new(reader.take((count - number * BLOCK).min(BLOCK) * ENTRY)?);
        for entry in entries_of(&block) {
            let order = Entry::order(entry);
            if previous.is_some_and(|previous| previous >= order) {
                return Ok(None);
            }
            previous = Some(order);
        }
        table.firsts.push(Entry::order(&entries_of(&block)[0]));
        if is_small {
            blocks.push((number, block));
        }
    }
    let counted = reader.take(8)?;
    let sum = reader.hasher.finalize();
    if counted != (count as u64).to_le_bytes() || reader.take(CHECKSUM)? != sum.as_bytes() {
        return Ok(None);
    }
    table.blocks = Mutex::new(blocks);
    table.file = (!is_small).then_some(file);
    Ok(Some(Parsed { context, table }))
}

struct Reader<'f> {
    file: &'f File,
    at: u64,
    hasher: blake3::Hasher,
}

impl Reader<'_> {
    fn take(&mut self, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, self.at)?;
        self.hasher.update(&bytes);
        self.at += length as u64;
        Ok(bytes)
    }
}
