//! Brings an image with all that belongs to it into a repository: blobs first, then manifests, then indexes, the name last.
//!
//! What the repository has is neither read nor sent; what another repository of the same registry has is mounted.

use super::document::Doc;
use super::parallel::each;
use super::source::Source;
use super::stored::is_foreign;
use crate::Error;
use crate::build::manifest::{self, Desc, Document};
use crate::remote::Remote;
use registry_client::{PushedHow, Reference};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

/// Indexes inside indexes that are copied.
const MAX_DEPTH: usize = 16;
/// Manifests that one image may consist of.
const MAX_DOCUMENTS: usize = 10_000;

/// What a transfer did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Manifests and indexes that were sent.
    pub manifests: u64,
    /// Blobs that were there.
    pub existed: u64,
    /// Blobs that the registry took from another repository.
    pub mounted: u64,
    /// Blobs that were sent.
    pub uploaded: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Says what is done, one line each; may be called from several threads.
pub type Say<'a> = &'a (dyn Fn(&str) + Sync);

/// One image into one repository.
pub(super) struct Transfer<'a> {
    pub remote: &'a Remote,
    pub source: &'a Source<'a>,
    /// Repository and tag.
    pub target: &'a Reference,
    pub say: Say<'a>,
    pub counts: Mutex<Counts>,
}

/// What has to be brought, without repetition.
#[derive(Default)]
struct Parts {
    documents: HashMap<String, (Doc, Vec<Desc>)>,
    /// With the digest of a manifest that each belongs to.
    blobs: BTreeMap<String, (Desc, String)>,
}

impl<'a> Transfer<'a> {
    pub(super) fn new(
        remote: &'a Remote,
        source: &'a Source<'a>,
        target: &'a Reference,
        say: Say<'a>,
    ) -> Self {
        Self {
            remote,
            source,
            target,
            say,
            counts: Mutex::default(),
        }
    }

    /// The repository, by digest.
    fn by_digest(&self, digest: &str) -> Reference {
        Reference {
            tag: None,
            digest: Some(digest.to_owned()),
            ..self.target.clone()
        }
    }

    /// Brings everything below a document, and puts it under the target's tag (by digest when it has none).
    pub(super) fn run(&self, root: &Doc) -> Result<Counts, Error> {
        self.below(root)?;
        self.put(root, self.target)?;
        Ok(self.counts())
    }

    pub(super) fn counts(&self) -> Counts {
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings everything that a document needs, and not the document.
    pub(super) fn below(&self, root: &Doc) -> Result<(), Error> {
        let parts = self.parts(root)?;
        let blobs: Vec<&(Desc, String)> = parts.blobs.values().collect();
        each(&blobs, |(desc, manifest)| self.blob(desc, manifest))?;
        let is_leaf = |children: &Vec<Desc>| children.is_empty();
        let leaves: Vec<&Doc> = parts
            .documents
            .values()
            .filter(|(doc, children)| is_leaf(children) && doc.desc.digest != root.desc.digest)
            .map(|(doc, _)| doc)
            .collect();
        each(&leaves, |doc| {
            self.put(doc, &self.by_digest(&doc.desc.digest))
        })?;
        let mut done: HashSet<&str> = leaves
            .iter()
            .map(|doc| doc.desc.digest.as_str())
            .chain([root.desc.digest.as_str()])
            .collect();
        self.put_below(&parts, &root.desc.digest, &mut done)
    }

    /// Puts the indexes below one, the innermost first.
    fn put_below<'p>(
        &self,
        parts: &'p Parts,
        digest: &str,
        done: &mut HashSet<&'p str>,
    ) -> Result<(), Error> {
        let Some((_, children)) = parts.documents.get(digest) else {
            return Ok(());
        };
        for child in children {
            let Some((doc, _)) = parts.documents.get(&child.digest) else {
                continue;
            };
            if done.insert(&child.digest) {
                self.put_below(parts, &child.digest, done)?;
                self.put(doc, &self.by_digest(&child.digest))?;
            }
        }
        Ok(())
    }

    /// Finds out what the repository lacks, a level of indexes at a time.
    fn parts(&self, root: &Doc) -> Result<Parts, Error> {
        let mut parts = Parts::default();
        let mut level = vec![root.clone()];
        for _ in 0..MAX_DEPTH {
            let mut wanted: Vec<Desc> = Vec::new();
            for doc in level {
                let children = self.read(&doc, &mut parts)?;
                wanted.extend(children.iter().cloned());
                parts
                    .documents
                    .insert(doc.desc.digest.clone(), (doc, children));
            }
            wanted.sort_by(|a, b| a.digest.cmp(&b.digest));
            wanted.dedup_by(|a, b| a.digest == b.digest);
            wanted.retain(|desc| !parts.documents.contains_key(&desc.digest));
            if wanted.is_empty() {
                return Ok(parts);
            }
            if parts.documents.len() + wanted.len() > MAX_DOCUMENTS {
                return Err(self.bad(format!(
                    "it consists of more than {MAX_DOCUMENTS} manifests"
                )));
            }
            level = each(&wanted, |desc| self.missing(desc))?
                .into_iter()
                .flatten()
                .collect();
        }
        Err(self.bad(format!("its indexes are nested more than {MAX_DEPTH} deep")))
    }

    fn bad(&self, reason: String) -> Error {
        Error::Image {
            subject: self.target.to_string(),
            reason,
        }
    }

    /// The documents below one; its blobs are noted.
    fn read(&self, doc: &Doc, parts: &mut Parts) -> Result<Vec<Desc>, Error> {
        let manifest = match doc.parse()? {
            Document::Manifest(manifest) => manifest,
            Document::Index(index) => {
                let (documents, blobs): (Vec<Desc>, Vec<Desc>) =
                    index.manifests.into_iter().partition(is_document);
                for desc in blobs {
                    let owner = doc.desc.digest.clone();
                    parts.blobs.insert(desc.digest.clone(), (desc, owner));
                }
                return Ok(documents);
            }
        };
        for desc in manifest.layers.into_iter().chain([manifest.config]) {
            if is_foreign(&desc) {
                continue;
            }
            let owner = doc.desc.digest.clone();
            parts.blobs.insert(desc.digest.clone(), (desc, owner));
        }
        Ok(Vec::new())
    }

    /// A document that the repository does not have.
    fn missing(&self, desc: &Desc) -> Result<Option<Doc>, Error> {
        let target = self.by_digest(&desc.digest);
        if self.remote.has_manifest(&target, &desc.digest()?)? {
            return Ok(None);
        }
        let doc = self.source.document(desc)?;
        // Sparse descriptors of old tools leave the type out.
        let media_type = if desc.media_type.is_empty() {
            doc.desc.media_type
        } else {
            desc.media_type.clone()
        };
        Ok(Some(Doc {
            desc: Desc {
                media_type,
                ..doc.desc
            },
            bytes: doc.bytes,
        }))
    }

    fn blob(&self, desc: &Desc, manifest: &str) -> Result<(), Error> {
        let mount_from: Vec<Reference> = self.source.origin(manifest).into_iter().collect();
        let blob = self.source.blob(manifest, desc)?;
        let target = self.by_digest(manifest);
        let pushed = self.remote.push_blob(&target, &blob, &mount_from)?;
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        match pushed.how {
            PushedHow::Existed => counts.existed += 1,
            PushedHow::Mounted => counts.mounted += 1,
            PushedHow::Uploaded => {
                counts.uploaded += 1;
                counts.bytes += pushed.sent;
            }
        }
        drop(counts);
        let how = match pushed.how {
            PushedHow::Existed => return Ok(()),
            PushedHow::Mounted => "mounted",
            PushedHow::Uploaded => "pushed",
        };
        (self.say)(&format!("{how} {} ({} bytes)", desc.digest, desc.size));
        Ok(())
    }

    fn put(&self, doc: &Doc, reference: &Reference) -> Result<(), Error> {
        self.remote
            .put_manifest(reference, &doc.desc.media_type, &doc.bytes)?;
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.manifests += 1;
        drop(counts);
        let name = reference.name();
        let digest = &doc.desc.digest;
        if reference.tag.is_none() {
            (self.say)(&format!("Pushed ref {name}@{digest} with digest: {digest}"));
        }
        Ok(())
    }
}

/// Build caches list layers among the manifests of an index.
fn is_document(desc: &Desc) -> bool {
    let kind = desc.media_type.as_str();
    kind.is_empty()
        || [
            manifest::OCI_INDEX,
            manifest::OCI_MANIFEST,
            manifest::DOCKER_LIST,
            manifest::DOCKER_MANIFEST,
        ]
        .contains(&kind)
        || kind.contains("manifest")
}
