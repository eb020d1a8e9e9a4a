//! Mistakes that are found before any RUN starts, and how they are told: message, line, hint, status.

use crate::support::{Project, Run};
use std::fs;

/// A RUN whose output shows that it ran; its text alone does not hold the word.
const EARLY: &str = "FROM busybox AS early\nRUN echo star\"\"ted\n";

/// Builds offline: whatever asks a registry is refused at once.
fn build(project: &Project, args: &[&str]) -> Run {
    let mut command = project.build_command(args);
    for name in ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"] {
        command.env(name, "http://127.0.0.1:9");
    }
    project.run(command)
}

/// It fails with status 1 before anything ran, says all of this, and leaves nothing.
#[track_caller]
fn refused(project: &Project, args: &[&str], says: &[&str]) -> String {
    let mut all = vec![
        "-t",
        "result",
        "--iidfile",
        "id",
        "-o",
        "type=oci,dest=result.tar",
    ];
    all.extend(args);
    let run = build(project, &all).fails(1, says);
    assert!(!run.stderr.contains("started"), "{}", run.stderr);
    for name in ["id", "result.tar"] {
        assert!(!project.path(name).exists(), "{name} was written");
    }
    assert!(project.images().is_empty());
    run.stderr
}

/// CLI:target too.
#[test]
fn f14_mistyped_names_are_found_before_any_run() {
    let base = format!("{EARLY}FROM early AS builder\nRUN true\nFROM early\n");
    let cases: &[(&str, &[&str], &[&str])] = &[
        (
            "COPY --from=bulider /x /x\n",
            &[],
            &[
                "did you mean builder?",
                "Dockerfile:6",
                "failed to resolve source metadata for docker.io/library/bulider:latest",
            ],
        ),
        (
            "RUN --mount=from=bulider,target=/x true\n",
            &[],
            &["did you mean builder?", "Dockerfile:6"],
        ),
        (
            "FROM bulider\n",
            &[],
            &["did you mean builder?", "Dockerfile:6"],
        ),
        (
            "RUN true\n",
            &["--target", "biulder"],
            &[
                "target stage \"biulder\" could not be found",
                "did you mean builder? The stages are early, builder",
            ],
        ),
        (
            "COPY --from=builder:Bad:1 /x /x\n",
            &[],
            &[
                "failed to parse stage name \"builder:Bad:1\": invalid reference format",
                "Dockerfile:6",
                "help: a name is",
            ],
        ),
        (
            "COPY --from=9 /x /x\nEXPOSE x\n",
            &[],
            &[
                "invalid stage index 9",
                "Dockerfile:6",
                "invalid containerPort: x",
                "Dockerfile:7",
                "2 errors",
            ],
        ),
    ];
    for (rest, args, says) in cases {
        let project = Project::new(&format!("{base}{rest}"));
        refused(&project, args, says);
    }
}

#[test]
fn ac28_missing_sources_are_all_told_before_any_run() {
    let project = Project::new(&format!(
        "{EARLY}COPY readme.txt src/mian.c /x/\nADD gone.tar /\nCOPY hidden/key /k\n\
         RUN --mount=type=bind,source=setup.sh,target=/s /s\nFROM early\n"
    ));
    project.write("README.txt", "x");
    project.write("src/main.c", "x");
    project.write("hidden/key", "x");
    project.write(".dockerignore", "# private\nhidden\n");
    let stderr = refused(
        &project,
        &[],
        &[
            "failed to compute cache key: failed to calculate checksum of ref context: \"/readme.txt\": not found",
            "did you mean \"/README.txt\"?",
            "\"/src/mian.c\": not found",
            "did you mean \"/src/main.c\"?",
            "Dockerfile:3",
            "\"/gone.tar\": not found",
            "sources are paths in the context: ",
            "Dockerfile:4",
            "\"/hidden/key\": not found",
            "line 2 of .dockerignore",
            "Dockerfile:5",
            "\"/setup.sh\": not found",
            "Dockerfile:6",
            "Dockerfile has 5 errors",
        ],
    );
    let order: Vec<usize> = [
        "readme.txt\":",
        "gone.tar\":",
        "hidden/key\":",
        "setup.sh\":",
    ]
    .iter()
    .map(|name| stderr.rfind(name).unwrap())
    .collect();
    assert!(order.is_sorted(), "{stderr}");
}

#[test]
fn missing_secrets_are_all_told_before_any_run() {
    let project = Project::new(&format!(
        "{EARLY}RUN --mount=type=secret,id=one,required true\nRUN --mount=type=secret,id=two,required=true true\n\
         RUN --mount=type=ssh,required true\n"
    ));
    refused(
        &project,
        &[],
        &[
            "secret one: not found",
            "--secret id=one",
            "Dockerfile:3",
            "secret two: not found",
            "Dockerfile:4",
            "Dockerfile:5",
        ],
    );
}

#[test]
fn several_bases_that_cannot_be_had_are_all_told() {
    let project = Project::new(&format!(
        "{EARLY}FROM 127.0.0.1:9/one AS one\nFROM early\nCOPY --from=one / /\nCOPY --from=127.0.0.1:9/two / /\n"
    ));
    refused(
        &project,
        &[],
        &[
            "127.0.0.1:9/one:latest",
            "Dockerfile:3",
            "127.0.0.1:9/two:latest",
            "Dockerfile:6",
            "2 errors",
        ],
    );
}

#[test]
fn f12_the_words_people_search_for() {
    let project = Project::new("FROM busybox\nRUM true\n");
    refused(
        &project,
        &[],
        &["dockerfile parse error on line 2: unknown instruction: RUM"],
    );

    let project = Project::new("FROM busybox\nRUN exit 7\n");
    let run = build(&project, &[]);
    run.fails(
        1,
        &[
            "process \"/bin/sh -c exit 7\" did not complete successfully: exit code: 7",
            "Dockerfile:2",
        ],
    );

    let project = Project::new("FROM busybox AS a\nFROM scratch\nCOPY --from=a /no/such /\n");
    let run = build(&project, &[]);
    run.fails(
        1,
        &[
            "failed to calculate checksum of ref a: \"/no/such\": not found",
            "Dockerfile:3",
        ],
    );
}

/// CLI:build-arg: what no ARG asks for is a warning, with what may have been meant.
#[test]
fn m06_unknown_build_args_are_told_and_do_no_harm() {
    let project = Project::new("ARG VERSION=1\nFROM busybox\nRUN true\n");
    let run = build(&project, &["--build-arg", "VERSOIN=2"]).ok();
    for text in [
        "One or more build-args [VERSOIN] were not consumed",
        "did you mean VERSION?",
    ] {
        assert!(run.stderr.contains(text), "{}", run.stderr);
    }
}

#[test]
fn ob02_errors_in_triggers_name_the_from_and_the_trigger() {
    let project = Project::new("FROM busybox\nONBUILD COPY nothere /\nONBUILD EXPOSE 80/odd\n");
    build(&project, &["-o", "type=oci,tar=false,dest=base"]).ok();
    fs::write(
        project.path("context/Dockerfile"),
        format!("{EARLY}\n# child\nFROM base\n"),
    )
    .unwrap();
    refused(
        &project,
        &["--build-context", "base=oci-layout://base"],
        &[
            "invalid proto: odd",
            "Dockerfile:5",
            "trigger ONBUILD EXPOSE 80/odd",
        ],
    );
}

#[test]
fn status_2_is_for_usage_alone() {
    let project = Project::new("FROM busybox\n");
    for (args, says) in [
        (vec!["--platform", "linux/amd64/v2/x"], "--platform"),
        (vec!["-t", "a:b:c"], "a:b:c"),
        (vec!["-o", "type=floppy"], "floppy"),
        (vec!["--no-such-flag"], "--no-such-flag"),
    ] {
        build(&project, &args).fails(2, &[says]);
    }
    for dockerfile in [
        "RUM",
        "FROM busybox\nCOPY nothere /\n",
        "FROM busybox\nRUN false\n",
    ] {
        let project = Project::new(dockerfile);
        build(&project, &[]).fails(1, &["ERROR: "]);
    }
}
