//! What is remembered of builds, so that the next one can say why a step is not cached. It never decides anything: without
//! it, or with a damaged one, builds do the same and say less.
//!
//! Records of the store, all of which may be pruned at any time:
//! - of a build's *place* (context, Dockerfile, target, platforms): its steps' memos, and apart a digest of their keys, so
//!   that a build with nothing to do reads 32 bytes and writes nothing;
//! - by the Dockerfile's text, target and platforms: the place that was last built from it, for contexts that are now
//!   somewhere else;
//! - the story of the last build in this store that ran a step.
//!
//! Of two builds of one place at once, the later to end is remembered.

use crate::Error;
use crate::build::backend::Executor;
use crate::build::record;
use crate::cache::memories::{Label, Remembered, RememberedStep};
use crate::cache::{ComparedWith, Elsewhere};
use crate::copy::{Lines, ReadEntry};
use crate::request::{BuildRequest, ContextSource};
use planner::explain::{
    self, Comparison, Ended, Evidence, FileChanges, Lost, Memo, ReadFile, Reason,
};
use planner::key::{CacheKey, ContentId};
use planner::plan::{Plan, Step, StepId};
use planner::scheduler::{Standing, Survey};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::cmp::Ordering;
use std::io::{self, Read};
use std::sync::{Mutex, MutexGuard, PoisonError};
use store::Store;

/// Version of the payloads; others count as absent.
const VERSION: u32 = 1;

/// What a build was of.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Subject {
    /// The main context: a folder, or what was typed, without credentials.
    pub context: String,
    /// The Dockerfile as it was named.
    pub dockerfile: String,
    /// `--target`.
    pub target: Option<String>,
    /// Platforms.
    pub platforms: Vec<String>,
}

impl Subject {
    pub(crate) fn of(request: &BuildRequest, plan: &Plan) -> Self {
        let context = match &request.context {
            // From wherever it is named.
            ContextSource::Directory(dir) => {
                let dir = dir.canonicalize().unwrap_or_else(|_| dir.clone());
                dir.display().to_string()
            }
            _ => request.place.context.clone(),
        };
        let dockerfile = if request.place.dockerfile.is_empty() {
            request.dockerfile_name.clone()
        } else {
            request.place.dockerfile.clone()
        };
        Self {
            context,
            dockerfile,
            target: request.target.clone(),
            platforms: plan
                .targets
                .iter()
                .map(|target| target.platform.to_string())
                .collect(),
        }
    }

    fn key(&self, purpose: &str) -> [u8; 32] {
        let text = serde_json::to_vec(self).expect("BUG: a subject has string keys only");
        let mut hasher = Sha256::new();
        hasher.update(format!("kiln journal {VERSION} {purpose}\n"));
        hasher.update(&text);
        hasher.finalize().into()
    }

    /// The same Dockerfile, wherever its context is.
    fn elsewhere(&self, text: &str) -> [u8; 32] {
        let named = Self {
            context: format!("{:x?}", Sha256::digest(text)),
            dockerfile: String::new(),
            ..self.clone()
        };
        named.key("place")
    }
}

/// One step of a build that was told of.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Told {
    /// The step.
    #[serde(flatten)]
    pub memo: Memo,
    /// Why it was not cached, or how it changed although it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
}

/// A build and why its steps ran.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Story {
    version: u32,
    /// When, in seconds since 1970.
    pub time: i64,
    /// What was built.
    pub subject: Subject,
    /// Whether there was an earlier build to compare with.
    pub compared: bool,
    /// That build, when it was made elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compared_with: Option<ComparedWith>,
    /// All steps.
    pub steps: Vec<Told>,
}

/// The story of the last build in this store that ran a step.
///
/// # Errors
/// An unreadable store.
pub fn last_story(store: &Store) -> Result<Option<Story>, Error> {
    let payload = store.record(&story_key())?;
    let story = payload.and_then(|bytes| serde_json::from_slice::<Story>(&bytes).ok());
    Ok(story.filter(|story| story.version == VERSION))
}

fn story_key() -> [u8; 32] {
    Sha256::digest(format!("kiln journal {VERSION} last\n")).into()
}

#[derive(Serialize, Deserialize)]
struct Memory {
    version: u32,
    steps: Vec<Memo>,
}

/// The journal of one build.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    state: Mutex<State>,
}

#[derive(Clone, Debug, Default)]
struct State {
    keys: Vec<CacheKey>,
    sources: Vec<Option<ContentId>>,
    /// Something has to run, or the keys are not those that are remembered.
    matters: bool,
    compared: bool,
    compared_with: Option<ComparedWith>,
    past: Vec<Memo>,
    reasons: Vec<Option<Reason>>,
    ended: Vec<Ended>,
    begun: Vec<bool>,
    failed: Option<StepId>,
}

impl State {
    /// Takes over what an earlier run of the same plan has told.
    fn follow(&mut self, earlier: Self) {
        if earlier.begun.len() != self.begun.len() || !earlier.begun.contains(&true) {
            return;
        }
        self.matters = true;
        self.keys = earlier.keys;
        self.sources = earlier.sources;
        self.reasons.resize(self.begun.len(), None);
        for at in 0..self.begun.len() {
            if !earlier.begun[at] {
                continue;
            }
            self.begun[at] = true;
            if self.ended[at] == Ended::Cached {
                self.ended[at] = Ended::Ran;
            }
            if let Some(reason) = earlier.reasons.get(at).cloned().flatten() {
                self.reasons[at] = Some(reason);
            }
        }
        self.past = earlier.past;
        self.compared = earlier.compared;
        self.compared_with = earlier.compared_with;
    }
}

impl Journal {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes how the steps stand, and finds out why those have to run that have to. A build that goes over its plan again
    /// tells one story.
    pub(crate) fn begin<O>(&self, executor: &Executor<'_>, plan: &Plan, survey: &Survey<O>) {
        let store = executor.space.store();
        let subject = Subject::of(executor.request, plan);
        let missed: Vec<bool> = survey
            .standings
            .iter()
            .map(|standing| *standing == Standing::Miss)
            .collect();
        let mut state = State {
            matters: true,
            ended: survey
                .standings
                .iter()
                .map(|standing| match standing {
                    Standing::Miss => Ended::Waiting,
                    Standing::Hit | Standing::NotNeeded => Ended::Cached,
                })
                .collect(),
            begun: vec![false; plan.steps.len()],
            ..State::default()
        };
        if missed.contains(&true) {
            let now = memos(plan, &survey.keys, &survey.sources);
            let past = Past::of(executor, plan, (&subject, &now), &missed);
            state.reasons = past.reasons(executor, &now, &missed);
            state.compared = !past.steps().is_empty();
            if let Past::Elsewhere(elsewhere) = &past {
                state.compared_with = Some(elsewhere.from.clone());
            }
            state.past = past.into_steps();
        } else {
            let head = store.record(&subject.key("head"));
            state.matters = head.ok().flatten().as_deref() != Some(&digest_of(&survey.keys));
        }
        if state.matters || !executor.request.cache_to.is_empty() {
            state.keys.clone_from(&survey.keys);
            state.sources.clone_from(&survey.sources);
        }
        let earlier = std::mem::replace(&mut *self.lock(), state);
        self.lock().follow(earlier);
    }

    /// A step begins to run. Gives the phrase that says why.
    pub(crate) fn began(&self, step: StepId) -> Option<String> {
        let mut state = self.lock();
        let at = step.0 as usize;
        if let Some(begun) = state.begun.get_mut(at) {
            *begun = true;
        }
        let reason = state.reasons.get(at)?.as_ref()?;
        Some(reason.phrase.clone())
    }

    /// A step has its result.
    pub(crate) fn ended(&self, step: StepId) {
        let mut state = self.lock();
        let at = step.0 as usize;
        let ran = state.begun.get(at).copied().unwrap_or(false);
        if let Some(ended) = state.ended.get_mut(at) {
            *ended = if ran { Ended::Ran } else { Ended::Cached };
        }
    }

    /// What a cache is told of the build. `None` before its steps are known.
    pub(crate) fn told(&self, executor: &Executor<'_>, plan: &Plan) -> Option<Remembered> {
        let state = self.lock();
        if state.keys.len() != plan.steps.len() {
            return None;
        }
        let memos = memos(plan, &state.keys, &state.sources);
        let step = |(step, memo): (&Step, Memo)| RememberedStep {
            instruction: instruction(&executor.request.dockerfile, step, &memo),
            reads: executor.reads_of(step.id),
            memo,
        };
        Some(Remembered {
            label: Label::of(executor.request, plan),
            steps: plan.steps.iter().zip(memos).map(step).collect(),
        })
    }

    /// Remembers the build, when there is something new to remember. What goes wrong is no failure of the build.
    pub(crate) fn finish(&self, executor: &Executor<'_>, plan: &Plan, failed: Option<StepId>) {
        // Kept for another run of the plan.
        let state = State {
            failed,
            ..self.lock().clone()
        };
        if !state.matters || state.keys.len() != plan.steps.len() {
            return;
        }
        let subject = Subject::of(executor.request, plan);
        if let Err(error) = write(executor, plan, &subject, state) {
            tracing::debug!(%error, "what was built is not remembered");
        }
    }
}

fn write(
    executor: &Executor<'_>,
    plan: &Plan,
    subject: &Subject,
    mut state: State,
) -> Result<(), Error> {
    let store = executor.space.store();
    let failed = state.failed;
    if let Some(step) = failed {
        state.ended[step.0 as usize] = Ended::Failed;
    }
    let mut steps = memos(plan, &state.keys, &state.sources);
    for (memo, ended) in steps.iter_mut().zip(&state.ended) {
        memo.ended = *ended;
    }
    let put = |key: [u8; 32], payload: &[u8]| store.put_record(&key, payload, &[]);
    if state.begun.contains(&true) {
        let mut reasons = std::mem::take(&mut state.reasons).into_iter();
        let told = |memo: &Memo| Told {
            memo: memo.clone(),
            reason: reasons.next().flatten(),
        };
        let story = Story {
            version: VERSION,
            time: executor.request.now,
            subject: subject.clone(),
            compared: state.compared,
            compared_with: state.compared_with.take(),
            steps: steps.iter().map(told).collect(),
        };
        put(story_key(), &json(&story))?;
    }
    if state.past.is_empty() {
        state.past = past(store, subject, "");
    }
    explain::keep_recorded(&state.past, &mut steps);
    let memory = Memory {
        version: VERSION,
        steps,
    };
    let place = subject.key("place");
    put(place, &json(&memory))?;
    put(subject.elsewhere(&executor.request.dockerfile), &place)?;
    let is_whole = failed.is_none() && !state.ended.contains(&Ended::Waiting);
    let head = is_whole.then(|| digest_of(&state.keys));
    put(subject.key("head"), head.as_ref().map_or(&[], |head| head))?;
    Ok(())
}

fn json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("BUG: what is remembered has string keys only")
}

fn digest_of(keys: &[CacheKey]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    for key in keys {
        hasher.update(key.0);
    }
    hasher.finalize().into()
}

pub(crate) fn memos(plan: &Plan, keys: &[CacheKey], sources: &[Option<ContentId>]) -> Vec<Memo> {
    let memo = |((step, key), source): ((_, &CacheKey), &Option<ContentId>)| {
        let mut memo = Memo::of(step, *key, source.as_ref());
        if explain::reads_context(step) {
            memo.reads = source.as_ref().map(record::reads_key);
        }
        memo
    };
    plan.steps.iter().zip(keys).zip(sources).map(memo).collect()
}

/// The build that one is compared with.
#[derive(Debug)]
pub(crate) enum Past {
    /// The last one of this place here; no steps when there was none.
    Here(Vec<Memo>),
    /// One that a cache tells of.
    Elsewhere(Elsewhere),
}

impl Past {
    /// What there is to compare a build with. Caches are asked when the store knows nothing and something has to run.
    pub(crate) fn of(
        executor: &Executor<'_>,
        plan: &Plan,
        (subject, now): (&Subject, &[Memo]),
        missed: &[bool],
    ) -> Self {
        let request = executor.request;
        let here = past(executor.space.store(), subject, &request.dockerfile);
        let runs = |(memo, missed): (&Memo, &bool)| *missed && memo.kind != explain::Kind::Image;
        if !here.is_empty() || !now.iter().zip(missed).any(runs) {
            return Self::Here(here);
        }
        let imports = executor.fetcher.imports();
        let elsewhere = imports.and_then(|imports| imports.past(&Label::of(request, plan), now));
        elsewhere.map_or(Self::Here(here), Self::Elsewhere)
    }

    pub(crate) fn steps(&self) -> &[Memo] {
        match self {
            Self::Here(steps) => steps,
            Self::Elsewhere(elsewhere) => &elsewhere.steps,
        }
    }

    fn into_steps(self) -> Vec<Memo> {
        match self {
            Self::Here(steps) => steps,
            Self::Elsewhere(elsewhere) => elsewhere.steps,
        }
    }

    /// Why steps are not cached.
    pub(crate) fn reasons(
        &self,
        executor: &Executor<'_>,
        now: &[Memo],
        missed: &[bool],
    ) -> Vec<Option<Reason>> {
        let known = Known {
            executor,
            now,
            past: self,
        };
        explain::reasons(self.steps(), now, missed, &known)
    }
}

/// What is remembered of the last build of this place, or of the same Dockerfile in another.
fn past(store: &Store, subject: &Subject, dockerfile: &str) -> Vec<Memo> {
    if let Some(steps) = memory(store, &subject.key("place")) {
        return steps;
    }
    let elsewhere = store.record(&subject.elsewhere(dockerfile)).ok().flatten();
    let place = elsewhere.and_then(|payload| <[u8; 32]>::try_from(payload).ok());
    place
        .and_then(|place| memory(store, &place))
        .unwrap_or_default()
}

fn memory(store: &Store, key: &[u8; 32]) -> Option<Vec<Memo>> {
    let payload = store.record(key).ok().flatten()?;
    let memory: Memory = serde_json::from_slice(&payload).ok()?;
    let sound = |memo: &Memo| memo.inputs.iter().all(|input| *input < memory.steps.len());
    (memory.version == VERSION && memory.steps.iter().all(sound)).then_some(memory.steps)
}

/// An instruction as it is in the Dockerfile, without values of variables; its name alone when it is from elsewhere.
fn instruction(dockerfile: &str, step: &Step, memo: &Memo) -> String {
    let name = memo.text.split(' ').next().unwrap_or_default();
    let span = step.origin.span;
    let text = span.and_then(|span| dockerfile.get(span.start as usize..span.end as usize));
    let is_it = |text: &&str| {
        let first = text.split_ascii_whitespace().next();
        first.is_some_and(|first| first.eq_ignore_ascii_case(name))
    };
    match &memo.image {
        Some(_) => memo.text.clone(),
        None => text.filter(is_it).unwrap_or(name).to_owned(),
    }
}

/// What the store and the build know for a comparison.
struct Known<'a, 'e> {
    executor: &'a Executor<'e>,
    now: &'a [Memo],
    past: &'a Past,
}

impl Evidence for Known<'_, '_> {
    fn files(&self, past: &Memo, now: usize) -> Option<FileChanges> {
        let id = StepId(u32::try_from(now).ok()?);
        let new = self.executor.reads_of(id)?;
        if let Past::Elsewhere(elsewhere) = self.past {
            let old = elsewhere.files.get(&past.reads?)?;
            let old = Lines::of_payload(old.as_slice()).ok()??;
            return compare(old, new.lines()).ok();
        }
        let payload = self.executor.space.store().large_record(&past.reads?.0);
        let old = Lines::of_payload(payload.ok()??).ok()??;
        compare(old, new.lines()).ok()
    }

    fn lost(&self, now: usize) -> Lost {
        if matches!(self.past, Past::Elsewhere(_)) {
            return Lost::Elsewhere;
        }
        let record = self.executor.space.store().record(&self.now[now].key.0);
        match record
            .ok()
            .flatten()
            .and_then(|bytes| record::decode(&bytes))
        {
            Some(_) => Lost::Layer,
            None => Lost::Record,
        }
    }

    fn no_cache(&self) -> &str {
        if self.executor.request.no_cache {
            "--no-cache"
        } else {
            "--no-cache-filter"
        }
    }
}

/// Compares two lists: neither need be in memory where both are in order, as those of a single folder are.
fn compare(mut old: Lines<impl Read>, mut new: Lines<impl Read>) -> io::Result<FileChanges> {
    if !(old.is_sorted && new.is_sorted) {
        let (old, new) = (all(old)?, all(new)?);
        let old: Vec<ReadFile<'_>> = old.iter().map(file).collect();
        let new: Vec<ReadFile<'_>> = new.iter().map(file).collect();
        return Ok(explain::compare_files(&old, &new));
    }
    let mut comparison = Comparison::default();
    let (mut in_old, mut in_new) = (old.advance()?, new.advance()?);
    while in_old || in_new {
        let order = match (in_old, in_new) {
            (true, true) => crate::layer::compare(&old.last, &new.last),
            (true, false) => Ordering::Less,
            _ => Ordering::Greater,
        };
        if order.is_eq() && old.is_same(&new) {
            comparison.same();
        } else {
            let before = order.is_le().then(|| entry(&old));
            let after = order.is_ge().then(|| entry(&new));
            comparison.differs(before.as_ref().map(file), after.as_ref().map(file));
        }
        if order.is_le() {
            in_old = old.advance()?;
        }
        if order.is_ge() {
            in_new = new.advance()?;
        }
    }
    Ok(comparison.finish())
}

fn all(mut list: Lines<impl Read>) -> io::Result<Vec<ReadEntry>> {
    let mut entries = Vec::new();
    while list.advance()? {
        entries.push(entry(&list));
    }
    Ok(entries)
}

fn entry(line: &Lines<impl Read>) -> ReadEntry {
    // Of a list from elsewhere nobody knows what is in it.
    ReadEntry {
        path: explain::printable(&line.path(), false),
        mode: line.mode,
        content: explain::printable(&line.content(), false),
    }
}

fn file(entry: &ReadEntry) -> ReadFile<'_> {
    ReadFile {
        path: &entry.path,
        mode: entry.mode,
        content: &entry.content,
    }
}
