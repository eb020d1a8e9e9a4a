//! Compresses a stream in independent blocks on several threads; the result depends only on encoder, level and
//! the encoder library's version.
//!
//! gzip: each MiB is one gzip member (RFC 1952 section 2.2 lets a file hold any number); zstd: each 2 MiB one frame.
//! A fixed number of blocks is under way at a time, so memory does not grow with the stream or the machine.

use super::Compression;
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
/// Version of the gzip encoder: other versions may give other bytes.
const LIBDEFLATER: &str = "1.26.1";
/// Threads beyond which memory would pass its bound.
const MOST_THREADS: usize = 8;

/// The name of an encoder, by which equal requests find earlier results; `None` for plain tars.
pub(crate) fn encoder(compression: Compression) -> Option<String> {
    match compression {
        Compression::Uncompressed => None,
        Compression::Gzip(level) => Some(format!("gzip:{level}:libdeflater-{LIBDEFLATER}")),
        Compression::Zstd(level) => Some(format!(
            "zstd:{level}:libzstd-{}",
            zstd::zstd_safe::version_string()
        )),
    }
}

/// A block and its place in the stream.
type Block = (u64, Vec<u8>);

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
    done: Receiver<(u64, io::Result<Vec<u8>>, Vec<u8>)>,
    waiting: BTreeMap<u64, Vec<u8>>,
    spare: Vec<Vec<u8>>,
    workers: Vec<JoinHandle<()>>,
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
            Compression::Gzip(level) => (GZIP_BLOCK, i32::try_from(level).unwrap_or(i32::MAX)),
            Compression::Zstd(level) => (ZSTD_BLOCK, level),
            Compression::Uncompressed => {
                return Err(io::Error::other("a plain tar is not compressed"));
            }
        };
        let threads = threads
            .or_else(|| std::thread::available_parallelism().ok())
            .map_or(1, NonZero::get);
        let threads = threads.min(MOST_THREADS);
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
                    let Ok((number, input)) = job else { return };
                    let output = encoder.encode(&input);
                    if results.send((number, output, input)).is_err() {
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
            filling: Vec::with_capacity(block),
            given: 0,
            taken: 0,
            depth: threads as u64 + 2,
            jobs: Some(jobs),
            done,
            waiting: BTreeMap::new(),
            spare: Vec::new(),
            workers,
        })
    }

    /// Compresses what is left, writes everything, gives `out` back.
    ///
    /// # Errors
    /// Writing.
    pub fn finish(mut self) -> io::Result<W> {
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
        self.out.flush()?;
        Ok(self.out)
    }

    fn hand_out(&mut self) -> io::Result<()> {
        while self.given - self.taken >= self.depth {
            self.take()?;
        }
        let next = self
            .spare
            .pop()
            .unwrap_or_else(|| Vec::with_capacity(self.block));
        let full = std::mem::replace(&mut self.filling, next);
        let jobs = self.jobs.as_ref().expect("BUG: jobs end with the stream");
        jobs.send((self.given, full))
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
        let (number, output, mut input) = received;
        input.clear();
        self.spare.push(input);
        self.waiting.insert(number, output?);
        while let Some(output) = self.waiting.remove(&self.taken) {
            self.out.write_all(&output)?;
            self.taken += 1;
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
    Gzip(Compressor),
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
            return Ok(Self::Zstd(Box::new(zstd::bulk::Compressor::new(level)?)));
        }
        let level = CompressionLvl::new(level)
            .map_err(|_| io::Error::other("gzip has the levels 0 to 12"))?;
        Ok(Self::Gzip(Compressor::new(level)))
    }

    fn encode(&mut self, input: &[u8]) -> io::Result<Vec<u8>> {
        match self {
            Self::Gzip(compressor) => {
                let mut output = vec![0; compressor.gzip_compress_bound(input.len())];
                let size = compressor
                    .gzip_compress(input, &mut output)
                    .expect("BUG: the buffer has the size that the encoder asks for");
                output.truncate(size);
                // Several are kept at a time; what a block did not need goes back.
                output.shrink_to_fit();
                Ok(output)
            }
            Self::Zstd(compressor) => compressor.compress(input),
        }
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
