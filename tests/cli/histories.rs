//! Random histories of edits: after each the build on the store that has seen them all gives what a build on an empty
//! store gives, digest for digest. So does one on another machine, that imports what the first has exported. Where nothing
//! changed, nothing runs.
//!
//! `KILN_HISTORIES_COUNT`, `KILN_HISTORIES_SEED` and `KILN_HISTORIES_FIRST` say which histories, `KILN_HISTORIES_ONLY` of which kinds,
//! `KILN_HISTORIES_BINARY` with which program, `KILN_HISTORIES_THREADS` how many at once (`cargo xtask histories` sets them).
//! A history that shows a difference is made smaller and printed.

mod generate;
mod kinds;
mod random;
mod shrink;
mod site;
mod world;

use crate::emulation::can_emulate;
use kinds::Kind;
use random::Random;
use site::{Built, Runner, Site};
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use world::World;

/// Edits of a history.
const EDITS: usize = 5;

/// A difference: the state where it shows, and what was built with each store.
struct Mismatch {
    state: usize,
    what: String,
    details: String,
}

/// What a state gave on each machine.
struct Answers {
    first: Built,
    /// The push with an inline cache.
    inline: Option<Built>,
    elsewhere: Option<Built>,
}

impl Runner {
    /// Builds each state with a store that goes through the whole history, and with an empty one from another folder.
    fn check(&self, states: &[World], clean: &mut HashMap<String, Built>) -> Option<Mismatch> {
        let site = Site::new(states);
        let mut before: Option<(&World, Built)> = None;
        for (number, world) in states.iter().enumerate() {
            let last = before.as_ref().map(|(world, _)| *world);
            let answers = self.answers(&site, last, world);
            let inputs = world.inputs();
            let fresh = clean.entry(inputs.clone()).or_insert_with(|| {
                let kept = world.as_kept().quiet();
                world::lay_out(&site.path("copy"), None, &kept);
                let answer = self.build(&site, CLEAN, &kept, &[]);
                std::fs::remove_dir_all(site.path("copy")).unwrap();
                let _ = std::fs::remove_dir_all(site.path("clean"));
                answer
            });
            let nothing_new = before.as_ref().is_some_and(|(last, built)| {
                built.digest.is_some() && last.inputs() == inputs && !world.starts_over()
            });
            if let Some((what, at)) = wrong(&answers, fresh, world, nothing_new) {
                return Some(Mismatch {
                    state: number,
                    what,
                    details: self.details(&site, at, world),
                });
            }
            before = Some((world, answers.first));
        }
        None
    }

    /// All builds of a state, but for the clean one.
    fn answers(&self, site: &Site, last: Option<&World>, world: &World) -> Answers {
        world::lay_out(&site.path("context"), last, world);
        if let Some(flags) = &world.prune {
            let args: Vec<String> = ["prune".to_owned()]
                .into_iter()
                .chain(flags.clone())
                .collect();
            let pruned = self.kiln(&site.path("store"), &args);
            assert!(pruned.status.success(), "{pruned:?}");
        }
        let other = || {
            world.elsewhere.as_ref().map(|elsewhere| {
                let _ = std::fs::remove_dir_all(site.path("checkout"));
                if elsewhere.emptied {
                    let _ = std::fs::remove_dir_all(site.path("other"));
                }
                world::lay_out(&site.path("checkout"), None, world);
                self.build(site, OTHER, world, &elsewhere.flags)
            })
        };
        if world.elsewhere.as_ref().is_some_and(|other| other.at_once) {
            return std::thread::scope(|scope| {
                let elsewhere = scope.spawn(other);
                Answers {
                    first: self.build(site, FIRST, world, &world.flags),
                    inline: None,
                    elsewhere: elsewhere.join().unwrap(),
                }
            });
        }
        Answers {
            first: self.build(site, FIRST, world, &world.flags),
            inline: world
                .inline
                .then(|| self.build(site, FIRST, world, &kinds::inline())),
            elsewhere: other(),
        }
    }

    /// How config and files of the two builds of a state differ.
    fn details(&self, site: &Site, at: At, world: &World) -> String {
        world::lay_out(&site.path("copy"), None, &world.as_kept().quiet());
        let [ours, theirs] = [at, CLEAN].map(|at| {
            let layout = site.path(&format!("{}.layout", at.0));
            let mut args = self.arguments(site, at, world);
            let output = format!("type=oci,tar=false,dest={}", layout.display());
            args.extend(["-o".to_owned(), output]);
            let output = self.kiln(&site.path(at.0), &args);
            if output.status.success() {
                listing(&layout)
            } else {
                let text = String::from_utf8_lossy(&output.stderr).into_owned();
                BTreeMap::from([("failure".to_owned(), text)])
            }
        });
        let mut text = String::new();
        for key in ours
            .keys()
            .chain(theirs.keys().filter(|key| !ours.contains_key(*key)))
        {
            let (ours, theirs) = (ours.get(key), theirs.get(key));
            if ours != theirs {
                let _ = writeln!(
                    text,
                    "{key}:\n  {:<11} {ours:?}\n  clean       {theirs:?}",
                    at.0
                );
            }
        }
        text
    }
}

/// Names of a store and of the context that it builds.
type At = (&'static str, &'static str);
const FIRST: At = ("store", "context");
const OTHER: At = ("other", "checkout");
const CLEAN: At = ("clean", "copy");

/// What is wrong with a state, and where.
fn wrong(
    answers: &Answers,
    clean: &Built,
    world: &World,
    nothing_new: bool,
) -> Option<(String, At)> {
    let Answers {
        first,
        inline,
        elsewhere,
    } = answers;
    if first.digest != clean.digest {
        return Some((format!("incremental {first}, clean {clean}"), FIRST));
    }
    if nothing_new && !first.ran.is_empty() {
        return Some((format!("nothing changed: {first}"), FIRST));
    }
    if let Some(inline) = inline
        && (inline.digest.is_some() != clean.digest.is_some()
            || clean.digest.is_some() && !inline.ran.is_empty())
    {
        return Some((format!("with an inline cache {inline}"), FIRST));
    }
    let (built, asked) = elsewhere.as_ref().zip(world.elsewhere.as_ref())?;
    if built.digest != clean.digest {
        return Some((format!("elsewhere {built}, clean {clean}"), OTHER));
    }
    let all_there = !asked.at_once && kinds::all_there(&world.flags, &asked.flags);
    if all_there && clean.digest.is_some() && !built.ran.is_empty() {
        return Some((format!("all is in a cache, elsewhere {built}"), OTHER));
    }
    None
}

/// Config, layers and merged tree of a layout.
fn listing(layout: &Path) -> BTreeMap<String, String> {
    testkit::validate(layout).unwrap();
    let mut listing = BTreeMap::new();
    for platform in ["linux/amd64", "linux/arm64"] {
        let name = format!("latest@{platform}");
        let Ok(manifest) = testkit::manifest_of(layout, &name) else {
            continue;
        };
        let digest = manifest["config"]["digest"].as_str().unwrap();
        let config = layout.join("blobs").join(digest.replace(':', "/"));
        listing.insert(format!("{platform} manifest"), manifest.to_string());
        listing.insert(format!("{platform} config"), read(&config).to_string());
        for (path, entry) in testkit::merged_tree(layout, &name).unwrap() {
            let text = format!("{entry:?}");
            listing.insert(format!("{platform} {path}"), text);
        }
    }
    listing
}

fn read(path: &Path) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn number(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(value) => value.parse().unwrap(),
        Err(_) => default,
    }
}

#[test]
fn an_incremental_build_is_a_clean_build() {
    let seed = number("KILN_HISTORIES_SEED", 1);
    let count = number("KILN_HISTORIES_COUNT", 8);
    let next = AtomicU64::new(number("KILN_HISTORIES_FIRST", 0));
    let end = next.load(Ordering::Relaxed) + count;
    let only = std::env::var("KILN_HISTORIES_ONLY").ok();
    let only = only.map(|names| kinds::named(&names));
    let binary = std::env::var_os("KILN_HISTORIES_BINARY");
    let runner =
        Runner::new(binary.map_or_else(|| env!("CARGO_BIN_EXE_kiln").into(), PathBuf::from));
    let emulates = can_emulate();
    let mismatches = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..number("KILN_HISTORIES_THREADS", 2) {
            scope.spawn(|| {
                loop {
                    let case = next.fetch_add(1, Ordering::Relaxed);
                    if case >= end {
                        return;
                    }
                    let mut random = Random::new(seed, case);
                    let mut states = generate::history(&mut random, EDITS, only.as_deref());
                    if !emulates && states[0].kinds.contains(&Kind::Platforms) {
                        states.iter_mut().for_each(World::without_commands);
                    }
                    let mut clean = HashMap::new();
                    let Some(found) = runner.check(&states, &mut clean) else {
                        continue;
                    };
                    let report = shrink::smallest(&runner, states, found, &mut clean);
                    eprintln!("seed {seed} history {case}: {report}");
                    mismatches.lock().unwrap().push(case);
                }
            });
        }
    });
    let mismatches = mismatches.into_inner().unwrap();
    eprintln!(
        "seed {seed}: {count} histories, {runner}, {} mismatches",
        mismatches.len()
    );
    assert!(
        mismatches.is_empty(),
        "seed {seed}: histories {mismatches:?}"
    );
}
