//! References: names that were promised to people, so the only files here that are fsynced.
//! It neither parses nor normalises names.

use crate::Store;
use crate::error::Error;
use crate::file;
use crate::layer::to_json;
use oci_spec::image::{Descriptor, Digest};
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

const REFERENCE_LIMIT: u64 = 1 << 20;

/// An image reference in the store: what `kiln images` lists.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ImageRef {
    /// Normalised name with tag (`docker.io/library/x:latest`), or empty for an untagged image kept by digest.
    pub name: String,
    /// Manifest or index.
    pub descriptor: Descriptor,
    /// RFC 3339 time of tagging.
    pub tagged: String,
}

/// While it lives no other process (and no other holder in this one) edits references; see [`Store::edit_references`].
#[derive(Debug)]
#[must_use]
pub struct ReferenceEdit {
    // The lock ends when the folder is closed.
    _folder: File,
}

impl Store {
    /// Waits until nobody else changes what references mean, for changes that begin with what a reference is now. Setting
    /// and removing references does not need it.
    ///
    /// # Errors
    /// The folder cannot be opened or locked.
    pub fn edit_references(&self) -> Result<ReferenceEdit, Error> {
        let path = self.inner.layout.folder("refs");
        let folder = File::open(&path).map_err(|e| Error::io("open", &path, e))?;
        file::lock(&folder, FlockOperation::LockExclusive, &path)?;
        Ok(ReferenceEdit { _folder: folder })
    }

    /// Sets a reference (fsynced: it was promised). Replaces an older one of the same name; what loses its last name so
    /// stays as an untagged image until it is removed or pruned.
    ///
    /// When the name already has this descriptor, nothing is written and the older time of tagging stays.
    ///
    /// # Errors
    /// [`Error::NotFound`] or [`Error::WrongSize`] when the store does not hold the blob that the descriptor names;
    /// a failed write.
    pub fn tag(&self, image: &ImageRef) -> Result<(), Error> {
        self.set(image, true)
    }

    /// As [`Store::tag`], but what loses its name is not kept: the new image is the old one, edited.
    ///
    /// # Errors
    /// Those of [`Store::tag`].
    pub fn tag_edited(&self, image: &ImageRef) -> Result<(), Error> {
        self.set(image, false)
    }

    fn set(&self, image: &ImageRef, keep_old: bool) -> Result<(), Error> {
        let digest = image.descriptor.digest();
        let Some(actual) = self.blob_size(digest) else {
            return Err(Error::NotFound {
                what: "blob",
                name: digest.to_string(),
            });
        };
        if actual != image.descriptor.size() {
            return Err(Error::WrongSize {
                digest: digest.to_string(),
                expected: image.descriptor.size(),
                actual,
                path: Some(self.blob_path(digest)),
            });
        }
        let path = self.file_of(image);
        let known = read(&path).ok().flatten();
        let known = known.filter(|known| known.name == image.name);
        if let Some(known) = &known
            && known.descriptor == image.descriptor
        {
            return Ok(());
        }
        let moved = known.filter(|known| keep_old && known.descriptor.digest() != digest);
        if let Some(known) = moved {
            // Before its name goes: if we are killed in between, the name still hides this.
            self.keep_untagged(known)?;
        }
        self.inner.replace(&path, &to_json(image), true)?;
        if !image.name.is_empty() {
            self.untag(digest.as_ref())?;
        }
        Ok(())
    }

    /// Keeps an image whose name goes to another one, unless it has other names.
    fn keep_untagged(&self, image: ImageRef) -> Result<(), Error> {
        let digest = image.descriptor.digest();
        let is_named_otherwise = self
            .references()?
            .iter()
            .any(|other| other.name != image.name && other.descriptor.digest() == digest);
        if image.name.is_empty() || is_named_otherwise || self.blob_size(digest).is_none() {
            return Ok(());
        }
        let untagged = ImageRef {
            name: String::new(),
            ..image
        };
        let path = self.file_of(&untagged);
        self.inner.replace(&path, &to_json(&untagged), true)
    }

    /// A reference by exact normalised name; an untagged image by its digest (`sha256:...`).
    ///
    /// # Errors
    /// [`Error::Damaged`], a failed read.
    pub fn reference(&self, name: &str) -> Result<Option<ImageRef>, Error> {
        let path = self.file_by_name(name);
        let Some(image) = read(&path)? else {
            return Ok(None);
        };
        if self.file_of(&image) == path {
            return Ok(Some(image));
        }
        Err(Error::Damaged {
            path,
            reason: format!("it should be about {name} and is about {:?}", image.name),
        })
    }

    /// All references, by name and then digest. Damaged ones are reported to the log and left out, and so are untagged
    /// images that have a name by now.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn references(&self) -> Result<Vec<ImageRef>, Error> {
        let mut images = Vec::new();
        for path in self.reference_files()? {
            match read(&path) {
                Ok(Some(image)) if self.file_of(&image) == path => images.push(image),
                Ok(None) => {}
                _ => tracing::warn!(path = %path.display(), "a damaged reference is ignored"),
            }
        }
        let named: HashSet<Digest> = images
            .iter()
            .filter(|image| !image.name.is_empty())
            .map(|image| image.descriptor.digest().clone())
            .collect();
        images.retain(|image| !image.name.is_empty() || !named.contains(image.descriptor.digest()));
        images.sort_by(|a, b| {
            let key = |image: &ImageRef| image.descriptor.digest().to_string();
            a.name.cmp(&b.name).then_with(|| key(a).cmp(&key(b)))
        });
        Ok(images)
    }

    pub(crate) fn reference_files(&self) -> Result<Vec<PathBuf>, Error> {
        let entries = file::list(&self.inner.layout.folder("refs"))?;
        Ok(entries.iter().map(fs::DirEntry::path).collect())
    }

    /// Removes a reference, also a damaged one; `false` when it was not there. An untagged image goes by its digest.
    ///
    /// # Errors
    /// A failed removal.
    pub fn untag(&self, name: &str) -> Result<bool, Error> {
        let path = self.file_by_name(name);
        match fs::remove_file(&path) {
            Ok(()) => {}
            Err(e) if file::is_absent(&e) => return Ok(false),
            Err(e) => return Err(Error::io("remove", &path, e)),
        }
        if Digest::try_from(name).is_err() {
            self.forget_estimate()?;
        }
        file::sync_dir(&self.inner.layout.folder("refs"))?;
        Ok(true)
    }

    fn file_of(&self, image: &ImageRef) -> PathBuf {
        if image.name.is_empty() {
            return self.inner.layout.untagged(image.descriptor.digest());
        }
        self.inner.layout.reference(&image.name)
    }

    /// A normalised name has a registry and a repository, so it is never a digest.
    fn file_by_name(&self, name: &str) -> PathBuf {
        match Digest::try_from(name) {
            Ok(digest) if digest.algorithm().digest_hexlen().is_some() => {
                self.inner.layout.untagged(&digest)
            }
            _ => self.inner.layout.reference(name),
        }
    }
}

fn read(path: &Path) -> Result<Option<ImageRef>, Error> {
    let Some(bytes) = file::read_small(path, REFERENCE_LIMIT)? else {
        return Ok(None);
    };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|e| Error::Damaged {
            path: path.to_owned(),
            reason: format!("{e}; tag the image again or remove that file"),
        })
}

/// Whether a reference file can be understood.
pub(crate) fn is_sound(path: &Path) -> bool {
    matches!(read(path), Ok(Some(_)))
}
