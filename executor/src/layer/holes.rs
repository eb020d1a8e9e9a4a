//! Writes a new file without its zeros: long runs of them become holes, which take neither time nor space.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};

/// Shorter runs are written: a hole is of whole blocks of the file system, and asking for it costs a call.
const LEAST: usize = 64 * 1024;

/// A file that was empty. [`Write::flush`] gives it its length.
#[derive(Debug)]
pub(crate) struct Holes {
    file: File,
    /// Zeros before the place where the next byte goes that have not become a hole yet.
    skipped: u64,
}

impl Holes {
    pub(crate) fn new(file: File) -> Self {
        Self { file, skipped: 0 }
    }

    fn skip(&mut self) -> io::Result<()> {
        if self.skipped > 0 {
            let skipped = i64::try_from(self.skipped).map_err(io::Error::other)?;
            self.file.seek(SeekFrom::Current(skipped))?;
            self.skipped = 0;
        }
        Ok(())
    }
}

impl Write for Holes {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() >= LEAST && is_zero(bytes) {
            self.skipped += bytes.len() as u64;
            return Ok(bytes.len());
        }
        self.skip()?;
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.skip()?;
        let end = self.file.stream_position()?;
        if self.file.metadata()?.len() < end {
            self.file.set_len(end)?;
        }
        Ok(())
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    // Other bytes mostly show at once, and words are compared many at a time.
    bytes
        .chunks(1024)
        .all(|part| part.iter().fold(0, |all, byte| all | byte) == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;
    use std::os::unix::fs::MetadataExt as _;

    #[test]
    fn the_same_bytes_in_less_space() {
        let zeros = vec![0; 1 << 20];
        let mut nearly = vec![0; LEAST];
        nearly[LEAST - 1] = 1;
        for end in [&b"end"[..], &zeros] {
            let file = tempfile::NamedTempFile::new().unwrap();
            let mut holes = Holes::new(file.reopen().unwrap());
            let mut expected = Vec::new();
            for part in [&b"begin"[..], &zeros, &nearly, &zeros[..100], &zeros, end] {
                holes.write_all(part).unwrap();
                expected.extend_from_slice(part);
            }
            holes.flush().unwrap();
            let mut found = Vec::new();
            file.reopen().unwrap().read_to_end(&mut found).unwrap();
            assert!(found == expected);
            let used = file.as_file().metadata().unwrap().blocks() * 512;
            assert!(used < 1 << 20, "{used}");
        }
    }
}
