//! What an image consists of, as its documents say, and the same image over layers in another form.
//!
//! Documents are changed as JSON, so that what is not understood stays. What no change touches keeps its bytes. Nothing
//! here reads layers or knows registries.

use crate::Error;
use crate::build::manifest::{self, Config, Desc, Document};
use crate::layer::packed::Packed;
use oci_spec::image::Digest;
use registry_client::Reference;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashMap};
use store::Store;

/// Indexes inside indexes that are followed.
const MAX_NESTING: usize = 8;

/// Media types of what is pushed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Style {
    /// OCI's.
    Oci,
    /// Docker's (schema 2).
    Docker,
}

/// Where documents are read: those that were just made, then the store.
#[derive(Debug)]
pub(crate) struct Documents<'a> {
    pub store: &'a Store,
    pub made: HashMap<String, Vec<u8>>,
}

impl Documents<'_> {
    pub(crate) fn read(&self, digest: &str, limit: u64) -> Result<Option<Vec<u8>>, Error> {
        if let Some(bytes) = self.made.get(digest) {
            return Ok(Some(bytes.clone()));
        }
        match self.store.read_blob(&manifest::digest(digest)?, limit) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// A manifest or an index with all below it.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "there are few of them")]
pub(crate) enum Node {
    Image(ImageNode),
    Index(IndexNode),
}

/// One manifest.
#[derive(Clone, Debug)]
pub(crate) struct ImageNode {
    pub desc: Desc,
    pub bytes: Vec<u8>,
    value: Value,
    pub config: Desc,
    config_bytes: Vec<u8>,
    pub layers: Vec<LayerNode>,
    /// The repository to get layers from that the store has not.
    pub origin: Option<Reference>,
    /// It goes as it is, also with layers that are not compressed.
    pub is_fixed: bool,
}

/// A layer of a manifest.
#[derive(Clone, Debug)]
pub(crate) struct LayerNode {
    pub desc: Desc,
    /// `None` for what is no layer of an image.
    pub diff_id: Option<Digest>,
    /// Is fetched from elsewhere and not from registries.
    pub is_foreign: bool,
    /// Goes as it is, see [`ImageNode::is_fixed`].
    pub is_fixed: bool,
}

/// An index.
#[derive(Clone, Debug)]
pub(crate) struct IndexNode {
    desc: Desc,
    bytes: Vec<u8>,
    value: Value,
    children: Vec<Node>,
}

/// What is read of an image, and what of its index is not in the store.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub root: Node,
    /// Platforms.
    pub missing: Vec<String>,
}

/// Reads an image with all platforms.
pub(crate) fn load(documents: &Documents<'_>, root: &Desc) -> Result<Loaded, Error> {
    let mut missing = Vec::new();
    let node = load_node(documents, root, 0, &mut missing)?;
    let root = node.ok_or_else(|| Error::Image {
        subject: root.digest.clone(),
        reason: "its manifest is not in the store".to_owned(),
    })?;
    Ok(Loaded { root, missing })
}

fn load_node(
    documents: &Documents<'_>,
    desc: &Desc,
    depth: usize,
    missing: &mut Vec<String>,
) -> Result<Option<Node>, Error> {
    let Some(bytes) = documents.read(&desc.digest, manifest::MANIFEST_LIMIT)? else {
        return Ok(None);
    };
    let bad = |reason: String| Error::Image {
        subject: desc.digest.clone(),
        reason,
    };
    let value: Value =
        serde_json::from_slice(&bytes).map_err(|e| bad(format!("not a manifest: {e}")))?;
    match Document::parse(&desc.digest, &bytes)? {
        Document::Index(_) if depth == MAX_NESTING => {
            Err(bad(format!("indexes nested more than {MAX_NESTING} deep")))
        }
        Document::Index(index) => {
            let mut children = Vec::new();
            for child in &index.manifests {
                match load_node(documents, child, depth + 1, missing)? {
                    Some(node) => children.push(node),
                    None => missing.push(platform_of(child)),
                }
            }
            Ok(Some(Node::Index(IndexNode {
                desc: desc.clone(),
                bytes,
                value,
                children,
            })))
        }
        Document::Manifest(parsed) => {
            let config = documents.read(&parsed.config.digest, manifest::CONFIG_LIMIT)?;
            let config_bytes = config.ok_or_else(|| {
                bad(format!(
                    "its config {} is not in the store",
                    parsed.config.digest
                ))
            })?;
            let diff_ids = Config::parse(&parsed.config.digest, &config_bytes)
                .map(|config| config.diff_ids)
                .unwrap_or_default();
            let is_image = diff_ids.len() == parsed.layers.len();
            let mut layers = Vec::with_capacity(parsed.layers.len());
            for (position, layer) in parsed.layers.iter().enumerate() {
                let diff_id = diff_ids.get(position).filter(|_| is_image);
                layers.push(LayerNode {
                    desc: layer.clone(),
                    diff_id: diff_id.map(|id| manifest::digest(id)).transpose()?,
                    is_foreign: is_foreign(&value["layers"][position]),
                    is_fixed: false,
                });
            }
            Ok(Some(Node::Image(ImageNode {
                desc: desc.clone(),
                bytes,
                config: parsed.config,
                value,
                config_bytes,
                layers,
                origin: None,
                is_fixed: false,
            })))
        }
    }
}

fn platform_of(desc: &Desc) -> String {
    match &desc.platform {
        Some(platform) => platform.to_platform().to_string(),
        None => desc.digest.clone(),
    }
}

fn is_foreign(layer: &Value) -> bool {
    let kind = layer["mediaType"].as_str().unwrap_or_default();
    let restricted = kind.contains(".nondistributable.") || kind.contains(".foreign.");
    restricted
        && layer["urls"]
            .as_array()
            .is_some_and(|urls| !urls.is_empty())
}

impl Node {
    /// All manifests below (and this one).
    pub(crate) fn images(&self) -> Vec<&ImageNode> {
        match self {
            Self::Image(image) => vec![image],
            Self::Index(index) => index.children.iter().flat_map(Self::images).collect(),
        }
    }

    /// Says of each manifest where missing parts of it are, and whether it goes as it is.
    pub(crate) fn settle(&mut self, of: &dyn Fn(&str) -> (Option<Reference>, bool)) {
        match self {
            Self::Image(image) => {
                (image.origin, image.is_fixed) = of(&image.desc.digest);
                for layer in &mut image.layers {
                    layer.is_fixed = image.is_fixed;
                }
            }
            Self::Index(index) => {
                for child in &mut index.children {
                    child.settle(of);
                }
            }
        }
    }

    /// The platform that an image's config names.
    pub(crate) fn platform(&self) -> Option<planner::platform::Platform> {
        match self {
            Self::Image(image) => Config::parse(&image.config.digest, &image.config_bytes)
                .ok()
                .map(|config| config.platform()),
            Self::Index(_) => None,
        }
    }

    /// The nodes right below.
    pub(crate) fn children(&self) -> &[Node] {
        match self {
            Self::Image(_) => &[],
            Self::Index(index) => &index.children,
        }
    }

    pub(crate) fn digest(&self) -> &str {
        match self {
            Self::Image(image) => &image.desc.digest,
            Self::Index(index) => &index.desc.digest,
        }
    }
}

/// A document that goes out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Sent {
    pub media_type: String,
    pub digest: Digest,
    pub bytes: Vec<u8>,
}

/// All documents of an image over certain layers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rewritten {
    /// Config blobs.
    pub configs: Vec<Vec<u8>>,
    /// Manifests and indexes, children before their index; the image itself is the last.
    pub manifests: Vec<Sent>,
    /// The config's digest, where there is one image.
    pub config: Option<Digest>,
}

impl Rewritten {
    pub(crate) fn root(&self) -> &Sent {
        self.manifests.last().expect("BUG: an image has a manifest")
    }
}

/// The documents over what `packed` gives for each layer; `None` when it does not know one.
pub(crate) fn rewrite(
    root: &Node,
    style: Option<Style>,
    packed: &dyn Fn(&LayerNode) -> Option<Packed>,
) -> Option<Rewritten> {
    let mut out = Rewritten::default();
    rewrite_node(root, style, packed, &mut out)?;
    if let Node::Image(_) = root {
        out.config = out.configs.first().map(|bytes| manifest::digest_of(bytes));
    }
    Some(out)
}

fn rewrite_node(
    node: &Node,
    style: Option<Style>,
    packed: &dyn Fn(&LayerNode) -> Option<Packed>,
    out: &mut Rewritten,
) -> Option<Sent> {
    let sent = match node {
        Node::Image(image) => image.rewrite(style, packed, out)?,
        Node::Index(index) => {
            let mut changed = BTreeMap::new();
            for child in &index.children {
                let sent = rewrite_node(child, style, packed, out)?;
                changed.insert(child.digest().to_owned(), sent);
            }
            index.rewrite(style, &changed)
        }
    };
    // A manifest that several indexes name goes once.
    if !out.manifests.contains(&sent) {
        out.manifests.push(sent.clone());
    }
    Some(sent)
}

impl ImageNode {
    fn style(&self) -> Style {
        let kind = self.value["mediaType"]
            .as_str()
            .unwrap_or(&self.desc.media_type);
        if kind.starts_with("application/vnd.docker.") {
            Style::Docker
        } else {
            Style::Oci
        }
    }

    fn rewrite(
        &self,
        style: Option<Style>,
        packed: &dyn Fn(&LayerNode) -> Option<Packed>,
        out: &mut Rewritten,
    ) -> Option<Sent> {
        let style = style.unwrap_or_else(|| self.style());
        let mut value = self.value.clone();
        let mut diff_ids: Vec<Option<Digest>> = Vec::new();
        for (position, layer) in self.layers.iter().enumerate() {
            let packed = packed(layer)?;
            describe(&mut value["layers"][position], layer, &packed, style);
            diff_ids.push(layer.diff_id.as_ref().map(|_| packed.diff_id));
        }
        let config = self.config_with(&diff_ids);
        let config_digest = manifest::digest_of(&config);
        if config_digest.to_string() != self.config.digest {
            value["config"]["digest"] = json!(config_digest.to_string());
            value["config"]["size"] = json!(config.len());
        }
        let is_image = self.layers.iter().all(|layer| layer.diff_id.is_some());
        if is_image {
            restyle(&mut value, style);
            restyle(&mut value["config"], style);
        }
        if !out.configs.contains(&config) {
            out.configs.push(config);
        }
        Some(sent(&value, &self.value, &self.bytes, &self.desc))
    }

    /// The config over other diff_ids.
    fn config_with(&self, diff_ids: &[Option<Digest>]) -> Vec<u8> {
        let before = self.layers.iter().map(|layer| &layer.diff_id);
        if before.eq(diff_ids) {
            return self.config_bytes.clone();
        }
        let Ok(mut config) = serde_json::from_slice::<Value>(&self.config_bytes) else {
            return self.config_bytes.clone();
        };
        let texts: Vec<String> = diff_ids.iter().flatten().map(ToString::to_string).collect();
        config["rootfs"]["diff_ids"] = json!(texts);
        manifest::bytes_of(&config)
    }
}

/// Puts a layer's form into its descriptor.
fn describe(value: &mut Value, layer: &LayerNode, packed: &Packed, style: Style) {
    let descriptor = &packed.descriptor;
    if layer.diff_id.is_none() || layer.is_foreign {
        return;
    }
    if descriptor.digest().to_string() != layer.desc.digest {
        value["digest"] = json!(descriptor.digest().to_string());
        value["size"] = json!(descriptor.size());
        value["mediaType"] = json!(descriptor.media_type().to_string());
        if let Some(annotations) = descriptor.annotations() {
            let own = value
                .as_object_mut()
                .map(|layer| layer.entry("annotations").or_insert_with(|| json!({})));
            if let Some(Value::Object(own)) = own {
                let more = annotations.iter();
                own.extend(more.map(|(key, text)| (key.clone(), json!(text))));
            }
        }
    }
    restyle(value, style);
}

impl IndexNode {
    fn rewrite(&self, style: Option<Style>, changed: &BTreeMap<String, Sent>) -> Sent {
        let mut value = self.value.clone();
        if let Some(Value::Array(entries)) = value.get_mut("manifests") {
            for entry in entries {
                let digest = entry["digest"].as_str().unwrap_or_default().to_owned();
                if let Some(sent) = changed.get(&digest)
                    && sent.digest.to_string() != digest
                {
                    entry["digest"] = json!(sent.digest.to_string());
                    entry["size"] = json!(sent.bytes.len());
                    entry["mediaType"] = json!(sent.media_type);
                }
                // An attestation names the image that it is about.
                if let Some(Value::Object(annotations)) = entry.get_mut("annotations") {
                    rename(annotations, changed);
                }
            }
        }
        if let Some(style) = style {
            restyle(&mut value, style);
        }
        sent(&value, &self.value, &self.bytes, &self.desc)
    }
}

fn rename(annotations: &mut Map<String, Value>, changed: &BTreeMap<String, Sent>) {
    for text in annotations.values_mut() {
        if let Some(sent) = text.as_str().and_then(|digest| changed.get(digest)) {
            *text = json!(sent.digest.to_string());
        }
    }
}

fn sent(value: &Value, before: &Value, bytes: &[u8], desc: &Desc) -> Sent {
    let bytes = if value == before {
        bytes.to_vec()
    } else {
        manifest::bytes_of(value)
    };
    let own = value["mediaType"].as_str().filter(|kind| !kind.is_empty());
    let fallback = if value.get("manifests").is_some() {
        manifest::OCI_INDEX
    } else {
        manifest::OCI_MANIFEST
    };
    let given = Some(desc.media_type.as_str()).filter(|kind| !kind.is_empty());
    Sent {
        media_type: own.or(given).unwrap_or(fallback).to_owned(),
        digest: manifest::digest_of(&bytes),
        bytes,
    }
}

/// Media types that have a counterpart, OCI's and Docker's.
const COUNTERPARTS: [(&str, &str); 8] = [
    (manifest::OCI_INDEX, manifest::DOCKER_LIST),
    (manifest::OCI_MANIFEST, manifest::DOCKER_MANIFEST),
    (manifest::OCI_CONFIG, manifest::DOCKER_CONFIG),
    (
        "application/vnd.oci.image.layer.v1.tar+gzip",
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
    ),
    (
        "application/vnd.oci.image.layer.v1.tar+zstd",
        "application/vnd.docker.image.rootfs.diff.tar.zstd",
    ),
    (
        manifest::OCI_LAYER,
        "application/vnd.docker.image.rootfs.diff.tar",
    ),
    (
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    ),
    (
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.docker.image.rootfs.foreign.diff.tar",
    ),
];

fn restyle(value: &mut Value, style: Style) {
    let Some(kind) = value["mediaType"].as_str() else {
        return;
    };
    let other = COUNTERPARTS.iter().find_map(|(oci, docker)| match style {
        Style::Oci => (*docker == kind).then_some(*oci),
        Style::Docker => (*oci == kind).then_some(*docker),
    });
    if let Some(other) = other {
        value["mediaType"] = json!(other);
    }
}
