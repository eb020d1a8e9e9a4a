//! SHA-256 over a stream, on a thread of its own once the stream is long, and digests as OCI spells them. The stream can
//! be written on the way, on another thread: reading, writing and hashing then cost the time of the slowest.
//!
//! Buffers wander: a filled one goes in, an empty one comes back, so nothing is copied or allocated per call.

use oci_spec::image::Digest;
use std::fmt;
use std::io::{self, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use store::Sha256;

/// Bytes of one buffer.
pub(crate) const BUFFER: usize = 256 * 1024;
/// Buffers hashed in place before a thread is started: below that a thread costs more than it saves.
const INLINE: usize = 4;
/// Buffers under way to each thread.
const DEPTH: usize = 4;

/// Bytes that a thread copies to itself before it hashes them: they lie in another processor's cache, from which a copy
/// fetches many lines at once, the hash one after the other.
const NEAR: usize = 16 * 1024;

/// A buffer and how much of it is filled.
#[derive(Debug)]
pub(crate) struct Chunk {
    /// Always [`BUFFER`] bytes.
    pub(crate) data: Box<[u8]>,
    /// Filled bytes.
    pub(crate) len: usize,
}

impl Chunk {
    /// An empty one.
    pub(crate) fn new() -> Self {
        Self {
            data: vec![0; BUFFER].into_boxed_slice(),
            len: 0,
        }
    }
    /// What is filled.
    pub(crate) fn filled(&self) -> &[u8] {
        &self.data[..self.len]
    }
}

/// Where a stream goes that is hashed.
type Out = Box<dyn Write + Send>;

/// Hashes chunks in order, and writes them if there is something to write them to.
#[derive(Debug)]
pub(crate) struct StreamHasher {
    state: State,
    fed: usize,
}

enum State {
    Inline {
        hasher: Box<Sha256>,
        out: Option<Out>,
    },
    Threads {
        to: SyncSender<Chunk>,
        back: Receiver<Chunk>,
        /// New buffers that may still be made in place of waiting for one.
        spare: usize,
        hashing: JoinHandle<Box<Sha256>>,
        writing: Option<JoinHandle<io::Result<Out>>>,
    },
    /// Writing failed.
    Failed,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Inline { .. } => "Inline",
            Self::Threads { .. } => "Threads",
            Self::Failed => "Failed",
        })
    }
}

impl StreamHasher {
    /// Starts; no thread yet.
    pub(crate) fn new() -> Self {
        Self::start(None)
    }

    /// Starts a stream that is written too.
    pub(crate) fn writing(out: Out) -> Self {
        Self::start(Some(out))
    }

    fn start(out: Option<Out>) -> Self {
        let hasher = Box::default();
        Self {
            state: State::Inline { hasher, out },
            fed: 0,
        }
    }

    /// Takes a filled chunk, gives an empty one. Errors are those of writing; one may be of an earlier chunk.
    pub(crate) fn feed(&mut self, chunk: Chunk) -> io::Result<Chunk> {
        self.fed += 1;
        if self.fed == INLINE {
            self.start_threads();
        }
        let next = match &mut self.state {
            State::Inline { hasher, out } => {
                if let Some(out) = out {
                    out.write_all(chunk.filled())?;
                }
                hasher.update(chunk.filled());
                Some(chunk)
            }
            State::Threads {
                to, back, spare, ..
            } => {
                let sent = to.send(chunk).is_ok();
                if sent && *spare > 0 {
                    *spare -= 1;
                    return Ok(Chunk::new());
                }
                sent.then(|| back.recv().ok()).flatten()
            }
            State::Failed => None,
        };
        match next {
            Some(Chunk { data, .. }) => Ok(Chunk { data, len: 0 }),
            None => Err(self.failure()),
        }
    }

    /// Why the threads ended before the stream.
    fn failure(&mut self) -> io::Error {
        let ended = match std::mem::replace(&mut self.state, State::Failed) {
            State::Threads {
                writing: Some(writing),
                ..
            } => writing.join().expect("BUG: writing cannot panic").err(),
            _ => None,
        };
        ended.unwrap_or_else(|| io::Error::other("writing failed before"))
    }

    fn start_threads(&mut self) {
        let State::Inline { hasher, out } = &mut self.state else {
            return;
        };
        let (to, chunks) = sync_channel::<Chunk>(DEPTH);
        let (back_to, back) = sync_channel::<Chunk>(2 * DEPTH + 3);
        let state = (**hasher).clone();
        // Without a thread to be had the work goes on in place.
        let Ok(hashing) = spawn("layer hash", move || hash_all(state, &chunks, &back_to)) else {
            return;
        };
        let mut threads = (to, DEPTH, None);
        if let Some(taken) = out.take() {
            let (to_hash, depth, _) = threads;
            let (to, chunks) = sync_channel::<Chunk>(DEPTH);
            // The thread gets its output once it is there: one that could not be started would take it along.
            let (hand, handed) = sync_channel::<Out>(1);
            match spawn("layer write", move || write_all(&handed, &chunks, &to_hash)) {
                Ok(writing) => {
                    hand.send(taken)
                        .expect("BUG: the writing thread waits for its output");
                    threads = (to, 2 * depth, Some(writing));
                }
                Err(_) => {
                    *out = Some(taken);
                    return;
                }
            }
        }
        let (to, spare, writing) = threads;
        self.state = State::Threads {
            to,
            back,
            spare,
            hashing,
            writing,
        };
    }

    /// Hashes the last chunk and ends. What is written is complete then. Errors are those of writing.
    pub(crate) fn finish(self, last: &[u8]) -> io::Result<[u8; 32]> {
        let (mut hasher, out) = match self.state {
            State::Inline { hasher, out } => (hasher, out),
            State::Threads {
                to,
                back,
                hashing,
                writing,
                ..
            } => {
                drop(to);
                drop(back);
                let out = writing
                    .map(|writing| writing.join().expect("BUG: writing cannot panic"))
                    .transpose()?;
                (hashing.join().expect("BUG: hashing cannot panic"), out)
            }
            State::Failed => return Err(io::Error::other("writing failed before")),
        };
        if let Some(mut out) = out {
            out.write_all(last)?;
            out.flush()?;
        }
        hasher.update(last);
        Ok(hasher.finish())
    }
}

fn spawn<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    std::thread::Builder::new().name(name.into()).spawn(work)
}

/// The hashing thread: until the sender is gone.
fn hash_all(mut hasher: Sha256, chunks: &Receiver<Chunk>, back: &SyncSender<Chunk>) -> Box<Sha256> {
    let mut near = vec![0; NEAR].into_boxed_slice();
    for chunk in chunks {
        for part in chunk.filled().chunks(NEAR) {
            let near = &mut near[..part.len()];
            near.copy_from_slice(part);
            hasher.update(near);
        }
        // Nobody waits for the last ones.
        drop(back.send(chunk));
    }
    Box::new(hasher)
}

/// The writing thread: until the sender is gone, or writing fails.
fn write_all(
    out: &Receiver<Out>,
    chunks: &Receiver<Chunk>,
    hash: &SyncSender<Chunk>,
) -> io::Result<Out> {
    let mut out = out
        .recv()
        .map_err(|_| io::Error::other("there is nothing to write to"))?;
    for chunk in chunks {
        out.write_all(chunk.filled())?;
        if hash.send(chunk).is_err() {
            return Err(io::Error::other("the hashing thread ended"));
        }
    }
    Ok(out)
}

/// `sha256:HEX`.
pub(crate) fn digest_of(hash: &[u8; 32]) -> Digest {
    Digest::try_from(format!("sha256:{}", hex(hash))).expect("BUG: a SHA-256 in hex is a digest")
}

/// Lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(DIGITS[usize::from(byte >> 4)] as char);
        text.push(DIGITS[usize::from(byte & 15)] as char);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_make_no_difference() {
        for chunks in 0..20usize {
            let file = tempfile::NamedTempFile::new().unwrap();
            let streams = [
                StreamHasher::new(),
                StreamHasher::writing(Box::new(file.reopen().unwrap())),
            ];
            for mut stream in streams {
                let mut whole = Sha256::new();
                let mut chunk = Chunk::new();
                for number in 0..chunks {
                    chunk.len = 1000 * (number + 1);
                    chunk.data[..1000 * (number + 1)].fill(u8::try_from(number).unwrap());
                    whole.update(chunk.filled());
                    chunk = stream.feed(chunk).unwrap();
                }
                whole.update(b"end");
                assert_eq!(stream.finish(b"end").unwrap(), whole.finish());
            }
            let mut written = Sha256::new();
            written.update(&std::fs::read(file.path()).unwrap());
            let mut expected = Sha256::new();
            for number in 0..chunks {
                expected.update(&vec![u8::try_from(number).unwrap(); 1000 * (number + 1)]);
            }
            expected.update(b"end");
            assert_eq!(written.finish(), expected.finish());
        }
    }

    /// Takes some bytes, then no more.
    struct Full(usize);

    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.0 == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.0 -= 1;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_full_disk_is_told_wherever_it_shows() {
        for room in 0..12 {
            let mut stream = StreamHasher::writing(Box::new(Full(room)));
            let mut chunk = Chunk::new();
            let mut fed = Ok(());
            for _ in 0..12 {
                chunk.len = 100;
                match stream.feed(chunk) {
                    Ok(next) => chunk = next,
                    Err(error) => {
                        fed = Err(error);
                        break;
                    }
                }
                chunk.data[0] = 1;
            }
            let error = match fed {
                Ok(()) => stream.finish(b"end").unwrap_err(),
                Err(error) => error,
            };
            assert_eq!(error.kind(), io::ErrorKind::StorageFull, "{room}");
        }
    }
}
