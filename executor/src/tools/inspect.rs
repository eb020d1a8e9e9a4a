//! Manifest lists, and manifests in registries, shown as docker shows them.

use super::document::{self, Doc};
use super::list::{Lists, unknown};
use super::place::Place;
use super::source::Source;
use crate::Error;
use crate::build::manifest::{self, Desc, Document};
use base64::Engine as _;
use registry_client::Reference;
use serde_json::{Value, json};

impl<'a> Lists<'a> {
    /// The bytes of a list of the store, else of a manifest of its registry.
    ///
    /// # Errors
    /// No such manifest; docker's wording.
    pub fn inspect(&self, name: &str) -> Result<Vec<u8>, Error> {
        let place = Place::parse(name)?;
        Ok(self
            .source(&place)?
            .root()
            .map_err(|e| unknown(&place, e))?
            .bytes)
    }

    /// As docker's `manifest inspect --verbose`: an object for an image, an array of them for a list.
    ///
    /// # Errors
    /// As [`Lists::inspect`].
    pub fn inspect_verbose(&self, name: &str) -> Result<Value, Error> {
        let place = Place::parse(name)?;
        let source = self.source(&place)?;
        let root = source.root().map_err(|e| unknown(&place, e))?;
        let Document::Index(index) = root.parse()? else {
            return described(&source, &root, None, &place.to_string());
        };
        let mut all = Vec::new();
        for entry in &index.manifests {
            let origin = source.origin(&entry.digest);
            let shown = match (&source, origin) {
                // As it was given when the list was made.
                (Source::Store(_), Some(origin)) if origin.tag.is_some() => Reference {
                    digest: None,
                    ..origin
                }
                .to_string(),
                (_, Some(origin)) if origin.digest.is_some() => origin.to_string(),
                _ => format!("{place}@{}", entry.digest),
            };
            let document = source.document(entry)?;
            all.push(described(&source, &document, Some(entry), &shown)?);
        }
        Ok(Value::Array(all))
    }

    /// The bytes of the manifest of an image in a list.
    ///
    /// # Errors
    /// No such list, or no such image in it.
    pub fn inspect_entry(&self, list: &str, image: &str) -> Result<Vec<u8>, Error> {
        let (source, entry) = self.entry_at(list, image)?;
        Ok(source.document(&entry)?.bytes)
    }

    /// The same as [`Lists::inspect_verbose`] for one image of a list.
    ///
    /// # Errors
    /// As [`Lists::inspect_entry`].
    pub fn inspect_entry_verbose(&self, list: &str, image: &str) -> Result<Value, Error> {
        let (source, entry) = self.entry_at(list, image)?;
        let document = source.document(&entry)?;
        described(&source, &document, Some(&entry), image)
    }

    fn entry_at(&self, list: &str, image: &str) -> Result<(Source<'a>, Desc), Error> {
        let opened = self.open(list)?;
        let digest = self.entry_of(&opened, image)?;
        let entries = opened.index.manifests.into_iter();
        let mut entries = entries.filter(|entry| Some(&entry.digest) == digest.as_ref());
        let entry = entries
            .next()
            .ok_or_else(|| Error::Request(format!("no such manifest: {image}")))?;
        Ok((self.source(&Place::parse(list)?)?, entry))
    }
}

fn described(
    source: &Source<'_>,
    document: &Doc,
    entry: Option<&Desc>,
    name: &str,
) -> Result<Value, Error> {
    let mut desc = entry.unwrap_or(&document.desc).clone();
    let key = match document.parse()? {
        Document::Index(_) => "OCIIndex",
        Document::Manifest(manifest) => {
            if desc.platform.is_none() {
                let config = source.config(&document.desc.digest, &manifest.config)?;
                desc.platform = document::platform_of(&config);
            }
            if document.desc.media_type == manifest::DOCKER_MANIFEST {
                "SchemaV2Manifest"
            } else {
                "OCIManifest"
            }
        }
    };
    let parsed: Value = serde_json::from_slice(&document.bytes).unwrap_or(Value::Null);
    let raw = base64::engine::general_purpose::STANDARD.encode(&document.bytes);
    Ok(json!({"Ref": name, "Descriptor": desc, "Raw": raw, key: parsed}))
}
