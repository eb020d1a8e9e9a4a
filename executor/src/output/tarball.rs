//! Root file systems as one canonical tar (`type=tar`).

use crate::Error;
use crate::layer::LayerWriter;
use crate::output::files::Sink;
use crate::tree::Entry;
use std::io::{Read, Write};
use std::path::Path;

/// Takes entries into a tar.
pub(crate) struct TarSink<W: Write> {
    writer: LayerWriter<W>,
    epoch: Option<i64>,
}

impl<W: Write> TarSink<W> {
    /// With an epoch, all times are that one.
    pub(crate) fn new(out: W, epoch: Option<i64>) -> Self {
        Self {
            writer: LayerWriter::new(out),
            epoch,
        }
    }

    /// Ends the tar. `scratch_index` is where the writer puts what it knows of the entries.
    pub(crate) fn finish(self, scratch_index: &Path) -> Result<(), Error> {
        self.writer.finish(scratch_index)?;
        Ok(())
    }
}

impl<W: Write> Sink for TarSink<W> {
    fn entry(&mut self, mut entry: Entry, data: Option<&mut dyn Read>) -> Result<(), Error> {
        if let Some(epoch) = self.epoch {
            entry.mtime = epoch;
        }
        self.writer.entry(&entry, data)
    }
}
