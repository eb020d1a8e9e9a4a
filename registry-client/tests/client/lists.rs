//! Manifests that are pushed, lists of what a registry has, referrers, and what registries say when they refuse.

use crate::push::memory;
use crate::support::{chain, client, digest, reference};
use oci_spec::image::{Descriptor, Digest};
use registry_client::{Client, Error, ErrorCode, Reference};
use serde_json::{Value, json};
use testkit::registry::{Action, Behaviour, FakeRegistry, Fault, sha256};
use testkit::{DockerRegistry, RegistrySetup};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A manifest of a config and a layer, perhaps about a subject.
fn manifest(config: &[u8], layer: &[u8], subject: Option<&Digest>) -> Vec<u8> {
    let descriptor = |kind: &str, bytes: &[u8]| {
        json!({
            "mediaType": format!("application/vnd.oci.image.{kind}"),
            "digest": sha256(bytes),
            "size": bytes.len(),
        })
    };
    let mut manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor("config.v1+json", config),
        "layers": [descriptor("layer.v1.tar", layer)],
    });
    if let Some(subject) = subject {
        manifest["artifactType"] = "application/x.test.signature".into();
        manifest["annotations"] = json!({"by": "me"});
        manifest["subject"] =
            json!({"mediaType": MANIFEST, "digest": subject.to_string(), "size": 1});
    }
    manifest.to_string().into_bytes()
}

async fn put(client: &Client, name: &Reference, config: &[u8], subject: Option<&Digest>) -> Digest {
    for blob in [config, b"layer"] {
        client
            .push_blob(name, &memory(blob.to_vec()), &[])
            .await
            .unwrap();
    }
    let bytes = manifest(config, b"layer", subject);
    let put = client.put_manifest(name, MANIFEST, &bytes).await;
    put.unwrap_or_else(|error| panic!("{}", chain(&error)))
}

#[tokio::test]
async fn g05_manifests_are_pushed_by_tag_and_digest() {
    let registry = FakeRegistry::start();
    registry.require_tokens(300);
    let client = client();
    let tagged = reference(&registry, "team/app:1");
    let bytes = manifest(b"{}", b"layer", None);

    // Its blobs come first, or the registry says which it misses.
    let error = client
        .put_manifest(&tagged, MANIFEST, &bytes)
        .await
        .unwrap_err();
    assert_eq!(
        error.messages()[0].code,
        Some(ErrorCode::ManifestBlobUnknown)
    );
    assert!(
        error
            .to_string()
            .ends_with("MANIFEST_BLOB_UNKNOWN: blob unknown to registry")
    );

    assert!(
        !client
            .has_manifest(&tagged, &digest(&sha256(&bytes)))
            .await
            .unwrap()
    );
    let pushed = put(&client, &tagged, b"{}", None).await;
    assert_eq!(pushed.to_string(), sha256(&bytes));
    assert_eq!(registry.tagged("team/app", "1"), Some(sha256(&bytes)));
    let before = registry.requests().len();
    assert!(client.has_manifest(&tagged, &pushed).await.unwrap());
    assert!(
        !client
            .has_manifest(&tagged, &digest(&sha256(b"other")))
            .await
            .unwrap()
    );
    assert_eq!(registry.requests().len(), before + 2);
}

#[tokio::test]
async fn g05_manifests_are_what_they_are_said_to_be() {
    let registry = FakeRegistry::start();
    let client = client();
    let tagged = reference(&registry, "team/app:1");
    let bytes = manifest(b"{}", b"layer", None);
    let pushed = put(&client, &tagged, b"{}", None).await;
    // By digest, and by both.
    let untagged = Reference {
        tag: None,
        ..tagged.clone()
    }
    .with_digest(&pushed);
    client
        .put_manifest(&untagged, MANIFEST, &bytes)
        .await
        .unwrap();
    assert_eq!(registry.count("PUT", &format!("/manifests/{pushed}")), 1);
    let wrong = tagged.with_digest(&digest(&sha256(b"other")));
    let error = client
        .put_manifest(&wrong, MANIFEST, &bytes)
        .await
        .unwrap_err();
    assert!(matches!(error, Error::DigestMismatch { .. }), "{error}");

    // A registry that keeps something else is caught.
    let other = Some(sha256(b"other"));
    registry.fault(
        Fault::on("PUT", "/manifests/")
            .with(Action::Header("Docker-Content-Digest".into(), other))
            .times(1),
    );
    let error = client
        .put_manifest(&tagged, MANIFEST, &bytes)
        .await
        .unwrap_err();
    assert!(matches!(error, Error::DigestMismatch { .. }), "{error}");
    registry.fault(Fault::on("PUT", "/manifests/").status(502).times(2));
    client
        .put_manifest(&tagged, MANIFEST, &bytes)
        .await
        .unwrap();

    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [
        {"mediaType": MANIFEST, "digest": sha256(b"not there"), "size": 1}]});
    let error = client
        .put_manifest(&tagged, INDEX, index.to_string().as_bytes())
        .await
        .unwrap_err();
    assert_eq!(
        error.messages()[0].code,
        Some(ErrorCode::ManifestBlobUnknown)
    );

    client.delete_manifest(&untagged).await.unwrap();
    assert!(
        client
            .delete_manifest(&untagged)
            .await
            .unwrap_err()
            .is_not_found()
    );
}

fn listed(descriptors: &[Descriptor]) -> Vec<String> {
    let mut found: Vec<String> = descriptors
        .iter()
        .map(|descriptor| descriptor.digest().to_string())
        .collect();
    found.sort();
    found
}

fn sorted(digests: &[&Digest]) -> Vec<String> {
    let mut sorted: Vec<String> = digests.iter().map(ToString::to_string).collect();
    sorted.sort();
    sorted
}

#[tokio::test]
async fn g05_referrers_are_listed_by_the_registry_or_in_a_tag() {
    let client = client();
    for referrers in [true, false] {
        let registry = FakeRegistry::start();
        registry.behave(Behaviour {
            referrers,
            ..Behaviour::default()
        });
        let app = reference(&registry, "team/app:1");
        let untagged = Reference {
            tag: None,
            ..app.clone()
        };
        let image = put(&client, &app, b"{}", None).await;
        assert_eq!(client.referrers(&app, &image).await.unwrap(), Vec::new());
        let first = put(&client, &untagged, b"{\"a\":1}", Some(&image)).await;
        let second = put(&client, &untagged, b"{\"a\":2}", Some(&image)).await;
        put(&client, &untagged, b"{\"a\":2}", Some(&image)).await;
        let found = client.referrers(&app, &image).await.unwrap();
        assert_eq!(listed(&found), sorted(&[&first, &second]), "{referrers}");
        let kind = found[0].artifact_type().as_ref().map(ToString::to_string);
        assert_eq!(kind.as_deref(), Some("application/x.test.signature"));
        let tag = image.to_string().replace(':', "-");
        assert_eq!(registry.tagged("team/app", &tag).is_some(), !referrers);
        if !referrers {
            let annotations = found[0].annotations().clone().unwrap();
            assert_eq!(annotations["by"], "me");
        }
    }
}

#[tokio::test]
async fn g05_the_fallback_tag_survives_a_race() {
    let registry = FakeRegistry::start();
    let app = reference(&registry, "team/app:1");
    let image = put(&client(), &app, b"{}", None).await;
    let tag = image.to_string().replace(':', "-");
    // Another client writes its list over ours, once: the put of the tag is answered but not done.
    registry.fault(
        Fault::on("PUT", &format!("/manifests/{tag}"))
            .with(Action::Answer {
                status: 201,
                headers: Vec::new(),
                body: Vec::new(),
            })
            .times(1),
    );
    let untagged = Reference {
        tag: None,
        ..app.clone()
    };
    let signature = put(&client(), &untagged, b"{\"a\":1}", Some(&image)).await;
    let found = client().referrers(&app, &image).await.unwrap();
    assert_eq!(listed(&found), sorted(&[&signature]));

    // Many at once through one client.
    let client = client();
    let mut tasks = Vec::new();
    for number in 0..8 {
        let (client, name, image) = (client.clone(), untagged.clone(), image.clone());
        tasks.push(tokio::spawn(async move {
            let config = format!("{{\"b\":{number}}}");
            put(&client, &name, config.as_bytes(), Some(&image)).await
        }));
    }
    let mut digests = vec![signature];
    for task in tasks {
        digests.push(task.await.unwrap());
    }
    let found = client.referrers(&app, &image).await.unwrap();
    assert_eq!(listed(&found), sorted(&digests.iter().collect::<Vec<_>>()));
}

#[tokio::test]
async fn g05_a_real_registry_without_referrers() {
    let Some(registry) = DockerRegistry::start(&RegistrySetup {
        deletes: true,
        ..RegistrySetup::default()
    }) else {
        return;
    };
    let client = client();
    let app = Reference::parse(&format!("{}/a/b:1", registry.host())).unwrap();
    let untagged = Reference {
        tag: None,
        ..app.clone()
    };
    let image = put(&client, &app, b"{}", None).await;
    let signature = put(&client, &untagged, b"{\"a\":1}", Some(&image)).await;
    let found = client.referrers(&app, &image).await.unwrap();
    assert_eq!(listed(&found), sorted(&[&signature]));
    let mut tags = client.tags(&app).await.unwrap();
    tags.sort();
    assert_eq!(tags, ["1".to_owned(), image.to_string().replace(':', "-")]);
    assert_eq!(client.catalog(&registry.host()).await.unwrap(), ["a/b"]);
    let error = client.search(&registry.host(), "a", 10).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("could not search {}: it has no search", registry.host())
    );
    client
        .delete_manifest(&untagged.with_digest(&image))
        .await
        .unwrap();
    assert!(!client.has_manifest(&app, &image).await.unwrap());
    let none = Reference::parse(&format!("{}/none", registry.host())).unwrap();
    let error = client.tags(&none).await.unwrap_err();
    assert_eq!(error.messages()[0].code, Some(ErrorCode::NameUnknown));
}

#[tokio::test]
async fn lists_come_in_pages() {
    for page in [0, 1, 3] {
        let registry = FakeRegistry::start();
        registry.behave(Behaviour {
            page,
            ..Behaviour::default()
        });
        for tag in ["a", "b", "c", "d", "e"] {
            registry.put_image("team/app", Some(tag), "amd64", &[]);
            registry.put_image(&format!("other/{tag}"), Some("1"), "amd64", &[]);
        }
        let tags = client()
            .tags(&reference(&registry, "team/app"))
            .await
            .unwrap();
        assert_eq!(tags, ["a", "b", "c", "d", "e"], "{page}");
        let catalog = client().catalog(&registry.host()).await.unwrap();
        assert_eq!(
            catalog,
            [
                "other/a", "other/b", "other/c", "other/d", "other/e", "team/app"
            ]
        );
    }
}

#[tokio::test]
async fn hostile_lists_are_refused() {
    let list = |body: Value, link: Option<&str>| Action::Answer {
        status: 200,
        headers: link
            .map(|link| ("Link".to_owned(), link.to_owned()))
            .into_iter()
            .collect(),
        body: body.to_string().into_bytes(),
    };
    let tags = json!({"tags": ["1"]});
    let cases = [
        (
            list(
                tags.clone(),
                Some("</v2/app/tags/list?last=1>; rel=\"next\""),
            ),
            "was read already",
        ),
        (
            list(
                tags.clone(),
                Some("<http://other.example/x?token=hidden>; rel=next"),
            ),
            "at another server",
        ),
        (
            list(tags.clone(), Some("<file:///etc/passwd>; rel=next")),
            "neither HTTP nor HTTPS",
        ),
        (list(json!([1]), None), "not the JSON of a list"),
        (list(json!({"tags": 5}), None), "not the JSON of a list"),
        (Action::Huge(17_000_000), "too long"),
    ];
    for (action, expected) in cases {
        let registry = FakeRegistry::start();
        registry.put_image("app", Some("1"), "amd64", &[]);
        registry.fault(Fault::on("GET", "/tags/list").with(action));
        let error = client()
            .tags(&reference(&registry, "app"))
            .await
            .unwrap_err();
        assert!(chain(&error).contains(expected), "{}", chain(&error));
        assert!(!chain(&error).contains("hidden"), "{}", chain(&error));
    }
    // Names that no reference could have are left out.
    let registry = FakeRegistry::start();
    registry.fault(Fault::on("GET", "/tags/list").with(list(
        json!({"tags": ["ok", "../../etc", "a b", "\u{1b}[2J", ""]}),
        None,
    )));
    registry.fault(Fault::on("GET", "/_catalog").with(list(
        json!({"repositories": ["ok", "../../etc", "UPPER", "a//b"]}),
        None,
    )));
    assert_eq!(
        client().tags(&reference(&registry, "app")).await.unwrap(),
        ["ok"]
    );
    assert_eq!(client().catalog(&registry.host()).await.unwrap(), ["ok"]);
    let error = client().catalog("not a host").await.unwrap_err();
    assert!(matches!(error, Error::Reference { .. }), "{error}");
}

#[tokio::test]
async fn registries_are_searched() {
    let registry = FakeRegistry::start();
    registry.require_tokens(300);
    registry.behave(Behaviour {
        search: vec![
            ("team/app".to_owned(), "an app\u{7}".to_owned()),
            ("team/other app".to_owned(), String::new()),
        ],
        ..Behaviour::default()
    });
    let found = client()
        .search(&registry.host(), "other app", 10)
        .await
        .unwrap();
    assert_eq!(found.len(), 1);
    let found = client().search(&registry.host(), "app", 1).await.unwrap();
    assert_eq!(
        (found[0].name.as_str(), found[0].description.as_deref()),
        ("team/app", Some("an app "))
    );
    assert_eq!((found[0].star_count, found[0].is_official), (7, true));
}

#[tokio::test]
async fn g06_every_error_code_is_told_in_the_registrys_words() {
    let codes = [
        ("BLOB_UNKNOWN", 404, ErrorCode::BlobUnknown),
        ("BLOB_UPLOAD_INVALID", 400, ErrorCode::BlobUploadInvalid),
        ("BLOB_UPLOAD_UNKNOWN", 404, ErrorCode::BlobUploadUnknown),
        ("DIGEST_INVALID", 400, ErrorCode::DigestInvalid),
        ("MANIFEST_BLOB_UNKNOWN", 404, ErrorCode::ManifestBlobUnknown),
        ("MANIFEST_INVALID", 400, ErrorCode::ManifestInvalid),
        ("MANIFEST_UNKNOWN", 404, ErrorCode::ManifestUnknown),
        ("NAME_INVALID", 400, ErrorCode::NameInvalid),
        ("NAME_UNKNOWN", 404, ErrorCode::NameUnknown),
        ("SIZE_INVALID", 400, ErrorCode::SizeInvalid),
        ("UNAUTHORIZED", 401, ErrorCode::Unauthorized),
        ("DENIED", 403, ErrorCode::Denied),
        ("UNSUPPORTED", 405, ErrorCode::Unsupported),
        ("TOOMANYREQUESTS", 429, ErrorCode::TooManyRequests),
    ];
    for (name, status, code) in codes {
        let registry = FakeRegistry::start();
        let long = format!("the reason\u{1b}[31m {}", "x".repeat(5000));
        registry.fault(Fault::on("PUT", "/manifests/").error(status, name, &long));
        let app = reference(&registry, "app:1");
        let error = client()
            .put_manifest(&app, MANIFEST, b"{}")
            .await
            .unwrap_err();
        let text = error.to_string();
        assert_eq!(error.messages()[0].code.as_ref(), Some(&code), "{text}");
        assert!(
            text.contains(&format!("{name}: the reason [31m xxx")),
            "{text}"
        );
        assert!(text.len() < 700 && !text.contains('\u{1b}'), "{text}");
        let tries = registry.count("PUT", "/manifests/");
        assert_eq!(tries, if status == 429 { 4 } else { 1 }, "{name}");
    }
}
