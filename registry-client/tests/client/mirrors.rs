//! Mirrors of registries.conf.

use crate::support::{chain, descriptor, noise, pull, quick};
use registry_client::{Client, ClientOptions, Error, Reference};
use std::fmt::Write as _;
use tempfile::TempDir;
use testkit::registry::{Action, FakeRegistry, Fault};

/// A client whose registry `hub.example/lib` is `registry`, with these mirrors. The folder keeps the file.
fn client_with(registry: &FakeRegistry, mirrors: &[&str]) -> (Client, TempDir) {
    let mut text = format!(
        "[[registry]]\nprefix = \"hub.example/lib\"\nlocation = \"{}/lib\"\n",
        registry.host()
    );
    for mirror in mirrors {
        let _ = write!(text, "[[registry.mirror]]\nlocation = \"{mirror}\"\n");
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("registries.conf");
    std::fs::write(&path, text).unwrap();
    let options = ClientOptions {
        registries_conf: Some(path),
        ..quick()
    };
    (Client::new(options), folder)
}

fn app() -> Reference {
    Reference::parse("hub.example/lib/app:1").unwrap()
}

#[tokio::test]
async fn mirrors_are_asked_first() {
    let (registry, mirror) = (FakeRegistry::start(), FakeRegistry::start());
    let layer = noise(10_000);
    let image = mirror.put_image(
        "cache/app",
        Some("1"),
        "amd64",
        std::slice::from_ref(&layer),
    );
    let (client, _folder) = client_with(&registry, &[&format!("{}/cache", mirror.host())]);
    assert_eq!(
        client.resolve(&app()).await.unwrap().digest().to_string(),
        image
    );
    let blob = descriptor(&mirror.put_blob(layer.clone()), layer.len());
    let (got, result) = pull(&client, &app(), &blob).await;
    result.unwrap();
    assert!(got == layer);
    assert!(registry.requests().is_empty());
}

#[tokio::test]
async fn what_mirrors_lack_comes_from_the_next() {
    let (registry, empty, second) = (
        FakeRegistry::start(),
        FakeRegistry::start(),
        FakeRegistry::start(),
    );
    let image = registry.put_image("lib/app", Some("1"), "amd64", &[]);
    let blob = second.put_blob(noise(5000));
    // Nothing listens on the first.
    let (client, _folder) = client_with(&registry, &["127.0.0.1:1", &empty.host(), &second.host()]);
    assert_eq!(
        client.resolve(&app()).await.unwrap().digest().to_string(),
        image
    );
    assert_eq!(empty.count("HEAD", "/v2/app/manifests/1"), 1);
    assert_eq!(second.count("HEAD", "/v2/app/manifests/1"), 1);
    let (got, result) = pull(&client, &app(), &descriptor(&blob, 5000)).await;
    result.unwrap();
    assert!(got == noise(5000));
    assert_eq!(registry.count("GET", "/blobs/"), 0);
}

#[tokio::test]
async fn a_broken_mirror_is_continued_elsewhere() {
    let (registry, mirror) = (FakeRegistry::start(), FakeRegistry::start());
    let bytes = noise(2_000_000);
    let blob = descriptor(&mirror.put_blob(bytes.clone()), bytes.len());
    registry.put_blob(bytes.clone());
    mirror.fault(
        Fault::on("GET", "/blobs/")
            .with(Action::Reset(500_000))
            .times(1),
    );
    mirror.fault(Fault::on("GET", "/blobs/").status(404));
    let (client, _folder) = client_with(&registry, &[&mirror.host()]);
    let (got, result) = pull(&client, &app(), &blob).await;
    result.unwrap();
    assert!(got == bytes);
    let requests = registry.requests();
    let resumed = requests
        .iter()
        .find(|request| request.path.contains("/blobs/"))
        .unwrap();
    assert_eq!(resumed.header("range"), Some("bytes=500000-"));
}

#[tokio::test]
async fn a_lying_mirror_is_found_out_and_left_out() {
    let (registry, mirror) = (FakeRegistry::start(), FakeRegistry::start());
    let bytes = noise(10_000);
    let blob = descriptor(&mirror.put_blob(bytes.clone()), bytes.len());
    registry.put_blob(bytes.clone());
    mirror.fault(Fault::on("GET", "/blobs/").with(Action::Corrupt));
    let (client, _folder) = client_with(&registry, &[&mirror.host()]);
    let (_, result) = pull(&client, &app(), &blob).await;
    let error = result.unwrap_err();
    assert!(error.to_string().contains(&mirror.host()), "{error}");
    let (got, result) = pull(&client, &app(), &blob).await;
    result.unwrap();
    assert!(got == bytes);

    let (registry, mirror) = (FakeRegistry::start(), FakeRegistry::start());
    let image = registry.put_image("lib/app", Some("1"), "amd64", &[]);
    mirror.put_image("app", Some("1"), "amd64", &[]);
    mirror.fault(Fault::on("GET", "/manifests/").with(Action::Corrupt));
    let (client, _folder) = client_with(&registry, &[&mirror.host()]);
    let fetched = client.manifest(&app(), None).await.unwrap();
    assert_eq!(fetched.descriptor.digest().to_string(), image);
}

#[tokio::test]
async fn failures_of_all_are_told() {
    let (registry, mirror) = (FakeRegistry::start(), FakeRegistry::start());
    mirror.fault(Fault::on_any("/manifests/").error(403, "DENIED", "not for you"));
    let (client, _folder) = client_with(&registry, &["127.0.0.1:1", &mirror.host()]);
    let error = client.resolve(&app()).await.unwrap_err();
    assert!(matches!(error, Error::Mirrors { .. }));
    assert!(error.is_not_found());
    let text = chain(&error);
    for part in [
        "could not pull hub.example/lib/app:1 from its registry, nor from a mirror: 127.0.0.1:1: could not GET",
        "DENIED: not for you",
        "MANIFEST_UNKNOWN: manifest unknown",
    ] {
        assert!(text.contains(part), "{text}");
    }
    // The mirror that nobody serves is not tried again at once.
    let error = client.resolve(&app()).await.unwrap_err();
    assert!(!chain(&error).contains("127.0.0.1:1:"), "{}", chain(&error));
}

#[tokio::test]
async fn blocked_registries_are_not_asked() {
    let registry = FakeRegistry::start();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("r.conf");
    std::fs::write(
        &path,
        format!(
            "[[registry]]\nlocation = \"{}\"\nblocked = true\n",
            registry.host()
        ),
    )
    .unwrap();
    let client = Client::new(ClientOptions {
        registries_conf: Some(path.clone()),
        ..quick()
    });
    let name = Reference::parse(&format!("{}/app", registry.host())).unwrap();
    let error = client.resolve(&name).await.unwrap_err();
    assert!(matches!(error, Error::Blocked { .. }), "{error}");
    assert!(registry.requests().is_empty());

    std::fs::write(&path, "[[registry]]\nlocation = \n").unwrap();
    let client = Client::new(ClientOptions {
        registries_conf: Some(path.clone()),
        ..quick()
    });
    let error = client.resolve(&name).await.unwrap_err().to_string();
    assert!(
        error.contains(&format!("{}:2: ", path.display())),
        "{error}"
    );
}
