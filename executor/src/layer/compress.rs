//! Compresses a stream in independent blocks on several threads; the result depends only on encoder, level and
//! the encoder library's version.
//!
//! gzip: each MiB is one gzip member (RFC 1952 section 2.2 lets a file hold any number); zstd: each 2 MiB one frame;
//! estargz: members end where its writer says. What samples show to be incompressible is stored in its gzip member.
//! gzip without a level takes for each block what samples of it say: the encoder of `deflate` where its result is as
//! small as libdeflate's level 6, else that.
//! A fixed number of blocks is under way at a time, so memory does not grow with the stream or the machine.

use super::Compression;
use super::deflate::{self, Fast};
use libdeflater::{CompressionLvl, Compressor};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::num::NonZero;
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// Bytes of one gzip member.
const GZIP_BLOCK: usize = 1 << 20;
/// Bytes of one zstd frame.
const ZSTD_BLOCK: usize = 2 << 20;
/// Most bytes of one gzip member of an estargz layer: a chunk, and headers behind it.
const ESTARGZ_BLOCK: usize = super::estargz::CHUNK + (512 << 10);
/// Version of the gzip encoder: other versions may give other bytes.
const LIBDEFLATER: &str = "1.26.1";
/// Version of the choice which blocks are stored.
const STORING: u32 = 1;
/// Version of the choice of the encoder of each block where no level was given, and the level it may fall on.
const CHOOSING: u32 = 2;
const USUAL: i32 = 6;
/// Threads beyond which memory would pass its bound.
const MOST_THREADS: usize = 8;
/// The same for estargz, whose blocks are larger.
const MOST_ESTARGZ_THREADS: usize = 4;

/// The name of an encoder, by which equal requests find earlier results; `None` for plain tars.
pub(crate) fn encoder(compression: Compression) -> Option<String> {
    match compression {
        Compression::Uncompressed => None,
        Compression::AutoGzip => Some(format!(
            "gzip:auto-{CHOOSING}:fast-{}:libdeflater-{LIBDEFLATER}",
            deflate::VERSION
        )),
        Compression::Gzip(level) => {
            Some(format!("gzip:{level}:libdeflater-{LIBDEFLATER}:{STORING}"))
        }
        Compression::Estargz(level) => Some(format!(
            "estargz:{level}:libdeflater-{LIBDEFLATER}:{STORING}"
        )),
        Compression::Zstd(level) => Some(format!(
            "zstd:{level}:libzstd-{}",
            zstd::zstd_safe::version_string()
        )),
    }
}

/// A block, its place in the stream, and room for what becomes of it.
type Block = (u64, Vec<u8>, Vec<u8>);
/// The same afterwards, and how many bytes it became.
type Done = (Block, io::Result<usize>);

/// Writes what is written to it, compressed, to `out`.
#[derive(Debug)]
pub struct BlockCompressor<W: Write> {
    out: W,
    block: usize,
    filling: Vec<u8>,
    /// Blocks handed out, and blocks written.
    given: u64,
    taken: u64,
    /// Blocks that may be under way.
    depth: u64,
    jobs: Option<SyncSender<Block>>,
    done: Receiver<Done>,
    waiting: BTreeMap<u64, (Vec<u8>, usize)>,
    /// Memory to be used again: blocks, and what became of them.
    spare: Vec<Vec<u8>>,
    spare_outputs: Vec<Vec<u8>>,
    workers: Vec<JoinHandle<()>>,
    /// Bytes written, and where each block begins in them if somebody wants to know.
    written: u64,
    starts: Option<Vec<u64>>,
}

impl<W: Write> BlockCompressor<W> {
    /// Starts the threads; as many as the machine runs at once when `threads` is `None`.
    /// A plain tar needs none of this: [`Compression::Uncompressed`] is refused.
    ///
    /// # Errors
    /// A level that the encoder does not have; no thread to be had.
    pub fn new(
        out: W,
        compression: Compression,
        threads: Option<NonZero<usize>>,
    ) -> io::Result<Self> {
        let (block, level) = match compression {
            Compression::AutoGzip => (GZIP_BLOCK, USUAL),
            Compression::Gzip(level) => (GZIP_BLOCK, i32::try_from(level).unwrap_or(i32::MAX)),
            Compression::Estargz(level) => {
                (ESTARGZ_BLOCK, i32::try_from(level).unwrap_or(i32::MAX))
            }
            Compression::Zstd(level) => (ZSTD_BLOCK, level),
            Compression::Uncompressed => {
                return Err(io::Error::other("a plain tar is not compressed"));
            }
        };
        let threads = threads
            .or_else(|| std::thread::available_parallelism().ok())
            .map_or(1, NonZero::get);
        let is_estargz = matches!(compression, Compression::Estargz(_));
        let threads = threads.min(if is_estargz {
            MOST_ESTARGZ_THREADS
        } else {
            MOST_THREADS
        });
        let (jobs, queue) = sync_channel::<Block>(threads);
        let queue = Arc::new(Mutex::new(queue));
        let (results, done) = channel();
        let mut workers = Vec::with_capacity(threads);
        for _ in 0..threads {
            let mut encoder = Encoder::new(compression, level)?;
            let (queue, results) = (Arc::clone(&queue), results.clone());
            let work = move || {
                loop {
                    let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok((number, input, mut output)) = job else {
                        return;
                    };
                    let size = encoder.encode(&input, &mut output);
                    if results.send(((number, input, output), size)).is_err() {
                        return;
                    }
                }
            };
            workers.push(
                std::thread::Builder::new()
                    .name("compress".into())
                    .spawn(work)?,
            );
        }
        Ok(Self {
            out,
            block,
            filling: Vec::new(),
            given: 0,
            taken: 0,
            depth: threads as u64 + 2,
            jobs: Some(jobs),
            done,
            waiting: BTreeMap::new(),
            spare: Vec::new(),
            spare_outputs: Vec::new(),
            workers,
            written: 0,
            starts: is_estargz.then(Vec::new),
        })
    }

    /// Ends the block that is being filled; gives the number of the next one.
    ///
    /// # Errors
    /// Writing.
    pub(crate) fn cut(&mut self) -> io::Result<u64> {
        if !self.filling.is_empty() {
            self.hand_out()?;
        }
        Ok(self.given)
    }

    /// As [`BlockCompressor::finish`], and where each block begins in what was written, where it ends being last.
    ///
    /// # Errors
    /// Writing.
    pub(crate) fn finish_with_starts(mut self) -> io::Result<(W, Vec<u64>)> {
        self.complete()?;
        let mut starts = self.starts.take().unwrap_or_default();
        starts.push(self.written);
        Ok((self.out, starts))
    }

    /// Compresses what is left, writes everything, gives `out` back.
    ///
    /// # Errors
    /// Writing.
    pub fn finish(mut self) -> io::Result<W> {
        self.complete()?;
        Ok(self.out)
    }

    fn complete(&mut self) -> io::Result<()> {
        // An empty stream still is a member.
        if !self.filling.is_empty() || self.given == 0 {
            self.hand_out()?;
        }
        while self.taken < self.given {
            self.take()?;
        }
        self.jobs = None;
        for worker in self.workers.drain(..) {
            worker
                .join()
                .map_err(|_| io::Error::other("a compressing thread failed"))?;
        }
        self.out.flush()
    }

    fn hand_out(&mut self) -> io::Result<()> {
        while self.given - self.taken >= self.depth {
            self.take()?;
        }
        let next = self.spare.pop().unwrap_or_default();
        let full = std::mem::replace(&mut self.filling, next);
        let jobs = self.jobs.as_ref().expect("BUG: jobs end with the stream");
        let output = self.spare_outputs.pop().unwrap_or_default();
        jobs.send((self.given, full, output))
            .map_err(|_| io::Error::other("the compressing threads failed"))?;
        self.given += 1;
        Ok(())
    }

    /// Waits for one block and writes those whose turn it is.
    fn take(&mut self) -> io::Result<()> {
        let received = self
            .done
            .recv()
            .map_err(|_| io::Error::other("the compressing threads failed"))?;
        let ((number, mut input, output), size) = received;
        input.clear();
        self.spare.push(input);
        self.waiting.insert(number, (output, size?));
        while let Some((output, size)) = self.waiting.remove(&self.taken) {
            if let Some(starts) = &mut self.starts {
                starts.push(self.written);
            }
            self.out.write_all(&output[..size])?;
            self.written += size as u64;
            self.taken += 1;
            self.spare_outputs.push(output);
        }
        Ok(())
    }
}

impl<W: Write> Write for BlockCompressor<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = bytes.len().min(self.block - self.filling.len());
        self.filling.extend_from_slice(&bytes[..room]);
        if self.filling.len() == self.block {
            self.hand_out()?;
        }
        Ok(room)
    }
    /// Blocks end by size only: flushing in between would change the result.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

enum Encoder {
    Gzip(Box<Gzip>),
    Auto(Box<Auto>),
    Zstd(Box<zstd::bulk::Compressor<'static>>),
}

impl Encoder {
    fn new(compression: Compression, level: i32) -> io::Result<Self> {
        if let Compression::Zstd(_) = compression {
            let range = zstd::compression_level_range();
            if !range.contains(&level) {
                return Err(io::Error::other(format!(
                    "zstd has the levels {} to {}",
                    range.start(),
                    range.end()
                )));
            }
            let compressor = Box::new(zstd::bulk::Compressor::new(level)?);
            return Ok(Self::Zstd(compressor));
        }
        if compression == Compression::AutoGzip {
            return Ok(Self::Auto(Box::new(Auto::new())));
        }
        Ok(Self::Gzip(Box::new(Gzip::new(level)?)))
    }

    /// Fills the beginning of `output`, which grows as need be; says how much of it.
    fn encode(&mut self, input: &[u8], output: &mut Vec<u8>) -> io::Result<usize> {
        match self {
            Self::Gzip(gzip) => Ok(gzip.encode(input, output)),
            Self::Auto(auto) => Ok(auto.encode(input, output)),
            Self::Zstd(compressor) => {
                grow(output, zstd::zstd_safe::compress_bound(input.len()));
                compressor.compress_to_buffer(input, output.as_mut_slice())
            }
        }
    }
}

/// Makes a buffer long enough; it never gets shorter, so it is not filled with zeros again and again.
fn grow(buffer: &mut Vec<u8>, length: usize) {
    if buffer.len() < length {
        buffer.resize(length, 0);
    }
}

/// A gzip member of libdeflate.
fn member(compressor: &mut Compressor, input: &[u8], output: &mut Vec<u8>) -> usize {
    grow(output, compressor.gzip_compress_bound(input.len()));
    let size = compressor.gzip_compress(input, output);
    size.expect("BUG: the buffer has the size that the encoder asks for")
}

/// The size of what libdeflate makes of a sample.
fn size_of(compressor: &mut Compressor, sample: &[u8], buffer: &mut Vec<u8>) -> usize {
    grow(buffer, compressor.deflate_compress_bound(sample.len()));
    let size = compressor.deflate_compress(sample, buffer);
    size.expect("BUG: the buffer has the size that the encoder asks for")
}

fn fixed(level: i32) -> Compressor {
    Compressor::new(CompressionLvl::new(level).expect("BUG: the encoder has this level"))
}

/// Parts of a block that are looked at before it is compressed: a few that are longer than DEFLATE's window, so that
/// repetition shows, and many short ones.
const LONG_SAMPLES: (usize, usize) = (2, 40 << 10);
const SHORT_SAMPLES: (usize, usize) = (8, 4 << 10);

/// One gzip member per block.
struct Gzip {
    compressor: Compressor,
    /// Finds out whether compressing pays; the search for matches in what has none takes most of the time otherwise.
    trial: Compressor,
    store: Compressor,
    buffer: Vec<u8>,
}

impl Gzip {
    fn new(level: i32) -> io::Result<Self> {
        let level = CompressionLvl::new(level)
            .map_err(|_| io::Error::other("gzip has the levels 0 to 12"))?;
        Ok(Self {
            compressor: Compressor::new(level),
            trial: fixed(1),
            store: fixed(0),
            buffer: Vec::new(),
        })
    }

    fn encode(&mut self, input: &[u8], output: &mut Vec<u8>) -> usize {
        let compressor = if self.pays(input) {
            &mut self.compressor
        } else {
            &mut self.store
        };
        member(compressor, input, output)
    }

    /// Whether samples of a large block shrink by more than 1.5 %.
    fn pays(&mut self, input: &[u8]) -> bool {
        let (long, short) = (LONG_SAMPLES, SHORT_SAMPLES);
        if input.len() < 4 * (long.0 * long.1 + short.0 * short.1) {
            return true;
        }
        let (mut before, mut after) = (0, 0);
        for (count, size) in [long, short] {
            let stride = (input.len() - size) / count;
            for number in 0..count {
                let start = number * stride + stride / 2;
                let sample = &input[start..start + size];
                before += size;
                after += size_of(&mut self.trial, sample, &mut self.buffer);
            }
        }
        after * 1000 < before * 985
    }
}

/// Size of the part of a block on which both encoders are tried: a window of DEFLATE's, so that repetition shows.
const TRIAL: usize = 32 << 10;
/// Shorter blocks are left to libdeflate.
const SHORT: usize = 128 << 10;
/// What all members begin with that are not libdeflate's: no name, no time, no system (RFC 1952 section 2.3).
const MEMBER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];

/// One gzip member per block, each by the encoder that suits it.
struct Auto {
    fast: Fast,
    usual: Compressor,
    buffer: Vec<u8>,
}

impl Auto {
    fn new() -> Self {
        Self {
            fast: Fast::new(),
            usual: fixed(USUAL),
            buffer: Vec::new(),
        }
    }

    fn encode(&mut self, input: &[u8], output: &mut Vec<u8>) -> usize {
        if input.len() < SHORT || !self.suits(input) {
            return member(&mut self.usual, input, output);
        }
        let head = MEMBER.len();
        grow(output, head + Fast::bound(input.len()) + 8);
        output[..head].copy_from_slice(&MEMBER);
        let end = head + self.fast.encode(input, &mut output[head..]);
        output[end..end + 4].copy_from_slice(&libdeflater::crc32(input).to_le_bytes());
        let length = u32::try_from(input.len()).expect("BUG: blocks are a few MiB");
        output[end + 4..end + 8].copy_from_slice(&length.to_le_bytes());
        end + 8
    }

    /// Whether the fast encoder makes of the block's middle no more than 3 % more than the other one; of a whole block
    /// that it suits it makes less. Of what does not shrink by more than 1.5 % it makes nearly as much, at no price.
    fn suits(&mut self, input: &[u8]) -> bool {
        let sample = &input[(input.len() - TRIAL) / 2..][..TRIAL];
        grow(&mut self.buffer, Fast::bound(TRIAL));
        let fast = self.fast.encode(sample, &mut self.buffer);
        if fast * 1000 >= TRIAL * 985 {
            return true;
        }
        let usual = size_of(&mut self.usual, sample, &mut self.buffer);
        fast * 100 <= usual * 103
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Results are remembered under the version: it must be the one that is linked.
    #[test]
    fn the_named_version_is_the_one_in_use() {
        let lock = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.lock");
        let lock = std::fs::read_to_string(lock).unwrap();
        assert!(
            lock.contains(&format!(
                "name = \"libdeflater\"\nversion = \"{LIBDEFLATER}\""
            )),
            "adjust LIBDEFLATER"
        );
    }
}
