//! Everything that a build leaves in a store: seen by `du`, removed by filters, bounded by `--cache-max`, and kept where an
//! image or a kept sandbox needs it.

use crate::support::{Project, files_below, wait_until};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime};
use testkit::http::{Answer, Web};

const MOUNT: &str = "FROM busybox\nRUN --mount=type=cache,target=/c,id=travels head -c 300000 /bin/busybox > /c/x\n";

/// A store with something of every kind: layers of steps and of a base, a file behind a URL, what is known of folders, cache
/// mounts, one of them imported, records of an imported cache, the journal, logs, an image without a name, a kept sandbox.
fn filled() -> (Project, Web) {
    let web = Web::start(|_| Answer::ok("remote ".repeat(20_000)));
    let elsewhere = Project::new(MOUNT);
    let cache = elsewhere.path("cache");
    let dest = format!("type=local,mode=max,dest={}", cache.display());
    elsewhere
        .build(&["--cache-mounts=all", "--cache-to", &dest])
        .ok();
    let project = Project::new(&format!(
        "FROM busybox\nADD {} /remote\nCOPY f /f\n\
         RUN --mount=type=cache,target=/own echo own > /own/x && echo made > /made\n",
        web.url("/file")
    ));
    project.write("f", "content\n".repeat(20_000));
    project.build(&["-t", "named"]).ok();
    project.write("f", "other\n".repeat(20_000));
    project.build(&[]).ok();
    let from = format!("type=local,src={}", cache.display());
    project.write("Dockerfile", format!("{MOUNT}RUN ls /c || true\n"));
    let imported = project.build(&["--cache-mounts=all", "--cache-from", &from]);
    assert_eq!(imported.ok().step("head -c"), "CACHED");
    // The mount comes with a step that runs.
    project.write("Dockerfile", format!("{}; echo more", MOUNT.trim_end()));
    project
        .build(&["--cache-mounts=all", "--cache-from", &from])
        .ok();
    project.write(
        "Dockerfile",
        "FROM busybox\nRUN echo below > /below\nRUN echo left > /left; exit 3\n",
    );
    project
        .build(&["--on-failure", "keep"])
        .fails(1, &["exit code: 3"]);
    // What is known of files is kept once they are older than the precision of their times.
    project.write("Dockerfile", "FROM scratch\nCOPY f /f\n");
    let is_known = || {
        project.build(&["-o", "type=cacheonly"]).ok();
        !files_below(&project.store().join("stat")).is_empty()
    };
    assert!(wait_until(Duration::from_secs(60), is_known));
    // What was used in the second in which a build begins counts as used by it.
    let before = SystemTime::now() - Duration::from_secs(3600);
    grow_old(&project.store(), before);
    (project, web)
}

/// Makes all look last used then.
fn grow_old(folder: &Path, time: SystemTime) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            grow_old(&entry.path(), time);
        }
        if kind.is_dir() || kind.is_file() {
            let file = fs::File::open(entry.path()).unwrap();
            file.set_modified(time).unwrap();
        }
    }
}

/// The rows of `kiln du`, by ID.
#[track_caller]
fn rows(project: &Project) -> BTreeMap<String, Value> {
    let run = project.kiln(&["du", "--format", "json"]).ok();
    let rows = run.text().lines().map(|line| {
        let row: Value = serde_json::from_str(line).unwrap();
        (row["ID"].as_str().unwrap().to_owned(), row)
    });
    rows.collect()
}

/// Blocks of all below a folder, in bytes; and how many folders that is, which some file systems give blocks too.
fn blocks(folder: &Path, seen: &mut BTreeSet<u64>) -> (u64, u64) {
    let (mut bytes, mut folders) = (0, 0);
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let meta = entry.path().symlink_metadata().unwrap();
        if seen.insert(meta.ino()) {
            bytes += meta.blocks() * 512;
        }
        if meta.is_dir() {
            let below = blocks(&entry.path(), seen);
            (bytes, folders) = (bytes + below.0, folders + below.1 + 1);
        }
    }
    (bytes, folders)
}

#[test]
fn every_byte_of_a_store_is_a_piece_s() {
    let (project, _web) = filled();
    let root = project.store();
    let pieces = store::Store::open(&root).unwrap().pieces().unwrap();
    let told: u64 = pieces.iter().map(|piece| piece.bytes).sum();
    let (mut there, mut folders, mut seen) = (0, 0, BTreeSet::new());
    for folder in [
        "blobs", "layers", "records", "stat", "mounts", "logs", "kept",
    ] {
        let found = blocks(&root.join(folder), &mut seen);
        assert!(found.0 > 0, "{folder}");
        (there, folders) = (there + found.0, folders + found.1);
    }
    // Names of folders that only sort, and what changes as it is counted.
    let slack = folders * 4096 + 16 * 4096;
    assert!(told.abs_diff(there) <= slack, "{told} of {there}");
    let known: BTreeSet<String> = pieces
        .iter()
        .map(|piece| format!("{:?}", piece.kind))
        .collect();
    let kinds = [
        "Blob",
        "Kept",
        "Layer",
        "Log",
        "Mount",
        "Record",
        "Reference",
        "StatCache",
    ];
    assert_eq!(known, kinds.map(str::to_owned).into());
}

#[test]
fn pieces_of_each_kind_go_by_filters() {
    let (project, _web) = filled();
    for (filter, is_it) in [
        ("type=exec.cachemount", "exec.cachemount"),
        ("type=source.local", "source.local"),
        ("type=regular", "regular"),
        ("type=internal", "internal"),
    ] {
        let of = |rows: &BTreeMap<String, Value>| {
            let mut found = rows.clone();
            found.retain(|_, row| row["Type"] == is_it && row["Reclaimable"] == true);
            found
        };
        let before = of(&rows(&project));
        let one = before.keys().next().unwrap_or_else(|| panic!("no {is_it}"));
        // A star says that builds change it in place.
        let id = format!("id={}", one.trim_end_matches('*'));
        // What is internal is shown in groups.
        if is_it != "internal" {
            project
                .kiln(&["prune", "--filter", &id, "--filter", filter])
                .ok();
            assert!(!rows(&project).contains_key(one), "{one}");
        }
        project.kiln(&["prune", "--filter", filter]).ok();
        assert_eq!(of(&rows(&project)), BTreeMap::new(), "{is_it}");
    }
}

#[test]
fn a_bound_takes_all_but_what_is_needed() {
    let (project, _web) = filled();
    // As a build does it: nothing of what it uses itself goes.
    project.write("Dockerfile", "FROM scratch\nCOPY f /only\n");
    project
        .build(&["--cache-max", "1", "-o", "type=cacheonly"])
        .ok();
    let root = project.store();
    let left = store::Store::open(&root).unwrap().pieces().unwrap();
    let (mut mounts, mut needed) = (0, 0);
    for piece in &left {
        mounts += usize::from(piece.kind == store::PrunedKind::Mount);
        needed += usize::from(piece.is_needed);
        let is_base = piece.kind == store::PrunedKind::Layer && !piece.is_needed;
        assert!(!is_base || piece.bytes < 300_000, "{piece:?}");
    }
    assert!(mounts == 0 && needed > 3, "{left:?}");
    project.kiln(&["prune", "--max-used-space", "1"]).ok();
    let left = store::Store::open(&root).unwrap().pieces().unwrap();
    assert!(left.iter().all(|piece| piece.is_needed), "{left:?}");
    // What is needed is whole.
    let saved = ["save", "--format", "oci-dir", "-o", "saved", "named"];
    project.kiln(&saved).ok();
    testkit::validate(&project.path("saved")).unwrap();
    let shown = project.kiln(&["debug", "--list"]).ok();
    assert_eq!(shown.text().lines().count(), 2, "{}", shown.text());
    let run = project
        .kiln(&["debug", "--", "cat", "/left", "/below"])
        .ok();
    assert_eq!(run.text(), "left\nbelow");
    // And all goes in the end.
    project.kiln(&["rmi", "named"]).ok();
    project.kiln(&["prune", "--all"]).ok();
    let left = store::Store::open(&root).unwrap().pieces().unwrap();
    assert!(left.is_empty(), "{left:?}");
}
