//! An index on its way into a file: records go to their place in it, the heap into another file that is appended at the
//! end. Only what was not written yet is in memory.

use super::builder::identity_hasher;
use super::{CHECKSUM, HEADER, io_error};
use crate::Error;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

/// Bytes that are written at once.
const BUFFER: usize = 1 << 18;

#[derive(Debug)]
pub(super) struct Streaming {
    path: PathBuf,
    index: File,
    heap_file: File,
    /// Bytes of records in the file.
    pub(super) records: usize,
    /// Bytes of the heap in its file.
    pub(super) heap: usize,
    pub(super) identity: blake3::Hasher,
    failed: Option<io::Error>,
}

impl Streaming {
    pub(super) fn create(path: &Path) -> Result<Self, Error> {
        let create = |path: &Path| {
            let mut options = File::options();
            let options = options.read(true).write(true).create(true).truncate(true);
            options.open(path).map_err(|e| io_error("create", path, e))
        };
        let mut index = create(path)?;
        let heap = path.with_extension("heap");
        let heap_file = create(&heap)?;
        std::fs::remove_file(&heap).map_err(|e| io_error("remove", &heap, e))?;
        let start = SeekFrom::Start(HEADER as u64);
        index.seek(start).map_err(|e| io_error("write", path, e))?;
        Ok(Self {
            path: path.to_path_buf(),
            index,
            heap_file,
            records: 0,
            heap: 0,
            identity: identity_hasher(),
            failed: None,
        })
    }

    /// Writes what has become much. What goes wrong is told at the end.
    pub(super) fn drain(&mut self, records: &mut Vec<u8>, heap: &mut Vec<u8>) {
        let files = [
            (&mut self.index, records, &mut self.records),
            (&mut self.heap_file, heap, &mut self.heap),
        ];
        for (file, bytes, written) in files {
            if bytes.len() < BUFFER {
                continue;
            }
            if self.failed.is_none() {
                self.failed = file.write_all(bytes).err();
            }
            *written += bytes.len();
            bytes.clear();
        }
    }

    /// Appends the heap, completes the header, sums everything up. Gives the identity in hex.
    pub(super) fn finish(
        mut self,
        records: &[u8],
        heap: &[u8],
        mut header: [u8; HEADER],
    ) -> Result<String, Error> {
        header[64..96].copy_from_slice(self.identity.finalize().as_bytes());
        let mut end = || -> io::Result<()> {
            if let Some(error) = self.failed.take() {
                return Err(error);
            }
            self.index.write_all(records)?;
            self.heap_file.write_all(heap)?;
            self.heap_file.seek(SeekFrom::Start(0))?;
            io::copy(&mut self.heap_file, &mut self.index)?;
            self.index.write_all_at(&header, 0)?;
            self.index.seek(SeekFrom::Start(0))?;
            let mut hasher = blake3::Hasher::new();
            let mut piece = vec![0; BUFFER];
            loop {
                let got = self.index.read(&mut piece)?;
                if got == 0 {
                    break;
                }
                hasher.update(&piece[..got]);
            }
            let sum: [u8; CHECKSUM] = hasher.finalize().into();
            self.index.write_all(&sum)
        };
        end().map_err(|e| io_error("write the layer index", &self.path, e))?;
        Ok(crate::layer::hash::hex(&header[64..96]))
    }
}
