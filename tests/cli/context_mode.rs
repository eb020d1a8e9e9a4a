//! `--context-mode=git`: the same keys and layers for the same files, whoever checked them out, where and when.

use crate::support::{Project, able, is_root, program};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};
use testkit::Scratch;

const DOCKERFILE: &str = "\
FROM scratch
ARG N=1
COPY . /all
WORKDIR /w
COPY bin/tool lib/data /picked/
COPY --link lib /linked
";

/// A checkout as it is made with some umask, at some time.
fn checkout(parent: &Path, name: &str, umask: u32, age: u64) -> PathBuf {
    let root = parent.join(name);
    for dir in ["", "bin", "lib", "lib/deep"] {
        let dir = root.join(dir);
        fs::create_dir(&dir).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o777 & !umask)).unwrap();
    }
    let time = SystemTime::now() - Duration::from_secs(age);
    for (path, mode, content) in [
        ("Dockerfile", 0o666, DOCKERFILE),
        ("bin/tool", 0o777, "#!/bin/sh\n"),
        ("lib/data", 0o666, "data"),
        ("lib/deep/more", 0o666, "more"),
    ] {
        let path = root.join(path);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode & !umask)).unwrap();
        fs::File::open(&path).unwrap().set_modified(time).unwrap();
    }
    symlink("data", root.join("lib/link")).unwrap();
    root
}

/// The keys of all steps, and the layers of the image.
fn built(mut command: Command, store: &Path, context: &Path, flags: &[&str]) -> (Value, Value) {
    let binary = command.get_program().to_owned();
    let words: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
    command
        .arg("--root")
        .arg(store)
        .args(["build", "-q", "-t", "result"]);
    command.args(flags).arg(context);
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let ask = |args: &[&str]| -> Value {
        let mut command = program(Path::new(&binary));
        command.args(&words).arg("--root").arg(store).args(args);
        let output = command.output().unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let story = ask(&["explain", "--format", "json"]);
    let keys = story["steps"].as_array().unwrap().iter();
    let keys = keys.map(|step| step["key"].clone()).collect();
    let image = ask(&["inspect", "result"]);
    (keys, image[0]["RootFS"]["Layers"].clone())
}

fn kiln() -> Command {
    program(Path::new(env!("CARGO_BIN_EXE_kiln")))
}

#[test]
fn two_checkouts_give_the_same_keys_and_layers() {
    let scratch = Scratch::new();
    fs::create_dir(scratch.join("far")).unwrap();
    let here = checkout(scratch.path(), "here", 0o022, 0);
    let there = checkout(&scratch.join("far"), "there", 0o002, 86_400);
    let tight = checkout(&scratch.join("far"), "tight", 0o077, 1_000_000);
    let git = ["--context-mode=git", "-f"];
    let of = |store: &str, context: &Path| {
        let file = context.join("Dockerfile");
        let flags = [git[0], git[1], file.to_str().unwrap()];
        built(kiln(), &scratch.join(store), context, &flags)
    };
    let first = of("store-1", &here);
    assert_eq!(first.0.as_array().unwrap().len(), 4);
    assert_eq!(first.1.as_array().unwrap().len(), 4);
    assert_eq!(of("store-2", &there), first);
    assert_eq!(of("store-3", &tight), first);

    // As they are on the disk, they differ.
    let exact = built(kiln(), &scratch.join("store-4"), &there, &[]);
    assert_ne!(exact.0, first.0);
    // Modes as Git has them are those of the usual umask.
    let usual = built(kiln(), &scratch.join("store-5"), &here, &[]);
    assert_eq!(usual.0, first.0);
}

#[test]
fn another_user_gives_the_same_keys_and_layers() {
    let setpriv = Path::new("/usr/bin/setpriv");
    if !able(is_root() && setpriv.exists(), "root, and setpriv") {
        return;
    }
    let scratch = Scratch::new();
    fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let context = checkout(scratch.path(), "roots", 0o027, 5);
    let first = built(
        kiln(),
        &scratch.join("store-1"),
        &context,
        &["--context-mode=git"],
    );

    let theirs = checkout(scratch.path(), "theirs", 0o002, 500);
    assert!(
        Command::new("chown")
            .arg("-R")
            .arg("65534:65534")
            .arg(&theirs)
            .status()
            .unwrap()
            .success()
    );
    let binary = scratch.join("kiln");
    fs::copy(env!("CARGO_BIN_EXE_kiln"), &binary).unwrap();
    let mut command = program(setpriv);
    command
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
        .arg(binary);
    let second = built(
        command,
        &scratch.join("store-2"),
        &theirs,
        &["--context-mode=git"],
    );
    assert_eq!(second, first);
}

#[test]
fn the_variable_says_it_too_and_other_words_are_refused() {
    let project = Project::new("FROM scratch\nCOPY a /a\n");
    let file = project.write("a", "a");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    project.build(&["--context-mode", "git"]).ok();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o664)).unwrap();
    let mut command = project.build_command(&[]);
    command.env("KILN_CONTEXT_MODE", "git");
    let run = project.run(command).ok();
    assert_eq!(run.step("COPY a /a"), "CACHED");
    // The flag wins.
    let mut command = project.build_command(&["--context-mode=exact"]);
    command.env("KILN_CONTEXT_MODE", "git");
    assert_eq!(project.run(command).ok().step("COPY a /a"), "DONE");
    project.build(&["--context-mode=svn"]).fails(
        2,
        &["invalid value \"svn\" for '--context-mode': expected exact or git"],
    );
    let mut command = project.build_command(&[]);
    command.env("KILN_CONTEXT_MODE", "umask");
    project.run(command).fails(2, &["'KILN_CONTEXT_MODE'"]);
}

/// The executable bit counts, and links stay links.
#[test]
fn what_git_keeps_counts() {
    let project = Project::new("FROM scratch\nCOPY . /\n");
    let file = project.write("tool", "x");
    project.build(&["--context-mode=git"]).ok();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    let run = project.build(&["--context-mode=git"]).ok();
    assert!(
        run.stderr.contains("tool (mode 644 -> 755)"),
        "{}",
        run.stderr
    );
    assert!(!run.stderr.contains("would not see it"), "{}", run.stderr);
    fs::remove_file(&file).unwrap();
    symlink("elsewhere", &file).unwrap();
    let run = project.build(&["--context-mode=git"]).ok();
    assert!(run.stderr.contains("tool (file -> link)"), "{}", run.stderr);
}
