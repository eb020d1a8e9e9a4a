//! `kiln build --verify`: a finder of steps that are not deterministic.

use crate::support::Project;

#[test]
fn deterministic_steps_pass() {
    let project = Project::new(
        "FROM busybox AS one\nWORKDIR /w\nCOPY --link a /w/\nRUN cat a a > b && rm a\n\
         FROM busybox\nCOPY --from=one /w /w\nCOPY a /\nRUN --mount=type=tmpfs,target=/t touch /new\n",
    );
    project.write("a", "text");
    project.build(&["--iidfile", "before"]).ok();
    for _ in 0..2 {
        let run = project.build(&["--iidfile", "after", "--verify"]).ok();
        assert!(
            run.stderr.contains("verified 6 steps, 0 differ"),
            "{}",
            run.stderr
        );
        assert!(
            run.stderr
                .contains("verify [one 4/4] RUN cat a a > b && rm a"),
            "{}",
            run.stderr
        );
    }
    let read = |name| std::fs::read_to_string(project.path(name)).unwrap();
    assert_eq!(read("before"), read("after"));
}

#[test]
fn the_first_difference_of_each_step_is_named() {
    let project = Project::new(
        "FROM busybox\nCOPY a /\nRUN mkdir /r && cat /proc/sys/kernel/random/uuid > /r/id && echo same > /r/z\n\
         RUN (echo first; cat /proc/sys/kernel/random/uuid) > /text\n\
         RUN touch /$(cat /proc/sys/kernel/random/uuid)\nRUN cat /a\n",
    );
    project.write("a", "text");
    project.build(&["--iidfile", "before"]).ok();
    let run = project.build(&["--verify", "--iidfile", "after"]);
    let run = run.fails(1, &["5 steps verified, 3 differ"]);
    let line = |part: &str| {
        let mut lines = run.stderr.lines().filter(|line| line.starts_with("  ["));
        lines.find(|line| line.contains(part)).unwrap().to_owned()
    };
    let byte = |text: &str| -> usize {
        let at = text.split("content differs from byte ").nth(1).unwrap();
        at.split(' ').next().unwrap().parse().unwrap()
    };
    let id = line("/r/id");
    assert!(id.ends_with(" on (37 -> 37 bytes)"), "{id}");
    // Two identifiers may begin alike.
    assert!(byte(&id) < 20, "{id}");
    let text = line("/text");
    assert!((6..26).contains(&byte(&text)), "{text}");
    let touched = line("RUN touch");
    assert!(
        touched.ends_with(": file is missing") || touched.ends_with(": file is added"),
        "{touched}"
    );

    // The cache is what it was.
    let run = project.build(&["--iidfile", "later"]).ok();
    assert_eq!(run.step("RUN touch"), "CACHED");
    let read = |name| std::fs::read_to_string(project.path(name)).unwrap();
    assert_eq!(read("before"), read("later"));
}

#[test]
fn modes_and_failures_are_told() {
    // A random source without random bytes: what a cache mount holds changes from run to run.
    let project = Project::new(
        "FROM busybox\n\
         RUN --mount=type=cache,target=/c if test -e /c/m; then touch /f; chmod 600 /f; else touch /f /c/m; fi\n\
         RUN --mount=type=cache,target=/d if test -e /d/m; then exit 7; else touch /d/m; fi\n",
    );
    project.build(&[]).ok();
    project.build(&["--verify"]).fails(
        1,
        &[
            "2 steps verified, 2 differ",
            ": /f: mode 644 -> 600",
            "exit code: 7",
        ],
    );
}
