//! Why steps run on a machine that has a cache from elsewhere and nothing else: compared with the build that wrote it.

use crate::caches::{from, to, to_registry};
use crate::support::{Project, Run, files_below};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use testkit::digest_of;
use testkit::registry::FakeRegistry;

const DOCKERFILE: &str = "\
FROM busybox AS build
ARG WORD=first-word
ENV GREETING=hello-to-all
COPY src /src
RUN echo $WORD $GREETING && cat /src/f1 > /out
FROM scratch
COPY --from=build /out /out
COPY notes /notes
";
const MEMORY: &str = "application/vnd.kiln.cache.memory.v1+zstd";

/// A machine with that Dockerfile, its context and nothing else.
fn machine() -> Project {
    let project = Project::new(DOCKERFILE);
    for number in 1..=5 {
        project.write(&format!("src/f{number}"), format!("{number}\n"));
    }
    project.write("notes", "notes");
    for (path, mode) in [("src", 0o755), ("src/f1", 0o644), ("notes", 0o644)] {
        let path = project.path("context").join(path);
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    project
}

/// The phrases of a plain log, by the instruction's first words.
fn phrases(run: &Run) -> BTreeMap<String, String> {
    let by_name = crate::explain::phrases(run).into_iter();
    let shortened = by_name.map(|(name, why)| {
        let words: Vec<&str> = name.split(' ').take(2).collect();
        (words.join(" "), why)
    });
    shortened.collect()
}

#[track_caller]
fn says(run: &Run, expected: &[(&str, &str)]) {
    let expected: BTreeMap<String, String> = expected
        .iter()
        .map(|(name, why)| ((*name).to_owned(), (*why).to_owned()))
        .collect();
    assert_eq!(phrases(run), expected, "{}", run.stderr);
}

const COPY: &str = "COPY src";
const RUN: &str = "RUN echo";
const LAST: &str = "COPY --from=build";
const NOTES: &str = "COPY notes";

type Change = (
    &'static str,
    fn(&Project),
    &'static [&'static str],
    Vec<(&'static str, &'static str)>,
);

fn changes() -> Vec<Change> {
    let below = |line: &'static str| vec![(LAST, line), (NOTES, line)];
    let with =
        |own: &[(&'static str, &'static str)], line: &'static str| [own, &below(line)].concat();
    let file = "1 of 5 files changed: src/f1 (content)";
    let mode =
        "1 of 5 files changed: src/f1 (mode 644 -> 664); --context-mode=git would not see it";
    let (at_copy, at_run) = ("parent changed at line 4", "parent changed at line 5");
    vec![
        (
            "a file",
            |p| drop(p.write("src/f1", "changed")),
            &[],
            with(&[(COPY, file), (RUN, at_copy)], at_copy),
        ),
        (
            "a mode",
            |p| {
                let path = p.path("context/src/f1");
                fs::set_permissions(path, fs::Permissions::from_mode(0o664)).unwrap();
            },
            &[],
            with(&[(COPY, mode), (RUN, at_copy)], at_copy),
        ),
        (
            "an argument",
            |_| (),
            &["--build-arg", "WORD=second"],
            with(&[(RUN, "build arg WORD changed")], at_run),
        ),
        (
            "a variable",
            |p| drop(p.write("Dockerfile", DOCKERFILE.replace("hello-to-all", "bye"))),
            &[],
            with(&[(RUN, "env GREETING changed")], at_run),
        ),
        (
            "a command",
            |p| drop(p.write("Dockerfile", DOCKERFILE.replace("&& cat", "; cat"))),
            &[],
            with(
                &[(
                    RUN,
                    "command echo $WORD $GREETING && cat /src/f1 > /out -> echo $WORD $GREETING ; cat /src/f1 > /out",
                )],
                at_run,
            ),
        ),
        (
            "a step more",
            |p| drop(p.write("Dockerfile", DOCKERFILE.replace("RUN", "RUN true\nRUN"))),
            &[],
            with(
                &[
                    ("RUN true", "not in the last build"),
                    (RUN, "parent changed at line 5"),
                ],
                "parent changed at line 5",
            ),
        ),
    ]
}

/// What is told of each change by a machine that has nothing but the cache.
#[track_caller]
fn all_changes_are_told(to: &str, from: &str, name: &str) {
    machine().build(&[to]).ok();
    for (what, change, args, expected) in changes() {
        let there = machine();
        change(&there);
        let run = there.build(&[args, &[from]].concat()).ok();
        let expected: Vec<(&str, &str)> = expected
            .into_iter()
            .filter(|(step, _)| {
                phrases(&run).contains_key(*step) || *step != NOTES && *step != LAST
            })
            .collect();
        says(&run, &expected);
        let compared = format!("comparing with the build that wrote {name}, 20");
        assert!(run.stderr.contains(&compared), "{what}: {}", run.stderr);
    }
}

#[test]
fn ca10_misses_are_compared_with_the_build_that_wrote_a_cache_in_a_folder() {
    let place = machine();
    let cache = place.path("cache");
    let name = format!("local:{}", cache.display());
    all_changes_are_told(&to(&cache, ",mode=max"), &from(&cache), &name);
    let index = to(&cache, ",mode=max,image-manifest=false,reset=true");
    machine().build(&[&index]).ok();
    let there = machine();
    there.write("src/f1", "changed");
    let told = phrases(&there.build(&[&from(&cache)]).ok());
    assert_eq!(told[COPY], "1 of 5 files changed: src/f1 (content)");
}

#[test]
fn ca10_misses_are_compared_with_the_build_that_wrote_a_cache_in_a_registry() {
    let registry = FakeRegistry::start();
    let reference = crate::caches::reference(&registry);
    let to = to_registry(&reference, ",mode=max");
    all_changes_are_told(&to, &format!("--cache-from={reference}"), &reference);
}

/// The memory is one more blob, read when something has to run, and not otherwise.
#[test]
fn a_build_with_nothing_to_run_reads_no_memory() {
    let registry = FakeRegistry::start();
    let reference = crate::caches::reference(&registry);
    let to = to_registry(&reference, ",mode=max");
    let here = machine();
    here.build(&[&to]).ok();
    let from = format!("--cache-from={reference}");
    let there = machine();
    let args = [from.as_str(), "--output", "type=cacheonly"];
    let run = there.build(&args).ok();
    says(&run, &[]);
    assert_eq!(registry.pulled_blobs().len(), 1, "the records alone");
    // Nor is anything written where all is there.
    let puts = registry.count("PUT", "");
    here.build(&[&to]).ok();
    there.build(&[&from, &to]).ok();
    assert_eq!(registry.count("PUT", ""), puts);

    there.write("src/f1", "changed");
    let before = registry.pulled_blobs().len();
    let plan = |args: &[&str]| {
        let mut command = there.command(&["plan"]);
        command.args(crate::support::with_busybox());
        there.run({
            command.args(args).arg("context");
            command
        })
    };
    // This store remembers a build of its own.
    assert!(!plan(&[&from]).ok().text().contains("Compared with"));
    assert_eq!(registry.pulled_blobs().len(), before);
}

#[test]
fn ca10_explain_and_plan_tell_what_they_compare_with() {
    let (here, there) = (machine(), machine());
    let cache = here.path("cache");
    here.build(&[&to(&cache, ",mode=max")]).ok();
    there.write("src/f1", "changed");
    let plan = |args: &[&str]| {
        let mut command = there.command(&["plan"]);
        command.args(crate::support::with_busybox());
        command.args(args).arg("context");
        there.run(command).ok()
    };
    let alone = plan(&[]);
    let first =
        "It would be the first build of this Dockerfile here: there is nothing to compare with.\n";
    assert!(alone.text().starts_with(first), "{}", alone.text());
    let foreseen = plan(&[&from(&cache)]);
    let compared = format!(
        "ompared with the build that wrote local:{}, 20",
        cache.display()
    );
    assert!(foreseen.text().contains(&compared), "{}", foreseen.text());
    let file = "1 of 5 files changed: src/f1 (content)";
    assert!(foreseen.text().contains(file), "{}", foreseen.text());
    let json: Value =
        serde_json::from_str(plan(&[&from(&cache), "--format", "json"]).text()).unwrap();
    let name = format!("local:{}", cache.display());
    assert_eq!(json["comparedWith"]["cache"], json!(name));

    there.build(&[&from(&cache)]).ok();
    let told = there.kiln(&["explain"]).ok();
    assert!(told.text().contains(&compared), "{}", told.text());
    let full = there.kiln(&["explain", "build:4"]).ok();
    assert!(full.text().contains("src/f1: content"), "{}", full.text());
    let told = there.kiln(&["explain", "--format", "json"]).ok();
    let told: Value = serde_json::from_str(told.text()).unwrap();
    assert_eq!(told["comparedWith"]["cache"], json!(name));
    assert!(
        told["comparedWith"]["time"]
            .as_str()
            .unwrap()
            .starts_with("20")
    );
    // The next build is compared with this one.
    there.write("src/f1", "changed again");
    there.build(&[&from(&cache)]).ok();
    let told = there.kiln(&["explain", "--format", "json"]).ok();
    let told: Value = serde_json::from_str(told.text()).unwrap();
    assert_eq!(told["comparedWith"], Value::Null);
    assert_eq!(told["compared"], json!(true));
}

#[test]
fn a_variable_that_is_known_by_its_digest_alone_is_told_without_values() {
    let (here, there) = (machine(), machine());
    let cache = here.path("cache");
    here.build(&[&to(&cache, ",mode=max")]).ok();
    there
        .build(&[&from(&cache), "--build-arg", "WORD=second"])
        .ok();
    let told = there.kiln(&["explain", "build:5", "--format", "json"]).ok();
    let told: Value = serde_json::from_str(told.text()).unwrap();
    let expected = json!([{ "name": "build arg WORD", "old": null, "new": null }]);
    assert_eq!(told["fields"], expected);
    let told = there.kiln(&["explain", "build:5"]).ok();
    assert!(
        told.text().contains("\n  build arg WORD: changed"),
        "{}",
        told.text()
    );
}

#[test]
fn a_base_image_that_is_another_is_told() {
    let (here, there) = (machine(), machine());
    for project in [&here, &there] {
        project.write("Dockerfile", "FROM mine/base:1\nCOPY src /src\n");
        project.write("base.Dockerfile", "FROM busybox\nCOPY notes /which\n");
    }
    let base = ["-f", "context/base.Dockerfile", "-t", "mine/base:1"];
    here.build(&base).ok();
    let cache = here.path("cache");
    here.build(&[&to(&cache, "")]).ok();
    there.write("notes", "other notes");
    there.build(&base).ok();
    let run = there.build(&[&from(&cache)]).ok();
    let why = &phrases(&run)[COPY];
    assert!(why.starts_with("base mine/base:1 sha256:"), "{why}");
}

/// Everything of a cache in a folder, decompressed where it is.
fn plain_bytes(cache: &Path) -> Vec<u8> {
    let mut all = Vec::new();
    for path in files_below(cache) {
        let bytes = fs::read(&path).unwrap();
        let opened = zstd::stream::decode_all(bytes.as_slice());
        all.extend(opened.unwrap_or_default());
        all.extend(bytes);
    }
    all
}

fn has(bytes: &[u8], text: &str) -> bool {
    bytes
        .windows(text.len())
        .any(|part| part == text.as_bytes())
}

#[test]
fn mode_min_tells_nothing_of_stages_that_are_not_in_the_result() {
    let (here, there) = (machine(), machine());
    let cache = here.path("cache");
    here.build(&[&to(&cache, ",compression=uncompressed")]).ok();
    let bytes = plain_bytes(&cache);
    for secret in [
        "WORD",
        "first-word",
        "GREETING",
        "hello-to-all",
        "src/f1",
        "\"build\"",
    ] {
        assert!(!has(&bytes, secret), "{secret}");
    }
    assert!(
        has(&bytes, "COPY notes /notes"),
        "what is in the result is told"
    );
    there.write("src/f1", "changed");
    let run = there.build(&[&from(&cache), "--build-arg=WORD=other"]).ok();
    let min = "not in the cache, which has only what is in the result (mode=min)";
    let told = phrases(&run);
    assert_eq!(told[COPY], "context files changed", "{}", run.stderr);
    assert_eq!(told[RUN], "instruction or its variables changed");
    assert_eq!(told[LAST], "parent changed at line 4");
    // What did not change, and has to be made as something else changed.
    let other = machine();
    let args = [&from(&cache), "--build-arg=WORD=other"];
    let run = other
        .build(&args.map(String::from).each_ref().map(String::as_str))
        .ok();
    assert_eq!(phrases(&run)[COPY], min, "{}", run.stderr);
}

#[test]
fn mode_max_has_no_values_of_variables() {
    let here = machine();
    let cache = here.path("cache");
    let args = ["--build-arg=WORD=of-the-command-line", "--no-cache"];
    here.build(
        &[
            &args,
            [to(&cache, ",mode=max,compression=uncompressed").as_str()].as_slice(),
        ]
        .concat(),
    )
    .ok();
    let bytes = plain_bytes(&cache);
    for value in ["of-the-command-line", "hello-to-all"] {
        assert!(!has(&bytes, value), "{value}");
    }
    assert!(has(&bytes, "env WORD"), "names are told");
}

/// A place keeps several builds, and a build is compared with the one that is most like it.
#[test]
fn two_branches_and_two_dockerfiles_keep_what_each_remembers() {
    let main = machine();
    let cache = main.path("cache");
    let export = to(&cache, ",mode=max");
    main.build(&[&export]).ok();
    let branch = machine();
    branch.write("notes", "of the branch");
    branch.write("src/f2", "of the branch");
    branch.build(&[&from(&cache), &export]).ok();
    let other = machine();
    other.write("Dockerfile", "FROM scratch\nCOPY notes /other\n");
    other.build(&[&from(&cache), &export]).ok();
    assert_eq!(memories(&cache).len(), 3);

    for of_branch in [false, true] {
        let there = machine();
        if of_branch {
            there.write("notes", "of the branch");
            there.write("src/f2", "of the branch");
        }
        there.write("src/f3", "changed");
        let run = there.build(&[&from(&cache)]).ok();
        assert_eq!(
            phrases(&run)[COPY],
            "1 of 5 files changed: src/f3 (content)",
            "{}",
            run.stderr
        );
    }
    let there = machine();
    there.write("Dockerfile", "FROM scratch\nCOPY notes /other\n");
    there.write("notes", "changed");
    let run = there.build(&[&from(&cache)]).ok();
    assert_eq!(
        phrases(&run)[NOTES],
        "1 of 1 files changed: notes (content)"
    );
}

fn index(cache: &Path) -> Value {
    serde_json::from_slice(&fs::read(cache.join("index.json")).unwrap()).unwrap()
}

fn blob(cache: &Path, digest: &Value) -> PathBuf {
    let digest = digest.as_str().unwrap().replacen(':', "/", 1);
    cache.join("blobs").join(digest)
}

fn manifest(cache: &Path) -> Value {
    let path = blob(cache, &index(cache)["manifests"][0]["digest"]);
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn memories(cache: &Path) -> Vec<Value> {
    let manifest = manifest(cache);
    let layers = manifest["layers"].as_array().unwrap().iter();
    layers
        .filter(|layer| layer["mediaType"] == MEMORY)
        .cloned()
        .collect()
}

/// Writes the cache's manifest anew.
fn change(cache: &Path, edit: impl FnOnce(&mut Vec<Value>)) {
    let mut manifest = manifest(cache);
    edit(manifest["layers"].as_array_mut().unwrap());
    let bytes = manifest.to_string().into_bytes();
    let digest = digest_of(&bytes);
    fs::write(blob(cache, &json!(digest)), &bytes).unwrap();
    let mut index = index(cache);
    index["manifests"][0]["digest"] = json!(digest);
    index["manifests"][0]["size"] = json!(bytes.len());
    fs::write(cache.join("index.json"), index.to_string()).unwrap();
}

/// A cache of a program that remembers nothing is used as before, and the next export adds what it remembers.
#[test]
fn a_cache_without_memories_says_less() {
    let (here, there) = (machine(), machine());
    let cache = here.path("cache");
    let export = to(&cache, ",mode=max");
    here.build(&[&export]).ok();
    change(&cache, |layers| {
        layers.retain(|layer| layer["mediaType"] != MEMORY);
    });
    there.write("notes", "changed");
    let run = there.build(&[&from(&cache)]).ok();
    says(&run, &[]);
    assert!(!run.stderr.contains("comparing with"));
    assert_eq!(crate::caches::ran(&run).len(), 1, "{}", run.stderr);
    here.build(&[&export]).ok();
    assert_eq!(memories(&cache).len(), 1);
    let run = machine();
    run.write("notes", "changed");
    let told = phrases(&run.build(&[&from(&cache)]).ok());
    assert_eq!(told[NOTES], "1 of 1 files changed: notes (content)");
}

/// What is in the place of a memory changes nothing of the build, and nothing of it reaches the terminal.
#[test]
fn damaged_and_hostile_memories_only_say_less() {
    let here = machine();
    let cache = here.path("cache");
    here.build(&[&to(&cache, ",mode=max")]).ok();
    let sound = fs::read(blob(&cache, &memories(&cache)[0]["digest"])).unwrap();
    let plain = String::from_utf8(zstd::decode_all(sound.as_slice()).unwrap()).unwrap();
    let packed = |text: String| zstd::encode_all(text.as_bytes(), 1).unwrap();
    let bomb = zstd::encode_all(vec![b'['; 64 << 20].as_slice(), 1).unwrap();
    let cases: [(&str, Vec<u8>, bool); 6] = [
        ("cut", sound[..sound.len() / 2].to_vec(), true),
        ("no compression", b"{}".to_vec(), true),
        ("a bomb", bomb, true),
        (
            "inputs that are not there",
            packed(plain.replace("\"inputs\":[0", "\"inputs\":[77")),
            true,
        ),
        (
            "another version",
            packed(plain.replace("\"version\":1", "\"version\":9")),
            true,
        ),
        (
            "what a terminal obeys",
            packed(
                plain
                    .replace("COPY notes", "\\u001b[2J\\u009b\\u202enotes")
                    .replace("build", "\\u001b[31m"),
            ),
            false,
        ),
    ];
    for (what, bytes, is_told) in cases {
        let digest = digest_of(&bytes);
        fs::write(blob(&cache, &json!(digest)), &bytes).unwrap();
        change(&cache, |layers| {
            for layer in layers.iter_mut().filter(|l| l["mediaType"] == MEMORY) {
                layer["digest"] = json!(digest);
                layer["size"] = json!(bytes.len());
            }
        });
        let there = machine();
        there.write(
            "Dockerfile",
            DOCKERFILE
                .replace("COPY notes", "RUN true\nCOPY notes")
                .replace("FROM scratch", "FROM busybox"),
        );
        let run = there.build(&[&from(&cache)]).ok();
        let says = run
            .stderr
            .contains("what it remembers of a build is not used");
        assert_eq!(says, is_told, "{what}: {}", run.stderr);
        let told = there.kiln(&["explain"]).ok();
        let full = there.kiln(&["explain", "5"]).ok();
        for text in [run.stderr.as_str(), told.text(), full.text()] {
            let is_clean = !text.contains(['\u{1b}', '\u{9b}', '\u{202e}']);
            assert!(is_clean, "{what}: {text}");
        }
    }
}
