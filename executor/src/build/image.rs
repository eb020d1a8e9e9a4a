//! Image assembly: configs, manifests and indexes as canonical JSON.
//!
//! Times. A history entry of ours carries the time at which its root file system was first made in this store
//! (kept in the step's record), an entry without a layer the time of the layer before it, and the config's
//! `created` the time of the last entry that has one. So a build that finds every step in the cache makes the same
//! image again, digest and all; an image without any entry that has a time carries no `created`. With SOURCE_DATE_EPOCH `created` is
//! that time, and so is every time above it in the history that the build adds.

use crate::Error;
use crate::build::manifest::{self, Desc, DescPlatform, Index, Manifest, OCI_CONFIG, OCI_MANIFEST};
use crate::build::record::{Link, StepOutput, base_of};
use crate::layer;
use crate::request::{Annotation, AnnotationPlace, select};
use oci_spec::image::Digest;
use planner::config::{HistoryEntry, ImageConfig};
use planner::plan::{Plan, StepId, Target};
use planner::platform::Platform;
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};

/// An assembled image of one platform, apart from the form of its layers.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    pub platform: Platform,
    /// diff_ids, base first.
    pub layers: Vec<Digest>,
    /// How many of them are the base image's.
    pub base_layers: usize,
    /// The config blob.
    pub config: Vec<u8>,
    /// Its digest.
    pub config_digest: Digest,
    /// `created` of the config.
    pub created: Option<String>,
    /// Annotations of the manifest.
    pub annotations: BTreeMap<String, String>,
    /// The time that the layers above the base were rewritten to.
    pub rewritten: Option<i64>,
}

/// Says on a layer that its times were rewritten, and to what, as BuildKit says it.
const REWRITTEN: &str = "buildkit/rewritten-timestamp";

#[derive(Serialize)]
struct ConfigBlob<'a> {
    #[serde(flatten)]
    image: &'a ImageConfig,
    #[serde(skip_serializing_if = "Option::is_none")]
    created: Option<&'a str>,
    rootfs: RootFs<'a>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    history: &'a [HistoryEntry],
    /// The inline cache.
    #[serde(rename = "kiln.cache.v1", skip_serializing_if = "Option::is_none")]
    cache: Option<&'a str>,
}

#[derive(Serialize)]
struct RootFs<'a> {
    r#type: &'static str,
    diff_ids: &'a [Digest],
}

/// Assembles a target's image. `replaced` gives the layers that stand in for others (times rewritten); `cache` is what it
/// has for later builds.
pub(crate) fn assemble(
    (plan, target, output): (&Plan, &Target, &StepOutput),
    epoch: Option<i64>,
    replaced: &HashMap<Digest, Digest>,
    cache: Option<&str>,
) -> Image {
    let mut layers = output.snapshot().layers;
    for layer in layers.iter_mut().skip(output.base.len()) {
        if let Some(other) = replaced.get(layer) {
            layer.clone_from(other);
        }
    }
    let history = history(plan, target, output, epoch);
    let created = match epoch {
        Some(epoch) => Some(rfc3339(epoch)),
        None => history.iter().rev().find_map(|entry| entry.created.clone()),
    };
    let blob = ConfigBlob {
        image: &target.config,
        created: created.as_deref(),
        rootfs: RootFs {
            r#type: "layers",
            diff_ids: &layers,
        },
        history: &history,
        cache,
    };
    let config = manifest::bytes_of(&blob);
    let config_digest = manifest::digest_of(&config);
    let base_layers = output.base.len();
    Image {
        platform: target.platform.clone(),
        layers,
        base_layers,
        config,
        config_digest,
        created,
        annotations: BTreeMap::new(),
        rewritten: None,
    }
}

/// The history with times, and with as many entries that have a layer as there are layers.
fn history(
    plan: &Plan,
    target: &Target,
    output: &StepOutput,
    epoch: Option<i64>,
) -> Vec<HistoryEntry> {
    let links = links_by_step(plan, target.rootfs, output);
    let first_own = target
        .history
        .iter()
        .position(is_own)
        .unwrap_or(target.history.len());
    let mut entries = target.history[..first_own].to_vec();
    complete_base(&mut entries, output.base.len());
    let first_own_entry = entries.len();
    for mut entry in target.history[first_own..].iter().cloned() {
        if let Some(step) = entry.step {
            match links.get(&step) {
                Some(link) => entry.created = Some(rfc3339(link.created)),
                None => entry.empty_layer = true,
            }
        }
        entries.push(entry);
    }
    fill_times(&mut entries, first_own_entry);
    if let Some(epoch) = epoch {
        for entry in &mut entries[first_own_entry..] {
            clamp(entry, epoch);
        }
    }
    entries
}

/// Ours have no time yet.
fn is_own(entry: &HistoryEntry) -> bool {
    let by_us = entry.comment.as_deref() == Some("buildkit.dockerfile.v0");
    entry.step.is_some() || (entry.created.is_none() && by_us)
}

/// The steps of a root file system, from the base image up, lie along the base inputs.
fn links_by_step<'o>(
    plan: &Plan,
    rootfs: Option<StepId>,
    output: &'o StepOutput,
) -> HashMap<StepId, &'o Link> {
    let mut links = HashMap::new();
    let mut next = rootfs;
    for link in output.chain.iter().rev() {
        let Some(id) = next else { break };
        let step = &plan.steps[id.0 as usize];
        links.insert(id, link);
        next = base_of(&step.op).map(|input| step.inputs[input]);
    }
    links
}

/// Base images made by tools that write no history, or too little: every layer needs an entry.
fn complete_base(entries: &mut Vec<HistoryEntry>, layers: usize) {
    let with_layer = entries.iter().filter(|entry| !entry.empty_layer).count();
    if with_layer > layers {
        for entry in entries.iter_mut() {
            entry.empty_layer = true;
        }
    }
    let missing = if with_layer > layers {
        layers
    } else {
        layers - with_layer
    };
    let filler = HistoryEntry {
        created_by: Some("base image".to_owned()),
        comment: Some("added by kiln: the base image has no history for this layer".to_owned()),
        ..HistoryEntry::default()
    };
    entries.extend(std::iter::repeat_n(filler, missing));
}

/// Of our entries, those without a time get that of the entry before; the first ones that of the first that has
/// one, or else the base's last time.
fn fill_times(entries: &mut [HistoryEntry], first_own: usize) {
    let (base, ours) = entries.split_at_mut(first_own);
    let first_known = ours.iter().find_map(|entry| entry.created.clone());
    let mut current =
        first_known.or_else(|| base.iter().rev().find_map(|entry| entry.created.clone()));
    for entry in ours {
        match &entry.created {
            Some(created) => current = Some(created.clone()),
            None => entry.created.clone_from(&current),
        }
    }
}

fn clamp(entry: &mut HistoryEntry, epoch: i64) {
    let later = match entry.created.as_deref().map(str::parse::<jiff::Timestamp>) {
        Some(Ok(created)) => created.as_second() > epoch,
        _ => true,
    };
    if later {
        entry.created = Some(rfc3339(epoch));
    }
}

/// Seconds since the epoch as RFC 3339 in UTC.
pub(crate) fn rfc3339(seconds: i64) -> String {
    let time = jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    time.to_string()
}

/// Media types of an image's documents.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Flavour {
    Oci,
    Docker,
}

impl Image {
    /// The manifest over layers in a certain form, with its descriptor.
    pub(crate) fn manifest(&self, layers: Vec<Desc>, flavour: Flavour) -> (Desc, Vec<u8>) {
        let (manifest_type, config_type) = match flavour {
            Flavour::Oci => (OCI_MANIFEST, OCI_CONFIG),
            Flavour::Docker => (manifest::DOCKER_MANIFEST, manifest::DOCKER_CONFIG),
        };
        let manifest = Manifest {
            schema_version: 2,
            media_type: manifest_type.to_owned(),
            config: Desc::new(config_type, &self.config_digest, self.config.len() as u64),
            layers: layers
                .into_iter()
                .enumerate()
                .map(|(position, layer)| self.layer(position, layer, flavour))
                .collect(),
            annotations: self.annotations.clone(),
        };
        let bytes = manifest::bytes_of(&manifest);
        let desc = Desc::new(
            manifest_type,
            &manifest::digest_of(&bytes),
            bytes.len() as u64,
        );
        (desc, bytes)
    }

    fn layer(&self, position: usize, layer: Desc, flavour: Flavour) -> Desc {
        let mut layer = plain_layer(layer, flavour);
        if let Some(epoch) = self.rewritten.filter(|_| position >= self.base_layers) {
            layer
                .annotations
                .insert(REWRITTEN.to_owned(), epoch.to_string());
        }
        layer
    }
}

/// A layer descriptor without a base's annotations, in the media types of the flavour. Those without which an estargz
/// layer is none stay.
fn plain_layer(mut layer: Desc, flavour: Flavour) -> Desc {
    layer
        .annotations
        .retain(|key, _| layer::ESTARGZ_ANNOTATIONS.contains(&key.as_str()));
    let compression = if layer.media_type.ends_with("gzip") {
        Some("gzip")
    } else if layer.media_type.ends_with("zstd") {
        Some("zstd")
    } else {
        None
    };
    let media_type = match (flavour, compression) {
        (Flavour::Oci, None) => manifest::OCI_LAYER.to_owned(),
        (Flavour::Oci, Some(compression)) => format!("{}+{compression}", manifest::OCI_LAYER),
        (Flavour::Docker, None) => "application/vnd.docker.image.rootfs.diff.tar".to_owned(),
        (Flavour::Docker, Some(compression)) => {
            format!("application/vnd.docker.image.rootfs.diff.tar.{compression}")
        }
    };
    Desc {
        media_type,
        platform: None,
        ..layer
    }
}

/// How the manifests of a build become one thing with a name.
pub(crate) struct Top<'a> {
    /// An index, even over a single manifest.
    pub index: bool,
    pub annotations: &'a [Annotation],
    pub flavour: Flavour,
}

impl Top<'_> {
    /// The descriptor of the whole, and the index where there is one.
    pub(crate) fn over(
        &self,
        manifests: Vec<(Platform, Desc)>,
    ) -> Result<(Desc, Option<Vec<u8>>), Error> {
        let mut entries: Vec<Desc> = manifests
            .into_iter()
            .map(|(platform, desc)| Desc {
                annotations: select(
                    self.annotations,
                    AnnotationPlace::ManifestDescriptor,
                    Some(&platform),
                ),
                platform: Some(DescPlatform::of(&platform)),
                ..desc
            })
            .collect();
        let of_index = select(self.annotations, AnnotationPlace::Index, None);
        let of_descriptor = select(self.annotations, AnnotationPlace::IndexDescriptor, None);
        if self.index || entries.len() != 1 {
            let (mut desc, bytes) = index(entries, of_index, self.flavour);
            desc.annotations = of_descriptor;
            return Ok((desc, Some(bytes)));
        }
        if !of_index.is_empty() || !of_descriptor.is_empty() {
            return Err(Error::Request(
                "index annotations not supported for single platform export".to_owned(),
            ));
        }
        Ok((entries.remove(0), None))
    }
}

/// The index over manifests that carry their platforms.
pub(crate) fn index(
    entries: Vec<Desc>,
    annotations: BTreeMap<String, String>,
    flavour: Flavour,
) -> (Desc, Vec<u8>) {
    let mut index = Index::of(entries);
    index.annotations = annotations;
    if flavour == Flavour::Docker {
        manifest::DOCKER_LIST.clone_into(&mut index.media_type);
    }
    let bytes = manifest::bytes_of(&index);
    let desc = Desc::new(
        &index.media_type,
        &manifest::digest_of(&bytes),
        bytes.len() as u64,
    );
    (desc, bytes)
}
