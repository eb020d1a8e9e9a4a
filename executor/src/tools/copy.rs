//! Copying images between registries, layouts, archives and the store, as they are: digests stay.

use super::document::{self, Doc, MAX_NESTING};
use super::files;
use super::place::Place;
use super::say::{Say, Teller};
use super::source::{Access, Source};
use super::stored::Stored;
use super::transfer::Transfer;
use crate::Error;
use crate::build::manifest::{self, Desc, DescPlatform, Document, Index};
use crate::push::Target;
use crate::remote::Remote;
use crate::repo_digests;
use crate::space::Space;
use planner::platform::Platform;
use registry_client::Reference;

/// Referrers that are followed.
const MAX_REFERRERS: usize = 1000;

/// What of an image is copied.
#[derive(Clone, Debug, Default)]
pub struct CopyOptions {
    /// These platforms only; all that there are without one. A single platform gives its image, several an index over them.
    pub platforms: Vec<Platform>,
    /// What refers to the image too: signatures, SBOMs.
    pub referrers: bool,
    /// Seconds since the epoch, for the time of tagging in the store.
    pub now: i64,
}

/// A copy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Copied {
    /// Where it is.
    pub place: String,
    /// Its digest.
    pub digest: String,
    /// It was there already.
    pub existed: bool,
}

/// Copies an image to places. Registries need no store.
///
/// # Errors
/// The image or a part of it cannot be had, or cannot be written.
pub fn copy(
    (space, remote): (Option<&Space>, &Remote),
    source: &Place,
    targets: &[Place],
    options: &CopyOptions,
    say: Say<'_>,
) -> Result<Vec<Copied>, Error> {
    let access = Access { space, remote };
    let mut opened = Source::open(access, source, false)?;
    // A push compresses while it sends; files need to know all digests first.
    if let Source::Store(stored) = &mut opened
        && targets.iter().any(|target| registry_of(target).is_none())
    {
        stored.prepare(None)?;
    }
    let copier = Copier {
        access,
        source: &opened,
        place: source,
        options,
        say,
    };
    copier.run(targets)
}

struct Copier<'a> {
    access: Access<'a>,
    source: &'a Source<'a>,
    place: &'a Place,
    options: &'a CopyOptions,
    say: Say<'a>,
}

impl Copier<'_> {
    fn run(&self, targets: &[Place]) -> Result<Vec<Copied>, Error> {
        if let Source::Store(stored) = self.source {
            return self.of_store(stored, targets);
        }
        let mut copied = Vec::new();
        let mut root = None;
        for target in targets {
            if let Some(there) = self.is_there(target)? {
                copied.push(there);
                continue;
            }
            let root = match &root {
                Some(root) => root,
                None => root.insert(self.selected()?),
            };
            copied.push(self.one(root, target)?);
        }
        Ok(copied)
    }

    /// From the store: into all registries at once.
    fn of_store(&self, stored: &Stored<'_>, targets: &[Place]) -> Result<Vec<Copied>, Error> {
        let root = self.selected()?;
        let references: Vec<Target> = targets
            .iter()
            .filter_map(registry_of)
            .map(|reference| Target {
                reference: reference.clone(),
            })
            .collect();
        let teller = Teller::new(self.say);
        let mut digest = root.desc.digest.clone();
        if !references.is_empty() {
            digest = stored.push(&root, &references, None, &teller)?.digest;
        }
        let mut copied = Vec::new();
        for target in targets {
            copied.push(match registry_of(target) {
                None => self.one(&root, target)?,
                Some(reference) => Copied {
                    place: target.to_string(),
                    digest: digest.clone(),
                    existed: !teller.has_set(reference),
                },
            });
        }
        Ok(copied)
    }

    /// From registry to registry: what is there already costs one question to each.
    fn is_there(&self, target: &Place) -> Result<Option<Copied>, Error> {
        let (Source::Registry { remote, reference }, Some(target)) =
            (self.source, registry_of(target))
        else {
            return Ok(None);
        };
        if !self.options.platforms.is_empty() || self.options.referrers {
            return Ok(None);
        }
        let found = remote.resolve(reference);
        let descriptor = found.map_err(|error| super::list::unknown(self.place, error))?;
        let digest = descriptor.digest();
        Ok(remote.has_manifest(target, digest)?.then(|| Copied {
            place: target.to_string(),
            digest: digest.to_string(),
            existed: true,
        }))
    }

    /// The manifest or index that is to be copied.
    fn selected(&self) -> Result<Doc, Error> {
        let found = self.source.root();
        let root = found.map_err(|error| super::list::unknown(self.place, error))?;
        if self.options.platforms.is_empty() {
            return Ok(root);
        }
        match root.parse()? {
            Document::Index(index) => self.of_index(&index),
            Document::Manifest(manifest) => {
                let config = self.source.config(&root.desc.digest, &manifest.config)?;
                let own = document::platform_of(&config).map(|own| own.to_platform());
                let fits = self.options.platforms.iter().all(|wanted| {
                    own.as_ref()
                        .is_some_and(|own| wanted.best_match(std::slice::from_ref(own)).is_some())
                });
                if fits {
                    return Ok(root);
                }
                let own = own.map_or_else(|| "no platform".to_owned(), |own| own.to_string());
                Err(self.no_match(&own))
            }
        }
    }

    fn of_index(&self, index: &Index) -> Result<Doc, Error> {
        let mut found: Vec<Desc> = Vec::new();
        for wanted in &self.options.platforms {
            let entry = super::entry::best(index, wanted).ok_or_else(|| {
                let known = index.manifests.iter().filter_map(|e| e.platform.as_ref());
                let known: Vec<String> = known
                    .filter(|platform| !platform.is_unknown())
                    .map(|platform| platform.to_platform().to_string())
                    .collect();
                self.no_match(&known.join(", "))
            })?;
            if !found.contains(entry) {
                found.push(entry.clone());
            }
        }
        if let ([only], [_]) = (found.as_slice(), self.options.platforms.as_slice()) {
            return self.image(only);
        }
        // What is attested of an image goes with it.
        let attests = |entry: &&Desc| {
            let about = entry.annotations.get(document::ATTESTATION_OF);
            entry.platform.as_ref().is_none_or(DescPlatform::is_unknown)
                && about.is_some_and(|about| found.iter().any(|image| image.digest == *about))
        };
        let attestations: Vec<Desc> = index.manifests.iter().filter(attests).cloned().collect();
        let mut index = Index {
            manifests: found.into_iter().chain(attestations).collect(),
            ..index.clone()
        };
        if index.media_type.is_empty() {
            manifest::OCI_INDEX.clone_into(&mut index.media_type);
        }
        Ok(Doc::of_index(&index))
    }

    /// An entry may be an index itself.
    fn image(&self, entry: &Desc) -> Result<Doc, Error> {
        let mut doc = self.source.document(entry)?;
        for _ in 0..MAX_NESTING {
            let Document::Index(index) = doc.parse()? else {
                return Ok(doc);
            };
            let inner = super::entry::best(&index, &self.options.platforms[0]);
            let inner = inner.ok_or_else(|| self.no_match("other ones"))?;
            doc = self.source.document(inner)?;
        }
        Ok(doc)
    }

    fn no_match(&self, known: &str) -> Error {
        let wanted: Vec<String> = self
            .options
            .platforms
            .iter()
            .map(ToString::to_string)
            .collect();
        Error::Image {
            subject: self.place.to_string(),
            reason: format!("no image for {} (it has {known})", wanted.join(", ")),
        }
    }

    fn one(&self, root: &Doc, target: &Place) -> Result<Copied, Error> {
        let mut copied = Copied {
            place: target.to_string(),
            digest: root.desc.digest.clone(),
            existed: false,
        };
        let Some(reference) = registry_of(target) else {
            files::write(self.access, self.source, root, target, self.options.now)?;
            self.remember(root, target)?;
            return Ok(copied);
        };
        let remote = self.access.remote;
        let transfer = Transfer::new(remote, self.source, reference, self.say);
        if remote.has_manifest(reference, &root.desc.digest()?)? {
            copied.existed = true;
        } else {
            transfer.run(root)?;
        }
        if self.options.referrers {
            self.referrers(root, &transfer)?;
        }
        Ok(copied)
    }

    /// Notes which repository knows an image that came into the store by its digest.
    fn remember(&self, root: &Doc, target: &Place) -> Result<(), Error> {
        let (Source::Registry { reference, .. }, Place::Store(_)) = (self.source, target) else {
            return Ok(());
        };
        // An index over some platforms is made here.
        if self.options.platforms.len() > 1 {
            return Ok(());
        }
        let (store, digest) = (self.access.space()?.store(), root.desc.digest()?);
        repo_digests::came_from(store, &digest, reference)
    }

    /// Copies what refers to the image or to a part of it, and what refers to that.
    fn referrers(&self, root: &Doc, transfer: &Transfer<'_>) -> Result<(), Error> {
        let Source::Registry { remote, reference } = self.source else {
            return Ok(());
        };
        let mut waiting = vec![root.desc.digest.clone()];
        if let Document::Index(index) = root.parse()? {
            waiting.extend(index.manifests.into_iter().map(|entry| entry.digest));
        }
        let mut seen: Vec<String> = waiting.clone();
        while let Some(digest) = waiting.pop() {
            for found in remote.referrers(reference, &manifest::digest(&digest)?)? {
                let desc = Desc::of(&found);
                if seen.contains(&desc.digest) || seen.len() > MAX_REFERRERS {
                    continue;
                }
                seen.push(desc.digest.clone());
                waiting.push(desc.digest.clone());
                transfer.by_digest_of(&self.source.document(&desc)?)?;
            }
        }
        Ok(())
    }
}

fn registry_of(place: &Place) -> Option<&Reference> {
    match place {
        Place::Name(reference) | Place::Registry(reference) => Some(reference),
        _ => None,
    }
}
