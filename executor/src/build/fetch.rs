//! Makes layers of base images available when a step needs them, and not before: finds out where their blobs
//! are, brings them into the store verified, and registers them. What is wanted unpacked is unpacked on the way; the
//! compressed blob is kept beside it, because pushing and saving the image needs it as it was.

mod transfer;

use crate::Error;
use crate::build::manifest::Desc;
use crate::build::record::base_of;
use crate::cache::Imports;
use crate::layer::{self, Form};
use crate::remote::Remote;
use crate::space::Space;
use oci_spec::image::Digest;
use planner::plan::{Op, Plan};
use planner::scheduler::Cancel;
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// Blobs fetched at once.
const PARALLEL: usize = 4;

/// Smaller blobs are unpacked when they are here: nothing is gained by doing so earlier.
const WORTH_A_THREAD: u64 = 64 << 10;

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
    /// A shared cache of steps of this name, which the build was given.
    Cas(String),
}

#[derive(Clone, Debug)]
struct Known {
    desc: Desc,
    origin: Origin,
    /// The imported cache that says so.
    cache: Option<usize>,
}

/// The fetcher of a build.
#[derive(Debug)]
pub(crate) struct Fetcher<'a> {
    space: &'a Space,
    remote: &'a Remote,
    known: HashMap<Digest, Known>,
    /// Blobs that are no layers of file systems, by digest.
    loose: HashMap<String, Known>,
    /// Layers that lie under a RUN of the plan.
    mounted: HashSet<Digest>,
    /// The image of the store whose layers they are, where there is one.
    image: Option<String>,
    /// Caches that have layers of steps.
    imports: Option<&'a Imports<'a>>,
}

impl<'a> Fetcher<'a> {
    /// Knows the layers of all base images of a plan.
    pub(crate) fn new(space: &'a Space, remote: &'a Remote, plan: &Plan) -> Result<Self, Error> {
        let mut fetcher = Self::without_layers(space, remote);
        let mut layers: HashMap<usize, Vec<Digest>> = HashMap::new();
        for (number, step) in plan.steps.iter().enumerate() {
            let Op::Image(image) = &step.op else { continue };
            let source: ImageSource =
                serde_json::from_str(&image.source).map_err(|e| Error::Image {
                    subject: image.reference.clone(),
                    reason: format!("bad source: {e}"),
                })?;
            for (diff_id, desc) in image.diff_ids.iter().zip(source.layers) {
                let diff_id = super::manifest::digest(diff_id)?;
                layers.entry(number).or_default().push(diff_id.clone());
                fetcher.add(diff_id, desc, &source.origin);
            }
        }
        for step in &plan.steps {
            if !matches!(step.op, Op::Run(_)) {
                continue;
            }
            for input in &step.inputs {
                if let Some(layers) = layers.get(&bottom_of(plan, input.0 as usize)) {
                    fetcher.mounted.extend(layers.iter().cloned());
                }
            }
        }
        Ok(fetcher)
    }

    /// Knows nothing yet.
    pub(crate) fn without_layers(space: &'a Space, remote: &'a Remote) -> Self {
        Self {
            space,
            remote,
            known: HashMap::new(),
            loose: HashMap::new(),
            mounted: HashSet::new(),
            image: None,
            imports: None,
        }
    }

    /// Layers that no base image has are looked for in these caches.
    pub(crate) fn with_imports(self, imports: &'a Imports<'a>) -> Self {
        Self {
            imports: Some(imports),
            ..self
        }
    }

    /// Says whose layers they are when one is nowhere to be had.
    pub(crate) fn for_image(mut self, image: String) -> Self {
        self.image = Some(image);
        self
    }

    /// Learns where a layer can be had; what was learnt first stays.
    pub(crate) fn add(&mut self, diff_id: Digest, desc: Desc, origin: &Origin) {
        self.known.entry(diff_id).or_insert(Known {
            desc,
            origin: origin.clone(),
            cache: None,
        });
    }

    /// Learns where a blob can be had that is no layer of a file system.
    pub(crate) fn add_loose(&mut self, desc: Desc, origin: &Origin) {
        self.loose.entry(desc.digest.clone()).or_insert(Known {
            desc,
            origin: origin.clone(),
            cache: None,
        });
    }

    /// Where such a blob can be had.
    pub(crate) fn origin_of_loose(&self, digest: &str) -> Option<&Origin> {
        self.loose.get(digest).map(|known| &known.origin)
    }

    /// Makes sure that the store has such a blob.
    pub(crate) fn ensure_loose(&self, desc: &Desc, cancel: &Cancel) -> Result<(), Error> {
        match self.loose.get(&desc.digest) {
            Some(known) => self.blob(&known.desc, &known.origin, &|_, _, _| {}, cancel),
            None if self.space.store().blob_size(&desc.digest()?).is_some() => Ok(()),
            None => Err(self.nowhere(desc)),
        }
    }

    fn nowhere(&self, desc: &Desc) -> Error {
        if let Some(image) = &self.image {
            return Error::NeverPulled {
                image: image.clone(),
                layer: desc.digest.clone(),
            };
        }
        Error::Image {
            subject: desc.digest.clone(),
            reason: "the blob is not in the store, and nothing is known of where it can be had"
                .to_owned(),
        }
    }

    /// The caches that are asked besides the store.
    pub(crate) fn imports(&self) -> Option<&'a Imports<'a>> {
        self.imports
    }

    /// Where a layer can be had: from a base image, else from a cache.
    fn place(&self, diff_id: &Digest) -> Option<Known> {
        if let Some(known) = self.known.get(diff_id) {
            return Some(known.clone());
        }
        let place = self.imports?.place(diff_id)?;
        Some(Known {
            desc: place.desc,
            origin: place.origin,
            cache: Some(place.cache),
        })
    }

    /// The descriptor that a base image gives for a layer, or a cache that has been read.
    pub(crate) fn descriptor(&self, diff_id: &Digest) -> Option<Desc> {
        match self.known.get(diff_id) {
            Some(known) => Some(known.desc.clone()),
            None => Some(self.imports?.place_loaded(diff_id)?.desc),
        }
    }

    /// Where a base image has a layer, or a cache that has been read.
    pub(crate) fn origin(&self, diff_id: &Digest) -> Option<Origin> {
        match self.known.get(diff_id) {
            Some(known) => Some(known.origin.clone()),
            None => Some(self.imports?.place_loaded(diff_id)?.origin),
        }
    }

    /// Makes sure that the very blob that an image has for a layer is in the store.
    pub(crate) fn ensure_blob(
        &self,
        diff_id: &Digest,
        blob: &Desc,
        cancel: &Cancel,
    ) -> Result<(), Error> {
        self.space.in_turn(format!("fetch {diff_id}"), || {
            let descriptor = blob.to_oci()?;
            if self.space.store().blob_size(descriptor.digest()).is_some() {
                return Ok(());
            }
            let known = self.place(diff_id);
            let Some(known) = known.filter(|known| known.desc.digest == blob.digest) else {
                return Err(self.nowhere(blob));
            };
            let bring = || {
                let writer = self.transfer(&known, None, &|_, _, _| {}, cancel)?;
                let writer = writer.expect("BUG: without a reader none can give up");
                writer.commit(Some((descriptor.digest(), Some(blob.size))))?;
                match known.cache {
                    None => layer::register_blob(self.space, diff_id, &descriptor),
                    // That it holds this layer is the word of a cache.
                    Some(_) => layer::adopt(self.space, diff_id, &descriptor),
                }
            };
            bring().map_err(|error| self.refuse(&known, diff_id, error))
        })
    }

    /// Whether the layer is here or can be fetched.
    pub(crate) fn can_have(&self, diff_id: &Digest) -> Result<bool, Error> {
        if self.known.contains_key(diff_id) || layer::is_readable(self.space.store(), diff_id)? {
            return Ok(true);
        }
        Ok(self.place(diff_id).is_some())
    }

    /// Makes sure that all these layers are in the store.
    pub(crate) fn ensure(
        &self,
        layers: &[Digest],
        progress: Progress<'_>,
        cancel: &Cancel,
    ) -> Result<(), Error> {
        self.ensure_as(Form::Blob, layers, progress, cancel)
    }

    /// Makes sure that all these layers are in the store. Those that have to be fetched are brought into this form on
    /// the way; the others stay as they are.
    pub(crate) fn ensure_as(
        &self,
        form: Form,
        layers: &[Digest],
        progress: Progress<'_>,
        cancel: &Cancel,
    ) -> Result<(), Error> {
        let mut missing = Vec::new();
        let mut seen = HashSet::new();
        for layer in layers {
            if seen.insert(layer) && !layer::is_here(self.space.store(), form, layer)? {
                missing.push(layer);
            }
        }
        let form_of = |layer: &Digest| match form {
            // What a RUN will have mounted need not be written as a tar first; where none can run, it has run elsewhere.
            Form::Readable if self.mounted.contains(layer) && self.space.may_unpack() => Form::Tree,
            form => form,
        };
        if missing.len() < 2 {
            return missing.first().map_or(Ok(()), |layer| {
                self.fetch(layer, form_of(layer), progress, cancel)
            });
        }
        // The largest first: the end is near when the small ones are left.
        let size_of = |layer: &Digest| self.place(layer).map_or(0, |known| known.desc.size);
        missing.sort_by_key(|layer| std::cmp::Reverse(size_of(layer)));
        let queue = Mutex::new(missing.into_iter());
        let failed = AtomicBool::new(false);
        let work = || -> Result<(), Error> {
            loop {
                let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
                let Some(layer) = next.filter(|_| !failed.load(Ordering::Relaxed)) else {
                    return Ok(());
                };
                self.fetch(layer, form_of(layer), progress, cancel)
                    .inspect_err(|_| failed.store(true, Ordering::Relaxed))?;
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

    /// [`Fetcher::ensure_as`], and the blobs are in the store as their descriptors say, even of layers that it has in
    /// another form.
    pub(crate) fn pull(
        &self,
        form: Form,
        layers: &[Digest],
        progress: Progress<'_>,
        cancel: &Cancel,
    ) -> Result<(), Error> {
        self.ensure_as(form, layers, progress, cancel)?;
        for layer in layers {
            if let Some(known) = self.known.get(layer) {
                self.blob(&known.desc, &known.origin, progress, cancel)?;
                layer::adopt(self.space, layer, &known.desc.to_oci()?)?;
            }
            if form == Form::Tree {
                layer::tree(self.space, layer)?;
            }
        }
        Ok(())
    }

    /// Makes sure that the store has a blob, whatever it is.
    pub(crate) fn blob(
        &self,
        desc: &Desc,
        origin: &Origin,
        progress: Progress<'_>,
        cancel: &Cancel,
    ) -> Result<(), Error> {
        let digest = desc.digest()?;
        if self.space.store().blob_size(&digest).is_some() {
            return Ok(());
        }
        let known = Known {
            desc: desc.clone(),
            origin: origin.clone(),
            cache: None,
        };
        let writer = self.transfer(&known, None, progress, cancel)?;
        let writer = writer.expect("BUG: without a reader none can give up");
        writer.commit(Some((&digest, Some(desc.size))))?;
        Ok(())
    }

    fn fetch(
        &self,
        diff_id: &Digest,
        form: Form,
        progress: Progress<'_>,
        cancel: &Cancel,
    ) -> Result<(), Error> {
        self.space.in_turn(format!("fetch {diff_id}"), || {
            if layer::is_here(self.space.store(), form, diff_id)? {
                return Ok(());
            }
            let brought = self.fetch_somewhere(diff_id, form, (progress, cancel));
            if brought.is_ok()
                || cancel.is_cancelled()
                || !layer::is_readable(self.space.store(), diff_id)?
            {
                return brought;
            }
            // Only its tree is here, which gives its tar again if it is one of ours.
            layer::materialise::plain(self.space, diff_id)
                .or_else(|error| brought.and(Err(error)))?;
            Ok(())
        })
    }

    fn fetch_somewhere(
        &self,
        diff_id: &Digest,
        form: Form,
        (progress, cancel): (Progress<'_>, &Cancel),
    ) -> Result<(), Error> {
        let mut failed = None;
        loop {
            let Some(known) = self.place(diff_id) else {
                return Err(failed.unwrap_or_else(|| self.nowhere_in_base(diff_id)));
            };
            match self.fetch_from(diff_id, &known, form, (progress, cancel)) {
                // Another cache may have it.
                Err(error) if known.cache.is_some() && !cancel.is_cancelled() => {
                    failed = Some(self.refuse(&known, diff_id, error));
                }
                ended => return ended,
            }
        }
    }

    /// A cache turned out not to have what it says; the error says so.
    fn refuse(&self, known: &Known, diff_id: &Digest, error: Error) -> Error {
        let (Some(imports), Some(cache)) = (self.imports, known.cache) else {
            return error;
        };
        if matches!(error, Error::Cancelled) {
            return error;
        }
        imports.refuse(cache, diff_id, &error);
        of_cache(diff_id, error)
    }

    fn nowhere_in_base(&self, diff_id: &Digest) -> Error {
        if let Some(image) = &self.image {
            return Error::NeverPulled {
                image: image.clone(),
                layer: diff_id.to_string(),
            };
        }
        let error = Error::Layer {
            layer: diff_id.to_string(),
            reason: "it is not in the store, and no base image of this build has it".to_owned(),
        };
        // It was to be had when it was found.
        if self.imports.is_some_and(Imports::was_refused) {
            return of_cache(diff_id, error);
        }
        error
    }

    fn fetch_from(
        &self,
        diff_id: &Digest,
        known: &Known,
        form: Form,
        (progress, cancel): (Progress<'_>, &Cancel),
    ) -> Result<(), Error> {
        let descriptor = known.desc.to_oci()?;
        if self.space.store().blob_size(descriptor.digest()).is_some() {
            return layer::adopt(self.space, diff_id, &descriptor);
        }
        let to_read = form != Form::Blob || descriptor.digest() != diff_id;
        let bring = || {
            if to_read && known.desc.size >= WORTH_A_THREAD {
                return self.transfer_unpacking((diff_id, known), form, progress, cancel);
            }
            let writer = self.transfer(known, None, progress, cancel)?;
            let writer = writer.expect("BUG: without a reader none can give up");
            writer.commit(Some((descriptor.digest(), Some(known.desc.size))))?;
            layer::adopt(self.space, diff_id, &descriptor)
        };
        match bring() {
            // A mirror that gave wrong bytes is left out from now on.
            Err(Error::Registry {
                source: registry_client::Error::DigestMismatch { .. },
                ..
            }) => bring(),
            brought => brought,
        }
    }
}

fn of_cache(diff_id: &Digest, error: Error) -> Error {
    Error::CacheLayer {
        layer: diff_id.to_string(),
        source: Box::new(error),
    }
}

/// The step at the bottom of the root file system that a step makes.
pub(crate) fn bottom_of(plan: &Plan, mut step: usize) -> usize {
    while let Some(below) = base_of(&plan.steps[step].op) {
        step = plan.steps[step].inputs[below].0 as usize;
    }
    step
}
