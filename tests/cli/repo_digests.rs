//! Digests by which registries know images: shown, found by them, and taken away, as docker does it.

use crate::support::{Project, Run};
use serde_json::Value;
use testkit::registry::FakeRegistry;

/// A registry with `team/base:1`, and the image's digest.
fn with_base() -> (FakeRegistry, String) {
    let registry = FakeRegistry::start();
    let layer = testkit::archive(&[testkit::Entry::file("f", "base")]).unwrap();
    let digest = registry.put_image("team/base", Some("1"), arch(), &[layer]);
    (registry, digest)
}

pub fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn known(project: &Project, name: &str) -> Vec<String> {
    let shown = project
        .kiln(&["inspect", "--format", "{{json .RepoDigests}}", name])
        .ok();
    serde_json::from_str(shown.text()).unwrap()
}

fn column(project: &Project, name: &str) -> String {
    let run = project.kiln(&["images", "--format", "{{.Digest}}", name]);
    run.ok().text().to_owned()
}

fn pushed(run: &Run) -> String {
    let line = run.text().lines().last().unwrap();
    let (_, rest) = line.split_once("digest: ").unwrap();
    rest.split_once(' ').unwrap().0.to_owned()
}

#[test]
fn digests_are_those_that_registries_know() {
    let (registry, base) = with_base();
    let host = registry.host();
    let (app, other) = (format!("{host}/team/app"), format!("{host}/other/app"));
    let (first, second) = (format!("{app}:1"), format!("{app}:2"));
    let from = format!("{host}/team/base");
    let project = Project::new(&format!("FROM {from}:1\nCOPY f /f\n"));
    project.write("f", "content");
    project.build(&["-t", &first, "-t", &second]).ok();
    // What a build resolved is known where it came from; what it made is known nowhere.
    assert_eq!(
        known(&project, &format!("{from}:1")),
        [format!("{from}@{base}")]
    );
    assert_eq!(column(&project, &format!("{from}:1")), base);
    assert!(known(&project, &first).is_empty());
    assert_eq!(column(&project, &first), "<none>");

    let digest = pushed(&project.kiln(&["push", &first]).ok());
    let elsewhere = format!("{other}:x");
    project.kiln(&["push", &first, &elsewhere]).ok();
    let expected = [format!("{app}@{digest}"), format!("{other}@{digest}")];
    assert_eq!(known(&project, &second), expected);
    assert_eq!(column(&project, &second), digest);
    // Found by them, and known after all caches have gone.
    for name in &expected {
        assert_eq!(known(&project, name), expected);
    }
    project.kiln(&["prune", "--all", "--force"]).ok();
    assert_eq!(known(&project, &first), expected);
    let listed = project
        .kiln(&["images", "--digests", "--no-trunc", &first])
        .ok();
    assert!(listed.text().contains(&digest));

    // They go with the last name of their repository.
    let removed = |name: &str| -> Vec<String> {
        let run = project.kiln(&["rmi", name]).ok();
        let lines = run
            .text()
            .lines()
            .filter(|line| line.starts_with("Untagged: "));
        lines.map(str::to_owned).collect()
    };
    project.kiln(&["tag", &first, "mine"]).ok();
    assert_eq!(
        removed(&first),
        [
            format!("Untagged: {first}"),
            format!("Untagged: {other}@{digest}")
        ]
    );
    assert_eq!(
        removed(&second),
        [
            format!("Untagged: {second}"),
            format!("Untagged: {app}@{digest}")
        ]
    );
    assert!(known(&project, "mine").is_empty());
    assert_eq!(removed("mine"), ["Untagged: mine:latest"]);
    let left = project.kiln(&["rmi", &format!("{from}@{base}")]).ok();
    let expected = [
        format!("Untagged: {from}:1"),
        format!("Untagged: {from}@{base}"),
    ];
    for line in expected {
        assert!(left.text().contains(&line), "{}", left.text());
    }
    // Nothing keeps what was removed.
    project.kiln(&["prune", "--all"]).ok();
    let blobs = project.store().join("blobs");
    assert_eq!(
        crate::support::files_below(&blobs),
        Vec::<std::path::PathBuf>::new()
    );
}

#[test]
fn g02_a_pulled_image_has_the_digest_that_was_pulled() {
    let (registry, base) = with_base();
    let host = registry.host();
    let index = registry.put_index("team/base", "all", &[(&base, arch())]);
    let project = Project::new("");
    let name = format!("{host}/team/base:all");
    project.kiln(&["pull", &name]).ok();
    assert_eq!(
        known(&project, &name),
        [format!("{host}/team/base@{index}")]
    );
    assert_eq!(column(&project, &name), index);
    project.kiln(&["tag", &name, "copy:1"]).ok();
    assert_eq!(column(&project, "copy:1"), "<none>");
    let shown = project.kiln(&["images", "--format", "json", &name]).ok();
    let shown: Value = serde_json::from_str(shown.text()).unwrap();
    assert_eq!(shown["Digest"], index);
    let by_digest = format!("{host}/team/base@{base}");
    project.kiln(&["pull", &by_digest]).ok();
    assert_eq!(known(&project, &by_digest), [by_digest.as_str()]);
}
