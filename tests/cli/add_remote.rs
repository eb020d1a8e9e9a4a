//! ADD of files behind URLs and of Git repositories, against servers on loopback.

use super::support::{Project, able, files_below};
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use testkit::Scratch;
use testkit::http::{Answer, Request, Web, git_backend};

const DATE: &str = "Wed, 25 Jan 2017 00:00:00 GMT";
const DATE_SECONDS: i64 = 1_485_302_400;

/// Builds into a folder, which it returns.
#[track_caller]
fn files(project: &Project, name: &str, args: &[&str]) -> PathBuf {
    let out = project.path(name);
    let output = format!("type=local,dest={}", out.display());
    let mut args = args.to_vec();
    args.extend(["-o", &output]);
    project.build(&args).ok();
    out
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

/// Runs `git` in a folder.
#[track_caller]
fn git(folder: &Path, args: &[&str]) -> String {
    let output = Command::new("git")
        .current_dir(folder)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_COUNT", "4")
        .env("GIT_CONFIG_KEY_0", "user.name")
        .env("GIT_CONFIG_VALUE_0", "t")
        .env("GIT_CONFIG_KEY_1", "user.email")
        .env("GIT_CONFIG_VALUE_1", "t@example.com")
        .env("GIT_CONFIG_KEY_2", "protocol.file.allow")
        .env("GIT_CONFIG_VALUE_2", "always")
        .env("GIT_CONFIG_KEY_3", "init.defaultBranch")
        .env("GIT_CONFIG_VALUE_3", "master")
        .env("GIT_COMMITTER_DATE", "@1000000000 +0000")
        .env("GIT_AUTHOR_DATE", "@1000000000 +0000")
        .args(args)
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "git {args:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn has_git() -> bool {
    let found = Command::new("git").arg("version").output();
    able(found.is_ok_and(|output| output.status.success()), "git")
}

/// A repository `x.git` with two tags, two branches and a folder.
struct Repository {
    scratch: Scratch,
    first: String,
    second: String,
}

impl Repository {
    fn new() -> Self {
        let scratch = Scratch::new();
        let dir = scratch.join("x.git");
        fs::create_dir_all(dir.join("sub")).unwrap();
        git(&dir, &["init", "-q"]);
        fs::write(dir.join("foo"), "one\n").unwrap();
        fs::write(dir.join("run.sh"), "#!/bin/sh\n").unwrap();
        fs::set_permissions(dir.join("run.sh"), fs::Permissions::from_mode(0o775)).unwrap();
        std::os::unix::fs::symlink("foo", dir.join("link")).unwrap();
        fs::write(dir.join("sub/bar"), "bar\n").unwrap();
        git(&dir, &["add", "."]);
        git(&dir, &["commit", "-q", "-m", "one"]);
        git(&dir, &["tag", "v1"]);
        git(&dir, &["tag", "-a", "-m", "annotated", "a1"]);
        let first = git(&dir, &["rev-parse", "HEAD"]);
        git(&dir, &["branch", "old"]);
        fs::write(dir.join("foo"), "two\n").unwrap();
        git(&dir, &["commit", "-q", "-a", "-m", "two"]);
        let second = git(&dir, &["rev-parse", "HEAD"]);
        Self {
            scratch,
            first,
            second,
        }
    }

    fn dir(&self) -> PathBuf {
        self.scratch.join("x.git")
    }

    /// Served as the command behind Git's own server does.
    fn serve(&self) -> Web {
        Web::git(self.scratch.path())
    }
}

fn add(flags: &str, source: &str) -> Project {
    Project::new(&format!("FROM scratch\nADD {flags} {source} /r/\n"))
}

#[test]
fn ac22_a_file_behind_a_url() {
    let archive = tar();
    let web = Web::start(move |request| match request.path.as_str() {
        "/dir/file.txt" => Answer::ok("hello\n").with("Last-Modified", DATE),
        "/moved" => Answer::status(302).with("Location", "/dir/file.txt"),
        "/" => Answer::ok("named").with("Content-Disposition", "attachment; filename=\"n.txt\""),
        "/no-length" => Answer {
            no_length: true,
            ..Answer::ok("x".repeat(100_000))
        },
        "/tar.tar" => Answer::ok(archive.clone()),
        _ => Answer::status(404),
    });
    let project = Project::new(&format!(
        "FROM scratch\nARG at={}\nWORKDIR /w\nADD $at/dir/file.txt /a/\nADD $at/dir/file.txt b\nADD --chmod=755 --chown=3:4 \
         $at/moved l* /c/\nADD $at/ /d/\nADD $at/no-length /e\nADD $at/tar.tar /f/\nADD --unpack=true $at/tar.tar /g/\n\
         ADD --link $at/dir/file.txt /h/i/\nADD --exclude=l2 $at/moved l1 l2 /j/\n",
        web.url("")
    ));
    project.write("l1", "local");
    project.write("l2", "local");
    let out = files(&project, "out", &[]);
    let a = out.join("a/file.txt");
    assert_eq!((text(&a).as_str(), mode(&a)), ("hello\n", 0o600));
    assert_eq!(fs::metadata(&a).unwrap().mtime(), DATE_SECONDS);
    assert_eq!(text(&out.join("w/b")), "hello\n");
    assert_eq!(
        (
            text(&out.join("c/moved")).as_str(),
            mode(&out.join("c/moved"))
        ),
        ("hello\n", 0o755)
    );
    assert_eq!(text(&out.join("c/l1")), "local");
    assert_eq!(text(&out.join("d/n.txt")), "named");
    assert_eq!(fs::metadata(out.join("e")).unwrap().len(), 100_000);
    assert!(out.join("f/tar.tar").is_file());
    assert_eq!(text(&out.join("g/inside")), "content");
    assert_eq!(text(&out.join("h/i/file.txt")), "hello\n");
    assert!(out.join("j/l1").exists());
    // Warm: each URL is asked about once, and nothing runs.
    let before = web.requests().len();
    let run = project.build(&[]).ok();
    assert!(
        run.steps()
            .iter()
            .all(|(name, end)| !name.contains("ADD") || end == "CACHED"),
        "{}",
        run.stderr
    );
    assert_eq!(
        web.requests().len() - before,
        6,
        "five URLs, one of them redirected"
    );
}

/// A tar with one file.
fn tar() -> Vec<u8> {
    let scratch = Scratch::new();
    scratch.write("inside", "content").unwrap();
    let output = Command::new("tar")
        .current_dir(scratch.path())
        .args(["-cf", "-", "inside"])
        .output()
        .unwrap();
    output.stdout
}

#[test]
fn ca07_what_did_not_change_is_not_downloaded_again() {
    let version = std::sync::Arc::new(AtomicUsize::new(1));
    let now = std::sync::Arc::clone(&version);
    let web = Web::start(move |request| {
        let etag = format!("\"v{}\"", now.load(Ordering::SeqCst));
        let same = request.header("if-none-match") == Some(etag.as_str());
        match request.path.as_str() {
            // One that honours conditions and one that only repeats its tag.
            "/good" if same => Answer::status(304).with("ETag", etag),
            "/good" | "/bad" => Answer::ok(format!("content {etag}")).with("ETag", etag),
            "/dated" if request.header("if-modified-since") == Some(DATE) => Answer::status(304),
            "/dated" => Answer::ok("dated").with("Last-Modified", DATE),
            _ => Answer::status(404),
        }
    });
    let project = Project::new(&format!(
        "FROM scratch\nADD {0}/good {0}/bad {0}/dated /\n",
        web.url("")
    ));
    project.build(&[]).ok();
    let run = project.build(&[]).ok();
    assert_eq!(run.step("ADD"), "CACHED");
    version.store(2, Ordering::SeqCst);
    let out = files(&project, "out", &[]);
    assert_eq!(text(&out.join("good")), "content \"v2\"");
    assert_eq!(text(&out.join("bad")), "content \"v2\"");
    assert_eq!(text(&out.join("dated")), "dated");
}

#[test]
fn ac26_checksums_of_files() {
    let web = Web::start(|_| Answer::ok("hello\n"));
    let right = testkit::digest_of(b"hello\n");
    let wrong = testkit::digest_of(b"other");
    let build = |sum: &str| add(&format!("--checksum={sum}"), &web.url("/f"));
    let project = build(&right);
    project.build(&[]).ok();
    assert_eq!(web.requests().len(), 1);
    project.build(&[]).ok();
    project.build(&["--no-cache"]).ok();
    assert_eq!(web.requests().len(), 1, "the digest says that it is there");
    let expected = format!(
        "digest mismatch for {}: {right} (expected: {wrong})",
        web.url("/f")
    );
    build(&wrong)
        .build(&[])
        .fails(1, &[&expected, "Dockerfile:2"]);
}

#[test]
fn ac22_servers_that_fail() {
    let tries = AtomicUsize::new(0);
    let web = Web::start(move |request| match request.path.as_str() {
        "/flaky" => match tries.fetch_add(1, Ordering::SeqCst) {
            0 => Answer::status(503),
            1 => Answer {
                cut: Some(3),
                ..Answer::ok("complete")
            },
            2 => Answer::status(0),
            _ => Answer::ok("complete"),
        },
        "/slow" => Answer {
            delay: Duration::from_millis(300),
            ..Answer::ok("slow")
        },
        "/header" => Answer::ok("").with("X-Long", "x".repeat(1 << 20)),
        "/loop" => Answer::status(302).with("Location", "/loop"),
        "/file" => Answer::status(302).with("Location", "file:///etc/passwd"),
        _ => Answer::status(404),
    });
    let project = Project::new(&format!(
        "FROM scratch\nADD {0}/flaky {0}/slow /\n",
        web.url("")
    ));
    let out = files(&project, "out", &[]);
    assert_eq!(text(&out.join("flaky")), "complete");
    assert_eq!(text(&out.join("slow")), "slow");
    for (path, says) in [
        ("/nothing", "invalid response status 404"),
        ("/header", "could not GET"),
        ("/loop", "too many redirects"),
        ("/file", "neither HTTP nor HTTPS"),
    ] {
        add("", &web.url(path))
            .build(&[])
            .fails(1, &[says, "Dockerfile:2"]);
    }
}

/// Nothing below a folder has this text in it.
#[track_caller]
fn nowhere(dir: &Path, secret: &str) {
    for path in files_below(dir) {
        let bytes = fs::read(&path).unwrap_or_default();
        let found = bytes
            .windows(secret.len())
            .any(|part| part == secret.as_bytes());
        assert!(!found, "{} has the secret in it", path.display());
    }
}

#[test]
fn ac23_credentials_for_urls_stay_with_their_host() {
    let other = Web::start(|_| Answer::ok("moved"));
    let there = other.url("/x");
    let web = Web::start(move |request| {
        let allowed = [
            "Bearer s3cr3t-token",
            "Custom s3cr3t-header",
            "Basic bWU6czNjcjN0LXB3",
        ];
        let given = request.header("authorization").unwrap_or_default();
        match request.path.as_str() {
            _ if !allowed.contains(&given) => Answer::status(401),
            "/away" => Answer::status(302).with("Location", there.clone()),
            _ => Answer::ok(given.split(' ').next().unwrap_or_default()),
        }
    });
    let project = Project::new(&format!(
        "FROM scratch\nADD {0}/away {0}/own /\n",
        web.url("")
    ));
    project
        .build(&[])
        .fails(1, &["invalid response status 401", "HTTP_AUTH_TOKEN_"]);
    project.write("../token", "s3cr3t-token\n");
    let secret = format!(
        "id=HTTP_AUTH_TOKEN_127.0.0.1,src={}",
        project.path("token").display()
    );
    let out = files(&project, "out", &["--secret", &secret]);
    assert_eq!(text(&out.join("own")), "Bearer");
    assert_eq!(text(&out.join("away")), "moved");
    assert!(
        other
            .requests()
            .iter()
            .all(|request| request.header("authorization").is_none())
    );

    let header = add("", &web.url("/own"));
    header.write("../header", "Custom s3cr3t-header");
    let secret = format!(
        "id=HTTP_AUTH_HEADER_127.0.0.1,src={}",
        header.path("header").display()
    );
    let out = files(&header, "out", &["--secret", &secret]);
    assert_eq!(text(&out.join("r/own")), "Custom");

    let inline = add("", &format!("http://me:s3cr3t-pw@{}/own", web.authority()));
    let run = inline.build(&[]).ok();
    assert!(!run.stderr.contains("s3cr3t"), "{}", run.stderr);
    for project in [&project, &header, &inline] {
        nowhere(&project.store(), "s3cr3t");
    }
}

#[test]
fn ac24_repositories_by_branch_tag_and_commit() {
    if !has_git() {
        return;
    }
    let repository = Repository::new();
    let web = repository.serve();
    let url = web.url("/x.git");
    let (first, second) = (&repository.first, &repository.second);
    for (suffix, foo) in [
        (String::new(), "two\n"),
        ("#old".to_owned(), "one\n"),
        ("#v1".to_owned(), "one\n"),
        ("#a1".to_owned(), "one\n"),
        ("#refs/heads/old".to_owned(), "one\n"),
        (format!("#{first}"), "one\n"),
        ("?branch=old".to_owned(), "one\n"),
        ("?tag=a1".to_owned(), "one\n"),
        (format!("?tag=a1&checksum={}", &first[..8]), "one\n"),
        (format!("?commit={first}"), "one\n"),
        (format!("?commit={}", &second[..8]), "two\n"),
        (
            format!("?fetch-by-commit&checksum={first}&ref=old"),
            "one\n",
        ),
    ] {
        let project = add("", &format!("{url}{suffix}"));
        let out = files(&project, "out", &[]).join("r");
        assert_eq!(text(&out.join("foo")), foo, "{suffix}");
        assert_eq!(mode(&out.join("foo")), 0o644, "{suffix}");
        assert_eq!(mode(&out.join("run.sh")), 0o755, "{suffix}");
        assert_eq!(mode(&out.join("sub")), 0o755, "{suffix}");
        assert_eq!(fs::read_link(out.join("link")).unwrap(), Path::new("foo"));
        assert!(!out.join(".git").exists(), "{suffix}");
    }
    let project = add("", &format!("{url}?subdir=sub&mtime=commit"));
    let out = files(&project, "out", &[]).join("r/bar");
    assert_eq!(text(&out), "bar\n");
    assert_eq!(fs::metadata(&out).unwrap().mtime(), 1_000_000_000);
    for (suffix, says) in [
        (
            "#nope".to_owned(),
            "repository does not contain ref nope".to_owned(),
        ),
        (
            "?branch=v1".to_owned(),
            "repository does not contain ref refs/heads/v1".to_owned(),
        ),
        (
            format!("#{}", &first[..8]),
            "repository does not contain ref".to_owned(),
        ),
        (
            format!("?tag=v1&commit={second}"),
            format!("expected checksum to match {second}, got {first}"),
        ),
        (
            "?commit=0123".to_owned(),
            "expected checksum to match 0123".to_owned(),
        ),
        (
            "#master:nope".to_owned(),
            "failed to open subdir nope".to_owned(),
        ),
        (
            "#master:link".to_owned(),
            "failed to open subdir link".to_owned(),
        ),
    ] {
        let run = add("", &format!("{url}{suffix}")).build(&[]);
        run.fails(1, &[&says, "Dockerfile:2"]);
    }
    let missing = web.url("/none.git");
    add("", &missing).build(&[]).fails(
        1,
        &[&format!(
            "error fetching default branch for repository {missing}"
        )],
    );
}

#[test]
fn ac25_the_git_folder_is_kept_when_asked() {
    if !has_git() {
        return;
    }
    let repository = Repository::new();
    let web = repository.serve();
    for (flags, suffix, head) in [
        ("--keep-git-dir=true", "#a1", &repository.first),
        ("", "?keep-git-dir=true", &repository.second),
        (
            "--keep-git-dir=true",
            "?keep-git-dir&branch=old",
            &repository.first,
        ),
    ] {
        let project = add(flags, &web.url(&format!("/x.git{suffix}")));
        let out = files(&project, "out", &[]).join("r");
        assert_eq!(text(&out.join(".git/HEAD")).trim(), head, "{suffix}");
        assert!(!out.join(".git/hooks").exists());
        assert_eq!(
            git(&out, &["-c", "safe.directory=*", "status", "--porcelain"]),
            "",
            "{suffix}"
        );
        assert_eq!(
            git(
                &out,
                &["-c", "safe.directory=*", "remote", "get-url", "origin"]
            ),
            web.url("/x.git")
        );
    }
}

#[test]
fn ca07_commits_that_stay_the_same_are_cached() {
    if !has_git() {
        return;
    }
    let repository = Repository::new();
    let web = repository.serve();
    let project = add("", &web.url("/x.git#master:sub"));
    project.build(&[]).ok();
    let before = web.requests().len();
    assert_eq!(project.build(&[]).ok().step("ADD"), "CACHED");
    let asked = &web.requests()[before..];
    assert!(
        asked
            .iter()
            .all(|request| !request.body.windows(5).any(|part| part == b"fetch")),
        "{asked:?}"
    );
    // A commit elsewhere in the repository: fetched, but the folder is what it was.
    let dir = repository.dir();
    fs::write(dir.join("foo"), "three\n").unwrap();
    git(&dir, &["commit", "-q", "-a", "-m", "three"]);
    assert_eq!(project.build(&[]).ok().step("ADD"), "CACHED");
    fs::write(dir.join("sub/bar"), "changed\n").unwrap();
    git(&dir, &["commit", "-q", "-a", "-m", "four"]);
    let out = files(&project, "out", &[]);
    assert_eq!(text(&out.join("r/bar")), "changed\n");
    // A whole commit id needs no server once it is here.
    let commit = git(&dir, &["rev-parse", "HEAD"]);
    let project_by_commit = Project::new(&format!(
        "FROM scratch\nADD {}#{commit} /r/\n",
        web.url("/x.git")
    ));
    project_by_commit.build(&[]).ok();
    drop(web);
    project_by_commit.build(&[]).ok();
    project_by_commit.build(&["--no-cache"]).ok();
}

#[test]
fn ac24_submodules() {
    if !has_git() {
        return;
    }
    let repository = Repository::new();
    let web = repository.serve();
    let dir = repository.scratch.join("super.git");
    fs::create_dir(&dir).unwrap();
    git(&dir, &["init", "-q"]);
    // Named relative to the repository they are in.
    fs::write(
        dir.join(".gitmodules"),
        "[submodule \"s\"]\n\tpath = s\n\turl = ../x.git\n",
    )
    .unwrap();
    git(&dir, &["add", ".gitmodules"]);
    let entry = format!("160000,{},s", repository.first);
    git(&dir, &["update-index", "--add", "--cacheinfo", &entry]);
    git(&dir, &["commit", "-q", "-m", "with a submodule"]);
    let url = web.url("/super.git");
    let project = add("", &url);
    let out = files(&project, "out", &[]).join("r");
    assert_eq!(text(&out.join("s/foo")), "one\n");
    assert!(
        !out.join("s/.git").exists(),
        "it would name a folder of this machine"
    );
    let project = add("", &format!("{url}?submodules=false"));
    let out = files(&project, "out", &[]).join("r");
    assert!(!out.join("s/foo").exists());
    let project = add("--keep-git-dir=true", &url);
    let out = files(&project, "out", &[]).join("r");
    assert_eq!(text(&out.join("s/foo")), "one\n");
    assert_eq!(
        git(
            &out.join("s"),
            &["-c", "safe.directory=*", "rev-parse", "HEAD"]
        ),
        repository.first
    );
}

#[test]
fn ac24_hostile_repositories() {
    if !has_git() {
        return;
    }
    let repository = Repository::new();
    let web = repository.serve();
    let marker = repository.scratch.join("pwned");
    let make = |name: &str, modules: &str| {
        let dir = repository.scratch.join(name);
        fs::create_dir(&dir).unwrap();
        git(&dir, &["init", "-q"]);
        fs::write(dir.join(".gitmodules"), modules).unwrap();
        fs::write(dir.join("file"), "x").unwrap();
        std::os::unix::fs::symlink("/etc", dir.join("out")).unwrap();
        git(&dir, &["add", "."]);
        git(
            &dir,
            &[
                "update-index",
                "--add",
                "--cacheinfo",
                &format!("160000,{},s", repository.first),
            ],
        );
        git(&dir, &["commit", "-q", "-m", "hostile"]);
    };
    let touch = marker.display();
    let secret = repository.dir();
    for (name, url) in [
        ("ext.git", format!("ext::sh -c touch% {touch}")),
        ("option.git", format!("--upload-pack=touch {touch}")),
        ("dash.git", format!("ssh://-oProxyCommand=touch {touch}/x")),
        ("file.git", format!("file://{}", secret.display())),
        ("path.git", secret.display().to_string()),
    ] {
        make(
            name,
            &format!("[submodule \"s\"]\n\tpath = s\n\turl = {url}\n\tupdate = !touch {touch}\n"),
        );
        let run = add("", &web.url(&format!("/{name}"))).build(&[]);
        assert_ne!(run.status, 0, "{name}: {}", run.stderr);
        assert!(!marker.exists(), "{name}: {}", run.stderr);
        let without = add("", &web.url(&format!("/{name}?submodules=false")));
        let out = files(&without, "out", &[]).join("r");
        assert_eq!(text(&out.join("file")), "x", "{name}");
        assert_eq!(fs::read_link(out.join("out")).unwrap(), Path::new("/etc"));
    }
    // A link is copied as a link and never walked through, also as the folder to take.
    add("", &web.url("/ext.git?submodules=false&subdir=out"))
        .build(&[])
        .fails(1, &["failed to open subdir out"]);
    let climbing = add(
        "",
        &web.url("/ext.git?submodules=false&subdir=../../../etc"),
    );
    climbing.build(&[]).fails(1, &["failed to open subdir etc"]);
    for source in [
        "https://h/x.git#--upload-pack=x",
        "git@-oProxyCommand=x:y.git",
    ] {
        let run = add("", source).build(&[]);
        assert_ne!(run.status, 0, "{source}");
    }
    assert!(!marker.exists());
}

#[test]
fn ac24_logins_of_repositories_are_seen_by_nobody() {
    if !has_git() {
        return;
    }
    let repository = Repository::new();
    let folder = repository.scratch.path().to_path_buf();
    let watched = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = std::sync::Arc::clone(&watched);
    // x-access-token:s3cr3t-token, me:s3cr3t-pw
    let allowed = [
        "basic eC1hY2Nlc3MtdG9rZW46czNjcjN0LXRva2Vu",
        "Basic bWU6czNjcjN0LXB3",
    ];
    let web = Web::start(move |request: &Request| {
        seen.lock().unwrap().extend(command_lines());
        match request.header("authorization") {
            Some(given) if allowed.contains(&given) => git_backend(&folder, request),
            _ => Answer::status(401).with("WWW-Authenticate", "Basic realm=\"x\""),
        }
    });
    let project = add("", &web.url("/x.git"));
    project
        .build(&[])
        .fails(1, &["error fetching default branch", "GIT_AUTH_TOKEN"]);
    project.write("../token", "s3cr3t-token\n");
    let path = project.path("token");
    let host = format!(
        "id=GIT_AUTH_TOKEN.{},src={}",
        web.authority(),
        path.display()
    );
    let out = files(&project, "out", &["--secret", &host]);
    assert_eq!(text(&out.join("r/foo")), "two\n");
    let inline = add(
        "--keep-git-dir=true",
        &format!("http://me:s3cr3t-pw@{}/x.git", web.authority()),
    );
    let run = inline.build(&[]).ok();
    assert!(!run.stderr.contains("s3cr3t"), "{}", run.stderr);
    let wrong = add(
        "",
        &format!("http://me:s3cr3t-no@{}/x.git", web.authority()),
    );
    let run = wrong.build(&[]);
    assert!(
        run.status != 0 && !run.stderr.contains("s3cr3t"),
        "{}",
        run.stderr
    );
    for project in [&project, &inline, &wrong] {
        nowhere(&project.store(), "s3cr3t");
        nowhere(&project.store(), "czNjcjN0");
    }
    let watched = watched.lock().unwrap();
    assert!(
        watched.iter().any(|line| line.contains("ls-remote")),
        "{watched:?}"
    );
    for line in watched.iter() {
        assert!(
            !line.contains("s3cr3t") && !line.contains("czNjcjN0"),
            "{line}"
        );
    }
}

/// Arguments of all processes named `git`.
fn command_lines() -> Vec<String> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| fs::read(entry.path().join("cmdline")).ok())
        .map(|bytes| String::from_utf8_lossy(&bytes).replace('\0', " "))
        .filter(|line| line.contains("git"))
        .collect()
}

#[test]
fn ac24_without_git_the_error_says_so() {
    let project = add("", "https://example.invalid/x.git");
    let mut command = project.build_command(&[]);
    command.env("PATH", "/nonexistent");
    project
        .run(command)
        .fails(1, &["failed to find git binary", "install git"]);
}

#[test]
fn ac24_repositories_over_ssh() {
    if !has_git() {
        return;
    }
    let repository = Repository::new();
    let bin = repository.scratch.join("bin");
    fs::create_dir(&bin).unwrap();
    let log = repository.scratch.join("ssh.log");
    // Stands for the SSH client: runs what the server would, in the folder of repositories.
    let script = format!(
        "#!/bin/sh\ntest -S \"$SSH_AUTH_SOCK\" && echo \"$@\" >>{log}\nfor last; do :; done\ncd {dir} && eval \"$(echo \"$last\" | sed \"s#'/#'#\")\"\n",
        log = log.display(),
        dir = repository.scratch.path().display()
    );
    fs::write(bin.join("ssh"), script).unwrap();
    fs::set_permissions(bin.join("ssh"), fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let socket = repository.scratch.join("agent");
    let _agent = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let agent = format!("default={}", socket.display());
    for source in ["git@example.com:x.git#v1", "ssh://git@example.com/x.git#v1"] {
        let project = add("", source);
        project.build(&[]).fails(1, &["--ssh default"]);
        let out = project.path("out");
        let output = format!("type=local,dest={}", out.display());
        let mut command = project.build_command(&["-o", &output, "--ssh", &agent]);
        command.env("PATH", &path);
        project.run(command).ok();
        assert_eq!(text(&out.join("r/foo")), "one\n");
    }
    let log = text(&log);
    assert!(
        log.contains("-F /dev/null") && log.contains("StrictHostKeyChecking"),
        "{log}"
    );
    assert!(log.contains("git@example.com git-upload-pack"), "{log}");
}
