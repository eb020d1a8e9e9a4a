//! Caches that travel: written by one store, read by another.

use crate::support::{Project, Run};
use std::path::Path;

const DOCKERFILE: &str = "\
FROM busybox AS build
COPY source.txt /source.txt
RUN cat /source.txt > /made && echo built >> /made
FROM busybox
COPY --from=build /made /made
RUN wc -c < /made > /size
";

/// A project with that Dockerfile, and a store of its own.
fn machine() -> Project {
    let project = Project::new(DOCKERFILE);
    project.write("source.txt", "one");
    project
}

/// Builds, and gives the image's ID too.
#[track_caller]
fn build(project: &Project, args: &[&str]) -> (String, Run) {
    let mut all = vec!["--iidfile", "id", "-t", "x"];
    all.extend(args);
    let run = project.build(&all).ok();
    (std::fs::read_to_string(project.path("id")).unwrap(), run)
}

fn to(dir: &Path, more: &str) -> String {
    format!("--cache-to=type=local,dest={}{more}", dir.display())
}

fn from(dir: &Path) -> String {
    format!("--cache-from=type=local,src={}", dir.display())
}

/// Steps that ran.
fn ran(run: &Run) -> Vec<String> {
    let steps = run.steps().into_iter();
    let steps =
        steps.filter(|(name, end)| name.contains('/') && name.starts_with('[') && end == "DONE");
    steps.map(|(name, _)| name).collect()
}

#[test]
fn ca04_a_folder_takes_all_steps_to_another_store() {
    let (here, there) = (machine(), machine());
    let cache = here.path("cache");
    let (id, _) = build(&here, &[&to(&cache, ",mode=max")]);
    testkit::validate(&cache).unwrap();
    let (again, run) = build(&there, &[&from(&cache)]);
    assert_eq!(ran(&run), [""; 0], "{}", run.stderr);
    assert_eq!(again, id, "CA06: the same image, times and all");
    assert!(run.stderr.contains("importing cache manifest from local:"));
}
