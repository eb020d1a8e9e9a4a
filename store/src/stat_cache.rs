//! Digests of files by their stat, one file per context folder. It reads no context file and calls no `stat` itself.
//!
//! ```text
//! "kilnstat"  u32 version  u32 length  context path  entry*  u64 count  BLAKE3 of all before
//! entry, 80 bytes: dev ino size mtime_ns ctime_ns (8 each)  digest (32)  unused rewrites (1)  zero (7)
//! ```
//! Numbers are little-endian. Entries are sorted by (dev, ino): files of one folder mostly lie side by side. There may be
//! millions, so neither what is known nor what is added has to be in memory: see `table`. A file that is damaged in any
//! way is an empty cache.
//!
//! Trust follows git's "racy" rule, a little stricter: a file whose mtime or ctime is not safely older than the time
//! at which this cache was opened is not kept, since it could change once more without its stat changing.

mod table;

use crate::Store;
use crate::error::Error;
use crate::file;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};
use table::{Entry, Parsed, Table};

const MAGIC: &[u8; 8] = b"kilnstat";
const VERSION: u32 = 2;
const CHECKSUM: usize = 32;
/// Builds of other targets of the same context read other files: entries are dropped only when unused this often.
const MAX_IDLE: u8 = 8;
/// Added entries that are kept in memory: as many as a hash table of 4 MB holds.
const IN_MEMORY: usize = 28_000;
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
    fn order(&self) -> (u64, u64) {
        (self.dev, self.ino)
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
    added: Mutex<Added>,
}

/// What was found out since the cache was opened.
#[derive(Debug, Default)]
struct Added {
    recent: HashMap<(u64, u64), (StatKey, [u8; 32])>,
    /// What was recent once, sorted, in temporary files; the latest last.
    runs: Vec<Table>,
}

impl StatCache {
    /// The remembered digest of a file in this state.
    #[must_use]
    pub fn get(&self, key: &StatKey) -> Option<[u8; 32]> {
        let added = self.added();
        if let Some((known, digest)) = added.recent.get(&key.order())
            && known == key
        {
            return Some(*digest);
        }
        let mut places = added.runs.iter().rev().chain([&self.old]);
        places.find_map(|table| table.cursor().get(key))
    }

    /// Looks many files up in what was known when the cache was opened, and calls `found` with a file's place among the
    /// keys and its digest. Quick when they are of one folder.
    pub fn get_many(&self, keys: &[StatKey], mut found: impl FnMut(usize, [u8; 32])) {
        if self.old.is_empty() {
            return;
        }
        let mut order: Vec<u32> = (0u32..).take(keys.len()).collect();
        let key = |at: &u32| &keys[*at as usize];
        if !order.is_sorted_by_key(|at| key(at).order()) {
            order.sort_unstable_by_key(|at| key(at).order());
        }
        let mut cursor = self.old.cursor();
        for at in &order {
            if let Some(digest) = cursor.get(key(at)) {
                found(*at as usize, digest);
            }
        }
    }

    /// Remembers one.
    pub fn insert(&mut self, key: StatKey, digest: [u8; 32]) {
        self.remember(key, digest);
    }

    /// The same for threads that share the cache. When there is no room on disk for many, fewer are remembered.
    pub fn remember(&self, key: StatKey, digest: [u8; 32]) {
        let mut added = self.added();
        added.recent.insert(key.order(), (key, digest));
        if added.recent.len() < IN_MEMORY {
            return;
        }
        let entries = self.sorted(std::mem::take(&mut added.recent));
        match self.write_run(&entries) {
            Ok(run) => added.runs.push(run),
            Err(error) => tracing::debug!(%error, "digests of files are not remembered"),
        }
    }

    fn added(&self) -> MutexGuard<'_, Added> {
        self.added.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// In the order of the file, marked where they must not be kept.
    fn sorted(&self, recent: HashMap<(u64, u64), (StatKey, [u8; 32])>) -> Vec<Entry> {
        let entry = |(key, digest): (StatKey, [u8; 32])| Entry {
            key,
            digest,
            idle: 0,
            fleeting: !(key.settled(self.opened_ns) && Entry::fits(&key)),
        };
        let mut entries: Vec<Entry> = recent.into_values().map(entry).collect();
        entries.sort_unstable_by_key(|entry| entry.key.order());
        entries
    }

    fn write_run(&self, entries: &[Entry]) -> Result<Table, Error> {
        let path = self.store.inner.temporary()?;
        let write = || {
            let mut options = File::options();
            let mut file = options
                .read(true)
                .write(true)
                .create_new(true)
                .open(&path)?;
            let _ = fs::remove_file(&path);
            let mut bytes = Vec::with_capacity(entries.len() * table::ENTRY);
            for entry in entries {
                bytes.extend_from_slice(&entry.encode());
            }
            file.write_all(&bytes)?;
            Ok(file)
        };
        let file = write().map_err(|e| Error::io("write", &path, e))?;
        Ok(Table::of_run(file, entries))
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
        let added = std::mem::take(&mut *self.added());
        let recent = self.sorted(added.recent);
        let is_new = |entry: &Entry| !entry.fleeting;
        if added.runs.is_empty() && !recent.iter().any(is_new) {
            return Ok(());
        }
        let path = self.store.inner.temporary()?;
        let written = self.write(&path, recent, &added.runs);
        self.store.inner.place(&path, &self.path, written)
    }

    /// Merges what was known with what was added, the latest state of each file.
    fn write(&self, path: &Path, recent: Vec<Entry>, runs: &[Table]) -> Result<u64, Error> {
        let failed = |e| Error::io("write", path, e);
        let file = File::create_new(path).map_err(failed)?;
        let mut out = Summing {
            file: BufWriter::with_capacity(1 << 16, file),
            hasher: blake3::Hasher::new(),
            bytes: 0,
        };
        out.write(&head(&self.context)).map_err(failed)?;
        // The latest first: of entries for one file that one counts.
        let mut sources: Vec<Box<dyn Iterator<Item = Entry> + '_>> =
            vec![Box::new(recent.into_iter())];
        for run in runs.iter().rev() {
            sources.push(Box::new(run.entries()));
        }
        sources.push(Box::new(self.old.survivors()));
        // Of each source the next entry, the least one first and of equal ones the latest.
        let mut heads = BinaryHeap::new();
        let mut push = |heads: &mut BinaryHeap<_>, number: usize| {
            if let Some(entry) = sources[number].next() {
                heads.push(Reverse((entry.key.order(), number, entry.encode())));
            }
        };
        (0..=runs.len() + 1).for_each(|number| push(&mut heads, number));
        let mut count = 0u64;
        let mut last = None;
        while let Some(Reverse((order, number, entry))) = heads.pop() {
            push(&mut heads, number);
            if last.replace(order) == Some(order) || table::is_fleeting(&entry) {
                continue;
            }
            out.write(&entry).map_err(failed)?;
            count += 1;
        }
        out.write(&count.to_le_bytes()).map_err(failed)?;
        out.finish().map_err(failed)
    }
}

/// Hashes what it writes.
struct Summing {
    file: BufWriter<File>,
    hasher: blake3::Hasher,
    bytes: u64,
}

impl Summing {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.bytes += bytes.len() as u64;
        if self.file.buffer().len() + bytes.len() > self.file.capacity() {
            self.hasher.update(self.file.buffer());
            self.file.flush()?;
        }
        self.file.write_all(bytes)
    }

    fn finish(mut self) -> std::io::Result<u64> {
        self.hasher.update(self.file.buffer());
        let checksum = self.hasher.finalize();
        self.file.write_all(checksum.as_bytes())?;
        self.file.flush()?;
        Ok(self.bytes + CHECKSUM as u64)
    }
}

fn head(context: &Path) -> Vec<u8> {
    let context = context.as_os_str().as_bytes();
    let length = u32::try_from(context.len()).expect("BUG: a path is shorter than 4 GiB");
    let mut head = Vec::with_capacity(context.len() + 16);
    head.extend_from_slice(MAGIC);
    head.extend_from_slice(&VERSION.to_le_bytes());
    head.extend_from_slice(&length.to_le_bytes());
    head.extend_from_slice(context);
    head
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
            added: Mutex::default(),
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

/// `None` when absent or damaged.
fn read(path: &Path) -> Result<Option<Parsed>, Error> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if file::is_absent(&e) => return Ok(None),
        Err(e) => return Err(Error::io("open", path, e)),
    };
    let parsed = table::parse(file).map_err(|e| Error::io("read", path, e))?;
    if parsed.is_none() {
        tracing::warn!(path = %path.display(), "a damaged stat cache is ignored");
    }
    Ok(parsed)
}

/// The context a stat cache is about, when the file is sound and that folder still is there.
pub(crate) fn live_context(path: &Path) -> Option<PathBuf> {
    let parsed = read(path).ok().flatten()?;
    fs::symlink_metadata(&parsed.context)
        .is_ok_and(|meta| meta.is_dir())
        .then_some(parsed.context)
}
