//! Reads tar streams as foreign tools write them: ustar, PAX, GNU long names, base-256 numbers.
//!
//! It gives entries as they stand, in order, with the place of their content; what they mean for a layer is
//! [`super::collect`]'s. Nothing in a stream can make it panic or hold more memory than its limits.

use super::header::{BLOCK, padding};
use super::order::show;
use std::io::{self, BufRead, Read as _};
use tar::Header;

/// Longest extended header or long name.
const SPECIAL_LIMIT: u64 = 1 << 20;
/// Longest path: what one system call takes.
const PATH_LIMIT: usize = 4095;

/// Why reading stopped.
#[derive(Debug)]
pub(crate) enum Problem {
    /// The stream itself (disk, decompression).
    Io(io::Error),
    /// The tar, with the entry's path.
    Tar(String),
}

impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// What a header says. `name` and `link` are as stored.
#[derive(Clone, Default, Debug)]
pub(crate) struct RawEntry {
    pub(crate) name: Vec<u8>,
    pub(crate) link: Vec<u8>,
    pub(crate) flag: u8,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Bytes of content.
    pub(crate) size: u64,
    pub(crate) mtime: i64,
    pub(crate) device: (u32, u32),
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Place of the content in the stream.
    pub(crate) offset: u64,
}

/// Reads entries off a stream.
#[derive(Debug)]
pub(crate) struct TarReader<R: BufRead> {
    input: R,
    position: u64,
    /// Content of the current entry not read yet, and its padding.
    left: u64,
    pad: usize,
    /// Entries without a name are given out, not refused.
    unnamed: bool,
}

/// Records of an extended header that say something here.
#[derive(Default)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<i64>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    sparse: bool,
}

impl<R: BufRead> TarReader<R> {
    /// At the beginning of a stream.
    pub(crate) fn new(input: R) -> Self {
        Self {
            input,
            position: 0,
            left: 0,
            pad: 0,
            unnamed: false,
        }
    }

    /// Gives out entries without a name too, as archives that are not layers can have one for their top.
    pub(crate) fn with_unnamed(self) -> Self {
        Self {
            unnamed: true,
            ..self
        }
    }

    /// The stream, wherever it stands.
    pub(crate) fn into_inner(self) -> R {
        self.input
    }

    /// The next entry, skipping what is left of the one before; `None` at the end.
    pub(crate) fn next_entry(&mut self) -> Result<Option<RawEntry>, Problem> {
        let mut extended = Extended::default();
        loop {
            self.skip_content()?;
            let Some(header) = self.header()? else {
                return Ok(None);
            };
            match header.as_bytes()[156] {
                b'x' => {
                    let records = self.special(&header)?;
                    parse_records(&records, &mut extended)?;
                }
                // Go's reader ignores global records too, and so does every image tool built on it.
                b'g' | b'V' => self
                    .start_content(number(&header.as_old().size).unwrap_or(0), b"global header")?,
                b'L' => extended.path = Some(until_nul(&self.special(&header)?).to_vec()),
                b'K' => extended.link = Some(until_nul(&self.special(&header)?).to_vec()),
                _ => return self.entry(&header, extended).map(Some),
            }
        }
    }

    fn entry(&mut self, header: &Header, extended: Extended) -> Result<RawEntry, Problem> {
        let old = header.as_old();
        let name = extended.path.unwrap_or_else(|| short_name(header));
        let link = extended
            .link
            .unwrap_or_else(|| until_nul(&old.linkname).to_vec());
        if name.is_empty() && !self.unnamed {
            return Err(Problem::Tar("an entry has no name".into()));
        }
        if name.len() > PATH_LIMIT || link.len() > PATH_LIMIT {
            let start = &name[..name.len().min(80)];
            return Err(Problem::Tar(format!(
                "{}...: a path of more than {PATH_LIMIT} bytes",
                show(start)
            )));
        }
        let flag = header.as_bytes()[156];
        let bad = |what: &str| Problem::Tar(format!("{}: {what}", show(&name)));
        if flag == b'S' || extended.sparse {
            return Err(bad(
                "GNU sparse files are not supported in layers; write the tar without --sparse",
            ));
        }
        let small = |given: Option<u64>, field: &[u8], what: &str| -> Result<u32, Problem> {
            let value = match given {
                Some(value) => Some(value),
                None => number(field).and_then(|value| u64::try_from(value).ok()),
            };
            value
                .and_then(|value| u32::try_from(value).ok())
                .ok_or_else(|| bad(what))
        };
        let size = match extended.size {
            Some(size) => size,
            None => number(&old.size)
                .and_then(|size| u64::try_from(size).ok())
                .ok_or_else(|| bad("a bad size"))?,
        };
        let mtime = match extended.mtime {
            Some(mtime) => mtime,
            None => number(&old.mtime).ok_or_else(|| bad("a bad time"))?,
        };
        let device = if matches!(flag, b'3' | b'4') {
            device(header).ok_or_else(|| bad("a bad device number"))?
        } else {
            (0, 0)
        };
        let mut entry = RawEntry {
            flag,
            mode: number(&old.mode).ok_or_else(|| bad("a bad mode"))? as u32 & 0o7777,
            uid: small(extended.uid, &old.uid, "a bad owner")?,
            gid: small(extended.gid, &old.gid, "a bad group")?,
            mtime,
            device,
            link,
            xattrs: extended.xattrs,
            offset: self.position,
            // Links have no content, whatever the field says; some writers repeat the target's size there.
            size: if matches!(flag, b'1' | b'2' | b'3' | b'4' | b'5' | b'6') {
                0
            } else {
                size
            },
            name,
        };
        if matches!(flag, 0 | b'0' | b'7') && entry.name.ends_with(b"/") {
            entry.flag = b'5';
        }
        let name = std::mem::take(&mut entry.name);
        self.start_content(entry.size.cast_signed(), &name)?;
        entry.name = name;
        Ok(entry)
    }

    fn start_content(&mut self, size: i64, name: &[u8]) -> Result<(), Problem> {
        let Ok(size) = u64::try_from(size) else {
            return Err(Problem::Tar(format!("{}: a bad size", show(name))));
        };
        self.left = size;
        self.pad = padding(size);
        Ok(())
    }

    /// Content of the current entry: what is buffered of it, empty at its end. [`TarReader::consume`] takes it.
    pub(crate) fn content(&mut self) -> Result<&[u8], Problem> {
        if self.left == 0 {
            return Ok(&[]);
        }
        let left = usize::try_from(self.left).unwrap_or(usize::MAX);
        let buffer = self.input.fill_buf()?;
        if buffer.is_empty() {
            return Err(Problem::Tar("the tar is cut off inside a file".into()));
        }
        Ok(&buffer[..buffer.len().min(left)])
    }

    /// Takes bytes of [`TarReader::content`].
    pub(crate) fn consume(&mut self, bytes: usize) {
        self.input.consume(bytes);
        self.left -= bytes as u64;
        self.position += bytes as u64;
    }

    fn skip_content(&mut self) -> Result<(), Problem> {
        loop {
            let bytes = self.content()?.len();
            if bytes == 0 {
                break;
            }
            self.consume(bytes);
        }
        let mut pad = [0; BLOCK];
        let bytes = std::mem::take(&mut self.pad);
        match self.input.read_exact(&mut pad[..bytes]) {
            // Nothing is missing when only the padding of the last file is: other readers take it too.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
            result => result?,
        }
        self.position += bytes as u64;
        Ok(())
    }

    /// The next header block; `None` at the end mark or the end of the stream.
    fn header(&mut self) -> Result<Option<Header>, Problem> {
        let mut header = Header::new_old();
        let block = header.as_mut_bytes();
        if self.input.fill_buf()?.is_empty() {
            return Ok(None);
        }
        self.input.read_exact(block).map_err(cut_off)?;
        self.position += BLOCK as u64;
        if block.iter().all(|&b| b == 0) {
            return Ok(None);
        }
        if !is_header(header.as_bytes()) {
            let name = short_name(&header);
            return Err(Problem::Tar(format!(
                "{}: the header's checksum is wrong",
                show(&name)
            )));
        }
        Ok(Some(header))
    }

    /// Content of an extended header or long name.
    fn special(&mut self, header: &Header) -> Result<Vec<u8>, Problem> {
        let size = number(&header.as_old().size).and_then(|size| u64::try_from(size).ok());
        let Some(size) = size.filter(|&size| size <= SPECIAL_LIMIT) else {
            return Err(Problem::Tar(format!(
                "{}: an extended header that is too large",
                show(&short_name(header))
            )));
        };
        let mut bytes = Vec::new();
        (&mut self.input).take(size).read_to_end(&mut bytes)?;
        if bytes.len() as u64 != size {
            return Err(Problem::Tar(
                "the tar is cut off inside an extended header".into(),
            ));
        }
        self.position += size;
        self.left = 0;
        self.pad = padding(size);
        Ok(bytes)
    }
}

/// Whether bytes begin with a tar header.
pub(crate) fn is_header(start: &[u8]) -> bool {
    let Some(block) = start.first_chunk::<BLOCK>() else {
        return false;
    };
    if block.iter().all(|&b| b == 0) {
        return false;
    }
    let stored = number(&block[148..156]);
    stored == Some(checksum(block, u8::into)) || stored == Some(checksum(block, signed))
}

fn cut_off(error: io::Error) -> Problem {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        Problem::Tar("the tar is cut off".into())
    } else {
        Problem::Io(error)
    }
}

fn signed(byte: u8) -> i64 {
    i64::from(byte.cast_signed())
}

/// Sum of the header's bytes, the checksum field read as blanks.
fn checksum(block: &[u8; BLOCK], value: fn(u8) -> i64) -> i64 {
    let sum = |bytes: &[u8]| bytes.iter().map(|&b| value(b)).sum::<i64>();
    sum(&block[..148]) + 8 * i64::from(b' ') + sum(&block[156..])
}

fn until_nul(field: &[u8]) -> &[u8] {
    field.split(|&b| b == 0).next().unwrap_or_default()
}

/// The header's own name; with the prefix only where the format has one (GNU keeps times there, star's is shorter).
fn short_name(header: &Header) -> Vec<u8> {
    let (name, block) = (until_nul(&header.as_old().name), header.as_bytes());
    if &block[257..263] != b"ustar\0" {
        return name.to_vec();
    }
    let end = if &block[508..512] == b"tar\0" {
        476
    } else {
        500
    };
    match until_nul(&block[345..end]) {
        b"" => name.to_vec(),
        prefix => [prefix, b"/", name].concat(),
    }
}

fn device(header: &Header) -> Option<(u32, u32)> {
    let block = header.as_bytes();
    if &block[257..262] != b"ustar" {
        return Some((0, 0));
    }
    let part = |field: &[u8]| u32::try_from(number(field)?).ok();
    Some((part(&block[329..337])?, part(&block[337..345])?))
}

/// A numeric field: octal with blanks and NULs around it, or two's complement in base 256 when the first bit is set.
fn number(field: &[u8]) -> Option<i64> {
    if field[0] & 0x80 != 0 {
        let negative = field[0] & 0x40 != 0;
        let mut value: i64 = if negative { -1 } else { 0 };
        for (at, &byte) in field.iter().enumerate() {
            let byte = if at == 0 {
                if negative { byte | 0x80 } else { byte & 0x7f }
            } else {
                byte
            };
            value = value.checked_mul(256)? | i64::from(byte);
        }
        return Some(value);
    }
    let mut digits = field.iter().copied().skip_while(|b| *b == b' ' || *b == 0);
    let mut value: i64 = 0;
    for byte in digits.by_ref() {
        match byte {
            b'0'..=b'7' => value = value.checked_mul(8)?.checked_add(i64::from(byte - b'0'))?,
            b' ' | 0 => return digits.all(|b| b == b' ' || b == 0).then_some(value),
            _ => return None,
        }
    }
    Some(value)
}

fn parse_records(mut records: &[u8], extended: &mut Extended) -> Result<(), Problem> {
    let bad = || Problem::Tar("a damaged extended header".to_owned());
    while !records.is_empty() {
        let blank = records
            .iter()
            .take(12)
            .position(|&b| b == b' ')
            .ok_or_else(bad)?;
        let size: usize = std::str::from_utf8(&records[..blank])
            .ok()
            .and_then(|text| text.parse().ok())
            .ok_or_else(bad)?;
        if size <= blank + 1 {
            return Err(bad());
        }
        let (record, rest) = records.split_at_checked(size).ok_or_else(bad)?;
        let record = record[blank + 1..].strip_suffix(b"\n").ok_or_else(bad)?;
        let equals = record.iter().position(|&b| b == b'=').ok_or_else(bad)?;
        keep_record(&record[..equals], &record[equals + 1..], extended).ok_or_else(bad)?;
        records = rest;
    }
    Ok(())
}

/// Takes one record; `None` when its value cannot be understood.
fn keep_record(key: &[u8], value: &[u8], extended: &mut Extended) -> Option<()> {
    let text = || std::str::from_utf8(value).ok();
    match key {
        // An empty value takes the key back (POSIX pax).
        b"path" => extended.path = (!value.is_empty()).then(|| value.to_vec()),
        b"linkpath" => extended.link = (!value.is_empty()).then(|| value.to_vec()),
        b"size" => {
            let size = text()?.parse().ok();
            extended.size = Some(size.filter(|size| *size <= i64::MAX as u64)?);
        }
        b"uid" => extended.uid = Some(text()?.parse().ok()?),
        b"gid" => extended.gid = Some(text()?.parse().ok()?),
        b"mtime" => extended.mtime = Some(whole_seconds(text()?)?),
        _ if key.starts_with(b"GNU.sparse.") => extended.sparse = true,
        _ => {
            if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                extended.xattrs.retain(|(known, _)| known != name);
                extended.xattrs.push((name.to_vec(), value.to_vec()));
            }
        }
    }
    Some(())
}

/// Seconds of a decimal time, rounded down.
fn whole_seconds(text: &str) -> Option<i64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let seconds: i64 = whole.parse().ok()?;
    let below = whole.starts_with('-') && fraction.bytes().any(|b| b != b'0');
    if below {
        seconds.checked_sub(1)
    } else {
        Some(seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        assert_eq!(number(b"0000644\0"), Some(0o644));
        assert_eq!(number(b"   644 \0"), Some(0o644));
        assert_eq!(number(b"\0\0\0\0\0\0\0\0"), Some(0));
        assert_eq!(number(b"77777777"), Some(0o77_777_777));
        assert_eq!(number(b"\x80\0\0\0\0\0\x01\x00"), Some(256));
        assert_eq!(number(b"\xff\xff\xff\xff\xff\xff\xff\xfe"), Some(-2));
        assert_eq!(
            number(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xf8\x53"),
            Some(-1965)
        );
        assert_eq!(
            number(b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"),
            None
        );
        assert_eq!(number(b"12 4\0\0\0\0"), None);
        assert_eq!(number(b"-1\0\0\0\0\0\0"), None);
    }

    #[test]
    fn times_round_down() {
        assert_eq!(whole_seconds("12.9"), Some(12));
        assert_eq!(whole_seconds("-12.5"), Some(-13));
        assert_eq!(whole_seconds("-12.0"), Some(-12));
        assert_eq!(whole_seconds("-0.5"), Some(-1));
        assert_eq!(whole_seconds("1.x"), None);
    }
}
