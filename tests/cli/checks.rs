//! Build checks, outlines and targets as users see them.

use crate::support::Project;
use serde_json::Value;

const FAULTY: &str = "FROM scratch as one\nMAINTAINER me\nCOPY $foo $foo$bar /\n";

fn json(project: &Project, args: &[&str]) -> (i32, Value) {
    let run = project.build(args);
    (run.status, serde_json::from_slice(&run.stdout).unwrap())
}

/// CLI:check
#[test]
fn cli_check_tells_findings_and_fails() {
    let project = Project::new(FAULTY);
    let run = project.build(&["--check"]);
    assert_eq!(run.status, 1, "{}", run.stderr);
    assert_eq!(
        run.text(),
        "Check complete, 5 warnings have been found!

WARNING: FromAsCasing - https://docs.docker.com/go/dockerfile/rule/from-as-casing/
'as' and 'FROM' keywords' casing do not match
context/Dockerfile:1
--------------------
   1 | >>> FROM scratch as one
   2 |     MAINTAINER me
   3 |     COPY $foo $foo$bar /
--------------------

WARNING: MaintainerDeprecated - https://docs.docker.com/go/dockerfile/rule/maintainer-deprecated/
Maintainer instruction is deprecated in favor of using label
context/Dockerfile:2
--------------------
   1 |     FROM scratch as one
   2 | >>> MAINTAINER me
   3 |     COPY $foo $foo$bar /
   4 |     
--------------------

WARNING: UndefinedVar - https://docs.docker.com/go/dockerfile/rule/undefined-var/
Usage of undefined variable '$foo'
context/Dockerfile:3
--------------------
   1 |     FROM scratch as one
   2 |     MAINTAINER me
   3 | >>> COPY $foo $foo$bar /
   4 |     
--------------------

WARNING: UndefinedVar - https://docs.docker.com/go/dockerfile/rule/undefined-var/
Usage of undefined variable '$foo'
context/Dockerfile:3
--------------------
   1 |     FROM scratch as one
   2 |     MAINTAINER me
   3 | >>> COPY $foo $foo$bar /
   4 |     
--------------------

WARNING: UndefinedVar - https://docs.docker.com/go/dockerfile/rule/undefined-var/
Usage of undefined variable '$bar'
context/Dockerfile:3
--------------------
   1 |     FROM scratch as one
   2 |     MAINTAINER me
   3 | >>> COPY $foo $foo$bar /
   4 |     
--------------------"
    );
    assert!(!project.store().exists(), "a check writes nothing");
}

#[test]
fn cli_check_without_findings() {
    let project = Project::new("FROM scratch\nCOPY Dockerfile /\n");
    for args in [
        ["--check", "-q"],
        ["--call=check", "-q"],
        ["--call=lint", "-q"],
    ] {
        let run = project.build(&args).ok();
        assert_eq!(run.text(), "Check complete, no warnings found.");
    }
    let (status, report) = json(&project, &["--call=check,format=json"]);
    assert_eq!((status, &report["warnings"]), (0, &Value::Null));
    assert_eq!(report["sources"][0]["filename"], "Dockerfile");
}

#[test]
fn cli_check_as_json() {
    let project = Project::new(FAULTY);
    let (status, report) = json(&project, &["--call=check,format=json"]);
    assert_eq!(status, 1);
    assert_eq!(report["warnings"].as_array().unwrap().len(), 5);
    let first = &report["warnings"][0];
    assert_eq!(first["ruleName"], "FromAsCasing");
    assert_eq!(first["location"]["ranges"][0]["start"]["line"], 1);
    assert_eq!(report["buildError"], Value::Null);
    let run = project.build(&["--call=check,format=json,ignorestatus=true"]);
    assert_eq!(run.status, 0, "{}", run.stderr);
}

#[test]
fn cli_check_looks_at_all_stages_unless_one_is_named() {
    let project =
        Project::new("FROM scratch AS a\nENV a b\nFROM scratch AS b\nENV c d\nFROM scratch\n");
    for (target, lines) in [(None, vec![2, 4]), (Some("--target=b"), vec![4])] {
        let args: Vec<&str> = ["--call=check,format=json"]
            .into_iter()
            .chain(target)
            .collect();
        let (_, report) = json(&project, &args);
        let found: Vec<u64> = report["warnings"]
            .as_array()
            .unwrap()
            .iter()
            .map(|warning| {
                warning["location"]["ranges"][0]["start"]["line"]
                    .as_u64()
                    .unwrap()
            })
            .collect();
        assert_eq!(found, lines);
    }
}

#[test]
fn cli_check_of_a_file_with_an_error() {
    let project = Project::new("FROM scratch AS A\nMAINTAINER me\nFRM x\n");
    let run = project.build(&["--check"]);
    assert!(
        run.text()
            .starts_with("Check complete, 2 warnings have been found!")
    );
    run.fails(1, &["unknown instruction: FRM"]);
    let (status, report) = json(&project, &["--call=check,format=json"]);
    assert_eq!(status, 1);
    assert_eq!(
        report["buildError"]["message"],
        "dockerfile parse error on line 3: unknown instruction: FRM (did you mean FROM?)"
    );
    assert_eq!(
        report["buildError"]["location"]["ranges"][0]["start"]["line"],
        3
    );
}

#[test]
fn cli_calls_that_there_are_not() {
    let project = Project::new("FROM scratch\n");
    project
        .build(&["--call=bogus"])
        .fails(2, &["unsupported request frontend.bogus"]);
    project
        .build(&["--call=check,bar=x"])
        .fails(2, &["invalid print field: bar=x"]);
}

#[test]
fn d08_error_true_stops_the_build_before_its_first_step() {
    let project = Project::new("# check=error=true\nFROM scratch as a\nCOPY Dockerfile /\n");
    let run = project.build(&["-t", "x"]);
    assert!(!run.stderr.contains("[1/1] COPY"), "{}", run.stderr);
    run.fails(
        1,
        &[
            "1 warning found",
            "Dockerfile:2",
            "lint violation found for rules: FromAsCasing",
        ],
    );
    project
        .build(&["--check"])
        .fails(1, &["ERROR: lint violation found for rules: FromAsCasing"]);
    assert!(project.images().is_empty());
    project
        .build(&[
            "--build-arg",
            "BUILDKIT_DOCKERFILE_CHECK=skip=all",
            "-t",
            "x",
        ])
        .ok();
}

#[test]
fn warnings_of_a_build() {
    let project = Project::new("FROM scratch as a\nENV a b\nENV c=$nothing$nothing\n");
    project.write("unused", "");
    let run = project.build(&[]).ok();
    for text in [
        "[internal] load build definition from Dockerfile\n#1 WARN: FromAsCasing: ",
        "#1 WARN: LegacyKeyValueFormat: ",
        "\n 3 warnings found (use --debug to expand):\n - FromAsCasing: 'as' and 'FROM' keywords' casing do not match (line 1)\n",
        " - UndefinedVar: Usage of undefined variable '$nothing' (line 3)\n",
    ] {
        assert!(run.stderr.contains(text), "{text:?} in:\n{}", run.stderr);
    }
    let full = project.build(&["--debug"]).ok();
    for text in [
        "\n 3 warnings found:\n",
        "More info: https://docs.docker.com/go/dockerfile/rule/legacy-key-value-format/\nDockerfile:2\n-----",
    ] {
        assert!(full.stderr.contains(text), "{text:?} in:\n{}", full.stderr);
    }
    let quiet = project.build(&["-q"]).ok();
    assert_eq!(quiet.stderr, "");
}

#[test]
fn warnings_in_json_progress_and_metadata() {
    let project = Project::new("FROM scratch\nENV a b\n");
    let metadata = project.path("metadata.json");
    let path = metadata.to_str().unwrap();
    let mut command = project.build_command(&["--progress", "rawjson", "--metadata-file", path]);
    command.env("BUILDX_METADATA_WARNINGS", "1");
    let run = project.run(command).ok();
    let line = run
        .stderr
        .lines()
        .find(|line| line.contains("\"warnings\""))
        .unwrap();
    let told: Value = serde_json::from_str(line).unwrap();
    let written: Value = serde_json::from_slice(&std::fs::read(&metadata).unwrap()).unwrap();
    for warning in [&told["warnings"][0], &written["buildx.build.warnings"][0]] {
        assert_eq!(warning["level"], 1);
        assert_eq!(
            warning["url"],
            "https://docs.docker.com/go/dockerfile/rule/legacy-key-value-format/"
        );
        assert_eq!(warning["range"][0]["start"]["line"], 2);
        assert_eq!(warning["sourceInfo"]["filename"], "Dockerfile");
        let short = warning["short"].as_str().unwrap();
        assert!(short.starts_with("TGVnYWN5S2V5VmFsdWVGb3JtYXQ6"), "{short}");
    }
    project.build(&["--metadata-file", path]).ok();
    let written: Value = serde_json::from_slice(&std::fs::read(&metadata).unwrap()).unwrap();
    assert_eq!(written["buildx.build.warnings"], Value::Null);
}

/// CLI:call
#[test]
fn cli_outline_and_targets() {
    let project = Project::new(
        "# version which one\nARG version=1\n# base the first\nFROM scratch AS base\n\
         RUN --mount=type=secret,id=tok,required true\n\
         FROM base AS app\nARG version\n# last about last\nARG last=${version}x\n",
    );
    let run = project.build(&["--call=outline"]).ok();
    assert_eq!(
        run.text(),
        "TARGET: app

BUILD ARG   VALUE   DESCRIPTION
version     1       which one
last        1x      about last

SECRET   REQUIRED
tok      true"
    );
    let (_, outline) = json(&project, &["--call=outline,format=json", "--target=base"]);
    assert_eq!(outline["name"], "base");
    assert_eq!(outline["description"], "the first");
    assert_eq!(outline["secrets"][0]["required"], true);
    let run = project.build(&["--call=targets"]).ok();
    assert_eq!(
        run.text(),
        "TARGET        DESCRIPTION\nbase          the first\napp (default)"
    );
    let (_, targets) = json(&project, &["--call=targets,format=json"]);
    assert_eq!(targets["targets"][1]["default"], true);
    assert_eq!(targets["targets"][1]["base"], "base");
    let run = project.build(&["--call=subrequests.describe"]).ok();
    assert!(
        run.text()
            .starts_with("NAME                 VERSION DESCRIPTION\noutline")
    );
    assert!(!project.store().exists(), "questions write nothing");
}
