//! What is found out about this machine, and about one that was made worse.

use crate::hosts::unshare;
use crate::world::World;
use sandbox::{Fact, IdMapping};
use std::path::Path;
use std::process::ExitCode;

pub(crate) const CASES: &[crate::Case] = &[
    ("facts::of_this_machine", this_machine),
    ("facts::hidden_parts_of_proc", hidden_proc),
    ("facts::user_namespaces_are_off", no_namespaces),
    ("facts::leave_nothing", leave_nothing),
];

/// Body of `--facts STORE SCRATCH`: prints them.
pub(crate) fn print(args: &[String]) -> ExitCode {
    let [store, scratch, ..] = args else {
        return ExitCode::FAILURE;
    };
    for fact in facts(Path::new(store), Path::new(scratch)) {
        println!(
            "{} {} {} {}",
            fact.id,
            fact.works,
            fact.errno.unwrap_or(0),
            fact.fix
        );
    }
    ExitCode::SUCCESS
}

fn facts(store: &Path, scratch: &Path) -> Vec<Fact> {
    let path = std::env::var("PATH").unwrap();
    sandbox::facts(store, scratch, &path).unwrap()
}

#[track_caller]
fn fact<'a>(facts: &'a [Fact], id: &str) -> &'a Fact {
    let mut found = facts.iter().filter(|fact| fact.id == id);
    let one = found.next().unwrap_or_else(|| panic!("no {id}"));
    assert!(found.next().is_none(), "{id} twice");
    one
}

/// What the sandbox of these tests uses is found to work; what is found missing says why, and mostly what to do.
fn this_machine(world: &World) {
    let facts = facts(&world.store(), &world.folder());
    for id in [
        "kernel",
        "user-namespace",
        "mount-namespace",
        "pid-namespace",
        "ipc-namespace",
        "uts-namespace",
        "cgroup-namespace",
        "net-namespace",
        "proc",
        "tmpfs",
        "devpts",
        "mqueue",
        "overlay",
        "seccomp",
    ] {
        let fact = fact(&facts, id);
        assert!(fact.works, "{fact:?}");
        assert_eq!((fact.errno, fact.fix.as_str()), (None, ""), "{fact:?}");
    }
    let ids = fact(&facts, "build-namespace");
    assert_eq!(
        ids.found,
        format!("{} ids", world.sandbox().id_mapping()),
        "{ids:?}"
    );
    let ranges = fact(&facts, "subuid");
    if world.is(IdMapping::Subordinate) {
        assert!(
            ranges.works && ranges.found.contains(" from "),
            "{ranges:?}"
        );
    } else if world.is(IdMapping::Single) {
        assert!(ranges.fix.contains("usermod --add-subuids"), "{ranges:?}");
    }
    let mapped = fact(&facts, "id-mapped-mounts");
    assert_eq!(mapped.works, world.is(IdMapping::Idmapped), "{mapped:?}");
    let root = rustix::process::geteuid().is_root();
    assert_eq!(fact(&facts, "chroot").works, root);
    for fact in &facts {
        assert!(
            fact.works || fact.errno.is_some() || !fact.found.is_empty(),
            "{fact:?}"
        );
        assert!(!fact.name.is_empty() && !fact.tried.is_empty(), "{fact:?}");
    }
}

/// Lines of `--facts` in worse surroundings.
fn facts_below(world: &World, flags: &str, worsen: &str) -> Option<String> {
    let script = format!("{worsen} && exec $SELF --facts \"$1\" \"$2\"");
    unshare(flags, &script, world)
}

fn hidden_proc(world: &World) {
    let worsen = "mount --bind /dev/null /proc/interrupts";
    let Some(text) = facts_below(world, "-rm", worsen) else {
        return;
    };
    assert!(
        text.contains(
            "\nproc false 1 the surrounding container hides parts of its own: start it with"
        ),
        "{text}"
    );
    assert!(text.contains("\nnet-namespace true 0"), "{text}");
    assert!(text.contains("\nbuild-namespace true 0"), "{text}");
}

fn no_namespaces(world: &World) {
    let worsen = "echo 0 > /proc/sys/user/max_user_namespaces";
    let Some(text) = facts_below(world, "-r", worsen) else {
        return;
    };
    let off = "false 28 user namespaces are off: `sysctl user.max_user_namespaces=10000`";
    for id in ["user-namespace", "build-namespace"] {
        assert!(text.contains(&format!("\n{id} {off}")), "{text}");
    }
    // Nothing inside was tried.
    assert!(!text.contains("\nproc "), "{text}");
    assert!(text.contains("\nseccomp true 0"), "{text}");
}

fn leave_nothing(world: &World) {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let state = || {
        (
            read("/proc/self/mounts"),
            read("/proc/thread-self/children"),
        )
    };
    let (before, scratch) = (state(), world.folder());
    facts(&world.store(), &scratch);
    assert_eq!(before, state());
    std::fs::remove_file(scratch.join("from")).unwrap_err();
}
