//! Why steps are not cached: what is remembered of a build's steps, and how the steps of another build differ from them.
//!
//! Nothing here decides what runs. Steps of two builds are paired by stage, text and order (`pairs`), compared by the
//! fields of their keys, the files that they read and their inputs, and told in words (`words`). Where the memory
//! is kept is not known here.

mod files;
mod pairs;
mod sealed;
mod words;

pub use files::{Change, Comparison, FileChange, FileChanges, ReadFile, compare_files, git_mode};
pub use sealed::{Salt, SealedMemo, open, printable, seal};

use crate::key::{self, CacheKey, ContentId, Difference, Field};
use crate::plan::{CopyFrom, Op, Step};
use serde::{Deserialize, Serialize};

/// The phrase for a step that the last build did not come to.
const STOPPED: &str = "the last build ended before it";

/// What a step does, in a word.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A base image.
    Image,
    /// COPY, ADD.
    Copy,
    /// RUN.
    Run,
    /// WORKDIR.
    Mkdir,
    /// A file behind a URL.
    Http,
    /// A Git repository.
    Git,
}

/// How a step got on in the build that it is remembered from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ended {
    /// It was never begun: the build ended before.
    #[default]
    Waiting,
    /// Its result was in the cache, or not needed.
    Cached,
    /// It ran.
    Ran,
    /// It failed.
    Failed,
}

/// A base image as people know it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BaseImage {
    /// Its reference.
    pub reference: String,
    /// Digest of its manifest.
    pub digest: String,
}

/// What is remembered of one step of a build: all that its key is made of, and how people name it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Memo {
    /// As progress names it.
    pub name: String,
    /// The instruction; the reference without its digest for a base image.
    pub text: String,
    /// Stage name or index as text.
    pub stage: String,
    /// Platform that it runs for.
    pub platform: String,
    /// First line of the instruction.
    pub line: Option<u32>,
    /// What it does.
    pub kind: Kind,
    /// Steps whose results it reads, by place in the build.
    pub inputs: Vec<usize>,
    /// Its definition key.
    pub key: CacheKey,
    /// What is in its keys, apart from its inputs.
    pub fields: Vec<Field>,
    /// Variables among the fields that come from ARG.
    pub args: Vec<String>,
    /// The image, of a base image.
    pub image: Option<BaseImage>,
    /// It was never to be looked up.
    pub no_cache: bool,
    /// Where the files that it read are listed; opaque.
    pub reads: Option<CacheKey>,
    /// How it got on.
    pub ended: Ended,
    /// The key under which it failed since it had a result under its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<CacheKey>,
    /// Fields whose values are not known, but for digests that nothing here has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sealed: Vec<String>,
    /// It is of a cache that has no result of it, and says nothing of it in clear.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub hidden: bool,
}

impl Memo {
    /// What there is to remember of a step before it runs.
    #[must_use]
    pub fn of(step: &Step, key: CacheKey, source_digest: Option<&ContentId>) -> Self {
        let image = match &step.op {
            Op::Image(image) => Some(BaseImage {
                reference: image.reference.clone(),
                digest: image.manifest_digest.clone(),
            }),
            _ => None,
        };
        let text = match &image {
            Some(image) => format!("FROM {}", image.reference),
            None => words::without_numbers(&step.origin.name).to_owned(),
        };
        Self {
            name: step.origin.name.clone(),
            text,
            stage: step.origin.stage.clone(),
            platform: step.platform.to_string(),
            line: step.origin.lines.map(|lines| lines.start),
            kind: kind(&step.op),
            inputs: step.inputs.iter().map(|input| input.0 as usize).collect(),
            key,
            fields: key::fields(step, source_digest),
            args: step.origin.args.clone(),
            image,
            no_cache: step.no_cache,
            reads: None,
            ended: Ended::Waiting,
            failed: None,
            sealed: Vec::new(),
            hidden: false,
        }
    }
}

/// For steps that got no result this time, remembers the result that they had before.
pub fn keep_recorded(past: &[Memo], now: &mut [Memo]) {
    let pairs = pairs::pair(past, now);
    for (memo, pair) in now.iter_mut().zip(pairs) {
        if matches!(memo.ended, Ended::Cached | Ended::Ran) {
            continue;
        }
        let Some(old) = pair.map(|pair| &past[pair]) else {
            continue;
        };
        memo.failed = (memo.ended == Ended::Failed)
            .then_some(memo.key)
            .or(old.failed);
        memo.key = old.key;
        memo.fields.clone_from(&old.fields);
        memo.args.clone_from(&old.args);
        memo.image.clone_from(&old.image);
        memo.reads = old.reads;
        memo.ended = old.ended;
        memo.sealed.clone_from(&old.sealed);
        memo.hidden = old.hidden;
    }
}

fn kind(op: &Op) -> Kind {
    match op {
        Op::Image(_) => Kind::Image,
        Op::Copy(_) => Kind::Copy,
        Op::Run(_) => Kind::Run,
        Op::Mkdir(_) => Kind::Mkdir,
        Op::Http(_) => Kind::Http,
        Op::Git(_) => Kind::Git,
    }
}

/// Whether a step reads files of a local context.
#[must_use]
pub fn reads_context(step: &Step) -> bool {
    matches!(&step.op, Op::Copy(copy) if matches!(copy.from, CopyFrom::Context(_)))
}

/// Why a step is not cached.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Reason {
    /// The first cause.
    pub cause: Cause,
    /// The phrase for it.
    pub phrase: String,
    /// Fields of the key that differ, as people name them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<Difference>,
    /// Files of a context that differ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<FileChanges>,
    /// Steps from the nearest input down to the one where the change began; empty when it began here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parents: Vec<usize>,
}

/// What made a step miss.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// The build that it is compared with had no such instruction.
    New,
    /// `--no-cache` or `--no-cache-filter`.
    NoCache,
    /// The instruction, or what it is run with.
    Fields,
    /// Files of a context.
    Files,
    /// A base image is another one.
    Base,
    /// Something below it.
    Parent,
    /// An instruction below it is gone.
    Removed,
    /// It stands elsewhere among the instructions.
    Order,
    /// Something below it was not to be taken from the cache, and gave something else this time.
    ParentAgain,
    /// It failed the last time.
    Failed,
    /// The last build ended before it.
    Stopped,
    /// The record of its result is gone.
    RecordGone,
    /// The record is there, but a layer that it names is not.
    LayerGone,
    /// Keys are made in another way than when it was last built.
    KeyFormat,
    /// The cache that it is compared with has no result of it.
    NotInCache,
}

/// What was lost of a result whose key is as before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lost {
    /// The record.
    Record,
    /// A layer.
    Layer,
    /// It never was here: the past is that of a cache that travels.
    Elsewhere,
}

/// What a comparison asks for when it needs it.
pub trait Evidence {
    /// How the files differ that a step of the past and one of the present read; `None` when a list is gone.
    fn files(&self, past: &Memo, now: usize) -> Option<FileChanges>;
    /// What is gone of the result of a present step that was not found under its key of before.
    fn lost(&self, now: usize) -> Lost;
    /// Words for why steps are not looked up: `--no-cache`.
    fn no_cache(&self) -> &str {
        "--no-cache"
    }
}

/// Why steps are not cached (`missed`), by what is remembered of an earlier build; also how the steps below
/// them changed that are the cause. Empty memory explains nothing.
#[must_use]
pub fn reasons(
    past: &[Memo],
    now: &[Memo],
    missed: &[bool],
    evidence: &dyn Evidence,
) -> Vec<Option<Reason>> {
    let mut comparing = Comparing {
        past,
        now,
        pairs: pairs::pair(past, now),
        again: Vec::with_capacity(now.len()),
        reasons: Vec::with_capacity(now.len()),
        evidence,
    };
    if past.is_empty() {
        return vec![None; now.len()];
    }
    for (at, missed) in missed.iter().enumerate().take(now.len()) {
        let memo = &now[at];
        let again = memo.no_cache || memo.inputs.iter().any(|input| comparing.again[*input]);
        comparing.again.push(again);
        let reason = comparing.reason(at, *missed);
        comparing.reasons.push(reason);
    }
    comparing.reasons
}

struct Comparing<'a> {
    past: &'a [Memo],
    now: &'a [Memo],
    /// The past step of each present one.
    pairs: Vec<Option<usize>>,
    /// What is not taken from the cache, and all above it.
    again: Vec<bool>,
    reasons: Vec<Option<Reason>>,
    evidence: &'a dyn Evidence,
}

impl Comparing<'_> {
    fn reason(&self, at: usize, missed: bool) -> Option<Reason> {
        let now = &self.now[at];
        if now.no_cache {
            return missed.then(|| plain(Cause::NoCache, self.evidence.no_cache().to_owned()));
        }
        let Some(past) = self.pairs[at].map(|pair| &self.past[pair]) else {
            let phrase = "not in the last build".to_owned();
            return Some(plain(Cause::New, phrase));
        };
        if past.failed == Some(now.key) {
            return missed.then(failed);
        }
        if past.key != now.key {
            return Some(self.changed(at, past));
        }
        // A base image only has to be brought here.
        (missed && now.kind != Kind::Image).then(|| self.unchanged(at, past))
    }

    /// Its key is as before, and yet it was not found.
    fn unchanged(&self, at: usize, past: &Memo) -> Reason {
        let now = &self.now[at];
        if let Some(input) = now.inputs.iter().find(|input| self.again[**input]) {
            return self.below(Cause::ParentAgain, *input, at);
        }
        let (cause, phrase) = match past.ended {
            Ended::Failed => return failed(),
            Ended::Waiting => (Cause::Stopped, STOPPED),
            Ended::Cached | Ended::Ran => match self.evidence.lost(at) {
                Lost::Record => (
                    Cause::RecordGone,
                    "its record is gone from the store (pruned or damaged)",
                ),
                Lost::Layer => (
                    Cause::LayerGone,
                    "its layer is gone from the store (pruned or damaged)",
                ),
                Lost::Elsewhere if past.hidden => (
                    Cause::NotInCache,
                    "not in the cache, which has only what is in the result (mode=min)",
                ),
                Lost::Elsewhere => (Cause::NotInCache, "the cache has no result of it"),
            },
        };
        plain(cause, phrase.to_owned())
    }

    fn changed(&self, at: usize, past: &Memo) -> Reason {
        let now = &self.now[at];
        if let (Some(old), Some(new)) = (&past.image, &now.image) {
            return Reason {
                fields: words::image_fields(old, new),
                ..plain(Cause::Base, words::base(old, new))
            };
        }
        if let (true, None, Some(new)) = (past.hidden, &past.image, &now.image) {
            return plain(Cause::Base, words::other_base(new));
        }
        let (fields, files_differ) = words::differences(past, now);
        let files = files_differ
            .then(|| self.evidence.files(past, at))
            .flatten();
        let below = self.changed_input(at, past);
        let mut reason = if !fields.is_empty() {
            plain(Cause::Fields, words::fields(&fields))
        } else if files_differ {
            let phrase = files
                .as_ref()
                .map_or_else(|| "context files changed".to_owned(), FileChanges::phrase);
            plain(Cause::Files, phrase)
        } else if let Some(below) = &below {
            below.clone()
        } else if let Some(input) = now.inputs.iter().find(|input| self.again[**input]) {
            self.below(Cause::ParentAgain, *input, at)
        } else if !now.inputs.is_empty() {
            // Its inputs have got other results since it had its own.
            plain(Cause::Stopped, STOPPED.to_owned())
        } else {
            let phrase = "cache keys are made in another way since the last build".to_owned();
            plain(Cause::KeyFormat, phrase)
        };
        reason.fields = fields;
        reason.files = files;
        if reason.parents.is_empty()
            && let Some(below) = below
        {
            reason.parents = below.parents;
        }
        reason
    }

    /// The first input that is not what it was, and what became of it.
    fn changed_input(&self, at: usize, past: &Memo) -> Option<Reason> {
        let now = &self.now[at];
        let before = |position: usize| {
            let old = past.inputs.get(position)?;
            Some((*old, self.past.get(*old)?))
        };
        for (position, input) in now.inputs.iter().enumerate() {
            let Some((old, old_memo)) = before(position) else {
                continue;
            };
            if old_memo.key == self.now[*input].key {
                continue;
            }
            let has_own_reason = self.reasons[*input].is_some();
            if has_own_reason {
                let is_base = self.reasons[*input]
                    .as_ref()
                    .is_some_and(|reason| reason.cause == Cause::Base);
                let cause = if is_base { Cause::Base } else { Cause::Parent };
                return Some(self.below(cause, *input, at));
            }
            if !self.pairs.contains(&Some(old)) {
                let phrase = format!("instruction removed: {}", words::clip(&old_memo.text));
                return Some(plain(Cause::Removed, phrase));
            }
            let phrase = "the instructions are in another order".to_owned();
            return Some(plain(Cause::Order, phrase));
        }
        None
    }

    /// The reason of a step whose input is the reason.
    fn below(&self, cause: Cause, input: usize, at: usize) -> Reason {
        let mut parents = vec![input];
        if let Some(reason) = &self.reasons[input] {
            parents.extend(&reason.parents);
        }
        let root = *parents.last().unwrap_or(&input);
        let root_memo = &self.now[root];
        let root_reason = self.reasons[root].as_ref();
        // What an instruction reads by a step of its own is its own affair: a bound context, a file behind a URL.
        let is_own = root_memo.line == self.now[at].line;
        let phrase = match (root_reason, cause) {
            (Some(reason), Cause::Base) => reason.phrase.clone(),
            (Some(reason), _) if is_own || reason.cause == Cause::Base => reason.phrase.clone(),
            (_, Cause::ParentAgain) => format!("parent {} ran again", words::place(root_memo)),
            _ => format!("parent changed {}", words::place(root_memo)),
        };
        Reason {
            parents,
            ..plain(cause, phrase)
        }
    }
}

fn failed() -> Reason {
    plain(Cause::Failed, "it failed in the last build".to_owned())
}

fn plain(cause: Cause, phrase: String) -> Reason {
    Reason {
        cause,
        phrase,
        fields: Vec::new(),
        files: None,
        parents: Vec::new(),
    }
}
