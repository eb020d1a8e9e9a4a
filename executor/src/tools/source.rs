//! Where an image is read from: a registry, the store, an OCI layout. Documents come verified.

use super::document::Doc;
use super::place::Place;
use super::stored::Stored;
use crate::Error;
use crate::build::layout::Layout;
use crate::build::manifest::{CONFIG_LIMIT, Desc, MANIFEST_LIMIT};
use crate::output;
use crate::remote::Remote;
use crate::space::Space;
use oci_spec::image::Digest;
use registry_client::{BlobSource, Reference};
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use store::ImageRef;

/// What places are opened with. Commands that need no store give none.
#[derive(Clone, Copy)]
pub(super) struct Access<'a> {
    pub space: Option<&'a Space>,
    pub remote: &'a Remote,
}

impl<'a> Access<'a> {
    pub(super) fn space(&self) -> Result<&'a Space, Error> {
        self.space
            .ok_or_else(|| Error::Request("this needs a store".to_owned()))
    }
}

/// An image at its place.
pub(super) enum Source<'a> {
    Registry {
        remote: &'a Remote,
        reference: Reference,
    },
    Store(Box<Stored<'a>>),
    Layout {
        layout: Layout,
        root: Desc,
    },
}

impl<'a> Source<'a> {
    /// Opens a place. A name alone is looked up in the store first if `store_first` says so, then in its registry.
    pub(super) fn open(
        access: Access<'a>,
        place: &Place,
        store_first: bool,
    ) -> Result<Self, Error> {
        match place {
            Place::Name(reference) => {
                if store_first
                    && let Some(space) = access.space
                    && let Some(stored) = Stored::by_reference(space, access.remote, reference)?
                {
                    return Ok(Self::Store(Box::new(stored)));
                }
                Ok(Self::registry(access, reference))
            }
            Place::Registry(reference) => Ok(Self::registry(access, reference)),
            Place::Store(name) => {
                let found = output::find(access.space()?, name)?;
                let stored = Stored::of(access.space()?, access.remote, &found)?;
                Ok(Self::Store(Box::new(stored)))
            }
            Place::Layout { dir, tag } => {
                let layout = Layout::open(dir)?;
                let mut found = layout.select(tag.as_deref(), None)?;
                if found.len() > 1 {
                    return Err(Error::Image {
                        subject: place.to_string(),
                        reason: format!("{} images are there: say which tag", found.len()),
                    });
                }
                let root = found.pop().ok_or_else(|| Error::Image {
                    subject: place.to_string(),
                    reason: "it holds no image".to_owned(),
                })?;
                Ok(Self::Layout { layout, root })
            }
            Place::Archive { path, name, docker } => {
                let mut stored = Self::archive(access, path, name.as_deref())?;
                // The manifests of Docker's archives are made here.
                stored.is_fixed |= !docker;
                Ok(Self::Store(Box::new(stored)))
            }
        }
    }

    fn registry(access: Access<'a>, reference: &Reference) -> Self {
        Self::Registry {
            remote: access.remote,
            reference: reference.clone(),
        }
    }

    /// An archive is taken into the store, and read there; names of the store stay as they were.
    fn archive(access: Access<'a>, path: &Path, name: Option<&str>) -> Result<Stored<'a>, Error> {
        let space = access.space()?;
        let mut file = std::fs::File::open(path).map_err(|source| Error::Io {
            op: "open",
            path: path.to_owned(),
            source,
        })?;
        let store = space.store();
        let before = store.references()?;
        let loaded = output::load(space, &mut file, None)?;
        let stored = Self::loaded(access, path, name, &loaded);
        for name in loaded.iter().map(output::Loaded::shown) {
            let made = output::find(space, name)?;
            let digest = made.descriptor.digest().to_string();
            let is_it = |image: &&ImageRef| {
                image.name == made.name
                    && (!made.name.is_empty()
                        || image.descriptor.digest() == made.descriptor.digest())
            };
            let key = if made.name.is_empty() {
                &digest
            } else {
                &made.name
            };
            match before.iter().find(is_it) {
                Some(image) => store.tag(image)?,
                None => drop(store.untag(key)?),
            }
        }
        stored
    }

    fn loaded(
        access: Access<'a>,
        path: &Path,
        name: Option<&str>,
        loaded: &[output::Loaded],
    ) -> Result<Stored<'a>, Error> {
        let space = access.space()?;
        let wanted = match name {
            Some(name) => crate::build::normalised(name)?,
            None if loaded.len() == 1 => loaded[0].shown().to_owned(),
            None => {
                let names: Vec<&str> = loaded.iter().map(output::Loaded::shown).collect();
                return Err(Error::Image {
                    subject: path.display().to_string(),
                    reason: format!("it holds several images: say which ({})", names.join(", ")),
                });
            }
        };
        Stored::of(space, access.remote, &output::find(space, &wanted)?)
    }

    /// The manifest or index itself.
    pub(super) fn root(&self) -> Result<Doc, Error> {
        match self {
            Self::Registry { remote, reference } => fetched(remote, reference, None),
            Self::Store(stored) => Ok(stored.root.clone()),
            Self::Layout { layout, root } => Doc::of(layout.blob(root, MANIFEST_LIMIT)?),
        }
    }

    /// A manifest or index that the root leads to.
    pub(super) fn document(&self, desc: &Desc) -> Result<Doc, Error> {
        match self {
            Self::Registry { remote, reference } => fetched(remote, reference, Some(desc)),
            Self::Store(stored) => stored.document(desc),
            Self::Layout { layout, .. } => Doc::of(layout.blob(desc, MANIFEST_LIMIT)?),
        }
    }

    /// A config.
    pub(super) fn config(&self, manifest: &str, desc: &Desc) -> Result<Vec<u8>, Error> {
        match self {
            Self::Registry { remote, reference } => {
                remote.small_blob(reference, desc, CONFIG_LIMIT)
            }
            Self::Store(stored) => stored.config(manifest, desc),
            Self::Layout { layout, .. } => layout.blob(desc, CONFIG_LIMIT),
        }
    }

    /// The repository of a registry that surely has what belongs to a manifest of it, or may have.
    pub(super) fn origin(&self, manifest: &str) -> Option<Reference> {
        match self {
            Self::Registry { reference, .. } => Some(reference.clone()),
            Self::Store(stored) => stored.origin(manifest),
            Self::Layout { .. } => None,
        }
    }

    /// A blob that belongs to a manifest, to be uploaded or written to a file.
    pub(super) fn blob(&self, manifest: &str, desc: &Desc) -> Result<Arc<dyn BlobSource>, Error> {
        match self {
            Self::Registry { remote, reference } => remote.blob_source(reference, desc),
            Self::Store(stored) => stored.blob(manifest, desc),
            Self::Layout { layout, .. } => {
                let digest = desc.digest()?;
                FileBlob::open(&layout.path_of(digest.as_ref()), digest, desc.size)
            }
        }
    }
}

/// A blob in a file.
pub(super) struct FileBlob {
    file: File,
    digest: Digest,
    size: u64,
}

impl FileBlob {
    pub(super) fn open(
        path: &Path,
        digest: Digest,
        size: u64,
    ) -> Result<Arc<dyn BlobSource>, Error> {
        let file = File::open(path).map_err(|source| Error::Io {
            op: "open",
            path: path.to_owned(),
            source,
        })?;
        Ok(Arc::new(Self { file, digest, size }))
    }
}

impl BlobSource for FileBlob {
    fn known(&self) -> Option<(Digest, u64)> {
        Some((self.digest.clone(), self.size))
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.file.read_at(buffer, offset)
    }
}

pub(super) fn missing(digest: &str, name: &str) -> Error {
    Error::Image {
        subject: name.to_owned(),
        reason: format!("the store does not hold {digest}"),
    }
}

pub(super) fn fetched(
    remote: &Remote,
    reference: &Reference,
    desc: Option<&Desc>,
) -> Result<Doc, Error> {
    let digest = desc.map(Desc::digest).transpose()?;
    let fetched = remote.manifest(reference, digest.as_ref())?;
    Ok(Doc {
        desc: Desc::of(&fetched.descriptor),
        bytes: fetched.bytes,
    })
}
