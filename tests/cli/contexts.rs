//! Where a build's files and its Dockerfile come from: folders, tars, standard input, named contexts, and which names and
//! ignore files count. What comes over a network is in `remote_contexts`.

use crate::support::{Project, Run, Started, able, unpack};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};
use testkit::{Entry, TarEntry, archive};

/// Builds a context into a tar and lists it.
#[track_caller]
fn listed(
    project: &Project,
    context: &str,
    args: &[&str],
    stdin: &[u8],
) -> BTreeMap<String, TarEntry> {
    let (run, dest) = try_build(project, context, args, stdin);
    run.ok();
    let entries = testkit::tar_entries(&dest).unwrap();
    entries
        .into_iter()
        .map(|entry| (entry.path.clone(), entry))
        .collect()
}

fn try_build(
    project: &Project,
    context: &str,
    args: &[&str],
    stdin: &[u8],
) -> (Run, std::path::PathBuf) {
    let dest = project.path("out.tar");
    let mut command = project.command(&["build", "--progress", "plain"]);
    command
        .arg("-o")
        .arg(format!("type=tar,dest={}", dest.display()));
    command.args(args).arg(context);
    (project.run_with(command, stdin), dest)
}

fn names(listed: &BTreeMap<String, TarEntry>) -> Vec<&str> {
    listed
        .keys()
        .map(String::as_str)
        .filter(|name| *name != ".")
        .collect()
}

fn sample() -> Vec<Entry> {
    vec![
        Entry::dir("./"),
        Entry::file("./Dockerfile", "FROM scratch\nCOPY . /all/\n").mode(0o600),
        Entry::file("./.dockerignore", "a.txt\n"),
        Entry::file("./a.txt", "a"),
        Entry::file("./b.txt", "b").mode(0o640).owner(1000, 1001),
        Entry::dir("./sub").mode(0o750),
        Entry::file("./sub/Other", "FROM scratch\nCOPY a.txt /other\n"),
        Entry::symlink("./link", "a.txt"),
    ]
}

/// FEATURES I07, I06, CLI:path: modes and owners are the archive's, and its ignore file is a file like others.
#[test]
fn i07_tar_on_standard_input() {
    let project = Project::new("");
    let tar = archive(&sample()).unwrap();
    let found = listed(&project, "-", &[], &tar);
    assert_eq!(
        names(&found),
        [
            "all",
            "all/.dockerignore",
            "all/Dockerfile",
            "all/a.txt",
            "all/b.txt",
            "all/link",
            "all/sub",
            "all/sub/Other"
        ]
    );
    let b = &found["all/b.txt"];
    assert_eq!((b.mode, b.uid, b.gid), (0o640, 1000, 1001));
    assert_eq!(found["all/sub"].mode, 0o750);
    let other = listed(&project, "-", &["-f", "sub/Other"], &tar);
    assert_eq!(names(&other), ["other"]);
    let rooted = listed(&project, "-", &["-f", "/sub/Other"], &tar);
    assert_eq!(names(&rooted), ["other"]);
    project.kiln(&["prune", "--all"]).ok();
}

#[test]
fn i07_tar_files_and_compressions_are_told_by_content() {
    let project = Project::new("");
    let plain = project.path("context.bin");
    fs::write(&plain, archive(&sample()).unwrap()).unwrap();
    let expected = listed(&project, "context.bin", &[], b"");
    assert_eq!(expected["all/b.txt"].uid, 1000);
    for program in ["gzip", "bzip2", "xz", "zstd"] {
        let packed = Command::new(program).arg("-c").arg(&plain).output();
        let has = packed.as_ref().is_ok_and(|output| output.status.success());
        if !able(has, program) {
            continue;
        }
        let packed = packed.unwrap().stdout;
        assert_eq!(listed(&project, "-", &[], &packed), expected, "{program}");
        fs::write(project.path("packed"), &packed).unwrap();
        assert_eq!(listed(&project, "packed", &[], b""), expected, "{program}");
    }
    let text = b"FROM scratch\nCOPY b.txt /only\n";
    assert_eq!(
        names(&listed(&project, "context.bin", &["-f", "-"], text)),
        ["only"]
    );
    let outside = project.path("Outside");
    fs::write(&outside, "FROM scratch\nCOPY link /l\n").unwrap();
    let found = listed(
        &project,
        "context.bin",
        &["-f", outside.to_str().unwrap()],
        b"",
    );
    assert_eq!(names(&found), ["l"]);
}

/// A second build of an equal tar is cached; another owner in it is not.
#[test]
fn i07_tar_contexts_are_cached_by_content() {
    let project = Project::new("");
    let step = "COPY b.txt";
    let tar = |owner, mtime| {
        archive(&[
            Entry::file("Dockerfile", "FROM scratch\nCOPY b.txt /\n"),
            Entry::file("b.txt", "b").owner(owner, 0).mtime(mtime),
        ])
        .unwrap()
    };
    let run = |tar: &[u8]| try_build(&project, "-", &[], tar).0.ok();
    assert_eq!(run(&tar(0, 1)).step(step), "DONE");
    assert_eq!(run(&tar(0, 2)).step(step), "CACHED");
    assert_eq!(run(&tar(7, 2)).step(step), "DONE");
}

#[test]
fn i07_what_cannot_be_a_context() {
    let project = Project::new("FROM scratch\n");
    fs::write(project.path("text"), "no tar\n").unwrap();
    let fails = |context: &str, args: &[&str], stdin: &[u8], status, says: &str| {
        try_build(&project, context, args, stdin)
            .0
            .fails(status, &[says]);
    };
    let dockerfile = b"FROM scratch\n";
    fails(
        "-",
        &["-f", "-"],
        dockerfile,
        2,
        "can't use stdin for both build context and dockerfile",
    );
    fails(
        "-",
        &["-f", "x"],
        dockerfile,
        2,
        "ambiguous Dockerfile source: both stdin and flag correspond to Dockerfiles",
    );
    fails("-", &[], b"", 1, "the Dockerfile cannot be empty");
    fails(
        "nowhere",
        &[],
        b"",
        1,
        "unable to prepare context: path \"nowhere\" not found",
    );
    fails(
        "text",
        &[],
        b"",
        1,
        "text is neither a folder nor a tar archive",
    );
    let tar = archive(&sample()).unwrap();
    fails(
        "-",
        &["-f", "no/Dockerfile"],
        &tar,
        1,
        "failed to read dockerfile: open no/Dockerfile: no such file or directory",
    );
    fails(
        "-",
        &["-f", "sub"],
        &tar,
        1,
        "failed to read dockerfile: open sub: is a directory",
    );
    let cut = &tar[..tar.len() - 4000];
    fails("-", &[], cut, 1, "the tar is cut off");
    let mut damaged = b"\x1f\x8b\x08".to_vec();
    damaged.extend([7; 600]);
    fails("-", &[], &damaged, 1, "standard input is not a tar archive");
    let none = archive(&[Entry::file("f", "x")]).unwrap();
    fails(
        "-",
        &[],
        &none,
        1,
        "failed to read dockerfile: open Dockerfile: no such file or directory",
    );
    let bad = archive(&[Entry::file("Dockerfile", b"FROM scratch\nCOPY \xff /\n")]).unwrap();
    fails(
        "-",
        &[],
        &bad,
        1,
        "Dockerfile:2: the Dockerfile is not valid UTF-8",
    );
}

/// A tar with a file whose size no disk has, and nothing behind it.
fn endless() -> Vec<u8> {
    let mut huge = archive(&[Entry::file("huge", "x")]).unwrap();
    huge.truncate(512);
    huge[124..136].copy_from_slice(b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff");
    let sum: u32 = huge
        .iter()
        .enumerate()
        .map(|(at, byte)| {
            if (148..156).contains(&at) {
                32
            } else {
                u32::from(*byte)
            }
        })
        .sum();
    huge[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    huge
}

/// Archives that cannot be unpacked, and what is said of each.
fn broken_tars(target: &str) -> Vec<(Vec<Entry>, &'static str)> {
    vec![
        (
            vec![Entry::hardlink("hard", format!("{target}/victim"))],
            "which is not there",
        ),
        (
            vec![
                Entry::symlink("a", "b"),
                Entry::symlink("b", "a"),
                Entry::file("a/x", "x"),
            ],
            "too many links",
        ),
        (
            vec![Entry::file("file", "x"), Entry::file("file/below", "x")],
            "not a directory",
        ),
    ]
}

/// Hostile archives are contained: nothing appears outside, nothing hangs, and what can be built is built.
#[test]
fn i07_hostile_tars() {
    let project = Project::new("");
    let outside = project.path("outside");
    fs::create_dir(&outside).unwrap();
    let target = outside.to_str().unwrap().to_owned();
    let up = "../".repeat(40);
    let dockerfile = Entry::file("Dockerfile", "FROM scratch\nCOPY . /\n");
    let good: Vec<(Vec<Entry>, &str)> = vec![
        (vec![Entry::file(format!("{up}{target}/dots"), "x")], "dots"),
        (
            vec![Entry::file(format!("{target}/absolute"), "x")],
            "absolute",
        ),
        (
            vec![
                Entry::symlink("link", &target),
                Entry::file("link/through", "x"),
            ],
            "through",
        ),
        (
            vec![
                Entry::symlink("link", format!("{up}{target}")),
                Entry::file("link/made", "x"),
            ],
            "made",
        ),
        (
            vec![
                Entry::file("twice", "1"),
                Entry::dir("twice"),
                Entry::file("twice/in", "2"),
            ],
            "twice/in",
        ),
        (
            vec![Entry::fifo("fifo"), Entry::char_device("null", 1, 3)],
            "null",
        ),
    ];
    for (mut entries, name) in good {
        entries.push(dockerfile.clone());
        let found = listed(&project, "-", &[], &archive(&entries).unwrap());
        assert!(
            found.keys().any(|path| path.ends_with(name)),
            "{name}: {found:?}"
        );
    }
    for (mut entries, says) in broken_tars(&target) {
        entries.push(dockerfile.clone());
        try_build(&project, "-", &[], &archive(&entries).unwrap())
            .0
            .fails(1, &[says]);
    }
    try_build(&project, "-", &[], &endless())
        .0
        .fails(1, &["cut off"]);
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    assert_eq!(unfinished(&project), 0);
    listed(&project, "-", &[], &archive(&sample()).unwrap());
}

/// What is in the store's folder for unfinished work.
fn unfinished(project: &Project) -> usize {
    fs::read_dir(project.store().join("scratch")).map_or(0, Iterator::count)
}

/// A tar that never ends: signals end the build, and the folder it was unpacked into goes at once or with the next build.
#[test]
fn i07_signals_while_a_tar_comes() {
    let project = Project::new("");
    let tar = archive(&sample()).unwrap();
    for (signal, status) in [
        (rustix::process::Signal::INT, 130),
        (rustix::process::Signal::KILL, 137),
    ] {
        let mut command = project.command(&["build", "--progress", "plain", "-"]);
        let (reader, mut writer) = std::io::pipe().unwrap();
        std::io::Write::write_all(&mut writer, &tar[..2048]).unwrap();
        command.current_dir(project.path(""));
        let mut build: Started = project.start_with(command, Stdio::from(reader));
        build.wait_for("load remote build context");
        build.signal(signal);
        assert_eq!(build.finish().status, status);
        drop(writer);
    }
    listed(&project, "-", &[], &tar);
    assert_eq!(unfinished(&project), 0);
}

/// FEATURES I08, CLI:file: which names count, in which order, and where a symbolic link may lead.
#[test]
fn i08_names_of_the_dockerfile() {
    let project = Project::new("");
    fs::remove_file(project.path("context/Dockerfile")).unwrap();
    let text = |name: &str| format!("FROM scratch\nCOPY f /{name}\n");
    project.write("f", "x");
    let found = |args: &[&str]| {
        let found = listed(&project, "context", args, b"");
        names(&found).join(" ")
    };
    let (run, _) = try_build(&project, "context", &[], b"");
    run.fails(
        1,
        &[
            "failed to read dockerfile: open context/Dockerfile: no such file or directory",
            "--file",
        ],
    );
    for name in ["Containerfile", "dockerfile", "Dockerfile"] {
        project.write(name, text(name));
        assert_eq!(found(&[]), name);
    }
    // Named ones only stand for themselves.
    assert_eq!(found(&["-f", "context/Containerfile"]), "Containerfile");
    fs::remove_file(project.path("context/Dockerfile")).unwrap();
    assert_eq!(found(&["-f", "context/Dockerfile"]), "dockerfile");
    fs::write(project.path("Outside"), text("outside")).unwrap();
    assert_eq!(found(&["-f", "Outside"]), "outside");

    project.write("docker/Real", text("real"));
    let link = project.path("context/Dockerfile");
    for (target, ok) in [
        ("docker/Real", true),
        ("/docker/Real", true),
        ("../Outside", false),
        (project.path("Outside").to_str().unwrap(), false),
    ] {
        symlink(target, &link).unwrap();
        // `dockerfile` would stand in for one that is missing.
        let _ = fs::remove_file(project.path("context/dockerfile"));
        let _ = fs::remove_file(project.path("context/Containerfile"));
        if ok {
            assert_eq!(found(&[]), "real", "{target}");
        } else {
            let (run, _) = try_build(&project, "context", &[], b"");
            run.fails(
                1,
                &[
                    "failed to read dockerfile: open",
                    "no such file or directory",
                ],
            );
        }
        fs::remove_file(&link).unwrap();
    }
    for (name, says) in [
        (
            "context",
            "failed to read dockerfile: open ./context: is a directory",
        ),
        (
            "no/where",
            "failed to read dockerfile: open no/where: no such file or directory",
        ),
    ] {
        try_build(&project, "context", &["-f", name], b"")
            .0
            .fails(1, &[says]);
    }
}

/// FEATURES I01: the Dockerfile's own ignore file goes first, wherever the Dockerfile is; Docker's names go before Buildah's.
#[test]
fn i01_ignore_files() {
    let project = Project::new("FROM scratch\nCOPY . /\n");
    for name in ["a", "b", "c", "d", "e"] {
        project.write(name, "x");
    }
    let outside = project.path("Outside");
    fs::write(&outside, "FROM scratch\nCOPY . /\n").unwrap();
    let hidden = |args: &[&str], stdin: &[u8]| -> String {
        let found = listed(&project, "context", args, stdin);
        let gone = ["a", "b", "c", "d", "e"]
            .into_iter()
            .filter(|name| !found.contains_key(*name));
        gone.collect()
    };
    assert_eq!(hidden(&[], b""), "");
    project.write(".containerignore", "a\n");
    assert_eq!(hidden(&[], b""), "a");
    project.write(".dockerignore", "b\n");
    assert_eq!(hidden(&[], b""), "b");
    project.write("Dockerfile.containerignore", "c\n");
    assert_eq!(hidden(&[], b""), "c");
    project.write("Dockerfile.dockerignore", "d\n");
    assert_eq!(hidden(&[], b""), "d");
    assert_eq!(hidden(&["-f", "-"], b"FROM scratch\nCOPY . /\n"), "b");
    assert_eq!(hidden(&["-f", "Outside"], b""), "b");
    fs::write(project.path("Outside.dockerignore"), "e\n").unwrap();
    assert_eq!(hidden(&["-f", "Outside"], b""), "e");
    fs::write(project.path("Outside.dockerignore"), "").unwrap();
    assert_eq!(hidden(&["-f", "Outside"], b""), "");
}

/// FEATURES I05: the Dockerfile and the ignore file can be hidden from COPY, and are read all the same.
#[test]
fn i05_the_dockerfile_itself_is_ignored() {
    let project = Project::new("FROM scratch\nCOPY . /\n");
    project.write("f", "x");
    project.write(".dockerignore", "Dockerfile\n.dockerignore\n");
    let found = listed(&project, "context", &[], b"");
    assert_eq!(names(&found), ["f"]);
    project.write(".dockerignore", "*\n!f\n");
    assert_eq!(names(&listed(&project, "context", &[], b"")), ["f"]);
    // FEATURES I02: a lone `!` is a mistake, told with its line.
    project.write(".dockerignore", "a\n!\n");
    let (run, _) = try_build(&project, "context", &[], b"");
    run.fails(1, &["line 2", "illegal exclusion pattern"]);
}

/// FEATURES FR12, CLI:build-context: folders as named contexts, for FROM, COPY --from and mounts, with ignore files of their own.
#[test]
fn fr12_folders() {
    let project = Project::new(
        "FROM base AS b\nFROM scratch\nCOPY --from=b / /b/\nCOPY --from=docker.io/library/other:latest / /o/\nCOPY main /m\n",
    );
    project.write("main", "x");
    let dir = project.path("named");
    fs::create_dir(&dir).unwrap();
    for (name, content) in [("n", "x"), ("h", "x"), (".dockerignore", "h\n")] {
        fs::write(dir.join(name), content).unwrap();
    }
    let args = [
        "--build-context",
        "base=named",
        "--build-context",
        "other=named",
    ];
    let found = listed(&project, "context", &args, b"");
    let expected = [
        "b",
        "b/.dockerignore",
        "b/n",
        "m",
        "o",
        "o/.dockerignore",
        "o/n",
    ];
    assert_eq!(names(&found), expected);
    // These two replace nothing.
    let more = [
        "--build-context",
        "context=named",
        "--build-context",
        "scratch=named",
    ];
    let found = listed(&project, "context", &[&args[..], &more].concat(), b"");
    assert_eq!(names(&found), expected);
}

#[test]
fn fr12_a_named_context_replaces_images_and_stages() {
    let project = Project::new("FROM busybox:1.0 AS one\nRUN false\nFROM one\nCOPY x /x\n");
    project.write("x", "x");
    let layout = testkit::busybox_layout();
    let value = |name: &str, text: &str| format!("{name}={text}");
    let image = format!("oci-layout://{}", layout.display());
    let by_stage = listed(
        &project,
        "context",
        &["--build-context", &value("one", &image)],
        b"",
    );
    assert!(by_stage.contains_key("bin/busybox") && by_stage.contains_key("x"));
    // A tag is part of the name; a platform chooses.
    project.write("Dockerfile", "FROM busybox:1.0\nCOPY x /x\n");
    for (name, found) in [
        ("busybox:1.0", true),
        ("docker.io/library/busybox:1.0", true),
        ("busybox:1.0::linux/amd64", cfg!(target_arch = "x86_64")),
        ("busybox:1.0::linux/s390x", false),
        ("busybox", false),
    ] {
        let args = [
            "--build-context",
            &value(name, &image),
            "--build-context",
            "busybox:2=context",
        ];
        let (run, _) = try_build(&project, "context", &args, b"");
        assert_eq!(run.status == 0, found, "{name}: {}", run.stderr);
    }
    // Nothing at all.
    project.write("Dockerfile", "FROM empty\nCOPY x /x\n");
    let found = listed(
        &project,
        "context",
        &["--build-context", "empty=docker-image://scratch"],
        b"",
    );
    assert_eq!(names(&found), ["x"]);
}

#[test]
fn fr12_a_stage_as_a_named_context() {
    let project = Project::new(
        "FROM scratch AS made\nCOPY x /from-made\n\
         FROM busybox AS other\nRUN false\n\
         FROM other AS user\nFROM scratch\nCOPY --from=user / /u/\nCOPY --from=image / /i/\n",
    );
    project.write("x", "x");
    let args = [
        "--build-context",
        "other=target:made",
        "--build-context",
        "image=target:MADE",
    ];
    let found = listed(&project, "context", &args, b"");
    assert_eq!(names(&found), ["i", "i/from-made", "u", "u/from-made"]);
    for (target, says) in [
        (
            "mad",
            &[
                "failed to find target mad for context other",
                "did you mean made?",
            ][..],
        ),
        (
            "user",
            &[
                "failed to find target user for context other",
                "must stand before",
            ],
        ),
    ] {
        let context = format!("other=target:{target}");
        try_build(&project, "context", &["--build-context", &context], b"")
            .0
            .fails(1, says);
    }
}

#[test]
fn fr12_what_cannot_be_a_named_context() {
    let project = Project::new("FROM scratch\nCOPY . /\n");
    for (value, status, says) in [
        ("base", 2, "invalid context value: base, expected key=value"),
        (
            "BASE=context",
            2,
            "invalid context name BASE: invalid reference format",
        ),
        (
            "base=nowhere",
            1,
            "failed to get build context base: stat nowhere: no such file or directory",
        ),
        ("base=context/Dockerfile", 1, "not a directory"),
        (
            "base=foo://bar",
            2,
            "unsupported context source foo for base",
        ),
        (
            "base=oci-layout://nowhere",
            1,
            "oci-layout reference \"oci-layout://nowhere\" could not be resolved",
        ),
    ] {
        try_build(&project, "context", &["--build-context", value], b"")
            .0
            .fails(status, &[says]);
    }
    assert!(!project.store().join("scratch").exists() || unfinished(&project) == 0);
}

/// FEATURES I09: a name that was a folder becomes a file, and back.
#[test]
fn i09_a_folder_becomes_a_file() {
    let project = Project::new("FROM scratch\nCOPY foo /\n");
    let path = project.path("context/foo");
    let make = |folder: bool| {
        if folder {
            let _ = fs::remove_file(&path);
            project.write("foo/bar", "x");
        } else {
            let _ = fs::remove_dir_all(&path);
            project.write("foo", "y");
        }
        names(&listed(&project, "context", &[], b"")).join(" ")
    };
    assert_eq!(make(true), "bar");
    assert_eq!(make(false), "foo");
    assert_eq!(make(true), "bar");
    unpack(
        &project.path("out.tar"),
        Path::new(&project.path("unpacked")),
    );
}
