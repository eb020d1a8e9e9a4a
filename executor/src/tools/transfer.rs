//! Brings an image with all that belongs to it into a repository: blobs first, then manifests, then indexes, the name last.
//!
//! What the repository has is neither read nor sent; what another repository of the same registry has is mounted.

use super::document::Doc;
use super::parallel::each;
use super::parts::Parts;
use super::say::{Say, pushed_ref};
use super::source::Source;
use crate::Error;
use crate::build::manifest::Desc;
use crate::remote::Remote;
use registry_client::{PushedHow, Reference};
use std::collections::HashSet;

/// One image into one repository.
pub(super) struct Transfer<'a> {
    pub remote: &'a Remote,
    pub source: &'a Source<'a>,
    /// Repository and tag.
    pub target: &'a Reference,
    pub say: Say<'a>,
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
    pub(super) fn run(&self, root: &Doc) -> Result<(), Error> {
        self.below(root)?;
        self.put(root, self.target)
    }

    /// Brings a document with all that it needs, by digest.
    pub(super) fn by_digest_of(&self, root: &Doc) -> Result<(), Error> {
        self.below(root)?;
        self.put(root, &self.by_digest(&root.desc.digest))
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

    /// What the repository lacks.
    fn parts(&self, root: &Doc) -> Result<Parts, Error> {
        Parts::collect(self.source, root, &|desc| {
            let target = self.by_digest(&desc.digest);
            self.remote.has_manifest(&target, &desc.digest()?)
        })
    }

    fn blob(&self, desc: &Desc, manifest: &str) -> Result<(), Error> {
        let mount_from: Vec<Reference> = self.source.origin(manifest).into_iter().collect();
        let blob = self.source.blob(manifest, desc)?;
        let target = self.by_digest(manifest);
        let pushed = self.remote.push_blob(&target, &blob, &mount_from)?;
        let how = match pushed.how {
            PushedHow::Existed => return Ok(()),
            PushedHow::Mounted => "mounted",
            PushedHow::Uploaded => "pushed",
        };
        (self.say)(&format!("{how} {} ({} bytes)", desc.digest, desc.size));
        Ok(())
    }

    pub(super) fn put(&self, doc: &Doc, reference: &Reference) -> Result<(), Error> {
        self.remote
            .put_manifest(reference, &doc.desc.media_type, &doc.bytes)?;
        if reference.tag.is_none() {
            (self.say)(&pushed_ref(reference, &doc.desc.digest));
        }
        Ok(())
    }
}
