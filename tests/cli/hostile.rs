//! Bases that attack, blobs that rot and disks that are full: refused or contained, and the store stays usable.

use crate::support::{Project, Run, able, files_below, is_root};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;
use testkit::{BaseImage, Compression, Entry};

/// Reads the layers in all ways: looks a target up, unpacks, exports. The base need have no program of its own.
const USES_ALL: &str = "\
FROM evil
COPY f /pwned/f
RUN --mount=type=bind,from=busybox,source=/bin/busybox,target=/busybox [\"/busybox\", \"find\", \"/pwned\"]
";

/// Builds on a layout of the project named `evil`.
fn build_on(project: &Project, args: &[&str]) -> Run {
    project.write("f", "x");
    let mut all = vec!["--build-context", "evil=oci-layout://evil"];
    all.extend(args);
    let run = project.build(&all);
    assert!(
        [0, 1].contains(&run.status),
        "{} {}",
        run.status,
        run.stderr
    );
    run
}

/// The store works for honest images.
#[track_caller]
fn still_works(project: &Project) {
    project.write("Dockerfile", "FROM busybox\nCOPY f /f\nRUN true\n");
    project.write("f", "x");
    project.valid_layout("honest", &[]);
}

#[test]
fn no_entry_of_a_base_leaves_the_store() {
    let project = Project::new(USES_ALL);
    let outside = project.path("outside");
    fs::create_dir(&outside).unwrap();
    let victim = outside.join("victim");
    fs::write(&victim, "untouched").unwrap();
    let target = outside.to_str().unwrap();
    let up = "../".repeat(40);
    let escapes = [
        vec![Entry::file(format!("{up}{target}/dots"), "x")],
        vec![Entry::file(format!("{target}/absolute"), "x")],
        vec![
            Entry::symlink("link", target),
            Entry::file("link/through", "x"),
        ],
        vec![
            Entry::symlink("link", format!("{up}{target}")),
            Entry::dir("link/made"),
        ],
        vec![
            Entry::hardlink("hard", format!("{up}{target}/victim")),
            Entry::file("hard", "overwritten"),
        ],
        vec![Entry::symlink("pwned", target)],
        vec![
            Entry::symlink("link", target),
            Entry::whiteout("link/victim"),
        ],
        vec![Entry::symlink("link", target), Entry::opaque("link")],
        vec![Entry::file("dir/.wh...", "")],
        vec![Entry::symlink(".", target)],
    ];
    let mut contained = 0;
    for (number, escape) in escapes.iter().enumerate() {
        let _ = fs::remove_dir_all(project.path("evil"));
        let base = BaseImage::new().layer(&[Entry::dir("bin")]).layer(escape);
        base.write(&project.path("evil")).unwrap();
        let run = build_on(
            &project,
            &["-o", "type=tar,dest=out.tar", "-o", "type=local,dest=out"],
        );
        if run.status == 0 {
            contained += 1;
        } else {
            assert!(
                run.stderr.contains("sha256:"),
                "case {number}: {}",
                run.stderr
            );
        }
        assert_eq!(fs::read(&victim).unwrap(), b"untouched", "case {number}");
        assert_eq!(fs::metadata(&victim).unwrap().nlink(), 1, "case {number}");
        let names: Vec<_> = fs::read_dir(&outside).unwrap().collect();
        assert_eq!(names.len(), 1, "case {number}: {names:?}");
    }
    assert!(
        contained > 0,
        "links and names that only look dangerous are used every day"
    );
    still_works(&project);
}

#[test]
fn files_written_to_a_folder_stay_in_it() {
    let project = Project::new("FROM evil\n");
    let outside = project.path("outside");
    fs::create_dir(&outside).unwrap();
    let target = outside.to_str().unwrap();
    let first = [Entry::symlink("link", target)];
    let second = [Entry::dir("link"), Entry::file("link/file", "x")];
    let base = BaseImage::new().layer(&first).layer(&second);
    base.write(&project.path("evil")).unwrap();
    build_on(&project, &["-o", "out"]);
    // A link that an earlier build, or someone else, left in the folder is not followed either.
    let _ = fs::remove_dir_all(project.path("out"));
    fs::create_dir(project.path("out")).unwrap();
    std::os::unix::fs::symlink(&outside, project.path("out/link")).unwrap();
    build_on(&project, &["-o", "out"]);
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
}

/// Gives the only layer of a layout, stored as plain tar, other bytes of the same length; digests follow.
fn replace_layer(layout: &Path, change: impl Fn(&mut Vec<u8>)) {
    let blobs = layout.join("blobs/sha256");
    let rename = |old: &str, bytes: &[u8]| {
        let new = testkit::digest_of(bytes)["sha256:".len()..].to_owned();
        fs::remove_file(blobs.join(old)).unwrap();
        fs::write(blobs.join(&new), bytes).unwrap();
        new
    };
    let manifest = testkit::manifest_of(layout, "latest").unwrap();
    let name = |digest: &serde_json::Value| digest.as_str().unwrap()["sha256:".len()..].to_owned();
    let old_layer = name(&manifest["layers"][0]["digest"]);
    let old_config = name(&manifest["config"]["digest"]);
    let mut layer = fs::read(blobs.join(&old_layer)).unwrap();
    change(&mut layer);
    let new_layer = rename(&old_layer, &layer);
    let config = fs::read_to_string(blobs.join(&old_config)).unwrap();
    let new_config = rename(
        &old_config,
        config.replace(&old_layer, &new_layer).as_bytes(),
    );
    let index = fs::read_to_string(layout.join("index.json")).unwrap();
    let parsed: serde_json::Value = serde_json::from_str(&index).unwrap();
    let old_manifest = name(&parsed["manifests"][0]["digest"]);
    let text = fs::read_to_string(blobs.join(&old_manifest)).unwrap();
    let text = text
        .replace(&old_layer, &new_layer)
        .replace(&old_config, &new_config);
    let new_manifest = rename(&old_manifest, text.as_bytes());
    fs::write(
        layout.join("index.json"),
        index.replace(&old_manifest, &new_manifest),
    )
    .unwrap();
}

#[test]
fn a_layer_that_declares_more_than_it_has_is_refused() {
    let project = Project::new(USES_ALL);
    let base = BaseImage::new().layer(&[Entry::file("huge", "small")]);
    base.compression(Compression::None)
        .write(&project.path("evil"))
        .unwrap();
    replace_layer(&project.path("evil"), |tar| {
        tar[124..135].copy_from_slice(b"77777777777");
        tar[148..156].copy_from_slice(b"        ");
        let sum: u32 = tar[..512].iter().map(|byte| u32::from(*byte)).sum();
        tar[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    });
    build_on(&project, &["-t", "x"]).fails(1, &["sha256:"]);
    assert!(project.images().is_empty());
    let stored: u64 = files_below(&project.store())
        .iter()
        .map(|file| fs::metadata(file).unwrap().blocks() * 512)
        .sum();
    assert!(stored < 1 << 20, "{stored} bytes of nothing");
    still_works(&project);
}

#[test]
fn layers_with_absurd_entries_do_not_harm() {
    let project = Project::new(USES_ALL);
    let long = ["d"; 6000].join("/");
    let many = (0..10_000).map(|n| Entry::file(format!("many/{n}"), ""));
    let cases: [Vec<Entry>; 5] = [
        vec![Entry::file(long, "x")],
        vec![Entry::file("n".repeat(300), "x")],
        vec![
            Entry::symlink("loop/a", "../loop/a"),
            Entry::file("loop/a/b", "x"),
        ],
        vec![Entry::hardlink("one", "two"), Entry::hardlink("two", "one")],
        many.collect(),
    ];
    for entries in cases {
        let _ = fs::remove_dir_all(project.path("evil"));
        BaseImage::new()
            .layer(&entries)
            .write(&project.path("evil"))
            .unwrap();
        let run = build_on(&project, &[]);
        assert!(
            run.stderr.len() < 100_000,
            "{} bytes of messages",
            run.stderr.len()
        );
    }
    still_works(&project);
}

#[test]
fn a_blob_that_rots_is_named_and_never_handed_on() {
    let project = Project::new("FROM busybox\nCOPY f /f\n");
    project.write("f", "x");
    project.build(&["-t", "x"]).ok();
    let manifest = testkit::manifest_of(&testkit::busybox_layout(), "latest").unwrap();
    let digest = manifest["layers"][0]["digest"].as_str().unwrap().to_owned();
    let blob = project.store().join("blobs").join(digest.replace(':', "/"));
    let mut bytes = fs::read(&blob).unwrap();
    bytes[500_000] ^= 1;
    fs::remove_file(&blob).unwrap();
    fs::write(&blob, bytes).unwrap();
    for args in [
        &["save", "x", "-o", "out"][..],
        &["save", "x", "-o", "out", "--format", "oci"],
    ] {
        project.kiln(args).fails(1, &[&digest, "corrupt"]);
        assert!(!project.path("out").exists());
    }
    let args = ["--no-cache", "-o", "type=oci,dest=out"];
    project
        .build(&args)
        .fails(1, &[&digest, "corrupt", "remove "]);
    assert!(!project.path("out").exists());
    // What the message tells to do helps.
    fs::remove_file(&blob).unwrap();
    project.valid_layout("again", &[]);
}

/// A small file system that is unmounted in the end.
struct SmallDisk<'a>(&'a Path);

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

#[test]
fn a_full_disk_is_said_and_a_larger_one_is_enough() {
    let project = Project::new("FROM busybox\nCOPY f /f\nRUN echo x > /x\n");
    project.write("f", "x");
    let root = project.store();
    fs::create_dir(&root).unwrap();
    if !able(is_root(), "root, to mount a small disk") {
        return;
    }
    for size in ["300k", "1500k", "2500k"] {
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "kiln-test"])
            .arg(&root);
        if !able(mount.status().unwrap().success(), "mount") {
            return;
        }
        let disk = SmallDisk(&root);
        let args = ["-t", "x", "-o", "type=oci,dest=out.tar", "--iidfile", "id"];
        project.build(&args).fails(
            1,
            &["No space left on device", "the disk is full", "kiln prune"],
        );
        assert!(!project.path("out.tar").exists() && !project.path("id").exists());
        let mut larger = Command::new("mount");
        larger.args(["-o", "remount,size=64m"]).arg(&root);
        assert!(larger.status().unwrap().success());
        project.valid_layout(&format!("out-{size}"), &[]);
        drop(disk);
    }
}
