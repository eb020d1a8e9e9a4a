//! The merged root file systems of a build as one canonical tar.

use crate::Error;
use crate::layer::LayerWriter;
use crate::output::files::{self, Sink};
use crate::snapshot::View;
use crate::tree::{Entry, Kind};
use std::io::{Read, Write};
use std::path::Path;

/// Writes views, each below its prefix (empty for a single platform), in the order of the prefixes.
pub(crate) fn write<W: Write>(
    views: &[(String, View)],
    epoch: Option<i64>,
    out: W,
    scratch_index: &Path,
) -> Result<(), Error> {
    let mut sink = TarSink {
        writer: LayerWriter::new(out),
        prefix: String::new(),
        epoch,
    };
    for (prefix, view) in views {
        if !prefix.is_empty() {
            sink.prefix.clear();
            sink.entry(platform_folder(prefix), None)?;
            prefix.clone_into(&mut sink.prefix);
        }
        files::walk(view, &mut sink)?;
    }
    sink.writer.finish(scratch_index)?;
    Ok(())
}

/// The folder of one platform's files.
pub(crate) fn platform_folder(name: &str) -> Entry {
    let kind = Kind::Directory;
    Entry {
        path: name.as_bytes().to_vec(),
        kind,
        mode: 0o755,
        uid: 0,
        gid: 0,
        mtime: 0,
        xattrs: Vec::new(),
    }
}

struct TarSink<W: Write> {
    writer: LayerWriter<W>,
    prefix: String,
    epoch: Option<i64>,
}

impl<W: Write> TarSink<W> {
    fn placed(&self, path: &[u8]) -> Vec<u8> {
        if self.prefix.is_empty() {
            path.to_vec()
        } else {
            [self.prefix.as_bytes(), b"/", path].concat()
        }
    }
}

impl<W: Write> Sink for TarSink<W> {
    fn entry(&mut self, mut entry: Entry, data: Option<&mut dyn Read>) -> Result<(), Error> {
        entry.path = self.placed(&entry.path);
        if let Kind::Hardlink { target } = &mut entry.kind {
            *target = self.placed(target);
        }
        if let Some(epoch) = self.epoch {
            entry.mtime = epoch;
        }
        self.writer.entry(&entry, data)
    }
}
