//! Images after the build: list, look at, hand on, take in, remove, and give the space back.

use crate::support::{Project, files_below};
use serde_json::Value;
use std::fs;

fn built() -> Project {
    let project =
        Project::new("FROM busybox\nLABEL k=v\nCOPY f /f\nRUN echo made > /made\nCMD [\"x\"]\n");
    project.write("f", "content");
    project
        .build(&["-t", "one:1", "-t", "registry.example/two"])
        .ok();
    project
}

fn json(text: &[u8]) -> Value {
    serde_json::from_slice(text).unwrap()
}

#[test]
fn images_are_listed() {
    let project = built();
    let table = project.kiln(&["images"]).ok();
    let lines: Vec<&str> = table.text().lines().collect();
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert!(lines[0].starts_with("REPOSITORY"), "{lines:?}");
    assert!(
        lines[1].starts_with("one ") && lines[1].contains(" 1 "),
        "{lines:?}"
    );
    let one = project.kiln(&["images", "-q", "--no-trunc", "one:1"]).ok();
    let inspected = json(&project.kiln(&["inspect", "one:1"]).ok().stdout);
    assert_eq!(inspected[0]["Id"], one.text());
    assert_eq!(inspected[0]["Config"]["Labels"]["k"], "v");
    assert_eq!(
        project
            .kiln(&["images", "nothing"])
            .ok()
            .text()
            .lines()
            .count(),
        1
    );
    assert_eq!(project.kiln(&["images", "-q", "nothing"]).ok().text(), "");
}

#[test]
fn history_tells_how_an_image_was_made() {
    let project = built();
    let history = project.kiln(&["history", "--format", "json", "one:1"]).ok();
    let lines: Vec<Value> = history
        .text()
        .lines()
        .map(|line| json(line.as_bytes()))
        .collect();
    let made: Vec<&str> = lines
        .iter()
        .map(|line| line["CreatedBy"].as_str().unwrap())
        .collect();
    assert!(made[0].contains("CMD [\"x\"]"), "{made:?}");
    assert!(lines[0]["ID"] != "<missing>" && lines[1]["ID"] == "<missing>");
    assert!(made[1].contains("echo made > /made"), "{made:?}");
    assert!(made[2].contains("COPY f /f"), "{made:?}");
    assert!(lines[1]["Size"] != "0B" && lines[0]["Size"] == "0B");
}

#[test]
fn what_is_saved_can_be_loaded() {
    let project = built();
    let id = project.kiln(&["images", "-q", "--no-trunc", "one:1"]).ok();
    for format in ["docker", "oci"] {
        let file = format!("{format}.tar");
        let save = [
            "save",
            "one:1",
            "registry.example/two",
            "-o",
            &file,
            "--format",
            format,
        ];
        project.kiln(&save).ok();
        let other = Project::new("FROM one:1\nRUN cat /made /f > /both\n");
        let archive = project.path(&file);
        let loaded = other.kiln(&["load", "-i", archive.to_str().unwrap()]).ok();
        assert!(loaded.text().contains("one:1"), "{}", loaded.text());
        let listed = other.kiln(&["images", "-q", "--no-trunc", "one:1"]).ok();
        assert_eq!(listed.text(), id.text(), "{format}");
        assert_eq!(other.images().len(), 2);
        // A loaded image is a base, without a registry.
        other.build(&["-o", "out"]).ok();
        assert_eq!(fs::read(other.path("out/both")).unwrap(), b"made\ncontent");
    }
    let stdout = project.kiln(&["save", "one:1"]).ok().stdout;
    assert!(testkit::read_entries(stdout.as_slice()).unwrap().len() > 4);
}

#[test]
fn archives_that_are_none_are_refused() {
    let project = built();
    project.kiln(&["save", "one:1", "-o", "good.tar"]).ok();
    let good = fs::read(project.path("good.tar")).unwrap();
    let middle = good.len() / 2;
    let mut flipped = good.clone();
    flipped[middle] ^= 1;
    let other = Project::new("");
    let file = other.path("archive.tar");
    for bytes in [
        b"no archive at all".as_slice(),
        b"",
        &good[..middle],
        &flipped,
    ] {
        fs::write(&file, bytes).unwrap();
        other
            .kiln(&["load", "-i", file.to_str().unwrap()])
            .fails(1, &["ERROR: "]);
        assert!(other.images().is_empty());
    }
    other
        .kiln(&["load", "-i", "missing.tar"])
        .fails(1, &["missing.tar"]);
}

#[test]
fn images_that_are_not_there() {
    let project = built();
    for args in [
        &["rmi", "nothing"][..],
        &["inspect", "nothing"],
        &["history", "nothing"],
    ] {
        project.kiln(args).fails(1, &["No such image: nothing"]);
    }
    let save = ["save", "one:1", "nothing", "-o", "out.tar"];
    project.kiln(&save).fails(1, &["nothing"]);
    assert!(!project.path("out.tar").exists());
    project.kiln(&["rmi", "-f", "nothing"]).ok();
}

#[test]
fn pruning_gives_space_back_and_keeps_what_is_named() {
    let project = built();
    project.build(&["--no-cache", "-t", "three"]).ok();
    let before = files_below(&project.store()).len();
    let listed = project.kiln(&["prune", "-a", "--dry-run"]).ok();
    assert!(listed.text().contains("Would reclaim"), "{}", listed.text());
    assert_eq!(files_below(&project.store()).len(), before);

    let removed = project.kiln(&["rmi", "one:1"]).ok();
    assert!(removed.text() == "Untagged: one:1", "{}", removed.text());
    project.kiln(&["prune", "-a", "-f"]).ok();
    let mut images = project.images();
    images.sort();
    assert_eq!(
        images,
        [
            "docker.io/library/three:latest",
            "registry.example/two:latest"
        ]
    );
    project
        .kiln(&["save", "three", "registry.example/two", "-o", "kept.tar"])
        .ok();
    project.valid_layout("again", &[]);

    project.kiln(&["rmi", "three", "registry.example/two"]).ok();
    project.kiln(&["prune", "--all"]).ok();
    assert!(project.images().is_empty());
    let left = files_below(&project.store());
    let bytes: u64 = left
        .iter()
        .map(|file| fs::metadata(file).unwrap().len())
        .sum();
    assert!(bytes < 10_000, "{left:?}");
    project.valid_layout("after", &[]);
}
