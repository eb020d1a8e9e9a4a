//! Brings blobs from where they are into the store's writers, and unpacks them on the way where that is wanted.

use super::{Fetcher, Known, Origin, Progress};
use crate::Error;
use crate::build::layout::Layout;
use crate::layer::{self, Announcer, Form, Incoming};
use crate::places;
use oci_spec::image::Digest;
use planner::scheduler::Cancel;
use registry_client::Reference;
use std::io::Write as _;
use store::BlobWriter;

/// Bytes between two announcements of growth.
const ANNOUNCED: u64 = 128 << 10;

impl Fetcher<'_> {
    /// Fetches and unpacks at the same time.
    pub(super) fn transfer_unpacking(
        &self,
        (diff_id, known): (&Digest, &Known),
        form: Form,
        progress: Progress<'_>,
        cancel: &Cancel,
    ) -> Result<(), Error> {
        let blob = known.desc.to_oci()?;
        let writer = self.space.store().blob_writer()?;
        let pipe = layer::announcer().map_err(|source| Error::Io {
            op: "make a pipe for",
            path: blob.digest().to_string().into(),
            source,
        });
        let (announcer, news) = pipe?;
        let incoming = Incoming {
            diff_id,
            blob: &blob,
            descriptors: (writer.reader()?.into(), news),
        };
        let (moved, unpacked) = std::thread::scope(|scope| {
            let unpacking = scope.spawn(|| incoming.unpack(self.space, form));
            let to = Some((writer, announcer));
            let moved = self.transfer(known, to, progress, cancel);
            let unpacked = unpacking.join().expect("BUG: unpacking does not panic");
            (moved, unpacked)
        });
        // A broken transfer breaks unpacking too, and is the reason then.
        let writer = moved?;
        let unpacked = unpacked?;
        let writer = writer.expect("BUG: a reader that gave up has failed");
        writer.commit(Some((blob.digest(), Some(blob.size()))))?;
        unpacked.put(self.space.store(), &blob)
    }

    /// Brings a blob into a writer: a new one, or one whose growth somebody follows. `None` when that one gave up.
    pub(super) fn transfer(
        &self,
        known: &Known,
        to: Option<(BlobWriter, Announcer)>,
        progress: Progress<'_>,
        cancel: &Cancel,
    ) -> Result<Option<BlobWriter>, Error> {
        let desc = &known.desc;
        desc.digest()?;
        let (mut writer, announcer) = match to {
            Some((writer, announcer)) => (writer, Some(announcer)),
            None => (self.space.store().blob_writer()?, None),
        };
        let (mut done, mut told, mut unwanted) = (0, 0, false);
        let mut sink = |chunk: &[u8]| -> std::io::Result<()> {
            if cancel.is_cancelled() {
                return Err(std::io::Error::other("cancelled"));
            }
            writer.write_all(chunk)?;
            done += chunk.len() as u64;
            if let Some(announcer) = &announcer
                && done - told >= ANNOUNCED
            {
                told = done;
                writer.flush()?;
                if !announcer.grew() {
                    unwanted = true;
                    return Err(std::io::Error::other("it could not be unpacked"));
                }
            }
            progress(&desc.digest, done, desc.size);
            Ok(())
        };
        let moved = match &known.origin {
            Origin::Layout(dir) => Layout::known(dir).stream(desc, &mut sink),
            Origin::Repository(name) => Reference::parse(name)
                .map_err(|source| Error::Registry {
                    reference: name.clone(),
                    source,
                })
                .and_then(|reference| self.remote.blob(&reference, desc, &mut sink)),
            Origin::Cas(name) => match self.imports {
                Some(imports) => imports.steps().fetch(name, desc, &mut sink),
                None => Err(self.nowhere(desc)),
            },
        };
        if cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        if unwanted {
            return Ok(None);
        }
        moved?;
        if let Origin::Repository(name) = &known.origin
            && let Ok(place) = Reference::parse(name)
        {
            places::remember(self.space.store(), &desc.digest()?, &place)?;
        }
        let ended = writer.flush().and_then(|()| match announcer {
            Some(announcer) => announcer.whole(),
            None => Ok(()),
        });
        ended.map_err(|source| Error::Io {
            op: "write",
            path: desc.digest.clone().into(),
            source,
        })?;
        Ok(Some(writer))
    }
}
