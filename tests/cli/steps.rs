//! `--remote-cache` at a registry: steps that one machine made are found by another, whatever becomes of the registry.

use crate::caches::{DOCKERFILE, machine, ran};
use crate::support::{Project, Run};
use serde_json::{Value, json};
use std::time::Instant;

use testkit::registry::{Action, FakeRegistry, Fault, sha256};
use testkit::{DockerRegistry, RegistrySetup};

const REPOSITORY: &str = "team/steps";

fn at(registry: &FakeRegistry, more: &str) -> String {
    let host = registry.host();
    format!("--remote-cache=registry://{host}/{REPOSITORY}{more}")
}

/// Builds, and gives the image's ID too.
#[track_caller]
pub fn build(project: &Project, args: &[&str]) -> (String, Run) {
    let mut all = vec!["--iidfile", "id", "-t", "x"];
    all.extend(args);
    let run = project.build(&all).ok();
    (std::fs::read_to_string(project.path("id")).unwrap(), run)
}

/// A registry with the steps of one machine; with the image's ID.
fn shared(more: &str) -> (FakeRegistry, String) {
    let registry = FakeRegistry::start();
    let (id, run) = build(&machine(), &[&at(&registry, more)]);
    assert_eq!(ran(&run).len(), 4, "{}", run.stderr);
    assert!(!run.stderr.contains("warning"), "{}", run.stderr);
    (registry, id)
}

/// Tags of steps that were put.
fn put(registry: &FakeRegistry) -> Vec<String> {
    let puts = registry.requests().into_iter();
    let puts = puts.filter(|request| request.method == "PUT");
    let tags = puts.filter_map(|request| {
        let (_, tag) = request.path.split_once("/manifests/")?;
        Some(tag.to_owned())
    });
    tags.filter(|tag| tag.starts_with("k-")).collect()
}

/// The manifest of a tag, and its record.
fn step(registry: &FakeRegistry, tag: &str) -> (Value, Value) {
    let manifest = manifest_of(registry, tag);
    let config = manifest["config"]["digest"].as_str().unwrap();
    let record = registry.pushed_blob(REPOSITORY, config).unwrap();
    (manifest, serde_json::from_slice(&record).unwrap())
}

fn manifest_of(registry: &FakeRegistry, tag: &str) -> Value {
    let digest = registry.tagged(REPOSITORY, tag).unwrap();
    let bytes = registry.manifest(REPOSITORY, &digest).unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

/// Puts another record in the place of all.
fn rewrite(registry: &FakeRegistry, change: impl Fn(&mut Value)) {
    for tag in put(registry) {
        let (mut manifest, mut record) = step(registry, &tag);
        change(&mut record);
        let bytes = record.to_string().into_bytes();
        let (size, digest) = (bytes.len(), registry.put_blob(bytes));
        let media_type = manifest["config"]["mediaType"].clone();
        manifest["config"] = json!({"mediaType": media_type, "digest": digest, "size": size});
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        registry.put_manifest(REPOSITORY, Some(&tag), media_type, manifest.to_string());
    }
}

/// The image has two layers above its base.
const OF_RESULT: usize = 2;

#[test]
fn another_store_runs_nothing_and_asks_once() {
    let (registry, id) = shared("");
    let before = registry.requests().len();
    let there = machine();
    let (again, run) = build(&there, &[&at(&registry, "")]);
    assert_eq!(ran(&run), [""; 0], "{}", run.stderr);
    assert_eq!(again, id, "the same image, times and all");
    let requests: Vec<_> = registry.requests().split_off(before);
    let manifests = requests.iter().filter(|r| r.path.contains("/manifests/"));
    assert_eq!(manifests.count(), 1, "{requests:?}");
    assert_eq!(registry.pulled_blobs().len(), OF_RESULT, "{requests:?}");
    let writes = requests
        .iter()
        .filter(|r| !["GET", "HEAD"].contains(&r.method.as_str()));
    assert_eq!(
        writes.count(),
        0,
        "what is there is left alone: {requests:?}"
    );
    // All is here now, and nobody is asked.
    let asked = registry.requests().len();
    let (_, run) = build(&there, &[&at(&registry, "")]);
    assert_eq!(ran(&run).len(), 0);
    assert_eq!(registry.requests().len(), asked);
}

#[test]
fn nothing_under_a_hit_is_downloaded() {
    let (registry, _) = shared("");
    let there = machine();
    let cache = at(&registry, ",mode=ro");
    let run = there.build(&[&cache, "-o", "type=cacheonly"]).ok();
    assert_eq!(ran(&run), [""; 0], "{}", run.stderr);
    assert_eq!(registry.pulled_blobs().len(), 0);
    // The last step is another one: what it lies over is downloaded, and nothing else.
    there.write("Dockerfile", DOCKERFILE.replace("> /size", "> /count"));
    let run = there.build(&[&cache, "-o", "type=cacheonly"]).ok();
    assert_eq!(ran(&run).len(), 1, "{}", run.stderr);
    assert_eq!(registry.pulled_blobs().len(), 1);
    assert_eq!(put(&registry).len(), put_of_all(), "mode=ro writes nothing");
}

/// Each of the four steps by definition and by content.
fn put_of_all() -> usize {
    8
}

#[test]
fn artifacts_keep_alive_all_that_they_name() {
    let (registry, _) = shared(",branch=main");
    let tags = put(&registry);
    assert_eq!(tags.len(), put_of_all());
    for tag in &tags {
        let (manifest, record) = step(&registry, tag);
        assert_eq!(manifest["artifactType"], "application/vnd.kiln.step.v1");
        let blobs = |layers: &Value, at: &str| -> Vec<String> {
            let layers = layers.as_array().unwrap().iter();
            let mut blobs: Vec<String> = layers
                .map(|layer| layer.pointer(at).unwrap().as_str().unwrap().to_owned())
                .collect();
            blobs.sort();
            blobs
        };
        let named = blobs(&record["layers"], "/blob/digest");
        assert_eq!(blobs(&manifest["layers"], "/digest"), named);
        assert!(!named.is_empty());
        for blob in &named {
            assert!(registry.pushed_blob(REPOSITORY, blob).is_some());
        }
        assert_eq!(record["version"], 1);
    }
    assert!(registry.tagged(REPOSITORY, "branch-main").is_some());
}

#[test]
fn a_branchs_index_answers_for_all_steps() {
    let (registry, id) = shared(",branch=feature/x");
    let there = machine();
    // Nothing but the index is asked for, and it is not written again.
    let before = registry.requests().len();
    let (again, run) = build(&there, &[&at(&registry, ",branch=feature/x")]);
    assert_eq!((ran(&run).len(), again), (0, id), "{}", run.stderr);
    let requests = registry.requests().split_off(before);
    let asked = |part: &str| requests.iter().filter(|r| r.path.contains(part)).count();
    assert_eq!(asked("/manifests/branch-feature-x-"), 2, "{requests:?}");
    assert_eq!(asked("/manifests/k-"), 0, "{requests:?}");
    assert_eq!(asked("/uploads/"), 0, "{requests:?}");
    // A lost index costs requests and no step.
    registry.fault(Fault::on("GET", "/manifests/branch-").status(404));
    let (_, run) = build(&machine(), &[&at(&registry, ",branch=feature/x,mode=ro")]);
    assert_eq!(ran(&run).len(), 0, "{}", run.stderr);
}

#[test]
fn salts_keep_tenants_apart() {
    let (registry, _) = shared(",salt=one");
    for (salt, steps) in [("", 4), (",salt=two", 4), (",salt=one", 0)] {
        let more = format!("{salt},mode=ro");
        let (_, run) = build(&machine(), &[&at(&registry, &more)]);
        assert_eq!(ran(&run).len(), steps, "{salt}: {}", run.stderr);
    }
    let texts = registry.requests().into_iter().map(|r| r.path);
    assert!(texts.into_iter().all(|path| !path.contains("one")));
}

#[test]
fn a_reader_without_rights_is_told_once_and_finds_all() {
    let (registry, _) = shared("");
    for method in ["POST", "PUT", "PATCH"] {
        registry.fault(Fault::on(method, REPOSITORY).error(403, "DENIED", "read only"));
    }
    let there = machine();
    let (_, run) = build(&there, &[&at(&registry, "")]);
    assert_eq!(ran(&run).len(), 0);
    there.write("source.txt", "two");
    let (_, run) = build(&there, &[&at(&registry, "")]);
    assert_eq!(ran(&run).len(), 4, "{}", run.stderr);
    let told = "it takes nothing from here, and is only read";
    assert_eq!(run.stderr.matches(told).count(), 1, "{}", run.stderr);
}

#[test]
fn steps_without_cache_are_not_asked_for_and_replace_what_is_there() {
    let (registry, _) = shared("");
    let gets = registry.count("GET", "/manifests/");
    let (_, run) = build(&machine(), &["--no-cache", &at(&registry, "")]);
    assert_eq!(ran(&run).len(), 4, "{}", run.stderr);
    assert_eq!(registry.count("GET", "/manifests/"), gets);
    assert_eq!(put(&registry).len(), 2 * put_of_all());
}

#[test]
fn steps_before_a_failure_are_shared() {
    let registry = FakeRegistry::start();
    let broken = |last: &str| {
        let project = machine();
        project.write("Dockerfile", format!("{DOCKERFILE}RUN {last}\n"));
        project
    };
    broken("exit 3")
        .build(&[&at(&registry, "")])
        .fails(1, &["exit code: 3"]);
    let (_, run) = build(&broken("true"), &[&at(&registry, "")]);
    assert_eq!(ran(&run).len(), 1, "{}", run.stderr);
}

#[test]
fn what_lies_below_a_step_goes_out_too() {
    let registry = FakeRegistry::start();
    let here = machine();
    here.build(&[]).ok();
    // Only the last step runs while the cache is there.
    here.write("Dockerfile", DOCKERFILE.replace("> /size", "> /count"));
    let (_, run) = build(&here, &[&at(&registry, "")]);
    assert_eq!(ran(&run).len(), 1, "{}", run.stderr);
    // What it lies over is found by who changes it again.
    let there = machine();
    let (_, run) = build(&there, &[&at(&registry, "")]);
    assert_eq!(ran(&run).len(), 1, "{}", run.stderr);
}

#[test]
fn layers_that_are_gone_are_made_again_and_sent_again() {
    let (registry, _) = shared("");
    registry.fault(Fault::on("GET", "/blobs/").error(404, "BLOB_UNKNOWN", "gone"));
    let (_, run) = build(&machine(), &[&at(&registry, "")]);
    assert!(!ran(&run).is_empty(), "{}", run.stderr);
    assert!(run.stderr.contains("is not used"), "{}", run.stderr);
    registry.heal();
    let (_, run) = build(&machine(), &[&at(&registry, "")]);
    assert_eq!(ran(&run).len(), 0, "{}", run.stderr);
}

#[test]
fn poisoned_records_give_no_wrong_build() {
    type Lie<'l> = (&'l str, &'l dyn Fn(&mut Value));
    let other = sha256(b"another layer");
    let lies: [Lie<'_>; 7] = [
        ("another diff_id", &|record| {
            for layer in record["layers"].as_array_mut().unwrap() {
                layer["diff_id"] = sha256(layer["diff_id"].as_str().unwrap().as_bytes()).into();
            }
        }),
        ("a foreign layer", &|record| {
            for layer in record["layers"].as_array_mut().unwrap() {
                layer["blob"]["digest"] = other.clone().into();
            }
        }),
        ("another base", &|record| {
            for base in record["bases"].as_array_mut().unwrap() {
                base[0] = other.clone().into();
            }
            // By content a layer would be found alone, which says nothing of what is below.
            record["records"][0]
                .as_object_mut()
                .unwrap()
                .remove("content");
        }),
        ("absurd sizes", &|record| {
            for layer in record["layers"].as_array_mut().unwrap() {
                layer["blob"]["size"] = u64::MAX.into();
            }
        }),
        ("absurd numbers", &|record| {
            record["records"][0]["node"] = u32::MAX.into();
        }),
        ("the record of another step", &|record| {
            record["records"][0]["key"] = "0".repeat(64).into();
            record["records"][0]["content"] = "1".repeat(64).into();
        }),
        ("another version", &|record| record["version"] = 2.into()),
    ];
    for (name, lie) in lies {
        let (registry, _) = shared("");
        rewrite(&registry, lie);
        let right = |mode: &str| {
            let there = machine();
            let run = there.build(&["-o", "out", &at(&registry, mode)]).ok();
            let read = |file: &str| std::fs::read_to_string(there.path("out").join(file)).unwrap();
            let made = [read("taken"), read("size")];
            assert_eq!(made, ["onebuilt\n", "9\n"], "{name}: {}", run.stderr);
            run
        };
        let run = right("");
        assert!(!ran(&run).is_empty(), "{name}: {}", run.stderr);
        // Who may write has put it right.
        let run = right(",mode=ro");
        assert_eq!(ran(&run).len(), 0, "{name}: {}", run.stderr);
    }
}

#[test]
fn claims_about_content_are_checked() {
    let (registry, _) = shared("");
    rewrite(&registry, |record| {
        for layer in record["layers"].as_array_mut().unwrap() {
            layer["identity"] = "f".repeat(64).into();
        }
    });
    let there = machine();
    let cache = at(&registry, ",mode=ro");
    there.build(&[&cache, "-o", "type=cacheonly"]).ok();
    // What is found by content over such layers is not what was said.
    there.write("Dockerfile", DOCKERFILE.replace("> /size", "> /count"));
    let run = there.build(&[&cache, "-o", "out"]).ok();
    let made = std::fs::read_to_string(there.path("out/count")).unwrap();
    assert_eq!(
        (made.as_str(), ran(&run).len()),
        ("9\n", 1),
        "{}",
        run.stderr
    );
    let told = "does not hold what it says";
    assert_eq!(run.stderr.matches(told).count(), 1, "{}", run.stderr);
}

#[test]
fn a_registry_that_is_not_there_holds_nothing_up() {
    let project = machine();
    let nobody = "--remote-cache=registry://127.0.0.1:1/team/steps,branch=main";
    let begun = Instant::now();
    let (_, run) = build(&project, &[nobody]);
    assert_eq!(ran(&run).len(), 4, "{}", run.stderr);
    let told = "remote cache 127.0.0.1:1/team/steps: it is not used";
    assert_eq!(run.stderr.matches(told).count(), 1, "{}", run.stderr);
    assert!(begun.elapsed().as_secs() < 60);
}

#[test]
fn a_registry_that_breaks_is_told_once_and_fails_nothing() {
    for (method, path) in [
        ("GET", "/manifests/"),
        ("PUT", "/manifests/"),
        ("POST", "/blobs/"),
    ] {
        let registry = FakeRegistry::start();
        registry.fault(Fault::on(method, path).status(500));
        let (_, run) = build(&machine(), &[&at(&registry, "")]);
        assert_eq!(ran(&run).len(), 4, "{}", run.stderr);
        let told = run.stderr.matches("remote cache").count();
        assert_eq!(told, 1, "{method}: {}", run.stderr);
    }
}

#[test]
fn slow_answers_are_not_waited_for_twice() {
    let registry = FakeRegistry::start();
    let late = Action::Delay(std::time::Duration::from_millis(300));
    registry.fault(Fault::on("GET", "/manifests/k-").with(late));
    let (_, run) = build(&machine(), &[&at(&registry, "")]);
    assert_eq!(ran(&run).len(), 4, "{}", run.stderr);
    assert!(registry.most_in_flight() > 1, "keys are asked for at once");
}

#[test]
fn many_writers_lose_no_step() {
    let registry = FakeRegistry::start();
    writers_lose_no_step(&at(&registry, ",branch=main"));
}

/// Builds of several machines at once, each with a step of its own, and what is there of them afterwards.
pub(crate) fn writers_lose_no_step(cache: &str) {
    let of = |number: usize| {
        let project = machine();
        project.write("source.txt", format!("{number}"));
        project
    };
    std::thread::scope(|scope| {
        for number in 0..4 {
            scope.spawn(move || build(&of(number), &[cache]));
        }
    });
    for number in 0..4 {
        let (_, run) = build(&of(number), &[cache]);
        assert_eq!(ran(&run).len(), 0, "{number}: {}", run.stderr);
    }
}

#[test]
fn debians_registry_takes_steps_and_indexes() {
    let Some(registry) = DockerRegistry::start(&RegistrySetup::default()) else {
        return;
    };
    let cache = format!(
        "--remote-cache=registry://{}/team/steps,branch=main",
        registry.host()
    );
    let (id, run) = build(&machine(), &[&cache]);
    assert!(!run.stderr.contains("remote cache"), "{}", run.stderr);
    let (again, run) = build(&machine(), &[&cache]);
    assert_eq!((ran(&run).len(), again), (0, id), "{}", run.stderr);
    let (_, run) = build(&machine(), &[&cache.replace(",branch=main", "")]);
    assert_eq!(ran(&run).len(), 0, "{}", run.stderr);
}
