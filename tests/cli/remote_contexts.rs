//! Contexts and Dockerfiles behind URLs and in Git repositories, served on loopback.

use crate::support::{Project, Run, able};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use testkit::{Answer, Entry, TarEntry, WebServer, archive};

fn try_build(project: &Project, args: &[&str], stdin: &str) -> Run {
    let dest = project.path("out.tar");
    let _ = fs::remove_file(&dest);
    let mut command = project.command(&["build", "--progress", "plain"]);
    command
        .arg("-o")
        .arg(format!("type=tar,dest={}", dest.display()));
    command.args(args);
    project.run_with(command, stdin)
}

#[track_caller]
fn listed(project: &Project, args: &[&str], stdin: &str) -> BTreeMap<String, TarEntry> {
    try_build(project, args, stdin).ok();
    let entries = testkit::tar_entries(&project.path("out.tar")).unwrap();
    entries
        .into_iter()
        .filter(|entry| entry.path != ".")
        .map(|entry| (entry.path.clone(), entry))
        .collect()
}

fn names(listed: &BTreeMap<String, TarEntry>) -> Vec<&str> {
    listed.keys().map(String::as_str).collect()
}

fn unfinished(project: &Project) -> usize {
    fs::read_dir(project.store().join("scratch")).map_or(0, Iterator::count)
}

/// FEATURES I07: a Dockerfile behind a URL is its own context, whatever `--file` says.
#[test]
fn i07_http_dockerfile() {
    let project = Project::new("");
    let server = WebServer::start(None);
    let text = "FROM scratch\nCOPY context /df\n";
    server.answer(
        "/some/df",
        Answer::new(text).header("Last-Modified", "Tue, 14 Nov 2023 22:23:21 GMT"),
    );
    let url = server.url("/some/df");
    for args in [&[url.as_str()][..], &["-f", "other", &url]] {
        let found = listed(&project, args, "");
        assert_eq!(names(&found), ["df"]);
        assert_eq!((found["df"].mode, found["df"].uid), (0o600, 0));
        assert_eq!(found["df"].mtime, 1_700_000_601);
    }
    // The Dockerfile from elsewhere: standard input, the host, another URL.
    let other = "FROM scratch\nCOPY context /other\n";
    assert_eq!(
        names(&listed(&project, &["-f", "-", &url], other)),
        ["other"]
    );
    let file = project.path("Host");
    fs::write(&file, "FROM scratch\nCOPY context /host\n").unwrap();
    let args = ["-f", file.to_str().unwrap(), &url];
    assert_eq!(names(&listed(&project, &args, "")), ["host"]);
    server.answer(
        "/second",
        Answer::new("FROM scratch\nCOPY context /second\n"),
    );
    let args = ["-f", &server.url("/second"), &url];
    assert_eq!(names(&listed(&project, &args, "")), ["second"]);
    project.write("f", "x");
    server.answer("/third", Answer::new("FROM scratch\nCOPY f /third\n"));
    let args = ["-f", &server.url("/third"), "context"];
    assert_eq!(names(&listed(&project, &args, "")), ["third"]);
    let missing = server.url("/missing");
    try_build(&project, &[&missing], "").fails(1, &["404", "/missing"]);
    try_build(&project, &["-f", &missing, "context"], "").fails(1, &["404", "/missing"]);
    assert_eq!(unfinished(&project), 0);
}

/// FEATURES I07, I06: an archive behind a URL keeps its owners, and its ignore file is not applied.
#[test]
fn i07_http_tarball() {
    let project = Project::new("");
    let server = WebServer::start(None);
    let tar = archive(&[
        Entry::file("Dockerfile", "FROM scratch\nCOPY . /\n"),
        Entry::file("sub/Other", "FROM scratch\nCOPY a /o\n"),
        Entry::file(".dockerignore", "a\n"),
        Entry::file("a", "a").owner(7, 8),
    ])
    .unwrap();
    server.answer("/src", Answer::new(tar).header("ETag", "\"1\""));
    let url = server.url("/src");
    let found = listed(&project, &[&url], "");
    assert_eq!(
        names(&found),
        [".dockerignore", "Dockerfile", "a", "sub", "sub/Other"]
    );
    assert_eq!((found["a"].uid, found["a"].gid), (7, 8));
    assert_eq!(
        names(&listed(&project, &["-f", "sub/Other", &url], "")),
        ["o"]
    );
    let run = try_build(&project, &[&url], "").ok();
    assert_eq!(run.step("COPY . /"), "CACHED");
    assert!(run.stderr.contains("load remote build context"));
}

/// FEATURES FR12: a named context behind a URL is one file, as it is.
#[test]
fn fr12_http() {
    let project = Project::new("FROM scratch\nCOPY --from=src / /s/\n");
    let server = WebServer::start(None);
    let tar = archive(&[Entry::file("a", "a")]).unwrap();
    server.answer("/x/src.tar", Answer::new(tar));
    let context = format!("src={}", server.url("/x/src.tar"));
    let found = listed(&project, &["--build-context", &context, "context"], "");
    assert_eq!(names(&found), ["s", "s/src.tar"]);
    assert_eq!(found["s/src.tar"].mode, 0o600);
    // One that nothing uses is not asked for.
    let asked = server.asked().len();
    let unused = format!("unused={}", server.url("/nowhere"));
    listed(
        &project,
        &[
            "--build-context",
            &context,
            "--build-context",
            &unused,
            "context",
        ],
        "",
    );
    assert!(!server.asked()[asked..].contains(&"/nowhere".to_owned()));
    let missing = format!("src={}", server.url("/missing"));
    try_build(&project, &["--build-context", &missing, "context"], "")
        .fails(1, &["404", "Dockerfile:2", "COPY --from=src"]);
}

/// A bare repository with two commits, the second on a branch of its own, under `git/x.git`.
fn repository(project: &Project) -> bool {
    let works = Command::new("git")
        .args(["http-backend", "--help"])
        .output()
        .is_ok_and(|_| Path::new("/proc/self").exists());
    if !able(works, "git") {
        return false;
    }
    let tree = project.path("tree");
    fs::create_dir_all(tree.join("sub")).unwrap();
    fs::create_dir_all(project.path("git")).unwrap();
    let write = |path: &str, text: &str| fs::write(tree.join(path), text).unwrap();
    write("Dockerfile", "FROM scratch\nCOPY . /\n");
    write(".dockerignore", "a\n");
    write("a", "main");
    write("sub/Dockerfile", "FROM scratch\nCOPY in /\n");
    write("sub/in", "x");
    write("sub/Other", "FROM scratch\nCOPY sub/in /other\n");
    let git = |args: &[&str]| {
        let mut command = Command::new("git");
        command.args(["-c", "user.name=t", "-c", "user.email=t@example.com"]);
        command.arg("-C").arg(&tree).args(args);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{args:?} {output:?}");
    };
    git(&["init", "-q", "-b", "main"]);
    git(&["add", "-A"]);
    git(&["commit", "-q", "-m", "first"]);
    git(&["tag", "v1"]);
    git(&["checkout", "-q", "-b", "dev"]);
    write("a", "dev");
    git(&["commit", "-q", "-a", "-m", "second"]);
    git(&["checkout", "-q", "main"]);
    let bare = project.path("git/x.git");
    git(&["clone", "-q", "--bare", ".", bare.to_str().unwrap()]);
    true
}

/// FEATURES I07: Git repositories with ref and folder, their ignore files not applied, `.git` only where it is asked for.
#[test]
fn i07_git() {
    let project = Project::new("");
    if !repository(&project) {
        return;
    }
    let server = WebServer::start(Some(&project.path("git")));
    let url = server.url("/git/x.git");
    let found = listed(&project, &[&url], "");
    assert_eq!(
        names(&found),
        [
            ".dockerignore",
            "Dockerfile",
            "a",
            "sub",
            "sub/Dockerfile",
            "sub/Other",
            "sub/in"
        ]
    );
    assert_eq!(
        (found["a"].mode, found["a"].uid, found["a"].size),
        (0o644, 0, 4)
    );
    for (suffix, size) in [("#dev", 3), ("#v1", 4), ("?branch=dev", 3), ("?tag=v1", 4)] {
        let found = listed(&project, &[&format!("{url}{suffix}")], "");
        assert_eq!(found["a"].size, size, "{suffix}");
    }
    for suffix in ["#:sub", "#dev:sub", "?subdir=sub"] {
        let found = listed(&project, &[&format!("{url}{suffix}")], "");
        assert_eq!(names(&found), ["in"], "{suffix}");
    }
    let found = listed(
        &project,
        &["-f", "sub/Other", &format!("{url}#main")],
        "FROM x",
    );
    assert_eq!(names(&found), ["other"]);
    let text = "FROM scratch\nCOPY a /stdin\n";
    assert_eq!(
        names(&listed(&project, &["-f", "-", &url], text)),
        ["stdin"]
    );
    let keep = ["--build-arg", "BUILDKIT_CONTEXT_KEEP_GIT_DIR=1", &url];
    assert!(listed(&project, &keep, "").contains_key(".git/HEAD"));
    let keep = format!("{url}?keep-git-dir=1");
    assert!(listed(&project, &[&keep], "").contains_key(".git/HEAD"));
    for (suffix, says) in [
        ("#nope", "nope"),
        ("#:nope", "nope"),
        ("?bogus=1", "unexpected query"),
        ("#main:sub/in", "sub/in"),
    ] {
        let run = try_build(&project, &[&format!("{url}{suffix}")], "");
        assert!([1, 2].contains(&run.status), "{suffix}: {}", run.stderr);
        assert!(run.stderr.contains(says), "{suffix}: {}", run.stderr);
    }
    try_build(&project, &[&server.url("/git/no.git")], "").fails(1, &["no.git"]);
    assert_eq!(unfinished(&project), 0);
}

/// FEATURES FR12: a Git repository as a named context.
#[test]
fn fr12_git() {
    let project =
        Project::new("FROM src AS s\nFROM scratch\nCOPY --from=s /in /\nCOPY --from=src . /all/\n");
    if !repository(&project) {
        return;
    }
    let server = WebServer::start(Some(&project.path("git")));
    let context = format!("src={}", server.url("/git/x.git#dev:sub"));
    let args = ["--build-context", &context, "context"];
    let found = listed(&project, &args, "");
    assert_eq!(
        names(&found),
        ["all", "all/Dockerfile", "all/Other", "all/in", "in"]
    );
    let missing = format!("src={}", server.url("/git/no.git"));
    try_build(&project, &["--build-context", &missing, "context"], "")
        .fails(1, &["no.git", "Dockerfile:1"]);
    assert_eq!(unfinished(&project), 0);
}
