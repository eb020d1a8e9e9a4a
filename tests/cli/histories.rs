//! Random histories of edits: after each the build on the store that has seen them all gives what a build on an empty
//! store gives, digest for digest.
//!
//! `KILN_HISTORIES_COUNT`, `KILN_HISTORIES_SEED` and `KILN_HISTORIES_FIRST` say which histories, `KILN_HISTORIES_BINARY` with which
//! program, `KILN_HISTORIES_THREADS` how many at once (`cargo xtask histories` sets them). A history that shows a difference is made smaller and printed.

mod generate;
mod random;
mod shrink;
mod world;

use crate::support::{program, with_busybox};
use random::Random;
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use testkit::Scratch;
use world::World;

/// Edits of a history.
const EDITS: usize = 5;

/// What a build gave: the digest of the manifest, or nothing where it failed.
type Answer = Option<String>;

/// A difference: the state where it shows, and what was built with each store.
struct Mismatch {
    state: usize,
    answers: [Answer; 2],
    details: String,
}

/// What is done with which program.
struct Runner {
    binary: PathBuf,
    builds: AtomicUsize,
    failed: AtomicUsize,
}

impl Runner {
    fn kiln(&self, store: &Path, args: &[String]) -> Output {
        let mut command = program(&self.binary);
        // Times are in no identity: with the lowest epoch they are all the same.
        command.env("SOURCE_DATE_EPOCH", "0");
        command.arg("--root").arg(store).args(args);
        let output = command.output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!stderr.contains("panicked at"), "{stderr}");
        output
    }

    fn arguments(world: &World, context: &Path) -> Vec<String> {
        let mut args: Vec<String> = ["build", "--progress", "plain"].map(str::to_owned).into();
        args.extend(with_busybox());
        for (name, value) in &world.args {
            args.extend(["--build-arg".to_owned(), format!("{name}={value}")]);
        }
        if let Some(target) = world.target {
            args.extend(["--target".to_owned(), format!("s{target}")]);
        }
        args.push(context.display().to_string());
        args
    }

    fn build(&self, store: &Path, context: &Path, world: &World, flags: &[String]) -> Answer {
        let mut args = Self::arguments(world, context);
        let metadata = store.with_extension("metadata");
        args.extend(["--metadata-file".to_owned(), metadata.display().to_string()]);
        args.extend(flags.iter().cloned());
        let output = self.kiln(store, &args);
        self.builds.fetch_add(1, Ordering::Relaxed);
        let code = output.status.code();
        if code == Some(0) {
            let text = std::fs::read(&metadata).unwrap();
            let metadata: serde_json::Value = serde_json::from_slice(&text).unwrap();
            return Some(
                metadata["containerimage.digest"]
                    .as_str()
                    .unwrap()
                    .to_owned(),
            );
        }
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(code, Some(1), "{}\n{stderr}", world.shown());
        self.failed.fetch_add(1, Ordering::Relaxed);
        if std::env::var_os("KILN_HISTORIES_REFUSALS").is_some() {
            let why = stderr
                .lines()
                .find(|line| line.to_lowercase().starts_with("error"));
            eprintln!("refused: {}", why.unwrap_or_default());
        }
        None
    }

    /// Builds each state with a store that goes through the whole history, and with an empty one from another folder.
    fn check(&self, states: &[World], clean: &mut HashMap<String, Answer>) -> Option<Mismatch> {
        let scratch = Scratch::new();
        let (store, context) = (scratch.join("store"), scratch.join("context"));
        let mut before = None;
        for (number, world) in states.iter().enumerate() {
            world::lay_out(&context, before, world);
            before = Some(world);
            if let Some(flags) = &world.prune {
                let args: Vec<String> = ["prune".to_owned()]
                    .into_iter()
                    .chain(flags.clone())
                    .collect();
                let pruned = self.kiln(&store, &args);
                assert!(pruned.status.success(), "{pruned:?}");
            }
            let ours = self.build(&store, &context, world, &world.flags);
            let inputs = world.inputs();
            let theirs = clean.get(&inputs).cloned().unwrap_or_else(|| {
                let (store, context) = (scratch.join("clean"), scratch.join("copy"));
                world::lay_out(&context, None, world);
                let answer = self.build(&store, &context, world, &[]);
                std::fs::remove_dir_all(context).unwrap();
                let _ = std::fs::remove_dir_all(store);
                answer
            });
            clean.insert(inputs, theirs.clone());
            if ours != theirs {
                return Some(Mismatch {
                    state: number,
                    details: self.details(&scratch, world),
                    answers: [ours, theirs],
                });
            }
        }
        None
    }

    /// How config and files of the two builds of a state differ.
    fn details(&self, scratch: &Scratch, world: &World) -> String {
        world::lay_out(&scratch.join("copy"), None, world);
        let sides = [("store", "context"), ("clean", "copy")].map(|(store, context)| {
            let layout = scratch.join(format!("{store}.layout"));
            let mut args = Self::arguments(world, &scratch.join(context));
            let output = format!("type=oci,tar=false,dest={}", layout.display());
            args.extend(["-o".to_owned(), output]);
            let output = self.kiln(&scratch.join(store), &args);
            if output.status.success() {
                listing(&layout)
            } else {
                let text = String::from_utf8_lossy(&output.stderr).into_owned();
                BTreeMap::from([("failure".to_owned(), text)])
            }
        });
        let mut text = String::new();
        let [ours, theirs] = sides;
        for key in ours
            .keys()
            .chain(theirs.keys().filter(|key| !ours.contains_key(*key)))
        {
            let (ours, theirs) = (ours.get(key), theirs.get(key));
            if ours != theirs {
                let _ = writeln!(
                    text,
                    "{key}:\n  incremental {ours:?}\n  clean       {theirs:?}"
                );
            }
        }
        text
    }
}

/// Config, layers and merged tree of a layout.
fn listing(layout: &Path) -> BTreeMap<String, String> {
    testkit::validate(layout).unwrap();
    let mut listing = BTreeMap::new();
    let index: serde_json::Value = read(&layout.join("index.json"));
    let digest = index["manifests"][0]["digest"].as_str().unwrap();
    let blob = |digest: &str| layout.join("blobs").join(digest.replace(':', "/"));
    let manifest = read(&blob(digest));
    let config = read(&blob(manifest["config"]["digest"].as_str().unwrap()));
    listing.insert("config".to_owned(), config.to_string());
    for (path, entry) in testkit::merged_tree(layout, digest).unwrap() {
        let text = format!("{entry:?}");
        listing.insert(path, text);
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
    let count = number("KILN_HISTORIES_COUNT", 12);
    let next = AtomicU64::new(number("KILN_HISTORIES_FIRST", 0));
    let end = next.load(Ordering::Relaxed) + count;
    let binary = std::env::var_os("KILN_HISTORIES_BINARY");
    let runner = Runner {
        binary: binary.map_or_else(|| env!("CARGO_BIN_EXE_kiln").into(), PathBuf::from),
        builds: AtomicUsize::new(0),
        failed: AtomicUsize::new(0),
    };
    let mismatches = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..number("KILN_HISTORIES_THREADS", 2) {
            scope.spawn(|| {
                loop {
                    let case = next.fetch_add(1, Ordering::Relaxed);
                    if case >= end {
                        return;
                    }
                    let states = generate::history(&mut Random::new(seed, case), EDITS);
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
        "seed {seed}: {count} histories, {} builds ({} refused), {} mismatches",
        runner.builds.load(Ordering::Relaxed),
        runner.failed.load(Ordering::Relaxed),
        mismatches.len()
    );
    assert!(
        mismatches.is_empty(),
        "seed {seed}: histories {mismatches:?}"
    );
}
