//! Tests of the sandbox in real namespaces: as the user that runs them and, when that is root, also as a user with
//! subordinate ids and as one without. Arguments: words that a test's name must contain.
//!
//! Not libtest: the sandbox re-executes this program, and its hook must be the first thing in main.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::unwrap_used,
    clippy::expect_used
)]

mod answers;
mod basics;
mod chroot;
mod emulators;
mod facts;
mod fence;
mod hostile;
mod hosts;
mod lifecycle;
mod limits;
mod mounts;
mod network;
mod nodes;
mod owners;
mod places;
mod probe_answers;
mod probe_ids;
mod probe_threads;
mod probes;
mod stopping;
mod tasks;
mod unfenced;
mod unified;
mod users;
mod world;

use sandbox::{Isolation, Mode};
use std::panic::AssertUnwindSafe;
use std::process::ExitCode;
use std::time::Instant;
use world::World;

/// A test: its name and its body, which panics when it fails.
type Case = (&'static str, fn(&World));

#[derive(Clone, Copy, Default)]
struct Counts {
    passed: usize,
    failed: usize,
    skipped: usize,
}

fn main() -> ExitCode {
    sandbox::init_if_child(tasks::TASKS);
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        Some("--probe") => return probes::main(&args[1..]),
        Some("--facts") => return facts::print(&args[1..]),
        Some("--start") => return hosts::start(&args[1..]),
        Some("--unlistened") => return answers::unlistened(&args[1..]),
        Some("--unfenced") => return unfenced::main(&args[1..]),
        Some("--victim") => return lifecycle::victim(&args[1..]),
        Some("--in-machine") => return network::main(&args[1..]),
        Some("--serve") => return network::serve(),
        Some("--serve-names") => return network::serve_names(),
        Some("--in-unified") => return unified::main(),
        Some("--network-victim") => return network::victim(&args[1..]),
        Some("--list") => {
            println!(
                "{}",
                cases()
                    .iter()
                    .map(|(name, _)| format!("{name}: test\n"))
                    .collect::<String>()
            );
            return ExitCode::SUCCESS;
        }
        _ => {}
    }
    let as_child = args.iter().any(|arg| arg == "--child");
    let value_of = |index: usize| index > 0 && args[index - 1] == "--test-threads";
    let words = args
        .iter()
        .enumerate()
        .filter(|(index, _)| !value_of(*index))
        .map(|(_, arg)| arg.as_str());
    let filters: Vec<&str> = words.filter(|arg| !arg.starts_with('-')).collect();
    if let Some(index) = args.iter().position(|arg| arg == places::FLAG) {
        let name = args.get(index + 1).map(String::as_str).unwrap_or_default();
        let rest: Vec<&str> = filters
            .iter()
            .filter(|word| **word != name)
            .copied()
            .collect();
        return tell(places::inside(name, &rest));
    }
    let without_namespaces = args.iter().any(|arg| arg == "--child-chroot");
    let mut counts = if without_namespaces {
        run_all(World::with(Isolation::Chroot), chroot::cases(), &filters)
    } else {
        run_all(World::new(), cases(), &filters)
    };
    if as_child || without_namespaces {
        return tell(counts);
    }
    if rustix::process::geteuid().is_root() {
        for user in users::USERS {
            let more = users::run_as(user, &filters)
                .unwrap_or_else(|reason| skip(&format!("all tests as {}", user.name), &reason));
            counts = add(counts, more);
        }
        let more = users::run_as_in_a_container(&filters)
            .unwrap_or_else(|reason| skip("all tests without namespaces", &reason));
        counts = add(counts, more);
        counts = add(counts, unified::run_all(&filters));
        counts = add(counts, network::run_all(&filters));
        counts = add(counts, places::run_all(&filters));
    }
    println!(
        "{} passed, {} failed, {} skipped",
        counts.passed, counts.failed, counts.skipped
    );
    if counts.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// The parent reads it.
fn tell(counts: Counts) -> ExitCode {
    println!(
        "counts {} {} {}",
        counts.passed, counts.failed, counts.skipped
    );
    ExitCode::SUCCESS
}

fn cases() -> Vec<Case> {
    [
        basics::CASES,
        mounts::CASES,
        hostile::CASES,
        hosts::CASES,
        facts::CASES,
        nodes::CASES,
        emulators::CASES,
        lifecycle::CASES,
        limits::CASES,
        stopping::CASES,
        owners::CASES,
        answers::CASES,
        tasks::CASES,
    ]
    .concat()
}

/// What fuse-overlayfs itself cannot do: folders whose paths have a colon or a backslash, and the set-group-id bit for folders
/// in a folder that has it.
const NOT_BY_FUSE: [&str; 2] = ["::odd_store_paths", "::owners_in_set_group_id_folders"];

fn run_all(world: Result<World, String>, cases: Vec<Case>, filters: &[&str]) -> Counts {
    let world = match world {
        Ok(world) => world,
        Err(reason) => return skip("all tests", &reason),
    };
    let mode = match world.sandbox().mode() {
        Mode::Chroot => "chroot".to_owned(),
        _ => format!("{:?}", world.sandbox().id_mapping()).to_lowercase(),
    };
    let mut counts = Counts::default();
    for (name, body) in cases {
        let name = format!("{mode}::{name}");
        let by_fuse = world.sandbox().root_kind() == sandbox::RootKind::Fuse;
        if by_fuse && NOT_BY_FUSE.iter().any(|other| name.ends_with(other)) {
            continue;
        }
        if !filters.iter().all(|filter| name.contains(filter)) {
            continue;
        }
        add_to(&mut counts, &name, || body(&world));
    }
    world.remove();
    counts
}

/// Runs one test.
fn add_to(counts: &mut Counts, name: &str, body: impl FnOnce()) {
    let started = Instant::now();
    let result = std::panic::catch_unwind(AssertUnwindSafe(body));
    let verdict = if result.is_ok() { "ok" } else { "FAILED" };
    println!(
        "test {name} ... {verdict} ({} ms)",
        started.elapsed().as_millis()
    );
    match result {
        Ok(()) => counts.passed += 1,
        Err(_) => counts.failed += 1,
    }
}

/// What cannot be tested here is said; on CI it is a failure.
fn skip(what: &str, reason: &str) -> Counts {
    if std::env::var_os("CI").is_some_and(|value| value == "true") {
        println!("FAILED: {what}: {reason}");
        return Counts {
            failed: 1,
            ..Counts::default()
        };
    }
    println!("SKIPPED: {what}: {reason}");
    Counts {
        skipped: 1,
        ..Counts::default()
    }
}

fn add(one: Counts, other: Counts) -> Counts {
    Counts {
        passed: one.passed + other.passed,
        failed: one.failed + other.failed,
        skipped: one.skipped + other.skipped,
    }
}
