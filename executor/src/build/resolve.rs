//! Finds base images: named contexts, OCI layouts, the store, registries. Reads manifests and configs only;
//! layers are fetched when a step needs them.

use crate::Error;
use crate::build::Ui;
use crate::build::fetch::{ImageSource, Origin};
use crate::build::layout::Layout;
use crate::build::manifest::{self, Config, Desc, Index};
use crate::build::prepare::Pending;
use crate::places;
use crate::pull;
use crate::pull::select::{Picked, choose, diff_ids_of, pick};
use crate::remote::Remote;
use crate::repo_digests;
use crate::request::{BuildRequest, ContextSource};
use crate::space::Space;
use planner::lower::{BaseRequest, ResolvedBase, ResolvedImage};
use planner::platform::Platform;
use registry_client::Reference;
use std::path::Path;
use store::{ImageRef, Store};

/// Resolves the bases of one build.
pub(crate) struct Resolver<'a> {
    pub space: &'a Space,
    pub request: &'a BuildRequest,
    pub remote: &'a Remote,
    pub pending: &'a Pending<'a>,
    pub ui: &'a dyn Ui,
}

/// A base that could not be resolved, and why.
pub(crate) type Failure = (BaseRequest, Error);

/// What finding an image without the network gave.
enum Local {
    Found(Box<ResolvedImage>),
    /// Ask the registry. The text says what the store has instead, if anything.
    Absent(Option<String>),
}

impl Resolver<'_> {
    /// Answers all requests, those that need a registry at the same time; or says of each why not.
    pub(crate) fn resolve(
        &self,
        requests: &[BaseRequest],
    ) -> Result<Vec<ResolvedBase>, Vec<Failure>> {
        let mut answers: Vec<Option<ResolvedBase>> = Vec::with_capacity(requests.len());
        let mut failures: Vec<Failure> = Vec::new();
        for request in requests {
            match self.without_network(request) {
                Ok(answer) => answers.push(answer),
                Err(error) => failures.push((request.clone(), error)),
            }
        }
        if !failures.is_empty() {
            return Err(failures);
        }
        std::thread::scope(|scope| {
            let mut waiting = Vec::new();
            for (request, answer) in requests.iter().zip(&mut answers) {
                if answer.is_none() {
                    waiting.push((request, answer, scope.spawn(|| self.over_network(request))));
                }
            }
            for (request, answer, thread) in waiting {
                let found = thread.join().expect("BUG: resolving does not panic");
                match found {
                    Ok(base) => *answer = Some(base),
                    Err(error) => failures.push((request.clone(), error)),
                }
            }
        });
        if failures.is_empty() {
            Ok(answers.into_iter().flatten().collect())
        } else {
            Err(failures)
        }
    }

    fn without_network(&self, request: &BaseRequest) -> Result<Option<ResolvedBase>, Error> {
        let name = &request.name;
        let image = match self.request.named_contexts.get(name) {
            Some(ContextSource::Empty) => return Ok(Some(ResolvedBase::Scratch)),
            Some(ContextSource::Directory(_) | ContextSource::Unpacked(_)) => {
                return Ok(Some(ResolvedBase::Directory(name.clone())));
            }
            Some(ContextSource::OciLayout { dir, tag, digest }) => {
                let layout = Layout::open(dir)?;
                let roots = layout.select(tag.as_deref(), digest.as_deref())?;
                Some(self.image_of_layout(name, (&layout, dir), roots, &request.platform)?)
            }
            Some(ContextSource::Image(text)) => self.in_store(text, &request.platform)?,
            Some(source) if source.is_pending() => None,
            Some(_) => {
                let message = format!("context {name:?} is no base");
                return Err(Error::Request(message));
            }
            None => self.in_store(name, &request.platform)?,
        };
        Ok(image.map(|image| ResolvedBase::Image(Box::new(image))))
    }

    fn over_network(&self, request: &BaseRequest) -> Result<ResolvedBase, Error> {
        let name = &request.name;
        match self.request.named_contexts.get(name) {
            Some(source) if source.is_pending() => {
                self.pending.named(name, source)?;
                Ok(ResolvedBase::Directory(name.clone()))
            }
            _ => Ok(ResolvedBase::Image(Box::new(self.in_registry(request)?))),
        }
    }

    fn image_of_layout(
        &self,
        name: &str,
        (layout, dir): (&Layout, &Path),
        mut roots: Vec<Desc>,
        platform: &Platform,
    ) -> Result<ResolvedImage, Error> {
        let read = |desc: &Desc| layout.blob(desc, manifest::MANIFEST_LIMIT);
        let root = match roots.len() {
            1 => roots.remove(0),
            _ => choose(name, &Index::of(roots), platform, &read)?,
        };
        let bytes = read(&root)?;
        let picked = pick(name, root, bytes, platform, &read)?;
        let config = layout.blob(&picked.manifest.config, manifest::CONFIG_LIMIT)?;
        self.image(name, &picked, &config, Origin::Layout(dir.to_owned()))
    }

    fn in_store(&self, text: &str, platform: &Platform) -> Result<Option<ResolvedImage>, Error> {
        for reference in self.names(text)? {
            if self.request.pull && reference.digest.is_none() {
                continue;
            }
            if let Local::Found(image) = self.look_in_store(&reference, platform)? {
                return Ok(Some(*image));
            }
        }
        Ok(None)
    }

    /// What a name may be in the store: what it means to builds, then what registries.conf makes of it.
    fn names(&self, text: &str) -> Result<Vec<Reference>, Error> {
        let plain = parse(text)?;
        // What is wrong with the configuration matters only to those who ask a registry.
        let mut names = self.remote.candidates(text).unwrap_or_default();
        if !names.contains(&plain) {
            names.insert(0, plain);
        }
        Ok(names)
    }

    fn look_in_store(&self, reference: &Reference, platform: &Platform) -> Result<Local, Error> {
        let store = self.space.store();
        let Some(root) = root_in_store(store, reference)? else {
            return Ok(Local::Absent(None));
        };
        let digest = root.digest()?;
        let bytes = match store.read_blob(&digest, manifest::MANIFEST_LIMIT) {
            Ok(bytes) => bytes,
            Err(store::Error::NotFound { .. }) => return Ok(Local::Absent(None)),
            Err(error) => return Err(error.into()),
        };
        let name = reference.to_string();
        let read = |desc: &Desc| Ok(store.read_blob(&desc.digest()?, manifest::MANIFEST_LIMIT)?);
        let picked = match pick(&name, root, bytes, platform, &read) {
            Ok(picked) => picked,
            Err(Error::Image { reason, .. }) => return Ok(Local::Absent(Some(reason))),
            Err(Error::Store(store::Error::NotFound { .. })) => return Ok(Local::Absent(None)),
            Err(error) => return Err(error),
        };
        let config =
            match store.read_blob(&picked.manifest.config.digest()?, manifest::CONFIG_LIMIT) {
                Ok(config) => config,
                Err(store::Error::NotFound { .. }) => return Ok(Local::Absent(None)),
                Err(error) => return Err(error.into()),
            };
        let found = Config::parse(&name, &config)?.platform();
        if platform.best_match(std::slice::from_ref(&found)).is_none() {
            return Ok(Local::Absent(Some(format!(
                "the store has it for {found}, not for {platform}"
            ))));
        }
        self.image(&name, &picked, &config, Origin::Repository(name.clone()))
            .map(|image| Local::Found(Box::new(image)))
    }

    fn in_registry(&self, request: &BaseRequest) -> Result<ResolvedImage, Error> {
        let text = match self.request.named_contexts.get(&request.name) {
            Some(ContextSource::Image(text)) => text.as_str(),
            _ => request.name.as_str(),
        };
        parse(text)?;
        let candidates = self.remote.candidates(text)?;
        pull::first_of(text, &candidates, |reference| {
            self.ask_registry(reference, &request.platform)
        })
    }

    fn ask_registry(
        &self,
        reference: &Reference,
        platform: &Platform,
    ) -> Result<ResolvedImage, Error> {
        let task = self.ui.task_started(&format!("resolve {reference}"));
        let resolved = self.pull_manifests(reference, platform);
        let error = resolved.as_ref().err().map(crate::error::chain);
        self.ui.task_finished(task, error.as_deref());
        match resolved {
            Err(error @ Error::Registry { .. }) => match self.look_in_store(reference, platform)? {
                Local::Absent(Some(reason)) => Err(Error::Unavailable {
                    reason,
                    source: Box::new(error),
                }),
                _ => Err(error),
            },
            resolved => resolved,
        }
    }

    fn pull_manifests(
        &self,
        reference: &Reference,
        platform: &Platform,
    ) -> Result<ResolvedImage, Error> {
        let name = reference.to_string();
        let root = self.remote.manifest(reference, None)?;
        let store = self.space.store();
        store.put_blob(&root.bytes)?;
        let read = |desc: &Desc| -> Result<Vec<u8>, Error> {
            let digest = desc.digest()?;
            let bytes = match store.read_blob(&digest, manifest::MANIFEST_LIMIT) {
                Ok(bytes) => bytes,
                Err(_) => self.remote.manifest(reference, Some(&digest))?.bytes,
            };
            store.put_blob(&bytes)?;
            Ok(bytes)
        };
        let picked = pick(
            &name,
            Desc::of(&root.descriptor),
            root.bytes.clone(),
            platform,
            &read,
        )?;
        let config_desc = &picked.manifest.config;
        let config = match store.read_blob(&config_desc.digest()?, manifest::CONFIG_LIMIT) {
            Ok(config) => config,
            Err(_) => self
                .remote
                .small_blob(reference, config_desc, manifest::CONFIG_LIMIT)?,
        };
        let image = self.image(&name, &picked, &config, Origin::Repository(name.clone()))?;
        // The layers may never come here; then these say where they are.
        let layers = picked.manifest.layers.iter();
        for desc in layers.chain([&picked.manifest.config]) {
            if desc.urls.is_empty() {
                places::remember(store, &desc.digest()?, reference)?;
            }
        }
        let digest = root.descriptor.digest();
        repo_digests::came_from(store, digest, reference)?;
        if reference.digest.is_none() {
            let tagged = crate::build::image::rfc3339(self.request.now);
            store.tag(&ImageRef {
                name: name.clone(),
                descriptor: root.descriptor,
                tagged,
            })?;
        }
        Ok(image)
    }

    /// Puts manifest and config into the store and says what lowering needs to know.
    fn image(
        &self,
        name: &str,
        picked: &Picked,
        config: &[u8],
        origin: Origin,
    ) -> Result<ResolvedImage, Error> {
        let parsed = Config::parse(name, config)?;
        let layers = picked.manifest.layers.clone();
        diff_ids_of(name, &layers, &parsed)?;
        let store = self.space.store();
        for (bytes, digest) in [
            (picked.bytes.as_slice(), &picked.desc),
            (config, &picked.manifest.config),
        ] {
            if store.blob_size(&digest.digest()?).is_none() {
                store.put_blob(bytes)?;
            }
        }
        let source = ImageSource { origin, layers };
        Ok(ResolvedImage {
            reference: name.to_owned(),
            manifest_digest: picked.desc.digest.clone(),
            diff_ids: parsed.diff_ids,
            config: parsed.config,
            history: parsed.history,
            source: serde_json::to_string(&source).expect("BUG: a source has string keys only"),
        })
    }
}

fn parse(text: &str) -> Result<Reference, Error> {
    Reference::parse(text).map_err(|source| Error::Registry {
        reference: text.to_owned(),
        source,
    })
}

/// What the store has under a reference: a digest finds its blob whatever it is called.
fn root_in_store(store: &Store, reference: &Reference) -> Result<Option<Desc>, Error> {
    if let Some(digest) = &reference.digest {
        let digest = manifest::digest(digest)?;
        return Ok(store
            .blob_size(&digest)
            .map(|size| Desc::new("", &digest, size)));
    }
    Ok(store
        .reference(&reference.to_string())?
        .map(|image| Desc::of(&image.descriptor)))
}
