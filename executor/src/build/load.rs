//! Images given to a daemon or a program beside the store: as much of them as the receiver lacks.

use crate::Error;
use crate::build::exporter::{Exported, Exporter};
use crate::build::image::Image;
use crate::build::manifest::{self, Desc, Document};
use crate::layer::{self, Compression};
use crate::output::archive::{Contents, familiar};
use crate::output::daemon::archive::{DockerArchive, Part};
use crate::output::daemon::docker::{Docker, Keeping};
use crate::output::daemon::program::Program;
use crate::request::{LoadTarget, OutputRequest, Receiver};
use oci_spec::image::Digest;
use std::collections::BTreeSet;
use std::io;

/// What is loaded, and on whose behalf.
struct Load<'a> {
    exporter: &'a Exporter<'a>,
    output: &'a OutputRequest,
    images: &'a [Image],
    /// Normalised.
    names: &'a [String],
    task: u64,
}

impl Exporter<'_> {
    /// Loads what is in the store already. The result names the image as the receiver does, where it has a say.
    pub(super) fn load(
        &self,
        output: &OutputRequest,
        target: &LoadTarget,
        images: &[Image],
        stored: Exported,
    ) -> Result<Exported, Error> {
        let path = &self.request.search_path;
        let name = match &target.receiver {
            Receiver::Docker(endpoint) => format!("importing to docker ({})", endpoint.name),
            Receiver::Podman => "importing to podman".to_owned(),
            Receiver::Containerd { .. } => "importing to containerd".to_owned(),
        };
        let names = stored.names.clone();
        self.task(&name, move |task| {
            let load = Load {
                exporter: self,
                output,
                images,
                names: &names,
                task,
            };
            let root = match &target.receiver {
                Receiver::Docker(endpoint) => {
                    load.docker(&mut Docker::new(endpoint, path, self.cancel))?
                }
                Receiver::Podman => {
                    load.podman(&Program::podman(path, self.cancel))?;
                    None
                }
                Receiver::Containerd { namespace } => {
                    let program = Program::containerd(namespace.as_deref(), path, self.cancel);
                    Some(load.containerd(&program)?)
                }
            };
            let mut loaded = stored;
            if let Some(root) = root {
                loaded.desc = Some(root);
                loaded.by_manifest = true;
            }
            Ok(loaded)
        })
    }
}

impl Load<'_> {
    /// Gives the manifest or index where it is the image's id in the daemon.
    fn docker(&self, docker: &mut Docker<'_>) -> Result<Option<Desc>, Error> {
        let keeping = docker.keeping().map_err(|error| docker.failed(error))?;
        match keeping {
            Keeping::Content => return self.content(docker).map(Some),
            Keeping::Layers => self.layers(docker)?,
            Keeping::Whole => {
                let image = self.only()?;
                let names = self.names.to_vec();
                let id = image.config_digest.as_ref();
                if self.is_tagged(docker, id, &names)? {
                    return Ok(None);
                }
                let archive = self.archive(image, 0, names)?;
                docker.load(|out| archive.write(self.exporter.space, out, &self.progress()))?;
            }
        }
        Ok(None)
    }

    /// Layers below the first that the daemon lacks are not sent.
    fn layers(&self, docker: &mut Docker<'_>) -> Result<(), Error> {
        let image = self.only()?;
        let names: Vec<String> = self
            .names
            .iter()
            .map(|name| familiar(name).to_owned())
            .collect();
        if self.is_tagged(docker, image.config_digest.as_ref(), &names)? {
            return Ok(());
        }
        let diff_ids: Vec<String> = image.layers.iter().map(ToString::to_string).collect();
        let shared = docker.shared_layers(&diff_ids);
        let shared = shared.map_err(|error| docker.failed(error))?;
        let archive = self.archive(image, shared, names.clone())?;
        let sent = docker.load(|out| archive.write(self.exporter.space, out, &self.progress()));
        match sent {
            // What it had may have been removed meanwhile.
            Err(Error::Load { .. }) if shared > 0 && !self.exporter.cancel.is_cancelled() => {
                let archive = self.archive(image, 0, names)?;
                docker.load(|out| archive.write(self.exporter.space, out, &self.progress()))
            }
            sent => sent,
        }
    }

    /// An image layout without the blobs that the daemon has.
    fn content(&self, docker: &mut Docker<'_>) -> Result<Desc, Error> {
        let store = self.exporter.space.store();
        let (mut contents, root) = self.exporter.layout(self.output, self.images)?;
        let complete = docker.manifests().map_err(|error| docker.failed(error))?;
        let members = self.members(&contents);
        if members.iter().all(|digest| complete.contains(digest)) {
            let names: Vec<String> = self
                .names
                .iter()
                .map(|name| familiar(name).to_owned())
                .collect();
            if self.is_tagged(docker, &root.digest, &names)? {
                return Ok(root);
            }
        }
        // The next load finds by them what is there.
        for digest in &members {
            super::exporter::put(
                store,
                &manifest::digest(digest)?,
                &contents.documents[digest],
            )?;
        }
        let all = contents.blobs.clone();
        let known = self.blobs_of(&complete);
        contents.blobs.retain(|digest, _| !known.contains(digest));
        let is_partial = contents.blobs.len() < all.len();
        match self.send(docker, &contents) {
            Err(Error::Load { .. }) if is_partial && !self.exporter.cancel.is_cancelled() => {
                contents.blobs = all;
                self.send(docker, &contents)?;
            }
            sent => sent?,
        }
        Ok(root)
    }

    fn send(&self, docker: &mut Docker<'_>, contents: &Contents) -> Result<(), Error> {
        let store = self.exporter.space.store();
        docker.load(|mut out| contents.write_tar(store, &mut out, &self.progress()))
    }

    fn podman(&self, podman: &Program<'_>) -> Result<(), Error> {
        let image = self.only()?;
        let id = image.config_digest.as_ref();
        if podman.has_image(id).map_err(|error| podman.failed(error))? {
            for name in self.names {
                let tagged = podman.run(&["tag", id, name]);
                tagged.map_err(|error| podman.failed(error))?;
            }
            return Ok(());
        }
        // With the registry in its names, so that they do not become names of localhost.
        let archive = self.archive(image, 0, self.names.to_vec())?;
        podman.feed(&["load", "--quiet"], |out| {
            archive.write(self.exporter.space, out, &self.progress())
        })
    }

    fn containerd(&self, ctr: &Program<'_>) -> Result<Desc, Error> {
        if self.names.is_empty() {
            let error = io::Error::other("an image needs a name there: give -t");
            return Err(ctr.failed(error));
        }
        let (mut contents, root) = self.exporter.layout(self.output, self.images)?;
        let known = ctr.content().map_err(|error| ctr.failed(error))?;
        contents.blobs.retain(|digest, _| !known.contains(digest));
        let mut args = vec!["images", "import"];
        if self.images.len() > 1 {
            args.push("--all-platforms");
        }
        args.push("-");
        let store = self.exporter.space.store();
        ctr.feed(&args, |mut out| {
            contents.write_tar(store, &mut out, &self.progress())
        })?;
        Ok(root)
    }

    /// Whether the daemon has the image; then it gets the names that it lacks.
    fn is_tagged(
        &self,
        docker: &mut Docker<'_>,
        id: &str,
        names: &[String],
    ) -> Result<bool, Error> {
        let found = docker.names_of(id).map_err(|error| docker.failed(error))?;
        let Some(present) = found else {
            return Ok(false);
        };
        for name in names.iter().filter(|name| !present.contains(name)) {
            docker.tag(id, name).map_err(|error| docker.failed(error))?;
        }
        Ok(true)
    }

    fn only(&self) -> Result<&Image, Error> {
        match self.images {
            [image] if !self.exporter.request.wants_index() => Ok(image),
            _ => Err(Error::Request(
                "docker exporter does not currently support exporting manifest lists".to_owned(),
            )),
        }
    }

    /// The image with all layers but the lowest `shared` ones.
    fn archive<'i>(
        &self,
        image: &'i Image,
        shared: usize,
        names: Vec<String>,
    ) -> Result<DockerArchive<'i>, Error> {
        let mut layers = Vec::with_capacity(image.layers.len());
        for (position, diff_id) in image.layers.iter().enumerate() {
            if self.exporter.cancel.is_cancelled() {
                return Err(Error::Cancelled);
            }
            layers.push(if position < shared {
                Part::Known(diff_id.clone())
            } else {
                self.part(image, position, diff_id)?
            });
        }
        Ok(DockerArchive {
            config: &image.config,
            config_digest: &image.config_digest,
            layers,
            names,
        })
    }

    /// A layer as the store has it; the receiver keeps it unpacked whatever its form was.
    fn part(&self, image: &Image, position: usize, diff_id: &Digest) -> Result<Part, Error> {
        let exporter = self.exporter;
        let store = exporter.space.store();
        if self.output.compression.is_some() {
            let compression = super::exporter::compression(self.output)?;
            let force = self.output.force_compression;
            let desc = exporter.exported_layer(image, position, compression, force)?;
            return Ok(Part::Blob(desc));
        }
        let meta = store.layer(diff_id)?;
        let inherited = exporter
            .fetcher
            .descriptor(diff_id)
            .filter(|desc| position < image.base_layers && desc.media_type.ends_with("gzip"));
        if let Some(desc) = inherited
            && store.blob_size(&desc.digest()?).is_some()
        {
            return Ok(Part::Blob(desc.clone()));
        }
        match meta.and_then(|meta| meta.size) {
            Some(size) => Ok(Part::Plain(diff_id.clone(), size)),
            None => {
                let blob = layer::blob(exporter.space, diff_id, Compression::Uncompressed, false)?;
                Ok(Part::Blob(Desc::of(&blob)))
            }
        }
    }

    /// Digests of the manifests in a layout.
    fn members(&self, contents: &Contents) -> Vec<String> {
        let documents = contents.documents.iter();
        documents
            .filter(|(digest, bytes)| {
                matches!(Document::parse(digest, bytes), Ok(Document::Manifest(manifest)) if !manifest.layers.is_empty())
            })
            .map(|(digest, _)| digest.clone())
            .collect()
    }

    /// Blobs of those manifests that the store knows, too.
    fn blobs_of(&self, manifests: &BTreeSet<String>) -> BTreeSet<String> {
        let store = self.exporter.space.store();
        let mut blobs = BTreeSet::new();
        for digest in manifests {
            let bytes = manifest::digest(digest)
                .ok()
                .and_then(|digest| store.read_blob(&digest, manifest::MANIFEST_LIMIT).ok());
            if let Some(Ok(Document::Manifest(manifest))) =
                bytes.map(|bytes| Document::parse(digest, &bytes))
            {
                blobs.extend(manifest.layers.into_iter().map(|layer| layer.digest));
            }
        }
        blobs
    }

    fn progress(&self) -> impl Fn(u64, u64) -> io::Result<()> {
        |done, total| {
            let exporter = self.exporter;
            exporter.ui.task_progress(self.task, "sending", done, total);
            if exporter.cancel.is_cancelled() {
                Err(io::Error::other("cancelled"))
            } else {
                Ok(())
            }
        }
    }
}
