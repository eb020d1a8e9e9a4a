//! Disks without room or without inodes: what is said, that nothing half-written is left, and that the next build with room is
//! right.

use crate::support::{Project, Run, able, is_root};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A small file system that is unmounted in the end.
struct Disk(PathBuf);

impl Disk {
    /// `None` where none can be mounted.
    fn mount(at: &Path, options: &str) -> Option<Self> {
        fs::create_dir_all(at).unwrap();
        if !able(is_root(), "root, to mount a small disk") {
            return None;
        }
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", options, "kiln-test"]);
        let done = mount.arg(at).status().unwrap().success();
        able(done, "mount").then(|| Self(at.to_owned()))
    }

    fn grow(&self) {
        let mut mount = Command::new("mount");
        mount.args(["-o", "remount,size=64m,nr_inodes=0"]);
        assert!(mount.arg(&self.0).status().unwrap().success());
    }

    /// Takes all room that is left, in a file whose removal gives it back.
    fn fill(&self) -> PathBuf {
        let path = self.0.join("lost+found");
        let mut file = fs::File::create(&path).unwrap();
        let block = [0; 4096];
        while std::io::Write::write_all(&mut file, &block).is_ok() {}
        path
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn project() -> Project {
    let project = Project::new(
        "FROM busybox AS made\n\
         RUN --mount=type=cache,target=/cache head -c 150000 /dev/zero > /cache/x; mkdir /made && head -c 200000 /bin/busybox > /made/m\n\
         FROM busybox\n\
         COPY f /f\n\
         RUN mkdir -p /d && for i in 1 2 3 4 5 6 7 8 9; do echo $i > /d/$i; done\n\
         COPY --from=made /made /made\n\
         RUN cat /f /made/m > /all\n",
    );
    project.write("f", "content of f\n".repeat(20_000));
    project
}

const EPOCH: [&str; 2] = ["--build-arg", "SOURCE_DATE_EPOCH=1700000000"];

fn build(project: &Project, archive: &str) -> Run {
    let output = format!("type=oci,dest={archive}");
    let id = ["--iidfile", "id", "-t", "x"];
    let args = [&EPOCH[..], &["-o", &output, "-o", "type=image"], &id].concat();
    project.build(&args)
}

/// It succeeded, or said that there is no room.
#[track_caller]
fn is_told(run: &Run, what: &str) -> bool {
    if run.status == 0 {
        return false;
    }
    // A command's own error is told as it is.
    let of_command = run.stderr.contains("did not complete successfully");
    let says = ["No space left on device", "the disk is full", "kiln prune"];
    for text in &says[..if of_command { 1 } else { 3 }] {
        assert!(
            run.stderr.contains(text),
            "{what}: no {text:?} in:\n{}",
            run.stderr
        );
    }
    assert_eq!(run.status, 1, "{what}");
    true
}

/// Builds on ever larger disks until one is large enough. On each that is not: the error, and the right image once there is room.
fn larger_and_larger(options: &[String]) {
    let project = project();
    let reference = project.path("reference");
    let mut command = project.command(&["build", "--progress", "plain"]);
    command.args(crate::support::with_busybox()).args(EPOCH);
    command.args(["-o", "type=oci,dest=reference.tar", "-t", "x", "context"]);
    command.arg("--root").arg(&reference);
    project.run(command).ok();
    let wanted = fs::read(project.path("reference.tar")).unwrap();
    let (mut told, mut right) = (0, 0);
    for options in options {
        let Some(disk) = Disk::mount(&project.store(), options) else {
            return;
        };
        let run = build(&project, "out.tar");
        let archive = project.path("out.tar");
        if is_told(&run, options) {
            told += 1;
            // One output may have been done before another failed: then it is whole.
            let made = fs::read(&archive).ok();
            assert!(made.is_none_or(|made| made == wanted), "{options}");
            assert!(!project.path("id").exists(), "{options}");
            assert!(project.images().len() <= 1, "{options}");
            // Something half-written beside it would be found here.
            let beside = fs::read_dir(project.path(".")).unwrap().flatten();
            let names = beside.map(|entry| entry.file_name().into_string().unwrap());
            let strange: Vec<String> = names
                .filter(|name| name.contains("out") && !name.starts_with("stdout"))
                .filter(|name| name != "out.tar")
                .collect();
            assert_eq!(strange, [""; 0], "{options}");
            let pruned = project.kiln(&["prune"]).ok();
            assert!(
                !pruned.stderr.contains("WARN"),
                "{options}: {}",
                pruned.stderr
            );
            disk.grow();
            build(&project, "out.tar").ok();
        } else {
            right += 1;
        }
        assert!(fs::read(&archive).unwrap() == wanted, "{options}");
        for file in ["out.tar", "id"] {
            fs::remove_file(project.path(file)).unwrap();
        }
        project.kiln(&["prune", "--all"]).ok();
        let scratch = fs::read_dir(project.store().join("scratch")).unwrap();
        assert_eq!(scratch.count(), 0, "{options}");
    }
    assert!(told > 3 && right > 0, "{told} told, {right} right");
}

#[test]
fn disks_without_room() {
    let sizes = (1..=12).map(|step| format!("size={}k", step * 700));
    larger_and_larger(&sizes.collect::<Vec<_>>());
}

#[test]
fn disks_without_inodes() {
    let numbers = (1..=10).map(|step| format!("size=64m,nr_inodes={}", 6 + step * 60));
    larger_and_larger(&numbers.collect::<Vec<_>>());
}

/// With a store full to the last byte a build that has nothing to do works, and everything that gives room.
#[test]
fn a_store_filled_to_the_last_byte() {
    let project = project();
    let Some(disk) = Disk::mount(&project.store(), "size=32m") else {
        return;
    };
    build(&project, "out.tar").ok();
    let wanted = fs::read(project.path("out.tar")).unwrap();
    let ballast = disk.fill();
    for command in [
        &["images"][..],
        &["du"],
        &["du", "--summary"],
        &["history", "x"],
        &["save", "-o", "saved.tar", "x"],
    ] {
        project.kiln(command).ok();
    }
    let again = build(&project, "again.tar").ok();
    assert_eq!(again.step("COPY f"), "CACHED");
    assert!(fs::read(project.path("again.tar")).unwrap() == wanted);
    project.write("f", "other content\n".repeat(20_000));
    assert!(is_told(&build(&project, "other.tar"), "another build"));
    assert!(!project.path("other.tar").exists());
    project
        .kiln(&["prune", "--filter", "type=exec.cachemount"])
        .ok();
    project.kiln(&["prune"]).ok();
    assert_eq!(project.images(), ["docker.io/library/x:latest"]);
    fs::remove_file(&ballast).unwrap();
    build(&project, "other.tar").ok();
    let ballast = disk.fill();
    project.kiln(&["rmi", "x"]).ok();
    project.kiln(&["prune", "--all"]).ok();
    fs::remove_file(ballast).unwrap();
    let (left, room) = (project.kiln(&["du", "--format", "json"]).ok(), disk);
    assert_eq!(left.text(), "");
    drop(room);
}

/// The store has room, and where an output goes has none.
#[test]
fn outputs_without_room() {
    let project = project();
    build(&project, "out.tar").ok();
    let Some(disk) = Disk::mount(&project.path("full"), "size=100k") else {
        return;
    };
    for output in [
        "type=oci,dest=full/out.tar",
        "type=docker,dest=full/out.tar",
        "type=tar,dest=full/out.tar",
        "type=local,dest=full/out",
        "type=oci,tar=false,dest=full/out",
    ] {
        let run = project.build(&["-o", output]);
        assert_eq!(run.status, 1, "{output}: {}", run.stderr);
        assert!(
            run.stderr.contains("No space left on device"),
            "{output}: {}",
            run.stderr
        );
        if !output.contains("out.tar") {
            continue;
        }
        let left: Vec<_> = fs::read_dir(&disk.0).unwrap().flatten().collect();
        assert!(left.is_empty(), "{output}: {left:?}");
    }
    let run = project.build(&["--cache-to", "type=local,dest=full/cache,mode=max"]);
    assert_eq!(run.status, 1, "{}", run.stderr);
    assert!(
        run.stderr.contains("No space left on device"),
        "{}",
        run.stderr
    );
    let run = project.kiln(&["save", "-o", "full/saved.tar", "x"]);
    run.fails(1, &["No space left on device"]);
    assert!(!disk.0.join("saved.tar").exists());
}
