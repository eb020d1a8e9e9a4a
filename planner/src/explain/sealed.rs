//! Memories for readers elsewhere: what a cache that travels says of the build that wrote it.
//!
//! Of a step whose result goes into the cache, the names of its fields travel, and those values that its layer or the
//! Dockerfile tell anyway; variables, here-documents, hosts, volumes and addresses are digests with a salt. Of the other
//! steps there are digests alone. Whoever reads opens a digest by what his own build has: equal values are found, others
//! stay unknown and are said to have changed. A low value can be guessed from its digest; a digest says nothing of others.
//!
//! What comes from elsewhere is not believed: nothing here decides what runs, and what is shown has no control characters.

use super::{BaseImage, Ended, Kind, Memo};
use crate::key::{CacheKey, Field};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;

/// Longest value that is not replaced by its digest.
const LONGEST: usize = 2_000;
/// Longest instruction that travels, for people.
const SHOWN: usize = 200;
/// The field that stands for the files of a context.
pub(super) const CONTEXT: &str = "context files";

/// Fields whose values travel: they are in the Dockerfile or in the layer.
const CLEAR: &[&str] = &[
    "op",
    "add",
    "base",
    "from context",
    "from input",
    "from scratch",
    "destination",
    "chown",
    "chmod",
    "link",
    "parents",
    "unpack",
    "working directory",
    "user",
    "path",
    "network",
    "insecure",
    "platform",
    "shm size",
    "keep git dir",
    "submodules",
    CONTEXT,
];
/// The same, by the beginning of their names.
const CLEAR_KINDS: &[&str] = &[
    "argument ",
    "source ",
    "exclude ",
    "diff_id ",
    "mount ",
    "device ",
    "ulimit ",
];

/// What digests of one memory are made with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Salt(pub [u8; 16]);

impl Salt {
    fn digest<'t>(self, purpose: &'t str, parts: impl IntoIterator<Item = &'t str>) -> [u8; 32] {
        let mut hasher = Sha256::new();
        hasher.update(b"kiln sealed 1\n");
        hasher.update(self.0);
        for part in [purpose].into_iter().chain(parts) {
            hasher.update((part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        hasher.finalize().into()
    }

    fn text<'t>(self, purpose: &'t str, parts: impl IntoIterator<Item = &'t str>) -> String {
        let digest = CacheKey(self.digest(purpose, parts)).to_string();
        digest[..32].to_owned()
    }

    /// All fields but that of the context's files.
    fn fields(self, memo: &Memo) -> String {
        let fields = memo.fields.iter().filter(|field| field.name != CONTEXT);
        let parts = fields.flat_map(|field| [field.name.as_str(), field.value.as_str()]);
        self.text("fields", parts)
    }

    fn value(self, field: &Field) -> String {
        self.text("value", [field.name.as_str(), field.value.as_str()])
    }

    fn key(self, key: &CacheKey) -> CacheKey {
        CacheKey(self.digest("key", [key.to_string().as_str()]))
    }
}

/// A step for readers elsewhere.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SealedMemo {
    kind: Kind,
    platform: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    line: Option<u32>,
    inputs: Vec<usize>,
    /// Its definition key; a digest of it where nothing is shown.
    key: String,
    /// Digest of the instruction as progress names it, with values of variables in it.
    text: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    shown: Option<Shown>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hidden: Option<Hidden>,
}

/// What is shown of a step whose result is in the cache.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Shown {
    stage: String,
    /// The instruction as it is in the Dockerfile.
    instruction: String,
    fields: Vec<SealedField>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    args: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    image: Option<BaseImage>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct SealedField {
    name: String,
    value: String,
    /// The value is a digest.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    sealed: bool,
}

/// Digests alone.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Hidden {
    stage: String,
    fields: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    files: Option<String>,
}

impl SealedMemo {
    /// The steps whose results it reads.
    #[must_use]
    pub fn inputs(&self) -> &[usize] {
        &self.inputs
    }
}

fn is_clear(field: &Field) -> bool {
    let name = field.name.as_str();
    field.value.len() <= LONGEST
        && (CLEAR.contains(&name) || CLEAR_KINDS.iter().any(|kind| name.starts_with(kind)))
}

/// Seals a step. `instruction` is its text in the Dockerfile, when its result goes into the cache.
#[must_use]
pub fn seal(memo: &Memo, instruction: Option<&str>, salt: Salt) -> SealedMemo {
    let sealed = |field: &Field| {
        let sealed = !is_clear(field);
        SealedField {
            name: field.name.clone(),
            value: if sealed {
                salt.value(field)
            } else {
                field.value.clone()
            },
            sealed,
        }
    };
    let shown = instruction.map(|instruction| Shown {
        stage: memo.stage.clone(),
        instruction: shortened(instruction),
        fields: memo.fields.iter().map(sealed).collect(),
        args: memo.args.clone(),
        image: memo.image.clone(),
    });
    let hidden = shown.is_none().then(|| Hidden {
        stage: salt.text("stage", [memo.stage.as_str()]),
        fields: salt.fields(memo),
        files: files_field(memo).map(|field| salt.value(field)),
    });
    let key = match &shown {
        Some(_) => memo.key,
        None => salt.key(&memo.key),
    };
    SealedMemo {
        kind: memo.kind,
        platform: memo.platform.clone(),
        line: memo.line,
        inputs: memo.inputs.clone(),
        key: key.to_string(),
        text: salt.text("text", [memo.text.as_str()]),
        shown,
        hidden,
    }
}

fn files_field(memo: &Memo) -> Option<&Field> {
    memo.fields.iter().find(|field| field.name == CONTEXT)
}

/// One line without addresses, which may have what only some are to know.
fn shortened(instruction: &str) -> String {
    let mut lines = instruction.lines();
    let first = lines.next().unwrap_or_default().trim();
    if first.contains("://") {
        return first.split(' ').next().unwrap_or_default().to_owned();
    }
    let is_whole = lines.next().is_none() && first.chars().count() <= SHOWN;
    if is_whole {
        return first.to_owned();
    }
    first.chars().take(SHOWN - 1).chain(['…']).collect()
}

/// Opens what can be opened by the steps of a build of one's own. `None` when a step is damaged.
#[must_use]
pub fn open(sealed: &[SealedMemo], salt: Salt, now: &[Memo]) -> Option<Vec<Memo>> {
    let opener = Opener::new(salt, now);
    sealed.iter().map(|memo| opener.open(memo)).collect()
}

/// What one's own build has, by its digests.
struct Opener<'a> {
    texts: HashMap<String, &'a str>,
    keys: HashMap<CacheKey, CacheKey>,
    fields: HashMap<String, &'a Memo>,
}

impl<'a> Opener<'a> {
    fn new(salt: Salt, now: &'a [Memo]) -> Self {
        let mut opener = Self {
            texts: HashMap::new(),
            keys: HashMap::new(),
            fields: HashMap::new(),
        };
        for memo in now {
            opener.keys.insert(salt.key(&memo.key), memo.key);
            opener.fields.insert(salt.fields(memo), memo);
            let texts = &mut opener.texts;
            texts.insert(salt.text("text", [memo.text.as_str()]), &memo.text);
            texts.insert(salt.text("stage", [memo.stage.as_str()]), &memo.stage);
            let values = memo.fields.iter();
            for field in values.filter(|field| !is_clear(field) || field.name == CONTEXT) {
                texts.insert(salt.value(field), &field.value);
            }
        }
        opener
    }

    fn open(&self, sealed: &SealedMemo) -> Option<Memo> {
        let key = key(&sealed.key)?;
        let text = self.texts.get(&sealed.text).map(|text| (*text).to_owned());
        let mut memo = Memo {
            name: String::new(),
            text: String::new(),
            stage: String::new(),
            platform: line(&sealed.platform),
            line: sealed.line,
            kind: sealed.kind,
            inputs: sealed.inputs.clone(),
            key,
            fields: Vec::new(),
            args: Vec::new(),
            image: None,
            no_cache: false,
            reads: None,
            ended: Ended::Cached,
            failed: None,
            sealed: Vec::new(),
            hidden: false,
        };
        match (&sealed.shown, &sealed.hidden) {
            (Some(shown), _) => self.show(shown, &mut memo),
            (None, Some(hidden)) => self.guess(hidden, &mut memo),
            (None, None) => return None,
        }
        memo.text = text.unwrap_or(memo.text);
        memo.name.clone_from(&memo.text);
        Some(memo)
    }

    fn show(&self, shown: &Shown, memo: &mut Memo) {
        memo.stage = line(&shown.stage);
        memo.text = line(&shown.instruction);
        memo.args = shown.args.iter().map(|name| line(name)).collect();
        memo.image = shown.image.as_ref().map(|image| BaseImage {
            reference: line(&image.reference),
            digest: line(&image.digest),
        });
        for field in &shown.fields {
            let name = line(&field.name);
            let opened = self.texts.get(&field.value).filter(|_| field.sealed);
            let value = match opened {
                Some(value) => (*value).to_owned(),
                None => printable(&field.value, true),
            };
            if field.sealed && opened.is_none() {
                memo.sealed.push(name.clone());
            }
            memo.fields.push(Field { name, value });
        }
    }

    fn guess(&self, hidden: &Hidden, memo: &mut Memo) {
        memo.hidden = true;
        memo.key = self.keys.get(&memo.key).copied().unwrap_or(memo.key);
        memo.stage = match self.texts.get(&hidden.stage) {
            Some(stage) => (*stage).to_owned(),
            None => format!("?{}", line(&hidden.stage)),
        };
        memo.text = "an instruction that the cache does not name".to_owned();
        match self.fields.get(&hidden.fields) {
            Some(same) => {
                let fields = same.fields.iter().filter(|field| field.name != CONTEXT);
                memo.fields = fields.cloned().collect();
                memo.args.clone_from(&same.args);
                memo.image.clone_from(&same.image);
            }
            None => memo.sealed.push(String::new()),
        }
        if let Some(files) = &hidden.files {
            let opened = self.texts.get(files).map(|value| (*value).to_owned());
            memo.fields.push(Field {
                name: CONTEXT.to_owned(),
                value: opened.unwrap_or_else(|| line(files)),
            });
        }
    }
}

fn key(text: &str) -> Option<CacheKey> {
    let mut key = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (at, byte) in key.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(CacheKey(key))
}

fn line(text: &str) -> String {
    printable(text, false)
}

/// Without what a terminal obeys.
#[must_use]
pub fn printable(text: &str, is_long: bool) -> String {
    let harmless = |c: char| match c {
        '\n' | '\t' if is_long => c,
        c if c.is_control() || is_direction(c) => '\u{fffd}',
        c => c,
    };
    text.chars().map(harmless).collect()
}

/// What turns the direction of the text after it.
fn is_direction(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}
