//! Which step of an earlier build is which of this one: stage by stage, by text, then by order.

use super::{Kind, Memo};
use std::collections::{BTreeMap, BTreeSet};

/// Above this many comparisons a stage's steps are paired by order alone.
const LIMIT: usize = 4_000_000;

/// For each present step its past one.
pub(super) fn pair(past: &[Memo], now: &[Memo]) -> Vec<Option<usize>> {
    let mut pairs = vec![None; now.len()];
    let old = by_place(past);
    for (place, steps) in by_place(now) {
        // A stage that is built for another platform now is the same stage.
        let (stage, _, kind) = place;
        let elsewhere = || {
            let mut others = old.iter();
            others.find(|((other, _, what), _)| *other == stage && *what == kind)
        };
        let Some(old) = old.get(&place).or_else(|| Some(elsewhere()?.1)) else {
            continue;
        };
        let before: Vec<(usize, &Memo)> = old.iter().map(|at| (*at, &past[*at])).collect();
        let after: Vec<(usize, &Memo)> = steps.iter().map(|at| (*at, &now[*at])).collect();
        pair_stage(&before, &after, &mut pairs);
    }
    pairs
}

/// Steps by stage and platform. Those without a stage (images and contexts that several may read) are by what they are.
fn by_place(memos: &[Memo]) -> BTreeMap<(&str, &str, &str), Vec<usize>> {
    let mut places: BTreeMap<(&str, &str, &str), Vec<usize>> = BTreeMap::new();
    for (at, memo) in memos.iter().enumerate() {
        let kind = match memo.kind {
            _ if !memo.stage.is_empty() => "",
            Kind::Image => "image",
            _ => "context",
        };
        places
            .entry((memo.stage.as_str(), memo.platform.as_str(), kind))
            .or_default()
            .push(at);
    }
    places
}

type Placed<'a> = (usize, &'a Memo);

fn pair_stage(before: &[Placed<'_>], after: &[Placed<'_>], pairs: &mut [Option<usize>]) {
    let anchors = if before.len() * after.len() > LIMIT {
        Vec::new()
    } else {
        common(before, after)
    };
    let (mut old_from, mut new_from) = (0, 0);
    let end = (before.len(), after.len());
    for (old, new) in anchors.into_iter().chain([end]) {
        pair_gap(&before[old_from..old], &after[new_from..new], pairs);
        if (old, new) != end {
            pairs[after[new].0] = Some(before[old].0);
            (old_from, new_from) = (old + 1, new + 1);
        }
    }
    pair_moved(before, after, pairs);
}

/// Instructions that stand elsewhere now.
fn pair_moved(before: &[Placed<'_>], after: &[Placed<'_>], pairs: &mut [Option<usize>]) {
    let taken: BTreeSet<usize> = after.iter().filter_map(|(at, _)| pairs[*at]).collect();
    let mut free: Vec<&Placed<'_>> = before
        .iter()
        .filter(|(at, _)| !taken.contains(at))
        .collect();
    for (at, memo) in after {
        if pairs[*at].is_some() {
            continue;
        }
        let same = |(_, old): &&Placed<'_>| old.kind == memo.kind && old.text == memo.text;
        if let Some(position) = free.iter().position(same) {
            pairs[*at] = Some(free.remove(position).0);
        }
    }
}

/// What stands between two steps that are the same: by kind and order.
fn pair_gap(before: &[Placed<'_>], after: &[Placed<'_>], pairs: &mut [Option<usize>]) {
    let mut rest = before.iter();
    for (at, memo) in after {
        let mut ahead = rest.clone();
        if let Some((old, _)) = ahead.find(|(_, old)| old.kind == memo.kind) {
            pairs[*at] = Some(*old);
            rest = ahead;
        }
    }
}

/// The longest common subsequence of equal texts, as pairs of places.
fn common(before: &[Placed<'_>], after: &[Placed<'_>]) -> Vec<(usize, usize)> {
    let same = |old: usize, new: usize| {
        let (old, new) = (before[old].1, after[new].1);
        old.kind == new.kind && old.text == new.text
    };
    let width = after.len() + 1;
    let mut lengths = vec![0_u32; (before.len() + 1) * width];
    for old in (0..before.len()).rev() {
        for new in (0..after.len()).rev() {
            lengths[old * width + new] = if same(old, new) {
                lengths[(old + 1) * width + new + 1] + 1
            } else {
                lengths[(old + 1) * width + new].max(lengths[old * width + new + 1])
            };
        }
    }
    let (mut old, mut new) = (0, 0);
    let mut found = Vec::new();
    while old < before.len() && new < after.len() {
        if same(old, new) {
            found.push((old, new));
            (old, new) = (old + 1, new + 1);
        } else if lengths[(old + 1) * width + new] >= lengths[old * width + new + 1] {
            old += 1;
        } else {
            new += 1;
        }
    }
    found
}
