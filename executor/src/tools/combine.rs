//! One image of several that are in registries, as `docker buildx imagetools create` makes it, byte for byte.
//!
//! Manifests are copied into the repository by digest where it lacks them, layers mounted or passed through; names are set last.

use super::document::{self, ATTESTATION_OF, Doc};
use super::indented::ordered;
use super::parallel::each;
use super::say::Say;
use super::source::Source;
use super::transfer::Transfer;
use crate::Error;
use crate::build::manifest::{
    self, CONFIG_LIMIT, DOCKER_LIST, Desc, DescPlatform, Document, Index, OCI_INDEX,
};
use crate::remote::Remote;
use crate::request::{Annotation, AnnotationPlace, select};
use planner::platform::Platform;
use registry_client::Reference;
use serde_json::Value;
use std::collections::BTreeMap;

/// Times that an append begins anew because the tag has changed under it.
const ATTEMPTS: u32 = 10;

/// One source: a name, a digest, or a descriptor, which say more and more.
#[derive(Clone, Debug, Default)]
pub struct CombineSource {
    reference: Option<Reference>,
    desc: Option<Desc>,
}

/// What is made.
#[derive(Clone, Debug)]
pub struct Combine {
    /// Names that it gets.
    pub tags: Vec<Reference>,
    /// What it is made of.
    pub sources: Vec<CombineSource>,
    /// Annotations of the index and of the descriptors in it.
    pub annotations: Vec<Annotation>,
    /// What the names mean now is part of it; of one platform the newer image stays.
    pub append: bool,
    /// A single image gets an index too.
    pub prefer_index: bool,
    /// These platforms only.
    pub platforms: Vec<Platform>,
    /// Joined with what others join under the same names at the same time; the text tells runs apart.
    pub join: Option<String>,
}

/// What was made.
#[derive(Clone, Debug)]
pub struct Combined {
    /// The image's manifest or index.
    pub bytes: Vec<u8>,
    /// Its descriptor.
    pub descriptor: Value,
    /// Its digest.
    pub digest: String,
}

/// An image or attestation, and the repository that has it.
#[derive(Clone)]
pub(super) struct Part {
    pub desc: Desc,
    pub at: Reference,
}

impl CombineSource {
    /// Reads a source: a name, `sha256:...`, or a descriptor in JSON.
    ///
    /// # Errors
    /// None of these.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let text = text.trim();
        if text.starts_with('{') {
            let desc: Desc = serde_json::from_str(text)
                .map_err(|error| Error::Request(format!("invalid descriptor {text:?}: {error}")))?;
            desc.digest()?;
            return Ok(Self {
                reference: None,
                desc: Some(desc),
            });
        }
        if let Ok(digest) = manifest::digest(text) {
            return Ok(Self {
                reference: None,
                desc: Some(Desc::new("", &digest, 0)),
            });
        }
        let reference = Reference::parse(text).map_err(|source| Error::Reference { source })?;
        Ok(Self {
            reference: Some(reference),
            desc: None,
        })
    }
}

impl Combine {
    /// What it would be; nothing is written.
    ///
    /// # Errors
    /// A source that is not there, or says no platform.
    pub fn dry_run(&self, remote: &Remote) -> Result<Combined, Error> {
        let base = match self.tags.first().filter(|_| self.append) {
            Some(tag) => Some(existing(remote, tag)?),
            None => None,
        };
        Ok(self.combined(remote, base.as_ref())?.0.into())
    }

    /// Makes it under all names.
    ///
    /// # Errors
    /// As [`Combine::dry_run`]; the registry; a tag that others change all the time.
    pub fn run(&self, remote: &Remote, say: Say<'_>) -> Result<Combined, Error> {
        if self.tags.is_empty() {
            return Err(Error::Request(
                "can't push with no tags specified, please set --tag or --dry-run".to_owned(),
            ));
        }
        let mut last = None;
        for tag in &self.tags {
            last = Some(match (&self.join, self.append) {
                (Some(id), _) => {
                    let (doc, parts) = self.combined(remote, None)?;
                    let parts = self.taken_apart(remote, &doc, parts)?;
                    bring(remote, &parts, tag, say)?;
                    let parts: Vec<Desc> = parts.into_iter().map(|part| part.desc).collect();
                    super::join::join(remote, tag, &parts, id, &|found| self.index(found))?
                }
                (None, true) => self.appended(remote, tag, say)?,
                (None, false) => {
                    let (doc, parts) = self.combined(remote, None)?;
                    self.put(remote, &doc, &parts, tag, say)?;
                    doc
                }
            });
        }
        let made = last.ok_or_else(|| Error::Request("no sources specified".to_owned()))?;
        Ok(made.into())
    }

    /// Reads, merges and writes, again when somebody else has written in between.
    fn appended(&self, remote: &Remote, tag: &Reference, say: Say<'_>) -> Result<Doc, Error> {
        for attempt in 0..ATTEMPTS {
            let base = existing(remote, tag)?;
            let (doc, parts) = self.combined(remote, Some(&base))?;
            bring(remote, &parts, tag, say)?;
            let is_unchanged = |known: &Doc| remote.has_manifest(tag, &known.desc.digest()?);
            if base.1.desc.digest == doc.desc.digest {
                return Ok(doc);
            }
            if is_unchanged(&base.1)? {
                self.put(remote, &doc, &parts, tag, say)?;
                // Who read before this write, and writes after it, is seen here if it is quick.
                std::thread::sleep(super::join::pause(attempt));
                if is_unchanged(&doc)? {
                    return Ok(doc);
                }
            }
        }
        Err(Error::Request(format!(
            "{tag} was changed by others {ATTEMPTS} times in a row; use --join where several runners add to one name"
        )))
    }

    fn put(
        &self,
        remote: &Remote,
        doc: &Doc,
        parts: &[Part],
        tag: &Reference,
        say: Say<'_>,
    ) -> Result<(), Error> {
        bring(remote, parts, tag, say)?;
        if remote.has_manifest(tag, &doc.desc.digest()?)? {
            return Ok(());
        }
        say(&format!("pushing {} to {tag}", doc.desc.digest));
        remote.put_manifest(tag, &doc.desc.media_type, &doc.bytes)?;
        Ok(())
    }

    /// The image over all sources, and what must be in the repository before it.
    fn combined(
        &self,
        remote: &Remote,
        base: Option<&(Reference, Doc)>,
    ) -> Result<(Doc, Vec<Part>), Error> {
        if self.sources.is_empty() && base.is_none() {
            return Err(Error::Request("no sources specified".to_owned()));
        }
        let mut found = each(&self.sources, |source| self.read(remote, source))?;
        if let Some((tag, doc)) = base {
            let desc = described(remote, tag, doc, doc.desc.clone())?;
            found.insert(0, (tag.clone(), doc.clone(), desc));
        }
        if let ([(at, doc, desc)], true, true) = (
            found.as_slice(),
            self.annotations.is_empty(),
            self.platforms.is_empty(),
        ) {
            let is_index = matches!(doc.parse()?, Document::Index(_));
            if is_index || !self.prefer_index {
                let part = Part {
                    desc: desc.clone(),
                    at: at.clone(),
                };
                return Ok((doc.clone(), vec![part]));
            }
        }
        let mut parts: Vec<Part> = Vec::new();
        for (position, (at, doc, desc)) in found.iter().enumerate() {
            let new = match doc.parse()? {
                Document::Index(index) => index.manifests,
                Document::Manifest(_) => vec![desc.clone()],
            };
            if base.is_some() && position > 0 {
                replace(&mut parts, &new);
            }
            for desc in new {
                add(&mut parts, desc, at);
            }
        }
        self.filter(&mut parts)?;
        let entries = parts.iter().map(|part| part.desc.clone()).collect();
        Ok((self.index(entries)?, parts))
    }

    /// The images that a document stands for, alone or in an index.
    fn taken_apart(
        &self,
        remote: &Remote,
        doc: &Doc,
        parts: Vec<Part>,
    ) -> Result<Vec<Part>, Error> {
        let is_itself = |part: &Part| part.desc.digest == doc.desc.digest;
        match (doc.parse()?, parts.as_slice()) {
            (Document::Index(index), [only]) if is_itself(only) => Ok(index
                .manifests
                .into_iter()
                .map(|desc| Part {
                    desc,
                    at: only.at.clone(),
                })
                .collect()),
            (Document::Manifest(_), [only]) if is_itself(only) => {
                let desc = described(remote, &only.at, doc, only.desc.clone())?;
                let at = only.at.clone();
                Ok(vec![Part { desc, at }])
            }
            _ => Ok(parts),
        }
    }

    fn read(
        &self,
        remote: &Remote,
        source: &CombineSource,
    ) -> Result<(Reference, Doc, Desc), Error> {
        let reference = match &source.reference {
            Some(reference) => reference.clone(),
            None => self.repository()?,
        };
        let at = match &source.desc {
            Some(desc) => reference.with_digest(&desc.digest()?),
            None => reference,
        };
        let fetched = super::source::fetched(remote, &at, None);
        let doc = fetched.map_err(|error| not_found(&at, error))?;
        let mut desc = source.desc.clone().unwrap_or_else(|| doc.desc.clone());
        desc.size = doc.desc.size;
        if desc.media_type.is_empty() {
            desc.media_type.clone_from(&doc.desc.media_type);
        }
        let desc = described(remote, &at, &doc, desc)?;
        Ok((at, doc, desc))
    }

    /// The repository of sources that are digests.
    fn repository(&self) -> Result<Reference, Error> {
        let named = self.sources.iter().filter_map(|s| s.reference.as_ref());
        let mut repositories: Vec<&Reference> = self.tags.iter().chain(named).collect();
        repositories.dedup_by_key(|reference| reference.name());
        match repositories.as_slice() {
            [] => Err(Error::Request(
                "no repositories specified, please set a reference in tag or source".to_owned(),
            )),
            [only] => Ok((*only).clone()),
            several => {
                let names: Vec<String> = several.iter().map(|r| r.name()).collect();
                Err(Error::Request(format!(
                    "multiple repositories currently not supported, found {}",
                    names.join(", ")
                )))
            }
        }
    }

    fn filter(&self, parts: &mut Vec<Part>) -> Result<(), Error> {
        if self.platforms.is_empty() {
            return Ok(());
        }
        let wanted = |desc: &Desc| {
            let own = desc.platform.as_ref().map(DescPlatform::to_platform);
            own.is_some_and(|own| self.platforms.iter().any(|wanted| wanted.matches(&own)))
        };
        let kept: Vec<String> = parts
            .iter()
            .filter(|part| wanted(&part.desc))
            .map(|part| part.desc.digest.clone())
            .collect();
        if kept.is_empty() {
            let wanted: Vec<String> = self.platforms.iter().map(ToString::to_string).collect();
            return Err(Error::Request(format!(
                "no manifests match the platforms {}",
                wanted.join(", ")
            )));
        }
        parts.retain(|part| {
            let about = part.desc.annotations.get(ATTESTATION_OF);
            kept.contains(&part.desc.digest) || about.is_some_and(|about| kept.contains(about))
        });
        Ok(())
    }

    /// The index over entries, with the annotations.
    pub(super) fn index(&self, mut entries: Vec<Desc>) -> Result<Doc, Error> {
        let media_type = if document::is_dockers(&entries) {
            DOCKER_LIST
        } else {
            OCI_INDEX
        };
        let mut index = Index::of(Vec::new());
        media_type.clone_into(&mut index.media_type);
        for annotation in &self.annotations {
            match annotation.place {
                AnnotationPlace::Manifest => {
                    return Err(Error::Request(
                        "\"manifest\" annotations are not supported yet".to_owned(),
                    ));
                }
                AnnotationPlace::IndexDescriptor => {
                    return Err(Error::Request(
                        "\"index-descriptor\" annotations are invalid while creating an image"
                            .to_owned(),
                    ));
                }
                AnnotationPlace::Index | AnnotationPlace::ManifestDescriptor => {}
            }
        }
        // Docker's lists have none.
        if media_type == OCI_INDEX {
            index.annotations = select(&self.annotations, AnnotationPlace::Index, None);
            for entry in &mut entries {
                let platform = entry.platform.as_ref().map(DescPlatform::to_platform);
                let place = AnnotationPlace::ManifestDescriptor;
                let own = select(&self.annotations, place, platform.as_ref());
                entry.annotations.extend(own);
            }
        }
        index.manifests = entries;
        let value = serde_json::to_value(&index).expect("BUG: an index has string keys only");
        let bytes = ordered(&value);
        let digest = manifest::digest_of(&bytes);
        Ok(Doc {
            desc: Desc::new(media_type, &digest, bytes.len() as u64),
            bytes,
        })
    }
}

impl From<Doc> for Combined {
    fn from(doc: Doc) -> Self {
        Self {
            descriptor: serde_json::to_value(&doc.desc)
                .expect("BUG: a descriptor has string keys only"),
            digest: doc.desc.digest,
            bytes: doc.bytes,
        }
    }
}

/// What a tag is now.
fn existing(remote: &Remote, tag: &Reference) -> Result<(Reference, Doc), Error> {
    let fetched = super::source::fetched(remote, tag, None);
    let doc = fetched.map_err(|error| not_found(tag, error))?;
    let digest = doc.desc.digest()?;
    Ok((tag.with_digest(&digest), doc))
}

/// In buildx's words when a registry does not know it.
pub(super) fn not_found(reference: &Reference, error: Error) -> Error {
    match &error {
        Error::Registry { source, .. } if source.is_not_found() => {
            Error::Request(format!("{reference}: not found"))
        }
        _ => error,
    }
}

/// A manifest's descriptor with its platform, in its canonical spelling, from the config where it is not told.
fn described(remote: &Remote, at: &Reference, doc: &Doc, mut desc: Desc) -> Result<Desc, Error> {
    let Document::Manifest(image) = doc.parse()? else {
        return Ok(desc);
    };
    let is_told = desc
        .platform
        .as_ref()
        .is_some_and(|platform| !platform.os.is_empty() && !platform.architecture.is_empty());
    if !is_told {
        let config = remote.small_blob(at, &image.config, CONFIG_LIMIT)?;
        desc.platform = document::platform_of(&config).map(|platform| DescPlatform {
            other: platform.other.clone(),
            ..DescPlatform::of(&platform.to_platform().normalise())
        });
    }
    Ok(desc)
}

/// An entry of the same digest is told once, with what is said of it anywhere.
fn add(parts: &mut Vec<Part>, desc: Desc, at: &Reference) {
    let known = parts
        .iter_mut()
        .find(|part| part.desc.digest == desc.digest);
    let Some(known) = known else {
        let at = at.clone();
        parts.push(Part { desc, at });
        return;
    };
    if desc.platform.is_some() {
        known.desc.platform = desc.platform;
    }
    known.desc.annotations.extend(desc.annotations);
}

/// Takes out the images whose platforms are among the new ones', and what is attested of them.
fn replace(parts: &mut Vec<Part>, new: &[Desc]) {
    let is_old = |part: &Part| {
        let is_new = |desc: &Desc| {
            desc.digest != part.desc.digest && document::is_same_platform(desc, &part.desc)
        };
        new.iter().any(is_new)
    };
    let old: Vec<String> = parts
        .iter()
        .filter(|part| is_old(part))
        .map(|part| part.desc.digest.clone())
        .collect();
    parts.retain(|part| {
        let about = part.desc.annotations.get(ATTESTATION_OF);
        !old.contains(&part.desc.digest) && about.is_none_or(|about| !old.contains(about))
    });
}

/// Copies what the repository lacks, by digest.
fn bring(remote: &Remote, parts: &[Part], tag: &Reference, say: Say<'_>) -> Result<(), Error> {
    each(parts, |part| {
        let digest = part.desc.digest()?;
        let target = Reference {
            tag: None,
            digest: Some(part.desc.digest.clone()),
            ..tag.clone()
        };
        if part.at.name() == tag.name() || remote.has_manifest(&target, &digest)? {
            return Ok(());
        }
        say(&format!(
            "copying {} from {} to {tag}",
            part.desc.digest,
            part.at.name()
        ));
        let source = Source::Registry {
            remote,
            reference: part.at.clone(),
        };
        let quiet = |_: &str| {};
        let transfer = Transfer::new(remote, &source, tag, &quiet);
        let mut doc = source.document(&part.desc)?;
        doc.desc.media_type.clone_from(&part.desc.media_type);
        transfer.by_digest_of(&doc)
    })
    .map(drop)
}

/// Configs of the images of an index, by platform; the config of a single image under no name.
pub(super) fn configs(
    remote: &Remote,
    at: &Reference,
    doc: &Doc,
) -> Result<BTreeMap<String, Vec<u8>>, Error> {
    let config = |doc: &Doc| match doc.parse()? {
        Document::Manifest(image) => remote.small_blob(at, &image.config, CONFIG_LIMIT).map(Some),
        Document::Index(_) => Ok::<_, Error>(None),
    };
    let Document::Index(index) = doc.parse()? else {
        return Ok(config(doc)?
            .map(|config| (String::new(), config))
            .into_iter()
            .collect());
    };
    let mut found = BTreeMap::new();
    for entry in &index.manifests {
        let Some(platform) = entry.platform.as_ref().filter(|p| !p.is_unknown()) else {
            continue;
        };
        let doc = super::source::fetched(remote, at, Some(entry))?;
        if let Some(config) = config(&doc)? {
            found.insert(platform.to_platform().normalise().to_string(), config);
        }
    }
    Ok(found)
}
