//! The bytes of records. What comes from elsewhere is taken apart here, and refused if it names what is not there or
//! would take more memory or time than any honest cache.
//!
//! ```text
//! {"version":1, "layers":[{"diff_id","identity"?,"blob":{"mediaType","digest","size","annotations"?}}...],
//!  "bases":[[diff_id...]...], "nodes":[[below, layer, created]...],     below: a node, or -1 - number of a base
//!  "records":[{"key","content"?,"link"?,"node","seen"}...]}             seen: day of the last export, since the epoch
//! ```

use super::{Below, CachedLayer, Entry, Node, Records};
use crate::build::manifest::{self, Desc};
use oci_spec::image::Digest;
use planner::key::CacheKey;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::Read as _;

/// Version of the format; others are not read.
const VERSION: u32 = 1;
/// Most bytes that records may decompress to.
pub(super) const PLAIN_LIMIT: u64 = 64 << 20;
/// Most values of the JSON: ten times what a cache of the most records and layers has.
const MOST_VALUES: usize = 2_000_000;
/// Deepest stack of layers that is believed.
const MOST_DEPTH: usize = 20_000;
/// Most layers of all root file systems of the records together, each counted as often as it occurs: what lies below is
/// shared here, and is not where records are copied.
const MOST_LINKS: usize = 20_000_000;

impl Records {
    pub(super) fn wire(&self) -> Wire {
        let layer = |layer: &CachedLayer| WireLayer {
            diff_id: layer.diff_id.to_string(),
            identity: layer.identity.clone(),
            blob: WireBlob {
                media_type: layer.blob.media_type.clone(),
                digest: layer.blob.digest.clone(),
                size: layer.blob.size,
                annotations: layer.blob.annotations.clone(),
            },
        };
        let node = |node: &Node| {
            let below = match node.below {
                Below::Node(number) => i64::from(number),
                Below::Base(number) => -1 - i64::from(number),
            };
            (below, node.layer, node.created)
        };
        let record = |(key, entry): (&CacheKey, &Entry)| WireRecord {
            key: key.to_string(),
            content: entry.content.map(|key| key.to_string()),
            link: entry.link.map(|key| key.to_string()),
            node: entry.node,
            seen: entry.seen,
        };
        Wire {
            version: VERSION,
            layers: self.layers.iter().map(layer).collect(),
            bases: self
                .bases
                .iter()
                .map(|base| base.iter().map(ToString::to_string).collect())
                .collect(),
            nodes: self.nodes.iter().map(node).collect(),
            records: self.entries.iter().map(record).collect(),
        }
    }

    /// Reads what somebody wrote.
    ///
    /// # Errors
    /// What is wrong with it, in a phrase.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let decoder = zstd::stream::read::Decoder::with_buffer(bytes);
        let decoder = decoder.map_err(|e| format!("its records cannot be decompressed: {e}"))?;
        let mut plain = Vec::new();
        let read = decoder.take(PLAIN_LIMIT + 1).read_to_end(&mut plain);
        read.map_err(|e| format!("its records cannot be decompressed: {e}"))?;
        if plain.len() as u64 > PLAIN_LIMIT {
            return Err(format!(
                "its records are larger than the limit of {PLAIN_LIMIT} bytes"
            ));
        }
        Self::decode_plain(&plain)
    }

    /// The same of what is not compressed. Its length is the caller's to bound.
    ///
    /// # Errors
    /// What is wrong with it, in a phrase.
    pub(crate) fn decode_plain(plain: &[u8]) -> Result<Self, String> {
        if manifest::values(plain) > MOST_VALUES {
            return Err(format!("its records have more than {MOST_VALUES} values"));
        }
        let version: WireVersion =
            serde_json::from_slice(plain).map_err(|e| format!("its records are damaged: {e}"))?;
        if version.version != VERSION {
            return Err(format!(
                "its records have version {}, and this program reads version {VERSION}",
                version.version
            ));
        }
        let wire: Wire =
            serde_json::from_slice(plain).map_err(|e| format!("its records are damaged: {e}"))?;
        wire.checked()
    }
}

#[derive(Deserialize)]
struct WireVersion {
    version: u32,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Wire {
    version: u32,
    layers: Vec<WireLayer>,
    bases: Vec<Vec<String>>,
    nodes: Vec<(i64, u32, i64)>,
    records: Vec<WireRecord>,
}

#[derive(Serialize, Deserialize)]
struct WireLayer {
    diff_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    identity: Option<String>,
    blob: WireBlob,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireBlob {
    media_type: String,
    digest: String,
    size: u64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
}

#[derive(Serialize, Deserialize)]
struct WireRecord {
    key: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    content: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    link: Option<String>,
    node: u32,
    seen: u32,
}

impl Wire {
    fn checked(self) -> Result<Records, String> {
        let mut records = Records::default();
        let digest = |text: &str| {
            manifest::digest(text).map_err(|_| format!("{text:?} is not a sha256 digest"))
        };
        for layer in self.layers {
            let blob = digest(&layer.blob.digest)?;
            let mut desc = Desc::new(&layer.blob.media_type, &blob, layer.blob.size);
            desc.annotations = layer.blob.annotations;
            let layer = CachedLayer {
                diff_id: digest(&layer.diff_id)?,
                identity: layer.identity,
                blob: desc,
            };
            if records.layer(&layer.diff_id).is_some() {
                return Err(format!("it has layer {} twice", layer.diff_id));
            }
            records.put_layer(layer);
        }
        let mut bases = Vec::with_capacity(self.bases.len());
        for base in &self.bases {
            let base: Vec<Digest> = base.iter().map(|id| digest(id)).collect::<Result<_, _>>()?;
            bases.push(records.base_number(&base));
        }
        // Numbers of the nodes as given, and how deep each is.
        let mut nodes: Vec<(u32, usize)> = Vec::with_capacity(self.nodes.len());
        for (below, layer, created) in self.nodes {
            let outside = || "a root file system lies over one that is not there".to_owned();
            if layer as usize >= records.layers.len() {
                return Err("a root file system has a layer that is not there".to_owned());
            }
            let (below, depth) = match usize::try_from(below) {
                Ok(number) => {
                    let (number, depth) = *nodes.get(number).ok_or_else(outside)?;
                    (Below::Node(number), depth + 1)
                }
                Err(_) => {
                    let number = below.checked_add(1).and_then(i64::checked_neg);
                    let number = number.and_then(|number| usize::try_from(number).ok());
                    let base = number.and_then(|number| bases.get(number));
                    let base = *base.ok_or_else(outside)?;
                    (Below::Base(base), records.bases[base as usize].len() + 1)
                }
            };
            if depth > MOST_DEPTH {
                return Err(format!(
                    "a root file system has more than {MOST_DEPTH} layers"
                ));
            }
            let node = Node {
                below,
                layer,
                created,
            };
            nodes.push((records.node_number(node), depth));
        }
        let mut links = 0_usize;
        for record in self.records {
            let optional = |text: Option<String>| text.map(|text| key(&text)).transpose();
            let (node, depth) = *nodes
                .get(record.node as usize)
                .ok_or("a record names a root file system that is not there")?;
            links = links.saturating_add(depth);
            if links > MOST_LINKS {
                return Err(format!(
                    "its root file systems have more than {MOST_LINKS} layers together"
                ));
            }
            let entry = Entry {
                content: optional(record.content)?,
                link: optional(record.link)?,
                node,
                seen: record.seen,
            };
            records.put_entry(key(&record.key)?, entry);
        }
        Ok(records)
    }
}

pub(super) fn key(text: &str) -> Result<CacheKey, String> {
    let bad = || format!("{text:?} is not a key");
    if text.len() != 64 || !text.is_ascii() {
        return Err(bad());
    }
    let mut bytes = [0; 32];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).map_err(|_| bad())?;
    }
    Ok(CacheKey(bytes))
}
