//! Makes a history that shows a difference smaller: fewer states, instructions, files, ignore lines, for as long as the
//! difference stays.

use super::world::World;
use super::{Built, Mismatch, Runner};
use std::collections::{BTreeSet, HashMap};
use std::fmt::Write as _;

/// Histories tried at most.
const TRIES: usize = 200;

/// What can be taken away from a whole history.
enum Part {
    State(usize),
    Line(u64),
    File(String),
    Ignore(u64),
    Arguments,
    Flags(usize),
    Prune,
    Disturbance(usize),
    Elsewhere(usize),
    Inline(usize),
    Platforms,
}

/// The smallest history found that differs, with how it does.
pub fn smallest(
    runner: &Runner,
    mut states: Vec<World>,
    mut found: Mismatch,
    clean: &mut HashMap<String, Built>,
) -> String {
    states.truncate(found.state + 1);
    let mut tries = 0;
    loop {
        let mut smaller = false;
        for part in parts(&states) {
            if tries == TRIES {
                break;
            }
            let fewer = without(&states, &part);
            if fewer.is_empty() || fewer == states {
                continue;
            }
            tries += 1;
            if let Some(mismatch) = runner.check(&fewer, clean) {
                states = fewer;
                states.truncate(mismatch.state + 1);
                found = mismatch;
                smaller = true;
            }
        }
        if !smaller || tries == TRIES {
            break;
        }
    }
    let mut text = format!("{}\n{}", found.what, found.details);
    for (number, state) in states.iter().enumerate() {
        let _ = writeln!(
            text,
            "---- state {number}: {}\n{}",
            state.edit,
            state.shown()
        );
    }
    text
}

fn parts(states: &[World]) -> Vec<Part> {
    let mut parts: Vec<Part> = (0..states.len()).rev().map(Part::State).collect();
    let lines: BTreeSet<u64> = states
        .iter()
        .flat_map(|state| &state.stages)
        .flat_map(|stage| stage.lines.iter().map(|line| line.id))
        .collect();
    let files: BTreeSet<&String> = states.iter().flat_map(|state| state.files.keys()).collect();
    let ignores: BTreeSet<u64> = states
        .iter()
        .flat_map(|state| state.ignore.iter().map(|line| line.id))
        .collect();
    parts.extend(lines.into_iter().map(Part::Line));
    parts.extend(files.into_iter().cloned().map(Part::File));
    parts.extend(ignores.into_iter().map(Part::Ignore));
    parts.extend([Part::Arguments, Part::Prune, Part::Platforms]);
    for state in 0..states.len() {
        parts.push(Part::Elsewhere(state));
        parts.push(Part::Inline(state));
        parts.push(Part::Flags(state));
        parts.push(Part::Disturbance(state));
    }
    parts
}

fn without(states: &[World], part: &Part) -> Vec<World> {
    let mut states = states.to_vec();
    if let Part::State(number) = part {
        if *number < states.len() {
            states.remove(*number);
        }
        return states;
    }
    for (number, state) in states.iter_mut().enumerate() {
        match part {
            Part::State(_) => {}
            Part::Elsewhere(of) if *of == number => state.elsewhere = None,
            Part::Inline(of) if *of == number => state.inline = false,
            Part::Flags(of) if *of == number => state.flags.clear(),
            Part::Disturbance(of) if *of == number => state.disturbed = None,
            Part::Elsewhere(_) | Part::Inline(_) | Part::Flags(_) | Part::Disturbance(_) => {}
            Part::Platforms => state.platforms = None,
            Part::Line(id) => {
                for stage in &mut state.stages {
                    stage.lines.retain(|line| line.id != *id);
                }
            }
            Part::File(path) => {
                state.files.remove(path);
            }
            Part::Ignore(id) => state.ignore.retain(|line| line.id != *id),
            Part::Arguments => state.args.clear(),
            Part::Prune => state.prune = None,
        }
    }
    states
}
