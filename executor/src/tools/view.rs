//! An image in a registry, taken apart for those who look at it.

use super::combine::{configs, not_found};
use super::document::Doc;
use crate::Error;
use crate::remote::Remote;
use registry_client::Reference;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// A manifest or index as a registry has it.
#[derive(Clone, Debug)]
pub struct RemoteImage {
    reference: Reference,
    doc: Doc,
}

impl RemoteImage {
    /// Reads it.
    ///
    /// # Errors
    /// Not there; the registry.
    pub fn read(remote: &Remote, name: &str) -> Result<Self, Error> {
        let reference = Reference::parse(name).map_err(|source| Error::Reference { source })?;
        let fetched = super::source::fetched(remote, &reference, None);
        let doc = fetched.map_err(|error| not_found(&reference, error))?;
        Ok(Self { reference, doc })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> String {
        self.reference.to_string()
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.doc.bytes
    }

    /// As `imagetools inspect` has it: an index with digest and size, or the descriptor of a single image.
    #[must_use]
    pub fn manifest(&self) -> Value {
        let parsed: Value = serde_json::from_slice(&self.doc.bytes).unwrap_or(Value::Null);
        let desc = &self.doc.desc;
        let mut shown =
            json!({"mediaType": desc.media_type, "digest": desc.digest, "size": desc.size});
        for key in ["schemaVersion", "manifests", "annotations"] {
            if let Some(value) = parsed.get(key).filter(|_| parsed["manifests"].is_array()) {
                shown[key] = value.clone();
            }
        }
        shown
    }

    /// The configs of its images, by platform; of a single image under no name.
    ///
    /// # Errors
    /// The registry.
    pub fn configs(&self, remote: &Remote) -> Result<BTreeMap<String, Vec<u8>>, Error> {
        configs(remote, &self.reference, &self.doc)
    }
}
