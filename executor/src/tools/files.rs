//! Images into the store, layouts and archives.

use super::document::Doc;
use super::parallel::each;
use super::parts::Parts;
use super::place::Place;
use super::source::{Access, Source};
use crate::Error;
use crate::build::image::rfc3339;
use crate::build::layout::REF_NAME;
use crate::build::manifest::{Desc, Document};
use crate::output::archive::{Contents, DockerEntry, Entry};
use crate::output::dest::Destination;
use crate::output::load;
use crate::places;
use registry_client::BlobSource;
use std::io::{Read, Write};
use std::sync::Arc;
use store::{ImageRef, Store};

/// Bytes read at a time.
const CHUNK: usize = 256 << 10;

/// Writes an image to a place that is no registry. Blobs go through the store.
pub(super) fn write(
    access: Access<'_>,
    source: &Source<'_>,
    root: &Doc,
    place: &Place,
    now: i64,
) -> Result<(), Error> {
    let space = access.space()?;
    let store = space.store();
    if let Place::Archive { docker: true, .. } = place
        && matches!(root.parse()?, Document::Index(_))
    {
        return Err(Error::Request(format!(
            "{place} holds one platform only: say which with --platform, or use oci-archive:"
        )));
    }
    let parts = Parts::collect(source, root, &|_| Ok(false))?;
    let blobs: Vec<&(Desc, String)> = parts.blobs.values().collect();
    each(&blobs, |(desc, manifest)| {
        let digest = desc.digest()?;
        if store.blob_size(&digest).is_some() {
            return Ok(());
        }
        let blob = source.blob(manifest, desc)?;
        take(store, &blob, desc)?;
        match source {
            Source::Registry { reference, .. } => places::remember(store, &digest, reference),
            _ => Ok(()),
        }
    })?;
    if let Place::Store(name) = place {
        for (doc, _) in parts.documents.values() {
            store.put_blob(&doc.bytes)?;
        }
        load::check_image(space, &root.desc.digest()?)?;
        return Ok(store.tag(&ImageRef {
            name: crate::build::normalised(name)?,
            descriptor: root.desc.to_oci()?,
            tagged: rfc3339(now),
        })?);
    }
    let contents = contents(&parts, root, place)?;
    let go_on = |_: u64, _: u64| Ok(());
    match place {
        Place::Layout { dir, .. } => contents.write_folder(store, dir, &go_on),
        Place::Archive { path, .. } => {
            let mut out = Destination::file(path)?;
            contents.write_tar(store, &mut out, &go_on)?;
            out.commit()
        }
        _ => Err(Error::Request(format!("nothing can be copied to {place}"))),
    }
}

fn contents(parts: &Parts, root: &Doc, place: &Place) -> Result<Contents, Error> {
    let mut contents = Contents::default();
    for (digest, (doc, _)) in &parts.documents {
        contents.document(digest, doc.bytes.clone());
    }
    for (digest, (desc, _)) in &parts.blobs {
        contents.blobs.insert(digest.clone(), desc.size);
    }
    let mut desc = root.desc.clone();
    let (mut names, mut docker) = (Vec::new(), None);
    match place {
        Place::Layout { tag: Some(tag), .. } => {
            desc.annotations.insert(REF_NAME.to_owned(), tag.clone());
        }
        Place::Archive {
            name, docker: is, ..
        } => {
            if let Some(name) = name {
                names.push(crate::build::normalised(name)?);
            }
            if let (true, Document::Manifest(manifest)) = (*is, root.parse()?) {
                docker = Some(DockerEntry {
                    config: manifest.config.digest,
                    layers: manifest.layers.into_iter().map(|l| l.digest).collect(),
                });
            }
        }
        _ => {}
    }
    contents.entries.push(Entry {
        desc,
        names,
        created: None,
        docker,
    });
    Ok(contents)
}

/// Takes a blob into the store, which checks it.
fn take(store: &Store, blob: &Arc<dyn BlobSource>, desc: &Desc) -> Result<(), Error> {
    let mut writer = store.blob_writer()?;
    let mut reader = Reader {
        blob: blob.as_ref(),
        at: 0,
    };
    let mut buffer = vec![0; CHUNK];
    let fail = |source| Error::Io {
        op: "copy",
        path: desc.digest.clone().into(),
        source,
    };
    loop {
        let read = reader.read(&mut buffer).map_err(fail)?;
        if read == 0 {
            break;
        }
        writer.write_all(&buffer[..read]).map_err(fail)?;
    }
    writer.commit(Some((&desc.digest()?, Some(desc.size))))?;
    Ok(())
}

struct Reader<'a> {
    blob: &'a dyn BlobSource,
    at: u64,
}

impl Read for Reader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.blob.read_at(self.at, buffer)?;
        self.at += read as u64;
        Ok(read)
    }
}
