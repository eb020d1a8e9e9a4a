//! A blob of a registry as the source of an upload: bytes pass from the download to the upload, a few at a time.
//!
//! An upload that goes back makes the download begin anew where it went back to.

use super::Remote;
use crate::Error;
use crate::build::manifest::{self, Desc};
use oci_spec::image::{Descriptor, Digest};
use registry_client::{BlobSource, Client, Reference};
use std::io;
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use store::Sha256;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// Pieces under way between download and upload; a piece is some tens of kilobytes.
const PIECES: usize = 32;

impl Remote {
    /// A blob that is downloaded while it is read.
    pub(crate) fn blob_source(
        &self,
        reference: &Reference,
        desc: &Desc,
    ) -> Result<Arc<dyn BlobSource>, Error> {
        let (runtime, client) = self.started()?;
        Ok(Arc::new(RemoteBlob {
            handle: runtime.handle().clone(),
            client: client.clone(),
            reference: reference.clone(),
            descriptor: desc.to_oci()?,
            state: Mutex::new(State {
                stream: None,
                hasher: Sha256::new(),
                hashed: 0,
            }),
        }))
    }
}

struct RemoteBlob {
    handle: Handle,
    client: Client,
    reference: Reference,
    descriptor: Descriptor,
    state: Mutex<State>,
}

struct State {
    stream: Option<Stream>,
    /// Over the first `hashed` bytes, however often they were read.
    hasher: Sha256,
    hashed: u64,
}

/// A download that goes on by itself, as far as there is room for its pieces.
struct Stream {
    /// Offset of the next byte to hand out.
    at: u64,
    piece: Vec<u8>,
    used: usize,
    pieces: Receiver<io::Result<Vec<u8>>>,
    /// The download ends when this is dropped.
    _stop: oneshot::Sender<()>,
}

impl RemoteBlob {
    fn open(&self, at: u64) -> Stream {
        let (sender, pieces) = sync_channel(PIECES);
        let (stop, mut stopped) = oneshot::channel::<()>();
        let (client, handle) = (self.client.clone(), self.handle.clone());
        let (reference, descriptor) = (self.reference.clone(), self.descriptor.clone());
        // The sink waits for room, which no thread that other transfers need may do.
        self.handle.spawn_blocking(move || {
            let mut sink = |piece: &[u8]| {
                let closed = |_| io::Error::from(io::ErrorKind::BrokenPipe);
                sender.send(Ok(piece.to_vec())).map_err(closed)
            };
            let ended = handle.block_on(async {
                tokio::select! {
                    ended = client.blob_from(&reference, &descriptor, at, &mut sink) => ended,
                    _ = &mut stopped => Ok(()),
                }
            });
            if let Err(error) = ended {
                // Nobody listens when the reader has gone.
                let _ = sender.send(Err(io::Error::other(error)));
            }
        });
        Stream {
            at,
            piece: Vec::new(),
            used: 0,
            pieces,
            _stop: stop,
        }
    }
}

impl BlobSource for RemoteBlob {
    fn known(&self) -> Option<(Digest, u64)> {
        Some((self.descriptor.digest().clone(), self.descriptor.size()))
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        if offset >= self.descriptor.size() || buffer.is_empty() {
            return Ok(0);
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut stream = match state.stream.take() {
            Some(stream) if stream.at == offset => stream,
            _ => self.open(offset),
        };
        if stream.used == stream.piece.len() {
            stream.piece = stream
                .pieces
                .recv()
                .unwrap_or_else(|_| Err(io::ErrorKind::UnexpectedEof.into()))?;
            stream.used = 0;
        }
        let rest = &stream.piece[stream.used..];
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        stream.used += length;
        stream.at += length as u64;
        state.stream = Some(stream);
        state.verify(offset, &buffer[..length], &self.descriptor)?;
        Ok(length)
    }
}

impl State {
    /// Hashes what is new; the last byte of wrong content is never handed out.
    fn verify(&mut self, offset: u64, bytes: &[u8], descriptor: &Descriptor) -> io::Result<()> {
        let end = offset + bytes.len() as u64;
        if offset > self.hashed || end <= self.hashed {
            return Ok(());
        }
        let known = usize::try_from(self.hashed - offset).unwrap_or(bytes.len());
        self.hasher.update(&bytes[known..]);
        self.hashed = end;
        if end < descriptor.size() {
            return Ok(());
        }
        let actual = manifest::digest_of_hash(&self.hasher.clone().finish());
        if actual == *descriptor.digest() {
            return Ok(());
        }
        let expected = descriptor.digest();
        Err(io::Error::other(format!(
            "the content has digest {actual} instead of {expected}"
        )))
    }
}
