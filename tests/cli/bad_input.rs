//! Input that cannot be built: the status, a message that names the place and the way out, and nothing half-written.

use crate::support::{Project, able, is_root, program};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// Builds with every kind of result asked for; none may be there afterwards.
#[track_caller]
fn refused(project: &Project, status: i32, args: &[&str], says: &[&str]) -> String {
    let mut all = vec![
        "-t",
        "result",
        "--iidfile",
        "id",
        "--metadata-file",
        "metadata",
    ];
    all.extend(["-o", "type=oci,dest=result.tar", "-o", "type=image"]);
    all.extend(args);
    let run = project.build(&all).fails(status, says);
    for name in ["id", "metadata", "result.tar"] {
        assert!(!project.path(name).exists(), "{name} was written");
    }
    let leftovers: Vec<_> = fs::read_dir(project.path("."))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains("result") || name.contains(".tmp"))
        .collect();
    assert!(leftovers.is_empty(), "{leftovers:?}");
    assert!(project.images().is_empty());
    run.stderr
}

#[test]
fn errors_of_a_dockerfile_name_the_line_and_the_way_out() {
    let cases: &[(&str, &[&str])] = &[
        (
            "FROM busybox\nRUM echo hi\n",
            &[
                "unknown instruction: RUM",
                "Dockerfile:2",
                "did you mean RUN?",
            ],
        ),
        (
            "FROM busybox\nCOPY --form=x a b\n",
            &["unknown flag: --form", "Dockerfile:2", "did you mean from?"],
        ),
        (
            "FROM busybox\nSHELL bash -c\n",
            &[
                "SHELL requires the arguments to be in JSON form",
                "Dockerfile:2",
                "write SHELL [",
            ],
        ),
        (
            "FROM busybox\n\nHEALTHCHECK --interval=soon CMD [\"x\"]\n",
            &["invalid duration \"soon\"", "Dockerfile:3", "such as 30s"],
        ),
        (
            "FROM busybox\nHEALTHCHECK MAYBE\n",
            &["Unknown type \"MAYBE\" in HEALTHCHECK", "Dockerfile:2"],
        ),
        (
            "FROM busybox\nRUN true\nRUN <<END\necho\n",
            &["Dockerfile:3", "unterminated heredoc"],
        ),
        (
            "FROM busybox AS a\nCOPY --from=a /x /y\n",
            &["circular dependency detected on stage: a", "Dockerfile:2"],
        ),
        (
            "FROM busybox AS first\nRUN echo started\nCOPY --from=later /x /y\n\
             FROM busybox AS later\nCOPY --from=first /y /z\n",
            &[
                "Dockerfile:5",
                "circular dependency detected on stage: first",
            ],
        ),
        ("", &["Dockerfile"]),
    ];
    for (dockerfile, says) in cases {
        let project = Project::new(dockerfile);
        let stderr = refused(&project, 1, &[], says);
        assert!(stderr.contains("nothing was built"), "{stderr}");
    }
}

#[test]
fn all_errors_are_shown_at_once() {
    let project = Project::new("FROM busybox\nRUM a\nCOPY --form=x a b\n");
    refused(
        &project,
        1,
        &[],
        &["Dockerfile:2", "Dockerfile:3", "Dockerfile has 2 errors"],
    );
}

#[test]
fn a_missing_dockerfile() {
    let project = Project::new("");
    fs::remove_file(project.path("context/Dockerfile")).unwrap();
    refused(
        &project,
        1,
        &[],
        &["failed to read dockerfile", "context/Dockerfile", "--file"],
    );
}

#[test]
fn a_misspelt_target() {
    let project = Project::new("FROM busybox AS build\nRUN echo started\nFROM scratch\n");
    refused(
        &project,
        1,
        &["--target", "biuld"],
        &[
            "target stage \"biuld\" could not be found",
            "did you mean build?",
        ],
    );
}

#[test]
fn sources_are_looked_for_before_anything_runs() {
    let project =
        Project::new("FROM busybox\nRUN echo star\"\"ted\nCOPY Missing.txt other.txt /x/\n");
    project.write("other.txt", "x");
    let stderr = refused(
        &project,
        1,
        &[],
        &[
            "Dockerfile:3",
            "3 | COPY Missing.txt",
            "failed to calculate checksum of ref context: \"/Missing.txt\": not found",
        ],
    );
    assert!(!stderr.contains("started"), "{stderr}");

    project.write(".dockerignore", "# drafts\n\n*.txt\n");
    project.write("Missing.txt", "x");
    let stderr = refused(
        &project,
        1,
        &[],
        &["line 3 of .dockerignore", "Dockerfile:3"],
    );
    assert!(!stderr.contains("started"), "{stderr}");
}

#[test]
fn a_failing_run_shows_lines_output_meaning_and_log() {
    let project = Project::new("FROM busybox\nRUN seq 1 3000 && \\\n    nosuchcommand\nCMD x\n");
    let stderr = refused(
        &project,
        1,
        &[],
        &[
            "   2 | >>> RUN seq 1 3000",
            "   3 | >>>     nosuchcommand",
            "   4 |     CMD x",
            "exit code: 127",
            "a command was not found",
            "nosuchcommand: not found",
        ],
    );
    let log = stderr
        .lines()
        .find_map(|line| line.trim().strip_prefix("whole log: "));
    let log = fs::read_to_string(log.unwrap()).unwrap();
    for line in ["1", "1500", "3000", "/bin/sh: nosuchcommand: not found"] {
        assert!(
            log.lines().any(|l| l.ends_with(line)),
            "{line} is not in the log"
        );
    }
    assert!(log.lines().count() >= 3001, "{} lines", log.lines().count());
}

#[test]
fn lines_of_the_two_streams_stay_whole() {
    let project = Project::new(
        "FROM busybox\nRUN printf 'be' >&2; printf 'one\\ntwo'; sleep 0.2; printf 'gin\\nend' >&2; exit 3\n",
    );
    let stderr = refused(&project, 1, &[], &["exit code: 3"]);
    let log = stderr
        .lines()
        .find_map(|line| line.trim().strip_prefix("whole log: "));
    let log = fs::read_to_string(log.unwrap()).unwrap();
    assert_eq!(log, "one\nbegin\ntwoend");
}

#[test]
fn output_of_a_failed_run_is_whole_in_quiet_mode_too() {
    let project = Project::new("FROM busybox\nRUN echo reason; exit 3\n");
    let run = project.build(&["-q"]).fails(1, &["reason", "exit code: 3"]);
    assert_eq!(run.text(), "");
}

#[test]
fn usage_errors_have_status_2() {
    let project = Project::new("FROM busybox\n");
    let cases: &[(&[&str], &[&str])] = &[
        (&["--bogus"], &["--bogus", "--help"]),
        (&["--network", "loud"], &["loud", "host"]),
        (&["-o", "type=nope"], &["nope"]),
        (&["-o", "type=local"], &["dest is required"]),
        (&["-o", "-", "-o", "type=oci"], &["only one output"]),
        (
            &["--build-context", "x"],
            &["invalid context value: x, expected key=value"],
        ),
        (&["--platform", "bogus"], &["bogus"]),
        (&["--secret", "src=x"], &["src=x"]),
    ];
    for (args, says) in cases {
        refused(&project, 2, args, says);
    }
    project.kiln(&["biuld"]).fails(2, &["build"]);
}

#[test]
fn a_name_that_cannot_be_is_refused_before_anything_runs() {
    let project = Project::new("FROM busybox\nRUN echo star\"\"ted\n");
    let run = project.build(&["-t", "Upper Case", "--iidfile", "id"]);
    assert!([1, 2].contains(&run.status), "{}", run.stderr);
    assert!(run.stderr.contains("Upper Case"), "{}", run.stderr);
    assert!(!run.stderr.contains("started"), "{}", run.stderr);
    assert!(!project.path("id").exists());
}

#[test]
fn an_output_that_cannot_be_written() {
    let project = Project::new("FROM busybox\nRUN true\n");
    project.write("../file", "kept");
    for dest in ["file/x.tar", "file/missing/x.tar"] {
        let output = format!("type=docker,dest={dest}");
        let run = project.build(&["-t", "result", "--iidfile", "id", "-o", &output]);
        run.fails(1, &["could not create", dest, "is not a folder"]);
        assert!(!project.path("id").exists());
    }
    assert_eq!(fs::read(project.path("file")).unwrap(), b"kept");
}

#[test]
fn a_file_of_the_context_that_may_not_be_read() {
    let project = Project::new("FROM scratch\nCOPY . /\n");
    let secret = project.write("folder/closed", "x");
    fs::set_permissions(secret, fs::Permissions::from_mode(0o000)).unwrap();
    let mut command = project.build_command(&["-t", "result"]);
    if is_root() {
        // Root reads everything, so somebody else builds.
        let tools = Path::new("/usr/bin/setpriv").exists();
        if !able(tools, "setpriv, or an ordinary user") {
            return;
        }
        for path in [".", "context", "context/folder"] {
            let mode = fs::Permissions::from_mode(0o777);
            fs::set_permissions(project.path(path), mode).unwrap();
        }
        let binary = project.path("kiln");
        fs::copy(env!("CARGO_BIN_EXE_kiln"), &binary).unwrap();
        command = program(Path::new("/usr/bin/setpriv"));
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
        command
            .arg(binary)
            .arg("--root")
            .arg(project.path("users-store"));
        command
            .args(["build", "-t", "result"])
            .arg(project.path("context"));
    }
    project
        .run(command)
        .fails(1, &["folder/closed", "ermission denied", "Dockerfile:2"]);
}
