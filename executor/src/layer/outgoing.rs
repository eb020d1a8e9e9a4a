//! A blob that can be read while it is written. Who reads beyond what is there waits.

use super::packed::Packed;
use crate::Error;
use oci_spec::image::Digest;
use std::fs::File;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use store::BlobWriter;

/// Bytes written before readers are told.
const STEP: u64 = 256 << 10;

#[derive(Debug, Default)]
struct State {
    file: Option<Arc<File>>,
    size: u64,
    ended: Option<Result<Packed, String>>,
}

/// What its readers share with its writer.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    state: Mutex<State>,
    changed: Condvar,
}

/// What there is of a blob.
#[derive(Clone, Debug)]
pub(crate) struct Grown {
    /// Where to read.
    pub(crate) file: Arc<File>,
    /// Bytes that can be read.
    pub(crate) size: u64,
}

impl Outgoing {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn has_begun(&self) -> bool {
        self.state().file.is_some()
    }

    pub(crate) fn begin(&self, file: File) {
        self.state().file = Some(Arc::new(file));
    }

    fn grew(&self, size: u64) {
        self.state().size = size;
        self.changed.notify_all();
    }

    pub(crate) fn complete(&self, form: &Packed) {
        let mut state = self.state();
        state.size = form.descriptor.size();
        state.ended = Some(Ok(form.clone()));
        drop(state);
        self.changed.notify_all();
    }

    /// Its readers fail with this reason.
    pub(crate) fn fail(&self, reason: &str) {
        self.state().ended = Some(Err(reason.to_owned()));
        self.changed.notify_all();
    }

    /// The whole, when it is complete.
    pub(crate) fn finished(&self) -> Option<Packed> {
        match &self.state().ended {
            Some(Ok(packed)) => Some(packed.clone()),
            _ => None,
        }
    }

    /// Its readers fail with this reason, unless it has ended.
    pub(crate) fn abandon(&self, reason: &str) {
        let mut state = self.state();
        if state.ended.is_none() {
            state.ended = Some(Err(reason.to_owned()));
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Waits until there is more than `offset` bytes of it, or it is complete.
    ///
    /// # Errors
    /// The writer failed.
    pub(crate) fn wait(&self, offset: u64) -> io::Result<Grown> {
        let mut state = self.state();
        loop {
            if let Some(Err(reason)) = &state.ended {
                return Err(io::Error::other(reason.clone()));
            }
            if let Some(file) = &state.file
                && (state.size > offset || state.ended.is_some())
            {
                return Ok(Grown {
                    file: Arc::clone(file),
                    size: state.size,
                });
            }
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Writes a blob of the store and tells its readers.
pub(crate) struct Watched<'a> {
    out: BlobWriter,
    outgoing: &'a Outgoing,
    is_cancelled: &'a (dyn Fn() -> bool + Sync),
    told: u64,
}

impl<'a> Watched<'a> {
    pub(crate) fn new(
        out: BlobWriter,
        outgoing: &'a Outgoing,
        is_cancelled: &'a (dyn Fn() -> bool + Sync),
    ) -> Result<Self, Error> {
        outgoing.begin(out.reader()?);
        Ok(Self {
            out,
            outgoing,
            is_cancelled,
            told: 0,
        })
    }

    pub(crate) fn commit(self) -> Result<(Digest, u64), Error> {
        Ok(self.out.commit(None)?)
    }
}

impl Write for Watched<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if (self.is_cancelled)() {
            return Err(io::Error::other("cancelled"));
        }
        let written = self.out.write(bytes)?;
        if self.out.size() >= self.told + STEP {
            self.flush()?;
        }
        Ok(written)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()?;
        self.told = self.out.size();
        self.outgoing.grew(self.told);
        Ok(())
    }
}
