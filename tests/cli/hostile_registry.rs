//! Registries that mean harm: what they send ends in a clear error, in bounded memory and time, with nothing outside
//! of the store and no credential in any message.

use crate::registries::{
    LAYER, OCI_CONFIG, OCI_INDEX, OCI_MANIFEST, blob, config, image, project, put, tar,
};
use crate::support::{Project, Run, files_below};
use serde_json::{Value, json};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use testkit::registry::{Action, FakeRegistry, Fault, sha256};

/// More than any of these pulls may need, in KiB, in a build that is not optimised.
const MEMORY: u64 = 100 << 10;
/// Longer than any of them may take.
const TIME: Duration = Duration::from_secs(20);

/// Runs a command and watches its memory; the run, and the peak in KiB.
fn watched(project: &Project, command: Command) -> (Run, u64) {
    let started = project.start(command);
    let status = format!("/proc/{}/status", started.id());
    let (peak, ended) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                let text = std::fs::read_to_string(&status).unwrap_or_default();
                let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
                let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
                if let Some(kib) = kib.and_then(|kib| kib.trim().parse().ok()) {
                    peak.fetch_max(kib, Ordering::Relaxed);
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        let run = started.finish();
        ended.store(true, Ordering::Relaxed);
        (run, peak.load(Ordering::Relaxed))
    })
}

/// Pulls and builds on `hostile:TAG`: both fail and say this, within bounds.
#[track_caller]
fn refused(registry: &FakeRegistry, tag: &str, says: &[&str]) {
    let name = format!("{}/hostile:{tag}", registry.host());
    let attempts = [
        vec!["pull", "--retry", "1", &name],
        vec!["pull", "--retry", "1", "--unpack", "--all-platforms", &name],
        vec!["build", "--retry", "1", "-t", "result", "context"],
    ];
    for args in attempts {
        let project = project();
        project.write("Dockerfile", format!("FROM {name}\nCOPY Dockerfile /\n"));
        let outside = |project: &Project| {
            let all = files_below(project.path("").as_path());
            let is_own = |path: &&std::path::PathBuf| {
                let name = path.file_name().unwrap().to_string_lossy();
                !path.starts_with(project.store()) && !name.starts_with("std")
            };
            all.iter().filter(is_own).cloned().collect::<Vec<_>>()
        };
        let before = outside(&project);
        let started = Instant::now();
        let (run, peak) = watched(&project, project.command(&args));
        let context = format!("{tag} {args:?}");
        assert_ne!(run.status, 0, "{context}");
        assert!(
            started.elapsed() < TIME,
            "{context}: {:?}",
            started.elapsed()
        );
        assert!(peak < MEMORY, "{context}: {peak} KiB");
        assert!(
            run.stderr.len() < 4000,
            "{context}: {} bytes of errors",
            run.stderr.len()
        );
        assert!(!run.stderr.contains('\x1b'), "{context}: {:?}", run.stderr);
        for text in says {
            assert!(
                run.stderr.contains(text),
                "{context}: no {text:?} in {}",
                run.stderr
            );
        }
        // A base is known by name once its config is.
        let images = project.images();
        assert!(
            images
                .iter()
                .all(|image| args[0] == "build" && *image == name),
            "{context}: {images:?}"
        );
        assert_eq!(outside(&project), before, "{context}");
    }
}

/// A manifest of one config and these layers.
fn manifest(config: &Value, layers: &[Value]) -> Value {
    json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": layers})
}

fn good_config(registry: &FakeRegistry, layer: &[u8]) -> Value {
    let text = config(&[sha256(layer)]).to_string();
    blob(registry, OCI_CONFIG, text.as_bytes())
}

fn text(registry: &FakeRegistry, tag: &str, media_type: &str, text: String) {
    registry.put_manifest("hostile", Some(tag), media_type, text);
}

#[test]
fn g02_bombs_of_json_do_not_go_off() {
    let registry = FakeRegistry::start();
    let limit = 4 << 20;
    let nested = format!(
        r#"{{"schemaVersion": 2, "manifests": [], "x": {}"#,
        "[".repeat(limit - 100)
    );
    text(&registry, "deep", OCI_INDEX, nested);
    refused(&registry, "deep", &["bad JSON"]);
    let balanced = format!(
        r#"{{"schemaVersion": 2, "manifests": [], "x": {}{}}}"#,
        "[".repeat(90_000),
        "]".repeat(90_000)
    );
    text(&registry, "balanced", OCI_INDEX, balanced);
    refused(&registry, "balanced", &["recursion limit exceeded"]);

    let wide = format!(
        r#"{{"schemaVersion": 2, "mediaType": "{OCI_INDEX}", "manifests": [{}{{}}]}}"#,
        "{},".repeat(limit / 3 - 100)
    );
    text(&registry, "wide", OCI_INDEX, wide);
    refused(&registry, "wide", &["more than 200000 values"]);

    let keys: String = (0..300_000).map(|n| format!("\"{n}\":0,")).collect();
    let many = format!(r#"{{"schemaVersion": 2, "config": {{}}, "layers": [], {keys} "z": 0}}"#);
    text(&registry, "keys", OCI_MANIFEST, many);
    refused(&registry, "keys", &["more than 200000 values"]);

    let layer = tar("a", "b");
    let bomb = format!(r#"{{"os": "linux", "x": [{}0]}}"#, "0,".repeat(3 << 20));
    let desc = blob(&registry, OCI_CONFIG, bomb.as_bytes());
    put(
        &registry,
        "hostile:config",
        OCI_MANIFEST,
        &manifest(&desc, &[blob(&registry, LAYER, &layer)]),
    );
    refused(
        &registry,
        "config",
        &["not an image config", "more than 200000 values"],
    );

    let large = format!(r#"{{"os": "linux", "x": "{}"}}"#, "x".repeat(9 << 20));
    let desc = blob(&registry, OCI_CONFIG, large.as_bytes());
    put(
        &registry,
        "hostile:large",
        OCI_MANIFEST,
        &manifest(&desc, &[]),
    );
    refused(&registry, "large", &["is larger than the limit of 8388608"]);
}

#[test]
fn g02_endless_manifests_end() {
    let registry = FakeRegistry::start();
    for (tag, actions) in [
        ("huge", vec![Action::Huge(1 << 40)]),
        ("endless", vec![Action::Huge(1 << 40), Action::Chunked]),
    ] {
        text(&registry, tag, OCI_MANIFEST, "{}".to_owned());
        let fault = Fault::on("GET", &format!("/manifests/{tag}"));
        registry.fault(actions.into_iter().fold(fault, Fault::with));
        refused(&registry, tag, &["larger than 4194304 bytes"]);
    }
}

#[test]
fn g03_descriptors_that_lie_are_found_out() {
    let registry = FakeRegistry::start();
    let layer = tar("a", vec![1; 200_000]);
    let config = good_config(&registry, &layer);
    let honest = blob(&registry, LAYER, &layer);
    let with = |key: &str, value: Value| {
        let mut desc = honest.clone();
        desc[key] = value;
        desc
    };
    let cases = [
        ("smaller", with("size", json!(1000)), "expected 1000 bytes"),
        (
            "larger",
            with("size", json!(1_u64 << 50)),
            "expected 1125899906842624 bytes",
        ),
        (
            "largest",
            with("size", json!(u64::MAX)),
            "its layers have an impossible size",
        ),
        ("negative", with("size", json!(-1)), "not a manifest"),
        (
            "path",
            with("digest", json!("sha256:../../../../../../etc/passwd")),
            "not a sha256 digest",
        ),
        (
            "short",
            with("digest", json!("sha256:00")),
            "not a sha256 digest",
        ),
        (
            "upper",
            with("digest", json!(format!("sha256:{}", "A".repeat(64)))),
            "not a sha256 digest",
        ),
        (
            "other",
            with("digest", json!(format!("sha512:{}", "0".repeat(128)))),
            "not a sha256 digest",
        ),
        (
            "missing",
            with("digest", json!(format!("sha256:{}", "0".repeat(64)))),
            "404",
        ),
    ];
    for (tag, desc, says) in cases {
        put(
            &registry,
            &format!("hostile:{tag}"),
            OCI_MANIFEST,
            &manifest(&config, &[desc]),
        );
        refused(&registry, tag, &[says]);
    }
}

#[test]
fn g03_descriptors_of_configs_that_lie_are_found_out() {
    let registry = FakeRegistry::start();
    let layer = tar("a", "b");
    let mut lying = good_config(&registry, &layer);
    let honest = blob(&registry, LAYER, &layer);
    lying["size"] = json!(u64::MAX);
    put(
        &registry,
        "hostile:config",
        OCI_MANIFEST,
        &manifest(&lying, std::slice::from_ref(&honest)),
    );
    refused(&registry, "config", &["is larger than the limit"]);
    lying["size"] = json!(5);
    put(
        &registry,
        "hostile:config2",
        OCI_MANIFEST,
        &manifest(&lying, std::slice::from_ref(&honest)),
    );
    refused(&registry, "config2", &["expected 5 bytes"]);
    lying["digest"] = json!("sha256:/../../x");
    put(
        &registry,
        "hostile:config3",
        OCI_MANIFEST,
        &manifest(&lying, &[honest]),
    );
    refused(&registry, "config3", &["not a sha256 digest"]);
}

#[test]
fn g02_indexes_without_end_or_sense_are_refused() {
    let registry = FakeRegistry::start();
    let entry =
        |digest: &str, size: usize| json!({"mediaType": OCI_INDEX, "digest": digest, "size": size});
    let index = |manifests: Vec<Value>| json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests});
    // Seven levels of indexes.
    let layer = tar("a", "b");
    let desc = blob(&registry, LAYER, &layer);
    let mut inner = (image(&registry, "hostile:inner", &[(layer, desc)]), 1);
    for level in 0..7 {
        let document = index(vec![entry(&inner.0, inner.1)]);
        let size = document.to_string().len();
        inner = (
            put(
                &registry,
                &format!("hostile:deep{level}"),
                OCI_INDEX,
                &document,
            ),
            size,
        );
    }
    refused(&registry, "deep6", &["indexes nested more than 4 deep"]);

    put(
        &registry,
        "hostile:path",
        OCI_INDEX,
        &index(vec![{
            let mut bad = entry("sha256:../../x", 10);
            bad["platform"] = json!({"os": "linux", "architecture": "amd64"});
            bad
        }]),
    );
    refused(&registry, "path", &["not a sha256 digest"]);

    let all = (0..2000)
        .map(|n| entry(&sha256(format!("{n}").as_bytes()), 10))
        .collect();
    put(&registry, "hostile:many", OCI_INDEX, &index(all));
    let before = registry.requests().len();
    refused(&registry, "many", &[]);
    assert!(
        registry.requests().len() - before < 100,
        "not one request for each"
    );

    put(&registry, "hostile:empty", OCI_INDEX, &index(Vec::new()));
    refused(&registry, "empty", &[]);
}

#[test]
fn g02_absurd_images_are_refused() {
    let registry = FakeRegistry::start();
    let layer = tar("a", "b");
    let desc = blob(&registry, LAYER, &layer);
    let layers: Vec<(Vec<u8>, Value)> = vec![(layer.clone(), desc.clone()); 3000];
    image(&registry, "hostile:layers", &layers);
    refused(
        &registry,
        "layers",
        &["it has 3000 layers, more than the 2000"],
    );

    for (tag, text, says) in [
        (
            "ids",
            r#"{"rootfs": {"diff_ids": ["sha256:../../../x"]}}"#,
            "not a sha256 digest",
        ),
        ("kinds", r#"{"rootfs": {"diff_ids": [5]}}"#, "bad diff_ids"),
        ("array", "[]", "diff_ids"),
        ("none", "not json", "not an image config"),
        ("utf8", "\u{0}\u{1}", "not an image config"),
    ] {
        let config = blob(&registry, OCI_CONFIG, text.as_bytes());
        put(
            &registry,
            &format!("hostile:{tag}"),
            OCI_MANIFEST,
            &manifest(&config, std::slice::from_ref(&desc)),
        );
        refused(&registry, tag, &[says]);
    }
    // A layer that leads out of its root, and one that is no tar.
    for (tag, bytes) in [
        ("out", tar("../../../../evil", "x".repeat(100_000))),
        (
            "absolute-link",
            testkit::archive(&[
                testkit::Entry::symlink("l", "/"),
                testkit::Entry::file("l/evil", "x"),
            ])
            .unwrap(),
        ),
        ("noise", crate::registries::noise(100_000)),
    ] {
        let desc = blob(&registry, LAYER, &bytes);
        image(&registry, &format!("hostile:{tag}"), &[(bytes, desc)]);
        let project = project();
        let name = format!("{}/hostile:{tag}", registry.host());
        project.kiln(&["pull", "--unpack", &name]);
        assert!(!project.path("evil").exists() && !std::path::Path::new("/evil").exists());
    }
}

#[test]
fn g01_no_credential_is_printed_whatever_the_registry_says() {
    let secret = "hunter2-secret";
    let basic = "dXNlcjpodW50ZXIyLXNlY3JldA==";
    let registry = FakeRegistry::start();
    let elsewhere = FakeRegistry::start();
    text(&registry, "v1", OCI_MANIFEST, "{}".to_owned());
    let name = format!("{}/hostile:v1", registry.host());
    let challenge = (
        "WWW-Authenticate".to_owned(),
        "Basic realm=\"x\"".to_owned(),
    );
    let error = |words: &str| json!({"errors": [{"code": "DENIED", "message": words}]}).to_string();
    let cases = [
        error(&format!("you sent Basic {basic}")),
        error(&format!("user:{secret} is not welcome")),
        error("\u{1b}[2J\u{1b}]0;gone\u{7} \u{9b}31m cleared"),
        format!("<html>{secret} {basic} {}</html>", "x".repeat(1 << 20)),
    ];
    for body in cases {
        registry.heal();
        registry.fault(Fault::on("GET", "/v2/").times(1).with(Action::Answer {
            status: 401,
            headers: vec![challenge.clone()],
            body: Vec::new(),
        }));
        registry.fault(Fault::on_any("/manifests/").with(Action::Answer {
            status: 403,
            headers: vec![("Content-Type".to_owned(), "application/json".to_owned())],
            body: body.into_bytes(),
        }));
        let project = project();
        let creds = format!("user:{secret}");
        let run = project.kiln(&["-D", "pull", "--creds", &creds, &name]);
        assert_ne!(run.status, 0);
        assert!(
            registry
                .requests()
                .iter()
                .any(|r| r.header("authorization").is_some())
        );
        for text in [secret, basic, "\u{1b}", "\u{9b}"] {
            assert!(!run.stderr.contains(text), "{text:?} in {}", run.stderr);
        }
        assert!(run.stderr.len() < 20_000, "{}", run.stderr.len());
    }
    // A redirect with a signature in its query, to a place that fails.
    let layer = tar("a", vec![1; 1000]);
    let desc = blob(&registry, LAYER, &layer);
    image(&registry, "hostile:redirected", &[(layer.clone(), desc)]);
    registry.heal();
    let to = format!(
        "http://user:{secret}@{}/blob?X-Amz-Signature={basic}&token={secret}",
        elsewhere.host()
    );
    registry.fault(Fault::on("GET", &sha256(&layer)).with(Action::Redirect(to)));
    elsewhere.fault(Fault::on_any("/blob").status(500));
    let name = format!("{}/hostile:redirected", registry.host());
    let run = project().kiln(&["-D", "pull", "--retry", "1", &name]);
    assert_ne!(run.status, 0);
    for text in [secret, basic] {
        assert!(!run.stderr.contains(text), "{text:?} in {}", run.stderr);
    }
}

#[test]
fn tags_that_are_none_do_not_become_paths() {
    let registry = FakeRegistry::start();
    registry.put_image("app", Some("good"), "amd64", &[tar("a", "b")]);
    let list =
        json!({"name": "app", "tags": ["../../../../v2/other", "a b", "\u{1b}[2J", "", "good"]});
    registry.fault(Fault::on("GET", "/tags/list").with(Action::Answer {
        status: 200,
        headers: vec![("Content-Type".to_owned(), "application/json".to_owned())],
        body: list.to_string().into_bytes(),
    }));
    let project = project();
    let name = format!("{}/app", registry.host());
    project.kiln(&["pull", "-a", &name]);
    let good = format!("{name}:good");
    assert!(project.images().iter().all(|image| *image == good));
    assert!(
        registry
            .requests()
            .iter()
            .all(|r| !r.path.contains("other"))
    );
}

/// What an index points to beside the image that was pulled is nobody's concern afterwards.
#[test]
fn g02_odd_entries_of_an_index_break_no_listing() {
    let registry = FakeRegistry::start();
    let layer = tar("a", vec![1; 5 << 20]);
    let desc = blob(&registry, LAYER, &layer);
    let good = image(&registry, "hostile:good", &[(layer.clone(), desc)]);
    let entry = |digest: &str, architecture: &str| {
        json!({
            "mediaType": OCI_MANIFEST, "digest": digest, "size": 10,
            "platform": {"os": "linux", "architecture": architecture},
        })
    };
    let mut entries = vec![
        entry(&good, "amd64"),
        entry(&good, "arm64"),
        entry(&sha256(&layer), "s390x"),
        entry("sha256:../../x", "ppc64le"),
    ];
    entries.extend(vec![entry(&good, "riscv64"); 1000]);
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries});
    put(&registry, "hostile:odd", OCI_INDEX, &index);
    let project = project();
    let name = format!("{}/hostile:odd", registry.host());
    project.kiln(&["pull", "-q", &name]).ok();
    assert_eq!(project.images(), [name.as_str()]);
    project.kiln(&["inspect", &name]).ok();
    project.kiln(&["history", &name]).ok();
}
