//! Where a build meets the caches that machines share (`crate::steps`): what is asked of them, and what goes there.

use crate::Error;
use crate::build::backend::Executor;
use crate::build::record::{self, OtherKeys, StepOutput};
use crate::steps::{KeyKind, Made};
use oci_spec::image::Digest;
use planner::key::CacheKey;
use planner::plan::{Op, Plan, Step, StepId};
use planner::scheduler::{Standing, Survey};

impl Executor<'_> {
    /// Says which keys may be asked for.
    pub(super) fn expect(&self, keys: &[(StepId, CacheKey)]) {
        let (Some(imports), Some(plan)) = (self.fetcher.imports(), self.plan) else {
            return;
        };
        if imports.steps().all().is_empty() {
            return;
        }
        let is_image = |id: StepId| matches!(plan.steps[id.0 as usize].op, Op::Image(_));
        let keys = keys.iter().filter(|(id, _)| !is_image(*id));
        imports.steps().expect(keys.map(|(_, key)| *key).collect());
    }

    /// What the shared caches have for a key.
    pub(super) fn lookup_shared(
        &self,
        step: &Step,
        key: &CacheKey,
        inputs: Option<&[StepOutput]>,
    ) -> Result<Option<StepOutput>, Error> {
        let Some(imports) = self.fetcher.imports() else {
            return Ok(None);
        };
        let kind = match inputs {
            None => KeyKind::Definition,
            Some(_) => KeyKind::Content,
        };
        let Some(found) = imports.ask(key, kind, (self.plan, step))? else {
            return Ok(None);
        };
        let keys = OtherKeys {
            content: found.content,
            link: found.link,
        };
        let output = self.found(step, found.output, inputs)?;
        if let Some(output) = output.as_ref().filter(|_| inputs.is_none()) {
            self.keep(step, &[*key], output, &keys)?;
        }
        Ok(output)
    }

    /// The layer of a `COPY --link` that they have.
    pub(super) fn shared_link(&self, step: &Step, key: &CacheKey) -> Result<Option<Digest>, Error> {
        let Some(imports) = self.fetcher.imports() else {
            return Ok(None);
        };
        let found = imports.ask(key, KeyKind::Link, (self.plan, step))?;
        let link = found.and_then(|found| found.output.chain.into_iter().next_back());
        match link {
            Some(link) if self.fetcher.can_have(&link.layer)? => Ok(Some(link.layer)),
            _ => Ok(None),
        }
    }

    /// A step's result is recorded under these keys, and goes to those that share it.
    pub(super) fn share(
        &self,
        step: &Step,
        keys: &[CacheKey],
        output: &StepOutput,
        link: Option<CacheKey>,
    ) {
        let (Some(sending), Some(definition)) = (self.sending, keys.first()) else {
            return;
        };
        sending.made(Made {
            definition: *definition,
            content: keys.get(1).copied(),
            link,
            output: output.clone(),
            replaces: step.no_cache,
        });
    }

    /// Steps of this store that others lie over which have to run go out too: whoever changes the same later begins there.
    pub(super) fn share_hits(&self, plan: &Plan, survey: &Survey<StepOutput>) {
        let Some(sending) = self.sending.filter(|sending| sending.is_wanted()) else {
            return;
        };
        let is_missed = |step: &&Step| survey.standings[step.id.0 as usize] == Standing::Miss;
        let mut below: Vec<StepId> = plan
            .steps
            .iter()
            .filter(is_missed)
            .flat_map(|step| step.inputs.iter().copied())
            .collect();
        below.sort_unstable_by_key(|id| id.0);
        below.dedup();
        for id in below {
            let at = id.0 as usize;
            let (Standing::Hit, Some(output)) = (survey.standings[at], &survey.outputs[at]) else {
                continue;
            };
            if matches!(plan.steps[at].op, Op::Image(_)) {
                continue;
            }
            let key = survey.keys[at];
            let own = self.space.store().record(&key.0).ok().flatten();
            let own = own.and_then(|payload| record::decode_with_keys(&payload));
            let keys = own.map(|(_, keys)| keys).unwrap_or_default();
            sending.made(Made {
                definition: key,
                content: None,
                link: keys.link,
                output: output.clone(),
                replaces: false,
            });
        }
    }
}
