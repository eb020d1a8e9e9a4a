//! What a second build runs again, and what it does not.

use crate::support::{Project, Run};

const STAGES: &str = "\
FROM busybox AS one
COPY one.txt /one
RUN wc -c < /one > /size
FROM busybox AS two
COPY two.txt /two
RUN cat /two > /copied
FROM busybox
COPY --from=one /size /size
COPY --from=two /copied /copied
RUN cat /size /copied > /all
";

fn project() -> Project {
    let project = Project::new(STAGES);
    project.write("one.txt", "one");
    project.write("two.txt", "two");
    project
}

/// Image ID of a build, and its run.
#[track_caller]
fn build(project: &Project, args: &[&str]) -> (String, Run) {
    let mut all = vec!["--iidfile", "id"];
    all.extend(args);
    let run = project.build(&all).ok();
    (std::fs::read_to_string(project.path("id")).unwrap(), run)
}

/// The steps that are no export, each with how it ended.
fn work(run: &Run) -> Vec<(String, String)> {
    let mut steps = run.steps();
    steps.retain(|(name, _)| name.starts_with('['));
    steps
}

/// The instructions that ran.
fn ran(run: &Run) -> Vec<String> {
    let steps = work(run).into_iter();
    let mut ran: Vec<String> = steps
        .filter(|(name, end)| end != "CACHED" && !name.contains("FROM"))
        .map(|(name, _)| name.split_once("] ").unwrap().1.to_owned())
        .collect();
    ran.sort();
    ran
}

#[test]
fn a_second_build_runs_nothing() {
    let project = project();
    let (first, cold) = build(&project, &[]);
    assert_eq!(ran(&cold).len(), 7, "{}", cold.stderr);
    let (second, warm) = build(&project, &[]);
    assert_eq!(first, second);
    let steps = work(&warm);
    assert!(
        !steps.is_empty() && steps.iter().all(|(_, end)| end == "CACHED"),
        "{steps:?}"
    );

    // Another name, time or place of the context is no other content.
    project.write("../elsewhere/Dockerfile", STAGES);
    project.write("../elsewhere/one.txt", "one");
    project.write("../elsewhere/two.txt", "two");
    let mut moved =
        project.command(&["build", "--progress", "plain", "--iidfile", "id", "-t", "x"]);
    moved.args(crate::support::with_busybox()).arg("elsewhere");
    assert_eq!(ran(&project.run(moved).ok()), [""; 0]);
    assert_eq!(std::fs::read_to_string(project.path("id")).unwrap(), first);
}

#[test]
fn ca01_a_changed_file_runs_what_depends_on_it() {
    let project = project();
    let (first, _) = build(&project, &[]);
    project.write("two.txt", "2");
    let (second, run) = build(&project, &[]);
    assert_ne!(first, second);
    assert_eq!(
        ran(&run),
        [
            "COPY --from=two /copied /copied",
            "COPY two.txt /two",
            "RUN cat /size /copied > /all",
            "RUN cat /two > /copied",
        ]
    );
    project.write("unrelated.txt", "x");
    assert_eq!(ran(&build(&project, &[]).1), [""; 0]);
    project.write("two.txt", "two");
    let (third, run) = build(&project, &[]);
    assert_eq!(ran(&run), [""; 0], "content that was built before is known");
    assert_eq!(first, third);
}

#[test]
fn a_changed_input_of_equal_output_stops_there() {
    let project = project();
    let (first, _) = build(&project, &[]);
    // As long as before, so `wc -c` says the same.
    project.write("one.txt", "ONE");
    let (second, run) = build(&project, &[]);
    assert_eq!(ran(&run), ["COPY one.txt /one", "RUN wc -c < /one > /size"]);
    assert_eq!(first, second);
}

#[test]
fn the_cache_can_be_refused() {
    let project = project();
    build(&project, &[]);
    let (_, run) = build(&project, &["--no-cache"]);
    assert_eq!(ran(&run).len(), 7, "{}", run.stderr);
    let (_, run) = build(&project, &["--no-cache-filter", "one"]);
    let names = ran(&run);
    assert!(
        names.contains(&"RUN wc -c < /one > /size".to_owned()),
        "{names:?}"
    );
    assert!(
        !names.contains(&"RUN cat /two > /copied".to_owned()),
        "{names:?}"
    );
}

#[test]
fn build_arguments_count_where_they_are_used() {
    let project = Project::new(
        "FROM busybox\nRUN echo base > /base\nARG WHO=me\nRUN echo $WHO > /who\nARG UNUSED\nCOPY f /f\n",
    );
    project.write("f", "x");
    build(&project, &[]);
    let (_, run) = build(&project, &["--build-arg", "WHO=you"]);
    let names = ran(&run);
    assert!(
        names.iter().any(|name| name == "RUN echo you > /who"),
        "{names:?}"
    );
    assert!(
        !names.contains(&"RUN echo base > /base".to_owned()),
        "{names:?}"
    );
}

#[test]
fn a_failed_step_is_not_kept_but_those_before_it_are() {
    let project = Project::new("FROM busybox\nRUN echo one > /1\nRUN test -e /never\n");
    for expected in ["DONE", "CACHED"] {
        let run = project.build(&[]).fails(1, &["exit code: 1"]);
        assert_eq!(run.step("RUN echo one"), expected);
        assert_eq!(run.step("RUN test"), "ERROR");
    }
}

/// What is given to a build besides the Dockerfile, and whether a command that was cached without it has to run.
#[test]
fn ru20_what_changes_a_result_is_in_the_key_of_a_command() {
    let project = Project::new(
        "FROM busybox\nARG A=1\nRUN --mount=type=secret,id=s --mount=type=cache,target=/c echo made > /made\n",
    );
    std::fs::write(project.path("one"), "1").unwrap();
    std::fs::write(project.path("two"), "2").unwrap();
    let step = |more: &[&str]| {
        let mut args = vec!["--secret=id=s,src=one", "-o", "type=cacheonly"];
        args.extend(more);
        project.build(&args).ok().step("echo made")
    };
    assert_eq!(step(&[]), "DONE");
    for (flag, end) in [
        ("--add-host=a:192.0.2.1", "DONE"),
        ("--add-host=a:192.0.2.2", "DONE"),
        ("--shm-size=1m", "DONE"),
        ("--ulimit=nofile=99:99", "DONE"),
        ("--network=none", "DONE"),
        ("--build-arg=A=2", "DONE"),
        ("--build-arg=BUILDKIT_CACHE_MOUNT_NS=other", "DONE"),
        ("--build-arg=BUILDKIT_SANDBOX_HOSTNAME=other", "DONE"),
        ("--build-arg=UNUSED=1", "CACHED"),
        ("--build-arg=HTTP_PROXY=http://192.0.2.1", "CACHED"),
        ("--build-arg=SOURCE_DATE_EPOCH=1", "CACHED"),
        ("--secret=id=s,src=two", "CACHED"),
        ("--dns=192.0.2.1", "CACHED"),
        ("--cap-drop=CHOWN", "CACHED"),
        ("--security-opt=seccomp=unconfined", "CACHED"),
        ("--context-mode=git", "CACHED"),
        ("--label=a=b", "CACHED"),
        ("--timeout=100s", "CACHED"),
    ] {
        assert_eq!(step(&[flag]), end, "{flag}");
    }
    assert_eq!(step(&[]), "CACHED", "nothing was replaced");
}
