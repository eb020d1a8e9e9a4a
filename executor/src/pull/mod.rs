//! Images from registries into the store: manifests first, then the layers that are missing, the name last. A pull
//! that fails leaves whole blobs at most, which the next one finds.
//!
//! Compressed blobs are kept as they came, because pushing and saving need them; unpacking on the way is asked for.

pub(crate) mod select;

use crate::Error;
use crate::build::fetch::{Fetcher, Origin};
use crate::build::image::rfc3339;
use crate::build::manifest::{
    self, CONFIG_LIMIT, Config, Desc, DescPlatform, Document, Index, MANIFEST_LIMIT,
};
use crate::layer::Form;
use crate::places;
use crate::remote::Remote;
use crate::repo_digests;
use crate::space::Space;
use oci_spec::image::Digest;
use planner::platform::Platform;
use planner::scheduler::Cancel;
use registry_client::{FetchedManifest, Reference};
use select::{MAX_NESTING, Picked};
use std::collections::HashSet;
use store::ImageRef;

/// Most manifests of one index that are followed.
const MAX_MANIFESTS: usize = 1000;

/// What of an image is pulled.
#[derive(Clone, Debug, Default)]
pub struct PullOptions {
    /// These platforms; none for the one that fits this machine best.
    pub platforms: Vec<Platform>,
    /// All that the index has, attestations too, so that the image can be passed on whole.
    pub all_platforms: bool,
    /// Unpack layers while they come, so that the first command of a build can start at once.
    pub unpack: bool,
    /// Seconds since 1970, for the time of tagging.
    pub now: i64,
}

/// Is told how a pull goes, from several threads.
pub trait Watch: Sync {
    /// The manifests are known, and these layers, each once: digest and bytes, and whether the store had it already.
    fn layers(&self, layers: &[(String, u64, bool)]);
    /// Bytes of a layer that are here. All of them means that it is about to be filed.
    fn transfer(&self, digest: &str, done: u64, total: u64);
}

/// A pulled image.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pulled {
    /// `docker.io/library/busybox:latest`, or with the digest that was asked for.
    pub name: String,
    /// As people write it: `busybox:latest`.
    pub familiar: String,
    /// Digest of the manifest or index.
    pub digest: String,
    /// Something came that the store did not have, or the name meant something else before.
    pub is_newer: bool,
}

/// A manifest that is wanted with all it leads to.
struct Wanted {
    picked: Picked,
    config: Config,
    diff_ids: Vec<Digest>,
}

/// Pulls one image.
///
/// # Errors
/// Bad names; the registry; images that cannot be understood or are not for the platforms asked for.
pub fn pull(
    space: &Space,
    remote: &Remote,
    reference: &Reference,
    options: &PullOptions,
    (watch, cancel): (&dyn Watch, &Cancel),
) -> Result<Pulled, Error> {
    let puller = Puller {
        space,
        remote,
        reference,
        name: reference.to_string(),
        options,
    };
    puller.pull(watch, cancel)
}

/// What a name as somebody typed it may stand for, most likely first: short names are looked up in registries.conf.
///
/// # Errors
/// Bad or ambiguous names; a configuration that cannot be read.
pub fn candidates(remote: &Remote, text: &str) -> Result<Vec<Reference>, Error> {
    remote.candidates(text)
}

/// Tries one candidate after the other until one can be had.
///
/// # Errors
/// The one candidate's; of several, what was wrong with each.
pub fn first_of<T>(
    text: &str,
    candidates: &[Reference],
    mut attempt: impl FnMut(&Reference) -> Result<T, Error>,
) -> Result<T, Error> {
    if let [only] = candidates {
        return attempt(only);
    }
    let mut failures = Vec::new();
    for candidate in candidates {
        match attempt(candidate) {
            Ok(found) => return Ok(found),
            Err(error @ (Error::Cancelled | Error::Store(_))) => return Err(error),
            Err(error) => failures.push(crate::error::chain(&error)),
        }
    }
    Err(Error::Image {
        subject: text.to_owned(),
        reason: format!(
            "it could not be pulled from any of its registries: {}",
            failures.join("; ")
        ),
    })
}

/// All tags of a repository.
///
/// # Errors
/// The registry.
pub fn tags(remote: &Remote, reference: &Reference) -> Result<Vec<String>, Error> {
    remote.tags(reference)
}

struct Puller<'a> {
    space: &'a Space,
    remote: &'a Remote,
    reference: &'a Reference,
    name: String,
    options: &'a PullOptions,
}

impl Puller<'_> {
    fn pull(&self, watch: &dyn Watch, cancel: &Cancel) -> Result<Pulled, Error> {
        let store = self.space.store();
        let kept_as = kept_as(self.reference);
        let before = store.reference(&kept_as)?;
        let root = self.root(before.as_ref())?;
        let (images, others) = self.wanted(&root)?;

        let mut fetcher = Fetcher::without_layers(self.space, self.remote);
        let origin = Origin::Repository(self.name.clone());
        let mut layers = Vec::new();
        let mut told: Vec<(String, u64, bool)> = Vec::new();
        let mut seen = HashSet::new();
        for image in &images {
            for (diff_id, desc) in image.diff_ids.iter().zip(&image.picked.manifest.layers) {
                fetcher.add(diff_id.clone(), desc.clone(), &origin);
                layers.push(diff_id.clone());
                if seen.insert(desc.digest.clone()) {
                    let is_here = store.blob_size(&desc.digest()?).is_some();
                    told.push((desc.digest.clone(), desc.size, is_here));
                }
            }
        }
        for desc in &others {
            if seen.insert(desc.digest.clone()) {
                let is_here = store.blob_size(&desc.digest()?).is_some();
                told.push((desc.digest.clone(), desc.size, is_here));
            }
        }
        watch.layers(&told);
        let progress = |digest: &str, done: u64, total: u64| watch.transfer(digest, done, total);
        let form = if self.options.unpack {
            Form::Tree
        } else {
            Form::Blob
        };
        fetcher.pull(form, &layers, &progress, cancel)?;
        for desc in &others {
            fetcher.blob(desc, &origin, &progress, cancel)?;
        }
        let is_same = before.is_some_and(|before| before.descriptor == root.descriptor);
        let is_newer = !is_same || told.iter().any(|(_, _, is_here)| !is_here);
        // Also of what was here before: the repository has it.
        let configs = images.iter().map(|image| &image.picked.manifest.config);
        let blobs = images
            .iter()
            .flat_map(|image| &image.picked.manifest.layers);
        for desc in configs.chain(blobs).chain(&others) {
            if desc.urls.is_empty() {
                places::remember(store, &desc.digest()?, self.reference)?;
            }
        }
        let digest = root.descriptor.digest().clone();
        repo_digests::came_from(store, &digest, self.reference)?;
        store.tag(&ImageRef {
            name: kept_as,
            descriptor: root.descriptor,
            tagged: rfc3339(self.options.now),
        })?;
        Ok(Pulled {
            name: self.name.clone(),
            familiar: self.reference.familiar(),
            digest: digest.to_string(),
            is_newer,
        })
    }

    /// The manifest or index that the name stands for. One that the store has is not asked for again: a HEAD tells,
    /// and counts as no pull where pulls are counted.
    fn root(&self, before: Option<&ImageRef>) -> Result<FetchedManifest, Error> {
        let store = self.space.store();
        if let Some(before) = before
            && let Ok(bytes) = store.read_blob(before.descriptor.digest(), MANIFEST_LIMIT)
        {
            let pinned = self.reference.digest.is_some();
            if pinned || self.remote.resolve(self.reference)?.digest() == before.descriptor.digest()
            {
                return Ok(FetchedManifest {
                    descriptor: before.descriptor.clone(),
                    bytes,
                });
            }
        }
        let root = self.remote.manifest(self.reference, None)?;
        // The store files by SHA-256.
        manifest::digest(root.descriptor.digest().as_ref())?;
        store.put_blob(&root.bytes)?;
        Ok(root)
    }

    /// A document of the repository, from the store where it is there.
    fn document(&self, desc: &Desc) -> Result<Vec<u8>, Error> {
        let (store, digest) = (self.space.store(), desc.digest()?);
        match store.read_blob(&digest, MANIFEST_LIMIT) {
            Ok(bytes) => Ok(bytes),
            Err(_) => {
                let bytes = self.remote.manifest(self.reference, Some(&digest))?.bytes;
                store.put_blob(&bytes)?;
                Ok(bytes)
            }
        }
    }

    /// The images that are wanted, and blobs beside them.
    fn wanted(&self, root: &FetchedManifest) -> Result<(Vec<Wanted>, Vec<Desc>), Error> {
        let read = |desc: &Desc| self.document(desc);
        let desc = Desc::of(&root.descriptor);
        let is_index = matches!(
            Document::parse(&self.name, &root.bytes)?,
            Document::Index(_)
        );
        if self.options.all_platforms && is_index {
            return self.whole(desc, &root.bytes);
        }
        let host = [Platform::host()];
        let platforms = match self.options.platforms.as_slice() {
            [] => &host[..],
            given => given,
        };
        let mut images: Vec<Wanted> = Vec::new();
        for platform in platforms {
            let bytes = root.bytes.clone();
            let picked = select::pick(&self.name, desc.clone(), bytes, platform, &read)?;
            if images
                .iter()
                .any(|known| known.picked.desc.digest == picked.desc.digest)
            {
                continue;
            }
            let image = self.image(picked)?;
            let found = image.config.platform();
            // Who names no platform takes what there is.
            let is_wrong = !is_index
                && !self.options.platforms.is_empty()
                && platform.best_match(std::slice::from_ref(&found)).is_none();
            if is_wrong {
                return Err(self.bad(format!(
                    "the image is for {found} and does not provide the specified platform ({platform})"
                )));
            }
            images.push(image);
        }
        Ok((images, Vec::new()))
    }

    /// Everything that an index leads to.
    fn whole(&self, root: Desc, bytes: &[u8]) -> Result<(Vec<Wanted>, Vec<Desc>), Error> {
        let (mut images, mut others) = (Vec::new(), Vec::new());
        let mut seen = HashSet::from([root.digest.clone()]);
        let mut waiting = vec![(root, bytes.to_vec(), 0)];
        while let Some((desc, bytes, depth)) = waiting.pop() {
            match Document::parse(&self.name, &bytes)? {
                Document::Index(Index { manifests, .. }) if depth < MAX_NESTING => {
                    for entry in manifests.into_iter().rev() {
                        if !seen.insert(entry.digest.clone()) {
                            continue;
                        }
                        if seen.len() > MAX_MANIFESTS {
                            return Err(self.bad(format!(
                                "its index has more than {MAX_MANIFESTS} manifests"
                            )));
                        }
                        let bytes = self.document(&entry)?;
                        waiting.push((entry, bytes, depth + 1));
                    }
                }
                Document::Index(_) => {
                    return Err(self.bad(format!("indexes nested more than {MAX_NESTING} deep")));
                }
                Document::Manifest(manifest) => {
                    let attached = desc.platform.as_ref().is_some_and(DescPlatform::is_unknown);
                    if attached || select::not_an_image(&manifest).is_some() {
                        others.push(manifest.config.clone());
                        others.extend(manifest.layers.iter().cloned());
                        continue;
                    }
                    images.push(self.image(Picked {
                        desc,
                        bytes,
                        manifest,
                    })?);
                }
            }
        }
        if images.is_empty() {
            return Err(self.bad("its index has no image".to_owned()));
        }
        Ok((images, others))
    }

    /// Reads a manifest's config, which is in the store afterwards.
    fn image(&self, picked: Picked) -> Result<Wanted, Error> {
        let store = self.space.store();
        let desc = &picked.manifest.config;
        let bytes = match store.read_blob(&desc.digest()?, CONFIG_LIMIT) {
            Ok(bytes) => bytes,
            Err(_) => {
                let bytes = self.remote.small_blob(self.reference, desc, CONFIG_LIMIT)?;
                store.put_blob(&bytes)?;
                bytes
            }
        };
        let config = Config::parse(&self.name, &bytes)?;
        let diff_ids = select::diff_ids_of(&self.name, &picked.manifest.layers, &config)?;
        Ok(Wanted {
            picked,
            config,
            diff_ids,
        })
    }

    fn bad(&self, reason: String) -> Error {
        Error::Image {
            subject: self.name.clone(),
            reason,
        }
    }
}

/// The name under which the store keeps an image: one that was asked for by digest has no tag.
fn kept_as(reference: &Reference) -> String {
    match &reference.digest {
        Some(digest) => format!("{}@{digest}", reference.name()),
        None => reference.to_string(),
    }
}
