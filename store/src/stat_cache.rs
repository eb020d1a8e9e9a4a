//! Digests of files by their stat, one file per context folder. It reads no context file and calls no `stat` itself.
//!
//! ```text
//! "kilnstat"  u32 version  u32 length  context path  u64 count  entry*  BLAKE3 of all before
//! entry, 80 bytes: dev ino size mtime_ns ctime_ns (8 each)  digest (32)  unused rewrites (1)  zero (7)
//! ```
//! Numbers are little-endian. Entries are sorted by a mix of (dev, ino), so that the leading bits of the mix find an
//! entry at once in the bytes as they were read. A file that is damaged in any way is an empty cache.
//!
//! Trust follows git's "racy" rule, a little stricter: a file whose mtime or ctime is not safely older than the time
//! at which this cache was opened is not kept, since it could change once more without its stat changing.

use crate::Store;
use crate::error::Error;
use crate::file;
use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

const MAGIC: &[u8; 8] = b"kilnstat";
const VERSION: u32 = 1;
const ENTRY: usize = 80;
const CHECKSUM: usize = 32;
/// About 13 million entries; more is damage.
const FILE_LIMIT: u64 = 1 << 30;
/// Builds of other targets of the same context read other files: entries are dropped only when unused this often.
const MAX_IDLE: u8 = 8;
/// The kernel stamps files with the time of its last tick, at most 10 ms old (HZ=100).
const TICK_MARGIN_NS: i128 = 50_000_000;
/// File systems without fractions of seconds: FAT has two-second steps.
const COARSE_MARGIN_NS: i128 = 2_100_000_000;

/// What identifies a file's state without reading it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct StatKey {
    /// Device.
    pub dev: u64,
    /// Inode.
    pub ino: u64,
    /// Bytes.
    pub size: u64,
    /// mtime in nanoseconds since the epoch.
    pub mtime_ns: i128,
    /// ctime in nanoseconds since the epoch.
    pub ctime_ns: i128,
}

impl StatKey {
    /// Spreads files evenly over 64 bits (Fibonacci hashing: inode numbers come in runs).
    fn mix(&self) -> u64 {
        (self.ino ^ self.dev.rotate_left(32)).wrapping_mul(0x9E37_79B9_7F4A_7C15)
    }

    fn order(&self) -> (u64, u64, u64) {
        (self.mix(), self.dev, self.ino)
    }

    /// Whether the file could not have changed since `now_ns` without its stat changing.
    fn settled(&self, now_ns: i128) -> bool {
        let whole_seconds = self.ctime_ns.rem_euclid(1_000_000_000) == 0;
        let margin = if whole_seconds {
            COARSE_MARGIN_NS
        } else {
            TICK_MARGIN_NS
        };
        self.mtime_ns.max(self.ctime_ns) < now_ns - margin
    }
}

/// Digests of files by their stat: one file per context, rewritten atomically. Files changed shortly before or after
/// the cache was opened are remembered only until it is saved ("racy git").
#[derive(Debug)]
pub struct StatCache {
    store: Store,
    path: PathBuf,
    context: PathBuf,
    opened_ns: i128,
    old: Table,
    added: HashMap<(u64, u64), (StatKey, [u8; 32])>,
}

impl StatCache {
    /// The remembered digest of a file in this state.
    #[must_use]
    pub fn get(&self, key: &StatKey) -> Option<[u8; 32]> {
        if let Some((known, digest)) = self.added.get(&(key.dev, key.ino))
            && known == key
        {
            return Some(*digest);
        }
        self.old.get(key)
    }

    /// Remembers one (thread-safe callers hold it mutably).
    pub fn insert(&mut self, key: StatKey, digest: [u8; 32]) {
        self.added.insert((key.dev, key.ino), (key, digest));
    }

    /// Entries that were loaded from the file.
    #[must_use]
    pub fn loaded(&self) -> usize {
        self.old.len()
    }

    /// Writes it back when it changed; entries that went unused in several rewrites are dropped.
    ///
    /// # Errors
    /// A failed write.
    pub fn save(self) -> Result<(), Error> {
        self.save_with(std::iter::empty())
    }

    /// The same with more that was found out, which is not kept in two ways meanwhile: there may be a million entries.
    ///
    /// # Errors
    /// A failed write.
    pub fn save_with(self, found: impl Iterator<Item = (StatKey, [u8; 32])>) -> Result<(), Error> {
        let mut entries: Vec<[u8; ENTRY]> = Vec::new();
        let mut racy = HashSet::new();
        for (key, digest) in self.added.into_values().chain(found) {
            if key.settled(self.opened_ns) && Entry::fits(&key) {
                let entry = Entry {
                    key,
                    digest,
                    idle: 0,
                };
                entries.push(entry.encode());
            } else if self.old.len() > 0 {
                racy.insert((key.dev, key.ino));
            }
        }
        if entries.is_empty() {
            return Ok(());
        }
        let order = |entry: &[u8; ENTRY]| Entry::key(entry).order();
        entries.sort_unstable_by_key(order);
        // Several names of one file.
        entries.dedup_by_key(|entry| order(entry));
        let new = entries.len();
        for survivor in self.old.survivors() {
            let key = &survivor.key;
            let is_new = entries[..new]
                .binary_search_by_key(&key.order(), order)
                .is_ok();
            if !is_new && !racy.contains(&(key.dev, key.ino)) {
                entries.push(survivor.encode());
            }
        }
        drop((self.old, racy));
        entries.sort_unstable_by_key(order);
        let bytes = encode(&self.context, entries);
        self.store.inner.replace(&self.path, &bytes, false)
    }
}

impl Store {
    /// The stat cache of a context folder, which should be given as a canonical path. A damaged one is empty.
    ///
    /// # Errors
    /// A failed read.
    pub fn stat_cache(&self, context: &Path) -> Result<StatCache, Error> {
        let path = self.inner.layout.stat_cache(context);
        // Before any file of the context is looked at.
        let opened_ns = now_ns();
        let old = read(&path)?
            .filter(|parsed| parsed.context == context)
            .map(|parsed| parsed.table)
            .unwrap_or_default();
        Ok(StatCache {
            store: self.clone(),
            path,
            context: context.to_owned(),
            opened_ns,
            old,
            added: HashMap::new(),
        })
    }
}

fn now_ns() -> i128 {
    let nanos = |d: std::time::Duration| i128::try_from(d.as_nanos()).unwrap_or(i128::MAX);
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(after) => nanos(after),
        Err(before) => -nanos(before.duration()),
    }
}

struct Entry {
    key: StatKey,
    digest: [u8; 32],
    idle: u8,
}

impl Entry {
    /// Times outside the years 1678 to 2262 have no room in the file.
    fn fits(key: &StatKey) -> bool {
        i64::try_from(key.mtime_ns).is_ok() && i64::try_from(key.ctime_ns).is_ok()
    }

    fn encode(&self) -> [u8; ENTRY] {
        let time = |ns: i128| i64::try_from(ns).expect("BUG: only entries that fit are written");
        let mut out = [0; ENTRY];
        out[..8].copy_from_slice(&self.key.dev.to_le_bytes());
        out[8..16].copy_from_slice(&self.key.ino.to_le_bytes());
        out[16..24].copy_from_slice(&self.key.size.to_le_bytes());
        out[24..32].copy_from_slice(&time(self.key.mtime_ns).to_le_bytes());
        out[32..40].copy_from_slice(&time(self.key.ctime_ns).to_le_bytes());
        out[40..72].copy_from_slice(&self.digest);
        out[72] = self.idle;
        out
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
        }
    }
}

/// Entries as they were read, with a directory of their leading bits.
#[derive(Debug, Default)]
struct Table {
    bytes: Vec<u8>,
    /// Where the entries are in `bytes`.
    start: usize,
    end: usize,
    /// `buckets[b]` is the first entry whose leading bits are at least `b`; one more than there are buckets.
    buckets: Vec<u32>,
    shift: u32,
    used: Vec<AtomicBool>,
}

impl Table {
    /// `None` when the entries are not strictly sorted.
    fn new(bytes: Vec<u8>, start: usize, end: usize) -> Option<Self> {
        let mut table = Self {
            bytes,
            start,
            end,
            ..Self::default()
        };
        let count = table.len();
        u32::try_from(count).ok()?;
        let bits = count.next_power_of_two().trailing_zeros().max(1);
        table.shift = 64 - bits;
        let mut buckets = Vec::with_capacity((1 << bits) + 1);
        let mut previous = None;
        for (index, entry) in (0u32..).zip(table.entries()) {
            let order = Entry::key(entry).order();
            if previous.is_some_and(|previous| previous >= order) {
                return None;
            }
            previous = Some(order);
            let bucket = usize::try_from(order.0 >> table.shift).ok()?;
            while buckets.len() <= bucket {
                buckets.push(index);
            }
        }
        buckets.resize((1 << bits) + 1, u32::try_from(count).ok()?);
        table.buckets = buckets;
        table.used = std::iter::repeat_with(AtomicBool::default)
            .take(count)
            .collect();
        Some(table)
    }

    fn entries(&self) -> &[[u8; ENTRY]] {
        self.bytes
            .get(self.start..self.end)
            .map_or(&[], |bytes| bytes.as_chunks::<ENTRY>().0)
    }

    fn len(&self) -> usize {
        self.entries().len()
    }

    fn get(&self, key: &StatKey) -> Option<[u8; 32]> {
        let bucket = usize::try_from(key.mix().checked_shr(self.shift)?).ok()?;
        let first = usize::try_from(*self.buckets.get(bucket)?).ok()?;
        let last = usize::try_from(*self.buckets.get(bucket + 1)?).ok()?;
        let candidates = self.entries().get(first..last)?;
        let offset = candidates.iter().position(|e| Entry::key(e) == *key)?;
        self.used
            .get(first + offset)?
            .store(true, Ordering::Relaxed);
        Some(Entry::decode(&candidates[offset]).digest)
    }

    /// Entries to keep where there is no newer one.
    fn survivors(&self) -> impl Iterator<Item = Entry> {
        self.entries()
            .iter()
            .zip(&self.used)
            .map(|(bytes, used)| (Entry::decode(bytes), used.load(Ordering::Relaxed)))
            .map(|(mut entry, used)| {
                entry.idle = if used {
                    0
                } else {
                    entry.idle.saturating_add(1)
                };
                entry
            })
            .filter(|entry| entry.idle <= MAX_IDLE)
    }
}

/// The entries' memory becomes the file's.
fn encode(context: &Path, entries: Vec<[u8; ENTRY]>) -> Vec<u8> {
    let context = context.as_os_str().as_bytes();
    let length = u32::try_from(context.len()).expect("BUG: a path is shorter than 4 GiB");
    let mut head = Vec::with_capacity(context.len() + 32);
    head.extend_from_slice(MAGIC);
    head.extend_from_slice(&VERSION.to_le_bytes());
    head.extend_from_slice(&length.to_le_bytes());
    head.extend_from_slice(context);
    head.extend_from_slice(&(entries.len() as u64).to_le_bytes());
    let mut out = entries.into_flattened();
    let count = out.len();
    out.reserve_exact(head.len() + CHECKSUM);
    out.resize(head.len() + count, 0);
    out.copy_within(..count, head.len());
    out[..head.len()].copy_from_slice(&head);
    let checksum = blake3::hash(&out);
    out.extend_from_slice(checksum.as_bytes());
    out
}

struct Parsed {
    context: PathBuf,
    table: Table,
}

/// `None` when absent or damaged.
fn read(path: &Path) -> Result<Option<Parsed>, Error> {
    let bytes = match file::read_small(path, FILE_LIMIT) {
        Ok(Some(bytes)) => bytes,
        Ok(None) | Err(Error::Damaged { .. }) => return Ok(None),
        Err(e) => return Err(e),
    };
    let parsed = decode(bytes);
    if parsed.is_none() {
        tracing::warn!(path = %path.display(), "a damaged stat cache is ignored");
    }
    Ok(parsed)
}

fn decode(bytes: Vec<u8>) -> Option<Parsed> {
    let end = bytes.len().checked_sub(CHECKSUM)?;
    let (content, checksum) = bytes.split_at_checked(end)?;
    if blake3::hash(content).as_bytes() != checksum {
        return None;
    }
    let rest = content.strip_prefix(MAGIC)?;
    let (version, rest) = rest.split_first_chunk::<4>()?;
    if u32::from_le_bytes(*version) != VERSION {
        return None;
    }
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let (context, rest) =
        rest.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
    let context = PathBuf::from(std::ffi::OsString::from_vec(context.to_vec()));
    let (count, entries) = rest.split_first_chunk::<8>()?;
    let wanted = usize::try_from(u64::from_le_bytes(*count))
        .ok()?
        .checked_mul(ENTRY)?;
    if entries.len() != wanted {
        return None;
    }
    let table = Table::new(bytes, end - wanted, end)?;
    Some(Parsed { context, table })
}

/// The context a stat cache is about, when the file is sound and that folder still is there.
pub(crate) fn live_context(path: &Path) -> Option<PathBuf> {
    let parsed = read(path).ok().flatten()?;
    fs::symlink_metadata(&parsed.context)
        .is_ok_and(|meta| meta.is_dir())
        .then_some(parsed.context)
}
