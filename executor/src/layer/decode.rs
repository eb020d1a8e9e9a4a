//! Reads a layer blob once: decompresses it on a thread of its own, checks the digests of what is stored and of what
//! comes out, and can keep a copy of the tar on the way.
//!
//! The compression is told by the content (gzip with any number of members, zstd with any number of frames, plain),
//! as every image tool does; media types lie. It does not look into the tar.

use super::growing::Growing;
use super::hash::{BUFFER, Chunk, StreamHasher, digest_of};
use super::index::io_error;
use crate::Error;
use flate2::bufread::MultiGzDecoder;
use oci_spec::image::Digest;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;
use store::Sha256;

/// Chunks decompressed ahead.
const AHEAD: usize = 4;

/// A layer blob and what it must be.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Source {
    /// File.
    pub path: PathBuf,
    /// Digest of the file, where it is another than the tar's.
    pub digest: Option<Digest>,
    /// Digest of the tar in it.
    pub diff_id: Digest,
}

/// The tar of a blob as a stream. It must be read to its end, then [`Decoded::finish`] says whether it can be trusted.
#[derive(Debug)]
pub(crate) struct Decoded {
    layer: Source,
    chunks: Option<Receiver<io::Result<Chunk>>>,
    back: Option<Sender<Chunk>>,
    thread: Option<JoinHandle<Option<[u8; 32]>>>,
    current: Chunk,
    at: usize,
    ended: bool,
    size: u64,
    hasher: Option<StreamHasher>,
    copy: Option<(PathBuf, File)>,
    /// An error that writing the copy met.
    copy_error: Option<io::Error>,
}

/// What came out of a blob.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tar {
    /// SHA-256, equal to the diff_id asked for.
    pub(crate) diff_id: [u8; 32],
    /// Bytes.
    pub(crate) size: u64,
}

impl Decoded {
    /// Opens a blob. `limit` bounds the bytes of the tar; `copy` is a file to be made with the tar.
    pub(crate) fn open(source: &Source, limit: u64, copy: Option<&Path>) -> Result<Self, Error> {
        let file = File::open(&source.path).map_err(|e| io_error("open", &source.path, e))?;
        Self::over(Input::File(file), source, limit, copy)
    }

    /// Reads a blob from where it is; the path of `source` is for messages.
    pub(crate) fn over(
        input: Input,
        source: &Source,
        limit: u64,
        copy: Option<&Path>,
    ) -> Result<Self, Error> {
        let copy = match copy {
            Some(path) => {
                let file = File::create(path).map_err(|e| io_error("create", path, e))?;
                Some((path.to_path_buf(), file))
            }
            None => None,
        };
        let (to, chunks) = sync_channel(AHEAD);
        let (back, spare) = channel();
        for _ in 0..AHEAD {
            drop(back.send(Chunk::new()));
        }
        let wants_digest = source.digest.is_some();
        let thread = std::thread::Builder::new()
            .name("layer decode".into())
            .spawn(move || decode(input, wants_digest, limit, &to, &spare))
            .map_err(|e| io_error("start a thread to read", &source.path, e))?;
        Ok(Self {
            layer: source.clone(),
            chunks: Some(chunks),
            back: Some(back),
            thread: Some(thread),
            current: Chunk::new(),
            at: 0,
            ended: false,
            size: 0,
            hasher: Some(StreamHasher::new()),
            copy,
            copy_error: None,
        })
    }

    /// What went wrong when reading failed: writing the copy, or the blob itself.
    pub(crate) fn error(&mut self, error: io::Error) -> Error {
        if let (Some(source), Some((path, _))) = (self.copy_error.take(), &self.copy) {
            return io_error("write", path, source);
        }
        if error.kind() == io::ErrorKind::FileTooLarge {
            let layer = format!("layer {}", self.layer.diff_id);
            return io_error("unpack", Path::new(&layer), error);
        }
        if error.raw_os_error().is_some() {
            return io_error("read", &self.layer.path, error);
        }
        self.refuse(format!("its compressed data is damaged: {error}"))
    }

    /// A reason to refuse the layer.
    pub(crate) fn refuse(&self, reason: String) -> Error {
        Error::Layer {
            layer: self.layer.diff_id.to_string(),
            reason,
        }
    }

    /// Reads what is left and checks the digests.
    pub(crate) fn finish(mut self) -> Result<Tar, Error> {
        loop {
            let available = match self.fill_buf() {
                Ok(buffer) => buffer.len(),
                Err(error) => return Err(self.error(error)),
            };
            if available == 0 {
                break;
            }
            self.consume(available);
        }
        let stored = self.thread.take().map(JoinHandle::join).transpose();
        let stored = stored
            .map_err(|_| self.refuse("the decoder failed on it".into()))?
            .flatten();
        if let (Some(expected), Some(found)) = (&self.layer.digest, stored) {
            let actual = digest_of(&found);
            if *expected != actual {
                let (expected, actual) = (expected.to_string(), actual.to_string());
                return Err(Error::Store(store::Error::Corrupt {
                    expected,
                    actual,
                    path: None,
                }));
            }
        }
        let diff_id = self
            .hasher
            .take()
            .expect("BUG: the hasher is taken once")
            .finish(&[])
            .expect("BUG: this stream is not written");
        let actual = digest_of(&diff_id);
        if actual != self.layer.diff_id {
            return Err(self.refuse(format!("its content has the digest {actual} instead")));
        }
        Ok(Tar {
            diff_id,
            size: self.size,
        })
    }

    /// Passes the used-up chunk on and takes the next.
    fn advance(&mut self) -> io::Result<()> {
        if self.current.len > 0 {
            if let Some((_, file)) = &mut self.copy
                && let Err(error) = file.write_all(self.current.filled())
            {
                let shown = io::Error::other("the copy could not be written");
                self.copy_error = Some(error);
                return Err(shown);
            }
            let used = std::mem::replace(
                &mut self.current,
                Chunk {
                    data: Box::default(),
                    len: 0,
                },
            );
            let empty = self
                .hasher
                .as_mut()
                .expect("BUG: taken only at the end")
                .feed(used)?;
            if let Some(back) = &self.back {
                drop(back.send(empty));
            }
        }
        self.at = 0;
        let next = self.chunks.as_ref().and_then(|chunks| chunks.recv().ok());
        match next {
            Some(Ok(chunk)) => {
                self.size += chunk.len as u64;
                self.current = chunk;
                Ok(())
            }
            Some(Err(error)) => Err(error),
            None => {
                self.ended = true;
                self.current.len = 0;
                Ok(())
            }
        }
    }
}

impl Drop for Decoded {
    fn drop(&mut self) {
        // The thread ends at its next send or wait.
        self.chunks = None;
        self.back = None;
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

impl BufRead for Decoded {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.at == self.current.len && !self.ended {
            self.advance()?;
        }
        Ok(&self.current.data[self.at..self.current.len])
    }
    fn consume(&mut self, bytes: usize) {
        self.at += bytes;
    }
}

impl Read for Decoded {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let buffer = self.fill_buf()?;
        let bytes = buffer.len().min(out.len());
        out[..bytes].copy_from_slice(&buffer[..bytes]);
        self.consume(bytes);
        Ok(bytes)
    }
}

/// The thread: fills chunks until the end, an error, or until nobody listens. Returns the digest of the stored bytes.
fn decode(
    input: Input,
    wants_digest: bool,
    limit: u64,
    to: &SyncSender<io::Result<Chunk>>,
    spare: &Receiver<Chunk>,
) -> Option<[u8; 32]> {
    let input = Hashing {
        input,
        hasher: wants_digest.then(Sha256::new),
    };
    let mut input = BufReader::with_capacity(BUFFER, input);
    if let Err(error) = decompress(&mut input, limit, to, spare) {
        drop(to.send(Err(error)));
        return None;
    }
    // What follows the compressed stream still belongs to the blob's digest.
    if let Err(error) = io::copy(&mut input, &mut io::sink()) {
        drop(to.send(Err(error)));
        return None;
    }
    input.into_inner().hasher.map(Sha256::finish)
}

fn decompress(
    input: &mut BufReader<Hashing>,
    limit: u64,
    to: &SyncSender<io::Result<Chunk>>,
    spare: &Receiver<Chunk>,
) -> io::Result<()> {
    let start = input.fill_buf()?;
    let zstd = start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd])
        || (start.len() >= 4 && start[0] & 0xf0 == 0x50 && start[1..4] == [0x2a, 0x4d, 0x18]);
    let mut decoder: Box<dyn Read + '_> = if start.starts_with(&[0x1f, 0x8b]) {
        Box::new(MultiGzDecoder::new(input))
    } else if zstd {
        Box::new(zstd::stream::read::Decoder::with_buffer(input)?)
    } else {
        Box::new(input)
    };
    let mut total = 0u64;
    loop {
        let Ok(mut chunk) = spare.recv() else {
            return Ok(());
        };
        chunk.len = 0;
        let mut ended = false;
        while chunk.len < chunk.data.len() && !ended {
            let got = match decoder.read(&mut chunk.data[chunk.len..]) {
                Ok(got) => got,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            chunk.len += got;
            ended = got == 0;
        }
        total += chunk.len as u64;
        if total > limit {
            let reason = format!("it unpacks to more than {limit} bytes");
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, reason));
        }
        if chunk.len > 0 && to.send(Ok(chunk)).is_err() {
            return Ok(());
        }
        if ended {
            return Ok(());
        }
    }
}

/// Where the bytes of a blob come from.
#[derive(Debug)]
pub(crate) enum Input {
    /// A file that is whole.
    File(File),
    /// One that is still being written.
    Growing(Growing),
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::File(file) => file.read(buffer),
            Self::Growing(file) => file.read(buffer),
        }
    }
}

/// Hashes what is read.
struct Hashing {
    input: Input,
    hasher: Option<Sha256>,
}

impl Read for Hashing {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.input.read(buffer)?;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&buffer[..got]);
        }
        Ok(got)
    }
}
