//! The content of cache mounts that travels: written by one store, read by another.

use crate::support::{Project, Run, files_below, is_root};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use testkit::{DockerRegistry, RegistrySetup};

const DOCKERFILE: &str = "\
FROM busybox
ARG N
RUN --mount=type=cache,target=/c echo $N >> /c/log && cp /c/log /log
";

fn to(dir: &Path) -> String {
    format!("--cache-to=type=local,dest={}", dir.display())
}

fn from(dir: &Path) -> String {
    format!("--cache-from=type=local,src={}", dir.display())
}

/// Builds with an argument and gives what the step saw.
#[track_caller]
fn build(project: &Project, n: &str, args: &[&str]) -> (String, Run) {
    let n = format!("N={n}");
    let mut all = vec!["--build-arg", &n, "-o", "out"];
    all.extend(args);
    let run = project.build(&all).ok();
    let log = fs::read_to_string(project.path("out/log")).unwrap();
    (log, run)
}

/// Blobs of a folder with their bytes.
fn blobs(dir: &Path) -> BTreeMap<PathBuf, u64> {
    let files = files_below(&dir.join("blobs")).into_iter();
    let sized = files.map(|path| {
        let size = fs::metadata(&path).unwrap().len();
        (path, size)
    });
    sized.collect()
}

#[test]
fn a_folder_takes_a_mount_to_another_store() {
    let (here, there) = (Project::new(DOCKERFILE), Project::new(DOCKERFILE));
    let cache = here.path("cache");
    build(&here, "one", &["--cache-mounts=all", &to(&cache)]);
    testkit::validate(&cache).unwrap();
    let both = ["--cache-mounts=/c", &from(&cache), &to(&cache)];
    let (log, run) = build(&there, "two", &both);
    assert_eq!(log, "one\ntwo\n", "{}", run.stderr);
    let third = Project::new(DOCKERFILE);
    let (log, _) = build(&third, "three", &["--cache-mounts=all", &from(&cache)]);
    assert_eq!(log, "one\ntwo\nthree\n");
    let (log, _) = build(&third, "four", &["--cache-mounts=all", &from(&cache)]);
    assert_eq!(log, "one\ntwo\nthree\nfour\n", "what the store has wins");
}

#[test]
fn exporters_at_once_keep_each_others_mounts() {
    let Some(registry) = DockerRegistry::start(&RegistrySetup::default()) else {
        return;
    };
    let reference = format!("{}/cache:all", registry.host());
    let make = |number: usize| {
        let run = format!("RUN --mount=type=cache,target=/c{number}");
        let work = format!("echo $N >> /c{number}/log && cp /c{number}/log /log");
        Project::new(&format!("FROM busybox\nARG N\n{run} {work}\n"))
    };
    let to = format!("--cache-to=type=registry,ref={reference}");
    let args = ["--build-arg=N=first", "--cache-mounts=all", &to];
    let projects: Vec<Project> = (0..4).map(make).collect();
    let started: Vec<_> = projects
        .iter()
        .map(|project| project.start(project.build_command(&args)))
        .collect();
    for run in started {
        run.finish().ok();
    }
    let from = format!("--cache-from={reference}");
    for number in 0..4 {
        let (log, run) = build(&make(number), "second", &["--cache-mounts=all", &from]);
        assert_eq!(log, "first\nsecond\n", "{number}: {}", run.stderr);
    }
}

/// Nothing of a mount leaves its machine, or comes to one, that nobody has named.
#[test]
fn mounts_travel_only_when_named() {
    let project = Project::new(
        "FROM busybox\nARG N\nRUN --mount=type=cache,target=/c --mount=type=cache,id=other,target=/d \\\n\
         \x20   echo hidden-$N >> /c/log && echo seen >> /d/log && cat /c/log /d/log > /log\n",
    );
    let cache = project.path("cache");
    build(&project, "1", &[&to(&cache)]);
    let index = fs::read_to_string(cache.join("index.json")).unwrap();
    assert!(!index.contains("-mounts"), "{index}");
    let args = [
        "--cache-mounts=other",
        "--build-arg=BUILDKIT_CACHE_MOUNT_NS=ns",
        &to(&cache),
    ];
    build(&project, "2", &args);
    let there = Project::new(&fs::read_to_string(project.path("context/Dockerfile")).unwrap());
    let args = [
        "--cache-mounts=all",
        "--build-arg=BUILDKIT_CACHE_MOUNT_NS=ns",
        &from(&cache),
    ];
    let (log, _) = build(&there, "3", &args);
    assert_eq!(log, "hidden-3\nseen\nseen\n");
    let (_, run) = build(&there, "4", &["--cache-mounts=nobody", &from(&cache)]);
    assert!(run.stderr.contains("\"nobody\""), "{}", run.stderr);
    let wrong = there.build(&["--cache-mounts=all,x", &from(&cache)]);
    assert_eq!(wrong.status, 2, "{}", wrong.stderr);
}

/// What a mount holds comes back as it was: owners, modes, times, links, names.
#[test]
fn entries_keep_what_they_are() {
    let owner = if is_root() {
        "chown 1001:1002 /c/sub/file && chmod 4711 /c/sub/file && chown -h 7:8 /c/link &&"
    } else {
        ""
    };
    let list = "cd /c && find . | sort | while read -r f; do stat -c '%n %f %u %g %h %s %y' \"$f\"; done; \
                readlink link; md5sum sub/file big; cat 'sp ace'";
    let fill = format!(
        "mkdir -p /c/sub/empty && echo x > /c/sub/file && chmod 4711 /c/sub/file && \
         ln -s /etc/passwd /c/link && {owner} ln /c/sub/file /c/hard && echo y > '/c/sp ace' && \
         seq 1 300000 > /c/big && touch -d @1234567 /c/sub/empty"
    );
    let text = format!(
        "FROM busybox\nARG N\nRUN --mount=type=cache,target=/c,mode=0750 [ \"$N\" = 2 ] || ( {fill} )\n\
         RUN --mount=type=cache,target=/c,mode=0750 ( {list} ) > /log; echo $N > /n\n"
    );
    let (here, there) = (Project::new(&text), Project::new(&text));
    let cache = here.path("cache");
    let (before, _) = build(&here, "1", &["--cache-mounts=all", &to(&cache)]);
    let (after, run) = build(&there, "2", &["--cache-mounts=all", &from(&cache)]);
    // The folder itself was made anew.
    let inside = |log: &str| {
        log.lines()
            .filter(|line| !line.starts_with(". "))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(inside(&before), inside(&after), "{}", run.stderr);
    let mode = |log: &str| {
        log.lines()
            .next()
            .unwrap()
            .split(' ')
            .nth(1)
            .unwrap()
            .to_owned()
    };
    assert_eq!(mode(&before), mode(&after));
    assert!(
        before.contains("hard") && before.contains("/etc/passwd"),
        "{before}"
    );
}

/// A second export brings the new chunks only, and an unchanged mount nothing.
#[test]
fn an_export_adds_what_is_new() {
    let project = Project::new(
        "FROM busybox\nARG N\nRUN --mount=type=cache,target=/c echo $N >> /c/log && cp /c/log /log; \\\n\
         \x20   [ -e /c/large ] || head -c 40000000 /dev/urandom > /c/large; [ $N != 3 ] || echo end >> /c/large\n",
    );
    let cache = project.path("cache");
    let both = ["--cache-mounts=all", &to(&cache)];
    build(&project, "1", &both);
    let first = blobs(&cache);
    assert!(first.values().sum::<u64>() > 40_000_000);
    assert!(first.len() < 15, "{first:?}");
    let new = |before: &BTreeMap<PathBuf, u64>| {
        let now = blobs(&cache);
        let new = now.iter().filter(|(path, _)| !before.contains_key(*path));
        new.map(|(_, size)| size).sum::<u64>()
    };
    build(&project, "2", &both);
    let second = new(&first);
    assert!(second < 200_000, "{second} bytes for one line");
    let before = blobs(&cache);
    build(&project, "3", &both);
    let third = new(&before);
    assert!(
        (1_000..1_500_000).contains(&third),
        "{third} bytes for the last chunk of a large file"
    );
    let before = blobs(&cache);
    let (_, run) = build(&project, "3", &both);
    assert_eq!(new(&before), 0, "{}", run.stderr);
    testkit::validate(&cache).unwrap();
    let there = Project::new(&fs::read_to_string(project.path("context/Dockerfile")).unwrap());
    let (log, _) = build(&there, "4", &["--cache-mounts=all", &from(&cache)]);
    assert_eq!(log, "1\n2\n3\n4\n");
}

#[test]
fn ca09_a_registry_takes_a_mount_to_another_store() {
    let Some(registry) = DockerRegistry::start(&RegistrySetup::default()) else {
        return;
    };
    let reference = format!("{}/app:cache", registry.host());
    let to = format!("--cache-to=type=registry,ref={reference}");
    let from = format!("--cache-from={reference}");
    let mut expected = String::new();
    for n in ["one", "two", "three"] {
        let project = Project::new(DOCKERFILE);
        let (log, run) = build(&project, n, &["--cache-mounts=all", &from, &to]);
        expected.push_str(&format!("{n}\n"));
        assert_eq!(log, expected, "{}", run.stderr);
    }
}

/// What is damaged or hostile is told, and the step begins with an empty mount.
#[test]
fn damage_is_told_and_left_out() {
    let here = Project::new(DOCKERFILE);
    let cache = here.path("cache");
    build(&here, "1", &["--cache-mounts=all", &to(&cache)]);
    for path in blobs(&cache).into_keys() {
        let whole = fs::read(&path).unwrap();
        // Documents that are read before the mount's are another test's.
        if whole.starts_with(b"{") {
            continue;
        }
        let mut damaged = whole.clone();
        let middle = damaged.len() / 2;
        damaged[middle] ^= 1;
        fs::write(&path, damaged).unwrap();
        let there = Project::new(DOCKERFILE);
        let (log, run) = build(&there, "2", &["--cache-mounts=all", &from(&cache)]);
        let is_told = run.stderr.contains("is not used")
            || run.stderr.contains("damaged")
            || run.stderr.contains("failed to configure");
        assert!(
            log == "2\n" && is_told || log == "1\n2\n",
            "{log} {}",
            run.stderr
        );
        assert_eq!(build(&there, "3", &[]).0, format!("{log}3\n"));
        fs::write(&path, whole).unwrap();
    }
}

/// An export waits for nobody for long, and nobody for it.
#[test]
fn a_mount_that_another_build_has_is_exported_all_the_same() {
    let project = Project::new(DOCKERFILE);
    let cache = project.path("cache");
    build(&project, "1", &[]);
    project.write(
        "../slow/Dockerfile",
        "FROM busybox\nRUN --mount=type=cache,target=/c,sharing=locked echo begun; \\\n\
         \x20   i=0; while [ ! -e /c/stop ] && [ $i -lt 600 ]; do i=$((i+1)); sleep 0.1; done\n",
    );
    let mut slow = project.command(&["build", "--progress", "plain"]);
    slow.args(crate::support::with_busybox()).arg("slow");
    let mut slow = project.start(slow);
    slow.wait_for("begun");
    // The step of this build is cached; its mount is new to the place, and another has it alone.
    let run = project
        .build(&[
            "--build-arg=N=1",
            "-o",
            "out",
            "--cache-mounts=all",
            &to(&cache),
        ])
        .ok();
    let mounts = project.store().join("mounts");
    let data = files_below(&mounts)
        .into_iter()
        .find(|path| path.ends_with("data/log"))
        .unwrap();
    fs::write(data.with_file_name("stop"), "").unwrap();
    slow.finish().ok();
    let there = Project::new(DOCKERFILE);
    let (log, _) = build(&there, "2", &["--cache-mounts=all", &from(&cache)]);
    assert_eq!(log, "1\n2\n", "{}", run.stderr);
}
