//! The bytes of a layer for uploads: made when the first of them asks, read by all of them while they are made.

use crate::layer::outgoing::Outgoing;
use oci_spec::image::Digest;
use registry_client::BlobSource;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::Sender;

/// What the makers get: the number of a layer, or the end.
pub(crate) type Order = Option<usize>;

/// One layer.
#[derive(Debug)]
pub(crate) struct LayerSource {
    pub number: usize,
    /// Digest and size, where they are known before the bytes are there.
    pub ahead: Option<(Digest, u64)>,
    pub outgoing: Arc<Outgoing>,
    pub asked: AtomicBool,
    pub orders: Sender<Order>,
    /// How far it was read.
    pub read: Arc<AtomicU64>,
}

impl BlobSource for LayerSource {
    fn known(&self) -> Option<(Digest, u64)> {
        let made = || {
            let packed = self.outgoing.finished()?;
            let descriptor = packed.descriptor;
            Some((descriptor.digest().clone(), descriptor.size()))
        };
        self.ahead.clone().or_else(made)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        if !self.asked.swap(true, Ordering::SeqCst) && self.orders.send(Some(self.number)).is_err()
        {
            return Err(io::Error::other("the push has ended"));
        }
        let grown = self.outgoing.wait(offset)?;
        let left = usize::try_from(grown.size.saturating_sub(offset)).unwrap_or(usize::MAX);
        let length = left.min(buffer.len());
        let read = grown.file.read_at(&mut buffer[..length], offset)?;
        if read == 0 && length > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.read.fetch_max(offset + read as u64, Ordering::Relaxed);
        Ok(read)
    }
}
