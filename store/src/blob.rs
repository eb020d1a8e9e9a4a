//! Content-addressed files: written under a temporary name while hashed, renamed when complete, verified when read.
//! It does not know what the bytes mean.

use crate::Sha256;
use crate::Store;
use crate::error::Error;
use crate::file;
use crate::layout::hex;
use oci_spec::image::{Digest, DigestAlgorithm};
use sha2::{Digest as _, Sha384, Sha512};
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

const BUFFER: usize = 128 * 1024;

/// A running hash of one of the registered algorithms (image-spec descriptor.md, "Registered algorithms").
#[derive(Clone, Debug)]
enum Hasher {
    Sha256(Sha256),
    Sha384(Sha384),
    Sha512(Sha512),
}

impl Hasher {
    fn for_digest(digest: &Digest) -> Result<Self, Error> {
        match digest.algorithm() {
            DigestAlgorithm::Sha256 => Ok(Self::Sha256(Sha256::new())),
            DigestAlgorithm::Sha384 => Ok(Self::Sha384(Sha384::new())),
            DigestAlgorithm::Sha512 => Ok(Self::Sha512(Sha512::new())),
            _ => Err(Error::UnknownAlgorithm {
                digest: digest.to_string(),
            }),
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(h) => h.update(bytes),
            Self::Sha384(h) => h.update(bytes),
            Self::Sha512(h) => h.update(bytes),
        }
    }

    fn finish(self) -> Digest {
        let (algorithm, encoded) = match self {
            Self::Sha256(h) => ("sha256", hex(&h.finish())),
            Self::Sha384(h) => ("sha384", hex(&h.finalize())),
            Self::Sha512(h) => ("sha512", hex(&h.finalize())),
        };
        Digest::try_from(format!("{algorithm}:{encoded}"))
            .expect("BUG: hexadecimal of a known length is a digest")
    }
}

/// Writes a blob and hashes what passes. Dropped without [`BlobWriter::commit`] it leaves nothing.
#[derive(Debug)]
pub struct BlobWriter {
    store: Store,
    temporary: PathBuf,
    out: BufWriter<File>,
    hasher: Sha256,
    size: u64,
}

impl BlobWriter {
    pub(crate) fn new(store: &Store) -> Result<Self, Error> {
        let temporary = store.inner.temporary()?;
        let file = File::create_new(&temporary).map_err(|e| Error::io("create", &temporary, e))?;
        Ok(Self {
            store: store.clone(),
            temporary,
            out: BufWriter::with_capacity(BUFFER, file),
            hasher: Sha256::new(),
            size: 0,
        })
    }

    /// Bytes written so far.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Opens what is written so far for reading, from its start; what comes later can be read there too once it is
    /// flushed.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn reader(&self) -> Result<File, Error> {
        File::open(&self.temporary).map_err(|e| Error::io("open", &self.temporary, e))
    }

    /// Makes the blob visible and returns its digest and size in bytes.
    ///
    /// With `expected`, the blob is dropped when digest or size differ, and it is filed under the expected digest's
    /// algorithm; else under SHA-256. An existing blob is replaced by the same content, which mends a damaged one.
    ///
    /// # Errors
    /// [`Error::Corrupt`] or [`Error::WrongSize`] when the content is not the expected one; a failed write.
    pub fn commit(
        mut self,
        expected: Option<(&Digest, Option<u64>)>,
    ) -> Result<(Digest, u64), Error> {
        self.out
            .flush()
            .map_err(|e| Error::io("write", &self.temporary, e))?;
        if let Some((digest, Some(size))) = expected
            && size != self.size
        {
            return Err(Error::WrongSize {
                digest: digest.to_string(),
                expected: size,
                actual: self.size,
                path: None,
            });
        }
        let digest = self.digest(expected.map(|(digest, _)| digest))?;
        if let Some((wanted, _)) = expected
            && *wanted != digest
        {
            return Err(Error::Corrupt {
                expected: wanted.to_string(),
                actual: digest.to_string(),
                path: None,
            });
        }
        let path = self.store.inner.layout.blob(&digest);
        self.store.inner.growth.add(self.size);
        self.store.inner.rename_into(&self.temporary, &path)?;
        Ok((digest, self.size))
    }

    fn digest(&self, expected: Option<&Digest>) -> Result<Digest, Error> {
        let Some(expected) = expected.filter(|e| *e.algorithm() != DigestAlgorithm::Sha256) else {
            return Ok(Hasher::Sha256(self.hasher.clone()).finish());
        };
        let mut hasher = Hasher::for_digest(expected)?;
        let mut file =
            File::open(&self.temporary).map_err(|e| Error::io("open", &self.temporary, e))?;
        let mut buffer = vec![0; BUFFER];
        loop {
            let n = file
                .read(&mut buffer)
                .map_err(|e| Error::io("read", &self.temporary, e))?;
            if n == 0 {
                return Ok(hasher.finish());
            }
            hasher.update(&buffer[..n]);
        }
    }
}

impl Write for BlobWriter {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.out.write(buf)?;
        self.hasher.update(&buf[..n]);
        self.size += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl Drop for BlobWriter {
    fn drop(&mut self) {
        // Absent after a commit; otherwise the folder around it goes with the process anyway.
        let _ = fs::remove_file(&self.temporary);
    }
}

/// Reads a blob and verifies it: at its end, content that does not have the blob's digest gives an `io::Error`
/// that carries [`Error::Corrupt`]. Who stops reading earlier calls [`BlobReader::finish`].
#[derive(Debug)]
pub struct BlobReader {
    path: PathBuf,
    digest: Digest,
    size: u64,
    file: File,
    // None once verified.
    hasher: Option<Hasher>,
}

impl BlobReader {
    fn open(path: PathBuf, digest: &Digest) -> Result<Self, Error> {
        let hasher = Hasher::for_digest(digest)?;
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if file::is_absent(&e) => return Err(blob_not_found(digest)),
            Err(e) => return Err(Error::io("open", &path, e)),
        };
        let size = file
            .metadata()
            .map_err(|e| Error::io("inspect", &path, e))?
            .len();
        Ok(Self {
            path,
            digest: digest.clone(),
            size,
            file,
            hasher: Some(hasher),
        })
    }

    /// Size of the file in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Reads what is left and verifies the whole.
    ///
    /// # Errors
    /// [`Error::Corrupt`], or a failed read.
    pub fn finish(mut self) -> Result<(), Error> {
        let mut buffer = vec![0; BUFFER];
        while self.hasher.is_some() {
            let n = self
                .file
                .read(&mut buffer)
                .map_err(|e| Error::io("read", &self.path, e))?;
            self.pass(&buffer[..n])?;
        }
        Ok(())
    }

    /// Hashes what was read; nothing means the end.
    fn pass(&mut self, bytes: &[u8]) -> Result<(), Error> {
        if !bytes.is_empty() {
            if let Some(hasher) = &mut self.hasher {
                hasher.update(bytes);
            }
            return Ok(());
        }
        let Some(hasher) = self.hasher.take() else {
            return Ok(());
        };
        let actual = hasher.finish();
        if actual == self.digest {
            return Ok(());
        }
        Err(Error::Corrupt {
            expected: self.digest.to_string(),
            actual: actual.to_string(),
            path: Some(self.path.clone()),
        })
    }
}

impl Read for BlobReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        let n = self.file.read(buf)?;
        self.pass(&buf[..n]).map_err(Error::into_invalid_data)?;
        Ok(n)
    }
}

fn blob_not_found(digest: &Digest) -> Error {
    Error::NotFound {
        what: "blob",
        name: digest.to_string(),
    }
}

fn same_content(path: &Path, bytes: &[u8]) -> bool {
    let size_matches = fs::metadata(path).is_ok_and(|m| m.len() == bytes.len() as u64);
    size_matches && fs::read(path).is_ok_and(|content| content == bytes)
}

impl Store {
    /// Starts a blob; nothing is visible before [`BlobWriter::commit`].
    ///
    /// # Errors
    /// The temporary file cannot be made.
    pub fn blob_writer(&self) -> Result<BlobWriter, Error> {
        BlobWriter::new(self)
    }

    /// Puts bytes as a blob (idempotent; mends a damaged one).
    ///
    /// # Errors
    /// A failed write.
    pub fn put_blob(&self, bytes: &[u8]) -> Result<Digest, Error> {
        let mut hasher = Sha256::new();
        hasher.update(bytes);
        let digest = Hasher::Sha256(hasher).finish();
        let path = self.inner.layout.blob(&digest);
        self.uses(&path);
        if !same_content(&path, bytes) {
            self.inner.replace(&path, bytes, false)?;
        }
        Ok(digest)
    }

    /// Size of a blob in bytes when it is there.
    #[must_use]
    pub fn blob_size(&self, digest: &Digest) -> Option<u64> {
        let path = self.inner.layout.blob(digest);
        self.uses_blob(digest, &path);
        let meta = fs::metadata(path).ok()?;
        meta.is_file().then_some(meta.len())
    }

    /// Removes a blob, whoever refers to it; `false` when it was not there. For use in [`Store::alone`].
    ///
    /// # Errors
    /// A failed removal.
    pub fn remove_blob(&self, digest: &Digest) -> Result<bool, Error> {
        let path = self.inner.layout.blob(digest);
        match fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(e) if file::is_absent(&e) => Ok(false),
            Err(e) => Err(Error::io("remove", &path, e)),
        }
    }

    /// Where a blob's file is or would be. Reading it there verifies nothing.
    #[must_use]
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.inner.layout.blob(digest)
    }

    /// A reader that fails with [`Error::Corrupt`] (as `io::Error`) at the end when content and digest differ.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::UnknownAlgorithm`].
    pub fn open_blob(&self, digest: &Digest) -> Result<BlobReader, Error> {
        let path = self.inner.layout.blob(digest);
        self.uses_blob(digest, &path);
        BlobReader::open(path, digest)
    }

    /// A whole small blob (manifest, config), verified; refuses more than `limit` bytes.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::TooLarge`], [`Error::Corrupt`], a failed read.
    pub fn read_blob(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, Error> {
        let mut reader = self.open_blob(digest)?;
        if reader.size > limit {
            return Err(Error::TooLarge {
                digest: digest.to_string(),
                size: reader.size,
                limit,
            });
        }
        let mut bytes = Vec::with_capacity(usize::try_from(reader.size).unwrap_or(0) + 1);
        (&mut reader.file)
            .take(limit.saturating_add(1))
            .read_to_end(&mut bytes)
            .map_err(|e| Error::io("read", &reader.path, e))?;
        reader.pass(&bytes)?;
        reader.pass(&[])?;
        Ok(bytes)
    }
}
