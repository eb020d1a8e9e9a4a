//! Tar headers as Go's `archive/tar` writes them in PAX format, so that layers look like everyone else's.
//!
//! A ustar header stands alone where its fields suffice; otherwise an extended header named `DIR/PaxHeaders.0/NAME` precedes
//! it with only the records that are needed, sorted. Long paths are never split into the ustar prefix. It writes headers,
//! no content and no padding of content.

use super::xattr::keeps_xattr;
use crate::tree::{Entry, Kind};
use std::io::Write as _;
use tar::Header;

/// Size of a tar block.
pub(crate) const BLOCK: usize = 512;

/// Zero bytes that pad `size` bytes of content to whole blocks.
pub(crate) fn padding(size: u64) -> usize {
    (size.wrapping_neg() % BLOCK as u64) as usize
}

/// What one header says.
struct Fields<'a> {
    name: &'a [u8],
    link: &'a [u8],
    flag: u8,
    mode: u32,
    uid: u32,
    gid: u32,
    size: u64,
    mtime: i64,
    device: (u32, u32),
}

/// Encodes headers; owns the buffers that entries share.
#[derive(Debug, Default)]
pub(crate) struct HeaderEncoder {
    name: Vec<u8>,
    records: Vec<u8>,
}

impl HeaderEncoder {
    /// Appends the header (and its extended header) of an entry to `out`. Sockets have none and must not come here.
    pub(crate) fn entry(&mut self, out: &mut Vec<u8>, entry: &Entry) {
        let mut name = std::mem::take(&mut self.name);
        name.clear();
        name.extend_from_slice(&entry.path);
        if entry.path.is_empty() {
            name.push(b'.');
        }
        let (flag, link, size, device): (u8, &[u8], u64, (u32, u32)) = match &entry.kind {
            Kind::Directory => (b'5', b"", 0, (0, 0)),
            Kind::File { size, .. } => (b'0', b"", *size, (0, 0)),
            Kind::Symlink { target } => (b'2', target, 0, (0, 0)),
            Kind::Hardlink { target } => (b'1', target, 0, (0, 0)),
            Kind::Char { major, minor } => (b'3', b"", 0, (*major, *minor)),
            Kind::Block { major, minor } => (b'4', b"", 0, (*major, *minor)),
            Kind::Fifo | Kind::Socket => (b'6', b"", 0, (0, 0)),
        };
        if flag == b'5' {
            name.push(b'/');
        }
        let fields = Fields {
            name: &name,
            link,
            flag,
            mode: entry.mode & 0o7777,
            uid: entry.uid,
            gid: entry.gid,
            size,
            mtime: entry.mtime,
            device,
        };
        // A hard link's attributes are its target's; readers would apply them twice.
        let xattrs: &[(Vec<u8>, Vec<u8>)] = if flag == b'1' { &[] } else { &entry.xattrs };
        self.write(out, &fields, xattrs);
        self.name = name;
    }

    /// Appends the header of an empty marker file: mode 0, owner 0:0, mtime 0.
    pub(crate) fn marker(&mut self, out: &mut Vec<u8>, name: &[u8]) {
        let fields = Fields {
            name,
            link: b"",
            flag: b'0',
            mode: 0,
            uid: 0,
            gid: 0,
            size: 0,
            mtime: 0,
            device: (0, 0),
        };
        self.write(out, &fields, &[]);
    }

    fn write(&mut self, out: &mut Vec<u8>, fields: &Fields<'_>, xattrs: &[(Vec<u8>, Vec<u8>)]) {
        self.records.clear();
        // Order of keys: bytewise, so `SCHILY.` first, then gid, linkpath, mtime, path, size, uid.
        let mut sorted: Vec<&(Vec<u8>, Vec<u8>)> = xattrs
            .iter()
            .filter(|(name, _)| keeps_xattr(name))
            .collect();
        sorted.sort();
        for (name, value) in sorted {
            let key = [b"SCHILY.xattr.", name.as_slice()].concat();
            self.record(&key, value);
        }
        if !fits_octal(8, i64::from(fields.gid)) {
            self.record(b"gid", fields.gid.to_string().as_bytes());
        }
        if needs_record(fields.link, 100) {
            self.record(b"linkpath", fields.link);
        }
        if !fits_octal(12, fields.mtime) {
            self.record(b"mtime", fields.mtime.to_string().as_bytes());
        }
        if needs_record(fields.name, 100) {
            self.record(b"path", fields.name);
        }
        if !fits_octal(12, fields.size.cast_signed()) {
            self.record(b"size", fields.size.to_string().as_bytes());
        }
        if !fits_octal(8, i64::from(fields.uid)) {
            self.record(b"uid", fields.uid.to_string().as_bytes());
        }
        if !self.records.is_empty() {
            extended_header(out, fields.name, &self.records);
        }
        out.extend_from_slice(block(fields).as_bytes());
    }

    /// Appends `LENGTH key=value\n`, where LENGTH counts itself.
    fn record(&mut self, key: &[u8], value: &[u8]) {
        let rest = key.len() + value.len() + 3;
        let mut size = rest + digits(rest);
        size = rest + digits(size);
        write!(self.records, "{size} ").expect("BUG: writing to memory cannot fail");
        self.records.extend_from_slice(key);
        self.records.push(b'=');
        self.records.extend_from_slice(value);
        self.records.push(b'\n');
    }
}

fn digits(number: usize) -> usize {
    number.checked_ilog10().map_or(1, |log| log as usize + 1)
}

fn needs_record(text: &[u8], width: usize) -> bool {
    text.len() > width || !text.is_ascii()
}

/// Whether a number fits the digits of a field, one byte being its terminator.
fn fits_octal(width: u32, number: i64) -> bool {
    number >= 0 && number < 1i64 << ((width - 1) * 3)
}

/// The extended header with its records: best-effort ASCII name, all numbers 0.
fn extended_header(out: &mut Vec<u8>, name: &[u8], records: &[u8]) {
    let (dir, file) = match name.iter().rposition(|&b| b == b'/') {
        Some(at) => (&name[..=at], &name[at + 1..]),
        None => (&name[..0], name),
    };
    let mut path = dir.strip_prefix(b"./").unwrap_or(dir).to_vec();
    path.extend_from_slice(b"PaxHeaders.0");
    if !file.is_empty() {
        path.push(b'/');
        path.extend_from_slice(file);
    }
    path.retain(|b| b.is_ascii() && *b != 0);
    path.truncate(100);
    while path.last() == Some(&b'/') {
        path.pop();
    }
    let size = records.len() as u64;
    let fields = Fields {
        name: &path,
        link: b"",
        flag: b'x',
        mode: 0,
        uid: 0,
        gid: 0,
        size,
        mtime: 0,
        device: (0, 0),
    };
    let mut header = block(&fields);
    // Device numbers are left empty here, as in every header that is not a file's own.
    let ustar = header.as_ustar_mut().expect("BUG: made as ustar");
    ustar.dev_major = [0; 8];
    ustar.dev_minor = [0; 8];
    checksum(&mut header);
    out.extend_from_slice(header.as_bytes());
    out.extend_from_slice(records);
    out.resize(out.len() + padding(size), 0);
}

fn block(fields: &Fields<'_>) -> Header {
    let mut header = Header::new_ustar();
    let ustar = header.as_ustar_mut().expect("BUG: made as ustar");
    text(&mut ustar.name, fields.name);
    text(&mut ustar.linkname, fields.link);
    ustar.typeflag = [fields.flag];
    octal(&mut ustar.mode, i64::from(fields.mode));
    octal(&mut ustar.uid, i64::from(fields.uid));
    octal(&mut ustar.gid, i64::from(fields.gid));
    octal(&mut ustar.size, fields.size.cast_signed());
    octal(&mut ustar.mtime, fields.mtime);
    octal(&mut ustar.dev_major, i64::from(fields.device.0));
    octal(&mut ustar.dev_minor, i64::from(fields.device.1));
    checksum(&mut header);
    header
}

/// ASCII of a text, cut to the field. A cut that ends in a slash would look like a directory to old readers.
fn text(field: &mut [u8], value: &[u8]) {
    let mut length = 0;
    let mut cut = false;
    for &byte in value.iter().filter(|b| b.is_ascii() && **b != 0) {
        if length == field.len() {
            cut = true;
            break;
        }
        field[length] = byte;
        length += 1;
    }
    if cut && field[length - 1] == b'/' {
        let end = field
            .iter()
            .rposition(|&b| b != b'/')
            .map_or(0, |at| at + 1);
        field[end] = 0;
    }
}

/// Zero-padded octal with a closing NUL; 0 for what does not fit (a record has it then).
fn octal(field: &mut [u8], number: i64) {
    let width = u32::try_from(field.len()).expect("BUG: header fields are short");
    let mut rest = if fits_octal(width, number) { number } else { 0 };
    let last = field.len() - 1;
    field[last] = 0;
    for digit in field[..last].iter_mut().rev() {
        *digit = b'0' + (rest & 7) as u8;
        rest >>= 3;
    }
}

fn checksum(header: &mut Header) {
    let ustar = header.as_ustar_mut().expect("BUG: made as ustar");
    ustar.cksum = *b"        ";
    let sum: u32 = header.as_bytes().iter().map(|&b| u32::from(b)).sum();
    let ustar = header.as_ustar_mut().expect("BUG: made as ustar");
    octal(&mut ustar.cksum[..7], i64::from(sum));
}
