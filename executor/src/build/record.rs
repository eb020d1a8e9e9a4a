//! Results of steps: what a step's output is, and how it is kept in a cache record.
//!
//! Payload of a record, JSON: `version`, `output` (base layers, then one link for each step of the chain
//! that made the root file system), `fields` (what is in the step's key, for explanations) and `reads`
//! (key of the record that lists the files of a context that the step read: apart, because a lookup does not need
//! them and there can be many). Nothing secret is in it, because nothing secret is in a key.

use crate::snapshot::Snapshot;
use oci_spec::image::Digest;
use planner::key::{CacheKey, ContentId, Field};
use planner::plan::{Op, Plan, Step};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Version of the payload; others count as absent.
const VERSION: u32 = 2;

/// A step's result: its root file system, with the steps that made it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct StepOutput {
    /// Layers of the base image, by diff_id.
    pub base: Vec<Digest>,
    /// One link for each step from the base image up, this step last. Empty for the image itself.
    pub chain: Vec<Link>,
}

/// What one step added.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Link {
    /// Its layer, an empty one when it changed nothing.
    pub layer: Digest,
    /// When this root file system was first made here, seconds since the epoch.
    pub created: i64,
}

impl StepOutput {
    /// The root file system.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let own = self.chain.iter().map(|link| link.layer.clone());
        Snapshot {
            layers: self.base.iter().cloned().chain(own).collect(),
        }
    }

    /// This root file system with another step's link on top.
    pub(crate) fn with(&self, link: Link) -> Self {
        let mut output = self.clone();
        output.chain.push(link);
        output
    }
}

/// The other keys of a step, which caches that travel need: a lookup by the definition key computes none of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct OtherKeys {
    /// The content key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<CacheKey>,
    /// The key of a `COPY --link` layer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<CacheKey>,
}

#[derive(Serialize)]
struct PayloadRef<'a> {
    version: u32,
    output: &'a StepOutput,
    fields: &'a [Field],
    keys: &'a OtherKeys,
    #[serde(skip_serializing_if = "Option::is_none")]
    reads: Option<CacheKey>,
}

#[derive(Deserialize)]
struct Payload {
    version: u32,
    output: StepOutput,
    #[serde(default)]
    keys: OtherKeys,
}

/// The payload of a record.
pub(crate) fn encode(
    output: &StepOutput,
    fields: &[Field],
    reads: Option<CacheKey>,
    keys: &OtherKeys,
) -> Vec<u8> {
    let payload = PayloadRef {
        version: VERSION,
        output,
        fields,
        keys,
        reads,
    };
    serde_json::to_vec(&payload).expect("BUG: a record has string keys only")
}

/// Key of the record that lists what was read, by the digest of all that.
pub(crate) fn reads_key(source: &ContentId) -> CacheKey {
    let mut hasher = Sha256::new();
    hasher.update(b"kiln files read 2\n");
    hasher.update(source.0);
    CacheKey(hasher.finalize().into())
}

/// The output in a payload; `None` when it is damaged or of another version.
pub(crate) fn decode(payload: &[u8]) -> Option<StepOutput> {
    decode_with_keys(payload).map(|(output, _)| output)
}

/// The output in a payload, and the step's other keys.
pub(crate) fn decode_with_keys(payload: &[u8]) -> Option<(StepOutput, OtherKeys)> {
    let payload: Payload = serde_json::from_slice(payload).ok()?;
    (payload.version == VERSION).then_some((payload.output, payload.keys))
}

/// The input that a step's root file system lies over.
pub(crate) fn base_of(op: &Op) -> Option<usize> {
    match op {
        Op::Image(_) | Op::Http(_) | Op::Git(_) => None,
        Op::Copy(copy) => copy.base,
        Op::Run(run) => run.base,
        Op::Mkdir(mkdir) => mkdir.base,
    }
}

/// Whether a root file system is one that a step of the plan can have: over the layers of its base image, with a link for
/// each step from there up. What a cache says for a key need not be.
pub(crate) fn fits(plan: &Plan, step: &Step, output: &StepOutput) -> bool {
    let (mut links, mut step) = (1, step);
    loop {
        let below = base_of(&step.op).and_then(|input| step.inputs.get(input));
        match below.and_then(|id| plan.steps.get(id.0 as usize)) {
            None => return output.base.is_empty() && output.chain.len() == links,
            Some(Step {
                op: Op::Image(image),
                ..
            }) => {
                let base = output.base.iter().map(AsRef::as_ref);
                return base.eq(image.diff_ids.iter().map(String::as_str))
                    && output.chain.len() == links;
            }
            Some(other) => (links, step) = (links + 1, other),
        }
    }
}
