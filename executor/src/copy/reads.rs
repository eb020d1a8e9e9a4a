//! The list of what a COPY reads: for `explain`, which compares it with an earlier one, and for the copy itself, which thus
//! takes what its key was made of. There may be millions of entries, so none of the lists need be in memory (`overflow`).
//!
//! The part that is recorded, all numbers LEB128:
//! ```text
//! "kiln reads 2\n"  sorted (1)  entry*
//! entry: bytes shared with the path before, length of the rest, rest | mode with the type bits
//!        | 0  or  1, BLAKE3 (32)  or  2, length, text: link target, device numbers
//! ```
//! What only the copy needs is beside it: see [`Extra`].

use super::overflow::Overflow;
use super::select::{Group, Head, Item, Items, Selection};
use crate::Error;
use crate::context::walk::libc_mode;
use crate::layer::compare;
use crate::tree::{Entry, Kind};
use std::cmp::Ordering;
use std::io::{self, BufReader, Read};
use store::Store;

const MAGIC: &[u8] = b"kiln reads 2\n";
/// Longer texts are damage.
const TEXT_LIMIT: u64 = 1 << 20;
/// Groups whose roots are kept for the copy; one with more selects again.
const GROUP_LIMIT: usize = 1024;

const DIGEST: u8 = 1;
const TEXT: u8 = 2;

/// One file read by a COPY, for people: path, mode, digest or link.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReadEntry {
    /// Path in the source.
    pub path: String,
    /// Mode with the type bits.
    pub mode: u32,
    /// Hex digest of the content, link target or empty.
    pub content: String,
}

/// All that was read, in order.
#[derive(Debug, Default)]
pub struct Reads {
    files: Overflow,
    extras: Overflow,
    /// The last path.
    last: Vec<u8>,
    bytes: Vec<u8>,
    count: u64,
    is_sorted: bool,
    /// Whether `groups` and `extras` say all that a copy needs.
    is_complete: bool,
    groups: Vec<ListedGroup>,
}

/// What a path of a source brings; what is below its root is in the lists.
#[derive(Debug)]
pub(super) struct ListedGroup {
    pub(super) head: Head,
    pub(super) root: Item,
    /// Items below the root.
    pub(super) below: u64,
    /// Whether a file is there under several names.
    pub(super) any_links: bool,
}

impl Reads {
    /// An empty list, which goes to a file of the store when it becomes long.
    pub(super) fn new(store: Option<&Store>) -> Self {
        Self {
            files: Overflow::new(store),
            extras: Overflow::new(store),
            is_sorted: true,
            is_complete: true,
            ..Self::default()
        }
    }

    /// Entries, without the directories that sources name.
    pub(super) fn len(&self) -> u64 {
        self.count
    }

    /// The groups, when they are all there.
    pub(super) fn groups(&self) -> Option<&[ListedGroup]> {
        self.is_complete.then_some(&self.groups)
    }

    /// A group begins with its root.
    pub(super) fn begin(&mut self, head: &Head, root: &Item) {
        if self.groups.len() >= GROUP_LIMIT {
            self.is_complete = false;
        }
        if !self.is_complete {
            self.groups = Vec::new();
            return;
        }
        self.groups.push(ListedGroup {
            head: head.clone(),
            root: root.clone(),
            below: 0,
            any_links: false,
        });
    }

    /// Adds what only a copy needs of an item below the last group's root; `again` when it is another name of a file before.
    pub(super) fn below(&mut self, item: &Item, again: bool) -> Result<(), Error> {
        let Some(group) = self.groups.last_mut().filter(|_| self.is_complete) else {
            return Ok(());
        };
        if matches!(item.entry.kind, Kind::Hardlink { .. } | Kind::Socket) {
            self.is_complete = false;
            return Ok(());
        }
        group.below += 1;
        group.any_links |= again;
        self.bytes.clear();
        encode_extra(&mut self.bytes, item);
        self.extras.push(&self.bytes)
    }

    /// Adds an entry to the list for people.
    pub(super) fn push(&mut self, entry: &Entry) -> Result<(), Error> {
        let path = entry.path.as_slice();
        self.count += 1;
        // The first is greater than nothing, unless it is the root.
        self.is_sorted &= self.files.len() == 0 || compare(&self.last, path) == Ordering::Less;
        let pairs = self.last.iter().zip(path);
        let shared = pairs.take_while(|(a, b)| a == b).count();
        let out = &mut self.bytes;
        out.clear();
        put(out, shared as u64);
        put_bytes(out, &path[shared..]);
        put(out, u64::from(type_bits(&entry.kind) | entry.mode));
        match &entry.kind {
            Kind::File { digest, .. } => {
                out.push(DIGEST);
                out.extend_from_slice(&digest.expect("BUG: a selection is complete"));
            }
            Kind::Symlink { target } | Kind::Hardlink { target } => {
                out.push(TEXT);
                put_bytes(out, target);
            }
            Kind::Char { major, minor } | Kind::Block { major, minor } => {
                out.push(TEXT);
                put_bytes(out, format!("{major}:{minor}").as_bytes());
            }
            Kind::Directory | Kind::Fifo | Kind::Socket => out.push(0),
        }
        self.last.truncate(shared);
        self.last.extend_from_slice(&path[shared..]);
        self.files.push(&self.bytes)
    }

    /// The entries in order.
    pub fn iter(&self) -> impl Iterator<Item = io::Result<ReadEntry>> {
        let mut lines = self.lines();
        std::iter::from_fn(move || match lines.advance() {
            Ok(false) => None,
            Ok(true) => Some(Ok(ReadEntry {
                path: lines.path(),
                mode: lines.mode,
                content: lines.content(),
            })),
            Err(error) => Some(Err(error)),
        })
    }

    /// The same one by one.
    pub(crate) fn lines(&self) -> Lines<impl Read> {
        Lines::new(self.files.reader(), self.is_sorted)
    }

    /// What is recorded, and how many bytes it has.
    pub(crate) fn payload(&self) -> (u64, impl Read) {
        let head = [MAGIC, &[u8::from(self.is_sorted)]].concat();
        let length = head.len() as u64 + self.files.len();
        (length, io::Cursor::new(head).chain(self.files.reader()))
    }

    /// What is copied, out of the list.
    pub(super) fn items(&self) -> ReadItems<'_> {
        ReadItems {
            lines: Box::new(Lines::new(Box::new(self.files.reader()), self.is_sorted)),
            extras: BufReader::with_capacity(1 << 16, Box::new(self.extras.reader())),
        }
    }

    /// The selection that this is a list of; `None` when it does not say all.
    pub(super) fn selection(&self) -> Result<Option<Selection>, Error> {
        let Some(groups) = self.groups() else {
            return Ok(None);
        };
        let mut items = self.items();
        let mut selection = Selection::default();
        for group in groups {
            items.enter(group)?;
            let mut all = Items::one(group.root.clone());
            for _ in 0..group.below {
                all.push(items.take()?);
            }
            selection.groups.push(Group {
                head: group.head.clone(),
                items: all,
            });
        }
        Ok(Some(selection))
    }
}

/// Items out of the two lists.
pub(super) struct ReadItems<'r> {
    lines: Box<Lines<Box<dyn Read + Send + 'r>>>,
    extras: BufReader<Box<dyn Read + Send + 'r>>,
}

impl ReadItems<'_> {
    /// Passes by a group's root, which is in the list for people only when it is no directory.
    pub(super) fn enter(&mut self, group: &ListedGroup) -> Result<(), Error> {
        let named = group.root.is_named(&group.head);
        let passed = if named {
            self.lines.advance()
        } else {
            Ok(true)
        };
        match passed {
            Ok(true) => Ok(()),
            Ok(false) => Err(broken(io::ErrorKind::UnexpectedEof.into())),
            Err(error) => Err(broken(error)),
        }
    }

    /// The next item below a root.
    pub(super) fn take(&mut self) -> Result<Item, Error> {
        self.next().map_err(broken)
    }

    fn next(&mut self) -> io::Result<Item> {
        let lines = &mut self.lines;
        if !lines.advance()? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut extra = Extra::read(&mut self.extras)?;
        let kind = match lines.mode & libc_mode::TYPE {
            libc_mode::DIRECTORY => Kind::Directory,
            libc_mode::SYMLINK => Kind::Symlink {
                target: lines.value.clone(),
            },
            libc_mode::REGULAR => Kind::File {
                size: extra.numbers.0,
                digest: Some(
                    lines
                        .value
                        .as_slice()
                        .try_into()
                        .map_err(io::Error::other)?,
                ),
            },
            of_device @ (libc_mode::CHARACTER | libc_mode::BLOCK) => {
                let number = |number| u32::try_from(number).map_err(io::Error::other);
                let (major, minor) = (number(extra.numbers.0)?, number(extra.numbers.1)?);
                if of_device == libc_mode::CHARACTER {
                    Kind::Char { major, minor }
                } else {
                    Kind::Block { major, minor }
                }
            }
            _ => Kind::Fifo,
        };
        Ok(Item {
            entry: Entry {
                path: lines.last.clone(),
                kind,
                mode: lines.mode & !libc_mode::TYPE,
                uid: extra.uid,
                gid: extra.gid,
                mtime: extra.mtime,
                xattrs: std::mem::take(&mut extra.xattrs),
            },
            parent_only: extra.parent_only,
            link: extra.link,
        })
    }
}

fn broken(source: io::Error) -> Error {
    Error::Io {
        op: "read",
        path: "list of files".into(),
        source,
    }
}

/// What only the copy needs of an entry: flags (1: parent only, 2: attributes, 4: link), size or device numbers, owner,
/// time; then attributes and the number of the file, as the flags say.
#[derive(Default)]
struct Extra {
    parent_only: bool,
    numbers: (u64, u64),
    uid: u32,
    gid: u32,
    mtime: i64,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    link: Option<(u64, u64)>,
}

fn encode_extra(out: &mut Vec<u8>, item: &Item) {
    let entry = &item.entry;
    let flags = u8::from(item.parent_only)
        | u8::from(!entry.xattrs.is_empty()) << 1
        | u8::from(item.link.is_some()) << 2;
    out.push(flags);
    let numbers = match entry.kind {
        Kind::File { size, .. } => (size, 0),
        Kind::Char { major, minor } | Kind::Block { major, minor } => (major.into(), minor.into()),
        _ => (0, 0),
    };
    put(out, numbers.0);
    put(out, numbers.1);
    put(out, entry.uid.into());
    put(out, entry.gid.into());
    out.extend_from_slice(&entry.mtime.to_le_bytes());
    if !entry.xattrs.is_empty() {
        put(out, entry.xattrs.len() as u64);
        for (name, value) in &entry.xattrs {
            put_bytes(out, name);
            put_bytes(out, value);
        }
    }
    if let Some((device, inode)) = item.link {
        put(out, device);
        put(out, inode);
    }
}

impl Extra {
    fn read(from: &mut impl Read) -> io::Result<Self> {
        let flags = byte(from)?;
        let numbers = (number(from)?, number(from)?);
        let mut id = || u32::try_from(number(from)?).map_err(io::Error::other);
        let (uid, gid) = (id()?, id()?);
        let mut mtime = [0; 8];
        from.read_exact(&mut mtime)?;
        let mut xattrs = Vec::new();
        if flags & 2 != 0 {
            for _ in 0..number(from)? {
                xattrs.push((bytes(from)?, bytes(from)?));
            }
        }
        let link = if flags & 4 != 0 {
            Some((number(from)?, number(from)?))
        } else {
            None
        };
        Ok(Self {
            parent_only: flags & 1 != 0,
            numbers,
            uid,
            gid,
            mtime: i64::from_le_bytes(mtime),
            xattrs,
            link,
        })
    }
}

/// Entries of a list for people, one at a time.
pub(crate) struct Lines<R: Read> {
    from: BufReader<R>,
    /// Whether the paths are in canonical order, each once.
    pub(crate) is_sorted: bool,
    /// Path of the entry.
    pub(crate) last: Vec<u8>,
    /// Its mode with the type bits.
    pub(crate) mode: u32,
    tag: u8,
    value: Vec<u8>,
}

impl<R: Read> Lines<R> {
    fn new(from: R, is_sorted: bool) -> Self {
        Self {
            from: BufReader::with_capacity(1 << 16, from),
            is_sorted,
            last: Vec::new(),
            mode: 0,
            tag: 0,
            value: Vec::new(),
        }
    }

    /// What was recorded; `None` when it is something else.
    pub(crate) fn of_payload(mut from: R) -> io::Result<Option<Self>> {
        let mut head = [0; MAGIC.len() + 1];
        match from.read_exact(&mut head) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            read => read?,
        }
        let is_sorted = head[MAGIC.len()] == 1;
        Ok(head.starts_with(MAGIC).then(|| Self::new(from, is_sorted)))
    }

    /// Goes to the next entry; `false` after the last.
    pub(crate) fn advance(&mut self) -> io::Result<bool> {
        use std::io::BufRead as _;
        if self.from.fill_buf()?.is_empty() {
            return Ok(false);
        }
        let from = &mut self.from;
        let shared = usize::try_from(number(from)?).unwrap_or(usize::MAX);
        if shared > self.last.len() {
            return Err(damaged());
        }
        self.last.truncate(shared);
        bytes_into(from, &mut self.last)?;
        self.mode = u32::try_from(number(from)?).map_err(|_| damaged())?;
        self.tag = byte(from)?;
        self.value.clear();
        match self.tag {
            0 => {}
            DIGEST => {
                self.value.resize(32, 0);
                from.read_exact(&mut self.value)?;
            }
            TEXT => bytes_into(from, &mut self.value)?,
            _ => return Err(damaged()),
        }
        Ok(true)
    }

    /// Whether another list's entry has the same attributes and content.
    pub(crate) fn is_same<S: Read>(&self, other: &Lines<S>) -> bool {
        (self.mode, self.tag) == (other.mode, other.tag) && self.value == other.value
    }

    /// The path for people.
    pub(crate) fn path(&self) -> String {
        String::from_utf8_lossy(&self.last).into_owned()
    }

    /// The content's digest in hex, or a link's target.
    pub(crate) fn content(&self) -> String {
        if self.tag == DIGEST {
            return crate::layer::hex(&self.value);
        }
        String::from_utf8_lossy(&self.value).into_owned()
    }
}

fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the list is damaged")
}

fn put(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn byte(from: &mut impl Read) -> io::Result<u8> {
    let mut byte = [0];
    from.read_exact(&mut byte)?;
    Ok(byte[0])
}

fn number(from: &mut impl Read) -> io::Result<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let byte = byte(from)?;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(number);
        }
    }
    Err(damaged())
}

fn bytes_into(from: &mut impl Read, out: &mut Vec<u8>) -> io::Result<()> {
    let length = number(from)?;
    if length > TEXT_LIMIT {
        return Err(damaged());
    }
    let start = out.len();
    out.resize(start + usize::try_from(length).map_err(|_| damaged())?, 0);
    from.read_exact(&mut out[start..])
}

fn bytes(from: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    bytes_into(from, &mut bytes)?;
    Ok(bytes)
}

/// The type bits of `st_mode`.
pub(super) fn type_bits(kind: &Kind) -> u32 {
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
