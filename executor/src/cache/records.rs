//! The records of a cache that travels: which keys gave which root file system, and where its layers are.
//!
//! On the wire it is JSON, compressed with zstd. Root file systems share what lies below them: a node is a layer over
//! another node or over the layers of a base image, so that a stage of a thousand steps takes a thousand nodes.
//! What comes from elsewhere is untrusted: `wire` checks every number before it is used. Nothing here reads layers.

use crate::build::manifest::Desc;
use crate::build::record::{Link, StepOutput};
use oci_spec::image::Digest;
use planner::key::CacheKey;
use std::collections::{BTreeMap, HashMap};

/// Most bytes of compressed records that are read.
pub(crate) const PACKED_LIMIT: u64 = 16 << 20;
/// Level of zstd: records are small, and are read more often than written.
const LEVEL: i32 = 9;
/// Most records of a cache; those go first that no export has had for longest.
const MOST_RECORDS: usize = 10_000;
/// Most layers of a cache: a registry takes a manifest of 4 MiB, and a layer is some 200 bytes of it.
const MOST_LAYERS: usize = 5_000;
/// Days after which a record goes that no export has had.
const MOST_DAYS: u32 = 90;
/// Days after which a record is marked again as seen.
const FRESH_DAYS: u32 = 7;

/// A layer of a cache.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct CachedLayer {
    /// Digest of its tar.
    pub(crate) diff_id: Digest,
    /// Identity of its content, as whoever exported it says.
    pub(crate) identity: Option<String>,
    /// The blob.
    pub(crate) blob: Desc,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Below {
    Base(u32),
    Node(u32),
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Node {
    below: Below,
    layer: u32,
    created: i64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Entry {
    content: Option<CacheKey>,
    link: Option<CacheKey>,
    node: u32,
    seen: u32,
}

/// What one step gave, with the keys that it is found by.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Found {
    /// The root file system.
    pub(crate) output: StepOutput,
    /// The content key.
    pub(crate) content: Option<CacheKey>,
    /// The key of the layer alone (`COPY --link`).
    pub(crate) link: Option<CacheKey>,
}

/// All of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Records {
    layers: Vec<CachedLayer>,
    bases: Vec<Vec<Digest>>,
    nodes: Vec<Node>,
    entries: BTreeMap<CacheKey, Entry>,
    layer_numbers: HashMap<Digest, u32>,
    base_numbers: HashMap<Vec<Digest>, u32>,
    node_numbers: HashMap<Node, u32>,
    /// The first node of a layer over something, whenever it was made.
    by_place: HashMap<(Below, u32), u32>,
    by_content: HashMap<CacheKey, CacheKey>,
    by_link: HashMap<CacheKey, CacheKey>,
}

impl Records {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// All layers.
    pub(crate) fn layers(&self) -> &[CachedLayer] {
        &self.layers
    }

    /// One layer.
    pub(crate) fn layer(&self, diff_id: &Digest) -> Option<&CachedLayer> {
        self.layer_numbers
            .get(diff_id)
            .map(|number| &self.layers[*number as usize])
    }

    /// By definition key.
    pub(crate) fn by_definition(&self, key: &CacheKey) -> Option<Found> {
        self.entries.get(key).map(|entry| self.found(entry))
    }

    /// By content key.
    pub(crate) fn by_content(&self, key: &CacheKey) -> Option<Found> {
        let definition = self.by_content.get(key)?;
        self.by_definition(definition)
    }

    /// The layer of a `COPY --link` by its own key.
    pub(crate) fn by_link(&self, key: &CacheKey) -> Option<Link> {
        let found = self.by_link_found(key)?;
        found.output.chain.into_iter().next_back()
    }

    /// The step whose layer that is.
    pub(crate) fn by_link_found(&self, key: &CacheKey) -> Option<Found> {
        self.by_definition(self.by_link.get(key)?)
    }

    /// When a root file system was made, by its layers from the base up.
    pub(crate) fn created(&self, base: &[Digest], chain: &[&Digest]) -> Option<i64> {
        let mut below = Below::Base(*self.base_numbers.get(base)?);
        let mut created = None;
        for layer in chain {
            let layer = *self.layer_numbers.get(*layer)?;
            let number = *self.by_place.get(&(below, layer))?;
            below = Below::Node(number);
            created = Some(self.nodes[number as usize].created);
        }
        created
    }

    fn found(&self, entry: &Entry) -> Found {
        Found {
            output: self.output(entry.node),
            content: entry.content,
            link: entry.link,
        }
    }

    fn output(&self, node: u32) -> StepOutput {
        let mut chain = Vec::new();
        let mut below = Below::Node(node);
        loop {
            match below {
                Below::Node(number) => {
                    let node = &self.nodes[number as usize];
                    chain.push(Link {
                        layer: self.layers[node.layer as usize].diff_id.clone(),
                        created: node.created,
                    });
                    below = node.below;
                }
                Below::Base(number) => {
                    chain.reverse();
                    return StepOutput {
                        base: self.bases[number as usize].clone(),
                        chain,
                    };
                }
            }
        }
    }

    /// Adds a layer, or says anew where it is.
    pub(crate) fn put_layer(&mut self, layer: CachedLayer) {
        match self.layer_numbers.get(&layer.diff_id) {
            Some(number) => self.layers[*number as usize] = layer,
            None => {
                self.layer_numbers
                    .insert(layer.diff_id.clone(), count(self.layers.len()));
                self.layers.push(layer);
            }
        }
    }

    /// Adds a record, or replaces one. All its layers must have been added; otherwise, and for a root file system without
    /// any layer of a step, nothing happens.
    pub(crate) fn put(&mut self, definition: CacheKey, found: &Found, seen: u32) {
        let mut below = Below::Base(self.base_number(&found.output.base));
        for link in &found.output.chain {
            let Some(layer) = self.layer_numbers.get(&link.layer).copied() else {
                return;
            };
            let node = Node {
                below,
                layer,
                created: link.created,
            };
            below = Below::Node(self.node_number(node));
        }
        let Below::Node(node) = below else { return };
        let entry = Entry {
            content: found.content,
            link: found.link,
            node,
            seen,
        };
        self.put_entry(definition, entry);
    }

    fn put_entry(&mut self, definition: CacheKey, entry: Entry) {
        if let Some(content) = entry.content {
            self.by_content.insert(content, definition);
        }
        if let Some(link) = entry.link {
            self.by_link.insert(link, definition);
        }
        self.entries.insert(definition, entry);
    }

    fn base_number(&mut self, base: &[Digest]) -> u32 {
        if let Some(number) = self.base_numbers.get(base) {
            return *number;
        }
        let number = count(self.bases.len());
        self.bases.push(base.to_vec());
        self.base_numbers.insert(base.to_vec(), number);
        number
    }

    fn node_number(&mut self, node: Node) -> u32 {
        if let Some(number) = self.node_numbers.get(&node) {
            return *number;
        }
        let number = count(self.nodes.len());
        self.nodes.push(node);
        self.node_numbers.insert(node, number);
        self.by_place
            .entry((node.below, node.layer))
            .or_insert(number);
        number
    }

    /// Whether a record is here and has been marked as seen not long ago.
    pub(crate) fn is_fresh(&self, definition: &CacheKey, today: u32) -> bool {
        self.entries
            .get(definition)
            .is_some_and(|entry| entry.seen.saturating_add(FRESH_DAYS) > today)
    }

    /// Marks a record as seen; fills in keys that it lacks.
    pub(crate) fn touch(&mut self, definition: &CacheKey, found: &Found, today: u32) {
        let Some(entry) = self.entries.get(definition) else {
            return;
        };
        let entry = Entry {
            content: entry.content.or(found.content),
            link: entry.link.or(found.link),
            seen: entry.seen.max(today),
            ..*entry
        };
        self.put_entry(*definition, entry);
    }

    /// The same without records that are too old or too many, and without what only those needed.
    ///
    /// A day that has not come yet counts as today: such records would outlive all others.
    pub(crate) fn bounded(&self, today: u32) -> Self {
        let entries: HashMap<CacheKey, Entry> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.seen.saturating_add(MOST_DAYS) >= today)
            .map(|(key, entry)| {
                let seen = entry.seen.min(today);
                (*key, Entry { seen, ..*entry })
            })
            .collect();
        let mut newest: Vec<(&CacheKey, &Entry)> = entries.iter().collect();
        newest.sort_by_key(|(key, entry)| (std::cmp::Reverse(entry.seen), **key));
        newest.truncate(MOST_RECORDS);
        let mut kept = self.only(&newest);
        while kept.layers.len() > MOST_LAYERS {
            newest.truncate(newest.len() - newest.len().div_ceil(10));
            kept = self.only(&newest);
        }
        kept
    }

    /// Some of the records, numbered in the order of their keys: equal records give equal bytes.
    fn only(&self, wanted: &[(&CacheKey, &Entry)]) -> Self {
        let mut sorted = wanted.to_vec();
        sorted.sort_by_key(|(key, _)| **key);
        let mut records = Self::default();
        let mut known: HashMap<u32, u32> = HashMap::new();
        for (key, entry) in sorted {
            let node = self.copy_node(entry.node, &mut records, &mut known);
            records.put_entry(*key, Entry { node, ..*entry });
        }
        records
    }

    fn copy_node(&self, node: u32, to: &mut Self, known: &mut HashMap<u32, u32>) -> u32 {
        let mut path = Vec::new();
        let mut next = Below::Node(node);
        let mut below = loop {
            match next {
                Below::Node(number) => match known.get(&number) {
                    Some(copied) => break Below::Node(*copied),
                    None => {
                        path.push(number);
                        next = self.nodes[number as usize].below;
                    }
                },
                Below::Base(number) => {
                    break Below::Base(to.base_number(&self.bases[number as usize]));
                }
            }
        };
        for number in path.into_iter().rev() {
            let node = self.nodes[number as usize];
            let layer = &self.layers[node.layer as usize];
            if to.layer(&layer.diff_id).is_none() {
                to.put_layer(layer.clone());
            }
            let node = Node {
                below,
                layer: to.layer_numbers[&layer.diff_id],
                ..node
            };
            let copied = to.node_number(node);
            known.insert(number, copied);
            below = Below::Node(copied);
        }
        match below {
            Below::Node(number) => number,
            Below::Base(_) => unreachable!("BUG: a record has a node"),
        }
    }

    /// Takes over what another has and this has not.
    pub(crate) fn absorb(&mut self, other: &Self) {
        for (key, entry) in &other.entries {
            if self.entries.contains_key(key) {
                continue;
            }
            let found = other.found(entry);
            for link in &found.output.chain {
                if let Some(layer) = other.layer(&link.layer)
                    && self.layer(&link.layer).is_none()
                {
                    self.put_layer(layer.clone());
                }
            }
            self.put(*key, &found, entry.seen);
        }
    }

    /// Takes over what another has, in the place of what is here, as seen today.
    pub(crate) fn renew(&mut self, other: &Self, today: u32) {
        for layer in &other.layers {
            self.put_layer(layer.clone());
        }
        for (key, entry) in &other.entries {
            self.put(*key, &other.found(entry), today);
        }
    }

    /// The same with blobs from elsewhere; without records that have a layer of which there is none.
    pub(crate) fn with_blobs(&self, blob: &dyn Fn(&Digest) -> Option<Desc>) -> Self {
        let mut records = Self::default();
        for layer in &self.layers {
            if let Some(blob) = blob(&layer.diff_id) {
                records.put_layer(CachedLayer {
                    blob,
                    ..layer.clone()
                });
            }
        }
        for (key, entry) in &self.entries {
            records.put(*key, &self.found(entry), entry.seen);
        }
        records
    }

    /// The bytes; equal ones for equal records.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let plain = self.encode_plain();
        zstd::bulk::compress(&plain, LEVEL).expect("BUG: compressing in memory does not fail")
    }

    /// The same before it is compressed: JSON.
    pub(crate) fn encode_plain(&self) -> Vec<u8> {
        let all: Vec<(&CacheKey, &Entry)> = self.entries.iter().collect();
        let ordered = self.only(&all);
        serde_json::to_vec(&ordered.wire()).expect("BUG: records have string keys only")
    }

    /// The keys of the records.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &CacheKey> {
        self.entries.keys()
    }
}

fn count(length: usize) -> u32 {
    u32::try_from(length).expect("BUG: fewer than 2^32 records, layers and nodes")
}

mod wire;

#[cfg(test)]
mod tests;
