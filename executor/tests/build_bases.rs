//! Where base images come from: layouts, registries, platforms; and those that must be refused.

#![allow(clippy::unwrap_used, clippy::result_large_err, reason = "tests")]

mod build_support;

use build_support::{
    Item, LayoutMaker, NOW, Place, Recorder, base_layer, failure_text, gzip, layer, layout_context,
    sha256,
};
use executor::request::{BuildRequest, ContextSource};
use serde_json::{Value, json};
use testkit::registry::FakeRegistry;

fn with_layout(place: &Place, dockerfile: &str, tag: Option<&str>) -> BuildRequest {
    let mut request = place.request(dockerfile);
    request
        .named_contexts
        .insert("base".to_owned(), layout_context(&place.path("base"), tag));
    request
}

/// A layout with an amd64 and an arm64 image in an index under `multi`, and another image under `single`.
fn layouts(place: &Place) -> LayoutMaker {
    let mut maker = LayoutMaker::new(&place.path("base"));
    let image = |architecture: &str| {
        let file = layer(&[Item::File("arch", 0o644, architecture.as_bytes())]);
        maker.image(architecture, &[file], json!({}))
    };
    let (amd64, arm64, single) = (image("amd64"), image("arm64"), image("s390x"));
    let index = maker.index(&[("amd64", amd64), ("arm64", arm64)]);
    maker.tag(index, "multi").tag(single, "single");
    maker
}

#[test]
fn a_layout_gives_the_image_for_the_platform() {
    let place = Place::new();
    layouts(&place);
    for (platform, expected) in [("linux/amd64", "amd64"), ("linux/arm64", "arm64")] {
        let mut request = with_layout(&place, "FROM base\nENV A=b\n", Some("multi"));
        request.platforms = vec![platform.parse().unwrap()];
        assert_eq!(
            place.files(&request)["arch"],
            format!("file 644 0:0 {expected}")
        );
    }
    let request = with_layout(&place, "FROM base\n", Some("single"));
    assert_eq!(
        place.files(&request)["arch"],
        "file 644 0:0 s390x",
        "a lone image is taken whatever it is for"
    );
}

#[test]
fn a_platform_that_is_missing_is_answered_with_those_there_are() {
    let place = Place::new();
    layouts(&place);
    let mut request = with_layout(&place, "FROM base\n", Some("multi"));
    request.platforms = vec!["linux/ppc64le".parse().unwrap()];
    let failure = place.build(&request).unwrap_err();
    let text = failure_text(&failure);
    assert!(
        text.contains("platforms there are: linux/amd64, linux/arm64"),
        "{text}"
    );
    assert_eq!(failure.origin.unwrap().lines.unwrap().start, 1);
}

#[test]
fn layouts_that_cannot_be_used() {
    type Spoil = fn(&Place);
    let cases: [(&str, Option<&str>, Spoil, &str); 5] = [
        (
            "no tag",
            Some("nope"),
            |_| {},
            "holds no image tagged nope (it has multi, single)",
        ),
        (
            "no layout",
            None,
            |p| std::fs::remove_file(p.path("base/oci-layout")).unwrap(),
            "could not read",
        ),
        (
            "version",
            None,
            |p| std::fs::write(p.path("base/oci-layout"), r#"{"imageLayoutVersion":"9"}"#).unwrap(),
            "version 9",
        ),
        (
            "index",
            Some("multi"),
            |p| std::fs::write(p.path("base/index.json"), "{}").unwrap(),
            "not a manifest",
        ),
        ("corrupt", Some("single"), corrupt_manifests, "is corrupt"),
    ];
    for (name, tag, spoil, expected) in cases {
        let place = Place::new();
        layouts(&place);
        spoil(&place);
        let failure = place
            .build(&with_layout(&place, "FROM base\n", tag))
            .unwrap_err();
        let text = failure_text(&failure);
        assert!(text.contains(expected), "{name}: {text}");
    }
}

fn corrupt_manifests(place: &Place) {
    for entry in std::fs::read_dir(place.path("base/blobs/sha256")).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[0] ^= 1;
        std::fs::write(path, bytes).unwrap();
    }
}

#[test]
fn a_corrupt_layer_of_a_layout_is_refused_when_it_is_needed() {
    let place = Place::new();
    place.file("a", "one");
    let mut maker = LayoutMaker::new(&place.path("base"));
    let image = maker.image("amd64", &[base_layer()], Value::Null);
    maker.tag(image, "latest");
    let blob = sha256(&gzip(&base_layer()));
    let path = place.path("base/blobs/sha256").join(&blob[7..]);
    let mut bytes = std::fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(path, bytes).unwrap();
    let failure = place
        .build(&with_layout(&place, "FROM base\nCOPY a /\n", None))
        .unwrap_err();
    assert!(
        failure_text(&failure).contains("corrupt"),
        "{}",
        failure_text(&failure)
    );
}

#[test]
fn hostile_layers_are_refused() {
    let escapes = [
        layer(&[Item::Raw("../../escape", b"x")]),
        layer(&[Item::Raw("a/../../escape", b"x")]),
        layer(&[
            Item::Dir("d", 0o755),
            Item::Hardlink("d/link", "../../../etc/passwd"),
        ]),
        b"this is no tar at all, but long enough to be taken for one".repeat(20),
    ];
    for (number, escape) in escapes.iter().enumerate() {
        let place = Place::new();
        place.file("a", "one");
        let mut maker = LayoutMaker::new(&place.path("base"));
        let image = maker.image("amd64", std::slice::from_ref(escape), Value::Null);
        maker.tag(image, "latest");
        let outcome = place.build(&with_layout(&place, "FROM base\nCOPY a /\n", None));
        assert!(outcome.is_err(), "layer {number} was taken");
        assert!(!place.path("escape").exists() && !place.path("store/escape").exists());
    }
}

#[test]
fn a_lying_config_is_refused() {
    let place = Place::new();
    place.file("a", "one");
    for config in [
        json!({"rootfs": {"type": "layers", "diff_ids": [sha256(b"something else")]}}),
        json!({"rootfs": {"type": "layers", "diff_ids": []}}),
        json!({"rootfs": {"type": "layers", "diff_ids": ["sha256:../../x"]}}),
    ] {
        let mut maker = LayoutMaker::new(&place.path("base"));
        let image = maker.image("amd64", &[base_layer()], config);
        maker.tag(image, "latest");
        assert!(
            place
                .build(&with_layout(&place, "FROM base\nCOPY a /\n", None))
                .is_err()
        );
    }
}

fn registry_request(place: &Place, registry: &FakeRegistry, dockerfile: &str) -> BuildRequest {
    let mut request = place.request(&dockerfile.replace("{registry}", &registry.host()));
    request.registry.insecure = vec![registry.host()];
    request
}

/// CLI:pull too.
#[test]
fn a_registry_is_asked_once_and_layers_come_only_when_needed() {
    let place = Place::new();
    place.file("a", "one");
    let registry = FakeRegistry::start();
    registry.put_image("app/base", Some("v1"), "amd64", &[base_layer()]);
    let mut request = registry_request(&place, &registry, "FROM {registry}/app/base:v1\nENV A=b\n");
    request.outputs = vec![build_support::output(
        executor::request::OutputKind::CacheOnly,
        &place.path("none"),
    )];
    let ui = Recorder::default();
    place.build_with(&request, &ui).unwrap();
    assert_eq!(
        registry.count("GET", &sha256(&base_layer())),
        0,
        "no step read the layer"
    );
    assert_eq!(
        ui.tasks()
            .iter()
            .filter(|task| task.starts_with("resolve "))
            .count(),
        1
    );
    let asked = registry.requests().len();
    let mut request = registry_request(
        &place,
        &registry,
        "FROM {registry}/app/base:v1\nCOPY --chown=user a /\n",
    );
    place.build(&request).unwrap();
    assert_eq!(registry.count("GET", &sha256(&base_layer())), 1);
    assert_eq!(
        registry.count("GET", "/manifests/"),
        manifests_until(&registry, asked),
        "the tag is in the store now"
    );
    let asked = registry.requests().len();
    request.now = NOW + 1;
    assert_eq!(place.build(&request).unwrap().executed, 0);
    assert_eq!(
        registry.requests().len(),
        asked,
        "a cached build asks nobody"
    );
    request.pull = true;
    place.build(&request).unwrap();
    assert!(registry.requests().len() > asked, "--pull asks");
}

fn manifests_until(registry: &FakeRegistry, count: usize) -> usize {
    let requests = registry.requests();
    requests[..count]
        .iter()
        .filter(|r| r.method == "GET" && r.path.contains("/manifests/"))
        .count()
}

#[test]
fn a_registry_index_gives_the_platform_and_others_can_follow() {
    let place = Place::new();
    let registry = FakeRegistry::start();
    let image = |architecture: &str| {
        let file = layer(&[Item::File("arch", 0o644, architecture.as_bytes())]);
        registry.put_image("multi", None, architecture, &[file])
    };
    let (amd64, arm64) = (image("amd64"), image("arm64"));
    registry.put_index("multi", "latest", &[(&amd64, "amd64"), (&arm64, "arm64")]);
    for architecture in ["amd64", "arm64"] {
        let mut request = registry_request(&place, &registry, "FROM {registry}/multi\nENV A=b\n");
        request.platforms = vec![format!("linux/{architecture}").parse().unwrap()];
        assert_eq!(
            place.files(&request)["arch"],
            format!("file 644 0:0 {architecture}")
        );
    }
}

#[test]
fn a_base_that_is_nowhere_is_told_at_its_line() {
    let place = Place::new();
    let registry = FakeRegistry::start();
    let request = registry_request(
        &place,
        &registry,
        "FROM scratch AS one\n\nFROM {registry}/no/such:tag\n",
    );
    let failure = place.build(&request).unwrap_err();
    let text = failure_text(&failure);
    assert!(
        text.contains("failed to resolve source metadata for") && text.contains("/no/such:tag"),
        "{text}"
    );
    assert_eq!(failure.origin.unwrap().lines.unwrap().start, 3);
}

#[test]
fn a_named_context_can_be_an_image_or_take_another_name() {
    let place = Place::new();
    place.file("a", "one");
    place
        .build(&place.request("FROM scratch\nCOPY a /a\n"))
        .unwrap();
    for key in ["alias", "docker.io/library/alias:latest", "alias:latest"] {
        let mut request = place.request("FROM alias\nENV A=b\n");
        request
            .named_contexts
            .insert(key.to_owned(), ContextSource::Image("test".to_owned()));
        request.tags = vec!["other".to_owned()];
        assert_eq!(place.files(&request)["a"], "file 644 0:0 one", "{key}");
    }
}

#[test]
fn a_slow_registry_can_be_given_up() {
    let place = Place::new();
    // A server that takes connections and never answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut request = place.request(&format!("FROM {}/x\n", silent.local_addr().unwrap()));
    request.registry.insecure = vec![silent.local_addr().unwrap().to_string()];
    let cancel = planner::scheduler::Cancel::default();
    let stopper = cancel.clone();
    let before = std::time::Instant::now();
    let thread = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(300));
        stopper.cancel();
    });
    let failure =
        executor::build::build(&place.store, &request, &Recorder::default(), &cancel, None)
            .unwrap_err();
    thread.join().unwrap();
    assert!(
        matches!(failure.error, executor::Error::Cancelled),
        "{}",
        failure_text(&failure)
    );
    assert!(before.elapsed() < std::time::Duration::from_secs(5));
}
