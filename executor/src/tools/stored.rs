//! An image or manifest list of the store, some of whose parts may be in registries only.
//!
//! What a build has made has layers without blobs; before such an image goes anywhere they are compressed, so its manifest
//! (and the index above it) is another one then. What came from a registry goes on as it is.

use super::document::{ATTESTATION_OF, Doc, MAX_NESTING};
use super::source::{FileBlob, fetched, missing};
use crate::Error;
use crate::build::image::Flavour;
use crate::build::manifest::{
    self, CONFIG_LIMIT, Config, DOCKER_CONFIG, DOCKER_LIST, DOCKER_MANIFEST, Desc, Document, Index,
    MANIFEST_LIMIT, Manifest, OCI_CONFIG, OCI_INDEX, OCI_MANIFEST,
};
use crate::layer::{self, Compression};
use crate::remote::Remote;
use crate::space::Space;
use registry_client::{BlobSource, Reference};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Compression of layers that have no blob yet.
const COMPRESSION: Compression = Compression::Gzip(6);

/// An image of the store.
pub(super) struct Stored<'a> {
    pub space: &'a Space,
    pub remote: &'a Remote,
    /// The name or digest that it goes by.
    pub name: String,
    pub root: Doc,
    /// Documents that stand in for those of the store, by digest.
    documents: BTreeMap<String, Vec<u8>>,
    /// By manifest digest, which repository has what the store has not.
    pub origins: BTreeMap<String, Reference>,
    /// By manifest digest, the names that images of the store had which became entries of a list.
    pub names: BTreeMap<String, Reference>,
}

impl<'a> Stored<'a> {
    pub(super) fn of(
        space: &'a Space,
        remote: &'a Remote,
        image: &store::ImageRef,
    ) -> Result<Self, Error> {
        let digest = image.descriptor.digest();
        let root = Doc::of(space.store().read_blob(digest, MANIFEST_LIMIT)?)?;
        let (origins, names) = super::list::origins_of(image);
        Ok(Self {
            space,
            remote,
            name: if image.name.is_empty() {
                digest.to_string()
            } else {
                image.name.clone()
            },
            root,
            documents: BTreeMap::new(),
            origins,
            names,
        })
    }

    /// By name and, where it has one, digest.
    pub(super) fn by_reference(
        space: &'a Space,
        remote: &'a Remote,
        reference: &Reference,
    ) -> Result<Option<Self>, Error> {
        let tagged = Reference {
            digest: None,
            tag: Some(reference.tag.clone().unwrap_or_else(|| "latest".to_owned())),
            ..reference.clone()
        };
        let found = space.store().reference(&tagged.to_string())?;
        let found = found.filter(|image| {
            let digest = image.descriptor.digest().to_string();
            reference.digest.as_ref().is_none_or(|own| *own == digest)
        });
        found
            .map(|image| Self::of(space, remote, &image))
            .transpose()
    }

    /// Where to look for what the store lacks: what the list says, else the image's own name.
    pub(super) fn origin(&self, manifest: &str) -> Option<Reference> {
        let known = self.origins.get(manifest).or(self.names.get(manifest));
        known.cloned().or_else(|| Reference::parse(&self.name).ok())
    }

    pub(super) fn document(&self, desc: &Desc) -> Result<Doc, Error> {
        if let Some(bytes) = self.documents.get(&desc.digest) {
            return Doc::of(bytes.clone());
        }
        let store = self.space.store();
        match store.read_blob(&desc.digest()?, MANIFEST_LIMIT) {
            Ok(bytes) => Doc::of(bytes),
            Err(store::Error::NotFound { .. }) => match self.origin(&desc.digest) {
                Some(origin) => fetched(self.remote, &origin, Some(desc)),
                None => Err(missing(&desc.digest, &self.name)),
            },
            Err(error) => Err(error.into()),
        }
    }

    pub(super) fn config(&self, manifest: &str, desc: &Desc) -> Result<Vec<u8>, Error> {
        let store = self.space.store();
        match store.read_blob(&desc.digest()?, CONFIG_LIMIT) {
            Ok(bytes) => Ok(bytes),
            Err(store::Error::NotFound { .. }) => match self.origin(manifest) {
                Some(origin) => self.remote.small_blob(&origin, desc, CONFIG_LIMIT),
                None => Err(missing(&desc.digest, &self.name)),
            },
            Err(error) => Err(error.into()),
        }
    }

    pub(super) fn blob(&self, manifest: &str, desc: &Desc) -> Result<Arc<dyn BlobSource>, Error> {
        let (store, digest) = (self.space.store(), desc.digest()?);
        if store.blob_size(&digest).is_some() {
            return FileBlob::open(&store.blob_path(&digest), digest, desc.size);
        }
        match self.origin(manifest) {
            Some(origin) => self.remote.blob_source(&origin, desc),
            None => Err(missing(&desc.digest, &self.name)),
        }
    }

    /// Makes it fit to leave the store: layers that have no blob get one, and manifests the media types asked for.
    pub(super) fn prepare(&mut self, flavour: Option<Flavour>) -> Result<(), Error> {
        let root = self.root.clone();
        if let Some(changed) = self.rewritten(&root, flavour, 0)? {
            self.root = changed;
        }
        Ok(())
    }

    fn rewritten(
        &mut self,
        document: &Doc,
        flavour: Option<Flavour>,
        depth: usize,
    ) -> Result<Option<Doc>, Error> {
        let changed = match document.parse()? {
            Document::Index(_) if depth > MAX_NESTING => return Ok(None),
            Document::Index(index) => self.rewritten_index(index, flavour, depth)?,
            Document::Manifest(manifest) => {
                self.rewritten_manifest(&document.desc, manifest, flavour)?
            }
        };
        if let Some(new) = &changed {
            self.documents
                .insert(new.desc.digest.clone(), new.bytes.clone());
            // What belongs to the old manifest belongs to the new one.
            for known in [&mut self.origins, &mut self.names] {
                if let Some(origin) = known.get(&document.desc.digest).cloned() {
                    known.insert(new.desc.digest.clone(), origin);
                }
            }
        }
        Ok(changed)
    }

    fn rewritten_index(
        &mut self,
        mut index: Index,
        flavour: Option<Flavour>,
        depth: usize,
    ) -> Result<Option<Doc>, Error> {
        let mut replaced = HashMap::new();
        for entry in &mut index.manifests {
            let document = self.document(entry)?;
            if let Some(new) = self.rewritten(&document, flavour, depth + 1)? {
                replaced.insert(entry.digest.clone(), new.desc.digest.clone());
                entry.digest = new.desc.digest;
                entry.size = new.desc.size;
                entry.media_type = new.desc.media_type;
            }
        }
        let media_type = match flavour {
            None => index.media_type.clone(),
            Some(Flavour::Oci) => OCI_INDEX.to_owned(),
            Some(Flavour::Docker) => DOCKER_LIST.to_owned(),
        };
        if replaced.is_empty() && media_type == index.media_type {
            return Ok(None);
        }
        index.media_type = media_type;
        for entry in &mut index.manifests {
            if let Some(about) = entry.annotations.get_mut(ATTESTATION_OF)
                && let Some(new) = replaced.get(about)
            {
                about.clone_from(new);
            }
        }
        Ok(Some(Doc::of_index(&index)))
    }

    fn rewritten_manifest(
        &self,
        desc: &Desc,
        mut manifest: Manifest,
        flavour: Option<Flavour>,
    ) -> Result<Option<Doc>, Error> {
        let layers = if self.origins.contains_key(&desc.digest) {
            manifest.layers.clone()
        } else {
            self.layers(desc, &manifest)?
        };
        let mut media_type = desc.media_type.clone();
        let mut changed = layers != manifest.layers;
        manifest.layers = layers;
        let is_image = matches!(
            manifest.config.media_type.as_str(),
            OCI_CONFIG | DOCKER_CONFIG
        );
        if let Some(flavour) = flavour.filter(|_| is_image) {
            let before = (manifest.layers.clone(), media_type.clone());
            convert(&mut manifest, flavour);
            media_type.clone_from(&manifest.media_type);
            changed |= before != (manifest.layers.clone(), media_type.clone());
        }
        Ok(changed.then(|| Doc::of_manifest(&manifest, &media_type)))
    }

    /// The layers; what lacks a blob, and what goes with it uncompressed, gets compressed. An image that is whole, as those are
    /// which were pulled or loaded, stays.
    fn layers(&self, desc: &Desc, manifest: &Manifest) -> Result<Vec<Desc>, Error> {
        let store = self.space.store();
        let has = |layer: &Desc| Ok::<_, Error>(store.blob_size(&layer.digest()?).is_some());
        let is_compressed =
            |layer: &Desc| layer.media_type.ends_with("gzip") || layer.media_type.ends_with("zstd");
        let mut whole = true;
        for layer in &manifest.layers {
            whole &= is_foreign(layer) || has(layer)?;
        }
        if whole {
            return Ok(manifest.layers.clone());
        }
        let config = self.config(&desc.digest, &manifest.config)?;
        let config = Config::parse(&desc.digest, &config)?;
        if config.diff_ids.len() != manifest.layers.len() {
            return Ok(manifest.layers.clone());
        }
        let mut layers = Vec::new();
        for (diff_id, layer) in config.diff_ids.iter().zip(&manifest.layers) {
            let diff_id = manifest::digest(diff_id)?;
            if (is_compressed(layer) && has(layer)?) || store.layer(&diff_id)?.is_none() {
                layers.push(layer.clone());
                continue;
            }
            let made = layer::blob(self.space, &diff_id, COMPRESSION, false)?;
            let kind = made.media_type().to_string();
            layers.push(Desc {
                media_type: kind,
                ..Desc::of(&made)
            });
        }
        Ok(layers)
    }
}

/// Gives a manifest, its config and its layers the media types of one kind.
fn convert(manifest: &mut Manifest, flavour: Flavour) {
    let (own, config) = match flavour {
        Flavour::Oci => (OCI_MANIFEST, OCI_CONFIG),
        Flavour::Docker => (DOCKER_MANIFEST, DOCKER_CONFIG),
    };
    own.clone_into(&mut manifest.media_type);
    config.clone_into(&mut manifest.config.media_type);
    for layer in &mut manifest.layers {
        let compression = ["gzip", "zstd"]
            .into_iter()
            .find(|kind| layer.media_type.ends_with(kind));
        let is_foreign = is_foreign(layer);
        layer.media_type = match (flavour, compression, is_foreign) {
            (Flavour::Oci, None, false) => manifest::OCI_LAYER.to_owned(),
            (Flavour::Oci, Some(kind), false) => format!("{}+{kind}", manifest::OCI_LAYER),
            (Flavour::Docker, None, false) => {
                "application/vnd.docker.image.rootfs.diff.tar".to_owned()
            }
            (Flavour::Docker, Some(kind), false) => {
                format!("application/vnd.docker.image.rootfs.diff.tar.{kind}")
            }
            (Flavour::Oci, _, true) => {
                "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip".to_owned()
            }
            (Flavour::Docker, _, true) => {
                "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip".to_owned()
            }
        };
    }
}

/// A layer that registries need not have: its URLs say where it is.
pub(super) fn is_foreign(layer: &Desc) -> bool {
    !layer.urls.is_empty()
        && (layer.media_type.contains(".foreign.") || layer.media_type.contains("nondistributable"))
}
