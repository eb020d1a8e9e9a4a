//! An image or manifest list of the store, some of whose parts may be in registries only.
//!
//! What a build has made has layers without compressed blobs; before such an image goes anywhere they are compressed, so its
//! manifest (and the index above it) is another one then. What came from a registry goes on as it is. Pushing is `push`'s.

use super::document::Doc;
use super::source::{FileBlob, fetched, missing};
use crate::Error;
use crate::build::manifest::{self, CONFIG_LIMIT, Desc, Document, MANIFEST_LIMIT};
use crate::push::document::{Documents, LayerNode, Node, load, rewrite};
use crate::push::{Packing, Pushed, StoredPush, Style, Target, Watcher, packed_now, push_node};
use crate::remote::Remote;
use crate::repo_digests;
use crate::space::Space;
use registry_client::{BlobSource, Reference};
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Indexes inside indexes whose documents are fetched.
const MAX_NESTING: usize = 8;

/// An image of the store.
pub(super) struct Stored<'a> {
    pub space: &'a Space,
    pub remote: &'a Remote,
    /// The name or digest that it goes by.
    pub name: String,
    pub root: Doc,
    /// It goes on as it is, also with layers that are not compressed.
    pub is_fixed: bool,
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
            is_fixed: repo_digests::is_of_a_registry(space.store(), digest)?,
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

    /// Where to look for what the store lacks: what the list says, else where the image is known to be, else its own name.
    pub(super) fn origin(&self, manifest: &str) -> Option<Reference> {
        let known = self.origins.get(manifest).or(self.names.get(manifest));
        known.cloned().or_else(|| {
            let root = self.root.desc.digest().ok()?;
            let seen = repo_digests::repository(self.space.store(), &root);
            let seen = seen.ok().flatten();
            seen.or_else(|| Reference::parse(&self.name).ok())
        })
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
        if let Some(bytes) = self.documents.get(&desc.digest) {
            return Ok(bytes.clone());
        }
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

    /// The image that one of its documents is, with all below. Documents that the store has not are fetched.
    fn node(&self, root: &Doc) -> Result<Node, Error> {
        let mut made: HashMap<String, Vec<u8>> = self.documents.clone().into_iter().collect();
        self.fetch_missing(root, 0, &mut made)?;
        let documents = Documents {
            store: self.space.store(),
            made,
        };
        let mut node = load(&documents, &root.desc)?.root;
        node.settle(&|manifest| {
            let is_fixed = self.is_fixed || self.origins.contains_key(manifest);
            (self.origin(manifest), is_fixed)
        });
        Ok(node)
    }

    fn fetch_missing(
        &self,
        document: &Doc,
        depth: usize,
        made: &mut HashMap<String, Vec<u8>>,
    ) -> Result<(), Error> {
        let digest = &document.desc.digest;
        made.insert(digest.clone(), document.bytes.clone());
        match document.parse()? {
            Document::Manifest(manifest) => {
                let config = self.config(digest, &manifest.config)?;
                made.insert(manifest.config.digest, config);
            }
            Document::Index(index) if depth < MAX_NESTING => {
                for entry in &index.manifests {
                    self.fetch_missing(&self.document(entry)?, depth + 1, made)?;
                }
            }
            Document::Index(_) => {}
        }
        Ok(())
    }

    /// Pushes one of its documents with all below.
    pub(super) fn push(
        &self,
        root: &Doc,
        targets: &[Target],
        style: Option<Style>,
        watcher: &dyn Watcher,
    ) -> Result<Pushed, Error> {
        let node = self.node(root)?;
        let how = StoredPush {
            style,
            ..StoredPush::default()
        };
        let (space, remote) = (self.space, self.remote);
        push_node(
            (space, remote),
            (&node, self.name.clone()),
            (targets, &how),
            (watcher, remote.cancel()),
        )
    }

    /// Makes it fit to go into files: layers are compressed as a push would compress them, and the documents say so.
    pub(super) fn prepare(&mut self, style: Option<Style>) -> Result<(), Error> {
        let node = self.node(&self.root)?;
        let mut forms = HashMap::new();
        let key = |layer: &LayerNode| (layer.desc.digest.clone(), layer.is_fixed);
        for layer in node.images().iter().flat_map(|image| &image.layers) {
            if let Entry::Vacant(slot) = forms.entry(key(layer)) {
                slot.insert(packed_now(self.space, layer, Packing::default())?);
            }
        }
        let rewritten = |node: &Node| {
            rewrite(node, style, &|layer| forms.get(&key(layer)).cloned())
                .expect("BUG: the forms of all layers are known")
        };
        // What belongs to the old manifest belongs to the new one.
        for image in node.images() {
            if let Some(origin) = self.names.get(&image.desc.digest).cloned() {
                let new = rewritten(&Node::Image(image.clone()))
                    .root()
                    .digest
                    .to_string();
                self.names.insert(new, origin);
            }
        }
        let image = rewritten(&node);
        let root = image.root();
        self.root = Doc {
            desc: Desc::new(&root.media_type, &root.digest, root.bytes.len() as u64),
            bytes: root.bytes.clone(),
        };
        for config in image.configs {
            let digest = manifest::digest_of(&config).to_string();
            self.documents.insert(digest, config);
        }
        for sent in image.manifests {
            self.documents.insert(sent.digest.to_string(), sent.bytes);
        }
        Ok(())
    }
}

/// A layer that registries need not have: its URLs say where it is.
pub(super) fn is_foreign(layer: &Desc) -> bool {
    !layer.urls.is_empty()
        && (layer.media_type.contains(".foreign.") || layer.media_type.contains("nondistributable"))
}
