//! Reads a cache mount's folder: what is in it, and the chunks of its files. It packs and sends nothing.
//!
//! Others may write meanwhile. A file whose stat is another after it was read is left out, and so is what cannot travel:
//! sockets, FIFOs, devices, names that hide files in layers. A file whose stat is what it was when it was read last is
//! not read again, unless it could have changed since without its stat changing.

use super::chunk::Chunks;
use super::doc::{Bytes, ChunkId, Item, What};
use crate::Error;
use crate::layer::capture::{list_xattrs, read_xattr};
use crate::layer::index::io_error;
use crate::layer::order::join;
use crate::layer::owners::{Found, Owners, OwnersFrom};
use crate::layer::xattr::keeps_xattr;
use crate::snapshot::View;
use crate::tree::Kind;
use rustix::fd::{AsFd as _, BorrowedFd, OwnedFd};
use rustix::fs::{self as rfs, AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Name of the task.
pub(crate) const SCAN: &str = "scan-cache-mount";
/// Folders deeper than this are left out: each on the way is open.
const DEEPEST: usize = 256;
/// The kernel stamps files with the time of its last tick, and some file systems with whole seconds, even ones.
const TICK_NS: i128 = 50_000_000;
const COARSE_NS: i128 = 2_100_000_000;

/// Request of [`SCAN`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ScanRequest {
    /// The folder.
    pub(super) root: PathBuf,
    /// Where owners are told.
    pub(super) owners: OwnersFrom,
    /// The last scan, if there was one.
    pub(super) known: PathBuf,
    /// File to be made.
    pub(super) dest: PathBuf,
}

/// State of a file by its stat: inode, bytes, mtime and ctime in nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct State(u64, i64, i64, i64);

impl State {
    fn of(stat: &Stat) -> Self {
        let ns = |seconds: i64, ns: i128| (i128::from(seconds) * 1_000_000_000 + ns) as i64;
        Self(
            stat.st_ino,
            stat.st_size,
            ns(stat.st_mtime, i128::from(stat.st_mtime_nsec)),
            ns(stat.st_ctime, i128::from(stat.st_ctime_nsec)),
        )
    }

    /// Whether a file in this state at `now` is the same as long as it is in this state.
    fn is_settled(self, now: i64) -> bool {
        let is_coarse = self.3 % 1_000_000_000 == 0;
        let margin = if is_coarse { COARSE_NS } else { TICK_NS };
        i128::from(self.2.max(self.3)) < i128::from(now) - margin
    }
}

/// What was found.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Scan {
    /// When it began, nanoseconds since the epoch.
    begun: i64,
    pub(super) items: Vec<Item>,
    /// Chunks by number, with their lengths.
    pub(super) chunks: Vec<(ChunkId, u32)>,
    /// States of files, by the numbers of their items.
    states: Vec<(u32, State)>,
    /// What was left out, the first few, and how much in all.
    pub(super) left_out: Vec<String>,
    pub(super) left_out_in_all: u64,
}

/// How much of what was left out is named.
const NAMED: usize = 3;

impl Scan {
    pub(super) fn read(path: &Path) -> Result<Self, Error> {
        let bytes = std::fs::read(path).map_err(|e| io_error("read", path, e))?;
        let plain = zstd::decode_all(bytes.as_slice());
        plain
            .and_then(|plain| serde_json::from_slice(&plain).map_err(Into::into))
            .map_err(|e| io_error("read", path, e))
    }

    fn write(&self, path: &Path) -> Result<(), Error> {
        let plain = serde_json::to_vec(self).expect("BUG: a scan is plain data");
        let packed = zstd::bulk::compress(&plain, 1).expect("BUG: memory takes what zstd writes");
        std::fs::write(path, packed).map_err(|e| io_error("write", path, e))
    }

    /// Notes something that does not travel.
    pub(super) fn leave_out(&mut self, path: &[u8], why: &str) {
        if self.left_out.len() < NAMED {
            let path = String::from_utf8_lossy(path);
            self.left_out.push(format!("{path} {why}"));
        }
        self.left_out_in_all += 1;
    }
}

/// The task.
pub(crate) fn scan_task(request: ScanRequest) -> Result<(), Error> {
    let ScanRequest {
        root,
        owners,
        known,
        dest,
    } = request;
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let begun = now.map_or(0, |now| i64::try_from(now.as_nanos()).unwrap_or(i64::MAX));
    // A damaged one only costs time.
    let known = Scan::read(&known).unwrap_or_default();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir =
        rfs::open(&root, flags, Mode::empty()).map_err(|e| io_error("open", &root, e.into()))?;
    let mut walk = Walk {
        owners: Owners::open(owners, dir.as_fd())?,
        nothing: View::load(&[])?,
        before: settled(&known),
        numbers: HashMap::new(),
        links: HashMap::new(),
        scan: Scan {
            begun,
            ..Scan::default()
        },
        root,
    };
    let stat = rfs::fstat(&dir).map_err(|e| walk.error("inspect", b"", e))?;
    let item = walk.opened(dir.as_fd(), &stat, b"", What::Directory)?;
    walk.scan.items.push(item);
    walk.folder(&dir, b"", 0)?;
    walk.scan.write(&dest)
}

/// The chunks of files that have not changed if they are in these states.
fn settled(known: &Scan) -> HashMap<u64, (State, Vec<(ChunkId, u32)>)> {
    let mut found = HashMap::new();
    for (number, state) in &known.states {
        let item = known.items.get(*number as usize);
        let Some(What::File(chunks)) = item.map(|item| &item.what) else {
            continue;
        };
        let chunks = chunks
            .iter()
            .map(|at| known.chunks.get(*at as usize).copied());
        let chunks: Option<Vec<_>> = chunks.collect();
        if let Some(chunks) = chunks.filter(|_| state.is_settled(known.begun)) {
            found.insert(state.0, (*state, chunks));
        }
    }
    found
}

struct Walk {
    root: PathBuf,
    owners: Owners,
    nothing: View,
    before: HashMap<u64, (State, Vec<(ChunkId, u32)>)>,
    numbers: HashMap<ChunkId, u32>,
    /// First path of each file with several.
    links: HashMap<u64, Vec<u8>>,
    scan: Scan,
}

impl Walk {
    fn error(&self, op: &'static str, path: &[u8], errno: Errno) -> Error {
        io_error(op, &self.root.join(OsStr::from_bytes(path)), errno.into())
    }

    fn folder(&mut self, dir: &OwnedFd, path: &[u8], depth: usize) -> Result<(), Error> {
        let mut names = Vec::new();
        let items = rfs::Dir::read_from(dir).map_err(|e| self.error("list", path, e))?;
        for item in items {
            let item = item.map_err(|e| self.error("list", path, e))?;
            let name = item.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(name.to_vec());
            }
        }
        names.sort();
        for name in names {
            let path = join(path, &name);
            match self.entry(dir.as_fd(), &name, &path, depth) {
                Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                    self.scan.leave_out(&path, "went away");
                }
                ended => ended?,
            }
        }
        Ok(())
    }

    fn entry(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &[u8],
        path: &[u8],
        depth: usize,
    ) -> Result<(), Error> {
        let name = OsStr::from_bytes(name);
        let stat = rfs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| self.error("inspect", path, e))?;
        if name.as_bytes().starts_with(b".wh.") {
            self.scan
                .leave_out(path, "has a name that hides files in layers");
            return Ok(());
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory if depth >= DEEPEST => {
                self.scan.leave_out(path, "lies too deep");
            }
            FileType::Directory => {
                let opened = rfs::openat(dir, name, flags | OFlags::DIRECTORY, Mode::empty())
                    .map_err(|e| self.error("open", path, e))?;
                let item = self.opened(opened.as_fd(), &stat, path, What::Directory)?;
                self.scan.items.push(item);
                self.folder(&opened, path, depth + 1)?;
            }
            FileType::RegularFile => {
                let opened = rfs::openat(dir, name, flags, Mode::empty())
                    .map_err(|e| self.error("open", path, e))?;
                self.file(&opened, path)?;
            }
            FileType::Symlink => {
                let target = rfs::readlinkat(dir, name, Vec::new())
                    .map_err(|e| self.error("read", path, e))?
                    .into_bytes();
                let kind = Kind::Symlink {
                    target: target.clone(),
                };
                let found = Found::named(dir, name, &stat);
                let owner = self
                    .owners
                    .of(&found, path, &kind, (&self.nothing, false))?;
                let what = What::Symlink(Bytes(target));
                self.scan
                    .items
                    .push(described(&stat, path, what, owner, Vec::new()));
            }
            _ => self
                .scan
                .leave_out(path, "is neither file, folder nor link"),
        }
        Ok(())
    }

    fn opened(
        &self,
        file: BorrowedFd<'_>,
        stat: &Stat,
        path: &[u8],
        what: What,
    ) -> Result<Item, Error> {
        let failed = |e| self.error("read the extended attributes of", path, e);
        let (mut kept, mut owner) = (Vec::new(), None);
        for name in list_xattrs(file).map_err(failed)? {
            let is_owner = name == sandbox::OWNER_ATTRIBUTE.as_bytes();
            if !is_owner && !keeps_xattr(&name) {
                continue;
            }
            let value = read_xattr(file, OsStr::from_bytes(&name)).map_err(failed)?;
            if is_owner {
                owner = sandbox::parse_owner(&value);
            } else {
                kept.push((Bytes(name), Bytes(value)));
            }
        }
        kept.sort();
        let kind = match what {
            What::Directory => Kind::Directory,
            _ => Kind::File {
                size: 0,
                digest: None,
            },
        };
        let found = Found::open(file, stat, owner);
        let owner = self
            .owners
            .of(&found, path, &kind, (&self.nothing, false))?;
        Ok(described(stat, path, what, owner, kept))
    }

    fn file(&mut self, opened: &OwnedFd, path: &[u8]) -> Result<(), Error> {
        let inspect = |walk: &Self| rfs::fstat(opened).map_err(|e| walk.error("inspect", path, e));
        let stat = inspect(self)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            self.scan.leave_out(path, "changed meanwhile");
            return Ok(());
        }
        if stat.st_nlink > 1
            && let Some(first) = self.links.get(&stat.st_ino)
        {
            let what = What::Hardlink(Bytes(first.clone()));
            let item = self.opened(opened.as_fd(), &stat, path, what)?;
            self.scan.items.push(item);
            return Ok(());
        }
        let state = State::of(&stat);
        let known = self
            .before
            .get(&stat.st_ino)
            .filter(|known| known.0 == state);
        let chunks = match known.map(|known| known.1.clone()) {
            Some(chunks) => chunks,
            None => {
                let chunks = read(opened, u64::try_from(stat.st_size).unwrap_or_default());
                chunks.map_err(|e| io_error("read", &self.root.join(OsStr::from_bytes(path)), e))?
            }
        };
        let length: u64 = chunks.iter().map(|(_, length)| u64::from(*length)).sum();
        if State::of(&inspect(self)?) != state || i64::try_from(length) != Ok(stat.st_size) {
            self.scan.leave_out(path, "changed meanwhile");
            return Ok(());
        }
        let numbers = chunks.into_iter().map(|chunk| self.number(chunk)).collect();
        let item = self.opened(opened.as_fd(), &stat, path, What::File(numbers))?;
        let number = u32::try_from(self.scan.items.len()).unwrap_or(u32::MAX);
        self.scan.states.push((number, state));
        self.scan.items.push(item);
        if stat.st_nlink > 1 {
            self.links.insert(stat.st_ino, path.to_vec());
        }
        Ok(())
    }

    fn number(&mut self, chunk: (ChunkId, u32)) -> u32 {
        let chunks = &mut self.scan.chunks;
        *self.numbers.entry(chunk.0).or_insert_with(|| {
            chunks.push(chunk);
            u32::try_from(chunks.len() - 1).expect("BUG: a disk holds fewer chunks")
        })
    }
}

fn described(
    stat: &Stat,
    path: &[u8],
    what: What,
    owner: (u32, u32),
    xattrs: Vec<(Bytes, Bytes)>,
) -> Item {
    Item {
        path: Bytes(path.to_vec()),
        what,
        mode: stat.st_mode & 0o7777,
        owner,
        mtime: (
            stat.st_mtime,
            u32::try_from(stat.st_mtime_nsec).unwrap_or_default(),
        ),
        xattrs,
    }
}

/// The chunks of a file, read to its end but not much further: it may grow all the time.
fn read(file: &OwnedFd, size: u64) -> std::io::Result<Vec<(ChunkId, u32)>> {
    use std::io::Read as _;
    let mut file = File::from(file.try_clone()?);
    let mut chunks = Chunks::new(file.by_ref().take(size + 1));
    let mut found = Vec::new();
    while let Some(chunk) = chunks.next()? {
        let length = u32::try_from(chunk.len()).expect("BUG: a chunk has a longest length");
        found.push((ChunkId::of(chunk), length));
    }
    Ok(found)
}
