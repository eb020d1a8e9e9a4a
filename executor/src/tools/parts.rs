//! All that an image consists of, without repetition: documents and blobs. Only documents are read.

use super::document::Doc;
use super::parallel::each;
use super::source::Source;
use super::stored::is_foreign;
use crate::Error;
use crate::build::manifest::{self, Desc, Document};
use std::collections::{BTreeMap, HashMap};

/// Indexes inside indexes that are copied.
const MAX_DEPTH: usize = 16;
/// Manifests that one image may consist of.
const MAX_DOCUMENTS: usize = 10_000;

/// What an image consists of.
#[derive(Default)]
pub(super) struct Parts {
    /// Documents with what they lead to, by digest.
    pub documents: HashMap<String, (Doc, Vec<Desc>)>,
    /// Blobs, each with the digest of a manifest that it belongs to.
    pub blobs: BTreeMap<String, (Desc, String)>,
}

impl Parts {
    /// Everything from a document down, a level of indexes at a time. What `has` says yes to is left out, with all below.
    pub(super) fn collect(
        source: &Source<'_>,
        root: &Doc,
        has: &(dyn Fn(&Desc) -> Result<bool, Error> + Sync),
    ) -> Result<Self, Error> {
        let bad = |reason: String| Error::Image {
            subject: root.desc.digest.clone(),
            reason,
        };
        let mut parts = Self::default();
        let mut level = vec![root.clone()];
        for _ in 0..MAX_DEPTH {
            let mut wanted: Vec<Desc> = Vec::new();
            for doc in level {
                let children = parts.note(&doc)?;
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
                return Err(bad(format!(
                    "it consists of more than {MAX_DOCUMENTS} manifests"
                )));
            }
            let found = each(&wanted, |desc| match has(desc)? {
                true => Ok(None),
                false => document(source, desc).map(Some),
            })?;
            level = found.into_iter().flatten().collect();
        }
        Err(bad(format!(
            "its indexes are nested more than {MAX_DEPTH} deep"
        )))
    }

    /// The documents below one; its blobs are noted.
    fn note(&mut self, doc: &Doc) -> Result<Vec<Desc>, Error> {
        let (documents, blobs): (Vec<Desc>, Vec<Desc>) = match doc.parse()? {
            Document::Index(index) => index.manifests.into_iter().partition(is_document),
            Document::Manifest(manifest) => {
                let blobs = manifest.layers.into_iter().chain([manifest.config]);
                (Vec::new(), blobs.collect())
            }
        };
        for desc in blobs {
            if !is_foreign(&desc) {
                let owner = doc.desc.digest.clone();
                self.blobs.insert(desc.digest.clone(), (desc, owner));
            }
        }
        Ok(documents)
    }
}

/// A document under the media type that its descriptor says.
fn document(source: &Source<'_>, desc: &Desc) -> Result<Doc, Error> {
    let mut doc = source.document(desc)?;
    if !desc.media_type.is_empty() {
        doc.desc.media_type.clone_from(&desc.media_type);
    }
    Ok(doc)
}

/// Build caches list layers among the manifests of an index.
fn is_document(desc: &Desc) -> bool {
    let kind = desc.media_type.as_str();
    kind.is_empty() || kind == manifest::OCI_INDEX || kind.contains("manifest")
}
