//! `type=image`: into the store, into registries, or both.
//!
//! In the store layers that a build made lie uncompressed; what is pushed has them compressed, so its digest is another
//! one, and that is the one to report. An image that is only pushed needs no base layers here.

use super::{Exported, Exporter, exported, flavour, put};
use crate::Error;
use crate::build::Ui;
use crate::build::image::{self, Image};
use crate::build::manifest::Desc;
use crate::layer;
use crate::push::document::{Documents, load};
use crate::push::{self, LayerEvent, Packing, Pusher, Target, Watcher};
use crate::remote::Remote;
use crate::request::{BuildRequest, OutputKind, OutputRequest};
use planner::plan::{Op, Plan};
use planner::scheduler::Cancel;
use registry_client::Reference;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use store::ImageRef;

/// An assembled image with its documents.
struct Assembled {
    root: Desc,
    documents: HashMap<String, Vec<u8>>,
}

impl Exporter<'_> {
    /// An image: named in the store unless it is only pushed.
    pub(super) fn image(
        &self,
        output: &OutputRequest,
        images: &[Image],
        task: u64,
    ) -> Result<Exported, Error> {
        let assembled = self.assemble(output, images)?;
        let names = names(self.request, output)?;
        if output.image.is_stored() {
            self.keep(output, images, &assembled, &names)?;
        }
        let shown = match (&output.image.dangling_prefix, names.is_empty()) {
            (Some(prefix), true) => vec![format!("{prefix}@{}", assembled.root.digest)],
            _ => names.clone(),
        };
        if !output.image.push {
            return Ok(exported(assembled.root, images, shown));
        }
        let pushed = self.push(output, &assembled, &names, task)?;
        let root = Desc {
            media_type: pushed.media_type,
            digest: pushed.digest,
            size: pushed.size,
            ..assembled.root
        };
        let mut exported = exported(root, images, shown);
        if let Some(config) = pushed.config_digest.filter(|_| exported.config.is_some()) {
            exported.config = Some(crate::build::manifest::digest(&config)?);
        }
        Ok(exported)
    }

    fn assemble(&self, output: &OutputRequest, images: &[Image]) -> Result<Assembled, Error> {
        let mut documents = HashMap::new();
        let mut manifests = Vec::new();
        for image in images {
            let layers = self.stored_layers(image)?;
            let (desc, bytes) = image.manifest(layers, flavour(output));
            documents.insert(image.config_digest.to_string(), image.config.clone());
            documents.insert(desc.digest.clone(), bytes);
            manifests.push((image.platform.clone(), desc));
        }
        let (root, index) = self.top(output, manifests)?;
        if let Some(bytes) = index {
            documents.insert(root.digest.clone(), bytes);
        }
        Ok(Assembled { root, documents })
    }

    /// Into the store: base layers as the base has them, ours uncompressed, which needs no blob to be written.
    fn keep(
        &self,
        output: &OutputRequest,
        images: &[Image],
        assembled: &Assembled,
        names: &[String],
    ) -> Result<(), Error> {
        let store = self.space.store();
        for (digest, bytes) in &assembled.documents {
            put(store, &crate::build::manifest::digest(digest)?, bytes)?;
        }
        let tagged = image::rfc3339(self.request.now);
        let unnamed = [String::new()];
        let all = if names.is_empty() { &unnamed } else { names };
        for name in all {
            // Without a tag it is found by its digest, under any name.
            let has_tag = name
                .rsplit('/')
                .next()
                .is_some_and(|last| last.contains(':'));
            store.tag(&ImageRef {
                name: if has_tag { name.clone() } else { String::new() },
                descriptor: assembled.root.to_oci()?,
                tagged: tagged.clone(),
            })?;
        }
        if output.image.unpack {
            for layer in images.iter().flat_map(|image| &image.layers) {
                layer::tree(self.space, layer)?;
            }
        }
        Ok(())
    }

    fn push(
        &self,
        output: &OutputRequest,
        assembled: &Assembled,
        names: &[String],
        task: u64,
    ) -> Result<push::Pushed, Error> {
        let targets = targets(output, names)?;
        let documents = Documents {
            store: self.space.store(),
            made: assembled.documents.clone(),
        };
        let loaded = load(&documents, &assembled.root)?;
        let own;
        let remote = if output.image.insecure {
            own = insecure(self.request, &targets, self.cancel);
            &own
        } else {
            self.remote
        };
        let watcher = BuildWatcher {
            ui: self.ui,
            task,
            running: Mutex::default(),
        };
        let pusher = Pusher {
            space: self.space,
            remote,
            fetcher: self.fetcher,
            watcher: &watcher,
            cancel: self.cancel,
            packing: packing(output)?,
            style: None,
        };
        let pushed = push::push(&pusher, &loaded.root, &targets);
        watcher.finish(pushed.as_ref().err());
        pushed
    }
}

fn packing(output: &OutputRequest) -> Result<Packing, Error> {
    Packing::parse(
        output.compression.as_deref(),
        output.compression_level,
        output.force_compression,
    )
    .map_err(Error::Request)
}

/// Another client, for which the registries of an output need no certificates.
fn insecure(request: &BuildRequest, targets: &[Target], cancel: &Cancel) -> Remote {
    let mut options = request.registry.clone();
    for target in targets {
        options.insecure.push(target.reference.registry.clone());
    }
    Remote::new(&options, cancel)
}

/// The names of an output: with tags, or without any where it is pushed by digest.
pub(super) fn names(request: &BuildRequest, output: &OutputRequest) -> Result<Vec<String>, Error> {
    let given = if output.names.is_empty() {
        &request.tags
    } else {
        &output.names
    };
    let given = given.iter().filter(|name| !name.is_empty());
    if !output.image.push_by_digest {
        return given.map(|name| super::normalised(name)).collect();
    }
    given
        .map(|name| {
            let full = super::normalised(name)?;
            let last = name.rsplit('/').next().unwrap_or(name);
            if last.contains(':') {
                return Err(Error::Request(format!(
                    "failed to push {full}: can't push tagged ref {full} by digest"
                )));
            }
            let bare = full
                .rsplit_once(':')
                .map_or(full.as_str(), |(bare, _)| bare);
            Ok(bare.to_owned())
        })
        .collect()
}

/// The repositories that a build pushes to, and the form in which layers go there.
pub(in crate::build) fn repositories(
    request: &BuildRequest,
) -> Result<Vec<(Reference, crate::layer::Compression)>, Error> {
    let mut found: Vec<(Reference, crate::layer::Compression)> = Vec::new();
    for output in pushes(request) {
        let compression = packing(output)?.compression;
        for target in targets(output, &names(request, output)?)? {
            let known = |(other, _): &(Reference, _)| other.name() == target.reference.name();
            if !found.iter().any(known) {
                found.push((target.reference, compression));
            }
        }
    }
    Ok(found)
}

/// Whether anything is made of a result that needs all of its layers here.
pub(in crate::build) fn keeps_result(request: &BuildRequest) -> bool {
    let needs = |output: &OutputRequest| match output.kind {
        OutputKind::CacheOnly => false,
        OutputKind::Image => output.image.is_stored() || output.load.is_some(),
        _ => true,
    };
    request.outputs.is_empty() || request.outputs.iter().any(needs)
}

fn targets(output: &OutputRequest, names: &[String]) -> Result<Vec<Target>, Error> {
    let target = |name: &String| {
        let parsed = Reference::parse(name).map_err(|source| Error::Name {
            name: name.clone(),
            source,
        })?;
        let tag = parsed.tag.clone().filter(|_| !output.image.push_by_digest);
        Ok(Target {
            reference: Reference { tag, ..parsed },
        })
    };
    names.iter().map(target).collect()
}

/// What can be said of pushes before anything is built.
fn check(request: &BuildRequest) -> Result<(), Error> {
    for output in pushes(request) {
        if names(request, output)?.is_empty() && output.image.dangling_prefix.is_none() {
            let message = "tag is needed when pushing to registry".to_owned();
            return Err(Error::Request(message));
        }
        packing(output)?;
    }
    Ok(())
}

fn pushes(request: &BuildRequest) -> impl Iterator<Item = &OutputRequest> {
    request
        .outputs
        .iter()
        .filter(|output| output.kind == OutputKind::Image && output.image.push)
}

/// Asks the registries before commands run whether they can be reached and know us: one request to each repository,
/// with the rights that the push will need. A registry may still refuse the push itself.
pub(crate) fn ask_registries(
    request: &BuildRequest,
    plan: &Plan,
    remote: &Remote,
    ui: &dyn Ui,
    cancel: &Cancel,
) -> Result<(), Error> {
    check(request)?;
    if !plan.steps.iter().any(|step| matches!(step.op, Op::Run(_))) {
        return Ok(());
    }
    let mut asked: Vec<String> = Vec::new();
    for output in pushes(request) {
        let targets = targets(output, &names(request, output)?)?;
        let own;
        let remote = if output.image.insecure {
            own = insecure(request, &targets, cancel);
            &own
        } else {
            remote
        };
        for target in &targets {
            let name = target.reference.name();
            if asked.contains(&name) {
                continue;
            }
            let task = ui.task_started(&format!("checking access to {name}"));
            let nothing = crate::build::manifest::digest_of(b"");
            let repository = Reference {
                tag: None,
                digest: None,
                ..target.reference.clone()
            };
            let ended = remote.has_manifest_until(&repository, &nothing, cancel);
            let error = ended.as_ref().err().map(crate::error::chain);
            ui.task_finished(task, error.as_deref());
            ended?;
            asked.push(name);
        }
    }
    Ok(())
}

/// Shows a push as tasks of the build, named as BuildKit names them.
struct BuildWatcher<'a> {
    ui: &'a dyn Ui,
    task: u64,
    running: Mutex<Running>,
}

#[derive(Default)]
struct Running {
    layers: Option<u64>,
    manifests: Vec<u64>,
}

impl BuildWatcher<'_> {
    fn finish(&self, error: Option<&Error>) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let error = error.map(crate::error::chain);
        let tasks = running.layers.take().into_iter();
        for task in tasks.chain(std::mem::take(&mut running.manifests)) {
            self.ui.task_finished(task, error.as_deref());
        }
    }
}

impl Watcher for BuildWatcher<'_> {
    fn layer(&self, layer: &str, event: LayerEvent) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let task = *running
            .layers
            .get_or_insert_with(|| self.ui.task_started("pushing layers"));
        drop(running);
        if let LayerEvent::Sent(sent, total) = event {
            self.ui
                .task_progress(task, layer, sent, total.unwrap_or_default());
        }
    }

    fn manifest(&self, reference: &Reference, digest: &str) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(layers) = running.layers.take() {
            self.ui.task_finished(layers, None);
        }
        let name = Reference {
            digest: None,
            ..reference.clone()
        };
        let task = self
            .ui
            .task_started(&format!("pushing manifest for {name}@{digest}"));
        running.manifests.push(task);
    }

    fn note(&self, text: &str) {
        self.ui.task_progress(self.task, text, 0, 0);
    }
}
