//! Manifest lists in the store: made, changed, looked at, forgotten. What pushes them is `push`'s.
//!
//! A list is an index with a name like any image of the store, in canonical JSON, its entries in a fixed order. The
//! manifests and configs of its entries are in the store; layers need not be: where they are is told by annotations of the
//! reference (not of the index, whose digest they must not change).

use super::document::{self, Doc};
use super::entry::{EntryOptions, Instance, Wanted, change, check_platform, instances};
use super::place::Place;
use super::source::{Access, Source};
use crate::Error;
use crate::build::image::rfc3339;
use crate::build::manifest::{self, DOCKER_LIST, Document, Index, MANIFEST_LIMIT, OCI_INDEX};
use crate::remote::Remote;
use crate::space::Space;
use planner::platform::Platform;
use registry_client::Reference;
use std::collections::{BTreeMap, HashMap};
use store::ImageRef;

/// Annotation of a reference: which repository has the parts of the manifest whose digest follows.
pub(super) const ORIGIN: &str = "dev.kiln.origin/";
/// The same for a manifest that an image of the store had: its name.
pub(super) const NAME: &str = "dev.kiln.name/";

/// How a list is made.
#[derive(Clone, Debug, Default)]
pub struct CreateOptions {
    /// An existing list is added to.
    pub amend: bool,
    /// Of images that are lists themselves all entries are taken.
    pub all: bool,
    /// Annotations of the index.
    pub annotations: BTreeMap<String, String>,
}

/// Manifest lists of a store.
#[derive(Clone, Copy)]
pub struct Lists<'a> {
    pub(super) space: &'a Space,
    pub(super) remote: &'a Remote,
    /// Seconds since the epoch, for the time of tagging.
    now: i64,
}

impl std::fmt::Debug for Lists<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lists").finish_non_exhaustive()
    }
}

/// A list taken apart.
pub(super) struct List {
    name: String,
    pub(super) index: Index,
    /// Annotations of the reference, by kind and digest.
    origins: BTreeMap<(&'static str, String), String>,
}

impl<'a> Lists<'a> {
    /// Over a store, with a client for images that are in registries.
    #[must_use]
    pub fn new(space: &'a Space, remote: &'a Remote, now: i64) -> Self {
        Self { space, remote, now }
    }

    fn access(&self) -> Access<'a> {
        Access {
            space: Some(self.space),
            remote: self.remote,
        }
    }

    /// Makes a list of images, which may be in the store or in registries; returns its normalised name.
    ///
    /// # Errors
    /// It exists and is not to be amended, an image is unknown or a list itself; docker's wording.
    pub fn create(
        &self,
        name: &str,
        images: &[String],
        options: &CreateOptions,
    ) -> Result<String, Error> {
        let name = list_name(name)?;
        let wanted = if options.all {
            Wanted::All
        } else {
            Wanted::Single
        };
        if !options.amend {
            self.absent(&name)?;
        }
        let mut found = Vec::new();
        for image in images {
            found.extend(instances(self.access(), image, &wanted)?);
        }
        let _edit = self.space.store().edit_references()?;
        let known = self.space.store().reference(&name)?;
        let mut list = match known {
            None => List {
                name: name.clone(),
                index: Index::of(Vec::new()),
                origins: BTreeMap::new(),
            },
            Some(_) if !options.amend => return Err(refused()),
            Some(known) => self.opened(&name, &known)?,
        };
        for instance in found {
            self.take(&mut list, instance)?;
        }
        list.index.annotations.extend(options.annotations.clone());
        self.save(&mut list)?;
        Ok(name)
    }

    fn absent(&self, name: &str) -> Result<(), Error> {
        match self.space.store().reference(name)? {
            None => Ok(()),
            Some(_) => Err(refused()),
        }
    }

    /// Adds an image to a list; returns the list's digest.
    ///
    /// # Errors
    /// No such list or image.
    pub fn add(
        &self,
        list: &str,
        image: &str,
        all: bool,
        options: &EntryOptions,
    ) -> Result<String, Error> {
        // Registries are asked before others are made to wait.
        self.open(list)?;
        let host = Platform::host();
        let platform = Platform::new(
            options.os.as_deref().unwrap_or(&host.os),
            options.arch.as_deref().unwrap_or(&host.architecture),
            options.variant.as_deref().unwrap_or_default(),
        );
        let wanted = if all {
            Wanted::All
        } else {
            Wanted::Best(&platform)
        };
        let mut found = instances(self.access(), image, &wanted)?;
        for instance in &mut found {
            change(&mut instance.desc, options);
            check_platform(&instance.desc)?;
        }
        let _edit = self.space.store().edit_references()?;
        let mut list = self.open(list)?;
        for instance in found {
            self.take(&mut list, instance)?;
        }
        self.save(&mut list)
    }

    /// Changes what a list says of an image; returns the list's digest.
    ///
    /// # Errors
    /// No such list, or no such image in it; docker's wording.
    pub fn annotate(
        &self,
        list: &str,
        image: &str,
        options: &EntryOptions,
    ) -> Result<String, Error> {
        let name = list_name(list)?;
        let absent = || {
            let image =
                Reference::parse(image).map_or_else(|_| image.to_owned(), |r| r.to_string());
            Error::Request(format!(
                "manifest for image {image} does not exist in {name}"
            ))
        };
        let _edit = self.space.store().edit_references()?;
        let Some(known) = self.space.store().reference(&name)? else {
            return Err(absent());
        };
        let mut list = self.opened(&name, &known)?;
        let digest = self.entry_of(&list, image)?.ok_or_else(absent)?;
        for entry in &mut list.index.manifests {
            if entry.digest == digest {
                change(entry, options);
                check_platform(entry)?;
            }
        }
        self.save(&mut list)
    }

    /// Annotates the index itself; returns the list's digest.
    ///
    /// # Errors
    /// No such list.
    pub fn annotate_index(
        &self,
        list: &str,
        annotations: &BTreeMap<String, String>,
    ) -> Result<String, Error> {
        let _edit = self.space.store().edit_references()?;
        let mut list = self.open(list)?;
        list.index.annotations.extend(annotations.clone());
        self.save(&mut list)
    }

    /// Takes an entry out; returns the list's digest.
    ///
    /// # Errors
    /// No such list, a bad digest, no such entry.
    pub fn remove_entry(&self, list: &str, digest: &str) -> Result<String, Error> {
        let _edit = self.space.store().edit_references()?;
        let mut list = self.open(list)?;
        let wanted = match manifest::digest(digest) {
            Ok(digest) => digest.to_string(),
            Err(_) => match self.entry_of(&list, digest)? {
                Some(digest) => digest,
                None => {
                    return Err(Error::Request(format!(
                        "invalid image digest {digest:?}: not a sha256 digest"
                    )));
                }
            },
        };
        let before = list.index.manifests.len();
        list.index.manifests.retain(|entry| entry.digest != wanted);
        if list.index.manifests.len() == before {
            return Err(Error::Request(format!(
                "no instance matching digest {wanted} found in manifest list {}",
                list.name
            )));
        }
        list.origins.retain(|(_, digest), _| *digest != wanted);
        self.save(&mut list)
    }

    /// Forgets a list; returns its name and digest.
    ///
    /// # Errors
    /// No such list; docker's wording.
    pub fn remove(&self, list: &str) -> Result<(String, String), Error> {
        let name = list_name(list)?;
        let Some(known) = self.space.store().reference(&name)? else {
            return Err(no_such(&name));
        };
        self.opened(&name, &known)?;
        self.space.store().untag(&name)?;
        Ok((name, known.descriptor.digest().to_string()))
    }

    /// Whether there is a list of this name.
    ///
    /// # Errors
    /// A bad name, a damaged store.
    pub fn exists(&self, list: &str) -> Result<bool, Error> {
        let name = list_name(list)?;
        match self.space.store().reference(&name)? {
            None => Ok(false),
            Some(known) => Ok(self.opened(&name, &known).is_ok()),
        }
    }

    pub(super) fn source(&self, place: &Place) -> Result<Source<'a>, Error> {
        Source::open(self.access(), place, true)
    }

    pub(super) fn open(&self, list: &str) -> Result<List, Error> {
        let name = list_name(list)?;
        match self.space.store().reference(&name)? {
            Some(known) => self.opened(&name, &known),
            None => Err(no_such(&name)),
        }
    }

    fn opened(&self, name: &str, known: &ImageRef) -> Result<List, Error> {
        let bytes = self
            .space
            .store()
            .read_blob(known.descriptor.digest(), MANIFEST_LIMIT)?;
        let Document::Index(index) = Document::parse(name, &bytes)? else {
            return Err(Error::Request(format!(
                "{name} is an image, not a manifest list"
            )));
        };
        let of_kind = |kind: &'static str| {
            origin_annotations(known, kind)
                .map(move |(digest, text)| ((kind, digest.to_owned()), text.to_owned()))
        };
        Ok(List {
            name: name.to_owned(),
            index,
            origins: of_kind(ORIGIN).chain(of_kind(NAME)).collect(),
        })
    }

    /// Writes the index and moves the name to it.
    fn save(&self, list: &mut List) -> Result<String, Error> {
        let entries = &mut list.index.manifests;
        entries.sort_by_cached_key(document::sort_key);
        let dockers = document::is_dockers(entries)
            && list.index.annotations.is_empty()
            && entries.iter().all(|entry| entry.annotations.is_empty());
        let media_type = if dockers { DOCKER_LIST } else { OCI_INDEX };
        media_type.clone_into(&mut list.index.media_type);
        list.index.schema_version = 2;
        let root = Doc::of_index(&list.index);
        self.space.store().put_blob(&root.bytes)?;
        let mut descriptor = root.desc.to_oci()?;
        let origins: HashMap<String, String> = list
            .origins
            .iter()
            .map(|((kind, digest), origin)| (format!("{kind}{digest}"), origin.clone()))
            .collect();
        descriptor.set_annotations((!origins.is_empty()).then_some(origins));
        self.space.store().tag_edited(&ImageRef {
            name: list.name.clone(),
            descriptor,
            tagged: rfc3339(self.now),
        })?;
        Ok(root.desc.digest)
    }

    /// The digest of the entry that a digest, a reference or an image of the store names.
    pub(super) fn entry_of(&self, list: &List, image: &str) -> Result<Option<String>, Error> {
        let has = |digest: &str| {
            list.index
                .manifests
                .iter()
                .any(|entry| entry.digest == digest)
        };
        if has(image) {
            return Ok(Some(image.to_owned()));
        }
        let Ok(place) = Place::parse(image) else {
            return Ok(None);
        };
        let wanted = match &place {
            Place::Name(reference) | Place::Registry(reference) => reference,
            other => {
                let root = self.source(other)?.root()?;
                return Ok(Some(root.desc.digest).filter(|digest| has(digest)));
            }
        };
        if let Some(digest) = wanted.digest.as_deref().filter(|digest| has(digest)) {
            return Ok(Some(digest.to_owned()));
        }
        let named = list.origins.iter().find(|((_, digest), origin)| {
            let origin = origin
                .split_once('@')
                .map_or(origin.as_str(), |(name, _)| name);
            has(digest) && origin == wanted.to_string()
        });
        if let Some(((_, digest), _)) = named {
            return Ok(Some(digest.clone()));
        }
        let stored = self.space.store().reference(&wanted.to_string())?;
        Ok(stored
            .map(|image| image.descriptor.digest().to_string())
            .filter(|digest| has(digest)))
    }

    /// Puts what an entry needs into the store, and the entry in place of one of the same digest.
    fn take(&self, list: &mut List, instance: Instance) -> Result<(), Error> {
        for document in &instance.documents {
            self.space.store().put_blob(document)?;
        }
        let digest = instance.desc.digest.clone();
        if let Some((kind, origin)) = instance.origin {
            list.origins.retain(|(_, known), _| *known != digest);
            list.origins
                .insert((kind, digest.clone()), origin.to_string());
        }
        match list
            .index
            .manifests
            .iter_mut()
            .find(|entry| entry.digest == digest)
        {
            Some(known) => *known = instance.desc,
            None => list.index.manifests.push(instance.desc),
        }
        Ok(())
    }
}

/// The normalised name of a list.
pub(super) fn list_name(name: &str) -> Result<String, Error> {
    crate::build::normalised(name)
}

/// Docker's words.
fn refused() -> Error {
    Error::Request("refusing to amend an existing manifest list with no --amend flag".to_owned())
}

pub(super) fn no_such(name: &str) -> Error {
    Error::Request(format!("No such manifest: {name}"))
}

/// In docker's words when a registry does not know an image.
pub(super) fn unknown(place: &Place, error: Error) -> Error {
    match &error {
        Error::Registry { source, .. } if source.is_not_found() => {
            Error::Request(format!("no such manifest: {place}"))
        }
        _ => error,
    }
}

fn origin_annotations<'i>(
    image: &'i ImageRef,
    kind: &'static str,
) -> impl Iterator<Item = (&'i str, &'i str)> {
    let annotations = image.descriptor.annotations().iter().flatten();
    annotations.filter_map(move |(key, value)| Some((key.strip_prefix(kind)?, value.as_str())))
}

type Origins = BTreeMap<String, Reference>;

/// Where the parts of a list's entries are, by manifest digest: repositories that have them, and names that they had in
/// the store.
pub(super) fn origins_of(image: &ImageRef) -> (Origins, Origins) {
    let of_kind = |kind| {
        origin_annotations(image, kind)
            .filter_map(|(digest, text)| Some((digest.to_owned(), Reference::parse(text).ok()?)))
            .collect()
    };
    (of_kind(ORIGIN), of_kind(NAME))
}
