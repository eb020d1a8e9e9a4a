//! Exports of caches that are ended from outside: what is there stays whole, and the next build exports.

use crate::caches::{from, machine, ran, reference, to, to_registry};
use crate::support::{Project, wait_until};
use rustix::fs::FlockOperation;
use rustix::process::Signal;
use std::path::Path;
use std::time::Duration;
use testkit::registry::{Action, FakeRegistry, Fault};

/// Longer than any test takes.
const FOR_EVER: Duration = Duration::from_secs(600);
const SOON: Duration = Duration::from_secs(60);

/// The steps that a new store runs with a cache.
#[track_caller]
fn misses(source: &str, from: &str) -> usize {
    let there = machine();
    there.write("source.txt", source);
    let run = there.build(&[from]).ok();
    assert!(!run.stderr.contains("is not used"), "{}", run.stderr);
    ran(&run).len()
}

#[test]
fn ca03_an_export_that_is_ended_leaves_the_registrys_cache_whole() {
    let registry = FakeRegistry::start();
    let reference = reference(&registry);
    let to = to_registry(&reference, ",mode=max");
    let from = format!("--cache-from={reference}");
    machine().build(&[&to]).ok();
    let old = registry.tagged("team/cache", "main");
    let steps = [
        ("POST", "/blobs/uploads/"),
        ("PUT", "/blobs/uploads/"),
        ("PUT", "/manifests/"),
    ];
    let mut number = 0;
    for (method, path) in steps {
        for signal in [Signal::KILL, Signal::INT] {
            number += 1;
            let (project, source) = (machine(), format!("changed {number}"));
            project.write("source.txt", &source);
            let before = registry.count(method, path);
            registry.fault(Fault::on(method, path).with(Action::Delay(FOR_EVER)));
            let build = project.start(project.build_command(&[&to]));
            let is_there = || registry.count(method, path) > before;
            assert!(wait_until(SOON, is_there), "{method} {}", build.stderr());
            build.signal(signal);
            let status = if signal == Signal::KILL { 137 } else { 130 };
            assert_eq!(build.finish().status, status, "{method} {path}");
            registry.heal();
            // The registry answers late to a manifest that it has taken.
            let is_old = registry.tagged("team/cache", "main") == old;
            assert!(is_old || path == "/manifests/", "{method} {path}");
            assert_eq!(misses("one", &from), 0, "{method} {path}");
        }
    }
    // The next build has all of it in its store, and exports it.
    let project = machine();
    project.write("source.txt", "changed at last");
    registry.fault(Fault::on("PUT", "/manifests/").with(Action::Delay(FOR_EVER)));
    let before = registry.count("PUT", "/manifests/");
    let build = project.start(project.build_command(&[&to]));
    assert!(wait_until(SOON, || registry.count("PUT", "/manifests/") > before));
    build.signal(Signal::KILL);
    build.finish();
    registry.heal();
    let run = project.build(&[&to]).ok();
    assert_eq!(ran(&run).len(), 0, "{}", run.stderr);
    assert_eq!(misses("changed at last", &from), 0);
    assert_eq!(misses("one", &from), 0);
}

/// The blobs of a folder.
fn blobs(cache: &Path) -> usize {
    std::fs::read_dir(cache.join("blobs/sha256")).map_or(0, Iterator::count)
}

#[test]
fn ca04_an_export_that_is_ended_leaves_the_folders_cache_whole() {
    let here = machine();
    let cache = here.path("cache");
    let to = to(&cache, ",mode=max");
    here.build(&[&to]).ok();
    let index = std::fs::read(cache.join("index.json")).unwrap();
    let made = blobs(&cache);
    for signal in [Signal::KILL, Signal::INT] {
        let project = machine();
        project.write("source.txt", format!("changed {signal:?}"));
        // Somebody else has the folder: layers come, the rest waits.
        let folder = std::fs::File::open(&cache).unwrap();
        rustix::fs::flock(&folder, FlockOperation::LockExclusive).unwrap();
        let mut build = project.start(project.build_command(&[&to]));
        build.wait_for("exporting cache to client directory");
        assert!(wait_until(SOON, || blobs(&cache) > made));
        build.signal(signal);
        let status = if signal == Signal::KILL { 137 } else { 130 };
        assert_eq!(build.finish().status, status);
        drop(folder);
        assert_eq!(std::fs::read(cache.join("index.json")).unwrap(), index);
        testkit::validate(&cache).unwrap();
        assert_eq!(misses("one", &from(&cache)), 0);
    }
    // What they left goes when it is old, at an export that writes.
    let old = std::time::SystemTime::now() - Duration::from_secs(30 * 24 * 60 * 60);
    let layers = || std::fs::read_dir(cache.join("blobs/sha256")).unwrap();
    for blob in layers() {
        let file = std::fs::File::options()
            .write(true)
            .open(blob.unwrap().path());
        file.unwrap().set_modified(old).unwrap();
    }
    let project = Project::new("FROM scratch\nCOPY f /f\n");
    project.write("f", "other");
    project.build(&[&to]).ok();
    // Its layer, and what is remembered of it; the other documents are replaced.
    assert_eq!(blobs(&cache), made + 2);
    testkit::validate(&cache).unwrap();
    assert_eq!(misses("one", &from(&cache)), 0);
}
