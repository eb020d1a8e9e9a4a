//! Reads a layer, compressed or not, into a list that tests can compare. It extracts nothing.

use crate::digest_reader;
use flate2::bufread::MultiGzDecoder;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use tar::EntryType;

/// What an entry is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    /// A regular file.
    File,
    /// A folder.
    Dir,
    /// A symbolic link.
    Symlink,
    /// Another name of an earlier file.
    Hardlink,
    /// A character device.
    Char,
    /// A block device.
    Block,
    /// A named pipe.
    Fifo,
    /// Any other type flag; such an entry has no place in a layer.
    Other(u8),
}

/// One entry of a layer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TarEntry {
    /// Name without a leading `./` or `/` and a trailing `/`; `.` for the root folder. Bytes that are not UTF-8 are
    /// written as `\xff`.
    pub path: String,
    /// Name as it is in the archive.
    pub raw_path: Vec<u8>,
    /// Type.
    pub kind: Kind,
    /// Permission bits with set-user-ID, set-group-ID and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u64,
    /// Group.
    pub gid: u64,
    /// Owner's name; empty in a layer that says nothing about the host.
    pub uname: String,
    /// Group's name.
    pub gname: String,
    /// Bytes of content.
    pub size: u64,
    /// SHA-256 of a file's content, `sha256:...`.
    pub sha256: Option<String>,
    /// Target of a symbolic link as it is, or of a hard link in the form of `path`.
    pub link: Option<String>,
    /// Extended attributes (PAX `SCHILY.xattr.*`).
    pub xattrs: BTreeMap<String, Vec<u8>>,
    /// Seconds since the epoch, rounded down.
    pub mtime: i64,
    /// Whether the archive has fractions of a second for it.
    pub mtime_fraction: bool,
    /// Major and minor number of a device.
    pub device: Option<(u32, u32)>,
}

impl TarEntry {
    /// The name's last part.
    #[must_use]
    pub fn file_name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default()
    }
}

/// A readable form of a name.
fn display(bytes: &[u8]) -> String {
    bytes.utf8_chunks().fold(String::new(), |mut text, chunk| {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
        text
    })
}

/// A name without what archives put around it.
fn plain(bytes: &[u8]) -> String {
    let text = display(bytes);
    let mut rest = text.trim_end_matches('/');
    loop {
        let shorter = rest
            .strip_prefix("./")
            .unwrap_or(rest)
            .trim_start_matches('/');
        if shorter == rest {
            break;
        }
        rest = shorter;
    }
    let rest = rest.strip_suffix("/.").unwrap_or(rest);
    if rest.is_empty() {
        ".".into()
    } else {
        rest.into()
    }
}

/// A layer's uncompressed bytes: gzip and zstd are told by their first bytes.
///
/// # Errors
/// A failed read.
pub fn open_layer(path: &Path) -> io::Result<Box<dyn Read>> {
    decoded(BufReader::with_capacity(1 << 16, File::open(path)?))
}

/// The same of a reader.
///
/// # Errors
/// A failed read.
pub(crate) fn decoded<'r>(mut file: impl BufRead + 'r) -> io::Result<Box<dyn Read + 'r>> {
    let start = file.fill_buf()?;
    if start.starts_with(&[0x1f, 0x8b]) {
        return Ok(Box::new(MultiGzDecoder::new(file)));
    }
    if start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        return Ok(Box::new(zstd::stream::read::Decoder::with_buffer(file)?));
    }
    Ok(Box::new(file))
}

/// The entries of a layer file in their order.
///
/// # Errors
/// A failed read, or an archive that cannot be understood.
pub fn tar_entries(path: &Path) -> io::Result<Vec<TarEntry>> {
    read_entries(open_layer(path)?)
}

/// The entries of an uncompressed archive in their order.
///
/// # Errors
/// A failed read, or an archive that cannot be understood.
pub fn read_entries(reader: impl Read) -> io::Result<Vec<TarEntry>> {
    let mut archive = tar::Archive::new(reader);
    let mut found = Vec::new();
    let mut extra = Extra::default();
    for entry in archive.entries()?.raw(true) {
        let mut entry = entry?;
        match entry.header().entry_type() {
            EntryType::XHeader => extra.pax.extend(pax_records(&read_all(&mut entry)?)?),
            EntryType::XGlobalHeader => {}
            EntryType::GNULongName => extra.name = Some(c_string(read_all(&mut entry)?)),
            EntryType::GNULongLink => extra.link = Some(c_string(read_all(&mut entry)?)),
            _ => found.push(read_entry(&mut entry, std::mem::take(&mut extra))?),
        }
    }
    Ok(found)
}

/// What stands before an entry about it.
#[derive(Default)]
struct Extra {
    pax: BTreeMap<String, Vec<u8>>,
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

fn read_entry<R: Read>(entry: &mut tar::Entry<'_, R>, extra: Extra) -> io::Result<TarEntry> {
    let Extra { pax, name, link } = extra;
    let number = |name: &str| {
        pax.get(name)
            .and_then(|value| std::str::from_utf8(value).ok()?.parse::<u64>().ok())
    };
    let header = entry.header().clone();
    let raw_path = pax
        .get("path")
        .cloned()
        .or(name)
        .unwrap_or_else(|| header.path_bytes().into_owned());
    let target = pax.get("linkpath").cloned().or(link);
    let target = target.or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned));
    let kind = kind_of(header.entry_type());
    let link = match kind {
        Kind::Symlink => target.map(|name| display(&name)),
        Kind::Hardlink => target.map(|name| plain(&name)),
        _ => None,
    };
    let device = match kind {
        // Others may leave the fields empty.
        Kind::Char | Kind::Block => header.device_major()?.zip(header.device_minor()?),
        _ => None,
    };
    let (mtime, mtime_fraction) = match pax.get("mtime") {
        Some(text) => pax_time(text)?,
        None => (i64::try_from(header.mtime()?).unwrap_or(i64::MAX), false),
    };
    let name_of = |bytes: Option<&[u8]>| bytes.map(display).unwrap_or_default();
    let xattrs = pax
        .iter()
        .filter_map(|(name, value)| Some((name.strip_prefix("SCHILY.xattr.")?, value)))
        .map(|(name, value)| (name.to_owned(), value.clone()))
        .collect();
    let (digest, size) = digest_reader(entry)?;
    Ok(TarEntry {
        path: plain(&raw_path),
        raw_path,
        kind,
        mode: header.mode()?,
        uid: number("uid").map_or_else(|| header.uid(), Ok)?,
        gid: number("gid").map_or_else(|| header.gid(), Ok)?,
        uname: name_of(header.username_bytes()),
        gname: name_of(header.groupname_bytes()),
        size,
        sha256: (kind == Kind::File).then_some(digest),
        link,
        xattrs,
        mtime,
        mtime_fraction,
        device,
    })
}

fn read_all(reader: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn c_string(mut bytes: Vec<u8>) -> Vec<u8> {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    bytes.truncate(end);
    bytes
}

/// Records `LENGTH KEY=VALUE\n` (pax(1), "Extended Header"). By hand, because values may hold line feeds.
fn pax_records(mut bytes: &[u8]) -> io::Result<BTreeMap<String, Vec<u8>>> {
    let malformed = || io::Error::new(io::ErrorKind::InvalidData, "malformed PAX header");
    let mut records = BTreeMap::new();
    while !bytes.is_empty() {
        let space = bytes
            .iter()
            .position(|b| *b == b' ')
            .ok_or_else(malformed)?;
        let length = std::str::from_utf8(&bytes[..space])
            .ok()
            .and_then(|text| text.parse::<usize>().ok())
            .filter(|length| *length > space && *length <= bytes.len())
            .ok_or_else(malformed)?;
        let (record, rest) = bytes.split_at(length);
        let content = record[space + 1..]
            .strip_suffix(b"\n")
            .ok_or_else(malformed)?;
        let equals = content
            .iter()
            .position(|b| *b == b'=')
            .ok_or_else(malformed)?;
        records.insert(display(&content[..equals]), content[equals + 1..].to_vec());
        bytes = rest;
    }
    Ok(records)
}

fn kind_of(entry_type: EntryType) -> Kind {
    match entry_type {
        EntryType::Regular => Kind::File,
        EntryType::Directory => Kind::Dir,
        EntryType::Symlink => Kind::Symlink,
        EntryType::Link => Kind::Hardlink,
        EntryType::Char => Kind::Char,
        EntryType::Block => Kind::Block,
        EntryType::Fifo => Kind::Fifo,
        other => Kind::Other(other.as_byte()),
    }
}

/// Seconds rounded down, and whether there is a fraction (pax(1), "mtime").
fn pax_time(text: &[u8]) -> io::Result<(i64, bool)> {
    let text = display(text);
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    let seconds: i64 = whole
        .parse()
        .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
    let fraction = fraction.bytes().any(|digit| digit != b'0');
    let below = i64::from(fraction && whole.starts_with('-'));
    Ok((seconds - below, fraction))
}
