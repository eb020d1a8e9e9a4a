//! Bytes that are written once and read several times: in memory while they are few, else in a file without a name on the
//! store's file system. What they mean is their writers' business.

use crate::Error;
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::os::unix::fs::FileExt as _;
use store::Store;

/// Bytes in memory.
const IN_MEMORY: usize = 1 << 20;
/// Bytes in memory of those that go to a file.
const BUFFER: usize = 1 << 16;

#[derive(Debug, Default)]
pub(super) struct Overflow {
    /// What comes after the file's content, or everything.
    tail: Vec<u8>,
    file: Option<File>,
    in_file: u64,
    /// Where a file can be had.
    store: Option<Store>,
}

impl Overflow {
    /// Empty; without a store all stays in memory.
    pub(super) fn new(store: Option<&Store>) -> Self {
        Self {
            store: store.cloned(),
            ..Self::default()
        }
    }

    pub(super) fn len(&self) -> u64 {
        self.in_file + self.tail.len() as u64
    }

    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let limit = if self.file.is_some() {
            BUFFER
        } else {
            IN_MEMORY
        };
        if self.tail.len() + bytes.len() > limit
            && let Some(store) = &self.store
        {
            let failed = |source| Error::Io {
                op: "write",
                path: store.root().join("scratch"),
                source,
            };
            let file = match &mut self.file {
                Some(file) => file,
                none => {
                    // The folder goes now, the file with its last descriptor.
                    let scratch = store.scratch()?;
                    let path = scratch.path().join("list");
                    let mut options = File::options();
                    let options = options.read(true).write(true).create_new(true);
                    none.insert(options.open(path).map_err(failed)?)
                }
            };
            file.write_all(&self.tail).map_err(failed)?;
            self.in_file += self.tail.len() as u64;
            self.tail.clear();
            self.tail.shrink_to(BUFFER);
        }
        self.tail.extend_from_slice(bytes);
        Ok(())
    }

    /// Reads all from the start.
    pub(super) fn reader(&self) -> Reader<'_> {
        Reader { of: self, at: 0 }
    }
}

/// See [`Overflow::reader`].
#[derive(Debug)]
pub(super) struct Reader<'o> {
    of: &'o Overflow,
    at: u64,
}

impl Read for Reader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Overflow {
            tail,
            file,
            in_file,
            ..
        } = self.of;
        let got = match file {
            Some(file) if self.at < *in_file => {
                let left = usize::try_from(in_file - self.at).unwrap_or(usize::MAX);
                let room = buffer.len().min(left);
                match file.read_at(&mut buffer[..room], self.at)? {
                    0 if room > 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                    got => got,
                }
            }
            _ => {
                let start = usize::try_from(self.at - in_file).unwrap_or(usize::MAX);
                let rest = tail.get(start..).unwrap_or_default();
                let got = rest.len().min(buffer.len());
                buffer[..got].copy_from_slice(&rest[..got]);
                got
            }
        };
        self.at += got as u64;
        Ok(got)
    }
}
