//! Builds in stores that are damaged, full, or used by others at the same time.

#![allow(clippy::unwrap_used, clippy::result_large_err, reason = "tests")]

mod build_support;

use build_support::{Place, Recorder, base, failure_text, output};
use executor::Error;
use executor::request::OutputKind;
use planner::scheduler::Cancel;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use std::path::{Path, PathBuf};
use store::Store;

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(files_below(&path));
        } else {
            files.push(path);
        }
    }
    files
}

#[test]
fn a_corrupt_blob_of_the_store_is_named() {
    let place = Place::new();
    place.file("a", "one");
    let mut request = place.request("FROM base\nCOPY a /a\n");
    request
        .named_contexts
        .insert("base".to_owned(), base(&place));
    place.build(&request).unwrap();
    let gzip = |path: &PathBuf| std::fs::read(path).unwrap().starts_with(&[0x1f, 0x8b]);
    let blob = files_below(&place.path("store/blobs"))
        .into_iter()
        .find(gzip)
        .unwrap();
    let mut bytes = std::fs::read(&blob).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&blob, bytes).unwrap();
    request.outputs = vec![output(OutputKind::Oci, &place.path("x.tar"))];
    let text = failure_text(&place.build(&request).unwrap_err());
    assert!(text.contains("corrupt"), "{text}");
    assert!(!place.path("x.tar").exists());
}

#[test]
fn a_full_disk_is_told_and_leaves_a_usable_store() {
    let place = Place::new();
    let full = place.path("full");
    std::fs::create_dir(&full).unwrap();
    if let Err(error) = mount(
        "tmpfs",
        &full,
        "tmpfs",
        MountFlags::empty(),
        Some(c"size=2m"),
    ) {
        println!(
            "SKIPPED: a full disk needs a file system of its own, and mounting one gives {error}"
        );
        return;
    }
    let outcome = std::panic::catch_unwind(|| {
        let store = Store::open(&full.join("store")).unwrap();
        place.file("big", &"x".repeat(4 << 20)).file("small", "x");
        let build = |dockerfile: &str| {
            let request = place.request(dockerfile);
            executor::build::build(
                &store,
                &request,
                &Recorder::default(),
                &Cancel::default(),
                None,
            )
        };
        let failure = build("FROM scratch\nCOPY big /\n").unwrap_err();
        assert!(failure.error.is_disk_full(), "{}", failure_text(&failure));
        assert!(failure.error.help().unwrap().contains("disk is full"));
        assert_eq!(failure.origin.unwrap().lines.unwrap().start, 2);
        assert_eq!(
            build("FROM scratch\nCOPY small /\n").unwrap().executed,
            1,
            "the space is free again"
        );
    });
    unmount(&full, UnmountFlags::DETACH).unwrap();
    outcome.unwrap();
}

#[test]
fn builds_share_a_store() {
    let place = Place::new();
    for number in 0..20 {
        place.file(&format!("f{number}"), &number.to_string());
    }
    let lines: String = (0..20)
        .map(|number| format!("COPY f{number} /f{number}\n"))
        .collect();
    let digests: Vec<_> = std::thread::scope(|scope| {
        let build = || {
            let store = Store::open(&place.path("store")).unwrap();
            let request = place.request(&format!("FROM scratch\n{lines}"));
            executor::build::build(
                &store,
                &request,
                &Recorder::default(),
                &Cancel::default(),
                None,
            )
            .unwrap()
            .config_digest
        };
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(build)).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    assert_eq!(digests.len(), 4);
    let listed =
        executor::output::images(&executor::space::Space::new(place.store.clone())).unwrap();
    assert!(digests.contains(&Some(listed[0].id.clone())));
}

#[test]
fn a_cancelled_build_does_nothing_more() {
    let place = Place::new();
    place.file("a", "one");
    let cancel = Cancel::default();
    cancel.cancel();
    let request = place.request("FROM scratch\nCOPY a /\n");
    let failure =
        executor::build::build(&place.store, &request, &Recorder::default(), &cancel, None)
            .unwrap_err();
    assert!(matches!(failure.error, Error::Cancelled));
    assert!(place.store.references().unwrap().is_empty());
}
