//! Why steps ran: in the progress of the build, and by `kiln explain` after it.

use crate::support::{Project, Run, files_below};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

const DOCKERFILE: &str = "\
FROM busybox AS build
ARG N=1
COPY src /src
RUN echo $N && cat /src/f1 > /out
FROM scratch
COPY --from=build /out /out
";

fn project() -> Project {
    let project = Project::new(DOCKERFILE);
    for number in 1..=5 {
        project.write(&format!("src/f{number}"), format!("{number}\n"));
    }
    for path in ["src", "src/f1"] {
        let mode = if path == "src" { 0o755 } else { 0o644 };
        let path = project.path("context").join(path);
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    project
}

/// The phrases of a plain log, by the step's name.
pub(crate) fn phrases(run: &Run) -> BTreeMap<String, String> {
    let mut names: BTreeMap<&str, &str> = BTreeMap::new();
    let mut found = BTreeMap::new();
    for line in run.stderr.lines() {
        let Some((number, rest)) = line.strip_prefix('#').and_then(|l| l.split_once(' ')) else {
            continue;
        };
        let name = *names.entry(number).or_insert(rest);
        if let Some(why) = rest.strip_prefix("cache miss: ") {
            let name = name.split_once("] ").map_or(name, |(_, text)| text);
            found.insert(name.to_owned(), why.to_owned());
        }
    }
    found
}

#[track_caller]
fn only(run: &Run, expected: &[(&str, &str)]) {
    let expected: BTreeMap<String, String> = expected
        .iter()
        .map(|(name, why)| ((*name).to_owned(), (*why).to_owned()))
        .collect();
    assert_eq!(phrases(run), expected, "{}", run.stderr);
}

const COPY: &str = "COPY src /src";
const RUN: &str = "RUN echo 1 && cat /src/f1 > /out";
const LAST: &str = "COPY --from=build /out /out";

#[track_caller]
fn explained(project: &Project, args: &[&str]) -> Value {
    let mut all = vec!["explain", "--format", "json"];
    all.extend(args);
    let run = project.kiln(&all).ok();
    serde_json::from_str(run.text()).unwrap()
}

#[test]
fn ca10_the_progress_says_why_a_step_runs() {
    let project = project();
    only(&project.build(&[]).ok(), &[]);
    only(&project.build(&[]).ok(), &[]);

    project.write("src/f1", "changed\n");
    let below = "parent changed at line 3";
    let changed = "1 of 5 files changed: src/f1 (content)";
    let run = project.build(&[]).ok();
    only(&run, &[(COPY, changed), (RUN, below), (LAST, below)]);

    let run = project.build(&["--build-arg", "N=2"]).ok();
    let argument = "build arg N 1 -> 2";
    only(&run, &[("RUN echo 2 && cat /src/f1 > /out", argument)]);

    let run = project.build(&["--build-arg", "N=2", "--no-cache-filter", "build"]);
    let filter = "--no-cache-filter";
    let run_2 = "RUN echo 2 && cat /src/f1 > /out";
    only(&run.ok(), &[(COPY, filter), (run_2, filter)]);
}

#[test]
fn a_change_of_a_mode_names_the_flag() {
    let project = project();
    project.build(&[]).ok();
    let file = project.path("context/src/f1");
    fs::set_permissions(file, fs::Permissions::from_mode(0o664)).unwrap();
    let phrase =
        "1 of 5 files changed: src/f1 (mode 644 -> 664); --context-mode=git would not see it";
    assert_eq!(phrases(&project.build(&[]).ok())[COPY], phrase);
    let full = project.kiln(&["explain", "build:3"]).ok();
    assert!(
        full.text().contains("src/f1: mode 644 -> 664"),
        "{}",
        full.text()
    );
    assert!(
        full.text().contains("--context-mode=git"),
        "{}",
        full.text()
    );
}

/// The same Dockerfile with its context elsewhere is compared with what was built before.
#[test]
fn a_context_that_moved_is_recognised() {
    let project = project();
    project.build(&[]).ok();
    fs::rename(project.path("context"), project.path("elsewhere")).unwrap();
    fs::write(project.path("elsewhere/src/f2"), "changed").unwrap();
    let mut command = project.command(&["build", "--progress", "plain"]);
    command
        .args(crate::support::with_busybox())
        .arg("elsewhere");
    let run = project.run(command).ok();
    assert_eq!(
        phrases(&run)[COPY],
        "1 of 5 files changed: src/f2 (content)"
    );
}

#[test]
fn quiet_says_nothing_and_json_has_a_status() {
    let project = project();
    project.build(&[]).ok();
    project.write("src/f1", "changed\n");
    let mut command = project.command(&["build", "--progress", "rawjson"]);
    command.args(crate::support::with_busybox()).arg("context");
    let run = project.run(command).ok();
    let mut seen = 0;
    for line in run.stderr.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        for status in line["statuses"].as_array().into_iter().flatten() {
            if status["id"] == "cache miss: 1 of 5 files changed: src/f1 (content)" {
                seen += 1;
                assert!(status["vertex"].as_str().unwrap().starts_with("sha256:"));
                assert!(status["completed"].is_string());
            }
        }
    }
    assert_eq!(seen, 1, "{}", run.stderr);

    project.write("src/f1", "again\n");
    let mut command = project.command(&["build", "--progress", "quiet"]);
    command.args(crate::support::with_busybox()).arg("context");
    assert_eq!(project.run(command).ok().stderr, "");
}

#[test]
fn a_step_that_failed_and_those_behind_it() {
    let project = Project::new("FROM busybox\nCOPY a /a\nRUN test -s /a\nRUN echo after\n");
    project.write("a", "");
    project.build(&[]).fails(1, &["exit code: 1"]);
    let again = project.build(&[]).fails(1, &["exit code: 1"]);
    only(&again, &[("RUN test -s /a", "it failed in the last build")]);
    let steps = explained(&project, &[]);
    let results: Vec<&str> = steps["steps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| step["result"].as_str().unwrap())
        .collect();
    assert_eq!(&results[1..], ["cached", "failed", "not run"]);

    project.write("a", "something");
    let mended = project.build(&[]).ok();
    let changed = "1 of 1 files changed: a (content)";
    assert_eq!(phrases(&mended)["COPY a /a"], changed);
}

#[test]
fn what_the_store_lost_is_said() {
    let project = project();
    project.build(&[]).ok();
    for folder in ["layers/sha256", "blobs/sha256"] {
        let folder = project.store().join(folder);
        fs::remove_dir_all(&folder).unwrap();
        fs::create_dir(folder).unwrap();
    }
    let run = project.build(&[]).ok();
    let gone = "its layer is gone from the store (pruned or damaged)";
    assert_eq!(phrases(&run)[COPY], gone, "{}", run.stderr);

    // Without any memory there is nothing to say, and the build is as it was.
    project.kiln(&["prune", "--all"]).ok();
    only(&project.build(&[]).ok(), &[]);
}

#[test]
fn ca11_explain_tells_the_last_build_that_ran_something() {
    let project = project();
    project.kiln(&["explain"]).fails(
        1,
        &["nothing to explain: no build in this store has run a step"],
    );
    project.build(&[]).ok();
    let first = project.kiln(&["explain"]).ok();
    assert!(
        first.text().contains("there is nothing to compare with"),
        "{}",
        first.text()
    );

    project.write("src/f1", "changed\n");
    fs::remove_file(project.path("context/src/f2")).unwrap();
    project.build(&[]).ok();
    // A build with nothing to do changes nothing of that.
    project.build(&[]).ok();
    let table = project.kiln(&["explain"]).ok();
    let lines: Vec<&str> = table.text().lines().collect();
    assert!(lines[2].starts_with("STEP"), "{}", table.text());
    let why = "2 of 5 files changed: src/f1 (content), src/f2 (removed)";
    assert!(
        lines[4].contains("ran") && lines[4].ends_with(why),
        "{}",
        table.text()
    );

    let story = explained(&project, &[]);
    assert_eq!(story["compared"], true);
    assert_eq!(story["dockerfile"], "Dockerfile");
    let step = &story["steps"][1];
    assert_eq!(step["result"], "ran");
    assert_eq!(step["cause"], "files");
    assert_eq!(step["files"]["count"], 2);
    assert_eq!(step["files"]["changed"][1]["path"], "src/f2");
    assert_eq!(step["files"]["changed"][1]["changes"][0]["what"], "removed");
    assert_eq!(explained(&project, &["2"]), *step);
    assert_eq!(explained(&project, &["BUILD:3"]), *step);
    assert_eq!(story["steps"][3]["parents"], serde_json::json!([3, 2]));

    let full = project.kiln(&["explain", ":6"]).ok();
    assert!(
        full.text()
            .contains("because of step 2 (line 3): COPY src /src"),
        "{}",
        full.text()
    );
    let rows = project
        .kiln(&["explain", "--format", "{{.Step}} {{.Result}}"])
        .ok();
    assert_eq!(rows.text(), "1 cached\n2 ran\n3 ran\n4 ran");
    for (step, says) in [
        ("0", "there is no step 0: the build has 4"),
        ("x", "invalid step \"x\": expected a number or STAGE:LINE"),
        ("build:99", "no step of the build is at build:99"),
    ] {
        project.kiln(&["explain", step]).fails(2, &[says]);
    }
}

#[test]
fn twenty_files_are_shown_and_all_on_request() {
    let project = Project::new("FROM scratch\nCOPY . /\n");
    for number in 0..30 {
        project.write(&format!("f{number:02}"), "old");
    }
    project.build(&[]).ok();
    for number in 0..30 {
        project.write(&format!("f{number:02}"), "new!");
    }
    project.build(&[]).ok();
    let some = project.kiln(&["explain", "1"]).ok();
    assert!(
        some.text().contains("and 10 more; --all shows them"),
        "{}",
        some.text()
    );
    let all = project.kiln(&["explain", "1", "--all"]).ok();
    assert!(all.text().contains("f29: content"), "{}", all.text());
    let json = explained(&project, &["1", "--all"]);
    assert_eq!(json["files"]["changed"].as_array().unwrap().len(), 30);
}

fn contents(store: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = files_below(&store.join("records"));
    files
        .into_iter()
        .map(|path| {
            let bytes = fs::read(&path).unwrap();
            (path, bytes)
        })
        .collect()
}

/// A build with nothing to do leaves all records as they are.
#[test]
fn a_cached_build_remembers_nothing_new() {
    let project = project();
    project.build(&[]).ok();
    project.build(&["--build-arg", "N=2"]).ok();
    let before = contents(&project.store());
    project.build(&["--build-arg", "N=2"]).ok();
    assert_eq!(contents(&project.store()), before);
    // What is compared with is the last build, although it ran nothing.
    project.build(&[]).ok();
    let run = project.build(&["--build-arg", "N=3"]).ok();
    let phrase = &phrases(&run)["RUN echo 3 && cat /src/f1 > /out"];
    assert_eq!(phrase, "build arg N 1 -> 3");
}

#[test]
fn values_of_secrets_are_in_no_explanation() {
    let project = Project::new(
        "FROM busybox\nARG N=1\nRUN --mount=type=secret,id=key,env=KEY test -n \"$KEY\" && echo $N\n",
    );
    let secret = project.path("secret");
    for (number, value) in ["opensesame-1", "opensesame-2"].iter().enumerate() {
        fs::write(&secret, value).unwrap();
        let spec = format!("id=key,src={}", secret.display());
        let argument = format!("N={number}");
        project
            .build(&["--secret", &spec, "--build-arg", &argument])
            .ok();
    }
    for bytes in contents(&project.store()).into_values() {
        assert!(!String::from_utf8_lossy(&bytes).contains("opensesame"));
    }
    let story = explained(&project, &[]).to_string();
    assert!(
        story.contains("build arg N") && !story.contains("opensesame"),
        "{story}"
    );
}

/// Builds of one place at once: each is right, and what they leave can be compared with.
#[test]
fn builds_at_once_leave_a_sound_memory() {
    let project = Project::new("FROM scratch\nARG N\nCOPY <<EOF /n\n$N\nEOF\n");
    let arguments: Vec<String> = (0..6).map(|number| format!("N={number}")).collect();
    let start = |argument: &String| {
        let mut command = project.build_command(&["--build-arg", argument]);
        // What is not remembered is told there alone.
        command.env("KILN_LOG", "debug");
        project.start(command)
    };
    let running: Vec<_> = arguments.iter().map(start).collect();
    let said: Vec<String> = running
        .into_iter()
        .map(|run| run.finish().ok().stderr)
        .collect();
    let story = project.kiln(&["explain", "--format", "json"]);
    assert_eq!(story.status, 0, "{}\n{}", story.stderr, said.join("\n"));
    let story: Value = serde_json::from_str(story.text()).unwrap();
    assert_eq!(story["steps"].as_array().unwrap().len(), 1, "{story}");

    let run = project.build(&["--build-arg", "N=last"]).ok();
    assert_eq!(
        phrases(&run).into_values().collect::<Vec<_>>(),
        ["heredoc changed"],
        "{}\n{}",
        run.stderr,
        said.join("\n")
    );
}
