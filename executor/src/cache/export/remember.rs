//! What an export says of the build that makes it.

use super::{Exports, Place, lock};
use crate::cache::memories::{Doc, Remembered};
use crate::cache::read::Cached;
use crate::cache::records::Records;
use std::sync::Arc;

impl Exports<'_> {
    /// Takes what is to be remembered of the build, when there is a place for it.
    pub(crate) fn remember(&self, build: impl FnOnce() -> Option<Remembered>) {
        if !self.places.is_empty() {
            *lock(&self.build) = build().map(Arc::new);
        }
    }

    /// Adds to a cache what is remembered of the build; `None` when it has that, and all records. What no record of goes
    /// out is not shown.
    pub(super) fn remembered(
        &self,
        place: &Place<'_>,
        cached: &Cached,
        records: Option<Records>,
    ) -> Option<Cached> {
        let memories = lock(&self.build).clone().and_then(|build| {
            let is_shown = |at: usize| self.is_wanted(place, self.site.plan.steps[at].id);
            let label = build.label(&is_shown);
            if cached.memories.has_fresh(&label) {
                return None;
            }
            let make = || Doc::of(&build, &is_shown).encode();
            cached.memories.with(&label, make)
        });
        if records.is_none() && memories.is_none() {
            return None;
        }
        Some(Cached {
            records: records.unwrap_or_else(|| cached.records.clone()),
            memories: memories.unwrap_or_else(|| cached.memories.clone()),
        })
    }
}
