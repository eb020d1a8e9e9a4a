//! SHA-256 over a stream, on a thread of its own once the stream is long, and digests as OCI spells them.
//!
//! Buffers wander: a filled one goes in, an empty one comes back, so nothing is copied or allocated per call.

use oci_spec::image::Digest;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use store::Sha256;

/// Bytes of one buffer.
pub(crate) const BUFFER: usize = 256 * 1024;
/// Buffers hashed in place before a thread is started: below that a thread costs more than it saves.
const INLINE: usize = 4;
/// Buffers under way to the thread.
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

/// Hashes chunks in order.
#[derive(Debug)]
pub(crate) struct StreamHasher {
    state: State,
    fed: usize,
}

#[derive(Debug)]
enum State {
    Inline(Box<Sha256>),
    Thread {
        to: SyncSender<Chunk>,
        back: Receiver<Chunk>,
        spare: usize,
        handle: JoinHandle<Box<Sha256>>,
    },
}

impl StreamHasher {
    /// Starts; no thread yet.
    pub(crate) fn new() -> Self {
        Self {
            state: State::Inline(Box::default()),
            fed: 0,
        }
    }

    /// Takes a filled chunk, gives an empty one.
    pub(crate) fn feed(&mut self, chunk: Chunk) -> Chunk {
        self.fed += 1;
        if self.fed == INLINE {
            self.start_thread();
        }
        match &mut self.state {
            State::Inline(hasher) => {
                hasher.update(chunk.filled());
                Chunk {
                    data: chunk.data,
                    len: 0,
                }
            }
            State::Thread {
                to, back, spare, ..
            } => {
                to.send(chunk)
                    .expect("BUG: the hashing thread ends only after its sender");
                if *spare > 0 {
                    *spare -= 1;
                    return Chunk::new();
                }
                let chunk = back
                    .recv()
                    .expect("BUG: the hashing thread ends only after its sender");
                Chunk {
                    data: chunk.data,
                    len: 0,
                }
            }
        }
    }

    fn start_thread(&mut self) {
        let State::Inline(hasher) = &mut self.state else {
            return;
        };
        let mut hasher = std::mem::take(hasher);
        let (to, chunks) = sync_channel::<Chunk>(DEPTH);
        let (back_to, back) = sync_channel::<Chunk>(DEPTH + 2);
        let copy = hasher.clone();
        let spawned = std::thread::Builder::new()
            .name("layer hash".into())
            .spawn(move || {
                let mut near = vec![0; NEAR].into_boxed_slice();
                for chunk in chunks {
                    for part in chunk.filled().chunks(NEAR) {
                        let near = &mut near[..part.len()];
                        near.copy_from_slice(part);
                        hasher.update(near);
                    }
                    // Nobody waits for the last ones.
                    drop(back_to.send(chunk));
                }
                hasher
            });
        // Without a thread to be had the hash goes on in place.
        self.state = match spawned {
            Ok(handle) => State::Thread {
                to,
                back,
                spare: DEPTH,
                handle,
            },
            Err(_) => State::Inline(copy),
        };
    }

    /// Hashes the last chunk and ends.
    pub(crate) fn finish(self, last: &[u8]) -> [u8; 32] {
        let mut hasher = match self.state {
            State::Inline(hasher) => hasher,
            State::Thread {
                to, back, handle, ..
            } => {
                drop(to);
                drop(back);
                handle.join().expect("BUG: hashing cannot panic")
            }
        };
        hasher.update(last);
        hasher.finish()
    }
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
    fn a_thread_makes_no_difference() {
        for chunks in 0..20usize {
            let mut stream = StreamHasher::new();
            let mut whole = Sha256::new();
            let mut chunk = Chunk::new();
            for number in 0..chunks {
                chunk.len = 1000 * (number + 1);
                chunk.data[..1000 * (number + 1)].fill(u8::try_from(number).unwrap());
                whole.update(chunk.filled());
                chunk = stream.feed(chunk);
            }
            whole.update(b"end");
            assert_eq!(stream.finish(b"end"), whole.finish());
        }
    }
}
