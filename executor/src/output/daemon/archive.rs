//! The archive that `docker load` reads, as a stream: config, layers in whatever form the store has them, names.
//! Layers that the receiver has are named and not sent.

use crate::Error;
use crate::build::manifest::{self, Desc};
use crate::layer;
use crate::output::archive::{append, blob_path, header};
use crate::space::Space;
use oci_spec::image::Digest;
use serde_json::json;
use std::io::{Read as _, Write};

/// A layer of the image.
#[derive(Clone, Debug)]
pub(crate) enum Part {
    /// The receiver has it.
    Known(Digest),
    /// A blob of the store.
    Blob(Desc),
    /// Its plain tar, made on the way.
    Plain(Digest, u64),
}

/// One image.
#[derive(Clone, Debug)]
pub(crate) struct DockerArchive<'a> {
    pub config: &'a [u8],
    pub config_digest: &'a Digest,
    pub layers: Vec<Part>,
    /// As the receiver is to show them.
    pub names: Vec<String>,
}

impl DockerArchive<'_> {
    /// Writes it. `progress` gets bytes done and in all; its error stops the writing.
    pub(crate) fn write(
        &self,
        space: &Space,
        out: &mut dyn Write,
        progress: &dyn Fn(u64, u64) -> std::io::Result<()>,
    ) -> Result<(), Error> {
        let fail = |source| Error::Io {
            op: "send",
            path: "the image".into(),
            source,
        };
        let total = self.layers.iter().map(Part::size).sum();
        let mut out = Counted {
            out,
            done: 0,
            total,
            progress,
        };
        let mut sent = std::collections::BTreeSet::new();
        for part in &self.layers {
            let path = part.path();
            // A layer may come twice.
            if matches!(part, Part::Known(_)) || !sent.insert(path.clone()) {
                continue;
            }
            let head = header(&path, part.size(), tar::EntryType::Regular);
            out.write_all(head.as_bytes()).map_err(fail)?;
            let begun = out.done;
            match part {
                Part::Known(_) => {}
                Part::Blob(desc) => {
                    let blob = space.store().open_blob(&desc.digest()?)?;
                    std::io::copy(&mut blob.take(desc.size), &mut out).map_err(fail)?;
                }
                Part::Plain(diff_id, _) => layer::write_plain(space, diff_id, &mut out)?,
            }
            let written = out.done - begun;
            if written != part.size() {
                return Err(Error::Layer {
                    layer: path,
                    reason: format!("it has {written} bytes, not {}", part.size()),
                });
            }
            let padding = written.next_multiple_of(512) - written;
            out.write_all(&[0; 512][..usize::try_from(padding).unwrap_or(0)])
                .map_err(fail)?;
        }
        let mut archive = tar::Builder::new(&mut out);
        let config = blob_path(self.config_digest.as_ref());
        append(&mut archive, &config, self.config).map_err(fail)?;
        let layers: Vec<String> = self.layers.iter().map(Part::path).collect();
        let entry = json!([{"Config": config, "RepoTags": self.names, "Layers": layers}]);
        append(&mut archive, "manifest.json", &manifest::bytes_of(&entry)).map_err(fail)?;
        archive.finish().map_err(fail)
    }
}

impl Part {
    fn size(&self) -> u64 {
        match self {
            Self::Known(_) => 0,
            Self::Blob(desc) => desc.size,
            Self::Plain(_, size) => *size,
        }
    }

    fn path(&self) -> String {
        match self {
            Self::Known(diff_id) | Self::Plain(diff_id, _) => blob_path(diff_id.as_ref()),
            Self::Blob(desc) => blob_path(&desc.digest),
        }
    }
}

struct Counted<'a> {
    out: &'a mut dyn Write,
    done: u64,
    total: u64,
    progress: &'a dyn Fn(u64, u64) -> std::io::Result<()>,
}

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.done += written as u64;
        (self.progress)(self.done.min(self.total), self.total)?;
        Ok(written)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}
