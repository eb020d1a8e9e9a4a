//! The way of an image into registries: is it there, layers, configs, manifests with children before their index, tags last.
//!
//! Each blob goes once to each repository, whatever the number of tags, and at one registry it is mounted from the
//! repository that has it to the others.

use super::document::{Node, Rewritten, Style, rewrite};
use super::layers::Layers;
use super::source::Order;
use super::{LayerEvent, Packing, Pushed, Target, Watcher};
use crate::Error;
use crate::build::fetch::Fetcher;
use crate::build::manifest;
use crate::places;
use crate::remote::Remote;
use crate::repo_digests;
use crate::space::Space;
use oci_spec::image::Digest;
use planner::scheduler::Cancel;
use registry_client::{BlobSource, MemoryBlob, Reference};
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Layers under way to registries at once.
const UPLOADS: usize = 6;
/// Layers being made at once. Each uses all processors.
const MAKERS: usize = 2;
/// Requests for tags at once.
const TAGS: usize = 4;
/// How often progress is told.
const TELL: Duration = Duration::from_millis(100);

/// What a push works with.
pub(crate) struct Pusher<'a> {
    pub space: &'a Space,
    pub remote: &'a Remote,
    pub fetcher: &'a Fetcher<'a>,
    pub watcher: &'a dyn Watcher,
    pub cancel: &'a Cancel,
    pub packing: Packing,
    pub style: Option<Style>,
}

/// The tags of one repository.
struct Repository {
    reference: Reference,
    targets: Vec<Reference>,
    /// The manifest is there, only tags are missing.
    has_image: bool,
    /// Manifests below that are there with all they need.
    there: HashSet<String>,
}

/// Pushes an image to all targets.
pub(crate) fn push(pusher: &Pusher<'_>, root: &Node, targets: &[Target]) -> Result<Pushed, Error> {
    let (orders, queue) = channel();
    let layers = Layers::of(pusher.space, pusher.fetcher, root, pusher.packing, &orders)?;
    let stop = pusher.cancel.child();
    let run = Run {
        pusher,
        layers,
        root,
        stop,
    };
    let packed = |layer: &_| run.layers.packed(layer, pusher.packing);
    let foretold = rewrite(root, pusher.style, &packed);
    let repositories = run.missing(targets, foretold.as_ref())?;
    let needs_blobs: Vec<&Repository> = repositories.iter().filter(|r| !r.has_image).collect();
    if !needs_blobs.is_empty() {
        run.upload(&needs_blobs, queue, &orders)?;
    }
    let image = match foretold {
        Some(image) => image,
        None => rewrite(root, pusher.style, &packed)
            .expect("BUG: all layers are known once they are pushed"),
    };
    for repository in &repositories {
        run.documents(repository, &image)?;
    }
    run.remember(targets, &repositories, &image)?;
    let sent = image.root();
    Ok(Pushed {
        digest: sent.digest.to_string(),
        size: sent.bytes.len() as u64,
        media_type: sent.media_type.clone(),
        config_digest: image.config.as_ref().map(ToString::to_string),
    })
}

struct Run<'a> {
    pusher: &'a Pusher<'a>,
    layers: Layers<'a>,
    root: &'a Node,
    /// Set when one part fails, or all is to stop.
    stop: Cancel,
}

impl Run<'_> {
    /// What is not there yet. Tags that have the very image need nothing, and cost one request.
    fn missing(
        &self,
        targets: &[Target],
        foretold: Option<&Rewritten>,
    ) -> Result<Vec<Repository>, Error> {
        let mut there = vec![false; targets.len()];
        if let Some(image) = foretold {
            let digest = &image.root().digest;
            let asked = in_parallel(TAGS, targets, |target| self.has(&target.reference, digest));
            for (slot, has) in there.iter_mut().zip(asked) {
                *slot = has?;
            }
        }
        let mut repositories: Vec<Repository> = Vec::new();
        for (target, is_there) in targets.iter().zip(&there) {
            let reference = &target.reference;
            let at = repositories
                .iter()
                .position(|known| known.reference.name() == reference.name());
            let at = at.unwrap_or_else(|| {
                repositories.push(Repository {
                    reference: Reference {
                        tag: None,
                        digest: None,
                        ..reference.clone()
                    },
                    targets: Vec::new(),
                    has_image: false,
                    there: HashSet::new(),
                });
                repositories.len() - 1
            });
            let repository = &mut repositories[at];
            repository.has_image |= is_there;
            if !is_there && !repository.targets.contains(reference) {
                repository.targets.push(reference.clone());
            }
        }
        repositories.retain(|repository| !repository.targets.is_empty());
        if let Some(image) = foretold {
            for repository in &mut repositories {
                let by_digest = repository.targets.iter().any(|t| t.tag.is_none());
                // By digest it was asked for just now.
                if !repository.has_image && !by_digest {
                    repository.has_image = self.has(&repository.reference, &image.root().digest)?;
                }
            }
        }
        for repository in repositories.iter_mut().filter(|r| !r.has_image) {
            repository.there = self.there(&repository.reference)?;
        }
        Ok(repositories)
    }

    /// The images of a list that a repository has: one question for each that comes from a registry as it is.
    fn there(&self, repository: &Reference) -> Result<HashSet<String>, Error> {
        let is_list = !self.root.children().is_empty();
        if !is_list || self.pusher.style.is_some() {
            return Ok(HashSet::new());
        }
        let mut fixed = self.root.images();
        fixed.retain(|image| image.is_fixed);
        let asked = in_parallel(TAGS, &fixed, |image| {
            self.has(repository, &image.desc.digest()?)
        });
        let mut there = HashSet::new();
        for (image, has) in fixed.iter().zip(asked) {
            if has? {
                there.insert(image.desc.digest.clone());
            }
        }
        Ok(there)
    }

    /// The layers that a repository needs.
    fn needed(&self, repository: &Repository) -> HashSet<usize> {
        let mut images = self.root.images();
        images.retain(|image| !repository.there.contains(&image.desc.digest));
        let layers = images.iter().flat_map(|image| &image.layers);
        layers
            .filter_map(|layer| self.layers.number(layer, self.pusher.packing))
            .collect()
    }

    fn has(&self, reference: &Reference, digest: &Digest) -> Result<bool, Error> {
        self.pusher
            .remote
            .has_manifest_until(reference, digest, &self.stop)
    }

    /// Brings all layers into the repositories, and makes those whose bytes are asked for.
    fn upload(
        &self,
        repositories: &[&Repository],
        queue: Receiver<Order>,
        orders: &std::sync::mpsc::Sender<Order>,
    ) -> Result<(), Error> {
        let registries = by_registry(repositories);
        let needed: HashMap<String, HashSet<usize>> = repositories
            .iter()
            .map(|repository| (repository.reference.name(), self.needed(repository)))
            .collect();
        let tasks: Vec<(usize, usize)> = (0..self.layers.all.len())
            .flat_map(|layer| (0..registries.len()).map(move |registry| (layer, registry)))
            .collect();
        let (next, ended) = (AtomicUsize::new(0), AtomicBool::new(false));
        let first_error: Mutex<Option<Error>> = Mutex::new(None);
        let fail = |error: Error| {
            self.stop.cancel();
            let mut first = first_error.lock().unwrap_or_else(PoisonError::into_inner);
            first.get_or_insert(error);
        };
        // An upload whose layer could not be made fails for that reason, which it can tell as a text only.
        let make_failed = |error: Error| {
            self.stop.cancel();
            let mut first = first_error.lock().unwrap_or_else(PoisonError::into_inner);
            if first.is_none() || !matches!(error, Error::Cancelled) {
                *first = Some(error);
            }
        };
        let queue = Mutex::new(queue);
        std::thread::scope(|scope| {
            for _ in 0..MAKERS {
                scope.spawn(|| {
                    loop {
                        let order = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
                        let Ok(Some(number)) = order else { return };
                        if let Err(error) = self.layers.make(number, &self.stop) {
                            make_failed(error);
                        }
                    }
                });
            }
            let teller = scope.spawn(|| self.tell(&ended));
            let uploads: Vec<_> = (0..UPLOADS.min(tasks.len()))
                .map(|_| {
                    scope.spawn(|| {
                        while let Some((layer, registry)) =
                            tasks.get(next.fetch_add(1, Ordering::SeqCst))
                        {
                            if self.stop.is_cancelled() {
                                return;
                            }
                            let mut wanted = registries[*registry].clone();
                            wanted.retain(|place| needed[&place.name()].contains(layer));
                            if let Err(error) = self.layer(*layer, &wanted) {
                                fail(error);
                            }
                        }
                    })
                })
                .collect();
            for upload in uploads {
                upload.join().expect("BUG: an upload does not panic");
            }
            ended.store(true, Ordering::SeqCst);
            teller.thread().unpark();
            for layer in &self.layers.all {
                layer.source.outgoing.abandon("the push has ended");
            }
            for _ in 0..MAKERS {
                // A maker that is gone needs no word.
                let _ = orders.send(None);
            }
        });
        if self.pusher.cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        let first = first_error.into_inner();
        match first.unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// One layer into all repositories of one registry.
    fn layer(&self, number: usize, repositories: &[Reference]) -> Result<(), Error> {
        let layer = &self.layers.all[number];
        let source: Arc<dyn BlobSource> = Arc::<super::source::LayerSource>::clone(&layer.source);
        let mut have: Vec<Reference> = Vec::new();
        for repository in repositories {
            let mut mounts = have.clone();
            mounts.extend(self.layers.mounts(layer));
            let pushed = self
                .pusher
                .remote
                .push_blob_until(repository, &source, &mounts, &self.stop)?;
            self.pusher
                .watcher
                .layer(&layer.name, LayerEvent::Done(pushed.how));
            have.insert(0, repository.clone());
        }
        Ok(())
    }

    /// Tells of bytes until all is sent.
    fn tell(&self, ended: &AtomicBool) {
        let mut told = vec![0; self.layers.all.len()];
        while !ended.load(Ordering::SeqCst) {
            std::thread::park_timeout(TELL);
            for (layer, told) in self.layers.all.iter().zip(&mut told) {
                let read = layer.source.read.load(Ordering::Relaxed);
                if read > *told {
                    *told = read;
                    let total = layer.source.known().map(|(_, size)| size);
                    let event = LayerEvent::Sent(read, total);
                    self.pusher.watcher.layer(&layer.name, event);
                }
            }
        }
    }

    /// Configs, manifests, tags.
    fn documents(&self, repository: &Repository, image: &Rewritten) -> Result<(), Error> {
        let (remote, store) = (self.pusher.remote, self.pusher.space.store());
        let root = image.root();
        if !repository.has_image {
            let known = self.known_configs(repository);
            for config in &image.configs {
                if known.contains(&manifest::digest_of(config).to_string()) {
                    continue;
                }
                let blob: Arc<dyn BlobSource> = Arc::new(MemoryBlob::new(config.clone()));
                let mounts = places::of(store, &manifest::digest_of(config))?;
                remote.push_blob_until(&repository.reference, &blob, &mounts, &self.stop)?;
            }
            let below = &image.manifests[..image.manifests.len() - 1];
            for manifest in below {
                let digest = manifest.digest.to_string();
                if repository.there.contains(&digest) {
                    continue;
                }
                let (place, kind) = (&repository.reference, &manifest.media_type);
                remote.put_manifest_until(place, kind, &manifest.bytes, &self.stop)?;
                self.pusher.watcher.part(place, &digest);
            }
        }
        let digest = root.digest.to_string();
        let put = |target: &Reference| {
            self.pusher.watcher.manifest(target, &digest);
            remote.put_manifest_until(target, &root.media_type, &root.bytes, &self.stop)
        };
        // One after the other fails as soon as the first one does; then there is nothing to wait for.
        let (first, rest) = repository
            .targets
            .split_first()
            .expect("BUG: a repository without targets is left out");
        put(first)?;
        for ended in in_parallel(TAGS, rest, put) {
            ended?;
        }
        Ok(())
    }

    /// The configs that only manifests have which are there.
    fn known_configs(&self, repository: &Repository) -> HashSet<String> {
        let of = |is_there: bool| {
            let images = self.root.images().into_iter();
            images
                .filter(move |image| repository.there.contains(&image.desc.digest) == is_there)
                .map(|image| image.config.digest.clone())
        };
        let needed: HashSet<String> = of(false).collect();
        of(true).filter(|digest| !needed.contains(digest)).collect()
    }

    fn remember(
        &self,
        targets: &[Target],
        repositories: &[Repository],
        image: &Rewritten,
    ) -> Result<(), Error> {
        for repository in repositories {
            self.layers.remember(&repository.reference)?;
            for config in &image.configs {
                let digest = manifest::digest_of(config);
                places::remember(self.pusher.space.store(), &digest, &repository.reference)?;
            }
        }
        let all: Vec<&Reference> = targets.iter().map(|target| &target.reference).collect();
        let local = manifest::digest(self.root.digest())?;
        let store = self.pusher.space.store();
        repo_digests::remember(store, &local, &all, &image.root().digest)
    }
}

fn by_registry(repositories: &[&Repository]) -> Vec<Vec<Reference>> {
    let mut registries: Vec<Vec<Reference>> = Vec::new();
    for repository in repositories {
        let reference = &repository.reference;
        let found = registries
            .iter_mut()
            .find(|registry| registry[0].registry == reference.registry);
        match found {
            Some(registry) => registry.push(reference.clone()),
            None => registries.push(vec![reference.clone()]),
        }
    }
    registries
}

/// Calls on several threads; the results in the order of the items.
fn in_parallel<T: Sync, R: Send>(
    threads: usize,
    items: &[T],
    call: impl Fn(&T) -> R + Sync,
) -> Vec<R> {
    if items.len() < 2 {
        return items.iter().map(call).collect();
    }
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::with_capacity(items.len()));
    std::thread::scope(|scope| {
        for _ in 0..threads.min(items.len()) {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::SeqCst);
                    let Some(item) = items.get(at) else { return };
                    let result = call(item);
                    results
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push((at, result));
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_by_key(|(at, _)| *at);
    results.into_iter().map(|(_, result)| result).collect()
}
