//! Makes layers of base images available when a step needs them, and not before: finds out where their blobs
//! are, brings them into the store verified, and registers them.

use crate::Error;
use crate::build::layout::Layout;
use crate::build::manifest::Desc;
use crate::layer;
use crate::remote::Remote;
use crate::space::Space;
use oci_spec::image::Digest;
use planner::plan::{Op, Plan};
use planner::scheduler::Cancel;
use registry_client::Reference;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

/// Blobs fetched at once.
const PARALLEL: usize = 4;

/// Told about bytes: which blob, done, in all.
pub(crate) type Progress<'a> = &'a (dyn Fn(&str, u64, u64) + Sync);

/// What [`planner::plan::ImageOp::source`] holds, as JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ImageSource {
    /// Where blobs come from that the store does not hold.
    pub origin: Origin,
    /// Layer descriptors, base first, one for each diff_id.
    pub layers: Vec<Desc>,
}

/// Where an image's blobs are.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Origin {
    /// An OCI layout in a folder.
    Layout(PathBuf),
    /// The repository of a reference.
    Repository(String),
}

#[derive(Clone, Debug)]
struct Known {
    desc: Desc,
    origin: Origin,
}

/// The fetcher of a build.
#[derive(Debug)]
pub(crate) struct Fetcher<'a> {
    space: &'a Space,
    remote: &'a Remote,
    known: HashMap<Digest, Known>,
    busy: Mutex<HashMap<Digest, Arc<Mutex<()>>>>,
}

impl<'a> Fetcher<'a> {
    /// Knows the layers of all base images of a plan.
    pub(crate) fn new(space: &'a Space, remote: &'a Remote, plan: &Plan) -> Result<Self, Error> {
        let mut known = HashMap::new();
        for step in &plan.steps {
            let Op::Image(image) = &step.op else { continue };
            let source: ImageSource =
                serde_json::from_str(&image.source).map_err(|e| Error::Image {
                    subject: image.reference.clone(),
                    reason: format!("bad source: {e}"),
                })?;
            for (diff_id, desc) in image.diff_ids.iter().zip(source.layers) {
                let diff_id = super::manifest::digest(diff_id)?;
                known.entry(diff_id).or_insert(Known {
                    desc,
                    origin: source.origin.clone(),
                });
            }
        }
        Ok(Self {
            space,
            remote,
            known,
            busy: Mutex::default(),
        })
    }

    /// The descriptor that a base image gives for a layer.
    pub(crate) fn descriptor(&self, diff_id: &Digest) -> Option<&Desc> {
        self.known.get(diff_id).map(|known| &known.desc)
    }

    /// Whether the layer is here or can be fetched.
    pub(crate) fn can_have(&self, diff_id: &Digest) -> Result<bool, Error> {
        Ok(self.known.contains_key(diff_id) || available(self.space, diff_id)?)
    }

    /// Makes sure that all these layers are in the store.
    pub(crate) fn ensure(
        &self,
        layers: &[Digest],
        progress: Progress<'_>,
        cancel: &Cancel,
    ) -> Result<(), Error> {
        let mut missing = Vec::new();
        for layer in layers {
            if !available(self.space, layer)? {
                missing.push(layer);
            }
        }
        if missing.len() < 2 {
            return missing
                .first()
                .map_or(Ok(()), |layer| self.fetch(layer, progress, cancel));
        }
        let queue = Mutex::new(missing.into_iter());
        let work = || -> Result<(), Error> {
            loop {
                let next = queue
                    .lock()
                    .expect("BUG: no holder of the queue panics")
                    .next();
                let Some(layer) = next else { return Ok(()) };
                self.fetch(layer, progress, cancel)?;
            }
        };
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..PARALLEL).map(|_| scope.spawn(work)).collect();
            let ended = workers
                .into_iter()
                .map(|worker| worker.join().expect("BUG: a fetch does not panic"));
            ended.fold(Ok(()), Result::and)
        })
    }

    fn fetch(
        &self,
        diff_id: &Digest,
        progress: Progress<'_>,
        cancel: &Cancel,
    ) -> Result<(), Error> {
        let turn = {
            let mut busy = self
                .busy
                .lock()
                .expect("BUG: no holder of the table panics");
            Arc::clone(busy.entry(diff_id.clone()).or_default())
        };
        let _turn = turn
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if available(self.space, diff_id)? {
            return Ok(());
        }
        let Some(known) = self.known.get(diff_id) else {
            let reason =
                "it is not in the store, and no base image of this build has it".to_owned();
            return Err(Error::Layer {
                layer: diff_id.to_string(),
                reason,
            });
        };
        let descriptor = known.desc.to_oci()?;
        if self.space.store().blob_size(descriptor.digest()).is_none() {
            self.transfer(known, progress, cancel)?;
        }
        layer::register_blob(self.space, diff_id, &descriptor)
    }

    fn transfer(
        &self,
        known: &Known,
        progress: Progress<'_>,
        cancel: &Cancel,
    ) -> Result<(), Error> {
        let (desc, digest) = (&known.desc, known.desc.digest()?);
        let mut writer = self.space.store().blob_writer()?;
        let mut done = 0;
        let mut sink = |chunk: &[u8]| -> std::io::Result<()> {
            if cancel.is_cancelled() {
                return Err(std::io::Error::other("cancelled"));
            }
            writer.write_all(chunk)?;
            done += chunk.len() as u64;
            progress(&desc.digest, done, desc.size);
            Ok(())
        };
        let moved = match &known.origin {
            Origin::Layout(dir) => copy_from_layout(&Layout::known(dir), desc, &mut sink),
            Origin::Repository(name) => Reference::parse(name)
                .map_err(|source| Error::Registry {
                    reference: name.clone(),
                    source,
                })
                .and_then(|reference| self.remote.blob(&reference, desc, &mut sink)),
        };
        if cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        moved?;
        writer.commit(Some((&digest, Some(desc.size))))?;
        Ok(())
    }
}

fn copy_from_layout(
    layout: &Layout,
    desc: &Desc,
    sink: &mut dyn FnMut(&[u8]) -> std::io::Result<()>,
) -> Result<(), Error> {
    let path = layout.path_of(desc.digest()?.as_ref());
    let fail = |source| Error::Io {
        op: "read",
        path: path.clone(),
        source,
    };
    let mut file = std::fs::File::open(&path).map_err(fail)?;
    let mut buffer = vec![0; 256 << 10];
    loop {
        let read = file.read(&mut buffer).map_err(fail)?;
        if read == 0 {
            return Ok(());
        }
        sink(&buffer[..read]).map_err(|source| Error::Io {
            op: "copy into the store",
            path: path.clone(),
            source,
        })?;
    }
}

/// Whether the store holds a layer in a form from which every other can be made.
pub(crate) fn available(space: &Space, diff_id: &Digest) -> Result<bool, Error> {
    let store = space.store();
    if store.layer_tree(diff_id).is_some() || store.blob_size(diff_id).is_some() {
        return Ok(true);
    }
    let Some(meta) = store.layer(diff_id)? else {
        return Ok(false);
    };
    Ok(meta
        .blobs
        .iter()
        .any(|blob| store.blob_size(blob.descriptor.digest()).is_some()))
}
