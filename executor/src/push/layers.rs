//! The layers of a push: which go as they are, which in what form, what is known of each beforehand, and the making of
//! those whose bytes are asked for.

use super::Packing;
use super::document::{LayerNode, Node};
use super::source::{LayerSource, Order};
use crate::Error;
use crate::build::fetch::{Fetcher, Origin};
use crate::build::manifest::Desc;
use crate::layer::outgoing::Outgoing;
use crate::layer::packed::{self, Packed};
use crate::layer::{self as layers, Compression};
use crate::places;
use crate::space::Space;
use oci_spec::image::Digest;
use planner::scheduler::Cancel;
use registry_client::{BlobSource, Reference};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::mpsc::Sender;
use std::sync::{Arc, OnceLock};

/// How a layer's bytes come to be.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "there are few of them")]
enum Recipe {
    /// A blob as the image has it.
    Blob(Desc, Option<Digest>),
    /// In another form.
    Pack(Digest, Packing),
}

/// A layer that goes out, for all manifests that have it.
pub(crate) struct Layer {
    /// diff_id or digest, for people.
    pub name: String,
    recipe: Recipe,
    /// Its form where it is known beforehand.
    ahead: Option<Packed>,
    pub source: Arc<LayerSource>,
    /// Repositories that may have the blob.
    pub mounts: OnceLock<Vec<Reference>>,
}

/// All of them.
pub(crate) struct Layers<'a> {
    space: &'a Space,
    fetcher: &'a Fetcher<'a>,
    pub all: Vec<Layer>,
    by_key: HashMap<String, usize>,
}

fn key(layer: &LayerNode, packing: Packing) -> String {
    match recipe(layer, packing) {
        Recipe::Blob(desc, _) => desc.digest,
        Recipe::Pack(diff_id, _) => format!("packed {diff_id}"),
    }
}

fn recipe(layer: &LayerNode, packing: Packing) -> Recipe {
    let as_it_is = || Recipe::Blob(layer.desc.clone(), layer.diff_id.clone());
    let Some(diff_id) = layer.diff_id.as_ref().filter(|_| !layer.is_fixed) else {
        return as_it_is();
    };
    let kind = layer.desc.media_type.as_str();
    let is_plain = kind.ends_with(".tar") || layer.desc.digest == diff_id.to_string();
    let wants_plain = packing.compression == Compression::Uncompressed;
    let is_wanted = match packing.compression {
        Compression::Uncompressed => is_plain,
        Compression::Estargz(_) => layer
            .desc
            .annotations
            .contains_key(layers::ESTARGZ_ANNOTATIONS[0]),
        _ => false,
    };
    if !is_layer(&layer.desc)
        || layer.is_foreign
        || is_wanted
        || !(is_plain && !wants_plain || packing.force)
    {
        return as_it_is();
    }
    Recipe::Pack(diff_id.clone(), packing)
}

/// Whether it is a file system's, and not a document of an attestation or what else people keep in registries.
fn is_layer(desc: &Desc) -> bool {
    let kind = desc.media_type.as_str();
    kind.starts_with("application/vnd.oci.image.layer.")
        || kind.starts_with("application/vnd.docker.image.rootfs.")
}

/// The form in which a layer goes out, its bytes in the store where they can be had there.
pub(crate) fn packed_now(
    space: &Space,
    layer: &LayerNode,
    packing: Packing,
) -> Result<Packed, Error> {
    let as_it_is = || as_is(&layer.desc, layer.diff_id.as_ref());
    match recipe(layer, packing) {
        Recipe::Pack(diff_id, packing) if layers::is_readable(space.store(), &diff_id)? => {
            packed::packed(space, &diff_id, packing.compression, packing.force)
        }
        // The blob has gone, and the layer is here.
        Recipe::Blob(desc, Some(diff_id))
            if !layer.is_fixed
                && !layer.is_foreign
                && is_layer(&desc)
                && space.store().blob_size(&desc.digest()?).is_none()
                && layers::is_readable(space.store(), &diff_id)? =>
        {
            packed::packed(space, &diff_id, packing.compression, false)
        }
        _ => as_it_is(),
    }
}

impl<'a> Layers<'a> {
    pub(crate) fn of(
        space: &'a Space,
        fetcher: &'a Fetcher<'a>,
        root: &Node,
        packing: Packing,
        orders: &Sender<Order>,
    ) -> Result<Self, Error> {
        let mut layers = Self {
            space,
            fetcher,
            all: Vec::new(),
            by_key: HashMap::new(),
        };
        for node in root.images().iter().flat_map(|image| &image.layers) {
            let key = key(node, packing);
            if layers.by_key.contains_key(&key) || node.is_foreign {
                continue;
            }
            let number = layers.all.len();
            let layer = layers.layer(number, node, packing, orders)?;
            layers.by_key.insert(key, number);
            layers.all.push(layer);
        }
        Ok(layers)
    }

    fn layer(
        &self,
        number: usize,
        node: &LayerNode,
        packing: Packing,
        orders: &Sender<Order>,
    ) -> Result<Layer, Error> {
        let recipe = recipe(node, packing);
        let ahead = match &recipe {
            Recipe::Blob(desc, diff_id) => Some(as_is(desc, diff_id.as_ref())?),
            Recipe::Pack(diff_id, packing) => {
                packed::known(self.space, diff_id, packing.compression, packing.force)?
            }
        };
        let known = ahead.as_ref().map(|packed| {
            let descriptor = &packed.descriptor;
            (descriptor.digest().clone(), descriptor.size())
        });
        let source = LayerSource {
            number,
            ahead: known,
            outgoing: Arc::new(Outgoing::default()),
            asked: AtomicBool::new(false),
            orders: orders.clone(),
            read: Arc::new(AtomicU64::new(0)),
        };
        let name = match &node.diff_id {
            Some(diff_id) => diff_id.to_string(),
            None => node.desc.digest.clone(),
        };
        Ok(Layer {
            name,
            recipe,
            ahead,
            source: Arc::new(source),
            mounts: OnceLock::new(),
        })
    }

    /// The number of a layer of a manifest, unless it goes nowhere.
    pub(crate) fn number(&self, node: &LayerNode, packing: Packing) -> Option<usize> {
        self.by_key.get(&key(node, packing)).copied()
    }

    /// The form in which a layer of a manifest goes out, as far as it is known yet.
    pub(crate) fn packed(&self, node: &LayerNode, packing: Packing) -> Option<Packed> {
        if node.is_foreign {
            return as_is(&node.desc, node.diff_id.as_ref()).ok();
        }
        let layer = &self.all[*self.by_key.get(&key(node, packing))?];
        layer
            .ahead
            .clone()
            .or_else(|| layer.source.outgoing.finished())
    }

    /// Repositories that a layer may be mounted from.
    pub(crate) fn mounts(&self, layer: &Layer) -> Vec<Reference> {
        let find = || {
            let mut found = Vec::new();
            let origin = match &layer.recipe {
                Recipe::Blob(desc, Some(diff_id)) if is_layer(desc) => self.fetcher.origin(diff_id),
                Recipe::Blob(desc, _) => self.fetcher.origin_of_loose(&desc.digest).cloned(),
                Recipe::Pack(..) => None,
            };
            if let Some(Origin::Repository(name)) = origin {
                found.extend(Reference::parse(&name).ok());
            }
            if let Some((digest, _)) = layer.source.known() {
                found.extend(places::of(self.space.store(), &digest).unwrap_or_default());
            }
            found
        };
        layer.mounts.get_or_init(find).clone()
    }

    /// Makes a layer's bytes, or finds them.
    pub(crate) fn make(&self, number: usize, stop: &Cancel) -> Result<(), Error> {
        let layer = &self.all[number];
        let outgoing = &layer.source.outgoing;
        let made = match &layer.recipe {
            Recipe::Blob(desc, diff_id) => self.blob(desc, diff_id.as_ref(), outgoing, stop),
            Recipe::Pack(diff_id, packing) => self.available(diff_id, stop).and_then(|()| {
                let is_cancelled = || stop.is_cancelled();
                let compression = packing.compression;
                let forced = packed_anew(self.space, diff_id, *packing)?;
                match forced {
                    Some(found) => self.present(&found, outgoing),
                    None => packed::make(self.space, diff_id, compression, outgoing, &is_cancelled)
                        .map(drop),
                }
            }),
        };
        // What broke off because something else failed is not to hide that.
        let made = made.map_err(|error| match stop.is_cancelled() {
            true => Error::Cancelled,
            false => error,
        });
        if let Err(error) = &made {
            outgoing.abandon(&crate::error::chain(error));
        }
        made?;
        self.as_expected(layer)
    }

    fn as_expected(&self, layer: &Layer) -> Result<(), Error> {
        let (Some(expected), Some(made)) = (&layer.ahead, layer.source.outgoing.finished()) else {
            return Ok(());
        };
        if expected.descriptor.digest() == made.descriptor.digest() {
            return Ok(());
        }
        Err(Error::Layer {
            layer: layer.name.clone(),
            reason: format!(
                "it was {} before and is {} now",
                expected.descriptor.digest(),
                made.descriptor.digest()
            ),
        })
    }

    fn available(&self, diff_id: &Digest, stop: &Cancel) -> Result<(), Error> {
        self.fetcher
            .ensure(std::slice::from_ref(diff_id), &|_, _, _| {}, stop)
    }

    fn blob(
        &self,
        desc: &Desc,
        diff_id: Option<&Digest>,
        outgoing: &Outgoing,
        stop: &Cancel,
    ) -> Result<(), Error> {
        let packed = as_is(desc, diff_id)?;
        let digest = packed.descriptor.digest();
        if self.space.store().blob_size(digest).is_none() {
            match diff_id.filter(|_| is_layer(desc)) {
                None => self.fetcher.ensure_loose(desc, stop)?,
                // A plain layer can be written again from whatever there is of it.
                Some(diff_id) if diff_id == digest => {
                    self.available(diff_id, stop)?;
                    let plain = Compression::Uncompressed;
                    return packed::make(self.space, diff_id, plain, outgoing, &|| false).map(drop);
                }
                Some(diff_id) => self.fetcher.ensure_blob(diff_id, desc, stop)?,
            }
        }
        self.present(&packed, outgoing)
    }

    fn present(&self, packed: &Packed, outgoing: &Outgoing) -> Result<(), Error> {
        let path = self.space.store().blob_path(packed.descriptor.digest());
        let file = std::fs::File::open(&path).map_err(|source| Error::Io {
            op: "open",
            path,
            source,
        })?;
        outgoing.begin(file);
        outgoing.complete(packed);
        Ok(())
    }

    /// Notes that a repository has all layers.
    pub(crate) fn remember(&self, repository: &Reference) -> Result<(), Error> {
        for layer in &self.all {
            if let Some((digest, _)) = layer.source.known() {
                places::remember(self.space.store(), &digest, repository)?;
            }
        }
        Ok(())
    }
}

/// What fits and is here already, pulled blobs among it unless all is to be made anew.
fn packed_anew(space: &Space, diff_id: &Digest, packing: Packing) -> Result<Option<Packed>, Error> {
    let known = packed::known(space, diff_id, packing.compression, packing.force)?;
    let is_here = |found: &Packed| {
        let digest = found.descriptor.digest();
        space.store().blob_size(digest).is_some()
    };
    Ok(known.filter(is_here))
}

fn as_is(desc: &Desc, diff_id: Option<&Digest>) -> Result<Packed, Error> {
    let descriptor = desc.to_oci()?;
    Ok(Packed {
        diff_id: diff_id.unwrap_or_else(|| descriptor.digest()).clone(),
        descriptor,
    })
}
