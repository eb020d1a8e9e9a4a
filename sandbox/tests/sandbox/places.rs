//! These tests again inside containers, as people run builds there. What a place cannot give is listed with its reason; how
//! that is refused there has tests of its own in this file.

use crate::world::World;
use crate::{Case, Counts, users};
use sandbox::{Isolation, Mode, Options, Sandbox};
use std::path::Path;
use testkit::{Containers, Place};

/// What the tests are told that they run in a container.
pub(crate) const FLAG: &str = "--child-place";

/// What a place is to give.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Expected {
    Full,
    Nested,
    Chroot,
    Nothing,
}

fn expected(place: &str) -> Expected {
    match place {
        "docker" => Expected::Chroot,
        "docker-user" => Expected::Nothing,
        "docker-all" => Expected::Full,
        _ => Expected::Nested,
    }
}

/// Tests that do not hold inside of containers, by the beginning of their names.
const NOT_IN_CONTAINERS: &[(&str, &str)] = &[
    ("facts::", "they are about the machine"),
    ("hosts::", "they change settings of the machine"),
    (
        "emulat",
        "programs of other architectures are not in the image",
    ),
    ("limits::ru19", "control groups are read-only"),
    ("limits::groups_are_shown", "control groups are read-only"),
];

/// Tests that do not hold where `/proc` is the surrounding one's.
const NOT_NESTED: &[(&str, &str)] = &[
    ("basics::privileges", "/proc shows more processes"),
    (
        "basics::signals_session_and_limits",
        "process numbers of /proc are the surrounding ones",
    ),
    (
        "hostile::the_first_process_is_out_of_reach",
        "process 1 of /proc is the surrounding one",
    ),
    (
        "hostile::host_processes_are_out_of_sight",
        "/proc shows them; they cannot be reached",
    ),
    (
        "lifecycle::zombies_are_reaped",
        "/proc counts those of others",
    ),
    (
        "lifecycle::death_of_the_caller",
        "mounts are counted in /proc",
    ),
    (
        "stopping::ten_thousand_children",
        "processes are counted in /proc",
    ),
    (
        "basics::errors_name_the_stage",
        "a host name that Podman forbids to set is no error",
    ),
];

/// Tests that do not hold where the store lies on an overlay: they make whiteouts for layers, which it does not take.
const NOT_ON_OVERLAY: &[(&str, &str)] = &[("mounts::many_layers", "whiteouts by hand")];

/// Runs all tests in all places.
pub(crate) fn run_all(filters: &[&str]) -> Counts {
    let is_about_places =
        |filter: &&str| *filter == "places" || Place::ALL.iter().any(|place| place.name == *filter);
    if !filters.is_empty() && !filters.iter().any(is_about_places) {
        return Counts::default();
    }
    let containers = match Containers::start() {
        Ok(containers) => containers,
        Err(reason) => return crate::skip("all tests inside containers", &reason),
    };
    let program = std::fs::canonicalize("/proc/self/exe").expect("/proc/self/exe is a link");
    let mut counts = Counts::default();
    for place in Place::ALL {
        let is_named = |filter: &&str| *filter == "places" || *filter == place.name;
        if !filters.is_empty() && !filters.iter().any(is_named) {
            continue;
        }
        let more = run_in(&containers, place, &program, filters);
        counts = crate::add(counts, more);
    }
    counts
}

fn run_in(containers: &Containers, place: Place, program: &Path, filters: &[&str]) -> Counts {
    let path = program.to_string_lossy();
    let mut command = vec![&*path, FLAG, place.name];
    let is_place = |filter: &&&str| **filter == "places" || **filter == place.name;
    command.extend(filters.iter().filter(|filter| !is_place(filter)));
    let output = match containers.run(place, &[program], &command) {
        Ok(output) => output,
        Err(error) => {
            return crate::skip(&format!("all tests in {}", place.name), &error.to_string());
        }
    };
    let counts = users::counts(&output.stdout, &format!("{}::", place.name));
    if counts.failed > 0 {
        eprint!("{}", String::from_utf8_lossy(&output.stderr));
    }
    counts
}

/// Body inside of a container.
pub(crate) fn inside(name: &str, filters: &[&str]) -> Counts {
    let expected = expected(name);
    let counts = run_own(&expected, filters);
    if expected == Expected::Nothing {
        return counts;
    }
    let world = World::new();
    let mode = world.as_ref().ok().map(|world| world.sandbox().mode());
    let cases = if mode == Some(Mode::Chroot) {
        crate::chroot::cases()
    } else {
        crate::cases()
    };
    let magic = std::process::Command::new("stat")
        .args(["-f", "-c", "%t", "/tmp"])
        .output();
    let is_on_overlay = magic.is_ok_and(|output| output.stdout == b"794c7630\n");
    let is_left_out = |case: &Case| {
        let left_out =
            |list: &[(&str, &str)]| list.iter().any(|(start, _)| case.0.starts_with(start));
        left_out(NOT_IN_CONTAINERS)
            || (mode == Some(Mode::Nested) && left_out(NOT_NESTED))
            || (is_on_overlay && left_out(NOT_ON_OVERLAY))
    };
    let cases = cases
        .into_iter()
        .filter(|case| !is_left_out(case))
        .collect();
    crate::add(counts, crate::run_all(world, cases, filters))
}

/// The tests of this file.
fn run_own(expected: &Expected, filters: &[&str]) -> Counts {
    let mut counts = Counts::default();
    for (name, body) in CASES {
        if filters.iter().all(|filter| name.contains(filter)) {
            crate::add_to(&mut counts, name, || body(expected));
        }
    }
    counts
}

type PlaceCase = (&'static str, fn(&Expected));

const CASES: &[PlaceCase] = &[
    ("places::the_mode", the_mode),
    (
        "places::full_isolation_or_the_reason",
        full_isolation_or_the_reason,
    ),
    ("places::limits_or_the_reason", limits_or_the_reason),
];

fn start(isolation: Isolation) -> Result<Sandbox, String> {
    let folder = tempfile::tempdir().unwrap();
    let sandbox = Sandbox::start(&Options {
        stores: vec![folder.path().to_owned()],
        isolation,
        ..Options::default()
    });
    sandbox.map_err(|error| crate::world::chain(&error))
}

/// The best mode that the place allows is taken, and where that is less than all, a note says so with the setting that
/// would give more.
fn the_mode(expected: &Expected) {
    match (start(Isolation::Auto), expected) {
        (Err(reason), Expected::Nothing) => {
            for part in ["user namespace", "seccomp=unconfined", "only as root"] {
                assert!(reason.contains(part), "{reason}");
            }
        }
        (Ok(sandbox), Expected::Full) => {
            assert_eq!(sandbox.mode(), Mode::Full, "{:?}", sandbox.notes());
        }
        (Ok(sandbox), Expected::Nested) => {
            assert_eq!(sandbox.mode(), Mode::Nested, "{:?}", sandbox.notes());
            let notes = sandbox.notes().join("\n");
            assert!(notes.contains("isolation: nested"), "{notes}");
            assert!(notes.contains("--security-opt"), "{notes}");
        }
        (Ok(sandbox), Expected::Chroot) => {
            assert_eq!(sandbox.mode(), Mode::Chroot, "{:?}", sandbox.notes());
            let notes = sandbox.notes().join("\n");
            assert!(notes.contains("isolation: chroot"), "{notes}");
            assert!(notes.contains("seccomp=unconfined"), "{notes}");
        }
        (result, expected) => panic!("{expected:?}: {:?}", result.map(|_| "a sandbox")),
    }
}

/// Who asks for full isolation gets it, or an error with the reason, and never less.
fn full_isolation_or_the_reason(expected: &Expected) {
    match (start(Isolation::Full), expected) {
        (Ok(sandbox), Expected::Full) => assert_eq!(sandbox.mode(), Mode::Full),
        (Err(reason), Expected::Nested | Expected::Chroot | Expected::Nothing) => {
            assert!(reason.contains("not permitted"), "{reason}");
            assert!(reason.contains("--security-opt"), "{reason}");
        }
        (result, expected) => panic!("{expected:?}: {:?}", result.map(|sandbox| sandbox.mode())),
    }
}

/// A limit that cannot be set is an error that names it.
fn limits_or_the_reason(expected: &Expected) {
    if matches!(expected, Expected::Full | Expected::Nothing) {
        return;
    }
    let world = World::new().unwrap();
    let mut spec = world.sh("true");
    spec.resources.memory = Some(32 << 20);
    let refused = world
        .try_run(&spec)
        .map(|outcome| outcome.exit)
        .unwrap_err();
    let reason = crate::world::chain(&refused);
    assert!(reason.contains("memory=32m"), "{reason}");
    world.remove();
}
