//! Turns the results of a plan into what was asked for: images in the store, archives, folders.

pub(crate) mod publish;

use crate::Error;
use crate::build::again;
use crate::build::fetch::Fetcher;
use crate::build::image::{self, Flavour, Image, Top};
use crate::build::manifest::{self, Desc};
use crate::build::record::StepOutput;
use crate::build::{BuildResult, Ui};
use crate::cache::{Site, inline};
use crate::layer::{self, Compression, Form};
use crate::output::archive::{self, Contents, DockerEntry, Entry};
use crate::output::dest::Destination;
use crate::push::Packing;
use crate::remote::Remote;
use crate::request::{
    Annotation, AnnotationPlace, BuildRequest, OutputDest, OutputKind, OutputRequest, select,
};
use crate::space::Space;
use oci_spec::image::Digest;
use planner::key::CacheKey;
use planner::plan::{Plan, Target};
use planner::platform::Platform;
use planner::scheduler::Cancel;
use registry_client::Reference;
use std::collections::HashMap;
use std::fs::File;
use std::sync::{LazyLock, Mutex};

/// Everything outputs are made from.
pub(crate) struct Exporter<'a> {
    pub space: &'a Space,
    pub request: &'a BuildRequest,
    pub fetcher: &'a Fetcher<'a>,
    pub remote: &'a Remote,
    pub ui: &'a dyn Ui,
    pub cancel: &'a Cancel,
    pub plan: &'a Plan,
    /// Results by target.
    pub results: Vec<StepOutput>,
    pub stdout: Mutex<Option<File>>,
    /// What inline caches are made from, and the steps' keys.
    pub cache: (Site<'a>, &'a [CacheKey]),
}

/// What one output gave.
#[derive(Clone, Debug, Default)]
pub(super) struct Exported {
    pub(super) desc: Option<Desc>,
    pub(super) config: Option<Digest>,
    /// Known by its manifest, not its config.
    pub(super) by_manifest: bool,
    created: Option<String>,
    pub(super) names: Vec<String>,
}

impl Exporter<'_> {
    /// Sees to it that the outputs can be written: that they can be what they are said to be, and that all layers are
    /// here, unless none of the outputs needs them here. Whether they are.
    pub(crate) fn gather(&self) -> Result<bool, Error> {
        let outputs = self.outputs();
        for output in outputs {
            self.check(output)?;
        }
        let needs_bases = |output: &OutputRequest| match output.kind {
            OutputKind::CacheOnly => false,
            OutputKind::Image => output.image.is_stored() || self.changes_layers(output),
            _ => true,
        };
        let needs_tars = |output: &OutputRequest| match output.kind {
            OutputKind::Image | OutputKind::CacheOnly => self.changes_layers(output),
            OutputKind::Local | OutputKind::Tar => false,
            _ => true,
        };
        if outputs.iter().any(needs_tars) {
            self.fetch_bases(Form::Blob)?;
        } else if outputs.iter().any(needs_bases) {
            self.fetch_bases(Form::Readable)?;
        } else {
            return Ok(false);
        }
        Ok(true)
    }

    fn outputs(&self) -> &[OutputRequest] {
        static DEFAULT: LazyLock<[OutputRequest; 1]> = LazyLock::new(|| [OutputRequest::default()]);
        match self.request.outputs.as_slice() {
            [] => DEFAULT.as_slice(),
            given => given,
        }
    }

    /// Writes all outputs, at the same time when there are several.
    pub(crate) fn export(&self) -> Result<BuildResult, Error> {
        let outputs = self.outputs();
        let exported = match outputs {
            [only] => vec![self.one(only)?],
            several => std::thread::scope(|scope| {
                let threads: Vec<_> = several
                    .iter()
                    .map(|output| scope.spawn(|| self.one(output)))
                    .collect();
                let ended = threads
                    .into_iter()
                    .map(|thread| thread.join().expect("BUG: an output does not panic"));
                ended.collect::<Result<Vec<_>, Error>>()
            })?,
        };
        Ok(result(exported))
    }

    fn check(&self, output: &OutputRequest) -> Result<(), Error> {
        let kind = kind_name(output.kind);
        let needs_dest = matches!(output.kind, OutputKind::Local | OutputKind::Tar);
        if needs_dest && output.dest.is_none() {
            return Err(Error::Request(format!("output type={kind} needs dest=")));
        }
        let is_folder =
            output.kind == OutputKind::Local || (!output.tar && is_archive(output.kind));
        if is_folder && matches!(output.dest, Some(OutputDest::Stdout) | None) {
            return Err(Error::Request(format!(
                "output type={kind} writes a folder and needs dest=FOLDER"
            )));
        }
        if is_archive(output.kind) && output.dest.is_none() {
            return Err(Error::Request(format!("output type={kind} needs dest=")));
        }
        if output.kind == OutputKind::Docker && self.plan.targets.len() > 1 {
            let message = "docker exporter does not support exporting manifest lists, use the oci exporter instead";
            return Err(Error::Request(message.to_owned()));
        }
        let compression = compression(output)?;
        if !output.oci_mediatypes && !fits_docker(compression) {
            let name = output.compression.as_deref().unwrap_or_default();
            return Err(Error::Request(format!(
                "compression={name} needs oci-mediatypes=true"
            )));
        }
        self.names(output).map(drop)
    }

    /// Whether layers of steps are written anew for an output.
    fn changes_layers(&self, output: &OutputRequest) -> bool {
        let is_clamped = output.rewrite_timestamp.unwrap_or(true);
        is_clamped && self.epoch(output).is_some()
    }

    /// Whatever is exported must be whole: layers that no step read are fetched now, those of the base and those that
    /// a cache has.
    fn fetch_bases(&self, form: Form) -> Result<(), Error> {
        let (mut missing, mut of_cache) = (Vec::new(), false);
        for output in &self.results {
            for (position, layer) in output.snapshot().layers.into_iter().enumerate() {
                if !layer::is_here(self.space.store(), form, &layer)? && !missing.contains(&layer) {
                    of_cache |= position >= output.base.len();
                    missing.push(layer);
                }
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let name = if of_cache {
            "fetching layers"
        } else {
            "fetching base layers"
        };
        self.task(name, |task| {
            let progress =
                |what: &str, done: u64, total: u64| self.ui.task_progress(task, what, done, total);
            let cancel = self.cancel;
            self.fetcher.ensure_as(form, &missing, &progress, cancel)
        })
    }

    fn one(&self, output: &OutputRequest) -> Result<Exported, Error> {
        match output.kind {
            OutputKind::CacheOnly => Ok(Exported::default()),
            OutputKind::Image => {
                let images = self.images(output)?;
                let stored = self.task("exporting to image", |task| {
                    self.image(output, &images, task)
                })?;
                match &output.load {
                    None => Ok(stored),
                    Some(target) => self.load(output, target, &images, stored),
                }
            }
            OutputKind::Oci => self.task("exporting to oci image format", |task| {
                self.archive(output, task)
            }),
            OutputKind::Docker => self.task("exporting to docker image format", |task| {
                self.archive(output, task)
            }),
            OutputKind::Tar => self.task("exporting to client tarball", |_| self.tar(output)),
            OutputKind::Local => self.task("exporting to client directory", |_| self.local(output)),
        }
    }

    pub(super) fn task<T>(
        &self,
        name: &str,
        work: impl FnOnce(u64) -> Result<T, Error>,
    ) -> Result<T, Error> {
        if self.cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        let task = self.ui.task_started(name);
        let ended = match work(task) {
            Err(_) if self.cancel.is_cancelled() => Err(Error::Cancelled),
            ended => ended,
        };
        let is_of_cache = ended.as_ref().is_err_and(again::is_of_cache);
        if is_of_cache {
            let note = "a layer was not in the cache: the steps that make it run";
            self.ui.task_progress(task, note, 0, 0);
        }
        let error = ended.as_ref().err().filter(|_| !is_of_cache);
        let error = error.map(crate::error::chain);
        self.ui.task_finished(task, error.as_deref());
        ended
    }

    fn names(&self, output: &OutputRequest) -> Result<Vec<String>, Error> {
        publish::names(self.request, output)
    }

    pub(super) fn targets(&self) -> impl Iterator<Item = (&Target, &StepOutput)> {
        self.plan.targets.iter().zip(&self.results)
    }

    /// The time of an output: its own says more than the build's.
    pub(super) fn epoch(&self, output: &OutputRequest) -> Option<i64> {
        output.epoch.unwrap_or(self.request.source_date_epoch)
    }

    /// `--annotation`, then those of the output, which win.
    fn annotations(&self, output: &OutputRequest) -> Vec<Annotation> {
        [self.request.annotations.as_slice(), &output.annotations].concat()
    }

    fn images(&self, output: &OutputRequest) -> Result<Vec<Image>, Error> {
        let epoch = self.epoch(output);
        let rewritten = epoch.filter(|_| output.rewrite_timestamp.unwrap_or(true));
        let annotations = self.annotations(output);
        let mut replaced: HashMap<Digest, Digest> = HashMap::new();
        if let Some(epoch) = rewritten {
            for layer in self
                .results
                .iter()
                .flat_map(|result| &result.chain)
                .map(|link| &link.layer)
            {
                if !replaced.contains_key(layer) {
                    replaced.insert(layer.clone(), layer::clamp_times(self.space, layer, epoch)?);
                }
            }
        }
        if let Compression::Estargz(_) = compression(output)?
            && is_archive(output.kind)
        {
            self.estargz(output, &mut replaced)?;
        }
        let (site, keys) = self.cache;
        self.targets()
            .map(|(target, result)| {
                let cache = inline(site, keys, target, &replaced, epoch)?;
                Ok(Image {
                    annotations: select(
                        &annotations,
                        AnnotationPlace::Manifest,
                        Some(&target.platform),
                    ),
                    rewritten,
                    ..image::assemble(
                        (self.plan, target, result),
                        epoch,
                        &replaced,
                        cache.as_deref(),
                    )
                })
            })
            .collect()
    }

    /// Layers with a table of contents are other layers.
    fn estargz(
        &self,
        output: &OutputRequest,
        replaced: &mut HashMap<Digest, Digest>,
    ) -> Result<(), Error> {
        let compression = compression(output)?;
        for link in self.results.iter().flat_map(|result| &result.chain) {
            let layer = replaced.get(&link.layer).unwrap_or(&link.layer);
            let packed = layer::packed::packed(self.space, layer, compression, true)?;
            replaced.insert(link.layer.clone(), packed.diff_id);
        }
        Ok(())
    }

    fn top(
        &self,
        output: &OutputRequest,
        manifests: Vec<(Platform, Desc)>,
    ) -> Result<(Desc, Option<Vec<u8>>), Error> {
        let top = Top {
            index: self.request.wants_index(),
            annotations: &self.annotations(output),
            flavour: flavour(output),
        };
        top.over(manifests)
    }

    fn stored_layers(&self, image: &Image) -> Result<Vec<Desc>, Error> {
        let store = self.space.store();
        let mut layers = Vec::with_capacity(image.layers.len());
        for (position, diff_id) in image.layers.iter().enumerate() {
            let inherited = self.fetcher.descriptor(diff_id);
            // A layer of a step that only a cache has goes as it is there.
            let is_elsewhere = position >= image.base_layers
                && inherited.is_some()
                && !layer::is_readable(self.space.store(), diff_id)?;
            let inherited = inherited.filter(|_| position < image.base_layers || is_elsewhere);
            let desc = match inherited {
                Some(desc) => desc,
                None => match store.layer(diff_id)?.and_then(|meta| meta.size) {
                    Some(size) => Desc::new(manifest::OCI_LAYER, diff_id, size),
                    None => Desc::of(&layer::blob(
                        self.space,
                        diff_id,
                        Compression::Uncompressed,
                        false,
                    )?),
                },
            };
            layers.push(desc);
        }
        Ok(layers)
    }

    /// As an OCI or Docker archive or folder.
    fn archive(&self, output: &OutputRequest, task: u64) -> Result<Exported, Error> {
        let store = self.space.store();
        // What cannot be written is told before anything is compressed.
        let out = if output.tar {
            Some(self.destination(output.dest.as_ref())?)
        } else {
            None
        };
        let images = self.images(output)?;
        let (contents, root) = self.layout(output, &images)?;
        let exported = exported(root, &images, self.names(output)?);
        let progress = |done: u64, total: u64| {
            self.ui.task_progress(task, "writing", done, total);
            if self.cancel.is_cancelled() {
                Err(std::io::Error::other("cancelled"))
            } else {
                Ok(())
            }
        };
        match (out, &output.dest) {
            (Some(mut out), _) => {
                contents.write_tar(store, &mut out, &progress)?;
                out.commit()?;
            }
            (None, Some(OutputDest::Path(path))) => {
                contents.write_folder(store, path, &progress)?;
            }
            (None, _) => {
                return Err(Error::Request(
                    "an image layout needs dest=FOLDER".to_owned(),
                ));
            }
        }
        Ok(exported)
    }

    /// All of an image layout, blobs made, and what stands on top of it.
    pub(super) fn layout(
        &self,
        output: &OutputRequest,
        images: &[Image],
    ) -> Result<(Contents, Desc), Error> {
        let (flavour, compression) = (flavour(output), compression(output)?);
        let store = self.space.store();
        let mut contents = Contents::default();
        let (mut manifests, mut docker) = (Vec::new(), None);
        for image in images {
            let mut layers = Vec::with_capacity(image.layers.len());
            for position in 0..image.layers.len() {
                if self.cancel.is_cancelled() {
                    return Err(Error::Cancelled);
                }
                let desc =
                    self.exported_layer(image, position, compression, output.force_compression)?;
                archive::add_blob(&mut contents, store, &desc)?;
                layers.push(desc);
            }
            if output.kind == OutputKind::Docker {
                let config = image.config_digest.to_string();
                docker = Some(DockerEntry {
                    config,
                    layers: layers.iter().map(|l| l.digest.clone()).collect(),
                });
            }
            let (desc, bytes) = image.manifest(layers, flavour);
            contents.document(image.config_digest.as_ref(), image.config.clone());
            contents.document(&desc.digest, bytes);
            manifests.push((image.platform.clone(), desc));
        }
        let (root, index) = self.top(output, manifests)?;
        if let Some(bytes) = index {
            contents.document(&root.digest, bytes);
        }
        contents.entries.push(Entry {
            desc: root.clone(),
            names: self.names(output)?,
            created: images.first().and_then(|image| image.created.clone()),
            docker,
        });
        Ok((contents, root))
    }

    /// A layer's blob. What a base image has compressed stays as it is unless all is to be made anew.
    pub(super) fn exported_layer(
        &self,
        image: &Image,
        position: usize,
        compression: Compression,
        force: bool,
    ) -> Result<Desc, Error> {
        let diff_id = &image.layers[position];
        let inherited = self
            .fetcher
            .descriptor(diff_id)
            .filter(|_| position < image.base_layers && !force);
        if let Some(desc) = inherited {
            let is_compressed =
                desc.media_type.ends_with("gzip") || desc.media_type.ends_with("zstd");
            if is_compressed && self.space.store().blob_size(&desc.digest()?).is_some() {
                return Ok(desc.clone());
            }
        }
        let packed = layer::packed::packed(self.space, diff_id, compression, force)?;
        let annotations = packed.descriptor.annotations().clone();
        Ok(Desc {
            annotations: annotations.into_iter().flatten().collect(),
            ..Desc::of(&packed.descriptor)
        })
    }

    pub(super) fn destination(&self, dest: Option<&OutputDest>) -> Result<Destination, Error> {
        match dest {
            Some(OutputDest::Path(path)) => Destination::file(path),
            _ => {
                let file = self
                    .stdout
                    .lock()
                    .expect("BUG: no holder of standard output panics")
                    .take();
                file.map(Destination::stdout).ok_or_else(|| {
                    Error::Request("only one output can go to standard output".to_owned())
                })
            }
        }
    }
}

pub(super) fn put(store: &store::Store, digest: &Digest, bytes: &[u8]) -> Result<(), Error> {
    if store.blob_size(digest).is_none() {
        store.put_blob(bytes)?;
    }
    Ok(())
}

fn exported(root: Desc, images: &[Image], names: Vec<String>) -> Exported {
    let only = if let [only] = images {
        Some(only)
    } else {
        None
    };
    Exported {
        desc: Some(root),
        config: only.map(|image| image.config_digest.clone()),
        by_manifest: false,
        created: images.first().and_then(|image| image.created.clone()),
        names,
    }
}

fn result(exported: Vec<Exported>) -> BuildResult {
    let mut names: Vec<String> = Vec::new();
    for name in exported.iter().flat_map(|output| &output.names) {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    let first = exported
        .into_iter()
        .find(|output| output.desc.is_some())
        .unwrap_or_default();
    let descriptor = first.desc.as_ref().map(|desc| {
        let mut desc = desc.clone();
        if let Some(created) = &first.created {
            desc.annotations.insert(
                "org.opencontainers.image.created".to_owned(),
                created.clone(),
            );
        }
        serde_json::to_value(desc).expect("BUG: a descriptor has string keys only")
    });
    let config = first.config.map(|digest| digest.to_string());
    let digest = first.desc.map(|desc| desc.digest);
    let by_config = config.clone().filter(|_| !first.by_manifest);
    BuildResult {
        image_id: by_config.or_else(|| digest.clone()),
        digest,
        config_digest: config,
        descriptor,
        names,
        ..BuildResult::default()
    }
}

/// A name as the store keeps it: registry, repository and tag.
pub(crate) fn normalised(name: &str) -> Result<String, Error> {
    let reference = Reference::parse(name).map_err(|source| Error::Name {
        name: name.to_owned(),
        source,
    })?;
    if reference.digest.is_some() {
        return Err(Error::Request(format!(
            "invalid tag {name:?}: an image cannot be given a digest"
        )));
    }
    Ok(reference.to_string())
}

fn is_archive(kind: OutputKind) -> bool {
    matches!(kind, OutputKind::Oci | OutputKind::Docker)
}

fn flavour(output: &OutputRequest) -> Flavour {
    if output.oci_mediatypes {
        Flavour::Oci
    } else {
        Flavour::Docker
    }
}

fn kind_name(kind: OutputKind) -> &'static str {
    match kind {
        OutputKind::Local => "local",
        OutputKind::Tar => "tar",
        OutputKind::Oci => "oci",
        OutputKind::Docker => "docker",
        OutputKind::Image => "image",
        OutputKind::CacheOnly => "cacheonly",
    }
}

/// The compression of an output's layers; gzip unless it says otherwise.
pub(super) fn compression(output: &OutputRequest) -> Result<Compression, Error> {
    let packing = Packing::parse(
        output.compression.as_deref(),
        output.compression_level,
        output.force_compression,
    );
    Ok(packing.map_err(Error::Request)?.compression)
}

fn fits_docker(compression: Compression) -> bool {
    Packing {
        compression,
        force: false,
    }
    .fits_docker()
}
