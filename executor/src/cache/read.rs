//! Reads caches where they are: in a registry, in a folder that is an OCI layout, in the config of an image. What is
//! found is checked and never trusted further than its digests reach; nothing here fetches layers.

use super::memories::Doc;
use super::memories::{DOC_LIMIT, Entry, Memories};
use super::records::{PACKED_LIMIT, Records};
use super::{BUILDKIT_CONFIG, BUILDKIT_INLINE, CONFIG_TYPE, INLINE_FIELD, RECORDS_TYPE};
use crate::Error;
use crate::build::fetch::Origin;
use crate::build::layout::Layout;
use crate::build::manifest::{self, Config, Desc, Document, Manifest};
use crate::remote::Remote;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use oci_spec::image::Digest;
use planner::platform::Platform;
use registry_client::Reference;
use std::path::{Path, PathBuf};

/// Images of an index whose configs are looked into.
const MOST_IMAGES: usize = 32;

/// What a cache has.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cached {
    /// The results of steps.
    pub(crate) records: Records,
    /// What it remembers of builds.
    pub(crate) memories: Memories,
}

impl From<Records> for Cached {
    fn from(records: Records) -> Self {
        Self {
            records,
            memories: Memories::default(),
        }
    }
}

/// What was found at a place.
#[derive(Debug)]
pub(crate) enum Content {
    /// Records of ours.
    Cache(Box<Cached>),
    /// BuildKit's, which we cannot use.
    BuildKit,
    /// An image without a cache.
    Nothing,
}

/// Where documents come from.
pub(crate) enum Source<'a> {
    Registry(&'a Remote, Reference),
    Folder(Layout, PathBuf),
}

impl Source<'_> {
    pub(crate) fn folder(dir: &Path) -> Result<Self, Error> {
        Ok(Self::Folder(Layout::open(dir)?, dir.to_owned()))
    }

    /// Where its blobs are.
    pub(crate) fn origin(&self) -> Origin {
        match self {
            Self::Registry(_, reference) => Origin::Repository(reference.to_string()),
            Self::Folder(_, dir) => Origin::Layout(dir.clone()),
        }
    }

    fn subject(&self) -> String {
        match self {
            Self::Registry(_, reference) => reference.to_string(),
            Self::Folder(_, dir) => dir.display().to_string(),
        }
    }

    fn document(&self, desc: &Desc) -> Result<Vec<u8>, Error> {
        match self {
            Self::Registry(remote, reference) => {
                let found = remote.manifest(reference, Some(&desc.digest()?))?;
                Ok(found.bytes)
            }
            Self::Folder(layout, _) => layout.blob(desc, manifest::MANIFEST_LIMIT),
        }
    }

    pub(crate) fn small(&self, desc: &Desc, limit: u64) -> Result<Vec<u8>, Error> {
        match self {
            Self::Registry(remote, reference) => remote.small_blob(reference, desc, limit),
            Self::Folder(layout, _) => layout.blob(desc, limit),
        }
    }

    fn bad(&self, reason: String) -> Error {
        Error::Image {
            subject: self.subject(),
            reason,
        }
    }

    /// The descriptor of the records in a cache's manifest, if it is one of ours.
    pub(crate) fn records_of(document: &Document) -> Option<&Desc> {
        let (config, parts) = match document {
            Document::Manifest(found) => (Some(&found.config), &found.layers),
            Document::Index(found) => (None, &found.manifests),
        };
        let is_ours = config.is_none_or(|config| config.media_type == CONFIG_TYPE);
        parts
            .iter()
            .find(|part| is_ours && part.media_type == RECORDS_TYPE)
    }

    /// The records that a descriptor names.
    pub(crate) fn records(&self, desc: &Desc) -> Result<Records, Error> {
        let bytes = self.small(desc, PACKED_LIMIT)?;
        Records::decode(&bytes).map_err(|reason| self.bad(reason))
    }

    /// What is remembered of one build.
    pub(crate) fn memory(&self, entry: &Entry) -> Result<Doc, Error> {
        let bytes = self.small(&entry.blob, DOC_LIMIT)?;
        Doc::decode(&bytes).map_err(|reason| self.bad(reason))
    }

    /// All that is at a place; of an index of images, what there is for these platforms.
    pub(crate) fn content(
        &self,
        document: &Document,
        platforms: &[Platform],
    ) -> Result<Content, Error> {
        if let Some(records) = Self::records_of(document) {
            let cached = Cached {
                records: self.records(records)?,
                memories: Memories::of(document),
            };
            return Ok(Content::Cache(Box::new(cached)));
        }
        let index = match document {
            Document::Manifest(found) => return self.image(found),
            Document::Index(found) => found,
        };
        if index.manifests.iter().any(is_buildkits) {
            return Ok(Content::BuildKit);
        }
        let is_wanted = |entry: &&Desc| match &entry.platform {
            Some(platform) => !platform.is_unknown() && platforms.contains(&platform.to_platform()),
            None => true,
        };
        let (mut all, mut by_buildkit) = (Records::default(), false);
        for entry in index.manifests.iter().filter(is_wanted).take(MOST_IMAGES) {
            let bytes = self.document(entry)?;
            let Document::Manifest(image) = Document::parse(&entry.digest, &bytes)? else {
                continue;
            };
            match self.image(&image)? {
                Content::Cache(cached) => all.absorb(&cached.records),
                Content::BuildKit => by_buildkit = true,
                Content::Nothing => {}
            }
        }
        Ok(match (all.len(), by_buildkit) {
            (0, true) => Content::BuildKit,
            (0, false) => Content::Nothing,
            _ => Content::Cache(Box::new(all.into())),
        })
    }

    /// What is in the config of an image.
    fn image(&self, image: &Manifest) -> Result<Content, Error> {
        if is_buildkits(&image.config) || image.layers.iter().any(is_buildkits) {
            return Ok(Content::BuildKit);
        }
        let bytes = self.small(&image.config, manifest::CONFIG_LIMIT)?;
        let value: serde_json::Value = serde_json::from_slice(&bytes)
            .map_err(|e| self.bad(format!("its config is damaged: {e}")))?;
        let Some(text) = value.get(INLINE_FIELD).and_then(|field| field.as_str()) else {
            let theirs = value.get(BUILDKIT_INLINE).is_some();
            return Ok(if theirs {
                Content::BuildKit
            } else {
                Content::Nothing
            });
        };
        let packed = STANDARD
            .decode(text)
            .map_err(|e| self.bad(format!("its inline cache is damaged: {e}")))?;
        let records = Records::decode(&packed).map_err(|reason| self.bad(reason))?;
        let diff_ids = Config::parse(&image.config.digest, &bytes)?.diff_ids;
        let blob = |diff_id: &Digest| {
            let at = diff_ids.iter().position(|id| id == diff_id.as_ref())?;
            image.layers.get(at).cloned()
        };
        Ok(Content::Cache(Box::new(records.with_blobs(&blob).into())))
    }
}

fn is_buildkits(desc: &Desc) -> bool {
    desc.media_type == BUILDKIT_CONFIG
}

/// The field of an image's config.
pub(crate) fn inline_text(records: &Records) -> String {
    STANDARD.encode(records.encode())
}
