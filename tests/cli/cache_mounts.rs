//! The content of cache mounts that travels: written by one store, read by another.

use crate::support::{Project, Run};
use std::fs;
use std::path::Path;

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

#[test]
fn ca08_a_folder_takes_a_mount_to_another_store() {
    let (here, there) = (Project::new(DOCKERFILE), Project::new(DOCKERFILE));
    let cache = here.path("cache");
    build(&here, "one", &["--cache-mounts=all", &to(&cache)]);
    testkit::validate(&cache).unwrap();
    let (log, run) = build(
        &there,
        "two",
        &["--cache-mounts=/c", &from(&cache), &to(&cache)],
    );
    assert_eq!(log, "one\ntwo\n", "{}", run.stderr);
    let third = Project::new(DOCKERFILE);
    let (log, _) = build(&third, "three", &["--cache-mounts=all", &from(&cache)]);
    assert_eq!(log, "one\ntwo\nthree\n");
    let (log, _) = build(&third, "four", &["--cache-mounts=all", &from(&cache)]);
    assert_eq!(log, "one\ntwo\nthree\nfour\n", "what the store has wins");
}
