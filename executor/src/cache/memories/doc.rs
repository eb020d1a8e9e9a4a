//! The bytes of one memory: JSON, compressed with zstd.
//!
//! ```text
//! {"version":1, "salt":"32 hex digits", "steps":[sealed step...], "files":{"3":"base64 of what step 3 read"}}
//! ```
//! The lists of files are those of cache records. Whoever reads takes apart what somebody wrote: sizes and counts are
//! bounded, steps name none that is not there, and what is shown has nothing that a terminal obeys.

use super::Remembered;
use crate::build::manifest;
use crate::copy::Lines;
use crate::layer::hex;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use planner::explain::{self, Memo, Salt, SealedMemo};
use planner::key::CacheKey;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::io::Read as _;

/// Version of the format; others are not read.
const VERSION: u32 = 1;
/// Most bytes of a memory.
pub(crate) const DOC_LIMIT: u64 = 1 << 20;
/// Most bytes that it may decompress to.
const PLAIN_LIMIT: u64 = 16 << 20;
/// Most values of the JSON: a step has some dozens.
const MOST_VALUES: usize = 1_000_000;
/// Most steps.
const MOST_STEPS: usize = 10_000;
/// Most inputs of all steps together.
const MOST_INPUTS: usize = 200_000;
/// Most bytes of all lists of files together: some ten thousand files.
const FILES_LIMIT: u64 = 512 << 10;
/// Most bytes of all paths in lists of files, and what they say of the content, together.
const TEXTS_LIMIT: usize = 64 << 20;
/// Longest path or target of a link.
const LONGEST: usize = 4096;
/// Level of zstd.
const LEVEL: i32 = 9;

#[derive(Serialize, Deserialize)]
struct Wire {
    version: u32,
    salt: String,
    steps: Vec<SealedMemo>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    files: BTreeMap<usize, String>,
}

/// What is remembered of one build.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Doc {
    salt: Salt,
    steps: Vec<SealedMemo>,
    files: BTreeMap<usize, Vec<u8>>,
}

/// The steps of a memory, and what they read, by what they call it.
pub(crate) type Opened = (Vec<Memo>, HashMap<CacheKey, Vec<u8>>);

impl Doc {
    /// What is told of a build: of steps that are not shown, digests alone.
    pub(crate) fn of(build: &Remembered, is_shown: &dyn Fn(usize) -> bool) -> Self {
        // No two builds have the same, and the same build has it again.
        let own = Sha256::digest(format!("salt {}", build.label(is_shown).head));
        let salt = Salt(own[..16].try_into().expect("BUG: a digest has 32 bytes"));
        let mut steps = Vec::with_capacity(build.steps.len());
        let (mut files, mut total) = (BTreeMap::new(), 0);
        for (at, step) in build.steps.iter().enumerate() {
            let instruction = is_shown(at).then_some(step.instruction.as_str());
            steps.push(explain::seal(&step.memo, instruction, salt));
            let Some(reads) = step.reads.as_ref().filter(|_| instruction.is_some()) else {
                continue;
            };
            let (length, mut payload) = reads.payload();
            if total + length > FILES_LIMIT {
                continue;
            }
            let mut bytes = Vec::new();
            if payload.read_to_end(&mut bytes).is_ok() {
                total += length;
                files.insert(at, bytes);
            }
        }
        Self { salt, steps, files }
    }

    /// The bytes, without lists of files if it is too large with them; `None` when it is too large anyway.
    pub(crate) fn encode(&self) -> Option<Vec<u8>> {
        if self.steps.len() > MOST_STEPS {
            return None;
        }
        let all = self.packed(&self.files);
        let fits = |bytes: &Vec<u8>| bytes.len() as u64 <= DOC_LIMIT;
        Some(all)
            .filter(fits)
            .or_else(|| Some(self.packed(&BTreeMap::new())).filter(fits))
    }

    fn packed(&self, files: &BTreeMap<usize, Vec<u8>>) -> Vec<u8> {
        let files = files.iter();
        let wire = Wire {
            version: VERSION,
            salt: hex(&self.salt.0),
            steps: self.steps.clone(),
            files: files
                .map(|(at, list)| (*at, STANDARD_NO_PAD.encode(list)))
                .collect(),
        };
        let plain = serde_json::to_vec(&wire).expect("BUG: a memory has string keys only");
        zstd::bulk::compress(&plain, LEVEL).expect("BUG: compressing in memory does not fail")
    }

    /// Reads what somebody wrote.
    ///
    /// # Errors
    /// What is wrong with it, in a phrase.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, String> {
        if bytes.len() as u64 > DOC_LIMIT {
            return Err(format!("it is larger than the limit of {DOC_LIMIT} bytes"));
        }
        let decoder = zstd::stream::read::Decoder::with_buffer(bytes);
        let decoder = decoder.map_err(|e| format!("it cannot be decompressed: {e}"))?;
        let mut plain = Vec::new();
        let read = decoder.take(PLAIN_LIMIT + 1).read_to_end(&mut plain);
        read.map_err(|e| format!("it cannot be decompressed: {e}"))?;
        if plain.len() as u64 > PLAIN_LIMIT || manifest::values(&plain) > MOST_VALUES {
            return Err("it is larger than any that is written".to_owned());
        }
        let wire: Wire =
            serde_json::from_slice(&plain).map_err(|e| format!("it is damaged: {e}"))?;
        wire.checked()
    }

    /// The steps, opened by those of one's own build.
    pub(crate) fn open(&self, now: &[Memo]) -> Option<Opened> {
        let mut memos = explain::open(&self.steps, self.salt, now)?;
        let mut files = HashMap::new();
        for (at, list) in &self.files {
            let key = CacheKey(Sha256::digest(list).into());
            if let Some(memo) = memos.get_mut(*at) {
                memo.reads = Some(key);
                files.insert(key, list.clone());
            }
        }
        Some((memos, files))
    }
}

impl Wire {
    fn checked(self) -> Result<Doc, String> {
        let version = self.version;
        if version != VERSION {
            return Err(format!(
                "it has version {version}, and this program reads version {VERSION}"
            ));
        }
        let damaged = || "it is damaged".to_owned();
        let salt = salt(&self.salt).ok_or_else(damaged)?;
        let count = self.steps.len();
        let inputs = self.steps.iter().flat_map(SealedMemo::inputs);
        let (mut inputs_count, mut is_sound) = (0, true);
        for input in inputs {
            inputs_count += 1;
            is_sound &= *input < count;
        }
        if count > MOST_STEPS || inputs_count > MOST_INPUTS || !is_sound {
            return Err(damaged());
        }
        let (mut files, mut bytes_left) = (BTreeMap::new(), TEXTS_LIMIT);
        for (at, list) in self.files {
            let list = STANDARD_NO_PAD.decode(list).map_err(|_| damaged())?;
            bytes_left = left_of(&list, bytes_left).ok_or_else(damaged)?;
            if at >= count {
                return Err(damaged());
            }
            files.insert(at, list);
        }
        Ok(Doc {
            salt,
            steps: self.steps,
            files,
        })
    }
}

/// How many bytes of text other lists may have, when this one has what it has; a path may be a few bytes in it.
fn left_of(list: &[u8], mut left: usize) -> Option<usize> {
    let mut lines = Lines::of_payload(list).ok()??;
    while lines.advance().ok()? {
        let (path, content) = (&lines.last, lines.content());
        if path.len() > LONGEST || content.len() > LONGEST {
            return None;
        }
        left = left.checked_sub(path.len() + content.len())?;
    }
    Some(left)
}

fn salt(text: &str) -> Option<Salt> {
    let mut salt = [0; 16];
    if text.len() != 32 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    for (at, byte) in salt.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(Salt(salt))
}

/// What is read of these bytes, written again, once it has been opened; `None` when they are refused.
pub(crate) fn rewritten(bytes: &[u8]) -> Option<Vec<u8>> {
    let doc = Doc::decode(bytes).ok()?;
    let (memos, files) = doc.open(&[])?;
    // By itself it is opened otherwise.
    doc.open(&memos)?;
    for list in files.values() {
        left_of(list, TEXTS_LIMIT).expect("BUG: it was read before");
    }
    doc.encode()
}
